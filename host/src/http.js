// Requests and responses, in as few crossings between wasm and JavaScript as there can be: each
// crossing costs, and each object that wasm holds costs more. Header fields cross as one text, names and values in turn.

/** Between the parts of a text; no field can hold one. */
const SEPARATOR = '\0';

/**
 * An announced length up to which an answer that does not stream is read in one go: half the cost of reading it chunk
 * by chunk. To the core it is one chunk, so such a body may take `idle_ms` in all.
 */
const SHORT_BYTES = 65_536;

/** A client's request, but for its body: the method, the URL, then its fields. */
export const describe = (request) => `${request.method}${SEPARATOR}${request.url}${SEPARATOR}${join(request.headers)}`;

/** A response to a client; `body` is a Uint8Array, a ReadableStream or null. */
export const respond = (status, fields, body) => new Response(body, { status, headers: split(fields) });

/** One fetch. It owns its AbortController, so none can be made without a signal. */
export class Exchange {
  /** Resolves to the status and the fields. */
  head;
  #controller = new AbortController();
  /** Whose body is read in one go. */
  #short;
  #body;
  #reader;
  /** Who has the body in place of the reader. */
  #taker;
  /** The body has come to its end: there is nothing to abort. */
  #ended = false;

  /** @param service whose `fetch` is asked; `undefined` for the public network */
  constructor(service, method, url, fields, body) {
    this.head = this.#send(service, url, {
      method,
      headers: split(fields),
      body: method === 'GET' ? undefined : body.slice(), // what crosses is a view of wasm's memory
      redirect: 'manual',
      signal: this.#controller.signal,
    });
  }

  /** The next bytes as a reader tells them; with `last`, when nothing follows them. */
  read() {
    if (this.#taker) return this.#taker.next();
    if (this.#short) return this.#readShort();
    return this.#reader?.read() ?? Promise.resolve({ done: true });
  }

  /** The body's reader, where bytes are read as they come. */
  get reader() {
    return this.#reader;
  }

  /** Gives the body away, while nothing is being read from it; its taker tells by `next` what it comes to. */
  give(take) {
    this.#reader.releaseLock();
    this.#taker = take(this.#body);
    return this.#taker;
  }

  /** The body's reader has told the end. */
  ended() {
    this.#ended = true;
  }

  /** Ends the request. What a taker has of its answer still goes on. */
  abort() {
    if (!this.#ended) this.#controller.abort();
  }

  async #send(service, url, init) {
    const response = await (service === undefined ? fetch(url, init) : service.fetch(url, init));
    const { status, headers, body } = response;
    const length = Number(headers.get('content-length'));
    const mayGrow = headers.has('content-encoding') || headers.get('content-type')?.startsWith('text/event-stream');
    if (length > 0 && length <= SHORT_BYTES && !mayGrow) {
      this.#short = response;
    } else {
      this.#body = body;
      this.#reader = body?.getReader();
    }
    return [status, join(headers)];
  }

  async #readShort() {
    const value = new Uint8Array(await this.#short.arrayBuffer());
    return { done: false, value, last: true };
  }
}

function join(headers) {
  const parts = [];
  headers.forEach((value, name) => parts.push(name, value));
  return parts.join(SEPARATOR);
}

function split(fields) {
  const parts = fields.split(SEPARATOR);
  const pairs = [];
  for (let at = 1; at < parts.length; at += 2) pairs.push([parts[at - 1], parts[at]]);
  return pairs;
}
