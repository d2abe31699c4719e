// The dashboard in Chromium: in front of a real gateway, and of one that says what a test wants it to say.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { createRequire } from 'node:module';
import { after, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STATE } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';
import { health, outage } from './status.mjs';

const ADMIN_KEY = 'sk-admin-0123456789';
const CLIENT_KEY = 'sk-client-0123456789';
const FOLDER = new URL('../../worker/dashboard/', import.meta.url);
/** As plain workerd serves them: a folder that knows neither types nor headers. */
const ASSETS = { type: 'disk', path: fileURLToPath(FOLDER) };
/** Names that are markup to whoever takes them for it. */
const HOSTILE = '<img src=x onerror="window.hacked=1">';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PHONE = { viewport: { width: 375, height: 700 }, hasTouch: true, isMobile: true };

let pages;
let alive;
let dead;
let runpod;
let gateway;
before(async () => {
  [pages, alive, dead, runpod] = await Promise.all([
    startPages(), startVllm(), startVllm(), startRunpod({ endpoints: { burst: { handler: 'worker-vllm', vllm: {} } } }),
  ]);
  dead.fault = 'reset';
  gateway = await startGateway({
    endpoints: [
      ...endpointsOf({ dead, alive }),
      { name: 'burst', provider: 'runpod', base_url: runpod.baseUrl('burst'), api_key_secret: 'RUNPOD_KEY' },
      ...endpointsOf({ [HOSTILE]: alive }),
    ],
    models: [
      { name: 'qwen', targets: [{ endpoint: 'alive' }] },
      { name: 'failover', targets: [{ endpoint: 'dead' }, { endpoint: 'alive' }] },
      { name: 'lost', policy: 'once', targets: [{ endpoint: 'dead' }] },
      { name: 'jobs', targets: [{ endpoint: 'burst' }] },
      { name: HOSTILE, targets: [{ endpoint: HOSTILE }] },
    ],
    policies: { default: { backoff: { base_ms: 1, max_ms: 1 } }, once: { max_attempts: 1, breaker: { consecutive: 100, min_calls: 100 } } },
    clients: [{ name: 'web', keys_sha256: [sha256(CLIENT_KEY)] }],
    admin_key_secret: 'ADMIN_KEY',
    faults: true,
  }, { secrets: { ADMIN_KEY, RUNPOD_KEY: 'rpa_simulated' }, env: { ASSETS, STATE } });
});
after(async () => {
  await pages.close();
  await gateway.close();
  await Promise.all([alive, dead, runpod].map((server) => server.close()));
  assert.deepEqual(gateway.troubles, []);
});

/** What nobody was ready for. */
let troubles = [];
beforeEach(() => { troubles = []; });

/**
 * A page at the dashboard.
 * @param {object} [wishes]
 * @param {(n: number) => object} [wishes.status] answers GET /status instead of the gateway: `{ status, json }`, or
 *   nothing where the connection is to fail
 * @param {object} [wishes.context] options of the browser's context
 * @param {string} [wishes.hash] behind the address
 */
async function open(t, { status, context: options, hash = `#key=${ADMIN_KEY}`, refusals = /^$/ } = {}) {
  const context = await pages.context(options);
  const page = await context.newPage();
  const asked = [];
  page.on('request', (request) => asked.push(request));
  page.on('pageerror', (error) => troubles.push(String(error.stack)));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !refusals.test(message.text())) troubles.push(message.text());
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => console.error(`violation: ${event.violatedDirective} ${event.blockedURI}`));
  });
  if (status) {
    let n = 0;
    await page.route('**/status*', (route) => {
      n += 1;
      const answer = status(n);
      return answer ? route.fulfill({ status: answer.status ?? 200, json: answer.json ?? answer }) : route.abort();
    });
  }
  t?.after(async () => {
    await context.close();
    assert.deepEqual(troubles, []);
    assert.deepEqual(asked.filter((request) => new URL(request.url()).origin !== gateway.url).map((request) => request.url()), []);
  });
  await page.goto(`${gateway.url}/${hash}`);
  return { page, asked };
}

