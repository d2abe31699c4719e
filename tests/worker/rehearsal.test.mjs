// Faults that an admin asks for: what the platform itself has a hand in. What they come to stands in tests/it/rehearsal.rs.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { eventsIn } from '../upstream/raw-client.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, requestsOf, startGateway, STAYS_CLOSED } from './gateway.mjs';

const ADMIN = 'admin-of-rehearsals';
const DONE = 'data: [DONE]';
/** An answer that lasts longer than any test here. */
const LONG = { tokens: 3000 };

let first;
let second;
let gateway;
before(async () => {
  first = await startVllm({ tokenMs: 5 });
  second = await startVllm({ tokenMs: 5 });
  const targets = [{ endpoint: 'first' }, { endpoint: 'second' }];
  const policy = { breaker: STAYS_CLOSED, idle_ms: 1000, headers_ms: 1000, first_token_ms: 1000, backoff: { base_ms: 1 } };
  gateway = await startGateway({
    open: true, faults: true, admin_key_secret: 'ADMIN_KEY', cors: { origins: ['https://app.example.com'] },
    endpoints: endpointsOf({ first, second }),
    models: [
      { name: 'both', targets },
      { name: 'alone', targets: [{ endpoint: 'first' }] },
      { name: 'native', targets: [{ endpoint: 'first' }], policy: 'native' },
      { name: 'resumed', targets, policy: 'resumed' },
    ],
    policies: { default: policy, native: { ...policy, forward: 'native' }, resumed: { ...policy, resume: 'continue' } },
  }, { secrets: { ADMIN_KEY: ADMIN } });
});
after(async () => {
  await gateway.close();
  await Promise.all([first.close(), second.close()]);
  assert.deepEqual(gateway.troubles, []);
});

let count = 0;
async function call(model, fault, { stream = true, headers, sim } = {}) {
  count += 1;
  const id = `rehearsal-${count}`;
  const response = await gateway.fetch('/v1/chat/completions', {
    body: { model, stream, messages: [{ role: 'user', content: 'Hi' }], sim },
    headers: { 'x-request-id': id, 'x-fairlead-fault': fault, 'x-fairlead-admin-key': ADMIN, ...headers },
  });
  const text = await response.text();
  return { id, response, text, seen: requestsOf(first, id), seenBySecond: requestsOf(second, id) };
}

const contentOf = (text) => eventsIn(text).filter((event) => event.startsWith('data: {'))
  .map((event) => JSON.parse(event.slice('data: '.length)).choices[0]?.delta.content ?? '').join('');

for (const [model, how] of [['alone', 'the lane'], ['native', 'the pipe']]) {
  it(`${how} does not carry a stream that is to be cut`, async () => {
    const { id, text, seen } = await call(model, 'cut=5', { sim: LONG });
    const events = eventsIn(text);
    const { error } = JSON.parse(events.pop().slice('data: '.length));
    assert.equal(error.code, 'stream_interrupted');
    assert.equal(events.length, 5);
    assert.ok(seen[0].sent.toString().startsWith(events.map((event) => `${event}\n\n`).join('')));
    await first.until(() => seen[0].closedByClientAt);
    const end = await gateway.line({ request_id: id, event: 'call_ended' });
    assert.deepEqual([end.outcome, end.fault], ['stream_interrupted', 'cut=5']);
  });
}

it('an endpoint whose stream is to stall is let go, and the call says so', async () => {
  const { text, seen } = await call('alone', 'stall-after=4', { sim: LONG });
  const { error } = JSON.parse(eventsIn(text).pop().slice('data: '.length));
  assert.deepEqual([error.code, error.param], ['upstream_timeout', 'idle']);
  await first.until(() => seen[0].closedByClientAt);
});

for (const fault of ['http-503', 'unreachable', 'stall']) {
  for (const stream of [true, false]) {
    it(`${fault}: nothing is sent, and the other endpoint answers${stream ? ' with a stream' : ''}`, async () => {
      const headers = { 'x-fairlead-deadline-ms': '5000' };
      const { id, response, text, seen, seenBySecond } = await call('both', fault, { stream, headers });
      if (fault === 'stall' && !stream) {
        // Headers of an answer that does not stream come behind all of it: only the deadline ends that.
        assert.equal(response.status, 504);
        return;
      }
      assert.deepEqual([seen.length, seenBySecond.length, response.headers.get('x-fairlead-attempts')], [0, 1, '2']);
      assert.equal(stream ? contentOf(text) : JSON.parse(text).choices[0].message.content, DEFAULT_TEXT);
      const failed = await gateway.line({ request_id: id, event: 'attempt_failed' });
      assert.equal(failed.endpoint, 'first');
    });
  }
}

it('an answer that is late is slow, and nothing else', async () => {
  const began = Date.now();
  const { response, text } = await call('alone', 'slow=300');
  assert.ok(Date.now() - began >= 300);
  assert.deepEqual([response.status, contentOf(text)], [200, DEFAULT_TEXT]);
});

it('a stream that is cut goes on elsewhere, and nobody notices', async () => {
  const { id, text, seenBySecond } = await call('resumed', 'cut=6; endpoint=first');
  assert.equal(contentOf(text), DEFAULT_TEXT);
  assert.equal(text.split(DONE).length, 2);
  assert.equal(seenBySecond.at(-1).json.continue_final_message, true);
  await gateway.line({ request_id: id, event: 'stream_resumed' });
});

it('neither field goes on to an endpoint, nor does the key stand anywhere', async () => {
  const { seen } = await call('alone', 'slow=1');
  const names = Object.keys(seen[0].headers);
  assert.deepEqual(names.filter((name) => name.startsWith('x-fairlead')), []);
  assert.ok(!gateway.printed.join('\n').includes(ADMIN));
});

it('nobody but an admin has anything go wrong, and nothing is sent', async () => {
  for (const key of ['', 'x', `${ADMIN} `.repeat(2)]) {
    const { response, text, seen } = await call('alone', 'cut=5', { headers: { 'x-fairlead-admin-key': key } });
    const { error } = JSON.parse(text);
    assert.deepEqual([response.status, error.code, error.param, seen.length], [403, 'forbidden', 'x-fairlead-fault', 0]);
  }
});

it('whoever writes something else is told what there is', async () => {
  for (const fault of ['explode', 'cut=5; endpoint=third']) {
    const { response, text, seen } = await call('alone', fault);
    const { error } = JSON.parse(text);
    assert.deepEqual([response.status, error.code, error.param, seen.length], [400, 'invalid_request', 'x-fairlead-fault', 0]);
    assert.match(error.message, fault === 'explode' ? /`stall-after=5`/ : /`first`, `second`/);
  }
});

it('a page may send both fields', async () => {
  const response = await gateway.fetch('/v1/chat/completions', {
    method: 'OPTIONS',
    headers: {
      origin: 'https://app.example.com', 'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization, x-fairlead-admin-key, x-fairlead-fault',
    },
  });
  const allowed = response.headers.get('access-control-allow-headers');
  assert.ok(allowed.includes('x-fairlead-fault') && allowed.includes('x-fairlead-admin-key'), allowed);
});
