// A call from its method to its answer: what it asks of the core, how it fails, and what it leaves behind.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  AbortError, AuthenticationError, chat, CircuitOpenError, ConnectionError, data, Fairlead, FairleadError, failureOf, globals,
  InternalError, InvalidRequestError, JobError, never, NotFoundError, OverloadedError, page, PermissionError, provide, RateLimitError, script,
  streamed, StreamInterruptedError, tick, TimeoutError, UpstreamError, whole,
} from './face.mjs';

const BASE = 'https://gateway.example.com/v1';
const A = { name: 'a', provider: 'vllm', baseURL: 'https://a.example.com/v1' };
const REQUEST = { model: 'm', messages: [{ role: 'user', content: 'é' }], top_k: 3 };
const make = (options) => new Fairlead({ baseURL: BASE, ...options });
const text = (bytes) => new TextDecoder().decode(bytes);

describe('a call', () => {
  it('asks the core for what was written, and no more', async () => {
    const world = script(() => whole(200, { id: 'x' }));
    const began = Date.now();
    assert.deepEqual(await make().chat.completions.create(REQUEST), { id: 'x' });
    const [{ path, fields, bytes, wishes }] = world.calls;
    assert.equal(path, '/v1/chat/completions');
    assert.deepEqual(fields, { 'content-type': 'application/json' });
    assert.equal(text(bytes), JSON.stringify(REQUEST));
    assert.deepEqual(Object.keys(wishes), ['arrived']);
    assert.ok(wishes.arrived >= began && wishes.arrived <= Date.now());
  });

  it('has its route', async () => {
    const world = script(() => whole(200, {}));
    const ai = make();
    await ai.completions.create({ model: 'm', prompt: 'a' });
    await ai.embeddings.create({ model: 'm', input: 'a' });
    await ai.responses.create({ model: 'm', input: 'a' });
    assert.deepEqual(world.calls.map(({ path }) => path), ['/v1/completions', '/v1/embeddings', '/v1/responses']);
    assert.equal(world.cores.length, 1);
  });

  it('says what it wishes', async () => {
    const world = script(() => whole(200, {}));
    const ai = make({ policies: { ui: { idleMs: 5 } }, defaultHeaders: { 'x-team': 'a', 'x-drop': 'b' } });
    await ai.embeddings.create({ model: 'm', input: 'a' }, {
      timeout: 5, maxRetries: 0, policy: 'ui', headers: { 'x-request-id': 'r-1', 'x-drop': null, 'X-Own': 'c', traceparent: 't' },
    });
    await ai.embeddings.create({ model: 'm', input: 'a' }, { policy: 'theirs' });
    const [one, two] = world.calls;
    assert.deepEqual([one.wishes.timeout, one.wishes.maxRetries, one.wishes.policy], [5, 0, 'ui']);
    assert.deepEqual(one.own, { 'x-team': 'a', 'x-own': 'c', 'x-request-id': 'r-1' });
    assert.deepEqual(one.fields, { 'content-type': 'application/json', traceparent: 't' });
    assert.equal(two.wishes.policy, undefined);
    assert.deepEqual(two.own, { 'x-team': 'a', 'x-drop': 'b', 'x-fairlead-policy': 'theirs' });
  });

  it('cannot have a policy that nobody knows', async () => {
    script(() => whole(200, {}));
    const ai = new Fairlead({ endpoints: [A] });
    await assert.rejects(ai.embeddings.create({ model: 'm', input: 'a' }, { policy: 'ui' }), { name: 'TypeError', message: /policy names "ui"/ });
    await assert.rejects(ai.embeddings.create({ model: 'm', input: 'a' }, { headers: { authorization: 'x' } }), { name: 'TypeError', message: /every endpoint/ });
  });

  it('tells what came with the answer', async () => {
    script(() => whole(200, { id: 'x' }, { 'x-request-id': 'r', 'x-fairlead-endpoint': 'a', 'x-fairlead-attempts': '2', 'x-else': 'y' }));
    const { data, response } = await make().chat.completions.create(REQUEST).withResponse();
    assert.deepEqual(data, { id: 'x' });
    const { status, requestId, endpoint, attempts, headers } = response;
    assert.deepEqual([status, requestId, endpoint, attempts, headers.get('x-else')], [200, 'r', 'a', 2, 'y']);
    script(() => streamed(chat({ content: 'a' }), { 'x-request-id': 'r' }));
    const { data: stream, response: begun } = await make().chat.completions.create({ ...REQUEST, stream: true }).withResponse();
    assert.deepEqual([await stream.finalText(), begun.requestId, stream.response.requestId], ['a', 'r', 'r']);
  });

  it('is no unhandled rejection when only withResponse() is waited for', async (t) => {
    const unhandled = [];
    const hear = (reason) => unhandled.push(reason);
    process.on('unhandledRejection', hear);
    t.after(() => process.off('unhandledRejection', hear));
    script(() => whole(500, {}));
    await failureOf(make().chat.completions.create(REQUEST).withResponse());
    await failureOf(make().chat.completions.create(REQUEST));
    await tick();
    assert.deepEqual(unhandled, []);
  });

  it('takes an answer in pieces for one', async () => {
    script(() => Object.assign(streamed(['{"id":', '"x"}']), { 1: 'content-type\0application/json' }));
    assert.deepEqual(await make().chat.completions.create(REQUEST), { id: 'x' });
  });

  it('fails where the answer breaks off, or is no JSON', async () => {
    script(() => streamed(['{"id":', new Error('reset')], { 'x-request-id': 'r' }));
    const error = await failureOf(make().chat.completions.create(REQUEST));
    assert.deepEqual([error.code, error.status, error.requestId], ['upstream_unreachable', 502, 'r']);
    script(() => whole(200, '<html>'));
    assert.equal((await failureOf(make().chat.completions.create(REQUEST))).code, 'upstream_invalid');
  });

  it('fails as a TypeError where the request is no JSON', async () => {
    script(() => whole(200, {}));
    await assert.rejects(make().chat.completions.create({ ...REQUEST, seed: 1n }), TypeError);
  });
});

