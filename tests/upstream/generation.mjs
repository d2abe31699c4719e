// What the generating routes share: how many tokens, why they end, in which order the choices stream, what is counted.
//
// A streamed answer is a list of events { text, kind, waits }. `kind` tells the faults where they are: 'role' comes
// before any content, then 'content', 'finish', 'usage', 'done'. `waits` names the delay that goes before the event.

import { Refusal, contextTooLong, invalid } from './errors.mjs';
import { pieces, tokenId, EOS } from './tokens.mjs';

export const FINGERPRINT = 'vllm-0.32.0-3f5403e3';

const MAX_N = 128;
const DONE = 'data: [DONE]\n\n';

export const data = (value) => `data: ${JSON.stringify(value)}\n\n`;

const MARKS = new Set(['prompt_token_ids', 'token_ids', 'stop_reason']);
const withoutMarks = (name, value) => (MARKS.has(name) ? undefined : value);

/** How a server tells an event: one that is no vLLM without what only vLLM puts there. */
export const teller = ({ continues }) => (continues === 'ignored'
  ? (value) => `data: ${JSON.stringify(value, withoutMarks)}\n\n`
  : data);

export const named = (value) => `event: ${value.type}\ndata: ${JSON.stringify(value)}\n\n`;

// Python's json.dumps writes this one, hence the blanks.
const engineError = (message) => `data: {"error": {"message": ${JSON.stringify(message)}, `
  + '"type": "InternalServerError", "param": null, "code": 500}}\n\n';

/**
 * `empty` is an event of the dialect that brings nothing; `failed(message)` is how the dialect ends in an error once
 * its headers are out.
 */
export function stream(events, { empty, failed }) {
  return { status: 200, type: 'text/event-stream; charset=utf-8', events, empty, failed };
}

/** An OpenAI stream ends with [DONE], also behind an error. */
export function openaiStream(events, empty) {
  return stream([...events, { text: DONE, kind: 'done' }], {
    empty, failed: (message) => [engineError(message), DONE],
  });
}

/** A prompt of several texts has the tokens of each: what is continued is counted as if it had never broken off. */
export const promptPieces = (texts, { stepping }) => texts.flatMap((text) => pieces(text, stepping));

export function counted(count, { maxModelLen }) {
  if (count > maxModelLen) throw contextTooLong(maxModelLen, count);
  return count;
}

export const promptTokens = (text, context) => counted(promptPieces([text], context).length, context);

/** How many tokens an answer may have; none given is null. */
export function limitOf(name, value) {
  if (value < 1 && value !== null) {
    throw new Refusal(400, `${name} must be at least 1, got ${value}. (parameter=${name}, value=${value})`,
      'BadRequestError', name);
  }
  return value ?? null;
}

/** The pieces up to the first of the texts that the request ends an answer at, and which of them that was. */
export function untilStop(all, { stop, include_stop_str_in_output: included }) {
  const text = all.join('');
  const places = [stop ?? []].flat().map((end) => [text.indexOf(end), end]).filter(([at]) => at >= 0);
  if (places.length === 0) return { kept: all, stopReason: null };
  const [at, stopReason] = places.sort(([a], [b]) => a - b)[0];
  const kept = [];
  for (let left = at + (included ? stopReason.length : 0), i = 0; left > 0; left -= all[i].length, i += 1) kept.push(all[i].slice(0, left));
  return { kept, stopReason };
}

/**
 * One choice: its steps, and why they end there. The sim field's `finishReason` ends it half way; the fault `abort`
 * behind `afterEvents`, of which `before` come before any content.
 */
export function bounded(steps, limit, spec, { natural = 'stop', before = 0 } = {}) {
  const whole = limit !== null && limit <= steps.length
    ? { steps: steps.slice(0, limit), finish: 'length' }
    : { steps, finish: natural };
  if (!spec.finishReason) return whole;
  if (spec.fault !== 'abort' || spec.afterEvents === undefined) {
    return { steps: steps.slice(0, Math.ceil(steps.length / 2)), finish: spec.finishReason };
  }
  const kept = inEvents(whole.steps, spec).slice(0, Math.max(0, spec.afterEvents - before));
  return { steps: steps.slice(0, sum(kept.map((event) => event.pieces.length))), finish: spec.finishReason };
}

/** What each event brings: one step, or `tokensPerEvent` of them, a number or several in turn. */
function inEvents(steps, { tokensPerEvent = 1 }) {
  const sizes = [tokensPerEvent].flat();
  const events = [];
  for (const step of steps) {
    const last = events.at(-1);
    if (last && last.pieces.length < sizes[(events.length - 1) % sizes.length] && alike(last, step)) {
      last.pieces.push(step.piece);
      last.delta = joined(last.delta, step.delta);
    } else {
      events.push({ ...step, pieces: [step.piece] });
    }
  }
  return events;
}

