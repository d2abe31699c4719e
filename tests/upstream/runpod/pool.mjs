// The simulated workers of one endpoint: started while jobs wait, cold at first, gone again after a time without work.
// Each runs the endpoint's handler on as many jobs at once as its concurrency allows.

import { createHash } from 'node:crypto';
import { perform } from './perform.mjs';

export class Pool {
  /** How many of the workers the platform holds back, as it does when it is short of GPUs. */
  #throttled;
  /** No worker ever comes up: what an endpoint looks like whose maximum is zero. */
  #dead;
  #workers = new Set();
  #started = 0;
  #options;
  #handler;
  #jobs;
  #closed = false;

  constructor(id, options, handler, jobs) {
    Object.assign(this, { id });
    this.#options = options;
    this.#handler = handler;
    this.#jobs = jobs;
    this.#throttled = options.throttled;
    this.#dead = options.dead;
    // A job is in the queue at first, also with a warm worker waiting: no reply says otherwise.
    jobs.on('queued', () => setImmediate(() => this.#dispatch()));
    for (let count = 0; count < options.warm; count += 1) this.#start(0);
  }

  set throttled(count) {
    this.#throttled = count;
    this.#dispatch();
  }

  get throttled() {
    return this.#throttled;
  }

  set dead(dead) {
    this.#dead = dead;
    if (dead) for (const worker of this.#workers) this.kill(worker.id);
    this.#dispatch();
  }

  get dead() {
    return this.#dead;
  }

  /** A worker dies with everything that it was doing; without an id, the first that works. */
  kill(id) {
    const [worker] = [...this.#workers].filter((each) => (id ? each.id === id : each.busy > 0));
    if (!worker) return;
    this.#remove(worker);
    this.#jobs.lose(worker.id);
    this.#dispatch();
  }

  get counts() {
    const inState = (predicate) => [...this.#workers].filter(predicate).length;
    const running = inState(({ ready, busy }) => ready && busy > 0);
    const idle = inState(({ ready, busy }) => ready && busy === 0);
    return {
      idle, initializing: inState(({ ready }) => !ready), ready: idle + running, running,
      throttled: this.#dead ? 0 : Math.min(this.#throttled, this.#options.workers), unhealthy: 0,
    };
  }

  close() {
    this.#closed = true;
    for (const worker of this.#workers) this.#remove(worker);
  }

  #dispatch() {
    if (this.#closed || this.#dead) return;
    for (const worker of this.#workers) {
      while (worker.ready && worker.busy < this.#concurrency && this.#jobs.queue.length > 0) this.#work(worker);
    }
    const coming = [...this.#workers].filter(({ ready }) => !ready).length * this.#concurrency;
    const missing = Math.ceil((this.#jobs.queue.length - coming) / this.#concurrency);
    const allowed = this.#options.workers - this.#throttled - this.#workers.size;
    for (let count = 0; count < Math.min(missing, allowed); count += 1) this.#start(this.#options.coldStartMs);
  }

  get #concurrency() {
    return this.#options.concurrency ?? this.#handler.concurrency ?? 1;
  }

  #start(coldStartMs) {
    this.#started += 1;
    const id = createHash('sha256').update(`${this.id} worker ${this.#started}`).digest('hex').slice(0, 14);
    const worker = { id, ready: false, busy: 0, timer: undefined };
    this.#workers.add(worker);
    worker.timer = setTimeout(() => {
      worker.ready = true;
      this.#dispatch();
      if (worker.busy === 0) this.#rest(worker);
    }, coldStartMs).unref();
  }

  async #work(worker) {
    clearTimeout(worker.timer);
    const stopped = new AbortController();
    const job = this.#jobs.take(worker.id, () => stopped.abort());
    worker.busy += 1;
    await perform(this.#handler, job, this.#jobs, { aggregate: this.#options.aggregate, signal: stopped.signal });
    worker.busy -= 1;
    // A handler that blocks keeps its worker beyond the job's own end.
    job.workerFreeAt = Date.now();
    if (!this.#workers.has(worker)) return;
    this.#dispatch();
    if (worker.busy === 0) this.#rest(worker);
  }

  #rest(worker) {
    const { warm, idleMs } = this.#options;
    clearTimeout(worker.timer);
    worker.timer = setTimeout(() => {
      if (this.#workers.size > warm) this.#remove(worker);
    }, idleMs).unref();
  }

  #remove(worker) {
    clearTimeout(worker.timer);
    this.#workers.delete(worker);
  }
}
