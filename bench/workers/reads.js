// How many reads a stream comes in: what the other Workers' work per event rests on.

export default {
  async fetch(request, env) {
    const answer = await env.UPSTREAM.fetch(request);
    let reads = 0;
    for await (const _ of answer.body) reads += 1;
    return Response.json(reads);
  },
};
