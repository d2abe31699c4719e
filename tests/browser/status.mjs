// What GET /status answers, in health and in an outage, for tests of what the dashboard makes of it.

const NOW = Date.UTC(2026, 10, 22, 12, 0, 0);
export const BOUNDS_MS = [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, null];

/** A distribution in which these bounds have so many. */
export function distribution(counts, { p50 = null, p95 = null, p99 = null } = {}) {
  const count = Object.values(counts).reduce((all, each) => all + each, 0);
  return {
    count, sum_ms: count * (p50 ?? 0), p50, p95, p99,
    buckets: BOUNDS_MS.map((bound) => [bound, counts[bound] ?? 0]),
  };
}

const policy = (more) => ({
  name: 'default', deadline_ms: 120_000, first_token_ms: 15_000, idle_ms: 30_000, progress_ms: 60_000, queue_ms: 5000, max_attempts: 4, ...more,
});
const breaker = (entry, more) => ({
  entry, state: 'closed', until_ms: null, client: null, reason: '', epoch: 1, calls: 40, failures: 0, in_a_row: 0, stored: null, ...more,
});
const endpoint = (name, more) => ({
  name, provider: 'vllm', isolated: false, stored: null, in_flight: 2, max_concurrency: 16, waiting: 0, first_token_ms: 310,
  retry_tokens_left: 10, breakers: [breaker('qwen')], attempts: 400, failures: {}, jobs: null, ...more,
});
const call = (more) => ({
  at_ms: NOW - 2000, request_id: '5f1c0b5e8a7d4c21', client: 'web', route: '/v1/chat/completions', model: 'qwen', stream: true,
  outcome: 'ok', param: null, endpoint: 'a100', attempts: 1, first_content_ms: 300, total_ms: 1500, bytes: 5120,
  prompt_tokens: 24, completion_tokens: 210,
  timeline: [{ at_ms: 1, event: 'attempt_started', attempt: 1, endpoint: 'a100' }], ...more,
});

/** All is well. */
export const health = () => ({
  now_ms: NOW,
  store: { kind: 'kv', read_at_ms: NOW - 12_000, failed_at_ms: null, error: null },
  isolate: { id: 'a1b2c3d4', since_ms: NOW - 720_000, colo: 'FRA' },
  config: { source: 'kv', since_ms: NOW - 720_000, refused: null },
  endpoints: [endpoint('a100'), endpoint('spare'), endpoint('burst', {
    provider: 'runpod', breakers: [breaker('qwen')], jobs: {
      in_queue: 0, workers: 2, cold_starts: 1, queue_ms: distribution({ 250: 8, 5000: 1 }, { p50: 180, p95: 3100, p99: 3100 }),
      execution_ms: distribution({ 1000: 4, 2500: 5 }, { p50: 1300, p95: 2300, p99: 2400 }), max_execution_ms: 300_000,
    },
  })],
  models: [{
    name: 'qwen', policy: policy(), outcomes: { ok: 410, client_gone: 3 }, attempts: [0, 410, 3],
    first_content_ms: distribution({ 250: 100, 500: 290, 1000: 20 }, { p50: 320, p95: 610, p99: 900 }),
    total_ms: distribution({ 1000: 30, 2500: 300, 5000: 80 }, { p50: 1700, p95: 3400, p99: 4600 }),
    prompt_tokens: 10_004, completion_tokens: 88_211,
  }],
  refused: {},
  calls: [call()],
});

/** One endpoint is down, one was taken out, and the third starts cold. */
export function outage() {
  const status = health();
  const [a100, spare, burst] = status.endpoints;
  Object.assign(a100, { attempts: 420, failures: { unreachable: 14, http_503: 6 }, retry_tokens_left: 0 });
  Object.assign(a100.breakers[0], { state: 'open', until_ms: NOW + 12_400, reason: 'unreachable', calls: 20, failures: 14, in_a_row: 5 });
  Object.assign(spare, { isolated: true, stored: { epoch: 3, state: 'isolated', open_until_ms: 0, reason: 'isolated', at_ms: NOW - 40_000 } });
  Object.assign(burst, { waiting: 3, in_flight: 16 });
  Object.assign(burst.jobs, { in_queue: 7, workers: 0, cold_starts: 4 });
  const [qwen] = status.models;
  qwen.outcomes = { ok: 390, upstream_timeout: 22, upstream_unreachable: 8 };
  qwen.attempts = [0, 350, 60, 10];
  status.calls = [
    call({
      at_ms: NOW - 1000, request_id: 'failed-1', outcome: 'upstream_timeout', param: 'first_token', endpoint: 'burst', attempts: 2,
      first_content_ms: null, total_ms: 15_420, bytes: 0, prompt_tokens: null, completion_tokens: null,
      timeline: [
        { at_ms: 1, event: 'attempt_started', attempt: 1, endpoint: 'a100' },
        { at_ms: 20, event: 'attempt_failed', attempt: 1, endpoint: 'a100', reason: 'unreachable', then: 'failover', wait_ms: 400 },
        { at_ms: 420, event: 'attempt_started', attempt: 2, endpoint: 'burst' },
        { at_ms: 15_420, event: 'attempt_failed', attempt: 2, endpoint: 'burst', reason: 'first_token', then: 'nobody_left', wait_ms: 0 },
      ],
    }),
    ...status.calls,
  ];
  return status;
}
