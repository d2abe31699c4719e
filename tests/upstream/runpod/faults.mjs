// Every way in which a request to the public API can fail, by name. How a job itself goes wrong is behaviour.mjs.
//
// A fault is { about, params, run }. `effect` among its parameters says whether the operation takes place before the
// reply goes wrong: a lost reply to /run has started a job, a lost reply to /stream has taken the outputs along.

import { STATUS_CODES } from 'node:http';
import { Refused } from './operations.mjs';

const before = (about, params, run) => ({ about, params: { effect: false, ...params }, run });
const afterwards = (about, params, run) => ({ about, params: { effect: true, ...params }, run });

export const FAULTS = {
  ok: afterwards('the operation\'s own answer', {}, (reply, answer) => reply.whole(answer)),
  slow: afterwards('the operation, and its answer `ms` later', { ms: 1000 }, async (reply, answer, { ms }) => {
    await reply.wait(ms);
    await reply.whole(answer);
  }),

  // ---- statuses, before the operation ----
  status: before('any `status`; `body` and `headers` say more', { status: 500 }, status),
  'http-400': before('400', { status: 400 }, status),
  'http-401': before('401', { status: 401 }, status),
  'http-404': before('404: what /status says of a job that it knows very well', { status: 404 }, status),
  'http-429': before('429', { status: 429 }, status),
  'http-500': before('500', { status: 500 }, status),
  'http-502': before('502', { status: 502 }, status),
  'http-503': before('503', { status: 503 }, status),
  'http-504': before('504', { status: 504 }, status),
  'http-524': before('524, as Cloudflare says it', { status: 524, body: 'error code: 524' }, status),
  html: before('a page with a 200', { status: 200 }, page),
  'html-502': before('a proxy\'s page with a 502', { status: 502 }, page),

  // ---- no answer ----
  reset: before('RST instead of an answer', {}, (reply) => reply.reset()),
  close: before('FIN instead of an answer', {}, (reply) => reply.close()),
  hang: before('nothing, ever', {}, (reply) => reply.hang()),
  lost: afterwards('the operation, then RST instead of its answer', {}, (reply) => reply.reset()),
  'lost-502': afterwards('the operation, then a proxy\'s page', { status: 502 }, page),
  'lost-hang': afterwards('the operation, then nothing', {}, (reply) => reply.hang()),

  // ---- half an answer ----
  cut: afterwards('half the answer, then FIN', {}, async (reply, answer) => {
    await reply.half(answer);
    reply.close();
  }),
  'cut-reset': afterwards('half the answer, then RST', {}, async (reply, answer) => {
    await reply.half(answer);
    await reply.reset();
  }),
  stall: afterwards('half the answer, then nothing', {}, async (reply, answer) => {
    await reply.half(answer);
    await reply.hang();
  }),
  malformed: afterwards('half the answer, as if it were all of it', {}, (reply, answer) => {
    const text = answer.chunks ? '{"choices":[' : JSON.stringify(answer.body);
    return reply.whole({ status: answer.status, body: text.slice(0, text.length >> 1) });
  }),
  empty: afterwards('a 200 without a body', {}, (reply) => reply.whole({ body: '' })),
  'other-json': afterwards('JSON of another shape', {}, (reply) => reply.whole({ body: [{ message: 'ok' }] })),
};

/** What happens to the requests of one endpoint, operation by operation. */
export class Faults {
  #scripts = new Map();
  #always = new Map();
  #marked = new Map();

  /** One entry for each request of this operation to come: a name or { fault, ...parameters }. */
  script(operation, ...entries) {
    this.#scripts.set(operation, [...this.#scripts.get(operation) ?? [], ...entries.map(named)]);
  }

  /** What happens when no script is left. */
  always(operation, entry) {
    this.#always.set(operation, named(entry));
  }

  reset() {
    for (const chosen of [this.#scripts, this.#always, this.#marked]) chosen.clear();
  }

  /** The fault of a request: the script's, else the one that its job's input asks for. */
  next(operation, marks, key) {
    const entry = this.#scripts.get(operation)?.shift() ?? this.#fromMarks(operation, marks, key)
      ?? this.#always.get(operation) ?? 'ok';
    const { fault, ...params } = named(entry);
    return { name: fault, run: FAULTS[fault].run, params: { ...FAULTS[fault].params, ...params } };
  }

  /** The entries stand for the first, second, … request about the same job, or with the same input. */
  #fromMarks(operation, marks, key) {
    const entries = marks?.[operation];
    if (!entries) return undefined;
    const place = `${operation} ${key}`;
    const at = this.#marked.get(place) ?? 0;
    this.#marked.set(place, at + 1);
    return [entries].flat()[at];
  }
}

/** Accepts a bare name, and refuses one that stands for nothing: a typo must not look like a success. */
function named(entry) {
  const spec = typeof entry === 'string' ? { fault: entry } : entry;
  if (!Object.hasOwn(FAULTS, spec.fault)) throw new Refused(400, `there is no fault named ${spec.fault}`);
  return spec;
}

function status(reply, _, { status: code, body, headers }) {
  const isText = typeof body === 'string';
  reply.whole({
    status: code, headers, body: body ?? { error: STATUS_CODES[code] }, ...(isText && { type: 'text/plain' }),
  });
}

function page(reply, _, { status: code }) {
  const title = code === 200 ? 'Welcome' : `${code} ${STATUS_CODES[code]}`;
  const body = `<!DOCTYPE html>\n<html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>\n`;
  reply.whole({ status: code, type: 'text/html; charset=utf-8', body });
}
