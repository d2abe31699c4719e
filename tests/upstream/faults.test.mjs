// Each fault does on the wire what its line in the table says, and the three ways of choosing one.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { FAULTS } from './faults.mjs';
import { eventsIn, exchange, requestBytes } from './raw-client.mjs';
import { startVllm } from './vllm.mjs';

const CHAT = { model: 'taught', messages: [{ role: 'user', content: 'What is a fairlead?' }] };
const STREAM = { ...CHAT, stream: true };
// What lasts for ever lasts this long here; a hanging server then closes, and the client has seen all there was.
const BRIEF = 30;

let server;
let normal;
let plain;
before(async () => {
  server = await startVllm({ maxMs: BRIEF });
  normal = eventsIn((await send(STREAM)).payload);
  plain = (await send(CHAT)).payload;
});
after(() => server.close());
beforeEach(() => server.reset());

const send = (body, more) => exchange(server, { body, headers: { 'x-request-id': 'same' }, ...more });
const streamed = (fault, params) => send({ ...STREAM, sim: { fault, ...params } });
const whole = (fault, params) => send({ ...CHAT, sim: { fault, ...params } });
const events = ({ payload }) => eventsIn(payload);
const jsonOf = ({ payload }) => JSON.parse(payload.toString());
const first = (count) => normal.slice(0, count);
const finish = () => normal.findIndex((event) => event.includes('"finish_reason":"'));

function assertPlainEnd(response) {
  assert.equal(response.end, 'fin');
  assert.equal(response.whole, true);
}

function assertBroken(response, end = 'fin') {
  assert.equal(response.end, end);
  assert.equal(response.whole, false);
}

/** What a hanging fault sent before it fell silent. */
function assertStalled(response, expected) {
  assertBroken(response);
  assert.deepEqual(events(response), expected);
  assert.ok(server.requests.at(-1).stalled);
}

function assertStatus(response, code, type) {
  assertPlainEnd(response);
  assert.equal(response.status, code);
  if (type) assert.equal(jsonOf(response).error.type, type);
}

