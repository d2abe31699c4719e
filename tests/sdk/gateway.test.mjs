// What only a gateway has: its models and its RunPod jobs, asked directly.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { data, Fairlead, failureOf, never, script, tick } from './face.mjs';

function make(answer, options) {
  script(() => assert.fail('not through the core'));
  const requests = [];
  const ai = new Fairlead({
    baseURL: 'https://gateway.example.com/v1', apiKey: 'client-key', ...options,
    fetch: async (url, { method, headers, body, signal, redirect }) => {
      requests.push({ url, method, headers: Object.fromEntries(headers), body, signal, redirect });
      return answer(requests.length);
    },
  });
  return { ai, requests };
}
const json = (value, init) => () => Response.json(value, init);
const events = (...pieces) => () => new Response(new ReadableStream({
  async start(controller) {
    for (const piece of pieces) controller.enqueue(new TextEncoder().encode(await piece));
    controller.close();
  },
}), { headers: { 'content-type': 'text/event-stream', 'x-request-id': 'r' } });

describe('models', () => {
  it('are the gateway’s', async () => {
    const list = { object: 'list', data: [{ id: 'qwen', object: 'model' }] };
    const { ai, requests } = make(json(list, { headers: { 'x-request-id': 'r' } }), { timeout: 9000 });
    const { data, response } = await ai.models.list({ headers: { 'x-a': 'b' } }).withResponse();
    assert.deepEqual([data, response.requestId], [list, 'r']);
    const [{ url, method, headers, body }] = requests;
    assert.deepEqual([url, method, body], ['https://gateway.example.com/v1/models', 'GET', undefined]);
    assert.deepEqual(headers, { accept: 'application/json', authorization: 'Bearer client-key', 'x-a': 'b', 'x-fairlead-deadline-ms': '9000' });
  });

  it('are those of the options in front of endpoints', async () => {
    const endpoints = [{ name: 'a', provider: 'vllm', baseURL: 'https://a.example.com/v1' }];
    const models = ['qwen', '*'].map((name) => ({ name, targets: [{ endpoint: 'a' }] }));
    assert.deepEqual(await new Fairlead({ endpoints, models }).models.list(), { object: 'list', data: [{ id: 'qwen', object: 'model' }] });
  });

  const failures = [
    ['a refusal', json({ error: { message: 'No.', code: 'invalid_api_key' } }, { status: 401 }), 'AuthenticationError', 'invalid_api_key'],
    ['no connection', () => Promise.reject(new TypeError('fetch failed')), 'ConnectionError', 'upstream_unreachable'],
    ['no JSON', () => new Response('<html>'), 'UpstreamError', 'upstream_invalid'],
  ];
  for (const [what, answer, name, code] of failures) {
    it(`fail by ${what}`, async () => {
      const error = await failureOf(make(answer).ai.models.list());
      assert.deepEqual([error.name, error.code], [name, code]);
    });
  }

  it('fail by a redirect, which is not followed', async () => {
    const { ai, requests } = make(() => new Response(null, { status: 307, headers: { location: 'https://elsewhere.example.com/' } }));
    const error = await failureOf(ai.models.list());
    assert.deepEqual([error.code, error.status, requests[0].redirect], ['upstream_invalid', 307, 'manual']);
  });

  it('fail by an answer without end before it fills the memory', async () => {
    const chunk = new Uint8Array(32 << 20);
    let isLeft = false;
    const { ai } = make(() => new Response(new ReadableStream({ pull: (controller) => controller.enqueue(chunk), cancel: () => void (isLeft = true) })));
    const error = await failureOf(ai.models.list());
    assert.deepEqual([error.name, error.code, isLeft], ['UpstreamError', 'upstream_invalid', true]);
  });

  it('fail when their time is over, or the caller leaves', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { ai, requests } = make(never);
    const late = failureOf(ai.models.list({ timeout: 50 }));
    await tick();
    t.mock.timers.tick(50);
    assert.deepEqual([(await late).name, (await late).code, requests[0].signal.aborted], ['TimeoutError', 'deadline_exceeded', true]);
    const controller = new AbortController();
    const left = failureOf(ai.models.list({ signal: controller.signal }));
    await tick();
    controller.abort('bye');
    assert.deepEqual([(await left).name, (await left).cause], ['AbortError', 'bye']);
  });
});

