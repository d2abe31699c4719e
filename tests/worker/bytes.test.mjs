// Bytes out are bytes in, in both directions: the gateway changes the model's name and nothing else.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const MESSAGES = [{ role: 'user', content: 'What is a fairlead? 🪢' }];
// A name that has to be escaped where it goes into JSON.
const SERVED = 'org/served "1"';
const BOUNDARY = 'a-boundary';

let vllm;
let gateway;
before(async () => {
  vllm = await startVllm();
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ vllm }),
    models: [
      { name: 'asked', targets: [{ endpoint: 'vllm', model: SERVED }] },
      { name: '*', targets: [{ endpoint: 'vllm' }] },
    ],
  });
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});
beforeEach(() => vllm.reset());

/** Sends a body as it stands; returns the response, its bytes and what the endpoint saw and sent. */
async function send(path, body, headers = { 'content-type': 'application/json' }) {
  const response = await gateway.fetch(path, { body, headers });
  const bytes = Buffer.from(await response.arrayBuffer());
  assert.equal(vllm.requests.length, 1);
  return { response, bytes, record: vllm.requests[0] };
}

const form = (fields) => Buffer.concat([
  ...Object.entries(fields).flatMap(([head, value]) => [
    Buffer.from(`--${BOUNDARY}\r\nContent-Disposition: form-data; ${head}\r\n\r\n`), Buffer.from(value),
    Buffer.from('\r\n'),
  ]),
  Buffer.from(`--${BOUNDARY}--\r\n`),
]);
const FORM = { 'content-type': `multipart/form-data; boundary=${BOUNDARY}` };

describe('a request reaches the endpoint as it was sent but for the name of the model', () => {
  /** Each is a body around a name. Not only what JSON means has to survive, but how it is written. */
  const bodies = {
    'white space everywhere': (name) => ` \r\n\t{ "model"\n:\t${name} , "messages" : [ ]\r\n}\n `,
    'forms of numbers': (name) =>
      `{"messages":[],"a":1.0e0,"seed":12345678901234567890123,"b":0.10,"c":-0,"d":1E+2,"model":${name}}`,
    'escapes': (name) =>
      `{"messages":[{"role":"user","content":"\\u00fc\\/\\ud83e\\udea2\\u0000\\n \\\\"}],"model":${name}}`,
    'characters of many bytes': (name) =>
      `{"messages":[{"role":"user","content":"Zürich 東京 👩‍🚀\u2028"}],"model":${name},"ключ":"значение"}`,
    'the same key deeper down': (name) =>
      `{"x":{"model":"asked","stream":true},"messages":[{"model":"asked"}],"model":${name},"z":[{"model":"asked"}]}`,
    'a text that looks like the key': (name) =>
      `{"messages":[{"role":"user","content":"\\"model\\":\\"asked\\""}],"model":${name}}`,
    'keys that differ in case': (name) => `{"Model":"asked","MODEL":1,"messages":[],"model":${name},"stream ":true}`,
    'null where it may stand': (name) =>
      `{"stream":null,"n":null,"tools":null,"stream_options":null,"messages":[],"model":${name}}`,
    'deep nesting': (name) => `{"x":${'['.repeat(100)}${']'.repeat(100)},"messages":[],"model":${name}}`,
  };
  for (const [name, around] of Object.entries(bodies)) {
    it(name, async () => {
      const { response, record } = await send('/v1/chat/completions', around('"asked"'));
      assert.equal(response.status, 200);
      assert.equal(record.body.toString(), around(JSON.stringify(SERVED)));
    });
  }

  it('a name written with escapes is understood and replaced whole', async () => {
    const { record } = await send('/v1/chat/completions', '{"messages":[],"model":"\\u0061sk\\u0065d"}');
    assert.equal(record.body.toString(), JSON.stringify({ messages: [], model: SERVED }));
  });

  it('a target without a name of its own gets every byte', async () => {
    const body = '{ "model" : "\\u0051wen/x" , "messages":[],"temperature":1.0e0 }';
    const { record } = await send('/v1/chat/completions', body);
    assert.equal(record.body.toString(), body);
  });

  it('a form keeps its file, its parts and their order', async () => {
    const fields = {
      'name="file"; filename="model.wav"\r\nContent-Type: audio/wav':
        Buffer.from([0, 255, 13, 10, 45, 45, ...Buffer.from('name="model"\r\n\r\nasked\r\n'), 13, 10]),
      'name="model"': 'asked',
      'name="language"': 'de',
    };
    const { record } = await send('/v1/audio/transcriptions', form(fields), FORM);
    assert.deepEqual(record.body, form({ ...fields, 'name="model"': SERVED }));
    assert.equal(record.headers['content-type'], FORM['content-type']);
  });

  it('a body of 5 MB', async () => {
    const body = JSON.stringify({ model: 'same', messages: MESSAGES, padding: 'ü🪢'.repeat(900_000) });
    const { response, record } = await send('/v1/chat/completions', body);
    assert.equal(response.status, 200);
    assert.ok(record.body.length > 5_000_000);
    assert.ok(record.body.equals(Buffer.from(body)));
  });

  it('a body that comes in chunks of unknown number', async () => {
    const body = JSON.stringify({ model: 'same', messages: MESSAGES, padding: 'ü'.repeat(200_000) });
    const chunks = Array.from({ length: 4 }, (_, at) => Buffer.from(body.slice(at * 60_000, (at + 1) * 60_000)));
    const response = await gateway.fetch('/v1/chat/completions', {
      body: ReadableStream.from(chunks), duplex: 'half', headers: { 'content-type': 'application/json' },
    });
    assert.equal(response.status, 200);
    assert.equal(vllm.requests[0].body.toString(), body);
  });
});

