// The network as a page has it: a device that is offline, a server that is dead, one that answers but not to this page,
// and a page that is put to sleep.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';

const KEY = 'endpoint-key';

let vllm;
let pages;
let gateway;
let foreign;
before(async () => {
  [vllm, pages] = await Promise.all([startVllm({ apiKey: KEY }), startPages()]);
  const config = {
    open: true,
    endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'VLLM_API_KEY' })),
    models: [{ name: '*', targets: [{ endpoint: 'vllm' }] }],
  };
  const secrets = { VLLM_API_KEY: KEY };
  gateway = await startGateway({ ...config, cors: { origins: [pages.origin] } }, { secrets });
  foreign = await startGateway({ ...config, cors: { origins: ['https://app.example.com'] } }, { secrets });
});
beforeEach(() => vllm.reset());
after(async () => {
  await pages.close();
  await Promise.all([gateway, foreign].map((each) => each?.close()));
  await vllm.close();
  assert.deepEqual(pages.troubles, []);
});

/** A page with a client of these options. */
async function pageWith(options, wishes) {
  const page = await pages.open(wishes);
  await page.evaluate((given) => {
    globalThis.heard = [];
    globalThis.ai = new fairlead.Fairlead({ logLevel: 'off', ...given, onEvent: (event) => heard.push(event) });
  }, options);
  return page;
}
const through = () => ({ baseURL: `${gateway.url}/v1`, apiKey: 'any' });
const ask = (page, more, options) =>
  page.evaluate(([body, wishes]) => outcome(ai, { model: 'qwen', stream: true, ...body }, wishes), [more, options]);

describe('a device that is offline', () => {
  it('waits until it is back', async () => {
    const context = await pages.context();
    const page = await pageWith(through(), { context });
    assert.equal((await ask(page)).text, DEFAULT_TEXT);
    vllm.reset();
    await context.setOffline(true);
    const waiting = ask(page);
    assert.equal(await page.evaluate(() => navigator.onLine), false);
    assert.equal(vllm.requests.length, 0);
    await context.setOffline(false);
    assert.equal((await waiting).text, DEFAULT_TEXT);
  });

  it('and stays so says that it is', async () => {
    const context = await pages.context();
    await context.clock.install();
    const page = await pageWith(through(), { context });
    await ask(page);
    vllm.reset();
    await context.setOffline(true);
    await page.evaluate(() => { heard.length = 0; });
    const waiting = ask(page);
    await page.evaluate(async () => {
      while (heard.length === 0) await new Promise((next) => { requestAnimationFrame(next); });
    });
    await context.clock.fastForward(15_000);
    const { error } = await waiting;
    assert.deepEqual([error.name, error.param], ['ConnectionError', 'offline']);
    assert.match(error.message, /offline/);
    assert.equal(vllm.requests.length, 0);
    await context.setOffline(false);
    assert.equal((await ask(page)).text, DEFAULT_TEXT);
  });

  it('is not waited for beyond the deadline', async () => {
    const context = await pages.context();
    const page = await pageWith(through(), { context });
    await ask(page);
    vllm.reset();
    await context.setOffline(true);
    assert.equal((await ask(page, {}, { timeout: 500 })).error.code, 'deadline_exceeded');
    assert.equal(vllm.requests.length, 0);
  });

  it('costs an endpoint nothing: its breaker stays closed', async () => {
    const context = await pages.context();
    const page = await pageWith({
      ...through(), policies: { default: { breaker: { consecutive: 2 } } },
    }, { context });
    await ask(page);
    await context.setOffline(true);
    for (let at = 0; at < 4; at += 1) await ask(page, {}, { timeout: 300 });
    await context.setOffline(false);
    assert.equal((await ask(page)).text, DEFAULT_TEXT);
    assert.deepEqual(await page.evaluate(() => heard.filter(({ type }) => type === 'breaker_opened')), []);
  });
});

