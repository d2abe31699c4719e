// The rig: both ends of the bench, a native program (bench/rig). Here it is built, started and asked.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Failure, capture, must } from '../scripts/process.mjs';
import { cpuMs } from './proc.mjs';

/** Events in a long stream, `[DONE]` among them. */
export const EVENTS = 300;
/** 250 tokens a second: a fast model, seen by one client. */
export const PACE_MS = 4;

let program;

/** Compiles it, unless it is up to date. */
export async function buildRig() {
  await must('cargo', ['build', '--quiet', '--release', '--package', 'fairlead-rig']);
  const { target_directory: target } = JSON.parse(capture('cargo', ['metadata', '--format-version=1', '--no-deps']));
  program = join(target, 'release', 'fairlead-rig');
}

/** Resolves to the upstream's port, its CPU time in milliseconds so far, and the way to end it. */
export async function startUpstream() {
  const { child, line, ended } = start('upstream', [PACE_MS]);
  const port = Number(await line);
  return { port, cpuMs: () => cpuMs(child.pid), stop: () => finish(child, ended) };
}

/**
 * Asks `count` times over so many connections, each asking again as soon as it has its answer. Resolves to the
 * milliseconds that all of it took (`ms`), the client's CPU time in it (`cpuMs`), and what each answer took to its
 * first byte (`firstByte`) and to its end (`whole`).
 */
export async function load({ name, port }, kind, { connections, count }) {
  const { child, line, ended } = start('load', [port, kind, connections, count]);
  return JSON.parse(await explained(name, line, () => finish(child, ended)));
}

/** Opens so many streams that say nothing more, and resolves to the way to close them. */
export async function hold({ name, port }, kind, connections) {
  const { child, line, ended } = start('hold', [port, kind, connections]);
  await explained(name, line);
  return () => finish(child, ended);
}

/** A process of it. Its whole answer is one line; `ended` is an error, or nothing. */
function start(role, args) {
  const child = spawn(program, [role, EVENTS, ...args].map(String), { stdio: ['pipe', 'pipe', 'pipe'] });
  let words = '';
  child.stderr.setEncoding('utf8').on('data', (text) => { words += text; });
  const ended = once(child, 'close').then(([code]) => (code === 0 ? undefined : new Failure(words.trim())));
  const first = once(createInterface({ input: child.stdout }), 'line').then(([line]) => line);
  const line = Promise.race([first, ended.then((error) => Promise.reject(error ?? new Failure('It said nothing.')))]);
  line.catch(() => {});
  return { child, line, ended };
}

async function finish(child, ended) {
  child.stdin.end();
  const error = await ended;
  if (error) throw error;
}

async function explained(name, line, then) {
  try {
    const text = await line;
    await then?.();
    return text;
  } catch (error) {
    throw new Failure(`The bench ends here: an answer of ${name} is wrong. ${error.message}`);
  }
}
