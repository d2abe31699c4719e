// What does not get through: paths that are not on the list, a client's secrets on their way in, an endpoint's on their
// way out, and everybody without a key. Requests with odd paths go out by hand, because clients tidy them up.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { exchange } from '../upstream/raw-client.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STAYS_CLOSED } from './gateway.mjs';

const ENDPOINT_KEY = 'sk-endpoint-0123456789';
const ADMIN_KEY = 'sk-admin-0123456789';
const CLIENT_KEY = 'sk-client-0123456789';
const SECOND_KEY = 'sk-second-0123456789';
const NARROW_KEY = 'sk-narrow-0123456789';
const CHAT = '/v1/chat/completions';
const BODY = { model: 'qwen', messages: [{ role: 'user', content: 'Hi' }] };

let vllm;
let address;
let gateway;
before(async () => {
  vllm = await startVllm({ apiKey: ENDPOINT_KEY });
  address = new URL(vllm.url).host;
  const targets = [{ endpoint: 'vllm' }];
  gateway = await startGateway({
    endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'VLLM_API_KEY' })),
    models: [{ name: 'qwen', targets }, { name: 'Qwen/Qwen3-8B', targets }, { name: '*', targets }],
    policies: {
      default: { backoff: { base_ms: 1, throttled_base_ms: 1 }, breaker: STAYS_CLOSED }, tiny: { max_request_bytes: 20 }, secret: {},
    },
    clients: [
      { name: 'web', keys_sha256: [sha256(CLIENT_KEY), sha256(SECOND_KEY)], policies: ['tiny'] },
      { name: 'narrow', keys_sha256: [sha256(NARROW_KEY)], models: ['qwen', 'free-text'] },
    ],
    cors: { origins: ['https://app.example.com'] },
    admin_key_secret: 'ADMIN_KEY',
  }, { secrets: { VLLM_API_KEY: ENDPOINT_KEY, ADMIN_KEY } });
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
  const printed = gateway.printed.join('\n');
  for (const secret of [ENDPOINT_KEY, ADMIN_KEY, CLIENT_KEY, SECOND_KEY, NARROW_KEY, address]) {
    assert.ok(!printed.includes(secret), `${secret} was logged`);
  }
});
beforeEach(() => vllm.reset());

const bearer = (key) => ({ authorization: `Bearer ${key}` });

/** A request as it stands, with a good key. */
const raw = (path, more) => exchange(gateway, { path, body: BODY, headers: bearer(CLIENT_KEY), ...more });
const errorOf = ({ payload }) => JSON.parse(payload).error;

/** A POST, whose answer is read whole. */
const ask = (path, { body = BODY, ...more } = {}) => get(path, { body, ...more });

async function get(path, { key = CLIENT_KEY, headers, body } = {}) {
  const response = await gateway.fetch(path, { body, headers: { ...(key && bearer(key)), ...headers } });
  const text = await response.text();
  return { response, text, status: response.status, json: text.startsWith('{') ? JSON.parse(text) : undefined };
}

function assertRefused({ status, json }, expectedStatus, code) {
  assert.deepEqual([status, json.error.code], [expectedStatus, code]);
  assert.equal(vllm.requests.length, 0);
}

