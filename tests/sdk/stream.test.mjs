// A stream is whole, or it throws; and every wait for it ends.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import {
  AbortError, chat, data, Fairlead, FairleadError, failureOf, never, script, Stream, streamed, StreamInterruptedError, tick, TimeoutError,
  UpstreamError,
} from './face.mjs';

const captured = (name) => {
  const text = readFileSync(new URL(`../fixtures/vllm-0.32/${name}.http`, import.meta.url), 'latin1');
  return Buffer.from(text.slice(text.indexOf('\r\n\r\n') + 4), 'latin1');
};

/** A stream of these pieces. */
async function open(pieces, { fields, options, ask = (ai, request, options) => ai.chat.completions.create(request, options) } = {}) {
  const answer = streamed(pieces, fields);
  const world = script(() => answer);
  const ai = new Fairlead({ baseURL: 'https://gateway.example.com/v1' });
  const stream = await ask(ai, { model: 'm', messages: [], input: '', prompt: '', stream: true }, options);
  return { stream, world, ai, handoff: answer.handoff, call: world.calls[0] };
}
const responses = (ai, request, options) => ai.responses.create(request, options);
const completions = (ai, request, options) => ai.completions.create(request, options);

async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}
const word = (content) => ({ content });

describe('a stream is read', () => {
  it('piece by piece', async () => {
    const { stream, call } = await open(chat({ role: 'assistant', content: '' }, word('Hel'), word('lo')));
    const chunks = await all(stream);
    assert.deepEqual(chunks.map(({ choices }) => choices[0].delta.content), ['', 'Hel', 'lo', undefined]);
    assert.equal(call.signal.aborted, false);
    assert.equal(await stream.finalText(), 'Hello');
  });

  it('wherever its bytes are cut', async () => {
    const bytes = Buffer.from(`﻿: comment\r\n\r\n${chat(word('綱'), word('🪢'), word('é')).join('').replaceAll('\n', '\r\n')}`);
    for (const size of [1, 2, 3, 7, 64, 10_000]) {
      const pieces = [];
      for (let at = 0; at < bytes.length; at += size) pieces.push(new Uint8Array(bytes.subarray(at, at + size)));
      const { stream } = await open(pieces);
      assert.equal(await stream.finalText(), '綱🪢é');
    }
  });

  it('beyond an event that only a job’s stream would end with', async () => {
    const [one, ...more] = chat(word('a'), word('b'));
    const { stream } = await open([one, 'event: status\ndata: {"load":1}\n\n', ...more]);
    assert.equal(await stream.finalText(), 'ab');
  });

  it('as text, with what it cost', async () => {
    const { stream } = await open([...chat(word('a'), word('b')).slice(0, 3), data({ choices: [], usage: { total_tokens: 9 } }), data('[DONE]')]);
    assert.equal(await stream.finalText(), 'ab');
    assert.deepEqual(stream.usage, { total_tokens: 9 });
    assert.equal(stream.partial.finishReason, 'stop');
  });

  it('once', async () => {
    const { stream } = await open(chat(word('a')));
    await all(stream);
    assert.throws(() => stream[Symbol.asyncIterator](), /read once; use tee/);
    assert.throws(() => stream.tee(), TypeError);
    assert.throws(() => stream.toReadableStream(), TypeError);
  });

  it('but not from two sides at a time', async () => {
    const { stream } = await open([...chat(word('a'))]);
    stream[Symbol.asyncIterator]();
    await assert.rejects(stream.finalText(), TypeError);
  });

  it('in order by whoever asks ahead', async () => {
    const { stream } = await open(chat(word('a'), word('b'), word('c')));
    const iterator = stream[Symbol.asyncIterator]();
    const results = await Promise.all(Array.from({ length: 7 }, () => iterator.next()));
    assert.deepEqual(results.map(({ value }) => value?.choices[0].delta.content), ['a', 'b', 'c', undefined, undefined, undefined, undefined]);
    assert.deepEqual(results.map(({ done }) => done), [false, false, false, false, true, true, true]);
  });

  it('by one at a time, also at its end', async () => {
    let end;
    const { stream, handoff } = await open([...chat(), new Promise((resolve) => (end = resolve))]);
    const iterator = stream[Symbol.asyncIterator]();
    await iterator.next();
    const first = iterator.next();
    await tick();
    const { reads } = handoff;
    const second = iterator.next();
    await tick();
    assert.equal(handoff.reads, reads, 'the core’s body has one reader');
    end();
    assert.deepEqual(await Promise.all([first, second]), [{ done: true, value: undefined }, { done: true, value: undefined }]);
  });

  it('to its end behind the [DONE], so that it counts as whole', async () => {
    const { stream, handoff, call } = await open([...chat(word('a')), ': bye\n\n']);
    await all(stream);
    assert.equal(handoff.reads, 5);
    assert.equal(call.signal.aborted, false);
  });

  it('twice, each at its own speed', async () => {
    const { stream, call } = await open(chat(word('a'), word('b')));
    const [left, right] = stream.tee();
    assert.equal(await left.finalText(), 'ab');
    assert.equal((await all(right)).length, 3);
    assert.equal(call.signal.aborted, false);
  });

  it('twice, and left by one of them', async () => {
    const { stream, call } = await open(chat(word('a'), word('b')));
    const [left, right] = stream.tee();
    for await (const _ of left) break;
    assert.equal((await all(right)).length, 3);
    assert.equal(call.signal.aborted, false);
  });

  it('twice, and left by both', async () => {
    const { stream, call } = await open([...chat(word('a'), word('b')), never()]);
    for (const branch of stream.tee()) for await (const _ of branch) break;
    assert.equal(call.signal.aborted, true);
  });

  it('as lines of JSON, and as a stream again', async () => {
    const { stream } = await open(chat(word('é'), word('🪢')));
    const again = Stream.fromReadableStream(stream.toReadableStream());
    assert.equal(await again.finalText(), 'é🪢');
    const text = await new Response((await open(chat(word('x')))).stream.toReadableStream()).text();
    assert.deepEqual(text.trim().split('\n').map((line) => JSON.parse(line).object), ['chat.completion.chunk', 'chat.completion.chunk']);
  });

  it('as lines that break off', async () => {
    const { stream } = await open([...chat(word('a')).slice(0, 1), new Error('cut')]);
    const error = await failureOf(new Response(stream.toReadableStream()).text());
    assert.equal(error.code, 'stream_interrupted');
    const { stream: left, call } = await open([...chat(word('a')).slice(0, 1), never()]);
    await left.toReadableStream().cancel();
    assert.equal(call.signal.aborted, true);
  });

  it('as vLLM sends it', async () => {
    const names = ['chat_stream', 'chat_stream_long', 'chat_stream_unicode', 'chat_stream_usage', 'chat_stream_n2', 'chat_stream_token_ids'];
    for (const name of names) {
      const { stream } = await open([new Uint8Array(captured(name))]);
      assert.ok((await stream.finalText()).length > 1, name);
    }
    const { stream } = await open([new Uint8Array(captured('completions_stream'))], { ask: completions });
    assert.match(await stream.finalText(), /quick brown/);
    const { stream: response } = await open([new Uint8Array(captured('responses_stream'))], { ask: responses });
    assert.ok((await response.finalText()).length > 0);
    assert.equal(response.partial.finishReason, 'completed');
  });
});

