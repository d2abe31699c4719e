// How far a broken stream is carried on: one break behind another, within attempts, deadline and budget; and where it
// is not tried, as it would not be exact, with the reason in the log.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { CHAT, COMPLETIONS, Calls, MESSAGES, PATIENT, PROMPT, answers } from './calls.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const DEADLINE_MS = 1200;
const IDLE_MS = 400;
const MARGIN_MS = 700;

let vllm;
let gateway;
let calls;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true, prompt: PROMPT } });
  const policy = { ...PATIENT, resume: 'continue' };
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first: vllm, second: vllm, poor: vllm }),
    models: [
      { name: 'alone', targets: [{ endpoint: 'first' }] },
      { name: 'pair', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] },
      { name: 'poor', policy: 'poor', targets: [{ endpoint: 'poor' }] },
    ],
    policies: {
      default: policy,
      thrice: { ...policy, max_attempts: 3 },
      bounded: { ...policy, deadline_ms: DEADLINE_MS },
      native: { ...policy, forward: 'native' },
      watchful: { ...policy, idle_ms: IDLE_MS },
      poor: { ...policy, budget: { capacity: 20, transient_cost: 14, refund: 0 } },
    },
  });
  calls = new Calls(gateway, vllm);
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

const cut = (afterEvents) => ({ fault: 'cut', afterEvents });
const saidBy = (requests) => requests.map(({ sent }) => sent.toString()).join('');

describe('breaks on breaks', { concurrency: true }, () => {
  const breaks = [
    cut(3), { fault: 'error-mid-stream', afterEvents: 2 }, { fault: 'abort', afterEvents: 4 },
    { fault: 'end-without-finish', afterEvents: 3 }, { fault: 'cut-reset', afterEvents: 2 },
  ];
  for (const path of [CHAT, COMPLETIONS]) {
    for (const model of ['alone', 'pair']) {
      it(`are carried over until the last attempt: ${path}, ${model}`, async () => {
        const body = { model, stream_options: { include_usage: true } };
        const whole = await calls.stream(path, { ...body, sim: answers(DEFAULT_TEXT) });
        const call = await calls.stream(path, { ...body, sim: answers(DEFAULT_TEXT, ...breaks) });
        const stream = strict(call.text, { usage: true });
        assert.deepEqual(call.ways, Array(5).fill('continue'));
        assert.deepEqual([stream.text, stream.finishReason], [DEFAULT_TEXT, 'stop']);
        assert.deepEqual(stream.usage, strict(whole.text, { usage: true }).usage);
        assert.equal(call.end.attempts, 6);
      });
    }
  }

  it('that bring nothing new count as well', async () => {
    const entries = [cut(3), { fault: 'reset' }, { fault: 'http-503' }, cut(1)];
    const call = await calls.stream(CHAT, { model: 'alone', sim: answers(DEFAULT_TEXT, ...entries) });
    assert.equal(strict(call.text).text, DEFAULT_TEXT);
    assert.deepEqual([call.end.attempts, call.ways.length], [5, 4]);
  });

  it('beyond `max_attempts` end in an error behind what has come', async () => {
    const sim = answers(DEFAULT_TEXT, cut(3), cut(3), cut(3));
    const call = await calls.stream(CHAT, { model: 'pair', sim }, { policy: 'thrice' });
    const stream = strict(call.text, { interrupted: true });
    assert.equal(stream.text, 'A fairlead guides a line and');
    assert.ok(DEFAULT_TEXT.startsWith(stream.text));
    assert.equal(stream.error.code, 'stream_interrupted');
    assert.match(stream.error.message, /`first`/);
    assert.deepEqual([call.end.outcome, call.end.attempts], ['stream_interrupted', 3]);
    assert.equal(call.followed.at(-1), 'attempts_spent');
  });

  it('are paid for, as long as the budget lasts', async () => {
    const call = await calls.stream(CHAT, { model: 'poor', sim: answers(DEFAULT_TEXT, cut(3), cut(3)) });
    const stream = strict(call.text, { interrupted: true });
    assert.equal(stream.text, 'A fairlead guides a');
    assert.deepEqual([call.end.attempts, call.followed], [2, ['retry', 'budget_spent']]);
    assert.equal(stream.error.code, 'stream_interrupted');
  });

  for (const fault of ['slow-headers', 'hang', 'hang-after-headers', 'stall']) {
    it(`end at the deadline, where the next answer does not come in time: ${fault}`, async () => {
      const sim = answers(DEFAULT_TEXT, cut(3), { fault, afterEvents: 1 });
      const call = await calls.stream(CHAT, { model: 'alone', sim }, { policy: 'bounded' });
      const stream = strict(call.text, { interrupted: true });
      assert.deepEqual([stream.text, stream.error.code], ['A fairlead', 'deadline_exceeded']);
      assert.ok(call.ms >= DEADLINE_MS - 50 && call.ms <= DEADLINE_MS + MARGIN_MS, `${call.ms} ms`);
      await vllm.until(() => call.attempts[1].closedByClientAt);
    });
  }
});

