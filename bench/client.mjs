// The load generator. It believes nothing: every byte of every answer is compared with what the upstream wrote.

import { connect } from 'node:net';
import { once } from 'node:events';
import { Failure } from '../scripts/process.mjs';
import { answers, request } from './answers.mjs';
import { MessageReader } from './wire.mjs';

const requests = Object.fromEntries(Object.keys(answers).map((kind) => [kind, request(kind)]));

/**
 * Asks `count` times over so many connections, each asking again as soon as it has its answer.
 * Resolves to the milliseconds that all of it took, and to each answer's { firstByte, ms }; rejects at the first
 * answer that is not what it should be.
 */
export async function load({ name, port }, kind, { connections, count }) {
  const all = await Promise.all(Array.from({ length: connections }, () => Connection.open(name, port)));
  const times = [];
  let left = count;
  const ask = async (connection) => {
    while (left > 0) {
      left -= 1;
      times.push(await connection.ask(kind));
    }
  };
  try {
    const began = performance.now();
    await Promise.all(all.map(ask));
    return { ms: performance.now() - began, times };
  } finally {
    for (const connection of all) connection.close();
  }
}

class Connection {
  #name;
  #socket;
  /** The exchange that goes on. */
  #now;

  static async open(name, port) {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    await once(socket, 'connect');
    return new Connection(name, socket);
  }

  constructor(name, socket) {
    this.#name = name;
    this.#socket = socket;
    const reader = new MessageReader({
      head: (head) => { this.#now.status = Number(head.slice(9, 12)); },
      body: (bytes) => this.#onBody(bytes),
      end: () => this.#onEnd(),
    });
    socket.on('data', (bytes) => reader.push(bytes));
    socket.on('error', (error) => this.#fail(`the connection broke: ${error.message}`));
    socket.on('close', () => this.#fail('the connection was closed in the middle'));
  }

  ask(kind) {
    return new Promise((resolve, reject) => {
      this.#now = { expected: answers[kind].payload, received: 0, began: performance.now(), resolve, reject };
      this.#socket.write(requests[kind]);
    });
  }

  close() {
    this.#now = undefined;
    this.#socket.destroy();
  }

  #onBody(bytes) {
    const now = this.#now;
    if (now.received === 0) now.firstByte = performance.now() - now.began;
    if (!bytes.equals(now.expected.subarray(now.received, now.received + bytes.length))) {
      const text = bytes.toString().slice(0, 300);
      this.#fail(`status ${now.status}, and behind byte ${now.received} of the body: ${text}`);
    }
    now.received += bytes.length;
  }

  #onEnd() {
    const { status, expected, received, began, firstByte, resolve } = this.#now;
    if (status !== 200 || received !== expected.length) {
      this.#fail(`status ${status} and ${received} bytes instead of ${expected.length}`);
    }
    resolve({ firstByte, ms: performance.now() - began });
  }

  /** Ends the bench, unless this exchange has ended: the first word counts. */
  #fail(what) {
    this.#now?.reject(new Failure(`The bench ends here: an answer of ${this.#name} is wrong. ${what}`));
  }
}
