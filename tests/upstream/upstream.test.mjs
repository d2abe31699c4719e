// The simulated vLLM against the captures of the real one, and its own book-keeping. Its faults: faults.test.mjs.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { eventsIn, exchange, parseResponse, requestBytes } from './raw-client.mjs';
import { startVllm } from './vllm.mjs';

const MESSAGES = [{ role: 'user', content: 'What is a fairlead?' }];
const CHAT = { model: 'taught', messages: MESSAGES };
const STREAM = { ...CHAT, stream: true };
const COMPLETION = { model: 'taught', prompt: 'The quick' };
const TOOL = {
  type: 'function',
  function: { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } },
};
const TEXT = 'A fairlead guides a line and keeps it from chafing. Whatever the sea does, the line runs true.';

let server;
before(async () => { server = await startVllm(); });
after(() => server.close());
beforeEach(() => server.reset());

const ask = (body, more) => exchange(server, { body, ...more });
const jsonOf = ({ payload }) => JSON.parse(payload.toString());
const dataOf = (event) => event.split('\n').find((line) => line.startsWith('data: ')).slice('data: '.length);
const chunksOf = ({ payload }) =>
  eventsIn(payload).map(dataOf).filter((data) => data !== '[DONE]').map((data) => JSON.parse(data));
const deltasOf = (response, index = 0) => chunksOf(response)
  .flatMap(({ choices }) => choices)
  .filter((choice) => choice.index === index)
  .map(({ delta }) => delta);
const textOf = (response, index) => deltasOf(response, index).map(({ content }) => content ?? '').join('');

// ---- the captures ----

/** A capture's body is stored without its chunked framing. */
function capture(name) {
  const raw = readFileSync(new URL(`../fixtures/vllm-0.32/${name}.http`, import.meta.url));
  const body = raw.indexOf('\r\n\r\n') + 4;
  return { ...parseResponse(raw.subarray(0, body)), payload: raw.subarray(body) };
}

/** The keys of a JSON value in their order; what stands in them does not count. */
function shape(value) {
  if (Array.isArray(value)) return [...new Set(value.map((each) => JSON.stringify(shape(each))))];
  if (typeof value !== 'object' || value === null) return '.';
  return Object.entries(value).map(([key, each]) => [key, shape(each)]);
}

/** The different shapes of a stream's events, in the order of their first appearance. */
function eventShapes({ payload }) {
  return [...new Set(eventsIn(payload).filter((event) => !bringsNothing(event)).map((event) => {
    const data = dataOf(event);
    const field = event.slice(0, event.indexOf(' '));
    return JSON.stringify([field, data === '[DONE]' ? data : shape(JSON.parse(data))]);
  }))];
}

// A character of several tokens shows in a capture as chunks with ids and no text; here every token has a text.
const bringsNothing = (event) => event.includes('"delta":{}') && event.includes('"finish_reason":null');

const VARYING = new Set(['date', 'x-request-id', 'content-length', 'connection']);

function assertSameHead(actual, expected) {
  assert.equal(actual.statusLine, expected.statusLine);
  const names = ({ headers }) => Object.keys(headers).filter((name) => name !== 'connection');
  assert.deepEqual(names(actual), names(expected));
  const fixed = ({ headers }) => Object.entries(headers).filter(([name]) => !VARYING.has(name));
  assert.deepEqual(fixed(actual), fixed(expected));
}

