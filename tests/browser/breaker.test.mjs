// What a page knows of a failing endpoint outlives it, and is known in other tabs; and where a browser lets nothing be
// kept, calls go on all the same.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startPages } from './pages.mjs';

const RECORD = 'breaker:v1:gpu:qwen';
/** As many failures as open a breaker. */
const CONSECUTIVE = 3;
const MINUTES = 120_000;

let vllm;
let pages;
before(async () => {
  [vllm, pages] = await Promise.all([startVllm(), startPages()]);
});
beforeEach(() => vllm.reset());
after(async () => {
  await pages.close();
  await vllm.close();
  assert.deepEqual(pages.troubles, []);
});

const options = (more) => ({
  endpoints: [{ name: 'gpu', provider: 'vllm', baseURL: `${vllm.url}/v1` }],
  models: [{ name: 'qwen', targets: [{ endpoint: 'gpu' }] }],
  policies: {
    // One that opens for long: the end of an opening is nothing that a test could wait for.
    default: { maxAttempts: 1, breaker: { consecutive: CONSECUTIVE, openMs: MINUTES, maxOpenMs: MINUTES } },
  },
  maxRetries: 0,
  logLevel: 'off',
  ...more,
});

/** Makes a client in a page, which notes what it hears. */
const makeClient = (page, more) => page.evaluate((wishes) => {
  globalThis.heard = [];
  globalThis.ai = new fairlead.Fairlead({ ...wishes, onEvent: (event) => heard.push(event) });
}, options(more));

const ask = (page) => page.evaluate(() => outcome(ai, { model: 'qwen', stream: true }));
const asked = () => vllm.requests.filter(({ method }) => method === 'POST').length;

/** Calls until the breaker has opened. */
async function open(page) {
  vllm.fault = 'http-500';
  for (let at = 0; at < CONSECUTIVE; at += 1) assert.equal((await ask(page)).error.code, 'upstream_invalid');
  const { error } = await ask(page);
  assert.deepEqual([error.name, error.code, error.status], ['CircuitOpenError', 'circuit_open', 503]);
  assert.equal(asked(), CONSECUTIVE);
  vllm.fault = 'ok';
}

/** Resolves when the page's store holds that the breaker is open. */
const stored = (page, kind) => page.evaluate(async ([kind, key]) => {
  const read = {
    indexeddb: () => new Promise((resolve, reject) => {
      const opening = indexedDB.open('fairlead');
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const reading = opening.result.transaction('records').objectStore('records').get(key);
        reading.onsuccess = () => {
          opening.result.close();
          resolve(reading.result);
        };
      };
    }),
    localstorage: () => localStorage.getItem(key),
  }[kind];
  while (JSON.parse((await read()) ?? '{}').state !== 'open') await new Promise((next) => { setTimeout(next, 10); });
}, [kind, RECORD]);

