// The breaker across isolates, in workerd: what one has found out, others begin with, by KV or by a Durable Object; and
// nothing that happens to a store is felt by a caller.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startVllm } from '../upstream/vllm.mjs';
import { BREAKERS, endpointsOf, startGateway, STATE } from './gateway.mjs';

const CHAT = '/v1/chat/completions';
const KEY = 'breaker:v1:dead:qwen';
/** A write waits for its second (src/news.rs). */
const WRITTEN_WITHIN_MS = 30_000;
/** Opens soon, and stays open for the time of a test. */
const POLICY = { backoff: { base_ms: 1, max_ms: 1 }, breaker: { consecutive: 3, open_ms: 60_000 } };

let alive;
let dead;
before(async () => {
  alive = await startVllm({ faultless: true });
  dead = await startVllm();
});
after(() => Promise.all([alive.close(), dead.close()]));
beforeEach(() => {
  alive.reset();
  dead.reset();
  dead.fault = 'reset';
});

const config = (more = {}) => ({
  open: true,
  endpoints: endpointsOf({ dead, alive }),
  models: [
    { name: 'qwen', targets: [{ endpoint: 'dead' }, { endpoint: 'alive' }] },
    { name: 'well', targets: [{ endpoint: 'alive' }] },
    { name: 'lone', targets: [{ endpoint: 'dead' }] },
  ],
  policies: { default: POLICY },
  ...more,
});

/** Starts a gateway for the time of one test. */
async function started(t, more) {
  const gateway = await startGateway(config(more?.config), more);
  t.after(async () => {
    await gateway.close();
    assert.deepEqual(gateway.troubles, []);
  });
  return gateway;
}

/** The answers to so many requests, one behind another. */
async function ask(isolate, model, times) {
  const answers = [];
  for (let n = 0; n < times; n += 1) {
    const began = Date.now();
    const response = await isolate.fetch(CHAT, { body: { model, messages: [] } });
    const { error } = await response.json();
    answers.push({
      status: response.status,
      code: error?.code,
      endpoint: response.headers.get('x-fairlead-endpoint'),
      attempts: Number(response.headers.get('x-fairlead-attempts')),
      ms: Date.now() - began,
    });
  }
  return answers;
}

const assertAllServed = (answers) => assert.deepEqual(answers.filter(({ status }) => status !== 200), []);

/** Makes one isolate open its breaker, and says how many requests that took at the endpoint. */
async function opened(gateway, isolate = gateway.isolates[0]) {
  assertAllServed(await ask(isolate, 'qwen', 6));
  await gateway.line({ event: 'breaker_opened', endpoint: 'dead', entry: 'qwen' });
  assert.equal(dead.requests.length, POLICY.breaker.consecutive, 'it stays closed for too long, or opens too soon');
}

/** The first value that is true, asked for again and again. */
async function until(ask, ms = WRITTEN_WITHIN_MS) {
  for (const end = Date.now() + ms; ;) {
    const value = await ask();
    if (value) return value;
    assert.ok(Date.now() < end, `not within ${ms} ms: ${ask}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

describe('an isolate that has found an endpoint dead', () => {
  for (const [store, env, written] of [
    ['KV', { STATE }, async (gateway) => (await (await gateway.state()).get(KEY, 'json'))?.state === 'open'],
    ['a Durable Object', { BREAKERS }, async (gateway) => {
      const response = await (await gateway.object('dead')).fetch(`https://breakers/?${new URLSearchParams({ key: KEY })}`);
      return (await response.text()).includes('"open"');
    }],
  ]) {
    it(`spares others the finding out, by ${store}`, async (t) => {
      const gateway = await started(t, { env, isolates: 2 });
      await opened(gateway);
      await until(() => written(gateway));

      const answers = await ask(gateway.isolates[1], 'qwen', 10);
      assertAllServed(answers);
      for (const { endpoint, attempts } of answers) assert.deepEqual([endpoint, attempts], ['alive', 1]);
      assert.equal(dead.requests.length, POLICY.breaker.consecutive, 'the second isolate has asked it, too');
    });
  }

  it('spares others even if it refuses connections, and comes back in between', async (t) => {
    const gateway = await started(t, { env: { STATE }, isolates: 2 });
    const { port } = dead;
    await dead.close();
    try {
      assertAllServed(await ask(gateway, 'qwen', 6));
      const record = await until(async () => (await gateway.state()).get(KEY, 'json'));
      assert.equal(record.state, 'open');
    } finally {
      dead = await startVllm({ port });
    }

    const answers = await ask(gateway.isolates[1], 'qwen', 10);
    assertAllServed(answers);
    for (const { endpoint, attempts } of answers) assert.deepEqual([endpoint, attempts], ['alive', 1]);
    assert.equal(dead.requests.length, 0);
  });

  it('leaves a record that says no more than the contract', async (t) => {
    const gateway = await started(t, { env: { STATE } });
    const before = Date.now();
    await opened(gateway);
    const { keys } = await until(async () => {
      const list = await (await gateway.state()).list();
      return list.keys.length > 0 && list;
    });
    assert.deepEqual(keys.map(({ name }) => name), [KEY]);
    const record = await (await gateway.state()).get(KEY, 'json');
    const { epoch, state, open_until_ms: openUntil, reason, at_ms: at, day, writes, ...more } = record;
    assert.deepEqual([state, writes, more], ['open', 1, {}]);
    assert.ok(epoch >= 1 && at >= before && at <= Date.now() && typeof reason === 'string');
    assert.ok(openUntil > before + 40_000 && openUntil <= at + 60_000, 'within the opening');
    assert.equal(day, Math.floor(at / 86_400_000));
  });

  it('fails what nobody else could serve at once, in every isolate', async (t) => {
    const gateway = await started(t, { env: { STATE }, isolates: 2 });
    await ask(gateway, 'lone', 3);
    await until(async () => (await gateway.state()).get('breaker:v1:dead:lone'));
    const asked = dead.requests.length;
    for (const isolate of gateway.isolates) {
      for (const { status, code } of await ask(isolate, 'lone', 5)) {
        assert.deepEqual([status, code], [503, 'circuit_open']);
      }
    }
    assert.equal(dead.requests.length, asked);
  });

  it('keeps it to itself without a store', async (t) => {
    const gateway = await started(t, { isolates: 2 });
    await opened(gateway);
    assertAllServed(await ask(gateway.isolates[1], 'qwen', 6));
    assert.equal(dead.requests.length, 2 * POLICY.breaker.consecutive);
  });
});

