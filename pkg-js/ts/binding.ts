// The seam to wasm: what the core is to this package, and what it asks of the page. `core.ts` fulfils it; nothing else
// here knows wasm. Plain data crosses: texts, bytes, and one JSON text for everything with fields.

/** How the wasm of one entry of the package comes to life. */
export interface Binding {
  /**
   * The instance to use for the next call. The first call of it loads and compiles. Once an instance has trapped, the
   * next call gives a new one.
   */
  ready(): Promise<Instance>;
}

/** One instance of the wasm. */
export interface Instance {
  /**
   * @param config JSON text in the form of `CONFIG`
   * @throws an Error whose message is JSON: `[{ "path": "endpoints[0].base_url", "message": "…" }, …]`
   */
  create(config: string, host: Host): Core;
  /** Aborts when the instance traps: what its cores still owe never comes. */
  readonly trapped: AbortSignal;
}

/** The core of one client. */
export interface Core {
  /**
   * One call, from `POST {path}` to its answer.
   * @param fields the request's header fields, names and values in turn, joined by NUL
   * @param hear gets the facts of the call; it is called from inside wasm
   * @returns rejects with `undefined`, and only when the signal was aborted before there was an answer
   */
  call(
    path: string,
    fields: string,
    body: Uint8Array,
    wishes: Wishes,
    signal: AbortSignal,
    hear: (event: object) => void,
  ): Promise<[status: number, fields: string, body: Uint8Array | Handoff]>;
  /** What it knows of its endpoints, as JSON. */
  status(): Promise<string>;
  /** The clock may have jumped: timers compare with it at once. */
  wake(): void;
  /** Another tab has put a record under this key. */
  news?(key: string): void;
  free(): void;
}

/** What a call asks for beside its request. */
export interface Wishes {
  timeout?: number;
  maxRetries?: number;
  policy?: string;
  /** Header fields for the endpoint, joined like a request's. */
  headers?: string;
  /** `Date.now()` when the call was made. */
  arrived: number;
}

/** A body that comes in pieces. */
export interface Handoff {
  /** Rejects where the body broke off; with `deadline_exceeded` where the call's time was over before it was read. */
  read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
  cancel(): void;
}

/** What the core asks of the page. */
export interface Host {
  /** What `api_key_secret` names in the config. */
  readonly secrets: Readonly<Record<string, string>>;
  /** Rejects with the string `offline` or `blocked` where that is known. */
  fetch(url: string, init: RequestInit): Promise<Response>;
  readonly store: RecordStore | undefined;
  /** Hears what is understood but has no effect: where, in CONFIG's words, and what. */
  warn(path: string, message: string): void;
}

/** Where records of breakers outlive the page. */
export interface RecordStore {
  readonly kind: string;
  get(key: string): Promise<string | undefined>;
  put(key: string, text: string): Promise<void>;
}

let provided: Binding | undefined;

/** Says whose wasm the clients of this entry use. Each entry of the package does so once. */
export function provide(binding: Binding): void {
  provided = binding;
}

/** @internal */
export function binding(): Binding {
  if (!provided) throw new Error('This entry of fairlead provides no wasm.');
  return provided;
}
