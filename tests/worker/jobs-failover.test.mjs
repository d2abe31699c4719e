// RunPod and vLLM as each other's second choice, under one deadline with a cold start counted in; and the two other ways
// to a worker, RunPod's OpenAI proxy and its load balancer, whose statuses mean little where no worker is there.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startRunpod } from '../upstream/runpod.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf } from './gateway.mjs';
import { DONE, IMPATIENT, JobCall, MESSAGES, contentOf, jobEndpoints, startJobs } from './jobs.mjs';

const COLD_START_MS = 900;
const NEVER_MS = 600_000;

let runpod;
let vllm;
let balanced;
let gateway;
before(async () => {
  vllm = await startVllm();
  balanced = await startVllm({ faultless: true });
  runpod = await startRunpod({
    handler: 'worker-vllm',
    endpoints: {
      burst: { coldStartMs: COLD_START_MS, idleMs: 1 },
      warm: { warm: 1 },
      throttled: { workers: 2, throttled: 2 },
      never: { coldStartMs: NEVER_MS, workers: 1 },
      proxied: { warm: 1 },
      silent: { warm: 1, openaiStreamMs: 300 },
    },
  });
  const entry = (...names) => ({ name: names.join('-'), targets: names.map((endpoint) => ({ endpoint })) });
  const openai = jobEndpoints(runpod, ['proxied', 'silent'], { mode: 'openai' });
  const lb = { name: 'lb', provider: 'runpod', mode: 'load_balancer', base_url: balanced.url };
  gateway = await startJobs(runpod, ['burst', 'warm', 'throttled', 'never'], {
    endpoints: [...endpointsOf({ vllm }), ...openai, lb],
    models: [
      entry('vllm', 'burst'), entry('vllm', 'warm'), entry('warm', 'vllm'), entry('throttled', 'vllm'),
      entry('never', 'vllm'), entry('proxied'), entry('silent'), entry('lb'), entry('lb', 'vllm'),
    ],
    policies: { queue: { ...IMPATIENT, queue_ms: 500 } },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([runpod.close(), vllm.close(), balanced.close()]);
  assert.deepEqual(gateway.troubles, []);
});
beforeEach(() => {
  vllm.reset();
  balanced.reset();
  for (const id of ['burst', 'warm', 'proxied']) runpod.endpoint(id).vllm.reset();
});

const chat = (model, { headers, ...body } = {}) =>
  new JobCall(gateway, runpod, model, { messages: MESSAGES, stream: true, ...body }, { headers }).ended;

/** A whole stream, from this endpoint. */
async function assertAnswered(call, endpoint, attempts) {
  assert.equal(call.response.status, 200, call.text);
  assert.ok(call.text.endsWith(`${DONE}\n\n`), call.text);
  assert.equal(contentOf(call.events), DEFAULT_TEXT);
  const line = await call.line();
  assert.deepEqual([line.outcome, line.endpoint, line.attempts], ['ok', endpoint, attempts]);
}

describe('under one deadline', () => {
  it('vLLM fails, and a cold RunPod answers', async () => {
    for (const fault of ['reset', 'http-503', 'error-before-content']) {
      vllm.script(fault);
      const call = await chat('vllm-burst', { headers: { 'x-fairlead-deadline-ms': '15000' } });
      await assertAnswered(call, 'burst', 2);
      const [{ policy: { ttl, executionTimeout }, delayTime }] = call.jobs;
      assert.ok(delayTime >= COLD_START_MS - 50);
      assert.ok(ttl <= 14_500 && executionTimeout <= 13_000, 'below what is left');
    }
  });

  it('and back, when RunPod has no room either', async () => {
    vllm.script('http-503', 'ok');
    runpod.endpoint('warm').vllm.script('http-503');
    await assertAnswered(await chat('vllm-warm'), 'vllm', 3);
  });

  it('a cold start that is longer than the deadline ends with it, and costs nothing', async () => {
    const late = await chat('never', { headers: { 'x-fairlead-deadline-ms': '900' } });
    assert.equal(late.error.code, 'deadline_exceeded');
    await runpod.until(() => late.jobs[0].status === 'CANCELLED');
    assert.equal(late.jobs[0].billedMs, 0);
  });

  it('a cold start that is longer than queue_ms goes to the next target, behind the comments', async () => {
    const call = await chat('never-vllm', { headers: { 'x-fairlead-policy': 'queue' } });
    await assertAnswered(call, 'vllm', 2);
    assert.ok(call.text.startsWith(': IN_QUEUE 0 s\n\n'));
    await runpod.until(() => call.jobs[0].status === 'CANCELLED');
  });
});

describe('an endpoint whose workers are all throttled', () => {
  it('gets no job while another target is there', async () => {
    for (const stream of [true, false]) {
      const call = await chat('throttled-vllm', { stream });
      assert.equal(call.response.headers.get('x-fairlead-endpoint'), 'vllm');
      assert.ok(call.requests.every(({ operation }) => operation === 'health'));
      assert.equal((await call.line({ event: 'attempt_failed' })).reason, 'no_workers');
    }
    assert.equal(runpod.endpoint('throttled').ledger.length, 0);
  });

  it('is looked at once in three seconds, not for each call', async () => {
    await Promise.all(Array.from({ length: 10 }, () => chat('throttled-vllm')));
    assert.ok(runpod.endpoint('throttled').limits.peaks.health.total <= 3);
  });

  it('is waited for where nobody else is', async () => {
    const call = await chat('throttled', { headers: { 'x-fairlead-policy': 'queue' } });
    assert.deepEqual([call.error.code, call.error.param], ['upstream_timeout', 'queue']);
    assert.equal(call.jobs.length, 1);
  });
});

it('a warm endpoint is not looked at', async () => {
  await chat('warm');
  const before = runpod.endpoint('warm').limits.peaks.health.total;
  await chat('warm');
  await chat('warm');
  assert.equal(runpod.endpoint('warm').limits.peaks.health.total, before);
});

describe('mode: "openai"', () => {
  it('streams and answers as the worker\'s server does', async () => {
    await assertAnswered(await chat('proxied'), 'proxied', 1);
    const { json, requests } = await chat('proxied', { stream: false });
    assert.equal(json.choices[0].message.content, DEFAULT_TEXT);
    assert.deepEqual(requests.map(({ path }) => path), ['/v2/proxied/openai/v1/chat/completions']);
  });

  it('has the status that the worker\'s server refused with, whatever the proxy\'s', async () => {
    for (const stream of [true, false]) {
      runpod.endpoint('proxied').vllm.script('context-length');
      const { response, json, requests } = await chat('proxied', { stream });
      assert.deepEqual([response.status, json.error.code], [400, 400]);
      assert.equal(requests.length, 1);
    }
    runpod.endpoint('proxied').vllm.script('http-503', 'ok');
    await assertAnswered(await chat('proxied'), 'proxied', 2);
  });

  it('is believed by its finish_reason, not by its end', async () => {
    const cut = await chat('silent', { sim: { tokenMs: 40 } });
    assert.equal(cut.error.code, 'stream_interrupted');
    assert.ok(!cut.text.includes(DONE));
  });
});

describe('mode: "load_balancer"', () => {
  it('streams and answers', async () => {
    await assertAnswered(await chat('lb'), 'lb', 1);
    assert.equal((await chat('lb', { stream: false })).json.choices[0].message.content, DEFAULT_TEXT);
    assert.equal(balanced.requests[0].path, '/v1/chat/completions');
  });

  const NO_WORKERS = '{"error":"no workers available"}';
  const none = { 'a worker that starts': { status: 204, body: '' } };
  for (const status of [200, 400, 404, 429, 500, 502, 503, 504]) {
    none[`no worker at all, as a ${status}`] = { status, body: NO_WORKERS };
  }
  none['a worker that is gone'] = { status: 404, body: '{"error":"affinity_worker_gone"}' };
  for (const [name, refusal] of Object.entries(none)) {
    it(`${name}: is asked again, or another is`, async () => {
      for (const stream of [true, false]) {
        balanced.script({ fault: 'status', ...refusal }, 'ok');
        const again = await chat('lb', { stream });
        assert.equal(again.response.status, 200, again.text);
        assert.equal((await again.line()).attempts, 2);
        assert.equal((await again.line({ event: 'attempt_failed' })).reason, 'http_503');

        balanced.script({ fault: 'status', ...refusal });
        const other = await chat('lb-vllm', { stream });
        assert.equal(other.response.headers.get('x-fairlead-endpoint'), 'vllm');
      }
      balanced.fault = { fault: 'status', ...refusal };
      const never = await chat('lb');
      balanced.fault = 'ok';
      assert.deepEqual([never.response.status, never.error.code], [503, 'upstream_overloaded']);
      assert.equal((await never.line()).attempts, 3);
    });
  }

  it('a server\'s own refusal is passed on as it is', async () => {
    balanced.script('context-length');
    const { response, text } = await chat('lb');
    assert.equal(response.status, 400);
    assert.equal(text, balanced.requests[0].sent.toString());
  });
});
