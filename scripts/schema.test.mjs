// The JSON Schema of CONFIG and the reference: up to date, right for every CONFIG of this repository, and the page on
// policies beside them.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import Ajv from 'ajv/dist/2020.js';
import { unstable_readConfig as readConfig } from 'wrangler';
import { root } from './process.mjs';

const text = (path) => readFileSync(join(root, path), 'utf8');
const schema = JSON.parse(text('docs/public/config.schema.json'));
// Strict: a keyword that it does not know would be a mistake of ours.
const validate = new Ajv({ strict: true, allErrors: true }).compile(schema);

function assertValid(config, name) {
  assert.ok(validate(config), `${name}: ${JSON.stringify(validate.errors?.map(({ instancePath, message }) => `${instancePath} ${message}`))}`);
}

const paths = (config) => {
  validate(config);
  return (validate.errors ?? []).map(({ instancePath }) => instancePath);
};

const base = () => ({
  endpoints: [{ name: 'a', provider: 'vllm', base_url: 'https://gpu.example.com/v1' }],
  models: [{ name: '*', targets: [{ endpoint: 'a' }] }],
});

describe('the schema of CONFIG', () => {
  test('and its reference are what the core gives', () => {
    const { status, stdout, stderr } = spawnSync('cargo', ['run', '--quiet', '--example', 'schema', '--', '--check'], { cwd: root, encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
  });

  test('takes every CONFIG of this repository', () => {
    for (const [file, env] of [['wrangler.toml'], ['examples/production/wrangler.toml'], ['examples/production/wrangler.toml', 'staging']]) {
      const { vars } = readConfig({ config: join(root, file), env }, { hideWarnings: true });
      const parts = Object.entries(vars).filter(([name]) => name.startsWith('CONFIG_'));
      assertValid({ ...vars.CONFIG, ...Object.fromEntries(parts.map(([name, value]) => [name.slice(7).toLowerCase(), value])) }, file);
    }
    for (const page of ['README.md', 'docs/configuration.md', 'docs/live-config.md']) {
      for (const [, block] of text(page).matchAll(/^```json config\n([^]*?)^```$/gm)) assertValid(JSON.parse(block), page);
    }
    assertValid({ $schema: './config.schema.json', ...base() }, 'one that names its schema');
  });

  test('refuses what the gateway refuses, and says where', () => {
    assert.deepEqual(paths({ ...base(), opne: true }), ['']);
    assert.deepEqual(paths({}), ['', '']);
    assert.deepEqual(paths({ ...base(), policies: { p: { deadline_ms: 0, max_attempts: 21, hedge_ratio: 0 } } }).sort(), [
      '/policies/p/deadline_ms', '/policies/p/hedge_ratio', '/policies/p/max_attempts',
    ]);
    assert.deepEqual(paths({ ...base(), log: 'all' }).filter((path) => path !== '/log'), []);
    assert.deepEqual(paths({ ...base(), clients: [{ name: 'web', keys_sha256: ['sk-web'] }] }), ['/clients/0/keys_sha256/0']);
    const hedged = (hedge_after_ms) => paths({ ...base(), policies: { p: { hedge_after_ms } } }).length === 0;
    assert.deepEqual(['p95', 1, 0, 'p99', 1.5].map(hedged), [true, true, false, false, false]);
  });

  test('describes every field', () => {
    const bare = (form, path) => [
      ...(form.properties ? Object.entries(form.properties).flatMap(([name, inner]) =>
        [...(inner.description ? [] : [`${path}.${name}`]), ...bare(inner, `${path}.${name}`)]) : []),
      ...(form.items ? bare(form.items, `${path}[]`) : []),
      ...(typeof form.additionalProperties === 'object' ? bare(form.additionalProperties, `${path}.NAME`) : []),
    ];
    assert.deepEqual(bare(schema, ''), []);
  });
});

describe('the page on policies', () => {
  const rows = new Map([...text('docs/policies.md').matchAll(/^\| `(\w+)` \| (.+?) \| .+ \|$/gm)].map(([, name, second]) => [name, second]));
  const { properties } = schema.properties.policies.additionalProperties;

  test('has every field of a policy, with its default', () => {
    for (const [name, form] of Object.entries(properties)) {
      assert.ok(rows.has(name), `${name} is missing`);
      if (form.default !== undefined) assert.equal(rows.get(name).replaceAll('`', ''), `${form.default}`, name);
      for (const [inner, { default: value }] of Object.entries(form.properties ?? {})) {
        if (value !== undefined) assert.ok(rows.get(name).includes(`"${inner}": ${value}`), `${name}.${inner} is ${value}: ${rows.get(name)}`);
      }
    }
  });

  test('has no field that there is not', () => {
    const table = text('docs/policies.md').split('| `preset` |')[1].split('\n\n')[0];
    for (const [, name] of table.matchAll(/^\| `(\w+)` \|/gm)) assert.ok(Object.hasOwn(properties, name), name);
  });
});
