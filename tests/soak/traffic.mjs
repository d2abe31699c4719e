// What clients ask in the soak, and what goes wrong with it: drawn by a seed, so that a run can be had again.

/** In every secret, key and prompt, so that whatever repeats one is found. */
export const PLANT = 'PLANT';
export const SECRETS = {
  VLLM_API_KEY: `${PLANT}-vllm-7d1c`,
  RUNPOD_API_KEY: `${PLANT}-runpod-52aa`,
  ADMIN_KEY: `${PLANT}-admin-90fe`,
};
/** Keys by the names of their clients. */
export const KEYS = { web: `${PLANT}-web-11b0`, batch: `${PLANT}-batch-c3d8`, narrow: `${PLANT}-narrow-08ef` };

/** Mulberry32, as good as chance has to be here. */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const FAULTS = [
  'reset', 'close', 'cut', 'cut-reset', 'end-without-finish', 'end-without-done', 'done-without-finish', 'short-body',
  'abort', 'error-before-content', 'error-mid-stream', 'malformed', 'html', 'html-502', 'json-for-stream', 'empty-200',
  'crlf', 'bom', 'segments', 'one-segment', 'gzip', 'http-401', 'http-404', 'http-422', 'http-429', 'http-500',
  'http-503', 'http-524', 'engine-dead', 'scaling', 'context-length', 'content-filter', 'should-retry-false', 'redirect',
  'stall', 'hang', 'hang-after-headers', 'slow-first-token', 'keepalives',
];

const chat = (text) => ({ messages: [{ role: 'user', content: text }], max_tokens: 12 });
const MESSAGES = { 'anthropic-version': '2023-06-01' };

/** What is asked, each so many times out of the sum of all. */
const KINDS = [
  [20, (text) => ({ path: '/v1/chat/completions', body: chat(text) })],
  [28, (text) => ({ path: '/v1/chat/completions', body: { ...chat(text), stream: true } })],
  [6, (text) => ({ path: '/v1/completions', body: { prompt: text, max_tokens: 12 } })],
  [8, (text) => ({ path: '/v1/completions', body: { prompt: text, max_tokens: 12, stream: true } })],
  [5, (text) => ({ path: '/v1/embeddings', body: { input: text } })],
  [2, (text) => ({ path: '/v1/responses', body: { input: text, max_output_tokens: 12 } })],
  [4, (text) => ({ path: '/v1/responses', body: { input: text, max_output_tokens: 12, stream: true } })],
  [3, (text) => ({ path: '/v1/messages', body: { ...chat(text), stream: true }, headers: MESSAGES })],
  [2, (text) => ({ path: '/v1/chat/completions', model: 'job', body: { ...chat(text), stream: true } })],
  [1, (text) => ({ path: '/v1/chat/completions', model: 'job', body: chat(text) })],
  [2, (text) => ({ path: '/runpod/echo/runsync', body: { input: { text } }, model: null })],
  [1, () => ({ path: '/runpod/echo/health', model: null })],
  [3, () => ({ path: '/v1/models', model: null })],
  [3, (text) => ({ path: '/v1/chat/completions', body: chat(text), key: `${PLANT}-nobody` })],
  [1, (text) => ({ path: '/v1/chat/completions', body: chat(text), key: null })],
  [2, (text) => ({ path: '/v1/chat/completions', body: chat(text), model: 'no-such-model' })],
  [2, (text) => ({ path: '/v1/chat/completions', body: chat(text), client: 'narrow' })],
  [1, (text) => ({ path: '/v1/chat/completions', body: chat(text), client: 'narrow', model: 'job' })],
  [3, (text) => ({ path: '/v1/chat/completions', raw: `{"model": "text", "messages": "${text}` })],
  [1, (text) => ({ path: '/v1/chat/completions', body: { ...chat(text), n: -1 } })],
  [1, () => ({ path: '/v1/chat/completions', method: 'GET', model: null })],
  [2, (text) => ({ path: '/v1/chat/completions', body: { ...chat(text), stream: true }, leaves: true })],
  [1, (text) => ({ path: '/v1/chat/completions', body: chat(text), leaves: true })],
];
const SUM = KINDS.reduce((sum, [weight]) => sum + weight, 0);

/** One request: what `fetch` needs of it, and after how many milliseconds the client leaves, if it does. */
export function draw(random, number) {
  let at = random() * SUM;
  const [, kind] = KINDS.find(([weight]) => (at -= weight) < 0) ?? KINDS[0];
  const asked = kind(`${PLANT}-prompt-${number} What is a fairlead?`);
  const { path, raw, headers, leaves, method, model = 'text', client = random() < 0.7 ? 'web' : 'batch' } = asked;
  const key = asked.key === undefined ? KEYS[client] : asked.key;
  const body = asked.body && { ...(model && { model }), ...asked.body, ...(model && { sim: entries(random, leaves) }) };
  return {
    path,
    method: method ?? (body || raw ? 'POST' : 'GET'),
    body: raw ?? (body && JSON.stringify(body)),
    headers: {
      'x-request-id': `soak-${number}`,
      ...(body && { 'content-type': 'application/json' }),
      ...(key && { authorization: `Bearer ${key}` }),
      ...headers,
    },
    leavesAfterMs: leaves ? Math.floor(random() * 120) : undefined,
  };
}

/** What the endpoints do with the attempts of one call. */
function entries(random, leaves) {
  const slow = leaves ? { tokenMs: 15 } : {};
  const entry = () => ({ ...slow, ...(random() < 0.2 && { fault: FAULTS[Math.floor(random() * FAULTS.length)] }) });
  return [entry(), entry(), entry()];
}
