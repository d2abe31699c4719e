import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { folderOfExamples } from '../tests/docs/stand.mjs';
import { root } from './process.mjs';

function start(port) {
  const child = spawn(process.execPath, [join(root, 'scripts', 'start.mjs')], {
    cwd: root, env: { ...process.env, PORT: String(port) }, stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.said = '';
  const hear = (text) => { child.said += text; };
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', hear);
  return child;
}

/**
 * A server on a port that was free, below those that systems give to whoever asks for any: whatever else starts
 * meanwhile does not take it.
 */
async function listen() {
  for (;;) {
    const server = createServer();
    server.listen(10_000 + Math.floor(Math.random() * 20_000), '127.0.0.1');
    const [error] = await Promise.race([once(server, 'listening'), once(server, 'error').catch((error) => [error])]);
    if (error === undefined) return server;
    assert.equal(error.code, 'EADDRINUSE');
  }
}

test('a taken port is refused at once', async () => {
  const other = await listen();
  const child = start(other.address().port);
  const [code] = await once(child, 'close');
  other.close();
  assert.match(child.said, /is taken\. Choose another: PORT=/);
  assert.equal(code, 1);
});

describe('npm start', () => {
  let child;
  let port;

  before(async () => {
    const server = await listen();
    ({ port } = server.address());
    await new Promise((resolve) => server.close(resolve));
    child = start(port);
    while (!child.said.includes('Ctrl-C ends')) {
      await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
      assert.equal(child.exitCode, null, child.said);
    }
  });
  after(() => child.kill('SIGKILL'));

  /** Runs the curl line that was printed under this heading, as it was printed. */
  async function curl(heading) {
    const [, line] = child.said.match(new RegExp(`${heading}:\\n((?:.*\\\\\\n)*.*)\\n`));
    const { stdout } = await promisify(execFile)('sh', ['-c', `${line.trim()} --silent --include`]);
    return stdout;
  }

  test('streams a chat to the curl line that it prints', async () => {
    const answer = await curl('Stream a chat');
    assert.match(answer, /^x-fairlead-endpoint: demo-a\r$/m);
    assert.match(answer, /"finish_reason":"stop"/);
    assert.match(answer, /data: \[DONE\]\n\n$/);
  });

  test('shows a failover', async () => {
    const answer = await curl('The first endpoint is down, the second answers');
    assert.match(answer, /^x-fairlead-endpoint: demo-b\r$/m);
    assert.match(answer, /^x-fairlead-attempts: 2\r$/m);
    assert.match(answer, /data: \[DONE\]\n\n$/);
  });

  test('shows retries', async () => {
    const answer = await curl('Each endpoint is overloaded once, and the call is tried again');
    assert.match(answer, /^x-fairlead-attempts: 3\r$/m);
    assert.match(answer, /data: \[DONE\]\n\n$/);
  });

  test('shows that a broken stream never ends like a whole one', async () => {
    const answer = await curl('A stream that breaks in its middle says so, and never ends like a whole one');
    assert.match(answer, /"code":"stream_interrupted"/);
    assert.doesNotMatch(answer, /\[DONE\]/);
  });

  test('shows a stream that goes on', async () => {
    const answer = await curl('A stream that breaks, and goes on at the other server');
    assert.match(answer, /^: resumed by continue, attempt 2$/m);
    assert.match(answer, /data: \[DONE\]\n\n$/);
  });

  test('shows what docs/resume.md shows', async () => {
    const page = readFileSync(join(root, 'docs', 'resume.md'), 'utf8');
    const commands = [...page.matchAll(/^```sh demo\n([^]*?)^```\n\n```text\n([^]*?)^```/gm)];
    assert.equal(commands.length, [...page.matchAll(/^curl /gm)].length);
    for (const [, command, shown] of commands) {
      const line = command.trim().replace('http://127.0.0.1:8787', `http://127.0.0.1:${port}`);
      const { stdout } = await promisify(execFile)('sh', ['-c', `${line} --silent`]);
      // The lines that are shown, in their order, others between them; what an ellipsis stands for is left open.
      let rest = stdout.replaceAll('\r', '').split('\n');
      for (const expected of shown.trim().split('\n')) {
        const parts = expected.split('…').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
        const at = rest.findIndex((each) => new RegExp(`^${parts.join('.*')}$`).test(each));
        assert.notEqual(at, -1, `no ${expected}\nbehind ${line}\nin ${stdout}`);
        rest = rest.slice(at + 1);
      }
    }
  });

  test('answers what README.md asks it', async () => {
    const page = readFileSync(join(root, 'README.md'), 'utf8').replaceAll('http://127.0.0.1:8787', `http://127.0.0.1:${port}`);
    const examples = (kind) => [...page.matchAll(new RegExp(`^\`\`\`${kind} demo\\n([^]*?)^\`\`\`$`, 'gm'))].map(([, code]) => code);
    const [lines, programs] = [examples('sh'), examples('js')];
    assert.ok(lines.length > 0 && programs.length > 0);
    for (const line of lines) {
      const { stdout } = await promisify(execFile)('sh', ['-c', `${line.trim()} --silent`]);
      assert.match(stdout, /data: \[DONE\]\n\n$/);
    }
    const folder = await folderOfExamples();
    try {
      for (const program of programs) {
        writeFileSync(join(folder, 'example.mjs'), program);
        const { stdout } = await promisify(execFile)(process.execPath, ['example.mjs'], { cwd: folder });
        assert.match(stdout, /^A fairlead guides a line/);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('shows a cold start, and then a whole answer', async () => {
    const answer = await curl('A RunPod endpoint that has to start first; .*');
    assert.match(answer, /^: IN_QUEUE \d+ s$/m);
    assert.match(answer, /data: \[DONE\]\n\n$/);
  });

  test('shows a job by itself', async () => {
    const answer = await curl('A job by itself, in RunPod\'s own words');
    assert.match(answer, /"status":"COMPLETED"/);
    assert.match(answer, /"id":"[\w-]+\.[0-9a-f]{20}"/);
  });

  test('serves a page to play with, which the gateway lets call it', async () => {
    const [, page] = child.said.match(/A page to play with: (\S+)/);
    for (const [path, type] of [
      ['/', 'text/html; charset=utf-8'], ['/demo.css', 'text/css; charset=utf-8'], ['/demo.js', 'text/javascript; charset=utf-8'],
      ['/fairlead/index.js', 'text/javascript; charset=utf-8'], ['/setup.json', 'application/json'],
    ]) {
      const response = await fetch(page + path);
      assert.equal(response.status, 200, path);
      assert.equal(response.headers.get('content-type'), type, path);
    }
    for (const path of ['/fairlead/..%2fpackage.json', '/.inputs.sha256', '/fairlead/', '/start.mjs']) {
      assert.equal((await fetch(page + path)).status, 404, path);
    }
    const { gateway, servers, model } = await (await fetch(`${page}/setup.json`)).json();
    assert.equal(gateway, `http://127.0.0.1:${port}/v1`);
    assert.deepEqual(servers.map(({ name }) => name), ['demo-a', 'demo-b']);
    const calls = [{ url: gateway, model: 'demo', headers: { 'x-fairlead-policy': 'page' } }, ...servers.map(({ url }) => ({ url, model }))];
    for (const { url, model, headers } of calls) {
      const response = await fetch(`${url}/chat/completions`, {
        method: 'POST', headers: { 'content-type': 'application/json', origin: page, ...headers },
        body: JSON.stringify({ model, messages: [{ role: 'user', content: 'Hello' }] }),
      });
      assert.equal(response.status, 200, url);
      assert.match(response.headers.get('access-control-allow-origin'), new RegExp(`^(\\*|${page})$`), url);
    }
  });

  test('serves the dashboard, as the platform does it, with the key that it prints', async () => {
    const [, dashboard] = child.said.match(/The dashboard: (\S+)/);
    const { origin, hash } = new URL(dashboard);
    const policy = readFileSync(join(root, 'worker', 'dashboard', '_headers'), 'utf8').match(/Content-Security-Policy: (.*)/)[1];
    for (const [path, type] of [['/', 'text/html'], ['/dashboard/main.js', 'text/javascript'], ['/dashboard/style.css', 'text/css']]) {
      const { status, headers } = await fetch(origin + path);
      assert.deepEqual([status, headers.get('content-type').split(';')[0], headers.get('content-security-policy')], [200, type, policy]);
    }
    // The assets stand before no route, and what is no asset is the Worker's.
    for (const [path, expected] of [['/health', 200], ['/status', 401], ['/v1/models', 200], ['/dashboard/nothing', 404], ['/_headers', 404]]) {
      assert.equal((await fetch(origin + path)).status, expected, path);
    }
    const headers = { authorization: `Bearer ${new URLSearchParams(hash.slice(1)).get('key')}` };
    assert.equal((await fetch(`${origin}/status`, { headers })).status, 200);
  });

  test('ends all of it at a signal, and says so with success', async () => {
    child.kill('SIGTERM');
    const [code] = await once(child, 'close');
    assert.equal(code, 0);
    const urls = new Set(child.said.match(/http:\/\/127\.0\.0\.1:\d+/g));
    assert.equal(urls.size, 5, 'the gateway, two servers, a RunPod and the page');
    for (const url of urls) {
      await assert.rejects(fetch(url), ({ cause }) => cause.code === 'ECONNREFUSED');
    }
  });
});
