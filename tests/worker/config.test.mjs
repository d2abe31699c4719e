// CONFIG in its bindings: in one piece or several, as an object or as text, with the secrets and services that it
// names; and what a Worker does whose CONFIG is broken.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway } from './gateway.mjs';

const ADMIN_KEY = 'sk-admin-0123456789';
const CHAT = '/v1/chat/completions';
const BODY = { model: 'qwen', messages: [] };

let vllm;
before(async () => { vllm = await startVllm(); });
after(() => vllm.close());
beforeEach(() => vllm.reset());

/** Starts a gateway for the time of one test. */
async function started(t, config, more) {
  const gateway = await startGateway(config, more);
  t.after(async () => {
    await gateway.close();
    assert.deepEqual(gateway.troubles, []);
  });
  return gateway;
}

/** The least that a CONFIG says, with `changes`. */
const working = (changes = {}) => ({
  open: true, endpoints: endpointsOf({ vllm }), models: [{ name: 'qwen', targets: [{ endpoint: 'vllm' }] }], ...changes,
});

const configLines = (gateway, level) => gateway.logs.filter((line) => line.event === 'config' && line.level === level);

async function assertServes(gateway, init) {
  const response = await gateway.fetch(CHAT, { body: BODY, ...init });
  const text = await response.text();
  assert.equal(response.status, 200, text);
}

async function mistakes(gateway) {
  const response = await gateway.fetch('/v1/models');
  assert.equal(response.status, 500);
  await response.text();
  await gateway.line({ event: 'config', level: 'error' });
  return configLines(gateway, 'error').map(({ path }) => path).sort();
}

describe('a broken CONFIG', () => {
  const BROKEN = {
    endpoints: [
      { name: 'a', provider: 'vllm', base_url: 'gpu.example.com' },
      { name: 'a', provider: 'vllm', base_url: 'https://gpu.example.com/v1', api_key_secret: 'VLLM_API_KEY' },
      { name: 'b', provider: 'vllm', base_url: 'https://gpu.example.com/v1', via: 'GPU', colour: 'green' },
    ],
    models: [{ name: 'qwen', policy: 'slow', targets: [{ endpoint: 'b' }, { endpoint: 'z' }] }],
    policies: { default: { deadline_ms: 0, idle_ms: 'soon' } },
    clients: [{ name: 'web', keys_sha256: ['not a hash'] }],
    admin_key_secret: 'ADMIN_KEY',
  };
  const PATHS = [
    'clients[0].keys_sha256[0]',
    'endpoints[0].base_url',
    'endpoints[1].api_key_secret',
    'endpoints[1].name',
    'endpoints[2].colour',
    'endpoints[2].via',
    'models[0].policy',
    'models[0].targets[1].endpoint',
    'policies.default.deadline_ms',
    'policies.default.idle_ms',
  ];

  let gateway;
  before(async () => { gateway = await startGateway(BROKEN, { secrets: { ADMIN_KEY } }); });
  after(() => gateway.close());

  for (const [method, path] of [
    ['POST', CHAT], ['POST', '/v1/completions'], ['POST', '/v1/messages'], ['POST', '/tokenize'], ['GET', '/v1/models'],
    ['GET', '/v1/models/qwen'],
  ]) {
    it(`answers ${method} ${path} with the number of its mistakes`, async () => {
      const response = await gateway.fetch(path, { method, ...(method === 'POST' && { body: BODY }) });
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code], [500, 'config_invalid']);
      assert.match(error.message, new RegExp(`\\b${PATHS.length} mistakes`));
      for (const word of ['gpu.example.com', 'VLLM_API_KEY', 'endpoints', 'colour']) {
        assert.ok(!error.message.includes(word), `a stranger is told ${word}`);
      }
      // It will be the same tomorrow; an SDK would ask twice more.
      assert.equal(response.headers.get('x-should-retry'), 'false');
    });
  }

  it('answers /health as ever', async () => {
    const response = await gateway.fetch('/health');
    assert.deepEqual([response.status, await response.json()], [200, { status: 'ok' }]);
  });

  it('is told to an admin in full', async () => {
    const response = await gateway.fetch(CHAT, { body: BODY, headers: { authorization: `Bearer ${ADMIN_KEY}` } });
    const { error } = await response.json();
    assert.deepEqual([response.status, error.code], [500, 'config_invalid']);
    for (const path of PATHS) assert.ok(error.message.includes(`${path}: `), `${path} is missing in ${error.message}`);
    assert.ok(!error.message.includes(ADMIN_KEY));
  });

  it('is not told to whoever guesses at the key', async () => {
    const response = await gateway.fetch(CHAT, { body: BODY, headers: { authorization: `Bearer ${ADMIN_KEY}x` } });
    assert.doesNotMatch((await response.json()).error.message, /endpoints/);
  });

  it('stands in the log, each mistake once, whatever is asked how often', async () => {
    const lines = configLines(gateway, 'error');
    assert.deepEqual(lines.map(({ path }) => path).sort(), PATHS);
    for (const { message } of lines) assert.ok(message.length > 0);
  });
});

