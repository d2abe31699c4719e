// What is done with each kind of block, by its info string. Every function fails where the block is wrong.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from '../../scripts/process.mjs';
import { bin } from '../../scripts/setup.mjs';
import { BASE } from './stand.mjs';

/** Blocks that another test runs: where it is, and of which pages. */
export const ELSEWHERE = {
  'js demo': { test: 'scripts/start.test.mjs', pages: ['README.md'] },
  'sh demo': { test: 'scripts/start.test.mjs', pages: ['README.md', 'docs/resume.md'] },
  'python handler': { test: 'tests/upstream/handlers-page.test.mjs', pages: ['docs/handlers.md'] },
  sql: { test: 'tests/worker/operate.test.mjs', pages: ['docs/operate.md'] },
  'sh install': { test: 'tests/consumers/project.mjs', pages: ['pkg-js/README.md'] },
  ...Object.fromEntries(['ts', 'tsx', 'html'].map((kind) => [kind, { test: 'tests/sdk/readme.test.mjs', pages: ['pkg-js/README.md'] }])),
};

/** Shown, and not run: what a command prints, a header, a picture. */
const SHOWN = () => {};

/** By kind: what is done with a block, given it, the stand, and what the one before it has printed. */
export const KINDS = {
  text: SHOWN,
  'json config': ({ code }) => assertValid(JSON.parse(code)),
  'json fragment': ({ code }) => assertValid(merged(JSON.parse(code))),
  'json fragment here': async ({ code }, stand) => {
    assertValid(merged(JSON.parse(code)));
    await stand.renew(JSON.parse(code));
  },
  'json answer': ({ code }, _, printed) => {
    const shown = JSON.parse(code);
    if (printed !== undefined) assertAlike(shown, JSON.parse(printed), '');
  },
  toml: ({ code }) => assertWranglerReads(code),
  'sh gateway': ({ code }, stand) => stand.shell(code),
  'sh local': ({ code }, stand) => inCheckout((cwd) => stand.shell(code, { cwd, env: OFFLINE })),
  'sh wrangler': ({ code }) => commandsOf(code).forEach(assertKnown),
  'sh host': ({ code }) => assertPasted(code),
  'sh long': ({ code }) => commandsOf(code).forEach(assertKnown),
  js: async ({ code }, stand) => assert.notEqual(await stand.script(code, 'example.mjs', bin('node')), '', 'it shows nothing'),
  python: async ({ code }, stand, _, python) => assert.notEqual(await stand.script(code, 'example.py', python), '', 'it shows nothing'),
};

const OFFLINE = {
  CARGO_NET_OFFLINE: 'true', npm_config_offline: 'true', HTTPS_PROXY: 'http://127.0.0.1:9', WRANGLER_SEND_METRICS: 'false', CI: '1',
};

/** The base with these keys in place of its own; what is left of the base leads to nothing that is gone. */
function merged(fragment) {
  const config = { ...BASE, ...fragment };
  const endpoints = new Set(config.endpoints.map(({ name }) => name));
  if (!fragment.models) {
    config.models = config.models.map((model) => ({ ...model, targets: model.targets.filter(({ endpoint }) => endpoints.has(endpoint)) }));
  }
  if (!fragment.clients) {
    config.clients = config.clients.map((client) => ({
      ...client,
      policies: client.policies.filter((name) => Object.hasOwn(config.policies, name)),
      runpod: client.runpod.filter((name) => config.endpoints.some((endpoint) => endpoint.name === name && endpoint.native)),
    }));
  }
  return config;
}

/** The core has no word against this CONFIG, nor a warning. */
function assertValid(config) {
  const names = (list, field) => (list ?? []).map((each) => each[field]).filter(Boolean);
  const limiters = (config.clients ?? []).filter((client) => client.rate_limiter)
    .map((client) => [client.rate_limiter, client.rate_limiter_period_ms ?? 60_000]);
  const input = { CONFIG: config, services: names(config.endpoints, 'via'), rate_limiters: Object.fromEntries(limiters) };
  const { stdout, stderr, status } = spawnSync('cargo', ['run', '--quiet', '--package', 'fairlead-core', '--example', 'check'], {
    cwd: root, input: JSON.stringify(input), encoding: 'utf8',
  });
  assert.deepEqual([stdout, status], ['', 0], stderr);
}

/** Objects whose names are data: codes, reasons. */
const OF_DATA = ['outcomes', 'failures', 'refused'];

