// worker-vllm's older generation, and the OpenAI proxy in front of either.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { JobClient } from './job-client.mjs';
import { startRunpod } from './runpod.mjs';

const MESSAGES = [{ role: 'user', content: 'What is a fairlead?' }];
const TEXT = 'A fairlead guides a line and keeps it from chafing. Whatever the sea does, the line runs true.';

async function start(t, options) {
  const runpod = await startRunpod(options);
  t.after(() => runpod.close());
  return { runpod, endpoint: runpod.endpoint(), client: new JobClient(runpod) };
}

const chat = (body) => ({
  openai_route: '/v1/chat/completions', openai_input: { messages: MESSAGES, stream: true, ...body },
});
const eventsIn = (text) => text.split('\n\n').filter(Boolean);
const chunksIn = (text) => eventsIn(text).map((event) => event.slice('data: '.length))
  .filter((data) => data !== '[DONE]').map((data) => JSON.parse(data));
const contentOf = (chunks) => chunks.flatMap(({ choices }) => choices).map(({ delta }) => delta.content ?? '').join('');

describe('the older worker-vllm', () => {
  const older = (options) => ({ handler: 'worker-vllm-older', ...options });

  it('streams batches of 1, 3, 9, 27 and 50 whole events with RAW_OPENAI_OUTPUT', async (t) => {
    const { client } = await start(t, older());
    const { outputs, last } = await client.outputs(chat({ sim: { tokens: 100 } }));
    const sizes = outputs.map((output) => eventsIn(output).length);
    assert.deepEqual(sizes.slice(0, 5), [1, 3, 9, 27, 50]);
    assert.ok(outputs.every((output) => output.startsWith('data: ') && output.endsWith('\n\n')));
    assert.ok(outputs.at(-1).endsWith('data: [DONE]\n\n'));
    assert.deepEqual(last.output, outputs);
  });

  it('and without it lists of their JSON, with no [DONE]', async (t) => {
    const { client } = await start(t, older({ rawOpenaiOutput: false }));
    const { outputs, last } = await client.outputs(chat());
    assert.deepEqual(outputs.slice(0, 3).map((output) => output.length), [1, 3, 9]);
    assert.equal(contentOf(outputs.flat()), TEXT);
    assert.equal(outputs.flat().at(-1).choices[0].finish_reason, 'stop');
    assert.deepEqual(last.output, outputs);
  });

  it('gives an answer that does not stream, and the models, as one dict', async (t) => {
    const { client } = await start(t, older());
    const { output } = (await client.runsync(chat({ stream: false }))).body;
    assert.deepEqual(output.map(({ object }) => object), ['chat.completion']);
    assert.equal((await client.runsync({ openai_route: '/v1/models' })).body.output[0].object, 'list');
  });

  it('streams responses and messages event by event', async (t) => {
    const { client } = await start(t, older());
    const { outputs } = await client.outputs({
      openai_route: '/v1/responses', openai_input: { input: 'x', stream: true },
    });
    assert.ok(outputs.length > 10 && outputs.every((output) => eventsIn(output).length === 1));
    assert.ok(outputs[0].startsWith('event: response.created\n'));
  });

  it('fails with the repr of vLLM\'s error, which has a code and no HTTP status', async (t) => {
    const { client } = await start(t, older());
    const { status, error } = (await client.runsync(chat({ messages: 'x' }))).body;
    assert.equal(status, 'FAILED');
    assert.match(error, /^\{'message': .*, 'type': 'Bad Request', 'param': 'body.messages', 'code': 400\}$/s);
    assert.match((await client.runsync({ openai_route: '/v1/embeddings', openai_input: { input: 'x' } })).body.error,
      /'message': 'Invalid route'/);
  });

  it('and with a vLLM before v0.10.1 completes with an error for an output', async (t) => {
    const { client } = await start(t, older({ flatErrors: true }));
    const { status, output } = (await client.runsync(chat({ messages: 'x' }))).body;
    assert.equal(status, 'COMPLETED');
    assert.equal(output[0].object, 'error');
    assert.equal(output[0].code, 400);
  });

  it('answers its own form in batches of tokens, or with the whole text as one', async (t) => {
    const { client } = await start(t, older());
    const { outputs, last } = await client.outputs({ messages: MESSAGES, stream: true });
    assert.deepEqual(outputs.slice(0, 2).map(({ choices: [{ tokens }] }) => tokens.length), [1, 3]);
    assert.equal(outputs.flatMap(({ choices: [{ tokens }] }) => tokens).join(''), TEXT);
    assert.deepEqual(Object.keys(outputs[0].usage), ['input', 'output']);
    assert.ok(outputs[0].usage.input > 0);
    assert.equal(last.output.at(-1).usage.output, outputs.flatMap(({ choices: [{ tokens }] }) => tokens).length);

    const { output } = (await client.runsync({ prompt: 'x', sampling_params: { max_tokens: 3, n: 2 } })).body;
    assert.equal(output.length, 1);
    assert.deepEqual(output[0].choices.map(({ tokens }) => tokens.length), [1, 1]);
    assert.equal(output[0].usage.output, 6);
  });

  it('ends its own form at 100 tokens, and takes the batch sizes that the input gives', async (t) => {
    const { client } = await start(t, older());
    const { outputs } = await client.outputs({
      prompt: 'x', stream: true, sim: { tokens: 200 },
      max_batch_size: 8, batch_size_growth_factor: 2, min_batch_size: 2,
    });
    const sizes = outputs.map(({ choices: [{ tokens }] }) => tokens.length);
    assert.deepEqual(sizes.slice(0, 4), [2, 4, 8, 8]);
    assert.equal(sizes.reduce((sum, size) => sum + size), 100);
  });
});