describe('CONFIG is found', () => {
  it('as text, for it may be a secret', async (t) => {
    const gateway = await started(t, undefined, { secrets: { CONFIG: JSON.stringify(working()) } });
    await assertServes(gateway);
  });

  it('with any part of it in a binding of its own', async (t) => {
    const { endpoints, models } = working();
    const gateway = await started(t, { models }, {
      secrets: { CONFIG_CLIENTS: JSON.stringify([{ name: 'web', keys_sha256: [sha256('sk-web')] }]) },
      env: { CONFIG_ENDPOINTS: { type: 'json', value: endpoints } },
    });
    await assertServes(gateway, { headers: { authorization: 'Bearer sk-web' } });
    assert.equal((await gateway.fetch(CHAT, { body: BODY })).status, 401);
  });

  it('in parts alone', async (t) => {
    const { endpoints, models } = working();
    const env = Object.entries({ CONFIG_ENDPOINTS: endpoints, CONFIG_MODELS: models, CONFIG_OPEN: true })
      .map(([name, value]) => [name, { type: 'json', value }]);
    await assertServes(await started(t, undefined, { env: Object.fromEntries(env) }));
  });

  it('not twice', async (t) => {
    const gateway = await started(t, working(), { env: { CONFIG_OPEN: { type: 'json', value: false } } });
    assert.deepEqual(await mistakes(gateway), ['open']);
  });

  it('not in a text that is no JSON', async (t) => {
    const gateway = await started(t, undefined, { secrets: { CONFIG: '{"open": tru' } });
    assert.ok((await mistakes(gateway)).includes('CONFIG'));
  });

  it('not at all, where there is none', async (t) => {
    assert.deepEqual(await mistakes(await started(t)), ['CONFIG']);
  });
});

describe('a secret', () => {
  const config = () => working({
    endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'VLLM_API_KEY' })),
  });

  it('goes to its endpoint', async (t) => {
    await assertServes(await started(t, config(), { secrets: { VLLM_API_KEY: 'sk-1' } }));
    assert.equal(vllm.requests[0].headers.authorization, 'Bearer sk-1');
  });

  for (const [name, secrets] of Object.entries({ missing: {}, empty: { VLLM_API_KEY: '' } })) {
    it(`that is ${name} is a mistake, which says how to set it`, async (t) => {
      const gateway = await started(t, config(), { secrets });
      assert.deepEqual(await mistakes(gateway), ['endpoints[0].api_key_secret']);
      const [{ message }] = configLines(gateway, 'error');
      assert.match(message, /not set: `npx wrangler secret put VLLM_API_KEY`/);
    });
  }
});

describe('what is understood but hardly meant', () => {
  it('is warned about, and the rest works', async (t) => {
    const clients = [{ name: 'web', keys_sha256: [sha256('sk-web')] }];
    const gateway = await started(t, working({ open: true, clients }));
    await assertServes(gateway, { headers: { authorization: 'Bearer sk-web' } });
    await assertServes(gateway, { headers: { authorization: 'Bearer sk-web' } });
    const { path } = await gateway.line({ event: 'config', level: 'warn' });
    assert.equal(path, 'open');
    assert.equal(configLines(gateway, 'warn').length, 1);
  });
});

