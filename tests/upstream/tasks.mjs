// The routes that do not generate: vectors, scores, classes, tokens, and speech to text.

import { conversation, textPieces } from './continuation.mjs';
import { failure, json, missing, routeNotFound } from './errors.mjs';
import { bounded, data, openaiStream, promptPieces, promptTokens, sum, tokensOf } from './generation.mjs';
import { pieceOf, pieces, textOf, tokenId, weight } from './tokens.mjs';

const DIMENSIONS = 8;
const PCM_BYTES_PER_SECOND = 32_000;

/** One text per input; a list of token ids is one input. */
const inputsOf = (input) => (Array.isArray(input) && typeof input[0] !== 'number' ? input : [input]).map(textOf);

const inputOf = (body) => {
  const input = body.input ?? body.messages;
  if (input === undefined) throw missing('input', body);
  return inputsOf(input);
};

const vector = (text, length = DIMENSIONS) => Array.from({ length }, (_, at) => weight(`${at}/${text}`));

function list(prefix, context, texts, entries, usage = {}) {
  const prompt = sum(texts.map((text) => promptTokens(text, context)));
  return json(200, {
    id: `${prefix}-${context.id}`,
    object: 'list',
    created: context.created,
    model: context.model,
    data: entries,
    usage: { prompt_tokens: prompt, total_tokens: prompt, completion_tokens: 0, prompt_tokens_details: null, ...usage },
  });
}

export function embeddings(body, context) {
  const texts = inputOf(body);
  const encoded = (values) =>
    body.encoding_format === 'base64' ? Buffer.from(new Float32Array(values).buffer).toString('base64') : values;
  return list('embd', context, texts, texts.map((text, index) => ({
    index, object: 'embedding', embedding: encoded(vector(text, body.dimensions)),
  })));
}

export function pooling(body, context) {
  const texts = inputOf(body);
  return list('pool', context, texts, texts.map((text, index) => ({
    index, object: 'pooling', data: pieces(text).map((piece) => vector(piece)),
  })));
}

export function classify(body, context) {
  const texts = inputOf(body);
  return list('classify', context, texts, texts.map((text, index) => {
    const first = (1 - weight(text)) / 2;
    return { index, label: first >= 0.5 ? 'LABEL_0' : 'LABEL_1', probs: [first, 1 - first], num_classes: 2 };
  }));
}

const relevance = (query, document) => 1 + weight(`${query}\n${document}`);

export function score(body, context) {
  const queries = inputsOf(body.queries ?? body.text_1 ?? []);
  const documents = inputsOf(body.documents ?? body.text_2 ?? []);
  if (queries.length === 0) throw missing('queries', body);
  return list('score', context, [...queries, ...documents], documents.map((document, index) => ({
    index, object: 'score', score: relevance(queries[index] ?? queries[0], document),
  })));
}

export function rerank(body, context) {
  const documents = inputsOf(body.documents);
  const tokens = sum([body.query, ...documents].map((text) => promptTokens(textOf(text), context)));
  const results = documents
    .map((text, index) => ({
      index, document: { text, multi_modal: null }, relevance_score: relevance(textOf(body.query), text),
    }))
    .sort((a, b) => b.relevance_score - a.relevance_score || a.index - b.index)
    .slice(0, body.top_n || documents.length);
  return json(200, {
    id: `rerank-${context.id}`, model: context.model, usage: { prompt_tokens: tokens, total_tokens: tokens }, results,
  });
}

/** The tokens that a prompt has, or an answer: the same as a generating route counts. */
export function tokenize(body, context, spec) {
  if (spec.tokenizes === false) return routeNotFound();
  if (body.prompt === undefined && !Array.isArray(body.messages)) throw missing('prompt', body);
  const texts = body.prompt === undefined ? conversation(body, spec).texts : [textOf(body.prompt)];
  const all = promptPieces(texts, context);
  return json(200, {
    count: all.length,
    max_model_len: context.maxModelLen,
    tokens: all.map(tokenId),
    token_strs: body.return_token_strs ? all : null,
  });
}

export function detokenize(body) {
  return json(200, { prompt: body.tokens.map(pieceOf).join('') });
}

/** `body` holds the fields of a multipart form; see form.mjs. */
export const audio = (prefix, object) => (body, context, spec) => {
  if (!body.file?.bytes) return failure(400, 'Expected a file in the field `file`.', 'BadRequestError', 'file');
  const choice = bounded(textPieces(spec).map((piece) => ({ piece })), null, spec);
  const text = choice.steps.map(({ piece }) => piece).join('');
  if (body.response_format === 'text') {
    return { status: 200, type: 'text/plain; charset=utf-8', body: Buffer.from(text) };
  }
  if (body.stream !== 'true' || spec.plain) {
    const seconds = Math.ceil(body.file.bytes / PCM_BYTES_PER_SECOND);
    return json(200, { text, usage: { type: 'duration', seconds } }, { tokens: tokensOf(choice) });
  }
  const chunk = (delta, finish) => data({
    id: `${prefix}-${context.id}`, object, created: context.created, model: context.model,
    choices: [{ delta, finish_reason: finish, stop_reason: null }],
  });
  return openaiStream([
    ...choice.steps.map(({ piece }, at) => ({
      kind: 'content', waits: at === 0 ? 'firstTokenMs' : 'tokenMs', text: chunk({ content: piece }, null),
    })),
    { kind: 'finish', waits: 'tokenMs', text: chunk({ content: '' }, choice.finish) },
  ], chunk({ content: '' }, null));
};