describe('no path that is not on the list reaches an endpoint', () => {
  const others = [
    '/', '/version', '/load', '/ping', '/invocations', '/tokenizer_info', '/server_info', '/openapi.json',
    '/docs', '/sleep', '/sleep?level=1', '/wake_up', '/is_sleeping', '/pause', '/resume', '/is_paused',
    '/reset_prefix_cache', '/reset_mm_cache', '/collective_rpc', '/inference/v1/generate', '/generative_scoring',
    '/score', '/rerank', '/v2/rerank', '/v2/embed', '/cohere/v2/embed', '/v1', '/v1/', '/v1/load_lora_adapter',
    '/v1/unload_lora_adapter', '/v1/chat/completions/batch', '/v1/chat/completions/render', '/v1/completions/render',
    '/v1/responses/resp_1', '/v1/responses/resp_1/cancel', '/v1/realtime', '/v1/audio/speech', '/v1/files',
    '/v1/messages/batches',
  ];
  for (const path of others) {
    it(path, async () => {
      for (const method of ['GET', 'POST']) {
        const response = await raw(path, { method });
        assert.deepEqual([response.status, errorOf(response).code], [404, 'route_not_found']);
      }
      assert.equal(vllm.requests.length, 0);
    });
  }

  const tricks = [
    '/v1/chat/completions/', '//v1/chat/completions', '/v1//chat/completions', '/V1/chat/completions',
    '/v1/Chat/Completions', '/v1/%63hat/completions', '/v1/chat%2Fcompletions', '/v1/chat%2fcompletions',
    '/v1/chat/completions%00', '/v1/chat/completions%20', '/v1/chat/completions;a=b', '/v1/chat/completions/.',
    '/v1/chat/completions/../../metrics', '/v1/chat/completions/%2e%2e/%2e%2e/%2e%2e/metrics',
    '/v1/chat/completions/..%2f..%2f..%2fmetrics', '/v1/chat/completions\\..\\..\\..\\metrics',
    '/tokenize/../metrics', '/%2e%2e/metrics', '/v1/../metrics', '/v1/models/../../metrics',
    '/v1/models/..%2f..%2fmetrics', 'http://127.0.0.1/metrics', 'https://gpu.example.com/metrics', '/http://gpu.example.com/v1/chat/completions',
    '//gpu.example.com/v1/chat/completions', '*', '/v1/chat/completions ', '/v1/chat/\tcompletions', 'metrics', '',
  ];
  for (const path of tricks) {
    it(`${JSON.stringify(path)}`, async () => {
      const { status } = await raw(path);
      assert.ok([400, 404, 405].includes(status), `it got ${status}`);
      assert.equal(vllm.requests.length, 0);
    });
  }

  /** Each means the same route, so it may come through; nothing of the odd part may. */
  const ways = [
    '/v1/chat/completions?model=other&path=/metrics', '/v1/chat/completions?', '/v1/chat/completions#/metrics',
    '/v1/chat/completions?/../../metrics', 'http://gpu.example.com/v1/chat/completions',
    'http://user:password@gpu.example.com:99/v1/chat/completions', '/v1/x/../chat/completions',
    '/./v1/chat/completions', '/v1/%2e/chat/completions', '/v1\\chat\\completions',
  ];
  for (const path of ways) {
    it(`nothing but the route itself of ${path}`, async () => {
      const { status } = await raw(path);
      assert.ok([200, 400, 404].includes(status), `it got ${status}`);
      assert.deepEqual(vllm.requests.map(({ target }) => target), status === 200 ? [CHAT] : []);
      assert.ok(vllm.requests.every(({ headers }) => headers.host === address));
    });
  }

  it('a name of a model is no path', async () => {
    const model = '../../metrics?x=http://gpu.example.com/#';
    assert.equal((await ask(CHAT, { body: { ...BODY, model } })).status, 200);
    assert.deepEqual([vllm.requests[0].target, vllm.requests[0].json.model], [CHAT, model]);
  });
});

describe('what an endpoint sees of a request', () => {
  const SECRETS = {
    cookie: 'session=client-cookie', 'x-api-key': 'client-x-api-key', 'proxy-authorization': 'Basic client-proxy',
    'x-forwarded-for': '203.0.113.7', 'cf-connecting-ip': '203.0.113.8', 'x-real-ip': '203.0.113.9',
    'user-agent': 'client-agent', referer: 'https://client.example/', 'openai-organization': 'client-organization',
    'openai-project': 'client-project', 'accept-language': 'client-language', 'x-client-anything': 'client-thing',
    range: 'bytes=0-1', 'if-none-match': '"client-tag"', 'x-data-parallel-rank': '3',
  };
  const TOLD = {
    accept: 'text/event-stream', 'openai-beta': 'a=v1', 'anthropic-version': '2023-06-01', 'anthropic-beta': 'b',
    tracestate: 'vendor=1', 'x-session-id': 's-1',
  };
  const TRACE = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' };
  // By workerd itself, by its HTTP client, and by Miniflare in front of the network.
  const OWN = ['authorization', 'cf-worker', 'content-length', 'content-type', 'host', 'x-request-id'];

  for (const [path, body] of Object.entries({ [CHAT]: BODY, '/v1/messages': { ...BODY, max_tokens: 9 } })) {
    it(`the gateway's own key and id, what steers the answer, and nothing else (${path})`, async () => {
      const { status } = await raw(path, { body, headers: { ...bearer(CLIENT_KEY), ...SECRETS, ...TOLD, ...TRACE } });
      assert.equal(status, 200);
      const [{ headers, rawHeaders }] = vllm.requests;
      assert.equal(headers.authorization, `Bearer ${ENDPOINT_KEY}`);
      assert.deepEqual(Object.keys(headers).sort(), [...OWN, ...Object.keys(TOLD), ...Object.keys(TRACE)].sort());
      for (const [name, value] of Object.entries(TOLD)) assert.equal(headers[name], value);
      assert.doesNotMatch(JSON.stringify(rawHeaders), /client|203\.0\.113/);
    });
  }

  it('the key that came as x-api-key stays here, too', async () => {
    const { status } = await ask('/v1/messages', {
      key: null, body: { ...BODY, max_tokens: 9 }, headers: { 'x-api-key': CLIENT_KEY },
    });
    assert.equal(status, 200);
    assert.doesNotMatch(JSON.stringify(vllm.requests[0].rawHeaders), new RegExp(CLIENT_KEY));
  });

  it('no key at all, where CONFIG names none for it', async () => {
    const plain = await startVllm();
    const open = await startGateway({
      open: true, endpoints: endpointsOf({ plain }), models: [{ name: '*', targets: [{ endpoint: 'plain' }] }],
    });
    await open.fetch(CHAT, { body: BODY, headers: bearer(CLIENT_KEY) });
    assert.equal(plain.requests[0].headers.authorization, undefined);
    await open.close();
    await plain.close();
  });
});

