// The platform's own pipe: a stream's bytes go to the client without JavaScript, and are looked at a few times a second
// behind it, which costs less than half the CPU of seeing each. Its rules stand in src/drive/pipe.rs.

/** The most that is looked at at a time. A quarter of a second of a fast stream fills half of it. */
const BATCH_BYTES = 32_768;

/** Nothing, wherever it comes in an event stream. */
const BLANK_LINE = new TextEncoder().encode('\n\n');

/**
 * Lets the body of an exchange go by.
 * @param {import('../../host/src/http.js').Exchange} exchange
 * @param {WritableStreamDefaultWriter<Uint8Array>} writer gives the lock of `writable` up
 * @param {WritableStream<Uint8Array>} writable stays open behind the last byte
 * @param {number} restMs between two looks
 */
export const pipe = (exchange, writer, writable, restMs) =>
  exchange.give((body) => new Pipe(body, writer, writable, restMs));

class Pipe {
  #reader;
  #buffer = new ArrayBuffer(BATCH_BYTES);
  #restMs;
  #wake = () => {};
  #flows = true;
  /** The last look has shown most of what can be seen at a time, so there may be more. */
  #behind = false;
  #stop = new AbortController();
  /** Resolves when nothing goes by any more, to whether the client can be written to. */
  over;

  constructor(body, writer, writable, restMs) {
    const [past, seen] = body.tee();
    this.#restMs = restMs;
    this.#reader = seen.getReader({ mode: 'byob' });
    writer.releaseLock();
    this.over = past
      .pipeTo(writable, { preventClose: true, preventAbort: true, signal: this.#stop.signal })
      .then(() => true, () => takesBytes(writable));
    const end = () => {
      this.#flows = false;
      this.#wake();
    };
    this.over.then(end);
  }

  /** What has come since the last look, as a reader tells it. The client may not have all of it yet. */
  async next() {
    if (this.#flows && !this.#behind) await this.#rest();
    const result = await this.#read(new Uint8Array(this.#buffer));
    if (!result.done) {
      this.#buffer = result.value.buffer;
      this.#behind = result.value.byteLength > BATCH_BYTES / 2;
    }
    return result;
  }

  /** Lets nothing more go by: what the client has not taken by now is lost, and it sees its connection break. */
  stop() {
    this.#stop.abort();
  }

  #read(buffer) {
    // A plain read gives a chunk, of which there may be hundreds once no more will come.
    return this.#flows ? this.#reader.read(buffer) : this.#reader.readAtLeast(BATCH_BYTES, buffer);
  }

  #rest() {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.#restMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Whose end of a broken pipe it was: a client that has left cannot be written to. */
async function takesBytes(writable) {
  try {
    const writer = writable.getWriter();
    await writer.write(BLANK_LINE);
    writer.releaseLock();
    return true;
  } catch {
    return false;
  }
}
