// The simulated RunPod's public side: documented shapes, a job's life and cost, and worker-vllm behind it.

import assert from 'node:assert/strict';
import net from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { JobClient } from './job-client.mjs';
import { startRunpod } from './runpod.mjs';

const MESSAGES = [{ role: 'user', content: 'What is a fairlead?' }];
const CHAT = { model: 'taught', messages: MESSAGES, stream: true };
const TEXT = 'A fairlead guides a line and keeps it from chafing. Whatever the sea does, the line runs true.';
const NEVER = 0x7fffffff;
const SLACK_MS = 150;

/** A RunPod with one endpoint, and its client. */
async function start(t, options = {}) {
  const runpod = await startRunpod(options);
  t.after(() => runpod.close());
  return { runpod, endpoint: runpod.endpoint(), client: new JobClient(runpod) };
}

/** Timers are never early by more than their rounding, and late by what else the machine has to do. */
function assertTook(actual, ms) {
  assert.ok(actual >= ms - 5 && actual <= ms + SLACK_MS, `${actual} ms is not ${ms} ms`);
}
const chat = (body) => ({ openai_route: '/v1/chat/completions', openai_input: { ...CHAT, ...body } });
const contentOf = (sse) => sse.split('\n\n').filter((event) => event.startsWith('data: {'))
  .flatMap((event) => JSON.parse(event.slice('data: '.length)).choices)
  .map(({ delta }) => delta.content ?? '').join('');

