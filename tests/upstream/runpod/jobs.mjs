// One endpoint's jobs, from submission to expiry, and what each of them costs. It knows neither HTTP nor workers: both
// call it, and a worker leaves behind how it is to be stopped.

import { createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { behaviourOf } from './behaviour.mjs';

export const FINAL = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'];

const OPERATIONS_ON_A_JOB = ['status', 'status-sync', 'stream', 'cancel', 'retry'];

export class Jobs extends EventEmitter {
  /** Waiting for a worker, the oldest first. */
  queue = [];
  /** @type {Job[]} every job there ever was, also those that have expired */
  all = [];
  /** What is asked of every job, and of the next ones: see behaviour.mjs. */
  everyJob = {};
  nextJobs = [];
  #byId = new Map();
  #count = 0;
  #counts = { completed: 0, failed: 0, retried: 0 };
  #options;
  #id;

  /** Emits `change` whenever a job does, and `queued` when there is work for a worker. */
  constructor(id, options) {
    super();
    this.setMaxListeners(0);
    this.#id = id;
    this.#options = options;
  }

  submit({ input, policy = {} }, { sync = false } = {}) {
    this.#count += 1;
    const behaviour = { ...this.everyJob, ...behaviourOf(input), ...this.nextJobs.shift() };
    const job = new Job({ id: this.#newId(sync), input, policy, sync, behaviour });
    this.all.push(job);
    if (this.all.length > this.#options.keepJobs && this.all[0].isOver) this.#forget(this.all.shift());
    this.#byId.set(job.id, job);
    this.#enqueue(job);
    return job;
  }

  /** A job that is still known: results are kept for a time only. */
  find(id) {
    const job = this.#byId.get(id);
    if (!job || job.keepUntil > Date.now()) return job;
    this.#forget(job);
    return undefined;
  }

  /** Keeps a result for so long from now on. */
  keep(job, ms) {
    if (job.isFinal) job.keepUntil = Date.now() + ms;
  }

  // ---- the worker's side ----

  /** The oldest job in the queue, now IN_PROGRESS. `stop` is called when the platform wants it no more. */
  take(workerId, stop) {
    const job = this.queue.shift();
    if (!job) return undefined;
    const now = Date.now();
    job.startedAt ??= now;
    job.delayTime = now - job.queuedAt;
    job.workerId = workerId;
    job.run = { workerId, from: now, to: null, stop, outputs: 0, isDone: false };
    job.runs.push(job.run);
    const limit = job.policy.executionTimeout ?? this.#options.executionTimeoutMs;
    job.executionTimer = setTimeout(() => this.#outOfTime(job), limit).unref();
    this.#become(job, 'IN_PROGRESS');
    return job;
  }

  /** One output of a generator. What comes from a run that is over, is not wanted any more. */
  post(job, run, output) {
    if (job.run !== run) return;
    const { drop, duplicate, requeueAfter, workerLostAfter } = job.behaviour;
    run.outputs += 1;
    if (run.outputs !== drop) job.pending.push({ output });
    if (run.outputs === duplicate) job.pending.push({ output });
    this.#changed(job);
    // Both happen to the first run only, lest the second ends like it.
    if (job.runs.length > 1) return;
    if (run.outputs === requeueAfter) this.#requeue(job);
    else if (run.outputs === workerLostAfter) this.#workerLost(job);
  }

  /** progress_update() of the worker's SDK: a job that is not at its end has an output. */
  progress(job, run, output) {
    if (job.run !== run) return;
    job.output = output;
    this.#changed(job);
  }

  /** What the worker posts as the end: { output?, error? }. */
  finish(job, run, { output, error }) {
    if (job.run !== run || job.behaviour.neverDone) return;
    run.isDone = true;
    if (error !== undefined && error !== null) {
      this.#end(job, 'FAILED', { error, output: undefined });
    } else {
      this.#end(job, 'COMPLETED', { output: withoutDropped(output, job.behaviour) });
    }
  }

  /** A worker that dies takes its jobs along, unless they are handed to another: both have been seen. */
  lose(workerId) {
    for (const job of this.all) if (job.run?.workerId === workerId) this.#workerLost(job);
  }

  // ---- the caller's side ----

  /** Takes what the stream holds out of it: the next reply begins behind it, also when this one is lost. */
  drain(job) {
    return job.pending.splice(0);
  }

  /** The status that the reply claims. */
  cancel(job) {
    job.cancelRequestedAt ??= Date.now();
    if (job.isFinal) return job.status;
    const sinceTaken = job.run ? Date.now() - job.run.from : Infinity;
    const isLost = job.behaviour.cancelLost || sinceTaken < this.#options.losesCancelsWithinMs;
    if (!isLost) this.#end(job, 'CANCELLED');
    return 'CANCELLED';
  }

  /** False where the job is in no state to be retried. */
  retry(job) {
    if (job.status !== 'FAILED' && job.status !== 'TIMED_OUT') return false;
    this.#counts.retried += 1;
    Object.assign(job, { output: undefined, error: undefined, pending: [], endedAt: null, keepUntil: Infinity });
    job.retries += 1;
    this.#enqueue(job);
    return true;
  }

  /** Ends what waits in the queue, and says how much that was. */
  purge() {
    const waiting = [...this.queue];
    for (const job of waiting) this.#end(job, 'CANCELLED');
    return waiting.length;
  }

  /** Resolves when `predicate` holds, when `ms` have passed, or when `signal` says that nobody waits any more. */
  until(predicate, ms, signal) {
    return new Promise((resolve) => {
      const settle = () => {
        clearTimeout(timer);
        this.off('change', check);
        signal?.removeEventListener('abort', settle);
        resolve();
      };
      const check = () => { if (predicate()) settle(); };
      const timer = setTimeout(settle, ms);
      signal?.addEventListener('abort', settle);
      this.on('change', check);
      check();
    });
  }

  get counts() {
    return {
      ...this.#counts,
      inProgress: this.all.filter(({ status }) => status === 'IN_PROGRESS').length,
      inQueue: this.queue.length,
    };
  }

  /** Stops every run and every timer. */
  close() {
    for (const job of this.all) {
      clearTimeout(job.ttlTimer);
      this.#endRun(job);
    }
  }

  // ---- transitions ----

  #enqueue(job) {
    job.queuedAt = Date.now();
    clearTimeout(job.ttlTimer);
    const expiresAt = job.submittedAt + (job.policy.ttl ?? this.#options.ttlMs);
    job.ttlTimer = setTimeout(() => this.#expire(job), expiresAt - job.queuedAt).unref();
    this.queue.push(job);
    this.#become(job, 'IN_QUEUE');
    this.emit('queued');
  }

  #become(job, status) {
    job.status = status;
    this.#changed(job);
  }

  #changed(job) {
    this.emit('change', job);
  }

  #end(job, status, result = {}) {
    this.queue = this.queue.filter((each) => each !== job);
    this.#endRun(job);
    Object.assign(job, result);
    job.endedAt = Date.now();
    clearTimeout(job.ttlTimer);
    job.keepUntil = job.endedAt + (job.sync ? this.#options.syncResultMs : this.#options.resultMs);
    if (status === 'COMPLETED') this.#counts.completed += 1;
    if (status === 'FAILED' || status === 'TIMED_OUT') this.#counts.failed += 1;
    this.#become(job, status);
  }

  #endRun(job) {
    clearTimeout(job.executionTimer);
    const { run } = job;
    if (!run) return;
    job.run = null;
    run.to = Date.now();
    if (!run.isDone) run.stop();
  }

  #outOfTime(job) {
    const { executionTimeoutEndsAs: status } = this.#options;
    this.#end(job, status, status === 'FAILED' ? { error: 'executionTimeout exceeded', output: undefined } : {});
  }

  #requeue(job) {
    this.#endRun(job);
    job.retries += 1;
    this.#counts.retried += 1;
    this.#enqueue(job);
  }

  /** The words are what users report; the time in the queue has begun anew by then. */
  #workerLost(job) {
    job.retries += 1;
    job.delayTime = Date.now() - job.run.from;
    this.#end(job, 'FAILED', { error: 'job timed out after 1 retries', output: undefined });
  }

  /** The ttl runs from submission and asks for no state: what it hits is gone at once. */
  #expire(job) {
    this.queue = this.queue.filter((each) => each !== job);
    this.#endRun(job);
    job.endedAt = Date.now();
    this.#forget(job);
    this.#become(job, 'EXPIRED');
  }

  #forget(job) {
    this.#byId.delete(job.id);
  }

  /** Looks like theirs, and is the same on every run: `sync-` in front for /runsync, a region behind. */
  #newId(sync) {
    const hash = createHash('sha256').update(`${this.#id} ${this.#count}`).digest('hex');
    const uuid = hash.slice(0, 32).replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
    return `${sync ? 'sync-' : ''}${uuid}-u1`;
  }
}

