// A simulated vLLM 0.32 server that can misbehave at byte level. It holds the sockets, chooses each request's fault and
// remembers every request; what it answers is answers.mjs, how it fails is faults.mjs.

import net from 'node:net';
import { answer, parse } from './answers.mjs';
import { FAULTS, isFault, perform } from './faults.mjs';
import { Refusal } from './errors.mjs';
import { Reply } from './reply.mjs';
import { BadRequest, RequestReader } from './requests.mjs';
import { hex } from './tokens.mjs';
import { Watched } from './watched.mjs';

/**
 * @typedef {object} Options
 * @property {number} [port] 0 takes any
 * @property {string} [host]
 * @property {string[]} [models] the names served; none means every name
 * @property {string} [apiKey] guards /v1, /v2 and /inference only, as vLLM does
 * @property {number} [tokenMs] between two tokens
 * @property {number} [firstTokenMs] before the first
 * @property {number} [maxMs] the end of everything that lasts for ever
 * @property {number} [keepAliveMs] how long an idle connection stays; with 0 each answer closes its own
 * @property {number} [maxModelLen] prompt tokens beyond it are refused
 * @property {number} [keepRequests] how many requests are remembered
 * @property {boolean} [faultless] no request can ask for a fault, neither by its `sim` field nor by its model's name
 * @property {number} [now] the instant in milliseconds that every answer claims to come from
 */
const DEFAULTS = {
  port: 0,
  host: '127.0.0.1',
  models: [],
  apiKey: undefined,
  tokenMs: 0,
  firstTokenMs: 0,
  maxMs: 120_000,
  keepAliveMs: 5000,
  maxModelLen: 1 << 20,
  keepRequests: 1000,
  faultless: false,
  // Constant, so that the same request gets the same bytes on any day. It is when the captures were made.
  now: Date.UTC(2026, 10, 21, 22, 24, 46),
};

/** @param {Options} [options] */
export async function startVllm(options = {}) {
  const server = new Vllm({ ...DEFAULTS, ...options });
  await server.listen();
  return server;
}

class Vllm extends Watched {
  /** @type {RequestRecord[]} oldest first */
  requests = [];
  /** What /health says. */
  healthy = true;
  #options;
  #script = [];
  #fault = { fault: 'ok' };
  #net;
  #sockets = new Set();
  #count = 0;
  #closing = false;

  constructor(options) {
    super();
    this.#options = options;
    this.#net = net.createServer((socket) => this.#serve(socket));
  }

  listen() {
    const { port, host } = this.#options;
    return new Promise((resolve, reject) => {
      this.#net.once('error', reject);
      this.#net.listen(port, host, resolve);
    });
  }

  get port() {
    return this.#net.address().port;
  }

  /** Without a path: `${url}/v1` is an OpenAI client's base URL. */
  get url() {
    return `http://${this.#options.host}:${this.port}`;
  }

  /** What happens to POST requests when no script is left: a name or { fault, ...parameters }. */
  get fault() {
    return this.#fault;
  }

  set fault(entry) {
    this.#fault = named(entry);
  }

  /** One entry for each POST request to come, in their order: a name or { fault, ...parameters }. */
  script(...entries) {
    this.#script.push(...entries.map(named));
    return this;
  }

  /** Forgets requests, script and fault. Connections stay. */
  reset() {
    this.requests = [];
    this.#script = [];
    this.#fault = { fault: 'ok' };
    this.healthy = true;
  }

  /** Destroys every connection at once. */
  close() {
    this.#closing = true;
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.#net.close(resolve));
  }

