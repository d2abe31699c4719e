// What docs/handlers.md says of workers, and of what Fairlead makes of them: each of its examples runs under RunPod's
// own worker SDK, against the simulated control plane, with the gateway in front.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startGateway } from '../worker/gateway.mjs';
import { JobClient } from './job-client.mjs';
import { ensureSdk, startWorker } from './real-worker.mjs';
import { startRunpod } from './runpod.mjs';

const page = readFileSync(new URL('../../docs/handlers.md', import.meta.url), 'utf8');
const blocks = [...page.matchAll(/^```python handler\n([^]*?)^```$/gm)].map(([, code]) => code);
const examples = Object.fromEntries(blocks.map((code) => [/^# (\w+)\.py/.exec(code)?.[1], code]));

/** What the page says in words only. */
const traps = `
import asyncio, time
import runpod

timeout = getattr(asyncio, "timeout", None) or __import__("async_timeout").timeout  # Python 3.10

async def handler(job):
    kind = job["input"]["kind"]
    if kind == "timeout":
        async with timeout(0.3):
            for index in range(100_000):
                yield index
    if kind == "swallow":
        yield 0
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            print("swallowed", repr(error))
    if kind == "error":
        yield "before"
        yield {"error": "no such voice"}
        print("asked for more")
    if kind == "steps":
        try:
            for index in range(100):
                time.sleep(0.1)
                yield index
        finally:
            print("closed", job["id"])

runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
`;

const python = await ensureSdk();
const skip = python === null && 'needs Python 3.10 and PyPI';

describe('the handlers of docs/handlers.md under RunPod\'s worker SDK', { skip, concurrency: true }, () => {
  const handlers = { ...examples, traps };
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-handlers-'));
  let runpod;
  let gateway;
  let slow;

  before(async () => {
    const bounds = { executionTimeout: [100, 600_000] };
    const options = { in_a_thread: { executionTimeoutMs: 1000, executionTimeoutEndsAs: 'TIMED_OUT' } };
    const endpoints = Object.fromEntries(Object.keys(handlers).map((name) => [name, options[name] ?? {}]));
    runpod = await startRunpod({ handler: 'real', bounds, endpoints });
    const config = {
      open: true,
      endpoints: Object.keys(handlers).map((name) => (
        { name, provider: 'runpod', base_url: runpod.baseUrl(name), api_key_secret: 'KEY', native: true }
      )),
      models: [{ name: '*', targets: [{ endpoint: 'blocks' }] }],
    };
    config.policies = { default: { on_deadline: 'partial' } };
    gateway = await startGateway(config, { secrets: { KEY: runpod.apiKey } });
    slow = createServer(serveText).listen(0, '127.0.0.1');
  });
  after(async () => {
    rmSync(folder, { recursive: true });
    await Promise.all([gateway.close(), runpod.close()]);
    slow.closeAllConnections();
    slow.close();
    assert.deepEqual(gateway.troubles, []);
  });

  /** A worker with this handler, and what there is to see of it. */
  async function start(t, name) {
    const file = join(folder, `${name}.py`);
    writeFileSync(file, handlers[name]);
    const worker = await startWorker(python, runpod, file, { endpoint: name });
    t.after(() => worker.stop());
    const client = new JobClient(runpod, name);
    const endpoint = runpod.endpoint(name);
    return {
      worker, client, endpoint,
      /** A job whose handler is at work, so that no stop is lost. */
      async running(input) {
        const { body: { id } } = await client.run(input);
        await worker.says(new RegExp(`${id} \\| Started\\.`));
        return id;
      },
      posts: (id) => runpod.workerRequests.filter(({ operation, job }) => operation === 'job-stream' && job === id),
      async call(path, body, headers) {
        const response = await gateway.fetch(`/runpod/${name}${path}`, { body, headers });
        return { status: response.status, body: await response.json() };
      },
    };
  }

  it('are all here', () => {
    assert.deepEqual(Object.keys(examples), ['blocks', 'in_a_thread', 'in_a_process', 'relays', 'in_time', 'streams']);
  });

  it('blocks: hears of nothing, and keeps its worker from the next job', async (t) => {
    const { worker, client, endpoint, running, call } = await start(t, 'blocks');
    const { status, body } = await call('/runsync', { input: { seconds: 5.5 }, policy: { executionTimeout: 1000 } });
    assert.deepEqual([status, body.status, body.error.code], [504, 'FAILED', 'job_timed_out']);
    assert.match(body.error.message, /`executionTimeout` of 5000 ms\..+ make the handler yield in time/);
    assert.deepEqual([body.workerId, Math.round(body.executionTime / 100)], [worker.id, 50]);
    await gateway.line({ endpoint: 'blocks', event: 'job_slow' });
    await gateway.line({ endpoint: 'blocks', event: 'attempt_failed', reason: 'job_timed_out' });
    assert.equal(endpoint.ledger.length, 1, 'it is not run again');

    const id = await running({ seconds: 3 });
    const since = Date.now();
    await client.cancel(id);
    const pings = ({ operation, rest, at }) => operation === 'ping' && rest === worker.id && at > since + 500;
    await runpod.until(() => runpod.workerRequests.some(pings));
    assert.ok(!worker.log.includes(`${id} | Stopping job.`));
    const { body: next } = await client.runsync({ seconds: 0 });
    assert.deepEqual([next.status, next.delayTime > 500], ['COMPLETED', true]);
  });

  it('in_a_thread: stops when it is told to', async (t) => {
    const { worker, client, running, call } = await start(t, 'in_a_thread');
    await client.cancel(await running({ steps: 100 }));
    await worker.says(/Stopping job\.[^]+Job stopped\./);
    assert.ok(Number((await worker.says(/stopped at step (\d+) of 100/))[1]) < 50);

    // RunPod's other word for it.
    const { body: { id } } = await call('/run', { input: { steps: 100 } });
    const late = await call(`/status-sync/${id}`);
    assert.deepEqual([late.status, late.body.status], [200, 'TIMED_OUT']);
    const told = await call(`/stream/${id}`, undefined, { accept: 'text/event-stream' });
    assert.deepEqual([told.status, told.body.status, told.body.error.code], [504, 'TIMED_OUT', 'job_timed_out']);
    assert.match(told.body.error.message, / took longer than the job's `executionTimeout`\. /);

    const given = await call('/runsync', { input: { steps: 100 } }, { 'x-fairlead-deadline-ms': '3000' });
    assert.deepEqual([given.status, given.body.error.code], [504, 'deadline_exceeded']);
    await gateway.line({ event: 'job_cancelled', endpoint: 'in_a_thread', outcome: 'cancelled' });
    await worker.until(() => worker.log.match(/stopped at step/g).length === 3);
    assert.deepEqual((await client.runsync({ steps: 1 })).body.output, { steps: 1 });
  });

  it('in_a_process: is killed when it is told to stop', async (t) => {
    const { worker, client, running } = await start(t, 'in_a_process');
    assert.deepEqual((await client.runsync({ seconds: 0 })).body.output, { status: 0 });
    const id = await running({ seconds: 60 });
    const [, pid] = await worker.says(new RegExp(`${id}[^]+runs as (\\d+)`));
    await client.cancel(id);
    await worker.says(new RegExp(`killed ${pid}`));
    assert.throws(() => process.kill(Number(pid), 0), { code: 'ESRCH' });
  });

  it('relays: cuts no character, and says who was slow', async (t) => {
    const { client, call } = await start(t, 'relays');
    const at = (path) => ({ url: `http://127.0.0.1:${slow.address().port}${path}` });
    const { outputs, last } = await client.outputs(at('/whole'));
    assert.deepEqual([outputs.join(''), last.output, outputs.length > 5], [TEXT, outputs, true]);
    assert.match((await client.runsync(at('/half'))).body.error, /^handler: 'utf-8' codec can't decode/);
    const { status, body } = await call('/runsync', { input: at('/silent') });
    assert.deepEqual([status, body.error.code], [502, 'job_failed']);
    assert.match(body.error.message, /raised: the model server was silent for too long\./);
    assert.ok(body.executionTime < 3000, `${body.executionTime} ms`);
  });

  it('in_time: has a part when the time is over, a progress, and an error', async (t) => {
    const { client, endpoint, call } = await start(t, 'in_time');
    const all = ['text of page 0', 'text of page 1', 'text of page 2', 'text of page 3'];
    assert.deepEqual((await client.runsync({ pages: 4 })).body.output, { texts: all, complete: true });
    const { body: { status, output: { texts, complete } } } = await client.runsync({ pages: 50, seconds: 0.7 });
    assert.deepEqual([status, texts, complete], ['COMPLETED', all.slice(0, texts.length), false]);
    assert.ok(texts.length > 0);

    const { body: { id } } = await client.run({ pages: 5 });
    await runpod.until(() => endpoint.jobs.find(id).output);
    const early = (await client.status(id)).body;
    assert.deepEqual([early.status, early.output], ['IN_PROGRESS', '1 of 5']);
    assert.equal((await client.until(id)).status, 'COMPLETED');
    const { body: { error } } = await call('/runsync', { input: { pages: 0 } });
    assert.equal(error.code, 'job_failed');
    assert.match(error.message, /raised: ValueError: there is nothing to read\. /);
  });

  it('streams: several jobs, a part when the time is over, and nothing left behind by a stop', async (t) => {
    const { worker, client, endpoint, posts, call } = await start(t, 'streams');
    const [one, two] = await Promise.all([client.run({ pages: 20 }), client.run({ pages: 20 })]);
    const state = ({ body: { id } }) => endpoint.jobs.find(id).status;
    await runpod.until(() => state(one) === 'IN_PROGRESS' && state(two) === 'IN_PROGRESS');
    await Promise.all([one, two].map(({ body: { id } }) => client.until(id)));
    const { outputs, last } = await client.outputs({ pages: 50, seconds: 0.75 });
    assert.ok(outputs.length > 1 && outputs.length < 9, outputs.length);
    assert.deepEqual([outputs.at(-1), last.status, last.output], [{ complete: false }, 'COMPLETED', outputs]);

    const late = await call('/runsync', { input: { pages: 90 } }, { 'x-fairlead-deadline-ms': '3000' });
    assert.deepEqual([late.status, late.body.status, late.body.output[0]], [200, 'CANCELLED', outputs[0]]);
    assert.ok(late.body.output.length > 1 && late.body.output.every(({ page: at }, index) => at === index));
    const failed = await call('/runsync', { input: { pages: 90 }, policy: { executionTimeout: 5000 } });
    assert.deepEqual([failed.status, failed.body.stream[0]], [504, outputs[0]]);

    endpoint.faults.script('job-stream', 'ok', { fault: 'slow', ms: 20_000 });
    const { body: { id } } = await client.run({ pages: 5 });
    await runpod.until(() => posts(id).length === 2);
    const folders = () => readdirSync(tmpdir()).filter((name) => name.startsWith(id)).length;
    assert.equal(folders(), 1);
    await client.cancel(id);
    await worker.says(new RegExp(`${id} \\| Job stopped`));
    for (const until = Date.now() + 2000; folders() > 0 && Date.now() < until;) await sleep(10);
    assert.equal(folders(), 0);
  });

  it('traps: a limit around a yield, a swallowed stop, an error among outputs, a generator that blocks', async (t) => {
    const { worker, client, posts } = await start(t, 'traps');
    const silent = await client.run({ kind: 'timeout' }, { policy: { executionTimeout: 1500 } });
    await worker.says(new RegExp(`${silent.body.id} \\| Job stopped`));
    assert.equal((await client.status(silent.body.id)).body.status, 'IN_PROGRESS');
    assert.equal((await client.until(silent.body.id)).error, 'executionTimeout exceeded');

    const { body: { id } } = await client.run({ kind: 'swallow' });
    await runpod.until(() => posts(id).length === 1 && posts(id)[0].finishedAt);
    await client.cancel(id);
    await worker.says(new RegExp(`swallowed CancelledError[^]+${id} \\| Finished\\.`));

    const failed = await client.outputs({ kind: 'error' });
    assert.deepEqual([failed.outputs, failed.last.error, failed.last.output], [['before'], 'no such voice', undefined]);
    assert.ok(!worker.log.includes('asked for more'));

    const steps = await client.run({ kind: 'steps' });
    await runpod.until(() => posts(steps.body.id).length === 3);
    await client.cancel(steps.body.id);
    await worker.says(new RegExp(`${steps.body.id} \\| Job stopped`));
    assert.ok(posts(steps.body.id).length < 20);
    await sleep(500); // a worker that is idle goes on collecting nothing
    const closed = `closed ${steps.body.id}`;
    assert.ok(!worker.log.includes(closed));
    await client.outputs({ kind: 'error' });
    await worker.says(new RegExp(closed));
  });
});

const TEXT = 'Boats ⛵ moor 🪢 here';

/** Byte by byte; `/half` ends inside a character, `/silent` goes on for ever without a word. */
async function serveText({ url }, response) {
  response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' });
  const bytes = Buffer.from(TEXT);
  for (const byte of url === '/whole' ? bytes : bytes.subarray(0, 7)) {
    response.write(Buffer.of(byte));
    await sleep(5);
  }
  if (url !== '/silent') response.end();
}