describe('a base_url leads to', () => {
  const asked = async (t, base_url, more) => {
    const endpoint = { name: 'vllm', provider: 'vllm', base_url, ...more };
    const gateway = await started(t, working({ endpoints: [endpoint] }));
    await gateway.fetch(CHAT, { body: BODY });
    await gateway.fetch('/tokenize', { body: { ...BODY, prompt: 'x' } });
    return vllm.requests.map(({ target }) => target);
  };
  const cases = {
    'its own /v1': ['/v1', ['/v1/chat/completions', '/tokenize']],
    'its own /v1, with a slash too many': ['/v1/', ['/v1/chat/completions', '/tokenize']],
    'the root, where it has no /v1': ['', ['/chat/completions', '/tokenize']],
    'a folder': ['/gpu/7/v1', ['/gpu/7/v1/chat/completions', '/gpu/7/tokenize']],
  };
  for (const [name, [path, targets]] of Object.entries(cases)) {
    it(name, async (t) => assert.deepEqual(await asked(t, `${vllm.url}${path}`), targets));
  }

  it("RunPod's OpenAI proxy", async (t) => {
    const targets = await asked(t, `${vllm.url}/v2/abc123`, { provider: 'runpod', mode: 'openai' });
    assert.equal(targets[0], '/v2/abc123/openai/v1/chat/completions');
  });

  it("RunPod's load balancer", async (t) => {
    const targets = await asked(t, vllm.url, { provider: 'runpod', mode: 'load_balancer' });
    assert.deepEqual(targets, ['/v1/chat/completions', '/tokenize']);
  });
});

describe('a service binding that `via` names', () => {
  const viaGpu = (policy = {}) => working({
    endpoints: [{ name: 'gpu', provider: 'vllm', base_url: 'http://gpu.internal/v1', via: 'GPU' }],
    models: [{ name: 'qwen', targets: [{ endpoint: 'gpu' }] }],
    policies: { default: policy },
  });
  const GPU = { type: 'worker', worker: 'tunnel' };
  /** Stands in for the way to a private network: it knows where gpu.internal is, which nobody else does. */
  const tunnel = () => ({
    tunnel: `export default {
      fetch(request) {
        return fetch('${vllm.url}' + new URL(request.url).pathname, request);
      },
    };`,
  });

  it('is the way that requests and streams take', async (t) => {
    const gateway = await started(t, viaGpu(), { env: { GPU }, workers: tunnel() });
    for (const stream of [false, true]) {
      vllm.reset();
      const response = await gateway.fetch(CHAT, { body: { ...BODY, stream } });
      const bytes = Buffer.from(await response.arrayBuffer());
      assert.equal(response.status, 200);
      assert.deepEqual(bytes, vllm.requests[0].sent);
    }
  });

  it('is a way on which an end reaches the endpoint, too', async (t) => {
    const gateway = await started(t, viaGpu({ idle_ms: 300 }), { env: { GPU }, workers: tunnel() });
    const response = await gateway.fetch(CHAT, { body: { ...BODY, stream: true, sim: { fault: 'stall' } } });
    assert.match(await response.text(), /"param":"idle","code":"upstream_timeout"/);
    await vllm.until(() => vllm.requests[0].closedByClientAt, 2000);
  });

  it('that fails is an endpoint that fails', async (t) => {
    const gateway = await started(t, viaGpu({ max_attempts: 1 }), { env: { GPU }, workers: tunnel() });
    const response = await gateway.fetch(CHAT, { body: { ...BODY, sim: { fault: 'reset' } } });
    assert.deepEqual([response.status, (await response.json()).error.code], [502, 'upstream_unreachable']);
  });

  it('that the Worker does not have is a mistake', async (t) => {
    const gateway = await started(t, viaGpu());
    assert.deepEqual(await mistakes(gateway), ['endpoints[0].via']);
  });
});