/** For each fault, what shows that it does what it says. */
const PROOFS = {
  ok: async () => {
    assertPlainEnd(await streamed('ok'));
    assertPlainEnd(await whole('ok'));
  },
  reset: async () => {
    const response = await streamed('reset');
    assertBroken(response, 'reset');
    assert.equal(response.raw.length, 0);
  },
  close: async () => {
    const response = await streamed('close');
    assertBroken(response);
    assert.equal(response.raw.length, 0);
  },
  hang: async () => {
    const response = await streamed('hang');
    assertStalled(response, []);
    assert.equal(response.raw.length, 0);
  },
  'slow-headers': async () => {
    const response = await streamed('slow-headers', { delayMs: 40 });
    assertPlainEnd(response);
    assert.ok(response.firstByteMs >= 35);
  },
  'huge-headers': async () => {
    const response = await streamed('huge-headers');
    assertPlainEnd(response);
    assert.ok(response.raw.indexOf('\r\n\r\n') > 256 * 1024);
  },
  'hang-after-headers': async () => {
    assertStalled(await streamed('hang-after-headers'), []);
    assert.equal((await whole('hang-after-headers')).headers['content-length'], String(plain.length));
  },
  'slow-first-token': async () => {
    const silent = await streamed('slow-first-token', { ms: 40 });
    assertPlainEnd(silent);
    assert.deepEqual(events(silent), normal);
    assert.ok(silent.ms - silent.firstByteMs >= 35);
  },
  stall: async () => {
    assertStalled(await streamed('stall'), first(3));
    assertStalled(await streamed('stall', { afterEvents: 5 }), first(5));
    const half = await whole('stall');
    assertBroken(half);
    assert.deepEqual(half.payload, plain.subarray(0, plain.length >> 1));
  },
  'stall-after-finish': async () => assertStalled(await streamed('stall-after-finish'), first(finish() + 1)),
  keepalives: async () => {
    const response = await streamed('keepalives', { everyMs: 10 });
    assertBroken(response);
    assert.deepEqual(events(response), [': keep-alive', ': keep-alive', ': keep-alive']);
  },
  'keepalives-mid-stream': async () => {
    const response = await streamed('keepalives-mid-stream', { everyMs: 10 });
    assert.deepEqual(events(response).slice(0, 5), [...first(4), ': keep-alive']);
  },
  'empty-deltas': async () => {
    const response = await streamed('empty-deltas', { everyMs: 10 });
    assertBroken(response);
    const [role, ...empty] = events(response);
    assert.equal(role, normal[0]);
    assert.equal(empty.length, 3);
    for (const event of empty) assert.deepEqual(JSON.parse(event.slice(6)).choices[0].delta, {});
  },
  cut: async () => {
    const response = await streamed('cut');
    assertBroken(response);
    assert.deepEqual(events(response).slice(0, 3), first(3));
    const last = events(response).at(-1);
    assert.ok(last.length < normal[3].length && normal[3].startsWith(last));
    const atByte = await streamed('cut', { afterBytes: 300 });
    assertBroken(atByte);
    assert.equal(atByte.payload.toString(), `${normal.join('\n\n')}\n\n`.slice(0, 300));
    const body = await whole('cut');
    assertBroken(body);
    assert.equal(body.headers['transfer-encoding'], 'chunked');
    assert.deepEqual(body.payload, plain.subarray(0, plain.length >> 1));
  },
  'cut-reset': async () => {
    assertBroken(await streamed('cut-reset'), 'reset');
    assertBroken(await whole('cut-reset'), 'reset');
  },
  'end-without-finish': async () => {
    const response = await streamed('end-without-finish');
    assertPlainEnd(response);
    assert.deepEqual(events(response), first(3));
  },
  'end-without-done': async () => {
    const response = await streamed('end-without-done');
    assertPlainEnd(response);
    assert.deepEqual(events(response), first(finish() + 1));
  },
  'done-without-finish': async () => {
    const response = await streamed('done-without-finish');
    assertPlainEnd(response);
    assert.deepEqual(events(response), [...first(finish()), 'data: [DONE]']);
  },
  'short-body': async () => {
    const response = await whole('short-body');
    assertBroken(response);
    assert.deepEqual(response.payload, plain);
    assert.equal(response.headers['content-length'], String(plain.length + 100));
  },
  'wrong-content-length': async () => {
    const response = await whole('wrong-content-length');
    assertBroken(response);
    assert.deepEqual(response.payload, plain);
    assert.equal(response.headers['content-length'], String(plain.length - 20));
  },
  abort: async () => {
    const stream = await streamed('abort');
    assertPlainEnd(stream);
    assert.match(events(stream).at(-2), /"delta":\{\}.*"finish_reason":"abort"/);
    assert.ok(events(stream).length < normal.length);
    const body = await whole('abort');
    assertStatus(body, 200);
    assert.equal(jsonOf(body).choices[0].finish_reason, 'abort');
    assert.ok(body.payload.length < plain.length);
  },
  'error-before-content': async () => {
    const bare = await streamed('error-before-content');
    assertPlainEnd(bare);
    assert.match(events(bare)[0], /^data: {"error": /);
    assert.equal(events(bare)[1], 'data: [DONE]');
    const [role, error] = events(await streamed('error-before-content', { afterEvents: 1 }));
    assert.equal(role, normal[0]);
    assert.match(error, /^data: {"error": /);
  },
  'error-mid-stream': async () => {
    const [error, done] = events(await streamed('error-mid-stream')).slice(4);
    assert.match(error, /EngineCore encountered an issue/);
    assert.equal(done, 'data: [DONE]');
  },
  malformed: async () => {
    const response = await streamed('malformed');
    assertPlainEnd(response);
    assert.equal(events(response).length, normal.length);
    assert.throws(() => JSON.parse(events(response)[3].slice(6)), SyntaxError);
    assert.deepEqual(events(response).toSpliced(3, 1), normal.toSpliced(3, 1));
    const body = await whole('malformed');
    assertPlainEnd(body);
    assert.throws(() => jsonOf(body), SyntaxError);
  },
  html: async () => {
    const response = await streamed('html');
    assertStatus(response, 200);
    assert.match(response.headers['content-type'], /^text\/html/);
  },
  'html-502': async () => {
    const response = await streamed('html-502');
    assertStatus(response, 502);
    assert.match(response.payload.toString(), /<h1>502 Bad Gateway<\/h1>/);
  },
  'json-for-stream': async () => {
    const response = await streamed('json-for-stream');
    assertStatus(response, 200);
    assert.deepEqual(response.payload, plain);
  },
  'empty-200': async () => {
    const response = await streamed('empty-200');
    assertStatus(response, 200);
    assert.equal(response.payload.length, 0);
  },
  'huge-event': async () => {
    const response = await streamed('huge-event');
    assertPlainEnd(response);
    assert.ok(Math.max(...events(response).map(({ length }) => length)) > 1024 * 1024);
    assert.equal(events(response).length, normal.length + 1);
  },
  'endless-event': async () => {
    const response = await streamed('endless-event', { maxBytes: 256 * 1024 });
    assertBroken(response);
    assert.ok(response.payload.length > 256 * 1024);
    assert.equal(events(response).length, 2);
  },
  crlf: async () => sameStream(await streamed('crlf'), (text) => text.replaceAll('\n', '\r\n')),
  cr: async () => sameStream(await streamed('cr'), (text) => text.replaceAll('\n', '\r')),
  bom: async () => sameStream(await streamed('bom'), (text) => `\ufeff${text}`),
  bytewise: async () => {
    const response = await streamed('bytewise', { tokens: 3 });
    assertPlainEnd(response);
    assert.ok(response.reads > response.raw.length / 2);
  },
  segments: async () => {
    const response = await streamed('segments');
    sameStream(response, (text) => text);
    assert.ok(response.reads > response.raw.length / 7 / 2);
  },
  'one-segment': async () => {
    const response = await streamed('one-segment');
    sameStream(response, (text) => text);
    assert.ok(response.reads <= 2);
  },
  gzip: async () => {
    const response = await streamed('gzip');
    assertPlainEnd(response);
    assert.equal(response.headers['content-encoding'], 'gzip');
    assert.deepEqual(eventsIn(gunzipSync(response.payload)), normal);
    assert.deepEqual(gunzipSync((await whole('gzip')).payload), plain);
    const measured = await whole('gzip', { withLength: true });
    assertPlainEnd(measured);
    assert.equal(measured.headers['content-length'], String(measured.payload.length));
    assert.deepEqual(gunzipSync(measured.payload), plain);
  },
  status: async () => {
    assertStatus(await streamed('status', { status: 418 }), 418, "I'm a Teapot");
    assert.equal(jsonOf(await streamed('status', { message: 'Why not.' })).error.message, 'Why not.');
    assert.equal((await streamed('status', { body: 'upstream error' })).payload.toString(), 'upstream error');
  },
  'http-401': async () => {
    const response = await streamed('http-401');
    assertStatus(response, 401);
    assert.deepEqual(jsonOf(response), { error: 'Unauthorized' });
    assert.equal(response.headers.vary, undefined);
  },
  'http-403': async () => assertStatus(await streamed('http-403'), 403, 'Forbidden'),
  'http-404': async () => assertStatus(await streamed('http-404'), 404, 'NotFoundError'),
  'http-408': async () => assertStatus(await streamed('http-408'), 408, 'Request Timeout'),
  'http-409': async () => assertStatus(await streamed('http-409'), 409, 'Conflict'),
  'http-422': async () => assertStatus(await streamed('http-422'), 422, 'Unprocessable Entity'),
  'http-429': async () => assertStatus(await streamed('http-429'), 429, 'Too Many Requests'),
  'http-500': async () => assertStatus(await streamed('http-500'), 500, 'InternalServerError'),
  'http-502': async () => assertStatus(await streamed('http-502'), 502, 'Bad Gateway'),
  'http-503': async () => assertStatus(await streamed('http-503'), 503, 'Service Unavailable'),
  'http-504': async () => assertStatus(await streamed('http-504'), 504, 'Gateway Timeout'),
  'http-524': async () => {
    const response = await streamed('http-524');
    assertStatus(response, 524);
    assert.equal(response.payload.toString(), 'error code: 524');
  },
  'engine-dead': async () => assertStatus(await streamed('engine-dead'), 500, 'InternalServerError'),
  scaling: async () => {
    const response = await streamed('scaling');
    assertStatus(response, 503);
    assert.equal(typeof jsonOf(response).error, 'string');
  },
  'context-length': async () => assertStatus(await streamed('context-length'), 400, 'BadRequestError'),
  'content-filter': async () => {
    const response = await streamed('content-filter');
    assertStatus(response, 400, 'BadRequestError');
    assert.equal(jsonOf(response).error.code, 'content_filter');
  },
  'should-retry-false': async () =>
    assert.equal((await streamed('should-retry-false')).headers['x-should-retry'], 'false'),
  'should-retry-true': async () =>
    assert.equal((await streamed('should-retry-true')).headers['x-should-retry'], 'true'),
  redirect: async () => {
    const response = await streamed('redirect', { location: 'http://127.0.0.1:9/v1' });
    assertStatus(response, 307);
    assert.equal(response.headers.location, 'http://127.0.0.1:9/v1');
  },
};

function sameStream(response, change) {
  assertPlainEnd(response);
  assert.equal(response.payload.toString(), change(`${normal.join('\n\n')}\n\n`));
}

describe('on the wire', () => {
  for (const [name, { about }] of Object.entries(FAULTS)) it(`${name}: ${about}`, () => PROOFS[name]());
});

describe('Retry-After', () => {
  const forms = { seconds: 2, float: '1.5', garbage: 'soon', negative: '-5', huge: '1e99' };
  for (const [form, retryAfter] of Object.entries(forms)) {
    for (const fault of ['http-429', 'http-503']) {
      it(`${form} on ${fault}`, async () => {
        assert.equal((await streamed(fault, { retryAfter })).headers['retry-after'], String(retryAfter));
      });
    }
  }

  it('none by default', async () => assert.equal((await streamed('http-429')).headers['retry-after'], undefined));

  it('as an HTTP-date beside a true Date', async () => {
    const { headers } = await streamed('http-503', { retryAfter: { dateInMs: 3000 } });
    assert.equal(Date.parse(headers['retry-after']) - Date.parse(headers.date), 3000);
    assert.ok(Math.abs(Date.parse(headers.date) - Date.now()) < 5000);
  });

  it('in milliseconds', async () => {
    assert.equal((await streamed('http-429', { retryAfterMs: 250 })).headers['retry-after-ms'], '250');
  });
});

describe('every dialect fails in its own way', () => {
  const dialects = {
    '/v1/completions': [{ model: 'taught', prompt: 'x', max_tokens: 50 }, /^data: {"error": /],
    '/v1/responses': [{ model: 'taught', input: 'x' }, /^event: error\ndata: {"type":"error",/],
    '/v1/messages': [{ ...CHAT, max_tokens: 50 }, /^event: error\ndata: {"type":"error","error":{/],
  };
  for (const [path, [body, error]] of Object.entries(dialects)) {
    it(path, async () => {
      const ask = (sim) => send({ ...body, stream: true, sim }, { path });
      assert.match(events(await ask('error-mid-stream'))[4], error);
      const all = events(await ask('ok'));
      const broken = events(await ask('end-without-finish'));
      assert.deepEqual(broken, all.slice(0, 3));
      const empty = events(await ask({ fault: 'empty-deltas', everyMs: 10 }));
      assert.equal(empty[1], empty[2]);
    });
  }
});

describe('a fault is chosen', () => {
  const outcome = async (body, id) => {
    await send(body, { headers: id ? { 'x-request-id': id } : {} });
    return server.requests.at(-1).fault;
  };

  it('by script, one entry for each POST, then by the standing fault', async () => {
    server.fault = 'http-500';
    server.script('http-503', { fault: 'status', status: 429 });
    await send(undefined, { method: 'GET', path: '/v1/models' });
    for (const fault of ['http-503', 'status', 'http-500']) assert.equal(await outcome(CHAT), fault);
  });

  it('by the body, one entry for each attempt of the same call', async () => {
    const body = { ...CHAT, sim: ['http-503', { fault: 'http-500' }] };
    assert.equal(await outcome(body, 'call-1'), 'http-503');
    assert.equal(await outcome(body, 'other-1'), 'http-503');
    assert.equal(await outcome(body, 'call-2'), 'http-500');
    assert.equal(await outcome(body, 'call-3'), 'ok');
  });

  it('by the model\'s name', async () => {
    assert.equal(await outcome({ ...CHAT, model: 'sim-http-502' }), 'http-502');
    assert.equal((await send({ ...CHAT, model: 'sim-nothing' })).status, 404);
  });

  it('script before body before model', async () => {
    const body = { ...CHAT, model: 'sim-http-502', sim: { fault: 'http-503' } };
    assert.equal(await outcome(body), 'http-503');
    server.script('ok');
    assert.equal(await outcome(body), 'ok');
    assert.equal(await outcome({ ...body, sim: { tokens: 3 } }), 'http-502');
  });

  it('on a faultless server by script only', async (t) => {
    const faultless = await startVllm({ faultless: true });
    t.after(() => faultless.close());
    const asked = { ...STREAM, model: 'sim-http-502', sim: 'http-503' };
    assert.equal((await exchange(faultless, { body: asked })).status, 200);
    faultless.script('http-500');
    assert.equal((await exchange(faultless, { body: asked })).status, 500);
  });

  it('and a name that stands for nothing is refused', async () => {
    assert.throws(() => server.script('typo'), /no fault named typo/);
    assert.throws(() => { server.fault = 'typo'; }, /no fault named typo/);
    assert.equal((await send({ ...CHAT, sim: 'typo' })).status, 400);
  });
});

describe('a fault', () => {
  it('leaves a refused request to its refusal', async () => {
    const response = await send({ ...STREAM, tools: [], sim: { fault: 'cut' } });
    assertStatus(response, 400, 'Bad Request');
  });

  it('combines with the options of the answer and of the wire', async () => {
    const text = 'Ünïcödé 🛟 text of some words';
    const response = await streamed('error-mid-stream', { framing: 'crlf', text, segment: 3 });
    assertPlainEnd(response);
    assert.match(response.payload.toString(), /🛟.*\r\n\r\ndata: {"error".*\r\n\r\ndata: \[DONE\]\r\n\r\n$/s);
  });

  it('brings the headers that are asked for', async () => {
    for (const ask of [streamed, whole]) {
      const { headers } = await ask('ok', { headers: { 'set-cookie': 'a=1', server: 'gunicorn' } });
      assert.deepEqual([headers['set-cookie'], headers.server], ['a=1', 'gunicorn']);
    }
  });

  it('ends when the client leaves, also where it lasts for ever', async (t) => {
    const patient = await startVllm();
    t.after(() => patient.close());
    for (const fault of ['hang', 'hang-after-headers', 'stall', 'keepalives', 'empty-deltas', 'endless-event']) {
      const socket = net.connect(patient.port, '127.0.0.1');
      const seen = patient.requests.length;
      socket.write(requestBytes({ body: { ...STREAM, sim: { fault } } }));
      const record = await patient.until(() => patient.requests[seen]);
      await patient.until(() => record.stalled || record.eventsSent > 0);
      socket.destroy();
      await patient.until(() => record.closedByClientAt, 1000);
      assert.equal(record.finishedAt, null, fault);
    }
  });
});

it('README lists every fault', () => {
  const readme = readFileSync(new URL('README.md', import.meta.url), 'utf8');
  for (const [name, { about, params, on }] of Object.entries(FAULTS)) {
    const shown = Object.entries(params).filter(([key]) => key !== 'message');
    const defaults = shown.map(([key, value]) => `\`${key}: ${value}\``).join(', ') || '–';
    const row = `| \`${name}\` | ${about} | ${defaults} | ${on} |`;
    assert.ok(readme.includes(row), row);
  }
});
