// What the page can do about a request that fails: wait while the device is offline, and tell a server that is not there
// from one whose answer the browser withholds. To scripts both look alike.

import type { Fetch } from './options.js';
import { after, inBrowser, isOffline } from './platform.js';

/** How long a request waits for the device to be online again. */
const OFFLINE_MS = 10_000;
/** How long a server has to answer when it is only asked whether it is there. */
const PROBE_MS = 3000;
/** How long a server is taken for one that is there, after it was seen to be. */
const BLOCKED_MS = 60_000;

export class Network {
  readonly #own: Fetch | undefined;
  /** Origins that have let this page read an answer. */
  readonly #readable = new Set<string>();
  /** Origins that have answered, but not for this page to read, and when that was. */
  readonly #blocked = new Map<string, number>();
  readonly #probes = new Map<string, Promise<boolean>>();

  constructor(own: Fetch | undefined) {
    this.#own = own;
  }

  /** One request. Rejects with `offline` or `blocked` where that is known, else with what the platform says. */
  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    // A server on this very machine needs no network; but tools that take a page's network take the way to it, too.
    const isThere = isOffline() && isLoopback(url) && (this.#own !== undefined || (await answers(url, { mode: 'no-cors' })));
    if (isOffline() && !isThere) await online(init.signal);
    try {
      // Called anew each time: somebody may replace the global one.
      const response = await (this.#own ? this.#own(url, init) : fetch(url, init));
      // None is followed, and a page is not even shown which it is; to the core any of them says the same.
      if (response.type === 'opaqueredirect') return new Response(null, { status: 307 });
      this.#readable.add(originOf(url));
      this.#blocked.delete(originOf(url));
      return response;
    } catch (error) {
      throw await this.#why(url, init, error);
    }
  };

  async #why(url: string, { signal, headers }: RequestInit, error: unknown): Promise<unknown> {
    if (signal?.aborted) return error;
    if (isOffline() && !isLoopback(url)) return 'offline';
    const origin = originOf(url);
    if (this.#own || !(error instanceof TypeError) || !inBrowser() || origin === location.origin) return error;
    if (this.#readable.has(origin)) return error;
    if (Date.now() - (this.#blocked.get(origin) ?? -Infinity) < BLOCKED_MS || isMixed(url)) return 'blocked';
    const isBlocked = await this.#probe(origin, url, headers);
    // Meanwhile another request may have been answered.
    if (!isBlocked || this.#readable.has(origin)) return error;
    this.#blocked.set(origin, Date.now());
    return 'blocked';
  }

  /** Whether somebody answers there, but not for this page: asked once for all who want to know. */
  #probe(origin: string, url: string, headers: RequestInit['headers']): Promise<boolean> {
    let probe = this.#probes.get(origin);
    if (!probe) {
      probe = this.#isBlocked(origin, url, headers).finally(() => this.#probes.delete(origin));
      this.#probes.set(origin, probe);
    }
    return probe;
  }

  async #isBlocked(origin: string, url: string, headers: RequestInit['headers']): Promise<boolean> {
    // A page may send this and hear that there was an answer, though not which. It carries no key.
    if (!(await answers(url, { mode: 'no-cors' }))) return false;
    // The same fields, the key among them, because that is what a server may refuse. No route does anything on a GET.
    // Where it leads elsewhere, they are nobody else's either.
    const isReadable = await answers(url, { mode: 'cors', redirect: 'manual', ...(headers && { headers }) });
    // Then it was no more than a connection that broke.
    if (isReadable) this.#readable.add(origin);
    return !isReadable;
  }
}

/** Whether there is an answer to a GET. */
async function answers(url: string, init: RequestInit): Promise<boolean> {
  const controller = new AbortController();
  const stop = after(PROBE_MS, () => controller.abort());
  try {
    await fetch(url, { ...init, credentials: 'omit', cache: 'no-store', referrerPolicy: 'no-referrer', signal: controller.signal });
    return true;
  } catch {
    return false;
  } finally {
    stop();
    controller.abort();
  }
}

function online(signal: AbortSignal | null | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = () => {
      stop();
      globalThis.removeEventListener('online', back);
      signal?.removeEventListener('abort', abort);
    };
    const back = () => {
      leave();
      resolve();
    };
    const abort = () => {
      leave();
      reject(signal?.reason);
    };
    const stop = after(OFFLINE_MS, () => {
      leave();
      reject('offline');
    });
    globalThis.addEventListener('online', back);
    signal?.addEventListener('abort', abort);
    if (signal?.aborted) abort();
  });
}

/** A secure page may not ask an insecure server, unless it is this very machine. */
const isMixed = (url: string): boolean =>
  location.protocol === 'https:' && new URL(url).protocol === 'http:' && !isLoopback(url);

/** Whether the server is this very machine. */
const isLoopback = (url: string): boolean => /^(localhost|.*\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(new URL(url).hostname);

const originOf = (url: string): string => new URL(url).origin;
