// What a client can be told. Names are those of the openai package where it has them, and CONFIG's in camelCase
// elsewhere. `schema.ts` holds the bounds.

import type { FairleadEvent, LogLevel } from './events.js';
import type { HeadersLike } from './headers.js';

/** A function with the signature of `fetch`. */
export type Fetch = (input: string, init: RequestInit) => Promise<Response>;

/** What a client is made of. A mistake in it is a `TypeError` that names the option. */
export interface FairleadOptions {
  /**
   * The gateway's URL, with its `/v1`. A plain vLLM's works, too. In a page it may be relative to it.
   * Either this or {@link endpoints}.
   */
  baseURL?: string | undefined;
  /** The key for {@link baseURL}, sent as `Authorization: Bearer`. In a page everybody can read it. */
  apiKey?: string | undefined;
  /**
   * Milliseconds for a whole call: waiting for a place, every attempt and the pauses between, and all of a stream.
   * From 1 to 86400000 (a day). Of calls under a policy other than `default`, its `deadlineMs` counts.
   * @default 300000
   */
  timeout?: number | undefined;
  /**
   * Attempts after the first, over all endpoints. From 0 to 19. Whether there is one depends on the failure, the time
   * left and the retry budget.
   * @default 2
   */
  maxRetries?: number | undefined;
  /** Calls at each endpoint at a time; further ones wait in line, within their `timeout`. Unbounded without it. */
  maxConcurrency?: number | undefined;
  /** Header fields that every request carries. */
  defaultHeaders?: HeadersLike | undefined;
  /** Used instead of the global `fetch`. It must heed `init.signal`. */
  fetch?: Fetch | undefined;
  /**
   * Lets keys of {@link endpoints} into a browser. Everybody who opens the page can read and use them: put a gateway
   * in front instead, unless the page is for yourself.
   * @default false
   */
  dangerouslyAllowBrowser?: boolean | undefined;
  /** The servers to call without a gateway. Either these or {@link baseURL}. */
  endpoints?: readonly EndpointOptions[] | undefined;
  /**
   * What may be asked for, and who serves it. Goes with {@link endpoints}.
   * @default every name, served by all endpoints in their order
   */
  models?: readonly ModelOptions[] | undefined;
  /** How calls are carried out, by name. What has no policy of its own has `default`. */
  policies?: Readonly<Record<string, PolicyOptions>> | undefined;
  /**
   * What goes to the console, from this level up. Never a key or a prompt.
   * @default "warn"
   */
  logLevel?: LogLevel | undefined;
  /**
   * Where what is known of failing endpoints outlives the page, so that a reload does not ask them again:
   * `"indexeddb"`, `"localstorage"`, `"memory"`, or a store of your own.
   * @default "indexeddb" where there is one, else "localstorage", else "memory"
   */
  store?: StoreOption | undefined;
  /** Hears of every attempt, wait, retry and breaker, in a microtask of its own. */
  onEvent?: ((event: FairleadEvent) => void) | undefined;
}

/** Where records outlive the page. */
export type StoreOption = 'indexeddb' | 'localstorage' | 'memory' | CustomStore;

/** A store of your own. Both may answer with a promise. */
export interface CustomStore {
  get(key: string): string | null | undefined | Promise<string | null | undefined>;
  put(key: string, text: string): unknown;
}

/** One server. */
export interface EndpointOptions {
  /** Its name, in events, errors and {@link TargetOptions.endpoint}. */
  name: string;
  /** `vllm` for any OpenAI-compatible server, `fairlead` for a gateway. */
  provider: 'vllm' | 'runpod' | 'fairlead';
  /** Its URL: `https://gpu.example.com/v1`, or `https://api.runpod.ai/v2/{id}`. */
  baseURL: string;
  /** Its key. In a browser only under {@link FairleadOptions.dangerouslyAllowBrowser}. */
  apiKey?: string | undefined;
  /** How a RunPod endpoint is spoken to; without a mode it would be by jobs, which need a gateway. */
  mode?: 'jobs' | 'openai' | 'load_balancer' | undefined;
  /** Calls at a time, instead of {@link FairleadOptions.maxConcurrency}. */
  maxConcurrency?: number | undefined;
  /** Whether it goes on from the beginning of an answer, as {@link PolicyOptions.resume} may ask. @default true of `vllm` */
  continue?: boolean | undefined;
  /** Whether its jobs are open natively (RunPod). */
  native?: boolean | undefined;
  /** Milliseconds that a RunPod job may run. @default 600000 */
  maxExecutionMs?: number | undefined;
  /** Milliseconds that a RunPod job may exist. @default 3600000 */
  maxTtlMs?: number | undefined;
  /** Fetches that one call may make. @default 1000 */
  maxSubrequests?: number | undefined;
}

/** One name that may be asked for. */
export interface ModelOptions {
  /** The name; `*` takes what no other entry takes. */
  name: string;
  /** How a target is chosen: in order, by weight, or the least busy. @default "failover" */
  strategy?: 'failover' | 'weighted' | 'least_loaded' | undefined;
  /** A name in {@link FairleadOptions.policies}. @default "default" */
  policy?: string | undefined;
  targets: readonly TargetOptions[];
}

/** One endpoint that serves a model. */
export interface TargetOptions {
  /** The endpoint's name. */
  endpoint: string;
  /** What the endpoint calls the model. @default the name that was asked for */
  model?: string | undefined;
  /** Its share under `weighted`. @default 1 */
  weight?: number | undefined;
}

