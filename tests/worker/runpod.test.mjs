// The /runpod/… routes: RunPod's own shapes for any handler, with job ids that nobody else can use, and nothing that is
// submitted without being allowed.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { exchange } from '../upstream/raw-client.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { sha256, startGateway } from './gateway.mjs';
import { jobEndpoints } from './jobs.mjs';

const KEY = 'sk-web-0123456789';
const OTHER_KEY = 'sk-other-0123456789';
const NARROW_KEY = 'sk-narrow-0123456789';
const PROMPT = 'the-prompt-nobody-may-log';
const RUN_BYTES = 10_000_000;
const RUNSYNC_BYTES = 20_000_000;

let runpod;
let gateway;
before(async () => {
  runpod = await startRunpod({
    warm: 1, concurrency: 10,
    endpoints: {
      any: { handler: 'echo' }, generator: { handler: 'generator', aggregate: true }, sleep: { handler: 'sleep' },
      raise: { handler: 'raise' }, llm: { handler: 'worker-vllm' }, closed: { handler: 'echo' },
      progress: { handler: 'progress' },
    },
  });
  const open = ['any', 'generator', 'sleep', 'raise', 'llm', 'progress'];
  gateway = await startGateway({
    endpoints: [
      ...jobEndpoints(runpod, open, { native: true, max_execution_ms: 60_000, max_ttl_ms: 120_000 }),
      ...jobEndpoints(runpod, ['closed']),
    ],
    models: [{ name: 'llm', targets: [{ endpoint: 'llm' }] }],
    clients: [
      { name: 'web', keys_sha256: [sha256(KEY)], runpod: open },
      { name: 'other', keys_sha256: [sha256(OTHER_KEY)], runpod: open },
      { name: 'narrow', keys_sha256: [sha256(NARROW_KEY)], runpod: ['any'] },
    ],
  }, { secrets: { RUNPOD_API_KEY: runpod.apiKey } });
});
after(async () => {
  const secrets = [KEY, OTHER_KEY, NARROW_KEY, PROMPT, runpod.apiKey, `127.0.0.1:${runpod.port}`];
  await gateway.close();
  await runpod.close();
  assert.deepEqual(gateway.troubles, []);
  const printed = gateway.printed.join('\n');
  for (const secret of secrets) assert.ok(!printed.includes(secret), `${secret} was logged`);
});

