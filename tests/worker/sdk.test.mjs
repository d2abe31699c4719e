// What an unmodified OpenAI client receives through the gateway is what the same client receives from the endpoint
// itself, and where an answer breaks it says so in the client's own way.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import OpenAI, { APIError, toFile } from 'openai';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, requestsOf, sha256, startGateway, STAYS_CLOSED } from './gateway.mjs';

const SLASHED = 'Qwen/Qwen2.5-7B-Instruct';
const MESSAGES = [{ role: 'user', content: 'Was ist ein Fairlead? 綱を導くもの 🪢' }];
const TOOL = {
  type: 'function',
  function: {
    name: 'get_weather',
    parameters: { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } } },
  },
};
const OTHER_TOOL = { type: 'function', function: { name: 'get_tide', parameters: { type: 'object', properties: {} } } };

let vllm;
let gateway;
let direct;
let through;
before(async () => {
  vllm = await startVllm({ models: ['served'], apiKey: 'endpoint-key' });
  const targets = [{ endpoint: 'vllm', model: 'served' }];
  const patience = { backoff: { base_ms: 1, throttled_base_ms: 1, max_ms: 1 }, breaker: STAYS_CLOSED };
  gateway = await startGateway({
    endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'VLLM_API_KEY' })),
    models: [{ name: 'asked', targets }, { name: SLASHED, targets }],
    policies: { default: patience, resume: { ...patience, resume: 'continue' } },
    clients: [{ name: 'web', keys_sha256: [sha256('client-key')], policies: ['resume'] }],
  }, { secrets: { VLLM_API_KEY: 'endpoint-key' } });
  direct = new OpenAI({ baseURL: `${vllm.url}/v1`, apiKey: 'endpoint-key', maxRetries: 0, timeout: 20_000 });
  through = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'client-key', maxRetries: 0, timeout: 20_000 });
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

let count = 0;
const newId = () => `call-${count += 1}`;

/**
 * Asks the endpoint itself and through the gateway, and compares what the SDK makes of the two.
 * vLLM builds the answer's id from the request's, and the gateway sends an id that ends in the attempt's number.
 */
async function assertSame(ask) {
  const id = newId();
  const expected = await ask(direct, 'served', { headers: { 'x-request-id': `${id}-1` } });
  const received = await ask(through, 'asked', { headers: { 'x-request-id': id } });
  assert.deepEqual(received, expected);
  return received;
}

/** Every chunk of a stream. */
async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

describe('a chat that breaks and goes on is one to the helpers of the SDK', () => {
  const thinks = { chat_template_kwargs: { enable_thinking: true } };
  /** What is asked for, behind how many events it breaks, and how it goes on. */
  const cases = {
    'plain text': [{}, 6, 'continue'],
    'plain text with usage': [{ stream_options: { include_usage: true } }, 6, 'continue'],
    'structured output': [{ response_format: { type: 'json_object' } }, 4, 'verify'],
    'reasoning': [thinks, 4, 'verify'],
    'an answer behind reasoning': [thinks, 16, 'verify'],
  };
  for (const [name, [parameters, afterEvents, way]] of Object.entries(cases)) {
    it(name, async () => {
      const id = newId();
      const ask = (client, model, headers) =>
        client.chat.completions.stream({ model, messages: MESSAGES, ...parameters }, { headers }).finalChatCompletion();
      const expected = await ask(direct, 'served', { 'x-request-id': `${id}-1` });
      vllm.script({ fault: 'cut', afterEvents });
      const received = await ask(through, 'asked', { 'x-request-id': id, 'x-fairlead-policy': 'resume' });
      assert.deepEqual(received, expected);
      const { way: taken } = await gateway.line({ request_id: id, event: 'stream_resumed' });
      assert.equal(taken, way);
    });
  }

  it('calls of tools: asked for again before the first, an error in their middle', async () => {
    const ask = () => through.chat.completions.stream(
      { model: 'asked', messages: MESSAGES, tools: [TOOL, OTHER_TOOL], tool_choice: 'required' },
      { headers: { 'x-fairlead-policy': 'resume' } },
    ).finalChatCompletion();
    vllm.script({ fault: 'cut', afterEvents: 1 });
    const { choices: [{ message }] } = await ask();
    assert.deepEqual(message.tool_calls.map(({ function: { name, arguments: text } }) => [name, JSON.parse(text)]), [
      ['get_weather', { city: 'Zürich', days: 3 }], ['get_tide', {}],
    ]);
    vllm.script({ fault: 'cut', afterEvents: 5 });
    await assert.rejects(ask(), (error) => error instanceof APIError && error.code === 'stream_interrupted');
  });
});

