// Pages in a real browser that have the built package in them: pkg-js/dist, served as it is from an origin of their own
// on loopback. A page is blank; what a test wants of it, it evaluates there, where start.js has left the package as
// `fairlead` and some words to tell what came of a call.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';
import { ensureChromium } from '../../scripts/setup.mjs';

const DIST = new URL('../../pkg-js/dist/', import.meta.url);
const START = new URL('start.js', import.meta.url);
const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.map': 'application/json' };

const ARGUMENTS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--no-proxy-server', '--enable-precise-memory-info',
];

/** What Chromium itself writes to the console of each request that fails, whoever handles the failure. */
const OF_THE_NETWORK = /^Failed to load resource: |^Access to fetch at .* has been blocked by CORS policy/;

/** The headers of a page that lets nothing in but its own scripts, and wasm, which must be said. */
export const STRICT_CSP = [
  "default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "connect-src 'self' http://127.0.0.1:*",
].join('; ');

/** One browser and one origin for a test file. */
export async function startPages() {
  const pages = new Pages();
  await pages.start();
  return pages;
}

class Pages {
  /** What nobody was ready for: rejections without a handler, exceptions, and errors on the console. */
  troubles = [];
  #browser;
  #server = createServer((request, response) => this.#serve(new URL(request.url, this.origin), response));
  /** Folders, by the first part of a path. */
  #folders = new Map([['fairlead', DIST]]);

  async start() {
    const executablePath = await ensureChromium();
    await new Promise((resolve, reject) => {
      this.#server.once('error', reject).listen(0, '127.0.0.1', resolve);
    });
    this.#browser = await chromium.launch({ executablePath, args: ARGUMENTS }); // each with a profile of its own
  }

  get origin() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** The browser's version, as in "156.0.8078.79". */
  get version() {
    return this.#browser.version();
  }

  /** A profile: its tabs share storage, and nobody else does. */
  context(options) {
    return this.#browser.newContext(options);
  }

  /** Serves a folder, too; `open({ path: '/name/…' })` opens a page in it. */
  serve(name, folder) {
    this.#folders.set(name, pathToFileURL(join(folder, '/')));
  }

  /**
   * A page that is loaded, in a profile of its own unless one is given.
   * @param {object} [wishes]
   * @param {string} [wishes.entry] the module of the package that becomes `fairlead`; none where it is empty
   * @param {string} [wishes.csp] its Content-Security-Policy
   * @param {string} [wishes.path] a page of somebody else's instead
   */
  async open({ context, entry = 'index.js', csp = '', path = `/?${new URLSearchParams({ entry, csp })}` } = {}) {
    const page = await (context ?? (await this.context())).newPage();
    page.on('pageerror', (error) => this.troubles.push(String(error.stack ?? error)));
    page.on('console', (message) => {
      if (message.type() === 'error' && !OF_THE_NETWORK.test(message.text())) this.troubles.push(message.text());
    });
    await page.goto(`${this.origin}${path}`);
    return page;
  }

  async close() {
    await this.#browser?.close();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve({ pathname, searchParams }, response) {
    try {
      const { type, body, csp } = await this.#file(pathname, searchParams);
      response.writeHead(200, {
        'content-type': type,
        'access-control-allow-origin': '*', // a sandboxed page is of no origin, not even this one
        'cache-control': 'no-store',
        ...(csp && { 'content-security-policy': csp }),
      });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  }

  async #file(path, wishes) {
    const type = TYPES[extname(path)] ?? 'text/html; charset=utf-8';
    if (path === '/') return { type, csp: wishes.get('csp'), body: blank(wishes.get('entry')) };
    if (path === '/start.js') return { type, body: started(wishes.get('entry'), await readFile(START, 'utf8')) };
    const [, name, rest] = /^\/([^/]+)\/(.+)$/.exec(path); // a URL's path has no dots left that lead upwards
    return { type, body: await readFile(new URL(rest, this.#folders.get(name))) };
  }
}

/** The package is imported at the top, so that the page's `load` waits for it. */
function started(entry, rest) {
  return `import * as fairlead from '/fairlead/${entry}';\nglobalThis.fairlead = fairlead;\n${rest}`;
}

function blank(entry) {
  const start = entry && `<script type="module" src="/start.js?entry=${encodeURIComponent(entry)}"></script>`;
  return `<!DOCTYPE html><html lang="en"><title>Fairlead</title>${start}</html>`;
}