export class Job {
  status = 'IN_QUEUE';
  submittedAt = Date.now();
  startedAt = null;
  endedAt = null;
  cancelRequestedAt = null;
  keepUntil = Infinity;
  delayTime = undefined;
  workerId = undefined;
  output = undefined;
  error = undefined;
  retries = 0;
  /** What the stream holds that no reply has taken. */
  pending = [];
  /** The time on workers, one entry for each take: this is what is billed. */
  runs = [];
  /** The one of them that goes on. */
  run = null;
  polls = Object.fromEntries(OPERATIONS_ON_A_JOB.map((operation) => [operation, 0]));

  constructor({ id, input, policy, sync, behaviour }) {
    Object.assign(this, { id, input, policy, sync, behaviour });
  }

  get isFinal() {
    return FINAL.includes(this.status);
  }

  get isOver() {
    return this.isFinal || this.status === 'EXPIRED';
  }

  get billedMs() {
    return this.runs.reduce((total, { from, to }) => total + (to ?? Date.now()) - from, 0);
  }

  /** What /status says of it. JSON leaves out what is undefined. */
  get view() {
    const { id, status, delayTime, workerId, output, error, retries } = this;
    return {
      delayTime,
      error,
      executionTime: this.isFinal && this.runs.length > 0 ? this.#lastRunMs : undefined,
      id,
      output,
      retries: retries || undefined,
      status,
      workerId,
    };
  }

  get entry() {
    const { id, status, submittedAt, startedAt, endedAt, billedMs, cancelRequestedAt, policy, retries, polls } = this;
    return { id, status, submittedAt, startedAt, endedAt, billedMs, cancelRequestedAt, policy, retries, polls };
  }

  get #lastRunMs() {
    const { from, to } = this.runs.at(-1);
    return to - from;
  }
}

/** A chunk that never arrived is missing in the stream; where the worker itself lost it, in the aggregate too. */
function withoutDropped(output, { drop, dropEverywhere }) {
  return dropEverywhere && Array.isArray(output) ? output.filter((_, at) => at !== drop - 1) : output;
}
