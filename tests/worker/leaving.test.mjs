// A GPU works only while somebody waits for its answer: the client's leaving ends the request at the endpoint, and so
// does every end that the gateway itself puts to an attempt.
//
// What workerd on its own cannot show: it tells a Worker of its caller's leaving only once the response has begun, and
// then when a write fails. A caller who leaves before that (a call that does not stream, or a stream before
// `commit_after_ms`) is noticed with the commit or not at all; the deadline is the bound then. Cloudflare promises that
// `request.signal` fires earlier in production, so these tests claim when the endpoint is free at the latest, not when
// the leaving is noticed.

import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import OpenAI from 'openai';
import { requestBytes } from '../upstream/raw-client.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, requestsOf, startGateway } from './gateway.mjs';

const KEEPALIVE_MS = 300;
const COMMIT_AFTER_MS = 600;
const DEADLINE_MS = 2000;
/** What a loaded machine may take on top of a bound of the gateway. */
const MARGIN_MS = 700;
/** So long that a test which waits for one of them fails. */
const NEVER_MS = 60_000;
/** A text that lasts longer than any test here, a token every 20 ms. */
const LONG = 3000;

let vllm;
let second;
let gateway;
before(async () => {
  vllm = await startVllm({ tokenMs: 20 });
  second = await startVllm({ faultless: true });
  const patient = {
    keepalive_ms: KEEPALIVE_MS, commit_after_ms: NEVER_MS, deadline_ms: NEVER_MS, headers_ms: NEVER_MS,
    first_token_ms: NEVER_MS, idle_ms: NEVER_MS, progress_ms: NEVER_MS, backoff: { base_ms: 1 },
  };
  const entry = (name, targets, policy = name) =>
    ({ name, policy, targets: targets.map((endpoint) => ({ endpoint })) });
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ vllm, second }),
    models: [
      entry('patient', ['vllm']),
      entry('committing', ['vllm']),
      entry('bounded', ['vllm']),
      entry('hasty', ['vllm']),
      entry('failover', ['vllm', 'second'], 'hasty'),
    ],
    policies: {
      patient,
      committing: { ...patient, commit_after_ms: COMMIT_AFTER_MS },
      bounded: { ...patient, deadline_ms: DEADLINE_MS },
      hasty: { ...patient, max_attempts: 2, headers_ms: 500, first_token_ms: 700, idle_ms: 500, progress_ms: 800 },
    },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([vllm.close(), second.close()]);
  assert.deepEqual(gateway.troubles, []);
});

let count = 0;

/** A call that is under way, and what the endpoint sees of it. */
class Caller {
  text = '';
  #leave = new AbortController();
  #arrived = () => {};

  constructor(model, body, path = '/v1/chat/completions') {
    count += 1;
    this.id = `call-${count}`;
    this.began = Date.now();
    this.ended = gateway.fetch(path, {
      body: { model, messages: [], ...body }, headers: { 'x-request-id': this.id }, signal: this.#leave.signal,
    }).then(async (response) => {
      this.response = response;
      for await (const bytes of response.body) {
        this.text += Buffer.from(bytes).toString();
        this.#arrived();
      }
    }).catch((error) => {
      if (error.name !== 'AbortError') throw error;
    });
  }

  get requests() {
    return requestsOf(vllm, this.id);
  }

  /** Resolves when the client has this much of the answer. */
  async has(text) {
    const arrived = new Promise((resolve) => {
      this.#arrived = () => { if (this.text.includes(text)) resolve(); };
      this.#arrived();
    });
    await Promise.race([arrived, this.ended.then(() => assert.ok(this.text.includes(text), this.text))]);
  }

  /** Resolves when the endpoint has the request. */
  isAsked() {
    return vllm.until(() => this.requests[0]);
  }

  leave() {
    this.left = Date.now();
    this.#leave.abort();
    return this.ended;
  }

  /** When the endpoint saw its request given up. */
  async released(within) {
    await vllm.until(() => this.requests.at(-1).closedByClientAt, within);
    return this.requests.at(-1).closedByClientAt;
  }

  async assertReleasedWithin(ms) {
    const at = await this.released(ms + NEVER_MS);
    assert.ok(at - this.left <= ms, `released ${at - this.left} ms after the client had left`);
  }

  line() {
    return gateway.line({ request_id: this.id, event: 'call_ended' });
  }
}

