// `on_deadline: "partial"`: shortly before the deadline a stream is ended, well formed, with what there is of it.
// Whoever worked on it is let go. Where there is nothing, there is the error.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { CHAT, COMPLETIONS, Calls, PATIENT, PROMPT, answers } from './calls.mjs';
import { endpointsOf } from './gateway.mjs';
import { IMPATIENT, JobCall, MESSAGES, startJobs } from './jobs.mjs';

const DEADLINE_MS = 3000;
const JOB_DEADLINE_MS = 3500;
/** How long before its deadline a call is cut short. */
const AHEAD_MS = 250;
const NEVER_MS = 600_000;
const TEXT = 'Ein "Fairlead" führt\n\ndie Leine 🪢 weiter';
/** A text that lasts longer than any test here. */
const LONG = { text: TEXT, tokens: 3000, tokenMs: 20 };
const PARAMETERS = { type: 'object', properties: { a: { type: 'string' } } };
const TOOL = { type: 'function', function: { name: 'f', parameters: PARAMETERS } };

let vllm;
let runpod;
let gateway;
let calls;
before(async () => {
  vllm = await startVllm({ defaults: { prompt: PROMPT } });
  runpod = await startRunpod({
    handler: 'worker-vllm', warm: 1, endpoints: { job: {}, cold: { warm: 0, workers: 1, coldStartMs: NEVER_MS } },
  });
  const policy = { ...PATIENT, deadline_ms: DEADLINE_MS, on_deadline: 'partial' };
  const jobs = { ...IMPATIENT, deadline_ms: JOB_DEADLINE_MS, on_deadline: 'partial' };
  gateway = await startJobs(runpod, ['job', 'cold'], {
    endpoints: endpointsOf({ first: vllm }),
    models: [{ name: 'first', targets: [{ endpoint: 'first' }] }],
    policies: {
      default: policy,
      committing: { ...policy, commit_after_ms: 200 },
      native: { ...policy, forward: 'native' },
      resuming: { ...policy, resume: 'continue' },
      jobs,
      'jobs-hasty': { ...jobs, queue_ms: 600 },
      'jobs-internal': { ...jobs, stream_internally: true },
    },
  });
  calls = new Calls(gateway, vllm);
  // A first call waits for more than its endpoint.
  await calls.ask(CHAT, { model: 'first' });
});
after(async () => {
  await gateway.close();
  await Promise.all([vllm.close(), runpod.close()]);
  assert.deepEqual(gateway.troubles, []);
});

function assertInTime(ms, deadline) {
  assert.ok(ms >= deadline - AHEAD_MS - 20 && ms <= deadline, `cut short after ${ms} ms`);
}

describe('a stream is ended well-formed, with what there is', { concurrency: true }, () => {
  const streams = {
    'that flows': [CHAT, {}],
    'of a completion': [COMPLETIONS, { max_tokens: 5000 }],
    'whose usage was asked for': [CHAT, { stream_options: { include_usage: true } }, { usage: 'unknown' }],
    'that counts all along': [
      CHAT, { stream_options: { include_usage: true, continuous_usage_stats: true } },
      { usage: 'running, then unknown' },
    ],
    'of several choices': [CHAT, { n: 3 }, { choices: 3 }],
    'of several prompts': [COMPLETIONS, { prompt: [PROMPT, PROMPT], max_tokens: 5000 }, { choices: 2 }],
    'in the middle of its events': [CHAT, { sim: { ...LONG, segment: 7 } }],
    'that is silent': [CHAT, { sim: { ...LONG, fault: 'stall', afterEvents: 20 } }],
    'in its thoughts': [CHAT, {
      chat_template_kwargs: { enable_thinking: true }, sim: { ...LONG, fault: 'stall', afterEvents: 5 },
    }],
    'in its tool call': [CHAT, { tools: [TOOL], sim: { fault: 'stall', afterEvents: 3 } }],
    'that sends comments only': [CHAT, { sim: { ...LONG, fault: 'keepalives-mid-stream', everyMs: 50 } }],
    'which the platform would carry': [CHAT, {}, {}, 'native'],
    'that broke, and for which nobody goes on': [
      CHAT, { sim: answers(TEXT, { fault: 'cut', afterEvents: 6 }, { fault: 'hang' }) }, {}, 'resuming',
    ],
    'that broke and goes on': [CHAT, { sim: [{ ...LONG, fault: 'cut', afterEvents: 6 }, LONG] }, {}, 'resuming'],
  };
  for (const [name, [path, body, expected = {}, policy]] of Object.entries(streams)) {
    it(name, async () => {
      const call = await calls.stream(path, { model: 'first', sim: LONG, ...body }, { policy });
      assert.equal(call.response.status, 200, call.text);
      const stream = strict(call.text, expected);
      assertInTime(call.end.total_ms, DEADLINE_MS);
      for (const choice of stream.choices) {
        assert.equal(choice.finishReason, 'length');
        assert.ok((choice.text + choice.reasoning).length > 5 || choice.toolCalls.length > 0);
      }
      if (stream.text) assert.ok(TEXT.startsWith(stream.text.slice(0, 30)) || stream.text.startsWith(TEXT));
      assert.deepEqual(stream.fairlead, { truncated: 'deadline' });
      // Its status and headers went out before anybody knew.
      assert.equal(call.response.headers.get('x-fairlead-truncated'), null);
      assert.deepEqual([call.end.outcome, call.end.native], ['partial', false]);
      await vllm.until(() => call.attempts.at(-1).closedByClientAt);
    });
  }

  it('by the deadline of its caller', async () => {
    const headers = { 'x-fairlead-deadline-ms': '2000' };
    const call = await calls.stream(CHAT, { model: 'first', sim: LONG }, { headers });
    assert.equal(strict(call.text).finishReason, 'length');
    assertInTime(call.end.total_ms, 2000);
  });

  it('but one that has ended is whole, though its last words are missing', async () => {
    const call = await calls.stream(CHAT, { model: 'first', sim: { text: TEXT, fault: 'stall-after-finish' } });
    const stream = strict(call.text);
    assert.deepEqual([stream.finishReason, stream.fairlead, call.end.outcome], ['stop', null, 'ok']);
  });
});

