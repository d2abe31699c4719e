// A worker is paid for only while somebody waits: the job of a caller who has gone is cancelled, within RunPod's limits
// on cancels, and what a cancel does not reach is bounded by its `ttl`.
//
// workerd tells of a caller's leaving when a write fails; leaving.test.mjs says more about it. So these callers leave
// behind their 200, or their deadline is what ends the job.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { startRunpod } from '../upstream/runpod.mjs';
import { IMPATIENT, JobCall, MESSAGES, startJobs } from './jobs.mjs';

const CANCELLED_WITHIN_MS = 1500;
/** So long that a test which waits for it fails. */
const NEVER_MS = 600_000;
/** A text that lasts longer than any test here. */
const LONG = { tokens: 3000, tokenMs: 20 };

let runpod;
let gateway;
before(async () => {
  runpod = await startRunpod({
    handler: 'worker-vllm', warm: 1,
    endpoints: {
      llm: {},
      cold: { warm: 0, workers: 1, coldStartMs: NEVER_MS },
      // It takes 150 jobs at once, and its cancels overlap.
      crowd: { warm: 5, workers: 5, latencyMs: { cancel: 150 } },
      waiting: { warm: 0, workers: 1, coldStartMs: NEVER_MS, latencyMs: { cancel: 150 } },
      deaf: { losesCancelsWithinMs: 1200 },
      plain: { handler: 'sleep' },
    },
  });
  gateway = await startJobs(runpod, ['llm', 'cold', 'crowd', 'waiting', 'deaf', 'plain'], {
    endpoint: { native: true },
    policies: { committing: { ...IMPATIENT, commit_after_ms: 200 }, hasty: { ...IMPATIENT, queue_ms: 600 } },
  });
});
after(async () => {
  await gateway.close();
  await runpod.close();
  assert.deepEqual(gateway.troubles, []);
});

const stream = (model, { headers, ...body } = {}) =>
  new JobCall(gateway, runpod, model, { messages: MESSAGES, stream: true, ...body }, { headers });

/** The job is cancelled in time, and costs nothing from then on. */
async function assertCancelled(call, { since = call.left, within = CANCELLED_WITHIN_MS } = {}) {
  const [job] = call.jobs;
  await runpod.until(() => job.isOver, 20_000);
  assert.equal(job.status, 'CANCELLED');
  const late = job.endedAt - since;
  assert.ok(late <= within, `cancelled after ${late} ms`);
  assert.ok(job.run === null && job.billedMs <= (job.startedAt ? job.endedAt - job.startedAt : 0), 'still billed');
  const line = await call.line({ event: 'job_cancelled' });
  assert.equal(line.outcome, 'cancelled');
  return { job, line };
}

describe('a streaming call that is left has its job cancelled within 1.5 s', { concurrency: 3 }, () => {
  it('in the queue, with a status that says so', async () => {
    const call = stream('cold');
    await call.has(': IN_QUEUE');
    assert.equal(call.response.status, 200);
    await call.leave();
    const { job } = await assertCancelled(call);
    assert.deepEqual([job.billedMs, job.startedAt], [0, null]);
    assert.equal((await call.line()).outcome, 'client_gone');
  });

  it('in mid-stream', async () => {
    const call = stream('llm', { sim: LONG });
    await call.has('guides');
    await call.leave();
    const { job, line } = await assertCancelled(call);
    assert.ok(line.cancels >= 1);
    const { billedMs } = job;
    const { jobs } = runpod.endpoint('llm');
    // Whatever time has passed until another job is over.
    await stream('llm').ended;
    assert.equal(jobs.find(job.id).billedMs, billedMs);
  });

  it('in silence behind its first text', async () => {
    const call = stream('llm', { sim: { fault: 'stall', afterEvents: 3 } });
    await call.has('fairlead');
    await call.leave();
    await assertCancelled(call);
  });

  it('while its submission is not answered', async () => {
    const sim_job = { faults: { run: [{ fault: 'slow', ms: 2500 }] } };
    const call = stream('llm', { headers: { 'x-fairlead-policy': 'committing' }, sim: LONG, sim_job });
    await call.has(':');
    await call.leave();
    const isAnswered = ({ operation, finishedAt }) => operation === 'run' && finishedAt;
    const run = await runpod.until(() => call.requests.find(isAnswered));
    await assertCancelled(call, { since: run.finishedAt });
    assert.ok(call.requests.every(({ operation }) => operation !== 'stream'));
  });

  it('again, where the worker did not hear of it', async () => {
    const call = stream('deaf', { sim: LONG });
    await call.has('guides');
    await call.leave();
    const { line, job } = await assertCancelled(call, { within: 2500 });
    assert.ok(line.cancels >= 2 && job.polls.cancel === line.cancels, `${line.cancels} cancels`);
  });

  it('again, where a cancel was refused or got lost', async () => {
    const call = stream('llm', { sim: LONG, sim_job: { faults: { cancel: ['http-429', 'lost', 'http-502'] } } });
    await call.has('guides');
    await call.leave();
    const { job } = await assertCancelled(call);
    assert.ok(job.polls.cancel >= 2);
  });

  it('and the log says which one could not be cancelled', async () => {
    const call = stream('llm', { sim: LONG, sim_job: { cancelLost: true } });
    await call.has('guides');
    await call.leave();
    const { cancels } = await call.line({ event: 'job_cancelled' }, 15_000);
    assert.equal(cancels, 5);
    const [{ policy }] = call.jobs;
    // No longer than the caller would have waited.
    assert.ok(policy.ttl < 300_000 && policy.executionTimeout < 300_000, JSON.stringify(policy));
  });
});