describe('a client that leaves while a stream flows is seen by the endpoint within a second', () => {
  const paces = { 'as fast as it can': 0, 'every 25 ms': 25, 'every 200 ms': 200 };
  for (const [name, tokenMs] of Object.entries(paces)) {
    it(`a token ${name}`, async () => {
      const caller = new Caller('patient', { stream: true, sim: { tokens: tokenMs ? LONG : 100_000, tokenMs } });
      await caller.has('guides');
      await caller.leave();
      await caller.assertReleasedWithin(1000);
      const line = await caller.line();
      assert.deepEqual([line.outcome, line.level, line.attempts, line.endpoint], ['client_gone', 'info', 1, 'vllm']);
      assert.ok(line.bytes > 0);
    });
  }

  const dialects = {
    '/v1/completions': { prompt: 'a', max_tokens: LONG },
    '/v1/responses': { input: 'a' },
    '/v1/messages': { max_tokens: LONG },
  };
  for (const [path, body] of Object.entries(dialects)) {
    it(path, async () => {
      const caller = new Caller('patient', { stream: true, ...body, sim: { tokens: LONG } }, path);
      await caller.has('guides');
      await caller.leave();
      await caller.assertReleasedWithin(1000);
      assert.equal((await caller.line()).outcome, 'client_gone');
    });
  }

  it('comments without content', async () => {
    const caller = new Caller('patient', { stream: true, sim: { fault: 'keepalives-mid-stream', everyMs: 25 } });
    await caller.has(': keep-alive');
    await caller.leave();
    await caller.assertReleasedWithin(1000);
  });
});

it('an SDK whose user breaks off its loop leaves', async () => {
  const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'any', timeout: 20_000 });
  const body = { model: 'patient', messages: [], stream: true, sim: { tokens: LONG } };
  const id = 'broken-off';
  for await (const chunk of await client.chat.completions.create(body, { headers: { 'x-request-id': id } })) {
    if (chunk.choices[0].delta.content) break;
  }
  const left = Date.now();
  const [record] = requestsOf(vllm, id);
  await vllm.until(() => record.closedByClientAt);
  assert.ok(record.closedByClientAt - left <= 1000, `released after ${record.closedByClientAt - left} ms`);
  assert.equal((await gateway.line({ request_id: id, event: 'call_ended' })).outcome, 'client_gone');
});

describe('a client that leaves in silence is seen by the endpoint within one keepalive', () => {
  it('behind the first content', async () => {
    const caller = new Caller('patient', { stream: true, sim: { fault: 'stall' } });
    await caller.has(': keepalive');
    await caller.leave();
    await caller.assertReleasedWithin(KEEPALIVE_MS + MARGIN_MS);
    assert.equal((await caller.line()).outcome, 'client_gone');
  });

  it('before the first content, once the stream is committed', async () => {
    const caller = new Caller('committing', { stream: true, sim: { fault: 'hang' } });
    await caller.has(': keepalive');
    await caller.leave();
    await caller.assertReleasedWithin(KEEPALIVE_MS + MARGIN_MS);
    const line = await caller.line();
    assert.deepEqual([line.outcome, line.first_content_ms], ['client_gone', null]);
  });

  it('while the next attempt is waited for, which then never comes', async () => {
    const caller = new Caller('committing', { stream: true, sim: { fault: 'http-429', retryAfter: 3 } });
    await caller.has(': keepalive');
    await caller.leave();
    const line = await caller.line();
    assert.deepEqual([line.outcome, line.attempts], ['client_gone', 1]);
    assert.ok(line.total_ms < 3000);
    assert.equal(caller.requests.length, 1);
  });
});

