// Streams that break and go on in a page: asked of endpoints directly, or mended on their way from a gateway. And what a
// page in particular meets there: CORS, preflights, and other SDKs.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { build } from 'esbuild';
import { strict } from '../strict.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway, STAYS_CLOSED } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';

/** What arrives together with an error may be lost to a page: with a pace it does not. */
const PACE = { tokenMs: 20 };
const QUICK = { idleMs: 300, backoff: { baseMs: 1, maxMs: 1 }, breaker: { enabled: false } };

let one;
let two;
let gateway;
let pages;
let folder;
let page;
before(async () => {
  [one, two, pages, folder] = await Promise.all([
    // A browser repeats a request by itself where a connection that it had kept breaks: none is kept.
    startVllm({ keepAliveMs: 0 }), startVllm({ keepAliveMs: 0 }), startPages(), mkdtemp(join(tmpdir(), 'fairlead-resume-')),
  ]);
  gateway = await startGateway({
    open: true,
    cors: { origins: [pages.origin] },
    endpoints: endpointsOf({ one, two }),
    models: [{ name: 'qwen', targets: [{ endpoint: 'one' }, { endpoint: 'two' }] }],
    policies: {
      default: { breaker: STAYS_CLOSED },
      resume: { breaker: STAYS_CLOSED, resume: 'continue' },
      partial: { breaker: STAYS_CLOSED, stream_internally: true, on_deadline: 'partial' },
    },
  });
  await build({
    stdin: { contents: "export { default } from 'openai';", resolveDir: import.meta.dirname },
    outfile: join(folder, 'openai.js'), bundle: true, format: 'esm', platform: 'browser', minify: true, logLevel: 'error',
  });
  pages.serve('bundle', folder);
  page = await pages.open();
});
beforeEach(() => {
  one.reset();
  two.reset();
});
after(async () => {
  await pages.close();
  await gateway?.close();
  await Promise.all([one.close(), two.close(), rm(folder, { recursive: true })]);
  assert.deepEqual([pages.troubles, gateway.troubles], [[], []]);
});

const endpoint = (name, { url }, more) => ({ name, provider: 'vllm', baseURL: `${url}/v1`, ...more });
const directly = (servers, policy) => ({
  endpoints: Object.entries(servers).map(([name, server]) => endpoint(name, server)),
  policies: { default: { ...QUICK, ...policy } },
  logLevel: 'off',
});

/** How one call fares in the page: `outcome` of start.js, with the facts that the client told of it. */
const ask = (options, body, wishes) => page.evaluate(async (given) => {
  const heard = [];
  using ai = new fairlead.Fairlead({ ...given.options, onEvent: (event) => heard.push(event) });
  const told = await outcome(ai, { model: 'qwen', ...given.body }, given.wishes);
  await new Promise((resolve) => { setTimeout(resolve); });
  return { ...told, heard };
}, { options, body, wishes });
const of = (heard, type) => heard.filter((event) => event.type === type);
/** The bytes of a stream, by `ai.fetch`. */
const bytesOf = (options) => page.evaluate(async (given) => {
  using ai = new fairlead.Fairlead(given);
  const body = { model: 'qwen', messages: [], stream: true, stream_options: { include_usage: true } };
  const headers = { 'content-type': 'application/json' };
  const response = await ai.fetch('/v1/chat/completions', { method: 'POST', headers, body: JSON.stringify(body) });
  return await response.text(); // before the client is closed
}, options);

