// A request that cannot be carried out is refused at once, with the README's code and without touching an endpoint; a
// good one carries its id and its trace through.

import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { exchange, parseResponse } from '../upstream/raw-client.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const CHAT = '/v1/chat/completions';
const BODY = { model: 'qwen', messages: [] };
const LIMIT = 10_000;
const JSON_TYPE = { 'content-type': 'application/json' };

let vllm;
let gateway;
before(async () => {
  vllm = await startVllm();
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ vllm }),
    models: [{ name: 'qwen', targets: [{ endpoint: 'vllm', model: 'served' }] }],
    policies: { default: { max_request_bytes: LIMIT, backoff: { base_ms: 1 } } },
  });
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});
beforeEach(() => vllm.reset());

/** A POST with a body as it stands or as JSON. */
async function post(body, { path = CHAT, headers = JSON_TYPE } = {}) {
  const response = await gateway.fetch(path, { body, headers });
  const json = await response.json();
  return { response, status: response.status, json, error: json.error };
}

function assertRefused({ status, response, error }, [expectedStatus, code, param = null]) {
  assert.deepEqual([status, error.code, error.param], [expectedStatus, code, param]);
  assert.equal(vllm.requests.length, 0);
  assert.equal(response.headers.get('content-type'), 'application/json');
  assert.equal(response.headers.get('x-fairlead-attempts'), null);
  assert.match(response.headers.get('x-request-id'), /^[0-9a-f]{32}$/);
}

describe('a body that cannot be used is refused', () => {
  const INVALID = [400, 'invalid_request'];
  const invalid = (param) => [...INVALID, param];
  const bodies = {
    'empty': ['', INVALID],
    'broken off': ['{"model":"qwen","messages":[', INVALID],
    'no JSON': ['model=qwen', INVALID],
    'more behind it': ['{"model":"qwen","messages":[]}{}', INVALID],
    'a list': ['[{"model":"qwen"}]', INVALID],
    'a text': ['"qwen"', INVALID],
    'null': ['null', INVALID],
    'bytes that are no UTF-8': [Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), INVALID],
    'model twice': ['{"model":"qwen","model":"other","messages":[]}', INVALID],
    'model missing': ['{"messages":[]}', invalid('model')],
    'model null': ['{"model":null,"messages":[]}', invalid('model')],
    'model empty': ['{"model":"","messages":[]}', invalid('model')],
    'model a number': ['{"model":7,"messages":[]}', invalid('model')],
    'stream neither true nor false': ['{"model":"qwen","messages":[],"stream":"yes"}', invalid('stream')],
    'n = 0': ['{"model":"qwen","messages":[],"n":0}', invalid('n')],
    'n without bound': ['{"model":"qwen","messages":[],"n":1e9}', invalid('n')],
    'an unknown model': ['{"model":"gpt-4o","messages":[]}', [404, 'model_not_found', 'model']],
    'the name * itself': ['{"model":"*","messages":[]}', [404, 'model_not_found', 'model']],
  };
  for (const [name, [body, expected]] of Object.entries(bodies)) {
    it(name, async () => assertRefused(await post(body), expected));
  }

  it('and the message repeats nothing of it', async () => {
    const { error } = await post('{"model":"qwen","messages":"my secret prompt"} my secret prompt');
    assert.doesNotMatch(error.message, /secret/);
    assert.match(error.message, /line 1, column \d+/);
  });

  for (const coding of ['gzip', 'br', 'zstd', 'deflate', 'x-unknown']) {
    it(`compressed (${coding})`, async () => {
      const result = await post(Buffer.from('x'), { headers: { ...JSON_TYPE, 'content-encoding': coding } });
      assertRefused(result, invalid('content-encoding'));
    });
  }

  it('a form where JSON is due, and JSON where a form is due', async () => {
    const form = new FormData();
    form.set('model', 'qwen');
    assertRefused(await post(form, { headers: {} }), INVALID);
    assertRefused(await post(BODY, { path: '/v1/audio/transcriptions' }), invalid('content-type'));
  });

  it('a form without a model, or with two', async () => {
    for (const models of [[], ['qwen', 'qwen']]) {
      const form = new FormData();
      form.set('file', new Blob(['RIFF']), 'a.wav');
      for (const model of models) form.append('model', model);
      assertRefused(await post(form, { path: '/v1/audio/transcriptions', headers: {} }), invalid('model'));
    }
  });

  for (const value of ['soon', '0', '-1', '1.5', '']) {
    it(`a deadline of "${value}"`, async () => {
      const result = await post(BODY, { headers: { ...JSON_TYPE, 'x-fairlead-deadline-ms': value } });
      assertRefused(result, invalid('x-fairlead-deadline-ms'));
    });
  }
});

