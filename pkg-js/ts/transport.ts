// From a method's arguments to a call, and from an answer to data, a stream or an error. Most calls go through the core;
// what only a gateway has goes to it directly.

import type { Handoff, Wishes } from './binding.js';
import { Calls, Flight, limit, type Answer } from './calls.js';
import { checkCall, checkRequest, GATEWAY, inWords, setUp, type Setup } from './config.js';
import { AbortError, errorOf, failure, FairleadError, type Circumstances } from './errors.js';
import { Listeners } from './events.js';
import { join, merge, type HeadersLike } from './headers.js';
import { Network } from './network.js';
import type { CallOptions, FairleadOptions } from './options.js';
import { inOptions } from './schema.js';
import { atOnce, Body, events, gather, handoff, LATE, late } from './sources.js';
import { openStore, openStoreOf, type OpenStore } from './stores.js';
import { Stream } from './stream.js';
import type { ResponseInfo } from './types.js';

/** A promise of data that can also tell what came with it. */
export interface Answered<T> extends Promise<T> {
  /** The data together with status, header fields and the names to look for in logs. */
  withResponse(): Promise<{ data: T; response: ResponseInfo }>;
}

/** Fields that the core reads in a request, or lets pass by itself; all others are the caller's own. */
const READ = new Set([
  'accept', 'anthropic-beta', 'anthropic-version', 'content-encoding', 'content-type', 'openai-beta', 'traceparent',
  'tracestate', 'x-fairlead-deadline-ms', 'x-session-id', 'x-stainless-timeout',
]);
/** Fields that speak of a request that is not the one that goes out, or of an SDK that is not this one. */
const DROPPED = /^(accept-encoding|connection|content-length|cookie|host|origin|referer|transfer-encoding|user-agent|x-stainless-(?!timeout$).*)$/;
/** Fields in which SDKs send keys; `api-key` is Azure's. */
export const KEYS = ['authorization', 'x-api-key', 'api-key', 'proxy-authorization'];

/** What an exchange with the gateway itself is made of. */
export interface Errand {
  method: 'GET' | 'POST';
  url: string;
  body?: unknown;
  accept?: string;
}

export class Transport {
  readonly setup: Setup;
  readonly calls: Calls;
  readonly #network: Network;
  readonly #store: OpenStore;
  readonly #defaults: HeadersLike | undefined;
  readonly #key: string | undefined;

