// Where records of breakers outlive the page, and how tabs hear of each other's. None of it may fail a call: what a
// browser does not allow is done by the next best, and at last by memory.

import type { RecordStore } from './binding.js';
import { GATEWAY } from './config.js';
import type { CustomStore, StoreOption } from './options.js';
import { after, inBrowser, listen } from './platform.js';

/** The name of the database, and of the channel. */
const NAME = 'fairlead';
const TABLE = 'records';
const PREFIX = 'breaker:v1:';
/** A database that has not opened or answered by then is taken for one that never will: a browser may just say nothing. */
const PATIENCE_MS = 1000;

/** A store with a beginning and an end. */
export interface OpenStore extends RecordStore {
  /** It will be asked soon: what takes time may begin. */
  begin(): void;
  close(): void;
}

/**
 * The store of a gateway's client. The endpoint has the same name in each of them, so that the records stand under the
 * gateway's address in its place: two gateways are two.
 * @param changed hears the key of a record that another tab has put
 */
export function openStoreOf(baseURL: string, option: StoreOption | undefined, changed: (key: string) => void): OpenStore {
  const [ours, theirs] = [GATEWAY, encodeURIComponent(baseURL.replace(/^\w+:\/\/|\/v1$/g, ''))].map((name) => `breaker:v1:${name}`) as [string, string];
  const move = (key: string, from: string, to: string) => (key.startsWith(from) ? `${to}${key.slice(from.length)}` : key);
  const store = openStore(option, (key) => changed(move(key, theirs, ours)));
  return {
    get kind() {
      return store.kind;
    },
    get: (key) => store.get(move(key, ours, theirs)),
    put: (key, text) => store.put(move(key, ours, theirs), text),
    begin: () => store.begin(),
    close: () => store.close(),
  };
}

/** @param changed hears the key of a record that another tab has put */
export function openStore(option: StoreOption | undefined, changed: (key: string) => void): OpenStore {
  if (typeof option === 'object') return custom(option);
  if (option === 'memory' || (option === undefined && !inBrowser())) return new Fallback([memory]);
  const kinds = option === 'localstorage' ? [localStorageStore, memory] : [database, localStorageStore, memory];
  return new Fallback(kinds.map((make) => () => make(changed)));
}

function custom(store: CustomStore): OpenStore {
  return {
    kind: 'custom',
    // Whatever they are: an answer, a promise or an exception.
    get: async (key) => (await store.get(key)) ?? undefined,
    put: async (key, text) => void (await store.put(key, text)),
    begin: () => {},
    close: () => {},
  };
}

/** The first of several stores that works, from the first use on. */
class Fallback implements OpenStore {
  readonly #makers: (() => OpenStore)[];
  #store: OpenStore | undefined;

  constructor(makers: (() => OpenStore)[]) {
    this.#makers = [...makers];
  }

  get kind(): string {
    return this.#current().kind;
  }

  get(key: string): Promise<string | undefined> {
    return this.#try((store) => store.get(key));
  }

  put(key: string, text: string): Promise<void> {
    return this.#try((store) => store.put(key, text));
  }

  begin(): void {
    this.#current().begin();
  }

  close(): void {
    this.#giveUp();
    this.#makers.splice(0, Infinity, memory);
  }

  #giveUp(): void {
    this.#store?.close();
    this.#store = undefined;
  }

  async #try<T>(use: (store: OpenStore) => Promise<T>): Promise<T> {
    for (;;) {
      const store = this.#current();
      try {
        return await use(store);
      } catch (error) {
        if (this.#makers.length <= 1) throw error;
        // Of several that failed at the same time, the first gives it up.
        if (store === this.#store) {
          this.#giveUp();
          this.#makers.shift();
        }
      }
    }
  }

  #current(): OpenStore {
    while (!this.#store) {
      try {
        this.#store = this.#makers[0]!();
      } catch (error) {
        if (this.#makers.length <= 1) throw error;
        this.#makers.shift();
      }
    }
    return this.#store;
  }
}

function memory(): OpenStore {
  const records = new Map<string, string>();
  return {
    kind: 'memory',
    get: (key) => Promise.resolve(records.get(key)),
    put: (key, text) => Promise.resolve(void records.set(key, text)),
    begin: () => {},
    close: () => {},
  };
}

