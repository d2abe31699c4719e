// One serverless endpoint: its jobs, its workers, its limits, and what a test can do to it.

import { startVllm } from '../vllm.mjs';
import { Faults } from './faults.mjs';
import { HANDLERS } from './handlers.mjs';
import { Jobs } from './jobs.mjs';
import { Limits } from './limits.mjs';
import { Pool } from './pool.mjs';
import { WorkerSide } from './worker-side.mjs';
import { olderWorkerVllm } from './worker-vllm-older.mjs';
import { workerVllm } from './worker-vllm.mjs';

/**
 * @typedef {object} EndpointOptions times in milliseconds
 * @property {string | import('./perform.mjs').Handler} [handler] a name in handlers.mjs, `worker-vllm`,
 *   `worker-vllm-older`, or `real` for workers that come by themselves and talk to the worker side
 * @property {boolean} [aggregate] `return_aggregate_stream` of a generator; worker-vllm sets it by itself
 * @property {number} [workers] how many at most
 * @property {number} [warm] how many are there from the start and stay
 * @property {number} [concurrency] jobs at once on one worker: 1, and 30 for worker-vllm
 * @property {number} [coldStartMs] from a job that finds no worker to a worker that takes it
 * @property {number} [idleMs] how long a worker without work stays
 * @property {number} [throttled] how many of the workers the platform holds back
 * @property {boolean} [dead] there is never a worker
 * @property {number} [takeMs] how long a real worker's poll for a job, or for what to stop, may last
 * @property {number} [workerLostMs] a real worker that is silent for so long is lost; 0: never
 * @property {number} [executionTimeoutMs] where the job's policy has none
 * @property {'FAILED' | 'TIMED_OUT'} [executionTimeoutEndsAs] docs say TIMED_OUT, users report FAILED
 * @property {number} [ttlMs] where the job's policy has none
 * @property {number} [resultMs] how long the result of /run is kept
 * @property {number} [syncResultMs] how long the result of /runsync is kept
 * @property {number} [losesCancelsWithinMs] a cancel so soon after the job was taken is accepted and forgotten
 * @property {Record<string, [number, number]>} [limits] operation: requests per window, and at a time
 * @property {number} [limitWindowMs]
 * @property {Record<string, number>} [latencyMs] operation: from a request to what it does
 * @property {Record<string, [number, number]>} [bounds] of `executionTimeout`, `ttl` and `wait`
 * @property {Record<string, number>} [maxBytes] operation: the largest request
 * @property {object} [vllm] options of the simulated vLLM behind worker-vllm
 * @property {number} [seed] of the places where worker-vllm's stream is cut
 * @property {number} [pieceBytes] about how many bytes are between two of them; 0 leaves them as they arrive
 * @property {boolean} [rawOpenaiOutput] of the older worker-vllm: RAW_OPENAI_OUTPUT
 * @property {boolean} [flatErrors] of the older worker-vllm: its vLLM is older than v0.10.1
 * @property {number} [openaiErrorStatus] what a job that fails without output is under /openai/v1; undocumented
 * @property {boolean} [openaiCancelsOnDisconnect] whether the job ends with its client there; undocumented
 * @property {number} [openaiStreamMs] a stream there that lasts longer ends without a word, as users have met it
 * @property {number} [keepJobs] how many jobs are remembered
 */
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
const MB = 1024 * 1024;

/** What RunPod documents, as far as it does; the rest is quick. */
export const DEFAULTS = {
  handler: 'echo',
  aggregate: undefined,
  workers: 3,
  warm: 0,
  concurrency: undefined,
  coldStartMs: 0,
  idleMs: 5000,
  throttled: 0,
  dead: false,
  takeMs: 20_000,
  workerLostMs: 0,
  executionTimeoutMs: 10 * MINUTE,
  executionTimeoutEndsAs: 'FAILED',
  ttlMs: DAY,
  resultMs: 30 * MINUTE,
  syncResultMs: MINUTE,
  losesCancelsWithinMs: 0,
  limits: {},
  limitWindowMs: 10_000,
  latencyMs: {},
  bounds: { executionTimeout: [5000, 7 * DAY], ttl: [10_000, 7 * DAY], wait: [1000, 5 * MINUTE] },
  maxBytes: { run: 10 * MB, runsync: 20 * MB, openai: 20 * MB },
  vllm: {},
  seed: 1,
  pieceBytes: 80,
  rawOpenaiOutput: true,
  flatErrors: false,
  openaiErrorStatus: 500,
  openaiCancelsOnDisconnect: false,
  openaiStreamMs: DAY,
  keepJobs: Infinity,
};

export async function startEndpoint(id, given) {
  const options = { ...DEFAULTS, ...given, bounds: { ...DEFAULTS.bounds, ...given.bounds } };
  const vllm = String(options.handler).startsWith('worker-vllm') ? await startVllm(options.vllm) : undefined;
  return new Endpoint(id, options, vllm);
}

class Endpoint {
  /** The simulated vLLM behind worker-vllm: its faults are set there. */
  vllm;
  jobs;
  limits;
  /** What happens to requests: faults.script(operation, …) and faults.always(operation, …). */
  faults = new Faults();

  constructor(id, options, vllm) {
    Object.assign(this, { id, options, vllm });
    this.jobs = new Jobs(id, options);
    this.limits = new Limits(options);
    this.workers = options.handler === 'real' ? new WorkerSide(options, this.jobs)
      : new Pool(id, options, handlerOf(options, vllm), this.jobs);
  }

  /** One entry for each job that was ever submitted, oldest first: what it cost, and how it was asked about. */
  get ledger() {
    return this.jobs.all.map(({ entry }) => entry);
  }

  get billedMs() {
    return this.jobs.all.reduce((total, job) => total + job.billedMs, 0);
  }

  /** How the next jobs behave, one entry for each; the fields are those of `sim_job`. */
  nextJob(...behaviours) {
    this.jobs.nextJobs.push(...behaviours);
    return this;
  }

  get health() {
    const { completed, failed, inProgress, inQueue, retried } = this.jobs.counts;
    return { jobs: { completed, failed, inProgress, inQueue, retried }, workers: this.workers.counts };
  }

  async close() {
    this.workers.close();
    this.jobs.close();
    await this.vllm?.close();
  }
}

function handlerOf({ handler, ...options }, vllm) {
  if (typeof handler === 'object') return handler;
  if (handler === 'worker-vllm') return workerVllm(vllm, options);
  if (handler === 'worker-vllm-older') return olderWorkerVllm(vllm, options);
  if (!Object.hasOwn(HANDLERS, handler)) throw new Error(`there is no handler named ${handler}`);
  return HANDLERS[handler];
}
