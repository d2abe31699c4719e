// From options to what the core reads: checked at construction, whole, so that a mistake shows where it was made.

import type { CallOptions, EndpointOptions, FairleadOptions } from './options.js';
import { merge } from './headers.js';
import { inBrowser } from './platform.js';
import { CALL, CLIENT, camel, complaints, option, resolve, snake } from './schema.js';

/** The name of the endpoint behind `baseURL`. */
export const GATEWAY = 'gateway';

/** What the options come to. */
export interface Setup {
  /** CONFIG, as JSON. */
  config: string;
  /** The keys, by the names that the config has for them. */
  secrets: Record<string, string>;
  /** The gateway's URL with its `/v1`, where there is one. */
  baseURL: string | undefined;
  /** The names of `policies`. */
  policies: ReadonlySet<string>;
  /** The names that may be asked for; none in front of a gateway, which knows them itself. */
  models: readonly string[] | undefined;
  /** Milliseconds for a call that asks for nothing else. */
  timeout: number;
}

/** As in src/policy.rs, by preset. */
const DEADLINES = { none: 300_000, simple: 60_000, code: 180_000, document: 600_000, reasoning: 1_800_000 };

/** @throws TypeError that names every option that is wrong */
export function setUp(options: FairleadOptions): Setup {
  demand(complaints(options, CLIENT, ''));
  const { baseURL, endpoints, models, policies = {}, timeout, maxRetries, maxConcurrency, defaultHeaders } = options;
  const problems = [...unfitHeaders(defaultHeaders, 'defaultHeaders'), ...contradictions(options), ...unfitBreakers(policies)];
  if (endpoints?.some(({ apiKey }) => apiKey) && inBrowser()) {
    if (!options.dangerouslyAllowBrowser) problems.push(EXPOSED);
    else if (problems.length === 0) warnOnce();
  }
  demand(problems);

  const secrets: Record<string, string> = {};
  const servers = (endpoints ?? [{ name: GATEWAY, provider: 'fairlead', baseURL: baseURL!, apiKey: options.apiKey }]) as EndpointOptions[];
  const entries = models ?? [{ name: '*', targets: servers.map(({ name }) => ({ endpoint: name })) }];
  const patience = {
    ...(timeout !== undefined && { deadlineMs: timeout }),
    ...(maxRetries !== undefined && { maxAttempts: maxRetries + 1 }),
  };
  const config = {
    endpoints: servers.map((server, index) => inConfig({
      maxConcurrency,
      ...server,
      baseURL: resolve(server.baseURL),
      apiKey: server.apiKey === undefined ? undefined : keep(secrets, index, server.apiKey),
    })),
    models: entries.map(inConfig),
    policies: Object.fromEntries(
      Object.entries({ ...policies, default: { ...patience, ...policies['default'] } })
        // A page is alone with its endpoint: nobody else would try it, where a fleet leaves that to few of its calls.
        .map(([name, policy]) => [name, inConfig({ ...policy, breaker: { probeRatio: 1, ...policy.breaker } })]),
    ),
    open: true,
  };
  return {
    config: JSON.stringify(config),
    secrets,
    baseURL: resolve(baseURL),
    policies: new Set(['default', ...Object.keys(policies)]),
    models: endpoints && entries.map(({ name }) => name).filter((name) => name !== '*'),
    timeout: policies['default']?.deadlineMs ?? timeout ?? DEADLINES[policies['default']?.preset ?? 'none'],
  };
}

/** @throws TypeError that names every option of the call that is wrong */
export function checkCall(options: CallOptions): void {
  demand([...complaints(options, CALL, ''), ...unfitHeaders(options.headers, 'headers')]);
}

/** @throws TypeError for what is no request */
export function checkRequest(request: unknown): void {
  if (typeof request !== 'object' || request === null || Array.isArray(request)) throw new TypeError('request must be an object');
}

/** What the core complains of in a config, in the words of the options; anything else as it is. */
export function complaint(error: unknown, isGateway: boolean): unknown {
  try {
    const mistakes = JSON.parse((error as Error).message) as { path: string; message: string }[];
    const lines = mistakes.map(({ path, message }) => `${inWords(path, isGateway)} ${message}`);
    return new TypeError(lines.join('\n'), { cause: error });
  } catch {
    return error;
  }
}

