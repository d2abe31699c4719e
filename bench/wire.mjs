// Just enough HTTP/1.1 for both ends of the bench, over raw sockets. They share the machine's cores with
// what is measured, and node:http would take several times as much of them.

const NOTHING = Buffer.alloc(0);

/** Finds the messages in what arrives on a connection: their heads, bodies and ends, by their own framing. */
export class MessageReader {
  #unread = NOTHING;
  #read = this.#head;
  #left = 0;
  #listener;

  /** @param listener { head(text), body(bytes), end() } */
  constructor(listener) {
    this.#listener = listener;
  }

  push(bytes) {
    this.#unread = this.#unread.length > 0 ? Buffer.concat([this.#unread, bytes]) : bytes;
    while (this.#read());
  }

  // Each of these reads one part, chooses the next, and says whether it had enough bytes for that.

  #head() {
    const line = this.#take('\r\n\r\n');
    if (!line) return false;
    const head = line.toString('latin1');
    const [, length] = /\r\ncontent-length: *(\d+)/i.exec(head) ?? [];
    this.#left = Number(length ?? 0);
    this.#read = length === undefined && /\r\ntransfer-encoding: *chunked/i.test(head) ? this.#size : this.#whole;
    this.#listener.head(head);
    return true;
  }

  #whole() {
    this.#pass();
    return this.#left === 0 && this.#end();
  }

  #size() {
    const line = this.#take('\r\n');
    if (!line) return false;
    this.#left = Number.parseInt(line.latin1Slice(), 16);
    this.#read = this.#left === 0 ? this.#trailer : this.#chunk;
    return true;
  }

  #chunk() {
    this.#pass();
    if (this.#left > 0 || !this.#take('\r\n')) return false;
    this.#read = this.#size;
    return true;
  }

  #trailer() {
    return this.#take('\r\n') !== undefined && this.#end();
  }

  #end() {
    this.#read = this.#head;
    this.#listener.end();
    return true;
  }

  /** Hands out what is there of the body's current part. */
  #pass() {
    const piece = this.#unread.subarray(0, this.#left);
    if (piece.length === 0) return;
    this.#left -= piece.length;
    this.#unread = this.#unread.subarray(piece.length);
    this.#listener.body(piece);
  }

  /** What stands before `mark`, once all of it is there. */
  #take(mark) {
    const at = this.#unread.indexOf(mark, 0, 'latin1');
    if (at < 0) return undefined;
    const taken = this.#unread.subarray(0, at);
    this.#unread = this.#unread.subarray(at + mark.length);
    return taken;
  }
}

/** One chunk of a chunked body; an empty one ends it. */
export function chunked(bytes) {
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);
}
