// What this page asks the gateway that it came from; it asks nobody else.

/** A stream of a chat may take its time; what an operator asks may not. */
const PATIENCE_MS = 10_000;

/** An answer that is an error. */
export class Refusal extends Error {
  /** @param {Response} response @param {string} body */
  constructor(response, body) {
    const error = errorIn(body);
    super(error?.message ?? (body.slice(0, 500) || `HTTP ${response.status} without a word.`));
    this.status = response.status;
    this.code = error?.code ?? `http_${response.status}`;
    this.body = body;
    this.response = response;
  }
}

/** Everything that is known of the endpoints; what the store says of them, too, where that is wanted. */
export async function askStatus(key, { store }) {
  return (await send(store ? '/status' : '/status?store=no', { key })).json();
}

/** Takes an endpoint out (`isolated`) or in (`closed`). */
export async function order(key, endpoint, state) {
  const response = await send(`/breakers/${encodeURIComponent(endpoint)}`, { key, body: { state } });
  return response.json();
}

/** The names that a client may ask for. */
export async function askModels(key) {
  const { data } = await (await send('/v1/models', { key })).json();
  return data.map(({ id }) => id);
}

/** A chat; the response is there as soon as its headers are. */
export function openChat(key, body, headers, signal) {
  return send('/v1/chat/completions', { key, body, headers, signal });
}

async function send(path, { key, body, headers, signal = AbortSignal.timeout(PATIENCE_MS) }) {
  const response = await fetch(path, {
    method: body ? 'POST' : 'GET',
    headers: {
      ...(key && { authorization: `Bearer ${key}` }), ...(body && { 'content-type': 'application/json' }), ...headers,
    },
    body: body && JSON.stringify(body),
    signal,
    cache: 'no-store',
    credentials: 'same-origin', // for a gateway that stands behind somebody's login
  });
  if (!response.ok) throw new Refusal(response, await response.text());
  return response;
}

function errorIn(body) {
  try {
    const { error } = JSON.parse(body);
    return typeof error?.message === 'string' ? error : undefined;
  } catch {
    return undefined;
  }
}