describe('the shapes of the documented operations', () => {
  it('/run queues a job, /status tells its end', async (t) => {
    const { client } = await start(t, { coldStartMs: 50 });
    const submitted = await client.run({ a: 1 });
    assert.equal(submitted.status, 200);
    assert.deepEqual(Object.keys(submitted.body), ['id', 'status']);
    assert.match(submitted.body.id, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-u1$/);
    assert.equal(submitted.body.status, 'IN_QUEUE');
    const { delayTime, executionTime, workerId, ...rest } = await client.until(submitted.body.id);
    assert.deepEqual(rest, { id: submitted.body.id, output: { a: 1 }, status: 'COMPLETED' });
    assertTook(delayTime, 50);
    assertTook(executionTime, 0);
    assert.match(workerId, /^[0-9a-z]{14}$/);
  });

  it('/runsync waits for the output, and its job can be looked at', async (t) => {
    const { client } = await start(t, { handler: 'sleep' });
    const { status, body } = await client.runsync({ ms: 50 });
    assert.equal(status, 200);
    assert.match(body.id, /^sync-/);
    assert.deepEqual(body.output, { slept: 50 });
    assert.deepEqual((await client.status(body.id)).body, body);
  });

  it('/runsync and /status-sync end at `wait` with what there is', async (t) => {
    const { client } = await start(t, { handler: 'sleep', bounds: { wait: [10, 1000] } });
    const { body } = await client.runsync({ ms: 200 }, {}, '?wait=50');
    assert.equal(body.status, 'IN_PROGRESS');
    const early = await client.call('GET', `/status-sync/${body.id}?wait=20`);
    assert.equal(early.body.status, 'IN_PROGRESS');
    const late = await client.call('GET', `/status-sync/${body.id}?wait=1000`);
    assert.deepEqual(late.body.output, { slept: 200 });
  });

  it('/stream gives out each output once, many in a reply', async (t) => {
    const { client } = await start(t, { handler: 'generator', aggregate: true });
    const { outputs, replies, last } = await client.outputs({ n: 6, everyMs: 4 });
    assert.deepEqual(outputs.map(({ index }) => index), [0, 1, 2, 3, 4, 5]);
    assert.ok(replies.some((reply) => reply.length > 1));
    assert.deepEqual(last.output, outputs);
  });

  it('/stream is consumed by whoever asks, but not by /status', async (t) => {
    const { client } = await start(t, { handler: 'generator' });
    const { body: { id } } = await client.run({ n: 2, everyMs: 1 });
    const { output } = await client.until(id);
    assert.equal(output, undefined, 'without return_aggregate_stream there is none');
    assert.deepEqual((await client.stream(id)).body, {
      status: 'COMPLETED', stream: [{ output: { index: 0 } }, { output: { index: 1 } }],
    });
    assert.deepEqual((await client.stream(id)).body, { status: 'COMPLETED', stream: [] });
  });

  it('/cancel takes a job out of the queue', async (t) => {
    const { client, endpoint } = await start(t, { dead: true });
    const { body: { id } } = await client.run({});
    assert.deepEqual((await client.cancel(id)).body, { id, status: 'CANCELLED' });
    assert.equal((await client.status(id)).body.status, 'CANCELLED');
    assert.equal(endpoint.ledger[0].billedMs, 0);
  });

  it('/retry runs what failed again under the same id, and nothing else', async (t) => {
    const { client } = await start(t, { handler: 'raise' });
    const { body: { id } } = await client.runsync({});
    assert.deepEqual((await client.call('POST', `/retry/${id}`)).body, { id, status: 'IN_QUEUE' });
    const { retries, status } = await client.until(id);
    assert.deepEqual({ retries, status }, { retries: 1, status: 'FAILED' });
    const { client: other } = await start(t);
    const done = await other.runsync({ a: 1 });
    assert.equal((await other.call('POST', `/retry/${done.body.id}`)).status, 400);
  });

  it('/purge-queue ends what waits, not what runs', async (t) => {
    const { client } = await start(t, { handler: 'sleep', workers: 1, warm: 1 });
    const ids = [];
    for (let n = 0; n < 3; n += 1) ids.push((await client.run({ ms: 100 })).body.id);
    await client.until(ids[0], ['IN_PROGRESS']);
    assert.deepEqual((await client.call('POST', '/purge-queue')).body, { removed: 2, status: 'completed' });
    assert.equal((await client.until(ids[0])).status, 'COMPLETED');
    assert.equal((await client.status(ids[2])).body.status, 'CANCELLED');
  });

  it('/health counts jobs and workers', async (t) => {
    const { runpod, client, endpoint } = await start(t, {
      handler: 'sleep', workers: 2, coldStartMs: 300, throttled: 1,
    });
    await client.run({ ms: 5000 });
    await client.run({ ms: 5000 });
    assert.deepEqual((await client.health()).body, {
      jobs: { completed: 0, failed: 0, inProgress: 0, inQueue: 2, retried: 0 },
      workers: { idle: 0, initializing: 1, ready: 0, running: 0, throttled: 1, unhealthy: 0 },
    });
    await runpod.until(() => endpoint.health.jobs.inProgress > 0);
    const { jobs, workers } = (await client.health()).body;
    assert.deepEqual([jobs.inProgress, jobs.inQueue, workers.running], [1, 1, 1]);
    endpoint.workers.throttled = 0;
    assert.equal((await client.health()).body.workers.throttled, 0);
  });
});

