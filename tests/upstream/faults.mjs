// Every way in which the simulated vLLM can misbehave, by name.
//
// A fault is { about, params, on, run }. `params` are its own parameters with their defaults; the request's `sim` field
// or `server.script()` override them. `on` says which answers it touches:
//   'any'      all, and it happens before vLLM looks at the request;
//   'answer'   whatever vLLM answers with success;
//   'stream'   streams only, other answers go out whole.
// An answer that refuses the request (a wrong key, a bad body) goes out as it is, unless the fault is on 'any'.

import { STATUS_CODES } from 'node:http';
import { gzipSync } from 'node:zlib';
import {
  ENGINE_DEAD, contextTooLong, engineDead, failure, json, queueFull, scaling, unauthorized, unknownModel,
} from './errors.mjs';

const KEEP_ALIVE = ': keep-alive\n\n';
const HUGE_HEADER = 8 * 1024;
const ENDLESS_STEP = 64 * 1024;
const BOM = '\ufeff';
const LINE_ENDS = { lf: '\n', crlf: '\r\n', cr: '\r' };

const whole = (reply, answer) => reply.whole(answer);
const half = (bytes) => bytes.subarray(0, bytes.length >> 1);
const kinds = (answer, ...wanted) => answer.events.filter(({ kind }) => wanted.includes(kind));
const before = (answer, { afterEvents }) => kinds(answer, 'role', 'content').slice(0, afterEvents);

const any = (about, params, run) => ({ about, params, on: 'any', run });
const onAnswer = (about, params, run = whole) => ({ about, params, on: 'answer', run });
const onStream = (about, params, run = whole) => ({ about, params, on: 'stream', run });

