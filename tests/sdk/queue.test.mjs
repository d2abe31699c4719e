// `maxConcurrency`: so many calls at an endpoint at a time, and a line before it that can be left.

import assert from 'node:assert/strict';
import { after, before, beforeEach, it } from 'node:test';
import { AbortError, Fairlead, TimeoutError } from '../../pkg-js/dist/node.js';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';

const MOST = 4;
const MESSAGES = [{ role: 'user', content: 'Hi' }];

let vllm;
let mostAtOnce;
before(async () => {
  vllm = await startVllm();
  vllm.on('change', () => { mostAtOnce = Math.max(mostAtOnce, underWay().length); });
});
beforeEach(() => {
  vllm.reset();
  mostAtOnce = 0;
});
after(() => vllm.close());

const underWay = () => vllm.requests.filter(({ inFlight }) => inFlight);
const client = () => new Fairlead({ baseURL: `${vllm.url}/v1`, apiKey: 'key', maxConcurrency: MOST, logLevel: 'off' });

async function text(ai, body, options) {
  let said = '';
  const request = { model: 'qwen', messages: MESSAGES, stream: true, ...body };
  const stream = await ai.chat.completions.create(request, options);
  for await (const { choices } of stream) said += choices[0]?.delta.content ?? '';
  return said;
}

for (const stream of [true, false]) {
  it(`of 40 ${stream ? 'streams' : 'answers'} at once four are under way, and all of them come`, async () => {
    using ai = client();
    const whole = async (body) => (await ai.chat.completions.create({ model: 'qwen', messages: MESSAGES, ...body }))
      .choices[0].message.content;
    const ask = stream ? (body) => text(ai, body) : whole;
    const answers = await Promise.all(Array.from({ length: 40 }, () => ask({ sim: { tokenMs: 2 } })));
    assert.deepEqual(new Set(answers), new Set([DEFAULT_TEXT]));
    assert.equal(vllm.requests.length, 40);
    assert.equal(mostAtOnce, MOST);
  });
}

/** Calls that take all places until they are let go. */
async function occupied(ai) {
  const leave = new AbortController();
  const calls = Array.from({ length: MOST }, () => text(ai, { sim: { fault: 'stall' } }, { signal: leave.signal }));
  await vllm.until(() => underWay().filter(({ stalled }) => stalled).length === MOST);
  return {
    async end() {
      leave.abort();
      for (const { status, reason } of await Promise.allSettled(calls)) {
        assert.ok(status === 'rejected' && reason instanceof AbortError);
      }
    },
  };
}

it('who leaves the line is out of it at once, and never asked for', async () => {
  using ai = client();
  const places = await occupied(ai);
  const leave = new AbortController();
  const waiting = [0, 1, 2].map(() => text(ai, {}, { signal: leave.signal }));
  const last = text(ai);
  const began = performance.now();
  leave.abort(new Error('enough'));
  for (const call of waiting) {
    await assert.rejects(call, (error) => error instanceof AbortError && error.cause.message === 'enough');
  }
  // Not when a place is free, or at the end of some wait: all of them still are taken.
  assert.ok(performance.now() - began < 500);
  assert.equal(underWay().length, MOST);
  await places.end();
  assert.equal(await last, DEFAULT_TEXT);
  assert.equal(vllm.requests.length, MOST + 1);
});

it('waiting in line ends with the deadline', async () => {
  using ai = client();
  const places = await occupied(ai);
  await assert.rejects(text(ai, {}, { timeout: 300 }), (error) => {
    assert.ok(error instanceof TimeoutError);
    assert.equal(error.code, 'deadline_exceeded');
    return true;
  });
  assert.equal(vllm.requests.length, MOST);
  await places.end();
});

it('a signal that is aborted already sends nothing', async () => {
  using ai = client();
  await assert.rejects(text(ai, {}, { signal: AbortSignal.abort('before') }), { name: 'AbortError', cause: 'before' });
  assert.equal(vllm.requests.length, 0);
});
