// The gateway in workerd: the Worker that was built last, under the compatibility settings of wrangler.toml.
//
// Requests go to a socket of the Worker's own. On the usual way in, Miniflare has a Worker of its own in front, which
// tidies paths up before ours sees them.

import { Miniflare } from 'miniflare';
import { createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const repository = new URL('../../', import.meta.url);
const build = new URL('worker/build/', repository);
/** What the Worker exports besides its handler, as the migration in wrangler.toml says it. */
const EXPORTS = { Breakers: { type: 'durable-object', storage: 'sqlite' } };
/** No request of a test takes so long unless something hangs. */
const LONGEST_MS = 20_000;

/**
 * @param {object | undefined} config becomes the binding CONFIG; none where `env` says everything
 * @param {object} [more]
 * @param {Record<string, string>} [more.secrets] by name
 * @param {Record<string, object>} [more.env] further bindings, as Miniflare describes them
 * @param {Record<string, string>} [more.workers] the source of further Workers, by the names that bindings lead to
 * @param {number} [more.isolates] how many isolates there are, each with the same bindings; one that was not asked
 *   anything yet has nothing behind it. Requests go to the first, or to `gateway.isolates[n]`
 * @param {string} [more.prelude] the source of a module that runs before the Worker's own
 * @param {(message: string) => void} [more.onPrinted] takes all that is printed, which is not kept then
 * @param {boolean} [more.inspected] there is an inspector, at `inspectorUrl()`
 */
export async function startGateway(config, more = {}) {
  const { secrets = {}, env = {}, workers = {}, isolates = 1, prelude, onPrinted, inspected } = more;
  const gateway = new Gateway(onPrinted);
  await gateway.start({
    ...(config && { CONFIG: { type: 'json', value: config } }),
    ...Object.fromEntries(Object.entries(secrets).map(([name, value]) => [name, { type: 'text', value }])),
    ...env,
  }, workers, isolates, prelude, inspected);
  return gateway;
}

/** Entries of `endpoints` in CONFIG for simulated servers, under the names of their keys. */
export function endpointsOf(servers) {
  return Object.entries(servers).map(([name, { url }]) => ({ name, provider: 'vllm', base_url: `${url}/v1` }));
}

/** A KV namespace of its own, as the binding `STATE`. */
export const STATE = { type: 'kv', id: 'state' };

/** The Durable Objects, as the binding `BREAKERS`. */
export const BREAKERS = { type: 'durable-object', worker: 'fairlead', exportName: 'Breakers' };

/** The `breaker` of a policy under which one test's failures are nothing to the next. */
export const STAYS_CLOSED = { min_calls: 1_000_000, consecutive: 1_000_000 };

export const sha256 = (text) => createHash('sha256').update(text).digest('hex');

/** The requests of one call that a simulated server has seen, by the id that the client gave the call. */
export function requestsOf(server, id) {
  return server.requests.filter(({ headers }) => headers['x-request-id']?.replace(/-\d+$/, '') === id);
}

/** One isolate of the gateway, at its own address. */
class Isolate {
  #url;

  constructor(url) {
    this.#url = url;
  }

  /** Without a path: `${url}/v1` is an OpenAI client's base URL. */
  get url() {
    return this.#url.origin;
  }

  get port() {
    return Number(this.#url.port);
  }

  /** One request; an object as its body is sent as JSON. */
  fetch(path, { body, headers, signal, ...init } = {}) {
    const json = typeof body === 'object' && Object.getPrototypeOf(body) === Object.prototype;
    return fetch(`${this.url}${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      body: json ? JSON.stringify(body) : body,
      headers: { ...(json && { 'content-type': 'application/json' }), ...headers },
      signal: AbortSignal.any([AbortSignal.timeout(LONGEST_MS), ...(signal ? [signal] : [])]),
      ...init,
    });
  }
}

class Gateway extends EventEmitter {
  /** What the Worker logged, as objects; what stands in a call's timeline comes before its own line. */
  logs = [];
  /** All that was printed, word for word. */
  printed = [];
  /** What nobody was ready for: exceptions that the Worker logged, and whatever workerd itself printed. */
  troubles = [];
  /** Each with a memory of its own, all with the same bindings. */
  isolates = [];
  #miniflare;
  #onPrinted;

  constructor(onPrinted) {
    super();
    this.setMaxListeners(0);
    this.#onPrinted = onPrinted;
  }

  async start(env, workers, isolates, prelude, inspected) {
    const names = Array.from({ length: isolates }, (_, at) => (at === 0 ? 'fairlead' : `fairlead-${at + 1}`));
    this.#miniflare = new Miniflare({
      cf: false, // otherwise it asks the network where this machine is
      telemetry: { enabled: false },
      enableDevRegistry: false,
      ...(inspected && { inspectorPort: 0 }),
      handleStructuredLogs: ({ level, message }) => this.#hear(level, message),
      workers: [
        ...names.map((name) => ({
          config: { name, ...compatibility(), manifest: built(prelude), env, exports: EXPORTS },
          dev: { unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }] },
        })),
        ...Object.entries(workers).map(([name, source]) => ({
          config: { name, ...compatibility(), manifest: manifestOf({ 'index.js': esm(source) }) },
        })),
      ],
    });
    await this.#miniflare.ready;
    for (const name of names) this.isolates.push(new Isolate(await this.#miniflare.unsafeGetDirectURL(name)));
  }

  /** Where the first isolate is inspected. */
  async inspectorUrl() {
    return new URL('/core:user:fairlead', await this.#miniflare.getInspectorURL());
  }

  /** What stands in the KV namespace `STATE`. */
  state() {
    return this.#miniflare.getKVNamespace('STATE', 'fairlead');
  }

  /** The Durable Object of an endpoint. */
  async object(endpoint) {
    const objects = await this.#miniflare.getDurableObjectNamespace('BREAKERS', 'fairlead');
    return objects.get(objects.idFromName(endpoint));
  }

  /** The first isolate's. */
  get url() {
    return this.isolates[0].url;
  }

  get port() {
    return this.isolates[0].port;
  }

  fetch(path, init) {
    return this.isolates[0].fetch(path, init);
  }

  /** The first log line that has these fields, once it is there. */
  line(fields, ms = 5000) {
    const fits = (line) => Object.entries(fields).every(([name, value]) => line[name] === value);
    return new Promise((resolve, reject) => {
      const look = () => {
        const line = this.logs.find(fits);
        if (!line) return;
        clearTimeout(timer);
        this.off('line', look);
        resolve(line);
      };
      const timer = setTimeout(() => {
        this.off('line', look);
        reject(new Error(`not logged within ${ms} ms: ${JSON.stringify(fields)}`));
      }, ms);
      this.on('line', look);
      look();
    });
  }

  close() {
    return this.#miniflare.dispose();
  }

  #hear(level, message) {
    if (this.#onPrinted) return this.#onPrinted(message);
    this.printed.push(message);
    if (level === 'log' && message.startsWith('{')) {
      const line = JSON.parse(message);
      if (line.event === 'internal') this.troubles.push(message);
      for (const each of unfolded(line)) {
        this.logs.push(each);
        this.emit('line');
      }
    } else if (!message.includes('does not need to be specified anymore')) {
      this.troubles.push(message);
    }
  }
}

/** What merely begins is no news. */
const BEGINNINGS = ['attempt_started', 'job_started'];

/** A call's line behind what led to it, each of that with the fields that say whose it is. */
function unfolded(line) {
  const { request_id, trace_id, client, route, model, timeline = [] } = line;
  const news = timeline.filter(({ event }) => !BEGINNINGS.includes(event));
  return [...news.map((moment) => ({ request_id, trace_id, client, route, model, ...moment })), line];
}

function compatibility() {
  const settings = readFileSync(new URL('wrangler.toml', repository), 'utf8');
  const [, compatibilityDate] = /^compatibility_date = "(.+)"/m.exec(settings);
  const [, flags] = /^compatibility_flags = (\[.*?\])/m.exec(settings);
  return { compatibilityDate, compatibilityFlags: JSON.parse(flags) };
}

const esm = (contents) => ({ type: 'esm', contents });
const manifestOf = (modules, mainModule = 'index.js') => ({ mainModule, modulesRoot: fileURLToPath(build), modules });

function built(prelude) {
  const modules = {
    'index.js': esm(readFileSync(new URL('index.js', build), 'utf8')),
    'index_bg.wasm': { type: 'wasm', contents: readFileSync(new URL('index_bg.wasm', build)) },
  };
  if (!prelude) return manifestOf(modules);
  const main = "import './prelude.js'; export * from './index.js'; export { default } from './index.js';";
  return manifestOf({ 'main.js': esm(main), 'prelude.js': esm(prelude), ...modules }, 'main.js');
}