describe('what is refused', () => {
  const cases = {
    'no input': [{}, 400],
    'an input that is no object': [{ input: 'text' }, 400],
    'a body that is no JSON': ['{"input":', 400],
    'a short executionTimeout': [{ input: {}, policy: { executionTimeout: 4999 } }, 400],
    'a long executionTimeout': [{ input: {}, policy: { executionTimeout: 604_800_001 } }, 400],
    'a short ttl': [{ input: {}, policy: { ttl: 9999 } }, 400],
    'a ttl that is no integer': [{ input: {}, policy: { ttl: 10_000.5 } }, 400],
    'a payload of 10 MB': [{ input: { text: 'x'.repeat(10 * 1024 * 1024) } }, 413],
  };
  for (const [what, [body, status]] of Object.entries(cases)) {
    it(what, async (t) => {
      const { client, endpoint } = await start(t);
      assert.equal((await client.call('POST', '/run', body)).status, status);
      assert.deepEqual(endpoint.ledger, []);
    });
  }

  it('but /runsync takes 20 MB, and bounds may be met', async (t) => {
    const { client } = await start(t);
    const { body } = await client.runsync({ text: 'x'.repeat(10 * 1024 * 1024) });
    assert.equal(body.status, 'COMPLETED');
    assert.equal((await client.run({}, { policy: { executionTimeout: 5000, ttl: 10_000 } })).status, 200);
  });

  it('another key, no key, another endpoint, job, route or method', async (t) => {
    const { runpod, client } = await start(t);
    assert.equal((await new JobClient(runpod, undefined, 'other').health()).status, 401);
    assert.equal((await new JobClient(runpod, undefined, null).health()).status, 401);
    assert.equal((await client.call('GET', '/../other/health')).status, 404);
    assert.equal((await client.status('nobody')).status, 404);
    assert.equal((await client.call('GET', '/nothing')).status, 404);
    assert.equal((await client.call('GET', '/status')).status, 404);
    assert.equal((await client.call('GET', '/run')).status, 405);
  });
});

describe('workers', () => {
  it('are cold at first, then warm, then gone', async (t) => {
    const { client } = await start(t, { coldStartMs: 250, idleMs: 250 });
    assertTook((await client.runsync({})).body.delayTime, 250);
    assertTook((await client.runsync({})).body.delayTime, 0);
    await sleep(400);
    assert.equal((await client.health()).body.workers.idle, 0);
    assertTook((await client.runsync({})).body.delayTime, 250);
  });

  it('take as many jobs at once as they may', async (t) => {
    const { client } = await start(t, { handler: 'sleep', workers: 2, concurrency: 2 });
    const delays = await Promise.all(Array.from({ length: 5 }, async () => (await client.runsync({ ms: 300 })).body));
    assert.deepEqual(delays.map(({ delayTime }) => delayTime >= 190).sort(), [false, false, false, false, true]);
    assert.equal(new Set(delays.map(({ workerId }) => workerId)).size, 2);
  });

  it('that are throttled, or dead, leave jobs in the queue', async (t) => {
    for (const options of [{ throttled: 3 }, { dead: true }]) {
      const { client, endpoint } = await start(t, options);
      const { body: { id } } = await client.run({});
      await sleep(50);
      assert.equal((await client.status(id)).body.status, 'IN_QUEUE');
      assert.equal((await client.health()).body.workers.throttled, options.throttled ?? 0);
      Object.assign(endpoint.workers, { throttled: 0, dead: false });
      assert.equal((await client.until(id)).status, 'COMPLETED');
    }
  });
});