describe('a stream that a page asks of endpoints', () => {
  for (const [name, fault] of [['cut', 'cut'], ['reset', 'cut-reset'], ['stalled', 'stall'], ['aborted', 'abort']]) {
    for (const [where, servers] of [['the same', () => ({ one })], ['the next', () => ({ one, two })]]) {
      it(`and is ${name}, goes on at ${where}`, async () => {
        const whole = strict(await bytesOf(directly({ two })), { usage: true });
        const options = directly(servers(), { resume: 'continue' });
        for (const afterEvents of fault === 'stall' ? [4] : [4, 7, 12]) {
          one.reset();
          one.script({ fault, afterEvents, ...PACE });
          const stream = strict(await bytesOf(options), { usage: true });
          assert.deepEqual([stream.text, stream.usage], [DEFAULT_TEXT, whole.usage], `at ${afterEvents}`);
          assert.deepEqual(stream.comments, ['resumed by continue, attempt 2'], `at ${afterEvents}`);
        }
      });
    }
  }

  it('is verified where the next is asked for another model', async () => {
    one.script({ fault: 'cut', afterEvents: 6, ...PACE });
    const { text, heard } = await ask({
      ...directly({ one, two }, { resume: 'continue' }),
      models: [{ name: 'qwen', targets: [{ endpoint: 'one' }, { endpoint: 'two', model: 'other' }] }],
    }, { stream: true });
    assert.equal(text, DEFAULT_TEXT);
    assert.deepEqual(of(heard, 'resume_started').map(({ way, why }) => [way, why]), [['verify', 'model']]);
  });

  it('ends in an error with what had come, where the repeated answer differs', async () => {
    one.script({ fault: 'cut', afterEvents: 8, ...PACE });
    two.script({ differsAt: 5 });
    const { text, error } = await ask(directly({ one, two }, { resume: 'verify' }), { stream: true });
    assert.deepEqual([error.name, error.partial.text], ['StreamInterruptedError', text]);
    assert.ok(text.length > 5 && DEFAULT_TEXT.startsWith(text));
  });

  it('is one to the helpers of the openai SDK on ai.fetch', async () => {
    one.script({ fault: 'cut', afterEvents: 5, ...PACE });
    two.script({ fault: 'cut', afterEvents: 4, ...PACE });
    const { content, reason, usage } = await page.evaluate(async (given) => {
      const { default: OpenAI } = await import('/bundle/openai.js');
      using ai = new fairlead.Fairlead(given);
      const openai = new OpenAI({ baseURL: `${location.origin}/v1`, apiKey: 'key', fetch: ai.fetch, maxRetries: 0, dangerouslyAllowBrowser: true });
      const runner = openai.chat.completions.stream({ model: 'qwen', messages: [], stream_options: { include_usage: true } });
      const { choices: [{ message, finish_reason: reason }], usage } = await runner.finalChatCompletion();
      return { content: message.content, reason, usage };
    }, directly({ one, two }, { resume: 'continue' }));
    assert.deepEqual([content, reason], [DEFAULT_TEXT, 'stop']);
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  });

  it('is cut at its deadline, and the endpoint is left', async () => {
    one.script({ fault: 'stall', afterEvents: 5 });
    const { text, error, heard } = await ask(directly({ one }, { onDeadline: 'partial', idleMs: 60_000 }), { stream: true }, { timeout: 800 });
    assert.equal(error, undefined);
    assert.ok(text && text !== DEFAULT_TEXT && DEFAULT_TEXT.startsWith(text));
    assert.deepEqual(of(heard, 'call_ended').map(({ outcome }) => outcome), ['partial']);
    await one.until(() => one.requests.find(({ method }) => method === 'POST').closedByClientAt);
  });

  it('is asked of the next as well where the first is slow, which is left', async () => {
    one.script({ firstTokenMs: 8000 });
    const { text, heard } = await ask(directly({ one, two }, { hedgeAfterMs: 150, hedgeRatio: 1 }), { stream: true });
    assert.equal(text, DEFAULT_TEXT);
    assert.deepEqual(of(heard, 'hedge_started').map(({ attempt, endpoint: name }) => [attempt, name]), [[2, 'two']]);
    await one.until(() => one.requests.find(({ method }) => method === 'POST').closedByClientAt);
  });

  it('may be put together for a caller who wants it whole; a failure leaves its text', async () => {
    const options = directly({ one, two }, { resume: 'continue', streamInternally: true, maxAttempts: 2 });
    const cut = { fault: 'cut', afterEvents: 6, ...PACE };
    one.script(cut);
    assert.deepEqual((await ask(options, {})).text, DEFAULT_TEXT);
    one.script(cut);
    two.script(cut);
    const { error } = await ask(options, {});
    assert.equal(error.name, 'StreamInterruptedError');
    // Five words are the most that the first can have brought; Chromium may lose what arrives together with a cut.
    assert.ok(error.partial.text.split(' ').length > 5 && DEFAULT_TEXT.startsWith(error.partial.text), error.partial.text);
  });
});