/** The path of a field of CONFIG in the words of the options. */
export const inWords = (path: string, isGateway: boolean): string =>
  (isGateway ? path.replace(/^endpoints\[0\]\./, '') : path)
    .replace(/[a-z0-9]+(?:_[a-z0-9]+)+/g, (field) => option(field) ?? camel(field));

const EXPOSED =
  'endpoints[].apiKey in a browser can be read and used by everybody who opens the page. Put a gateway in front and use ' +
  'baseURL. If the page is for yourself alone, set dangerouslyAllowBrowser: true';

let warned = false;
function warnOnce(): void {
  if (warned) return;
  warned = true;
  console.warn('[fairlead] dangerouslyAllowBrowser: the keys of your endpoints are in this page, and everybody who opens it can read and use them.');
}

function demand(problems: readonly string[]): void {
  if (problems.length > 0) throw new TypeError(problems.join('\n'));
}

function unfitHeaders(headers: CallOptions['headers'], path: string): string[] {
  try {
    merge(headers);
    return [];
  } catch {
    return [`${path} has a field that no request can carry`];
  }
}

/** What each field allows, but not all of them together. */
function contradictions({ baseURL, apiKey, endpoints, models, policies = {} }: FairleadOptions): string[] {
  if (!endpoints) {
    if (baseURL === undefined) return ['baseURL is missing (or endpoints)'];
    return models ? ['models goes with endpoints; a gateway has its own'] : [];
  }
  const found: string[] = [];
  if (baseURL !== undefined) found.push('baseURL and endpoints exclude each other');
  if (apiKey !== undefined) found.push('apiKey goes with baseURL; each of the endpoints has its own');
  if (endpoints.length === 0) found.push('endpoints must name at least one server');
  if (models?.length === 0) found.push('models must name at least one model, "*" for all');
  found.push(...twice(endpoints, 'endpoints'), ...twice(models ?? [], 'models'));
  endpoints.forEach((endpoint, index) => {
    for (const field of ['mode', 'native', 'maxExecutionMs', 'maxTtlMs'] as const) {
      if (endpoint.provider !== 'runpod' && endpoint[field]) found.push(`endpoints[${index}].${field} is for provider "runpod" only`);
    }
    if (endpoint.provider === 'runpod' && (endpoint.mode ?? 'jobs') === 'jobs') {
      found.push(`endpoints[${index}].mode must be "openai" or "load_balancer": jobs need a gateway`);
    }
    // As in src/settings/check.rs.
    if (endpoint.provider === 'runpod' && endpoint.native && endpoint.apiKey === undefined) {
      found.push(`endpoints[${index}].apiKey is missing: native needs it, which marks the ids of jobs with it`);
    }
  });
  models?.forEach(({ policy = 'default', targets }, at) => {
    if (policy !== 'default' && !Object.hasOwn(policies, policy)) found.push(`models[${at}].policy names "${policy}", which is not in policies`);
    if (targets.length === 0) found.push(`models[${at}].targets must name at least one endpoint`);
    targets.forEach(({ endpoint }, index) => {
      if (!endpoints.some(({ name }) => name === endpoint)) {
        found.push(`models[${at}].targets[${index}].endpoint names "${endpoint}", which is not in endpoints`);
      }
    });
  });
  return found;
}

/** As in src/policy.rs. */
const OPEN_MS = 15_000;
const unfitBreakers = (policies: NonNullable<FairleadOptions['policies']>): string[] =>
  Object.entries(policies).flatMap(([name, { breaker: { openMs = OPEN_MS, maxOpenMs = Infinity } = {} }]) =>
    maxOpenMs < openMs ? [`policies.${name}.breaker.maxOpenMs must be no less than openMs, ${openMs}`] : []);

const twice = (list: readonly { name: string }[], path: string): string[] =>
  list.flatMap(({ name }, index) =>
    list.findIndex((other) => other.name === name) < index ? [`${path}[${index}].name "${name}" is there twice`] : []);

function keep(secrets: Record<string, string>, index: number, key: string): string {
  const name = `KEY_${index}`;
  secrets[name] = key;
  return name;
}

/** Fields under CONFIG's names, at any depth. */
function inConfig(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inConfig);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [snake(name), inConfig(item)]));
}

