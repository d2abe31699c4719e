// What an operator sees at /status and does at /breakers: for the admin's key alone, true at each moment, and heard by
// the other isolates.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startVllm } from '../upstream/vllm.mjs';
import { BREAKERS, endpointsOf, sha256, startGateway, STATE } from './gateway.mjs';

const ADMIN_KEY = 'sk-admin-0123456789';
const CLIENT_KEY = 'sk-client-0123456789';
const ENDPOINT_KEY = 'sk-endpoint-0123456789';
const PROMPT = 'a prompt that nobody else may read';
const CHAT = '/v1/chat/completions';
const ORIGIN = 'https://app.example.com';
const POLICY = { backoff: { base_ms: 1, max_ms: 1 }, breaker: { consecutive: 3, open_ms: 60_000 } };

let alive;
let dead;
before(async () => {
  alive = await startVllm({ apiKey: ENDPOINT_KEY });
  dead = await startVllm({ apiKey: ENDPOINT_KEY });
});
after(() => Promise.all([alive.close(), dead.close()]));
beforeEach(() => {
  alive.reset();
  dead.reset();
  dead.fault = 'reset';
});

const config = (more = {}) => ({
  endpoints: endpointsOf({ dead, alive }).map((each) => ({ ...each, api_key_secret: 'VLLM_API_KEY', max_concurrency: 9 })),
  models: [
    { name: 'qwen', targets: [{ endpoint: 'dead' }, { endpoint: 'alive' }] },
    { name: 'org/well: 1', targets: [{ endpoint: 'alive' }] },
  ],
  policies: { default: POLICY },
  clients: [{ name: 'web', keys_sha256: [sha256(CLIENT_KEY)] }],
  cors: { origins: [ORIGIN] },
  admin_key_secret: 'ADMIN_KEY',
  ...more,
});

/** Starts a gateway for the time of one test. */
async function started(t, { secrets, config: changes, ...more } = {}) {
  const gateway = await startGateway(config(changes), {
    secrets: { ADMIN_KEY, VLLM_API_KEY: ENDPOINT_KEY, ...secrets }, ...more,
  });
  t?.after(() => ended(gateway));
  return gateway;
}

async function ended(gateway) {
  await gateway.close();
  assert.deepEqual(gateway.troubles, []);
}

const bearer = (key) => ({ authorization: `Bearer ${key}` });

async function request(isolate, path, { key = ADMIN_KEY, headers, ...init } = {}) {
  const response = await isolate.fetch(path, { headers: { ...(key && bearer(key)), ...headers }, ...init });
  const text = await response.text();
  return { response, status: response.status, text, json: text && JSON.parse(text), code: text && JSON.parse(text).error?.code };
}

async function status(isolate) {
  const answer = await request(isolate, '/status');
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
}

const order = (isolate, endpoint, state) => request(isolate, `/breakers/${endpoint}`, { body: { state } });

async function chat(isolate, model = 'qwen', more = {}) {
  const body = { model, messages: [{ role: 'user', content: PROMPT }], ...more };
  const response = await isolate.fetch(CHAT, { body, headers: bearer(CLIENT_KEY) });
  return { status: response.status, endpoint: response.headers.get('x-fairlead-endpoint'), json: await response.json() };
}

const times = async (n, ask) => {
  for (let at = 0; at < n; at += 1) await ask();
};

/** What /status says of an endpoint, and of its breaker for an entry. */
async function seen(isolate, name, entry = 'qwen') {
  const endpoint = (await status(isolate)).endpoints.find((each) => each.name === name);
  return { ...endpoint, breaker: endpoint.breakers.find((each) => each.entry === entry) };
}

