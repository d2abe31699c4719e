// worker-vllm before v2.24.0: vLLM's engine inside the worker. What it yields is from src/engine.py and src/utils.py at
// v2.23.0, and at v2.4.0 for the flat errors; README.md says what was found there.
//
// The simulated vLLM stands for the engine here too: its events are batched as the worker did it.

import { fetchFrom, textOf } from './worker-vllm.mjs';

const BATCHED = ['/v1/chat/completions', '/v1/completions'];
const ONE_BY_ONE = ['/v1/responses', '/v1/messages'];
const DEFAULT_MAX_TOKENS = 100;

/** @param options `rawOpenaiOutput`: what RAW_OPENAI_OUTPUT says; `flatErrors`: as with a vLLM before v0.10.1 */
export function olderWorkerVllm(vllm, { rawOpenaiOutput, flatErrors }) {
  const errorOf = ({ error }) => (flatErrors ? { object: 'error', ...error } : { error });
  const refuse = (message) => errorOf({ error: { message, type: 'BadRequestError', param: null, code: 400 } });

  async function* openai({ openai_route: route, openai_input: body }, signal) {
    if (route === '/v1/models') {
      yield JSON.parse(await textOf(await fetchFrom(vllm, { path: route, method: 'GET' }, signal)));
    } else if (![...BATCHED, ...ONE_BY_ONE].includes(route)) {
      yield refuse('Invalid route');
    } else {
      const response = await fetchFrom(vllm, { path: route, method: 'POST', body }, signal);
      if (response.statusCode >= 400) yield errorOf(JSON.parse(await textOf(response)));
      else if (!body.stream) yield JSON.parse(await textOf(response));
      else if (ONE_BY_ONE.includes(route)) yield* eventsOf(response);
      else yield* batches(response);
    }
  }

  /** Strings of whole events, or lists of their JSON without the [DONE]. Comments get lost in both. */
  async function* batches(response) {
    const size = new BatchSize({});
    let batch = [];
    const flushed = () => (rawOpenaiOutput ? batch.join('') : batch);
    for await (const event of eventsOf(response)) {
      if (!event.includes('data')) continue;
      if (rawOpenaiOutput) batch.push(event);
      else if (event.includes('[DONE]')) continue;
      else batch.push(JSON.parse(event.slice('data: '.length)));
      if (batch.length < size.current) continue;
      yield flushed();
      batch = [];
      size.grow();
    }
    if (batch.length > 0) yield flushed();
  }

  /** Its own form: the new text of every token in batches, or the whole text as if it were one token. */
  async function* native(input, signal) {
    const { messages, prompt, stream = false, sampling_params: sampling = {}, sim } = input;
    const path = messages ? '/v1/chat/completions' : '/v1/completions';
    const body = {
      max_tokens: DEFAULT_MAX_TOKENS, ...sampling, sim, stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      ...(messages ? { messages } : { prompt }),
    };
    const response = await fetchFrom(vllm, { path, method: 'POST', body }, signal);
    // Its own errors are in an envelope, whatever the form of what is inside.
    if (response.statusCode >= 400) {
      const { error } = JSON.parse(await textOf(response));
      yield { error: flatErrors ? { object: 'error', ...error } : { error } };
      return;
    }
    const size = new BatchSize(input);
    const texts = Array.from({ length: sampling.n ?? 1 }, () => '');
    const emptyBatch = () => texts.map(() => ({ tokens: [] }));
    let choices = emptyBatch();
    let count = 0;
    const usage = { input: 0, output: 0 };
    for await (const event of eventsOf(response)) {
      if (event.includes('[DONE]')) continue;
      const chunk = JSON.parse(event.slice('data: '.length));
      if (chunk.error) throw new Error(chunk.error.message);
      usage.input = chunk.usage?.prompt_tokens ?? usage.input;
      for (const { index, delta, text = delta?.content } of chunk.choices) {
        if (!text) continue;
        texts[index] += text;
        usage.output += 1;
        if (!stream) continue;
        choices[index].tokens.push(text);
        count += 1;
        if (count < size.current) continue;
        yield { choices, usage: { ...usage } };
        choices = emptyBatch();
        count = 0;
        size.grow();
      }
    }
    if (!stream) choices = texts.map((text) => ({ tokens: [text] }));
    if (!stream || count > 0) yield { choices, usage: { ...usage } };
  }

  return {
    generator: true,
    aggregate: true,
    concurrency: 30,
    async* run(input, { signal }) {
      try {
        yield* input.openai_route ? openai(input, signal) : native(input, signal);
      } catch (error) {
        if (!signal.aborted) yield { error: error.message };
      }
    },
  };
}

/** 1, 3, 9, 27, 50, 50, …: the first token is quick, the rest is cheap. The input of the native form changes it. */
class BatchSize {
  #most;
  #growth;

  constructor({ max_batch_size: most, batch_size_growth_factor: growth, min_batch_size: least }) {
    this.#most = most || 50;
    this.#growth = growth || 3;
    this.current = this.#growth > 1 && this.#most > (least || 1) ? least || 1 : this.#most;
  }

  grow() {
    this.current = Math.min(this.current * this.#growth, this.#most);
  }
}

/** The events of a stream, each with its blank line. */
async function* eventsOf(response) {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of response) {
    const events = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
    rest = events.pop();
    for (const event of events) yield `${event}\n\n`;
  }
}