  async #serve(socket) {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    const gone = new AbortController();
    const reader = new RequestReader(socket);
    let record = null;
    const leave = () => {
      if (!this.#closing) record?.leftByClient();
      gone.abort();
      socket.destroy();
    };
    // A half-closed connection counts as left, as it does for uvicorn. 'close' follows every error.
    socket.once('end', leave);
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#sockets.delete(socket);
      leave();
    });
    try {
      while (await reader.ready(record ? this.#options.keepAliveMs : undefined)) {
        const request = await reader.next();
        if (!request) break;
        record = this.#remember(request);
        await this.#handle(request, record, socket, gone.signal);
        if (record.finishedAt !== null) return;
        record.finish();
        if (!record.keepAlive) break;
      }
      socket.destroySoon();
    } catch (error) {
      if (error instanceof BadRequest) {
        socket.end('HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n'
          + 'Invalid HTTP request received.');
      } else if (!gone.signal.aborted && !socket.destroyed) {
        throw error;
      }
    }
  }

  #remember(request) {
    this.#count += 1;
    const date = new Date(this.#options.now).toUTCString();
    const keepAlive = request.keepAlive && this.#options.keepAliveMs > 0;
    const record = new RequestRecord({ ...request, keepAlive }, this.#count, date, () => this.changed());
    this.requests.push(record);
    if (this.requests.length > this.#options.keepRequests) this.requests.shift();
    record.changed();
    return record;
  }

  async #handle(request, record, socket, gone) {
    const parsed = parse(request);
    let spec;
    let result;
    try {
      spec = this.#specFor(request, parsed.body, record);
      result = answer(request, parsed, spec, {
        ...this.#options,
        id: request.headers['x-request-id'] ?? hex(record.n),
        created: Math.floor(this.#options.now / 1000),
        healthy: this.healthy,
        load: this.requests.filter((each) => each.inFlight).length - 1,
        isFaultModel: (model) => isFault(faultOf(model)),
      });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      spec = { ...this.#options, fault: 'ok' };
      result = error.answer();
    }
    record.fault = spec.fault;
    await perform(spec.fault, new Reply(socket, record, spec, gone), result, spec);
  }

  /** The fault and all options of one request: programmatic beats body beats model, and each beats the defaults. */
  #specFor(request, body, record) {
    const { tokenMs, firstTokenMs, maxMs, faultless } = this.#options;
    if (request.method !== 'POST') return { tokenMs, firstTokenMs, maxMs, fault: 'ok' };
    const asked = faultless ? {} : body;
    const sim = Array.isArray(asked?.sim) ? asked.sim[this.#attempt(record)] : asked?.sim;
    const model = isFault(faultOf(asked?.model)) ? { fault: faultOf(asked.model) } : {};
    const set = this.#script.shift() ?? (this.#fault.fault === 'ok' ? {} : this.#fault);
    const chosen = { fault: 'ok', ...model, ...(sim && named(sim)), ...set };
    return { tokenMs, firstTokenMs, maxMs, ...FAULTS[chosen.fault].params, ...chosen };
  }

  /** How many requests of the same call came before: their ids differ in a trailing number only. */
  #attempt(record) {
    const base = callOf(record);
    return base ? this.requests.filter((each) => each !== record && callOf(each) === base).length : 0;
  }
}

const callOf = ({ headers }) => headers['x-request-id']?.replace(/-\d+$/, '');

const faultOf = (model) => (typeof model === 'string' && model.startsWith('sim-') ? model.slice(4) : undefined);

/** Accepts a bare name, and refuses one that stands for nothing: a typo must not look like a success. */
function named(entry) {
  const spec = typeof entry === 'string' ? { fault: entry } : entry;
  if (spec.fault !== undefined && !isFault(spec.fault)) {
    throw new Refusal(400, `sim: there is no fault named ${spec.fault}`, 'BadRequestError', 'sim');
  }
  return spec;
}

/** What is known of one request, while it is under way and afterwards. */
class RequestRecord {
  at = Date.now();
  closedByClientAt = null;
  finishedAt = null;
  /** The fault that was done to it, and the status that it got. */
  fault = null;
  status = null;
  /** True from when a hanging fault has nothing more to send. */
  stalled = false;
  eventsSent = 0;
  /** All bytes of the response: head, framing and body. */
  bytesSent = 0;
  #sent = [];
  #notify;

  constructor({ method, target, path, headers, rawHeaders, body, keepAlive }, n, date, notify) {
    Object.assign(this, { n, method, target, path, headers, rawHeaders, body, keepAlive, date });
    this.requestId = headers['x-request-id'] ?? hex(n, 32);
    this.#notify = notify;
  }

  /** The body's payload as it went out, without chunked framing. */
  get sent() {
    return Buffer.concat(this.#sent);
  }

  /** The request's body as JSON. */
  get json() {
    return JSON.parse(this.body.toString());
  }

  get inFlight() {
    return this.finishedAt === null && this.closedByClientAt === null;
  }

  keep(bytes) {
    this.#sent.push(bytes);
    this.changed();
  }

  finish() {
    this.finishedAt ??= Date.now();
    this.changed();
  }

  leftByClient() {
    if (!this.inFlight) return;
    this.closedByClientAt = Date.now();
    this.changed();
  }

  changed() {
    this.#notify();
  }
}