  constructor(options: FairleadOptions) {
    this.setup = setUp(options);
    this.#checkKeys(options.defaultHeaders, 'defaultHeaders');
    this.#defaults = options.defaultHeaders;
    this.#key = options.apiKey;
    this.#network = new Network(options.fetch);
    const { baseURL, secrets } = this.setup;
    const news = (key: string) => this.calls.news(key);
    this.#store = baseURL ? openStoreOf(baseURL, options.store, news) : openStore(options.store, news);
    const listeners = new Listeners(options.onEvent, options.logLevel);
    const warn = (path: string, message: string) => listeners.warn(`${inWords(path, baseURL !== undefined)} ${message}`);
    this.calls = new Calls(this.setup, { secrets, fetch: this.#network.fetch, store: this.#store, warn }, listeners);
  }

  /** Whether requests carry a key of this client's own. */
  get hasKey(): boolean {
    return this.#key !== undefined || KEYS.some((name) => this.withDefaults().has(name));
  }

  /** These fields over those that every request carries. */
  withDefaults(headers?: HeadersLike): Headers {
    return merge(this.#defaults, headers);
  }

  /** JSON in; JSON or a stream out. */
  post<T>(path: string, request: { stream?: boolean | null | undefined }, given?: CallOptions | null): Answered<T> {
    const arrived = Date.now();
    return answered(async () => {
      checkRequest(request);
      const options = given ?? {};
      const headers = this.#headers(options);
      headers.set('content-type', 'application/json');
      const answer = await this.send(path, new TextEncoder().encode(JSON.stringify(request)), headers, options, arrived);
      return request.stream ? this.#stream(answer) : this.#data(answer);
    });
  }

  /** One call through the core, with these header fields. */
  send(path: string, body: Uint8Array, headers: Headers, options: CallOptions, arrived: number): Promise<Answer> {
    const { timeout, maxRetries, policy, signal } = options;
    const [read, own] = [new Headers(), new Headers()];
    headers.forEach((value, name) => {
      if (!DROPPED.test(name)) (READ.has(name) ? read : own).set(name, value);
    });
    const wanted = policy ?? own.get('x-fairlead-policy');
    const isOurs = wanted !== null && this.setup.policies.has(wanted);
    if (isOurs) own.delete('x-fairlead-policy');
    else if (wanted !== null && this.setup.baseURL) own.set('x-fairlead-policy', wanted);
    else if (wanted !== null) throw new TypeError(`policy names "${wanted}", which is not in policies`);
    // While the wasm loads; the first call waits for records no longer than it must.
    this.#store.begin();
    const theirs = join(own);
    const wishes: Wishes = {
      ...(timeout !== undefined && { timeout }),
      ...(maxRetries !== undefined && { maxRetries }),
      ...(isOurs && { policy: wanted }),
      ...(theirs && { headers: theirs }),
      arrived,
    };
    return this.calls.start({ path, fields: join(read), body, wishes, signal });
  }

  /** JSON from the gateway itself, within the call's time; nothing is retried. */
  ask<T>(errand: Errand, options?: CallOptions | null): Answered<T> {
    return answered(async () => this.#data<T>(await this.#exchange(errand, options ?? {})));
  }

  /** Events from the gateway itself. */
  follow<T>(errand: Errand, options?: CallOptions | null, pick?: (value: unknown) => unknown): Answered<Stream<T>> {
    return answered(async () => this.#stream<Stream<T>>(await this.#exchange({ ...errand, accept: 'text/event-stream' }, options ?? {}), pick));
  }

  close(): void {
    this.calls.close();
    this.#store.close();
  }

  #headers(options: CallOptions): Headers {
    checkCall(options);
    this.#checkKeys(options.headers, 'headers');
    return this.withDefaults(options.headers);
  }

  /** @throws TypeError where a key would go to every endpoint there is */
  #checkKeys(headers: HeadersLike | undefined, path: string): void {
    if (this.setup.baseURL || !headers) return;
    const found = KEYS.find((name) => merge(headers).has(name));
    if (found) throw new TypeError(`${path} must not have ${found}: it would go to every endpoint. Each has its own apiKey`);
  }

  async #exchange(errand: Errand, options: CallOptions): Promise<Answer> {
    const { method, url, body, accept = 'application/json' } = errand;
    if ('body' in errand) checkRequest(body);
    const headers = this.#headers(options);
    const timeout = options.timeout ?? this.setup.timeout;
    if (this.#key !== undefined && !headers.has('authorization')) headers.set('authorization', `Bearer ${this.#key}`);
    if (body !== undefined) headers.set('content-type', 'application/json');
    // One of this client's own is nothing to the gateway.
    if (options.policy !== undefined && !this.setup.policies.has(options.policy)) headers.set('x-fairlead-policy', options.policy);
    headers.set('accept', accept);
    headers.set('x-fairlead-deadline-ms', String(timeout));

    const text = body === undefined ? undefined : JSON.stringify(body);

    const flight = this.calls.begin(options.signal);
    limit(flight, timeout);
    try {
      const response = await flight.guard(this.#network.fetch(url, {
        // Followed, one would take the caller's fields along to wherever it leads.
        method, headers, signal: flight.controller.signal, redirect: 'manual', ...(text !== undefined && { body: text }),
      }));
      return answerOf(response, flight);
    } catch (error) {
      flight.end();
      throw error instanceof FairleadError ? error : unreachable(error);
    }
  }

  async #data<T>(answer: Answer): Promise<{ data: T; response: ResponseInfo }> {
    const response = infoOf(answer);
    const bytes = await this.#bytes(answer, this.#circumstances(response));
    const text = new TextDecoder().decode(bytes);
    let data: unknown;
    let isJson = true;
    try {
      data = JSON.parse(text);
    } catch {
      isJson = false;
    }
    if (answer.status >= 400) throw errorOf(isJson ? data : text, this.#circumstances(response));
    if (!isJson) throw failure('upstream_invalid', 'The answer is no JSON. Check that the URL leads to an OpenAI-compatible server.', this.#circumstances(response));
    return { data: data as T, response };
  }

  async #stream<T>(answer: Answer, pick?: (value: unknown) => unknown): Promise<{ data: T; response: ResponseInfo }> {
    if (answer.status >= 400) await this.#data(answer);
    const response = infoOf(answer);
    const known = this.#circumstances(response);
    if (!answer.headers.get('content-type')?.startsWith('text/event-stream')) {
      answer.flight.end();
      throw failure('upstream_invalid', 'A stream was asked for, and what came is none.', known);
    }
    // Of an error in mid-stream the status was fine.
    const body = new Body<unknown>(bodyOf(answer), answer.flight, events({ ...known, status: undefined, ...(pick && { pick }) }));
    return { data: new Stream(body, response) as T, response };
  }

  async #bytes({ body, flight }: Answer, known: Circumstances): Promise<Uint8Array> {
    if (ArrayBuffer.isView(body)) return body;
    try {
      return await gather(body, flight);
    } catch (error) {
      if (error instanceof FairleadError) throw error;
      const told = { ...known, status: undefined };
      throw error === LATE ? late(told) : failure('upstream_unreachable', 'The answer broke off.', { ...told, cause: error });
    }
  }

