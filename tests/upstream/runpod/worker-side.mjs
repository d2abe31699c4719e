// The other side of RunPod: what a worker's SDK talks to. With it the real `runpod` package runs a handler for an
// endpoint of the simulation. Routes, bodies and statuses are those that runpod 1.12.0 uses (rp_job.py, rp_http.py,
// rp_ping.py); the addresses come from environment variables, so they are the simulation's own.

const GPU = '?gpu=simulated';

/** What stands in the environment of a worker, besides what the machine's own has. */
export function workerEnvironment(base, workerId, pingMs = 1000) {
  return {
    RUNPOD_POD_ID: workerId,
    RUNPOD_POD_HOSTNAME: `${workerId}-simulated`,
    RUNPOD_WEBHOOK_GET_JOB: `${base}/job-take/$ID${GPU}`,
    RUNPOD_WEBHOOK_POST_OUTPUT: `${base}/job-done/$RUNPOD_POD_ID/$ID${GPU}`,
    RUNPOD_WEBHOOK_POST_STREAM: `${base}/job-stream/$RUNPOD_POD_ID/$ID${GPU}`,
    RUNPOD_WEBHOOK_PING: `${base}/ping/$RUNPOD_POD_ID`,
    RUNPOD_PING_INTERVAL: String(pingMs),
    RUNPOD_AI_API_KEY: 'simulated-worker', // without one it does not ping
    // There is neither a GPU nor a way out to test.
    RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: 'true',
    RUNPOD_SKIP_GPU_CHECK: 'true',
  };
}

/** Stands where the simulated workers do (pool.mjs), for an endpoint whose workers are real. */
export class WorkerSide {
  throttled = 0;
  dead = false;
  #options;
  #jobs;
  /** By id: { seenAt, waiting (long polls for jobs), stops (jobs to stop), wake (a long poll for stops) } */
  #workers = new Map();
  #watch;

  constructor(options, jobs) {
    this.#options = options;
    this.#jobs = jobs;
    if (options.workerLostMs > 0) {
      this.#watch = setInterval(() => this.#loseSilent(), options.workerLostMs / 4).unref();
    }
  }

  /** Up to `count` jobs, waited for as long as a poll may last. */
  async take(id, count, gone) {
    const worker = this.#seen(id);
    const isOffered = () => this.#jobs.queue.length > 0 && !this.throttled && !this.dead;
    worker.waiting += 1;
    this.#jobs.emit('change');
    await this.#jobs.until(isOffered, this.#options.takeMs, gone);
    worker.waiting -= 1;
    const taken = [];
    while (taken.length < count && isOffered() && !gone.aborted) {
      const job = this.#jobs.take(id, () => this.#stop(worker, job.id));
      taken.push({ id: job.id, input: job.input });
    }
    return taken;
  }

  /** Jobs that this worker is to stop, waited for likewise. */
  async stops(id, gone) {
    const worker = this.#seen(id);
    if (worker.stops.length === 0) {
      await new Promise((resolve) => {
        worker.wake = resolve;
        gone.addEventListener('abort', resolve);
        setTimeout(resolve, this.#options.takeMs).unref();
      });
    }
    return gone.aborted ? [] : worker.stops.splice(0);
  }

  post(id, job, { output }) {
    this.#seen(id);
    if (job?.run?.workerId === id) this.#jobs.post(job, job.run, output);
  }

  done(id, job, { status, output, error }, isStream) {
    this.#seen(id);
    if (job?.run?.workerId !== id) return;
    if (status === 'IN_PROGRESS') return this.#jobs.progress(job, job.run, output);
    // A generator posts an empty list where nobody asked for the aggregate.
    const isEmpty = isStream && Array.isArray(output) && output.length === 0;
    return this.#jobs.finish(job, job.run, { output: isEmpty ? undefined : output, error });
  }

  ping(id) {
    this.#seen(id);
  }

  kill(id = [...this.#workers.keys()][0]) {
    this.#workers.delete(id);
    this.#jobs.lose(id);
  }

  get counts() {
    const busy = new Set(this.#jobs.all.filter(({ run }) => run).map(({ workerId }) => workerId));
    const idle = [...this.#workers].filter(([id, { waiting }]) => waiting > 0 && !busy.has(id)).length;
    return {
      idle, initializing: 0, ready: idle + busy.size, running: busy.size, throttled: this.throttled, unhealthy: 0,
    };
  }

  close() {
    clearInterval(this.#watch);
  }

  #seen(id) {
    if (!this.#workers.has(id)) this.#workers.set(id, { waiting: 0, stops: [], wake: () => {} });
    const worker = this.#workers.get(id);
    worker.seenAt = Date.now();
    return worker;
  }

  #stop(worker, jobId) {
    worker.stops.push(jobId);
    worker.wake();
  }

  #loseSilent() {
    const since = Date.now() - this.#options.workerLostMs;
    for (const [id, { seenAt, waiting }] of this.#workers) if (waiting === 0 && seenAt < since) this.kill(id);
  }
}

const NOTHING = { status: 204 };

/** Like operations.mjs, for workers: `worker` and `taken` (a job, or undefined) are the path's. */
export const WORKER_OPERATIONS = {
  'job-take': {
    method: 'GET',
    async act({ endpoint, worker, gone }) {
      const [job] = await endpoint.workers.take(worker, 1, gone);
      return job ? { body: job } : NOTHING;
    },
  },

  'job-take-batch': {
    method: 'GET',
    async act({ endpoint, worker, query, gone }) {
      const jobs = await endpoint.workers.take(worker, Number(query.get('batch_size')), gone);
      return jobs.length > 0 ? { body: jobs } : NOTHING;
    },
  },

  'job-stop': {
    method: 'GET',
    async act({ endpoint, worker, gone }) {
      const jobsToStop = await endpoint.workers.stops(worker, gone);
      return jobsToStop.length > 0 ? { body: { jobsToStop } } : NOTHING;
    },
  },

  'job-stream': {
    method: 'POST',
    act({ endpoint, worker, taken, json }) {
      endpoint.workers.post(worker, taken, json);
      return { body: { status: 'ok' } };
    },
  },

  'job-done': {
    method: 'POST',
    act({ endpoint, worker, taken, json, query }) {
      endpoint.workers.done(worker, taken, json, query.get('isStream') === 'true');
      return { body: { status: 'ok' } };
    },
  },

  ping: {
    method: 'GET',
    act({ endpoint, worker }) {
      endpoint.workers.ping(worker);
      return { body: { status: 'ok' } };
    },
  },
};
