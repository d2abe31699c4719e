// Runs a handler on a job the way RunPod's worker SDK does (runpod 1.12.0, rp_job.py): what becomes an output, what an
// error, and what is posted at the end.

import { str } from '../python.mjs';

export const SDK_VERSION = '1.12.0';

/**
 * @typedef {object} Handler
 * @property {boolean} [generator] its outputs go into the stream one by one
 * @property {boolean} [aggregate] `return_aggregate_stream`: they also make up the job's output
 * @property {number} [concurrency] jobs at once on one worker
 * @property {(input: any, context: Context) => any} run
 *
 * @typedef {object} Context
 * @property {AbortSignal} signal the platform stops the job
 * @property {import('./jobs.mjs').Job} job
 * @property {(output: any) => void} progress
 */

/** Resolves when the handler has ended, which may be long after the job has. */
export async function perform(handler, job, jobs, { aggregate = handler.aggregate, signal }) {
  const { run } = job;
  const context = { signal, job, progress: (output) => jobs.progress(job, run, output) };
  const result = handler.generator
    ? await generate(handler, job, context, aggregate, (output) => jobs.post(job, run, output))
    : await call(handler, job, context);
  jobs.finish(job, run, result);
}

async function generate(handler, job, context, aggregate, post) {
  const outputs = [];
  try {
    for await (const output of handler.run(job.input, context)) {
      if (context.signal.aborted) break;
      // A dict that has an error ends the job with that error's str(), and takes the aggregate along.
      if (isObject(output) && output.error) return { error: str(output.error) };
      outputs.push(output);
      post(output);
    }
  } catch (error) {
    return { error: `handler: ${error.message} \ntraceback: ${traceback(error)}` };
  }
  return { output: aggregate ? outputs : undefined };
}

async function call(handler, job, context) {
  try {
    const output = await handler.run(job.input, context);
    if (!isObject(output) || Array.isArray(output)) return { output };
    const { error, refresh_worker: _, ...rest } = output;
    return { output: Object.keys(rest).length > 0 ? rest : undefined, error: error || undefined };
  } catch (error) {
    return {
      error: JSON.stringify({
        error_type: `<class '${error.name}'>`,
        error_message: error.message,
        error_traceback: traceback(error),
        hostname: `${job.workerId}-64410acd`,
        worker_id: job.workerId,
        runpod_version: SDK_VERSION,
      }),
    };
  }
}

const isObject = (value) => typeof value === 'object' && value !== null;

/** Python's form, with a line of the handler and the error's own. */
const traceback = ({ name, message }) =>
  `Traceback (most recent call last):\n  File "/handler.py", line 12, in handler\n${name}: ${message}\n`;
