/// <reference lib="esnext.disposable" preserve="true" />

import { makeFetch } from './fetch.js';
import type { CallOptions, FairleadOptions } from './options.js';
import { RunPod } from './runpod.js';
import { camel } from './schema.js';
import type { Stream } from './stream.js';
import { Transport, type Answered } from './transport.js';
import type {
  ChatCompletion, ChatCompletionChunk, ChatCompletionCreateParams, Completion, CompletionCreateParams, EmbeddingCreateParams,
  EmbeddingResponse, Model, ResponseAnswer, ResponseCreateParams, ResponseEvent,
} from './types.js';

/** A request that is answered piece by piece. */
export type Streaming<P> = P & { stream: true };
/** A request that is answered in one. */
export type NotStreaming<P> = P & { stream?: false | null };

/** Chat. */
export class ChatCompletions {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Asks for a chat answer, within the client's timers, retries and breakers.
   * @throws FairleadError (as a rejection), in one of its classes; TypeError for options that are wrong
   */
  create(request: Streaming<ChatCompletionCreateParams>, options?: CallOptions): Answered<Stream<ChatCompletionChunk>>;
  create(request: NotStreaming<ChatCompletionCreateParams>, options?: CallOptions): Answered<ChatCompletion>;
  create(request: ChatCompletionCreateParams, options?: CallOptions): Answered<ChatCompletion | Stream<ChatCompletionChunk>>;
  create(request: ChatCompletionCreateParams, options?: CallOptions): Answered<never> {
    return this.#transport.post('/v1/chat/completions', request, options);
  }
}

/** Texts to be continued. */
export class Completions {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Asks for a text to be continued. Errors are those of {@link ChatCompletions.create}. */
  create(request: Streaming<CompletionCreateParams>, options?: CallOptions): Answered<Stream<Completion>>;
  create(request: NotStreaming<CompletionCreateParams>, options?: CallOptions): Answered<Completion>;
  create(request: CompletionCreateParams, options?: CallOptions): Answered<Completion | Stream<Completion>>;
  create(request: CompletionCreateParams, options?: CallOptions): Answered<never> {
    return this.#transport.post('/v1/completions', request, options);
  }
}

/** Embeddings. */
export class Embeddings {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Asks for embeddings. Errors are those of {@link ChatCompletions.create}. */
  create(request: EmbeddingCreateParams, options?: CallOptions): Answered<EmbeddingResponse> {
    return this.#transport.post('/v1/embeddings', request as EmbeddingCreateParams & { stream?: never }, options);
  }
}

/** The Responses API. */
export class Responses {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Asks for an answer. Errors are those of {@link ChatCompletions.create}. */
  create(request: Streaming<ResponseCreateParams>, options?: CallOptions): Answered<Stream<ResponseEvent>>;
  create(request: NotStreaming<ResponseCreateParams>, options?: CallOptions): Answered<ResponseAnswer>;
  create(request: ResponseCreateParams, options?: CallOptions): Answered<ResponseAnswer | Stream<ResponseEvent>>;
  create(request: ResponseCreateParams, options?: CallOptions): Answered<never> {
    return this.#transport.post('/v1/responses', request, options);
  }
}

/** A list of models. */
export interface ModelList {
  object: 'list';
  data: Model[];
}

/** What may be asked for. */
export class Models {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The names that may be asked for: the gateway's, or those of the option `models`. */
  list(options?: CallOptions): Answered<ModelList> {
    const { baseURL, models } = this.#transport.setup;
    if (baseURL) return this.#transport.ask({ method: 'GET', url: `${baseURL}/models` }, options);
    const data = (models ?? []).map((id): Model => ({ id, object: 'model' }));
    const response = { status: 200, headers: new Headers(), requestId: undefined, endpoint: undefined, attempts: undefined };
    const list: ModelList = { object: 'list', data };
    return Object.assign(Promise.resolve(list), { withResponse: () => Promise.resolve({ data: list, response }) });
  }
}

/** What a client knows of its endpoints. Times are milliseconds since 1970 where they end in `AtMs`, and spans elsewhere. */
export interface ClientStatus {
  nowMs: number;
  store: { kind: string; readAtMs: number | null; failedAtMs: number | null; error: string | null };
  endpoints: EndpointStatus[];
}