/** Without a body a GET, unless `method` says otherwise. */
async function call(path, { body, key = KEY, headers, ...more } = {}) {
  const response = await gateway.fetch(`/runpod/${path}`, {
    body, headers: { ...(key && { authorization: `Bearer ${key}` }), ...headers }, ...more,
  });
  const text = await response.text();
  return { response, status: response.status, text, json: /^[{[]/.test(text) ? JSON.parse(text) : undefined };
}
const post = (path, body = {}, more) => call(path, { method: 'POST', body, ...more });

/** What the simulation knows of the job that this answer is about. */
const jobOf = ({ json }, endpoint) => runpod.endpoint(endpoint).jobs.all.find(({ id }) => id === json.id.split('.')[0]);

const MARKED = /^(sync-)?[0-9a-f-]{36}-u1\.[0-9a-f]{20}$/;

describe('an operation answers as RunPod does', () => {
  it('/run, /status, and /status of a job that is over', async () => {
    const run = await post('sleep/run', { input: { ms: 300 } });
    assert.equal(run.status, 200);
    assert.deepEqual(Object.keys(run.json).sort(), ['id', 'status']);
    assert.match(run.json.id, MARKED);
    assert.equal(run.json.status, 'IN_QUEUE');
    const job = jobOf(run, 'sleep');
    await runpod.until(() => job.status === 'IN_PROGRESS');
    const working = await call(`sleep/status/${run.json.id}`);
    assert.deepEqual([working.json.status, working.json.id], ['IN_PROGRESS', run.json.id]);
    await runpod.until(() => job.isOver);
    const { json } = await call(`sleep/status/${run.json.id}`);
    const { delayTime, executionTime, workerId } = json;
    assert.deepEqual(json, {
      delayTime, executionTime, workerId, id: run.json.id, output: { slept: 300 }, status: 'COMPLETED',
    });
  });

  it('/runsync, however long it takes, and without RunPod\'s own wait', async () => {
    const { status, json } = await post('sleep/runsync', { input: { ms: 2500 } });
    assert.deepEqual([status, json.status, json.output], [200, 'COMPLETED', { slept: 2500 }]);
    assert.match(json.id, MARKED);
    assert.ok(!runpod.requests.some(({ endpoint, operation }) => endpoint === 'sleep' && operation === 'runsync'));
  });

  it('/runsync with ?wait answers with the job\'s state, and the job goes on', async () => {
    const began = Date.now();
    const state = await post('sleep/runsync?wait=1000', { input: { ms: 2500 } });
    assert.ok(Date.now() - began < 2200);
    assert.deepEqual([state.status, state.json.status], [200, 'IN_PROGRESS']);
    const job = jobOf(state, 'sleep');
    await runpod.until(() => job.isOver);
    assert.deepEqual([job.status, job.cancelRequestedAt], ['COMPLETED', null]);
  });

  it('/status-sync waits, to its ?wait', async () => {
    const { json: { id } } = await post('sleep/run', { input: { ms: 1800 } });
    const soon = await call(`sleep/status-sync/${id}?wait=1000`);
    assert.deepEqual([soon.status, soon.json.status, soon.json.id], [200, 'IN_PROGRESS', id]);
    assert.deepEqual((await call(`sleep/status-sync/${id}`)).json.output, { slept: 1800 });
    assert.equal((await call(`sleep/status-sync/${id}?wait=soon`)).json.error.param, 'wait');
  });

  it('/stream in JSON, each output once', async () => {
    const { json: { id } } = await post('generator/run', { input: { n: 6, everyMs: 60 } });
    const outputs = [];
    let polls = 0;
    for (let status = 'IN_QUEUE', last = 1; status !== 'COMPLETED' || last > 0; polls += 1) {
      const { json } = await call(`generator/stream/${id}`);
      ({ status } = json);
      last = json.stream.length;
      outputs.push(...json.stream.map(({ output }) => output.index));
    }
    assert.deepEqual(outputs, [0, 1, 2, 3, 4, 5]);
    // The npm SDK asks again at once: an answer waits until there is something to tell.
    assert.ok(polls <= 8, `${polls} polls`);
  });

  it('/stream as events, for who asks for them', async () => {
    const { json: { id } } = await post('generator/run', { input: { n: 4, everyMs: 80, value: 'x\n🪢' } });
    const { response, text } = await call(`generator/stream/${id}`, { headers: { accept: 'text/event-stream' } });
    assert.match(response.headers.get('content-type'), /^text\/event-stream/);
    const events = text.split('\n\n').filter((block) => block && !block.startsWith(':'));
    assert.deepEqual(events.slice(0, -1), Array(4).fill(`data: {"output":${JSON.stringify('x\n🪢')}}`));
    const [name, data] = events.at(-1).split('\n');
    assert.equal(name, 'event: status');
    const { id: told, status } = JSON.parse(data.slice('data: '.length));
    assert.deepEqual([told, status], [id, 'COMPLETED']);
  });

  it('/cancel', async () => {
    const run = await post('sleep/run', { input: { ms: 60_000 } });
    const { status, json } = await post(`sleep/cancel/${run.json.id}`);
    assert.deepEqual([status, json], [200, { id: run.json.id, status: 'CANCELLED' }]);
    assert.equal(jobOf(run, 'sleep').status, 'CANCELLED');
    assert.equal((await call(`sleep/status/${run.json.id}`)).json.status, 'CANCELLED');
  });

  it('/retry of a job that failed', async () => {
    const run = await post('raise/run', { input: {} });
    const job = jobOf(run, 'raise');
    await runpod.until(() => job.status === 'FAILED');
    // What fails is told in RunPod's words here: the client follows the job by itself.
    for (const verb of ['status', 'status-sync', 'stream']) {
      const { status, json } = await call(`raise/${verb}/${run.json.id}`);
      assert.deepEqual([status, json.status], [200, 'FAILED'], verb);
    }
    const again = await post(`raise/retry/${run.json.id}`);
    assert.deepEqual([again.status, again.json.id], [200, run.json.id]);
    await runpod.until(() => job.runs.length === 2);
  });

  it('/health', async () => {
    const { status, json } = await call('any/health');
    assert.equal(status, 200);
    assert.ok(json.workers.idle >= 1 && json.jobs.inQueue === 0);
  });

  it('any input, whatever else stands beside it', async () => {
    const input = { text: 'x\u2028🪢', route: 'fast', number: 1.50, nested: { openai_route: '/sleep' } };
    const body = { webhook: 'https://app.example.com/hook', input, policy: { lowPriority: true, ttl: 50_000 } };
    const { json } = await post('any/runsync', body);
    assert.deepEqual(json.output, input);
    const { body: sent } = runpod.requests.findLast(({ path }) => path === '/v2/any/run');
    const { webhook, policy } = JSON.parse(sent);
    assert.deepEqual([webhook, policy.lowPriority, policy.ttl], [body.webhook, true, 50_000]);
  });

  it('a payload that only RunPod\'s /runsync takes', async () => {
    const input = { text: 'x'.repeat(RUN_BYTES + 1000) };
    const { status, json } = await post('any/runsync', { input });
    assert.deepEqual([status, json.status, json.output.text.length], [200, 'COMPLETED', input.text.length]);
    assert.match(json.id, /^sync-/);
  });
});

describe('a job is bounded', () => {
  const policyOf = async (path, body, more) => {
    const answer = await post(path, { input: {}, ...body }, more);
    assert.equal(answer.status, 200, answer.text);
    return jobOf(answer, 'any').policy;
  };

  it('of /run by the operator\'s limits, not by the deadline', async () => {
    assert.deepEqual(await policyOf('any/run'), { executionTimeout: 60_000, ttl: 120_000 });
    const own = { executionTimeout: 7000, ttl: 30_000 };
    assert.deepEqual(await policyOf('any/run', { policy: own }), own);
    const much = { executionTimeout: 3_600_000, ttl: 86_400_000 };
    assert.deepEqual(await policyOf('any/run', { policy: much }), { executionTimeout: 60_000, ttl: 120_000 });
    const little = { executionTimeout: 1, ttl: 1 };
    assert.deepEqual(await policyOf('any/run', { policy: little }), { executionTimeout: 5000, ttl: 10_000 });
  });

  it('of /runsync by the deadline as well', async () => {
    const headers = { 'x-fairlead-deadline-ms': '20000' };
    const { executionTimeout, ttl } = await policyOf('any/runsync', {}, { headers });
    assert.ok(executionTimeout <= 18_000 && ttl <= 19_500 && ttl > 15_000, `${executionTimeout} ${ttl}`);
    assert.deepEqual(await policyOf('any/runsync?keep', {}, { headers }), { executionTimeout: 60_000, ttl: 120_000 });
  });
});

describe('what cannot be carried out is refused before anything is submitted', () => {
  let id;
  before(async () => { ({ json: { id } } = await post('any/run', { input: { prompt: PROMPT } })); });

  async function assertRefused(asked, status, code, param = null) {
    const seen = runpod.requests.length;
    const { status: told, json, text } = await asked();
    assert.deepEqual([told, json.error.code, json.error.param], [status, code, param], text);
    assert.ok(!text.includes(PROMPT) && !text.includes(runpod.apiKey) && !text.includes('127.0.0.1'), text);
    assert.equal(runpod.requests.length, seen);
  }

  const bodies = {
    'no input': [{}, 'input'],
    'an input that is a text': [{ input: 'x' }, 'input'],
    'an input that is a list': [{ input: [] }, 'input'],
    'an input that is null': [{ input: null }, 'input'],
    'a list': ['[]', 'input'],
    'no JSON': ['input=x', 'input'],
    'nothing': ['', 'input'],
    'two inputs': ['{"input":{},"input":{"a":1}}', 'input'],
    'a policy that is none': [{ input: {}, policy: 'fast' }, 'policy'],
    'a limit that is none': [{ input: {}, policy: { ttl: 'long' } }, 'policy.ttl'],
    'a negative limit': [{ input: {}, policy: { executionTimeout: -1 } }, 'policy.executionTimeout'],
  };
  for (const [name, [body, param]] of Object.entries(bodies)) {
    it(name, async () => {
      for (const verb of ['run', 'runsync']) {
        await assertRefused(() => post(`any/${verb}`, body), 400, 'invalid_request', param);
      }
    });
  }

  it('a payload over RunPod\'s limits', async () => {
    // Refused by its announced length, before any of it is read.
    const announce = (verb, bytes) => async () => {
      const headers = { authorization: `Bearer ${KEY}`, 'content-length': bytes };
      const { status, payload } = await exchange(gateway, { path: `/runpod/any/${verb}`, body: '{', headers });
      return { status, text: payload.toString(), json: JSON.parse(payload) };
    };
    await assertRefused(announce('run', RUN_BYTES + 1), 413, 'request_too_large');
    await assertRefused(announce('runsync', RUNSYNC_BYTES + 1), 413, 'request_too_large');
    // As it came it fits; with the job's `policy` in it, it does not.
    const input = { text: 'x'.repeat(RUN_BYTES - 30) };
    await assertRefused(() => post('any/run', { input }), 413, 'request_too_large');
  });

  it('an endpoint that is not there, or not open to this client, or to nobody', async () => {
    const body = { input: { prompt: PROMPT } };
    await assertRefused(() => post('nowhere/run', body), 404, 'route_not_found');
    await assertRefused(() => post('closed/run', body), 404, 'route_not_found');
    await assertRefused(() => post('llm/run', body, { key: NARROW_KEY }), 403, 'forbidden');
    await assertRefused(() => call('llm/health', { key: NARROW_KEY }), 403, 'forbidden');
    await assertRefused(() => post('any/run', body, { key: null }), 401, 'invalid_api_key');
    await assertRefused(() => post('any/run', body, { key: 'wrong' }), 401, 'invalid_api_key');
  });

  it('a path that is none, or another method', async () => {
    for (const path of ['any', 'any/', 'any/purge-queue', 'any/requests', 'any/openai/v1/models', 'any/run/x']) {
      await assertRefused(() => post(path, { input: {} }), 404, 'route_not_found');
    }
    await assertRefused(() => call('any/run'), 405, 'method_not_allowed');
    await assertRefused(() => post(`any/status/${id}`), 405, 'method_not_allowed');
  });

  it('a job id of another shape, another client, another endpoint, or nobody', async () => {
    const [job, mark] = id.split('.');
    const others = [
      job, `${job}.`, `${job}.${'0'.repeat(20)}`, `${job}.${mark.slice(1)}`, `${job}x.${mark}`, `x.${mark}`, `.${mark}`,
      `${job}.${mark}00`, 'a'.repeat(3000), '..%2f..%2frun', encodeURIComponent(`${job}/../x.${mark}`), '%00',
    ];
    for (const other of others) {
      await assertRefused(() => call(`any/status/${other}`), 404, 'job_not_found');
      await assertRefused(() => post(`any/cancel/${other}`), 404, 'job_not_found');
    }
    for (const verb of ['status', 'status-sync', 'stream']) {
      await assertRefused(() => call(`any/${verb}/${id}`, { key: OTHER_KEY }), 404, 'job_not_found');
      await assertRefused(() => call(`sleep/${verb}/${id}`), 404, 'job_not_found');
    }
    for (const verb of ['cancel', 'retry']) {
      await assertRefused(() => post(`any/${verb}/${id}`, {}, { key: OTHER_KEY }), 404, 'job_not_found');
    }
    assert.equal((await call(`any/status/${id}`)).status, 200);
  });

  it('a route of a vLLM worker that is not on the list', async () => {
    const closed = [
      '/metrics', '/sleep', '/v1/chat/completions/', '/v1/files', '../sleep', ' /sleep', '\\sleep',
      '@elsewhere.example.com', '.example.com', '?x', '#',
    ];
    for (const route of closed) {
      await assertRefused(() => post('llm/run', { input: { route, body: {} } }), 403, 'forbidden', 'input.route');
      const input = { openai_route: route, openai_input: {} };
      await assertRefused(() => post('llm/runsync', { input }), 403, 'forbidden', 'input.openai_route');
    }
    const open = { input: { openai_route: '/v1/models' } };
    assert.equal((await post('llm/runsync', open)).json.output[0].object, 'list');
  });
});
