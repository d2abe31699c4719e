// The checks of `npm run test:live` are checked themselves: a server that keeps to the protocol passes them all, and
// one that does not is told where.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { root } from '../../scripts/process.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway } from '../worker/gateway.mjs';
import { CHECKS, run } from './run.mjs';

const KEY = 'the-key-of-this-test';

/** `npm run test:live` at a server, with these words: { code, said }. */
async function live(target, ...words) {
  const { FAIRLEAD_LIVE_URL, FAIRLEAD_LIVE_KEY, FAIRLEAD_LIVE_MODEL, ...env } = process.env;
  const child = spawn(process.execPath, [join(root, 'scripts', 'live.mjs'), ...words], {
    env: { ...env, ...target }, stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { said += text; });
  const [code] = await once(child, 'close');
  return { code, said };
}

const at = (url, model) => ({ FAIRLEAD_LIVE_URL: `${url}/v1`, FAIRLEAD_LIVE_KEY: KEY, FAIRLEAD_LIVE_MODEL: model });

/** The names of the checks that had this outcome. */
const having = (outcome, said) =>
  [...said.matchAll(new RegExp(`^ {2}${outcome} +([^(\\n]+?)(?: \\(.*\\))?$`, 'gm'))].map(([, name]) => name);

let vllm;
before(async () => { vllm = await startVllm({ models: ['served'], apiKey: KEY, maxModelLen: 4096 }); });
beforeEach(() => vllm.reset());
after(() => vllm.close());

/** A server of one's own, at work on `use`. */
async function withServer(handle, use) {
  const server = createServer(handle).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    return await use(`http://127.0.0.1:${server.address().port}`);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

describe('a server that keeps to the protocol', () => {
  it('passes every check, vLLM itself', async () => {
    const { code, said } = await live(at(vllm.url, 'served'));
    assert.equal(code, 0, said);
    assert.deepEqual(having('not offered', said), ['models: one by its name']);
    assert.equal(having('passed', said).length, CHECKS.length - 1, said);
    assert.match(said, /first content after \d+ ms/);
  });

  it('passes every check, the gateway in front of it', async () => {
    const gateway = await startGateway({
      endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'VLLM_API_KEY' })),
      models: [{ name: 'asked', targets: [{ endpoint: 'vllm', model: 'served' }] }],
      clients: [{ name: 'live', keys_sha256: [sha256(KEY)] }],
    }, { secrets: { VLLM_API_KEY: KEY } });
    try {
      const { code, said } = await live(at(gateway.url, 'asked'));
      assert.equal(code, 0, said);
      assert.deepEqual(having('skipped', said), ['refusal: a prompt that is too long']);
      assert.equal(having('passed', said).length, CHECKS.length - 1, said);
      assert.match(said, /by endpoint vllm, attempts: 1/);
      assert.deepEqual(gateway.troubles, []);
    } finally {
      await gateway.close();
    }
  });

  it('need not have every route, nor a key', async () => {
    const open = await startVllm({ models: ['served'] });
    const chatOnly = async (request, response) => {
      const isChat = request.url === '/v1/chat/completions';
      const body = request.method === 'POST' ? await bodyOf(request) : undefined;
      const answer = await fetch(`${open.url}${isChat ? request.url : '/none'}`, {
        method: request.method, body, headers: { 'content-type': 'application/json' },
      });
      response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') });
      for await (const chunk of answer.body) response.write(chunk);
      response.end();
    };
    const { code, said } = await withServer(chatOnly, (url) => live(at(url, 'served')));
    await open.close();
    assert.equal(code, 0, said);
    const absent = CHECKS.map(({ name }) => name).filter((name) => !/^(chat|stream|refusal):/.test(name));
    assert.deepEqual(having('not offered', said).sort(), [...absent, 'refusal: a wrong key'].sort());
  });
});

