// /v1/completions, streamed and whole. Choice number = prompt number * n + number among that prompt's choices.

import { json } from './errors.mjs';
import {
  FINGERPRINT, bounded, checkStreamOptions, choicesWanted, data, idsOf, interleaved, openaiStream, promptTokens,
  stepIds, sum, textPieces, tokenIds, tokensOf, untilStop, usageEvent, usageOf, usageWanted,
} from './generation.mjs';
import { textOf, weight } from './tokens.mjs';

const DEFAULT_MAX_TOKENS = 16;
const NOTHING = {
  index: 0, text: '', logprobs: null, finish_reason: null, stop_reason: null, prompt_token_ids: null, token_ids: null,
};

export function completions(body, context, spec) {
  checkStreamOptions(body);
  const prompts = promptsOf(body.prompt);
  const n = choicesWanted(body);
  const asked = {
    id: `cmpl-${context.id}`,
    tokens: sum(prompts.map((prompt) => promptTokens(prompt, context))),
    promptIds: (index) => idsOf(body, prompts[Math.floor(index / n)]),
  };
  const choices = Array.from({ length: prompts.length * n }, (_, index) => {
    const { kept, stopReason } = untilStop(textPieces(spec, index), body.stop);
    const choice = bounded(kept.map((piece) => ({ piece })), body.max_tokens ?? DEFAULT_MAX_TOKENS, spec);
    return { ...choice, stopReason: choice.finish === 'stop' ? stopReason : null };
  });
  return body.stream && !spec.plain ? streamed(body, context, asked, choices) : whole(body, context, asked, choices);
}

/** A prompt is a text, a list of texts, a list of token ids or a list of such lists. */
function promptsOf(prompt) {
  const many = Array.isArray(prompt) && typeof prompt[0] !== 'number';
  return (many ? prompt : [prompt]).map(textOf);
}

function streamed(body, context, asked, choices) {
  const base = { id: asked.id, object: 'text_completion', created: context.created, model: context.model };
  const usage = usageWanted(body);

  const token = ({ index, step, count, finish }) => data({
    ...base,
    choices: [{
      index,
      text: step?.piece ?? '',
      logprobs: step ? logprobs(body, [step.piece]) : null,
      finish_reason: finish,
      stop_reason: finish && choices[index].stopReason,
      prompt_token_ids: count === 1 ? asked.promptIds(index) : null,
      token_ids: tokenIds(body, step),
    }],
    ...(usage.running && { usage: usageOf(asked.tokens, count) }),
    ...(finish && !usage.include && { system_fingerprint: FINGERPRINT }),
  });

  const [first, ...rest] = interleaved(choices, token);
  return openaiStream([
    { ...first, waits: 'firstTokenMs' },
    ...rest,
    ...(usage.include ? [usageEvent(base, asked.tokens, choices)] : []),
  ], data({ ...base, choices: [NOTHING] }));
}

function whole(body, context, asked, choices) {
  return json(200, {
    id: asked.id,
    object: 'text_completion',
    created: context.created,
    model: context.model,
    choices: choices.map(({ steps, finish, stopReason }, index) => ({
      index,
      text: steps.map(({ piece }) => piece).join(''),
      logprobs: logprobs(body, steps.map(({ piece }) => piece)),
      finish_reason: finish,
      stop_reason: stopReason,
      token_ids: stepIds(body, steps),
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

function logprobs(body, tokens) {
  if (body.logprobs === undefined || body.logprobs === null) return null;
  let end = 0;
  return {
    text_offset: tokens.map((token) => (end += token.length) - token.length),
    token_logprobs: tokens.map(weight),
    tokens,
    top_logprobs: tokens.map((token) => ({ [token]: weight(token) })),
  };
}
