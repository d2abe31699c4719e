// /v1/completions, streamed and whole. Choice number = prompt number * n + number among that prompt's choices.

import { promptParts, textPieces } from './continuation.mjs';
import { json } from './errors.mjs';
import {
  FINGERPRINT, bounded, checkStreamOptions, choiceIds, choicesWanted, counted, idsOf, interleaved, limitOf,
  openaiStream, promptPieces, sum, teller, tokenIds, tokensOf, untilStop, usageEvent, usageOf, usageWanted,
} from './generation.mjs';
import { textOf, weight } from './tokens.mjs';

const DEFAULT_MAX_TOKENS = 16;
const NOTHING = {
  index: 0, text: '', logprobs: null, finish_reason: null, stop_reason: null, prompt_token_ids: null, token_ids: null,
};

export function completions(body, context, spec) {
  checkStreamOptions(body);
  const limit = limitOf('max_tokens', body.max_tokens ?? DEFAULT_MAX_TOKENS);
  const n = choicesWanted(body);
  const parts = promptsOf(body.prompt).map((prompt, number) => promptParts(prompt, spec, number * n));
  const prompts = parts.map((texts) => promptPieces(texts, context));
  const asked = {
    id: `cmpl-${context.id}`,
    tokens: sum(prompts.map((prompt) => counted(prompt.length, context))),
    promptIds: (index) => idsOf(body, prompts[Math.floor(index / n)]),
  };
  const choices = Array.from({ length: prompts.length * n }, (_, index) => {
    const [, partial] = parts[Math.floor(index / n)];
    const { kept, stopReason } = untilStop(textPieces(spec, index, partial), body);
    const choice = bounded(kept.map((piece) => ({ piece, delta: { text: piece } })), limit, spec);
    return { ...choice, stopReason: choice.finish === 'stop' ? stopReason : null };
  });
  return body.stream && !spec.plain
    ? streamed(body, context, asked, choices, spec)
    : whole(body, context, asked, choices);
}

/** A prompt is a text, a list of texts, a list of token ids or a list of such lists. */
function promptsOf(prompt) {
  const many = Array.isArray(prompt) && typeof prompt[0] !== 'number';
  return (many ? prompt : [prompt]).map(textOf);
}

function streamed(body, context, asked, choices, spec) {
  const base = { id: asked.id, object: 'text_completion', created: context.created, model: context.model };
  const usage = usageWanted(body);
  const tell = teller(spec);

  const token = ({ index, step, delta, count, finish }) => tell({
    ...base,
    choices: [{
      index,
      text: delta.text ?? '',
      logprobs: step ? logprobs(body, step.pieces, textBefore(choices[index], count - step.pieces.length)) : null,
      finish_reason: finish,
      stop_reason: finish && choices[index].stopReason,
      prompt_token_ids: count === (step?.pieces.length ?? 1) ? asked.promptIds(index) : null,
      token_ids: tokenIds(body, choices[index], step),
    }],
    ...(usage.running && { usage: usageOf(asked.tokens, count) }),
    ...(finish && !usage.include && { system_fingerprint: FINGERPRINT }),
  });

  const [first, ...rest] = interleaved(choices, body, spec, token);
  return openaiStream([
    { ...first, waits: 'firstTokenMs' },
    ...rest,
    ...(usage.include ? [usageEvent(base, asked.tokens, choices)] : []),
  ], tell({ ...base, choices: [NOTHING] }));
}

function whole(body, context, asked, choices) {
  return json(200, {
    id: asked.id,
    object: 'text_completion',
    created: context.created,
    model: context.model,
    choices: choices.map((choice, index) => ({
      index,
      text: textBefore(choice, choice.steps.length),
      logprobs: logprobs(body, choice.steps.map(({ piece }) => piece)),
      finish_reason: choice.finish,
      stop_reason: choice.stopReason,
      token_ids: choiceIds(body, choice),
      prompt_logprobs: null,
      prompt_token_ids: asked.promptIds(index),
    })),
    service_tier: null,
    system_fingerprint: FINGERPRINT,
    usage: usageOf(asked.tokens, sum(choices.map(tokensOf)), {
      prompt_tokens_details: null, completion_tokens_details: null,
    }),
    kv_transfer_params: null,
    ec_transfer_params: null,
    metrics: null,
  }, { tokens: Math.max(...choices.map(tokensOf)) });
}

/** The text of a choice's first so many tokens. */
const textBefore = ({ steps }, count) => steps.slice(0, count).map(({ piece }) => piece).join('');

/** Offsets go on from event to event, and count characters as Python does. */
function logprobs(body, tokens, before = '') {
  if (body.logprobs === undefined || body.logprobs === null) return null;
  let end = [...before].length;
  const text_offset = tokens.map((token) => {
    const start = end;
    end += [...token].length;
    return start;
  });
  return {
    text_offset,
    token_logprobs: tokens.map(weight),
    tokens,
    top_logprobs: tokens.map((token) => ({ [token]: weight(token) })),
  };
}
