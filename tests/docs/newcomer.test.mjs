// What a newcomer does by the README alone: make a key, write a configuration, have its mistakes found, serve it on this
// machine with its keys, and ask it: by curl, by OpenAI's client for Python, in a browser.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { chromium } from 'playwright-core';
import { root } from '../../scripts/process.mjs';
import { bin, ensureChromium } from '../../scripts/setup.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { blocksOf } from './pages.mjs';
import { ensureOpenai } from './python.mjs';

const python = await ensureOpenai();
/** What belongs to the repository and is not changed. */
const SHARED = ['worker', 'scripts', 'src', 'host', 'pkg-js', 'examples', 'tests', 'node_modules', '.tools', 'package.json', 'Cargo.toml', 'Cargo.lock'];

describe('a newcomer', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-newcomer-'));
  const env = {
    ...process.env, PATH: [dirname(bin('node')), process.env.PATH].join(delimiter),
    CI: '1', WRANGLER_SEND_METRICS: 'false', CLOUDFLARE_CF_FETCH_ENABLED: 'false',
  };
  let vllm;
  let client;
  let admin;
  let dev;
  let url;

  before(async () => {
    vllm = await startVllm({ apiKey: 'of-the-endpoint', models: ['Qwen/Qwen2.5-7B-Instruct'] });
    for (const name of SHARED) symlinkSync(join(root, name), join(folder, name));
    copyFileSync(join(root, 'wrangler.toml'), join(folder, 'wrangler.toml'));
  });
  after(async () => {
    await dev?.stop();
    await vllm.close();
    rmSync(folder, { recursive: true, maxRetries: 3 });
  });

  /** A command that is typed in the folder. */
  const type = (command, args) => new Promise((resolve) => {
    execFile(command, args, { cwd: folder, env }, (error, stdout, stderr) => resolve({ code: error?.code ?? 0, said: stdout + stderr, stdout }));
  });

  /** wrangler.toml with this in place of the demo, which is all below `[vars]`. */
  function configure(config) {
    const above = readFileSync(join(root, 'wrangler.toml'), 'utf8').split(/^# The demo: /m)[0];
    writeFileSync(join(folder, 'wrangler.toml'), `${above}\n[vars]\nCONFIG = '''${JSON.stringify(config)}'''\n`);
  }

  const config = () => ({
    endpoints: [{ name: 'a100', provider: 'vllm', base_url: `${vllm.url}/v1`, api_key_secret: 'VLLM_API_KEY' }],
    models: [{ name: 'qwen', targets: [{ endpoint: 'a100', model: 'Qwen/Qwen2.5-7B-Instruct' }] }],
    clients: [{ name: 'web', keys_sha256: [client.hash] }],
    admin_key_secret: 'ADMIN_KEY',
  });

  it('makes keys, each with its SHA-256', async () => {
    const make = async () => {
      const { code, said } = await type('npm', ['run', '--silent', 'key']);
      assert.equal(code, 0, said);
      const [hash] = said.match(/\b[0-9a-f]{64}\b/);
      const [key] = said.match(/\bfl[-_][\w-]{20,}/) ?? assert.fail(said);
      return { key, hash };
    };
    [client, admin] = [await make(), await make()];
    assert.notEqual(client.key, admin.key);
    const { stdout } = await type('sh', ['-c', `printf %s '${client.key}' | sha256sum`]);
    assert.equal(stdout.split(' ')[0], client.hash);
  });

  it('is told of three mistakes, each by its path, at once', async () => {
    const wrong = config();
    wrong.endpoints[0].base_ulr = 'x';
    wrong.models[0].targets[0].endpoint = 'a10';
    wrong.clients[0].keys_sha256 = ['the key itself'];
    configure(wrong);
    const { code, said } = await type('npm', ['run', '--silent', 'check', '--', 'wrangler.toml']);
    assert.equal(code, 1, said);
    for (const path of ['endpoints[0].base_ulr', 'models[0].targets[0].endpoint', 'clients[0].keys_sha256[0]']) {
      assert.ok(said.includes(path), `no ${path} in\n${said}`);
    }
  });

  it('is told that it is right, and which secrets it wants', async () => {
    configure(config());
    const { code, said } = await type('npm', ['run', '--silent', 'check', '--', 'wrangler.toml']);
    assert.equal(code, 0, said);
    for (const name of ['VLLM_API_KEY', 'ADMIN_KEY']) assert.match(said, new RegExp(`wrangler secret put ${name}`));
  });

  it('serves it on this machine, with its secrets', async () => {
    writeFileSync(join(folder, '.dev.vars'), `VLLM_API_KEY=of-the-endpoint\nADMIN_KEY=${admin.key}\n`);
    const port = await freePort();
    url = `http://127.0.0.1:${port}`;
    dev = start(port);
    await dev.answers();
  });

  it('is answered by curl, and nobody without a key is', async () => {
    const { code } = await blockOf('Deploy', 'sh gateway');
    const [command] = code.trim().split('\n\n');
    const line = command.replaceAll('https://gateway.example.com', url);
    const ask = (KEY) => type('bash', ['-c', `KEY=${KEY}; ${line}`]);
    const { said } = await ask(client.key);
    assert.match(said, /"finish_reason":"stop"[^]*data: \[DONE\]/);
    const { code: refused, said: why } = await ask('another');
    assert.notEqual(refused, 0);
    assert.match(why, /invalid_api_key/);
  });

  it("OpenAI's client for Python", { skip: python === null && 'needs Python 3.10 and PyPI' }, async () => {
    const [{ code }] = blocksOf('docs/recipes.md').filter(({ kind }) => kind === 'python');
    writeFileSync(join(folder, 'chat.py'), code.replaceAll('https://gateway.example.com', url));
    const { said } = await type('env', [`KEY=${client.key}`, python, 'chat.py']);
    assert.equal(said.trim(), DEFAULT_TEXT);
  });

  it('is answered in the browser, in the dashboard', async () => {
    const browser = await chromium.launch({ executablePath: await ensureChromium(), args: ['--headless', '--no-sandbox', '--disable-gpu'] });
    try {
      const page = await browser.newPage();
      const troubles = [];
      page.on('pageerror', (error) => troubles.push(error.message));
      await page.goto(url);
      await page.getByLabel('Admin key').fill(admin.key);
      await page.getByRole('button', { name: 'Show what is going on' }).click();
      await page.getByRole('heading', { name: 'Endpoints' }).waitFor();
      await page.getByLabel('Client key').fill(client.key);
      await page.getByLabel('Model', { exact: true }).fill('qwen');
      await page.getByRole('button', { name: 'Send' }).click();
      await page.locator('#output').getByText(DEFAULT_TEXT).waitFor();
      assert.deepEqual(troubles, []);
    } finally {
      await browser.close();
    }
  });

  function blockOf(heading, kind) {
    return blocksOf('README.md').find((block) => block.heading === heading && block.kind === kind) ?? assert.fail(`no ${kind} below ${heading}`);
  }

  /** `wrangler dev`, as the README has it. */
  function start(port) {
    mkdirSync(join(folder, 'kv'));
    const args = ['wrangler', 'dev', '--ip', '127.0.0.1', '--port', String(port), '--persist-to', join(folder, 'kv')];
    const child = spawn('npx', args, { cwd: folder, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { said += text; });
    const exit = once(child, 'exit');
    const ready = async () => {
      for (const until = Date.now() + 120_000; Date.now() < until;) {
        const response = await fetch(`${url}/health`).catch(() => undefined);
        if (response?.ok) return;
        await new Promise((resolve) => { setTimeout(resolve, 200); });
      }
      assert.fail(`no answer\n${said}`);
    };
    return {
      answers: () => Promise.race([ready(), exit.then(() => assert.fail(said))]),
      async stop() {
        try {
          process.kill(-child.pid, 'SIGTERM');
          await Promise.race([exit, new Promise((resolve) => { setTimeout(resolve, 5000).unref(); })]);
          process.kill(-child.pid, 'SIGKILL');
        } catch (error) {
          if (error.code !== 'ESRCH') throw error;
        }
      },
    };
  }
});

/** Below those that systems give to whoever asks for any: nobody takes it meanwhile. */
async function freePort() {
  for (;;) {
    const server = createServer().listen(10_000 + Math.floor(Math.random() * 20_000), '127.0.0.1');
    const taken = await Promise.race([once(server, 'listening').then(() => false, () => true), once(server, 'error').then(() => true, () => true)]);
    if (taken) continue;
    const { port } = server.address();
    await new Promise((resolve) => { server.close(resolve); });
    return port;
  }
}
