// The least that a Worker can do: the upstream's answer, by the platform's own pipe.

export default { fetch: (request, env) => env.UPSTREAM.fetch(request) };
