// Everything that can become of a call, as classes to catch. What failed, whether to ask again, and what had come by
// then stand in fields; the message is for people.

import type { Usage } from './types.js';

/** What had come of an answer when it broke off. */
export interface PartialAnswer {
  /** The text of the first choice. */
  text: string;
  /** What the model had thought, under either of vLLM's names. */
  reasoning: string;
  refusal: string;
  /** Calls of tools, the last of which may be cut in its arguments. */
  toolCalls: PartialToolCall[];
  usage: Usage | undefined;
  finishReason: string | undefined;
}

/** A call of a tool, as far as it came. */
export interface PartialToolCall {
  id: string;
  name: string;
  /** JSON, as the model wrote it. */
  arguments: string;
}

/** The fields of an error. */
export interface ErrorFields {
  code: string;
  status?: number | undefined;
  type?: string | undefined;
  param?: string | undefined;
  requestId?: string | undefined;
  attempts?: number | undefined;
  endpoint?: string | undefined;
  retryAfter?: number | undefined;
  retryable?: boolean | undefined;
  partial?: PartialAnswer | undefined;
  body?: unknown;
  cause?: unknown;
}

/** What every failed call throws, in one of the classes below. */
export class FairleadError extends Error {
  /** What failed, by its stable name: `upstream_timeout`, `circuit_open`, … or an endpoint's own word. */
  readonly code: string;
  /** The HTTP status, also where the failure came in the middle of a stream. */
  readonly status: number | undefined;
  /** `error.type` of the answer. */
  readonly type: string | undefined;
  /**
   * The field or timer concerned: of `upstream_timeout` it is `headers`, `first_token`, `idle`, `progress` or `queue`,
   * of `upstream_unreachable` it may be `offline` or `cors`.
   */
  readonly param: string | undefined;
  /** The id under which the call stands in a gateway's log, where `-` and the attempt follow it. */
  readonly requestId: string | undefined;
  /** Attempts over all endpoints, the first included. */
  readonly attempts: number | undefined;
  /** The endpoint that was asked last. */
  readonly endpoint: string | undefined;
  /** Milliseconds after which asking again makes sense, where that is known. */
  readonly retryAfter: number | undefined;
  /** Whether the same call may do better later. Retries within this one are spent. */
  readonly retryable: boolean;
  /** The answer's JSON, or its text. */
  readonly body: unknown;
  /** What had come of the answer: of a stream, or under `streamInternally`. */
  partial: PartialAnswer | undefined;

  constructor(message: string, fields: ErrorFields) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.code = fields.code;
    this.status = fields.status;
    this.type = fields.type;
    this.param = fields.param;
    this.requestId = fields.requestId;
    this.attempts = fields.attempts;
    this.endpoint = fields.endpoint;
    this.retryAfter = fields.retryAfter;
    this.retryable = fields.retryable ?? false;
    this.partial = fields.partial;
    this.body = fields.body;
  }

  static {
    named(this, 'FairleadError');
  }
}

/** The request cannot be understood, or the endpoint refused it (400, 405, 413, 422, …). */
export class InvalidRequestError extends FairleadError { static { named(this, 'InvalidRequestError'); } }
/** No key, or one that is not known (401). */
export class AuthenticationError extends FairleadError { static { named(this, 'AuthenticationError'); } }
/** The key may not do this (403). */
export class PermissionError extends FairleadError { static { named(this, 'PermissionError'); } }
/** No such model, route or job (404). */
export class NotFoundError extends FairleadError { static { named(this, 'NotFoundError'); } }
/** Too much at a time (429). */
export class RateLimitError extends FairleadError { static { named(this, 'RateLimitError'); } }
/** A timer ran out: `upstream_timeout`, `deadline_exceeded`, `job_timed_out`, `job_expired`. */
export class TimeoutError extends FairleadError { static { named(this, 'TimeoutError'); } }
/** No connection, or one that broke before an answer. Of a browser's, `param` may be `offline` or `cors`. */
export class ConnectionError extends FairleadError { static { named(this, 'ConnectionError'); } }
/** The endpoint has no room. */
export class OverloadedError extends FairleadError { static { named(this, 'OverloadedError'); } }
/** Every endpoint that could serve the call is left alone for now; nobody was asked. See `retryAfter`. */
export class CircuitOpenError extends FairleadError { static { named(this, 'CircuitOpenError'); } }
/** The stream ended before its answer was whole; `partial` has what came. */
export class StreamInterruptedError extends FairleadError { static { named(this, 'StreamInterruptedError'); } }
/** A RunPod job failed or was cancelled. */
export class JobError extends FairleadError { static { named(this, 'JobError'); } }
/** The endpoint answered what cannot be used, or failed by itself. */
export class UpstreamError extends FairleadError { static { named(this, 'UpstreamError'); } }
/** A defect, here or in the gateway. */
export class InternalError extends FairleadError { static { named(this, 'InternalError'); } }
/** The caller ended the call; `cause` is the signal's reason. */
export class AbortError extends FairleadError {
  static {
    named(this, 'AbortError');
  }

