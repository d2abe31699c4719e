// What the tests of RunPod jobs have in common: how CONFIG names simulated endpoints, and a call together with what its
// jobs left in the simulation's records.

import { startGateway, STAYS_CLOSED } from './gateway.mjs';

export const CHAT = '/v1/chat/completions';
export const DONE = 'data: [DONE]';
export const MESSAGES = [{ role: 'user', content: 'What is a fairlead?' }];

/** Retries at once: what is tested is whether there are any. */
export const IMPATIENT = {
  backoff: { base_ms: 10, throttled_base_ms: 10, max_ms: 10 }, budget: { capacity: 1_000_000 },
  breaker: STAYS_CLOSED,
};

const SECRETS = { RUNPOD_API_KEY: 'rpa_simulated' };

/** Entries of `endpoints` in CONFIG for every endpoint of a simulation, or for those that are named. */
export function jobEndpoints(runpod, ids, more = {}) {
  return ids.map((id) => ({
    name: id, provider: 'runpod', base_url: runpod.baseUrl(id), api_key_secret: 'RUNPOD_API_KEY', ...more,
  }));
}

/** A gateway with a model of its own name for each endpoint of a simulation. */
export function startJobs(runpod, ids, { endpoint, endpoints = [], models = [], policies, secrets, ...config } = {}) {
  return startGateway({
    open: true,
    endpoints: [...jobEndpoints(runpod, ids, endpoint), ...endpoints],
    models: [...ids.map((name) => ({ name, targets: [{ endpoint: name }] })), ...models],
    policies: { default: IMPATIENT, ...policies },
    ...config,
  }, { secrets: { ...SECRETS, ...secrets } });
}

let count = 0;

/** A call under way; `ended` resolves with it when the client has all, or has left. */
export class JobCall {
  text = '';
  left = null;
  /** Called when more of the answer has come. */
  onText = () => {};
  #gateway;
  #runpod;
  #leave = new AbortController();
  #watchers = new Set();

  constructor(gateway, runpod, model, body, { path = CHAT, headers } = {}) {
    this.#gateway = gateway;
    this.#runpod = runpod;
    count += 1;
    this.id = `call-${count}`;
    this.began = Date.now();
    this.ended = this.#read(path, { model, ...body }, headers);
  }

  /** The requests of this call, oldest first. */
  get requests() {
    return this.#runpod.requests.filter(({ headers }) => headers['x-request-id']?.replace(/-\d+$/, '') === this.id);
  }

  /** The jobs that it started. */
  get jobs() {
    const started = this.requests.filter(({ operation, job }) => /^run(sync)?$/.test(operation) && job);
    return started.map(({ endpoint, job }) => this.#runpod.endpoint(endpoint).jobs.all.find(({ id }) => id === job));
  }

  get json() {
    return JSON.parse(this.text);
  }

  /** The stream without its comments, as blocks. */
  get events() {
    return this.text.split('\n\n').filter((block) => block && !block.startsWith(':'));
  }

  /** The error in the stream's last event, or the one that is the answer. */
  get error() {
    const data = this.events.at(-1)?.split('\n').find((line) => line.startsWith('data: '));
    return JSON.parse(data?.slice('data: '.length) ?? this.text).error;
  }

  leave() {
    this.left = Date.now();
    this.#leave.abort();
    return this.ended;
  }

  /** Resolves when the client has this much. */
  has(text) {
    return new Promise((resolve, reject) => {
      const check = () => {
        if (!this.text.includes(text)) return;
        this.#watchers.delete(check);
        resolve();
      };
      this.#watchers.add(check);
      check();
      this.ended.then(() => reject(new Error(`the call ended without ${text}: ${this.text}`)), reject);
    });
  }

  /** Resolves with its only job, once it is in this state. */
  async job(status) {
    return this.#runpod.until(() => this.jobs[0]?.status === status && this.jobs[0]);
  }

  /** What the log says of its end. */
  line(fields = { event: 'call_ended' }, ms) {
    return this.#gateway.line({ request_id: this.id, ...fields }, ms);
  }

  async #read(path, body, headers) {
    try {
      this.response = await this.#gateway.fetch(path, {
        body, headers: { 'x-request-id': this.id, ...headers }, signal: this.#leave.signal,
      });
      const decoder = new TextDecoder();
      for await (const bytes of this.response.body) {
        this.text += decoder.decode(bytes, { stream: true });
        this.onText();
        for (const check of this.#watchers) check();
      }
    } catch (error) {
      if (this.left === null) throw error;
    }
    return this;
  }
}

/** The text of a chat's or a completion's chunks, in the order in which they stand. */
export function contentOf(events) {
  return events.filter((event) => event !== DONE)
    .flatMap((event) => JSON.parse(event.slice('data: '.length)).choices ?? [])
    .map((choice) => choice.delta?.content ?? choice.text ?? '').join('');
}
