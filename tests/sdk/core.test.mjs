// The package as it is built, wasm and all, in Node, in front of simulated vLLMs and of a gateway.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import OpenAI from 'openai';
import { AbortError, CircuitOpenError, ConnectionError, Fairlead, StreamInterruptedError, TimeoutError } from '../../pkg-js/dist/node.js';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STAYS_CLOSED } from '../worker/gateway.mjs';
import { jobEndpoints } from '../worker/jobs.mjs';

const MESSAGES = [{ role: 'user', content: 'Hello' }];
const QUICK = { backoff: { baseMs: 1, throttledBaseMs: 1, maxMs: 1 }, breaker: { enabled: false } };
const failureOf = (promise) => promise.then(() => assert.fail('it did not fail'), (error) => error);

let one;
let two;
before(async () => {
  one = await startVllm({ apiKey: 'key-1' });
  two = await startVllm({ faultless: true });
});
beforeEach(() => {
  one.reset();
  two.reset();
});
after(() => Promise.all([one.close(), two.close()]));

/** A client in front of these servers, in their order. */
function make(servers, options, policy) {
  const heard = [];
  const ai = new Fairlead({
    endpoints: Object.entries(servers).map(([name, { url }]) => ({ name, provider: 'vllm', baseURL: `${url}/v1`, ...(name === 'one' && { apiKey: 'key-1' }) })),
    policies: { default: { ...QUICK, ...policy } },
    onEvent: (event) => heard.push(event),
    ...options,
  });
  return { ai, heard };
}
const ask = (ai, sim, options, body) => ai.chat.completions.create({ model: 'm', messages: MESSAGES, sim, ...body }, options);
const stream = (ai, sim, options) => ask(ai, sim, options, { stream: true });

