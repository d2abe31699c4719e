// Many requests through one isolate of the gateway, its endpoints failing at random, and an account of all of it: each
// request against what its client has seen, the log against both, and `/metrics` against the log.

import { readFileSync } from 'node:fs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { children, privateBytes } from '../../bench/proc.mjs';
import { sha256, startGateway } from '../worker/gateway.mjs';
import { openHeap } from './heap.mjs';
import { KEYS, PLANT, SECRETS, chance, draw } from './traffic.mjs';

/** Long enough for a call that has lost its client. */
const SETTLES_MS = 15_000;

/** The request at a batch's end, upon whose line the isolate is cleaned up and says what its wasm has. */
const COLLECT = 'collect-';

/** Without this a heap grows to what V8 finds comfortable, and tells nothing of what is still needed. */
const V8_FLAGS = '--expose-gc';

/** What workerd says of the date in wrangler.toml, and of flags that its cache was not made with. */
const HARMLESS = ['does not need to be specified anymore', 'bootstrap compile cache'];

const PRELUDE = `
  const { Instance } = WebAssembly;
  let memory;
  WebAssembly.Instance = class extends Instance {
    constructor(...args) { super(...args); memory = this.exports.memory; }
  };
  const { log } = console;
  console.log = (line) => {
    log(line);
    if (!line.includes('"request_id":"${COLLECT}')) return;
    gc();
    log(JSON.stringify({ event: 'wasm_memory', bytes: memory.buffer.byteLength }));
  };
`;

/**
 * @param {object} options
 * @param {number} options.requests
 * @param {number} [options.seed]
 * @param {number} [options.batches]
 * @param {number} [options.atOnce] requests that are under way at a time
 * @param {(batch: object) => void} [options.onBatch]
 */
export async function soak({ requests, seed = 1, batches = 100, atOnce = 48, onBatch = () => {} }) {
  const vllm = await startVllm({ keepRequests: 200, apiKey: SECRETS.VLLM_API_KEY, maxMs: 3000 });
  const runpod = await startRunpod({
    apiKey: SECRETS.RUNPOD_API_KEY, keepRequests: 20, coldStartMs: 20,
    endpoints: { llm: { handler: 'worker-vllm', vllm: { keepRequests: 20 } }, echo: { handler: 'echo' } },
  });
  const account = new Account([...Object.values(SECRETS), ...Object.values(KEYS), PLANT, vllm.url, runpod.url]);
  const before = new Set(children('workerd'));
  process.env.MINIFLARE_WORKERD_V8_FLAGS = V8_FLAGS;
  const gateway = await startGateway(configOf(vllm, runpod), {
    secrets: SECRETS, prelude: PRELUDE, onPrinted: (message) => account.hear(message), inspected: true,
  });
  let heap;
  try {
    heap = await openHeap(await gateway.inspectorUrl());
    const pid = children('workerd').find((child) => !before.has(child));
    const random = chance(seed);
    const began = performance.now();
    const size = Math.ceil(requests / batches);
    for (let sent = 0; sent < requests;) {
      const most = Math.min(requests, sent + size);
      const worker = async () => {
        while (sent < most) await ask(gateway, vllm, account, draw(random, sent++));
      };
      await Promise.all(Array.from({ length: atOnce }, worker));
      await account.settled(SETTLES_MS);
      // What is freed in one go may have held what is freed in the next.
      for (const go of [1, 2, 3]) {
        const headers = { 'x-request-id': `${COLLECT}${sent}-${go}`, authorization: `Bearer ${KEYS.web}` };
        const collected = account.collected();
        await ask(gateway, vllm, account, { path: '/v1/models', method: 'GET', headers });
        await collected;
      }
      await account.settled(SETTLES_MS);
      onBatch(account.note({ sent, heap: await heap.bytes(), bytes: privateBytes(pid), ms: performance.now() - began }));
    }
    return account.closed(await metrics(gateway));
  } finally {
    heap?.close();
    await gateway.close();
    await Promise.all([vllm.close(), runpod.close()]);
  }
}