const endpointOf = (page, name) => page.locator('#endpoint-list > article', { has: page.getByRole('heading', { name, exact: true }) });
const shows = (locator, text) => locator.filter({ hasText: text }).first().waitFor({ timeout: 20_000 });
const text = async (locator) => (await locator.textContent()).replace(/\s+/g, ' ').trim();
const isWide = (page) => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
const focused = (page) => page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.id);

/** A path as it is, which `fetch` would tidy up. */
async function raw(path, method = 'GET') {
  const request = httpRequest({ port: gateway.port, host: '127.0.0.1', path, method });
  request.end();
  const [response] = await once(request, 'response');
  const pieces = await response.toArray();
  return { status: response.statusCode, headers: response.headers, text: Buffer.concat(pieces).toString() };
}

async function chat(model, more = {}) {
  const response = await gateway.fetch('/v1/chat/completions', {
    body: { model, messages: [{ role: 'user', content: 'a prompt that nobody else may read' }], ...more },
    headers: { authorization: `Bearer ${CLIENT_KEY}` },
  });
  await response.text();
  return response;
}

/** Serious and critical violations, in brief. */
async function audit(page) {
  // Its own way in, as the page's policy lets no other script be added.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  return violations.filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html, any }) => `${html} ${any[0]?.message ?? ''}`).join('\n')}`);
}

describe('the files', () => {
  it('have a strict policy, and the type of what they are', async () => {
    const wanted = Object.fromEntries([...readFileSync(new URL('_headers', FOLDER), 'utf8').matchAll(/^ {2}([\w-]+): (.*)$/gm)]
      .map(([, name, value]) => [name.toLowerCase(), value]));
    for (const [path, type] of [
      ['/', 'text/html; charset=utf-8'], ['/dashboard/main.js', 'text/javascript; charset=utf-8'],
      ['/dashboard/style.css', 'text/css; charset=utf-8'], ['/dashboard/icon.svg', 'image/svg+xml'],
    ]) {
      const { status, headers, text: body } = await raw(path);
      assert.deepEqual([status, headers['content-type']], [200, type], path);
      for (const [name, value] of Object.entries(wanted)) assert.equal(headers[name], value, `${name} of ${path}`);
      assert.equal(body, readFileSync(new URL(path === '/' ? 'index.html' : path.slice(1), FOLDER), 'utf8'));
      assert.deepEqual([(await raw(path, 'HEAD')).status, (await raw(path, 'HEAD')).text], [200, '']);
    }
  });

  it('are all that there is to have', async () => {
    for (const path of [
      '/_headers', '/index.html', '/dashboard', '/dashboard/', '/dashboard/_headers', '/dashboard/index.html', '/dashboard/nothing.js',
      '/dashboard/..%2f_headers', '/dashboard/..%5c_headers', '/dashboard/%2e%2e%2findex.html', '/dashboard//main.js', '/dashboard/./../index.html',
      '/dashboard/main.js%00', '/dashboard/main.js/', '/dashboard/%6d%61in.js', '//dashboard/main.js', '/Dashboard/main.js',
      '/dashboard/../status', '/dashboard/%2e%2e/status', '/dashboard/../v1/models',
    ]) {
      const { status, text: body } = await raw(path);
      assert.deepEqual([status, JSON.parse(body).error?.code], [404, 'route_not_found'], path);
    }
    assert.equal((await raw('/', 'POST')).status, 404);
  });

  it('stand before no route', async () => {
    assert.equal((await raw('/health')).text, '{"status":"ok"}');
    for (const path of ['/status', '/v1/models']) {
      assert.equal((await raw(path)).status, 401, path);
    }
  });
});