export const FAULTS = {
  ok: onAnswer('the answer as vLLM gives it', {}),

  // ---- before the headers ----
  reset: any('RST before the status line', {}, (reply) => reply.reset()),
  close: any('FIN before the status line', {}, (reply) => reply.close()),
  hang: any('accepts the request and never answers', {}, (reply) => reply.hang()),
  'slow-headers': onAnswer('headers only after `delayMs`', { delayMs: 5000 }),
  'huge-headers': onAnswer('`bytes` of response headers', { bytes: 256 * 1024 }, (reply, answer, { bytes }) => {
    const count = Math.ceil(bytes / HUGE_HEADER);
    const padding = Array.from({ length: count }, (_, at) => [`x-padding-${at}`, 'x'.repeat(HUGE_HEADER)]);
    return reply.whole({ ...answer, headers: { ...answer.headers, ...Object.fromEntries(padding) } });
  }),

  // ---- silence ----
  'hang-after-headers': onAnswer('headers, then nothing', {}, async (reply, answer) => {
    await reply.head(answer);
    await reply.hang();
  }),
  'slow-first-token': onStream('silence for `ms` after `afterEvents` events (1: after the role)',
    { ms: 5000, afterEvents: 0 }, async (reply, answer, { ms, afterEvents }) => {
      await reply.head(answer);
      await reply.events(answer.events.slice(0, afterEvents));
      await reply.wait(ms);
      await reply.events(answer.events.slice(afterEvents));
      await reply.end();
    }),
  stall: onAnswer('`afterEvents` events (or half a plain body), then nothing', { afterEvents: 3 },
    async (reply, answer, params) => {
      await reply.head(answer);
      if (answer.events) await reply.events(before(answer, params));
      else await reply.payload(half(answer.body));
      await reply.hang();
    }),
  'stall-after-finish': onStream('nothing after finish_reason: no usage, no [DONE]', {}, async (reply, answer) => {
    await reply.head(answer);
    await reply.events(kinds(answer, 'role', 'content', 'finish'));
    await reply.hang();
  }),
  keepalives: onStream('keep-alive comments every `everyMs` for ever, after `afterEvents` events',
    { everyMs: 1000, afterEvents: 0 }, (reply, answer, params) => babble(reply, answer, params, KEEP_ALIVE)),
  'keepalives-mid-stream': onStream('the same in the middle of the text', { everyMs: 1000, afterEvents: 4 },
    (reply, answer, params) => babble(reply, answer, params, KEEP_ALIVE)),
  'empty-deltas': onStream('events without content every `everyMs` for ever, after `afterEvents` events',
    { everyMs: 1000, afterEvents: 1 }, (reply, answer, params) => babble(reply, answer, params, answer.empty)),

  // ---- broken off ----
  cut: onAnswer('FIN inside the chunk of event `afterEvents` + 1, or at payload byte `afterBytes`; plain ones alike',
    { afterEvents: 3 }, (reply, answer, params) => cutShort(reply, answer, params, () => reply.close())),
  'cut-reset': onAnswer('the same with RST', { afterEvents: 3 },
    (reply, answer, params) => cutShort(reply, answer, params, () => reply.reset())),
  'end-without-finish': onStream('a clean end after `afterEvents` events: no finish_reason, no [DONE]',
    { afterEvents: 3 }, (reply, answer, params) => only(reply, answer, before(answer, params))),
  'end-without-done': onStream('a clean end after finish_reason and usage, without [DONE]', {},
    (reply, answer) => only(reply, answer, kinds(answer, 'role', 'content', 'finish', 'usage'))),
  'done-without-finish': onStream('[DONE] without any finish_reason', {},
    (reply, answer) => only(reply, answer, kinds(answer, 'role', 'content', 'usage', 'done'))),
  'short-body': onAnswer('content-length larger than the body by `extra` bytes, then FIN', { extra: 100 },
    (reply, answer, { extra }) => misjudged(reply, answer, extra)),
  'wrong-content-length': onAnswer('content-length smaller than the body by `missing` bytes, then FIN',
    { missing: 20 }, (reply, answer, { missing }) => misjudged(reply, answer, -missing)),

  // ---- wrong content ----
  abort: onAnswer('half the text, or `afterEvents` events, then finish_reason `abort`, as at a shutdown',
    { finishReason: 'abort' }),
  'error-before-content': onStream('an error event and [DONE] after `afterEvents` events (1: after the role)',
    { afterEvents: 0, message: ENGINE_DEAD }, fail),
  'error-mid-stream': onStream('the same in the middle of the text', { afterEvents: 4, message: ENGINE_DEAD }, fail),
  malformed: onAnswer('event `afterEvents` + 1 is half its JSON, then it goes on; so is a plain body',
    { afterEvents: 3 }, async (reply, answer, { afterEvents }) => {
      if (!answer.events) return reply.whole({ ...answer, body: half(answer.body) });
      const events = answer.events.map((event, at) =>
        (at === afterEvents ? { ...event, text: `${event.text.slice(0, event.text.length >> 1)}\n\n` } : event));
      return only(reply, answer, events);
    }),
  html: any('a 200 with a page instead of the answer', { status: 200 }, page),
  'html-502': any('a 502 with a proxy\'s page', { status: 502 }, page),
  'json-for-stream': onAnswer('a whole JSON answer to a request that asked for a stream', { plain: true }),
  'empty-200': any('a 200 without a body', {}, (reply) =>
    reply.whole({ status: 200, type: 'application/json', body: Buffer.alloc(0) })),
  'huge-event': onAnswer('one event (or plain answer) with a token of `eventBytes`', { eventBytes: 1024 * 1024 }),
  'endless-event': onStream('an event without end, up to `maxBytes`, then FIN',
    { afterEvents: 1, maxBytes: 64 * 1024 * 1024 }, endless),

  // ---- the same bytes, differently cut ----
  crlf: onAnswer('lines end in CRLF', { framing: 'crlf' }),
  cr: onAnswer('lines end in CR', { framing: 'cr' }),
  bom: onAnswer('a byte order mark in front of the stream', { bom: true }),
  bytewise: onAnswer('one byte per TCP segment', { segment: 1 }),
  segments: onAnswer('`segment` bytes per TCP segment, across events and characters', { segment: 7 }),
  'one-segment': onStream('all events and the end in one write', {}, async (reply, answer) => {
    await reply.head(answer);
    await reply.allAtOnce(answer.events);
  }),
  gzip: onAnswer('the answer gzip-encoded, asked for or not, chunked or `withLength`', { withLength: false },
    async (reply, answer, { withLength }) => {
      const body = gzipSync(bodyOf(answer));
      const zipped = { ...answer, headers: { ...answer.headers, 'content-encoding': 'gzip' } };
      await reply.head(zipped, { length: withLength ? body.length : null });
      if (withLength) return reply.payload(body);
      await reply.chunk(body);
      return reply.end();
    }),

  // ---- statuses ----
  status: any('any `status`; `message` or `body` say more', { status: 500 }, status),
  'http-401': any('401, the key is wrong', { status: 401 }, status),
  'http-403': any('403', { status: 403 }, status),
  'http-404': any('404, no such model', { status: 404 }, status),
  'http-408': any('408', { status: 408 }, status),
  'http-409': any('409', { status: 409 }, status),
  'http-422': any('422', { status: 422 }, status),
  'http-429': any('429', { status: 429 }, status),
  'http-500': any('500, internal error', { status: 500 }, status),
  'http-502': any('502', { status: 502 }, status),
  'http-503': any('503, queue full', { status: 503 }, status),
  'http-504': any('504', { status: 504 }, status),
  'http-524': any('524, as Cloudflare says it', { status: 524 }, status),
  'engine-dead': any('500 of an engine that died', {}, (reply, _, params) => reply.whole(hinted(engineDead(), params))),
  scaling: any('503 whose `error` is a string', {}, (reply, _, params) => reply.whole(hinted(scaling(), params))),
  'context-length': any('400, the prompt is too long', { limit: 1024, promptTokens: 1025 },
    (reply, _, { limit, promptTokens }) => reply.whole(contextTooLong(limit, promptTokens).answer())),
  'content-filter': any('400 with code `content_filter`', {}, (reply) =>
    reply.whole(failure(400, 'The response was filtered.', 'BadRequestError', null, 'content_filter'))),
  'should-retry-false': any('503 that says not to try again', { status: 503, shouldRetry: false }, status),
  'should-retry-true': any('400 that says to try again', { status: 400, shouldRetry: true }, status),
  redirect: any('307 to `location`', { location: 'http://elsewhere.invalid/v1/chat/completions' },
    (reply, _, { location }) => reply.whole({ status: 307, type: null, body: Buffer.alloc(0), headers: { location } })),
};

