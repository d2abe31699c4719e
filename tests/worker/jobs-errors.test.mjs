// How a job can fail, and that its caller is told what happened and what to change: a handler that takes too long, one
// that raises, a worker that is lost, a queue that is too long, a result that has expired.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { startRunpod } from '../upstream/runpod.mjs';
import { DONE, IMPATIENT, JobCall, startJobs } from './jobs.mjs';

/** RunPod's shortest `executionTimeout`, and a handler that is deaf for longer. */
const LIMIT_MS = 5000;
const BLOCKS_MS = 6500;
const SECRET = 'the-prompt-nobody-may-log';
const MESSAGES = [{ role: 'user', content: SECRET }];

/** Nothing, as a handler that waits for another service. */
async function* stall() {
  await new Promise((resolve) => { setTimeout(resolve, BLOCKS_MS); });
}

let runpod;
let gateway;
before(async () => {
  const blocking = { handler: 'block', warm: 1, workers: 1 };
  const endpoints = {
    failed: { ...blocking, executionTimeoutEndsAs: 'FAILED' },
    timed: { ...blocking, executionTimeoutEndsAs: 'TIMED_OUT' },
    stalled: { handler: { generator: true, run: stall }, coldStartMs: 300 },
    llm: { handler: 'worker-vllm', warm: 1 },
    raise: { handler: 'raise', warm: 1 },
    error: { handler: 'error', warm: 1 },
    'generator-raise': { handler: 'generator-raise', warm: 1, concurrency: 10 },
    generator: { handler: 'generator', warm: 1, concurrency: 10, aggregate: true },
    dead: { handler: 'echo', dead: true },
    progress: { handler: 'progress', warm: 1 },
  };
  runpod = await startRunpod({ endpoints });
  gateway = await startJobs(runpod, Object.keys(endpoints), {
    endpoint: { native: true },
    policies: {
      queue: { ...IMPATIENT, queue_ms: 700 }, partial: { ...IMPATIENT, on_deadline: 'partial' },
    },
  });
});
after(async () => {
  const secrets = [SECRET, runpod.apiKey, `127.0.0.1:${runpod.port}`];
  await gateway.close();
  await runpod.close();
  assert.deepEqual(gateway.troubles, []);
  const printed = gateway.printed.join('\n');
  for (const secret of secrets) {
    assert.ok(!printed.includes(secret), `${secret} was logged`);
  }
});

const native = (endpoint, input, { query = '', headers, ...more } = {}) =>
  new JobCall(gateway, runpod, undefined, { input, ...more }, { path: `/runpod/${endpoint}/runsync${query}`, headers });
const chat = (model, body, headers) =>
  new JobCall(gateway, runpod, model, { messages: MESSAGES, stream: true, ...body }, { headers });

/** What every error of a job holds. */
function assertTyped({ response, text, error }, status, code, message) {
  assert.deepEqual([response.status, error.code], [status, code], text);
  assert.match(error.message, message);
  assert.doesNotMatch(text, /Traceback|handler\.py|127\.0\.0\.1|rpa_/);
  assert.ok(!text.includes(DONE) && !text.includes(SECRET));
}

describe('a handler that blocks past its limit', { concurrency: true }, () => {
  const CURE = /longer than the job's `executionTimeout`.* Raise that limit.*, or make the handler yield in time/;

  for (const endpoint of ['failed', 'timed']) {
    it(`is told with its cure, while others are served: ${endpoint}`, async () => {
      const blocked = native(endpoint, { ms: BLOCKS_MS }, { policy: { executionTimeout: 400 } });
      await runpod.until(() => blocked.jobs[0]?.status === 'IN_PROGRESS');
      const other = await chat('llm').ended;
      assert.ok(other.text.endsWith(`${DONE}\n\n`));
      await blocked.ended;
      assertTyped(blocked, 504, 'job_timed_out', CURE);
      const { json, jobs: [job] } = blocked;
      assert.equal(job.policy.executionTimeout, LIMIT_MS);
      assert.equal(json.id.split('.')[0], job.id);
      assert.equal(json.status, endpoint === 'failed' ? 'FAILED' : 'TIMED_OUT');
      assert.ok(json.executionTime >= LIMIT_MS - 50 && json.delayTime >= 0 && json.workerId, JSON.stringify(json));
      // Never run again on the same endpoint, and nobody has to cancel it.
      assert.equal(blocked.jobs.length, 1);
      assert.equal(job.polls.cancel, 0);
      assert.ok(Date.now() - blocked.began < BLOCKS_MS);
      assert.equal((await blocked.line({ event: 'job_slow' })).limit_ms, LIMIT_MS);
    });
  }

  it('is told to a stream as well, which has its 200 already', async () => {
    const headers = { 'x-fairlead-deadline-ms': '6500' };
    const body = { messages: MESSAGES, stream: true, ms: BLOCKS_MS };
    const blocked = new JobCall(gateway, runpod, 'stalled', body, { headers });
    await blocked.ended;
    assert.equal(blocked.response.status, 200);
    assertTyped(blocked, 200, 'job_timed_out', CURE);
    assert.equal(blocked.jobs.length, 1);
  });
});

