// The times that a user feels, in workerd's own time: comments in silence, a status in good time, deadlines, waits, and
// clients that are slower than their endpoint. Bounds are the README's, with a margin for a loaded machine.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import { parseResponse, requestBytes } from '../upstream/raw-client.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, requestsOf, startGateway, STAYS_CLOSED } from './gateway.mjs';

const CHAT = '/v1/chat/completions';
const COMMENT = ': keepalive\n\n';
const KEEPALIVE_MS = 200;
const COMMIT_AFTER_MS = 200;
const DEADLINE_MS = 1200;
const IDLE_MS = 600;
const MARGIN_MS = 700;
const NEVER_MS = 60_000;
/** A text that lasts longer than any test here, a token every 5 ms. */
const LONG = 5000;

let first;
let second;
let gateway;
before(async () => {
  first = await startVllm({ tokenMs: 5 });
  second = await startVllm({ faultless: true });
  const patient = {
    deadline_ms: NEVER_MS, headers_ms: NEVER_MS, first_token_ms: NEVER_MS, idle_ms: NEVER_MS, progress_ms: NEVER_MS,
    keepalive_ms: KEEPALIVE_MS, commit_after_ms: NEVER_MS, backoff: { base_ms: 1, throttled_base_ms: 1 },
    budget: { capacity: 1_000_000 },
    breaker: STAYS_CLOSED,
  };
  const targets = [{ endpoint: 'first' }];
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first, second }),
    models: [{ name: 'alone', targets }, { name: 'failover', targets: [...targets, { endpoint: 'second' }] }],
    policies: {
      default: patient,
      committing: { ...patient, commit_after_ms: COMMIT_AFTER_MS, headers_ms: 700 },
      bounded: { ...patient, deadline_ms: DEADLINE_MS },
      'bounded-committing': { ...patient, deadline_ms: DEADLINE_MS, commit_after_ms: COMMIT_AFTER_MS },
      watchful: { ...patient, idle_ms: IDLE_MS, progress_ms: 3 * IDLE_MS },
      // Nothing but the timer at hand can wake a call in this one.
      quiet: { ...patient, idle_ms: IDLE_MS, keepalive_ms: NEVER_MS },
      flowing: { ...patient, keepalive_ms: 1000 },
      impatient: { ...patient, retry_after_max_ms: 500 },
      prompt: { ...patient, headers_ms: 500, first_token_ms: 700 },
    },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([first.close(), second.close()]);
  // workerd's word on a body that had to be broken off.
  assert.deepEqual(gateway.troubles.filter((trouble) => !trouble.includes('could not be brought to its end')), []);
});

let count = 0;

/** One call to its end: what came and when, since the call began. */
async function call({ model = 'alone', policy, headers, ...body } = {}) {
  count += 1;
  const id = `call-${count}`;
  const began = performance.now();
  const since = () => performance.now() - began;
  const response = await gateway.fetch(CHAT, {
    body: { model, messages: [], ...body },
    headers: { 'x-request-id': id, ...(policy && { 'x-fairlead-policy': policy }), ...headers },
  });
  const headMs = since();
  const pieces = [];
  for await (const bytes of response.body) pieces.push({ text: Buffer.from(bytes).toString(), ms: since() });
  const text = pieces.map((piece) => piece.text).join('');
  return { id, response, status: response.status, headMs, pieces, text, ms: since(), seen: requestsOf(first, id) };
}

/** The error that a call came to, as its answer or at the end of its stream. */
function errorOf({ text }) {
  return JSON.parse(/(\{"error":.*\})\s*$/.exec(text)[1]).error;
}

const withoutComments = (text) => text.replaceAll(COMMENT, '');

describe('a timer runs out in its own time, though no other wakes the call', { concurrency: true }, () => {
  // Whether the last chunk went on as it came or had to be put together.
  for (const segment of [undefined, 7]) {
    for (const afterEvents of [2, 4]) {
      it(`behind ${afterEvents} events in segments of ${segment ?? 'any size'}`, async () => {
        const sim = { fault: 'stall', afterEvents, tokenMs: 30, segment };
        const answer = await call({ policy: 'quiet', stream: true, sim });
        const { code, param } = errorOf(answer);
        assert.deepEqual([code, param], ['upstream_timeout', 'idle']);
        const silence = answer.pieces.at(-1).ms - answer.pieces.at(-2).ms;
        assert.ok(silence >= IDLE_MS - 50 && silence <= IDLE_MS + MARGIN_MS, `${silence} ms`);
      });
    }
  }

  it('behind a finish whose [DONE] does not come', async () => {
    const sim = { fault: 'stall-after-finish', tokenMs: 30 };
    const { pieces, text } = await call({ policy: 'quiet', stream: true, sim });
    assert.match(text, /data: \[DONE\]\n\n$/);
    const silence = pieces.at(-1).ms - pieces.at(-2).ms;
    assert.ok(silence >= 900 && silence <= 1000 + MARGIN_MS, `${silence} ms`);
  });
});

