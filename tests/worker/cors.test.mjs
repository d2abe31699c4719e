// What a browser asks before it lets a page use the gateway (Fetch, "HTTP-CORS protocol"), and what a page may read.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import OpenAI from 'openai';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway } from './gateway.mjs';

const APP = 'https://app.example.com';
const OTHER_APP = 'http://localhost:5173';
const KEY = 'sk-client';
const CHAT = '/v1/chat/completions';
const BODY = { model: 'qwen', messages: [] };
/** All that the OpenAI SDKs send, on one condition or another. */
const SDK_HEADERS = [
  'accept', 'authorization', 'content-type', 'user-agent', 'x-stainless-arch', 'x-stainless-lang', 'x-stainless-os',
  'x-stainless-package-version', 'x-stainless-retry-count', 'x-stainless-runtime', 'x-stainless-runtime-version',
  'x-stainless-timeout', 'x-stainless-async', 'x-stainless-read-timeout', 'x-stainless-helper-method',
  'x-stainless-poll-helper', 'x-stainless-custom-poll-interval', 'openai-organization', 'openai-project', 'openai-beta',
  'api-key',
];
const OWN_HEADERS = ['x-fairlead-deadline-ms', 'x-fairlead-policy', 'x-request-id', 'traceparent', 'x-api-key'];
const EXPOSED = [
  'x-request-id', 'x-fairlead-endpoint', 'x-fairlead-attempts', 'x-fairlead-truncated', 'server-timing', 'retry-after',
  'x-should-retry', 'ratelimit', 'ratelimit-policy',
];

let vllm;
let gateway;
let everybody;
let nobody;
before(async () => {
  vllm = await startVllm();
  const start = (cors) => startGateway({
    endpoints: endpointsOf({ vllm }),
    models: [{ name: 'qwen', targets: [{ endpoint: 'vllm' }] }],
    policies: { default: { backoff: { base_ms: 1 } } },
    clients: [{ name: 'page', keys_sha256: [sha256(KEY)] }],
    ...(cors && { cors }),
  });
  gateway = await start({ origins: [APP, OTHER_APP] });
  everybody = await start({ origins: ['*'] });
  nobody = await start();
});
after(async () => {
  await Promise.all([gateway.close(), everybody.close(), nobody.close()]);
  await vllm.close();
  for (const each of [gateway, everybody, nobody]) assert.deepEqual(each.troubles, []);
});

const listed = (headers, name) => headers.get(name).split(',').map((each) => each.trim()).sort();

/** What a browser sends before a request that a form could not make. It carries no key. */
function preflight(origin, { on = gateway, path = CHAT, method = 'POST', headers = SDK_HEADERS } = {}) {
  return on.fetch(path, {
    method: 'OPTIONS',
    headers: {
      origin, 'access-control-request-method': method, 'access-control-request-headers': headers.join(', '),
    },
  });
}

