// A simulated RunPod serverless: the public API under /v2/{endpoint}, in front of endpoints whose workers it simulates
// as well. It holds the server and remembers every request; what a route does is runpod/operations.mjs.

import http from 'node:http';
import { behaviourOf } from './runpod/behaviour.mjs';
import { startEndpoint } from './runpod/endpoint.mjs';
import { OPERATIONS, Refused } from './runpod/operations.mjs';
import { Reply } from './runpod/reply.mjs';
import { WORKER_OPERATIONS } from './runpod/worker-side.mjs';
import { Watched } from './watched.mjs';

/**
 * @typedef {object} Options besides these, the options of every endpoint: see runpod/endpoint.mjs
 * @property {number} [port] 0 takes any
 * @property {string} [host]
 * @property {string} [apiKey]
 * @property {number} [keepRequests] how many requests are remembered
 * @property {Record<string, import('./runpod/endpoint.mjs').EndpointOptions>} [endpoints] by their ids
 */
const DEFAULTS = { port: 0, host: '127.0.0.1', apiKey: 'rpa_simulated', keepRequests: 5000, endpoints: { sim: {} } };

const PATH = /^\/v2\/(?<id>[^/]+)\/(?<operation>[^/]+)(?:\/(?<rest>.+))?$/;

/** @param {Options} [options] */
export async function startRunpod(options = {}) {
  const { port, host, apiKey, keepRequests, endpoints, ...shared } = { ...DEFAULTS, ...options };
  const started = await Promise.all(
    Object.entries(endpoints).map(([id, own]) => startEndpoint(id, { ...shared, ...own })),
  );
  const server = new Runpod({ host, apiKey, keepRequests }, started);
  await server.listen(port);
  return server;
}

class Runpod extends Watched {
  /** Those to the public API, oldest first. */
  requests = [];
  /** Those of real workers. */
  workerRequests = [];
  #options;
  #endpoints;
  #http;
  #count = 0;
  #closing = false;

  constructor(options, endpoints) {
    super();
    this.#options = options;
    this.#endpoints = new Map(endpoints.map((endpoint) => [endpoint.id, endpoint]));
    for (const { jobs } of endpoints) jobs.on('change', () => this.changed());
    // Long, because a client's race for an idle connection would look like a fault that nobody asked for.
    this.#http = http.createServer({ keepAliveTimeout: 75_000 }, (request, response) => this.#serve(request, response));
  }

  listen(port) {
    return new Promise((resolve, reject) => {
      this.#http.once('error', reject);
      this.#http.listen(port, this.#options.host, resolve);
    });
  }

  get port() {
    return this.#http.address().port;
  }

  get url() {
    return `http://${this.#options.host}:${this.port}`;
  }

  get apiKey() {
    return this.#options.apiKey;
  }