/** What is shown has the names that a live answer has, wherever both have something. */
function assertAlike(shown, live, path) {
  if (Array.isArray(shown) && Array.isArray(live)) {
    if (shown.length > 0 && live.length > 0) assertAlike(shown[0], live[0], `${path}[0]`);
  } else if (isObject(shown) && isObject(live)) {
    if (OF_DATA.some((name) => path.endsWith(`.${name}`))) return;
    assert.deepEqual(Object.keys(shown).sort(), Object.keys(live).sort(), `the names in ${path || 'the answer'}`);
    for (const name of Object.keys(shown)) assertAlike(shown[name], live[name], `${path}.${name}`);
  } else if (shown !== null && live !== null) {
    assert.equal(typeof shown, typeof live, path);
  }
}

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** wrangler reads it without a warning; a CONFIG in it is valid. */
async function assertWranglerReads(code) {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-toml-'));
  const said = [];
  const { warn, log } = console;
  try {
    const file = join(folder, 'wrangler.toml');
    const head = ['name = "fairlead"', 'compatibility_date = "2026-11-17"'];
    writeFileSync(file, `${head.filter((line) => !code.includes(line.split(' ')[0])).join('\n')}\n${code}`);
    const { unstable_readConfig: readConfig } = await import('wrangler');
    console.warn = console.log = (text) => said.push(text);
    const environments = ['', ...[...code.matchAll(/^\[+env\.(\w+)/gm)].map(([, name]) => name)];
    for (const env of new Set(environments)) {
      const { vars } = readConfig({ config: file, env: env || undefined });
      const own = Object.entries(vars ?? {}).filter(([name]) => /^CONFIG(_|$)/.test(name));
      const keys = own.map(([name, value]) => (name === 'CONFIG' ? value : { [name.slice('CONFIG_'.length).toLowerCase()]: value }));
      if (own.length > 0) assertValid(merged(Object.assign({}, ...keys)));
    }
  } finally {
    Object.assign(console, { warn, log });
    rmSync(folder, { recursive: true });
  }
  assert.deepEqual(said, []);
}

/** Does something in a folder that looks like the repository, and whose files of its own may be changed. */
async function inCheckout(use) {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-checkout-'));
  try {
    for (const name of readdirSync(root).filter((each) => !['.git', 'wrangler.toml', '.dev.vars'].includes(each))) {
      symlinkSync(join(root, name), join(folder, name));
    }
    writeFileSync(join(folder, 'wrangler.toml'), readFileSync(join(root, 'wrangler.toml')));
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The commands of a block as lists of words, without what stands before and between them. */
export function commandsOf(code) {
  return code.replaceAll('\\\n', ' ').split('\n')
    .flatMap((line) => line.replace(/(^|\s)#.*$/, '').split(/&&|\|\||[|;]/))
    .map((command) => command.match(/"[^"]*"|'[^']*'|\$\([^)]*\)|\S+/g) ?? [])
    .map((words) => words.slice(words.findIndex((word) => !/^[A-Z_]+=/.test(word))))
    .filter((words) => words.length > 0);
}

/** Bash can read it, and the files of the repository that it names are there. */
function assertPasted(code) {
  execFileSync('bash', ['-n', '-c', code]);
  for (const [file] of code.matchAll(/\b(examples|worker|scripts|docs)\/[\w./-]+/g)) assert.ok(existsSync(join(root, file)), file);
}

const SCRIPTS = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).scripts;
/** What stands between the commands of wrangler and npm, and is known well enough. */
const OF_THE_SHELL = ['cd', 'git', 'cp', 'printf', 'echo', 'cat', 'export', 'openssl', 'curl', 'mkdir'];

/** A command that is not run: wrangler knows its subcommand and its flags, npm its script. */
export function assertKnown(words) {
  const [program, ...rest] = words[0] === 'npx' ? words.slice(1) : words;
  if (program === 'npm') {
    const script = rest[0] === 'run' ? rest[1] : rest[0];
    assert.ok(Object.hasOwn(SCRIPTS, script) || ['ci', 'install'].includes(script), `there is no npm ${rest.join(' ')}`);
  } else if (program === 'cargo') {
    const name = rest[rest.indexOf('--example') + 1];
    assert.ok([`${name}.rs`, `${name}/main.rs`].some((file) => existsSync(join(root, 'examples', file))), `no example ${name}`);
  } else if (program === 'node' || program.includes('/')) {
    const file = program === 'node' ? rest[0] : program;
    assert.ok(existsSync(join(root, file)), `there is no ${file}`);
  } else if (program === 'wrangler') {
    const end = rest.findIndex((word) => /^[-<>]/.test(word));
    const plain = end < 0 ? rest : rest.slice(0, end);
    const help = helpOf(plain);
    const flags = rest.filter((word) => word.startsWith('-') && word !== '--').map((word) => word.split('=')[0]);
    for (const flag of flags) assert.match(help, new RegExp(`(^|[ ,])${flag}([ ,]|$)`, 'm'), `wrangler ${plain.join(' ')} has no ${flag}`);
  } else {
    assert.ok(OF_THE_SHELL.includes(program), `${program} is no command that is known here`);
  }
}

const helps = new Map();

/** The help of the subcommand that these words begin with; the others have to be its operands. */
function helpOf(words) {
  const known = [...helps.keys()].find((names) => names === words.slice(0, names.split(' ').length).join(' ') && names !== '');
  if (known) return helps.get(known);
  const help = execFileSync(bin('node'), [bin('wrangler'), ...words, '--help'], {
    encoding: 'utf8', env: { ...process.env, WRANGLER_SEND_METRICS: 'false', NO_COLOR: '1' }, stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [, usage] = help.match(/^wrangler (.*)$/m);
  const names = usage.split(' ').filter((word) => /^[a-z]/.test(word));
  assert.deepEqual(words.slice(0, names.length), names, `wrangler has no ${words.join(' ')}`);
  const operands = usage.split(' ').length - names.length;
  assert.ok(words.length - names.length <= operands || /\.\./.test(usage), `wrangler ${usage} takes less than ${words.join(' ')}`);
  helps.set(names.join(' '), help);
  return help;
}