describe('streams have the shapes of the captures', () => {
  const usage = { stream_options: { include_usage: true } };
  const cases = {
    chat_stream: STREAM,
    chat_stream_n2: { ...STREAM, n: 2 },
    chat_stream_long: { ...STREAM, ...usage, sim: { tokens: 300 } },
    chat_stream_usage: { ...STREAM, stream_options: { ...usage.stream_options, continuous_usage_stats: true } },
    chat_stream_unicode: { ...STREAM, sim: { text: '流式传输在边缘节点上必须完整:每个字符都要到达。🛟' } },
    chat_stream_tool: { ...STREAM, tools: [TOOL], tool_choice: 'required', max_tokens: 6 },
    chat_stream_token_ids: { ...STREAM, return_token_ids: true, max_tokens: 5 },
    chat_continue: {
      ...STREAM, messages: [...MESSAGES, { role: 'assistant', content: 'A fairlead' }], continue_final_message: true,
      add_generation_prompt: false, max_tokens: 5,
    },
    chat_stream_engine_killed: { ...STREAM, sim: { fault: 'error-mid-stream' } },
    completions_stream: { ...COMPLETION, stream: true, max_tokens: 6 },
    responses_stream: { model: 'taught', input: 'Hello', stream: true },
    messages_stream: { ...STREAM, max_tokens: 100 },
  };
  const paths = {
    completions_stream: '/v1/completions', responses_stream: '/v1/responses', messages_stream: '/v1/messages',
  };

  for (const [name, body] of Object.entries(cases)) {
    it(name, async () => {
      const expected = capture(name);
      const actual = await ask(body, { path: paths[name] ?? '/v1/chat/completions' });
      assertSameHead(actual, expected);
      assert.deepEqual(eventShapes(actual), eventShapes(expected));
      assert.ok(actual.whole);
    });
  }

  it('ends in the capture\'s very words when the engine was killed', async () => {
    const actual = await ask(cases.chat_stream_engine_killed);
    const end = ({ payload }) => eventsIn(payload).slice(-2);
    assert.deepEqual(end(actual), end(capture('chat_stream_engine_killed')));
  });

  it('takes its id from X-Request-Id', async () => {
    const actual = await ask(STREAM, { headers: { 'X-Request-Id': 'req-123' } });
    assert.equal(actual.headers['x-request-id'], 'req-123');
    assert.equal(chunksOf(actual)[0].id, chunksOf(capture('chat_stream_usage'))[0].id);
  });
});

describe('plain answers have the shapes of the captures', () => {
  const cases = {
    chat: ['/v1/chat/completions', CHAT],
    tokenize: ['/tokenize', { model: 'taught', prompt: 'a b c' }],
    models: ['/v1/models'],
    health: ['/health'],
    load: ['/load'],
    version: ['/version'],
  };
  for (const [name, [path, body]] of Object.entries(cases)) {
    it(name, async () => {
      const expected = capture(name);
      const actual = await ask(body, { path, method: body ? 'POST' : 'GET' });
      assertSameHead(actual, expected);
      if (expected.payload.length === 0) assert.equal(actual.payload.length, 0);
      else assert.deepEqual(shape(jsonOf(actual)), shape(jsonOf(expected)));
    });
  }
});

describe('errors have the bytes of the captures', () => {
  const long = { ...CHAT, messages: [{ role: 'user', content: ' x'.repeat(1025) }] };
  const cases = {
    error_400_context: [{ maxModelLen: 1024 }, { body: long }],
    error_400_json: [{}, { body: '{"model":' }],
    error_400_validation: [{}, { body: { ...CHAT, messages: 'x' } }],
    error_401: [{ apiKey: 'k' }, { body: CHAT }],
    error_404_model: [{ models: ['tiny'] }, { body: { ...CHAT, model: 'nope' } }],
    error_404_route: [{}, { body: CHAT, path: '/v1/nowhere' }],
    error_405: [{}, { method: 'GET' }],
    error_503_queue_full: [{}, { body: { ...CHAT, sim: { fault: 'http-503' } } }],
  };
  for (const [name, [options, request]] of Object.entries(cases)) {
    it(name, async (t) => {
      const other = await startVllm(options);
      t.after(() => other.close());
      const expected = capture(name);
      const actual = await exchange(other, request);
      assertSameHead(actual, expected);
      assert.equal(actual.payload.toString(), expected.payload.toString());
    });
  }

  const refused = {
    'tools: []': { ...CHAT, tools: [] },
    'stream_options without stream': { ...CHAT, stream_options: { include_usage: true } },
    'missing messages': { model: 'taught' },
    'n > 1 at temperature 0': { ...CHAT, n: 2, temperature: 0 },
  };
  for (const [what, body] of Object.entries(refused)) {
    it(`refuses ${what}`, async () => {
      const actual = await ask(body);
      assert.equal(actual.status, 400);
      assert.deepEqual(shape(jsonOf(actual)), shape(jsonOf(capture('error_400_validation'))));
    });
  }

  it('gives the messages route its own envelope', async (t) => {
    const other = await startVllm({ models: ['tiny'] });
    t.after(() => other.close());
    const actual = await exchange(other, { path: '/v1/messages', body: { ...CHAT, max_tokens: 5 } });
    assert.deepEqual(shape(jsonOf(actual)), [['type', '.'], ['error', [['type', '.'], ['message', '.']]]]);
  });

  it('lets every page ask, and keeps from it only that its key is wrong', async (t) => {
    const other = await startVllm({ apiKey: 'k' });
    t.after(() => other.close());
    const origin = 'https://app.example.com';
    const asking = {
      origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization',
    };
    const { status, headers } = await exchange(other, { method: 'OPTIONS', headers: asking });
    assert.equal(status, 200);
    assert.equal(headers['access-control-allow-origin'], '*');
    assert.equal(headers['access-control-allow-headers'], 'authorization');
    const allows = async (key) => {
      const answer = await exchange(other, { body: CHAT, headers: { origin, authorization: `Bearer ${key}` } });
      return [answer.status, answer.headers['access-control-allow-origin']];
    };
    assert.deepEqual(await allows('k'), [200, '*']);
    assert.deepEqual(await allows('wrong'), [401, undefined]);
  });

  it('asks for a key under /v1 only', async (t) => {
    const other = await startVllm({ apiKey: 'k' });
    t.after(() => other.close());
    const status = async (request) => (await exchange(other, request)).status;
    assert.equal(await status({ body: CHAT, headers: { authorization: 'Bearer k' } }), 200);
    assert.equal(await status({ body: { prompt: 'x' }, path: '/tokenize' }), 200);
    assert.equal(await status({ path: '/health', method: 'GET' }), 200);
  });
});

