// A mistake in the options shows where it was made, by the option's own name.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Fairlead, globals, page, script, setUp, whole } from './face.mjs';

const GATEWAY = { baseURL: 'https://gateway.example.com/v1' };
const A = { name: 'a', provider: 'vllm', baseURL: 'https://a.example.com/v1' };
const complaint = (options) => {
  try {
    new Fairlead(options);
  } catch (error) {
    assert.equal(error.name, 'TypeError');
    return error.message;
  }
  return assert.fail('nothing was wrong');
};

describe('an option that is wrong is named', () => {
  const cases = [
    ['baseURL is missing (or endpoints)', {}],
    ['options must be an object', undefined],
    ['options must be an object', 'https://gateway.example.com/v1'],
    ['baseURL must be an http or https URL', { baseURL: 'gateway' }],
    ['baseURL must be an http or https URL', { baseURL: 'ftp://gateway/v1' }],
    ['baseURL must be an http or https URL', { baseURL: 'https://me:secret@gateway/v1' }],
    ['baseURL must be an http or https URL', { baseURL: 'https://gateway/v1?key=1' }],
    ['baseUrl is not an option', { ...GATEWAY, baseUrl: 'x' }],
    ['constructor is not an option', { ...GATEWAY, constructor: 1 }],
    ['apiKey must be a text that is not empty', { ...GATEWAY, apiKey: '' }],
    ['timeout must be a whole number of milliseconds from 1 to 86400000, not 0', { ...GATEWAY, timeout: 0 }],
    ['timeout must be a whole number of milliseconds from 1 to 86400000, not Infinity', { ...GATEWAY, timeout: Infinity }],
    ['maxRetries must be a whole number from 0 to 19, not 2.5', { ...GATEWAY, maxRetries: 2.5 }],
    ['maxConcurrency must be a whole number from 1', { ...GATEWAY, maxConcurrency: 0 }],
    ['defaultHeaders must be header fields', { ...GATEWAY, defaultHeaders: 'x: y' }],
    ['defaultHeaders has a field that no request can carry', { ...GATEWAY, defaultHeaders: { 'a b': 'c' } }],
    ['fetch must be a function', { ...GATEWAY, fetch: {} }],
    ['onEvent must be a function', { ...GATEWAY, onEvent: null }],
    ['logLevel must be "off" or "error"', { ...GATEWAY, logLevel: 'verbose' }],
    ['store must be "indexeddb", "localstorage", "memory", or an object', { ...GATEWAY, store: { get() {} } }],
    ['models goes with endpoints', { ...GATEWAY, models: [] }],
    ['baseURL and endpoints exclude each other', { ...GATEWAY, endpoints: [A] }],
    ['apiKey goes with baseURL', { endpoints: [A], apiKey: 'k' }],
    ['endpoints must name at least one server', { endpoints: [] }],
    ['endpoints must be a list', { endpoints: A }],
    ['endpoints[0].provider is missing', { endpoints: [{ name: 'a', baseURL: A.baseURL }] }],
    ['endpoints[0].provider must be "vllm" or "runpod" or "fairlead"', { endpoints: [{ ...A, provider: 'ollama' }] }],
    ...['服务器', 'a\nb'].map((name) => ['endpoints[0].name must be a text of 1 to 200 bytes that a header field can hold', { endpoints: [{ ...A, name }] }]),
    ['endpoints[0].via is not an option', { endpoints: [{ ...A, via: 'VPC' }] }],
    ['endpoints[0].apiKeySecret is not an option', { endpoints: [{ ...A, apiKeySecret: 'KEY' }] }],
    ['endpoints[0].mode is for provider "runpod" only', { endpoints: [{ ...A, mode: 'jobs' }] }],
    ['endpoints[0].mode must be "openai" or "load_balancer": jobs need a gateway', { endpoints: [{ ...A, provider: 'runpod' }] }],
    ['endpoints[0].maxTtlMs must be a whole number of milliseconds from 10000', { endpoints: [{ ...A, maxTtlMs: 5 }] }],
    ['endpoints[1].name "a" is there twice', { endpoints: [A, A] }],
    ['models[0].targets[0].endpoint names "b", which is not in endpoints', { endpoints: [A], models: [{ name: '*', targets: [{ endpoint: 'b' }] }] }],
    ['models[0].targets[0].wieght is not an option', { endpoints: [A], models: [{ name: '*', targets: [{ endpoint: 'a', wieght: 1 }] }] }],
    ['models[0].policy names "quick", which is not in policies', { endpoints: [A], models: [{ name: '*', policy: 'quick', targets: [{ endpoint: 'a' }] }] }],
    ['policies.default.hedgeAfterMs must be a whole number of milliseconds from 1 to 86400000 or "p95"', { ...GATEWAY, policies: { default: { hedgeAfterMs: 'p99' } } }],
    ['policies.default.hedgeRatio must be a number above 0 and at most 1, not 5', { ...GATEWAY, policies: { default: { hedgeRatio: 5 } } }],
    ['policies.default.idleMs must be a whole number of milliseconds from 1 to 86400000', { ...GATEWAY, policies: { default: { idleMs: '5' } } }],
    ['policies.ui.backoff.baseMs must be', { ...GATEWAY, policies: { ui: { backoff: { baseMs: -1 } } } }],
    ['policies.ui.breaker.failureRatio must be a number above 0 and at most 1, not 0', { ...GATEWAY, policies: { ui: { breaker: { failureRatio: 0 } } } }],
    ['policies.ui.breaker.failureRatio must be a number', { ...GATEWAY, policies: { ui: { breaker: { failureRatio: '0.5' } } } }],
    ['policies.ui.breaker.probeRatio must be a number', { ...GATEWAY, policies: { ui: { breaker: { probeRatio: true } } } }],
    ['policies.ui.breaker.maxOpenMs must be no less than openMs, 15000', { ...GATEWAY, policies: { ui: { breaker: { maxOpenMs: 5000 } } } }],
    ['policies.ui.breaker.maxOpenMs must be no less than openMs, 50', { ...GATEWAY, policies: { ui: { breaker: { openMs: 50, maxOpenMs: 49 } } } }],
    ...['sk-key\n', ' sk-key', 'sk-…'].map((apiKey) => ['apiKey must be a text that is not empty, without spaces', { ...GATEWAY, apiKey }]),
    ['endpoints[0].apiKey is missing: native needs it', { endpoints: [{ ...A, provider: 'runpod', mode: 'openai', native: true }] }],
    ['endpoints[0].apiKey must be a text', { endpoints: [{ ...A, apiKey: 'sk-ключ' }] }],
    ['policies.ui.idle_ms is not an option', { ...GATEWAY, policies: { ui: { idle_ms: 1 } } }],
    ['defaultHeaders must not have authorization', { endpoints: [A], defaultHeaders: { Authorization: 'Bearer x' } }],
  ];
  for (const [expected, options] of cases) {
    it(expected, () => {
      const said = complaint(options);
      assert.ok(said.includes(expected), said);
    });
  }

  it('all of them at once', () => {
    const said = complaint({ ...GATEWAY, timeout: -1, retries: 3, policies: { x: { preset: 'fast' } } });
    assert.equal(said.split('\n').length, 3);
  });

  it('a key is not repeated', () => {
    assert.doesNotMatch(complaint({ endpoints: [{ ...A, provider: 'x', apiKey: 'sk-secret' }] }), /sk-secret/);
    assert.doesNotMatch(complaint({ baseURL: 'https://me:sk-secret@gateway/v1' }), /sk-secret/);
  });

  it('what is undefined is not there', () => {
    new Fairlead({ ...GATEWAY, timeout: undefined, policies: undefined, store: undefined, apiKey: undefined, endpoints: undefined });
  });
});

