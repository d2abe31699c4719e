// Who is let in and how often: keys that are rotated, 401, 403 and 429, the limits of an isolate and those of the
// platform's rate limiting bindings, and how large an answer a client may ask for.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { jobEndpoints } from './jobs.mjs';
import { endpointsOf, sha256, startGateway, STAYS_CLOSED } from './gateway.mjs';

const CHAT = '/v1/chat/completions';
const ADMIN_KEY = 'sk-admin-0123456789';
const BODY = { model: 'qwen', messages: [{ role: 'user', content: 'Hi' }] };
/** Takes so long that nothing else of a test does. */
const SLOW = { ...BODY, stream: true, sim: { tokens: 400, tokenMs: 50 } };

let vllm;
let runpod;
before(async () => {
  vllm = await startVllm();
  runpod = await startRunpod({ endpoints: { echo: { handler: 'echo' } } });
});
after(async () => {
  await vllm.close();
  await runpod.close();
});
beforeEach(() => vllm.reset());

const keyOf = (name) => `fl-${name}-0123456789`;
const client = (name, fields) => ({ name, keys_sha256: [sha256(keyOf(name))], ...fields });

function config(clients, more) {
  return {
    endpoints: [...endpointsOf({ vllm }), ...jobEndpoints(runpod, ['echo'], { native: true })],
    models: [{ name: 'qwen', targets: [{ endpoint: 'vllm' }] }],
    policies: { default: { backoff: { base_ms: 1, throttled_base_ms: 1 }, breaker: STAYS_CLOSED } },
    clients,
    admin_key_secret: 'ADMIN_KEY',
    ...more,
  };
}

/** A gateway for one test. */
async function started(t, clients, { env, workers, troubles = [], ...more } = {}) {
  const gateway = await startGateway(config(clients, more), {
    secrets: { RUNPOD_API_KEY: 'rpa_simulated', ADMIN_KEY }, env, workers,
  });
  t.after(async () => {
    await gateway.close();
    assert.deepEqual(gateway.troubles.filter((trouble) => !troubles.some((known) => known.test(trouble))), []);
    for (const { name } of clients) assert.ok(!gateway.printed.join('\n').includes(keyOf(name)), 'a key was logged');
  });
  return gateway;
}

/** One request of a client, whose answer is read whole. */
async function ask(gateway, name, { path = CHAT, body = BODY, key = keyOf(name), headers, ...more } = {}) {
  const response = await gateway.fetch(path, {
    body: body ?? undefined, headers: { ...(key && { authorization: `Bearer ${key}` }), ...headers }, ...more,
  });
  const text = await response.text();
  const error = response.ok ? null : JSON.parse(text).error;
  return { response, status: response.status, text, code: error?.code, param: error?.param, message: error?.message };
}

const limitsOf = ({ response }) => ['ratelimit-policy', 'ratelimit', 'retry-after'].map((name) => response.headers.get(name));