describe('a stream that flows', { concurrency: true }, () => {
  const long = (entry) => ({ text: DEFAULT_TEXT, tokens: 60, tokenMs: 3, ...entry });
  const LONG = async () => {
    const { text } = await calls.stream(CHAT, { model: 'alone', sim: long({ tokenMs: 0 }) });
    return strict(text).text;
  };

  it('and stalls goes on elsewhere, whatever still comes of it', async (t) => {
    // Each is silent for about as long as it may be: some of them speak again just when they are given up.
    const entries = Array.from({ length: 60 }, (_, at) => (
      long({ fault: 'slow-first-token', afterEvents: 5 + (at % 40), ms: IDLE_MS - 30 + at })));
    const whole = await LONG();
    const all = await Promise.all(entries.map(async (entry) => {
      const sim = [entry, ...Array(5).fill(long({ firstTokenMs: 40 }))];
      const call = await calls.stream(CHAT, { model: 'pair', sim }, { policy: 'watchful' });
      assert.equal(strict(call.text).text, whole);
      return call;
    }));
    const resumed = all.filter(({ ways }) => ways.length > 0);
    t.diagnostic(`${resumed.length} of ${all.length} went on elsewhere`);
    assert.ok(resumed.length > 0);
    await vllm.until(() => resumed.every(({ attempts: [first] }) => first.closedByClientAt || first.finishedAt));
  });

  it('goes by no pipe of the platform where it is to go on behind a break', async () => {
    const sim = [long(cut(30)), ...Array(5).fill(long())];
    const call = await calls.stream(CHAT, { model: 'alone', sim }, { policy: 'native' });
    assert.equal(strict(call.text).text, await LONG());
    assert.deepEqual([call.ways, call.end.native], [['continue'], false]);
  });
});

const TOOL = { type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties: {} } } };
const THINKING = { chat_template_kwargs: { enable_thinking: true } };
const SCHEMA = { name: 'x', schema: { type: 'object' } };
const JSON_FORMAT = { response_format: { type: 'json_schema', json_schema: SCHEMA } };
const begun = { messages: [...MESSAGES, { role: 'assistant', content: 'A' }], continue_final_message: true };