describe('a handler that fails', () => {
  it('by raising: its message, without its traceback', async () => {
    const raised = await native('raise', { error: 'KeyError', message: 'no voice' }).ended;
    assertTyped(raised, 502, 'job_failed', /raised: KeyError: no voice\. .*Its own log has the traceback/);
    assert.equal(raised.json.status, 'FAILED');
    assert.equal(raised.jobs.length, 1);
  });

  it('by returning an error', async () => {
    assertTyped(await native('error', { error: 'no such voice' }).ended, 502, 'job_failed', /raised: no such voice/);
  });

  it('by raising in a generator: with what it had put out', async () => {
    const raised = await native('generator-raise', { n: 2, message: 'it is over' }).ended;
    assertTyped(raised, 502, 'job_failed', /raised: it is over\./);
    assert.deepEqual(raised.json.stream, [{ index: 0 }, { index: 1 }]);
    const { id } = await (await gateway.fetch('/runpod/generator-raise/run', { body: { input: {} } })).json();
    const headers = { accept: 'text/event-stream' };
    const seen = await (await gateway.fetch(`/runpod/generator-raise/stream/${id}`, { headers })).text();
    assert.match(seen, /^(?:: .*\n\n)*data: {"output":{"index":0}}\n\ndata: {"output":{"index":1}}\n\nevent: error\n/);
    assert.match(seen, /"code":"job_failed"/);
  });

  it('and a model of it: not asked again, the next target is', async () => {
    const raised = await chat('raise', { stream: false }).ended;
    assertTyped(raised, 502, 'job_failed', /raised: ValueError/);
    assert.equal(raised.jobs.length, 1);
  });

  it('by losing its worker', async () => {
    const lost = await native('generator', { n: 20, sim_job: { workerLostAfter: 2 } }).ended;
    assertTyped(lost, 502, 'job_failed', /worker of endpoint `generator` that had the job was lost/);
    assert.equal(lost.jobs.length, 1, 'what a client submits is submitted once');
    assert.deepEqual(lost.json.stream.map(({ index }) => index), [0, 1]);
  });
});

describe('a queue', { concurrency: true }, () => {
  it('longer than queue_ms ends in a typed error', async () => {
    for (const stream of [true, false]) {
      const waited = await chat('dead', { stream }, { 'x-fairlead-policy': 'queue' }).ended;
      assert.deepEqual([waited.error.code, waited.error.param], ['upstream_timeout', 'queue']);
      assert.match(waited.error.message, /No worker of endpoint `dead` took the job within 700 ms/);
      await runpod.until(() => waited.jobs[0].status === 'CANCELLED');
    }
  });

  it('that outlives the ttl of a job', async () => {
    const expired = await native('dead', {}, { policy: { ttl: 300 } }).ended;
    assert.equal(expired.jobs[0].policy.ttl, 10_000, 'RunPod takes no less');
    assertTyped(expired, 504, 'job_expired', /has expired: its `ttl` passed before its end/);
    assert.equal(expired.json.id.split('.')[0], expired.jobs[0].id);
  });
});

it('a result that was kept no longer is job_not_found', async () => {
  runpod.endpoint('generator').options.resultMs = 100;
  const { id } = await (await gateway.fetch('/runpod/generator/run', { body: { input: { n: 1 } } })).json();
  const job = runpod.endpoint('generator').jobs.all.at(-1);
  await runpod.until(() => job.isOver);
  runpod.endpoint('generator').jobs.keep(job, -1);
  const response = await gateway.fetch(`/runpod/generator/status/${id}`);
  assert.deepEqual([response.status, (await response.json()).error.code], [404, 'job_not_found']);
  runpod.endpoint('generator').options.resultMs = 60_000;
});

describe('a deadline before the end', () => {
  const headers = { 'x-fairlead-deadline-ms': '1000' };

  it('is an error with the job\'s id, and the job is cancelled', async () => {
    const late = await native('generator', { n: 100, everyMs: 50 }, { headers }).ended;
    assertTyped(late, 504, 'deadline_exceeded', /deadline of 1000 ms/);
    const { id, delayTime, workerId, stream } = late.json;
    assert.equal(id.split('.')[0], late.jobs[0].id);
    assert.ok(delayTime >= 0 && workerId && stream.length > 5, late.text);
    await runpod.until(() => late.jobs[0].status === 'CANCELLED');
  });

  it('is what there is so far, if the policy says so', async () => {
    const query = '?keep=false';
    const policy = { ...headers, 'x-fairlead-policy': 'partial' };
    const late = await native('generator', { n: 100, everyMs: 50 }, { headers: policy, query }).ended;
    assert.equal(late.response.status, 200, late.text);
    assert.equal(late.response.headers.get('x-fairlead-truncated'), 'deadline');
    const { id, status, output } = late.json;
    assert.equal(id.split('.')[0], late.jobs[0].id);
    assert.equal(status, 'CANCELLED');
    assert.ok(output.length > 5, JSON.stringify(output));
    assert.deepEqual(output, output.map((_, index) => ({ index })));
    await runpod.until(() => late.jobs[0].status === 'CANCELLED');
  });
});

it('progress that a worker tells is no result', async () => {
  const { json } = await native('progress', { n: 4, everyMs: 100 }).ended;
  assert.deepEqual(json.output, { done: 4 });
});

