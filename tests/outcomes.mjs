// What each fault of the simulated vLLM comes to behind the core, whoever hosts it: how the call ends, after how many
// attempts, and whether a second endpoint would have answered instead.

import { STAYS_CLOSED } from './worker/gateway.mjs';

export const MAX_ATTEMPTS = 3;

/** The policy under which the tables hold, and the one that an outcome's `policy: 'hasty'` names. */
export const PATIENT = {
  max_attempts: MAX_ATTEMPTS,
  backoff: { base_ms: 10, throttled_base_ms: 10, max_ms: 10 },
  // So many failures of one endpoint would spend its budget for retries.
  budget: { capacity: 1_000_000 },
  breaker: STAYS_CLOSED,
};
export const HASTY = {
  ...PATIENT, deadline_ms: 2600, headers_ms: 500, first_token_ms: 700, idle_ms: 500, progress_ms: 900,
};

/** Whole in spite of the fault. */
const whole = (sim) => ({ kind: 'whole', name: 'whole', sim });
/** The endpoint's own refusal of the request, word for word; nobody else is asked. */
const passedOn = (status, attempts = 1) => ({ kind: 'passedOn', name: `passed on as ${status}`, status, attempts });
/** An HTTP error, because no attempt came to anything. */
const fails = (status, code, { attempts = MAX_ATTEMPTS, param = null, ...more } = {}) =>
  ({ kind: 'failed', name: `${status} ${code}`, status, code, attempts, param, failover: true, ...more });
/** An error inside the stream, behind what had arrived. */
const breaks = (code, { param = null, ...more } = {}) =>
  ({ kind: 'broken', name: `${code} in the stream`, code, param, ...more });

const times = (param, sim) => fails(504, 'upstream_timeout', { param, sim, policy: 'hasty' });
const timesInStream = (param, sim) => breaks('upstream_timeout', { param, sim, policy: 'hasty' });
const unreachable = fails(502, 'upstream_unreachable');
const invalid = fails(502, 'upstream_invalid');
const overloaded = fails(503, 'upstream_overloaded');
const rejectedKey = fails(502, 'upstream_rejected_key', { attempts: 1 });
const cutOff = fails(502, 'stream_interrupted');

/** Those that do not depend on what was asked for. */
const STATUSES = {
  'html-502': unreachable,
  status: invalid,
  'http-401': rejectedKey,
  'http-403': rejectedKey,
  'http-404': passedOn(404),
  'http-408': unreachable,
  'http-409': passedOn(409),
  'http-422': passedOn(422),
  'http-429': overloaded,
  'http-500': invalid,
  'http-502': unreachable,
  'http-503': overloaded,
  'http-504': unreachable,
  'http-524': unreachable,
  'engine-dead': invalid,
  scaling: overloaded,
  // The second endpoint serves another model, whose context may be longer.
  'context-length': { ...passedOn(400), failover: true },
  'content-filter': passedOn(400),
  'should-retry-false': fails(503, 'upstream_overloaded', { attempts: 1 }),
  'should-retry-true': { ...passedOn(400, MAX_ATTEMPTS), failover: true },
  // Never followed, or the key would go where the redirect leads.
  redirect: fails(502, 'upstream_invalid', { attempts: 1 }),
};

export const STREAMED = {
  ...STATUSES,
  ok: whole(),
  reset: unreachable,
  close: unreachable,
  hang: times('headers'),
  'slow-headers': times('headers'),
  'huge-headers': whole(),
  'hang-after-headers': times('first_token'),
  'slow-first-token': times('first_token', { afterEvents: 1 }),
  stall: timesInStream('idle'),
  'stall-after-finish': whole(),
  keepalives: times('first_token', { everyMs: 100 }),
  'keepalives-mid-stream': timesInStream('progress', { everyMs: 100 }),
  'empty-deltas': times('first_token', { everyMs: 100 }),
  cut: breaks('stream_interrupted'),
  'cut-reset': breaks('stream_interrupted'),
  'end-without-finish': breaks('stream_interrupted'),
  'end-without-done': whole(),
  'done-without-finish': breaks('stream_interrupted'),
  // What is missing is behind the proof of a whole answer, or before it.
  'short-body': whole(),
  'wrong-content-length': breaks('stream_interrupted'),
  abort: breaks('stream_interrupted'),
  'error-before-content': invalid,
  'error-mid-stream': breaks('stream_interrupted'),
  malformed: whole(),
  html: invalid,
  'json-for-stream': invalid,
  'empty-200': invalid,
  'huge-event': whole(),
  'endless-event': invalid,
  crlf: whole(),
  cr: whole(),
  bom: whole(),
  bytewise: whole(),
  segments: whole(),
  'one-segment': whole(),
  gzip: whole(),
};

/** Faults in the middle of a stream, moved to before its first content: behind its headers, or behind the role. */
export const STREAMED_EARLY = {
  cut: { ...cutOff, sim: { afterEvents: 0 } },
  'cut-reset': { ...cutOff, sim: { afterEvents: 1 } },
  'end-without-finish': { ...cutOff, sim: { afterEvents: 1 } },
  stall: times('first_token', { afterEvents: 1 }),
  'keepalives-mid-stream': times('first_token', { afterEvents: 1, everyMs: 100 }),
  'error-before-content': { ...invalid, sim: { afterEvents: 1 } },
};

export const NOT_STREAMED = {
  ...STATUSES,
  ok: whole(),
  reset: unreachable,
  close: unreachable,
  // The headers of an answer that does not stream come when it is complete, so only the deadline is left.
  hang: fails(504, 'deadline_exceeded', { attempts: 1, policy: 'hasty', failover: false }),
  'slow-headers': fails(504, 'deadline_exceeded', { attempts: 1, policy: 'hasty', failover: false }),
  'huge-headers': whole(),
  'hang-after-headers': times('idle'),
  stall: times('idle'),
  cut: cutOff,
  'cut-reset': cutOff,
  'short-body': cutOff,
  'wrong-content-length': cutOff,
  abort: invalid,
  malformed: cutOff,
  html: invalid,
  'json-for-stream': whole(),
  'empty-200': cutOff,
  'huge-event': whole(),
  crlf: whole(),
  cr: whole(),
  bom: whole(),
  bytewise: whole(),
  segments: whole(),
  gzip: whole(),
};