describe('an operator', () => {
  it('comes in with a link, sees what goes on, takes an endpoint out, and in again', async (t) => {
    await chat('qwen');
    const { page, asked } = await open(t);
    assert.equal(new URL(page.url()).hash, '', 'the key is out of the address');
    await shows(page.locator('#verdict'), /All well|things? to look at|problem/);
    assert.match(await text(page.locator('#speaking')), /^Speaking for isolate \S+.*, up for .* – the only one seen\./);

    const card = endpointOf(page, 'alive');
    await shows(card, 'In service');
    await card.getByRole('button', { name: 'Isolate' }).click();
    await shows(page.locator('#confirm'), 'Isolate alive?');
    await page.getByRole('button', { name: 'Leave it' }).click();
    await card.getByRole('button', { name: 'Isolate' }).click();
    await page.locator('#confirm').getByRole('button', { name: 'Isolate' }).click();
    await shows(card, 'Isolated');
    await shows(page.locator('#notice'), 'alive is isolated. The isolate that answered obeys at once. The others hear of it within two minutes, by KV.');
    await shows(page.locator('#verdict'), 'alive is isolated: an operator has taken it out.');
    await shows(card, 'fleet-wide: isolated');
    assert.equal((await chat('qwen')).status, 503);

    await card.getByRole('button', { name: 'Close breakers' }).click();
    await page.locator('#confirm').getByRole('button', { name: 'Close breakers' }).click();
    await shows(card, 'In service');
    assert.equal((await chat('qwen')).status, 200);
    await page.waitForRequest((request) => request.url().endsWith('/status?store=no'));
    assert.ok(asked.every((request) => !request.url().includes(ADMIN_KEY)));
  });

  it('sees why a call failed', async (t) => {
    assert.equal((await chat('failover', { stream: true })).status, 200);
    const lost = await chat('lost');
    assert.equal(lost.status, 502);
    const id = lost.headers.get('x-request-id');
    const { page } = await open(t);
    await page.locator('#find').fill(id);
    const row = page.locator('tr.call');
    await shows(row, 'upstream_unreachable');
    assert.match(await text(row), /no connection at dead/);
    await row.getByRole('button').click();
    await shows(page.locator('.opened'), 'Attempt 1 at dead failed: no connection; no attempts left');
    assert.match(await text(page.locator('.opened')), new RegExp(`${id}.*web.*/v1/chat/completions`));
    assert.doesNotMatch(await page.content(), /nobody else may read/);
    await page.locator('#find').fill('');
    await shows(page.locator('#call-list'), 'after no connection at dead');
    await shows(page.locator('#model-list article', { hasText: 'lost' }), 'upstream_unreachable');
    await shows(endpointOf(page, 'dead'), 'no connection unreachable');
  });

  it('sees what RunPod does', async (t) => {
    assert.equal((await chat('jobs')).status, 200);
    const { page } = await open(t);
    await shows(page.locator('#job-list'), 'Time at work 1 measured');
    await shows(endpointOf(page, 'burst'), /Cold starts\d/);
    await shows(page.locator('#job-list'), /limit 10 min|limit \d+/);
  });

  it('is told of a wrong key, and can go again', async (t) => {
    const { page } = await open(t, { hash: '#key=wrong', refusals: /401/ });
    await shows(page.locator('#door-hint'), 'This is not the admin key.');
    assert.equal(await focused(page), 'admin-key');
    await page.keyboard.type(ADMIN_KEY);
    await page.keyboard.press('Enter');
    await shows(page.locator('#speaking'), 'Speaking for isolate');
    await page.getByRole('button', { name: 'Forget the key' }).click();
    await page.locator('#board').waitFor({ state: 'hidden' });
    assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 0);
    assert.ok(!(await page.content()).includes('Speaking for isolate') || !(await page.locator('#board').isVisible()));
  });

  it('is remembered in this tab only where that was wanted', async (t) => {
    const { page } = await open(t, { hash: '', refusals: /401/ });
    for (const isWanted of [false, true]) {
      await page.locator('#admin-key').fill(ADMIN_KEY);
      if (isWanted) await page.locator('#keep-key').check();
      await page.getByRole('button', { name: 'Show what is going on' }).click();
      await shows(page.locator('#speaking'), 'Speaking for isolate');
      await page.reload();
      await page.locator(isWanted ? '#board' : '#door').waitFor();
    }
    assert.equal(await page.evaluate(() => localStorage.length), 0);
  });
});

