// The strict reader of streams: what vLLM sends passes, and each of the rules broken once does not.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { exchange } from './raw-client.mjs';
import { startVllm } from './vllm.mjs';

const CHAT = { model: 'taught', stream: true, messages: [{ role: 'user', content: 'What is a fairlead?' }] };
const USAGE = { stream_options: { include_usage: true } };
const WEATHER = { name: 'get_weather', parameters: { properties: { city: { type: 'string' } } } };
const TOOL = { type: 'function', function: WEATHER };
const DONE = 'data: [DONE]\n\n';

const data = (value) => `data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`;
const envelope = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'taught' };
const chunk = (delta, more = {}, index = 0) =>
  ({ ...envelope, choices: [{ index, delta, finish_reason: null, ...more }] });

const ROLE = chunk({ role: 'assistant', content: '' });
const HELLO = chunk({ content: 'Hello' });
const FINISH = chunk({}, { finish_reason: 'stop', stop_reason: null });
const counts = (prompt, completion, total = prompt + completion) =>
  ({ prompt_tokens: prompt, completion_tokens: completion, total_tokens: total });
const COUNTED = { ...envelope, choices: [], usage: counts(3, 2) };
const ERROR = { error: { message: 'gone', type: 'stream_interrupted' } };

const stream = (...events) => events.map((event) => (typeof event === 'string' ? event : data(event))).join('');
const GOOD = stream(ROLE, HELLO, FINISH, DONE);

describe('a stream that keeps all rules', () => {
  let server;
  before(async () => { server = await startVllm(); });
  after(() => server.close());

  const ask = async (body, path = '/v1/chat/completions') => (await exchange(server, { body, path })).payload;

  it('is told as a client understands it', async () => {
    const { text, reasoning, finishReason, usage, comments, model, chunks } = strict(
      await ask({ ...CHAT, ...USAGE, max_tokens: 3, sim: { text: 'One two three four' } }), { usage: true },
    );
    assert.deepEqual([text, reasoning, finishReason, model], ['One two three', '', 'length', 'taught']);
    assert.deepEqual([usage.completion_tokens, comments.length, chunks.length], [3, 0, 5]);
  });

  it('may have several choices, thoughts, tool calls and running counts', async () => {
    const { choices } = strict(await ask({ ...CHAT, n: 2 }), { choices: 2 });
    assert.equal(choices[1].text, `(1) ${choices[0].text}`);
    const thinking = { chat_template_kwargs: { enable_thinking: true } };
    for (const reasoning_content of [true, false]) {
      assert.match(strict(await ask({ ...CHAT, ...thinking, sim: { reasoning_content } })).reasoning, /^The user asks/);
    }
    const { toolCalls, finishReason } = strict(await ask({ ...CHAT, tools: [TOOL] }));
    assert.equal(finishReason, 'tool_calls');
    assert.deepEqual(toolCalls.map(({ function: { name, arguments: made } }) => [name, JSON.parse(made)]),
      [['get_weather', { city: 'Zürich' }]]);
    const running = { stream_options: { include_usage: true, continuous_usage_stats: true } };
    assert.ok(strict(await ask({ ...CHAT, ...running }), { usage: 'running' }).usage.total_tokens > 0);
  });

  it('may be a completion', async () => {
    const body = { model: 'taught', stream: true, prompt: 'x', max_tokens: 2, ...USAGE };
    assert.equal(strict(await ask(body, '/v1/completions'), { usage: true }).text, 'A fairlead');
  });

  it('may be framed in every way of the standard', async () => {
    for (const framing of ['crlf', 'cr']) assert.ok(strict(await ask({ ...CHAT, sim: { framing, bom: true } })).text);
    assert.equal(strict(GOOD.replace('data: {', 'data:{')).text, 'Hello');
    assert.equal(strict(GOOD.replace(',"choices"', ',\ndata: "choices"')).text, 'Hello');
  });

  it('is what the real one sends', () => {
    const captures = {
      chat_stream: {}, chat_continue: {}, chat_stream_n2: { choices: 2 }, chat_stream_long: { usage: true },
      chat_stream_usage: { usage: 'running' }, chat_stream_unicode: {}, chat_stream_tool: {}, chat_stream_token_ids: {},
      completions_stream: {},
    };
    for (const [name, expected] of Object.entries(captures)) {
      const raw = readFileSync(new URL(`../fixtures/vllm-0.32/${name}.http`, import.meta.url));
      const { text, toolCalls } = strict(raw.subarray(raw.indexOf('\r\n\r\n') + 4), expected);
      assert.ok(text || toolCalls.length > 0, name);
    }
  });

  it('has comments between its events, a null usage where that is unknown, and what the gateway adds', () => {
    const cut = { ...FINISH, fairlead: { truncated: 'deadline' } };
    const { comments, usage, fairlead } = strict(
      stream(': one\n\n', ROLE, ': two\n\n', ': three\n', HELLO, cut, { ...COUNTED, usage: null }, DONE),
      { usage: 'unknown' },
    );
    assert.deepEqual([comments, usage, fairlead], [['one', 'two', 'three'], null, { truncated: 'deadline' }]);
  });

  it('may end in an error where one is expected', () => {
    const { text, error, finishReason } = strict(stream(ROLE, HELLO, ERROR), { interrupted: true });
    assert.deepEqual([text, error, finishReason], ['Hello', ERROR.error, null]);
  });
});