describe('a job whose time is over is cancelled', { concurrency: true }, () => {
  it('at the deadline of a stream', async () => {
    const call = stream('llm', { headers: { 'x-fairlead-deadline-ms': '1200' }, sim: LONG });
    await call.ended;
    assert.equal(call.error.code, 'deadline_exceeded');
    await assertCancelled(call, { since: call.began + 1200 });
  });

  it('at the deadline of an answer that does not stream, also of a caller who has gone', async () => {
    const call = stream('llm', { stream: false, headers: { 'x-fairlead-deadline-ms': '1200' }, sim: LONG });
    await runpod.until(() => call.jobs[0]);
    await call.leave();
    const { job } = await assertCancelled(call, { since: call.began + 1200 });
    // RunPod takes no less.
    assert.deepEqual(job.policy, { executionTimeout: 5000, ttl: 10_000 });
  });

  it('when nobody takes it within queue_ms', async () => {
    const call = stream('cold', { headers: { 'x-fairlead-policy': 'hasty' } });
    await call.ended;
    assert.deepEqual([call.error.code, call.error.param], ['upstream_timeout', 'queue']);
    await assertCancelled(call, { since: call.began + 600 });
  });

  it('at the deadline of a /runsync, but not where its client keeps it', async () => {
    const headers = { 'x-fairlead-deadline-ms': '800' };
    const input = { ms: 3000 };
    const ask = (query) =>
      new JobCall(gateway, runpod, 'plain', { input }, { path: `/runpod/plain/runsync${query}`, headers });
    const [dropped, kept] = [ask(''), ask('?keep')];
    await Promise.all([dropped.ended, kept.ended]);
    assert.deepEqual([dropped.json.error.code, kept.json.error.code], ['deadline_exceeded', 'deadline_exceeded']);
    await assertCancelled(dropped, { since: dropped.began + 800 });
    await runpod.until(() => kept.jobs[0].isOver);
    assert.equal(kept.jobs[0].status, 'COMPLETED');
    assert.equal(kept.json.id.split('.')[0], kept.jobs[0].id);
  });
});

describe('150 that leave at once', { concurrency: true }, () => {
  for (const [model, sign] of [['crowd', 'guides'], ['waiting', ': IN_QUEUE']]) {
    it(`are all cancelled, never over 100 in 10 s nor over 20 at a time: ${model}`, async (t) => {
      const endpoint = runpod.endpoint(model);
      const calls = Array.from({ length: 150 }, () => stream(model, { sim: { tokens: 3000, tokenMs: 200 } }));
      await Promise.all(calls.map((call) => call.has(sign)));
      await Promise.all(calls.map((call) => call.leave()));
      const left = Date.now();
      assert.equal(endpoint.ledger.length, 150);
      const isOver = ({ status }) => status === 'CANCELLED' || status === 'EXPIRED';
      await runpod.until(() => endpoint.ledger.every(isOver), 30_000);
      const { cancel, stream: polls } = endpoint.limits.peaks;
      t.diagnostic(`${JSON.stringify(cancel)} within ${Date.now() - left} ms; polls ${JSON.stringify(polls)}`);
      assert.ok(cancel.perWindow <= 100 && cancel.concurrent <= 20, JSON.stringify(cancel));
      assert.equal(cancel.refused, 0);
      assert.ok(polls.perWindow <= 2000 && polls.concurrent <= 400, JSON.stringify(polls));
    });
  }
});
