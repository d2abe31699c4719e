// A `fetch` to put under other SDKs. What the core can carry out goes through it and fails as behind a gateway: by an
// HTTP status and a word against retries. Everything else goes out as it is, within the client's time.

import { FairleadError, AbortError } from './errors.js';
import type { Handoff } from './binding.js';
import { limit, type Flight } from './calls.js';
import type { Fetch } from './options.js';
import { handoff, LATE, late } from './sources.js';
import { bodyOf, KEYS, type Transport } from './transport.js';

/** The core's routes, as in src/api.rs. */
const ROUTES = [
  '/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/responses', '/v1/messages', '/v1/messages/count_tokens',
  '/v1/audio/transcriptions', '/v1/audio/translations', '/v1/score', '/v1/rerank', '/pooling', '/classify', '/tokenize',
  '/detokenize',
];
const NULL_BODY = [101, 204, 205, 304];

type FetchLike = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

export function makeFetch(transport: Transport, own: Fetch | undefined): FetchLike {
  const routeOf = router(transport.setup.baseURL);
  return async (input, given) => {
    const arrived = Date.now();
    const init = given ?? {};
    const request = typeof input === 'object' && input !== null && 'url' in input ? input : undefined;
    const url = request ? request.url : String(input);
    const method = (init.method ?? request?.method ?? 'GET').toUpperCase();
    const signal = init.signal === undefined ? request?.signal : init.signal;
    signal?.throwIfAborted();

    const route = method === 'POST' ? routeOf(url) : undefined;
    if (!route) return passOn(transport, own, input, init, signal);

    const source = request && init.body === undefined ? request : new Response(init.body);
    const headers = new Headers(init.headers ?? request?.headers);
    const type = source.headers.get('content-type'); // a form's boundary is known only now
    if (type && !headers.has('content-type')) headers.set('content-type', type);
    // A key is for the server that it was written for: of endpoints each has its own, and so has this client.
    if (!transport.setup.baseURL || transport.hasKey) for (const name of KEYS) headers.delete(name);
    try {
      const body = new Uint8Array(await bytesOf(source, signal));
      const answer = await transport.send(route, body, transport.withDefaults(headers), { signal }, arrived);
      // They speak of bytes as they came from the endpoint.
      for (const name of ['content-encoding', 'content-length']) answer.headers.delete(name);
      const { status, headers: fields, flight } = answer;
      return new Response(ArrayBuffer.isView(answer.body) ? (answer.body as Uint8Array<ArrayBuffer>) : readable(bodyOf(answer), flight), { status, headers: fields });
    } catch (error) {
      if (error instanceof AbortError) throw error.cause;
      if (!(error instanceof FairleadError)) throw error;
      const { message, type: kind = 'api_error', param = null, code, status = 500 } = error;
      return Response.json({ error: { message, type: kind, param, code } }, { status, headers: { 'x-should-retry': 'false' } });
    }
  };
}

/**
 * Which route of the core a URL stands for. The client never chooses an address: only what lies below `baseURL` is its. In
 * front of endpoints there is none to be below, and `/v1/` alone tells a model's server from others.
 */
function router(baseURL: string | undefined): (url: string) => string | undefined {
  const place = (url: string) => {
    const { origin, pathname } = new URL(url, typeof location === 'object' ? location.href : undefined);
    return { origin, pathname };
  };
  if (!baseURL) return (url) => ROUTES.find((route) => route.startsWith('/v1/') && place(url).pathname.endsWith(route));
  const root = baseURL.replace(/\/v1$/, '');
  const urls = new Map(ROUTES.map((route) => [route.startsWith('/v1') ? baseURL + route.slice(3) : root + route, route]));
  return (url) => {
    const { origin, pathname } = place(url);
    return urls.get(origin + pathname);
  };
}

async function passOn(transport: Transport, own: Fetch | undefined, input: string | URL | Request, init: RequestInit, signal: AbortSignal | null | undefined): Promise<Response> {
  let flight: Flight;
  try {
    flight = transport.calls.begin(signal);
  } catch (error) {
    throw asFetch(error);
  }
  limit(flight, transport.setup.timeout);
  const send = (own ?? fetch) as FetchLike;
  try {
    const response = await flight.guard(send(input, { ...init, signal: flight.controller.signal }));
    const { status, statusText, headers, body } = response;
    if (!body || NULL_BODY.includes(status) || status < 200) {
      flight.end();
      return response;
    }
    const fields = new Headers(headers);
    for (const name of ['content-encoding', 'content-length']) fields.delete(name);
    return new Response(readable(handoff(body), flight), { status, statusText, headers: fields });
  } catch (error) {
    flight.end();
    throw asFetch(error);
  }
}

/** Bytes as they come; whoever leaves ends the call. */
function readable(body: Handoff, flight: Flight): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream(
    {
      async pull(controller) {
        try {
          let { done, value } = await flight.guard(body.read());
          // SDKs leave at the [DONE]. Were the end behind it not told by then, the call would count as one that was given up.
          const rest = !done && value && isDone(value) ? await flight.guard(body.read()) : undefined;
          if (value) controller.enqueue(value as Uint8Array<ArrayBuffer>);
          if (rest) ({ done, value } = rest);
          if (rest && value) controller.enqueue(value as Uint8Array<ArrayBuffer>);
          if (!done) return;
          flight.end();
          controller.close();
        } catch (error) {
          flight.end();
          controller.error(asFetch(error));
        }
      },
      cancel(reason) {
        flight.end();
        flight.controller.abort(reason);
        body.cancel();
      },
    },
    { highWaterMark: 0 },
  );
}

/** Whether a stream's last words of all end this chunk. */
const isDone = (chunk: Uint8Array): boolean =>
  chunk.at(-3) === 0x5d && new TextDecoder().decode(chunk.subarray(-8)) === '[DONE]\n\n';

/** An error as `fetch` has them. */
function asFetch(error: unknown): unknown {
  if (error instanceof AbortError) return error.cause;
  if (error === LATE) return asFetch(late());
  if (error instanceof FairleadError) return new DOMException(error.message, 'TimeoutError');
  return error instanceof Error ? error : new TypeError('The connection broke.', { cause: error });
}

/** All of a request's body. Whoever leaves lets go of it, but where it is not to be had as a stream: Firefox has no `Request.body`. */
async function bytesOf(source: Request | Response, signal: AbortSignal | null | undefined): Promise<ArrayBuffer> {
  // One that was used would be read as an empty one.
  const isStream = signal && source.body && !source.bodyUsed;
  const body = isStream ? new Response(source.body.pipeThrough(new TransformStream(), { signal })) : source;
  return until(body.arrayBuffer(), signal);
}

/** A promise, for no longer than the signal allows. */
function until<T>(promise: Promise<T>, signal: AbortSignal | null | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
