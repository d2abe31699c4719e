// What the simulated RunPod says to workers, shown by plain requests. Real workers: real-worker.test.mjs.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { JobClient } from './job-client.mjs';
import { startRunpod } from './runpod.mjs';

async function start(t, options = {}) {
  const runpod = await startRunpod({ handler: 'real', takeMs: 100, ...options });
  t.after(() => runpod.close());
  const worker = new JobClient(runpod, undefined, null); // a worker has no key of the public API
  return {
    runpod, endpoint: runpod.endpoint(), client: new JobClient(runpod),
    take: (id = 'w1', more = '') => worker.call('GET', `/job-take/${id}?gpu=x${more}`),
    ask: (path) => worker.call('GET', path),
    post: (what, job, body, isStream = false, id = 'w1') =>
      worker.call('POST', `/${what}/${id}/${job}?gpu=x&isStream=${isStream}`, body),
  };
}

describe('a worker', () => {
  it('waits for a job, streams its outputs and ends it', async (t) => {
    const { runpod, client, endpoint, take, post } = await start(t, { takeMs: 5000 });
    const polled = take();
    await runpod.until(() => endpoint.health.workers.idle === 1);
    const { body: { id } } = await client.run({ a: 1 });
    assert.deepEqual((await polled).body, { id, input: { a: 1 } });
    assert.equal((await client.status(id)).body.status, 'IN_PROGRESS');
    assert.equal(endpoint.health.workers.running, 1);

    assert.equal((await post('job-stream', id, { output: 'x' })).status, 200);
    assert.deepEqual((await client.stream(id)).body, { status: 'IN_PROGRESS', stream: [{ output: 'x' }] });
    await post('job-done', id, { status: 'IN_PROGRESS', output: '50 %' });
    assert.equal((await client.status(id)).body.output, '50 %');
    await post('job-done', id, { output: ['x'] }, true);
    assert.deepEqual((await client.status(id)).body.output, ['x']);
  });

  it('hears that there is nothing to do', async (t) => {
    const { take, ask } = await start(t);
    const began = Date.now();
    assert.deepEqual((await Promise.all([take(), ask('/job-stop/w1?gpu=x')])).map(({ status }) => status), [204, 204]);
    assert.ok(Date.now() - began >= 95);
    assert.equal((await ask('/ping/w1')).status, 200);
  });

  it('takes several jobs at once, but none while the endpoint is throttled', async (t) => {
    const { client, ask, endpoint } = await start(t);
    for (let n = 0; n < 3; n += 1) await client.run({ n });
    endpoint.workers.throttled = 1;
    assert.equal((await ask('/job-take-batch/w1?gpu=x&batch_size=2')).status, 204);
    endpoint.workers.throttled = 0;
    const { body } = await ask('/job-take-batch/w1?gpu=x&batch_size=2');
    assert.deepEqual(body.map(({ input }) => input.n), [0, 1]);
  });

  it('is told what to stop, but not what it has ended itself', async (t) => {
    const { client, take, ask, post } = await start(t);
    const { body: { id } } = await client.run({});
    const { body: { id: other } } = await client.run({});
    await take();
    await take();
    await post('job-done', other, { output: 1 });
    const stop = ask('/job-stop/w1?gpu=x');
    await client.cancel(id);
    assert.deepEqual((await stop).body, { jobsToStop: [id] });
    await post('job-stream', id, { output: 'late' });
    await post('job-done', id, { output: 'late' });
    assert.equal((await client.status(id)).body.output, undefined, 'nobody wants it any more');
  });

  it('is lost when it is silent', async (t) => {
    const { client, take, ask } = await start(t, { workerLostMs: 400 });
    const { body: { id } } = await client.run({});
    await take();
    await sleep(250);
    await ask('/ping/w1');
    await sleep(250);
    assert.equal((await client.status(id)).body.status, 'IN_PROGRESS');
    assert.equal((await client.until(id)).error, 'job timed out after 1 retries');
  });

  it('finds no such routes where workers are simulated', async (t) => {
    const { take } = await start(t, { handler: 'echo' });
    assert.equal((await take()).status, 404);
  });
});