describe('a stream reaches the client as the endpoint sent it', () => {
  const chat = ['/v1/chat/completions', { messages: MESSAGES }];
  const cases = {
    'chat': chat,
    'chat, n = 3': [chat[0], { ...chat[1], n: 3 }],
    'chat with usage': [chat[0], { ...chat[1], stream_options: { include_usage: true } }],
    'completions': ['/v1/completions', { prompt: ['a', 'b'], n: 2, stream_options: { include_usage: true } }],
    'responses': ['/v1/responses', { input: 'Hi' }],
    'messages': ['/v1/messages', { messages: MESSAGES, max_tokens: 50 }],
    'chat in CRLF': [chat[0], { ...chat[1], sim: { fault: 'crlf' } }],
    'chat in CR': [chat[0], { ...chat[1], sim: { fault: 'cr' } }],
    'responses in CRLF': ['/v1/responses', { input: 'Hi', sim: { fault: 'crlf' } }],
    'chat byte by byte': [chat[0], { ...chat[1], sim: { fault: 'bytewise', text: 'Zürich 東京 👩‍🚀🪢' } }],
    'chat in pieces that no boundary fits': [chat[0], { ...chat[1], sim: { fault: 'segments', segment: 7 } }],
    'chat in one piece': [chat[0], { ...chat[1], sim: { fault: 'one-segment' } }],
    'an event of 1 MB': [chat[0], { ...chat[1], sim: { fault: 'huge-event' } }],
    '3000 events': [chat[0], { ...chat[1], sim: { tokens: 3000 } }],
    'with headers of 256 KiB': [chat[0], { ...chat[1], sim: { fault: 'huge-headers' } }],
  };
  for (const [name, [path, body]] of Object.entries(cases)) {
    it(name, async () => {
      const { response, bytes, record } = await send(path, JSON.stringify({ model: 'same', stream: true, ...body }));
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
      assert.ok(bytes.equals(record.sent), `${bytes.length} bytes of ${record.sent.length}`);
      assert.ok(bytes.length > 1000);
    });
  }

  it('decompressed, where the endpoint compressed it', async () => {
    const { response, bytes } = await send('/v1/chat/completions', JSON.stringify({
      model: 'same', stream: true, messages: MESSAGES, sim: { fault: 'gzip' },
    }));
    assert.equal(response.headers.get('content-encoding'), null);
    assert.ok(bytes.toString().endsWith('data: [DONE]\n\n'));
  });

  it('without the byte order mark that stands in front of it', async () => {
    const { bytes, record } = await send('/v1/chat/completions', JSON.stringify({
      model: 'same', stream: true, messages: MESSAGES, sim: { fault: 'bom' },
    }));
    assert.ok(bytes.equals(record.sent.subarray(Buffer.byteLength('\ufeff'))));
  });
});

describe('an answer that does not stream reaches the client as the endpoint sent it', () => {
  const json = { 'content-type': 'application/json' };
  const cases = {
    '/v1/chat/completions': { messages: MESSAGES },
    '/v1/completions': { prompt: 'a' },
    '/v1/embeddings': { input: ['a', 'ü'] },
    '/v1/responses': { input: 'Hi' },
    '/v1/messages': { messages: MESSAGES, max_tokens: 50 },
    '/v1/messages/count_tokens': { messages: MESSAGES },
    '/v1/score': { text_1: 'a', text_2: ['b', 'c'] },
    '/v1/rerank': { query: 'a', documents: ['b', 'c'] },
    '/pooling': { input: 'a' },
    '/classify': { input: 'a' },
    '/tokenize': { prompt: 'Zürich' },
    '/detokenize': { tokens: [1, 2] },
  };
  for (const [path, body] of Object.entries(cases)) {
    it(path, async () => {
      const { response, bytes, record } = await send(path, JSON.stringify({ model: 'same', ...body }), json);
      assert.equal(response.status, 200);
      assert.equal(record.path, path);
      assert.equal(response.headers.get('content-type'), 'application/json');
      assert.ok(bytes.equals(record.sent));
      assert.ok(bytes.length > 0);
    });
  }

  for (const path of ['/v1/audio/transcriptions', '/v1/audio/translations']) {
    it(`${path}, as JSON and as text`, async () => {
      for (const format of ['json', 'text']) {
        vllm.reset();
        const file = { 'name="file"; filename="a"': 'RIFF' };
        const fields = { 'name="model"': 'same', 'name="response_format"': format, ...file };
        const { response, bytes, record } = await send(path, form(fields), FORM);
        assert.equal(response.status, 200);
        assert.match(response.headers.get('content-type'), format === 'json' ? /^application\/json$/ : /^text\/plain/);
        assert.ok(bytes.equals(record.sent));
      }
    });
  }

  it('12 MB of it', async () => {
    const { response, bytes, record } = await send('/v1/chat/completions', JSON.stringify({
      model: 'same', messages: MESSAGES, sim: { fault: 'huge-event', eventBytes: 12_000_000 },
    }));
    assert.equal(response.status, 200);
    assert.ok(bytes.length > 12_000_000);
    assert.ok(bytes.equals(record.sent));
  });

  for (const withLength of [false, true]) {
    it(`decompressed, where the endpoint compressed it ${withLength ? 'and told its length' : ''}`, async () => {
      const { response, bytes } = await send('/v1/chat/completions', JSON.stringify({
        model: 'same', messages: MESSAGES, sim: { fault: 'gzip', withLength },
      }));
      assert.equal(response.status, 200);
      assert.equal(JSON.parse(bytes).object, 'chat.completion');
    });
  }
});