describe('nothing is no answer', { concurrency: true }, () => {
  for (const [fault, more] of Object.entries({
    hang: {}, 'hang-after-headers': {}, 'slow-first-token': { afterEvents: 1 }, stall: { afterEvents: 1 },
    keepalives: { everyMs: 50 }, 'empty-deltas': { everyMs: 50 },
  })) {
    it(`${fault}: the error`, async () => {
      const call = await calls.stream(CHAT, { model: 'first', sim: { fault, ...more } });
      assert.deepEqual([call.response.status, call.error.code], [504, 'deadline_exceeded']);
      await vllm.until(() => call.attempts[0].closedByClientAt);
    });

    it(`${fault}: the error in a stream that has begun`, async () => {
      const call = await calls.stream(CHAT, { model: 'first', sim: { fault, ...more } }, { policy: 'committing' });
      assert.equal(call.response.status, 200);
      assert.equal(strict(call.text, { interrupted: true }).error.code, 'deadline_exceeded');
    });
  }
});

describe('of a job', { concurrency: true }, () => {
  const ask = (model, policy, body) => new JobCall(gateway, runpod, model, {
    messages: MESSAGES, stream: true, sim: LONG, ...body,
  }, { headers: { 'x-fairlead-policy': policy } }).ended;

  async function assertCancelled(call) {
    const [job] = call.jobs;
    await runpod.until(() => job.isOver, 10_000);
    assert.equal(job.status, 'CANCELLED');
    assert.equal((await call.line({ event: 'job_cancelled' })).outcome, 'cancelled');
  }

  it('there is what it has put out, and it is cancelled', async () => {
    const call = await ask('job', 'jobs');
    const stream = strict(call.text);
    assert.deepEqual([stream.finishReason, stream.fairlead], ['length', { truncated: 'deadline' }]);
    assert.ok(stream.text.startsWith(TEXT.slice(0, 20)), stream.text);
    const { outcome, total_ms } = await call.line();
    assert.equal(outcome, 'partial');
    assertInTime(total_ms, JOB_DEADLINE_MS);
    await assertCancelled(call);
  });

  it('also where its client wants the answer whole', async () => {
    const call = await ask('job', 'jobs-internal', { stream: false });
    assert.equal(call.response.status, 200, call.text);
    assert.equal(call.response.headers.get('x-fairlead-truncated'), 'deadline');
    const { choices: [{ message, finish_reason }], fairlead } = call.json;
    assert.deepEqual([finish_reason, fairlead], ['length', { truncated: 'deadline' }]);
    assert.ok(message.content.startsWith(TEXT.slice(0, 20)), message.content);
    await assertCancelled(call);
  });

  it('that nobody takes within `queue_ms` there is the error', async () => {
    const call = await ask('cold', 'jobs-hasty');
    assert.deepEqual([call.error.code, call.error.param], ['upstream_timeout', 'queue']);
    await assertCancelled(call);
  });

  it('whose cold start takes longer than its caller waits there is the error', async () => {
    for (const body of [{}, { stream: false }]) {
      const call = await ask('cold', 'jobs-internal', body);
      assert.equal(call.error.code, 'deadline_exceeded');
      assert.equal(call.response.headers.get('x-fairlead-truncated'), null);
      await assertCancelled(call);
    }
  });
});
