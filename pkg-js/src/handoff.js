// Bytes on their way from the core to whoever reads them, one chunk at a time: nothing is read from an endpoint before
// the last chunk was taken. Half a TransformStream, at a tenth of its cost.

export class Handoff {
  /** A chunk that waits to be taken. */
  #chunk;
  /** Tells the writer that it was taken, or that nobody will. */
  #written;
  /** Somebody waits for a chunk. */
  #reading;
  /** What a reader gets from now on: the end, or an error. */
  #end;
  #cancelled = false;

  /** Resolves when the chunk is taken; rejects when nobody takes any more. */
  write(chunk) {
    if (this.#cancelled) return Promise.reject(GONE);
    if (this.#reading) {
      const { resolve } = this.#reading;
      this.#reading = undefined;
      resolve({ done: false, value: chunk });
      return TAKEN;
    }
    this.#chunk = chunk;
    return new Promise((resolve, reject) => {
      this.#written = { resolve, reject };
    });
  }

  /** No more comes. */
  close() {
    this.#finish({ then: (resolve) => resolve({ done: true, value: undefined }) });
    return TAKEN;
  }

  /** The body breaks off. */
  abort(reason) {
    this.#finish({ then: (_, reject) => reject(reason) });
    return TAKEN;
  }

  /** The next chunk, `{ done, value }`; rejects where the body breaks off. One at a time. */
  read() {
    if (this.#chunk !== undefined) {
      const value = this.#chunk;
      this.#chunk = undefined;
      this.#written.resolve();
      return Promise.resolve({ done: false, value });
    }
    return new Promise((resolve, reject) => {
      if (this.#end) this.#end.then(resolve, reject);
      else this.#reading = { resolve, reject };
    });
  }

  /** Nobody reads any more. */
  cancel() {
    this.#cancelled = true;
    this.#chunk = undefined;
    this.#written?.reject(GONE);
    this.close();
  }

  #finish(end) {
    this.#end ??= end;
    if (this.#reading) this.#end.then(this.#reading.resolve, this.#reading.reject);
    this.#reading = undefined;
  }
}

const TAKEN = Promise.resolve();
const GONE = new Error('Nobody reads this any more.');
