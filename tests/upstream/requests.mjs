// Reads HTTP/1.1 requests from a socket, one after the other. It always keeps reading, so that a client's leaving is
// noticed while an answer is under way; what arrives early waits here.

const MAX_HEAD = 256 * 1024;
const MAX_BODY = 256 * 1024 * 1024;

/** The bytes are not HTTP, or too many. */
export class BadRequest extends Error {}

export class RequestReader {
  #socket;
  #chunks = [];
  #size = 0;
  #ended = false;
  #wake = () => {};

  constructor(socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => {
      this.#chunks.push(chunk);
      this.#size += chunk.length;
      if (this.#size > MAX_BODY) socket.destroy();
      this.#wake();
    });
    const end = () => {
      this.#ended = true;
      this.#wake();
    };
    socket.once('end', end);
    socket.once('close', end);
  }

  /** True when the next request begins; false when the client is gone, or silent for `idleMs`. */
  async ready(idleMs) {
    if (this.#size > 0) return true;
    const timer = idleMs === undefined ? undefined : setTimeout(() => this.#wake(), idleMs);
    await this.#more();
    clearTimeout(timer);
    return this.#size > 0;
  }

  /** The next request, or null when the client leaves in the middle of it. */
  async next() {
    const head = await this.#until('\r\n\r\n', MAX_HEAD);
    if (head === null) return null;
    const [first, ...lines] = head.toString('latin1').split('\r\n');
    const [, method, target, version] = /^([A-Z]+) (\S+) (HTTP\/1\.[01])$/.exec(first) ?? [];
    if (!method) throw new BadRequest('no request line');
    const rawHeaders = lines.map((line) => {
      const colon = line.indexOf(':');
      if (colon < 1) throw new BadRequest('no colon in a header line');
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    });
    const headers = {};
    for (const [name, value] of rawHeaders) {
      const key = name.toLowerCase();
      headers[key] = key in headers ? `${headers[key]}, ${value}` : value;
    }
    if (/100-continue/i.test(headers.expect ?? '')) this.#socket.write('HTTP/1.1 100 Continue\r\n\r\n');
    const body = await this.#body(headers);
    if (body === null) return null;
    const keepAlive = version === 'HTTP/1.1' && !/\bclose\b/i.test(headers.connection ?? '');
    return { method, target, path: target.split('?')[0], headers, rawHeaders, body, keepAlive };
  }

  async #body(headers) {
    if (/\bchunked\b/i.test(headers['transfer-encoding'] ?? '')) return this.#chunkedBody();
    const length = Number(headers['content-length'] ?? 0);
    if (!Number.isInteger(length) || length < 0 || length > MAX_BODY) throw new BadRequest('bad content-length');
    return this.#take(length);
  }

  async #chunkedBody() {
    const parts = [];
    for (;;) {
      const line = await this.#until('\r\n', MAX_HEAD);
      if (line === null) return null;
      const length = Number.parseInt(line.toString('latin1'), 16);
      if (!(length >= 0 && length <= MAX_BODY)) throw new BadRequest('bad chunk length');
      if (length === 0) break;
      const part = await this.#take(length + 2);
      if (part === null) return null;
      parts.push(part.subarray(0, length));
    }
    for (;;) {
      const trailer = await this.#until('\r\n', MAX_HEAD);
      if (trailer === null) return null;
      if (trailer.length === 0) return Buffer.concat(parts);
    }
  }

  /** The bytes before `mark`, which is dropped. */
  async #until(mark, limit) {
    for (;;) {
      const all = this.#merged();
      const at = all.indexOf(mark);
      if (at >= 0) {
        this.#set(all.subarray(at + mark.length));
        return all.subarray(0, at);
      }
      if (all.length > limit) throw new BadRequest('a line without end');
      if (!(await this.#more())) return null;
    }
  }

  async #take(length) {
    while (this.#size < length) if (!(await this.#more())) return null;
    const all = this.#merged();
    this.#set(all.subarray(length));
    return all.subarray(0, length);
  }

  #merged() {
    if (this.#chunks.length !== 1) this.#set(Buffer.concat(this.#chunks));
    return this.#chunks[0];
  }

  #set(rest) {
    this.#chunks = [rest];
    this.#size = rest.length;
  }

  async #more() {
    if (this.#ended) return false;
    await new Promise((resolve) => { this.#wake = resolve; });
    return !this.#ended || this.#size > 0;
  }
}
