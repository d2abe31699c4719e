// How the simulated RunPod goes wrong: its limits, the fate of a request, the fate of a job.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { JobClient } from './job-client.mjs';
import { startRunpod } from './runpod.mjs';
import { FAULTS } from './runpod/faults.mjs';
import { HANDLERS } from './runpod/handlers.mjs';

async function start(t, options = {}) {
  const runpod = await startRunpod(options);
  t.after(() => runpod.close());
  return { runpod, endpoint: runpod.endpoint(), client: new JobClient(runpod) };
}

/** What a client sees: a status, or that there was none; and a body, or that it broke off or never came. */
async function seen(call) {
  return call(AbortSignal.timeout(150)).then(
    ({ status, body, text }) => ({ status, json: body !== undefined, text }),
    (error) => ({ failed: error.name === 'TimeoutError' ? 'silence' : 'broken' }),
  );
}

describe('limits', () => {
  it('refuse what is over the documented ones, and remember the peaks', async (t) => {
    const { client, endpoint } = await start(t);
    const replies = await Promise.all(Array.from({ length: 130 }, () => client.cancel('nobody')));
    const refused = replies.filter(({ status }) => status === 429);
    assert.ok(refused.length >= 30);
    assert.equal(refused[0].headers.get('retry-after'), null);
    const { total, perWindow, refused: counted } = endpoint.limits.peaks.cancel;
    assert.deepEqual({ total, perWindow, counted }, { total: 130, perWindow: 130, counted: refused.length });
  });

  it('can be lowered, for a window and at a time', async (t) => {
    const { client, endpoint } = await start(t, {
      limits: { status: [3, Infinity], cancel: [Infinity, 2] }, limitWindowMs: 200, latencyMs: { cancel: 50 },
    });
    const statuses = [];
    for (let n = 0; n < 5; n += 1) statuses.push((await client.status('nobody')).status);
    assert.deepEqual(statuses, [404, 404, 404, 429, 429]);
    await sleep(220);
    assert.equal((await client.status('nobody')).status, 404);

    const { body: { id } } = await client.run({});
    const cancels = await Promise.all(Array.from({ length: 4 }, () => client.cancel(id)));
    assert.deepEqual(cancels.map(({ status }) => status).sort(), [200, 200, 429, 429]);
    const { concurrent, refused } = endpoint.limits.peaks.cancel;
    assert.ok(concurrent > 2);
    assert.equal(refused, 2);
    assert.equal((await client.cancel(id)).status, 200);
  });

  it('are of one endpoint each', async (t) => {
    const runpod = await startRunpod({ endpoints: { one: {}, two: {} }, limits: { status: [1, 1] } });
    t.after(() => runpod.close());
    for (const id of ['one', 'two']) assert.equal((await new JobClient(runpod, id).status('nobody')).status, 404);
    assert.equal((await new JobClient(runpod, 'two').status('nobody')).status, 429);
  });
});

describe('every fault looks to the client as it says', () => {
  const broken = { failed: 'broken' };
  const silence = { failed: 'silence' };
  const status = (code, json = true) => ({ status: code, json });
  const expected = {
    ok: status(200), slow: status(200),
    status: status(500), 'http-524': status(524, false), html: status(200, false), 'html-502': status(502, false),
    reset: broken, close: broken, hang: silence,
    lost: broken, 'lost-502': status(502, false), 'lost-hang': silence,
    cut: broken, 'cut-reset': broken, stall: silence,
    malformed: status(200, false), empty: status(200, false), 'other-json': status(200),
  };
  const params = { slow: { ms: 30 } };
  for (const [fault, { about }] of Object.entries(FAULTS)) {
    it(`${fault}: ${about}`, async (t) => {
      const { client, endpoint } = await start(t);
      endpoint.faults.script('run', { fault, ...params[fault] });
      const { text: _, ...actual } = await seen((signal) => client.call('POST', '/run', { input: {} }, { signal }));
      assert.deepEqual(actual, expected[fault] ?? status(Number(fault.slice('http-'.length))));
      assert.equal(endpoint.ledger.length, FAULTS[fault].params.effect ? 1 : 0, 'jobs started');
      assert.equal((await client.run({})).status, 200, 'the next request is served');
    });
  }
});

