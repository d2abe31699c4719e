// What the examples of the pages run against: a gateway under the configuration that they take for granted, in front of
// simulated endpoints; and a folder in which what they import is installed.

import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { root } from '../../scripts/process.mjs';
import { bin } from '../../scripts/setup.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { sha256, startGateway, STATE } from '../worker/gateway.mjs';

export const KEY = 'fl-of-the-pages';
export const ADMIN_KEY = 'fl-admin-of-the-pages';
const ADDRESS = 'https://gateway.example.com';
const LONGEST_MS = 60_000;

/** What a fragment of CONFIG on a page is merged into. */
export const BASE = {
  endpoints: [
    { name: 'a100', provider: 'vllm', base_url: 'https://a100.example.com/v1', api_key_secret: 'VLLM_API_KEY' },
    { name: 'spare', provider: 'vllm', base_url: 'https://spare.example.com/v1' },
    {
      name: 'burst', provider: 'runpod', base_url: 'https://api.runpod.ai/v2/abc123', api_key_secret: 'RUNPOD_API_KEY', native: true,
    },
  ],
  models: [
    { name: 'qwen', targets: [{ endpoint: 'a100', model: 'Qwen/Qwen2.5-7B-Instruct' }, { endpoint: 'spare' }] },
    { name: '*', targets: [{ endpoint: 'a100' }] },
  ],
  policies: { default: {}, 'chat-ui': { preset: 'simple', idle_ms: 8000 } },
  clients: [{ name: 'web', keys_sha256: [sha256(KEY)], policies: ['chat-ui'], runpod: ['burst'] }],
  admin_key_secret: 'ADMIN_KEY',
};

/** Packages that examples import, and where they are installed. */
const PACKAGES = {
  fairlead: 'pkg-js', openai: 'node_modules/openai', 'runpod-sdk': 'node_modules/runpod-sdk',
  ...Object.fromEntries(['ai', '@ai-sdk/openai-compatible', '@langchain/openai', '@langchain/core']
    .map((name) => [name, `tests/consumers/node_modules/${name}`])),
};

/** A folder that has those packages. */
export async function folderOfExamples() {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'fairlead-pages-')));
  for (const [name, place] of Object.entries(PACKAGES)) {
    const link = join(folder, 'node_modules', name);
    await mkdir(dirname(link), { recursive: true });
    await symlink(join(root, place), link);
  }
  return folder;
}

export async function startStand() {
  const stand = new Stand();
  await stand.start();
  return stand;
}

class Stand {
  #servers;
  #gateway;
  #folder;
  #runs = 0;

  async start() {
    const runpod = await startRunpod({ endpoints: { burst: { handler: 'echo', warm: 1 } } });
    this.#servers = { a100: await startVllm({ apiKey: 'of a100' }), spare: await startVllm(), burst: runpod };
    this.#folder = await folderOfExamples();
  }

  /** A gateway that nothing has happened to yet, under the base with these keys in place of its own. */
  async renew(fragment = {}) {
    await this.#gateway?.close();
    const { a100, spare, burst } = this.#servers;
    const urls = { a100: `${a100.url}/v1`, spare: `${spare.url}/v1`, burst: burst.baseUrl('burst') };
    const endpoints = BASE.endpoints.map((endpoint) => ({ ...endpoint, base_url: urls[endpoint.name] }));
    this.#gateway = await startGateway({ ...BASE, endpoints, faults: true, ...fragment }, {
      secrets: { VLLM_API_KEY: 'of a100', RUNPOD_API_KEY: burst.apiKey, ADMIN_KEY },
      env: { STATE },
    });
    // A wrong configuration would be an answer as well.
    const response = await this.#gateway.fetch('/status', { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
    if (!response.ok) throw new Error(await response.text());
  }

  /** Lines of bash, as their reader would paste them. Fails unless all of them succeed; gives what they print. */
  shell(code, { cwd = this.#folder, env } = {}) {
    return this.#execute('bash', ['-euo', 'pipefail', '-c', this.#located(code)], { cwd, env });
  }

  async script(code, name, command) {
    const file = join(this.#folder, `${this.#runs += 1}-${name}`);
    await writeFile(file, this.#located(code));
    return this.#execute(command, [file], { cwd: this.#folder });
  }

  async close() {
    await this.#gateway?.close();
    await Promise.all(Object.values(this.#servers).map((server) => server.close()));
    await rm(this.#folder, { recursive: true });
  }

  #located(code) {
    return code.replaceAll(ADDRESS, this.#gateway?.url);
  }

  #execute(command, args, { cwd, env }) {
    const path = [dirname(bin('node')), process.env.PATH].join(delimiter);
    const options = { cwd, env: { ...process.env, PATH: path, KEY, ADMIN_KEY, ...env }, timeout: LONGEST_MS };
    return new Promise((resolve, reject) => {
      execFile(command, args, options, (error, stdout, stderr) => {
        if (error) reject(new Error(`${error.message}\n${stdout}\n${stderr}`));
        else resolve(stdout);
      });
    });
  }
}