describe('a server that does not', () => {
  for (const [fault, check, difference] of [
    ['end-without-done', 'stream: a chat', '[DONE]: expected once, came 0'],
    ['done-without-finish', 'stream: a chat', 'choices that have a finish_reason: expected "0", came nothing'],
    ['cut', 'stream: a chat', 'the stream: expected a clean end, came a connection that breaks'],
    ['malformed', 'stream: a chat', 'event 3: expected JSON, came a text of'],
    ['error-mid-stream', 'stream: a chat', 'expected no error, came an error, 500'],
    ['json-for-stream', 'stream: a chat', 'content-type: expected text/event-stream, came "application/json"'],
    ['html', 'chat: a whole answer', 'content-type: expected application/json, came "text/html'],
    ['http-500', 'chat: a whole answer', 'status: expected 200, came 500'],
    ['abort', 'chat: a whole answer', 'finish_reason: expected "stop" or "length", came "abort"'],
    [{ text: '(1) {' }, 'chat: JSON by a schema', 'message.content: expected a JSON object, came a text of 5'],
    [{ fault: 'status', status: 200, body: '{}' }, 'refusal: broken JSON', 'status: expected 400, came 200'],
    ['reset', 'completions: a whole answer', 'the answer: expected one that can be read, came TypeError'],
  ]) {
    it(`is told so: ${JSON.stringify(fault)}`, async () => {
      vllm.script(fault);
      let said = '';
      const say = (line) => { said += `${line}\n`; };
      const checks = CHECKS.filter(({ name }) => name === check);
      const { differs } = await run({ url: `${vllm.url}/v1`, key: KEY, model: 'served' }, checks, say);
      assert.equal(differs, 1, said);
      assert.ok(said.includes(difference), said);
    });
  }

  it('may say what it will: neither the key nor a prompt is repeated', async () => {
    const echo = async (request, response) => {
      const heard = `${request.headers.authorization} ${await bodyOf(request)}`;
      const choices = [{ finish_reason: KEY, message: heard }];
      const json = { id: heard, object: KEY, error: { message: heard, type: KEY }, choices, usage: heard };
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(json));
    };
    const { code, said } = await withServer(echo, (url) => live(at(url, 'served')));
    assert.equal(code, 1);
    assert.ok(having('DIFFERS', said).length > 20, said);
    assert.doesNotMatch(said, new RegExp(`${KEY}|Say hello|Count from|Switzerland`));
  });

  it('and one that is not there is named once', async () => {
    const url = await withServer(() => {}, (free) => free);
    const { code, said } = await live(at(url, 'served'));
    assert.match(said, /gives no answer \(ECONNREFUSED\)/);
    assert.equal(having('DIFFERS', said).length, 0);
    assert.equal(code, 1);
  });
});

describe('npm run test:live', () => {
  it('skips aloud what it cannot ask', async () => {
    const { code, said } = await live({ FAIRLEAD_LIVE_URL: `${vllm.url}/v1` });
    assert.match(said, /^SKIPPED: .*FAIRLEAD_LIVE_KEY, FAIRLEAD_LIVE_MODEL are not set/);
    assert.doesNotMatch(said, /FAIRLEAD_LIVE_URL/);
    for (const { name } of CHECKS) assert.ok(said.includes(`  ${name}\n`), name);
    assert.equal(code, 0);
    assert.equal(vllm.requests.length, 0);
  });

  it('runs the checks whose names hold one of its words', async () => {
    const { said } = await live(at(vllm.url, 'served'), 'embeddings', 'models');
    assert.match(said, /\n3 passed, 1 not offered\n$/);
    const { code, said: nothing } = await live(at(vllm.url, 'served'), 'no such check');
    assert.match(nothing, /No check has no such check in its name/);
    assert.equal(code, 1);
  });

  it('is shown in docs/live-test.md with checks that there are', () => {
    const page = readFileSync(join(root, 'docs', 'live-test.md'), 'utf8');
    const names = ['passed', 'DIFFERS', 'not offered'].flatMap((outcome) => having(outcome, page));
    assert.equal(names.length, 3);
    for (const shown of names) assert.ok(CHECKS.some(({ name }) => name === shown), shown);
  });

  it('wants a URL', async () => {
    const { code, said } = await live({ ...at(vllm.url, 'served'), FAIRLEAD_LIVE_URL: 'gateway.example.com/v1' });
    assert.match(said, /FAIRLEAD_LIVE_URL is no http or https URL/);
    assert.equal(code, 1);
  });
});
