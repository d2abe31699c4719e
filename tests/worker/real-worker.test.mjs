// End to end: RunPod's real worker SDK runs handlers against the simulation, and the gateway is in front of it.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ensureSdk, startWorker } from '../upstream/real-worker.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { DONE, IMPATIENT, JobCall, contentOf, startJobs } from './jobs.mjs';

const python = await ensureSdk();

const TEXT = 'Boats ⛵ moor 🪢 here, crews 👩🏽‍✈️👨‍👩‍👧‍👦 cheer';

// At the same time, because a worker takes seconds to start and then mostly waits.
describe('RunPod\'s real worker behind the gateway', {
  skip: python === null && 'needs Python 3.10 and PyPI', concurrency: true,
}, () => {
  async function start(t, handler) {
    const runpod = await startRunpod({ endpoints: { real: { handler: 'real' } } });
    const worker = await startWorker(python, runpod, handler, { pingMs: 1000 });
    const gateway = await startJobs(runpod, ['real'], {
      endpoint: { native: true }, policies: { partial: { ...IMPATIENT, on_deadline: 'partial' } },
    });
    t.after(async () => {
      await gateway.close();
      await worker.stop();
      await runpod.close();
      assert.deepEqual(gateway.troubles, []);
    });
    const runsync = (input, { headers, query = '', ...more } = {}) =>
      new JobCall(gateway, runpod, undefined, { input, ...more }, { path: `/runpod/real/runsync${query}`, headers });
    const chat = (body) => new JobCall(gateway, runpod, 'real', { messages: [], stream: true, ...body });
    return { runpod, worker, gateway, runsync, chat, endpoint: runpod.endpoint('real') };
  }

  it('a generator: its outputs as events, its aggregate, and its exception with what it had put out', async (t) => {
    const { gateway, runsync, worker } = await start(t, 'generator');
    const { json: { output, workerId } } = await runsync({ n: 4 }).ended;
    assert.deepEqual(output, [0, 1, 2, 3].map((index) => ({ index })));
    assert.equal(workerId, worker.id);

    const { id } = await (await gateway.fetch('/runpod/real/run', { body: { input: { n: 3 } } })).json();
    const headers = { accept: 'text/event-stream' };
    const events = await (await gateway.fetch(`/runpod/real/stream/${id}`, { headers })).text();
    assert.deepEqual(events.match(/"index":\d/g), ['"index":0', '"index":1', '"index":2']);
    assert.match(events, /event: status\ndata: .*"status":"COMPLETED"/);

    const raised = await runsync({ n: 4, every: 0.3, raise_at: 2, message: 'it\'s over' }).ended;
    assert.deepEqual([raised.response.status, raised.error.code], [502, 'job_failed']);
    assert.match(raised.error.message, /raised: it's over\./);
    assert.doesNotMatch(raised.text, /Traceback|line \d/);
    assert.deepEqual(raised.json.stream, [{ index: 0 }, { index: 1 }]);
  });

  it('a generator whose time is over: what there is, and it is stopped', async (t) => {
    const { runpod, runsync } = await start(t, 'async_generator');
    const headers = { 'x-fairlead-deadline-ms': '2500', 'x-fairlead-policy': 'partial' };
    const partial = await runsync({ n: 400, every: 0.05 }, { headers }).ended;
    assert.equal(partial.response.headers.get('x-fairlead-truncated'), 'deadline', partial.text);
    const { output } = partial.json;
    assert.ok(output.length > 5);
    assert.deepEqual(output, output.map((_, index) => ({ index })));
    const [job] = partial.jobs;
    await runpod.until(() => job.isOver);
    assert.equal(job.status, 'CANCELLED');
  });

  it('an async handler that serves several, one of whom leaves', async (t) => {
    const { gateway, worker, runpod } = await start(t, 'async_generator');
    const run = async (n) => (await (await gateway.fetch('/runpod/real/run', { body: { input: { n } } })).json()).id;
    const [long, short] = [await run(500), await run(20)];
    const { jobs } = runpod.endpoint('real');
    await runpod.until(() => jobs.all.every(({ startedAt }) => startedAt));
    const [job] = jobs.all;
    assert.equal((await gateway.fetch(`/runpod/real/status-sync/${short}`)).status, 200);
    await gateway.fetch(`/runpod/real/cancel/${long}`, { method: 'POST' });
    const [, at] = await worker.says(new RegExp(`${job.id} ended at (\\d+)`));
    assert.ok(Number(at) < 400, `it ended at ${at} of 500`);
  });

  it('a handler that blocks past its limit: the cause and the cure, while the isolate serves others', async (t) => {
    const { gateway, runsync, runpod } = await start(t, 'blocking');
    const blocked = runsync({ seconds: 6.5 }, { policy: { executionTimeout: 5000 } });
    await runpod.until(() => blocked.jobs[0]?.status === 'IN_PROGRESS');
    assert.equal((await gateway.fetch('/runpod/real/health')).status, 200);
    await blocked.ended;
    assert.deepEqual([blocked.response.status, blocked.error.code], [504, 'job_timed_out']);
    assert.match(blocked.error.message, /`executionTimeout` of 5000 ms.*Raise that limit.*or make the handler yield/);
    assert.ok(blocked.json.executionTime > 4900); // timers may be a moment early
    assert.equal((await blocked.line({ event: 'job_slow' })).limit_ms, 5000);
    // Its worker is deaf for a second and a half more, and then as good as ever.
    assert.deepEqual((await runsync({ seconds: 0.01 }).ended).json.output, { slept: 0.01 });
  });

  it('a handler that raises, or returns an error, whatever it told before', async (t) => {
    const { runsync } = await start(t, 'raising');
    const raised = await runsync({ key: 'voice', progress: 'half' }).ended;
    assert.deepEqual([raised.response.status, raised.error.code, raised.json.status], [502, 'job_failed', 'FAILED']);
    assert.match(raised.error.message, /raised: KeyError: 'voice'\./);
    const refused = await runsync({ error: 'no such voice' }).ended;
    assert.match(refused.error.message, /raised: no such voice\./);
  });

  it('worker-vllm\'s text: to the byte, or an error where a character was destroyed', async (t) => {
    const { chat, endpoint } = await start(t, 'raw_sse');
    const whole = await chat({ text: TEXT, piece_bytes: 4096, every: 0.01 }).ended;
    assert.equal(whole.response.status, 200, whole.text);
    assert.equal(contentOf(whole.events).trim(), TEXT);
    assert.equal(whole.events.map((event) => `${event}\n\n`).join(''), whole.jobs[0].output.join(''));
    assert.ok(whole.text.endsWith(`${DONE}\n\n`));

    const torn = await chat({ text: TEXT, piece_bytes: 7 }).ended;
    assert.equal(torn.error.code, 'stream_interrupted');
    assert.ok(!torn.text.includes(DONE));

    const refused = await chat({ status: 400, detail: '{"error":{"message":"it\'s too long","code":400}}' }).ended;
    assert.equal(refused.response.status, 400);
    assert.deepEqual(refused.json, { error: { message: 'it\'s too long', code: 400 } });

    // A post that breaks is never made again; one whose answer does is made once more, two seconds later.
    const long = { text: `${TEXT} `.repeat(4), piece_bytes: 300, every: 0.02 };
    endpoint.faults.script('job-stream', 'ok', 'ok', 'ok', 'reset');
    const lost = await chat(long).ended;
    assert.equal(lost.error.code, 'stream_interrupted');
    assert.ok(!lost.text.includes(DONE));
    endpoint.faults.script('job-stream', 'ok', 'ok', 'ok', { fault: 'http-503', effect: true });
    const twice = await chat(long).ended;
    assert.equal(contentOf(twice.events), long.text.replace(/ $/, '  '));
    assert.ok(twice.text.endsWith(`${DONE}\n\n`));
  });
});