describe('a preflight', () => {
  const routes = { [CHAT]: 'POST', '/v1/models': 'GET', '/v1/audio/transcriptions': 'POST' };
  for (const [path, method] of Object.entries(routes)) {
    it(`lets a page of an allowed origin use ${path} with every header of the SDKs and the gateway`, async () => {
      const headers = [...SDK_HEADERS, ...OWN_HEADERS];
      const response = await preflight(APP, { path, method, headers });
      assert.equal(response.status, 204);
      assert.equal(response.headers.get('access-control-allow-origin'), APP);
      assert.ok(listed(response.headers, 'access-control-allow-methods').includes(method));
      assert.deepEqual(listed(response.headers, 'access-control-allow-headers'), headers.toSorted());
      assert.ok(Number(response.headers.get('access-control-max-age')) > 0);
      assert.match(response.headers.get('vary'), /origin/i);
      // Keys travel in headers: a cookie is never wanted.
      assert.equal(response.headers.get('access-control-allow-credentials'), null);
    });
  }

  it('names every header that this SDK really sends', async () => {
    let sent;
    const client = new OpenAI({
      baseURL: `${gateway.url}/v1`, apiKey: KEY, maxRetries: 0,
      fetch(url, init) {
        sent = [...new Headers(init.headers).keys()];
        return fetch(url, init);
      },
    });
    await client.chat.completions.create(BODY, { timeout: 20_000 });
    assert.deepEqual(sent.filter((name) => !SDK_HEADERS.includes(name)), []);
  });

  it('answers each allowed origin with its own name', async () => {
    const response = await preflight(OTHER_APP);
    assert.equal(response.headers.get('access-control-allow-origin'), OTHER_APP);
  });

  const foreign = [
    'https://evil.example', 'null', `${APP}.evil.example`, 'https://evil.app.example.com', 'http://app.example.com',
    `${APP}:8443`, APP.toUpperCase(), '*',
  ];
  for (const origin of foreign) {
    it(`gives ${origin} nothing`, async () => {
      const { headers } = await preflight(origin);
      for (const name of ['origin', 'methods', 'headers', 'credentials']) {
        assert.equal(headers.get(`access-control-allow-${name}`), null);
      }
      // Or a cache might hand this answer to a page that may read it.
      assert.match(headers.get('vary'), /origin/i);
    });
  }

  it('gives nobody anything, where CONFIG names no origin', async () => {
    const { headers } = await preflight(APP, { on: nobody });
    assert.equal(headers.get('access-control-allow-origin'), null);
  });

  it('gives everybody everything under `*`, and still by name, because `*` does not cover Authorization', async () => {
    const { headers } = await preflight('https://anything.example', { on: everybody });
    assert.equal(headers.get('access-control-allow-origin'), '*');
    assert.deepEqual(listed(headers, 'access-control-allow-headers'), SDK_HEADERS.toSorted());
    assert.equal(headers.get('access-control-allow-credentials'), null);
  });

  it('touches no endpoint', () => assert.ok(vllm.requests.every(({ method }) => method === 'POST')));
});

describe('a page of an allowed origin may read', () => {
  const good = { authorization: `Bearer ${KEY}` };
  const cases = {
    'an answer': [CHAT, { body: BODY, headers: good }, 200],
    'a stream': [CHAT, { body: { ...BODY, stream: true }, headers: good }, 200],
    'the list of models': ['/v1/models', { headers: good }, 200],
    'that its key is wrong': [CHAT, { body: BODY, headers: {} }, 401],
    'that its body is wrong': [CHAT, { body: {}, headers: good }, 400],
    'that there is no such path': ['/version', { headers: good }, 404],
    'that the method is wrong': [CHAT, { headers: good }, 405],
    'that the endpoint failed': [CHAT, { body: { ...BODY, sim: 'http-503' }, headers: good }, 503],
    "an endpoint's refusal": [CHAT, { body: { ...BODY, sim: 'http-422' }, headers: good }, 422],
  };
  for (const [name, [path, { headers, ...more }, status]] of Object.entries(cases)) {
    it(name, async () => {
      const response = await gateway.fetch(path, { ...more, headers: { ...headers, origin: APP } });
      await response.text();
      assert.equal(response.status, status);
      assert.equal(response.headers.get('access-control-allow-origin'), APP);
      assert.deepEqual(listed(response.headers, 'access-control-expose-headers'), EXPOSED.toSorted());
      assert.equal(response.headers.get('timing-allow-origin'), APP);
      assert.match(response.headers.get('vary'), /origin/i);
    });
  }

  it('and a page of another origin may not', async () => {
    for (const [on, origin] of [[gateway, 'https://evil.example'], [nobody, APP]]) {
      const response = await on.fetch(CHAT, { body: BODY, headers: { ...good, origin } });
      // The endpoint, asked with an origin, would have allowed every page.
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('access-control-allow-origin'), null);
      assert.equal(response.headers.get('access-control-expose-headers'), null);
    }
  });

  it('and under `*` every page may', async () => {
    const response = await everybody.fetch(CHAT, { body: BODY, headers: { ...good, origin: 'https://x.example' } });
    assert.equal(response.headers.get('access-control-allow-origin'), '*');
  });

  it('and whoever is no page gets none of it', async () => {
    const response = await gateway.fetch(CHAT, { body: BODY, headers: good });
    for (const [name] of response.headers) assert.doesNotMatch(name, /^access-control|^timing-allow/);
  });
});
