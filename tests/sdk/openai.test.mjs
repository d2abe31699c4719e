// The `openai` SDK by itself and with `fetch: ai.fetch`, against an endpoint whose first answer goes wrong.
//
// By itself it asks again, if it may, where a connection fails before the headers or the status says so. Its timeout
// ends at the headers: a stream that falls silent behind them is waited for without end. And a stream that ends too
// early, or a 200 that is no answer at all, it takes for a whole one.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import { Fairlead } from '../../pkg-js/dist/node.js';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';

/** The SDK's own, for what comes before the headers. */
const TIMEOUT_MS = 500;
const RETRY_AFTER_S = 1;
const POLICY = {
  firstTokenMs: 400, idleMs: 400, backoff: { baseMs: 10, throttledBaseMs: 10 }, breaker: { enabled: false },
};

const WHOLE = { text: DEFAULT_TEXT };
const HANGS = { hangs: true };
const fails = (name, more) => ({ error: name, ...more });
const BEGUN = 'A fairlead';

/** Each fault, and what comes of it: without retries of the SDK's own, with two, and on `ai.fetch`. */
const CASES = {
  'a reset': ['reset', fails('APIConnectionError'), WHOLE, WHOLE],
  'a 503 with Retry-After': [
    { fault: 'http-503', retryAfter: RETRY_AFTER_S }, fails('InternalServerError'), WHOLE, WHOLE,
  ],
  'a stall behind the headers': ['hang-after-headers', HANGS, HANGS, WHOLE],
  'a stall in the middle': ['stall', HANGS, HANGS, fails('APIError', { text: BEGUN, code: 'upstream_timeout' })],
  'a cut in the middle': [
    'cut', fails('TypeError', { text: BEGUN }), fails('TypeError', { text: BEGUN }),
    fails('APIError', { text: BEGUN, code: 'stream_interrupted' }),
  ],
  'an error inside a 200': ['error-before-content', fails('APIError'), fails('APIError'), WHOLE],
  'an end that comes too early': [
    'end-without-finish', { text: BEGUN }, { text: BEGUN },
    fails('APIError', { text: BEGUN, code: 'stream_interrupted' }),
  ],
  'a page instead of an answer': ['html', { text: '' }, { text: '' }, WHOLE],
};

let vllm;
let ai;
before(async () => {
  vllm = await startVllm();
  ai = new Fairlead({ baseURL: `${vllm.url}/v1`, apiKey: 'key', logLevel: 'off', policies: { default: POLICY } });
});
beforeEach(() => vllm.reset());
after(async () => {
  ai?.[Symbol.dispose]();
  await vllm.close();
});

const sdk = (more) => new OpenAI({ baseURL: `${vllm.url}/v1`, apiKey: 'key', timeout: TIMEOUT_MS, ...more });
const onFetch = () => sdk({ maxRetries: 0, fetch: ai.fetch, timeout: 20_000 });

/** How a stream ends, where it does. */
async function stream(client, signal) {
  let text = '';
  try {
    const chunks = await client.chat.completions.create({ model: 'qwen', messages: [], stream: true }, { signal });
    for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? '';
    return { text };
  } catch (error) {
    return { error: error.constructor.name, text, code: error.code };
  }
}

async function assertBecomes(client, expected) {
  const left = new AbortController();
  const ended = stream(client, left.signal);
  if (!expected.hangs) {
    const { text = '', error, code } = expected;
    const actual = await ended;
    assert.deepEqual([actual.error, actual.text], [error, text]);
    if (code) assert.equal(actual.code, code);
    return;
  }
  await vllm.until(() => vllm.requests.at(-1)?.stalled);
  // Nothing can be waited for, where nothing comes: three times its timeout is long enough to be sure of that.
  assert.equal(await Promise.race([ended.then(() => 'an end'), sleep(3 * TIMEOUT_MS, 'silence')]), 'silence');
  assert.equal(vllm.requests.length, 1);
  left.abort();
  await ended;
}

for (const [name, [fault, withoutRetries, withRetries, onFairlead]] of Object.entries(CASES)) {
  describe(name, () => {
    beforeEach(() => vllm.script(fault));
    it('in the SDK without retries', () => assertBecomes(sdk({ maxRetries: 0 }), withoutRetries));
    it('in the SDK with two retries', () => assertBecomes(sdk({ maxRetries: 2 }), withRetries));
    it('in the SDK on ai.fetch', () => assertBecomes(onFetch(), onFairlead));
  });
}

it('an endpoint that says when to come back is not asked before', async () => {
  vllm.script({ fault: 'http-503', retryAfter: RETRY_AFTER_S });
  await assertBecomes(onFetch(), WHOLE);
  const [refused, answered] = vllm.requests;
  assert.ok(answered.at - refused.at >= RETRY_AFTER_S * 1000);
});

it('ai.fetch takes Request objects, and passes on what is no call of its own', async () => {
  const url = `${vllm.url}/v1/models`;
  for (const input of [url, new URL(url), new Request(url)]) {
    const response = await ai.fetch(input);
    assert.equal(response.status, 200);
    assert.equal((await response.json()).object, 'list');
  }
  const body = JSON.stringify({ model: 'qwen', messages: [] });
  const request = new Request(`${vllm.url}/v1/chat/completions`, {
    method: 'POST', body, headers: { 'content-type': 'application/json', authorization: 'Bearer key' },
  });
  vllm.script('reset');
  const { choices } = await (await ai.fetch(request)).json();
  assert.equal(choices[0].message.content, DEFAULT_TEXT);
});
