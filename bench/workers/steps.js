// The steps that Fairlead takes for an answer that does not stream, in plain JavaScript: the request's body is read and
// sent on in a request of its own that can be aborted, the answer is held until it is whole, and a line is logged.

export default {
  async fetch(request, env) {
    const began = Date.now();
    const body = await request.text();
    const { model } = JSON.parse(body);
    const headers = { 'content-type': 'application/json', accept: 'application/json' };
    const { signal } = new AbortController();
    const answer = await env.UPSTREAM.fetch('http://upstream/v1/chat/completions', {
      method: 'POST', headers, body, signal,
    });
    const held = await answer.arrayBuffer();
    console.log(JSON.stringify({ event: 'call', model, status: answer.status, ms: Date.now() - began }));
    return new Response(held, { status: answer.status, headers: { 'content-type': 'application/json' } });
  },
};
