// What `npm run check` and `npm run deploy` know of a configuration: wrangler reads its file, the core that will read
// CONFIG in the Worker judges it, and what a first deployment trips over is looked for here.

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Failure, must, root, run } from './process.mjs';

const NOTHING_TO_JUDGE = 2;

/** What a Workers variable holds. */
const MOST_BYTES = 5120;

/**
 * Prints what is wrong with the configuration in a file, and what may be.
 *
 * @returns {Promise<{ valid: boolean, demo: string[] }>} `demo`: why it is none to be put before the world
 */
export async function judge(path, { env, file = path } = {}) {
  if (!existsSync(path)) throw new Failure(`There is no ${file}.`, NOTHING_TO_JUDGE);
  const plain = plainConfig(path, file);
  const worker = plain ? await neighbour(path, env) : await read(path, env);
  const bindings = plain ? { CONFIG: plain.config } : configOf(worker.vars);
  if (Object.keys(bindings).length === 0) {
    throw new Failure(
      `${file} has no CONFIG among its vars${env ? ` of the environment ${env}` : ''}; a secret cannot be read here.`, NOTHING_TO_JUDGE,
    );
  }
  const warnings = [...(plain?.warnings ?? []), ...(plain ? [] : sizesOf(bindings))];
  if (plain && !worker.kv_namespaces?.some(({ binding }) => binding === 'STATE')) {
    warnings.push('config: is read from the KV namespace STATE, which wrangler.toml does not bind');
  }
  const whole = wholeOf(bindings);
  const demo = demoOf(whole);
  for (const warning of [...warnings, ...demo]) console.log(`warning: ${warning}`);

  const example = ['--package', 'fairlead-core', '--example', 'check'];
  await must('cargo', ['build', '--quiet', ...example]); // on its own, so that its end is no mistake of CONFIG
  const services = [worker.services, worker.vpc_services, worker.vpc_networks].flat()
    .filter(Boolean).map(({ binding }) => binding);
  const code = await run('cargo', ['run', '--quiet', ...example], {
    input: JSON.stringify({ ...bindings, services, rate_limiters: rateLimitersOf(worker) }),
  });
  for (const name of secretsOf(whole)) {
    // A var of this name serves as well, and wrangler refuses a secret beside it.
    if (Object.hasOwn(worker.vars ?? {}, name)) continue;
    console.log(`secret ${name}: set it with  npx wrangler secret put ${name}${env ? ` --env ${env}` : ''}`);
  }
  return { valid: code === 0, demo };
}

async function read(path, env) {
  const { unstable_readConfig: readConfig } = await import('wrangler');
  try {
    return readConfig({ config: path, env }, { hideWarnings: true });
  } catch (error) {
    const { file = path, line } = error.location ?? {};
    throw new Failure(`${file}${line ? `:${line}` : ''} cannot be read: ${error.message}`, NOTHING_TO_JUDGE);
  }
}

/** The Worker that a file for KV is for: that of the wrangler.toml beside it, or of this repository. */
async function neighbour(path, env) {
  const beside = join(dirname(path), 'wrangler.toml');
  return read(existsSync(beside) ? beside : join(root, 'wrangler.toml'), env);
}

const configOf = (vars) => Object.fromEntries(Object.entries(vars).filter(([name]) => /^CONFIG(_|$)/.test(name)));

/** What a JSON file holds that is no wrangler configuration but a CONFIG by itself, as it goes into KV. */
function plainConfig(path, file) {
  if (!/\.jsonc?$/.test(path)) return undefined;
  const text = readFileSync(path, 'utf8');
  const config = parsed(text) ?? parsed(withoutComments(text));
  const keys = Object.keys(config ?? {});
  if (!['endpoints', 'models', 'clients', 'policies'].some((key) => keys.includes(key))) return undefined;
  const warnings = [];
  if (parsed(text) === undefined) {
    warnings.push(`${file}: has comments, or commas before a bracket, which the gateway does not read: put it into KV without them`);
  }
  return { config, warnings };
}

/** JSONC as JSON: strings stay as they are. */
const withoutComments = (text) => text
  .replace(/("(?:\\.|[^"\\])*")|\/\/.*|\/\*[^]*?\*\//g, (_, string) => string ?? ' ')
  .replace(/("(?:\\.|[^"\\])*")|,(?=\s*[}\]])/g, (_, string) => string ?? '');

/** A var may hold JSON as text. What is not JSON is reported as a mistake. */
function parsed(value) {
  try {
    return typeof value === 'string' ? JSON.parse(value) : value;
  } catch {
    return undefined;
  }
}

/** All parts in one object. */
function wholeOf(bindings) {
  const parts = Object.entries(bindings).map(([name, value]) =>
    (name === 'CONFIG' ? parsed(value) : { [name.slice('CONFIG_'.length).toLowerCase()]: parsed(value) }));
  return Object.assign({}, ...parts.filter((part) => part && typeof part === 'object'));
}

function sizesOf(bindings) {
  return Object.entries(bindings).flatMap(([name, value]) => {
    const bytes = Buffer.byteLength(typeof value === 'string' ? value : JSON.stringify(value));
    if (bytes <= MOST_BYTES) return [];
    const keys = name === 'CONFIG' ? Object.entries(parsed(value) ?? {}) : [];
    const [largest] = keys.sort(([, a], [, b]) => JSON.stringify(b).length - JSON.stringify(a).length)[0] ?? [];
    const cure = largest ? `move \`${largest}\` into a variable CONFIG_${largest.toUpperCase()}, or ` : '';
    return [`${name}: is ${bytes} bytes long, and a Workers variable holds ${MOST_BYTES}: ${cure}put CONFIG into KV (docs/live-config.md)`];
  });
}

/** Why a configuration is not to be put before the world. */
function demoOf({ open, endpoints = [], ...rest }) {
  const found = [];
  if (open === true) found.push('open: lets everybody in, at your cost: name `clients` with keys instead');
  for (const [index, endpoint] of (Array.isArray(endpoints) ? endpoints : []).entries()) {
    if (isLocal(endpoint?.base_url) && !endpoint.via) {
      found.push(`endpoints[${index}].base_url: is an address of the machine itself, where a deployed Worker finds nobody`);
    }
  }
  for (const name of secretsOf({ endpoints, ...rest })) {
    if (name.startsWith('DEMO_')) found.push(`${name}: is a secret of the demo, which everybody knows`);
  }
  return found;
}

function isLocal(url) {
  const { hostname = '' } = URL.canParse(url) ? new URL(url) : {};
  return /^(localhost|.*\.localhost|127\..*|0\.0\.0\.0|\[::1?\])$/.test(hostname);
}

/** Every name in a `*_secret` field, at any depth, once. */
function secretsOf(value, names = new Set()) {
  for (const [key, inner] of Object.entries(value ?? {})) {
    if (typeof inner === 'object') secretsOf(inner, names);
    // Whoever has put the secret itself here shall not read it on a screen.
    else if (key.endsWith('_secret') && /^[A-Z0-9_]+$/.test(inner)) names.add(inner);
  }
  return names;
}

/** The rate limiting bindings, and their periods in milliseconds. */
function rateLimitersOf({ ratelimits }) {
  return Object.fromEntries((ratelimits ?? []).map(({ name, simple }) => [name, simple.period * 1000]));
}