describe('an endpoint’s key in a page', () => {
  const exposed = { endpoints: [{ ...A, apiKey: 'sk-secret' }] };

  it('is refused, with the reason', (t) => {
    page(t);
    assert.match(complaint(exposed), /endpoints\[\]\.apiKey .*everybody who opens the page.*gateway/);
  });

  it('is refused in a worker of a page', (t) => {
    globals(t, { WorkerGlobalScope: class {}, navigator: { userAgent: 'Mozilla/5.0' } });
    assert.match(complaint(exposed), /dangerouslyAllowBrowser/);
  });

  it('is taken with a warning, said once', (t) => {
    page(t);
    const warn = t.mock.method(console, 'warn', () => {});
    new Fairlead({ ...exposed, dangerouslyAllowBrowser: true });
    new Fairlead({ ...exposed, dangerouslyAllowBrowser: true });
    assert.equal(warn.mock.callCount(), 1);
  });

  it('is nobody’s business elsewhere', (t) => {
    new Fairlead(exposed);
    globals(t, { WorkerGlobalScope: class {}, navigator: { userAgent: 'Cloudflare-Workers' } });
    new Fairlead(exposed);
  });

  it('a gateway’s may be there', (t) => {
    page(t);
    new Fairlead({ ...GATEWAY, apiKey: 'client-key' });
  });
});