describe('a failure is an error of its class', () => {
  const classes = {
    invalid_request: [400, InvalidRequestError, false], invalid_api_key: [401, AuthenticationError, false], forbidden: [403, PermissionError, false],
    model_not_found: [404, NotFoundError, false], route_not_found: [404, NotFoundError, false], job_not_found: [404, NotFoundError, false],
    method_not_allowed: [405, InvalidRequestError, false], request_too_large: [413, InvalidRequestError, false], rate_limited: [429, RateLimitError, true],
    upstream_timeout: [504, TimeoutError, true], deadline_exceeded: [504, TimeoutError, true], upstream_unreachable: [502, ConnectionError, true],
    upstream_invalid: [502, UpstreamError, true], upstream_rejected_key: [502, UpstreamError, false], upstream_overloaded: [503, OverloadedError, true],
    circuit_open: [503, CircuitOpenError, true], stream_interrupted: [502, StreamInterruptedError, true], job_failed: [502, JobError, false],
    job_timed_out: [504, TimeoutError, false], job_cancelled: [502, JobError, false], job_expired: [504, TimeoutError, true],
    config_invalid: [500, InternalError, false], internal: [500, InternalError, false],
  };
  for (const [code, [status, Class, retryable]] of Object.entries(classes)) {
    it(code, async () => {
      script(() => whole(status, { error: { message: 'What happened.', type: 'api_error', param: 'p', code } }, {
        'x-request-id': 'r', 'x-fairlead-endpoint': 'a', 'x-fairlead-attempts': '3', 'retry-after': '2', 'x-should-retry': 'false',
      }));
      const error = await failureOf(make().chat.completions.create(REQUEST));
      assert.equal(error.constructor, Class);
      assert.ok(error instanceof FairleadError && error instanceof Error);
      assert.ok(error.stack.startsWith(`${Class.name}: What happened.`));
      const { name, message, type, param, requestId, endpoint, attempts, retryAfter, partial } = error;
      assert.deepEqual([error.code, error.status, error.retryable], [code, status, retryable]);
      assert.deepEqual(
        { name, message, type, param, requestId, endpoint, attempts, retryAfter, partial },
        { name: Class.name, message: 'What happened.', type: 'api_error', param: 'p', requestId: 'r', endpoint: 'a', attempts: 3, retryAfter: 2000, partial: undefined },
      );
    });
  }

  const foreign = [
    ['vLLM’s', 400, { error: { message: 'Too long.', type: 'BadRequestError', param: 'input_tokens', code: 400 } }, InvalidRequestError, 'invalid_request', 'Too long.'],
    ['an older vLLM’s', 404, { object: 'error', message: 'No model.', type: 'NotFoundError', param: null, code: 404 }, NotFoundError, 'not_found', 'No model.'],
    ['a text for an error', 401, { error: 'Unauthorized' }, AuthenticationError, 'invalid_api_key', 'Unauthorized'],
    ['FastAPI’s', 422, { detail: [{ loc: ['body'] }] }, InvalidRequestError, 'invalid_request', '[{"loc":["body"]}]'],
    ['FastAPI’s text', 404, { detail: 'Not Found' }, NotFoundError, 'not_found', 'Not Found'],
    ['Anthropic’s', 429, { type: 'error', error: { type: 'rate_limit_error', message: 'Slow.' } }, RateLimitError, 'rate_limited', 'Slow.'],
    ['a code of its own', 400, { error: { message: 'm', code: 'context_length_exceeded' } }, InvalidRequestError, 'context_length_exceeded', 'm'],
    ['a text', 418, 'I am a teapot', InvalidRequestError, 'invalid_request', 'I am a teapot'],
    ['nothing', 403, '', PermissionError, 'forbidden', 'HTTP 403 without an explanation.'],
    ['a name of Object’s', 400, { error: { message: 'm', code: 'constructor' } }, InvalidRequestError, 'constructor', 'm'],
  ];
  for (const [name, status, body, Class, code, message] of foreign) {
    it(`an endpoint’s own: ${name}`, async () => {
      script(() => whole(status, body));
      const error = await failureOf(make().chat.completions.create({ ...REQUEST, stream: name.includes('text') }));
      assert.equal(error.constructor, Class);
      assert.deepEqual([error.code, error.status, error.message], [code, status, message]);
      assert.deepEqual(error.body, body);
    });
  }

  it('speaks of options, but not where a gateway speaks of its CONFIG', async () => {
    const say = (message) => script(() => whole(504, { error: { message, code: 'upstream_timeout' } }));
    say('Raise `idle_ms`, `base_url`, `x_y`.');
    assert.equal((await failureOf(new Fairlead({ endpoints: [A] }).chat.completions.create(REQUEST))).message, 'Raise `idleMs`, `baseURL`, `x_y`.');
    assert.equal((await failureOf(make().chat.completions.create(REQUEST))).message, 'Raise `idle_ms`, `base_url`, `x_y`.');
    script(() => whole(503, { error: { message: 'Raise `max_concurrency`.', code: 'upstream_overloaded' } }, { 'x-fairlead-attempts': '0' }));
    assert.equal((await failureOf(make().chat.completions.create(REQUEST))).message, 'Raise `maxConcurrency`.');
    say('Endpoint `gateway` fell silent. Raise `idle_ms`.');
    assert.equal((await failureOf(make().chat.completions.create(REQUEST))).message, 'Endpoint `gateway` fell silent. Raise `idleMs`.');
  });

  it('and a date to wait for is a time', async (t) => {
    t.mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 0, 1) });
    script(() => whole(503, {}, { 'retry-after': 'Thu, 01 Jan 2026 00:00:07 GMT' }));
    assert.equal((await failureOf(make().chat.completions.create(REQUEST))).retryAfter, 7000);
  });

  it('and what is told to wait for is a time that a timer can take', async () => {
    const told = async (field) => {
      script(() => whole(503, {}, { 'retry-after': field }));
      return (await failureOf(make().chat.completions.create(REQUEST))).retryAfter;
    };
    const fields = ['1.5', '0', '99999999999', 'Fri, 31 Dec 9999 23:59:59 GMT', 'Thu, 01 Jan 1970 00:00:00 GMT', '', 'soon'];
    assert.deepEqual(await Promise.all(fields.map(told)), [1500, 0, 86_400_000, 86_400_000, 0, undefined, undefined]);
  });

  it('and attempts are a number that can have been counted', async () => {
    const told = async (field) => {
      script(() => whole(503, {}, { 'x-fairlead-attempts': field }));
      return (await failureOf(make().chat.completions.create(REQUEST))).attempts;
    };
    const fields = ['0', '1000', '', '-1', '1.5', '1001', '1e9', 'Infinity', 'many'];
    assert.deepEqual(await Promise.all(fields.map(told)), [0, 1000, ...Array(7).fill(undefined)]);
  });

  it('what CORS blocked will be blocked again', async () => {
    script(() => whole(502, { error: { message: 'm', code: 'upstream_unreachable', param: 'cors' } }));
    const error = await failureOf(make().chat.completions.create(REQUEST));
    assert.deepEqual([error.name, error.retryable], ['ConnectionError', false]);
  });
});