describe('the playground', () => {
  async function ask(page, { model = 'qwen', prompt = 'Hello' } = {}) {
    // What comes above would push the button away while it is aimed at.
    await page.locator('#board, #door').filter({ visible: true }).waitFor();
    await page.locator('#client-key').fill(CLIENT_KEY);
    await page.locator('#model').fill(model);
    await page.locator('#prompt').fill(prompt);
    await page.getByRole('button', { name: 'Send' }).click();
  }

  it('streams a chat, and shows what the gateway did for it', async (t) => {
    const { page } = await open(t);
    await ask(page, { model: 'failover' });
    await shows(page.locator('#chat-status'), /^Ended after/);
    assert.equal(await page.locator('.answer').textContent(), DEFAULT_TEXT);
    const facts = await text(page.locator('#output > .facts'));
    assert.match(facts, /First token\d.*In all\d.*Tokens\d+ in, \d+ out.*Ended withstop.*x-request-id[0-9a-f]{32}.*x-fairlead-endpointalive.*x-fairlead-attempts\d.*server-timing/);
    await shows(page.locator('#output'), 'What the gateway did');
    await shows(page.locator('#output .lanes'), 'answered, first content after');
    assert.deepEqual(await page.locator('#model-names option').evaluateAll((all) => all.map(({ value }) => value)), ['qwen', 'failover', 'lost', 'jobs', HOSTILE]);
  });

  it('shows an error whole', async (t) => {
    const { page } = await open(t, { refusals: /502/ });
    await ask(page, { model: 'lost' });
    await shows(page.locator('#output .error'), '502 upstream_unreachable');
    await shows(page.locator('#output .error pre'), '"code": "upstream_unreachable"');
    await shows(page.locator('#output'), 'Attempt 1 at dead failed: no connection');
  });

  it('shows a stream that breaks, with the text that had come', async (t) => {
    alive.script('cut');
    const { page } = await open(t);
    await ask(page);
    await shows(page.locator('#output .error'), 'stream_interrupted');
    const shown = await page.locator('.answer').textContent();
    assert.ok(shown.length > 0 && DEFAULT_TEXT.startsWith(shown), shown);
  });

  it('rehearses a fault', async (t) => {
    const { page } = await open(t, { refusals: /401/ }); // the list of models, without a key
    await page.locator('#board').waitFor();
    await page.getByText('More', { exact: true }).click();
    await page.locator('#fault').fill('http-503');
    await ask(page);
    await shows(page.locator('#chat-status'), /^Ended after/);
    await shows(page.locator('#output'), 'Attempt 1 at alive failed: HTTP 503; tried again');
    assert.equal(await page.locator('.answer').textContent(), DEFAULT_TEXT);
  });

  it('stops when it is told to', async (t) => {
    alive.script({ fault: 'stall' });
    const { page } = await open(t);
    await ask(page);
    await shows(page.locator('#chat-status'), 'The first token came');
    await page.getByRole('button', { name: 'Stop' }).click();
    await shows(page.locator('.notes'), 'stopped by you');
    await gateway.line({ event: 'call_ended', outcome: 'client_gone' });
  });

  it('serves whoever has no admin key', async (t) => {
    const { page } = await open(t, { hash: '', refusals: /401/ });
    await ask(page);
    await shows(page.locator('#output'), 'Its timeline is shown to who has the admin key.');
  });
});