describe('a fault is chosen', () => {
  it('by a script, request by request, then by what is always to happen', async (t) => {
    const { client, endpoint } = await start(t);
    endpoint.faults.script('health', 'http-503', 'ok', { fault: 'status', status: 418, body: 'short and stout' });
    endpoint.faults.always('health', 'http-504');
    const statuses = [];
    for (let n = 0; n < 5; n += 1) statuses.push((await client.health()).status);
    assert.deepEqual(statuses, [503, 200, 418, 504, 504]);
  });

  it('by the job\'s own input, wherever it stands', async (t) => {
    const { client, runpod } = await start(t, { handler: 'worker-vllm' });
    const faults = { run: 'http-503', status: ['http-500', 'ok', 'http-429'], cancel: 'reset' };
    const body = { messages: [{ role: 'user', content: 'x' }], sim_job: { faults } };
    const input = { openai_route: '/v1/chat/completions', openai_input: body };
    assert.equal((await client.run(input)).status, 503);
    const { body: { id } } = await client.run(input);
    const statuses = [];
    for (let n = 0; n < 4; n += 1) statuses.push((await client.status(id)).status);
    assert.deepEqual(statuses, [500, 200, 429, 200]);
    await assert.rejects(client.cancel(id));
    assert.equal((await client.cancel(id)).status, 200);
    assert.deepEqual(runpod.requests.map(({ fault }) => fault),
      ['http-503', 'ok', 'http-500', 'ok', 'http-429', 'ok', 'reset', 'ok']);
  });

  it('by a name that exists only', async (t) => {
    const { client, endpoint } = await start(t);
    assert.throws(() => endpoint.faults.script('run', 'typo'), /no fault named typo/);
    assert.equal((await client.run({ sim_job: { faults: { run: 'typo' } } })).status, 400);
  });

  it('and may come behind the operation that it would else prevent', async (t) => {
    const { client, endpoint } = await start(t);
    endpoint.faults.script('run', { fault: 'http-503', effect: true });
    assert.equal((await client.run({})).status, 503);
    assert.equal(endpoint.ledger.length, 1);
  });
});

describe('a reply that is lost', () => {
  it('to /stream takes its outputs with it: only the aggregate has them', async (t) => {
    const { client, endpoint } = await start(t, { handler: 'generator', aggregate: true });
    const { body: { id } } = await client.run({ n: 4, everyMs: 20 });
    await sleep(50);
    endpoint.faults.script('stream', 'lost');
    await assert.rejects(client.stream(id));
    const { output } = await client.until(id);
    const rest = (await client.stream(id)).body.stream;
    assert.ok(rest.length < 4);
    assert.equal(output.length, 4);
  });

  it('to /cancel cancels', async (t) => {
    const { client, endpoint } = await start(t, { handler: 'sleep' });
    const { body: { id } } = await client.run({ ms: 1000 });
    endpoint.faults.script('cancel', 'lost-502');
    assert.equal((await client.cancel(id)).status, 502);
    assert.equal((await client.status(id)).body.status, 'CANCELLED');
  });
});