describe('a stream that breaks a rule is refused:', () => {
  const call = (fragment) => chunk({ tool_calls: [fragment] });
  const begun = { index: 0, id: 'a', type: 'function', function: { name: 'f', arguments: '' } };
  const usage = { usage: true };
  const running = (completion, prompt = 3) => ({ ...HELLO, usage: counts(prompt, completion) });
  const roleCounted = { ...ROLE, usage: counts(3, 0) };

  const cases = {
    'bytes that are no UTF-8': [Buffer.from([0xff]), /./],
    'an end inside a line': [`${GOOD}data`, /ends inside an event/],
    'an end inside an event': [GOOD.slice(0, -1), /ends inside an event/],
    'a comment inside an event': [stream('data: {\n: c\ndata: }\n\n'), /comment inside/],
    'another field': [stream('event: error\ndata: {}\n\n'), /field "event"/],
    'broken JSON': [stream(ROLE, 'data: {"id"\n\n'), /event 2: not JSON/],
    'JSON that is no object': [stream('data: [1]\n\n'), /not an object/],
    'nothing at all': ['', /without \[DONE\]/],
    'no [DONE]': [stream(ROLE, HELLO, FINISH), /without \[DONE\]/],
    'two [DONE]': [GOOD + DONE, /behind \[DONE\]/],
    'a comment behind [DONE]': [`${GOOD}: c\n\n`, /behind \[DONE\]/],
    'a chunk behind [DONE]': [stream(GOOD, HELLO), /behind \[DONE\]/],
    'an error': [stream(ROLE, HELLO, ERROR), /an error: .*gone/],
    'no error where one is expected': [stream(ROLE, HELLO), /without the error/, { interrupted: true }],
    '[DONE] where an error is expected': [GOOD, /where an error was expected/, { interrupted: true }],
    'something behind an error': [stream(ROLE, ERROR, HELLO), /behind an error/, { interrupted: true }],
    'an error without a message': [stream(ROLE, { error: {} }), /without a message/, { interrupted: true }],
    'no id': [stream({ ...ROLE, id: undefined }), /without id/],
    'no created': [stream({ ...ROLE, created: '1' }), /without created/],
    'no model': [stream({ ...ROLE, model: null }), /without model/],
    'another object': [stream({ ...ROLE, object: 'chat.completion' }), /the object/],
    'a second id': [stream(ROLE, { ...HELLO, id: 'chatcmpl-2' }), /second id/],
    'a second created': [stream(ROLE, { ...HELLO, created: 2 }), /second created/],
    'a second model': [stream(ROLE, { ...HELLO, model: 'other' }), /second model/],
    'a second object': [stream(ROLE, { ...HELLO, object: 'text_completion' }), /second object/],
    'a usage of another id': [stream(ROLE, HELLO, FINISH, { ...COUNTED, id: 'x' }), /second id/, usage],
    'no choices': [stream({ ...envelope }), /without a list of choices/],
    'a choice too many': [stream(chunk({ role: 'assistant' }, {}, 1)), /index 1/],
    'no delta': [stream({ ...ROLE, choices: [{ index: 0 }] }), /without a delta/],
    'no role': [stream(HELLO, FINISH, DONE), /without a role/],
    'a second role': [stream(ROLE, HELLO, ROLE), /event 3: a second role/],
    'another role': [stream(chunk({ role: 'user' })), /role "user"/],
    'content that is no text': [stream(ROLE, chunk({ content: 1 })), /text that is 1/],
    'half a character': [stream(ROLE, chunk({ content: '\ud83d' }), FINISH, DONE), /half a character/],
    'no finish_reason': [stream(ROLE, HELLO, DONE), /has not finished/],
    'an empty finish_reason': [stream(ROLE, chunk({}, { finish_reason: '' })), /finish_reason ""/],
    'a finish_reason for one of two': [GOOD, /choice 1 has not finished/, { choices: 2 }],
    'two finish_reasons': [stream(ROLE, FINISH, FINISH), /behind its finish_reason/],
    'content behind the finish': [stream(ROLE, FINISH, HELLO), /behind its finish_reason/],
    'a tool call without id': [stream(ROLE, call({ ...begun, id: undefined })), /without id or name/],
    'a tool call out of turn': [stream(ROLE, call({ ...begun, index: 1 })), /tool call 1/],
    'a tool call with two ids': [stream(ROLE, call(begun), call({ index: 0, id: 'b' })), /second id of tool call/],
    'a tool call that is no JSON': [
      stream(ROLE, call(begun), chunk({}, { finish_reason: 'tool_calls' })), /not JSON/,
    ],
    'usage that was not asked for': [stream(ROLE, FINISH, COUNTED), /no usage was asked for/],
    'usage in a chunk of content': [stream(ROLE, running(1)), /before the last chunk/, usage],
    'no usage': [stream(ROLE, HELLO, FINISH, DONE), /without a usage/, usage],
    'usage before the finish': [stream(ROLE, HELLO, COUNTED), /usage, and choice 0/, usage],
    'two usages': [stream(ROLE, FINISH, COUNTED, COUNTED), /behind the usage/, usage],
    'a usage that is null': [stream(ROLE, FINISH, { ...COUNTED, usage: null }), /the usage null/, usage],
    'a usage that cannot be known': [stream(ROLE, FINISH, COUNTED), /nobody can know/, { usage: 'unknown' }],
    'a negative usage': [stream(ROLE, FINISH, { ...COUNTED, usage: counts(-1, 2) }), /the usage/, usage],
    'a usage that does not add up': [stream(ROLE, FINISH, { ...COUNTED, usage: counts(3, 2, 6) }), /add up/, usage],
    'no running usage': [stream(ROLE), /the usage undefined/, { usage: 'running' }],
    'a running usage that goes down': [stream(roleCounted, running(2), running(1)), /goes down/, { usage: 'running' }],
    'a running prompt that changes': [stream(roleCounted, running(1, 4)), /prompt tokens change/, { usage: 'running' }],
    'a last usage below the running one': [
      stream(roleCounted, { ...FINISH, usage: counts(3, 9) }, COUNTED), /goes down/, { usage: 'running' },
    ],
  };
  for (const [what, [bytes, message, expected]] of Object.entries(cases)) {
    it(what, () => assert.throws(() => strict(bytes, expected), { message }));
  }
});