export const isFault = (name) => Object.hasOwn(FAULTS, name);

/** Lets the fault act on the answer. */
export async function perform(name, reply, answer, params) {
  const { on, run } = FAULTS[name];
  const untouched = on !== 'any' && (answer.status >= 400 || (on === 'stream' && !answer.events));
  await reply.wait(params.delayMs);
  await (untouched ? reply.whole(answer) : run(reply, dressed(answer, params), params));
}

/** An answer with the headers that the parameters ask for; a stream also with their line ends and byte order mark. */
function dressed(plain, { framing, bom, headers }) {
  const answer = headers ? { ...plain, headers: { ...plain.headers, ...headers } } : plain;
  if (!answer.events || (!framing && !bom)) return answer;
  const lines = (text) => (framing ? text.replaceAll('\n', LINE_ENDS[framing]) : text);
  return {
    ...answer,
    events: answer.events.map((event, at) => ({ ...event, text: (bom && at === 0 ? BOM : '') + lines(event.text) })),
    empty: lines(answer.empty),
    failed: (message) => answer.failed(message).map(lines),
  };
}

async function only(reply, answer, events) {
  await reply.head(answer);
  await reply.events(events);
  await reply.end();
}

async function babble(reply, answer, params, text) {
  await reply.head(answer);
  await reply.events(before(answer, params));
  await reply.forever(params.everyMs, () => reply.event(text));
}

