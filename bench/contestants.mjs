// The Workers that are compared, each alone in a workerd process of its own, whose CPU the operating system counts.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Miniflare } from 'miniflare';
import { Failure, root } from '../scripts/process.mjs';
import { SERVED_MODEL } from './answers.mjs';

/** In this order in every round and in the table; the last is set against the others. */
export const CONTESTANTS = [
  { name: 'pass-through', folder: 'bench/workers', main: 'pass-through.js' },
  { name: 'pump', folder: 'bench/workers', main: 'pump.js' },
  { name: 'fairlead', folder: 'worker/build', main: 'index.js', wasm: 'index_bg.wasm' },
];

/**
 * All reach the upstream through a binding. Behind the global `fetch`, Miniflare has a Worker of its own in the same
 * process, which takes 120 µs per request: a third of what a pass-through costs.
 */
function environment(upstreamPort) {
  const config = {
    open: true,
    endpoints: [{ name: 'upstream', provider: 'vllm', base_url: 'http://upstream/v1', via: 'UPSTREAM' }],
    models: [{ name: 'bench', targets: [{ endpoint: 'upstream', model: SERVED_MODEL }] }],
  };
  return {
    UPSTREAM: { type: 'external', address: `127.0.0.1:${upstreamPort}`, http: {} },
    CONFIG: { type: 'json', value: config },
  };
}

/** Starts one, and resolves to its port, its CPU time in milliseconds so far, and the way to end it. */
export async function start({ name, folder, main, wasm }, upstreamPort) {
  const modulesRoot = join(root, folder);
  const modules = { [main]: { type: 'esm', contents: readFileSync(join(modulesRoot, main), 'utf8') } };
  if (wasm) modules[wasm] = { type: 'wasm', contents: readFileSync(join(modulesRoot, wasm)) };

  const before = new Set(runtimes());
  const miniflare = new Miniflare({
    handleStructuredLogs: ({ level, message }) => {
      if (level === 'error' || level === 'warn') console.error(`${name}: ${message}`);
    },
    workers: [{
      config: {
        name,
        compatibilityDate: '2026-11-17', // wrangler.toml's; with it a Worker hears that its client has left
        manifest: { mainModule: main, modulesRoot, modules },
        env: environment(upstreamPort),
      },
      // Straight to the Worker, for Miniflare's own entrance is a Worker, too.
      dev: { unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }] },
    }],
  });
  const url = await miniflare.unsafeGetDirectURL(name);
  const [pid, ...more] = runtimes().filter((each) => !before.has(each));
  if (pid === undefined || more.length > 0) throw new Failure(`Cannot tell which process runs ${name}.`);
  return { name, port: Number(url.port), cpuMs: () => cpuMs(pid), stop: () => miniflare.dispose() };
}

/** The workerd processes that this process has started. */
function runtimes() {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry));
  return pids.filter((pid) => {
    const { command, fields } = stat(pid) ?? {};
    return command === 'workerd' && Number(fields[1]) === process.pid;
  });
}

/** User and system time of a process and of the children that it has waited for. */
function cpuMs(pid) {
  const { fields } = stat(pid) ?? {};
  if (!fields) throw new Failure('A workerd process has ended by itself.');
  const ticks = fields.slice(11, 15).reduce((sum, each) => sum + Number(each), 0);
  return ticks * TICK_MS;
}

/** USER_HZ is 100 on every architecture that workerd runs on. */
const TICK_MS = 10;

/** proc(5): the command's name, and the fields behind it from `state` on. */
function stat(pid) {
  try {
    const [, command, rest] = /\((.*)\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'));
    return { command, fields: rest.split(' ') };
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ESRCH') return undefined; // it has just ended
    throw error;
  }
}
