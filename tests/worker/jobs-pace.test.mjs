// How late a token is that a worker has put out, and what the asking costs: both as the clock and the simulation's
// records have it. The worker puts the time into its tokens, so nothing has to be known of the way between.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRunpod } from '../upstream/runpod.mjs';
import { DONE, JobCall, MESSAGES, startJobs } from './jobs.mjs';

/** Of these the worker's own way takes 100 (wire facts, section 7, 8). */
const FIRST_TOKEN_MS = 400;
/** What the tests that run beside this one on a small machine may add to a single call. */
const MARGIN_MS = 600;
const COLD_START_MS = 700;

const event = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({ object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason }] })}\n\n`;

/** A worker-vllm whose every token is the time at which it is put out. */
const clock = {
  generator: true,
  aggregate: true,
  concurrency: 30,
  async* run({ openai_input: { firstMs = 0, everyMs = 0, tokens = 1 } }, { signal }) {
    yield event({ role: 'assistant', content: '' });
    for (let at = 0; at < tokens; at += 1) {
      await sleep(at === 0 ? firstMs : everyMs, undefined, { signal });
      yield event({ content: `${Date.now()} ` });
    }
    yield event({}, 'stop');
    yield `${DONE}\n\n`;
  },
};

let runpod;
let gateway;
before(async () => {
  runpod = await startRunpod({
    handler: clock,
    endpoints: {
      warm: { warm: 1 },
      cold: { coldStartMs: COLD_START_MS, idleMs: 1, concurrency: 1, workers: 20 },
      crowd: { warm: 2, workers: 2 },
      few: { warm: 1 },
    },
  });
  gateway = await startJobs(runpod, ['warm', 'cold', 'crowd', 'few'], {
    policies: { default: { deadline_ms: 20_000 } },
  });
});
after(async () => {
  await gateway.close();
  await runpod.close();
  assert.deepEqual(gateway.troubles, []);
});

/** How late each of a call's tokens was. */
async function latenessOf(model, body) {
  const call = new JobCall(gateway, runpod, model, { messages: MESSAGES, stream: true, ...body });
  const late = [];
  call.onText = () => {
    const now = Date.now();
    const told = [...call.text.matchAll(/"content":"(\d+) "/g)].map(([, at]) => Number(at));
    for (const at of told.slice(late.length)) late.push(now - at);
  };
  await call.ended;
  assert.ok(call.text.endsWith(`${DONE}\n\n`), call.text);
  return late;
}

const sorted = (numbers) => numbers.toSorted((a, b) => a - b);
const median = (numbers) => sorted(numbers)[numbers.length >> 1];

/** A few at a time: what is measured is the gateway, not this process. */
async function firstTokens(model, calls, body) {
  const late = [];
  for (let at = 0; at < calls; at += 2) {
    const pair = await Promise.all([latenessOf(model, body(at)), latenessOf(model, body(at + 1))]);
    late.push(...pair.map(([first]) => first));
  }
  return late;
}

const KINDS = {
  // The wait is another for each call, so that the polls fall at every place between two tokens.
  'of a warm worker': ['warm', 20, (at) => ({ firstMs: 37 * at })],
  'of a warm worker that thinks for long': ['warm', 8, (at) => ({ firstMs: 1500 + 37 * at })],
  'of a cold worker': ['cold', 14, (at) => ({ firstMs: 37 * at })],
};
for (const [name, [model, calls, body]] of Object.entries(KINDS)) {
  it(`the first token ${name} is at the client at most ${FIRST_TOKEN_MS} ms later`, async (t) => {
    const late = await firstTokens(model, calls, body);
    t.diagnostic(`first token late by ${median(late)} ms (median), ${Math.max(...late)} ms at most, of ${late.length}`);
    assert.ok(median(late) <= FIRST_TOKEN_MS, `${sorted(late)}`);
    assert.ok(Math.max(...late) <= FIRST_TOKEN_MS + MARGIN_MS, `${sorted(late)}`);
  });
}

it('40 streams together stay inside what RunPod allows for each operation', async (t) => {
  const late = await Promise.all(Array.from({ length: 40 }, () =>
    latenessOf('crowd', { firstMs: 300, everyMs: 100, tokens: 110 })));
  const { peaks } = runpod.endpoint('crowd').limits;
  t.diagnostic(`tokens late by ${median(late.flat())} ms (median), ${JSON.stringify(peaks)}`);
  const documented = { run: [1000, 200], stream: [2000, 400], status: [2000, 400] };
  for (const [operation, [perWindow, concurrent]] of Object.entries(documented)) {
    const peak = peaks[operation];
    assert.ok(peak.perWindow <= perWindow && peak.concurrent <= concurrent, `${operation} ${JSON.stringify(peak)}`);
    assert.equal(peak.refused, 0);
  }
  // Only one of them looks, and none while a worker is seen at work.
  assert.ok(peaks.health.total <= 2, JSON.stringify(peaks.health));
});

it('one stream asks seven times a second, and its result is asked for once', async () => {
  const began = Date.now();
  await latenessOf('few', { firstMs: 3000, everyMs: 200, tokens: 6 });
  const seconds = (Date.now() - began) / 1000;
  const { stream, status } = runpod.endpoint('few').limits.peaks;
  assert.ok(stream.total / seconds <= 11, `${stream.total} polls in ${seconds} s`);
  assert.equal(status.total, 1);
});

it('the polls of a call that may make 45 requests last to its deadline, one kept for the end', async () => {
  const tight = await startJobs(runpod, ['few'], {
    endpoint: { max_subrequests: 45 }, policies: { default: { deadline_ms: 9000 } },
  });
  try {
    const call = new JobCall(tight, runpod, 'few', { messages: MESSAGES, stream: true, everyMs: 100, tokens: 400 });
    await call.ended;
    // Its own limit is a second below the deadline.
    assert.equal(call.error.code, 'job_timed_out');
    assert.ok(call.requests.length <= 45, `${call.requests.length} requests`);
    const polls = call.requests.filter(({ operation }) => operation === 'stream').map(({ at }) => at - call.began);
    assert.ok(polls.some((at) => at > 7000), `${polls}`);
  } finally {
    await tight.close();
  }
});
