// The Workers that are compared, each alone in a workerd process of its own, whose CPU the operating system counts.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { Miniflare } from 'miniflare';
import { Failure, root } from '../scripts/process.mjs';
import { children, cpuMs, privateBytes } from './proc.mjs';

const sha256 = (text) => createHash('sha256').update(text).digest('hex');

/** In the order of the tables. `does` is said there. */
export const CONTESTANTS = [
  {
    name: 'direct',
    does: 'no Worker at all: what the upstream and the clients do among themselves, which limits everything else.',
  },
  {
    name: 'pass-through', main: 'bench/workers/pass-through.js',
    does: "one line, `fetch(request)` to the upstream: what the platform costs, and nobody's own work.",
  },
  {
    name: 'pump', main: 'bench/workers/pump.js',
    does: 'the least that a Worker must do to see what it passes on: it reads a whole answer before it goes on, and '
      + 'brings a stream chunk by chunk from a reader into an `IdentityTransformStream`.',
  },
  {
    name: 'pull', main: 'bench/workers/pull.js',
    does: 'the same for a stream by a `ReadableStream({ pull })`, as one writes it without knowing the platform.',
  },
  {
    name: 'steps', main: 'bench/workers/steps.js',
    does: 'the steps that Fairlead takes for a whole answer, in plain JavaScript: a request of its own that can be '
      + 'aborted, an answer held until it is whole, a line in the log.',
  },
  {
    name: 'unheld', main: 'bench/workers/unheld.js',
    does: 'the same steps, but the answer goes on without being held: what Fairlead could reach for answers that '
      + 'nobody has to check.',
  },
  {
    name: 'fairlead', main: 'worker/build/index.js', wasm: 'worker/build/index_bg.wasm', policy: {},
    does: '`worker/build` as it comes: every chunk is checked before it goes on (`forward: "checked"`).',
  },
  {
    name: 'fairlead native', main: 'worker/build/index.js', wasm: 'worker/build/index_bg.wasm',
    policy: { forward: 'native' },
    does: 'the same with `forward: "native"` in its policy: streams go by the platform\'s own pipe and are checked '
      + 'behind it.',
  },
  {
    name: 'fairlead resume', main: 'worker/build/index.js', wasm: 'worker/build/index_bg.wasm',
    policy: { resume: 'continue' },
    does: '`fairlead` with `resume: "continue"` in its policy: what a client has been shown is kept, so that another '
      + 'endpoint could go on from there. None has to.',
  },
  {
    name: 'fairlead quiet', main: 'worker/build/index.js', wasm: 'worker/build/index_bg.wasm', policy: {},
    config: { log: 'off' },
    does: '`fairlead` as quiet as it can be: open to anybody, without limits, without a line in the log, and with '
      + 'nobody who could see a count.',
  },
  {
    name: 'fairlead watched', main: 'worker/build/index.js', wasm: 'worker/build/index_bg.wasm', policy: {},
    config: {
      open: false, admin_key_secret: 'ADMIN_KEY',
      // As many as a team has; the rig's key is the last that is looked at.
      clients: ['web', 'mobile', 'batch', 'bench'].map((name) => ({
        name, keys_sha256: [sha256(`sk-${name}`)], models: ['bench'], requests_per_minute: 1_000_000,
        max_concurrency: 1000, max_tokens: 100_000, max_n: 8,
      })),
    },
    env: {
      ADMIN_KEY: { type: 'text', value: 'sk-admin' },
      METRICS: { type: 'analytics-engine-dataset', name: 'fairlead' },
    },
    does: '`fairlead` with all that a team has around it: keys and limits for four clients, a line in the log and a '
      + 'data point for each call, counts and the last calls for `/status`.',
  },
];

/** With it a Worker hears that its client has left. */
const [, COMPATIBILITY_DATE] = /^compatibility_date = "(.+)"/m.exec(readFileSync(join(root, 'wrangler.toml'), 'utf8'));