// ---- what an answer says ----

describe('a chat', () => {
  it('says the same text streamed and whole', async () => {
    assert.equal(textOf(await ask(STREAM)), TEXT);
    assert.equal(jsonOf(await ask(CHAT)).choices[0].message.content, TEXT);
  });

  it('ends at max_completion_tokens before max_tokens', async () => {
    const streamed = await ask({ ...STREAM, max_tokens: 9, max_completion_tokens: 2 });
    assert.equal(textOf(streamed), 'A fairlead');
    assert.equal(chunksOf(streamed).at(-1).choices[0].finish_reason, 'length');
    const { choices, usage } = jsonOf(await ask({ ...CHAT, max_tokens: 2 }));
    assert.equal(choices[0].finish_reason, 'length');
    assert.equal(usage.completion_tokens, 2);
  });

  it('marks the choices of n, so that mixing them up shows', async () => {
    const streamed = await ask({ ...STREAM, n: 3 });
    assert.deepEqual([0, 1, 2].map((index) => textOf(streamed, index)), [TEXT, `(1) ${TEXT}`, `(2) ${TEXT}`]);
    const { choices } = jsonOf(await ask({ ...CHAT, n: 2 }));
    assert.deepEqual(choices.map(({ message }) => message.content), [TEXT, `(1) ${TEXT}`]);
  });

  it('streams a tool call in fragments that join to JSON', async () => {
    const streamed = await ask({ ...STREAM, tools: [TOOL, TOOL], tool_choice: 'required' });
    const fragments = deltasOf(streamed).flatMap(({ tool_calls: calls }) => calls ?? []);
    for (const index of [0, 1]) {
      const mine = fragments.filter((fragment) => fragment.index === index);
      assert.equal(mine[0].function.name, 'get_weather');
      assert.deepEqual(JSON.parse(mine.slice(1).map((each) => each.function.arguments).join('')), { city: 'Zürich' });
    }
    assert.equal(chunksOf(streamed).at(-1).choices[0].finish_reason, 'tool_calls');
  });

  it('ends a named tool call with stop, as vLLM does', async () => {
    const named = { type: 'function', function: { name: 'get_weather' } };
    const [choice] = jsonOf(await ask({ ...CHAT, tools: [TOOL], tool_choice: named })).choices;
    assert.equal(choice.finish_reason, 'stop');
    assert.equal(choice.message.tool_calls[0].function.arguments, '{"city":"Zürich"}');
  });

  it('thinks first when asked to, under either name', async () => {
    const thinking = { chat_template_kwargs: { enable_thinking: true } };
    const deltas = deltasOf(await ask({ ...STREAM, ...thinking }));
    assert.ok(deltas[1].reasoning);
    assert.equal(deltas.findLastIndex(({ reasoning }) => reasoning) + 1, deltas.findIndex(({ content }) => content));
    const older = jsonOf(await ask({ ...CHAT, ...thinking, sim: { reasoning_content: true } })).choices[0].message;
    assert.ok(older.reasoning_content);
    assert.equal(older.content, TEXT);
  });

  it('has logprobs for every token', async () => {
    const streamed = await ask({ ...STREAM, logprobs: true, top_logprobs: 2 });
    const entries = chunksOf(streamed).flatMap(({ choices }) => choices[0].logprobs?.content ?? []);
    assert.equal(entries.map(({ token }) => token).join(''), TEXT);
    assert.equal(entries[0].top_logprobs.length, 2);
  });

  it('goes on behind a partial message', async () => {
    const messages = [...MESSAGES, { role: 'assistant', content: 'A fairlead guides' }];
    const streamed = await ask({ ...STREAM, messages, continue_final_message: true, add_generation_prompt: false });
    assert.equal(`A fairlead guides${textOf(streamed)}`, TEXT);
  });

  it('ends before a text that it is told to stop at, and says which', async () => {
    const stop = ['never there', ' line'];
    const [{ message, finish_reason, stop_reason }] = jsonOf(await ask({ ...CHAT, stop })).choices;
    assert.deepEqual([message.content, finish_reason, stop_reason], ['A fairlead guides a', 'stop', ' line']);
    assert.equal(textOf(await ask({ ...STREAM, stop })), message.content);
    const { choices } = jsonOf(await ask({ ...COMPLETION, stop: 'guides' }, { path: '/v1/completions' }));
    assert.deepEqual([choices[0].text, choices[0].stop_reason], ['A fairlead ', 'guides']);
    const shown = { stop: 'guides', include_stop_str_in_output: true };
    assert.equal(jsonOf(await ask({ ...CHAT, ...shown })).choices[0].message.content, 'A fairlead guides');
  });

  it('holds back as many characters as such a text may have begun in, until its end', async () => {
    const deltas = async (body, path) => {
      const { payload } = await ask({ ...STREAM, ...body }, { path });
      const chunks = eventsIn(payload).slice(0, -1).map((event) => JSON.parse(event.slice('data: '.length)));
      return chunks.map(({ choices: [{ text, delta }] }) => text ?? delta.content);
    };
    const sim = { text: 'Aé 🦀b guides.' };
    const whole = ['', 'Aé', ' 🦀', 'b', ' guides', '.', undefined];
    for (const stop of [undefined, [], ['x'], '🪢']) assert.deepEqual(await deltas({ sim, stop }), whole);
    assert.deepEqual(await deltas({ sim, stop: ['<END>', 'x'], include_stop_str_in_output: true }), whole);
    assert.deepEqual(await deltas({ sim, stop: ['x', '🪢 x'] }), ['', '', 'Aé', ' ', '🦀b guid', 'e', 's.']);
    assert.deepEqual(await deltas({ sim, stop: '<END>' }), ['', '', '', 'A', 'é 🦀b gu', 'i', 'des.']);
    // What ends at a limit, or at the text itself, has all of it.
    assert.deepEqual(await deltas({ sim, stop: '<END>', max_tokens: 4 }), ['', '', '', 'A', 'é 🦀b guides']);
    assert.deepEqual(await deltas({ sim, stop: 'guides' }), ['', '', '', '', 'A', 'é 🦀b ']);
    const completion = await deltas({ ...COMPLETION, sim, stop: '<END>' }, '/v1/completions');
    assert.deepEqual(completion, ['', '', 'A', 'é 🦀b gu', 'i', 'des.']);
  });

  it('answers in the JSON that it is asked for', async () => {
    const schema = { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } } };
    for (const [response_format, value] of [
      [{ type: 'json_object' }, { a: 'line' }],
      [{ type: 'json_schema', json_schema: { name: 'stay', schema } }, { city: 'Zürich', days: 3 }],
    ]) {
      const [{ message }] = jsonOf(await ask({ ...CHAT, response_format })).choices;
      assert.deepEqual(JSON.parse(message.content), value);
    }
  });

  it('gives the same request the same bytes', async () => {
    const request = { headers: { 'x-request-id': 'same' } };
    assert.deepEqual((await ask(STREAM, request)).raw, (await ask(STREAM, request)).raw);
  });
});

