// Writes one answer to a socket by hand: status line, headers, chunked frames, and every way of not finishing.
// It records what went out. Each method throws as soon as the client has left, which ends the fault that called it.

import { STATUS_CODES } from 'node:http';
import { setImmediate as yieldToIo, setTimeout as sleep } from 'node:timers/promises';

const RESET_AFTER_MS = 20;

export class Reply {
  #socket;
  #record;
  #spec;
  #gone;

  /**
   * @param record where the request's fate is kept; see vllm.mjs
   * @param spec tokenMs, firstTokenMs, maxMs, segment (bytes per TCP write)
   * @param gone an AbortSignal: the client has left or the server closes
   */
  constructor(socket, record, spec, gone) {
    this.#socket = socket;
    this.#record = record;
    this.#spec = spec;
    this.#gone = gone;
  }

  /** The whole answer, as vLLM gives it: a plain one has its headers only when it is complete. */
  async whole(answer) {
    if (answer.events) {
      await this.head(answer);
      await this.events(answer.events);
      return this.end();
    }
    const { firstTokenMs, tokenMs } = this.#spec;
    if (answer.tokens) await this.wait(firstTokenMs + tokenMs * (answer.tokens - 1));
    await this.head(answer);
    return this.payload(answer.body);
  }

  /** `length: null` means chunked; another length than the body's is a lie that some faults tell. */
  head({ status = 200, type, body, events, headers = {}, cors = true }, { length = events ? null : body.length } = {}) {
    const lines = {
      date: this.#record.date,
      server: 'uvicorn',
      ...headers,
      ...(length !== null && { 'content-length': length }),
      ...(type && { 'content-type': type }),
      ...(cors && this.#record.headers.origin && { 'access-control-allow-origin': '*' }),
      ...(cors && { vary: 'Origin' }),
      'x-request-id': this.#record.requestId,
      ...(length === null && { 'transfer-encoding': 'chunked' }),
      ...(!this.#record.keepAlive && { connection: 'close' }),
    };
    const text = Object.entries(lines).map(([name, value]) => `${name}: ${value}\r\n`).join('');
    this.#record.status = status;
    return this.#write(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${text}\r\n`);
  }

  /** Events at their pace, each in a chunk of its own. */
  async events(list) {
    for (const { text, waits } of list) {
      if (waits) await this.wait(this.#spec[waits]);
      await this.event(text);
    }
  }

  async event(text) {
    await this.chunk(Buffer.from(text));
    this.#record.eventsSent += 1;
  }

  /** Everything to the end in a single write. */
  async allAtOnce(list) {
    const payloads = list.map(({ text }) => Buffer.from(text));
    await this.#write(Buffer.concat([...payloads, Buffer.alloc(0)].map(framed)));
    for (const payload of payloads) this.#record.keep(payload);
    this.#record.eventsSent += list.length;
  }

  async chunk(bytes) {
    await this.#write(framed(bytes));
    this.#record.keep(bytes);
  }

  /** A chunk that announces the whole event and brings its first `count` bytes. */
  async partOfEvent(text, count) {
    const bytes = Buffer.from(text);
    const part = bytes.subarray(0, count);
    await this.#write(Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), part]));
    this.#record.keep(part);
  }

  /** Body bytes without chunks. */
  async payload(bytes) {
    if (bytes.length > 0) await this.#write(bytes);
    this.#record.keep(bytes);
  }

  /** The terminating chunk. */
  end() {
    return this.#write(framed(Buffer.alloc(0)));
  }

  async wait(ms) {
    if (ms > 0) await sleep(ms, undefined, { signal: this.#gone });
  }

  /** Nothing more comes. Bounded, lest a test that forgets to leave holds its socket for ever. */
  async hang() {
    this.#record.stalled = true;
    this.#record.changed();
    await this.wait(this.#spec.maxMs);
    this.close();
  }

  /** The same bytes again and again, until the client leaves or the bound is reached. */
  async forever(everyMs, send) {
    const pause = Math.max(1, everyMs);
    for (let spent = 0; spent < this.#spec.maxMs; spent += pause) {
      await send();
      await this.wait(pause);
    }
    this.close();
  }

  /** FIN, behind everything written. */
  close() {
    this.#record.finish();
    this.#socket.destroySoon();
  }

  /** RST: the client sees a connection error instead of an end. */
  async reset() {
    // A client that finds data and RST together may drop the data, and libuv reports them as a plain end. A reset in
    // the middle of a stream comes well behind the last data anyway.
    if (this.#record.bytesSent > 0) await this.wait(RESET_AFTER_MS);
    this.#record.finish();
    this.#socket.resetAndDestroy();
  }

  async #write(data) {
    const bytes = typeof data === 'string' ? Buffer.from(data, 'latin1') : data;
    const size = Math.max(1, this.#spec.segment ?? bytes.length);
    for (let at = 0; at < bytes.length; at += size) {
      const part = bytes.subarray(at, at + size);
      await this.#writeOnce(part);
      // A turn of the loop lets the segment out before the next one, with TCP_NODELAY set on the socket.
      if (size < bytes.length) await yieldToIo();
    }
  }

  #writeOnce(bytes) {
    this.#gone.throwIfAborted();
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => {
        if (error) return reject(error);
        this.#record.bytesSent += bytes.length;
        return resolve();
      });
    });
  }
}

/** A chunk of HTTP's chunked coding; without bytes, the one that ends the body. */
function framed(bytes) {
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);
}