describe('a client that leaves before its response has begun', () => {
  it('frees the endpoint when its stream is committed', async () => {
    const caller = new Caller('committing', { stream: true, sim: { fault: 'hang' } });
    await caller.isAsked();
    await caller.leave();
    await caller.assertReleasedWithin(COMMIT_AFTER_MS + KEEPALIVE_MS + MARGIN_MS);
    assert.equal((await caller.line()).outcome, 'client_gone');
  });

  it('frees the endpoint at the deadline, where nothing is streamed', async () => {
    const caller = new Caller('bounded', { sim: { fault: 'hang' } });
    await caller.isAsked();
    await caller.leave();
    const released = await caller.released(NEVER_MS);
    assert.ok(released - caller.began <= DEADLINE_MS + MARGIN_MS);
    assert.match((await caller.line()).outcome, /^(client_gone|deadline_exceeded)$/);
  });

  it('reaches no endpoint, if it leaves in the middle of its request', async () => {
    const socket = net.connect(gateway.port, '127.0.0.1');
    const body = JSON.stringify({ model: 'patient', messages: [], padding: 'x'.repeat(1000) });
    const asked = vllm.requests.length;
    await new Promise((resolve) => { socket.write(requestBytes({ body }).subarray(0, -500), resolve); });
    socket.destroy();
    // The gateway is well, and by the time that it has answered this, it has seen the socket close.
    await gateway.fetch('/health');
    assert.equal((await gateway.fetch('/health')).status, 200);
    assert.equal(vllm.requests.length, asked);
  });
});

it('a client that takes nothing and then leaves frees the endpoint', async () => {
  const id = 'slow-reader';
  // More than the sockets between them can hold.
  const sim = { fault: 'huge-event', eventBytes: 12_000_000, tokens: LONG };
  const body = { model: 'patient', stream: true, messages: [], sim };
  const socket = net.connect(gateway.port, '127.0.0.1').pause();
  socket.write(requestBytes({ body, headers: { 'x-request-id': id } }));
  await vllm.until(() => requestsOf(vllm, id)[0]?.sent.length > 1_000_000);
  socket.destroy();
  const left = Date.now();
  const [record] = requestsOf(vllm, id);
  await vllm.until(() => record.closedByClientAt);
  assert.ok(record.closedByClientAt - left <= 1000, `released after ${record.closedByClientAt - left} ms`);
  assert.equal((await gateway.line({ request_id: id, event: 'call_ended' })).outcome, 'client_gone');
});

describe('an end that the gateway puts to an attempt ends it at the endpoint', { concurrency: true }, () => {
  const ends = {
    'no headers in time': ['hasty', { fault: 'hang' }, 'upstream_timeout'],
    'no content in time': ['hasty', { fault: 'hang-after-headers' }, 'upstream_timeout'],
    'comments instead of content': ['hasty', { fault: 'keepalives', everyMs: 50 }, 'upstream_timeout'],
    'silence in the middle': ['hasty', { fault: 'stall' }, 'upstream_timeout'],
    'no progress in the middle': ['hasty', { fault: 'keepalives-mid-stream', everyMs: 50 }, 'upstream_timeout'],
    'an answer of the wrong kind': [
      'patient', { fault: 'json-for-stream', tokenMs: 0, eventBytes: 12_000_000 }, 'upstream_invalid',
    ],
    'an event without end': ['patient', { fault: 'endless-event' }, 'upstream_invalid'],
    'the deadline in the middle': ['bounded', { tokens: LONG }, 'deadline_exceeded'],
    'the deadline in silence': ['bounded', { fault: 'hang' }, 'deadline_exceeded'],
    'a whole answer that the endpoint does not close': ['patient', { fault: 'stall-after-finish' }, 'ok'],
  };
  for (const [name, [model, sim, outcome]] of Object.entries(ends)) {
    it(name, async () => {
      const caller = new Caller(model, { stream: true, sim });
      await caller.ended;
      assert.equal((await caller.line()).outcome, outcome);
      for (const record of caller.requests) {
        await vllm.until(() => record.closedByClientAt ?? record.finishedAt);
        assert.equal(record.finishedAt, null, 'the endpoint came to its own end first');
      }
    });
  }

  it('the deadline of an answer that does not stream', async () => {
    const caller = new Caller('bounded', { sim: { fault: 'hang' } });
    await caller.ended;
    assert.equal(caller.response.status, 504);
    assert.ok(await caller.released(MARGIN_MS) - caller.began <= DEADLINE_MS + MARGIN_MS);
  });
});

it('an attempt that another endpoint takes over from is over at the first', async () => {
  const caller = new Caller('failover', { stream: true, sim: { fault: 'hang-after-headers' } });
  await caller.ended;
  assert.equal(caller.response.headers.get('x-fairlead-endpoint'), 'second');
  const [record] = caller.requests;
  await vllm.until(() => record.closedByClientAt, MARGIN_MS);
  // Given up before the other one was asked, not when the call was over.
  assert.ok(record.closedByClientAt <= requestsOf(second, caller.id)[0].at + MARGIN_MS);
});
