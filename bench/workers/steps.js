// The steps that Fairlead takes for an answer that does not stream, in plain JavaScript: the request's body is read and
// sent on in a request of its own that can be aborted, the answer is read chunk by chunk, and a line is logged.

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
    const whole = await bytes(answer.body.getReader());
    console.log(JSON.stringify({ event: 'call', model, status: answer.status, ms: Date.now() - began }));
    return new Response(whole, { status: answer.status, headers: { 'content-type': 'application/json' } });
  },
};

async function bytes(reader) {
  const chunks = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    length += value.length;
  }
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}
