// The two routes that speak other dialects: /v1/responses (OpenAI's second API) and /v1/messages (Anthropic's).
// Their streams name each event, and no [DONE] ends them while all goes well.

import { textPieces } from './continuation.mjs';
import { json } from './errors.mjs';
import { bounded, limitOf, named, promptTokens, stream, tokensOf } from './generation.mjs';
import { hex, textOf } from './tokens.mjs';

const event = (kind) => (value, waits) => ({ kind, waits, text: named(value) });
const role = event('role');
const content = event('content');
const finish = event('finish');

/** One event per token; the first comes with the prefill's end. */
const contents = (pieces, valueOf) =>
  pieces.map((piece, at) => content(valueOf(piece), at === 0 ? 'firstTokenMs' : 'tokenMs'));

function generate(prompt, limit, context, spec, before) {
  const input = promptTokens(prompt, context);
  const choice = bounded(textPieces(spec).map((piece) => ({ piece })), limit, spec, { before });
  const pieces = choice.steps.map(({ piece }) => piece);
  return { pieces, text: pieces.join(''), finish: choice.finish, input, output: tokensOf(choice) };
}

// ---- responses ----

export function responses(body, context, spec) {
  const prompt = `${textOf(body.instructions)}${textOf(body.input)}`;
  const made = generate(prompt, limitOf('max_output_tokens', body.max_output_tokens), context, spec, 4);
  const id = `resp_${hex(context.id)}`;
  const itemId = `msg_${hex(`${context.id}/item`)}`;
  const status = made.finish === 'stop' ? 'completed' : 'incomplete';
  const part = { annotations: [], text: made.text, type: 'output_text', logprobs: null };
  const item = { id: itemId, content: [part], role: 'assistant', status, type: 'message', phase: null };
  const last = responseObject(body, context, id, status, [item], responseUsage(made));
  if (!body.stream || spec.plain) return json(200, last, { tokens: made.output });

  const first = responseObject(body, context, id, 'in_progress', [], null);
  let count = 0;
  const next = () => count++;
  const delta = (text, number) => ({
    content_index: 0, delta: text, item_id: itemId, logprobs: [], output_index: 0, sequence_number: number,
    type: 'response.output_text.delta',
  });
  const events = [
    role({ response: first, sequence_number: next(), type: 'response.created' }),
    role({ response: first, sequence_number: next(), type: 'response.in_progress' }),
    role({
      item: { ...item, content: [], status: 'in_progress' }, output_index: 0, sequence_number: next(),
      type: 'response.output_item.added',
    }),
    role({
      content_index: 0, item_id: itemId, output_index: 0, part: { ...part, text: '', logprobs: [] },
      sequence_number: next(), type: 'response.content_part.added',
    }),
    ...contents(made.pieces, (piece) => delta(piece, next())),
    finish({
      content_index: 0, item_id: itemId, logprobs: [], output_index: 0, sequence_number: next(), text: made.text,
      type: 'response.output_text.done',
    }, 'tokenMs'),
    finish({
      content_index: 0, item_id: itemId, output_index: 0, part, sequence_number: next(),
      type: 'response.content_part.done',
    }),
    finish({ item, output_index: 0, sequence_number: next(), type: 'response.output_item.done' }),
    // The event is called `completed` also where the response's status is `incomplete`.
    finish({ response: last, sequence_number: next(), type: 'response.completed' }),
  ];
  return stream(events, {
    empty: named(delta('', count)),
    failed: (message) => [named({ type: 'error', code: 'server_error', message, param: null, sequence_number: count })],
  });
}

function responseObject(body, context, id, status, output, usage) {
  return {
    id,
    created_at: context.created,
    incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
    instructions: body.instructions ?? null,
    metadata: body.metadata ?? null,
    model: context.model,
    object: 'response',
    output,
    parallel_tool_calls: true,
    temperature: body.temperature ?? 1,
    tool_choice: body.tool_choice ?? 'none',
    tools: body.tools ?? [],
    top_p: body.top_p ?? 1,
    background: false,
    max_output_tokens: body.max_output_tokens ?? context.maxModelLen,
    max_tool_calls: null,
    previous_response_id: null,
    prompt: null,
    reasoning: null,
    service_tier: 'auto',
    status,
    text: null,
    top_logprobs: null,
    truncation: 'disabled',
    usage,
    user: body.user ?? null,
    presence_penalty: 0,
    frequency_penalty: 0,
    kv_transfer_params: null,
    ec_transfer_params: null,
    input_messages: null,
    output_messages: null,
  };
}

function responseUsage({ input, output }) {
  return {
    input_tokens: input,
    input_tokens_details: {
      cached_tokens: 0, cache_write_tokens: 0, input_tokens_per_turn: [], cached_tokens_per_turn: [],
    },
    output_tokens: output,
    output_tokens_details: {
      reasoning_tokens: 0, tool_output_tokens: 0, output_tokens_per_turn: [], tool_output_tokens_per_turn: [],
    },
    total_tokens: input + output,
  };
}

// ---- messages ----

export function messages(body, context, spec) {
  const made = generate(messagesPrompt(body), limitOf('max_tokens', body.max_tokens), context, spec, 2);
  const stops = { stop: 'end_turn', length: 'max_tokens' };
  const stopReason = stops[made.finish] ?? made.finish;
  const usage = { input_tokens: made.input, output_tokens: made.output };
  const message = (blocks, reason, counted) => ({
    id: `chatcmpl-${context.id}`, type: 'message', role: 'assistant', content: blocks, model: context.model,
    stop_reason: reason, stop_sequence: null, usage: counted,
  });
  if (!body.stream || spec.plain) {
    return json(200, message([{ type: 'text', text: made.text }], stopReason, usage), { tokens: made.output });
  }

  const delta = (text) => ({ type: 'content_block_delta', delta: { type: 'text_delta', text }, index: 0 });
  const events = [
    role({ type: 'message_start', message: message([], null, { ...usage, output_tokens: 0 }) }),
    role({ type: 'content_block_start', content_block: { type: 'text', text: '' }, index: 0 }),
    ...contents(made.pieces, delta),
    finish({ type: 'content_block_stop', index: 0 }, 'tokenMs'),
    finish({ type: 'message_delta', delta: { stop_reason: stopReason, stop_sequence: null }, usage }),
    finish({ type: 'message_stop' }),
  ];
  return stream(events, {
    empty: named(delta('')),
    failed: (text) => [named({ type: 'error', error: { type: 'internal_error', message: text } }), 'data: [DONE]\n\n'],
  });
}

export function countTokens(body, context) {
  return json(200, { input_tokens: promptTokens(messagesPrompt(body), context) });
}

const messagesPrompt = (body) => [body.system, ...body.messages.map((each) => each?.content)].map(textOf).join('\n');