/**
 * Starts one, and resolves to its port, what its process costs, and the ways to end it and to start another.
 * With `cold` every request gets a new isolate; the process goes on.
 */
export async function start(contestant, upstreamPort, { cold = false } = {}) {
  const { name, main } = contestant;
  if (!main) return { name, port: upstreamPort, stop() {} };

  const before = new Set(children('workerd'));
  const miniflare = new Miniflare({
    handleStructuredLogs: ({ level, message }) => {
      if (level === 'error' || level === 'warn') console.error(`${name}: ${message}`);
    },
    workers: [{
      config: {
        name: 'bench', compatibilityDate: COMPATIBILITY_DATE,
        manifest: cold ? coldManifest(contestant) : manifest(contestant),
        env: { ...environment(contestant, upstreamPort), ...(cold && { LOADER: { type: 'worker-loader' } }) },
      },
      // Straight to the Worker, for Miniflare's own entrance is a Worker, too.
      dev: { unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }] },
    }],
  });
  const url = await miniflare.unsafeGetDirectURL('bench');
  const [pid, ...more] = children('workerd').filter((each) => !before.has(each));
  if (pid === undefined || more.length > 0) throw new Failure(`Cannot tell which process runs ${name}.`);
  return {
    name,
    pid,
    port: Number(url.port),
    cpuMs: () => cpuMs(pid),
    privateBytes: () => privateBytes(pid),
    gzippedBytes: () => files(contestant).reduce((sum, bytes) => sum + gzipSync(bytes).length, 0),
    another: (options) => start(contestant, upstreamPort, options),
    stop: () => miniflare.dispose(),
  };
}

/** How many reads a Worker needs for streams of this kind, so many at a time. */
export async function countReads(kind, streams, upstreamPort) {
  const worker = await start({ name: 'reads', main: 'bench/workers/reads.js' }, upstreamPort);
  try {
    const count = async () => {
      const body = JSON.stringify({ bench: kind });
      return (await fetch(`http://127.0.0.1:${worker.port}/`, { method: 'POST', body })).json();
    };
    return await Promise.all(Array.from({ length: streams }, count));
  } finally {
    await worker.stop();
  }
}

/**
 * All reach the upstream through a binding. Behind the global `fetch`, Miniflare has a Worker of its own in the same
 * process, which takes 120 µs per request: a third of what a pass-through costs.
 */
function environment({ policy, config: own, env }, upstreamPort) {
  const config = {
    open: true,
    endpoints: [{ name: 'upstream', provider: 'vllm', base_url: 'http://upstream/v1', via: 'UPSTREAM' }],
    models: [{ name: 'bench', targets: [{ endpoint: 'upstream', model: 'Qwen/Qwen2.5-7B-Instruct' }] }],
    policies: { default: policy },
    ...own,
  };
  return {
    UPSTREAM: { type: 'external', address: `127.0.0.1:${upstreamPort}`, http: {} },
    ...(policy && { CONFIG: { type: 'json', value: config } }),
    ...env,
  };
}

const files = ({ main, wasm }) => [main, wasm].filter(Boolean).map((path) => readFileSync(join(root, path)));

function manifest(contestant) {
  const [js, wasm] = files(contestant);
  const modules = { 'index.js': { type: 'esm', contents: js.toString() } };
  if (wasm) modules['index_bg.wasm'] = { type: 'wasm', contents: wasm };
  return { mainModule: 'index.js', modulesRoot: root, modules };
}

/** Workerd evaluates what it is configured with before it listens, and what a Worker loads when it is asked for. */
function coldManifest(contestant) {
  const [js, wasm] = files(contestant);
  const modules = {
    'index.js': { type: 'esm', contents: readFileSync(join(root, 'bench/workers/cold.js'), 'utf8') },
    'date.txt': { type: 'text', contents: COMPATIBILITY_DATE },
    'subject.js.txt': { type: 'text', contents: js.toString() },
    'subject.wasm.bin': { type: 'data', contents: wasm ?? new Uint8Array() },
  };
  return { mainModule: 'index.js', modulesRoot: root, modules };
}