describe('a stream that is not whole throws', () => {
  const partial = { text: 'ab', reasoning: '', refusal: '', toolCalls: [], usage: undefined, finishReason: undefined };
  const begun = () => chat(word('a'), word('b')).slice(0, 2);

  it('where an error comes in its place, with what had come', async () => {
    const error = { message: 'Silent. Raise `idle_ms` in the policy of endpoint `gateway`.', type: 'timeout_error', param: 'idle', code: 'upstream_timeout' };
    const { stream } = await open([...begun(), data({ error })], { fields: { 'x-request-id': 'r-1', 'x-fairlead-attempts': '2', 'x-fairlead-endpoint': 'gateway' } });
    const found = [];
    const failure = await failureOf((async () => {
      for await (const chunk of stream) found.push(chunk);
    })());
    assert.equal(found.length, 2);
    assert.ok(failure instanceof TimeoutError && failure instanceof FairleadError && failure instanceof Error);
    const { name, message, code, status, type, param, requestId, attempts, endpoint, retryable } = failure;
    assert.deepEqual({ name, message, code, status, type, param, requestId, attempts, endpoint, retryable }, {
      name: 'TimeoutError', message: 'Silent. Raise `idleMs` in the policy of endpoint `gateway`.', code: 'upstream_timeout', status: 504, type: 'timeout_error', param: 'idle',
      requestId: 'r-1', attempts: 2, endpoint: 'gateway', retryable: true,
    });
    assert.deepEqual(failure.partial, partial);
    assert.deepEqual(stream.partial, partial);
    assert.equal(await failureOf(stream.finalText()), failure);
  });

  it('where it says no more', async () => {
    const failure = await failureOf(all((await open(begun())).stream));
    assert.ok(failure instanceof StreamInterruptedError);
    assert.deepEqual(failure.partial, partial);
  });

  it('where its body breaks off', async () => {
    const cause = new Error('reset');
    const failure = await failureOf((await open([...begun(), cause])).stream.finalText());
    assert.deepEqual([failure.code, failure.cause], ['stream_interrupted', cause]);
    assert.deepEqual(failure.partial, partial);
  });

  it('and its error tells which call that was', async () => {
    const fields = { 'x-request-id': 'r-1', 'x-fairlead-attempts': '2', 'x-fairlead-endpoint': 'a' };
    for (const rest of [[], [new Error('reset')]]) {
      const { stream } = await open([...chat(word('a')).slice(0, 1), ...rest], { fields });
      const { code, status, requestId, attempts, endpoint } = await failureOf(stream.finalText());
      assert.deepEqual({ code, status, requestId, attempts, endpoint }, { code: 'stream_interrupted', status: 502, requestId: 'r-1', attempts: 2, endpoint: 'a' });
    }
  });

  it('where an event is no JSON', async () => {
    assert.ok((await failureOf((await open([...begun(), data('{')])).stream.finalText())) instanceof UpstreamError);
  });

  it('where the Responses API names the error', async () => {
    const error = { type: 'error', message: 'Cut.', code: 'stream_interrupted', param: null, error: { message: 'Cut.', type: 'api_error', param: null, code: 'stream_interrupted' } };
    const { stream } = await open([
      `event: response.output_text.delta\n${data({ type: 'response.output_text.delta', delta: 'ab' })}`, `event: error\n${data(error)}`,
    ], { ask: responses });
    const failure = await failureOf(all(stream));
    assert.deepEqual([failure.name, failure.message, failure.partial.text], ['StreamInterruptedError', 'Cut.', 'ab']);
  });

  it('where what came is none', async () => {
    const world = script(() => [200, 'content-type\0application/json', new TextEncoder().encode('{}')]);
    const ai = new Fairlead({ baseURL: 'https://gateway.example.com/v1' });
    const failure = await failureOf(ai.chat.completions.create({ model: 'm', messages: [], stream: true }));
    assert.equal(failure.code, 'upstream_invalid');
    assert.equal(world.calls.length, 1);
  });

  it('in each of its branches', async () => {
    const { stream } = await open([...begun(), new Error('cut')]);
    const [left, right] = stream.tee();
    assert.equal((await failureOf(left.finalText())).code, 'stream_interrupted');
    assert.equal((await failureOf(all(right.events()))).partial.text, 'ab');
  });
});