describe('a job', () => {
  const generator = { handler: 'generator', aggregate: true };
  const indexes = (outputs) => outputs.map(({ index }) => index);

  it('whose chunk is posted twice has it in the stream twice, in the aggregate once', async (t) => {
    const { client } = await start(t, generator);
    const { outputs, last } = await client.outputs({ n: 3, sim_job: { duplicate: 2 } });
    assert.deepEqual(indexes(outputs), [0, 1, 1, 2]);
    assert.deepEqual(indexes(last.output), [0, 1, 2]);
  });

  it('whose chunk is lost lacks it in the stream, and where that is wanted in the aggregate', async (t) => {
    const { client } = await start(t, generator);
    for (const [dropEverywhere, aggregate] of [[false, [0, 1, 2]], [true, [0, 2]]]) {
      const { outputs, last } = await client.outputs({ n: 3, sim_job: { drop: 2, dropEverywhere } });
      assert.deepEqual(indexes(outputs), [0, 2]);
      assert.deepEqual(indexes(last.output), aggregate);
      assert.equal(last.status, 'COMPLETED');
    }
  });

  it('that is queued again in mid-stream has a second answer behind the first', async (t) => {
    const { client, endpoint } = await start(t, generator);
    const { outputs, last } = await client.outputs({ n: 3, sim_job: { requeueAfter: 2 } });
    assert.deepEqual(indexes(outputs), [0, 1, 0, 1, 2]);
    assert.deepEqual(indexes(last.output), [0, 1, 2]);
    assert.equal(last.retries, 1);
    assert.ok(endpoint.ledger[0].billedMs > last.executionTime, 'both runs are paid');
    assert.equal(endpoint.health.jobs.retried, 1);
  });

  it('whose worker is gone has FAILED', async (t) => {
    const { client } = await start(t, generator);
    const { outputs, last } = await client.outputs({ n: 3, sim_job: { workerLostAfter: 1 } });
    assert.deepEqual(indexes(outputs), [0]);
    const { status, error, retries, output } = last;
    assert.deepEqual({ status, error, retries, output },
      { status: 'FAILED', error: 'job timed out after 1 retries', retries: 1, output: undefined });
  });

  it('fails with its worker', async (t) => {
    const { client, endpoint } = await start(t, { handler: 'sleep' });
    const { body: { id } } = await client.run({ ms: 500 });
    await client.until(id, ['IN_PROGRESS']);
    endpoint.workers.kill();
    assert.equal((await client.status(id)).body.error, 'job timed out after 1 retries');
    assert.equal((await client.runsync({ ms: 1 })).body.status, 'COMPLETED', 'another worker starts');
  });

  it('whose end is refused never ends by itself', async (t) => {
    const { client, endpoint } = await start(t, { bounds: { executionTimeout: [1, 10_000] } });
    endpoint.nextJob({ neverDone: true });
    const { body: { id } } = await client.run({}, { policy: { executionTimeout: 150 } });
    await sleep(80);
    assert.equal((await client.status(id)).body.status, 'IN_PROGRESS');
    assert.equal((await client.until(id)).error, 'executionTimeout exceeded');
  });

  it('forgets a cancel that comes too early, though the reply says CANCELLED', async (t) => {
    const { client, endpoint } = await start(t, { handler: 'sleep', losesCancelsWithinMs: 100 });
    const { body: { id } } = await client.run({ ms: 1000 });
    await client.until(id, ['IN_PROGRESS']);
    assert.equal((await client.cancel(id)).body.status, 'CANCELLED');
    assert.equal((await client.status(id)).body.status, 'IN_PROGRESS');
    assert.ok(endpoint.ledger[0].cancelRequestedAt);
    await sleep(110);
    await client.cancel(id);
    assert.equal((await client.status(id)).body.status, 'CANCELLED');
  });

  it('forgets every cancel when it is told to', async (t) => {
    const { client } = await start(t, { handler: 'sleep' });
    const { body: { id } } = await client.run({ ms: 100, sim_job: { cancelLost: true } });
    await client.until(id, ['IN_PROGRESS']);
    await client.cancel(id);
    assert.equal((await client.until(id)).status, 'COMPLETED');
  });
});

it('README lists every handler and every fault', () => {
  const readme = readFileSync(new URL('runpod/README.md', import.meta.url), 'utf8');
  for (const name of [...Object.keys(HANDLERS), ...Object.keys(FAULTS)]) {
    assert.match(readme, new RegExp(`^\\|.*\`${name}\`.*\\|`, 'm'), name);
  }
});