describe('the other routes', () => {
  it('completions number the choices of every prompt', async () => {
    const { choices } = jsonOf(await ask({ ...COMPLETION, prompt: ['a', 'b'], n: 2 }, { path: '/v1/completions' }));
    assert.deepEqual(choices.map(({ index }) => index), [0, 1, 2, 3]);
    assert.equal(choices[0].finish_reason, 'length');
    const ids = jsonOf(await ask({ ...COMPLETION, prompt: [1, 2, 3] }, { path: '/v1/completions' }));
    assert.equal(ids.choices.length, 1);
  });

  it('responses and messages answer whole', async () => {
    const response = jsonOf(await ask({ model: 'taught', input: 'Hi' }, { path: '/v1/responses' }));
    assert.equal(response.output[0].content[0].text, TEXT);
    const message = jsonOf(await ask({ ...CHAT, max_tokens: 2 }, { path: '/v1/messages' }));
    assert.equal(message.stop_reason, 'max_tokens');
    const counted = jsonOf(await ask(CHAT, { path: '/v1/messages/count_tokens' }));
    assert.ok(counted.input_tokens > 0);
  });

  it('the tasks answer once for every input', async () => {
    const input = ['one', 'two'];
    for (const path of ['/v1/embeddings', '/pooling', '/classify']) {
      assert.equal(jsonOf(await ask({ model: 'taught', input }, { path })).data.length, 2, path);
    }
    const scored = jsonOf(await ask({ model: 'taught', text_1: 'q', text_2: input }, { path: '/v1/score' }));
    assert.equal(scored.data.length, 2);
    const ranking = { model: 'taught', query: 'q', documents: input, top_n: 1 };
    const ranked = jsonOf(await ask(ranking, { path: '/v1/rerank' }));
    assert.equal(ranked.results.length, 1);
    const base64 = jsonOf(await ask({ model: 'taught', input, encoding_format: 'base64' }, { path: '/v1/embeddings' }));
    assert.equal(Buffer.from(base64.data[0].embedding, 'base64').length, 8 * 4);
  });

  it('detokenize undoes tokenize', async () => {
    const { tokens } = jsonOf(await ask({ prompt: TEXT }, { path: '/tokenize' }));
    assert.equal(jsonOf(await ask({ tokens }, { path: '/detokenize' })).prompt, TEXT);
  });

  it('transcribes a multipart upload', async () => {
    const part = (name, value, more = '') =>
      `--b\r\ncontent-disposition: form-data; name="${name}"${more}\r\n\r\n${value}\r\n`;
    const file = part('file', '\0'.repeat(64_000), '; filename="a.wav"');
    const form = (more) => `${part('model', 'taught')}${more}${file}--b--\r\n`;
    const upload = { path: '/v1/audio/transcriptions', headers: { 'content-type': 'multipart/form-data; boundary=b' } };
    const whole = jsonOf(await exchange(server, { ...upload, body: form('') }));
    assert.deepEqual(whole, { text: TEXT, usage: { type: 'duration', seconds: 2 } });
    const streamed = await exchange(server, { ...upload, body: form(part('stream', 'true')) });
    assert.equal(chunksOf(streamed).map(({ choices }) => choices[0].delta.content).join(''), TEXT);
  });

  it('a dead engine shows in /health', async () => {
    server.healthy = false;
    assert.equal((await ask(undefined, { path: '/health', method: 'GET' })).status, 503);
  });
});