for (const kind of ['indexeddb', 'localstorage']) {
  describe(`a breaker that has opened, in ${kind}`, () => {
    it('is open behind a reload, before anybody is asked', async () => {
      const page = await pages.open();
      await makeClient(page, { store: kind });
      await open(page);
      await stored(page, kind);
      await page.reload();
      await makeClient(page, { store: kind });
      const { error } = await ask(page);
      assert.deepEqual([error.name, error.attempts ?? 0], ['CircuitOpenError', 0]);
      assert.ok(error.retryable);
      assert.equal(asked(), CONSECUTIVE);
      const { store, endpoints: [endpoint] } = await page.evaluate(async () => {
        const status = await ai.status();
        return typeof status === 'string' ? JSON.parse(status) : status;
      });
      assert.equal(store.kind, kind);
      assert.equal(endpoint.breakers[0].state, 'open');
    });

    it('is open in a tab that is opened later', async () => {
      const context = await pages.context();
      const page = await pages.open({ context });
      await makeClient(page, { store: kind });
      await open(page);
      await stored(page, kind);
      const second = await pages.open({ context });
      await makeClient(second, { store: kind });
      assert.equal((await ask(second)).error.code, 'circuit_open');
      assert.equal(asked(), CONSECUTIVE);
    });

    it('opens in a tab that has been there all the time', async () => {
      const context = await pages.context();
      const second = await pages.open({ context });
      await makeClient(second, { store: kind });
      assert.equal((await ask(second)).text, DEFAULT_TEXT);
      const page = await pages.open({ context });
      await makeClient(page, { store: kind });
      vllm.reset();
      await open(page);
      await stored(page, kind);
      // The word travels beside the calls: one may still go out while it is on its way.
      await second.evaluate(async () => {
        const isTold = () => heard.some(({ type, reason }) => type === 'breaker_opened' && reason === 'told');
        for (let at = 0; at < 50 && !isTold(); at += 1) await outcome(ai, { model: 'qwen' });
      });
      assert.equal((await ask(second)).error.code, 'circuit_open');
      assert.ok(asked() <= CONSECUTIVE + 3, `${asked() - CONSECUTIVE} calls went out meanwhile`);
    });

    it('is unknown to another profile', async () => {
      const page = await pages.open();
      await makeClient(page, { store: kind });
      await open(page);
      const other = await pages.open();
      await makeClient(other, { store: kind });
      assert.equal((await ask(other)).text, DEFAULT_TEXT);
    });
  });
}

it('a store of its own is asked and told', async () => {
  const page = await pages.open();
  const started = (keep) => page.evaluate(([wishes, text]) => {
    globalThis.kept = new Map(text && [[...text]]);
    const store = { get: (key) => kept.get(key), put: (key, value) => { kept.set(key, value); } };
    globalThis.ai = new fairlead.Fairlead({ ...wishes, store });
  }, [options(), keep]);
  await started();
  await open(page);
  const entry = await page.evaluate(async (key) => {
    while (!kept.has(key)) await new Promise((next) => { setTimeout(next, 10); });
    return [key, kept.get(key)];
  }, RECORD);
  assert.equal(JSON.parse(entry[1]).state, 'open');
  await page.reload();
  await started(entry);
  assert.equal((await ask(page)).error.code, 'circuit_open');
});

describe('where nothing can be kept, calls are answered and breakers open in memory', () => {
  const refuse = (error) => `() => { throw new DOMException('refused', '${error}'); }`;
  const noDatabase = `Object.defineProperty(globalThis, 'indexedDB', { get: ${refuse('SecurityError')} });`;
  const noStorage = `Object.defineProperty(globalThis, 'localStorage', { get: ${refuse('SecurityError')} });`;
  const places = {
    'in a page of no origin': { csp: 'sandbox allow-scripts' },
    'where both are refused': { stub: noDatabase + noStorage },
    'where opening the database throws': {
      stub: `IDBFactory.prototype.open = ${refuse('InvalidStateError')}; ${noStorage}`,
    },
    'where the database never opens': {
      stub: `IDBFactory.prototype.open = () => new Proxy({}, { set: () => true }); ${noStorage}`,
    },
    'where the database breaks': {
      stub: `IDBDatabase.prototype.transaction = ${refuse('UnknownError')}; ${noStorage}`,
    },
    'where the disk is full': {
      stub: `IDBObjectStore.prototype.put = ${refuse('QuotaExceededError')};
        Storage.prototype.setItem = ${refuse('QuotaExceededError')};`,
    },
    'where there is neither': { stub: 'delete globalThis.indexedDB; delete globalThis.localStorage;' },
    'where tabs cannot speak': {
      stub: `globalThis.BroadcastChannel = function () { (${refuse('SecurityError')})(); };`,
    },
  };
  for (const [name, { csp, stub }] of Object.entries(places)) {
    it(name, async () => {
      const context = await pages.context();
      if (stub) await context.addInitScript(stub);
      const page = await pages.open({ context, csp });
      await makeClient(page);
      assert.equal((await ask(page)).text, DEFAULT_TEXT);
      vllm.reset();
      await open(page);
      // What has been put where it may be is there for the same page's next client, or not; it is no failure.
      assert.equal((await ask(page)).error.code, 'circuit_open');
    });
  }
});
