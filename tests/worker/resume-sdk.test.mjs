// What an unmodified OpenAI client makes of a stream that broke and went on: the same as of one that did not. Once in
// Node, once inside somebody's Worker.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { MESSAGES, PATIENT, answers, each } from './calls.mjs';
import { startClientWorker } from './client-worker.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const PREAMBLE = 'Let me look.\n\nThe weather first:';
const tool = (name, properties) =>
  ({ type: 'function', function: { name, parameters: { type: 'object', properties } } });
const TOOLS = [
  tool('get_weather', { city: { type: 'string' }, days: { type: 'integer' } }),
  tool('get_time', { zone: { type: 'string' } }),
];
const USAGE = { stream_options: { include_usage: true } };
const MODELS = ['alone', 'pair'];

/** Requests, and behind how many events their streams still go on. */
const REQUESTS = {
  'a text': [{ ...USAGE }, 20, {}],
  'tool calls behind a text': [{ ...USAGE, tools: TOOLS }, 10, { preamble: PREAMBLE }],
};

let vllm;
let gateway;
let client;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true } });
  const policy = { ...PATIENT, resume: 'continue' };
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first: vllm, second: vllm }),
    models: [
      { name: 'alone', targets: [{ endpoint: 'first' }] },
      { name: 'pair', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] },
    ],
    policies: { default: policy, partial: { ...policy, deadline_ms: 1500, on_deadline: 'partial' } },
  });
  client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'any', maxRetries: 0, timeout: 20_000 });
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

/** All that the helpers tell of one stream, but for what each stream has of its own. */
async function heard(body, entry, options) {
  const sim = answers(DEFAULT_TEXT, entry).map((each) => ({ ...body.sim, ...each }));
  const stream = client.chat.completions.stream({ model: 'alone', messages: MESSAGES, ...body, sim }, options);
  const deltas = [];
  const done = [];
  let snapshot = '';
  stream.on('content', (delta, text) => {
    deltas.push(delta);
    snapshot = text;
  });
  stream.on('tool_calls.function.arguments.done', ({ index, name, arguments: made }) => {
    done.push({ index, name, made });
  });
  const completion = await stream.finalChatCompletion();
  assert.equal(deltas.join(''), snapshot);
  const { id, model, ...rest } = completion;
  for (const choice of rest.choices) for (const call of choice.message.tool_calls ?? []) delete call.id;
  return { rest, done, snapshot, usage: await stream.totalUsage() };
}

describe('the stream helper', () => {
  for (const [name, [body, places, sim]] of Object.entries(REQUESTS)) {
    for (const model of MODELS) {
      it(`tells ${name} as if it had not been broken: ${model}`, async () => {
        const asked = { ...body, model, sim };
        const whole = await heard(asked, {});
        assert.equal(whole.snapshot, sim.preamble ?? DEFAULT_TEXT);
        assert.equal(whole.done.length, body.tools?.length ?? 0);
        const faults = ['cut', 'error-mid-stream', 'abort'];
        const upTo = Array.from({ length: places }, (_, at) => at);
        await each(upTo.flatMap((at) => faults.map((fault) => [fault, at])), async ([fault, afterEvents]) => {
          const over = await heard(asked, { fault, afterEvents });
          assert.deepEqual(over, whole, `${fault} behind ${afterEvents} events`);
        });
        const resumed = gateway.logs.filter((line) => line.event === 'stream_resumed' && line.model === model);
        assert.ok(resumed.length > places);
      });
    }
  }

  it('throws what broke a tool call', async () => {
    const asked = { ...USAGE, tools: TOOLS, sim: { preamble: PREAMBLE } };
    const failed = heard(asked, { fault: 'cut', afterEvents: 15 });
    await assert.rejects(failed, ({ error, code }) => (error?.code ?? code) === 'stream_interrupted');
  });

  it('ends with what there is at the deadline', async () => {
    const body = { sim: { tokens: 2000, tokenMs: 10 } };
    const { rest, snapshot } = await heard(body, {}, { headers: { 'x-fairlead-policy': 'partial' } });
    assert.equal(rest.choices[0].finish_reason, 'length');
    assert.ok(snapshot.length > 20 && `${DEFAULT_TEXT} ${DEFAULT_TEXT}`.startsWith(snapshot.slice(0, 100)));
  });
});

it('a client inside a Worker reads on over a break', async (t) => {
  const code = `
    import OpenAI from 'openai';
    export default {
      async fetch(request, env) {
        const client = new OpenAI({ baseURL: env.BASE_URL, apiKey: 'any', maxRetries: 0 });
        const stream = client.chat.completions.stream(await request.json());
        let text = '';
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
        return Response.json({ text, completion: await stream.finalChatCompletion() });
      },
    };
  `;
  const folder = fileURLToPath(new URL('.', import.meta.url));
  const miniflare = await startClientWorker(code, { folder, baseUrl: `${gateway.url}/v1` });
  t.after(() => miniflare.dispose());
  for (const entry of [{}, { fault: 'cut', afterEvents: 6 }, { fault: 'abort', afterEvents: 9 }]) {
    const body = JSON.stringify({ model: 'pair', messages: MESSAGES, ...USAGE, sim: answers(DEFAULT_TEXT, entry) });
    const response = await miniflare.dispatchFetch('http://worker.example/', { method: 'POST', body });
    const { text, completion } = await response.json();
    assert.equal(text, DEFAULT_TEXT);
    const [{ message, finish_reason: reason }] = completion.choices;
    assert.deepEqual([message.content, reason], [DEFAULT_TEXT, 'stop']);
  }
});
