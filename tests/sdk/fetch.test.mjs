// `ai.fetch` under somebody else's SDK: what goes through the core, what goes by, and how each fails.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import OpenAI from 'openai';
import { chat, data, Fairlead, failureOf, never, script, streamed, tick, whole } from './face.mjs';

const BASE = 'https://gateway.example.com/v1';
const CHAT = `${BASE}/chat/completions`;
const A = { name: 'a', provider: 'vllm', baseURL: 'https://a.example.com/v1' };
const BODY = JSON.stringify({ model: 'm', messages: [] });
const text = (bytes) => new TextDecoder().decode(bytes);

/** A client whose own requests go to `answer`. */
function make(options, answer = () => new Response('passed')) {
  const requests = [];
  const ai = new Fairlead({
    baseURL: BASE, ...options,
    fetch: async (input, init) => {
      const request = new Request(input, init);
      requests.push({ url: request.url, method: request.method, headers: Object.fromEntries(request.headers), text: await request.text(), signal: init.signal });
      return answer(requests.length, init);
    },
  });
  return { ai, requests };
}

describe('a request for one of the core’s routes', () => {
  const inputs = {
    'a text': (url, init) => [url, init],
    'a URL': (url, init) => [new URL(url), init],
    'a Request': (url, init) => [new Request(url, init)],
    'a Request with an init over it': (url, init) => [new Request(url, { ...init, body: 'x' }), init],
  };
  for (const [name, args] of Object.entries(inputs)) {
    it(`goes through the core, as ${name}`, async () => {
      const world = script(() => whole(200, { id: 'x' }, { 'x-request-id': 'r' }));
      const { ai, requests } = make();
      const { fetch } = ai;
      const response = await fetch(...args(CHAT, { method: 'POST', body: BODY, headers: { 'content-type': 'application/json', 'x-own': 'o' } }));
      assert.deepEqual([response.status, response.headers.get('x-request-id'), await response.json()], [200, 'r', { id: 'x' }]);
      const [{ path, bytes, fields, own }] = world.calls;
      assert.deepEqual([path, text(bytes), fields, own], ['/v1/chat/completions', BODY, { 'content-type': 'application/json' }, { 'x-own': 'o' }]);
      assert.equal(requests.length, 0);
    });
  }

  it('has a body of any kind', async () => {
    const world = script(() => whole(200, {}));
    const { ai } = make();
    const form = new FormData();
    form.set('model', 'm');
    const bodies = [BODY, new TextEncoder().encode(BODY), new Blob([BODY]), new Response(BODY).body, new URLSearchParams('a=b'), form];
    for (const body of bodies) await ai.fetch(CHAT, { method: 'POST', body, duplex: 'half' });
    const seen = world.calls.map(({ bytes }) => text(bytes));
    assert.deepEqual(seen.slice(0, 5), [BODY, BODY, BODY, BODY, 'a=b']);
    assert.match(seen[5], /name="model"/);
    const boundary = world.calls[5].fields['content-type'].split('boundary=')[1];
    assert.ok(seen[5].includes(boundary));
  });

  it('has the body of a Request where Requests do not show it, and none twice', async () => {
    const world = script(() => whole(200, {}));
    const { ai } = make();
    const request = new Request(CHAT, { method: 'POST', body: BODY });
    Object.defineProperty(request, 'body', { value: undefined }); // as in Firefox
    await ai.fetch(request);
    assert.equal(text(world.calls[0].bytes), BODY);
    await assert.rejects(ai.fetch(request), TypeError);
  });

  it('streams', async () => {
    script(() => streamed(chat({ content: 'a' })));
    const response = await make().ai.fetch(CHAT, { method: 'POST', body: BODY });
    assert.equal(response.headers.get('content-type'), 'text/event-stream');
    assert.match(await response.text(), /\[DONE\]/);
  });

  it('carries no field of another SDK but its patience, and none that speaks of another body', async () => {
    const world = script(() => whole(200, {}, { 'content-encoding': 'gzip', 'content-length': '3' }));
    const response = await make().ai.fetch(CHAT, {
      method: 'POST', body: BODY,
      headers: { 'x-stainless-lang': 'js', 'x-stainless-timeout': '5', 'user-agent': 'OpenAI', 'content-length': '7', host: 'x', cookie: 'c', accept: 'a/b' },
    });
    assert.deepEqual([world.calls[0].fields['x-stainless-timeout'], world.calls[0].fields.accept, world.calls[0].own], ['5', 'a/b', {}]);
    assert.deepEqual([response.headers.get('content-encoding'), response.headers.get('content-length')], [null, null]);
  });

  it('keeps its key where it belongs', async () => {
    const world = script(() => whole(200, {}));
    const ask = (ai) => ai.fetch(CHAT, { method: 'POST', body: BODY, headers: { Authorization: 'Bearer theirs' } });
    await ask(make().ai);
    await ask(make({ apiKey: 'ours' }).ai);
    await ask(new Fairlead({ endpoints: [A] }));
    assert.deepEqual(world.calls.map(({ own }) => own.authorization), ['Bearer theirs', undefined, undefined]);
    const fields = { 'api-key': 'azure', 'x-api-key': 'anthropic', 'x-own': 'o' };
    await new Fairlead({ endpoints: [A] }).fetch(CHAT, { method: 'POST', body: BODY, headers: fields });
    assert.deepEqual(world.calls.at(-1).own, { 'x-own': 'o' });
  });

  it('carries what every request of the client does', async () => {
    const world = script(() => whole(200, {}));
    const { ai } = make({ defaultHeaders: { authorization: 'Bearer ours', 'x-team': 'a', 'x-own': 'b' } });
    await ai.fetch(CHAT, { method: 'POST', body: BODY, headers: { authorization: 'Bearer theirs', 'x-own': 'o' } });
    assert.deepEqual(world.calls[0].own, { authorization: 'Bearer ours', 'x-team': 'a', 'x-own': 'o' });
  });

  it('is known by its place below baseURL, or by its path in front of endpoints', async () => {
    const world = script(() => whole(200, {}));
    const { ai, requests } = make();
    const post = (client, url) => client.fetch(url, { method: 'POST', body: '{}' });
    for (const url of ['https://gateway.example.com/tokenize', `${BASE}/messages`, `${CHAT}?api-version=1`]) await post(ai, url);
    assert.deepEqual(world.calls.map(({ path }) => path), ['/tokenize', '/v1/messages', '/v1/chat/completions']);
    for (const url of ['https://other.example.com/v1/chat/completions', `${BASE}/files`, 'https://gateway.example.com/chat/completions']) await post(ai, url);
    await ai.fetch(CHAT);
    assert.deepEqual([world.calls.length, requests.length], [3, 4]);
    const plain = new Fairlead({ baseURL: 'https://gpu.example.com/api' });
    await post(plain, 'https://gpu.example.com/api/chat/completions');
    await post(new Fairlead({ endpoints: [A] }), 'https://anything.example.com/x/v1/embeddings');
    assert.deepEqual(world.calls.slice(3).map(({ path }) => path), ['/v1/chat/completions', '/v1/embeddings']);
    const direct = make({ baseURL: undefined, endpoints: [A] });
    for (const url of ['https://other.example.com/api/tokenize', 'https://other.example.com/classify']) await post(direct.ai, url);
    assert.deepEqual([world.calls.length, direct.requests.length], [5, 2]);
  });
});