describe('the count of tokens, which a page may not get', () => {
  /** A server in front of a vLLM that lets pages have what is below `/v1`, and how many it kept from them. */
  async function proxied(t, vllm, answerElse) {
    const kept = [];
    const server = createServer(async (request, response) => {
      if (!request.url.startsWith('/v1/')) {
        kept.push(`${request.method} ${request.url}`);
        return answerElse(response);
      }
      const body = [];
      for await (const chunk of request) body.push(chunk);
      const { host, connection, ...headers } = request.headers;
      try {
        const answer = await fetch(`${vllm.url}${request.url}`, {
          method: request.method, headers, ...(body.length > 0 && { body: Buffer.concat(body) }),
        });
        response.writeHead(answer.status, Object.fromEntries(answer.headers));
        for await (const chunk of answer.body ?? []) response.write(chunk);
        response.end();
      } catch {
        response.destroy();
      }
      return undefined;
    });
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    t.after(() => {
      server.closeAllConnections();
      return new Promise((resolve) => { server.close(resolve); });
    });
    return { url: `http://127.0.0.1:${server.address().port}`, kept };
  }
  const withUsage = { stream: true, stream_options: { include_usage: true }, max_tokens: 30 };

  const REFUSALS = {
    'a 404 without CORS': (response) => response.writeHead(404).end(),
    'a connection that breaks': (response) => response.destroy(),
    'an answer that never comes': () => {},
  };
  for (const [name, refuse] of Object.entries(REFUSALS)) {
    it(`${name}: the stream goes on without it, and the endpoint is well`, async (t) => {
      const proxy = await proxied(t, two, refuse);
      one.script({ fault: 'cut', afterEvents: 6, ...PACE });
      const options = directly({ one, two: proxy }, { resume: 'continue', idleMs: 5000 });
      const { text, error, heard } = await ask(options, withUsage);
      assert.deepEqual([text, error], [DEFAULT_TEXT, undefined]);
      assert.deepEqual(of(heard, 'attempt_failed').map(({ endpoint: at }) => at), ['one']);
      assert.deepEqual(of(heard, 'stream_resumed').map(({ endpoint: at, way }) => [at, way]), [['two', 'continue']]);
      assert.ok(proxy.kept.length > 0);
      const continued = two.requests.find(({ method }) => method === 'POST');
      // One for each event that the page has seen, which is a word here.
      const words = DEFAULT_TEXT.slice(0, of(heard, 'resume_started')[0].bytes).split(' ').length;
      assert.equal(continued.json.max_tokens, withUsage.max_tokens - words);
    });
  }

  it('is asked for once, with a preflight, the caller’s fields, and no key but the endpoint’s', async () => {
    one.script({ fault: 'cut', afterEvents: 6, ...PACE });
    const own = { dangerouslyAllowBrowser: true, defaultHeaders: { 'x-own': 'field' } };
    const options = { ...directly({ one, two }, { resume: 'continue' }), ...own };
    options.endpoints[1].apiKey = 'key-of-two';
    await ask(options, withUsage);
    const seen = two.requests.map(({ method, path }) => `${method} ${path}`);
    assert.deepEqual(seen, ['OPTIONS /tokenize', 'POST /tokenize', 'OPTIONS /v1/chat/completions', 'POST /v1/chat/completions']);
    const posted = two.requests.filter(({ method }) => method === 'POST').map(({ headers }) => headers);
    for (const headers of posted) assert.deepEqual([headers.authorization, headers['x-own']], ['Bearer key-of-two', 'field']);
  });
});

describe('behind a gateway', () => {
  const through = (policy, more) => ({
    baseURL: `${gateway.url}/v1`, apiKey: 'any', logLevel: 'off', policies: { default: { ...QUICK, ...policy } }, ...more,
  });

  it('a stream that breaks on its way to the page is verified', async () => {
    const vllm = two;
    // To the client it is a gateway, whose connection is cut.
    vllm.script({ fault: 'cut', afterEvents: 7, ...PACE });
    const { text, heard } = await ask({ ...through({ resume: 'verify' }), baseURL: `${vllm.url}/v1` }, { stream: true });
    assert.equal(text, DEFAULT_TEXT);
    assert.deepEqual(of(heard, 'stream_resumed').map(({ endpoint: at, way, attempt }) => [at, way, attempt]), [['gateway', 'verify', 2]]);
  });

  it('a stream that breaks there goes on there', async () => {
    one.script({ fault: 'cut', afterEvents: 7, ...PACE });
    const { text, heard } = await ask(through(), { stream: true }, { policy: 'resume' });
    assert.equal(text, DEFAULT_TEXT);
    assert.deepEqual(heard.map(({ type }) => type), ['attempt_started', 'call_ended']);
  });

  it('an answer that was cut there at the deadline says so to the page', async () => {
    one.script({ fault: 'stall', afterEvents: 5 });
    const told = await page.evaluate(async (given) => {
      using ai = new fairlead.Fairlead(given);
      const { data, response } = await ai.chat.completions.create({ model: 'qwen', messages: [] }, { policy: 'partial', timeout: 1000 }).withResponse();
      return { note: data.fairlead, reason: data.choices[0].finish_reason, header: response.headers.get('x-fairlead-truncated') };
    }, through());
    assert.deepEqual(told, { note: { truncated: 'deadline' }, reason: 'length', header: 'deadline' });
  });
});