async function until(ask, ms = 30_000) {
  for (const end = Date.now() + ms; ;) {
    const value = await ask();
    if (value) return value;
    assert.ok(Date.now() < end, `not within ${ms} ms: ${ask}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

describe('the doors', () => {
  let gateway;
  before(async () => { gateway = await started(undefined, { env: { STATE } }); });
  after(() => ended(gateway));

  for (const [method, path] of [['GET', '/status'], ['POST', '/breakers/alive'], ['POST', '/breakers/nobody']]) {
    const init = { method, ...(method === 'POST' && { body: { state: 'isolated' } }) };

    for (const [who, key] of [
      ['nobody', ''], ['a client', CLIENT_KEY], ['a guess', `${ADMIN_KEY}x`], ['a part', ADMIN_KEY.slice(0, -1)],
    ]) {
      it(`${method} ${path} is closed to ${who}`, async () => {
        const { status, code, response, text } = await request(gateway, path, { ...init, key });
        assert.deepEqual([status, code], [401, 'invalid_api_key']);
        assert.equal(response.headers.get('www-authenticate'), 'Bearer');
        assert.ok(!text.includes('alive') && !text.includes(ADMIN_KEY));
      });
    }

    it(`${method} ${path} takes no other method`, async () => {
      for (const other of ['PUT', 'DELETE', 'PATCH', method === 'GET' ? 'POST' : 'GET', ...(method === 'GET' ? [] : ['HEAD'])]) {
        const response = await gateway.fetch(path, { method: other, headers: bearer(ADMIN_KEY) });
        assert.deepEqual([response.status, response.headers.get('allow')], [405, method], other);
        await response.text();
      }
    });

    it(`${method} ${path} can be used by pages of the origins that may`, async () => {
      const asked = { origin: ORIGIN, 'access-control-request-method': method, 'access-control-request-headers': 'authorization' };
      const preflight = await gateway.fetch(path, { method: 'OPTIONS', headers: asked });
      assert.equal(preflight.headers.get('access-control-allow-origin'), ORIGIN);
      const { response } = await request(gateway, path, { ...init, key: '', headers: { origin: ORIGIN } });
      assert.equal(response.headers.get('access-control-allow-origin'), ORIGIN);
      assert.match(response.headers.get('x-request-id'), /./);
    });
  }

  it('answer HEAD /status like any page', async () => {
    const { status, text, response } = await request(gateway, '/status', { method: 'HEAD' });
    assert.deepEqual([status, text, response.headers.get('content-type')], [200, '', 'application/json']);
    assert.equal((await request(gateway, '/status', { method: 'HEAD', key: '' })).status, 401);
  });

  it('are not where nothing is', async () => {
    for (const path of ['/status/', '/status/x', '/breakers', '/breakers/', '/breakers/alive/', '/breakers/a/b', '/Status']) {
      const { status, code } = await request(gateway, path);
      assert.deepEqual([status, code], [404, 'route_not_found'], path);
    }
  });

  it('know no endpoint of another name', async () => {
    for (const name of ['nobody', 'qwen', '%61live%20', '%', '%00', 'constructor']) {
      const { status, code } = await order(gateway, name, 'isolated');
      assert.deepEqual([status, code], [404, 'route_not_found'], name);
    }
  });

  it('take no other order', async () => {
    for (const body of [
      '', '{', 'null', '"isolated"', '[{"state":"isolated"}]', '["isolated"]', '{}', '{"state":null}', '{"state":"open"}',
      '{"state":"Isolated"}', '{"state":["isolated"]}', '{"state":"isolated","for_ms":1000}', 'x'.repeat(100_000),
    ]) {
      const { status, code, text } = await request(gateway, '/breakers/alive', { method: 'POST', body });
      const expected = body.length > 1000 ? [413, 'request_too_large'] : [400, 'invalid_request'];
      assert.deepEqual([status, code], expected, `${body.slice(0, 50)}: ${text}`);
    }
    assert.equal((await seen(gateway, 'alive')).isolated, false);
  });

  it('stay shut where there is no admin key, and say how to get one', async (t) => {
    const { admin_key_secret: _, ...rest } = config();
    const closed = await startGateway(rest, { secrets: { ADMIN_KEY, VLLM_API_KEY: ENDPOINT_KEY } });
    t.after(() => ended(closed));
    for (const path of ['/status', '/breakers/alive']) {
      for (const key of ['', ADMIN_KEY, 'undefined', 'null']) {
        const { status, code, text } = await request(closed, path, { key, ...(path !== '/status' && { body: { state: 'isolated' } }) });
        assert.deepEqual([status, code], [403, 'forbidden']);
        assert.match(text, /admin_key_secret/);
      }
    }
  });

  it('say what is wrong with CONFIG, to an admin', async (t) => {
    const broken = await started(t, { config: { models: [] } });
    const { status, code, text } = await request(broken, '/status');
    assert.deepEqual([status, code], [500, 'config_invalid']);
    assert.match(text, /models: /);
  });
});

describe('/status', () => {
  it('tells of every endpoint and breaker before anything has happened', async (t) => {
    const gateway = await started(t, { env: { STATE } });
    const { endpoints, store } = await status(gateway);
    assert.deepEqual(endpoints.map(({ name }) => name), ['dead', 'alive']);
    assert.deepEqual(endpoints.map(({ breakers }) => breakers.map(({ entry }) => entry)), [['qwen'], ['qwen', 'org/well: 1']]);
    for (const endpoint of endpoints) {
      const { provider, in_flight: inFlight, max_concurrency: most, waiting, isolated } = endpoint;
      assert.deepEqual([provider, inFlight, most, waiting, isolated], ['vllm', 0, 9, 0, false]);
      assert.equal(endpoint.retry_tokens_left, 100);
      for (const { state, calls, failures } of endpoint.breakers) assert.deepEqual([state, calls, failures], ['closed', 0, 0]);
    }
    assert.equal(store.kind, 'kv');
    assert.equal(store.error, null);
  });

  it('tells the truth while a breaker is closed, open and half-open', async (t) => {
    const breaker = { consecutive: 3, open_ms: 1000, max_open_ms: 1000, min_calls: 100 };
    const gateway = await started(t, { config: { policies: { default: { ...POLICY, breaker } } }, env: { STATE } });
    await times(2, () => chat(gateway));
    const two = await seen(gateway, 'dead');
    assert.deepEqual([two.breaker.state, two.breaker.calls, two.breaker.failures, two.breaker.in_a_row], ['closed', 2, 2, 2]);

    const began = Date.now();
    await chat(gateway);
    const three = await seen(gateway, 'dead');
    assert.equal(three.breaker.state, 'open');
    assert.ok(three.breaker.until_ms > began && three.breaker.until_ms <= Date.now() + 1000);
    assert.match(three.breaker.reason, /./);

    await new Promise((resolve) => { setTimeout(resolve, three.breaker.until_ms - Date.now() + 5); });
    assert.equal((await seen(gateway, 'dead')).breaker.state, 'half_open');

    dead.reset();
    await until(async () => (await chat(gateway)).endpoint === 'dead', 60_000);
    assert.equal((await seen(gateway, 'dead')).breaker.state, 'closed');
  });

  it('counts what is in flight and how long first tokens take', async (t) => {
    const gateway = await started(t);
    assert.equal((await seen(gateway, 'alive')).first_token_ms, null);
    const calls = Array.from({ length: 3 }, () => chat(gateway, 'org/well: 1', {
      stream: false, sim: { fault: 'slow-headers', delayMs: 1000 },
    }));
    await until(() => alive.requests.length === 3, 5000);
    assert.equal((await seen(gateway, 'alive')).in_flight, 3);
    await Promise.all(calls);
    const stream = await gateway.fetch(CHAT, {
      body: { model: 'org/well: 1', messages: [], stream: true, sim: { fault: 'slow-first-token', ms: 300 } },
      headers: bearer(CLIENT_KEY),
    });
    await stream.text();
    const { in_flight: inFlight, first_token_ms: firstToken } = await until(async () => {
      const now = await seen(gateway, 'alive');
      return now.in_flight === 0 && now;
    }, 5000);
    assert.equal(inFlight, 0);
    assert.ok(firstToken >= 250 && firstToken < 2000, `${firstToken} ms`);
  });

  it('shows what the store says now, which may be something else than what this isolate knows', async (t) => {
    const gateway = await started(t, { env: { STATE }, isolates: 2 });
    const now = Date.now();
    const record = {
      epoch: 7, state: 'open', open_until_ms: now + 50_000, reason: 'cut', at_ms: now, day: Math.floor(now / 864e5), writes: 3,
    };
    const kv = await gateway.state();
    await kv.put('breaker:v1:dead:qwen', JSON.stringify(record));
    await kv.put('breaker:v1:alive:qwen', 'what is this?');
    const [dead, alive] = [await seen(gateway, 'dead'), await seen(gateway, 'alive')];
    assert.deepEqual(dead.breaker.stored, record);
    assert.equal(alive.breaker.stored, null);
    assert.equal((await status(gateway)).store.error, null);
  });

  it('says that there is no store', async (t) => {
    const { store, endpoints } = await status(await started(t));
    assert.equal(store.kind, 'none');
    assert.equal(endpoints[0].breakers[0].stored, null);
  });

  it('says what is wrong with the store, and does not wait for it', async (t) => {
    for (const [act, error] of [
      ['throw new Error("down");', 'unavailable'],
      ['throw new Error("429 Too Many Requests");', 'limited'],
      ['await new Promise((resolve) => { setTimeout(resolve, 3_600_000); });', 'timeout'],
    ]) {
      const workers = {
        store: `import { WorkerEntrypoint } from 'cloudflare:workers';
          export default class extends WorkerEntrypoint { async get() { ${act} } async put() { ${act} } }`,
      };
      const gateway = await started(t, { env: { STATE: { type: 'worker', worker: 'store' } }, workers });
      const began = Date.now();
      const { store, endpoints } = await status(gateway);
      assert.ok(Date.now() - began < 4000);
      assert.deepEqual([store.kind, store.error], ['kv', error]);
      assert.equal(endpoints.length, 2);

      const { status: code, json } = await order(gateway, 'dead', 'isolated');
      assert.deepEqual([code, json], [200, { state: 'isolated', stored: false }]);
      assert.equal((await seen(gateway, 'dead')).isolated, true, 'here it holds all the same');
    }
  });

  it('holds no URL, no key and no prompt', async (t) => {
    const gateway = await started(t, { env: { STATE } });
    await times(5, () => chat(gateway));
    await order(gateway, 'dead', 'isolated');
    const { text } = await request(gateway, '/status');
    const secrets = [ADMIN_KEY, CLIENT_KEY, ENDPOINT_KEY, PROMPT, 'http', '127.0.0.1', String(dead.port), sha256(CLIENT_KEY)];
    for (const secret of secrets) assert.ok(!text.includes(secret), `it holds ${secret}`);
  });
});

describe('an operator', () => {
  it('takes an endpoint out, and puts it back', async (t) => {
    const gateway = await started(t);
    const isolated = await order(gateway, 'alive', 'isolated');
    assert.deepEqual([isolated.status, isolated.json], [200, { state: 'isolated', stored: false }]);
    assert.equal((await seen(gateway, 'alive')).isolated, true);
    const refused = await chat(gateway, 'org/well: 1');
    assert.deepEqual([refused.status, refused.json.error.code], [503, 'circuit_open']);
    assert.equal(alive.requests.length, 0);
    // However long it is asked for, and whatever happens meanwhile.
    await times(10, () => chat(gateway));
    assert.equal(alive.requests.length, 0);

    const closed = await order(gateway, 'alive', 'closed');
    assert.deepEqual([closed.status, closed.json], [200, { state: 'closed', stored: false }]);
    assert.equal((await seen(gateway, 'alive')).isolated, false);
    assert.equal((await chat(gateway, 'org/well: 1')).status, 200);
  });

  it('may say the same twice', async (t) => {
    const gateway = await started(t, { env: { STATE } });
    for (const state of ['closed', 'isolated', 'isolated', 'closed', 'closed']) {
      const { status, json } = await order(gateway, 'alive', state);
      assert.deepEqual([status, json.state], [200, state]);
      assert.equal((await seen(gateway, 'alive')).isolated, state === 'isolated');
    }
  });

  it('closes what has tripped', async (t) => {
    const gateway = await started(t, { env: { STATE } });
    await times(4, () => chat(gateway));
    assert.equal((await seen(gateway, 'dead')).breaker.state, 'open');
    dead.reset();
    assert.equal((await order(gateway, 'dead', 'closed')).status, 200);
    assert.equal((await seen(gateway, 'dead')).breaker.state, 'closed');
    assert.equal((await chat(gateway)).endpoint, 'dead');
  });

  it('names an endpoint as it is, whatever is in its name', async (t) => {
    const name = 'gpu/1: ä';
    const [, server] = endpointsOf({ dead, alive });
    const gateway = await started(t, {
      config: { endpoints: [{ ...server, name }], models: [{ name: 'qwen', targets: [{ endpoint: name }] }] },
      env: { STATE },
    });
    const { status, json } = await order(gateway, encodeURIComponent(name), 'isolated');
    assert.deepEqual([status, json], [200, { state: 'isolated', stored: true }]);
    assert.equal((await seen(gateway, name)).isolated, true);
    const { keys } = await (await gateway.state()).list();
    assert.equal(keys.length, 1);
    assert.equal(keys[0].name.split(':').length, 3, keys[0].name);
  });

  for (const [store, env] of [['KV', { STATE }], ['a Durable Object', { BREAKERS }]]) {
    it(`is heard by isolates that come later, by ${store}`, async (t) => {
      const gateway = await started(t, { env, isolates: 3 });
      const [first, second, third] = gateway.isolates;
      const told = await order(first, 'alive', 'isolated');
      assert.deepEqual([told.status, told.json], [200, { state: 'isolated', stored: true }]);
      assert.equal((await chat(second, 'org/well: 1')).json.error.code, 'circuit_open');
      assert.equal(alive.requests.length, 0);
      const there = await seen(second, 'alive');
      assert.deepEqual([there.isolated, there.stored.state], [true, 'isolated']);

      // Another isolate takes it back: for itself and for those that come later.
      assert.deepEqual((await order(second, 'alive', 'closed')).json, { state: 'closed', stored: true });
      assert.equal((await chat(second, 'org/well: 1')).status, 200);
      assert.equal((await chat(third, 'org/well: 1')).status, 200);
    });
  }

  it('leaves a record that the contract knows', async (t) => {
    const gateway = await started(t, { env: { STATE } });
    const began = Date.now();
    await order(gateway, 'alive', 'isolated');
    const kv = await gateway.state();
    const record = await kv.get('breaker:v1:alive', 'json');
    assert.equal(record.state, 'isolated');
    assert.ok(record.epoch >= 1 && record.at_ms >= began && record.writes >= 1);
    await order(gateway, 'alive', 'closed');
    const next = await kv.get('breaker:v1:alive', 'json');
    assert.equal(next.state, 'closed');
    assert.ok(next.epoch > record.epoch);
  });

  it('finds a line in the log', async (t) => {
    const gateway = await started(t);
    await order(gateway, 'alive', 'isolated');
    await gateway.line({ event: 'breaker_opened', endpoint: 'alive', reason: 'isolated', level: 'warn' });
    await order(gateway, 'alive', 'closed');
    await gateway.line({ event: 'breaker_closed', endpoint: 'alive', reason: 'closed', level: 'info' });
  });
});