describe('options become CONFIG', () => {
  it('of a gateway', () => {
    const { config, secrets } = setUp({ ...GATEWAY, apiKey: 'k', timeout: 60_000, maxRetries: 1, maxConcurrency: 4, policies: { default: { idleMs: 9 }, ui: { preset: 'simple' } } });
    assert.deepEqual(JSON.parse(config), {
      endpoints: [{ name: 'gateway', provider: 'fairlead', base_url: 'https://gateway.example.com/v1', api_key_secret: 'KEY_0', max_concurrency: 4 }],
      models: [{ name: '*', targets: [{ endpoint: 'gateway' }] }],
      policies: {
        default: { deadline_ms: 60_000, max_attempts: 2, idle_ms: 9, breaker: { probe_ratio: 1 } },
        ui: { preset: 'simple', breaker: { probe_ratio: 1 } },
      },
      open: true,
    });
    assert.deepEqual(secrets, { KEY_0: 'k' });
    assert.doesNotMatch(config, /"k"/);
  });

  it('and the time of what does not go through the core is that of the policy', () => {
    const time = (more) => setUp({ ...GATEWAY, ...more }).timeout;
    const preset = (preset, more) => ({ policies: { default: { preset, ...more } } });
    assert.deepEqual(
      [{}, preset(), preset('simple'), preset('code'), preset('document'), preset('reasoning')].map(time),
      [300_000, 300_000, 60_000, 180_000, 600_000, 1_800_000],
    );
    assert.deepEqual([{ timeout: 5, ...preset('simple') }, preset('simple', { deadlineMs: 6 })].map(time), [5, 6]);
  });

  it('of endpoints', () => {
    const { config, secrets } = setUp({
      endpoints: [A, { ...A, name: 'b', provider: 'runpod', mode: 'load_balancer', apiKey: 'kb', maxConcurrency: 2, maxExecutionMs: 9000 }],
      maxConcurrency: 8,
      models: [{ name: 'qwen', strategy: 'least_loaded', policy: 'ui', targets: [{ endpoint: 'b', model: 'Qwen/Qwen' }, { endpoint: 'a', weight: 0 }] }],
      policies: { ui: { prefillMsPerKib: 1, breaker: { slowFirstTokenMs: 3, enabled: false, probeRatio: 0.5 }, budget: { transientCost: 1 } } },
    });
    assert.deepEqual(JSON.parse(config), {
      endpoints: [
        { max_concurrency: 8, name: 'a', provider: 'vllm', base_url: 'https://a.example.com/v1' },
        { max_concurrency: 2, name: 'b', provider: 'runpod', mode: 'load_balancer', base_url: 'https://a.example.com/v1', api_key_secret: 'KEY_1', max_execution_ms: 9000 },
      ],
      models: [{ name: 'qwen', strategy: 'least_loaded', policy: 'ui', targets: [{ endpoint: 'b', model: 'Qwen/Qwen' }, { endpoint: 'a', weight: 0 }] }],
      policies: {
        ui: { prefill_ms_per_kib: 1, breaker: { probe_ratio: 0.5, slow_first_token_ms: 3, enabled: false }, budget: { transient_cost: 1 } },
        default: { breaker: { probe_ratio: 1 } },
      },
      open: true,
    });
    assert.deepEqual(secrets, { KEY_1: 'kb' });
  });

  it('of endpoints without models: any name, in their order', () => {
    const { config } = setUp({ endpoints: [A, { ...A, name: 'b' }] });
    assert.deepEqual(JSON.parse(config).models, [{ name: '*', targets: [{ endpoint: 'a' }, { endpoint: 'b' }] }]);
  });

  it('and a URL may be relative to the page', (t) => {
    page(t, { href: 'https://app.example.com/chat/' });
    assert.equal(JSON.parse(setUp({ baseURL: '/v1/' }).config).endpoints[0].base_url, 'https://app.example.com/v1');
  });

  it('and what only the core sees comes back in the options’ words', async () => {
    const world = script(() => whole(200, {}));
    world.create = () => {
      throw new Error(JSON.stringify([{ path: 'endpoints[0].base_url', message: 'is odd' }, { path: 'policies.x.idle_ms', message: 'is odder' }]));
    };
    const ai = new Fairlead(GATEWAY);
    await assert.rejects(ai.embeddings.create({ model: 'm', input: 'a' }), {
      name: 'TypeError', message: 'baseURL is odd\npolicies.x.idleMs is odder',
    });
  });
});