describe('a server without an answer for the page', () => {
  const direct = (url, apiKey = KEY) => ({
    endpoints: [{ name: 'gpu', provider: 'vllm', baseURL: `${url}/v1`, apiKey }], dangerouslyAllowBrowser: true,
    policies: { default: { backoff: { baseMs: 1 } } },
  });

  it('is unreachable where nobody listens', async () => {
    const dead = await startVllm();
    const { url } = dead;
    await dead.close();
    const { error } = await ask(await pageWith(direct(url)));
    assert.deepEqual([error.name, error.code], ['ConnectionError', 'upstream_unreachable']);
    assert.notEqual(error.param, 'cors');
    assert.doesNotMatch(error.message, /CORS/);
    assert.ok(error.retryable);
  });

  it('is blocked by CORS where a gateway does not know the page', async () => {
    const { error } = await ask(await pageWith({ baseURL: `${foreign.url}/v1`, apiKey: 'any' }));
    assert.deepEqual([error.name, error.code, error.param], ['ConnectionError', 'upstream_unreachable', 'cors']);
    assert.match(error.message, /CORS/);
    assert.match(error.message, /origin/i);
    assert.ok(!error.retryable);
  });

  it('is blocked where vLLM refuses the key, whose 401 no page may read; the message says so', async () => {
    const { error } = await ask(await pageWith(direct(vllm.url, 'wrong')));
    assert.deepEqual([error.name, error.param], ['ConnectionError', 'cors']);
    assert.match(error.message, /key/);
  });

  it('is only at odds with one request, where it answers the next: no reset is taken for CORS', async () => {
    vllm.script('reset');
    assert.equal((await ask(await pageWith(direct(vllm.url)))).text, DEFAULT_TEXT);
  });

  it('has its key in no message', async () => {
    const { error } = await ask(await pageWith(direct(vllm.url, 'wrong-but-secret')));
    assert.doesNotMatch(JSON.stringify(error), /wrong-but-secret/);
  });
});

describe('a page that is put to sleep', () => {
  const IDLE_MS = 1000;
  const patience = { policies: { default: { idleMs: IDLE_MS, maxAttempts: 1 } } };

  /** A page whose client reads a stream at its own pace while the test freezes the page. */
  async function reading(sim) {
    const page = await pageWith({
      endpoints: [{ name: 'gpu', provider: 'vllm', baseURL: `${vllm.url}/v1`, apiKey: KEY }],
      dangerouslyAllowBrowser: true, ...patience,
    });
    const devtools = await page.context().newCDPSession(page);
    await page.evaluate((body) => { globalThis.ended = outcome(ai, body); }, { model: 'qwen', stream: true, sim });
    return { page, sleep: (state) => devtools.send('Page.setWebLifecycleState', { state }) };
  }

  it('goes on with a stream that was fine meanwhile', async () => {
    const { page, sleep } = await reading({ tokenMs: 20, tokens: 150 });
    const record = await vllm.until(() => vllm.requests.find(({ method }) => method === 'POST'));
    await vllm.until(() => record.eventsSent > 10);
    await sleep('frozen');
    // Longer than its silence may last, and to the end of what the endpoint sends.
    await vllm.until(() => record.finishedAt, 10_000);
    assert.ok(record.finishedAt - record.at > 2 * IDLE_MS);
    await sleep('active');
    const { text, error } = await page.evaluate(() => ended);
    assert.equal(error, undefined);
    assert.ok(text.length > 60);
  });

  it('finds out at once where a stream has died meanwhile', async () => {
    const { page, sleep } = await reading({ fault: 'stall' });
    const record = await vllm.until(() => vllm.requests.find(({ stalled }) => stalled));
    await sleep('frozen');
    await vllm.until(() => Date.now() - record.at > 0);
    await sleep('active');
    const { error } = await page.evaluate(() => ended);
    assert.deepEqual([error.name, error.code, error.param], ['TimeoutError', 'upstream_timeout', 'idle']);
  });
});