describe('a client is never left without a sign for longer than a keepalive', { concurrency: true }, () => {
  it('while an endpoint is silent in the middle of its answer', async () => {
    const { pieces, text } = await call({ policy: 'bounded', stream: true, sim: { fault: 'stall' } });
    const comments = pieces.filter((piece) => piece.text === COMMENT);
    assert.ok(comments.length >= 2);
    for (const [at, { ms }] of pieces.entries()) {
      assert.ok(ms - (pieces[at - 1]?.ms ?? 0) <= KEEPALIVE_MS + MARGIN_MS, `silence of ${ms} ms`);
    }
    assert.match(withoutComments(text), /^data: .*"content":" fairlead".*\n\ndata: \{"error":/s);
  });

  it('while an endpoint has not answered yet, and then its answer comes whole', async () => {
    const sim = { fault: 'slow-headers', delayMs: 600 };
    const { response, headMs, text, seen } = await call({ policy: 'committing', stream: true, sim });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
    assert.equal(response.headers.get('x-fairlead-attempts'), '1');
    assert.ok(headMs <= COMMIT_AFTER_MS + MARGIN_MS, `the status came after ${headMs} ms`);
    assert.ok(text.startsWith(COMMENT));
    assert.equal(withoutComments(text), seen[0].sent.toString());
  });

  it('while one endpoint hangs and another takes over, of which nothing shows', async () => {
    const sim = { fault: 'hang' };
    const { id, headMs, text, seen } = await call({ model: 'failover', policy: 'committing', stream: true, sim });
    assert.ok(headMs <= COMMIT_AFTER_MS + MARGIN_MS);
    assert.equal(seen.length, 1);
    assert.ok(text.startsWith(COMMENT));
    assert.equal(withoutComments(text), requestsOf(second, id)[0].sent.toString());
  });

  it('while all endpoints fail, and then the stream says so', async () => {
    const { response, text, seen } = await call({ policy: 'committing', stream: true, sim: { fault: 'hang' } });
    assert.equal(response.status, 200);
    assert.equal(seen.length, 3);
    assert.match(withoutComments(text), /^data: \{"error":\{.*"code":"upstream_timeout"\}\}\n\n$/);
  });

  it('but no comment is in the way of an answer that flows', async () => {
    const { text, seen, ms } = await call({ policy: 'flowing', stream: true, sim: { tokens: 300 } });
    assert.ok(ms > 1000);
    assert.equal(text, seen[0].sent.toString());
  });
});

describe('the deadline is kept', { concurrency: true }, () => {
  const inTime = (ms, bound) => assert.ok(ms >= bound - 5 && ms <= bound + MARGIN_MS, `it ended after ${ms} ms`);
  const phases = {
    'before the headers': [{ stream: true, sim: { fault: 'hang' } }, 504],
    'before the headers of an answer that does not stream': [{ sim: { fault: 'hang' } }, 504],
    'between headers and content': [{ stream: true, sim: { fault: 'hang-after-headers' } }, 504],
    'among comments without content': [{ stream: true, sim: { fault: 'keepalives', everyMs: 50 } }, 504],
    'among events without content': [{ stream: true, sim: { fault: 'empty-deltas', everyMs: 50 } }, 504],
    'in the middle of an answer that does not stream': [{ sim: { fault: 'stall' } }, 504],
    'in a stream that waits': [{ policy: 'bounded-committing', stream: true, sim: { fault: 'hang' } }, 200],
    'in a stream that flows': [{ stream: true, sim: { tokens: LONG } }, 200],
    'in a stream that is silent': [{ stream: true, sim: { fault: 'stall' } }, 200],
    'in a stream of comments': [{ stream: true, sim: { fault: 'keepalives-mid-stream', everyMs: 50 } }, 200],
  };
  for (const [name, [body, status]] of Object.entries(phases)) {
    it(name, async () => {
      const result = await call({ policy: 'bounded', ...body });
      assert.equal(result.status, status);
      assert.equal(errorOf(result).code, 'deadline_exceeded');
      assert.match(errorOf(result).message, /`deadline_ms`/);
      assert.ok(!result.text.includes('[DONE]'));
      inTime(result.ms, DEADLINE_MS);
    });
  }

  const hang = { stream: true, sim: { fault: 'hang' } };
  for (const [name, value] of [['x-fairlead-deadline-ms', '500'], ['x-stainless-timeout', '0.5']]) {
    it(`${name} shortens it`, async () => {
      const result = await call({ ...hang, headers: { [name]: value } });
      assert.equal(errorOf(result).code, 'deadline_exceeded');
      inTime(result.ms, 500);
    });
  }

  for (const [name, value] of [['x-fairlead-deadline-ms', '60000'], ['x-stainless-timeout', '600']]) {
    it(`${name} does not lengthen it`, async () => {
      const result = await call({ ...hang, policy: 'bounded', headers: { [name]: value } });
      inTime(result.ms, DEADLINE_MS);
    });
  }

  it('the timeout that a user of the SDK sets is a deadline here', async () => {
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'any', maxRetries: 0 });
    const id = 'sdk-timeout';
    const options = { timeout: 1000, headers: { 'x-request-id': id } };
    await assert.rejects(client.chat.completions.create({ model: 'alone', messages: [], ...hang }, options));
    const { total_ms } = await gateway.line({ request_id: id, event: 'call_ended' });
    inTime(total_ms, 1000);
  });
});