async function fail(reply, answer, params) {
  await reply.head(answer);
  await reply.events(before(answer, params));
  for (const text of answer.failed(params.message)) await reply.event(text);
  await reply.end();
}

async function cutShort(reply, answer, params, die) {
  const events = answer.events ?? [{ text: answer.body.toString() }];
  const { at, offset } = cutPoint(events.map(({ text }) => Buffer.byteLength(text)), params);
  await reply.head(answer, { length: null });
  await reply.events(events.slice(0, at));
  await reply.partOfEvent(events[at].text, offset);
  await die();
}

/** The event to die in and how many of its bytes still go out: half of them, unless a byte of the payload is named. */
function cutPoint(sizes, { afterEvents, afterBytes }) {
  let at = Math.min(afterEvents, sizes.length - 1);
  if (afterBytes === undefined) return { at, offset: sizes[at] >> 1 };
  let offset = afterBytes;
  for (at = 0; at < sizes.length - 1 && offset >= sizes[at]; at += 1) offset -= sizes[at];
  return { at, offset };
}

/** Announces a body that is `more` bytes longer than the one it sends. */
async function misjudged(reply, answer, more) {
  const body = bodyOf(answer);
  await reply.head(answer, { length: Math.max(0, body.length + more) });
  await reply.payload(body);
  reply.close();
}

async function endless(reply, answer, { maxBytes, ...params }) {
  await reply.head(answer);
  await reply.events(before(answer, params));
  await reply.chunk(Buffer.from('data: {"choices":[{"index":0,"delta":{"content":"'));
  const step = Buffer.alloc(ENDLESS_STEP, 'x');
  for (let sent = 0; sent < maxBytes; sent += step.length) await reply.chunk(step);
  reply.close();
}

/** A whole answer's payload, of a stream too. */
function bodyOf(answer) {
  return answer.events ? Buffer.from(answer.events.map(({ text }) => text).join('')) : answer.body;
}

function page(reply, _, { status: code }) {
  const title = code === 200 ? 'Welcome' : `${code} ${STATUS_CODES[code]}`;
  const body = Buffer.from(
    `<!DOCTYPE html>\n<html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>\n`,
  );
  return reply.whole({ status: code, type: 'text/html; charset=utf-8', body });
}

function status(reply, _, params) {
  return reply.whole(hinted(statusAnswer(params), params));
}

function statusAnswer({ status: code, message, body }) {
  if (body !== undefined) {
    return typeof body === 'string' ? { status: code, type: 'text/plain', body: Buffer.from(body) } : json(code, body);
  }
  if (message !== undefined) return failure(code, message);
  switch (code) {
    case 401: return unauthorized();
    case 404: return unknownModel('gone', ['Qwen/Qwen2.5-7B-Instruct']).answer();
    case 500: return failure(500, 'Internal server error', 'InternalServerError');
    case 503: return queueFull();
    case 524: return { status: 524, type: 'text/plain; charset=UTF-8', body: Buffer.from('error code: 524') };
    default: return failure(code, STATUS_CODES[code] ?? `Status ${code}`, STATUS_CODES[code] ?? 'Error');
  }
}

/** The headers by which a server says when, or whether, to come back. */
function hinted(answer, { retryAfter, retryAfterMs, shouldRetry }) {
  return {
    ...answer,
    headers: {
      ...answer.headers,
      ...retryAfterHeaders(retryAfter),
      ...(retryAfterMs !== undefined && { 'retry-after-ms': retryAfterMs }),
      ...(shouldRetry !== undefined && { 'x-should-retry': shouldRetry }),
    },
  };
}

/** Seconds or any text go out as they stand; { dateInMs } is the HTTP-date so far from now, beside a true Date. */
function retryAfterHeaders(value) {
  if (value === undefined || value === null) return {};
  if (typeof value !== 'object') return { 'retry-after': value };
  const now = Date.now();
  const date = (ms) => new Date(ms).toUTCString();
  return { date: date(now), 'retry-after': date(now + value.dateInMs) };
}