// ---- sockets and records ----

describe('the server', () => {
  it('records a request and everything that it sent', async () => {
    const headers = { 'X-Request-Id': 'abc-1', 'X-Mixed-Case': 'Value' };
    const response = await ask(STREAM, { headers, path: '/v1/chat/completions?a=1' });
    const [record] = server.requests;
    assert.equal(record.method, 'POST');
    assert.equal(record.path, '/v1/chat/completions');
    assert.equal(record.target, '/v1/chat/completions?a=1');
    assert.equal(record.headers['x-mixed-case'], 'Value');
    assert.ok(record.rawHeaders.some(([name]) => name === 'X-Mixed-Case'));
    assert.deepEqual(record.json, STREAM);
    assert.deepEqual(record.sent, response.payload);
    assert.equal(record.bytesSent, response.raw.length);
    assert.equal(record.closedByClientAt, null);
    assert.ok(record.finishedAt >= record.at);
  });

  it('notices at once that a client leaves a stream', async () => {
    const socket = net.connect(server.port, '127.0.0.1');
    socket.write(requestBytes({ body: { ...STREAM, sim: { tokenMs: 20, tokens: 1000 } } }));
    const record = await server.until(() => server.requests.find(({ eventsSent }) => eventsSent >= 2));
    socket.destroy();
    await server.until(() => record.closedByClientAt, 1000);
    assert.equal(record.finishedAt, null);
  });

  it('notices at once that a client leaves in silence', async () => {
    const socket = net.connect(server.port, '127.0.0.1');
    socket.write(requestBytes({ body: { ...STREAM, sim: { fault: 'hang' } } }));
    const record = await server.until(() => server.requests.find(({ stalled }) => stalled));
    socket.resetAndDestroy();
    await server.until(() => record.closedByClientAt, 1000);
  });

  it('serves several requests on a connection, then closes it when idle', async (t) => {
    const other = await startVllm({ keepAliveMs: 40 });
    t.after(() => other.close());
    const socket = net.connect(other.port, '127.0.0.1');
    const closed = new Promise((resolve) => socket.once('end', resolve));
    const chunks = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.write(Buffer.concat([requestBytes({ body: CHAT }), requestBytes({ body: STREAM })]));
    const last = await other.until(() => other.requests[1]?.finishedAt);
    await closed;
    assert.ok(Date.now() - last >= 35);
    assert.equal(Buffer.concat(chunks).toString().split('HTTP/1.1 200 OK').length, 3);
  });

  it('closes each connection behind its answer where none shall stay', async (t) => {
    const other = await startVllm({ keepAliveMs: 0 });
    t.after(() => other.close());
    const { headers } = await exchange(other, { body: CHAT, headers: { connection: 'keep-alive' } });
    assert.equal(headers.connection, 'close');
  });

  it('reads chunked bodies and answers Expect', async () => {
    const text = JSON.stringify(CHAT);
    const half = text.length >> 1;
    const chunk = (part) => `${part.length.toString(16)}\r\n${part}\r\n`;
    const response = await new Promise((resolve) => {
      const socket = net.connect(server.port, '127.0.0.1');
      const chunks = [];
      socket.write('POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n'
        + 'connection: close\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n');
      socket.once('data', (interim) => {
        assert.match(interim.toString(), /^HTTP\/1\.1 100 /);
        socket.write(chunk(text.slice(0, half)) + chunk(text.slice(half)) + chunk(''));
        socket.on('data', (each) => chunks.push(each));
      });
      socket.on('close', () => resolve(parseResponse(Buffer.concat(chunks))));
    });
    assert.equal(response.status, 200);
    assert.equal(server.requests[0].body.toString(), text);
  });

  it('refuses what is not HTTP', async () => {
    const answer = await new Promise((resolve) => {
      const socket = net.connect(server.port, '127.0.0.1', () => socket.write('hello\r\n\r\n'));
      socket.on('data', (bytes) => resolve(bytes.toString()));
    });
    assert.match(answer, /^HTTP\/1\.1 400 /);
    assert.equal(server.requests.length, 0);
  });

  it('keeps the time between tokens', async () => {
    const { ms, firstByteMs } = await ask({ ...STREAM, max_tokens: 4, sim: { firstTokenMs: 40, tokenMs: 20 } });
    assert.ok(ms - firstByteMs >= 40 + 3 * 20 - 5, 'a stream has its headers before the first token');
    const whole = await ask({ ...CHAT, max_tokens: 4, sim: { firstTokenMs: 40, tokenMs: 20 } });
    assert.ok(whole.firstByteMs >= 40 + 3 * 20 - 5, 'a plain answer has its headers when it is complete');
  });

  it('closes at once, whatever is under way', async () => {
    const other = await startVllm();
    const hanging = exchange(other, { body: { ...STREAM, sim: { fault: 'hang' } } });
    await other.until(() => other.requests[0]?.stalled);
    await other.close();
    await hanging;
    assert.equal(other.requests[0].closedByClientAt, null);
  });

  it('remembers only so many requests', async (t) => {
    const other = await startVllm({ keepRequests: 2 });
    t.after(() => other.close());
    for (let i = 0; i < 3; i += 1) await exchange(other, { path: '/version', method: 'GET' });
    assert.deepEqual(other.requests.map(({ n }) => n), [2, 3]);
  });
});
