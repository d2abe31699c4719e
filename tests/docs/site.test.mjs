// The site as `npm run docs` builds it, opened in Chromium below a path: it needs nobody else, is read in light and dark,
// and finds what is looked for.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { chromium } from 'playwright-core';
import { buildSite } from '../../scripts/docs.mjs';
import { ensureChromium } from '../../scripts/setup.mjs';

const BASE = '/somewhere/fairlead/';
const TYPES = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2',
};

describe('the site', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-site-'));
  let server;
  let origin;
  let browser;

  before(async () => {
    await buildSite({ base: BASE, outDir: folder });
    server = createServer(({ url }, response) => {
      const path = new URL(url, 'http://site/').pathname;
      const file = join(folder, path.slice(BASE.length), path.endsWith('/') ? 'index.html' : '');
      if (!path.startsWith(BASE) || !statSync(file, { throwIfNoEntry: false })?.isFile()) return response.writeHead(404).end();
      response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'text/plain' }).end(readFileSync(file));
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${server.address().port}`;
    browser = await chromium.launch({ executablePath: await ensureChromium(), args: ['--headless', '--no-sandbox', '--disable-gpu'] });
  });
  after(async () => {
    await browser?.close();
    server?.closeAllConnections();
    server?.close();
    rmSync(folder, { recursive: true });
  });

  /** A page, and what it has asked of others or complained of. */
  async function open(path, options) {
    const page = await browser.newPage(options);
    const troubles = [];
    page.on('request', (request) => { if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) troubles.push(request.url()); });
    page.on('console', (message) => { if (message.type() === 'error') troubles.push(message.text()); });
    page.on('pageerror', (error) => troubles.push(error.message));
    await page.goto(origin + BASE + path, { waitUntil: 'networkidle' });
    return { page, troubles };
  }

  it('begins with what Fairlead is, and leads through its pages without another host', async () => {
    const { page, troubles } = await open('');
    assert.match(await page.textContent('h1'), /Fairlead/);
    for (const [name, heading] of [['Concepts', 'Concepts'], ['Errors', 'Errors'], ['From JavaScript', 'fairlead'], ['What it costs', 'Results of the bench']]) {
      await page.locator('.VPSidebar').getByRole('link', { name, exact: true }).click();
      await page.waitForFunction((text) => document.querySelector('h1')?.textContent.toLowerCase().includes(text.toLowerCase()), heading);
    }
    assert.deepEqual(troubles, []);
    await page.close();
  });

  it('is light or dark as its reader is', async () => {
    const shades = await Promise.all(['light', 'dark'].map(async (colorScheme) => {
      const { page } = await open('docs/concepts.html', { colorScheme });
      const shade = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).map(Number));
      await page.close();
      return Math.max(...shade);
    }));
    assert.ok(shades[0] > 200 && shades[1] < 60, shades.join());
  });

  it('finds what is looked for, by itself', async () => {
    const { page, troubles } = await open('docs/concepts.html');
    await page.keyboard.press('Control+k');
    await page.fill('.VPLocalSearchBox input', 'stream_interrupted');
    await page.click('.VPLocalSearchBox .result[href*="docs/errors.html#stream_interrupted"]');
    await page.waitForURL(/docs\/errors\.html#stream_interrupted$/);
    assert.deepEqual(troubles, []);
    await page.close();
  });

  it('fits on a phone', async () => {
    for (const path of ['docs/', 'docs/errors.html', 'docs/deploy.html']) {
      const { page } = await open(path, { viewport: { width: 360, height: 700 } });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), path);
      await page.close();
    }
  });
});
