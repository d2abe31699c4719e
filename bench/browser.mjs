// Chromium, and the origin on loopback that its pages come from: gzipped, as a CDN has them, and never cached.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { extname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { chromium } from 'playwright-core';
import { ensureChromium } from '../scripts/setup.mjs';

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.wasm': 'application/wasm' };

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
  return {
    version: browser.version(),
    origin: `http://127.0.0.1:${server.address().port}`,
    newContext: () => browser.newContext(),
    async stop() {
      await browser.close();
      server.closeAllConnections();
      server.close();
    },
  };
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
