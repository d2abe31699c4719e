// `stream_internally`: what a client gets whole, its endpoint was asked for as a stream. It holds what the endpoint's
// own whole answer would have held, and timers, breaks and the deadline are treated as in a stream.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import OpenAI from 'openai';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { BODIES, CHAT, COMPLETIONS, Calls, PATIENT, PROMPT, answers } from './calls.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const TEXT = 'In "Zürich":\n\t🦀 \\ 5.  Then more';
const DEADLINE_MS = 1200;
const MARGIN_MS = 700;

const tool = (name, properties) =>
  ({ type: 'function', function: { name, parameters: { type: 'object', properties } } });
const WEATHER = tool('get_weather', { city: { type: 'string' }, days: { type: 'integer' } });
const CLOCK = tool('get_time', { zone: { type: 'string' } });
const SCHEMA = { type: 'object', properties: { city: { type: 'string' }, temp: { type: 'number' } } };

/** Requests, and behind how many events their answers break where not behind the third. */
const ANSWERS = {
  text: [CHAT, {}],
  'white space': [CHAT, { sim: answers('\n a\n\n b \n') }],
  'nothing at all': [CHAT, { sim: answers('') }, 1],
  'three choices': [CHAT, { n: 3 }, 6],
  'a tool': [CHAT, { tools: [WEATHER] }],
  'two tools': [CHAT, { tools: [WEATHER, CLOCK] }],
  'a tool that must be called': [CHAT, { tools: [WEATHER, CLOCK], tool_choice: 'required' }],
  logprobs: [CHAT, { logprobs: true, top_logprobs: 2 }],
  'token ids': [CHAT, { return_token_ids: true }],
  reasoning: [CHAT, { chat_template_kwargs: { enable_thinking: true } }],
  'reasoning that is cut short': [CHAT, { chat_template_kwargs: { enable_thinking: true }, max_tokens: 4 }],
  'a stop string': [CHAT, { stop: ['Then'] }, 5],
  'a limit': [CHAT, { max_completion_tokens: 5 }],
  JSON: [CHAT, { sim: {}, response_format: { type: 'json_schema', json_schema: { name: 'x', schema: SCHEMA } } }],
  'a completion': [COMPLETIONS, {}],
  'a completion with logprobs': [COMPLETIONS, { logprobs: 1 }],
  'completions of two prompts': [COMPLETIONS, { prompt: [PROMPT, 'A brown'], n: 2, sim: {} }],
};
/** Those that go on from what there is; all others are asked for anew, as their clients have nothing of them. */
const CONTINUED = new Set(['text', 'white space', 'a stop string', 'a limit', 'a completion']);

let vllm;
let gateway;
let calls;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true, prompt: PROMPT } });
  const off = { ...PATIENT, stream_internally: true };
  const policy = { ...off, resume: 'continue' };
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first: vllm, second: vllm }),
    models: [
      { name: 'alone', targets: [{ endpoint: 'first' }] },
      { name: 'pair', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] },
    ],
    policies: {
      default: policy,
      off,
      hasty: { ...policy, idle_ms: 500, first_token_ms: 1500 },
      bounded: { ...policy, deadline_ms: DEADLINE_MS },
      partial: { ...policy, deadline_ms: DEADLINE_MS, on_deadline: 'partial' },
      once: { ...policy, max_attempts: 1 },
    },
  });
  calls = new Calls(gateway, vllm);
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

/** What the endpoint itself answers to an attempt of this id. */
async function own(path, body, id) {
  const response = await fetch(`${vllm.url}${path}`, {
    method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json', 'x-request-id': id },
  });
  return response.json();
}

/** A whole answer has the arguments of a tool written anew, a stream as the model wrote them. */
function comparable(answer) {
  for (const { message } of answer.choices) {
    for (const { function: made } of message?.tool_calls ?? []) made.arguments = JSON.parse(made.arguments);
  }
  return answer;
}

const request = (path, body) => ({ model: 'alone', sim: answers(TEXT), ...BODIES[path], ...body });

/** The same, with what happens to the first attempt. */
const broken = (path, body, entry) => {
  const whole = request(path, body);
  const sim = [whole.sim].flat();
  return { ...whole, sim: [{ ...sim[0], ...entry }, ...Array(5).fill(sim.at(-1))] };
};

describe('holds what the endpoint\'s own whole answer holds', { concurrency: true }, () => {
  for (const [name, [path, body, afterEvents = 3]] of Object.entries(ANSWERS)) {
    it(name, async () => {
      const asked = request(path, body);
      const call = await calls.ask(path, asked);
      assert.equal(call.response.status, 200, call.text);
      assert.match(call.response.headers.get('content-type'), /^application\/json/);
      assert.deepEqual(comparable(call.json), comparable(await own(path, asked, `${call.id}-1`)));
      const [sent] = call.attempts;
      assert.deepEqual([sent.json.stream, sent.json.stream_options], [true, { include_usage: true }]);
      assert.equal(call.end.stream, false);
    });

    for (const [policy, fault] of [['default', 'cut'], ['default', 'error-mid-stream'], ['off', 'cut-reset']]) {
      it(`${name}, broken in its middle by ${fault}, resume ${policy === 'off' ? 'off' : 'continue'}`, async () => {
        const asked = broken(path, body, { fault, afterEvents });
        const call = await calls.ask(path, asked, { policy });
        assert.equal(call.response.status, 200, call.text);
        const goesOn = policy !== 'off' && CONTINUED.has(name);
        const [way] = call.ways.map((each) => each.split(',')[0]);
        assert.equal(way, goesOn ? 'continue' : name === 'nothing at all' ? undefined : 'anew');
        const expected = await own(path, request(path, body), `${call.id}-${goesOn ? 1 : 2}`);
        assert.deepEqual(comparable(call.json), comparable(expected));
      });
    }
  }
});