  constructor(reason?: unknown, partial?: PartialAnswer) {
    super('The call was aborted.', { code: 'aborted', cause: reason, partial });
  }
}

/** The name that a class keeps when it is minified; on the prototype, so that it heads the stack and is no field. */
function named(Class: { prototype: Error }, name: string): void {
  for (const bearer of [Class, Class.prototype]) Object.defineProperty(bearer, 'name', { value: name, configurable: true });
}

type Class = new (message: string, fields: ErrorFields) => FairleadError;

/** Each code's HTTP status, its class, and whether asking again later may do better. */
const CODES: Readonly<Record<string, readonly [number, Class, boolean]>> = {
  invalid_request: [400, InvalidRequestError, false],
  invalid_api_key: [401, AuthenticationError, false],
  forbidden: [403, PermissionError, false],
  model_not_found: [404, NotFoundError, false],
  route_not_found: [404, NotFoundError, false],
  job_not_found: [404, NotFoundError, false],
  method_not_allowed: [405, InvalidRequestError, false],
  request_too_large: [413, InvalidRequestError, false],
  rate_limited: [429, RateLimitError, true],
  upstream_timeout: [504, TimeoutError, true],
  deadline_exceeded: [504, TimeoutError, true],
  upstream_unreachable: [502, ConnectionError, true],
  upstream_invalid: [502, UpstreamError, true],
  upstream_rejected_key: [502, UpstreamError, false],
  upstream_overloaded: [503, OverloadedError, true],
  circuit_open: [503, CircuitOpenError, true],
  stream_interrupted: [502, StreamInterruptedError, true],
  job_failed: [502, JobError, false],
  job_timed_out: [504, TimeoutError, false],
  job_cancelled: [502, JobError, false],
  job_expired: [504, TimeoutError, true],
  config_invalid: [500, InternalError, false],
  internal: [500, InternalError, false],
};

/** The code of an answer that names none that is known. */
function codeOf(status: number): string {
  switch (status) {
    case 401: return 'invalid_api_key';
    case 403: return 'forbidden';
    case 404: return 'not_found';
    case 413: return 'request_too_large';
    case 429: return 'rate_limited';
    case 408: case 502: case 504: return 'upstream_unreachable';
    case 503: return 'upstream_overloaded';
    default: return status >= 400 && status < 500 ? 'invalid_request' : 'upstream_invalid';
  }
}

/** What is known beside the error itself. */
export interface Circumstances extends Omit<ErrorFields, 'code' | 'type' | 'param' | 'body'> {
  /** Rewords what the core says. */
  reword?: ((message: string) => string) | undefined;
}

/** The error that a body, or an error event of a stream, tells of. */
export function errorOf(body: unknown, { reword, ...known }: Circumstances): FairleadError {
  const { message, type, param, code, partial } = tell(body);
  const word = typeof code === 'string' && code ? code : undefined;
  const ours = word !== undefined && Object.hasOwn(CODES, word) ? CODES[word] : undefined;
  const status = known.status ?? ours?.[0] ?? (typeof code === 'number' && code >= 400 && code < 600 ? code : 500);
  const [, Class, retryable] = ours ?? CODES[codeOf(status)] ?? [404, NotFoundError, false];
  const said = message ?? `HTTP ${status} without an explanation.`;
  return new Class(reword && ours ? reword(said) : said, {
    ...known,
    status,
    code: word ?? codeOf(status),
    type,
    param,
    partial: known.partial ?? (partial ? ofText(partial) : undefined),
    // What a browser has kept from the page it will keep again.
    retryable: known.retryable ?? (retryable && param !== 'cors'),
    body,
  });
}

/** An error of one of the codes above. */
export const failure = (code: keyof typeof CODES & string, message: string, fields: Omit<ErrorFields, 'code'> = {}): FairleadError =>
  errorOf({ error: { message, code, param: fields.param } }, fields);

const ofText = (text: string): PartialAnswer =>
  ({ text, reasoning: '', refusal: '', toolCalls: [], usage: undefined, finishReason: undefined });

interface Told {
  message?: string | undefined;
  type?: string | undefined;
  param?: string | undefined;
  code?: unknown;
  /** The text so far of an answer that was streamed to whoever failed, but not to this caller. */
  partial?: string | undefined;
}

/** Reads the shapes that are about: nested, flat, a text for `error`, FastAPI's `detail`, or no JSON at all. */
function tell(body: unknown): Told {
  if (typeof body === 'string') return { message: body.trim().slice(0, 1000) || undefined };
  if (typeof body !== 'object' || body === null) return {};
  const { error, detail } = body as { error?: unknown; detail?: unknown };
  if (typeof error === 'string') return { message: error };
  const { message, type, param, code, partial } = (typeof error === 'object' && error !== null ? error : body) as Record<string, unknown>;
  const text = (value: unknown) => (typeof value === 'string' ? value : undefined);
  const plain = text(message) ?? text(detail) ?? (detail === undefined ? undefined : JSON.stringify(detail));
  return { message: plain, type: text(type), param: text(param), code, partial: text(partial) };
}