describe('what a client sees of an answer', () => {
  const HEADERS = {
    'set-cookie': 'affinity=gpu-7', server: 'uvicorn', 'x-powered-by': 'vllm', 'access-control-allow-origin': '*',
    'access-control-expose-headers': '*', 'x-request-id': 'the-endpoints-own', 'x-should-retry': 'true',
    'content-security-policy': 'x', location: 'http://10.0.0.7/', 'x-fairlead-endpoint': 'forged', via: '1.1 gpu-7',
    'server-timing': 'gpu;dur=7', 'retry-after': '7', link: '<http://10.0.0.7/>', 'alt-svc': 'h3=":443"',
  };
  // `vary`, because some pages may read answers of this gateway.
  const ALWAYS = ['content-type', 'server-timing', 'vary', 'x-fairlead-attempts', 'x-fairlead-endpoint', 'x-request-id'];

  it('whole, with no header of the endpoint that tells of it', async () => {
    const { response } = await ask(CHAT, { body: { ...BODY, sim: { headers: HEADERS } } });
    assert.equal(response.status, 200);
    assert.deepEqual([...response.headers.keys()].sort(), ['content-length', ...ALWAYS].sort());
    assert.equal(response.headers.get('x-fairlead-endpoint'), 'vllm');
    assert.match(response.headers.get('server-timing'), /^fairlead;dur=\d+, attempts;desc="1"$/);
    assert.notEqual(response.headers.get('x-request-id'), 'the-endpoints-own');
  });

  it('streamed, too, and no proxy is to hold the stream up', async () => {
    const { response } = await ask(CHAT, { body: { ...BODY, stream: true, sim: { headers: HEADERS } } });
    assert.deepEqual([...response.headers.keys()].sort(),
      ['cache-control', 'transfer-encoding', 'x-accel-buffering', ...ALWAYS].sort());
    assert.equal(response.headers.get('cache-control'), 'no-cache');
    assert.equal(response.headers.get('x-accel-buffering'), 'no');
  });

  it('no key, whatever happens', async () => {
    for (const fault of ['ok', 'reset', 'cut', 'http-401', 'http-503', 'html', 'error-mid-stream', 'redirect']) {
      for (const stream of [true, false]) {
        const { response, text } = await ask(CHAT, { body: { ...BODY, stream, sim: { fault } } });
        const everything = JSON.stringify([...response.headers]) + text;
        for (const secret of [ENDPOINT_KEY, ADMIN_KEY, CLIENT_KEY, address]) {
          assert.ok(!everything.includes(secret), `${fault} shows ${secret}`);
        }
      }
    }
  });
});

describe('who may come in', () => {
  it('whoever has any key of a client', async () => {
    for (const key of [CLIENT_KEY, SECOND_KEY]) assert.equal((await ask(CHAT, { key })).status, 200);
    const line = await gateway.line({ event: 'call_ended', client: 'web' });
    assert.equal(line.model, 'qwen');
  });

  const strangers = {
    'no key': {},
    'a wrong key': bearer('sk-wrong'),
    'a part of a key': bearer(CLIENT_KEY.slice(0, -1)),
    'a key in another case': bearer(CLIENT_KEY.toUpperCase()),
    "the endpoint's key": bearer(ENDPOINT_KEY),
    "the admin's key": bearer(ADMIN_KEY),
    'the hash of a key': bearer(sha256(CLIENT_KEY)),
    'an empty key': bearer(''),
    'another scheme': { authorization: `Basic ${Buffer.from(`:${CLIENT_KEY}`).toString('base64')}` },
    'a key without its scheme': { authorization: CLIENT_KEY },
    'x-api-key where the API does not have it': { 'x-api-key': CLIENT_KEY },
  };
  for (const [name, headers] of Object.entries(strangers)) {
    it(`not with ${name}`, async () => {
      for (const result of [await ask(CHAT, { key: null, headers }), await get('/v1/models', { key: null, headers })]) {
        assertRefused(result, 401, 'invalid_api_key');
        assert.equal(result.response.headers.get('www-authenticate'), 'Bearer');
        assert.match(result.json.error.message, /key/);
      }
    });
  }

  it('the scheme may be written in any case', async () => {
    assert.equal((await ask(CHAT, { key: null, headers: { authorization: `bearer ${CLIENT_KEY}` } })).status, 200);
  });

  it('on the Messages API also with x-api-key', async () => {
    const body = { ...BODY, max_tokens: 9 };
    for (const path of ['/v1/messages', '/v1/messages/count_tokens']) {
      assert.equal((await ask(path, { key: null, body, headers: { 'x-api-key': CLIENT_KEY } })).status, 200);
    }
    vllm.reset();
    const stranger = await ask('/v1/messages', { key: null, body, headers: { 'x-api-key': 'wrong' } });
    assertRefused(stranger, 401, 'invalid_api_key');
  });

  it('to /health everybody, and no endpoint is asked for it', async () => {
    const { status, json } = await get('/health', { key: null });
    assert.deepEqual([status, json], [200, { status: 'ok' }]);
    assert.equal(vllm.requests.length, 0);
  });

  it('nobody, where CONFIG has neither clients nor `open`, and the message says what to do', async () => {
    const shut = await startGateway({
      endpoints: endpointsOf({ vllm }), models: [{ name: '*', targets: [{ endpoint: 'vllm' }] }],
    });
    for (const headers of [{}, bearer(CLIENT_KEY)]) {
      const response = await shut.fetch(CHAT, { body: BODY, headers });
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code], [401, 'invalid_api_key']);
      assert.match(error.message, /`clients`.*`keys_sha256`.*`"open": true`/s);
    }
    assert.equal(vllm.requests.length, 0);
    await shut.close();
  });
});