describe('an endpoint that says when to come back', { concurrency: true }, () => {
  const waited = ({ seen }) => seen[1].at - seen[0].at;
  const forms = {
    'in seconds': [{ retryAfter: 1 }, 1000],
    'in milliseconds': [{ retryAfterMs: 300 }, 300],
    'in fractions of a second': [{ retryAfter: '0.3' }, 300],
    'as a date': [{ retryAfter: { dateInMs: 2000 } }, 1000], // a date has no fractions of a second
  };
  for (const [name, [hint, leastMs]] of Object.entries(forms)) {
    for (const fault of ['http-429', 'http-503']) {
      it(`${name} (${fault}) is not asked before`, async () => {
        const result = await call({ sim: [{ fault, ...hint }] });
        assert.deepEqual([result.status, result.seen.length], [200, 2]);
        assert.ok(waited(result) >= leastMs, `asked again after ${waited(result)} ms`);
        assert.ok(waited(result) <= 2 * leastMs + MARGIN_MS);
      });
    }
  }

  it('in nonsense is asked again in its turn', async () => {
    const result = await call({ sim: [{ fault: 'http-429', retryAfter: 'soon' }] });
    assert.deepEqual([result.status, result.seen.length], [200, 2]);
  });

  for (const [policy, bound] of [['impatient', '`retry_after_max_ms`'], ['bounded', 'the deadline']]) {
    it(`beyond ${bound} is not waited for, and the client is told when`, async () => {
      const result = await call({ policy, sim: { fault: 'http-429', retryAfter: 30 } });
      assert.deepEqual([result.status, errorOf(result).code], [503, 'upstream_overloaded']);
      assert.equal(result.response.headers.get('retry-after'), '30');
      assert.equal(result.response.headers.get('x-should-retry'), 'false');
      assert.equal(result.seen.length, 1);
      assert.ok(result.ms < MARGIN_MS);
    });
  }

  it('is not waited for while another is there', async () => {
    const result = await call({ model: 'failover', sim: { fault: 'http-429', retryAfter: 30 } });
    assert.equal(result.response.headers.get('x-fairlead-endpoint'), 'second');
    assert.ok(result.ms < MARGIN_MS);
  });
});

