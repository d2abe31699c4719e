// The fast lane of a stream: chunks that go on as they are never leave JavaScript's loop. A wasm future woken for each
// of them costs more CPU than reading and writing it.

export const ENDED = 0;
export const READ_FAILED = 1;
export const WRITE_FAILED = 2;
export const REFUSED = 3;
export const RESUMED = 4;

export class Lane {
  /** Since when the client has been taking its time, in milliseconds; 0 while an endpoint is read. */
  waitingSince = 0;
  /** Set from outside when a timer ran out meanwhile: the lane is left before the next read, so that it is armed anew. */
  paused = false;

  /**
   * Carries chunks from `reader` to `writer` until `look` refuses one, or something ends.
   * @param {ReadableStreamDefaultReader<Uint8Array>} reader
   * @param {WritableStreamDefaultWriter<Uint8Array>} writer
   * @param {(chunk: Uint8Array) => boolean} look
   */
  async run(reader, writer, look) {
    for (;;) {
      let result;
      try {
        result = await reader.read();
      } catch {
        return READ_FAILED;
      }
      if (result.done) return ENDED;
      if (!look(result.value)) return REFUSED;
      this.waitingSince = Date.now();
      try {
        await writer.write(result.value);
      } catch {
        return WRITE_FAILED;
      }
      this.waitingSince = 0;
      if (this.paused) {
        this.paused = false;
        return RESUMED;
      }
    }
  }
}