  #circumstances({ status, headers, requestId, endpoint, attempts }: ResponseInfo): Circumstances {
    return {
      status, requestId, endpoint, attempts, retryAfter: retryAfter(headers),
      // A gateway speaks of its own CONFIG, where it was asked.
      reword: (message) => (!this.setup.baseURL || attempts === 0 || message.includes(`\`${GATEWAY}\``) ? inOptions(message) : message),
    };
  }
}

/** Whoever wants only the data need not hear that nobody wanted the rest. */
function answered<T>(run: () => Promise<{ data: T; response: ResponseInfo }>): Answered<T> {
  const whole = run();
  const data = whole.then((answer) => answer.data);
  return Object.assign(data, {
    withResponse() {
      data.catch(() => {});
      return whole;
    },
  });
}

/** A response of the platform's as an answer. */
function answerOf({ status, headers, body }: Response, flight: Flight): Answer {
  if (!body) flight.end();
  const content = body ? handoff(body) : new Uint8Array();
  if (!ArrayBuffer.isView(content)) flight.atEnd(() => content.cancel());
  return { status, headers, body: content, flight };
}

/** The same kind of body, however it came. */
export const bodyOf = ({ body }: Answer): Handoff => (ArrayBuffer.isView(body) ? atOnce(body) : body);

/** More than any gateway makes for a call; what is beyond was not counted by one. */
const MOST_ATTEMPTS = 1000;

function infoOf({ status, headers }: Answer): ResponseInfo {
  const field = (name: string) => headers.get(name) ?? undefined;
  const attempts = Number(field('x-fairlead-attempts') || NaN);
  return {
    status,
    headers,
    requestId: field('x-request-id'),
    endpoint: field('x-fairlead-endpoint'),
    attempts: Number.isInteger(attempts) && attempts >= 0 && attempts <= MOST_ATTEMPTS ? attempts : undefined,
  };
}

/** The longest that anybody is told to wait: a timer for more than 24.8 days runs out at once. */
const LONGEST_MS = 86_400_000;

/** Milliseconds; a date is taken by this machine's clock. */
function retryAfter(headers: Headers): number | undefined {
  const field = headers.get('retry-after') ?? '';
  const ms = /^\d+(?:\.\d+)?$/.test(field) ? Number(field) * 1000 : Date.parse(field) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(0, ms), LONGEST_MS);
}

function unreachable(cause: unknown): FairleadError {
  if (cause instanceof AbortError) return cause;
  const message = cause === 'offline'
    ? 'This device is offline.'
    : cause === 'blocked'
      ? 'The browser kept the answer from this page: the server is there, but allows it no access (CORS), or the page is secure and the URL is not. A vLLM that refuses a key answers without CORS fields, too.'
      : 'No connection to the gateway, or it broke before an answer.';
  const param = cause === 'blocked' ? 'cors' : cause === 'offline' ? cause : undefined;
  return failure('upstream_unreachable', message, { cause, param });
}
