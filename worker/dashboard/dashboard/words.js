// What the gateway's own words mean, for people. A word that is not here is shown as it came.

/** Whose fault an outcome is: `ok`, `cut` (the caller left, or had enough), `theirs` (the caller's), `failed`. */
export function kindOf(outcome) {
  if (outcome === 'ok') return 'ok';
  if (outcome === 'client_gone' || outcome === 'partial') return 'cut';
  return THEIRS.has(outcome) || PASSED_ON.test(outcome) ? 'theirs' : 'failed';
}

/** An endpoint's own word on the request, by its status. */
const PASSED_ON = /^upstream_(\d{3})$/;

const THEIRS = new Set([
  'invalid_request', 'invalid_api_key', 'forbidden', 'model_not_found', 'route_not_found', 'job_not_found',
  'method_not_allowed', 'request_too_large', 'rate_limited',
]);

const OUTCOMES = {
  ok: 'answered',
  partial: 'cut short at the deadline',
  client_gone: 'the client left',
  invalid_request: 'not understood',
  invalid_api_key: 'no key, or an unknown one',
  forbidden: 'not allowed to this client',
  model_not_found: 'no such model',
  job_not_found: 'no such job',
  request_too_large: 'too large',
  rate_limited: 'too many for this client',
  upstream_timeout: 'a timer ran out',
  deadline_exceeded: 'the deadline passed',
  upstream_unreachable: 'no connection',
  upstream_invalid: 'an answer that cannot be used',
  upstream_rejected_key: 'the endpoint refused the gateway’s key',
  upstream_overloaded: 'no room',
  circuit_open: 'every endpoint is left alone',
  stream_interrupted: 'the stream broke',
  job_failed: 'the job failed',
  job_timed_out: 'the job took too long',
  job_cancelled: 'the job was cancelled',
  job_expired: 'the job expired',
  internal: 'a defect of the gateway',
};
export function outcomeWords(outcome) {
  const [, status] = PASSED_ON.exec(outcome) ?? [];
  return status ? `HTTP ${status} of the endpoint, passed on` : OUTCOMES[outcome] ?? outcome;
}

const REASONS = {
  headers: 'no response headers in time',
  first_token: 'no first token in time',
  idle: 'the stream fell silent',
  progress: 'nothing but keepalives',
  queue: 'too long in the queue',
  deadline: 'the deadline passed',
  unreachable: 'no connection',
  cut: 'the connection broke',
  invalid: 'an answer that cannot be used',
  in_band: 'an error inside the stream',
  abort: 'the engine aborted it',
  differs: 'the text differed',
  no_workers: 'no workers',
  too_large: 'too large for a job',
  unfit: 'not fit for a job',
  submission_lost: 'the submission got no answer',
  queue_silent: 'the queue fell silent',
  gap: 'a piece is missing',
  restarted: 'the job began anew',
  torn_characters: 'characters were torn',
  job_failed: 'the handler failed',
  worker_lost: 'the worker was lost',
  job_timed_out: 'the job took too long',
  job_cancelled: 'the job was cancelled',
  job_expired: 'the job expired',
  job_unknown: 'the job is unknown',
  slow_first_token: 'first tokens were slow',
  told: 'told by another isolate',
  isolated: 'an operator’s word',
  closed: 'an operator’s word',
  probed: 'a probe went well',
};

/** Why an attempt failed, or a breaker changed. */
export function reasonWords(reason) {
  const [, status] = /^http_(\d+)$/.exec(reason) ?? [];
  return status ? `HTTP ${status}` : REASONS[reason] ?? OUTCOMES[reason] ?? reason;
}

const THENS = {
  retry: 'tried again',
  failover: 'on to the next endpoint',
  line: 'waits for a place',
  attempts_spent: 'no attempts left',
  nobody_left: 'nobody else to ask',
  no_time_left: 'no time left',
  budget_spent: 'no retry tokens left',
  circuit_open: 'the others are left alone',
  no_room: 'the others have no room',
  another_attempt_runs: 'another attempt runs',
  content_shown: 'the client had content already',
};

/** What followed a failure. */
export const thenWords = (then) => THENS[then] ?? `not resumed: ${then}`;

export const STATES = { closed: 'closed', open: 'open', half_open: 'to be probed', off: 'off', isolated: 'isolated' };

export const STORES = {
  kv: { name: 'KV', spread: 'The others hear of it within two minutes, by KV.' },
  durable_object: { name: 'Durable Objects', spread: 'The others hear of it within a minute, by the Durable Object.' },
  none: { name: 'none', spread: '' },
};

export const STORE_ERRORS = {
  unavailable: 'it cannot be reached', limited: 'it takes no more for now', timeout: 'no answer within 2 s',
};

export const SOURCES = {
  var: 'the variables CONFIG and CONFIG_*',
  kv: 'KV, key config',
  kv_good: 'KV, key config:good: the last valid one',
};

/** One event of a call's timeline, as a sentence without its end. */
export function eventWords(event, duration) {
  const who = `Attempt ${event.attempt} at ${event.endpoint}`;
  switch (event.event) {
    case 'attempt_started': return `${who} goes out`;
    case 'attempt_failed': {
      const wait = event.wait_ms > 0 ? ` in ${duration(event.wait_ms)}` : '';
      return `${who} failed: ${reasonWords(event.reason)}; ${thenWords(event.then)}${wait}`;
    }
    case 'hedge_started': return `${who} was awaited for ${duration(event.after_ms)}: another goes out beside it`;
    case 'resume_started': return `${who} is to go on behind the break (${event.way}${event.why ? `, because of ${event.why}` : ''})`;
    case 'stream_resumed': return `${who} goes on, ${duration(event.gap_ms)} behind the break`;
    case 'job_started': return `A worker took the job of attempt ${event.attempt}, after ${duration(event.queued_ms)} in the queue`;
    case 'job_slow': return `The job of attempt ${event.attempt} nears its limit of ${duration(event.limit_ms)}`;
    case 'job_ended': return `The job of attempt ${event.attempt} ended: ${[
      event.status, Number.isFinite(event.delay_ms) && `${duration(event.delay_ms)} in the queue`,
      Number.isFinite(event.execution_ms) && `${duration(event.execution_ms)} at work`, event.worker && `worker ${event.worker}`,
    ].filter(Boolean).join(', ')}`;
    case 'characters_destroyed': return `The worker of attempt ${event.attempt} destroyed ${event.characters} characters`;
    case 'rate_limiter_failed': return `The rate limiter ${event.binding} did not say (${event.reason}), so the call was let through`;
    default: {
      const { event: name, at_ms: _, ...fields } = event;
      return `${name}: ${Object.entries(fields).map(([field, value]) => `${field} ${value}`).join(', ')}`;
    }
  }
}
