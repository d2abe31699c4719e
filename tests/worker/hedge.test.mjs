// Hedging against a slow tail: of every fifty answers one begins late. Times are compared within one run, and the late
// ones are late by so much that a busy machine makes no difference.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { CHAT, MESSAGES, PATIENT } from './calls.mjs';
import { endpointsOf } from './gateway.mjs';
import { startJobs } from './jobs.mjs';

const FAST_MS = 5;
const LATE_MS = 2500;
const EVERY = 50;
const WARM_UP = 150;
const CALLS = 500;
const AT_ONCE = 10;

const POLICIES = { plain: {}, number: { hedge_after_ms: 200 }, p95: { hedge_after_ms: 'p95' } };

let servers;
let runpod;
let gateway;
before(async () => {
  const start = (more) => startVllm({ firstTokenMs: FAST_MS, keepRequests: 10_000, ...more });
  const tail = { slowTail: { every: EVERY, firstTokenMs: LATE_MS } };
  const names = Object.keys(POLICIES);
  const pairs = await Promise.all(names.flatMap((name) => [[name, tail], [`${name}-next`, tail]])
    .map(async ([name, more]) => [name, await start(more)]));
  servers = { ...Object.fromEntries(pairs), fast: await start() };
  runpod = await startRunpod({ handler: 'worker-vllm', warm: 1, endpoints: { job: { vllm: { firstTokenMs: 3000 } } } });
  const to = (...endpoints) => endpoints.map((endpoint) => ({ endpoint }));
  gateway = await startJobs(runpod, ['job'], {
    endpoints: endpointsOf(servers),
    models: [
      ...names.map((name) => ({ name, policy: name, targets: to(name, `${name}-next`) })),
      { name: 'vllm, then job', policy: 'always', targets: to('fast', 'job') },
      { name: 'job, then vllm', policy: 'always', targets: to('job', 'fast') },
    ],
    policies: {
      ...Object.fromEntries(names.map((name) => [name, { ...PATIENT, ...POLICIES[name] }])),
      always: { ...PATIENT, hedge_after_ms: 300, hedge_ratio: 1 },
    },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([...Object.values(servers), runpod].map((server) => server.close()));
  assert.deepEqual(gateway.troubles, []);
});

/** Milliseconds to the first content of one call, which is read to its end. */
async function firstContent(model, { id, sim } = {}) {
  const began = performance.now();
  const response = await gateway.fetch(CHAT, {
    body: { model, messages: MESSAGES, stream: true, ...(sim && { sim }) },
    headers: { ...(id && { 'x-request-id': id }) },
  });
  let text = '';
  let ms = null;
  for await (const bytes of response.body) {
    text += Buffer.from(bytes).toString();
    if (text.includes('"content":"A"')) ms ??= performance.now() - began;
  }
  assert.equal(strict(text).text, DEFAULT_TEXT);
  return ms;
}

/** As many calls, some at a time; their times, from the shortest. */
async function times(model, count) {
  const all = [];
  let left = count;
  const caller = async () => {
    while (left > 0) {
      left -= 1;
      all.push(await firstContent(model));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, caller));
  return all.sort((a, b) => a - b);
}

const requests = (name) => [servers[name], servers[`${name}-next`]].flatMap((server) => server.requests);
const percentile = (sorted, share) => sorted[Math.ceil(share * sorted.length) - 1];

describe('hedging takes the slow tail off', () => {
  const measured = {};

  for (const name of Object.keys(POLICIES)) {
    it(`measured: ${name}`, async (t) => {
      await times(name, WARM_UP);
      const sorted = await times(name, CALLS);
      // Of all: what some calls save, later ones may spend.
      const more = requests(name).length / (WARM_UP + CALLS) - 1;
      const [p50, p99] = [0.5, 0.99].map((share) => percentile(sorted, share));
      measured[name] = { p50, p99, more };
      t.diagnostic(`p50 ${p50.toFixed(0)} ms, p99 ${p99.toFixed(0)} ms, ${(more * 100).toFixed(1)} % more requests`);
    });
  }

  for (const name of ['number', 'p95']) {
    it(`${name}: p99 of the time to the first content is a quarter at most, for 5 % more requests at most`, async () => {
      assert.ok(measured.plain.p99 >= LATE_MS && measured.plain.more === 0);
      assert.ok(measured[name].p99 <= measured.plain.p99 / 4, JSON.stringify(measured));
      assert.ok(measured[name].more > 0 && measured[name].more <= 0.05, JSON.stringify(measured));
    });

    it(`${name}: whoever loses is let go`, async () => {
      const hedged = gateway.logs.filter((line) => line.event === 'hedge_started' && line.model === name);
      assert.ok(hedged.length > 0);
      for (const { request_id } of hedged) {
        // One, where the other was let go before it was there.
        const isOfCall = ({ headers }) => headers['x-request-id'].startsWith(`${request_id}-`);
        const both = requests(name).filter(isOfCall);
        assert.ok(both.length === 1 || both.length === 2);
        const ended = ({ closedByClientAt, finishedAt }) => closedByClientAt !== null || finishedAt !== null;
        await servers[name].until(() => both.every(ended), LATE_MS / 2);
        assert.ok(both.some(({ finishedAt }) => finishedAt !== null));
      }
      const late = requests(name).filter(({ closedByClientAt }) => closedByClientAt !== null);
      assert.ok(late.length > 0);
    });
  }
});

describe('a job that loses is cancelled', { concurrency: true }, () => {
  async function cancelled(id) {
    const job = await runpod.until(() => {
      const run = runpod.requests.find(({ headers, job: own }) => own && headers['x-request-id']?.startsWith(id));
      return run && runpod.endpoint('job').jobs.all.find((own) => own.id === run.job);
    });
    await runpod.until(() => job.isOver, 5000);
    assert.equal(job.status, 'CANCELLED');
    const line = await gateway.line({ request_id: id, event: 'job_cancelled' });
    assert.equal(line.outcome, 'cancelled');
  }

  it('which was asked as a hedge', async () => {
    const id = 'hedge-by-job';
    await firstContent('vllm, then job', { id, sim: [{ firstTokenMs: 1200 }] });
    const { endpoint, attempts } = await gateway.line({ request_id: id, event: 'call_ended' });
    assert.deepEqual([endpoint, attempts], ['fast', 2]);
    assert.equal((await gateway.line({ request_id: id, event: 'hedge_started' })).endpoint, 'job');
    await cancelled(id);
  });

  it('which was hedged', async () => {
    const id = 'hedge-of-job';
    const ms = await firstContent('job, then vllm', { id });
    assert.ok(ms < 2500, `${ms} ms`);
    const { endpoint, attempts } = await gateway.line({ request_id: id, event: 'call_ended' });
    assert.deepEqual([endpoint, attempts], ['fast', 2]);
    await cancelled(id);
  });
});
