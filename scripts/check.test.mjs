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
