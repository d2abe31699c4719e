// A client that hides nothing: it writes a request's bytes, and tells how the response ended as well as what it said.

import net from 'node:net';

/**
 * One request on a connection of its own, to the connection's end.
 * `end` is 'fin' or 'reset'; `whole` says whether the body's own framing was fulfilled.
 */
export function exchange(server, { method = 'POST', path = '/v1/chat/completions', headers = {}, body } = {}) {
  return new Promise((resolve) => {
    const chunks = [];
    const began = performance.now();
    let firstByteMs = null;
    let failed = false;
    const socket = net.connect(server.port, '127.0.0.1');
    socket.write(requestBytes({ method, path, headers: { connection: 'close', ...headers }, body }));
    socket.on('data', (chunk) => {
      firstByteMs ??= performance.now() - began;
      chunks.push(chunk);
    });
    socket.on('error', () => { failed = true; });
    socket.on('close', () => resolve({
      ...parseResponse(Buffer.concat(chunks)),
      end: failed ? 'reset' : 'fin',
      reads: chunks.length,
      firstByteMs,
      ms: performance.now() - began,
    }));
  });
}

export function requestBytes({ method = 'POST', path = '/v1/chat/completions', headers = {}, body }) {
  const bytes = Buffer.from(typeof body === 'string' ? body : JSON.stringify(body) ?? '');
  const all = { host: 'test', 'content-type': 'application/json', 'content-length': bytes.length, ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`).join('');
  return Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines}\r\n`), bytes]);
}

/** As much of a response as there is; names of headers in lower case. */
export function parseResponse(raw) {
  const blank = raw.indexOf('\r\n\r\n');
  if (blank < 0) return { raw, status: null, headers: {}, payload: Buffer.alloc(0), whole: false };
  const [statusLine, ...lines] = raw.subarray(0, blank).toString('latin1').split('\r\n');
  const headers = Object.fromEntries(lines.map((line) => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 2)];
  }));
  const body = raw.subarray(blank + 4);
  const framed = headers['transfer-encoding'] === 'chunked' ? unchunked(body) : {
    payload: body, whole: body.length === Number(headers['content-length']),
  };
  return { raw, statusLine, status: Number(statusLine.split(' ')[1]), headers, ...framed };
}

function unchunked(body) {
  const parts = [];
  let at = 0;
  for (;;) {
    const line = body.indexOf('\r\n', at);
    const size = line < 0 ? NaN : Number.parseInt(body.subarray(at, line).toString('latin1'), 16);
    if (!(size > 0)) return { payload: Buffer.concat(parts), whole: size === 0 };
    parts.push(body.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
}

/** The events of a stream that ends them with LF, each as its lines' text. */
export const eventsIn = (payload) => payload.toString().split('\n\n').filter(Boolean);