it('a request that is none is told, and nobody is asked', async () => {
  const world = script(() => whole(200, {}));
  const ai = new Fairlead({ ...GATEWAY, fetch: () => assert.fail('asked') });
  const job = ai.runpod('burst');
  for (const request of [undefined, null, 'x', []]) {
    const calls = [ai.chat.completions, ai.completions, ai.embeddings, ai.responses].map((api) => api.create(request));
    for (const call of [...calls, job.run(request), job.runSync(request)]) {
      await assert.rejects(call, { name: 'TypeError', message: 'request must be an object' });
    }
  }
  assert.equal(world.calls.length, 0);
});

it('null in place of options is none', async () => {
  const world = script(() => whole(200, {}));
  const urls = [];
  const ai = new Fairlead({ ...GATEWAY, fetch: async (url) => (urls.push(String(url)), Response.json({})) });
  await ai.embeddings.create({ model: 'm', input: 'a' }, null);
  await ai.models.list(null);
  await ai.runpod('burst').runSync({ input: 1 }, null);
  assert.equal((await ai.fetch('https://gateway.example.com/else', null)).status, 200);
  assert.deepEqual([world.calls.length, urls.length], [1, 3]);
});

describe('the options of a call', () => {
  const cases = [
    ['timeout must be', { timeout: 0 }],
    ['maxRetries must be', { maxRetries: 20 }],
    ['signal must be an AbortSignal', { signal: {} }],
    ['policy must be', { policy: '' }],
    ['headers has a field', { headers: { 'bad name': 'x' } }],
    ['retries is not an option', { retries: 1 }],
  ];
  for (const [expected, options] of cases) {
    it(expected, async () => {
      const world = script(() => whole(200, {}));
      const ai = new Fairlead(GATEWAY);
      await assert.rejects(ai.embeddings.create({ model: 'm', input: 'a' }, options), (error) => error instanceof TypeError && error.message.includes(expected));
      assert.equal(world.calls.length, 0);
    });
  }
});