describe('a client that reads slowly', () => {
  /** A call whose response is not read until `resume`. */
  function unread(id, body, policy) {
    const socket = net.connect(gateway.port, '127.0.0.1').pause();
    socket.write(requestBytes({
      body: { model: 'alone', messages: [], stream: true, ...body },
      headers: { connection: 'close', 'x-request-id': id, 'x-fairlead-policy': policy },
    }));
    const received = [];
    socket.on('data', (bytes) => received.push(bytes)).pause();
    const closed = once(socket, 'close').then(() => parseResponse(Buffer.concat(received)));
    const record = first.until(() => requestsOf(first, id)[0]);
    return { socket, closed, record };
  }

  // More than the sockets between them can hold.
  const sim = { fault: 'huge-event', eventBytes: 12_000_000 };

  it('is not taken for a silent endpoint, and gets everything', async () => {
    const { socket, closed, record } = unread('slow', { sim: { ...sim, tokens: 40 } }, 'watchful');
    await record;
    // Longer than both timers of silence; only then is anything taken.
    await sleep(4 * IDLE_MS);
    socket.resume();
    const { status, payload, whole } = await closed;
    assert.deepEqual([status, whole], [200, true]);
    assert.ok(withoutComments(payload.toString()) === (await record).sent.toString());
  });

  it('holds its endpoint back, not beyond the deadline, and is told', async () => {
    const { socket, closed, record } = unread('stuck', { sim: { ...sim, tokens: LONG } }, 'bounded');
    const { at } = await record;
    const releasedAt = await first.until(() => requestsOf(first, 'stuck')[0].closedByClientAt);
    assert.ok(releasedAt - at <= DEADLINE_MS + MARGIN_MS, `released after ${releasedAt - at} ms`);
    socket.resume();
    const { payload, whole } = await closed;
    const text = payload.toString();
    assert.ok(!text.includes('[DONE]'));
    assert.ok(!whole || errorOf({ text }).code === 'deadline_exceeded');
  });
});

it('a request that takes long to arrive is no delay of the endpoint', async () => {
  const body = Buffer.from(JSON.stringify({ model: 'alone', messages: [], stream: true, padding: 'x'.repeat(1000) }));
  const upload = async function* () {
    yield body.subarray(0, 500);
    await sleep(1000);
    yield body.subarray(500);
  };
  const id = 'slow-upload';
  const response = await gateway.fetch(CHAT, {
    body: ReadableStream.from(upload()), duplex: 'half',
    headers: { 'content-type': 'application/json', 'x-request-id': id, 'x-fairlead-policy': 'prompt' },
  });
  assert.deepEqual([response.status, response.headers.get('x-fairlead-attempts')], [200, '1']);
  assert.equal(await response.text(), requestsOf(first, id)[0].sent.toString());
});

describe('much at once', () => {
  it('50 streams are all whole', async () => {
    const results = await Promise.all(Array.from({ length: 50 }, (_, at) =>
      call({ stream: true, n: 1 + (at % 3), sim: { tokens: 20 + at } })));
    for (const { status, text, seen } of results) {
      assert.equal(status, 200);
      assert.equal(withoutComments(text), seen[0].sent.toString());
    }
  });

  it('50 calls of every kind end as each would alone', async () => {
    const kinds = [
      [{ stream: true }, 200, undefined],
      [{ stream: true, sim: { fault: 'cut' } }, 200, 'stream_interrupted'],
      [{ sim: { fault: 'http-500' } }, 502, 'upstream_invalid'],
      [{ sim: ['reset'] }, 200, undefined],
      [{ sim: { fault: 'http-422' } }, 422, 422],
    ];
    await Promise.all(Array.from({ length: 50 }, async (_, at) => {
      const [body, status, code] = kinds[at % kinds.length];
      const result = await call(body);
      assert.equal(result.status, status);
      if (code) assert.equal(errorOf(result).code, code);
      else assert.equal(withoutComments(result.text), result.seen.at(-1).sent.toString());
    }));
  });

  it('half of a very large answer that does not stream is never taken for a whole one', async () => {
    // Too large to be held back until it is whole, so nothing but a broken connection can say that it is not.
    const response = await gateway.fetch(CHAT, {
      body: { model: 'alone', messages: [], sim: { fault: 'cut', eventBytes: 12_000_000, afterBytes: 11_000_000 } },
    });
    assert.equal(response.status, 200);
    await assert.rejects(response.arrayBuffer(), { message: 'terminated' });
  });
});

it('retries are paid for from a budget that all calls to an endpoint share', async (t) => {
  const poor = await startGateway({
    open: true,
    endpoints: endpointsOf({ first }),
    models: [{ name: '*', targets: [{ endpoint: 'first' }] }],
    policies: { default: { backoff: { base_ms: 1 }, budget: { capacity: 42, transient_cost: 14, refund: 0 } } },
  });
  t.after(() => poor.close());
  const attempts = [];
  for (let at = 0; at < 4; at += 1) {
    const response = await poor.fetch(CHAT, { body: { model: 'm', messages: [], sim: { fault: 'reset' } } });
    attempts.push(Number(response.headers.get('x-fairlead-attempts')));
    await response.text();
  }
  assert.deepEqual(attempts, [3, 2, 1, 1]);
  await poor.line({ event: 'attempt_failed', then: 'budget_spent' });
});
