// The options as a table: what each field takes, with the bounds of src/policy.rs and src/settings/check.rs. Whatever
// needs a field's other name, in CONFIG or in a message, has it from here.

const DAY = 86_400_000;
const LONGEST_JOB = 604_800_000;
const MANY = 1_000_000;

/** What is wrong with a value, as in `timeout must be …`; `undefined` if nothing is. */
export type Complaint = string | undefined;

/** Values that a field takes: says what is wrong with one, or hands the parts of a larger one to `Check`. */
export type Kind = Leaf | Fields | ListOf | MapOf;
export interface Leaf { readonly must: string; readonly fits: (value: unknown) => boolean }
export interface Fields { readonly fields: Readonly<Record<string, Kind>>; readonly required?: readonly string[] }
export interface ListOf { readonly each: Kind }
export interface MapOf { readonly values: Kind }

const whole = (least: number, most: number): Leaf => ({
  must: `be a whole number from ${least} to ${most}`,
  fits: (value) => Number.isInteger(value) && (value as number) >= least && (value as number) <= most,
});
const ms = (least = 1, most = DAY): Kind => ({
  ...whole(least, most),
  must: `be a whole number of milliseconds from ${least} to ${most}`,
});
const one = (...values: string[]): Kind => ({
  must: `be ${values.map((value) => `"${value}"`).join(' or ')}`,
  fits: (value) => values.includes(value as string),
});
const share: Kind = { must: 'be a number above 0 and at most 1', fits: (value) => typeof value === 'number' && value > 0 && value <= 1 };
const hedge: Kind = {
  must: `be a whole number of milliseconds from 1 to ${DAY} or "p95"`,
  fits: (value) => value === 'p95' || whole(1, DAY).fits(value),
};
const bool: Kind = { must: 'be true or false', fits: (value) => typeof value === 'boolean' };
const text: Kind = { must: 'be a text that is not empty', fits: (value) => typeof value === 'string' && value !== '' };
/** It goes out in a header field. With a character that none can hold the request would fail as if nobody were there. */
const key: Kind = {
  must: 'be a text that is not empty, without spaces around it, line ends or characters beyond ASCII',
  fits: (value) => typeof value === 'string' && /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(value),
};
const name: Kind = {
  must: 'be a text of 1 to 200 bytes',
  fits: (value) => typeof value === 'string' && value !== '' && new TextEncoder().encode(value).length <= 200,
};
/** An endpoint's stands in header fields, too. */
const endpointName: Kind = {
  must: 'be a text of 1 to 200 bytes that a header field can hold: no control characters, none beyond Latin-1',
  fits: (value) => (name as { fits: (value: unknown) => boolean }).fits(value) && /^[\x20-\x7e\xa0-\xff]+$/.test(value as string),
};
const func: Kind = { must: 'be a function', fits: (value) => typeof value === 'function' };
const url: Kind = { must: 'be an http or https URL without user, query or fragment', fits: (value) => resolve(value) !== undefined };
const headers: Kind = {
  must: 'be header fields: an object of texts, or Headers',
  fits: (value) => typeof value === 'object' && value !== null,
};
const store: Kind = {
  must: 'be "indexeddb", "localstorage", "memory", or an object with get and put',
  fits: (value) =>
    ['indexeddb', 'localstorage', 'memory'].includes(value as string) ||
    ['get', 'put'].every((method) => typeof (value as Record<string, unknown> | null)?.[method] === 'function'),
};
const signal: Kind = {
  must: 'be an AbortSignal',
  fits: (value) => value === null || typeof (value as AbortSignal).addEventListener === 'function',
};

const concurrency = whole(1, MANY);
const price = whole(0, MANY);

/** Kinds of what is in `policies`, `endpoints` and `models`: CONFIG has the same fields. */
const POLICY: Fields = {
  fields: {
    preset: one('simple', 'code', 'document', 'reasoning'),
    deadlineMs: ms(), headersMs: ms(), firstTokenMs: ms(), prefillMsPerKib: ms(0), idleMs: ms(), progressMs: ms(),
    queueMs: ms(), maxAttempts: whole(1, 20),
    backoff: { fields: { baseMs: ms(0), throttledBaseMs: ms(0), maxMs: ms(0) } },
    retryAfterMaxMs: ms(0), keepaliveMs: ms(100), commitAfterMs: ms(0), onDeadline: one('error', 'partial'),
    forward: one('checked', 'native'), resume: one('off', 'continue', 'verify'), streamInternally: bool,
    hedgeAfterMs: hedge, hedgeRatio: share, maxRequestBytes: whole(1, 100 << 20),
    breaker: {
      fields: {
        enabled: bool, failureRatio: share, minCalls: whole(1, MANY), windowMs: ms(), consecutive: whole(1, MANY),
        openMs: ms(), maxOpenMs: ms(), probeRatio: share, slowFirstTokenMs: ms(),
      },
    },
    budget: { fields: { capacity: price, transientCost: price, throttledCost: price, refund: price } },
  },
};
const ENDPOINT: Fields = {
  fields: {
    name: endpointName, provider: one('vllm', 'runpod', 'fairlead'), mode: one('jobs', 'openai', 'load_balancer'), baseURL: url,
    apiKey: key, maxConcurrency: concurrency, continue: bool, native: bool, maxExecutionMs: ms(5000, LONGEST_JOB),
    maxTtlMs: ms(10_000, LONGEST_JOB), maxSubrequests: whole(10, 10_000),
  },
  required: ['name', 'provider', 'baseURL'],
};
const MODEL: Fields = {
  fields: {
    name, strategy: one('failover', 'weighted', 'least_loaded'), policy: text,
    targets: { each: { fields: { endpoint: text, model: text, weight: whole(0, MANY) }, required: ['endpoint'] } },
  },
  required: ['name', 'targets'],
};

