// What the generating routes share: how many tokens, why they end, in which order the choices stream, what is counted.
//
// A streamed answer is a list of events { text, kind, waits }. `kind` tells the faults where they are: 'role' comes
// before any content, then 'content', 'finish', 'usage', 'done'. `waits` names the delay that goes before the event.

import { Refusal, contextTooLong, invalid } from './errors.mjs';
import { DEFAULT_TEXT, pieces, repeated, tokenId, EOS } from './tokens.mjs';

export const FINGERPRINT = 'vllm-0.32.0-3f5403e3';

const MAX_N = 128;
const DONE = 'data: [DONE]\n\n';

export const data = (value) => `data: ${JSON.stringify(value)}\n\n`;
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

export function promptTokens(text, context) {
  const count = pieces(text).length;
  if (count > context.maxModelLen) throw contextTooLong(context.maxModelLen, count);
  return count;
}

/** The text of an answer in pieces. Choices beyond the first begin with their index, so that mixing them up shows. */
export function textPieces(spec, index = 0, partial = '') {
  const text = (index > 0 ? `(${index}) ` : '') + (spec.text ?? DEFAULT_TEXT);
  const all = spec.tokens === undefined ? pieces(text) : repeated(text, spec.tokens);
  const whole = all.join('');
  // A continued message goes on behind the partial text, if the answer begins with it.
  const rest = partial && whole.startsWith(partial) ? pieces(whole.slice(partial.length)) : all;
  if (spec.eventBytes) rest.splice(2, 0, 'x'.repeat(spec.eventBytes));
  return rest;
}

/** The pieces before the first of the texts that the request ends an answer at, and which of them that was. */
export function untilStop(all, stop) {
  const text = all.join('');
  const places = [stop ?? []].flat().map((end) => [text.indexOf(end), end]).filter(([at]) => at >= 0);
  if (places.length === 0) return { kept: all, stopReason: null };
  const [at, stopReason] = places.sort(([a], [b]) => a - b)[0];
  return { kept: pieces(text.slice(0, at)), stopReason };
}

/** One choice: its steps, and why they end there. The sim field's `finishReason` ends it half way. */
export function bounded(steps, limit, spec, natural = 'stop') {
  if (spec.finishReason) return { steps: steps.slice(0, Math.ceil(steps.length / 2)), finish: spec.finishReason };
  if (limit !== undefined && limit !== null && limit <= steps.length) {
    return { steps: steps.slice(0, limit), finish: 'length' };
  }
  return { steps, finish: natural };
}

export const complete = ({ finish }) => finish === 'stop' || finish === 'tool_calls';

/** EOS is a token too, though nothing of it is seen. */
export const tokensOf = (choice) => choice.steps.length + (complete(choice) ? 1 : 0);

/**
 * The chunks of all choices in the order of a batch that decodes token by token. A text that reaches its limit ends
 * inside its last token's chunk; every other end has a chunk of its own.
 */
export function interleaved(choices, textFor) {
  const lanes = choices.map((choice, index) => {
    const chunks = choice.steps.map((step, at) => ({ index, step, count: at + 1, finish: null }));
    if (choice.finish === 'length' && choice.steps.at(-1)?.call === undefined && chunks.length > 0) {
      chunks.at(-1).finish = choice.finish;
    } else {
      chunks.push({ index, step: null, count: tokensOf(choice), finish: choice.finish });
    }
    return chunks;
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

export const tokenIds = (body, step) => (body.return_token_ids ? [step ? tokenId(step.piece) : EOS] : null);
export const idsOf = (body, text) => (body.return_token_ids ? pieces(text).map(tokenId) : null);
export const stepIds = (body, steps) => (body.return_token_ids ? steps.map(({ piece }) => tokenId(piece)) : null);

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