describe('leaving a stream ends the call', () => {
  const endless = () => [...chat(word('a')).slice(0, 1), never()];

  it('by break', async () => {
    const { stream, call, handoff } = await open(endless());
    for await (const _ of stream) break;
    assert.equal(call.signal.aborted, true);
    assert.equal(handoff.cancelled, 1);
  });

  it('and what had come is not told as the whole text', async () => {
    const leave = async (stream) => {
      for await (const _ of stream) break;
    };
    const { stream } = await open(endless());
    await leave(stream);
    const { stream: another } = await open(endless());
    const [branch] = another.tee();
    await leave(branch);
    for (const left of [stream, branch]) {
      const error = await failureOf(left.finalText());
      assert.deepEqual([error.name, error.partial.text, left.partial.text], ['AbortError', 'a', 'a']);
      await assert.rejects(left.finalMessage(), AbortError);
    }
  });

  it('by a throw in the loop', async () => {
    const { stream, call } = await open(endless());
    await assert.rejects(async () => {
      for await (const _ of stream) throw new Error('mine');
    }, { message: 'mine' });
    assert.equal(call.signal.aborted, true);
  });

  it('by the caller’s signal, whose reason is kept', async () => {
    const controller = new AbortController();
    const { stream, call } = await open(endless(), { options: { signal: controller.signal } });
    const reading = failureOf(all(stream));
    await tick();
    const reason = new Error('the user left');
    controller.abort(reason);
    const failure = await reading;
    assert.ok(failure instanceof AbortError);
    assert.deepEqual([failure.name, failure.cause, failure.partial.text], ['AbortError', reason, 'a']);
    assert.equal(call.signal.aborted, true);
  });

  it('by abort(), also while nobody reads', async () => {
    const { stream, call, handoff } = await open(endless());
    stream.abort();
    assert.deepEqual([call.signal.aborted, handoff.cancelled], [true, 1]);
    assert.equal((await failureOf(all(stream))).name, 'AbortError');
  });

  it('by the end of a block', async () => {
    const { stream, call } = await open(endless());
    await stream[Symbol.asyncDispose]();
    assert.equal(call.signal.aborted, true);
    const { stream: read, call: fine } = await open(chat(word('a')));
    await all(read);
    await read[Symbol.asyncDispose]();
    assert.equal(fine.signal.aborted, false);
  });

  it('from outside of a loop that waits', async () => {
    const { stream, call } = await open(endless());
    const iterator = stream[Symbol.asyncIterator]();
    await iterator.next();
    const waiting = iterator.next();
    await iterator.return();
    assert.deepEqual([await waiting, call.signal.aborted], [{ done: true, value: undefined }, true]);
    assert.equal((await iterator.next()).done, true);
  });

  it('in the middle of its events', async () => {
    const { stream, call } = await open(endless());
    for await (const _ of stream.events()) break;
    assert.equal(call.signal.aborted, true);
  });

  it('and leaves no listener on the signal', async () => {
    const { signal } = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args) => ((listeners += 1), addEventListener.apply(signal, args));
    signal.removeEventListener = (...args) => ((listeners -= 1), removeEventListener.apply(signal, args));
    const { stream } = await open(chat(word('a')), { options: { signal } });
    assert.equal(listeners, 1);
    await all(stream);
    assert.equal(listeners, 0);
    const { stream: left } = await open(endless(), { options: { signal } });
    for await (const _ of left) break;
    assert.equal(listeners, 0);
  });
});

