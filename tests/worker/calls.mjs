// Calls whose endpoints break: what their client got of them, what the log has, and what the endpoints were asked.

import { requestsOf, STAYS_CLOSED } from './gateway.mjs';

export const CHAT = '/v1/chat/completions';
export const COMPLETIONS = '/v1/completions';
export const MESSAGES = [{ role: 'user', content: 'What is a fairlead?' }];
export const PROMPT = 'The quick';

/** A request of each kind, for a text. */
export const BODIES = { [CHAT]: { messages: MESSAGES }, [COMPLETIONS]: { prompt: PROMPT, max_tokens: 100 } };

/** Attempts enough, at once, and none that another call pays for. */
export const PATIENT = {
  max_attempts: 6, backoff: { base_ms: 1, throttled_base_ms: 1 }, budget: { capacity: 1_000_000 },
  breaker: STAYS_CLOSED,
};

/** Answers as often as a call may ask, all with this text: as the entries say first, and then well. */
export const answers = (text, ...entries) =>
  Array.from({ length: Math.max(8, entries.length) }, (_, at) => ({ text, ...entries[at] }));

/**
 * Does something for each of a list, so many at a time. More at once would only make all of them wait, and an endpoint
 * that is to count tokens is not waited for so long.
 */
export async function each(list, action, atOnce = 12) {
  const left = list.values();
  const worker = async () => {
    for (const item of left) await action(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

export class Calls {
  #gateway;
  #server;
  /** The log by the ids of calls: there are too many to look through all of it for each. */
  #lines = new Map();
  #waiting = new Map();
  #count = 0;

  /** @param server the simulated vLLM behind all endpoints */
  constructor(gateway, server) {
    this.#gateway = gateway;
    this.#server = server;
    gateway.on('line', () => this.#hear(gateway.logs.at(-1)));
  }

  /** One call to its end, as an {@link Ended}. */
  async ask(path, body, { policy, id = this.newId(), headers } = {}) {
    const began = performance.now();
    const response = await this.#gateway.fetch(path, {
      body: { ...BODIES[path], ...body },
      headers: { 'x-request-id': id, ...(policy && { 'x-fairlead-policy': policy }), ...headers },
    });
    const text = await response.text();
    const ms = performance.now() - began;
    const lines = await this.#linesOf(id);
    return new Ended({ id, response, text, ms, lines, requests: requestsOf(this.#server, id) });
  }

  /** The same for a stream. */
  stream(path, body, options) {
    return this.ask(path, { stream: true, ...body }, options);
  }

  newId() {
    this.#count += 1;
    return `text-${this.#count}`;
  }

  #hear(line) {
    const id = line.request_id;
    if (!this.#lines.has(id)) this.#lines.set(id, []);
    this.#lines.get(id).push(line);
    if (line.event === 'call_ended') this.#waiting.get(id)?.();
  }

  async #linesOf(id) {
    const hasEnded = () => this.#lines.get(id)?.some(({ event }) => event === 'call_ended');
    if (!hasEnded()) await new Promise((resolve) => { this.#waiting.set(id, resolve); });
    this.#waiting.delete(id);
    return this.#lines.get(id);
  }
}

/** A call that is over: `id`, `response`, `text` of its body, `ms`, `lines` of the log, `requests` to the endpoints. */
class Ended {
  constructor(fields) {
    Object.assign(this, fields);
  }

  get json() {
    return JSON.parse(this.text);
  }

  /** The error that it ended in, as its answer or in its stream. */
  get error() {
    return JSON.parse(/(\{"error":.*\})\s*$/.exec(this.text)[1]).error;
  }

  get end() {
    return this.lines.find(({ event }) => event === 'call_ended');
  }

  /** How it went on, each time: the way, and why it is not the policy's. */
  get ways() {
    const started = this.lines.filter(({ event }) => event === 'resume_started');
    return started.map(({ way, why }) => (why ? `${way}, ${why}` : way));
  }

  /** What followed each failed attempt. */
  get followed() {
    return this.lines.filter(({ event }) => event === 'attempt_failed').map(({ then }) => then);
  }

  /** The requests but those to the tokenizer. */
  get attempts() {
    return this.requests.filter(({ path }) => path !== '/tokenize');
  }
}
