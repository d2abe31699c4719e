// examples/workerd: the configuration for plain workerd, as it ships but for the CONFIG, in front of a simulated vLLM; the
// unit and the image around it as far as they can be tried here.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { capture, root } from '../../scripts/process.mjs';
import { bin } from '../../scripts/setup.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { sha256 } from '../worker/gateway.mjs';

const PLACE = 'examples/workerd';
const read = (name) => readFileSync(join(root, PLACE, name), 'utf8');
const BUILT = ['worker/build/index.js', 'worker/build/index_bg.wasm'];
const KEY = 'fl-of-a-client';
const ADMIN = { authorization: 'Bearer of-the-admin' };

describe('workerd with the configuration that ships', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-workerd-'));
  let vllm;
  let server;

  before(async () => {
    vllm = await startVllm({ apiKey: 'of-the-endpoint' });
    for (const file of [...BUILT, `${PLACE}/config.capnp`]) cpSync(join(root, file), join(folder, file));
    cpSync(join(root, 'worker/dashboard'), join(folder, 'worker/dashboard'), { recursive: true });
    mkdirSync(join(folder, 'state'));
    const config = JSON.parse(read('config.json'));
    for (const endpoint of config.endpoints) endpoint.base_url = `${vllm.url}/v1`;
    config.clients[0].keys_sha256 = [sha256(KEY)];
    writeFileSync(join(folder, PLACE, 'config.json'), JSON.stringify(config));
    server = await start();
  });
  after(async () => {
    await server?.stop();
    await vllm.close();
    rmSync(folder, { recursive: true });
  });

  /** workerd, once it listens: on a port that it says itself. */
  async function start() {
    const args = ['serve', `${PLACE}/config.capnp`, '--socket-addr', 'http=127.0.0.1:0', '--control-fd=3'];
    const child = spawn(bin('workerd'), args, {
      cwd: folder, env: { PATH: process.env.PATH, VLLM_API_KEY: 'of-the-endpoint', ADMIN_KEY: 'of-the-admin' },
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    });
    let said = '';
    const heard = new EventEmitter();
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => {
      said += text;
      heard.emit('more');
    });
    const exit = once(child, 'exit');
    const listening = (async () => {
      let told = '';
      for await (const text of child.stdio[3].setEncoding('utf8')) {
        told += text;
        const line = told.split('\n').find((each) => each.includes('"listen"'));
        if (line) return JSON.parse(line).port;
      }
    })();
    const port = await Promise.race([listening, exit.then(() => assert.fail(`workerd ended: ${said}`))]);
    return {
      url: `http://127.0.0.1:${port}`,
      async says(pattern) {
        const signal = AbortSignal.timeout(10_000);
        while (!pattern.test(said)) await once(heard, 'more', { signal });
      },
      async stop() {
        child.kill('SIGTERM');
        return exit;
      },
    };
  }

  const chat = (key) => fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST', headers: { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ model: 'qwen', stream: true, messages: [{ role: 'user', content: 'What is a fairlead?' }] }),
  });

  it('streams a whole chat to a client, with the endpoint\'s key from the environment', async () => {
    const text = await (await chat(KEY)).text();
    const pieces = text.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)));
    assert.equal(pieces.map(({ choices: [choice] }) => choice?.delta.content ?? '').join(''), DEFAULT_TEXT);
    assert.match(text, /data: \[DONE\]\n\n$/);
    assert.equal(vllm.requests[0].headers.authorization, 'Bearer of-the-endpoint');
    await server.says(/^\{.*"event":"call_ended"/m);
  });

  it('lets nobody else in', async () => {
    for (const key of [undefined, 'another']) {
      const response = await chat(key);
      assert.deepEqual([response.status, (await response.json()).error.code], [401, 'invalid_api_key']);
    }
  });

  it('tells its admin how it is, and nobody else', async () => {
    assert.notEqual((await fetch(`${server.url}/status`)).status, 200);
    const status = await (await fetch(`${server.url}/status`, { headers: ADMIN })).json();
    assert.deepEqual([status.store.kind, status.endpoints.map(({ name }) => name)], ['durable_object', ['gpu-1', 'gpu-2']]);
  });

  it('serves the dashboard', async () => {
    const page = await fetch(`${server.url}/`);
    assert.deepEqual([page.status, page.headers.get('content-type')], [200, 'text/html; charset=utf-8']);
    const [, script] = (await page.text()).match(/<script[^>]* src="([^"]+)"/);
    const { status, headers } = await fetch(new URL(script, `${server.url}/`));
    assert.deepEqual([status, headers.get('content-type')], [200, 'text/javascript; charset=utf-8']);
  });

  it('remembers over a restart what an operator has isolated', async () => {
    const order = { method: 'POST', headers: ADMIN, body: '{"state":"isolated"}' };
    assert.deepEqual(await (await fetch(`${server.url}/breakers/gpu-1`, order)).json(), { state: 'isolated', stored: true });
    assert.deepEqual(await server.stop(), [0, null]);
    server = await start();
    const response = await chat(KEY);
    assert.equal(response.headers.get('x-fairlead-endpoint'), 'gpu-2');
    await response.text();
  });
});

describe('around it,', () => {
  const unit = read('fairlead.service');

  it('the unit starts workerd with options and services that there are', () => {
    const [, command] = unit.replaceAll('\\\n', '').match(/^ExecStart=(.*)$/m);
    const [program, , ...args] = command.split(/\s+/);
    assert.equal(args.pop(), `/opt/fairlead/${PLACE}/config.capnp`);
    for (const [at, arg] of args.entries()) {
      if (at % 2 === 0) assert.equal(arg, '--directory-path');
      else assert.match(read('config.capnp'), new RegExp(`name = "${arg.split('=')[0]}", disk = `));
    }
    if (process.platform === 'linux' && process.arch === 'x64') assert.ok(existsSync(program.replace('/opt/fairlead', root)), program);
  });

  const systemd = capture('systemd-analyze', ['--version']) !== undefined;
  it('the unit is right in the eyes of systemd', { skip: !systemd && 'needs systemd-analyze' }, () => {
    const folder = mkdtempSync(join(tmpdir(), 'fairlead-unit-'));
    try {
      writeFileSync(join(folder, 'fairlead.service'), unit.replace(/\/opt\/fairlead\/node_modules\S*/, bin('workerd')));
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', join(folder, 'fairlead.service')], { encoding: 'utf8' });
      assert.deepEqual([status, stderr], [0, '']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('the Containerfile can be parsed, and copies what is there', () => {
    const require = createRequire(join(root, 'docs', 'package.json'));
    const { validate } = require('dockerfile-utils');
    const text = read('Containerfile');
    assert.deepEqual(validate(text, {}).map(({ message, range }) => `${range.start.line + 1}: ${message}`), []);
    const sources = [...text.matchAll(/^COPY (.*) \S+$/gm)].flatMap(([, files]) => files.split(' '));
    assert.ok(sources.length > 4);
    for (const source of sources.filter((each) => !each.includes('workerd-linux-64'))) assert.ok(existsSync(join(root, source)), source);
  });
});