  /** Without an id, the first. */
  endpoint(id = [...this.#endpoints.keys()][0]) {
    const endpoint = this.#endpoints.get(id);
    if (!endpoint) throw new Error(`there is no endpoint ${id}`);
    return endpoint;
  }

  /** What a client calls its base URL. */
  baseUrl(id) {
    return `${this.url}/v2/${this.endpoint(id).id}`;
  }

  /** The ledgers of all endpoints in one. */
  get ledger() {
    return [...this.#endpoints.values()].flatMap(({ ledger }) => ledger);
  }

  /** Forgets requests and faults. Jobs stay, and so do limits. */
  reset() {
    this.requests = [];
    this.workerRequests = [];
    for (const { faults } of this.#endpoints.values()) faults.reset();
  }

  /** Ends every connection, job and timer at once. */
  async close() {
    this.#closing = true;
    const closed = new Promise((resolve) => this.#http.close(resolve));
    this.#http.closeAllConnections();
    await Promise.all([closed, ...[...this.#endpoints.values()].map((endpoint) => endpoint.close())]);
  }

  async #serve(request, response) {
    const record = this.#remember(request);
    const gone = new AbortController();
    response.on('close', () => {
      gone.abort();
      if (this.#closing) return;
      if (!record.finishedAt) record[response.writableFinished ? 'finishedAt' : 'closedByClientAt'] = Date.now();
      this.changed();
    });
    try {
      await this.#answer(record, request, response, gone.signal);
    } catch (error) {
      if (!gone.signal.aborted) throw error;
    }
  }

  #remember({ method, url, headers, rawHeaders }) {
    this.#count += 1;
    const { pathname: path, searchParams: query } = new URL(url, this.url);
    const { id, operation, rest } = PATH.exec(path)?.groups ?? {};
    const record = {
      n: this.#count, method, target: url, path, query, headers, rawHeaders, endpoint: id, operation, rest,
      body: Buffer.alloc(0), at: Date.now(), finishedAt: null, closedByClientAt: null, fault: null, stalled: false,
      status: null, reply: undefined,
    };
    const list = Object.hasOwn(WORKER_OPERATIONS, operation ?? '') ? this.workerRequests : this.requests;
    list.push(record);
    if (list.length > this.#options.keepRequests) list.shift();
    this.changed();
    return record;
  }

  async #answer(record, request, response, gone) {
    const endpoint = this.#endpoints.get(record.endpoint);
    const leave = endpoint?.limits.enter(record.operation);
    const reply = new Reply(response, record, gone, () => this.changed());
    try {
      record.body = await bodyOf(request, gone);
      const asked = Object.hasOwn(WORKER_OPERATIONS, record.operation ?? '')
        ? workerAsks(record, endpoint) : this.#check(record, endpoint, leave);
      const fault = endpoint.faults.next(record.operation, ...marksOf(asked));
      record.fault = fault.name;
      await reply.wait(endpoint.options.latencyMs[record.operation] ?? 0);
      const answer = fault.params.effect ? await asked.operation.act({ ...asked, gone }) : undefined;
      record.job ??= answer?.job?.id ?? answer?.body?.id;
      await fault.run(reply, answer, fault.params);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      reply.whole(error.answer);
    } finally {
      leave?.();
    }
  }

  /** All that an operation has to know, of a request that may reach it. */
  #check(record, endpoint, isAllowed) {
    if (record.headers.authorization !== `Bearer ${this.#options.apiKey}`) throw new Refused(401, 'unauthorized');
    if (!endpoint) throw new Refused(404, 'there is no such endpoint');
    if (!isAllowed) throw new Refused(429, 'too many requests');
    const operation = Object.hasOwn(OPERATIONS, record.operation) ? OPERATIONS[record.operation] : undefined;
    if (!operation || Boolean(operation.on) !== Boolean(record.rest)) throw new Refused(404, 'there is no such route');
    if (operation.method && operation.method !== record.method) throw new Refused(405, 'method not allowed');
    // Which status this has is undocumented.
    if (record.body.length > (endpoint.options.maxBytes[record.operation] ?? Infinity)) {
      throw new Refused(413, 'the payload is too large');
    }
    const job = operation.on === 'job' ? endpoint.jobs.find(record.rest) : undefined;
    if (operation.on === 'job' && !job) throw new Refused(404, 'job not found');
    if (job) job.polls[record.operation] += 1;
    record.job = job?.id;
    return { endpoint, operation, job, route: record.rest, query: record.query, json: jsonOf(record.body) };
  }
}

/** What a worker has to say needs no key, and concerns only an endpoint that awaits workers. */
function workerAsks(record, endpoint) {
  const operation = WORKER_OPERATIONS[record.operation];
  const [worker, job] = (record.rest ?? '').split('/');
  if (endpoint?.options.handler !== 'real' || !worker) throw new Refused(404, 'there is no such route');
  if (operation.method !== record.method) throw new Refused(405, 'method not allowed');
  const taken = job && endpoint.jobs.find(job);
  record.job = job;
  return { endpoint, operation, worker, taken, query: record.query, json: jsonOf(record.body) };
}

/** The faults that a job asks for in its own input, and by what its requests are told from others. */
function marksOf({ job, taken, worker, json }) {
  if (worker) return [taken?.behaviour.faults, taken?.id];
  if (job) return [job.behaviour.faults, job.id];
  const input = json?.input ?? json; // of the OpenAI proxy the body itself
  return [behaviourOf(input).faults, JSON.stringify(input)];
}

async function bodyOf(request, gone) {
  const chunks = [];
  try {
    for await (const chunk of request) chunks.push(chunk);
  } catch {
    // A body breaks off with its client only, whose leaving may be told a moment later.
    await new Promise((resolve) => (gone.aborted ? resolve() : gone.addEventListener('abort', resolve)));
    gone.throwIfAborted();
  }
  return Buffer.concat(chunks);
}

function jsonOf(bytes) {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}
