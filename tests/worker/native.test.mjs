// `forward: "native"`: a stream's bytes go by the platform's own pipe and are looked at behind it. What reaches the
// client is what the endpoint sent, with Fairlead's own words behind it where the endpoint owes them; every timer still
// works; and the endpoint works for nobody. The log says of each call whether its bytes really went by (`native`).

import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, describe, it } from 'node:test';
import OpenAI from 'openai';
import { eventsIn, requestBytes } from '../upstream/raw-client.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, requestsOf, startGateway, STAYS_CLOSED } from './gateway.mjs';

const DONE = 'data: [DONE]';
const NATIVE = { forward: 'native', backoff: { base_ms: 1 }, breaker: STAYS_CLOSED };
/** A text that lasts longer than any test here. */
const LONG = 3000;
const MARGIN_MS = 700;

let first;
let second;
let gateway;
before(async () => {
  first = await startVllm({ tokenMs: 5 });
  second = await startVllm({ faultless: true });
  const entry = (name, endpoints, policy) => ({ name, policy, targets: endpoints.map((endpoint) => ({ endpoint })) });
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first, second }),
    models: [
      entry('native', ['first'], 'native'),
      entry('hasty', ['first'], 'hasty'),
      entry('bounded', ['first'], 'bounded'),
      entry('long', ['first'], 'long'),
      entry('failover', ['first', 'second'], 'native'),
    ],
    policies: {
      native: NATIVE,
      hasty: { ...NATIVE, idle_ms: 500, progress_ms: 900 },
      bounded: { ...NATIVE, deadline_ms: 1500 },
      long: { ...NATIVE, deadline_ms: 15_000 },
    },
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([first.close(), second.close()]);
  assert.deepEqual(gateway.troubles, []);
});

let count = 0;

/** One streamed call: its answer, its line in the log, and what the endpoint sent. */
async function call(model, sim, body = {}, path = '/v1/chat/completions') {
  count += 1;
  const id = `native-${count}`;
  const began = Date.now();
  const response = await gateway.fetch(path, {
    body: { model, stream: true, messages: [], ...body, sim }, headers: { 'x-request-id': id },
  });
  const text = Buffer.from(await response.arrayBuffer()).toString();
  const ms = Date.now() - began;
  const end = await gateway.line({ request_id: id, event: 'call_ended' });
  return { response, text, ms, end, seen: requestsOf(first, id), seenBySecond: requestsOf(second, id) };
}

function assertBroken({ text, end, seen }, code, param = null) {
  const events = eventsIn(text).filter((event) => event.trim());
  const { error } = JSON.parse(events.at(-1).replace('data: ', ''));
  assert.deepEqual([error.code, error.param], [code, param]);
  assert.deepEqual([end.outcome, end.param ?? null], [code, param]);
  const arrived = text.slice(0, text.lastIndexOf('data: {"error"')).trimEnd();
  assert.ok(arrived.includes('"content":"A"'));
  assert.ok(seen[0].sent.toString().startsWith(arrived), 'what came before the error is what the endpoint sent');
}

describe('a whole stream reaches the client byte by byte as it was sent', { concurrency: 4 }, () => {
  const faults = ['ok', 'malformed', 'huge-event', 'crlf', 'cr', 'bom', 'bytewise', 'segments', 'one-segment'];
  for (const fault of faults) {
    it(fault, async () => {
      const { response, text, end, seen } = await call('native', { fault });
      assert.equal(response.headers.get('x-fairlead-endpoint'), 'first');
      assert.equal(text, seen[0].sent.toString().replace(/^\ufeff/, ''));
      // Behind a CR at a chunk's end its LF may still come, so an event may be half told.
      assert.equal(end.native, fault !== 'cr');
      assert.deepEqual([end.outcome, end.malformed, end.bytes], ['ok', Number(fault === 'malformed'), Buffer.byteLength(text)]);
      assert.ok(end.events > 5);
    });
  }

  const dialects = {
    '/v1/completions': { prompt: 'a' }, '/v1/responses': { input: 'a' }, '/v1/messages': { max_tokens: 50 },
  };
  for (const [path, body] of Object.entries(dialects)) {
    it(path, async () => {
      const { text, end, seen } = await call('native', {}, body, path);
      assert.deepEqual([text, end.outcome, end.native], [seen[0].sent.toString(), 'ok', true]);
    });
  }

  it('and token counts reach the log', async () => {
    const { end } = await call('native', {}, { stream_options: { include_usage: true } });
    assert.ok(end.completion_tokens > 10);
  });

  it('a long one, faster than it is looked at', async () => {
    const { text, end, seen } = await call('native', { tokens: LONG, tokenMs: 0 });
    assert.deepEqual([text.length, text === seen[0].sent.toString(), end.outcome], [end.bytes, true, 'ok']);
  });

  it('a very long one is looked at as fast as it comes', async () => {
    // By a look at 32 KB a few times a second it would take a minute.
    const { text, end } = await call('long', { tokens: 40_000, tokenMs: 0 });
    assert.deepEqual([text.length, end.outcome, end.native], [end.bytes, 'ok', true]);
    assert.ok(text.length > 8_000_000);
  });
});

