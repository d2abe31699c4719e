// Chromium, and the origin on loopback that its pages come from: gzipped, as a CDN has them, and never cached.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { extname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { chromium } from 'playwright-core';
import { ensureChromium } from '../scripts/setup.mjs';

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.wasm': 'application/wasm' };
const QUIET = { spanMs: 150, atMostMs: 3000 };

/**
 * Starts both.
 * @param files by path, what is there to GET
 * @param streams by path, what a POST is answered with: `writes`, one every `paceMs` or as fast as they are taken
 */
export async function startBrowser(files, streams) {
  const packed = new Map(Object.entries(files).map(([path, body]) => [path, gzipSync(body, { level: 9 })]));
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://origin');
    if (request.method === 'POST') void stream(streams[pathname], request, response);
    else file(pathname, packed.get(pathname), response);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const browser = await chromium.launch({
    executablePath: await ensureChromium(),
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--no-proxy-server'],
  });
  const origin = `http://127.0.0.1:${server.address().port}`;
  return {
    version: browser.version(),
    /** A page of the origin's, in a profile of its own, once the browser has no more work with its new window. */
    async open(path) {
      const context = await browser.newContext();
      const page = await context.newPage();
      await page.goto(`${origin}${path}`);
      await quiet(browser);
      return { context, page };
    },
    async stop() {
      await browser.close();
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Resolves when its processes have taken less than a tenth of a core for a while; on a busy machine after some seconds. */
async function quiet(browser) {
  const devtools = await browser.newBrowserCDPSession();
  const cpuMs = async () => {
    const { processInfo } = await devtools.send('SystemInfo.getProcessInfo');
    return processInfo.reduce((sum, { cpuTime }) => sum + cpuTime * 1000, 0);
  };
  const end = performance.now() + QUIET.atMostMs;
  for (let before = await cpuMs(); performance.now() < end;) {
    await sleep(QUIET.spanMs);
    const now = await cpuMs();
    if (now - before < QUIET.spanMs / 10) break;
    before = now;
  }
  await devtools.detach();
}

function file(path, body, response) {
  if (!body) return response.writeHead(404).end();
  const type = TYPES[extname(path)];
  return response.writeHead(200, {
    'content-type': type, 'content-encoding': 'gzip', 'content-length': body.length, 'cache-control': 'no-store',
  }).end(body);
}

/** Each write is handed to the kernel before the next. */
async function stream({ writes, paceMs = 0 }, request, response) {
  for await (const _ of request);
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  for (const write of writes) {
    if (response.destroyed) return;
    if (paceMs > 0) await sleep(paceMs);
    await new Promise((resolve) => response.write(write, resolve));
  }
  response.end();
}
