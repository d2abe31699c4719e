// A simulated vLLM 0.32 server that can misbehave at byte level. It holds the sockets and remembers every request.
// Which fault a request gets is choice.mjs, what it is answered is answers.mjs, how that fails is faults.mjs.

import net from 'node:net';
import { answer, parse } from './answers.mjs';
import { Choice, faultOf, isTokenizers } from './choice.mjs';
import { isFault, perform } from './faults.mjs';
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
 * @property {{ every: number, firstTokenMs: number }} [slowTail] each so-many-th answer begins so late
 * @property {object} [defaults] the options, not the fault, of every entry that does not say otherwise
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
  slowTail: undefined,
  defaults: {},
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
  #choice;
  #net;
  #sockets = new Set();
  #count = 0;
  #closing = false;

  constructor(options) {
    super();
    this.#options = options;
    this.#choice = new Choice(options);
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
    return this.#choice.standing;
  }

  set fault(entry) {
    this.#choice.standing = entry;
  }

  /** What happens to /tokenize and /detokenize, which neither the script nor `fault` touches. */
  get tokenizer() {
    return this.#choice.tokenizer;
  }

  set tokenizer(entry) {
    this.#choice.tokenizer = entry;
  }

  /** One entry for each POST request to come, but the tokenizer's, in order: a name or { fault, ...parameters }. */
  script(...entries) {
    this.#choice.script(entries);
    return this;
  }

  /** Forgets requests, script and fault. Connections stay. */
  reset() {
    this.requests = [];
    this.#choice = new Choice(this.#options);
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
      spec = this.#choice.of(request, parsed.body, () => this.#attempt(record));
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

  /** How many attempts of the same call came before: their ids differ in a trailing number only. */
  #attempt(record) {
    const base = callOf(record);
    if (!base) return 0;
    return this.requests.filter((each) => each !== record && callOf(each) === base && !isTokenizers(each)).length;
  }
}

const callOf = ({ headers }) => headers['x-request-id']?.replace(/-\d+$/, '');

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
