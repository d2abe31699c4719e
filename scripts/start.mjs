// `npm start`: the gateway on this machine, in front of simulated endpoints, ready for the curl lines that it prints.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from './build.mjs';
import { startPage } from './page.mjs';
import { Failure, main, root, step } from './process.mjs';
import { bin, continueOnPackagedNode, ensurePackages } from './setup.mjs';

const HOST = '127.0.0.1';
/** The endpoints of CONFIG in wrangler.toml that are simulated here. */
const SERVERS = ['demo-a', 'demo-b'];
/** Those of the simulated RunPod, with their ids there. */
const RUNPOD = { 'demo-runpod': 'demo', 'demo-cold': 'cold' };
const MODEL = 'fairlead-demo';
/**
 * At the pace of a real one. It may run for days, and nobody reads its records. A browser repeats a request by itself
 * when a connection that it had used before is reset, so that the page would see nothing of it: none is used again.
 */
const VLLM = { models: [MODEL], firstTokenMs: 300, tokenMs: 40, keepRequests: 20, keepAliveMs: 0 };
/**
 * The policies that the page asks for: shorter times than anybody would set in earnest, the same that the page itself has
 * without the gateway (pkg-js/demo/demo.js).
 */
const PAGE_POLICY = { first_token_ms: 1500, idle_ms: 2000, breaker: { consecutive: 4, open_ms: 8000, probe_ratio: 1 } };
const PAGE_POLICIES = { page: PAGE_POLICY, 'page-resume': { ...PAGE_POLICY, resume: 'continue' } };
/** DEMO_ADMIN_KEY in wrangler.toml. */
const ADMIN_KEY = 'demo-admin';
const READY_WITHIN_MS = 60_000;
const STOP_WITHIN_MS = 5_000;

await main(async () => {
  const port = Number(process.env.PORT ?? 8787);
  await refuseTakenPort(port);
  await ensurePackages();
  await continueOnPackagedNode();
  await build();

  step('Starting the gateway and its simulated endpoints', '5 s');
  const servers = await startServers();
  const runpod = await startRunpod();
  const stopped = new Promise((_, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => reject(new Failure('Stopped.', 0)));
  });
  const url = `http://${HOST}:${port}`;
  const page = await startPage(HOST, {
    gateway: `${url}/v1`, servers: servers.map((server, at) => ({ name: SERVERS[at], url: `${server.url}/v1` })), model: MODEL,
  });
  const gateway = startGateway(port, await configFor(servers, runpod, page));
  try {
    const ended = gateway.exit.then(() => {
      throw new Failure(`wrangler ended by itself.\n${gateway.untold()}`);
    });
    await Promise.race([stopped, ended, answering(`${url}/health`)]);
    console.log(welcome(url, servers, runpod, page));
    gateway.tell();
    await Promise.race([stopped, ended]);
  } finally {
    await gateway.stop();
    await Promise.all([...servers, runpod, page].map((server) => server.close()));
  }
});

async function refuseTakenPort(port) {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new Failure(`PORT is ${process.env.PORT}, which is no port.`);
  }
  if (await isTaken(port)) throw new Failure(`Port ${port} is taken. Choose another: PORT=${port + 100} npm start`);
}

function isTaken(port) {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once('error', (error) => (error.code === 'EADDRINUSE' ? resolve(true) : reject(error)));
    server.listen(port, HOST, () => server.close(() => resolve(false)));
  });
}

async function startServers() {
  const { startVllm } = await import('../tests/upstream/vllm.mjs');
  return Promise.all(SERVERS.map(() => startVllm(VLLM)));
}

/** A worker takes three seconds to come. The one goes after half a minute without work, the other at once. */
async function startRunpod() {
  const { startRunpod: start } = await import('../tests/upstream/runpod.mjs');
  const demo = { handler: 'worker-vllm', coldStartMs: 3000, idleMs: 30_000, keepJobs: 100, vllm: VLLM };
  return start({ keepRequests: 20, endpoints: { demo, cold: { ...demo, idleMs: 1 } } });
}

