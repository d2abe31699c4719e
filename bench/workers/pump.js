// The least that a Worker must do that wants to see what it passes on: whole answers are read before they go on,
// streams chunk by chunk.

export default {
  async fetch(request, env, context) {
    const answer = await env.UPSTREAM.fetch(request);
    if (!answer.headers.get('content-type').startsWith('text/event-stream')) {
      return new Response(await answer.arrayBuffer(), answer);
    }
    const { readable, writable } = new IdentityTransformStream();
    context.waitUntil(pump(answer.body.getReader(), writable.getWriter()));
    return new Response(readable, answer);
  },
};

async function pump(reader, writer) {
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return writer.close();
    await writer.write(value);
  }
}