describe('RunPod jobs', () => {
  it('have RunPod’s operations', async () => {
    const { ai, requests } = make(json({ id: 'j', status: 'COMPLETED' }));
    const burst = ai.runpod('my burst');
    await burst.run({ input: { a: 1 }, policy: { ttl: 5 } });
    await burst.runSync({ input: 1 }, { wait: 1000, keep: true });
    await burst.runSync({ input: 1 });
    await burst.status('j/1');
    await burst.cancel('j');
    await burst.retry('j');
    await burst.health();
    const root = 'https://gateway.example.com/runpod/my%20burst';
    assert.deepEqual(requests.map(({ method, url }) => `${method} ${url.replace(root, '')}`), [
      'POST /run', 'POST /runsync?wait=1000&keep=true', 'POST /runsync', 'GET /status/j%2F1', 'POST /cancel/j', 'POST /retry/j', 'GET /health',
    ]);
    assert.deepEqual([requests[0].body, requests[0].headers['content-type']], ['{"input":{"a":1},"policy":{"ttl":5}}', 'application/json']);
  });

  it('that are no JSON are a TypeError, and nobody is asked', async () => {
    const { ai, requests } = make(json({}));
    await assert.rejects(ai.runpod('burst').run({ input: 1n }), TypeError);
    assert.equal(requests.length, 0);
  });

  it('that fail throw, with RunPod’s own words beside', async () => {
    const body = { id: 'j', status: 'FAILED', error: { message: 'It raised.', code: 'job_failed', type: 'api_error' } };
    const error = await failureOf(make(json(body, { status: 502 })).ai.runpod('burst').runSync({ input: 1 }));
    assert.deepEqual([error.name, error.code, error.body], ['JobError', 'job_failed', body]);
  });

  it('stream their outputs', async () => {
    const { ai, requests } = make(events(': IN_QUEUE\n\n', data({ output: 1 }), data({ output: { a: 2 } }), `event: status\n${data({ status: 'COMPLETED' })}`));
    const found = [];
    for await (const output of ai.runpod('burst').stream('j')) found.push(output);
    assert.deepEqual(found, [1, { a: 2 }]);
    assert.equal(requests[0].headers.accept, 'text/event-stream');
    const stream = await make(events(`event: status\n${data({})}`)).ai.runpod('burst').stream('j');
    assert.equal(stream.response.requestId, 'r');
  });

  it('throw where the stream breaks', async () => {
    const all = async (answer) => {
      for await (const _ of make(answer).ai.runpod('burst').stream('j'));
    };
    assert.equal((await failureOf(all(events(data({ output: 1 }))))).code, 'stream_interrupted');
    assert.equal((await failureOf(all(events(`event: error\n${data({ id: 'j', error: { message: 'm', code: 'job_cancelled' } })}`)))).name, 'JobError');
    assert.equal((await failureOf(all(json({ error: { message: 'm', code: 'job_not_found' } }, { status: 404 })))).name, 'NotFoundError');
  });

  it('throw where an event has no end, before it fills the memory', async () => {
    const piece = new TextEncoder().encode(`data: ${'x'.repeat(8 << 20)}`);
    let isLeft = false;
    const body = () => new ReadableStream({ pull: (controller) => controller.enqueue(piece), cancel: () => void (isLeft = true) });
    const { ai } = make(() => new Response(body(), { headers: { 'content-type': 'text/event-stream' } }));
    const error = await failureOf((await ai.runpod('burst').stream('j')).finalText());
    assert.deepEqual([error.name, error.code, isLeft], ['UpstreamError', 'upstream_invalid', true]);
  });

  it('end when they are left', async () => {
    const { ai, requests } = make(events(data({ output: 1 }), never()));
    for await (const _ of ai.runpod('burst').stream('j')) break;
    assert.equal(requests[0].signal.aborted, true);
  });

  it('need a gateway, and names', () => {
    const ai = new Fairlead({ endpoints: [{ name: 'a', provider: 'runpod', mode: 'openai', baseURL: 'https://api.runpod.ai/v2/a' }] });
    assert.throws(() => ai.runpod('a'), /needs a gateway/);
    assert.throws(() => make(never).ai.runpod(''), TypeError);
    assert.throws(() => make(never).ai.runpod('a').status(undefined), TypeError);
  });
});
