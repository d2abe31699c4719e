// A client of one RunPod endpoint that hides nothing: every call resolves to { status, body, … } whatever came.

import { setTimeout as sleep } from 'node:timers/promises';

const FINAL = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'];
const POLL_MS = 10;

export class JobClient {
  #base;
  #key;

  constructor(runpod, endpoint, key = runpod.apiKey) {
    this.#base = runpod.baseUrl(endpoint);
    this.#key = key;
  }

  /** `body` is JSON text, or a value that becomes it. */
  async call(method, path, body, { signal } = {}) {
    const response = await fetch(this.#base + path, {
      method,
      body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
      headers: { 'content-type': 'application/json', ...(this.#key && { authorization: `Bearer ${this.#key}` }) },
      signal,
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, body: parsed(text) };
  }

  run(input, more) {
    return this.call('POST', '/run', { input, ...more });
  }

  runsync(input, more, query = '') {
    return this.call('POST', `/runsync${query}`, { input, ...more });
  }

  status(id) {
    return this.call('GET', `/status/${id}`);
  }

  stream(id) {
    return this.call('GET', `/stream/${id}`);
  }

  cancel(id) {
    return this.call('POST', `/cancel/${id}`);
  }

  health() {
    return this.call('GET', '/health');
  }

  /** Submits, and polls until the job is in one of the states. */
  async until(id, states = FINAL, ms = 5000) {
    for (const until = Date.now() + ms; Date.now() < until; await sleep(POLL_MS)) {
      const { status, body } = await this.status(id);
      if (status !== 200 || states.includes(body.status)) return body;
    }
    throw new Error(`job ${id} is not ${states.join(' or ')} within ${ms} ms`);
  }

  /** Runs a job to its end by /stream alone: its outputs, how many came with each reply, and its last /status. */
  async outputs(input, more) {
    const { body: { id } } = await this.run(input, more);
    const replies = [];
    for (;;) {
      const { body } = await this.stream(id);
      replies.push(body.stream.map(({ output }) => output));
      if (FINAL.includes(body.status) && body.stream.length === 0) break;
      await sleep(POLL_MS);
    }
    return { id, outputs: replies.flat(), replies, last: (await this.status(id)).body };
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
