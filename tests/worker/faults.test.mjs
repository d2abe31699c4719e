// Each way in which the simulated vLLM can fail, through the gateway: what the client gets, after how many attempts,
// and that another endpoint takes over wherever nothing has been shown yet.
//
// A Worker cannot tell why it has no answer. workerd's fetch rejects with the same error, "Network connection lost."
// and `retryable: true`, whether a connection is refused, reset or closed before the headers, and the read of a body
// that breaks rejects with it too. (Only a name that no DNS knows has another: "internal error; reference = …".) So
// all that happens before an answer is `upstream_unreachable`, and all that breaks one off is `stream_interrupted`.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { HASTY, MAX_ATTEMPTS, NOT_STREAMED, PATIENT, STREAMED, STREAMED_EARLY } from '../outcomes.mjs';
import { FAULTS } from '../upstream/faults.mjs';
import { eventsIn } from '../upstream/raw-client.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, requestsOf, startGateway } from './gateway.mjs';

const DONE = 'data: [DONE]';

let first;
let second;
let gateway;
before(async () => {
  first = await startVllm();
  second = await startVllm({ faultless: true });
  const down = await startVllm();
  const { url } = down;
  await down.close();
  const to = (...names) => names.map((endpoint) => ({ endpoint, model: `model-of-${endpoint}` }));
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first, second, down: { url } }),
    models: [
      { name: 'alone', targets: to('first') },
      { name: 'failover', targets: to('first', 'second') },
      { name: 'down', targets: to('down') },
      { name: 'down-failover', targets: to('down', 'second') },
    ],
    policies: { default: PATIENT, hasty: HASTY },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([first.close(), second.close()]);
  assert.deepEqual(gateway.troubles, []);
});

// ---- how it is found ----

let count = 0;

/** One call under a fault of the first endpoint: its response, and the requests that each endpoint saw for it. */
async function call(model, stream, fault, { sim, policy } = {}) {
  count += 1;
  const id = `call-${count}`;
  const response = await gateway.fetch('/v1/chat/completions', {
    body: { model, stream, messages: [{ role: 'user', content: 'Hi' }], sim: { fault, ...sim } },
    headers: { 'x-request-id': id, ...(policy && { 'x-fairlead-policy': policy }) },
  });
  const body = Buffer.from(await response.arrayBuffer());
  const end = await gateway.line({ request_id: id, event: 'call_ended' });
  return { id, stream, response, body, end, seen: requestsOf(first, id), seenBySecond: requestsOf(second, id) };
}

/** The text of an answer, streamed or not. */
function textOf({ stream, body }) {
  if (!stream) return JSON.parse(body).choices[0].message.content;
  return eventsIn(body.toString().replace(/\r\n?/g, '\n'))
    .filter((event) => event !== DONE)
    .map((event) => JSON.parse(event.slice('data: '.length)).choices[0]?.delta.content ?? '')
    .join('');
}

function assertWhole({ stream, response, body, end, seen, ...more }, { fault }) {
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('x-fairlead-attempts'), '1');
  assert.equal(seen.length, 1);
  assert.equal(end.outcome, 'ok');
  const text = textOf({ stream, body, ...more });
  if (fault === 'huge-event') assert.ok(text.length > 1024 * 1024);
  else if (fault === 'malformed') assert.equal(text, DEFAULT_TEXT.replace(' guides', ''));
  else assert.equal(text, DEFAULT_TEXT);
  assert.equal(end.malformed, fault === 'malformed' ? 1 : 0);
  if (!stream) return;
  assert.equal(body.toString().split(DONE).length, 2);
  assert.match(body.toString(), /"finish_reason":"stop"/);
  assert.match(body.toString(), /data: \[DONE\](\r|\n|\r\n){2}$/);
}

function assertPassedOn({ response, body, end, seen }, { status, attempts }) {
  assert.equal(response.status, status);
  assert.deepEqual(body, seen.at(-1).sent);
  assert.equal(response.headers.get('x-should-retry'), 'false');
  assert.equal(response.headers.get('x-fairlead-attempts'), String(attempts));
  assert.equal(seen.length, attempts);
  assert.equal(end.outcome, `upstream_${status}`);
}