describe('a caller who leaves', () => {
  it('gets an AbortError at once, with the reason', async () => {
    const world = script(() => never());
    const controller = new AbortController();
    const call = failureOf(make().chat.completions.create(REQUEST, { signal: controller.signal }));
    await tick();
    controller.abort('enough');
    const error = await call;
    assert.ok(error instanceof AbortError);
    assert.deepEqual([error.name, error.code, error.cause, error.retryable], ['AbortError', 'aborted', 'enough', false]);
    assert.equal(world.calls[0].signal.aborted, true);
  });

  it('before the call asks nobody', async () => {
    const world = script(() => whole(200, {}));
    const error = await failureOf(make().chat.completions.create(REQUEST, { signal: AbortSignal.abort('no') }));
    assert.deepEqual([error.name, error.cause, world.calls.length], ['AbortError', 'no', 0]);
  });

  it('while the wasm loads does not wait for it', async () => {
    provide({ ready: never });
    const controller = new AbortController();
    const call = failureOf(make().chat.completions.create(REQUEST, { signal: controller.signal }));
    controller.abort();
    assert.equal((await call).name, 'AbortError');
  });
});

it('wasm that never comes is waited for no longer than the call’s time', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  provide({ ready: never });
  const ai = make({ timeout: 9000 });
  const [short, long, status] = [ai.chat.completions.create(REQUEST, { timeout: 50 }), ai.chat.completions.create(REQUEST), ai.status()].map(failureOf);
  t.mock.timers.tick(50);
  assert.deepEqual([(await short).name, (await short).code], ['TimeoutError', 'deadline_exceeded']);
  t.mock.timers.tick(9000);
  for (const late of [long, status]) assert.equal((await late).code, 'deadline_exceeded');
});