function configOf(vllm, runpod) {
  const server = (name) => ({ name, provider: 'vllm', base_url: `${vllm.url}/v1`, api_key_secret: 'VLLM_API_KEY' });
  const queue = (name, more) => ({
    name, provider: 'runpod', base_url: runpod.baseUrl(name), api_key_secret: 'RUNPOD_API_KEY', ...more,
  });
  return {
    endpoints: [server('a'), server('b'), queue('llm'), queue('echo', { native: true })],
    models: [
      { name: 'text', strategy: 'least_loaded', targets: [{ endpoint: 'a' }, { endpoint: 'b' }] },
      { name: 'job', targets: [{ endpoint: 'llm' }, { endpoint: 'b' }] },
    ],
    policies: {
      default: {
        deadline_ms: 8000, headers_ms: 1000, first_token_ms: 1000, idle_ms: 1000, progress_ms: 1500, queue_ms: 3000,
        keepalive_ms: 1000, retry_after_max_ms: 100, resume: 'continue',
        backoff: { base_ms: 5, throttled_base_ms: 5, max_ms: 20 },
        // Shut often, and soon open again.
        breaker: { min_calls: 30, window_ms: 2000, consecutive: 12, open_ms: 100, max_open_ms: 200 },
      },
    },
    clients: [
      { name: 'web', keys_sha256: [sha256(KEYS.web)], runpod: ['echo'] },
      { name: 'batch', keys_sha256: [sha256(KEYS.batch)], runpod: ['echo'], max_concurrency: 6 },
      { name: 'narrow', keys_sha256: [sha256(KEYS.narrow)], models: ['text'], requests_per_minute: 30 },
    ],
    admin_key_secret: 'ADMIN_KEY',
  };
}

/** One request to its end, as its client sees it. */
async function ask(gateway, vllm, account, { path, method, body, headers, leavesAfterMs }) {
  const id = headers['x-request-id'];
  account.send(id);
  const leave = new AbortController();
  let timer;
  if (leavesAfterMs !== undefined) {
    // Not before an endpoint has its request: of one that has not come through nobody can give an account.
    const isAsked = ({ headers: { 'x-request-id': asked } }) => asked?.startsWith(`${id}-`);
    const leaves = () => { timer = setTimeout(() => leave.abort(), leavesAfterMs); };
    vllm.until(() => vllm.requests.some(isAsked), 5000).then(leaves, () => {});
  }
  try {
    const signal = AbortSignal.any([leave.signal, AbortSignal.timeout(30_000)]);
    const response = await fetch(`${gateway.url}${path}`, { method, body, headers, signal, redirect: 'manual' });
    account.see(id, outcomeOf(response, await response.text()));
  } catch (error) {
    account.see(id, { outcome: leave.signal.aborted ? LEFT : `broken off: ${error.message}` });
  } finally {
    clearTimeout(timer);
  }
}

const LEFT = 'left';

/** What the gateway's own errors are called. */
const ERRORS = readFileSync(new URL('../../src/error.rs', import.meta.url), 'utf8');
const CODES = new Set([...ERRORS.matchAll(/ = "(\w+)", \d{3}, "/g)].map(([, name]) => name));

/** What a client takes an answer for: a success, or an error by its code. */
function outcomeOf({ status, headers }, text) {
  if (headers.get('content-type')?.startsWith('text/event-stream')) {
    const events = text.split(/\r\n\r\n|\n\n|\r\r/).filter((block) => block && !block.startsWith(':'));
    const data = events.at(-1)?.split(/[\r\n]+/).filter((line) => line.startsWith('data: ')).map((line) => line.slice(6));
    const last = data?.join('') ?? '';
    if (last === '[DONE]') {
      const error = events.at(-2) && /^data: \{"error"/.test(events.at(-2)) ? errorOf(events.at(-2).slice(6)) : undefined;
      return { outcome: error?.code ?? 'ok', text };
    }
    return { outcome: errorOf(last)?.code ?? 'ok', text };
  }
  if (status < 300) return { outcome: 'ok', text };
  const code = errorOf(text)?.code;
  // Else these are an endpoint's own words on a request that is at fault.
  return { outcome: CODES.has(code) ? code : `upstream_${status}`, text };
}

function errorOf(json) {
  try {
    return JSON.parse(json).error ?? undefined;
  } catch {
    return undefined;
  }
}

async function metrics(gateway) {
  const response = await gateway.fetch('/metrics', { headers: { authorization: `Bearer ${SECRETS.ADMIN_KEY}` } });
  const counts = new Map();
  for (const [, labels, count] of (await response.text()).matchAll(/^fairlead_calls_total\{(.*)\} (\d+)$/gm)) {
    const { route, model, client, outcome } = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, ...pair]) => pair));
    counts.set([route, model, client, outcome].join(' '), Number(count));
  }
  return counts;
}

