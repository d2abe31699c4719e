// Records outlive the page where the browser lets them, and nothing fails where it does not.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { globals, openStore, page, tick } from './face.mjs';

const KEY = 'breaker:v1:gateway:*';

/** An IndexedDB of one table. What `trouble` names goes wrong: `open`, `silent`, `put`, `hang`. */
function database() {
  const db = { records: new Map(), opened: 0, closed: 0, trouble: undefined, handle: undefined };
  const later = (act) => queueMicrotask(act);
  db.factory = {
    open() {
      const request = {};
      db.opened += 1;
      if (db.trouble === 'throws') throw new DOMException('no', 'SecurityError');
      if (db.trouble !== 'silent') {
        later(() => {
          if (db.trouble === 'open') {
            request.error = new DOMException('no', 'UnknownError');
            request.onerror({});
            return;
          }
          let isOpen = true;
          request.result = db.handle = {
            createObjectStore() {},
            close() {
              isOpen = false;
              db.closed += 1;
            },
            transaction() {
              if (!isOpen) throw new DOMException('closed', 'InvalidStateError');
              const transaction = { error: null };
              const finish = (request) => {
                later(() => {
                  if (db.trouble === 'hang') return;
                  if (db.trouble === 'put') {
                    transaction.error = new DOMException('full', 'QuotaExceededError');
                    transaction.onabort({});
                  } else {
                    transaction.oncomplete({});
                  }
                });
                return request;
              };
              transaction.objectStore = () => ({
                get: (key) => finish({ result: db.records.get(key) }),
                put: (text, key) => finish({ result: db.records.set(key, text) }),
              });
              return transaction;
            },
          };
          request.onupgradeneeded({});
          request.onsuccess({});
        });
      }
      return request;
    },
  };
  return db;
}

/** A localStorage, which may be full. */
function storage(full = false) {
  const items = new Map();
  return {
    items,
    getItem: (key) => items.get(key) ?? null,
    setItem(key, text) {
      if (full) throw new DOMException('full', 'QuotaExceededError');
      items.set(key, text);
    },
  };
}

/** Channels of tabs. */
function channels() {
  const open = new Set();
  return {
    open,
    BroadcastChannel: class {
      constructor(name) {
        this.name = name;
        open.add(this);
      }
      postMessage(data) {
        for (const other of open) if (other !== this) other.onmessage({ data });
      }
      close() {
        open.delete(this);
      }
    },
  };
}

/** A browser with these; what is `Error` cannot be touched. */
function browser(t, { indexedDB, localStorage, BroadcastChannel }) {
  const fake = page(t);
  for (const [name, value] of Object.entries({ indexedDB, localStorage })) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, {
      configurable: true,
      get() {
        if (value instanceof Error) throw value;
        return value;
      },
    });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
  globals(t, { BroadcastChannel });
  return fake;
}
const FORBIDDEN = new DOMException('not here', 'SecurityError');

async function worksAs(store, kind) {
  assert.equal(await store.get(KEY), undefined);
  await store.put(KEY, '{"epoch":1}');
  assert.equal(await store.get(KEY), '{"epoch":1}');
  assert.equal(store.kind, kind);
}

describe('records are kept', () => {
  it('in IndexedDB', async (t) => {
    const db = database();
    const { BroadcastChannel } = channels();
    browser(t, { indexedDB: db.factory, localStorage: storage(), BroadcastChannel });
    await worksAs(openStore(undefined, () => {}), 'indexeddb');
    assert.deepEqual([db.records.get(KEY), db.opened], ['{"epoch":1}', 1]);
  });

  it('in localStorage, if that is wanted', async (t) => {
    const local = storage();
    browser(t, { indexedDB: database().factory, localStorage: local });
    await worksAs(openStore('localstorage', () => {}), 'localstorage');
    assert.equal(local.items.get(KEY), '{"epoch":1}');
  });

  for (const trouble of ['open', 'throws', 'put']) {
    it(`in localStorage where IndexedDB fails: ${trouble}`, async (t) => {
      const db = database();
      db.trouble = trouble;
      browser(t, { indexedDB: db.factory, localStorage: storage() });
      await worksAs(openStore('indexeddb', () => {}), 'localstorage');
    });
  }

  it('in localStorage where IndexedDB never opens', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const db = database();
    db.trouble = 'silent';
    browser(t, { indexedDB: db.factory, localStorage: storage() });
    const store = openStore(undefined, () => {});
    const got = store.get(KEY);
    await tick();
    t.mock.timers.tick(1000);
    assert.equal(await got, undefined);
    await worksAs(store, 'localstorage');
  });

  it('in localStorage where IndexedDB opens and never answers', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const db = database();
    db.trouble = 'hang';
    browser(t, { indexedDB: db.factory, localStorage: storage() });
    const store = openStore(undefined, () => {});
    const put = store.put(KEY, 'x');
    await tick();
    t.mock.timers.tick(999);
    await tick();
    assert.equal(store.kind, 'indexeddb');
    t.mock.timers.tick(1);
    await put;
    assert.deepEqual([await store.get(KEY), store.kind, (await tick(), db.closed)], ['x', 'localstorage', 1]);
  });

  const refusals = {
    'both are refused': [FORBIDDEN, FORBIDDEN], 'there are none': [undefined, undefined], 'all is full': ['put', storage(true)],
  };
  for (const [what, [indexed, local]] of Object.entries(refusals)) {
    it(`in memory where ${what}`, async (t) => {
      const db = database();
      db.trouble = 'put';
      browser(t, { indexedDB: indexed === 'put' ? db.factory : indexed, localStorage: local });
      const store = openStore(undefined, () => {});
      await store.put(KEY, 'x');
      assert.deepEqual([await store.get(KEY), store.kind], ['x', 'memory']);
    });
  }

  it('in memory outside of browsers', async () => {
    await worksAs(openStore(undefined, () => {}), 'memory');
    await worksAs(openStore('indexeddb', () => {}), 'memory');
  });

  it('by an object of the user’s', async () => {
    const items = new Map();
    const plain = openStore({ get: (key) => items.get(key) ?? null, put: (key, text) => void items.set(key, text) }, () => {});
    await worksAs(plain, 'custom');
    const late = openStore({ get: async () => null, put: async () => {} }, () => {});
    assert.equal(await late.get(KEY), undefined);
    const bad = openStore({ get() { throw new Error('mine'); }, put() {} }, () => {});
    await assert.rejects(bad.get(KEY), { message: 'mine' });
  });
});

