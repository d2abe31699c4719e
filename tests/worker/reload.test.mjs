// CONFIG in KV: it wins over the variables, a broken version is refused while the last good one serves, in new isolates
// too, and a KV that hangs or fails costs nobody an answer.
//
// KV is read every 30 s. So that no test waits for that, requests set the clock of an isolate ahead.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STATE } from './gateway.mjs';

const ADMIN_KEY = 'sk-admin-0123456789';
const CHAT = '/v1/chat/completions';
const BODY = { model: 'qwen', messages: [] };
const BOUND = { type: 'worker', worker: 'store' };

/** A request's `x-jump: <ms>` sets the isolate's clock so far ahead. Timers run as ever. */
const JUMPS = `
  const now = Date.now.bind(Date);
  let ahead = 0;
  Date.now = () => now() + ahead;
  const get = Headers.prototype.get;
  const RequestUrl = Object.getOwnPropertyDescriptor(Request.prototype, 'url');
  Object.defineProperty(Request.prototype, 'url', { ...RequestUrl, get() {
    const ms = Number(get.call(this.headers, 'x-jump') ?? 0);
    const url = RequestUrl.get.call(this);
    if (ms > ahead) ahead = ms;
    return url;
  } });
`;

let one;
let two;
before(async () => { [one, two] = await Promise.all([startVllm(), startVllm()]); });
after(() => Promise.all([one.close(), two.close()]));
beforeEach(() => [one, two].forEach((server) => server.reset()));

/** A version of CONFIG whose only endpoint is this one. */
const version = (servers, more = {}) => ({
  open: true,
  endpoints: endpointsOf(servers),
  models: [{ name: 'qwen', targets: Object.keys(servers).map((endpoint) => ({ endpoint })) }],
  admin_key_secret: 'ADMIN_KEY',
  ...more,
});

async function started(t, config, more = {}) {
  const gateway = await startGateway(config, {
    env: { STATE }, prelude: JUMPS, ...more, secrets: { ADMIN_KEY, ...more.secrets },
  });
  t.after(async () => {
    await gateway.close();
    assert.deepEqual(gateway.troubles, []);
  });
  return gateway;
}

/** Asks an isolate whose clock is so far ahead, and tells who has answered. */
async function ask(isolate, ahead = 0, headers = {}) {
  const began = Date.now();
  const response = await isolate.fetch(CHAT, { body: BODY, headers: { 'x-jump': `${ahead}`, ...headers } });
  const text = await response.text();
  const { error } = JSON.parse(text);
  return { status: response.status, by: response.headers.get('x-fairlead-endpoint'), error, ms: Date.now() - began };
}

async function status(isolate, ahead = 0) {
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, 'x-jump': `${ahead}` };
  const response = await isolate.fetch('/status?store=no', { headers });
  assert.equal(response.status, 200);
  return (await response.json()).config;
}