/** The demo's CONFIG, with its simulated endpoints where they listen: on ports that were free. The page may call. */
async function configFor(servers, runpod, page) {
  const { unstable_readConfig: readConfig } = await import('wrangler');
  const { CONFIG } = readConfig({ config: join(root, 'wrangler.toml') }, { hideWarnings: true }).vars;
  const endpoint = (wanted) => CONFIG.endpoints.find(({ name }) => name === wanted);
  for (const [at, name] of SERVERS.entries()) endpoint(name).base_url = `${servers[at].url}/v1`;
  for (const [name, id] of Object.entries(RUNPOD)) endpoint(name).base_url = runpod.baseUrl(id);
  return JSON.stringify({ ...CONFIG, cors: { origins: [page.url] }, policies: { ...CONFIG.policies, ...PAGE_POLICIES } });
}

/** `wrangler dev`. What it says is kept back until `tell`: before the first answer it matters only if that fails. */
function startGateway(port, config) {
  // What was known of servers that are gone would keep calls from those that have their names now.
  const state = mkdtempSync(join(tmpdir(), 'fairlead-start-'));
  const dev = ['dev', '--ip', HOST, '--port', String(port), '--persist-to', state, '--var', `CONFIG:${config}`];
  const child = spawn(process.execPath, [bin('wrangler'), ...dev], {
    cwd: root,
    detached: true, // in a process group of its own: Ctrl-C reaches this script, which ends it in good order
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, CI: '1', WRANGLER_SEND_METRICS: 'false', CLOUDFLARE_CF_FETCH_ENABLED: 'false' },
  });
  const exit = once(child, 'exit');
  const kill = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  };
  process.once('exit', () => {
    kill('SIGKILL');
    rmSync(state, { recursive: true, force: true, maxRetries: 3 });
  });

  let untold = '';
  let hear = (text) => { untold += text; };
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => hear(text));

  return {
    exit,
    untold: () => untold,
    tell() {
      hear = (text) => process.stdout.write(text);
    },
    async stop() {
      kill('SIGTERM');
      await Promise.race([exit, sleep(STOP_WITHIN_MS)]);
      kill('SIGKILL');
    },
  };
}

async function answering(url) {
  const deadline = Date.now() + READY_WITHIN_MS;
  while (Date.now() < deadline) {
    const response = await fetch(url).catch(() => undefined);
    if (response?.ok) return;
    await sleep(200);
  }
  throw new Failure(`The gateway does not answer ${url} within ${READY_WITHIN_MS / 1000} s.`);
}

function welcome(url, servers, runpod, page) {
  const chat = (model, more = '') => `  curl -N ${url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model":"${model}","stream":true,"messages":[{"role":"user","content":"What is a fairlead?"}]${more}}'`;
  return `
Fairlead is ready at ${url}, an OpenAI base URL is ${url}/v1
in front of two simulated vLLM servers at ${servers.map((server) => `${server.url}/v1`).join(' and ')}
and a simulated RunPod at ${runpod.baseUrl('demo')}

The dashboard: ${url}/#key=${ADMIN_KEY}
A page to play with: ${page.url}

Stream a chat:
${chat('demo')}

The first endpoint is down, the second answers:
${chat('demo-failover')}

Each endpoint is overloaded once, and the call is tried again:
${chat('demo', ',"sim":["http-503"]')}

A stream that breaks in its middle says so, and never ends like a whole one:
${chat('demo', ',"sim":"cut"')}

A stream that breaks, and goes on at the other server:
${chat('demo-resume', ',"sim":["cut"]')}

A RunPod endpoint that has to start first; leave with Ctrl-C in its middle, and its job is cancelled:
${chat('demo-runpod')}

A job by itself, in RunPod's own words:
  curl ${url}/runpod/demo-runpod/runsync -H 'content-type: application/json' \\
    -d '{"input":{"openai_route":"/v1/models"}}'

Ctrl-C ends all of it.
`;
}