/** What a client knows of one endpoint. */
export interface EndpointStatus {
  name: string;
  provider: string;
  /** Always false here: a page has no operator. */
  isolated: boolean;
  stored: BreakerRecord | null;
  inFlight: number;
  maxConcurrency: number | null;
  /** Calls that wait for a place. */
  waiting: number;
  /** The moving average. */
  firstTokenMs: number | null;
  retryTokensLeft: number | null;
  breakers: BreakerStatus[];
}

/** One breaker. */
export interface BreakerStatus {
  /** The entry of `models`. */
  entry: string;
  state: 'closed' | 'open' | 'half_open' | 'off';
  /** The end of an opening, in milliseconds since 1970. */
  untilMs: number | null;
  reason: string;
  epoch: number;
  /** In the window. */
  calls: number;
  failures: number;
  inARow: number;
  /** What stands in the store now; `null` where nothing does. */
  stored: BreakerRecord | null;
}

/** A breaker as the store has it, for other tabs and for this page's next life. */
export interface BreakerRecord {
  epoch: number;
  state: 'closed' | 'open' | 'isolated';
  /** In milliseconds since 1970, like `atMs`, when that was known. */
  openUntilMs: number;
  reason: string;
  atMs: number;
}

/**
 * A client: calls to a gateway, or to several endpoints with failover, with the timeouts, retries and breakers of
 * Fairlead. Make one and keep it: what it learns of endpoints serves all its calls.
 *
 * @example
 * const ai = new Fairlead({ baseURL: 'https://gateway.example.com/v1', apiKey, timeout: 60_000 });
 * const stream = await ai.chat.completions.create({ model: 'qwen', messages, stream: true }, { signal });
 * for await (const event of stream.events()) if (event.type === 'content') show(event.text);
 */
export class Fairlead {
  readonly chat: { readonly completions: ChatCompletions };
  readonly completions: Completions;
  readonly embeddings: Embeddings;
  readonly responses: Responses;
  readonly models: Models;
  /**
   * A `fetch` with the same resilience, to put under other SDKs: `new OpenAI({ fetch: ai.fetch, maxRetries: 0, … })`.
   * It may be passed around by itself.
   */
  readonly fetch: (input: string | URL | Request, init?: RequestInit) => Promise<Response>;
  readonly #transport: Transport;

  /**
   * Nothing is loaded or asked before the first call.
   * @throws TypeError that names each option that is wrong
   */
  constructor(options: FairleadOptions) {
    const transport = new Transport(options);
    this.#transport = transport;
    this.chat = { completions: new ChatCompletions(transport) };
    this.completions = new Completions(transport);
    this.embeddings = new Embeddings(transport);
    this.responses = new Responses(transport);
    this.models = new Models(transport);
    this.fetch = makeFetch(transport, options.fetch);
  }

  /** The jobs of a RunPod endpoint, by the name that the gateway has for it. */
  runpod(name: string): RunPod {
    return new RunPod(this.#transport, name);
  }

  /** What this client knows of its endpoints: breakers, load, budgets. It asks none of them. */
  async status(): Promise<ClientStatus> {
    return inCamelCase(JSON.parse(await this.#transport.calls.status())) as ClientStatus;
  }

  /** Ends the calls in flight with an `AbortError`, and lets go of everything. Later calls fail. */
  close(): void {
    this.#transport.close();
  }

  static {
    // Not every platform has them yet.
    if (Symbol.dispose) {
      Object.defineProperty(this.prototype, Symbol.dispose, { value: this.prototype.close });
    }
    if (Symbol.asyncDispose) {
      Object.defineProperty(this.prototype, Symbol.asyncDispose, {
        async value(this: Fairlead) {
          this.close();
        },
      });
    }
  }
}

export interface Fairlead {
  /** The same as {@link Fairlead.close}. */
  [Symbol.dispose](): void;
  /** The same as {@link Fairlead.close}. */
  [Symbol.asyncDispose](): Promise<void>;
}

function inCamelCase(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inCamelCase);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [camel(name), inCamelCase(item)]));
}
