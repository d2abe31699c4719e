// What each route under /v2/{id} does, and what it answers: { status?, body }. Shapes and bounds as documented in
// RunPod's docs (serverless/endpoints/{operation-reference,send-requests}); where those are silent, a comment says so.

import { openai } from './openai.mjs';

const DEFAULT_WAIT_MS = 90_000;

/** An answer instead of the operation's own. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  get answer() {
    return { status: this.status, body: { error: this.message } };
  }
}

/**
 * @typedef {object} Asked
 * @property {import('./endpoint.mjs').Endpoint} endpoint
 * @property {URLSearchParams} query
 * @property {any} json the request's body
 * @property {import('./jobs.mjs').Job} [job] the one in the path
 * @property {string} [route] the rest of the path
 * @property {AbortSignal} gone the client has left
 *
 * `on`: what the path goes on with. Without a method any will do.
 * @type {Record<string, { method?: string, on?: 'job' | 'route', act: (asked: Asked) => any }>}
 */
export const OPERATIONS = {
  run: {
    method: 'POST',
    act({ endpoint, json }) {
      const { id, status } = endpoint.jobs.submit(submission(endpoint, json));
      return { body: { id, status } };
    },
  },

  /** Past `wait` the answer is what /status would say, and the job goes on. So it does when the client leaves. */
  runsync: {
    method: 'POST',
    async act({ endpoint, query, json, gone }) {
      const ms = waitOf(endpoint, query);
      const job = endpoint.jobs.submit(submission(endpoint, json), { sync: true });
      await endpoint.jobs.until(() => job.isOver, ms, gone);
      return { body: job.view };
    },
  },

  status: {
    method: 'GET',
    on: 'job',
    act({ endpoint, query, job }) {
      if (query.has('ttl')) endpoint.jobs.keep(job, Number(query.get('ttl')));
      return { body: job.view };
    },
  },

  /** No longer documented; the npm SDK uses it. */
  'status-sync': {
    method: 'GET',
    on: 'job',
    async act({ endpoint, query, job, gone }) {
      await endpoint.jobs.until(() => job.isOver, waitOf(endpoint, query), gone);
      return { body: job.view };
    },
  },

  /** The docs show a bare array; the object is what the SDKs read. */
  stream: {
    method: 'GET',
    on: 'job',
    act: ({ endpoint, job }) => ({ body: { status: job.status, stream: endpoint.jobs.drain(job) } }),
  },

  cancel: {
    method: 'POST',
    on: 'job',
    act: ({ endpoint, job }) => ({ body: { id: job.id, status: endpoint.jobs.cancel(job) } }),
  },

  retry: {
    method: 'POST',
    on: 'job',
    act({ endpoint, job }) {
      if (!endpoint.jobs.retry(job)) throw new Refused(400, `a job that is ${job.status} cannot be retried`);
      return { body: { id: job.id, status: job.status } };
    },
  },

  'purge-queue': {
    method: 'POST',
    act: ({ endpoint }) => ({ body: { removed: endpoint.jobs.purge(), status: 'completed' } }),
  },

  openai: { on: 'route', act: openai },

  health: { method: 'GET', act: ({ endpoint }) => ({ body: endpoint.health }) },
};

function submission({ options: { bounds } }, json) {
  if (!isObject(json)) throw new Refused(400, 'the body is not a JSON object');
  const { input, policy = {} } = json;
  if (!isObject(input)) throw new Refused(400, 'input is missing, or not an object');
  if (!isObject(policy)) throw new Refused(400, 'policy is not an object');
  for (const field of ['executionTimeout', 'ttl']) {
    if (policy[field] !== undefined) requireWithin(`policy.${field}`, policy[field], bounds[field]);
  }
  return { input, policy };
}

/** What becomes of a `wait` outside its bounds is undocumented. Refusing it shows who sends one. */
function waitOf({ options: { bounds } }, query) {
  const wait = Number(query.get('wait') ?? DEFAULT_WAIT_MS);
  requireWithin('wait', wait, bounds.wait);
  return wait;
}

function requireWithin(what, value, [least, most]) {
  const isWithin = Number.isInteger(value) && value >= least && value <= most;
  if (!isWithin) throw new Refused(400, `${what} must be an integer from ${least} to ${most}`);
}

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
