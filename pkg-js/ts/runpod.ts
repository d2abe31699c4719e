// RunPod jobs of any handler, through the gateway's native routes.

import type { CallOptions } from './options.js';
import type { Stream } from './stream.js';
import type { Answered, Transport } from './transport.js';
import type { Open } from './types.js';

/** What a job is asked. */
export interface RunPodRequest extends Open {
  /** What the handler gets. */
  input: unknown;
  webhook?: string;
  /** Milliseconds. */
  policy?: { executionTimeout?: number; ttl?: number; lowPriority?: boolean };
}

/** A job's state, in RunPod's words. */
export interface RunPodJob extends Open {
  id: string;
  status: 'IN_QUEUE' | 'IN_PROGRESS' | 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT' | (string & {});
  output?: unknown;
  error?: unknown;
  /** Milliseconds in the queue. */
  delayTime?: number;
  /** Milliseconds at work. */
  executionTime?: number;
  workerId?: string;
}

/** An endpoint's workers and jobs, in RunPod's words. */
export interface RunPodHealth extends Open {
  jobs?: Record<string, number>;
  workers?: Record<string, number>;
}

/** What waiting for a job may be told. */
export interface RunSyncOptions extends CallOptions {
  /** Milliseconds after which the job's state is the answer, and the job goes on; without it, its end is waited for. */
  wait?: number | undefined;
  /** Whether the job goes on when the call's time is over, instead of being cancelled. */
  keep?: boolean | undefined;
}

/** One endpoint that the gateway opens natively. Nothing that is submitted is ever submitted again. */
export class RunPod {
  readonly #transport: Transport;
  readonly #url: string;

  /** @internal */
  constructor(transport: Transport, name: string) {
    const { baseURL } = transport.setup;
    if (!baseURL) throw new TypeError('runpod() needs a gateway: set baseURL. Of endpoints, only their models can be used.');
    if (typeof name !== 'string' || name === '') throw new TypeError('runpod() takes the name of an endpoint of the gateway');
    this.#transport = transport;
    this.#url = `${baseURL.replace(/\/v1$/, '')}/runpod/${encodeURIComponent(name)}`;
  }

  /** Submits a job and leaves it to itself. */
  run(request: RunPodRequest, options?: CallOptions): Answered<RunPodJob> {
    return this.#transport.ask({ method: 'POST', url: `${this.#url}/run`, body: request }, options);
  }

  /** Submits a job and waits for its result; a job that fails throws. */
  runSync(request: RunPodRequest, options?: RunSyncOptions): Answered<RunPodJob> {
    const { wait, keep, ...rest } = options ?? {};
    const query = String(new URLSearchParams({ ...(wait !== undefined && { wait: String(wait) }), ...(keep && { keep: 'true' }) }));
    return this.#transport.ask({ method: 'POST', url: `${this.#url}/runsync${query && `?${query}`}`, body: request }, rest);
  }

  /** How a job stands. */
  status(job: string, options?: CallOptions): Answered<RunPodJob> {
    return this.#transport.ask({ method: 'GET', url: this.#at('status', job) }, options);
  }

  /**
   * A job's outputs as they come; the end is the job's. RunPod hands each out once. Leaving does not cancel the job.
   * The promise can be iterated itself: `for await (const output of ai.runpod("burst").stream(id))`.
   */
  stream<T = unknown>(job: string, options?: CallOptions): Answered<Stream<T>> & AsyncIterable<T> {
    const promise = this.#transport.follow<T>(
      { method: 'GET', url: this.#at('stream', job) }, options, (value) => (value as { output?: unknown } | null)?.output,
    );
    return Object.assign(promise, {
      async *[Symbol.asyncIterator]() {
        yield* await promise;
      },
    });
  }

  /** Cancels a job. */
  cancel(job: string, options?: CallOptions): Answered<RunPodJob> {
    return this.#transport.ask({ method: 'POST', url: this.#at('cancel', job) }, options);
  }

  /** Has a job that failed or timed out done again, under the same id. */
  retry(job: string, options?: CallOptions): Answered<RunPodJob> {
    return this.#transport.ask({ method: 'POST', url: this.#at('retry', job) }, options);
  }

  /** The endpoint's workers and jobs. */
  health(options?: CallOptions): Answered<RunPodHealth> {
    return this.#transport.ask({ method: 'GET', url: `${this.#url}/health` }, options);
  }

  #at(operation: string, job: string): string {
    if (typeof job !== 'string' || job === '') throw new TypeError(`${operation}() takes the id of a job`);
    return `${this.#url}/${operation}/${encodeURIComponent(job)}`;
  }
}
