// /v1/chat/completions, streamed and whole, key for key as in the captures.

import { conversation, textPieces } from './continuation.mjs';
import { invalid, json } from './errors.mjs';
import {
  FINGERPRINT, bounded, checkStreamOptions, choiceIds, choicesWanted, complete, counted, idsOf, interleaved, limitOf,
  openaiStream, promptPieces, sum, teller, tokenIds, tokensOf, untilStop, usageEvent, usageOf, usageWanted,
} from './generation.mjs';
import { DEFAULT_REASONING, hex, pieces, weight } from './tokens.mjs';

export function chat(body, context, spec) {
  if (body.tools?.length === 0) {
    throw invalid({
      type: 'too_short', loc: 'body.tools', msg: 'List should have at least 1 item after validation, not 0',
    });
  }
  checkStreamOptions(body);
  const { role, texts, partial } = conversation(body, spec);
  const prompt = promptPieces(texts, context);
  const asked = { role, partial, prompt, tokens: counted(prompt.length, context), id: `chatcmpl-${context.id}` };
  const limit = limitOf('max_tokens', body.max_completion_tokens ?? body.max_tokens);
  const choices = Array.from({ length: choicesWanted(body) }, (_, index) => {
    const { steps, natural, stopReason = null } = stepsOf(body, asked, spec, index);
    return { ...bounded(steps, limit, spec, { natural, before: 1 }), stopReason };
  });
  return body.stream && !spec.plain
    ? streamed(body, context, asked, choices, spec)
    : whole(body, context, asked, choices, spec);
}

/** What one choice says, token by token: { piece, delta }, and `call` where the token belongs to a tool call. */
function stepsOf(body, { id, partial }, spec, index) {
  if (body.tools && body.tool_choice !== 'none') {
    const forced = typeof body.tool_choice === 'object' && body.tool_choice !== null;
    const { preamble: text } = spec;
    const said = text === undefined ? [] : textPieces({ ...spec, text }, index, partial);
    const calls = toolCalls(body, `${id}/${index}`);
    return { steps: [...contentSteps(said), ...calls.flatMap(toolSteps)], natural: forced ? 'stop' : 'tool_calls' };
  }
  const thinks = body.chat_template_kwargs?.enable_thinking === true && !partial;
  const reasoning = thinks ? pieces(DEFAULT_REASONING) : [];
  const name = reasoningName(spec);
  const format = body.response_format;
  // A grammar knows nothing of what was said before, so the JSON begins anew.
  const all = jsonFormat(format) ? pieces(spec.text ?? formatted(format)) : textPieces(spec, index, partial);
  const { kept, stopReason } = untilStop(all, body);
  return {
    steps: [
      ...reasoning.map((piece) => ({ piece, delta: { [name]: piece } })),
      ...contentSteps(kept),
    ],
    natural: 'stop',
    stopReason,
  };
}

const contentSteps = (all) => all.map((piece) => ({ piece, delta: { content: piece } }));

const jsonFormat = (format) => format?.type === 'json_object' || format?.type === 'json_schema';

/** What a grammar lets through, where the answer has to be JSON. */
const formatted = (format) => JSON.stringify(format.json_schema ? sample(format.json_schema.schema) : { a: 'line' });

// Older versions of vLLM called it reasoning_content.
const reasoningName = (spec) => (spec.reasoning_content ? 'reasoning_content' : 'reasoning');

function toolCalls(body, seed) {
  const only = body.tool_choice?.function?.name;
  return body.tools
    .map((tool) => tool.function)
    .filter(({ name }) => !only || name === only)
    .map(({ name, parameters }, call) => ({
      id: `chatcmpl-tool-${hex(`${seed}/${call}`)}`, call, name, value: sample(parameters),
    }));
}

function toolSteps({ id, call, name, value }) {
  // The model's raw text has blanks, which the re-serialised arguments of a whole answer lack.
  const raw = JSON.stringify(value, null, 1).replace(/\n\s*/g, ' ');
  const step = (piece, fragment) => ({ piece, call, fragment, delta: { content: null, tool_calls: [fragment] } });
  return [
    step(name, { id, type: 'function', index: call, function: { name } }),
    ...pieces(raw).map((piece) => step(piece, { index: call, function: { arguments: piece } })),
  ];
}