describe('the events of a stream', () => {
  const tool = (index, id, name, text) => ({ tool_calls: [{ index, ...(id && { id }), function: { ...(name && { name }), ...(text !== undefined && { arguments: text }) } }] });

  it('tell text, both names of reasoning, refusals and usage', async () => {
    const { stream } = await open([
      ...chat({ role: 'assistant', content: '' }, { reasoning: 'hm' }, { reasoning_content: 'm' }, word('yes'), { refusal: 'no' }).slice(0, 6),
      data({ choices: [], usage: { completion_tokens: 3 } }), data('[DONE]'),
    ]);
    assert.deepEqual(await all(stream.events()), [
      { type: 'reasoning', choice: 0, text: 'hm' },
      { type: 'reasoning', choice: 0, text: 'm' },
      { type: 'content', choice: 0, text: 'yes' },
      { type: 'refusal', choice: 0, text: 'no' },
      { type: 'finish', choice: 0, reason: 'stop' },
      { type: 'usage', usage: { completion_tokens: 3 } },
      { type: 'done', text: 'yes', reasoning: 'hmm', usage: { completion_tokens: 3 } },
    ]);
  });

  it('tell calls of tools when they are whole, parsed, and when that failed', async () => {
    const { stream } = await open([...chat(
      tool(0, 'id-0', 'weather', ''), tool(0, '', '', '{"city":'), tool(1, 'id-1', 'tide', '{"x'), tool(0, '', '', '"Kiel"}'), tool(3, 'id-3', 'now'),
    )]);
    const events = await all(stream.events());
    assert.equal(events.filter(({ type }) => type === 'tool_call.delta').length, 5);
    const calls = events.filter(({ type }) => type === 'tool_call');
    assert.deepEqual(calls.map(({ index, id, name, arguments: parsed, raw }) => ({ index, id, name, parsed, raw })), [
      { index: 0, id: 'id-0', name: 'weather', parsed: { city: 'Kiel' }, raw: '{"city":"Kiel"}' },
      { index: 1, id: 'id-1', name: 'tide', parsed: undefined, raw: '{"x' },
      { index: 3, id: 'id-3', name: 'now', parsed: {}, raw: '' },
    ]);
    assert.deepEqual(calls.map(({ error }) => error?.name), [undefined, 'SyntaxError', undefined]);
  });

  it('leave out what is no call of a tool', async () => {
    const odd = [{}, [null], ['x', 5], 'x', true, null];
    const { stream } = await open([
      data({ choices: [null, 'x'] }), ...chat(...odd.map((calls) => ({ content: 'a', tool_calls: calls })), { tool_calls: [null, ...tool(0, 'id-0', 'now', '{}').tool_calls] }),
    ]);
    const events = await all(stream.events());
    assert.deepEqual(events.filter(({ type }) => type === 'tool_call').map(({ id, name }) => [id, name]), [['id-0', 'now']]);
    assert.equal(events.at(-1).text, 'aaaaaa');
  });

  it('tell choices apart', async () => {
    const { stream } = await open([
      data({ choices: [{ index: 1, delta: word('b') }, { index: 0, delta: word('a') }] }), data({ choices: [{ index: 1, delta: {}, finish_reason: 'length' }] }), data('[DONE]'),
    ]);
    assert.deepEqual((await all(stream.events())).slice(0, 3), [
      { type: 'content', choice: 1, text: 'b' }, { type: 'content', choice: 0, text: 'a' }, { type: 'finish', choice: 1, reason: 'length' },
    ]);
  });

  it('tell those of the Responses API', async () => {
    const event = (value) => `event: ${value.type}\n${data(value)}`;
    const { stream } = await open([
      event({ type: 'response.reasoning_text.delta', output_index: 0, delta: 'hm' }),
      event({ type: 'response.output_text.delta', output_index: 1, delta: 'yes' }),
      event({ type: 'response.output_item.added', output_index: 2, item: { type: 'function_call', call_id: 'c', name: 'tide', arguments: '' } }),
      event({ type: 'response.function_call_arguments.delta', output_index: 2, delta: '{"a":1}' }),
      event({ type: 'response.output_item.done', output_index: 2, item: { type: 'function_call', call_id: 'c', name: 'tide', arguments: '{"a":1}' } }),
      event({ type: 'response.completed', response: { status: 'completed', usage: { total_tokens: 1 } } }),
    ], { ask: responses });
    assert.deepEqual((await all(stream.events())).map(({ type, text, raw }) => [type, text ?? raw]), [
      ['reasoning', 'hm'], ['content', 'yes'], ['tool_call.delta', undefined], ['tool_call.delta', undefined], ['tool_call', '{"a":1}'],
      ['usage', undefined], ['finish', undefined], ['done', 'yes'],
    ]);
  });

  it('are what vLLM’s captured calls say', async () => {
    const { stream } = await open([new Uint8Array(captured('chat_stream_tool'))]);
    const calls = (await all(stream.events())).filter(({ type }) => type === 'tool_call');
    assert.equal(calls.length, 1);
    assert.equal(calls[0].name, 'get_weather');
    assert.match(calls[0].id, /^chatcmpl-tool-/);
  });

  it('make a message that can be sent back', async () => {
    const { stream } = await open(chat({ reasoning: 'hm' }, tool(0, 'id-0', 'weather', '{}')));
    assert.deepEqual(await stream.finalMessage(), {
      role: 'assistant', content: null, reasoning: 'hm', tool_calls: [{ id: 'id-0', type: 'function', function: { name: 'weather', arguments: '{}' } }],
    });
    assert.deepEqual(await (await open(chat(word('a')))).stream.finalMessage(), { role: 'assistant', content: 'a' });
  });
});
