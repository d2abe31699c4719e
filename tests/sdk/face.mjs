// The TypeScript face without its wasm: bundled as the package bundles it, over a core that does what a test says.

import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';

const { outputFiles: [bundle] } = await build({
  stdin: {
    contents: `
      export * from './index.ts';
      export { provide } from './binding.ts';
      export { setUp } from './config.ts';
      export { complaints } from './schema.ts';
      export { Network } from './network.ts';
      export { openStore } from './stores.ts';
      export { Body, events } from './sources.ts';
      export { Flight } from './calls.ts';
    `,
    resolveDir: fileURLToPath(new URL('../../pkg-js/ts/', import.meta.url)),
    loader: 'ts',
  },
  bundle: true, write: false, format: 'esm', target: 'es2022', sourcemap: 'inline',
});
const face = await import(`data:text/javascript;base64,${Buffer.from(bundle.text).toString('base64')}`);

export const {
  Fairlead, Stream, provide, setUp, Network, openStore, Body, events, Flight, FairleadError, AbortError, TimeoutError, CircuitOpenError,
  AuthenticationError, PermissionError, RateLimitError, OverloadedError, ConnectionError, StreamInterruptedError, JobError,
  InvalidRequestError, NotFoundError, UpstreamError, InternalError,
} = face;

const encode = (text) => new TextEncoder().encode(text);
export const pairs = (fields) => Object.entries(fields).flat().join('\0');
/** What joined fields say. */
export const read = (fields = '') => {
  const parts = fields.split('\0');
  const found = {};
  for (let at = 0; at + 1 < parts.length; at += 2) found[parts[at]] = parts[at + 1];
  return found;
};

/** An answer in one piece. */
export const whole = (status, body, fields = {}) => [
  status,
  pairs({ 'content-type': 'application/json', ...fields }),
  encode(typeof body === 'string' ? body : JSON.stringify(body)),
];

/** An answer in pieces: texts or bytes; an Error breaks off, a promise is waited for. */
export function streamed(pieces, fields = {}) {
  const handoff = {
    reads: 0,
    cancelled: 0,
    async read() {
      handoff.reads += 1;
      const piece = await pieces.shift();
      if (piece instanceof Error) throw piece;
      return piece === undefined ? { done: true } : { done: false, value: typeof piece === 'string' ? encode(piece) : piece };
    },
    cancel() {
      handoff.cancelled += 1;
    },
  };
  const answer = [200, pairs({ 'content-type': 'text/event-stream', ...fields }), handoff];
  return Object.assign(answer, { handoff });
}

export const data = (value) => `data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`;
/** Chat chunks, one for each delta, then the finish and the [DONE]. */
export const chat = (...deltas) => [
  ...deltas.map((delta) => data({ object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: null }] })),
  data({ object: 'chat.completion.chunk', choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }),
  data('[DONE]'),
];

/**
 * Puts a scripted core under the clients made from now on.
 * @param answer gets each call, and gives what the core answers
 */
export function script(answer) {
  const world = { cores: [], calls: [], wakes: 0, news: [], freed: 0, status: '{}', trap: undefined, create: undefined };
  let instance;
  const anew = () => {
    const trap = new AbortController();
    instance = {
      trapped: trap.signal,
      create(config, host) {
        if (world.create) world.create(config, host);
        const core = {
          config: JSON.parse(config),
          host,
          call(path, fields, body, wishes, signal, hear) {
            const call = { path, fields: read(fields), bytes: body, wishes, own: read(wishes.headers), signal, hear, host };
            world.calls.push(call);
            return new Promise((resolve, reject) => {
              signal.addEventListener('abort', () => reject(undefined));
              Promise.resolve(answer(call, world.calls.length)).then(resolve, reject);
            });
          },
          status: async () => world.status,
          wake: () => (world.wakes += 1),
          news: (key) => world.news.push(key),
          free: () => (world.freed += 1),
        };
        world.cores.push(core);
        return core;
      },
    };
    world.trap = () => {
      anew();
      trap.abort();
    };
  };
  anew();
  provide({ ready: async () => instance });
  return world;
}

export const tick = () => new Promise((resolve) => setImmediate(resolve));
export const never = () => new Promise(() => {});
/** What a promise is rejected with. */
export const failureOf = (promise) => promise.then(() => assert.fail('it did not fail'), (error) => error);
import assert from 'node:assert/strict';

/** Sets globals for one test and puts them back. */
export function globals(t, values) {
  for (const [name, value] of Object.entries(values)) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
}

/** A page, as far as this code looks at one. */
export function page(t, { href = 'https://app.example.com/', onLine = true } = {}) {
  const target = new EventTarget();
  const heard = new Map();
  const count = (type, by) => heard.set(type, (heard.get(type) ?? 0) + by);
  const add = (type, listener) => (count(type, 1), target.addEventListener(type, listener));
  const remove = (type, listener) => (count(type, -1), target.removeEventListener(type, listener));
  const navigator = { onLine, userAgent: 'Mozilla/5.0' };
  const document = { addEventListener: add, removeEventListener: remove, visibilityState: 'visible' };
  globals(t, {
    window: globalThis, document, navigator, location: new URL(href), addEventListener: add, removeEventListener: remove,
  });
  return {
    navigator,
    fire: (type, fields) => target.dispatchEvent(Object.assign(new Event(type), fields)),
    listeners: () => Object.fromEntries([...heard].filter(([, n]) => n > 0)),
  };
}