/** How calls are carried out. Times are milliseconds, up to a day. */
export interface PolicyOptions {
  /** Sets `deadlineMs`, `firstTokenMs` and `idleMs`: 60/15/15 s, 180/45/60 s, 600/120/60 s, 1800/300/120 s. */
  preset?: 'simple' | 'code' | 'document' | 'reasoning' | undefined;
  /** The whole call. @default 300000, or the option `timeout` */
  deadlineMs?: number | undefined;
  /** From sending to response headers, for streaming calls. @default 30000 */
  headersMs?: number | undefined;
  /** From sending an attempt to its first content. @default 120000 */
  firstTokenMs?: number | undefined;
  /** Lengthens `firstTokenMs` for each KiB of the request. @default 100 */
  prefillMsPerKib?: number | undefined;
  /** Silence between bytes of a stream. @default 60000 */
  idleMs?: number | undefined;
  /** Time without content, however many bytes come. @default 120000 */
  progressMs?: number | undefined;
  /** A RunPod job in its queue. @default 600000 */
  queueMs?: number | undefined;
  /** Attempts over all endpoints, the first included: 1 to 20. @default 3, or the option `maxRetries` + 1 */
  maxAttempts?: number | undefined;
  /** Waits between attempts: exponential, full jitter. */
  backoff?: BackoffOptions | undefined;
  /** The longest `Retry-After` that is waited for. @default 30000 */
  retryAfterMaxMs?: number | undefined;
  /** Has an effect in a gateway only. @default 5000 */
  keepaliveMs?: number | undefined;
  /** A stream that still waits is handed out after so long; what fails then throws in reading. @default 10000 */
  commitAfterMs?: number | undefined;
  /**
   * What a stream ends in whose time is over: an error, or as it is, with `finish_reason` `length` and
   * `fairlead: { truncated: 'deadline' }` on its last chunk. Chat and completions. @default "error"
   */
  onDeadline?: 'error' | 'partial' | undefined;
  /** Has an effect in a gateway only. @default "checked" */
  forward?: 'checked' | 'native' | undefined;
  /**
   * Whether a stream that breaks behind its first content goes on: from there where that is exact, or asked for again and
   * compared. Chat and completions. @default "off"
   */
  resume?: 'off' | 'continue' | 'verify' | undefined;
  /**
   * Has endpoints stream what the caller wants whole, so that all timers, `resume` and `onDeadline` serve it as well. Chat and
   * completions. @default false
   */
  streamInternally?: boolean | undefined;
  /**
   * A stream that has no content after so long is asked of the next endpoint as well; the first to bring some wins. "p95": as
   * long as 95 % of that endpoint's streams took to begin.
   */
  hedgeAfterMs?: number | 'p95' | undefined;
  /** At most this share of the streams of an entry of `models` does so. @default 0.05 */
  hedgeRatio?: number | undefined;
  /** Larger requests are refused before they are sent. @default 26214400 */
  maxRequestBytes?: number | undefined;
  /** When an endpoint is left alone. */
  breaker?: BreakerOptions | undefined;
  /** What repeats cost. */
  budget?: BudgetOptions | undefined;
}

/** Waits between attempts, in milliseconds. */
export interface BackoffOptions {
  /** The bound of the first wait. @default 200 */
  baseMs?: number | undefined;
  /** The same, where the endpoint said that it has no room. @default 1000 */
  throttledBaseMs?: number | undefined;
  /** The bound of every wait. @default 20000 */
  maxMs?: number | undefined;
}

/** When an endpoint is left alone, and for how long. */
export interface BreakerOptions {
  /** @default true */
  enabled?: boolean | undefined;
  /** Opens at this share of failures, above 0 and at most 1, @default 0.5 */
  failureRatio?: number | undefined;
  /** among at least so many calls, @default 8 */
  minCalls?: number | undefined;
  /** in so many milliseconds. @default 120000 */
  windowMs?: number | undefined;
  /** Opens at so many failures in a row, too. @default 5 */
  consecutive?: number | undefined;
  /** The longest first opening, in milliseconds. @default 15000 */
  openMs?: number | undefined;
  /** The longest opening, in milliseconds. @default 60000 */
  maxOpenMs?: number | undefined;
  /** The share of calls let through as probes when an opening has just passed; a fleet's is 0.01. @default 1 */
  probeRatio?: number | undefined;
  /** A first content later than this many milliseconds counts as a failure. */
  slowFirstTokenMs?: number | undefined;
}

/** Prices of the retry budget, in tokens. */
export interface BudgetOptions {
  /** A full bucket. @default 100 */
  capacity?: number | undefined;
  /** A repeat after a failure. @default 14 */
  transientCost?: number | undefined;
  /** A repeat after pushback. @default 5 */
  throttledCost?: number | undefined;
  /** What a success gives back. @default 1 */
  refund?: number | undefined;
}

/** What one call may ask for. */
export interface CallOptions {
  /** Ends the call, wherever it is; the error is an {@link AbortError} with the signal's reason as its `cause`. */
  signal?: AbortSignal | null | undefined;
  /** Milliseconds for the whole call, instead of the client's. From 1 to 86400000. */
  timeout?: number | undefined;
  /** Attempts after the first, instead of the client's. From 0 to 19. */
  maxRetries?: number | undefined;
  /** A name in the option `policies`, or one that the gateway knows. */
  policy?: string | undefined;
  /** Header fields of this request, over `defaultHeaders`; `null` leaves a default out. */
  headers?: HeadersLike | undefined;
}
