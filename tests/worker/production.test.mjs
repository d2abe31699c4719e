// examples/production as it stands, in front of simulated servers that fail: who may come in, what each may ask for, who
// answers when the first cannot.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { unstable_readConfig as readConfig } from 'wrangler';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { sha256, startGateway, STATE } from './gateway.mjs';

const FILE = fileURLToPath(new URL('../../examples/production/wrangler.toml', import.meta.url));
const MODEL = 'Qwen/Qwen2.5-7B-Instruct';
const CHAT = '/v1/chat/completions';
const KEYS = { web: ['sk-web', 'sk-web-next'], batch: ['sk-batch'], partner: ['sk-partner'] };
const secrets = { ADMIN_KEY: 'sk-admin', VLLM_API_KEY: 'sk-vllm', RUNPOD_API_KEY: 'rpa_simulated' };

const { vars, ...worker } = readConfig({ config: FILE }, { hideWarnings: true });

let first;
let second;
let burst;
let gateway;
before(async () => {
  [first, second, burst] = await Promise.all([
    startVllm({ models: [MODEL], apiKey: secrets.VLLM_API_KEY }),
    startVllm({ models: [MODEL], apiKey: secrets.VLLM_API_KEY }),
    startRunpod({ warm: 1, endpoints: { vllm: { handler: 'worker-vllm' } } }),
  ]);
  const addresses = { 'a100-1': `${first.url}/v1`, 'a100-2': `${second.url}/v1`, burst: `${burst.url}/v2/vllm` };
  // Other addresses and known keys; all else as it stands.
  const config = { ...vars.CONFIG, endpoints: vars.CONFIG.endpoints.map((each) => ({ ...each, base_url: addresses[each.name] })) };
  const clients = vars.CONFIG_CLIENTS.map((client) => {
    assert.equal(client.keys_sha256.length, KEYS[client.name].length);
    return { ...client, keys_sha256: KEYS[client.name].map(sha256) };
  });
  const [{ name, namespace_id: namespace, simple }] = worker.ratelimits;
  gateway = await startGateway(config, {
    secrets,
    env: {
      STATE,
      CONFIG_CLIENTS: { type: 'json', value: clients },
      [name]: { type: 'rate-limit', namespace, simple },
    },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([first.close(), second.close(), burst.close()]);
  assert.deepEqual(gateway.troubles, []);
});
beforeEach(() => [first, second].forEach((server) => server.reset()));

async function ask(key, body = {}, path = CHAT, headers = {}) {
  const authorization = key && { authorization: `Bearer ${key}` };
  const response = await gateway.fetch(path, {
    body: { model: 'qwen', messages: [{ role: 'user', content: 'Hi' }], ...body }, headers: { ...authorization, ...headers },
  });
  const text = await response.text();
  return { status: response.status, by: response.headers.get('x-fairlead-endpoint'), text };
}

const STREAM = { stream: true, max_tokens: 20 };

describe('examples/production', () => {
  it('fits into its variables', () => {
    for (const name of ['CONFIG', 'CONFIG_CLIENTS']) {
      const bytes = Buffer.byteLength(JSON.stringify(vars[name]));
      assert.ok(bytes <= 5120, `${name}: ${bytes}`);
    }
  });

  it('lets each client in with its keys, and nobody else', async () => {
    for (const key of Object.values(KEYS).flat()) {
      const { status, by, text } = await ask(key, STREAM);
      assert.deepEqual([status, by], [200, 'a100-1'], text);
      assert.match(text, /\[DONE\]/);
    }
    assert.equal((await ask(undefined)).status, 401);
    assert.equal((await ask('sk-other')).status, 401);
    assert.ok(first.requests.every(({ headers }) => headers.authorization === 'Bearer sk-vllm'));
  });

  it('gives each what it may ask for', async () => {
    const asked = async (key, model, headers) => (await ask(key, { model, max_tokens: 20 }, CHAT, headers)).status;
    assert.deepEqual(await Promise.all([asked('sk-web', 'qwen-private'), asked('sk-partner', 'qwen-private')]), [403, 403]);
    assert.equal(await asked('sk-batch', 'qwen-private'), 200);
    assert.equal(await asked('sk-web', 'qwen', { 'x-fairlead-policy': 'chat-ui' }), 200);
    assert.equal(await asked('sk-batch', 'qwen', { 'x-fairlead-policy': 'chat-ui' }), 403);
    assert.equal((await ask('sk-web', { input: {} }, '/runpod/burst/run')).status, 403);
  });

  it('goes on at the second server when the first is down, and leaves that alone', async () => {
    first.fault = 'reset';
    for (let calls = 0; calls < 8; calls += 1) {
      const { status, by, text } = await ask('sk-web', STREAM);
      assert.deepEqual([status, by], [200, 'a100-2'], text);
    }
    const response = await gateway.fetch('/status', { headers: { authorization: 'Bearer sk-admin' } });
    const { endpoints, config } = await response.json();
    const [{ breakers }] = endpoints.filter(({ name }) => name === 'a100-1');
    assert.equal(breakers.find(({ entry }) => entry === 'qwen').state, 'open');
    assert.equal(config.source, 'var');
    assert.ok(first.requests.length <= 5, `asked ${first.requests.length} times`);
  });

  it('goes on at RunPod when both are down', async () => {
    [first, second].forEach((server) => { server.fault = 'reset'; });
    const { status, by, text } = await ask('sk-batch', STREAM);
    assert.deepEqual([status, by], [200, 'burst'], text);
    assert.match(text, /\[DONE\]/);
  });
});