describe('it fails', () => {
  it('as a gateway does, by a status', async () => {
    script(() => whole(503, { error: { message: 'm', code: 'circuit_open' } }, { 'x-should-retry': 'false' }));
    const response = await make().ai.fetch(CHAT, { method: 'POST', body: BODY });
    assert.deepEqual([response.status, response.headers.get('x-should-retry'), (await response.json()).error.code], [503, 'false', 'circuit_open']);
  });

  it('by a status where the core itself failed', async () => {
    script(() => Promise.reject(new Error('trap')));
    const response = await make().ai.fetch(CHAT, { method: 'POST', body: BODY });
    assert.deepEqual([response.status, response.headers.get('x-should-retry'), (await response.json()).error.code], [500, 'false', 'internal']);
  });

  it('as fetch does when the caller leaves', async () => {
    script(() => never());
    const { ai } = make();
    const reason = new Error('mine');
    for (const [signal, expected] of [[AbortSignal.abort(reason), reason], [AbortSignal.abort(), undefined]]) {
      const error = await failureOf(ai.fetch(CHAT, { method: 'POST', body: BODY, signal }));
      if (expected) assert.equal(error, expected);
      else assert.deepEqual([error instanceof DOMException, error.name], [true, 'AbortError']);
    }
    const controller = new AbortController();
    for (const input of [[CHAT, { method: 'POST', body: BODY, signal: controller.signal }], [new Request(CHAT, { method: 'POST', body: BODY, signal: controller.signal })]]) {
      const call = failureOf(ai.fetch(...input));
      await tick();
      if (!controller.signal.aborted) controller.abort(reason);
      assert.equal(await call, reason);
    }
  });

  it('and lets go of the body that it was reading', async () => {
    const world = script(() => whole(200, {}));
    const reason = new Error('mine');
    const inits = { 'a body': (init) => [CHAT, init], 'a Request': (init) => [new Request(CHAT, init)] };
    for (const [name, args] of Object.entries(inits)) {
      const stuck = new AbortController();
      let cancelled;
      const body = new ReadableStream({ pull: never, cancel: (why) => (cancelled = why) });
      const call = failureOf(make().ai.fetch(...args({ method: 'POST', body, duplex: 'half', signal: stuck.signal })));
      await tick();
      stuck.abort(reason);
      assert.deepEqual([await call, (await tick(), cancelled)], [reason, reason], name);
    }
    const request = new Request(CHAT, { method: 'POST', body: BODY, signal: new AbortController().signal });
    await make().ai.fetch(request);
    await assert.rejects(make().ai.fetch(request), TypeError);
    assert.deepEqual(world.calls.map(({ bytes }) => text(bytes)), [BODY]);
  });

  it('in the middle of a stream, both ways', async () => {
    const world = script(() => streamed([data({ choices: [] }), never()]));
    const { ai } = make();
    const controller = new AbortController();
    const response = await ai.fetch(CHAT, { method: 'POST', body: BODY, signal: controller.signal });
    const reader = response.body.getReader();
    await reader.read();
    const reading = failureOf(reader.read());
    controller.abort(new Error('mine'));
    assert.equal((await reading).message, 'mine');
    const left = await ai.fetch(CHAT, { method: 'POST', body: BODY });
    await left.body.cancel();
    assert.ok(world.calls.every(({ signal }) => signal.aborted));
    script(() => streamed([data({ choices: [] }), new Error('reset')]));
    assert.equal((await failureOf((await ai.fetch(CHAT, { method: 'POST', body: BODY })).text())).message, 'reset');
  });
});