describe('a key', () => {
  it('is rotated without downtime: the new one beside the old one, then alone', async (t) => {
    const hashes = { old: sha256('fl-old'), new: sha256('fl-new') };
    const statuses = async (keys) => {
      const gateway = await started(t, [{ name: 'web', keys_sha256: keys }]);
      const status = async (key) => (await ask(gateway, 'web', { key })).status;
      return [await status('fl-old'), await status('fl-new')];
    };
    assert.deepEqual(await statuses([hashes.old]), [200, 401]);
    assert.deepEqual(await statuses([hashes.old, hashes.new]), [200, 200]);
    assert.deepEqual(await statuses([hashes.new]), [401, 200]);
  });

  it('of a client opens no admin route, and that of the admin nothing else', async (t) => {
    const gateway = await started(t, [client('web')]);
    for (const path of ['/status', '/breakers/vllm']) {
      const body = path === '/status' ? null : { state: 'isolated' };
      assert.deepEqual((await ask(gateway, 'web', { path, body })).code, 'invalid_api_key');
      assert.equal((await ask(gateway, 'web', { path, body, key: null })).status, 401);
    }
    assert.equal((await ask(gateway, 'web', { path: '/status', body: null, key: ADMIN_KEY })).status, 200);
    for (const [path, body] of [[CHAT, BODY], ['/v1/models', null], ['/runpod/echo/run', { input: {} }]]) {
      assert.equal((await ask(gateway, 'web', { path, body, key: ADMIN_KEY })).code, 'invalid_api_key');
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('that is wrong is told so in the words of each API, and how one is sent', async (t) => {
    const gateway = await started(t, [client('web')]);
    for (const path of [CHAT, '/v1/messages', '/v1/responses']) {
      const { response, status, text, code } = await ask(gateway, 'web', { path, key: 'fl-wrong' });
      assert.deepEqual([status, code, response.headers.get('www-authenticate')], [401, 'invalid_api_key', 'Bearer']);
      assert.equal(JSON.parse(text).type, path === '/v1/messages' ? 'error' : undefined);
      assert.doesNotMatch(text, /fl-wrong/);
    }
  });
});

describe('requests_per_minute', () => {
  it('is told with every answer, and the first request above it is refused', async (t) => {
    const gateway = await started(t, [client('web', { requests_per_minute: 3 }), client('other')]);
    const policy = '"isolate";q=3;w=60';
    const list = await ask(gateway, 'web', { path: '/v1/models', body: null });
    assert.deepEqual(limitsOf(list), [policy, '"isolate";r=3;t=60', null]);
    const left = [];
    for (const body of [BODY, { ...BODY, stream: true }, { model: 'qwen', n: 0 }]) {
      const answer = await ask(gateway, 'web', { body });
      assert.equal(answer.status, body.n === 0 ? 400 : 200);
      const [, limit, retryAfter] = limitsOf(answer);
      const [, r, seconds] = limit.match(/^"isolate";r=(\d+);t=(\d+)$/);
      assert.ok(seconds >= 55 && seconds <= 61 && retryAfter === null, limit);
      left.push(Number(r));
    }
    assert.deepEqual(left, [2, 1, 0]);
    vllm.reset();
    for (const path of [CHAT, '/v1/embeddings', '/v1/messages', '/tokenize']) {
      const refused = await ask(gateway, 'web', { path });
      assert.deepEqual([refused.status, refused.code, refused.param], [429, 'rate_limited', 'requests_per_minute']);
      assert.match(refused.message, /isolate.*`web`.*3 \(`requests_per_minute`\)/);
      const [told, limit, retryAfter] = limitsOf(refused);
      assert.equal(told, policy);
      assert.match(limit, /^"isolate";r=0;t=\d+$/);
      assert.ok(retryAfter > 50 && retryAfter <= 61, retryAfter);
    }
    assert.equal(vllm.requests.length, 0);
    assert.equal((await ask(gateway, 'web', { path: '/v1/models', body: null })).status, 200);
    const other = await ask(gateway, 'other');
    assert.deepEqual([other.status, limitsOf(other)], [200, [null, null, null]]);
  });

  it('counts jobs that are submitted, and nothing that follows one', async (t) => {
    const gateway = await started(t, [client('web', { requests_per_minute: 2, runpod: ['echo'] })]);
    const post = (path, body = { input: {} }) => ask(gateway, 'web', { path: `/runpod/echo/${path}`, body });
    const run = await post('run');
    assert.equal(run.status, 200);
    const { id } = JSON.parse(run.text);
    assert.match(limitsOf(run)[1], /r=1/);
    assert.equal((await post('runsync')).status, 200);
    for (const path of ['run', 'runsync', `retry/${id}`]) {
      const refused = await post(path);
      assert.deepEqual([refused.status, refused.code], [429, 'rate_limited'], path);
    }
    for (const [path, body] of [[`status/${id}`, null], [`stream/${id}`, null], ['health', null], [`cancel/${id}`, {}]]) {
      assert.notEqual((await post(path, body)).status, 429, path);
    }
  });
});

describe('max_concurrency', () => {
  const slow = async (gateway, name, signal) => {
    const response = await gateway.fetch(CHAT, {
      body: SLOW, headers: { authorization: `Bearer ${keyOf(name)}`, 'x-request-id': name }, signal,
    });
    assert.equal(response.status, 200);
    return response;
  };

  it('is room for so many at a time, and a place is free again when its client has left', async (t) => {
    const gateway = await started(t, [client('web', { max_concurrency: 1 }), client('other')]);
    const leave = new AbortController();
    await slow(gateway, 'web', leave.signal);
    const refused = await ask(gateway, 'web');
    assert.deepEqual([refused.status, refused.code, refused.param], [429, 'rate_limited', 'max_concurrency']);
    assert.match(refused.message, /`web`.*isolate.*1 \(`max_concurrency`\)/);
    assert.deepEqual(limitsOf(refused), [null, null, '1']);
    assert.equal((await ask(gateway, 'other')).status, 200);
    assert.equal((await ask(gateway, 'web', { path: '/v1/models', body: null })).status, 200);
    leave.abort();
    await gateway.line({ event: 'call_ended', request_id: 'web' });
    for (let number = 0; number < 3; number += 1) assert.equal((await ask(gateway, 'web')).status, 200);
  });

  it('is given back by every end', async (t) => {
    const gateway = await started(t, [client('web', { max_concurrency: 1, models: ['qwen'] })]);
    for (const [body, status] of [
      [BODY, 200], [{ ...BODY, stream: true }, 200], [{ ...BODY, model: 'other' }, 404], ['{', 400], [{ model: 'qwen', n: 0 }, 400],
      [{ ...BODY, sim: { fault: 'http-422' } }, 422], [{ ...BODY, sim: { fault: 'http-500' } }, 502],
      [{ ...BODY, stream: true, sim: { fault: 'cut' } }, 200],
    ]) {
      assert.equal((await ask(gateway, 'web', { body })).status, status, JSON.stringify(body));
    }
  });
});

describe('rate_limiter', () => {
  const WEB = { type: 'rate-limit', namespace: '1001', simple: { limit: 2, period: 60 } };
  const limited = (name, fields) => client(name, { rate_limiter: 'WEB', ...fields });

  it('asks the binding under the name of the client, and says when to come back', async (t) => {
    const gateway = await started(t, [limited('web', { requests_per_minute: 100 }), limited('other')], { env: { WEB } });
    const answers = [];
    // Of five within a minute two more could fall into the next one of the clock.
    for (let number = 0; number < 5; number += 1) answers.push(await ask(gateway, 'web'));
    const refused = answers.filter(({ status }) => status !== 200);
    assert.ok(refused.length >= 1 && refused.length <= 3, `${refused.length} refused`);
    for (const answer of refused) {
      assert.deepEqual([answer.status, answer.code, answer.param], [429, 'rate_limited', 'rate_limiter']);
      assert.match(answer.message, /`web`.*`rate_limiter`: the binding `WEB`/);
      assert.equal(answer.response.headers.get('retry-after'), '60');
    }
    const [, limit] = limitsOf(answers.at(-1));
    assert.match(limit, new RegExp(`r=${100 - (answers.length - refused.length)};`), 'what was refused does not count');
    assert.equal((await ask(gateway, 'other')).status, 200);
    assert.equal((await ask(gateway, 'web', { path: '/v1/models', body: null })).status, 200);
  });

  it('that fails, says something else or nothing at all lets calls through, and leaves a line', async (t) => {
    const worker = (body) => `import { WorkerEntrypoint } from 'cloudflare:workers';
      export default class extends WorkerEntrypoint { fetch() {} async limit() { ${body} } }`;
    for (const [body, reason] of [
      ["throw new Error('no')", 'error'], ['return {}', 'error'], ['return null', 'error'], ['await scheduler.wait(3000)', 'timeout'],
    ]) {
      const gateway = await started(t, [limited('web')], {
        env: { WEB: { type: 'worker', worker: 'limiter' } }, workers: { limiter: worker(body) }, troubles: [/\bno\b/],
      });
      assert.equal((await ask(gateway, 'web', { headers: { 'x-request-id': 'r1' } })).status, 200, body);
      const line = await gateway.line({ event: 'rate_limiter_failed' });
      assert.deepEqual([line.binding, line.reason, line.client, line.request_id, line.level], ['WEB', reason, 'web', 'r1', 'warn']);
    }
  });

  it('that the Worker does not have is a mistake, and so is another period', async (t) => {
    for (const [fields, path] of [
      [{ rate_limiter: 'GONE' }, 'clients[0].rate_limiter'],
      [{ rate_limiter: 'WEB', rate_limiter_period_ms: 30_000 }, 'clients[0].rate_limiter_period_ms'],
    ]) {
      const gateway = await started(t, [client('web', fields)], { env: { WEB } });
      assert.equal((await ask(gateway, 'web')).code, 'config_invalid');
      await gateway.line({ event: 'config', path });
    }
  });
});

describe('how large an answer may become', () => {
  const limits = { max_tokens: 20, max_n: 2, runpod: ['echo'] };

  it('is written into requests that do not say, in every API', async (t) => {
    const gateway = await started(t, [client('web', limits), client('other')]);
    for (const [path, body, field, value] of [
      [CHAT, BODY, 'max_tokens', 20], [CHAT, { ...BODY, max_tokens: null }, 'max_tokens', 20],
      [CHAT, { ...BODY, max_completion_tokens: 5 }, 'max_completion_tokens', 5],
      ['/v1/completions', { model: 'qwen', prompt: 'Hi' }, 'max_tokens', 16],
      ['/v1/completions', { model: 'qwen', prompt: 'Hi', max_tokens: null }, 'max_tokens', 20],
      ['/v1/responses', { model: 'qwen', input: 'Hi' }, 'max_output_tokens', 20],
      ['/v1/messages', { ...BODY, max_tokens: 7 }, 'max_tokens', 7],
    ]) {
      for (const stream of [false, true]) {
        vllm.reset();
        assert.equal((await ask(gateway, 'web', { path, body: { ...body, stream } })).status, 200);
        assert.deepEqual(vllm.requests[0].json, { ...body, stream, [field]: value });
      }
    }
    vllm.reset();
    await ask(gateway, 'other');
    assert.deepEqual(vllm.requests[0].body.toString(), JSON.stringify(BODY));
  });

  it('is 403 above the limits, with the field and the limit', async (t) => {
    const gateway = await started(t, [client('web', limits), client('other')]);
    for (const [path, fields, param, words] of [
      [CHAT, { max_tokens: 21 }, 'max_tokens', /20 tokens.*`max_tokens`.*21/],
      [CHAT, { max_completion_tokens: 21, max_tokens: 5 }, 'max_completion_tokens', /20 tokens/],
      [CHAT, { min_tokens: 21 }, 'min_tokens', /20 tokens/],
      [CHAT, { n: 3 }, 'n', /2 choices in all \(`max_n`\).*3/],
      ['/v1/completions', { prompt: ['a', 'b'], n: 2 }, 'prompt', /2 choices in all.*4/],
      ['/v1/completions', { prompt: 'a', best_of: 3 }, 'best_of', /2 choices/],
      ['/v1/responses', { input: 'a', max_output_tokens: 21 }, 'max_output_tokens', /20 tokens/],
      ['/v1/messages', { max_tokens: 21 }, 'max_tokens', /20 tokens/],
    ]) {
      const refused = await ask(gateway, 'web', { path, body: { ...BODY, ...fields } });
      assert.deepEqual([refused.status, refused.code, refused.param], [403, 'forbidden', param], JSON.stringify(fields));
      assert.match(refused.message, words);
    }
    for (const fields of ['"max_tokens":5,"max_tokens":21', '"max_tokens":1e3', '"max_tokens":"21"', '"max_completion_tokens":0']) {
      const body = `{"model":"qwen","messages":[],${fields}}`;
      const refused = await ask(gateway, 'web', { body, headers: { 'content-type': 'application/json' } });
      assert.deepEqual([refused.status, refused.code], [400, 'invalid_request'], fields);
    }
    assert.equal(vllm.requests.length, 0);
    assert.equal((await ask(gateway, 'other', { body: { ...BODY, max_tokens: 21, n: 3 } })).status, 200);
  });

  it('holds for what a job asks of a worker-vllm, too', async (t) => {
    const gateway = await started(t, [client('web', limits), client('other', { runpod: ['echo'] })]);
    const post = (name, input) => ask(gateway, name, { path: '/runpod/echo/runsync', body: { input } });
    for (const [input, param] of [
      [{ openai_route: CHAT, openai_input: { messages: [], max_tokens: 21 } }, 'input.openai_input.max_tokens'],
      [{ messages: [], sampling_params: { n: 3 } }, 'input.sampling_params.n'],
    ]) {
      const refused = await post('web', input);
      assert.deepEqual([refused.status, refused.code, refused.param], [403, 'forbidden', param]);
      assert.equal((await post('other', input)).status, 200);
    }
    const { text } = await post('web', { openai_route: CHAT, openai_input: { messages: [] } });
    assert.equal(JSON.parse(text).output.openai_input.max_tokens, 20);
    const own = await post('web', { messages: [], sampling_params: { temperature: 0 } });
    assert.deepEqual(JSON.parse(own.text).output.sampling_params, { max_tokens: 20, temperature: 0 });
  });
});