/** So many characters of a text are kept back until its end: a stop string may have begun in them. */
const heldBack = ({ stop, include_stop_str_in_output: included }) =>
  (included ? 0 : Math.max(1, ...[stop ?? []].flat().map((end) => [...end].length)) - 1);

/**
 * What each chunk says where the last characters of all that was said are held back, whatever name they go under. The
 * last chunk says the rest. Tool calls are told as they come.
 */
function saidLate(chunks, count) {
  if (count === 0 || chunks.some(({ step }) => step?.call !== undefined)) return chunks;
  const held = [];
  return chunks.map(({ step, ...chunk }) => {
    for (const [name, text] of Object.entries(step?.delta ?? {})) {
      held.push(...[...text].map((character) => [name, character]));
    }
    const delta = step ? Object.fromEntries(Object.keys(step.delta).map((name) => [name, ''])) : {};
    for (const [name, character] of held.splice(0, chunk.finish ? held.length : Math.max(0, held.length - count))) {
      delta[name] = (delta[name] ?? '') + character;
    }
    return { ...chunk, step, delta };
  });
}

const joined = (one, more) => one && Object.fromEntries(Object.keys(one).map((key) => [key, one[key] + more[key]]));

const fieldsOf = ({ delta = {} }) => Object.keys(delta);

/** Content goes together with content; of tool calls each fragment stays an event. */
const alike = (last, step) => step.call === undefined && String(fieldsOf(last)) === String(fieldsOf(step));

export const complete = ({ finish }) => finish === 'stop' || finish === 'tool_calls';

/** EOS is a token too, though nothing of it is seen. */
export const tokensOf = (choice) => choice.steps.length + (complete(choice) ? 1 : 0);

/**
 * The chunks of all choices in the order of a batch that decodes token by token: the `step` of each, and the `delta`
 * that is told with it. A text that reaches its limit ends inside its last token's chunk; every other end has a chunk
 * of its own.
 */
export function interleaved(choices, body, spec, textFor) {
  const lanes = choices.map((choice, index) => {
    let count = 0;
    const chunks = inEvents(choice.steps, spec).map((step) => {
      count += step.pieces.length;
      return { index, step, delta: step.delta, count, finish: null };
    });
    if (choice.finish === 'length' && choice.steps.at(-1)?.call === undefined && chunks.length > 0) {
      chunks.at(-1).finish = choice.finish;
    } else {
      chunks.push({ index, step: null, delta: {}, count: tokensOf(choice), finish: choice.finish });
    }
    return saidLate(chunks, heldBack(body));
  });
  const events = [];
  for (let t = 0; lanes.some((lane) => t < lane.length); t += 1) {
    const batch = lanes.filter((lane) => t < lane.length).map((lane) => lane[t]);
    batch.forEach((chunk, at) => events.push({
      kind: chunk.finish ? 'finish' : 'content',
      waits: at === 0 && t > 0 ? 'tokenMs' : undefined,
      text: textFor(chunk),
    }));
  }
  return events;
}

/** The ids that come with one event of a choice. */
export const tokenIds = (body, choice, step) => idsOf(body, step?.pieces ?? [], step ? [] : lastIds(choice));
/** Those of a whole choice. */
export const choiceIds = (body, choice) => idsOf(body, choice.steps.map(({ piece }) => piece), lastIds(choice));
export const idsOf = (body, texts, last = []) => (body.return_token_ids ? [...texts.map(tokenId), ...last] : null);
const lastIds = (choice) => (complete(choice) ? [EOS] : []);

export const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

export function usageOf(prompt, completion, details = {}) {
  return { prompt_tokens: prompt, total_tokens: prompt + completion, completion_tokens: completion, ...details };
}

/** What `stream_options` asks for: `include` the last chunk, and `running` counts in every chunk before it. */
export function usageWanted(body) {
  const include = body.stream_options?.include_usage === true;
  return { include, running: include && body.stream_options.continuous_usage_stats === true };
}

export function usageEvent(base, prompt, choices) {
  return {
    kind: 'usage',
    text: data({
      ...base, choices: [], usage: usageOf(prompt, sum(choices.map(tokensOf))), system_fingerprint: FINGERPRINT,
    }),
  };
}

export function choicesWanted(body) {
  const n = body.n ?? 1;
  const refuse = (message) => { throw new Refusal(400, message, 'BadRequestError', 'n'); };
  if (!Number.isInteger(n) || n < 1 || n > MAX_N) refuse(`n must be between 1 and ${MAX_N}, got ${n}.`);
  if (n > 1 && body.temperature === 0) refuse(`n must be 1 when using greedy sampling, got ${n}.`);
  return n;
}

export function checkStreamOptions(body) {
  if (body.stream_options && !body.stream) {
    throw invalid({
      type: 'value_error', loc: 'body', msg: 'Value error, Stream options can only be defined when `stream=True`.',
    });
  }
}