describe('is watched like a stream', { concurrency: true }, () => {
  it('an endpoint that falls silent is given up, and the answer goes on', async () => {
    const asked = broken(CHAT, {}, { fault: 'stall', afterEvents: 4 });
    const call = await calls.ask(CHAT, asked, { policy: 'hasty' });
    assert.deepEqual(call.json, await own(CHAT, request(CHAT), `${call.id}-1`));
    assert.deepEqual([call.ways, call.end.attempts], [['continue'], 2]);
    assert.equal(call.lines.find(({ event }) => event === 'attempt_failed').reason, 'idle');
    assert.ok(call.attempts[0].closedByClientAt);
  });

  it('an answer that breaks and does not go on leaves its text in the error', async () => {
    const call = await calls.ask(CHAT, broken(CHAT, {}, { fault: 'cut', afterEvents: 4 }), { policy: 'once' });
    assert.deepEqual([call.response.status, call.error.code], [502, 'stream_interrupted']);
    assert.ok(call.error.partial.length > 5 && TEXT.startsWith(call.error.partial), call.error.partial);
  });

  it('at the deadline there is an error with the text so far', async () => {
    const call = await calls.ask(CHAT, broken(CHAT, {}, { fault: 'stall', afterEvents: 4 }), { policy: 'bounded' });
    assert.deepEqual([call.response.status, call.error.code], [504, 'deadline_exceeded']);
    assert.ok(call.error.partial.length > 5 && TEXT.startsWith(call.error.partial), call.error.partial);
    assert.ok(call.ms <= DEADLINE_MS + MARGIN_MS);
    await vllm.until(() => call.attempts[0].closedByClientAt);
  });

  for (const path of [CHAT, COMPLETIONS]) {
    it(`or a whole answer that says it was cut short, with \`on_deadline: partial\`: ${path}`, async () => {
      const asked = request(path, { sim: { text: DEFAULT_TEXT, tokens: 2000, tokenMs: 10 }, max_tokens: 3000 });
      const call = await calls.ask(path, asked, { policy: 'partial' });
      assert.equal(call.response.status, 200, call.text);
      assert.ok(call.ms <= DEADLINE_MS, `${call.ms} ms`);
      assert.equal(call.response.headers.get('x-fairlead-truncated'), 'deadline');
      const { choices: [choice], fairlead, usage, id } = call.json;
      assert.equal(choice.finish_reason, 'length');
      assert.deepEqual([fairlead, usage], [{ truncated: 'deadline' }, null]);
      assert.equal(id.replace(/^[a-z]+-/, ''), `${call.id}-1`);
      const text = choice.message?.content ?? choice.text;
      assert.ok(text.startsWith(DEFAULT_TEXT.slice(0, 30)), text);
      assert.deepEqual([call.end.outcome, call.end.attempts], ['partial', 1]);
      await vllm.until(() => call.attempts[0].closedByClientAt);
    });
  }

  it('and the error, where there is nothing yet', async () => {
    const call = await calls.ask(CHAT, broken(CHAT, {}, { fault: 'stall', afterEvents: 1 }), { policy: 'partial' });
    assert.deepEqual([call.response.status, call.error.code], [504, 'deadline_exceeded']);
    assert.ok(!('partial' in call.error));
    assert.equal(call.response.headers.get('x-fairlead-truncated'), null);
  });
});

describe('an official client', () => {
  const client = (options) => new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'any', maxRetries: 0, ...options });
  const create = (body, policy) => client().chat.completions
    .create(body, { headers: { 'x-fairlead-policy': policy ?? 'default' } });

  it('gets its completion over a break', async () => {
    const completion = await create(broken(CHAT, {}, { fault: 'cut', afterEvents: 4 }));
    const { message, finish_reason: reason } = completion.choices[0];
    assert.deepEqual([message.content, reason], [TEXT, 'stop']);
    assert.ok(completion.usage.total_tokens === completion.usage.prompt_tokens + completion.usage.completion_tokens);
  });

  it('gets its tool calls over a break', async () => {
    const completion = await create(broken(CHAT, { tools: [WEATHER, CLOCK] }, { fault: 'cut', afterEvents: 4 }));
    const made = completion.choices[0].message.tool_calls.map((call) => call.function);
    assert.deepEqual(made.map((call) => [call.name, JSON.parse(call.arguments)]), [
      ['get_weather', { city: 'Zürich', days: 3 }], ['get_time', { zone: 'Zürich' }],
    ]);
  });

  it('finds the text so far in the error', async () => {
    const asked = create(broken(CHAT, {}, { fault: 'cut', afterEvents: 4 }), 'once');
    await assert.rejects(asked, ({ status, code, error }) => {
      assert.deepEqual([status, code], [502, 'stream_interrupted']);
      return TEXT.startsWith(error.partial) && error.partial.length > 5;
    });
  });
});
