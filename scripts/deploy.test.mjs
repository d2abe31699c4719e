import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { root } from './process.mjs';

const folder = mkdtempSync(join(tmpdir(), 'fairlead-deploy-'));
after(() => rmSync(folder, { recursive: true }));

/** `npm run deploy -- --dry-run …`: nothing leaves this machine. */
function deploy(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'deploy.mjs'), '--dry-run', ...args], {
    cwd: root, encoding: 'utf8',
  });
  return { status, said: stdout + stderr };
}

function write(name, vars, env) {
  const path = join(folder, name);
  const main = join(root, 'worker', 'build', 'index.js');
  writeFileSync(path, JSON.stringify({ name: 'x', main, compatibility_date: '2026-11-17', vars, env }));
  return path;
}

const VALID = {
  endpoints: [{ name: 'a', provider: 'vllm', base_url: 'https://gpu.example.com/v1' }],
  models: [{ name: '*', targets: [{ endpoint: 'a' }] }],
  clients: [{ name: 'web', keys_sha256: ['0'.repeat(64)] }],
};

const PRODUCTION = ['--config', 'examples/production/wrangler.toml'];

test('the complete configuration is deployed, with all that it binds', () => {
  const { status, said } = deploy(...PRODUCTION);
  assert.equal(status, 0, said);
  for (const bound of ['env.STATE', 'env.METRICS', 'env.WEB_LIMIT', 'env.CONFIG_CLIENTS']) assert.ok(said.includes(bound), `${bound}: ${said}`);
  assert.match(said, /--dry-run: exiting now/);
});

test('its environment is deployed as one', () => {
  const { status, said } = deploy(...PRODUCTION, '--env', 'staging');
  assert.equal(status, 0, said);
  assert.match(said, /wrangler secret put ADMIN_KEY --env staging/);
  assert.ok(!said.includes('env.WEB_LIMIT'), said);
});

test('the demo, which lets everybody in, is refused', () => {
  const { status, said } = deploy('--config', join(root, 'wrangler.toml'));
  assert.equal(status, 1, said);
  for (const why of [/^warning: open: /m, /^warning: endpoints\[0\]\.base_url: /m, /^warning: DEMO_ADMIN_KEY: /m]) assert.match(said, why);
  assert.match(said, /Nothing was deployed.*npm run deploy -- --yes-open/);
  assert.doesNotMatch(said, /exiting now/);
});

test('unless that is meant', () => {
  const { status, said } = deploy('--yes-open', '--config', write('meant.json', { CONFIG: { ...VALID, open: true } }));
  assert.equal(status, 0, said);
});

test('mistakes are refused, whatever is meant, in the environment that is deployed', () => {
  const file = write('mistakes.json', { CONFIG: VALID }, { staging: { vars: { CONFIG: { ...VALID, models: [] } } } });
  for (const args of [['-e', 'staging'], ['--env=staging', '--yes-open']]) {
    const { status, said } = deploy('--config', file, ...args);
    assert.equal(status, 1, said);
    assert.match(said, /^models: is empty/m);
    assert.match(said, /CONFIG has mistakes/);
    assert.doesNotMatch(said, /exiting now/);
  }
});

test('a configuration that stands elsewhere is deployed unread', () => {
  const { status, said } = deploy('--config', write('elsewhere.json', {}));
  assert.equal(status, 0, said);
  assert.match(said, /has no CONFIG among its vars.* It is deployed unread/);
});