describe('in front of a vLLM', () => {
  it('answers, streams and counts', async () => {
    const { ai, heard } = make({ one });
    const { data, response } = await ask(ai).withResponse();
    assert.match(data.choices[0].message.content, /^A fairlead/);
    assert.deepEqual([response.endpoint, response.attempts, response.status], ['one', 1, 200]);
    assert.match(response.requestId, /^[0-9a-f]{32}$/);
    const text = await (await stream(ai)).finalText();
    assert.equal(text, data.choices[0].message.content);
    const counted = await ai.chat.completions.create({ model: 'm', messages: MESSAGES, stream: true, stream_options: { include_usage: true } });
    await counted.finalText();
    assert.ok(counted.usage.completion_tokens > 10);
    assert.equal((await ai.completions.create({ model: 'm', prompt: 'a' })).object, 'text_completion');
    assert.equal((await ai.embeddings.create({ model: 'm', input: 'a' })).data.length, 1);
    assert.match(await (await ai.responses.create({ model: 'm', input: 'a', stream: true })).finalText(), /^A fairlead/);
    assert.deepEqual(heard.slice(0, 2).map(({ type, call }) => [type, call]), [['attempt_started', 1], ['call_ended', 1]]);
    assert.equal(one.requests[0].headers.authorization, 'Bearer key-1');
    ai.close();
  });

  it('counts what was read to its end as well, whoever read it', async () => {
    const { ai, heard } = make({ one });
    const outcomes = () => heard.filter(({ type }) => type === 'call_ended').map(({ outcome }) => outcome);
    for await (const _ of await stream(ai));
    assert.deepEqual(outcomes(), ['ok']);
    const openai = new OpenAI({ baseURL: `${one.url}/v1`, apiKey: 'key', fetch: ai.fetch });
    for await (const _ of await openai.chat.completions.create({ model: 'm', messages: MESSAGES, stream: true }));
    assert.deepEqual(outcomes(), ['ok', 'ok']);
    ai.close();
  });

  it('tells reasoning and calls of tools', async () => {
    const { ai } = make({ one });
    const tools = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } } }];
    const events = [];
    for await (const event of (await ask(ai, undefined, undefined, { stream: true, tools, tool_choice: 'required' })).events()) events.push(event);
    const call = events.find(({ type }) => type === 'tool_call');
    assert.equal(call.name, 'get_weather');
    assert.equal(typeof call.arguments, 'object');
    for (const older of [false, true]) {
      const thinking = await stream(ai, { reasoning_content: older });
      assert.ok(thinking);
      thinking.abort();
      const kinds = new Set();
      const body = { stream: true, chat_template_kwargs: { enable_thinking: true } };
      for await (const { type } of (await ask(ai, { reasoning_content: older }, undefined, body)).events()) kinds.add(type);
      assert.ok(kinds.has('reasoning') && kinds.has('content'));
    }
    ai.close();
  });

  const faults = [
    ['reset', ConnectionError, 'upstream_unreachable', 3],
    ['cut', StreamInterruptedError, 'stream_interrupted', 1],
    ['done-without-finish', StreamInterruptedError, 'stream_interrupted', 1],
    ['error-mid-stream', StreamInterruptedError, 'stream_interrupted', 1],
    ['stall', TimeoutError, 'upstream_timeout', 1, 'idle'],
  ];
  for (const [fault, Class, code, attempts, param] of faults) {
    it(`fails by ${fault} as ${Class.name} does`, async () => {
      const { ai } = make({ one }, {}, { idleMs: 200 });
      const error = await failureOf((async () => (await stream(ai, [{ fault }, { fault }, { fault }])).finalText())());
      assert.ok(error instanceof Class, String(error));
      assert.deepEqual([error.code, error.attempts, error.endpoint, error.param], [code, attempts, 'one', param]);
      assert.equal(one.requests.length, attempts);
      if (attempts === 1) assert.match(error.partial.text, /^A/);
      if (param) assert.match(error.message, /raise `idleMs`/);
      ai.close();
    });
  }

  it('goes on at the next endpoint', async () => {
    const { ai, heard } = make({ one, two });
    one.script('reset');
    const { data, response } = await ask(ai).withResponse();
    assert.ok(data.id);
    assert.deepEqual([response.endpoint, response.attempts], ['two', 2]);
    const failed = heard.find(({ type }) => type === 'attempt_failed');
    assert.deepEqual([failed.endpoint, failed.reason, failed.then, failed.waitMs], ['one', 'unreachable', 'failover', 0]);
    assert.equal(two.requests[0].headers.authorization, undefined);
    ai.close();
  });

  it('obeys a call’s own time and patience', async () => {
    const { ai } = make({ one });
    const error = await failureOf(ask(ai, { fault: 'hang' }, { timeout: 150 }));
    assert.deepEqual([error.name, error.code], ['TimeoutError', 'deadline_exceeded']);
    assert.match(error.message, /150 ms.*`deadlineMs`.*`timeout`/);
    assert.equal((await failureOf(ask(ai, [{ fault: 'reset' }], { maxRetries: 0 }))).attempts, 1);
    ai.close();
  });

  it('passes an endpoint’s own refusal on', async () => {
    const { ai } = make({ one });
    const error = await failureOf(ask(ai, undefined, undefined, { messages: 'x' }));
    assert.deepEqual([error.name, error.status, error.code, error.attempts], ['InvalidRequestError', 400, 'invalid_request', 1]);
    assert.ok(error.body.error.message.length > 0);
    ai.close();
  });

  it('tells who reads too late that the time was over', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 0, 1) });
    const chunk = new TextEncoder().encode(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: 'a' } }] })}\n\n`);
    const endless = () => new ReadableStream({ pull: (controller) => controller.enqueue(chunk) });
    const { ai } = make({ two }, {
      timeout: 5000, fetch: async () => new Response(endless(), { headers: { 'content-type': 'text/event-stream' } }),
    });
    const settled = () => new Promise((resolve) => setImmediate(resolve));
    const late = async (read) => {
      await read();
      // Its time, and a second more for the core's last words.
      for (const ms of [5000, 1000]) {
        await settled();
        t.mock.timers.tick(ms);
      }
      await settled();
      return failureOf((async () => {
        for (;;) if ((await read()).done) return;
      })());
    };
    const pieces = (await stream(ai))[Symbol.asyncIterator]();
    const error = await late(() => pieces.next());
    assert.deepEqual([error.name, error.code, error.endpoint, /^a+$/.test(error.partial.text)], ['TimeoutError', 'deadline_exceeded', 'two', true]);
    const body = JSON.stringify({ model: 'm', messages: MESSAGES, stream: true });
    const reader = (await ai.fetch('https://any.example.com/v1/chat/completions', { method: 'POST', body })).body.getReader();
    assert.deepEqual([(await late(() => reader.read())).name], ['TimeoutError']);
    ai.close();
  });

  it('leaves when the caller does, and the endpoint sees it', async () => {
    const { ai } = make({ one });
    const controller = new AbortController();
    const reason = new Error('bye');
    const error = await failureOf((async () => {
      let count = 0;
      for await (const _ of await stream(ai, { tokens: 1000, tokenMs: 5 }, { signal: controller.signal })) if ((count += 1) === 5) controller.abort(reason);
    })());
    assert.ok(error instanceof AbortError);
    assert.equal(error.cause, reason);
    await one.until(() => one.requests[0].closedByClientAt);
    for await (const _ of await stream(ai, { tokens: 1000, tokenMs: 5 })) break;
    await one.until(() => one.requests[1].closedByClientAt);
    const waiting = failureOf(ask(ai, { fault: 'hang' }));
    await one.until(() => one.requests[2]);
    ai.close();
    assert.equal((await waiting).name, 'AbortError');
    await one.until(() => one.requests[2].closedByClientAt);
  });

  it('is asked as soon as the store has answered, not at a timer behind that', async (t) => {
    let asked = 0;
    const { ai } = make({ one }, {
      store: { get: async () => undefined, put: async () => {} },
      fetch: () => {
        asked += 1;
        return new Promise(() => {});
      },
    });
    await ai.status(); // the wasm is there
    t.mock.timers.enable({ apis: ['setTimeout'] }); // and none fires from here on
    const left = failureOf(ask(ai));
    for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
    assert.equal(asked, 1);
    ai.close();
    await left;
  });

  it('is let alone once it has failed, also by a client that comes later', async () => {
    const records = new Map();
    const options = { store: { get: (key) => records.get(key), put: (key, text) => void records.set(key, text) } };
    const policy = { breaker: { consecutive: 2, openMs: 60_000, maxOpenMs: 60_000 }, maxAttempts: 1 };
    one.fault = { fault: 'reset' };
    const { ai, heard } = make({ one }, options, policy);
    for (let count = 0; count < 2; count += 1) await failureOf(ask(ai));
    const error = await failureOf(ask(ai));
    assert.ok(error instanceof CircuitOpenError);
    assert.ok(error.retryAfter > 0 && error.retryable);
    assert.ok(heard.some(({ type }) => type === 'breaker_opened'));
    assert.deepEqual([...records.keys()], ['breaker:v1:one:*']);
    assert.equal((await ai.status()).endpoints[0].breakers[0].state, 'open');
    ai.close();
    const asked = one.requests.length;
    const { ai: later } = make({ one }, options, policy);
    assert.ok((await failureOf(ask(later))) instanceof CircuitOpenError);
    assert.equal(one.requests.length, asked);
    one.fault = { fault: 'ok' };
    later.close();
  });
});

describe('in front of a gateway', () => {
  let gateway;
  let runpod;
  before(async () => {
    const open = ['any', 'generator', 'raise', 'sleep'];
    runpod = await startRunpod({
      warm: 1, concurrency: 10,
      endpoints: { any: { handler: 'echo' }, generator: { handler: 'generator', aggregate: true }, raise: { handler: 'raise' }, sleep: { handler: 'sleep' } },
    });
    gateway = await startGateway({
      endpoints: [
        ...endpointsOf({ one }).map((endpoint) => ({ ...endpoint, api_key_secret: 'ONE' })),
        ...jobEndpoints(runpod, open, { native: true }),
      ],
      models: [{ name: 'qwen', targets: [{ endpoint: 'one' }] }],
      policies: { default: { backoff: { base_ms: 1 }, breaker: STAYS_CLOSED }, hasty: { idle_ms: 150, breaker: STAYS_CLOSED } },
      clients: [{ name: 'web', keys_sha256: [sha256('client-key')], policies: ['hasty'], runpod: open }],
    }, { secrets: { ONE: 'key-1', RUNPOD_API_KEY: runpod.apiKey } });
  });
  after(async () => {
    await gateway.close();
    await runpod.close();
    assert.deepEqual(gateway.troubles, []);
  });
  const client = (options) => new Fairlead({ baseURL: `${gateway.url}/v1`, apiKey: 'client-key', policies: { default: QUICK }, ...options });
  const request = { model: 'qwen', messages: MESSAGES };

  it('answers and streams', async () => {
    const ai = client();
    const { data, response } = await ai.chat.completions.create(request, { headers: { 'x-request-id': 'mine' } }).withResponse();
    assert.match(data.choices[0].message.content, /^A fairlead/);
    assert.equal(response.requestId, 'mine');
    assert.match(await (await ai.chat.completions.create({ ...request, stream: true })).finalText(), /^A fairlead/);
    assert.deepEqual((await ai.models.list()).data.map(({ id }) => id), ['qwen']);
    ai.close();
  });

  it('does not try again what the gateway has tried', async () => {
    const ai = client();
    one.fault = { fault: 'reset' };
    const error = await failureOf(ai.chat.completions.create(request));
    assert.deepEqual([error.name, error.code, error.status], ['ConnectionError', 'upstream_unreachable', 502]);
    assert.match(error.message, /Endpoint `one`|endpoint `one`/);
    assert.equal(one.requests.length, 3);
    one.fault = { fault: 'ok' };
    ai.close();
  });

  it('hears its own words in mid-stream, under the policy that was asked for', async () => {
    const ai = client();
    const stream = await ai.chat.completions.create({ ...request, stream: true, sim: { fault: 'stall' } }, { policy: 'hasty' });
    const error = await failureOf(stream.finalText());
    assert.deepEqual([error.name, error.code, error.param], ['TimeoutError', 'upstream_timeout', 'idle']);
    assert.match(error.message, /Endpoint `one` fell silent for 150 ms.*raise `idle_ms`/);
    assert.match(error.partial.text, /^A/);
    ai.close();
  });

  it('is refused without a key', async () => {
    const ai = client({ apiKey: undefined });
    for (const call of [() => ai.chat.completions.create(request), () => ai.models.list()]) {
      const error = await failureOf(call());
      assert.deepEqual([error.name, error.status], ['AuthenticationError', 401]);
    }
    const error = await failureOf(client().runpod('none').status('job'));
    assert.equal(error.name, 'NotFoundError');
    ai.close();
  });

  it('is not asked for what is too large here, and the options say what to raise', async () => {
    const ai = new Fairlead({ baseURL: `${gateway.url}/v1`, policies: { default: { maxRequestBytes: 10 } } });
    const error = await failureOf(ask(ai));
    assert.deepEqual([error.code, error.status, error.attempts], ['request_too_large', 413, 0]);
    assert.match(error.message, /`maxRequestBytes`/);
    ai.close();
  });

  it('is asked under a call’s own authorization, where it has one', async () => {
    const ai = new Fairlead({ baseURL: `${gateway.url}/v1`, apiKey: 'client-key' });
    const headers = { authorization: 'Bearer another' };
    const failures = await Promise.all([ask(ai, undefined, { headers }), ai.models.list({ headers })].map(failureOf));
    assert.deepEqual(failures.map(({ code }) => code), ['invalid_api_key', 'invalid_api_key']);
    ai.close();
  });

  it('passes the time that is left on', async () => {
    const ai = client({ timeout: 300 });
    const error = await failureOf(ai.chat.completions.create({ ...request, sim: { fault: 'hang' } }));
    assert.equal(error.code, 'deadline_exceeded');
    await one.until(() => one.requests[0].closedByClientAt);
    ai.close();
  });

  it('has RunPod’s jobs', async () => {
    const ai = client();
    const done = await ai.runpod('any').runSync({ input: { a: 1 } });
    assert.deepEqual([done.status, done.output], ['COMPLETED', { a: 1 }]);
    assert.equal((await ai.runpod('any').status(done.id)).status, 'COMPLETED');
    const { id } = await ai.runpod('generator').run({ input: { items: ['x', 'y'] } });
    const outputs = [];
    for await (const output of ai.runpod('generator').stream(id)) outputs.push(output);
    assert.ok(outputs.length > 0, 'it streams');
    const raised = await failureOf(ai.runpod('raise').runSync({ input: {} }));
    assert.deepEqual([raised.name, raised.code, raised.body.status], ['JobError', 'job_failed', 'FAILED']);
    const sleeping = await ai.runpod('sleep').run({ input: { ms: 60_000 } });
    assert.equal((await ai.runpod('sleep').cancel(sleeping.id)).status, 'CANCELLED');
    assert.ok((await ai.runpod('sleep').health()).workers);
    ai.close();
  });
});
