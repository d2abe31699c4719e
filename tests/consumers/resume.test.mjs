// The AI SDK through a gateway in workerd, over streams that break and go on: as a client in Node, and inside
// somebody's Worker.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { jsonSchema, streamText, tool } from 'ai';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { PATIENT, answers, each } from '../worker/calls.mjs';
import { startClientWorker } from '../worker/client-worker.mjs';
import { endpointsOf, startGateway } from '../worker/gateway.mjs';

const PREAMBLE = 'Let me look.\n\nThe weather first:';
const FAULTS = ['cut', 'cut-reset', 'error-mid-stream', 'abort', 'end-without-finish'];

let vllm;
let gateway;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true } });
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first: vllm, second: vllm }),
    models: [{ name: 'qwen', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] }],
    policies: { default: { ...PATIENT, resume: 'continue' } },
  });
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

/** Sends what the simulation is to do along with each request. */
const provider = (sim) => createOpenAICompatible({
  name: 'gateway', baseURL: `${gateway.url}/v1`, apiKey: 'key', includeUsage: true,
  transformRequestBody: (body) => ({ ...body, sim }),
});

async function streamed(sim, more) {
  const result = streamText({
    model: provider(sim).chatModel('qwen'), prompt: 'Hi', maxRetries: 0, onError({ error }) { throw error; }, ...more,
  });
  let text = '';
  for await (const part of result.textStream) text += part;
  const [finishReason, usage, toolCalls] = await Promise.all([result.finishReason, result.usage, result.toolCalls]);
  const calls = toolCalls.map(({ toolName, input }) => ({ toolName, input }));
  return { text, finishReason, calls, tokens: [usage.inputTokens, usage.outputTokens] };
}

const places = Array.from({ length: 18 }, (_, at) => at);

describe('the AI SDK', () => {
  for (const fault of FAULTS) {
    it(`streams a text over a break: ${fault}`, async () => {
      const whole = await streamed(answers(DEFAULT_TEXT));
      assert.equal(whole.text, DEFAULT_TEXT);
      await each(places, async (afterEvents) => {
        assert.deepEqual(await streamed(answers(DEFAULT_TEXT, { fault, afterEvents })), whole);
      });
    });
  }

  it('gathers a tool call behind a text that broke', async () => {
    const parameters = { type: 'object', properties: { city: { type: 'string' } } };
    const tools = { get_weather: tool({ inputSchema: jsonSchema(parameters) }) };
    const sim = (entry) => answers(undefined, entry).map((each) => ({ ...each, preamble: PREAMBLE }));
    const whole = await streamed(sim({}), { tools });
    assert.deepEqual([whole.text, whole.calls], [PREAMBLE, [{ toolName: 'get_weather', input: { city: 'Zürich' } }]]);
    await each(places.slice(0, 9), async (afterEvents) => {
      assert.deepEqual(await streamed(sim({ fault: 'cut', afterEvents }), { tools }), whole);
    });
    assert.ok(gateway.logs.some(({ event }) => event === 'stream_resumed'));
  });
});

it('the AI SDK inside a Worker streams a text over a break', async (t) => {
  const code = `
    import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
    import { streamText } from 'ai';
    export default {
      async fetch(request, env) {
        const sim = await request.json();
        const { chatModel } = createOpenAICompatible({
          name: 'gateway', baseURL: env.BASE_URL, apiKey: 'key', transformRequestBody: (body) => ({ ...body, sim }),
        });
        return streamText({ model: chatModel('qwen'), prompt: 'Hi', maxRetries: 0 }).toTextStreamResponse();
      },
    };
  `;
  const folder = fileURLToPath(new URL('.', import.meta.url));
  const miniflare = await startClientWorker(code, { folder, baseUrl: `${gateway.url}/v1`, flags: ['nodejs_compat'] });
  t.after(() => miniflare.dispose());
  for (const entry of [{}, ...FAULTS.map((fault) => ({ fault, afterEvents: 8 }))]) {
    const body = JSON.stringify(answers(DEFAULT_TEXT, entry));
    const response = await miniflare.dispatchFetch('http://worker.example/', { method: 'POST', body });
    assert.equal(await response.text(), DEFAULT_TEXT);
  }
});
