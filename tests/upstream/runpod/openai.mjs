// The OpenAI proxy, /v2/{id}/openai/v1/…: the same queue and workers, but no job id, so nobody can cancel. Documented
// is only that it is there; how it fails are options, because users have met several ways.

/** @param {import('./operations.mjs').Asked & { route: string }} asked */
export async function openai({ endpoint, route, json, gone }) {
  const { jobs, options } = endpoint;
  const job = jobs.submit({ input: { openai_route: `/${route}`, openai_input: json } });
  if (options.openaiCancelsOnDisconnect) gone.addEventListener('abort', () => jobs.cancel(job));
  await jobs.until(() => job.isOver || job.pending.length > 0, endpoint.options.ttlMs, gone);
  // An answer that does not stream is one output; only the end says whether a job without any has failed.
  if (job.pending.length === 0) {
    return { job, status: options.openaiErrorStatus, body: { error: job.error ?? `the job is ${job.status}` } };
  }
  if (json?.stream !== true) return { job, body: jobs.drain(job)[0].output };
  return { job, type: 'text/event-stream', chunks: outputs(jobs, job, options, gone) };
}

/** Everything that the worker yields, to the job's end or to where the proxy gives up: both look the same. */
async function* outputs(jobs, job, { openaiStreamMs }, gone) {
  const givesUpAt = Date.now() + openaiStreamMs;
  while (!gone.aborted) {
    for (const { output } of jobs.drain(job)) yield typeof output === 'string' ? output : JSON.stringify(output);
    const left = givesUpAt - Date.now();
    if (job.isOver || left <= 0) return;
    await jobs.until(() => job.isOver || job.pending.length > 0, left, gone);
  }
}