describe('a job costs', () => {
  it('what its worker spent on it, not the time in the queue', async (t) => {
    const { client, endpoint } = await start(t, { handler: 'sleep', coldStartMs: 100 });
    await client.runsync({ ms: 100 });
    const [{ submittedAt, startedAt, endedAt, billedMs }] = endpoint.ledger;
    assertTook(startedAt - submittedAt, 100);
    assert.equal(billedMs, endedAt - startedAt);
    assertTook(billedMs, 100);
  });

  it('nothing more once it is cancelled', async (t) => {
    const { client, endpoint } = await start(t, { handler: 'generator' });
    const { body: { id } } = await client.run({ n: 100 });
    await sleep(100);
    assert.ok(endpoint.ledger[0].billedMs > 0, 'while it runs the bill grows');
    await client.cancel(id);
    const [{ billedMs, startedAt, cancelRequestedAt, endedAt, polls }] = endpoint.ledger;
    assert.equal(billedMs, endedAt - startedAt);
    assert.ok(billedMs < 500, `${billedMs} of 2000 ms`);
    assertTook(endedAt - cancelRequestedAt, 0);
    assert.equal(polls.cancel, 1);
    await sleep(50);
    assert.equal(endpoint.ledger[0].billedMs, billedMs);
    const left = (await client.stream(id)).body;
    assert.equal(left.status, 'CANCELLED');
    assert.ok(left.stream.length < 20, 'nor does it yield any more');
  });

  it('nothing more past its executionTimeout, which users see as FAILED and docs call TIMED_OUT', async (t) => {
    for (const as of ['FAILED', 'TIMED_OUT']) {
      const bounds = { executionTimeout: [50, NEVER] };
      const { client, endpoint } = await start(t, { handler: 'block', executionTimeoutEndsAs: as, bounds });
      const { body } = await client.runsync({ ms: 300 }, { policy: { executionTimeout: 100 } });
      assert.equal(body.status, as);
      assert.equal(body.error, as === 'FAILED' ? 'executionTimeout exceeded' : undefined);
      assertTook(endpoint.ledger[0].billedMs, 100);
      // The handler is deaf, so its worker is not free.
      assert.equal((await client.health()).body.workers.running, 1);
    }
  });

  it('nothing more past its ttl, and is forgotten then, in the queue and on a worker', async (t) => {
    const bounds = { ttl: [50, NEVER] };
    for (const options of [{ dead: true }, { handler: 'sleep' }]) {
      const { client, endpoint } = await start(t, { bounds, ...options });
      const { body: { id } } = await client.run({ ms: 1000 }, { policy: { ttl: 100 } });
      await sleep(130);
      assert.equal((await client.status(id)).status, 404);
      const [{ status, submittedAt, startedAt, billedMs }] = endpoint.ledger;
      assert.equal(status, 'EXPIRED');
      assertTook(billedMs, options.dead ? 0 : 100 - (startedAt - submittedAt));
    }
  });
});

describe('a result', () => {
  it('is kept for a time that depends on how it was asked for, and on ?ttl', async (t) => {
    const { client } = await start(t, { resultMs: 600, syncResultMs: 50 });
    const { body: { id } } = await client.run({});
    const sync = (await client.runsync({})).body.id;
    await sleep(100);
    assert.equal((await client.status(sync)).status, 404);
    assert.equal((await client.call('GET', `/status/${id}?ttl=1200`)).status, 200);
    await sleep(700);
    assert.equal((await client.status(id)).status, 200);
    await sleep(700);
    assert.equal((await client.status(id)).status, 404);
  });

  it('may be there before the end, as progress', async (t) => {
    const { runpod, client, endpoint } = await start(t, { handler: 'progress' });
    const { body: { id } } = await client.run({ n: 3, everyMs: 200 });
    await runpod.until(() => endpoint.jobs.find(id).output);
    const { status, output } = (await client.status(id)).body;
    assert.deepEqual({ status, output }, { status: 'IN_PROGRESS', output: '1/3' });
    assert.deepEqual((await client.until(id)).output, { done: 3 });
  });
});

describe('a handler that fails', () => {
  it('by an exception: a JSON text that says where', async (t) => {
    const { client } = await start(t, { handler: 'raise' });
    const { body } = await client.runsync({ error: 'KeyError', message: "'model'" });
    assert.equal(body.status, 'FAILED');
    const error = JSON.parse(body.error);
    assert.deepEqual(Object.keys(error),
      ['error_type', 'error_message', 'error_traceback', 'hostname', 'worker_id', 'runpod_version']);
    assert.equal(error.error_type, "<class 'KeyError'>");
    assert.equal(error.error_message, "'model'");
    assert.equal(error.worker_id, body.workerId);
  });

  it('by an exception of a generator: the aggregate is gone, the stream is not', async (t) => {
    const { client } = await start(t, { handler: 'generator-raise', aggregate: true });
    const { outputs, last } = await client.outputs({ n: 2, message: 'no more' });
    assert.deepEqual(outputs, [{ index: 0 }, { index: 1 }]);
    assert.equal(last.status, 'FAILED');
    assert.match(last.error, /^handler: no more \ntraceback: Traceback/);
    assert.equal(last.output, undefined);
  });

  it('by a dict with an error: the error, beside the rest of the dict no more', async (t) => {
    const { client } = await start(t, { handler: 'error' });
    const { status, error, output } = (await client.runsync({ error: 'no such voice', hint: 1 })).body;
    assert.deepEqual({ status, error, output }, { status: 'FAILED', error: 'no such voice', output: undefined });
  });
});