/** What is not tried at all; why, in the log. */
const NEVER = {
  'an open tool call': [{ tools: [TOOL] }, 'tool_calls'],
  'a tool call that must come': [{ tools: [TOOL], tool_choice: 'required' }, 'tool_calls'],
  'several choices': [{ n: 2 }, 'choices', { choices: 2 }],
  logprobs: [{ logprobs: true, top_logprobs: 1 }, 'logprobs'],
  'token ids': [{ return_token_ids: true }, 'token_ids'],
  sound: [{ modalities: ['text', 'audio'], audio: { voice: 'x', format: 'wav' } }, 'multimodal'],
};
const NEVER_OF_COMPLETIONS = {
  'several prompts': [{ prompt: [PROMPT, 'A'] }, 'choices', { choices: 2 }],
  logprobs: [{ logprobs: 1 }, 'logprobs'],
};
/** What is compared instead. */
const VERIFIED = {
  'reasoning in progress': [THINKING, 'reasoning', 4],
  'text behind reasoning': [THINKING, 'reasoning', 20],
  'structured output': [JSON_FORMAT, 'structured_output', 2, { text: undefined }],
  'hidden reasoning': [{ include_reasoning: false }, 'reasoning', 4],
  'a stop string that may have begun': [{ stop: ['line runs'] }, 'stop', 8],
  'a stop string before the first word is whole': [{ stop: ['line runs'] }, 'stop', 3],
  'a beginning of the client\'s own': [{ ...begun, add_generation_prompt: false }, 'prompt', 4],
  'penalties for what was said': [{ presence_penalty: 0.5 }, 'sampling', 4],
  'a least length': [{ min_tokens: 5 }, 'sampling', 4],
};
const VERIFIED_OF_COMPLETIONS = {
  'an echo': [{ echo: true }, 'prompt', 4],
  'a suffix': [{ suffix: ' end' }, 'prompt', 4],
  'a stop string that may have begun': [{ stop: ['line runs'] }, 'stop', 7],
  'the server\'s own limit': [{ max_tokens: undefined }, 'max_tokens', 4],
};

describe('what cannot be exact is not tried', { concurrency: true }, () => {
  for (const [path, cases] of [[CHAT, NEVER], [COMPLETIONS, NEVER_OF_COMPLETIONS]]) {
    for (const [name, [body, why, expected]] of Object.entries(cases)) {
      it(`${path}, ${name}: the error`, async () => {
        const call = await calls.stream(path, { model: 'pair', ...body, sim: answers(DEFAULT_TEXT, cut(3)) });
        const stream = strict(call.text, { interrupted: true, ...expected });
        assert.equal(stream.error.code, 'stream_interrupted');
        assert.deepEqual([call.ways, call.followed, call.end.attempts], [[], [why], 1]);
        const shown = call.text.slice(0, call.text.indexOf('data: {"error"'));
        assert.ok(saidBy(call.attempts).startsWith(shown));
      });
    }
  }

  for (const [path, cases] of [[CHAT, VERIFIED], [COMPLETIONS, VERIFIED_OF_COMPLETIONS]]) {
    for (const [name, [body, why, place, entry]] of Object.entries(cases)) {
      it(`${path}, ${name}: a second answer is compared`, async () => {
        const asked = { model: 'pair', ...body };
        const answer = (...first) => answers(DEFAULT_TEXT, ...first).map((each) => ({ ...each, ...entry }));
        const whole = strict((await calls.stream(path, { ...asked, sim: answer() })).text);
        const call = await calls.stream(path, { ...asked, sim: answer(cut(place)) });
        const stream = strict(call.text);
        const said = ({ text, reasoning, finishReason, stopReason }) => ({ text, reasoning, finishReason, stopReason });
        assert.deepEqual(said(stream), said(whole));
        assert.deepEqual([call.ways, call.followed], [[`verify, ${why}`], ['failover']]);
        assert.deepEqual(call.attempts[1].json, call.attempts[0].json);

        const differing = answer(cut(place), { differsAt: 0 });
        if (why === 'reasoning' || entry) return;
        const other = await calls.stream(path, { ...asked, sim: differing });
        assert.ok(whole.text.startsWith(strict(other.text, { interrupted: true }).text));
      });
    }
  }


  it('before its tool call begins a stream goes on like any other', async () => {
    const call = await calls.stream(CHAT, { model: 'pair', tools: [TOOL], sim: answers(DEFAULT_TEXT, cut(1)) });
    const stream = strict(call.text);
    assert.deepEqual([stream.finishReason, stream.toolCalls.length, call.ways], ['tool_calls', 1, []]);
  });

  it('other dialects', async () => {
    const bodies = { '/v1/responses': { input: 'Hi' }, '/v1/messages': { messages: MESSAGES, max_tokens: 99 } };
    for (const [path, body] of Object.entries(bodies)) {
      const call = await calls.stream(path, { model: 'pair', ...body, sim: answers(DEFAULT_TEXT, cut(8)) });
      assert.deepEqual([call.end.outcome, call.ways, call.followed], ['stream_interrupted', [], ['dialect']]);
    }
  });
});