describe('everything else goes by', () => {
  it('as it is', async () => {
    script(() => whole(200, {}));
    const { ai, requests } = make({}, () => new Response('yes', { status: 201, statusText: 'Made', headers: { 'x-a': 'b', 'content-length': '3' } }));
    const response = await ai.fetch(`${BASE}/files`, { method: 'PUT', body: 'b', headers: { Authorization: 'Bearer theirs', 'x-stainless-lang': 'js' } });
    assert.deepEqual([response.status, response.statusText, response.headers.get('x-a'), await response.text()], [201, 'Made', 'b', 'yes']);
    const [{ method, text: sent, headers }] = requests;
    assert.deepEqual([method, sent, headers.authorization, headers['x-stainless-lang']], ['PUT', 'b', 'Bearer theirs', 'js']);
  });

  it('with its Request', async () => {
    script(() => whole(200, {}));
    const { ai, requests } = make();
    await ai.fetch(new Request(`${BASE}/models`, { headers: { 'x-a': 'b' } }));
    assert.deepEqual([requests[0].method, requests[0].headers['x-a']], ['GET', 'b']);
  });

  it('without a body where there is none', async () => {
    script(() => whole(200, {}));
    const response = await make({}, () => new Response(null, { status: 204 })).ai.fetch(`${BASE}/files/1`, { method: 'DELETE' });
    assert.deepEqual([response.status, response.body], [204, null]);
  });

  it('for no longer than the client’s time, header fields and body', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    script(() => whole(200, {}));
    const { ai, requests } = make({ timeout: 5000 }, (count) => (count === 1 ? never() : new Response(new ReadableStream({ start: (c) => c.enqueue(new Uint8Array(1)) }))));
    const silent = failureOf(ai.fetch(`${BASE}/models`));
    await tick();
    t.mock.timers.tick(5000);
    assert.deepEqual([(await silent).name, requests[0].signal.aborted], ['TimeoutError', true]);
    const half = await ai.fetch(`${BASE}/models`);
    const reading = failureOf(half.text());
    await tick();
    t.mock.timers.tick(5000);
    assert.equal((await reading).name, 'TimeoutError');
    const past = await ai.fetch(`${BASE}/models`).then((response) => response.body.cancel());
    assert.equal(past, undefined);
  });

  it('and fails by the same reason as a call where the client is closed', async () => {
    const { ai } = make();
    ai.close();
    for (const args of [[`${BASE}/models`], [CHAT, { method: 'POST', body: BODY }]]) {
      const error = await failureOf(ai.fetch(...args));
      assert.ok(error instanceof DOMException);
      assert.deepEqual([error.name, error.message], ['AbortError', 'This client was closed.']);
    }
  });

  it('and fails as fetch does', async () => {
    script(() => whole(200, {}));
    const { ai } = make({}, () => Promise.reject(new TypeError('fetch failed')));
    assert.equal((await failureOf(ai.fetch(`${BASE}/models`))).message, 'fetch failed');
    const reason = new Error('mine');
    assert.equal(await failureOf(ai.fetch(`${BASE}/models`, { signal: AbortSignal.abort(reason) })), reason);
  });
});