describe('the end of a stream is still the gateway’s', { concurrency: 4 }, () => {
  for (const fault of ['end-without-done', 'short-body', 'stall-after-finish']) {
    it(`${fault}: a [DONE] is put in`, async () => {
      const { text, end } = await call('native', { fault });
      assert.deepEqual([end.outcome, end.native], ['ok', true]);
      assert.equal(text.split(DONE).length, 2);
      assert.match(text, /data: \[DONE\]\n{2,}$/);
    });
  }

  const broken = ['cut', 'cut-reset', 'end-without-finish', 'wrong-content-length', 'error-mid-stream', 'abort'];
  for (const fault of [...broken, 'done-without-finish']) {
    it(`${fault}: an error event`, async () => {
      const result = await call('native', { fault, afterEvents: 12 });
      assertBroken(result, 'stream_interrupted');
      // Too short to have been anything else than one chunk.
      assert.equal(result.end.native, fault !== 'wrong-content-length');
    });
  }
});

describe('the timers work behind the pipe', { concurrency: 4 }, () => {
  it('idle', async () => {
    const result = await call('hasty', { fault: 'stall' });
    assertBroken(result, 'upstream_timeout', 'idle');
    assert.equal(result.end.native, true);
    assert.ok(result.ms >= 500 && result.ms < 500 + 250 + MARGIN_MS, `${result.ms} ms`);
  });

  it('progress', async () => {
    const result = await call('hasty', { fault: 'keepalives-mid-stream', everyMs: 40 });
    assert.deepEqual([result.end.outcome, result.end.param, result.end.native], ['upstream_timeout', 'progress', true]);
    assert.match(result.text, /"param":"progress"/);
    assert.ok(result.ms >= 900 && result.ms < 900 + 250 + MARGIN_MS, `${result.ms} ms`);
    await first.until(() => result.seen[0].closedByClientAt);
  });

  it('deadline', async () => {
    const result = await call('bounded', { tokens: LONG });
    assert.deepEqual([result.end.outcome, result.end.native], ['deadline_exceeded', true]);
    assert.match(result.text, /\n\ndata: \{"error":.*"code":"deadline_exceeded"\}\}\n\n$/);
    assert.ok(result.ms >= 1500 && result.ms < 1500 + MARGIN_MS, `${result.ms} ms`);
    await first.until(() => result.seen[0].closedByClientAt);
  });
});

describe('a client that is behind gets all of it, and then what is said behind it', () => {
  for (const [fault, ending] of Object.entries({
    ok: /data: \[DONE\]\n\n$/, 'end-without-done': /data: \[DONE\]\n\n$/, cut: /"code":"stream_interrupted"\}\}\n\n$/,
  })) {
    it(fault, async () => {
      count += 1;
      const id = `native-${count}`;
      const tokens = 30_000;
      const body = { model: 'native', stream: true, messages: [], sim: { fault, tokens, tokenMs: 0, afterEvents: tokens } };
      const socket = net.connect(gateway.port, '127.0.0.1').pause();
      socket.write(requestBytes({ body, headers: { 'x-request-id': id, connection: 'close' } }));
      // More than the sockets between them hold; the client has taken nothing of it.
      await first.until(() => requestsOf(first, id)[0]?.bytesSent > 5_000_000);
      const chunks = [];
      for await (const chunk of socket) {
        chunks.push(chunk);
        if (chunk.subarray(-5).equals(Buffer.from('0\r\n\r\n'))) break;
      }
      const text = bodyOf(Buffer.concat(chunks));
      const sent = requestsOf(first, id)[0].sent.toString();
      assert.equal((await gateway.line({ request_id: id, event: 'call_ended' })).native, true);
      assert.ok(text.startsWith(sent) && sent.length > 6_000_000, `${text.length} of ${sent.length} bytes`);
      assert.match(text, ending);
    });
  }

  /** The body of a chunked response. */
  function bodyOf(response) {
    let at = response.indexOf('\r\n\r\n') + 4;
    const parts = [];
    for (;;) {
      const line = response.indexOf('\r\n', at);
      const length = parseInt(response.subarray(at, line).toString(), 16);
      if (!(length > 0)) return Buffer.concat(parts).toString();
      parts.push(response.subarray(line + 2, line + 2 + length));
      at = line + 2 + length + 2;
    }
  }
});

