import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { root } from './process.mjs';

const folder = mkdtempSync(join(tmpdir(), 'fairlead-check-'));
after(() => rmSync(folder, { recursive: true }));

function check(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'check.mjs'), ...args], {
    cwd: folder, encoding: 'utf8', env: { ...process.env, INIT_CWD: folder },
  });
  return { status, stdout, stderr };
}

function write(name, content) {
  writeFileSync(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  return name;
}

const endpoint = {
  name: 'a100', provider: 'vllm', base_url: 'https://a100.example.com/v1', api_key_secret: 'VLLM_API_KEY',
};
const model = { name: '*', targets: [{ endpoint: 'a100' }] };

test('the wrangler.toml that ships is valid', () => {
  const { status, stdout } = check();
  assert.match(stdout, /is valid/);
  assert.equal(status, 0);
});

test('every mistake is named by its path, in CONFIG as text and in a binding of its own', () => {
  const { status, stdout } = check(write('mistakes.jsonc', `{ // as wrangler.jsonc may have
    "name": "x",
    "vars": ${JSON.stringify({
      CONFIG: JSON.stringify({ endpoints: [endpoint], models: [{ name: 'm', targets: [{ endpoint: 'gone' }] }] }),
      CONFIG_CLIENTS: [{ name: 'web', keys_sha256: ['short'] }],
    })},
  }`));
  assert.match(stdout, /^models\[0\]\.targets\[0\]\.endpoint: .*gone/m);
  assert.match(stdout, /^clients\[0\]\.keys_sha256\[0\]: /m);
  assert.equal(status, 1);
});

test('the secrets that CONFIG names are listed', () => {
  const CONFIG = { open: true, endpoints: [endpoint], models: [model], admin_key_secret: 'ADMIN_KEY' };
  const { status, stdout } = check(write('secrets.json', { name: 'x', vars: { CONFIG } }));
  assert.match(stdout, /npx wrangler secret put VLLM_API_KEY\n/);
  assert.match(stdout, /npx wrangler secret put ADMIN_KEY\n/);
  assert.equal(status, 0);
});

test('an endpoint may go through a service that the Worker is bound to', () => {
  const CONFIG = { open: true, endpoints: [{ ...endpoint, via: 'GPU' }], models: [model] };
  const worker = { name: 'x', vars: { CONFIG } };
  assert.equal(check(write('unbound.json', worker)).status, 1);
  assert.equal(check(write('bound.json', { ...worker, services: [{ binding: 'GPU', service: 'gpu' }] })).status, 0);
});

test('a client may have a rate limiting binding that the Worker has, with its period', () => {
  const client = { name: 'web', keys_sha256: ['0'.repeat(64)], rate_limiter: 'WEB' };
  const worker = (fields, ratelimits) => ({
    name: 'x', vars: { CONFIG: { endpoints: [endpoint], models: [model], clients: [{ ...client, ...fields }] } }, ratelimits,
  });
  const binding = (period) => [{ name: 'WEB', namespace_id: '1001', simple: { limit: 100, period } }];
  const { status, stdout } = check(write('no-limiter.json', worker({})));
  assert.match(stdout, /^clients\[0\]\.rate_limiter: .*`WEB`/m);
  assert.equal(status, 1);
  for (const [fields, period] of [[{}, 60], [{ rate_limiter_period_ms: 10_000 }, 10]]) {
    assert.equal(check(write('limiter.json', worker(fields, binding(period)))).status, 0);
  }
  const other = check(write('period.json', worker({}, binding(10))));
  assert.match(other.stdout, /^clients\[0\]\.rate_limiter_period_ms: is 60000, .*10000/m);
  assert.equal(other.status, 1);
});

test('an environment has a CONFIG of its own', () => {
  const valid = { open: true, endpoints: [endpoint], models: [model] };
  const file = write('environments.json', {
    name: 'x', vars: { CONFIG: valid }, env: { staging: { vars: { CONFIG: { ...valid, colour: 'red' } } } },
  });
  assert.equal(check(file).status, 0);
  const { status, stdout } = check(file, '--env', 'staging');
  assert.match(stdout, /colour/);
  assert.equal(status, 1);
});

test('a file that is missing, broken or without CONFIG is said to be so', () => {
  for (const [file, message] of [
    ['missing.toml', /There is no missing\.toml/],
    [write('broken.toml', 'name = "x\n'), /broken\.toml:1 cannot be read/],
    [write('broken.json', '{ "name": '), /broken\.json:1 cannot be read/],
    [write('empty.toml', 'name = "x"\n'), /empty\.toml has no CONFIG/],
  ]) {
    const { status, stderr } = check(file);
    assert.match(stderr, message);
    assert.equal(status, 2);
  }
});

test('a file that is to go into KV is read as well, with the bindings of the wrangler.toml beside it', () => {
  const CONFIG = {
    $schema: './config.schema.json', endpoints: [{ ...endpoint, via: 'GPU' }], models: [model],
    clients: [{ name: 'web', keys_sha256: ['0'.repeat(64)], rate_limiter: 'WEB_LIMIT' }],
  };
  const file = write('config.json', CONFIG);
  const unbound = check(file);
  assert.match(unbound.stdout, /^endpoints\[0\]\.via: .*GPU/m);
  assert.match(unbound.stdout, /^clients\[0\]\.rate_limiter: .*WEB_LIMIT/m);
  assert.equal(unbound.status, 1);
  write('wrangler.toml', `name = "x"
kv_namespaces = [{ binding = "STATE" }]
services = [{ binding = "GPU", service = "gpu" }]
ratelimits = [{ name = "WEB_LIMIT", namespace_id = "1", simple = { limit = 10, period = 60 } }]
`);
  try {
    const { status, stdout } = check(file);
    assert.match(stdout, /secret VLLM_API_KEY/);
    assert.doesNotMatch(stdout, /warning/);
    assert.equal(status, 0, stdout);
    const { stdout: commented } = check(write('config.jsonc', `{ // for KV\n${JSON.stringify(CONFIG).slice(1, -1)},\n}`));
    assert.match(commented, /warning: config\.jsonc: has comments/);
    assert.match(commented, /is valid/);
  } finally {
    rmSync(join(folder, 'wrangler.toml'));
  }
});

test('what was mistyped is told with what may have been meant, and what may be a secret is not repeated', () => {
  const key = 'sk-0123456789abcdef';
  const CONFIG = {
    endpoints: [{ ...endpoint, base_url: `https://user:${key}@gpu.example.com/v1`, api_key_secret: 'VLLM_API_KEY' }],
    models: [{ name: 'm', strategy: 'wieghted', targets: [{ endpoint: 'a10', wieght: 2 }] }],
    clients: [{ name: 'web', keys_sha256: [key] }], admin_key_secret: key, log: key, open: key,
  };
  const { status, stdout } = check(write('mistyped.json', { name: 'x', vars: { CONFIG } }));
  assert.match(stdout, /^models\[0\]\.targets\[0\]\.wieght: is unknown: did you mean `weight`\?/m);
  assert.match(stdout, /^models\[0\]\.targets\[0\]\.endpoint: names `a10`, .* did you mean `a100`\?/m);
  assert.match(stdout, /^models\[0\]\.strategy: must be .*, not `wieghted`$/m);
  assert.match(stdout, /^admin_key_secret: names a secret that is not set: `npx wrangler secret put NAME`$/m);
  assert.ok(!stdout.includes(key), stdout);
  assert.equal(status, 1);
});

test('what is dear or of no use once it is deployed is warned about', () => {
  const clients = Array.from({ length: 60 }, (_, at) => ({ name: `client-${at}`, keys_sha256: [String(at).padStart(64, '0')] }));
  const CONFIG = {
    open: true, clients, models: [model], admin_key_secret: 'DEMO_KEY',
    endpoints: [{ ...endpoint, base_url: 'http://localhost:8000/v1' }, { ...endpoint, name: 'b', base_url: 'http://[::1]:8000' }],
  };
  const { status, stdout } = check(write('dear.json', { name: 'x', vars: { CONFIG } }));
  for (const message of [
    /^warning: open: lets everybody in/m,
    /^warning: endpoints\[0\]\.base_url: is an address of the machine itself/m,
    /^warning: endpoints\[1\]\.base_url: is an address of the machine itself/m,
    /^warning: DEMO_KEY: is a secret of the demo/m,
    /^warning: CONFIG: is \d+ bytes long, and a Workers variable holds 5120: move `clients` into a variable CONFIG_CLIENTS/m,
  ]) assert.match(stdout, message);
  assert.equal(status, 0);
});