/** Its changes are told to other tabs by the browser itself. */
function localStorageStore(changed: (key: string) => void): OpenStore {
  const storage = localStorage; // a SecurityError where it is not allowed
  const stop = listen('window', ['storage'], (event) => {
    const { key } = event as StorageEvent;
    if (key?.startsWith(PREFIX)) changed(key);
  });
  return {
    kind: 'localstorage',
    get: async (key) => storage.getItem(key) ?? undefined,
    put: async (key, text) => storage.setItem(key, text),
    begin: () => {},
    close: stop,
  };
}

function database(changed: (key: string) => void): OpenStore {
  const factory = indexedDB; // not there, or not allowed
  const channel = new Channel(changed);
  let opened: Promise<IDBDatabase> | undefined;

  const open = () => (opened ??= openDatabase(factory, () => (opened = undefined)));
  const use = async <T>(mode: IDBTransactionMode, ask: (table: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    for (let last = false; ; last = true) {
      const handle = await open();
      try {
        const transaction = handle.transaction(TABLE, mode);
        const request = ask(transaction.objectStore(TABLE));
        return await new Promise((resolve, reject) => {
          const stop = after(PATIENCE_MS, () => reject(new Error('The database did not answer.')));
          transaction.oncomplete = () => {
            stop();
            resolve(request.result);
          };
          transaction.onabort = transaction.onerror = () => {
            stop();
            reject(transaction.error ?? request.error);
          };
        });
      } catch (error) {
        handle.close();
        opened = undefined;
        // Closed under our feet: once more with a new one.
        if (last || (error as DOMException | null)?.name !== 'InvalidStateError') throw error;
      }
    }
  };
  return {
    kind: 'indexeddb',
    get: async (key) => {
      const text: unknown = await use('readonly', (table) => table.get(key));
      return typeof text === 'string' ? text : undefined;
    },
    put: async (key, text) => {
      await use('readwrite', (table) => table.put(text, key));
      channel.tell(key);
    },
    begin: () => void open().catch(() => {}), // told to whoever asks
    close: () => {
      channel.close();
      void opened?.then((handle) => handle.close(), () => {});
      opened = undefined;
    },
  };
}

function openDatabase(factory: IDBFactory, gone: () => void): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    let isLate = false;
    const stop = after(PATIENCE_MS, () => {
      isLate = true;
      reject(new Error('The database did not open.'));
    });
    const request = factory.open(NAME, 1);
    request.onupgradeneeded = () => void request.result.createObjectStore(TABLE);
    request.onerror = () => {
      stop();
      reject(request.error);
    };
    request.onsuccess = () => {
      stop();
      const handle = request.result;
      // Another tab wants a newer version, or the user deletes the data: hold nobody up.
      handle.onversionchange = () => {
        handle.close();
        gone();
      };
      handle.onclose = gone;
      if (isLate) handle.close();
      else resolve(handle);
    };
  });
}

/** How tabs tell each other of records; closed while the page rests in the back-forward cache, which an open one forbids. */
class Channel {
  readonly #changed: (key: string) => void;
  #channel: BroadcastChannel | undefined;
  readonly #stop: (() => void)[];

  constructor(changed: (key: string) => void) {
    this.#changed = changed;
    this.#open();
    this.#stop = [listen('window', ['pagehide'], () => this.#shut()), listen('window', ['pageshow'], () => this.#open())];
  }

  tell(key: string): void {
    this.#channel?.postMessage({ key });
  }

  close(): void {
    for (const stop of this.#stop) stop();
    this.#shut();
  }

  #open(): void {
    if (this.#channel || typeof BroadcastChannel !== 'function') return;
    try {
      const channel = new BroadcastChannel(NAME);
      channel.onmessage = ({ data }: MessageEvent<{ key?: unknown } | null>) => {
        if (typeof data?.key === 'string' && data.key.startsWith(PREFIX)) this.#changed(data.key);
      };
      (channel as { unref?: () => void }).unref?.();
      this.#channel = channel;
    } catch {
      // Not allowed here: other tabs learn by themselves.
    }
  }

  #shut(): void {
    this.#channel?.close();
    this.#channel = undefined;
  }
}