describe('the OpenAI proxy', () => {
  const proxied = { handler: 'worker-vllm', vllm: { tokenMs: 5 } };
  const body = { messages: MESSAGES, stream: true };

  it('streams the worker\'s bytes and shows no job', async (t) => {
    const { client, runpod } = await start(t, { ...proxied, coldStartMs: 50 });
    const { status, headers, text } = await client.call('POST', '/openai/v1/chat/completions', body);
    assert.equal(status, 200);
    assert.equal(headers.get('content-type'), 'text/event-stream');
    assert.equal(contentOf(chunksIn(text)), TEXT);
    assert.ok(text.endsWith('data: [DONE]\n\n'));
    assert.equal(runpod.requests[0].job, runpod.ledger[0].id, 'but the record does');
  });

  it('answers what does not stream, and any other route', async (t) => {
    const { client } = await start(t, proxied);
    const ask = async (method, path, json) => (await client.call(method, `/openai/v1/${path}`, json)).body;
    const answer = await ask('POST', 'chat/completions', { messages: MESSAGES });
    assert.equal(answer.choices[0].message.content, TEXT);
    assert.equal((await ask('GET', 'models')).object, 'list');
    assert.equal((await ask('POST', 'embeddings', { input: 'x' })).object, 'list');
  });

  it('has its own status for a job that fails, and none for one that fails later', async (t) => {
    const { client, endpoint } = await start(t, { ...proxied, openaiErrorStatus: 502 });
    endpoint.vllm.script('http-503', { fault: 'cut-reset', afterEvents: 3 });
    const failed = await client.call('POST', '/openai/v1/chat/completions', body);
    assert.equal(failed.status, 502);
    assert.match(failed.body.error, /vLLM returned HTTP 503/);
    const cut = await client.call('POST', '/openai/v1/chat/completions', body);
    assert.equal(cut.status, 200);
    assert.ok(!cut.text.includes('[DONE]'), 'it ends as if that were all');
  });

  it('gives up in silence, and leaves the job running when the client leaves, both as told', async (t) => {
    const { client, endpoint } = await start(t, { ...proxied, openaiStreamMs: 60, vllm: { tokenMs: 20 } });
    const { text } = await client.call('POST', '/openai/v1/chat/completions', body);
    assert.ok(text.length > 0 && !text.includes('[DONE]'));
    assert.equal(endpoint.ledger[0].status, 'IN_PROGRESS');

    for (const openaiCancelsOnDisconnect of [false, true]) {
      const other = await start(t, { ...proxied, vllm: { tokenMs: 50 }, openaiCancelsOnDisconnect });
      const signal = AbortSignal.timeout(120);
      await assert.rejects(other.client.call('POST', '/openai/v1/chat/completions', body, { signal }));
      await sleep(30);
      const expected = openaiCancelsOnDisconnect ? 'CANCELLED' : 'IN_PROGRESS';
      assert.equal(other.endpoint.ledger[0].status, expected);
    }
  });

  it('breaks like every operation', async (t) => {
    const { client, endpoint } = await start(t, proxied);
    endpoint.faults.script('openai', 'http-429', 'cut-reset', 'html-502');
    const ask = () => client.call('POST', '/openai/v1/chat/completions', body);
    assert.equal((await ask()).status, 429);
    await assert.rejects(ask());
    assert.equal((await ask()).status, 502);
    const limited = await start(t, { ...proxied, limits: { openai: [0, 0] } });
    assert.equal((await limited.client.call('GET', '/openai/v1/models')).status, 429);
  });
});