/** Asks again until it is this one that answers; KV is read beside a call, so that the next has it. */
async function untilBy(isolate, name, ahead) {
  for (let tries = 0; tries < 50; tries += 1) {
    const answer = await ask(isolate, ahead);
    assert.equal(answer.status, 200);
    if (answer.by === name) return;
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  assert.fail(`${name} never answered`);
}

const put = async (gateway, value, key = 'config') => {
  const kv = await gateway.state();
  await (value === undefined ? kv.delete(key) : kv.put(key, typeof value === 'string' ? value : JSON.stringify(value)));
};

describe('CONFIG in KV', () => {
  it('wins over the variables from the first call on, and is kept as good', async (t) => {
    const gateway = await started(t, version({ one }));
    await put(gateway, version({ two }));
    assert.equal((await ask(gateway)).by, 'two');
    const { source, refused } = await status(gateway);
    assert.deepEqual({ source, refused }, { source: 'kv', refused: null });
    await gateway.line({ event: 'config_taken', source: 'kv' });
    const kv = await gateway.state();
    for (let tries = 0; tries < 50 && !(await kv.get('config:good')); tries += 1) await ask(gateway);
    assert.deepEqual(await kv.get('config:good', 'json'), version({ two }));
  });

  it('needs no variable, and may be much larger than one', async (t) => {
    const gateway = await started(t, undefined);
    const policies = Object.fromEntries(Array.from({ length: 600 }, (_, at) => [`policy-${at}`, { deadline_ms: 1000 + at }]));
    const text = JSON.stringify(version({ two }, { policies }));
    assert.ok(text.length > 20_000, `${text.length}`);
    await put(gateway, text);
    assert.equal((await ask(gateway)).by, 'two');
  });

  it('changes under load without a call that fails, and breakers stay with their names', async (t) => {
    const breaker = { consecutive: 2, open_ms: 600_000, max_open_ms: 600_000 };
    const policies = { default: { backoff: { base_ms: 1, max_ms: 1 }, breaker } };
    const gateway = await started(t, version({ one, two }, { policies }));
    one.fault = 'reset';
    for (let calls = 0; calls < 4; calls += 1) assert.equal((await ask(gateway)).by, 'two');
    const asked = one.requests.length;
    assert.equal(asked, 2, 'the breaker of `one` is open');
    // In another order, with another server between them.
    const three = await startVllm();
    t.after(() => three.close());
    await put(gateway, version({ three, one, two }, { policies }));
    await untilBy(gateway, 'three', 31_000);
    three.fault = 'reset';
    const answers = await Promise.all(Array.from({ length: 10 }, () => ask(gateway, 31_000)));
    assert.ok(answers.every(({ status: code, by }) => code === 200 && by === 'two'), JSON.stringify(answers));
    assert.equal(one.requests.length, asked, 'the breaker of `one` has forgotten');
  });

  it('lets calls in flight finish on the settings that they began with', async (t) => {
    const gateway = await started(t, version({ one }));
    const response = await gateway.fetch(CHAT, { body: { ...BODY, stream: true, sim: { tokens: 40, tokenMs: 50 } } });
    const reader = response.body.getReader();
    await reader.read();
    await put(gateway, version({ two }));
    await untilBy(gateway, 'two', 31_000);
    let text = '';
    for (let part = await reader.read(); !part.done; part = await reader.read()) text += Buffer.from(part.value);
    assert.match(text, /\[DONE\]/);
    assert.equal(response.headers.get('x-fairlead-endpoint'), 'one');
  });

  it('that is deleted gives way to the variables', async (t) => {
    const gateway = await started(t, version({ one }));
    await put(gateway, version({ two }));
    await untilBy(gateway, 'two', 0);
    await put(gateway, undefined);
    await untilBy(gateway, 'one', 31_000);
    assert.equal((await status(gateway, 31_000)).source, 'var');
  });

  it('says who may come in', async (t) => {
    const gateway = await started(t, version({ one }));
    const clients = [{ name: 'web', keys_sha256: [sha256('sk-web')] }];
    await put(gateway, version({ one }, { open: false, clients }));
    assert.equal((await ask(gateway)).status, 401);
    assert.equal((await ask(gateway, 0, { authorization: 'Bearer sk-web' })).status, 200);
  });
});

describe('a broken CONFIG in KV', () => {
  const mistaken = () => version({ two }, { endpoints: [{ name: 'two', provider: 'vlm', base_url: 'no-url' }] });

  for (const [name, broken] of Object.entries({ 'has mistakes': mistaken, 'is no JSON': () => '{"open": tru', 'is empty': () => '' })) {
    it(`that ${name} is refused while the last good one serves, in new isolates too`, async (t) => {
      const gateway = await started(t, version({ one }), { isolates: 2 });
      const [old, fresh] = gateway.isolates;
      await put(gateway, version({ two }));
      await untilBy(old, 'two', 0);
      const kv = await gateway.state();
      for (let tries = 0; tries < 50 && !(await kv.get('config:good')); tries += 1) await ask(old);
      await put(gateway, broken());
      let told;
      for (let tries = 0; tries < 50 && !told?.refused; tries += 1) {
        assert.equal((await ask(old, 31_000)).by, 'two');
        told = await status(old, 31_000);
      }
      assert.equal(told.source, 'kv');
      assert.ok(told.refused.mistakes.length > 0 && told.refused.at_ms > 0, JSON.stringify(told));
      const lines = gateway.logs.filter((line) => line.event === 'config' && line.level === 'error');
      assert.deepEqual(lines.map(({ path, message }) => ({ path, message })), told.refused.mistakes);
      assert.ok(lines.every((line) => line.source === 'kv'));

      assert.equal((await ask(fresh)).by, 'two', 'a new isolate');
      const { source, refused } = await status(fresh);
      assert.equal(source, 'kv_good');
      assert.deepEqual(refused.mistakes, told.refused.mistakes);

      await put(gateway, version({ one }));
      await untilBy(old, 'one', 62_000);
      assert.equal((await status(old, 62_000)).refused, null);
    });
  }

  it('without any other is told to an admin in full, and its number to others', async (t) => {
    const gateway = await started(t, undefined);
    await put(gateway, mistaken());
    const stranger = await ask(gateway);
    assert.deepEqual([stranger.status, stranger.error.code], [500, 'config_invalid']);
    assert.doesNotMatch(stranger.error.message, /endpoints/);
    const admin = await ask(gateway, 0, { authorization: `Bearer ${ADMIN_KEY}` });
    assert.match(admin.error.message, /endpoints\[0\]\.provider: .*endpoints\[0\]\.base_url: /);
    assert.equal((await gateway.fetch('/health')).status, 200);
  });
});

describe('a KV that', () => {
  const store = (get, put = '') => ({
    store: `import { WorkerEntrypoint } from 'cloudflare:workers';
      const never = () => new Promise((resolve) => setTimeout(resolve, 60_000));
      export default class extends WorkerEntrypoint {
        async get() { ${get} }
        async put() { ${put} }
      }`,
  });
  const STORES = {
    hangs: store('await never();', 'await never();'),
    fails: store(`throw new Error('KV GET failed: 500');`, `throw new Error('KV PUT failed: 500');`),
    'tells no text': store('return 42;'),
    'tells garbage': store(`return 'garbage';`),
  };
  for (const [name, workers] of Object.entries(STORES)) {
    it(`${name} leaves the variables, after a moment of the first calls`, async (t) => {
      const gateway = await started(t, version({ one }), { env: { STATE: BOUND }, workers });
      const answers = await Promise.all(Array.from({ length: 5 }, () => ask(gateway)));
      for (const { status: code, by } of answers) assert.deepEqual([code, by], [200, 'one']);
      assert.equal((await ask(gateway)).status, 200);
      assert.equal((await status(gateway)).source, 'var');
    });
  }

  it('hangs, without variables to serve with, ends in an answer that says why', async (t) => {
    const gateway = await started(t, undefined, { env: { STATE: BOUND }, workers: STORES.hangs });
    const { status: code, error, ms } = await ask(gateway);
    assert.deepEqual([code, error.code], [500, 'config_invalid']);
    assert.ok(ms >= 4500, `${ms}`);
  });

  it('is slow is waited for where there is nothing else', async (t) => {
    const text = JSON.stringify(JSON.stringify(version({ two })));
    const slow = store(`await new Promise((resolve) => setTimeout(resolve, 1000)); return ${text};`);
    const gateway = await started(t, undefined, { env: { STATE: BOUND }, workers: slow });
    assert.equal((await ask(gateway)).by, 'two');
  });
});
