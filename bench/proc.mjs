// What the operating system knows of a process: proc(5).

import { readFileSync, readdirSync } from 'node:fs';
import { Failure } from '../scripts/process.mjs';

/** USER_HZ is 100 on every architecture that workerd runs on. */
const TICK_MS = 10;

/** The processes of this name that this process has started. */
export function children(name) {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry));
  return pids.filter((pid) => {
    const { command, fields } = stat(pid) ?? {};
    return command === name && Number(fields[1]) === process.pid;
  });
}

/** User and system time of all that a process has done so far. */
export function cpuMs(pid) {
  const { fields } = stat(pid) ?? {};
  if (!fields) throw new Failure(`Process ${pid} has ended by itself.`);
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** What a process has for itself alone: neither its program, which it shares with others that run it, nor libraries. */
export function privateBytes(pid) {
  const fields = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8').matchAll(/^Private_(?:Clean|Dirty): +(\d+) kB$/gm);
  return [...fields].reduce((sum, [, kib]) => sum + Number(kib) * 1024, 0);
}

/** How many files and sockets a process may have open. */
export function openFilesLimit(pid) {
  const [, limit] = /^Max open files +(\w+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'));
  return limit === 'unlimited' ? Infinity : Number(limit);
}

/** The command's name, and the fields behind it from `state` on. */
function stat(pid) {
  try {
    const [, command, rest] = /\((.*)\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'));
    return { command, fields: rest.split(' ') };
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ESRCH') return undefined; // it has just ended
    throw error;
  }
}