function assertFailed({ id, response, body, end, seen }, { status, code, param, attempts }) {
  assert.equal(response.status, status);
  const { error } = JSON.parse(body);
  assert.deepEqual([error.code, error.param], [code, param]);
  assertHelpful(error.message, attempts);
  assert.equal(response.headers.get('content-type'), 'application/json');
  assert.equal(response.headers.get('x-should-retry'), 'false');
  assert.equal(response.headers.get('x-fairlead-attempts'), String(attempts));
  assert.equal(seen.length, attempts);
  assert.deepEqual([end.outcome, end.param ?? null, end.attempts], [code, param, attempts]);
  assertToldApart(id, code === 'deadline_exceeded' ? 0 : attempts);
}

function assertBroken({ id, response, body, end, seen }, { code, param }) {
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('x-fairlead-attempts'), '1');
  assert.equal(seen.length, 1);
  const events = eventsIn(body);
  const { error } = JSON.parse(events.pop().slice('data: '.length));
  assert.deepEqual([error.code, error.param], [code, param]);
  assertHelpful(error.message, 1);
  const arrived = events.map((event) => `${event}\n\n`).join('');
  assert.ok(arrived.includes('"content":"A"'));
  assert.ok(seen[0].sent.toString().startsWith(arrived), 'what came before the error is what the endpoint sent');
  assert.ok(!body.includes(DONE));
  assert.deepEqual([end.outcome, end.param ?? null], [code, param]);
  assertToldApart(id, 1);
}

/** What happened, how often it was tried, and neither a key nor a URL. */
function assertHelpful(message, attempts) {
  assert.match(message, /`(first|down)`/);
  assert.match(message, attempts > 1 ? /3 attempts were made/ : /It was asked once/);
  assert.doesNotMatch(message, /127\.0\.0\.1|http:/);
}

/** Each attempt that failed has a line of its own, which says why and what followed. */
function assertToldApart(id, attempts) {
  const lines = gateway.logs.filter(({ request_id, event }) => request_id === id && event === 'attempt_failed');
  assert.deepEqual(lines.map(({ attempt }) => attempt), Array.from({ length: attempts }, (_, at) => at + 1));
  for (const [at, { reason, then }] of lines.entries()) {
    assert.match(reason, /^[a-z_0-9]+$/);
    assert.equal(then === 'retry', at < attempts - 1);
  }
}

function assertTakenOver({ id, response, body, end, seen, seenBySecond }) {
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('x-fairlead-endpoint'), 'second');
  assert.equal(response.headers.get('x-fairlead-attempts'), '2');
  assert.deepEqual([seen.length, seenBySecond.length], [1, 1]);
  assert.deepEqual(body, seenBySecond[0].sent);
  assert.deepEqual([end.outcome, end.endpoint], ['ok', 'second']);
  const [line] = gateway.logs.filter(({ request_id }) => request_id === id);
  assert.deepEqual([line.event, line.endpoint, line.then, line.wait_ms], ['attempt_failed', 'first', 'failover', 0]);
}

const CHECKS = { whole: assertWhole, passedOn: assertPassedOn, failed: assertFailed, broken: assertBroken };

/** Each fault of a table, alone and with an endpoint to fall back on. Waiting costs nothing, so they run at once. */
function suite(what, stream, table) {
  describe(`${what}, with one endpoint`, { concurrency: 8 }, () => {
    for (const [fault, expected] of Object.entries(table)) {
      it(`${fault}: ${expected.name}`, async () => {
        CHECKS[expected.kind](await call('alone', stream, fault, expected), { fault, ...expected });
      });
    }
  });

  describe(`${what}, with a second endpoint`, { concurrency: 8 }, () => {
    for (const [fault, expected] of Object.entries(table)) {
      it(`${fault}: ${expected.failover ? 'the second answers' : expected.name}`, async () => {
        const result = await call('failover', stream, fault, expected);
        if (expected.failover) return assertTakenOver(result);
        assert.equal(result.seenBySecond.length, 0);
        return CHECKS[expected.kind](result, { fault, ...expected });
      });
    }
  });
}

suite('a stream under each fault', true, STREAMED);
suite('a stream under each fault before its content', true, STREAMED_EARLY);
suite('an answer that does not stream under each fault', false, NOT_STREAMED);

