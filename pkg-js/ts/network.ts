// What the page can do about a request that fails: wait while the device is offline, and tell a server that is not there
// from one whose answer the browser withholds. To scripts both look alike.

import type { Fetch } from './options.js';
import { after, inBrowser, isOffline } from './platform.js';

/** How long a request waits for the device to be online again. */
const OFFLINE_MS = 10_000;
/** How long a server has to answer when it is only asked whether it is there. */
const PROBE_MS = 3000;

export class Network {
  readonly #own: Fetch | undefined;
  /** Origins that have let this page read an answer. */
  readonly #readable = new Set<string>();
  /** Origins that were there when a request to them had failed: once may be a connection that broke, and not twice. */
  readonly #suspects = new Set<string>();
  readonly #blocked = new Set<string>();
  readonly #probes = new Map<string, Promise<boolean>>();

  constructor(own: Fetch | undefined) {
    this.#own = own;
  }

  /** One request. Rejects with `offline` or `blocked` where that is known, else with what the platform says. */
  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    if (isOffline()) await online(init.signal);
    try {
      // Called anew each time: somebody may replace the global one.
      const response = await (this.#own ? this.#own(url, init) : fetch(url, init));
      // None is followed, and a page is not even shown which it is; to the core any of them says the same.
      if (response.type === 'opaqueredirect') return new Response(null, { status: 307 });
      this.#readable.add(originOf(url));
      return response;
    } catch (error) {
      throw await this.#why(url, init.signal, error);
    }
  };

  async #why(url: string, signal: AbortSignal | null | undefined, error: unknown): Promise<unknown> {
    if (signal?.aborted) return error;
    if (isOffline()) return 'offline';
    const origin = originOf(url);
    if (this.#own || !(error instanceof TypeError) || !inBrowser() || origin === location.origin) return error;
    if (this.#readable.has(origin)) return error;
    if (this.#blocked.has(origin) || isMixed(url)) return 'blocked';
    const isBlocked = await this.#probe(origin, url);
    // Meanwhile another request may have been answered.
    return isBlocked && !this.#readable.has(origin) ? 'blocked' : error;
  }

  /** Whether it answers, but not for this page to read; asked once by all whose requests have failed meanwhile. */
  #probe(origin: string, url: string): Promise<boolean> {
    let probe = this.#probes.get(origin);
    if (!probe) {
      probe = this.#withholds(origin, url).finally(() => this.#probes.delete(origin));
      this.#probes.set(origin, probe);
    }
    return probe;
  }

  async #withholds(origin: string, url: string): Promise<boolean> {
    if (!(await isThere(url))) return false;
    if (this.#suspects.has(origin)) this.#blocked.add(origin);
    this.#suspects.add(origin);
    return this.#blocked.has(origin);
  }
}

/** The page may send such a request and hear that there was an answer, though not which. It carries no key. */
async function isThere(url: string): Promise<boolean> {
  const controller = new AbortController();
  const stop = after(PROBE_MS, () => controller.abort());
  try {
    const response = await fetch(url, {
      mode: 'no-cors', credentials: 'omit', cache: 'no-store', referrerPolicy: 'no-referrer', signal: controller.signal,
    });
    return response.type === 'opaque';
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
function isMixed(url: string): boolean {
  const { protocol, hostname } = new URL(url);
  const isHere = /^(localhost|.*\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname);
  return location.protocol === 'https:' && protocol === 'http:' && !isHere;
}

const originOf = (url: string): string => new URL(url).origin;
