// Child processes: the one way these scripts start them, and how a script ends.
// Runs on any Node from 20 on, because nothing is installed yet when it is first needed.

import { spawn, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The repository; every command runs there unless it says otherwise. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/** A failure that the user has been told about in words: shown without a stack. */
export class Failure extends Error {
  constructor(message, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Runs a script's body and turns its failures into a message and an exit code. */
export async function main(body) {
  if (process.env.npm_lifecycle_event) endWithNpm();
  try {
    await body();
  } catch (error) {
    const isExplained = error instanceof Failure || error.code?.startsWith('ERR_PARSE_ARGS');
    console.error(isExplained ? `\n${error.message}` : error);
    process.exit(error.exitCode ?? 1);
  }
}

/** Whether this module is the script that was started, not one that another imports. */
export function isMain(url) {
  return process.argv[1] === fileURLToPath(url);
}

/** Says what begins, and how long it usually takes where that is more than a moment. */
export function step(what, usually) {
  console.log(`\n▸ ${what}${usually ? ` (usually ${usually})` : ''}`);
}

/**
 * Runs a command whose output the user sees, and resolves to its exit code.
 *
 * `onLine` also gets each line of standard output; `input` is written to standard input. A signal that
 * ends this process ends the child first: under npm or a supervisor only the parent is told.
 */
export function run(command, args = [], { cwd = root, env = process.env, input, onLine } = {}) {
  const child = spawn(command, args, {
    cwd,
    env,
    stdio: [input === undefined ? 'inherit' : 'pipe', onLine ? 'pipe' : 'inherit', 'inherit'],
  });
  child.stdin?.end(input);
  if (onLine) forwardLines(child.stdout, onLine);

  let stopped;
  const stop = (signal) => {
    stopped = signal;
    child.kill('SIGTERM');
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const signal of signals) process.on(signal, stop);

  return new Promise((resolve, reject) => {
    child.once('error', (error) => {
      reject(error.code === 'ENOENT' ? new Failure(`${command} is missing from PATH.`) : error);
    });
    child.once('close', (code) => {
      if (stopped && code !== 0) reject(new Failure(`Stopped by ${stopped}.`, 130));
      else resolve(code ?? 1);
    });
  }).finally(() => {
    for (const signal of signals) process.off(signal, stop);
  });
}

/** Like `run`, for a command that has to succeed; it has said itself why it did not. */
export async function must(command, args, options) {
  const code = await run(command, args, options);
  if (code !== 0) throw new Failure(`${[command, ...args].join(' ')} failed with exit code ${code}.`, code);
}

/** The standard output of a quick command, or `undefined` when it fails or does not exist. */
export function capture(command, args = []) {
  const stdio = ['ignore', 'pipe', 'inherit'];
  const { status, stdout } = spawnSync(command, args, { cwd: root, encoding: 'utf8', stdio });
  return status === 0 ? stdout.trim() : undefined;
}

/** npm passes SIGTERM on to its shell only, which dies of it without a word to the script it runs. */
function endWithNpm() {
  const shell = process.ppid;
  setInterval(() => {
    if (process.ppid !== shell) process.kill(process.pid, 'SIGTERM');
  }, 500).unref();
}

function forwardLines(stream, onLine) {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (text) => {
    process.stdout.write(text);
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    lines.forEach(onLine);
  });
}