it('a database opens before it is asked, when it is going to be', async (t) => {
  const db = database();
  browser(t, { indexedDB: db.factory, localStorage: storage(), BroadcastChannel: channels().BroadcastChannel });
  const store = openStore(undefined, () => {});
  assert.equal(db.opened, 0);
  store.begin();
  store.begin();
  await store.get(KEY);
  assert.equal(db.opened, 1);
  db.trouble = 'throws';
  const refused = openStore(undefined, () => {});
  refused.begin();
  assert.equal(await refused.get('breaker:v1:x'), undefined);
  store.close();
  await store.put(KEY, 'x');
  assert.deepEqual([db.opened, store.kind], [2, 'memory']);
});

describe('a database that was closed', () => {
  it('is opened again, whoever closed it', async (t) => {
    const db = database();
    browser(t, { indexedDB: db.factory, localStorage: storage(), BroadcastChannel: channels().BroadcastChannel });
    const store = openStore(undefined, () => {});
    await store.put(KEY, 'x');
    db.handle.onversionchange({});
    assert.deepEqual([await store.get(KEY), db.opened, db.closed], ['x', 2, 1]);
    db.handle.close();
    db.handle.onclose?.({});
    assert.deepEqual([await store.get(KEY), db.opened], ['x', 3]);
    db.handle.close();
    assert.deepEqual([await store.get(KEY), db.opened, store.kind], ['x', 4, 'indexeddb']);
  });
});

describe('tabs hear of each other', () => {
  it('by a channel', async (t) => {
    const db = database();
    const { open, BroadcastChannel } = channels();
    const { fire, listeners } = browser(t, { indexedDB: db.factory, localStorage: storage(), BroadcastChannel });
    const heard = [];
    const one = openStore(undefined, (key) => heard.push(`one ${key}`));
    const two = openStore(undefined, (key) => heard.push(`two ${key}`));
    await one.get(KEY);
    await two.put(KEY, 'x');
    assert.deepEqual(heard, [`one ${KEY}`]);
    const [channel] = open;
    for (const data of [null, 'x', {}, { key: 5 }, { key: 'else' }]) channel.onmessage({ data });
    assert.equal(heard.length, 1);
    fire('pagehide');
    assert.equal(open.size, 0);
    fire('pageshow');
    assert.equal(open.size, 2);
    one.close();
    two.close();
    assert.deepEqual([open.size, listeners(), (await tick(), db.closed)], [0, {}, 2]);
  });

  it('by the storage’s own events', async (t) => {
    const { fire, listeners } = browser(t, { indexedDB: undefined, localStorage: storage() });
    const heard = [];
    const store = openStore(undefined, (key) => heard.push(key));
    await store.get(KEY);
    fire('storage', { key: KEY });
    fire('storage', { key: 'else' });
    fire('storage', { key: null });
    assert.deepEqual(heard, [KEY]);
    store.close();
    assert.deepEqual(listeners(), {});
  });

  it('or not, where channels are forbidden', async (t) => {
    browser(t, { indexedDB: database().factory, localStorage: storage(), BroadcastChannel: class { constructor() { throw FORBIDDEN; } } });
    await worksAs(openStore(undefined, () => {}), 'indexeddb');
  });
});