describe('a client that is closed', () => {
  it('ends what is in flight, takes nothing more, and frees its core', async () => {
    const world = script((_, count) => (count === 1 ? never() : streamed([...chat({ content: 'a' }).slice(0, 1), never()])));
    const ai = make();
    const waiting = failureOf(ai.chat.completions.create(REQUEST));
    const stream = await ai.chat.completions.create({ ...REQUEST, stream: true });
    const reading = failureOf(stream.finalText());
    await tick();
    ai.close();
    ai.close();
    assert.deepEqual([(await waiting).name, (await reading).name, (await reading).partial.text], ['AbortError', 'AbortError', 'a']);
    assert.ok(world.calls.every(({ signal }) => signal.aborted));
    assert.match(String((await failureOf(ai.chat.completions.create(REQUEST))).cause), /closed/);
    await failureOf(ai.status());
    await failureOf(ai.fetch(`${BASE}/models`));
    await new Promise((resolve) => setTimeout(resolve));
    assert.equal(world.freed, 1);
  });

  it('by `using`', () => {
    script(() => whole(200, {}));
    const ai = make();
    assert.equal(ai[Symbol.dispose], ai.close);
    assert.equal(typeof ai[Symbol.asyncDispose], 'function');
  });
});

describe('an instance that trapped', () => {
  it('fails what it owes, and the next call has a new one', async () => {
    const world = script((_, count) => (count === 1 ? never() : count === 2 ? streamed([never()]) : whole(200, { id: 'x' })));
    const ai = make();
    const waiting = failureOf(ai.chat.completions.create(REQUEST));
    const stream = await ai.chat.completions.create({ ...REQUEST, stream: true });
    const reading = failureOf(stream.finalText());
    await tick();
    world.trap();
    assert.deepEqual([(await waiting).code, (await reading).code], ['internal', 'internal']);
    assert.deepEqual(await ai.chat.completions.create(REQUEST), { id: 'x' });
    assert.equal(world.cores.length, 2);
  });

  it('may throw right away', async () => {
    script(() => {
      throw new WebAssembly.RuntimeError('unreachable');
    });
    const error = await failureOf(make().chat.completions.create(REQUEST));
    assert.ok(error instanceof InternalError && error.cause instanceof WebAssembly.RuntimeError);
  });

  it('wasm that cannot be had is told, and tried again', async () => {
    const world = script(() => whole(200, {}));
    const ai = make();
    provide({ ready: () => Promise.reject(new TypeError('failed to fetch')) });
    const error = await failureOf(ai.chat.completions.create(REQUEST));
    assert.match(error.message, /WebAssembly of fairlead could not be loaded: TypeError: failed to fetch/);
    const again = script(() => whole(200, {}));
    await ai.chat.completions.create(REQUEST);
    assert.deepEqual([world.calls.length, again.calls.length], [0, 1]);
  });
});