describe('a store that misbehaves', () => {
  /** Stands in for the KV namespace: a Worker whose methods do what is said. */
  const store = (get, put) => ({
    store: `import { WorkerEntrypoint } from 'cloudflare:workers';
      const never = () => new Promise((resolve) => { setTimeout(resolve, 3_600_000); });
      const after = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
      const year = () => Date.now() + 365 * 86_400_000;
      let turn = 0;
      export default class extends WorkerEntrypoint {
        async get(key) { ${get} }
        async put(key, text) { ${put} }
      }`,
  });
  const BOUND = { type: 'worker', worker: 'store' };
  const AHEAD = `JSON.stringify({
    epoch: Number.MAX_SAFE_INTEGER, state: 'open', open_until_ms: year(), reason: 'unreachable', at_ms: year(),
    day: 99_999, writes: 1_000_000,
  })`;
  const GARBAGE = String.raw`[
    '', ' ', 'null', '[]', '{', '{}', '"open"', '{"epoch":-1,"state":"open","at_ms":0}', '\u0000\ud800',
    '{"epoch":1e400,"state":"open","open_until_ms":1e400,"at_ms":1e400}', '{"state":"open"}', 'x'.repeat(1e6),
    '{"epoch":1,"state":"ajar","at_ms":1}', '['.repeat(1e5),
  ]`;
  const STORES = {
    'throws': store(`throw new Error('KV is down');`, `throw new Error('KV is down');`),
    'says 429': store(`throw new Error('KV GET failed: 429 Too Many Requests');`,
      `throw new Error('KV PUT failed: 429 Too Many Requests');`),
    'reads, but refuses writes': store('return null;', `throw new Error('KV PUT failed: 429 Too Many Requests');`),
    'throws what is no error': store(`throw null;`, `throw { status: 429 };`),
    'never answers': store('await never();', 'await never();'),
    'is slow': store('await after(3000); return null;', 'await after(3000);'),
    'returns garbage': store(`const texts = ${GARBAGE}; turn += 1; return texts[turn % texts.length];`, ''),
    'returns no text': store(`const values = [42, true, [], {}, new Uint8Array(3), new Map(), undefined];
      turn += 1; return values[turn % values.length];`, ''),
    'loses what is written': store('return null;', ''),
    'has no such methods': { store: 'export default { fetch() { return new Response("?", { status: 500 }); } };' },
  };

  for (const [name, workers] of Object.entries(STORES)) {
    it(`costs nobody an answer: one that ${name}`, async (t) => {
      const gateway = await started(t, { env: { STATE: BOUND }, workers });
      const answers = [...await ask(gateway, 'well', 3), ...await ask(gateway, 'qwen', 12), ...await ask(gateway, 'well', 3)];
      assertAllServed(answers);
      assert.ok(dead.requests.length <= POLICY.breaker.consecutive, 'the breaker does not work from memory');
      // The first of each entry may wait for what others say.
      const waited = answers.filter(({ ms }) => ms >= 150).map(({ ms }) => ms);
      assert.ok(waited.length <= 2 && waited.every((ms) => ms < 1000), `waited for the store: ${waited}`);
    });
  }

  it('costs nobody an answer: Durable Objects that are none', async (t) => {
    const gateway = await started(t, { env: { BREAKERS: BOUND }, workers: STORES['has no such methods'] });
    assertAllServed([...await ask(gateway, 'qwen', 12), ...await ask(gateway, 'well', 3)]);
    assert.equal(dead.requests.length, POLICY.breaker.consecutive);
  });

  it('costs nobody an answer: bindings that hold no store', async (t) => {
    const gateway = await started(t, {
      env: { STATE: { type: 'text', value: 'state' }, BREAKERS: { type: 'json', value: [1, 2] } },
    });
    assertAllServed([...await ask(gateway, 'qwen', 12), ...await ask(gateway, 'well', 3)]);
  });

  for (const state of ['open', 'isolated']) {
    it(`does not shut a healthy endpoint out, if a clock that is a year ahead says that it is ${state}`, async (t) => {
      const gateway = await started(t, { env: { STATE: BOUND }, workers: store(`return ${AHEAD}.replace('open', '${state}');`, '') });
      assertAllServed([...await ask(gateway, 'well', 10), ...await ask(gateway, 'qwen', 10)]);
      assert.equal(dead.requests.length, POLICY.breaker.consecutive);
    });
  }

  it('shuts a healthy endpoint out for one opening, if it says that it is down', async (t) => {
    const record = (at) => `JSON.stringify({ epoch: 1, state: 'open', open_until_ms: ${at} + 500, at_ms: ${at} })`;
    const gateway = await started(t, {
      config: { policies: { default: { ...POLICY, breaker: { open_ms: 500, max_open_ms: 1000 } } } },
      env: { STATE: BOUND },
      workers: store(`return ${record(Date.now())};`, ''),
    });
    const began = Date.now();
    await until(async () => (await ask(gateway, 'well', 1))[0].status === 200, 60_000);
    t.diagnostic(`served after ${Date.now() - began} ms`);
    assertAllServed(await ask(gateway, 'well', 20));
  });
});