describe('worker-vllm', () => {
  const vllm = (options) => ({ handler: 'worker-vllm', ...options });

  it('streams the raw SSE text, cut anywhere', async (t) => {
    const { client } = await start(t, vllm({ vllm: { tokenMs: 2 } }));
    const { outputs, last } = await client.outputs(chat());
    assert.ok(outputs.every((output) => typeof output === 'string'));
    assert.ok(outputs.some((output) => !output.startsWith('data: ')));
    assert.ok(outputs.some((output) => !output.endsWith('\n\n')));
    assert.equal(contentOf(outputs.join('')), TEXT);
    assert.ok(outputs.join('').endsWith('data: [DONE]\n\n'));
    assert.deepEqual(last.output, outputs);
  });

  it('cuts by its seed, not at all, and never inside a character', async (t) => {
    const texts = {};
    for (const [name, options] of Object.entries({ one: { seed: 1 }, two: { seed: 2 }, none: { pieceBytes: 0 } })) {
      const { client } = await start(t, vllm({ vllm: { tokenMs: 2 }, ...options }));
      const messages = [{ role: 'user', content: 'Some emoji please' }];
      texts[name] = (await client.outputs(chat({ messages }))).outputs;
    }
    assert.notDeepEqual(texts.one, texts.two);
    assert.equal(texts.one.join(''), texts.two.join(''));
    assert.ok(texts.none.every((output) => output.startsWith('data: ') && output.endsWith('\n\n')));
    assert.match(contentOf(texts.one.join('')), /🏴‍☠️.*👩🏽‍✈️/u);
    assert.doesNotMatch(texts.one.join(''), /\ufffd/);
  });

  it('destroys a character that it cuts, in the stream and in the aggregate', async (t) => {
    const { client } = await start(t, vllm());
    const { outputs, last } = await client.outputs(chat({ sim: { text: 'A ⛵ moors' }, sim_job: { mangle: true } }));
    assert.equal(contentOf(outputs.join('')), 'A \ufffd\ufffd\ufffd moors');
    const at = outputs.findIndex((output) => output.endsWith('\ufffd'));
    assert.ok(outputs[at + 1].startsWith('\ufffd'), 'it stands at the border of two outputs');
    assert.deepEqual(last.output, outputs);
  });

  it('puts an answer that does not stream into an array of one', async (t) => {
    const { client } = await start(t, vllm());
    const { output } = (await client.runsync(chat({ stream: false }))).body;
    assert.equal(output.length, 1);
    assert.equal(output[0].choices[0].message.content, TEXT);
  });

  it('takes every route of vLLM in either form, and the native one', async (t) => {
    const { client } = await start(t, vllm());
    const ask = async (input) => (await client.runsync(input)).body.output[0];
    assert.equal((await ask({ openai_route: '/v1/models' })).data[0].object, 'model');
    assert.equal((await ask({ route: '/v1/models' })).data[0].object, 'model');
    assert.equal((await ask({ openai_route: '/v1/embeddings', openai_input: { input: 'x' } })).object, 'list');
    assert.equal((await ask({ openai_route: '/v1/responses', openai_input: { input: 'x' } })).object, 'response');
    assert.ok((await ask({ route: '/tokenize', body: { prompt: 'x' }, method: 'POST' })).tokens);
    assert.equal((await ask({ prompt: 'x', sampling_params: { max_tokens: 2 } })).object, 'text_completion');
    assert.equal((await ask({ messages: MESSAGES })).object, 'chat.completion');
    assert.match((await client.runsync({ nothing: 1 })).body.error, /'Job input must contain one of: /);
  });

  it('reports an error of vLLM as the repr of a dict', async (t) => {
    const { client, endpoint } = await start(t, vllm());
    endpoint.vllm.script(
      { fault: 'status', status: 429, body: 'slow down' }, { fault: 'status', status: 503, body: "it's \"full\"" },
      { fault: 'status', status: 500, body: "it's broken" },
    );
    const errors = [];
    for (let n = 0; n < 3; n += 1) errors.push((await client.runsync(chat())).body);
    assert.ok(errors.every(({ status, output }) => status === 'FAILED' && output === undefined));
    assert.deepEqual(errors.map(({ error }) => error), [
      `{'message': 'vLLM returned HTTP 429: slow down', 'type': 'worker_error', 'code': None}`,
      `{'message': 'vLLM returned HTTP 503: it\\'s "full"', 'type': 'worker_error', 'code': None}`,
      `{'message': "vLLM returned HTTP 500: it's broken", 'type': 'worker_error', 'code': None}`,
    ]);
  });

  it('fails in the middle when vLLM dies, and keeps what was streamed', async (t) => {
    const { client } = await start(t, vllm());
    const { outputs, last } = await client.outputs(chat({ sim: { fault: 'cut-reset', afterEvents: 4 } }));
    assert.ok(outputs.join('').includes('A'));
    assert.equal(last.status, 'FAILED');
    assert.match(last.error, /^\{'message': 'Request to vLLM failed: /);
  });

  it('ends its request to vLLM when the job is cancelled', async (t) => {
    const { client, endpoint } = await start(t, vllm({ vllm: { tokenMs: 50 } }));
    const { body: { id } } = await client.run(chat());
    await endpoint.vllm.until(() => endpoint.vllm.requests[0]?.eventsSent > 2);
    await client.cancel(id);
    await endpoint.vllm.until(() => endpoint.vllm.requests[0].closedByClientAt, 1000);
  });
});

describe('the records', () => {
  it('tell what was asked and answered, and can be waited for', async (t) => {
    const { runpod, client } = await start(t, { handler: 'sleep' });
    const leaving = new AbortController();
    const left = assert.rejects(client.call('POST', '/runsync', { input: { ms: 300 } }, { signal: leaving.signal }));
    await runpod.until(() => runpod.ledger[0]?.status === 'IN_PROGRESS');
    leaving.abort();
    await left;
    const record = await runpod.until(() => runpod.requests.find(({ closedByClientAt }) => closedByClientAt));
    assert.equal(record.operation, 'runsync');
    assert.equal(runpod.ledger[0].status, 'IN_PROGRESS', 'a client that leaves cancels nothing');
    const { body } = await client.status(runpod.ledger[0].id);
    const last = runpod.requests.at(-1);
    assert.deepEqual([last.method, last.operation, last.job, last.status], ['GET', 'status', body.id, 200]);
    assert.deepEqual(last.reply, body);
  });

  it('know a client that leaves in the middle of its request', async (t) => {
    const { runpod, client } = await start(t);
    const socket = net.connect(runpod.port, '127.0.0.1');
    socket.write(`POST /v2/sim/run HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"input"`);
    await runpod.until(() => runpod.requests[0]);
    socket.destroy();
    await runpod.until(() => runpod.requests[0].closedByClientAt);
    assert.deepEqual(runpod.ledger, []);
    assert.equal((await client.run({})).status, 200);
  });

  it('hold the same job ids on every run', async (t) => {
    const ids = await Promise.all([1, 2].map(async () => (await (await start(t)).client.run({})).body.id));
    assert.equal(ids[0], ids[1]);
  });
});