/** Who was sent, who has seen what, and who stands in the log. What fits is counted and forgotten. */
class Account {
  sent = 0;
  /** Everything that is not as it should be, the first few of each kind in words. */
  troubles = [];
  batches = [];
  #secrets;
  #open = new Map();
  #logged = new Map();
  #seen = new Map();
  #wasm = 0;
  #told = () => {};

  constructor(secrets) {
    this.#secrets = secrets;
  }

  send(id) {
    this.sent += 1;
    this.#open.set(id, {});
  }

  see(id, { outcome, text = '' }) {
    // A client may read of its own prompt; of keys and endpoints it may not.
    const leaked = this.#secrets.find((secret) => secret !== PLANT && text.includes(secret));
    if (leaked) this.#trouble(`${id} was told a secret: ${text.slice(0, 300)}`);
    this.#match(id, { seen: outcome });
  }

  hear(message) {
    const leaked = this.#secrets.find((secret) => message.includes(secret));
    if (leaked) this.#trouble(`a secret was logged: ${message}`);
    if (!message.startsWith('{')) {
      if (!HARMLESS.some((words) => message.includes(words))) this.#trouble(`printed: ${message}`);
      return;
    }
    const line = JSON.parse(message);
    if (line.event === 'wasm_memory') this.#told(line.bytes);
    if (line.event === 'internal' || line.outcome === 'internal') this.#trouble(message);
    if (line.event !== 'call_ended') return;
    const { route, model, client, outcome } = line;
    const labels = [route, model ?? '', client ?? '', outcome].join(' ');
    this.#logged.set(labels, (this.#logged.get(labels) ?? 0) + 1);
    this.#match(line.request_id, { line });
  }

  /** Resolves when each request that was sent has its end and its line. */
  async settled(ms) {
    const until = performance.now() + ms;
    while (this.#open.size > 0 && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const [id, { seen, line }] of this.#open) this.#trouble(`${id} has ${line ? 'no end' : 'no line'}: ${seen ?? JSON.stringify(line)}`);
    this.#open.clear();
  }

  /** Resolves once the isolate has been cleaned up. */
  collected() {
    return new Promise((resolve) => {
      this.#told = (bytes) => {
        this.#wasm = bytes;
        resolve();
      };
    });
  }

  note({ sent, heap, bytes, ms }) {
    const batch = { sent, heap, bytes, wasm: this.#wasm, ms, troubles: this.troubles.length };
    this.batches.push(batch);
    return batch;
  }

  /** The report, once all is over. */
  closed(metrics) {
    const names = new Set([...metrics.keys(), ...this.#logged.keys()]);
    for (const name of names) {
      const [counted, logged] = [metrics.get(name) ?? 0, this.#logged.get(name) ?? 0];
      if (counted !== logged) this.#trouble(`${name}: ${counted} in /metrics, ${logged} in the log`);
    }
    const counted = [...metrics.values()].reduce((sum, count) => sum + count, 0);
    if (counted !== this.sent) this.#trouble(`${counted} in /metrics, ${this.sent} sent`);
    const { sent, troubles, batches } = this;
    return { sent, counted, seen: this.#seen, metrics, batches, troubles };
  }

  #match(id, part) {
    const both = this.#open.get(id);
    if (!both || (part.line && both.line)) return this.#trouble(`${id} ended twice, or was never sent: ${JSON.stringify(part)}`);
    Object.assign(both, part);
    const { seen, line } = both;
    if (seen === undefined || !line) return;
    this.#open.delete(id);
    this.#seen.set(seen, (this.#seen.get(seen) ?? 0) + 1);
    // Who leaves may have been too late for that.
    if (seen !== LEFT && seen !== line.outcome) this.#trouble(`${id} saw ${seen}: ${JSON.stringify(line)}`);
  }

  #trouble(words) {
    this.troubles.push(this.troubles.length < 20 ? words : '');
  }
}