describe('the openai SDK over it', () => {
  const openai = () => new OpenAI({ baseURL: BASE, apiKey: 'k', fetch: make().ai.fetch, maxRetries: 2 });

  it('gets answers and streams', async () => {
    script(({ bytes }) => (JSON.parse(text(bytes)).stream ? streamed(chat({ content: 'a' }, { content: 'b' })) : whole(200, { id: 'x', choices: [] })));
    assert.equal((await openai().chat.completions.create({ model: 'm', messages: [] })).id, 'x');
    let content = '';
    for await (const chunk of await openai().chat.completions.create({ model: 'm', messages: [], stream: true })) content += chunk.choices[0].delta.content ?? '';
    assert.equal(content, 'ab');
  });

  it('does not retry what was retried', async () => {
    const world = script(() => whole(503, { error: { message: 'm', type: 'overloaded_error', code: 'circuit_open' } }, { 'x-should-retry': 'false', 'x-request-id': 'r' }));
    const error = await failureOf(openai().chat.completions.create({ model: 'm', messages: [] }));
    assert.deepEqual([error.status, error.code, error.requestID, world.calls.length], [503, 'circuit_open', 'r', 1]);
  });

  it('hears of an error in mid-stream', async () => {
    script(() => streamed([...chat({ content: 'a' }).slice(0, 1), data({ error: { message: 'm', code: 'stream_interrupted' } })]));
    const error = await failureOf((async () => {
      for await (const _ of await openai().chat.completions.create({ model: 'm', messages: [], stream: true }));
    })());
    assert.equal(error.code, 'stream_interrupted');
  });
});
