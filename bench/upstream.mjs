// The upstream: a thread that writes prepared bytes to whoever asks for them.

import { createServer } from 'node:net';
import { once } from 'node:events';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';
import { PACE_MS, answers, kindOf } from './answers.mjs';
import { MessageReader } from './wire.mjs';

/** To a request that has not come through whole. */
const REFUSAL = 'HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n';

/** Resolves to its port, and the way to end it. */
export async function startUpstream() {
  const thread = new Worker(new URL(import.meta.url));
  const [port] = await once(thread, 'message');
  return { port, stop: () => thread.terminate() };
}

if (!isMainThread) {
  const server = createServer({ noDelay: true }, serve).listen(0, '127.0.0.1', () => {
    parentPort.postMessage(server.address().port);
  });
}

function serve(socket) {
  let body = '';
  let pace;
  const requests = new MessageReader({
    head: () => { body = ''; },
    body: (bytes) => { body += bytes.latin1Slice(); },
    end: () => { pace = write(socket, answers[kindOf(body)]?.steps ?? [REFUSAL]); },
  });
  socket.on('data', (bytes) => requests.push(bytes));
  socket.on('error', () => socket.destroy()); // whose end it is shows in the client's answer
  socket.on('close', () => clearInterval(pace));
}

function write(socket, [first, ...steps]) {
  socket.write(first);
  if (steps.length === 0) return undefined;
  let next = 0;
  const pace = setInterval(() => {
    socket.write(steps[next]);
    next += 1;
    if (next === steps.length) clearInterval(pace);
  }, PACE_MS);
  return pace;
}