it('no fault is left out', () => {
  const touched = Object.keys(FAULTS).filter((fault) => FAULTS[fault].on !== 'stream');
  assert.deepEqual(Object.keys(STREAMED).sort(), Object.keys(FAULTS).sort());
  assert.deepEqual(Object.keys(NOT_STREAMED).sort(), touched.sort());
});

describe('an endpoint that refuses connections', () => {
  for (const stream of [true, false]) {
    it(`is unreachable${stream ? ' for a stream' : ''}`, async () => {
      const { response, body } = await call('down', stream, 'ok');
      assert.equal(response.status, 502);
      assert.equal(response.headers.get('x-fairlead-attempts'), String(MAX_ATTEMPTS));
      const { error } = JSON.parse(body);
      assert.equal(error.code, 'upstream_unreachable');
      assertHelpful(error.message, MAX_ATTEMPTS);
    });

    it(`is passed over${stream ? ' by a stream' : ''}`, async () => {
      const { response, body, seenBySecond } = await call('down-failover', stream, 'ok');
      assert.equal(response.headers.get('x-fairlead-attempts'), '2');
      assert.deepEqual(body, seenBySecond[0].sent);
    });
  }
});

describe('a fault that passes', () => {
  for (const stream of [true, false]) {
    it(`is not seen by who asks for ${stream ? 'a stream' : 'an answer'}`, async () => {
      const id = `passing-${stream}`;
      const response = await gateway.fetch('/v1/chat/completions', {
        body: { model: 'alone', stream, messages: [], sim: ['reset', 'http-503'] }, headers: { 'x-request-id': id },
      });
      const body = Buffer.from(await response.arrayBuffer());
      const seen = requestsOf(first, id);
      assert.deepEqual([response.status, seen.map(({ fault }) => fault)], [200, ['reset', 'http-503', 'ok']]);
      assert.deepEqual(seen.map(({ headers }) => headers['x-request-id']), [`${id}-1`, `${id}-2`, `${id}-3`]);
      assert.deepEqual(body, seen[2].sent);
    });
  }
});

describe('a stream that breaks says so in the words of its API, and never ends like a whole one', () => {
  const fields = { type: 'api_error', param: null, code: 'stream_interrupted' };
  const openai = { error: fields };
  const cases = {
    '/v1/chat/completions': [{ messages: [] }, undefined, openai],
    '/v1/completions': [{ prompt: 'a' }, undefined, openai],
    '/v1/responses': [{ input: 'a' }, 'error', { ...fields, type: 'error', error: fields }],
    '/v1/messages': [{ messages: [], max_tokens: 50 }, 'error', { type: 'error', error: fields }],
  };
  for (const [path, [body, name, expected]] of Object.entries(cases)) {
    it(path, async () => {
      const response = await gateway.fetch(path, {
        body: { model: 'alone', stream: true, ...body, sim: { fault: 'cut', afterEvents: 8 } },
      });
      const text = await response.text();
      const [, event, data] = /(?:event: (.*)\n)?data: (.*)\n\n$/.exec(text);
      assert.equal(event, name);
      const { message, ...told } = JSON.parse(data);
      const { message: inner, ...error } = told.error;
      assert.deepEqual({ ...told, error }, expected);
      assert.match(inner, /broke off in the middle/);
      assert.equal(message, path === '/v1/responses' ? inner : undefined);
      for (const end of [DONE, 'response.completed', 'message_stop', '"finish_reason":"stop"']) {
        assert.ok(!text.includes(end));
      }
    });
  }

  it('/v1/audio/transcriptions', async () => {
    const form = new FormData();
    const texts = { model: 'alone', stream: 'true', sim: '{"fault":"cut"}' };
    for (const [name, value] of Object.entries(texts)) form.set(name, value);
    form.set('file', new Blob(['RIFF']), 'a.wav');
    const text = await (await gateway.fetch('/v1/audio/transcriptions', { body: form })).text();
    assert.match(text, /data: \{"error":\{.*"code":"stream_interrupted"\}\}\n\n$/);
    assert.ok(!text.includes(DONE));
  });
});