describe('the Durable Object', () => {
  const RECORD = { state: 'open', open_until_ms: 2000, reason: 'unreachable', at_ms: 1000, day: 1, writes: 1 };
  const text = (record) => JSON.stringify({ ...RECORD, ...record });
  let gateway;
  let object;
  before(async () => {
    gateway = await startGateway(config(), { env: { BREAKERS } });
    object = await gateway.object('dead');
  });
  after(async () => {
    await gateway.close();
    assert.deepEqual(gateway.troubles, []);
  });
  const tell = async (question) => {
    const response = await object.fetch(`https://breakers/?${new URLSearchParams(question)}`);
    return { status: response.status, text: await response.text() };
  };

  it('knows nothing at first', async () => {
    assert.deepEqual(await tell({ key: 'breaker:v1:dead:new' }), { status: 204, text: '' });
  });

  it('keeps the record that ranks highest, however many write at once', async () => {
    const epochs = Array.from({ length: 50 }, (_, at) => (at * 37) % 50);
    await Promise.all(epochs.map((epoch) => tell({ key: KEY, text: text({ epoch }) })));
    const { epoch, writes } = JSON.parse((await tell({ key: KEY })).text);
    assert.deepEqual([epoch, writes], [49, 50], 'one was lost');
    await tell({ key: KEY, text: text({ epoch: 3, state: 'closed' }) });
    assert.equal(JSON.parse((await tell({ key: KEY })).text).epoch, 49);
  });

  it('keeps what it has when it is told garbage', async () => {
    const before = await tell({ key: KEY });
    await tell({ key: KEY, text: '{' });
    const { writes: _, ...known } = JSON.parse((await tell({ key: KEY })).text);
    const { writes: __, ...expected } = JSON.parse(before.text);
    assert.deepEqual(known, expected);
  });

  it('lets one at a time probe, and the next when that has had its time', async () => {
    const ask = async (key = KEY) => (await tell({ key, ms: 300 })).text === 'granted';
    const first = await Promise.all(Array.from({ length: 20 }, () => ask()));
    assert.equal(first.filter(Boolean).length, 1);
    assert.equal(await ask('breaker:v1:dead:other'), true, 'each entry has its own');
    await new Promise((resolve) => { setTimeout(resolve, 320); });
    assert.deepEqual([await ask(), await ask()], [true, false]);
  });
});
