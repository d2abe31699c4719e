// The fast lane of a stream: chunks that go on as they are never leave JavaScript's loop. A wasm future woken for each
// of them costs half as much CPU again as reading and writing it. Its rules stand in src/drive/lane.rs.

/** Why the lane was left. `pump.rs` knows the same numbers. */
const FOR_NOW = 0; // a chunk was refused, or a timer is to be armed anew
const ENDED = 1;
const READ_FAILED = 2;
const WRITE_FAILED = 3;

export class Lane {
  /** Milliseconds that the client has taken over chunks since this was last told. */
  #waited = 0;
  /** Since when it has been at it now; 0 while an endpoint is read. */
  #since = 0;
  /** A timer ran out meanwhile. */
  #interrupted = false;
  /** How often it was begun or left. */
  #turn = 0;

  /**
   * Carries the chunks of `exchange` to `writer` until `look` refuses one, or something ends.
   * @param {import('./http.js').Exchange} exchange
   * @param {WritableStreamDefaultWriter<Uint8Array>} writer
   * @param {(chunk: Uint8Array, length: number, now: number, waited: number) => boolean} look
   */
  async run(exchange, writer, look) {
    const { reader } = exchange;
    const turn = ++this.#turn;
    for (;;) {
      let result;
      try {
        result = await reader.read();
      } catch {
        return READ_FAILED;
      }
      // It was left while this was read, and another exchange goes on.
      if (turn !== this.#turn) return FOR_NOW;
      if (result.done) {
        exchange.ended();
        return ENDED;
      }
      // What wasm would have to ask for one by one goes along.
      const now = Date.now();
      if (!look(result.value, result.value.length, now, this.waited())) return FOR_NOW;
      this.#since = now;
      try {
        await writer.write(result.value);
      } catch {
        return WRITE_FAILED;
      }
      this.#waited = Date.now() - this.#since;
      this.#since = 0;
      if (this.#interrupted) {
        // The time has been told as it passed.
        this.#interrupted = false;
        this.#waited = 0;
        return FOR_NOW;
      }
    }
  }

  /** Nothing that is still being read counts. */
  leave() {
    this.#turn += 1;
  }

  /** Milliseconds that the client took over the chunk before, told once. */
  waited() {
    const waited = this.#waited;
    this.#waited = 0;
    return waited;
  }

  /** A timer ran out: since when the client has been taking its time, 0 if it is not. */
  interrupt() {
    this.#interrupted = this.#since > 0;
    return this.#since;
  }
}
