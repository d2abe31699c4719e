// The shapes in which vLLM 0.32 refuses a request, word for word where a capture has the words.
// An answer is plain data ({ status, type, body, headers? }); who writes it to a socket is reply.mjs.

import { STATUS_CODES } from 'node:http';
import { repr } from './python.mjs';

export const ENGINE_DEAD = 'EngineCore encountered an issue. See stack trace (above) for the root cause.';

export function json(status, value, more = {}) {
  return { status, type: 'application/json', body: Buffer.from(JSON.stringify(value)), ...more };
}

export function failure(status, message, type = STATUS_CODES[status], param = null, code = status) {
  return json(status, { error: { message, type, param, code } });
}

/** Thrown by whoever builds an answer; carries what vLLM would say instead. */
export class Refusal extends Error {
  constructor(status, message, type, param = null) {
    super(message);
    Object.assign(this, { status, type, param });
  }

  /** The messages route wraps its own errors in Anthropic's envelope, all others in OpenAI's. */
  answer(anthropic) {
    return anthropic && this.type !== 'Bad Request'
      ? json(this.status, { type: 'error', error: { type: this.type, message: this.message } })
      : failure(this.status, this.message, this.type, this.param);
  }
}

// Middleware that sits outside CORS answers this one: hence neither the usual shape nor `vary`.
export const unauthorized = () => json(401, { error: 'Unauthorized' }, { cors: false });
export const routeNotFound = () => json(404, { detail: 'Not Found' });
export const methodNotAllowed = (allow) => json(405, { detail: 'Method Not Allowed' }, { headers: { allow } });
export const scaling = () =>
  json(503, { error: 'The model is currently scaling. Please try again later.' });
export const engineDead = () => failure(500, ENGINE_DEAD, 'InternalServerError');
export const queueFull = () =>
  failure(503, 'The engine is currently busy and cannot accept new requests. '
    + 'Please try again later or on a different instance.');

export const unknownModel = (model, aliases) =>
  new Refusal(404, `The model \`${model}\` does not exist. Valid aliases: ${aliases.join(', ')}.`,
    'NotFoundError', 'model');

export const contextTooLong = (limit, tokens) =>
  new Refusal(400, `This model's maximum context length is ${limit} tokens. However, your prompt contains at least `
    + `${tokens} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of `
    + `the input prompt. (parameter=input_tokens, value=${tokens})`, 'BadRequestError', 'input_tokens');

/** FastAPI's validation errors reach the client as the Python repr of a dict, on lines of their own. */
export function invalid(error) {
  return new Refusal(400, `1 validation error:\n  ${repr(error)}`, 'Bad Request', error.loc);
}

export const brokenJson = (position) => invalid({
  type: 'json_invalid', loc: `body.${position}`, msg: 'JSON decode error', input: '<dict of 0 items>',
  ctx: { error: 'Expecting value' },
});

export const missing = (field, body) => invalid({
  type: 'missing', loc: `body.${field}`, msg: 'Field required', input: `<dict of ${Object.keys(body).length} items>`,
});

export const notAnObject = () =>
  invalid({ type: 'model_attributes_type', loc: 'body', msg: 'Input should be a valid dictionary' });

export const notAList = (field, input) =>
  invalid({ type: 'list_type', loc: `body.${field}`, msg: 'Input should be a valid list', input });