/** A value that fits a JSON schema well enough for a demo. */
function sample(schema = {}) {
  if (schema.enum) return schema.enum[0];
  switch (schema.type) {
    case 'string': return 'Zürich';
    case 'integer': return 3;
    case 'number': return 21.5;
    case 'boolean': return true;
    case 'array': return schema.items ? [sample(schema.items)] : [];
    default: {
      const properties = Object.entries(schema.properties ?? {});
      return Object.fromEntries(properties.map(([key, each]) => [key, sample(each)]));
    }
  }
}

function streamed(body, context, asked, choices, spec) {
  const base = { id: asked.id, object: 'chat.completion.chunk', created: context.created, model: context.model };
  const usage = usageWanted(body);
  const tell = teller(spec);
  const running = (count) =>
    usage.running && { usage: usageOf(asked.tokens, count, { completion_tokens_details: null }) };

  const role = (_, index) => ({
    kind: 'role',
    waits: index === 0 ? 'firstTokenMs' : undefined,
    text: tell({
      ...base,
      choices: [{ index, delta: { role: asked.role, content: '' }, logprobs: null, finish_reason: null }],
      ...running(0),
      prompt_token_ids: idsOf(body, asked.prompt),
      prompt_text: null,
    }),
  });

  const token = ({ index, step, delta, count, finish }) => tell({
    ...base,
    choices: [{
      index,
      delta,
      logprobs: step ? logprobs(body, step.pieces) : null,
      finish_reason: finish,
      ...(finish && { stop_reason: reasonOf(choices[index], finish) }),
      token_ids: tokenIds(body, choices[index], step),
    }],
    ...running(count),
    ...(finish && !usage.include && { system_fingerprint: FINGERPRINT }),
  });

  return openaiStream([
    ...choices.map(role),
    ...interleaved(choices, body, spec, token),
    ...(usage.include ? [usageEvent(base, asked.tokens, choices)] : []),
  ], tell({ ...base, choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: null, token_ids: null }] }));
}

function whole(body, context, asked, choices, spec) {
  return json(200, {
    id: asked.id,
    object: 'chat.completion',
    created: context.created,
    model: context.model,
    choices: choices.map((choice, index) => ({
      index,
      message: message(choice, asked, spec),
      logprobs: logprobs(body, choice.steps.map(({ piece }) => piece)),
      finish_reason: choice.finish,
      stop_reason: reasonOf(choice, choice.finish),
      token_ids: choiceIds(body, choice),
      routed_experts: null,
    })),
    service_tier: null,
    system_fingerprint: FINGERPRINT,
    usage: usageOf(asked.tokens, sum(choices.map(tokensOf)), {
      prompt_tokens_details: null, completion_tokens_details: null,
    }),
    prompt_logprobs: null,
    prompt_token_ids: idsOf(body, asked.prompt),
    prompt_text: null,
    kv_transfer_params: null,
    ec_transfer_params: null,
    metrics: null,
  }, { tokens: Math.max(...choices.map(tokensOf)) });
}

function message(choice, { role }, spec) {
  const joined = (key) => choice.steps.map(({ delta }) => delta[key] ?? '').join('');
  const name = reasoningName(spec);
  const calls = callsOf(choice);
  const reasoning = joined(name) || null;
  return {
    role,
    content: joined('content') || (calls.length > 0 || reasoning !== null ? null : ''),
    refusal: null,
    annotations: null,
    audio: null,
    function_call: null,
    ...(calls.length > 0 && { tool_calls: calls }),
    [name]: reasoning,
  };
}

const reasonOf = ({ stopReason }, finish) => (finish === 'stop' ? stopReason : null);

function callsOf(choice) {
  const calls = [];
  for (const { call, fragment } of choice.steps) {
    if (call === undefined) continue;
    const { id, type, function: part } = fragment;
    if (id) calls[call] = { id, type, function: { name: part.name, arguments: '' } };
    else calls[call].function.arguments += part.arguments;
  }
  if (complete(choice)) {
    for (const { function: made } of calls) made.arguments = JSON.stringify(JSON.parse(made.arguments));
  }
  return calls;
}

function logprobs(body, tokens) {
  if (!body.logprobs) return null;
  const entry = (token, logprob) => ({ token, logprob, bytes: [...Buffer.from(token)] });
  const ranks = Array.from({ length: body.top_logprobs ?? 0 }, (_, rank) => rank);
  return {
    content: tokens.map((token) => ({
      ...entry(token, weight(token)),
      top_logprobs: ranks.map((rank) => entry(rank ? `${token}${rank}` : token, weight(token) - rank)),
    })),
  };
}