describe('in a page', () => {
  it('timers look at the clock when it wakes, while there are calls', async (t) => {
    const { fire, listeners } = page(t);
    let answer;
    const world = script(() => new Promise((resolve) => (answer = resolve)));
    const ai = make({ store: 'memory' });
    assert.deepEqual(listeners(), {});
    const call = ai.chat.completions.create(REQUEST);
    await tick();
    assert.deepEqual(listeners(), { visibilitychange: 1, resume: 1, online: 1, pageshow: 1 });
    for (const type of ['visibilitychange', 'resume', 'online', 'pageshow']) fire(type);
    assert.equal(world.wakes, 4);
    answer(whole(200, {}));
    await call;
    assert.deepEqual(listeners(), {});
  });

  it('leaves nothing behind, however calls end', async (t) => {
    const { listeners } = page(t);
    const outcomes = [whole(200, {}), whole(500, {}), undefined, streamed(chat({ content: 'a' })), streamed(['x', new Error('cut')]), streamed([never()])];
    script((_, count) => outcomes[count - 1] ?? Promise.reject(new Error('trap')));
    const ai = make({ store: 'memory' });
    for (let count = 0; count < 3; count += 1) await ai.chat.completions.create(REQUEST).catch(() => {});
    for (let count = 0; count < 2; count += 1) await (await ai.chat.completions.create({ ...REQUEST, stream: true })).finalText().catch(() => {});
    const stream = await ai.chat.completions.create({ ...REQUEST, stream: true });
    assert.equal(listeners().online, 1);
    stream.abort();
    await tick();
    assert.deepEqual(listeners(), {});
  });
});

describe('what the core tells', () => {
  it('reaches onEvent in a microtask, in camelCase', async () => {
    const heard = [];
    let during;
    script(({ hear }) => {
      hear({ event: 'attempt_failed', attempt: 1, endpoint: 'a', reason: 'http_503', then: 'retry', wait_ms: 5 });
      hear({ event: 'call_ended', outcome: 'ok', first_content_ms: null });
      during = heard.length;
      return whole(200, {});
    });
    await make({ onEvent: (event) => heard.push(event) }).chat.completions.create(REQUEST);
    assert.equal(during, 0);
    assert.deepEqual(heard, [
      { call: 1, type: 'attempt_failed', attempt: 1, endpoint: 'a', reason: 'http_503', then: 'retry', waitMs: 5 },
      { call: 1, type: 'call_ended', outcome: 'ok', firstContentMs: null },
    ]);
  });

  it('a handler that throws breaks nothing, and is heard of', async (t) => {
    const reported = [];
    globals(t, { reportError: (error) => reported.push(error.message) });
    script(({ hear }) => {
      hear({ event: 'attempt_started', attempt: 1, endpoint: 'a' });
      return whole(200, { id: 'x' });
    });
    const sync = make({ onEvent: () => { throw new Error('mine'); } });
    assert.deepEqual(await sync.chat.completions.create(REQUEST), { id: 'x' });
    const late = make({ onEvent: async () => { throw new Error('mine, later'); } });
    await late.chat.completions.create(REQUEST);
    await tick();
    assert.deepEqual(reported, ['mine', 'mine, later']);
  });

  it('goes to the console from its level up', async (t) => {
    const lines = [];
    for (const level of ['warn', 'info', 'debug']) t.mock.method(console, level, (line) => lines.push(`${level} ${line}`));
    const facts = [
      { event: 'attempt_started', attempt: 1, endpoint: 'a' },
      { event: 'attempt_failed', attempt: 1, endpoint: 'a', reason: 'cut', then: 'retry', wait_ms: 5 },
      { event: 'breaker_opened', endpoint: 'a', entry: '*', reason: 'cut', open_ms: 5, one_client: false },
    ];
    script(({ hear }) => {
      facts.forEach(hear);
      return whole(200, {});
    });
    for (const [logLevel, count] of [['off', 0], ['error', 0], [undefined, 1], ['info', 2], ['debug', 3]]) {
      lines.length = 0;
      await make({ logLevel }).chat.completions.create(REQUEST);
      await tick();
      assert.equal(lines.length, count, logLevel);
    }
    assert.equal(lines[2], 'warn [fairlead] breaker_opened call=1 endpoint=a entry=* reason=cut openMs=5 oneClient=false');
  });
});

it('status() tells in camelCase what the core knows', async () => {
  const world = script(() => whole(200, {}));
  world.status = JSON.stringify({ now_ms: 1, endpoints: [{ name: 'a', breakers: [{ state: 'half_open', until_ms: 2 }] }] });
  assert.deepEqual(await make().status(), { nowMs: 1, endpoints: [{ name: 'a', breakers: [{ state: 'half_open', untilMs: 2 }] }] });
});

it('a stream that nobody can read any more is given up', async () => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc');
  const world = script(() => streamed([data({ choices: [] }), never()]));
  const ai = make();
  await ai.chat.completions.create({ ...REQUEST, stream: true });
  for (let turns = 0; turns < 100 && !world.calls[0].signal.aborted; turns += 1) {
    gc();
    await tick();
  }
  assert.equal(world.calls[0].signal.aborted, true);
});