describe('a chat comes through as the endpoint gave it', () => {
  const cases = {
    'plain text': {},
    'several choices': { n: 2 },
    'one tool': { tools: [TOOL] },
    'two tools of which one must be called': { tools: [TOOL, OTHER_TOOL], tool_choice: 'required' },
    'a named tool': {
      tools: [TOOL, OTHER_TOOL], tool_choice: { type: 'function', function: { name: 'get_weather' } },
    },
    'reasoning': { chat_template_kwargs: { enable_thinking: true } },
    'reasoning under its older name': {
      chat_template_kwargs: { enable_thinking: true }, sim: { reasoning_content: true },
    },
    'logprobs': { logprobs: true, top_logprobs: 3 },
    'token ids': { return_token_ids: true },
    'a limit': { max_completion_tokens: 5 },
    'structured output': {
      response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'object' } } },
    },
    'parameters that only vLLM knows': {
      top_k: 20, min_p: 0.05, repetition_penalty: 1.1, stop_token_ids: [7], ignore_eos: false, bad_words: ['chafe'],
      structured_outputs: { choice: ['line', 'rope'] }, cache_salt: 'x', vllm_xargs: { a: 1 }, include_reasoning: true,
    },
    'characters of many bytes, cut anywhere': {
      sim: { text: 'Zürich 東京 👩‍🚀🪢 עברית नमस्ते \u0000 \u2028 "\\', segment: 1 },
    },
  };

  for (const [name, parameters] of Object.entries(cases)) {
    it(`whole: ${name}`, async () => {
      const completion = await assertSame((client, model, options) =>
        client.chat.completions.create({ model, messages: MESSAGES, ...parameters }, options));
      assert.equal(completion.model, 'served');
      assert.equal(completion.choices.length, parameters.n ?? 1);
    });

    it(`streamed: ${name}`, async () => {
      const chunks = await assertSame((client, model, options) =>
        all(client.chat.completions.create({ model, messages: MESSAGES, stream: true, ...parameters }, options)));
      const finished = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.finish_reason);
      assert.equal(finished.length, parameters.n ?? 1);
    });
  }

  for (const [name, stream_options] of Object.entries({
    'at the end': { include_usage: true },
    'in every chunk': { include_usage: true, continuous_usage_stats: true },
  })) {
    it(`streamed: usage ${name}`, async () => {
      const chunks = await assertSame((client, model, options) => all(
        client.chat.completions.create({ model, messages: MESSAGES, stream: true, stream_options }, options),
      ));
      assert.ok(chunks.at(-1).usage.completion_tokens > 0);
      assert.equal(chunks.every(({ usage }) => usage), stream_options.continuous_usage_stats ?? false);
    });
  }

  it('assembled by the SDK from a stream', async () => {
    const completion = await assertSame((client, model, options) => client.chat.completions
      .stream({ model, messages: MESSAGES, tools: [TOOL], stream_options: { include_usage: true } }, options)
      .finalChatCompletion());
    assert.deepEqual(JSON.parse(completion.choices[0].message.tool_calls[0].function.arguments), {
      city: 'Zürich', days: 3,
    });
  });
});

describe('every other route that the SDK has comes through as the endpoint gave it', () => {
  const prompts = {
    'one prompt': 'The quick',
    'several prompts': ['The quick', 'brown 狐'],
    'several prompts of tokens': [[1, 2, 3], [4]],
  };
  for (const [name, prompt] of Object.entries(prompts)) {
    for (const n of [1, 2]) {
      it(`completions: ${name}, n = ${n}`, async () => {
        const wanted = n * (name === 'one prompt' ? 1 : 2);
        const whole = await assertSame((client, model, options) =>
          client.completions.create({ model, prompt, n, logprobs: 1, return_token_ids: true }, options));
        assert.equal(whole.choices.length, wanted);
        const streamed = { prompt, n, stream: true, stream_options: { include_usage: true } };
        const chunks = await assertSame((client, model, options) =>
          all(client.completions.create({ model, ...streamed }, options)));
        const finished = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.finish_reason);
        assert.equal(finished.length, wanted);
      });
    }
  }

  it('embeddings, which the SDK asks for in base64', async () => {
    for (const more of [{}, { encoding_format: 'float' }, { dimensions: 4 }]) {
      const { data } = await assertSame((client, model, options) =>
        client.embeddings.create({ model, input: ['eins', 'zwei ✓'], ...more }, options));
      assert.equal(data.length, 2);
      assert.equal(data[0].embedding.length, more.dimensions ?? 8);
    }
  });

  it('responses', async () => {
    const whole = await assertSame((client, model, options) =>
      client.responses.create({ model, input: 'Hallo 👋', instructions: 'Be brief.' }, options));
    assert.equal(whole.status, 'completed');
    const events = await assertSame((client, model, options) =>
      all(client.responses.create({ model, input: 'Hallo 👋', stream: true }, options)));
    assert.equal(events.at(-1).type, 'response.completed');
  });

  for (const task of ['transcriptions', 'translations']) {
    it(`audio ${task}, whose requests are forms`, async () => {
      const file = await toFile(Buffer.from([0, 255, 13, 10, 45, 45, 13, 10]), 'a.wav', { type: 'audio/wav' });
      const create = (client, body, options) => client.audio[task].create({ file, ...body }, options);
      const whole = await assertSame((client, model, options) => create(client, { model, temperature: 0.5 }, options));
      assert.ok(whole.text.length > 0);
      const text = await assertSame((client, model, options) =>
        create(client, { model, response_format: 'text' }, options));
      assert.equal(typeof text, 'string');
      // The SDK streams transcriptions only.
      if (task === 'translations') return;
      const chunks = await assertSame((client, model, options) =>
        all(create(client, { model, stream: true }, options)));
      assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
    });
  }

  it('models, which are the names in CONFIG', async () => {
    const names = (await all(through.models.list())).map(({ id }) => id);
    assert.deepEqual(names, ['asked', SLASHED]);
    assert.equal((await through.models.retrieve(SLASHED)).id, SLASHED);
    await assert.rejects(through.models.retrieve('served'), { status: 404, code: 'model_not_found' });
  });
});