describe('what goes wrong', () => {
  it('is said where there is no admin key', async (t) => {
    const error = { message: 'This route is closed: CONFIG names no admin key.', code: 'forbidden' };
    const { page } = await open(t, { hash: '', refusals: /403/, status: () => ({ status: 403, json: { error } }) });
    await shows(page.locator('#door-hint'), error.message);
    assert.equal(await page.locator('#door-form').isVisible(), false);
  });

  it('is said where CONFIG has mistakes, each by itself', async (t) => {
    const error = { message: 'CONFIG has mistakes. models[0].targets: is empty: name at least one endpoint; endpoints: is empty; not this', code: 'config_invalid' };
    const { page } = await open(t, { refusals: /500/, status: () => ({ status: 500, json: { error } }) });
    await shows(page.locator('#trouble'), 'CONFIG has mistakes. Every call is refused until they are mended.');
    assert.deepEqual(await page.locator('#trouble li').allTextContents(),
      ['models[0].targets: is empty: name at least one endpoint', 'endpoints: is empty; not this']);
  });

  it('is said while the gateway is down, with what was seen last, and forgotten when it is back', async (t) => {
    const { page } = await open(t, { refusals: /ERR_FAILED/, status: (n) => (n === 1 || n > 2) && health() });
    await shows(page.locator('#trouble'), 'The gateway does not answer.');
    assert.ok(await page.locator('#board').isVisible());
    assert.equal(await page.locator('#connection').textContent(), 'No answer');
    await page.locator('#trouble').waitFor({ state: 'hidden' });
    assert.equal(await page.locator('#connection').textContent(), 'Live');
  });

  it('is told apart from an isolate that changes', async (t) => {
    const { page } = await open(t, {
      status: (n) => {
        const status = health();
        status.isolate = { ...status.isolate, id: n % 2 ? 'aaaa1111' : 'bbbb2222' };
        status.endpoints[0].in_flight = n % 2 ? 3 : 7;
        return status;
      },
    });
    await shows(page.locator('#speaking'), 'Speaking for isolate aaaa1111 in FRA, up for 12 min – 1 of 2 seen.');
    assert.match(await text(endpointOf(page, 'a100')), /In flight3 of 16/);
    await page.getByLabel('Isolate', { exact: true }).selectOption('bbbb2222');
    await shows(page.locator('#speaking'), 'Speaking for isolate bbbb2222');
    assert.match(await text(endpointOf(page, 'a100')), /In flight7 of 16/);
  });

  it('is not asked for again while the page is paused', async (t) => {
    const { page, asked } = await open(t, { status: () => health() });
    await shows(page.locator('#speaking'), 'Speaking for');
    await page.getByRole('button', { name: 'Pause' }).click();
    const before = asked.length;
    // Longer than two turns would take; no request is what is waited for.
    await page.waitForTimeout(4500);
    assert.equal(asked.length, before);
    await page.getByRole('button', { name: 'Go on' }).click();
    await page.waitForRequest(/\/status/);
  });
});

it('takes nothing that it is told for markup', async (t) => {
  const poisoned = (value) => {
    if (typeof value === 'string') return HOSTILE;
    if (Array.isArray(value)) return value.map(poisoned);
    if (value === null || typeof value !== 'object') return value;
    const entries = Object.entries(value).map(([name, each]) => [name, name === 'event' ? each : poisoned(each)]);
    return Object.fromEntries(entries);
  };
  const hostile = () => {
    const status = poisoned(outage());
    status.models[0].outcomes = { [HOSTILE]: 5 };
    status.endpoints[0].failures = { [HOSTILE]: 5 };
    status.refused = { [HOSTILE]: 5 };
    status.config.refused = { at_ms: 0, mistakes: [{ path: HOSTILE, message: HOSTILE }] };
    return status;
  };
  const { page } = await open(t, { status: hostile, context: PHONE });
  await page.locator('.fold').first().click();
  await shows(page.locator('.opened'), HOSTILE);
  await page.locator('#endpoint-list').getByRole('button', { name: 'Isolate' }).first().click();
  await shows(page.locator('#confirm'), HOSTILE);
  assert.equal(await page.evaluate(() => document.querySelectorAll('img, [onerror]').length), 0);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await isWide(page), false);
});

it('orders what is meant, whatever an endpoint is called', async (t) => {
  const { page } = await open(t);
  const card = endpointOf(page, HOSTILE);
  await card.getByRole('button', { name: 'Isolate' }).click();
  await page.locator('#confirm').getByRole('button', { name: 'Isolate' }).click();
  await shows(card, 'Isolated');
});