describe('what a client may ask for', () => {
  it('the models that are named for it, and what `*` makes of such a name', async () => {
    for (const model of ['qwen', 'free-text']) {
      assert.equal((await ask(CHAT, { key: NARROW_KEY, body: { ...BODY, model } })).status, 200);
    }
    vllm.reset();
    for (const model of ['Qwen/Qwen3-8B', 'anything', '*']) {
      const result = await ask(CHAT, { key: NARROW_KEY, body: { ...BODY, model } });
      assertRefused(result, 403, 'forbidden');
      assert.equal(result.json.error.param, 'model');
    }
  });

  it('all models, where none are named', async () => {
    for (const model of ['qwen', 'Qwen/Qwen3-8B', 'anything']) {
      assert.equal((await ask(CHAT, { body: { ...BODY, model } })).status, 200);
    }
  });

  it('a list of the models, with those it may not use left out', async () => {
    const list = async (key) => (await get('/v1/models', { key })).json;
    const { object, data } = await list(CLIENT_KEY);
    assert.equal(object, 'list');
    assert.deepEqual(data[0], { id: 'qwen', object: 'model', created: 0, owned_by: 'fairlead' });
    assert.deepEqual(data.map(({ id }) => id), ['qwen', 'Qwen/Qwen3-8B']);
    assert.deepEqual((await list(NARROW_KEY)).data.map(({ id }) => id), ['qwen']);
    const one = (key, id) => get(`/v1/models/${id}`, { key });
    for (const id of ['Qwen/Qwen3-8B', 'Qwen%2FQwen3-8B']) {
      assert.equal((await one(CLIENT_KEY, id)).json.id, 'Qwen/Qwen3-8B');
    }
    for (const id of ['Qwen%2FQwen3-8B', '*', '%FF', '']) {
      assertRefused(await one(NARROW_KEY, id), 404, 'model_not_found');
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('the policies that are named for it', async () => {
    const wanted = (policy, key = CLIENT_KEY) => ask(CHAT, { key, headers: { 'x-fairlead-policy': policy } });
    const tiny = await wanted('tiny');
    assertRefused(tiny, 413, 'request_too_large');
    assert.match(tiny.json.error.message, /\b20 bytes/);
    for (const [policy, key] of [['secret'], ['default'], ['unknown'], ['tiny', NARROW_KEY]]) {
      const result = await wanted(policy, key);
      assertRefused(result, 403, 'forbidden');
      assert.equal(result.json.error.param, 'x-fairlead-policy');
    }
  });

  it('any policy there is, where everybody may come in', async () => {
    const open = await startGateway({
      open: true, endpoints: endpointsOf({ vllm }), models: [{ name: '*', targets: [{ endpoint: 'vllm' }] }],
      policies: { tiny: { max_request_bytes: 20 } },
    });
    for (const [policy, status, code] of [['tiny', 413, 'request_too_large'], ['unknown', 400, 'invalid_request']]) {
      const response = await open.fetch(CHAT, { body: BODY, headers: { 'x-fairlead-policy': policy } });
      assert.deepEqual([response.status, (await response.json()).error.code], [status, code]);
    }
    await open.close();
    assert.equal(vllm.requests.length, 0);
  });
});