describe('what goes wrong reaches the caller of the SDK as it expects it', () => {
  const chat = (parameters, client = through) =>
    client.chat.completions.create({ model: 'asked', messages: MESSAGES, ...parameters });

  /** The chunks up to the error, and the error. */
  async function broken(stream) {
    const chunks = [];
    try {
      for await (const chunk of await stream) chunks.push(chunk);
    } catch (error) {
      return { chunks, error };
    }
    return assert.fail('the stream ended like a whole one');
  }

  for (const [fault, code] of Object.entries({
    cut: 'stream_interrupted',
    'end-without-finish': 'stream_interrupted',
    'done-without-finish': 'stream_interrupted',
    abort: 'stream_interrupted',
    'error-mid-stream': 'stream_interrupted',
  })) {
    it(`a chat that breaks in the middle (${fault}) throws ${code} behind the chunks that came`, async () => {
      const { chunks, error } = await broken(chat({ stream: true, sim: { fault } }));
      assert.ok(chunks.some(({ choices }) => choices[0].delta.content));
      assert.ok(error instanceof APIError);
      assert.equal(error.code, code);
      assert.equal(error.type, 'api_error');
    });
  }

  it('completions that break in the middle throw, too', async () => {
    const { chunks, error } = await broken(
      through.completions.create({ model: 'asked', prompt: 'x', stream: true, sim: { fault: 'cut' } }),
    );
    assert.ok(chunks.length > 0);
    assert.equal(error.code, 'stream_interrupted');
  });

  it('responses that break in the middle throw, too', async () => {
    const { chunks, error } = await broken(
      through.responses.create({ model: 'asked', input: 'x', stream: true, sim: { fault: 'cut', afterEvents: 6 } }),
    );
    assert.ok(chunks.some(({ type }) => type === 'response.output_text.delta'));
    assert.equal(error.code, 'stream_interrupted');
  });

  it('an error has its class, status, code and request id', async () => {
    const error = await chat({ model: 'nobody' }).catch((thrown) => thrown);
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.deepEqual([error.status, error.code, error.param], [404, 'model_not_found', 'model']);
    assert.match(error.requestID, /^[0-9a-f]{32}$/);
    const stranger = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'wrong', maxRetries: 0, timeout: 20_000 });
    await assert.rejects(chat({}, stranger), OpenAI.AuthenticationError);
  });

  it("an endpoint's refusal of a request arrives in the endpoint's own words", async () => {
    await assertSame((client, model, options) => client.chat.completions
      .create({ model, messages: MESSAGES, sim: { fault: 'context-length' } }, options)
      .catch(({ status, error }) => ({ status, error })));
  });

  it('the SDK does not multiply the attempts of the gateway', async () => {
    const client = through.withOptions({ maxRetries: 2 });
    for (const [fault, status, code] of [
      ['http-503', 503, 'upstream_overloaded'],
      ['reset', 502, 'upstream_unreachable'],
      ['http-409', 409, 409],
    ]) {
      const id = newId();
      const error = await client.chat.completions
        .create({ model: 'asked', messages: MESSAGES, sim: { fault } }, { headers: { 'x-request-id': id } })
        .catch((thrown) => thrown);
      assert.deepEqual([error.status, error.code], [status, code]);
      assert.equal(error.headers.get('x-should-retry'), 'false');
      assert.equal(requestsOf(vllm, id).length, fault === 'http-409' ? 1 : 3);
    }
  });
});