const PER_CALL = { timeout: ms(), maxRetries: whole(0, 19) };
export const CLIENT: Fields = {
  fields: {
    ...PER_CALL, baseURL: url, apiKey: key, maxConcurrency: concurrency, defaultHeaders: headers, fetch: func,
    dangerouslyAllowBrowser: bool, endpoints: { each: ENDPOINT }, models: { each: MODEL }, policies: { values: POLICY },
    logLevel: one('off', 'error', 'warn', 'info', 'debug'), store, onEvent: func,
  },
};
export const CALL: Fields = { fields: { ...PER_CALL, signal, policy: text, headers } };

/** Fields that CONFIG calls by more than another spelling. */
const RENAMED: Readonly<Record<string, string>> = { baseURL: 'base_url', apiKey: 'api_key_secret' };

/** An option's name in CONFIG. */
export const snake = (name: string): string =>
  RENAMED[name] ?? name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const OPTIONS: ReadonlyMap<string, string> = new Map(
  [ENDPOINT, MODEL, POLICY, POLICY.fields['backoff'], POLICY.fields['breaker'], POLICY.fields['budget']]
    .flatMap((kind) => Object.keys((kind as Fields).fields))
    .map((name) => [snake(name), name]),
);

/** The option that CONFIG's field is, if it is one. */
export const option = (field: string): string | undefined => OPTIONS.get(field);

/** Any name of CONFIG's kind in camelCase. */
export const camel = (field: string): string => field.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** A message of the core's, which speaks of CONFIG's fields in backticks, in the words of the options. */
export const inOptions = (message: string): string =>
  message
    .replace('or an operator isolated them', 'as this page or another tab has seen')
    .replace('GET /status tells an operator more', '`status()` tells more')
    .replace('GET /v1/models lists', '`models.list()` gives')
    .replace('send a longer `x-fairlead-deadline-ms`', 'give the call a longer `timeout`')
    .replace(/`([a-z]+(?:_[a-z0-9]+)+)`/g, (quoted, field: string) => (OPTIONS.has(field) ? `\`${OPTIONS.get(field)}\`` : quoted));

/** An absolute URL without slashes at its end; relative ones are taken as the page would. */
export function resolve(value: unknown): string | undefined {
  if (typeof value !== 'string') return undefined;
  try {
    const page = typeof location === 'object' && location.protocol.startsWith('http') ? location.href : undefined;
    const { protocol, origin, pathname, username, password, search, hash } = new URL(value, page);
    const isPlain = /^https?:$/.test(protocol) && !username && !password && !search && !hash;
    return isPlain ? origin + pathname.replace(/\/+$/, '') : undefined;
  } catch {
    return undefined;
  }
}

/** Everything that is wrong with a value, with the path of each. */
export function complaints(value: unknown, kind: Kind, path: string, found: string[] = []): string[] {
  const here = path || 'options';
  if ('must' in kind) {
    if (!kind.fits(value)) found.push(`${here} must ${kind.must}${shown(value)}`);
  } else if ('each' in kind) {
    if (!Array.isArray(value)) found.push(`${here} must be a list`);
    else value.forEach((item, index) => complaints(item, kind.each, `${path}[${index}]`, found));
  } else if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    found.push(`${here} must be an object`);
  } else {
    const below = (name: string) => (path ? `${path}.${name}` : name);
    for (const [name, item] of Object.entries(value)) {
      const inner = 'values' in kind ? kind.values : Object.hasOwn(kind.fields, name) ? kind.fields[name] : undefined;
      if (!inner) found.push(`${below(name)} is not an option`);
      else if (item !== undefined) complaints(item, inner, below(name), found);
    }
    for (const name of ('required' in kind && kind.required) || []) {
      if ((value as Record<string, unknown>)[name] === undefined) found.push(`${below(name)} is missing`);
    }
  }
  return found;
}

/** Only what cannot be a key or a prompt. */
const shown = (value: unknown): string =>
  typeof value === 'number' || typeof value === 'boolean' ? `, not ${value}` : typeof value === 'string' ? '' : `, not ${value === null ? 'null' : typeof value}`;