describe('before the first content nothing has gone native', { concurrency: 4 }, () => {
  for (const sim of [{ fault: 'reset' }, { fault: 'cut', afterEvents: 1 }, { fault: 'error-before-content' }]) {
    it(`${sim.fault}: the second endpoint answers`, async () => {
      const { text, end, seenBySecond } = await call('failover', sim);
      assert.deepEqual([end.outcome, end.endpoint, text], ['ok', 'second', seenBySecond[0].sent.toString()]);
    });
  }
});

describe('the endpoint works for nobody', () => {
  /** Leaves once content has come; resolves to how long the endpoint went on. */
  async function leave(sim) {
    count += 1;
    const id = `native-${count}`;
    const controller = new AbortController();
    const response = await gateway.fetch('/v1/chat/completions', {
      body: { model: 'hasty', stream: true, messages: [], sim }, headers: { 'x-request-id': id }, signal: controller.signal,
    });
    let text = '';
    for await (const bytes of response.body) {
      text += Buffer.from(bytes).toString();
      if (text.split('"content"').length > 4) break;
    }
    controller.abort();
    const left = Date.now();
    const [record] = requestsOf(first, id);
    await first.until(() => record.closedByClientAt);
    return { ms: record.closedByClientAt - left, line: await gateway.line({ request_id: id, event: 'call_ended' }) };
  }

  for (const tokenMs of [1, 25, 200]) {
    it(`when its client leaves, a token every ${tokenMs} ms`, async () => {
      const { ms, line } = await leave({ tokens: LONG, tokenMs });
      assert.ok(ms <= 1000, `released after ${ms} ms`);
      assert.deepEqual([line.outcome, line.native], ['client_gone', true]);
    });
  }

  it('when its client leaves in silence, for longer than a silence may last', async () => {
    const { ms, line } = await leave({ fault: 'stall', afterEvents: 6 });
    assert.ok(ms <= 500 + 250 + MARGIN_MS, `released after ${ms} ms`);
    assert.match(line.outcome, /^(client_gone|upstream_timeout)$/);
  });

  it('when its client takes nothing and then leaves', async () => {
    const id = 'native-slow-reader';
    const body = { model: 'native', stream: true, messages: [], sim: { tokens: 100_000, tokenMs: 0 } };
    const socket = net.connect(gateway.port, '127.0.0.1').pause();
    socket.write(requestBytes({ body, headers: { 'x-request-id': id } }));
    await first.until(() => requestsOf(first, id)[0]?.bytesSent > 300_000);
    socket.destroy();
    const [record] = requestsOf(first, id);
    const left = Date.now();
    await first.until(() => record.closedByClientAt);
    assert.ok(record.closedByClientAt - left <= 1000);
    assert.equal((await gateway.line({ request_id: id, event: 'call_ended' })).outcome, 'client_gone');
  });

  it('when an SDK’s user breaks off its loop', async () => {
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'any', timeout: 20_000 });
    const id = 'native-broken-off';
    const body = { model: 'native', messages: [], stream: true, sim: { tokens: LONG, tokenMs: 20 } };
    for await (const chunk of await client.chat.completions.create(body, { headers: { 'x-request-id': id } })) {
      if (chunk.choices[0].delta.content) break;
    }
    const [record] = requestsOf(first, id);
    const left = Date.now();
    await first.until(() => record.closedByClientAt);
    assert.ok(record.closedByClientAt - left <= 1000);
  });
});