describe('a body over the limit is refused', () => {
  const TOO_LARGE = [413, 'request_too_large'];
  const ofSize = (size) => {
    const empty = JSON.stringify({ ...BODY, padding: '' }).length;
    return JSON.stringify({ ...BODY, padding: 'x'.repeat(size - empty) });
  };

  it('and one of exactly the limit is not', async () => {
    assert.equal((await post(ofSize(LIMIT))).status, 200);
    vllm.reset();
    const result = await post(ofSize(LIMIT + 1));
    assertRefused(result, TOO_LARGE);
    assert.match(result.error.message, /10000 bytes.*max_request_bytes/);
  });

  it('and so is one whose length is not announced', async () => {
    const send = (size) => gateway.fetch(CHAT, {
      body: ReadableStream.from([Buffer.from(ofSize(size))]), duplex: 'half', headers: JSON_TYPE,
    });
    assert.equal((await send(LIMIT)).status, 200);
    vllm.reset();
    const response = await send(LIMIT + 1);
    assertRefused({ response, status: response.status, ...(await response.json()) }, TOO_LARGE);
  });

  // workerd closes a connection whose request it did not read, and a client in the middle of sending may see only that.
  for (const framing of ['content-length: 30000000', 'transfer-encoding: chunked']) {
    it(`before all of it has come (${framing})`, async () => {
      const { status, payload } = await new Promise((resolve, reject) => {
        const received = [];
        const socket = net.connect(gateway.port, '127.0.0.1');
        socket.setTimeout(5000, () => socket.destroy(new Error('no answer within 5 s')));
        socket.on('data', (bytes) => received.push(bytes));
        socket.on('error', reject);
        socket.on('close', () => resolve(parseResponse(Buffer.concat(received))));
        const chunk = framing.startsWith('transfer') ? `4e20\r\n${'x'.repeat(20_000)}\r\n` : '{"model":';
        const head = ['host: test', 'content-type: application/json', framing].join('\r\n');
        socket.write(`POST ${CHAT} HTTP/1.1\r\n${head}\r\n\r\n${chunk}`);
      });
      assert.deepEqual([status, JSON.parse(payload).error.code], TOO_LARGE);
      assert.equal(vllm.requests.length, 0);
    });
  }
});

describe('a method that a route does not take is refused, and `allow` says which it takes', () => {
  const routes = {
    [CHAT]: 'POST', '/v1/embeddings': 'POST', '/tokenize': 'POST', '/v1/models': 'GET', '/v1/models/qwen': 'GET',
    '/health': 'GET',
  };
  for (const [path, allowed] of Object.entries(routes)) {
    it(`${path} takes ${allowed}`, async () => {
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'].filter((each) => each !== allowed)) {
        const { status, headers, payload } = await exchange(gateway, { method, path, body: BODY });
        assert.deepEqual([status, headers.allow], [405, allowed], method);
        assert.equal(JSON.parse(payload).error.code, 'method_not_allowed');
      }
      assert.equal(vllm.requests.length, 0);
    });
  }

  it('HEAD is taken where GET is', async () => {
    for (const path of ['/health', '/v1/models']) {
      const response = await gateway.fetch(path, { method: 'HEAD' });
      assert.equal(response.status, 200);
      assert.equal(await response.text(), '');
    }
  });
});