it('can be used by keyboard alone', async (t) => {
  const { page } = await open(t, { hash: '', refusals: /401/ });
  await page.keyboard.press('Tab');
  assert.equal(await focused(page), 'To the content');
  const isVisible = await page.evaluate(() => document.activeElement.getBoundingClientRect().left >= 0);
  assert.ok(isVisible, 'the skip link is seen once it has the focus');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  assert.equal(await focused(page), 'admin-key');
  await page.keyboard.type(ADMIN_KEY);
  await page.keyboard.press('Enter');
  await shows(page.locator('#speaking'), 'Speaking for');

  /** Tabs until something has the focus; each that has it on the way is seen to have it. */
  const tabTo = async (wanted) => {
    for (let presses = 0; presses < 60; presses += 1) {
      await page.keyboard.press('Tab');
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'none', await focused(page));
      if ((await focused(page)) === wanted) return;
    }
    assert.fail(`no ${wanted} within 60 presses`);
  };
  await page.locator('#main').focus();
  await tabTo('Isolate alive');
  await page.keyboard.press('Enter');
  await page.locator('#confirm').waitFor();
  assert.equal(await focused(page), 'Leave it');
  await page.keyboard.press('Escape');
  await page.locator('#confirm').waitFor({ state: 'hidden' });
  assert.equal(await focused(page), 'Isolate alive', 'the focus is back where it was');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await shows(endpointOf(page, 'alive'), 'Isolated');
  await tabTo('Close breakers of alive');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await shows(endpointOf(page, 'alive'), 'In service');

  const fold = page.locator('.fold').first();
  await fold.focus();
  await page.keyboard.press('Enter');
  assert.equal(await fold.getAttribute('aria-expanded'), 'true');
  // It stays unfolded, and has the focus, when there is news.
  await page.waitForResponse(/\/status/);
  await page.waitForResponse(/\/status/);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-expanded')), 'true');
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-expanded')), 'false');

  await page.locator('#client-key').focus();
  await page.keyboard.type(CLIENT_KEY);
  await page.keyboard.press('Tab');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('qwen');
  await page.keyboard.press('Enter');
  await shows(page.locator('#chat-status'), /^Ended after/);
});

describe('on a phone', () => {
  for (const [name, status] of [['in health', health], ['in an outage', outage]]) {
    it(`nothing is wider than the screen ${name}`, async (t) => {
      const { page } = await open(t, { status: () => status(), context: PHONE });
      await page.locator('.fold').first().click();
      assert.equal(await isWide(page), false);
    });
  }

  it('neither are long names, and large numbers', async (t) => {
    const long = 'a-name-without-any-place-to-break-'.repeat(6);
    const { page } = await open(t, {
      context: PHONE,
      status: () => {
        const status = JSON.parse(JSON.stringify(outage()).replaceAll('"a100"', JSON.stringify(long)).replaceAll('"qwen"', JSON.stringify(long)));
        status.models[0].outcomes = { ok: 2 ** 52 };
        status.endpoints[0].attempts = 2 ** 52;
        return status;
      },
    });
    await page.locator('.fold').first().click();
    assert.equal(await isWide(page), false);
  });
});

describe('for everybody', () => {
  for (const colorScheme of ['light', 'dark']) {
    for (const [name, status, context] of [['in health', health, {}], ['in an outage', outage, {}], ['on a phone', outage, PHONE]]) {
      it(`nothing serious stands in the way ${name}, ${colorScheme}`, async (t) => {
        const { page } = await open(t, { status: () => status(), context: { ...context, colorScheme, reducedMotion: 'reduce' } });
        await page.locator('.fold').first().click();
        assert.deepEqual(await audit(page), []);
      });
    }

    it(`nor at the door, and in the playground, ${colorScheme}`, async (t) => {
      const { page } = await open(t, { hash: '', refusals: /401/, context: { colorScheme } });
      await page.locator('#client-key').fill(CLIENT_KEY);
      await page.locator('#model').fill('qwen');
      await page.getByRole('button', { name: 'Send' }).click();
      await shows(page.locator('#chat-status'), /^Ended after/);
      await page.getByText('More').click();
      assert.deepEqual(await audit(page), []);
    });
  }
});
