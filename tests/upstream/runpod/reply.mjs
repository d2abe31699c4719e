// Writes one answer of the public API, whole or broken.

import { setTimeout as sleep } from 'node:timers/promises';

const RESET_AFTER_MS = 20;
const FEW_CHUNKS = 3;

export class Reply {
  #response;
  #record;
  #gone;
  #notify;

  /**
   * @param response node:http's
   * @param record where the request's fate is kept; see ../runpod.mjs
   * @param gone an AbortSignal: the client has left or the server closes
   * @param notify to be called when the record has changed
   */
  constructor(response, record, gone, notify) {
    this.#response = response;
    this.#record = record;
    this.#gone = gone;
    this.#notify = notify;
  }

  async whole(answer) {
    if (!answer.chunks) return this.#response.end(this.#head(answer));
    this.#streamHead(answer);
    for await (const chunk of answer.chunks) await this.#write(chunk);
    return this.#response.end();
  }

  /** Half of the body, though the headers announce all of it; of a stream the beginning. */
  async half(answer) {
    if (!answer.chunks) {
      const bytes = this.#head(answer);
      return this.#write(bytes.subarray(0, bytes.length >> 1));
    }
    this.#streamHead(answer);
    let count = 0;
    for await (const chunk of answer.chunks) {
      await this.#write(chunk);
      count += 1;
      if (count === FEW_CHUNKS) break;
    }
    return undefined;
  }

  /** Nothing more comes, until the client leaves. */
  async hang() {
    this.#record.stalled = true;
    this.#notify();
    if (!this.#gone.aborted) await new Promise((resolve) => this.#gone.addEventListener('abort', resolve));
  }

  wait(ms) {
    return sleep(ms, undefined, { signal: this.#gone });
  }

  close() {
    this.#record.finishedAt = Date.now();
    this.#response.socket.destroySoon();
  }

  async reset() {
    // A client that finds data and RST together may drop the data.
    if (this.#response.headersSent) await this.wait(RESET_AFTER_MS);
    this.#record.finishedAt = Date.now();
    this.#response.socket.resetAndDestroy();
  }

  #write(bytes) {
    return new Promise((resolve) => this.#response.write(bytes, resolve));
  }

  #streamHead({ status = 200, type, headers = {} }) {
    this.#record.status = status;
    this.#response.writeHead(status, { ...headers, 'content-type': type });
  }

  /** Sends the head, and returns the body's bytes. A body that is text goes out as it is, all others as JSON. */
  #head({ status = 200, type = 'application/json', headers = {}, body = '' }) {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const bytes = Buffer.from(text);
    Object.assign(this.#record, { status, reply: typeof body === 'string' ? body : JSON.parse(text) });
    const entity = status === 204 ? {} : { 'content-type': type, 'content-length': bytes.length };
    this.#response.writeHead(status, { ...headers, ...entity });
    return bytes;
  }
}