describe('the Messages API has its errors in a shape of its own', () => {
  const path = '/v1/messages';
  const cases = {
    'no JSON': [{ path, body: '{' }, 400, 'invalid_request_error'],
    'no model': [{ path, body: {} }, 400, 'invalid_request_error'],
    'an unknown model': [{ path, body: { model: 'x' } }, 404, 'not_found_error'],
    'too large': [{ path, body: { ...BODY, padding: 'x'.repeat(LIMIT) } }, 413, 'request_too_large'],
    'another route of it': [{ path: `${path}/count_tokens`, body: '{' }, 400, 'invalid_request_error'],
    'a failed endpoint': [{ path, body: { ...BODY, max_tokens: 9, sim: 'reset' } }, 502, 'api_error'],
    'an overloaded endpoint': [{ path, body: { ...BODY, max_tokens: 9, sim: 'http-503' } }, 503, 'overloaded_error'],
    'a deadline': [
      { path, body: { ...BODY, max_tokens: 9, sim: 'hang' }, headers: { 'x-fairlead-deadline-ms': '300' } }, 504,
      'timeout_error',
    ],
  };
  for (const [name, [{ body, ...more }, status, type]] of Object.entries(cases)) {
    it(name, async () => {
      const result = await post(body, { ...more, headers: { ...JSON_TYPE, ...more.headers } });
      assert.equal(result.status, status);
      assert.equal(result.json.type, 'error');
      assert.equal(result.error.type, type);
      assert.deepEqual(Object.keys(result.error).sort(), ['code', 'message', 'param', 'type']);
    });
  }

  it('also for a wrong method', async () => {
    const response = await gateway.fetch(path);
    assert.deepEqual([response.status, (await response.json()).type], [405, 'error']);
  });
});

describe('an id goes all the way', () => {
  const withId = (id, body = BODY) => post(body, { headers: { ...JSON_TYPE, 'x-request-id': id } });
  const seen = () => vllm.requests.map(({ headers }) => headers['x-request-id']);

  it('from the client to the endpoint, to the log and back', async () => {
    for (const id of ['a', 'req_0123.4-5', 'x'.repeat(128)]) {
      vllm.reset();
      const { response } = await withId(id);
      assert.equal(response.headers.get('x-request-id'), id);
      assert.deepEqual(seen(), [`${id}-1`]);
      assert.equal((await gateway.line({ request_id: id })).event, 'call_ended');
    }
  });

  it('with the number of the attempt behind it', async () => {
    await withId('tried', { ...BODY, sim: ['reset', 'http-500'] });
    assert.deepEqual(seen(), ['tried-1', 'tried-2', 'tried-3']);
  });

  for (const unfit of ['a b', 'a"b', 'a{b}', 'a/b', 'é', 'x'.repeat(129), '']) {
    it(`and ${JSON.stringify(unfit.slice(0, 9))}, which is unfit for a log, gets another`, async () => {
      const { response } = await withId(unfit);
      const id = response.headers.get('x-request-id');
      assert.match(id, /^[0-9a-f]{32}$/);
      assert.deepEqual(seen(), [`${id}-1`]);
    });
  }

  it('and without one each request gets its own', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, async () =>
      (await gateway.fetch('/health')).headers.get('x-request-id')));
    assert.equal(new Set(ids).size, 20);
  });

  it('and it stands on errors, too', async () => {
    const { response } = await withId('refused', '{');
    assert.equal(response.headers.get('x-request-id'), 'refused');
  });
});

describe('a trace goes on at the endpoint', () => {
  const trace = '0af7651916cd43dd8448eb211c80319c';
  const parent = 'b7ad6b7169203331';
  const send = (id, fields) => post(BODY, { headers: { ...JSON_TYPE, ...fields, 'x-request-id': id } });

  it('under a span of our own, and the log says where it stands', async () => {
    await send('traced', { traceparent: `00-${trace}-${parent}-01`, tracestate: 'a=1,b=2' });
    const [{ headers }] = vllm.requests;
    const [, span] = new RegExp(`^00-${trace}-([0-9a-f]{16})-01$`).exec(headers.traceparent);
    assert.notEqual(span, parent);
    assert.equal(headers.tracestate, 'a=1,b=2');
    const line = await gateway.line({ request_id: 'traced', event: 'call_ended' });
    assert.deepEqual([line.trace_id, line.span_id, line.parent_span_id], [trace, span, parent]);
  });

  it('and every request is a span of its own', async () => {
    vllm.reset();
    for (const id of ['span-1', 'span-2']) await send(id, { traceparent: `00-${trace}-${parent}-00` });
    assert.equal(new Set(vllm.requests.map(({ headers }) => headers.traceparent)).size, 2);
  });

  it('but none is begun here, and what is no trace is not logged as one', async () => {
    vllm.reset();
    await send('untraced', { traceparent: 'x"\\' });
    await send('traceless', {});
    assert.deepEqual(vllm.requests.map(({ headers }) => headers.traceparent), ['x"\\', undefined]);
    for (const id of ['untraced', 'traceless']) {
      const line = await gateway.line({ request_id: id, event: 'call_ended' });
      assert.deepEqual([line.trace_id, line.span_id, line.parent_span_id], [undefined, undefined, undefined]);
    }
  });
});
