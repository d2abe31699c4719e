// The same by a `ReadableStream` that is filled on demand, which is what one writes without knowing the platform.

export default {
  async fetch(request, env) {
    const answer = await env.UPSTREAM.fetch(request);
    if (!answer.headers.get('content-type').startsWith('text/event-stream')) {
      return new Response(await answer.arrayBuffer(), answer);
    }
    const reader = answer.body.getReader();
    const readable = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: (reason) => reader.cancel(reason),
    });
    return new Response(readable, answer);
  },
};
