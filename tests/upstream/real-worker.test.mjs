// The life of each handler when RunPod's own worker SDK runs it, as the public API shows it.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { JobClient } from './job-client.mjs';
import { repr } from './python.mjs';
import { ensureSdk, startWorker } from './real-worker.mjs';
import { startRunpod } from './runpod.mjs';

const python = await ensureSdk();

const skip = python === null && 'needs Python 3.10 and PyPI';

// At the same time, because a worker takes seconds to start and then mostly waits.
describe('RunPod\'s real worker SDK', { skip, concurrency: true }, () => {
  async function start(t, handler, options = {}) {
    const bounds = { executionTimeout: [100, 60_000] };
    const runpod = await startRunpod({ handler: 'real', bounds, ...options });
    const worker = await startWorker(python, runpod, handler, { pingMs: 1000 });
    t.after(async () => {
      await worker.stop();
      await runpod.close();
    });
    return { runpod, worker, endpoint: runpod.endpoint(), client: new JobClient(runpod) };
  }

  it('streams what a generator yields, and its exception', async (t) => {
    const { client, worker, runpod } = await start(t, 'generator');
    const { outputs, last } = await client.outputs({ n: 4 });
    assert.deepEqual(outputs, [0, 1, 2, 3].map((index) => ({ index })));
    assert.deepEqual(last.output, outputs);
    assert.equal(last.workerId, worker.id);

    const failed = await client.outputs({ n: 4, raise_at: 2, message: "it's over" });
    assert.deepEqual(failed.outputs, [{ index: 0 }, { index: 1 }]);
    assert.equal(failed.last.status, 'FAILED');
    assert.match(failed.last.error, /^handler: it's over \ntraceback: Traceback \(most recent call last\):/);
    assert.equal(failed.last.output, undefined);

    const posts = runpod.workerRequests.filter(({ operation }) => operation === 'job-stream');
    assert.equal(posts[0].headers['content-type'], 'application/x-www-form-urlencoded');
    assert.equal(posts[0].headers['x-request-id'], posts[0].job);
    await runpod.until(() => runpod.workerRequests.some(({ operation }) => operation === 'ping'));
  });

  it('has a chunk twice or never when the platform takes it badly', async (t) => {
    const { client, endpoint } = await start(t, 'generator');
    endpoint.faults.script('job-stream', 'ok', 'reset');
    const lost = await client.outputs({ n: 4 });
    endpoint.faults.script('job-stream', 'ok', { fault: 'http-503', effect: true });
    const twice = await client.outputs({ n: 4 });
    const indexes = ({ outputs }) => outputs.map(({ index }) => index);
    assert.deepEqual([indexes(lost), indexes(twice)], [[0, 2, 3], [0, 1, 1, 2, 3]]);
    for (const { last } of [lost, twice]) assert.equal(last.output.length, 4);
  });

  it('runs an async generator on several jobs, and stops the one that is cancelled', async (t) => {
    const { client, worker, endpoint } = await start(t, 'async_generator');
    const [one, two] = await Promise.all([client.run({ n: 200 }), client.run({ n: 20 })]);
    await client.until(one.body.id, ['IN_PROGRESS']);
    await client.until(two.body.id, ['IN_PROGRESS']);
    await sleep(300); // an earlier cancel is lost
    await client.cancel(one.body.id);
    const done = await client.until(two.body.id);
    assert.equal(done.status, 'COMPLETED');
    assert.equal(done.output, undefined, 'it returns no aggregate');
    const ended = await worker.says(new RegExp(`${one.body.id} ended at (\\d+)`));
    assert.ok(Number(ended[1]) < 100, `it ended at ${ended[1]} of 200`);
    const [{ status, billedMs }] = endpoint.ledger;
    assert.equal(status, 'CANCELLED');
    assert.ok(billedMs < 2000, `${billedMs} ms of 4000`);
  });

  it('keeps its worker busy when a handler blocks past its limit', async (t) => {
    const { client, runpod } = await start(t, 'blocking');
    const { body } = await client.runsync({ seconds: 2 }, { policy: { executionTimeout: 500 } });
    assert.deepEqual([body.status, body.error], ['FAILED', 'executionTimeout exceeded']);
    const next = await client.runsync({ seconds: 0.01 });
    assert.deepEqual(next.body.output, { slept: 0.01 });
    assert.ok(next.body.delayTime > 1000, `the next job waits ${next.body.delayTime} ms`);
    const pings = runpod.workerRequests.filter(({ operation }) => operation === 'ping');
    assert.ok(pings.length > 1, 'its pings go on');
  });

  it('reports an exception as JSON, an error as it is, and progress before both', async (t) => {
    const { runpod, endpoint, client, worker } = await start(t, 'raising');
    const { body: { id } } = await client.run({ key: 'voice', progress: 'half' });
    await runpod.until(() => endpoint.jobs.find(id).output);
    const early = (await client.status(id)).body;
    assert.deepEqual([early.status, early.output], ['IN_PROGRESS', 'half']);
    const { status, error } = await client.until(id);
    assert.equal(status, 'FAILED');
    const { error_type, error_message, worker_id, runpod_version } = JSON.parse(error);
    assert.deepEqual({ error_type, error_message, worker_id, runpod_version },
      { error_type: "<class 'KeyError'>", error_message: "'voice'", worker_id: worker.id, runpod_version: '1.12.0' });
    assert.equal((await client.runsync({ error: 'no such voice' })).body.error, 'no such voice');
  });

  it('passes SSE text on as worker-vllm cuts it, with the characters that this destroys', async (t) => {
    const { client } = await start(t, 'raw_sse');
    const text = 'Boats ⛵ moor 🪢 here';
    const whole = await client.outputs({ text, piece_bytes: 4096 });
    assert.ok(whole.outputs.join('').includes('⛵'));
    const cut = await client.outputs({ text, piece_bytes: 7 });
    assert.ok(cut.outputs.length > 50);
    assert.match(cut.outputs.join(''), /\ufffd/);
    assert.deepEqual(cut.last.output, cut.outputs);
    const detail = '{"error":{"message":"it\'s full","code":503}}';
    const { body } = await client.runsync({ status: 503, detail });
    assert.equal(body.error, repr({ message: `vLLM returned HTTP 503: ${detail}`, type: 'worker_error', code: null }));
    assert.match(body.error, /it\\'s full/);
  });
});
