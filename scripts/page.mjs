// The page to play with that `npm start` serves beside the gateway: pkg-js/demo, and the package that it shows.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { root } from './process.mjs';

const PAGE = join(root, 'pkg-js', 'demo');
const PACKAGE = join(root, 'pkg-js', 'dist');
/** A file of the page, or one of the package below `fairlead/`. No such name leads out of either folder. */
const FILE = /^\/(fairlead\/)?([\w-]+(?:\.[\w-]+)+)$/;
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.map': 'application/json',
};

/**
 * Serves the page on a port that is free.
 * @param {string} host
 * @param {{ gateway: string, servers: { name: string, url: string }[], model: string }} setup what the page may call, as
 *   it reads it from /setup.json
 */
export async function startPage(host, setup) {
  const callable = [setup.gateway, ...setup.servers.map(({ url }) => url)].map((url) => new URL(url).origin);
  const fields = {
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    // All that the package needs: its own file, leave to compile wasm, and the servers that it calls.
    'content-security-policy': `default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src data:; `
      + `connect-src 'self' ${callable.join(' ')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
  };
  const server = createServer(async ({ url, method }, response) => {
    const { type, content } = (await read(url.split('?')[0], setup)) ?? {};
    if (method !== 'GET' && method !== 'HEAD') response.writeHead(405, { allow: 'GET, HEAD' }).end();
    else if (content === undefined) response.writeHead(404).end();
    else response.writeHead(200, { ...fields, 'content-type': type }).end(content);
  });
  server.listen(0, host);
  await once(server, 'listening');
  return {
    url: `http://${host}:${server.address().port}`,
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

async function read(path, setup) {
  if (path === '/setup.json') return { type: 'application/json', content: JSON.stringify(setup) };
  const [, isOfPackage, name] = FILE.exec(path === '/' ? '/index.html' : path) ?? [];
  const type = name && TYPES[extname(name)];
  if (!type) return undefined;
  try {
    return { type, content: await readFile(join(isOfPackage ? PACKAGE : PAGE, name)) };
  } catch {
    return undefined;
  }
}
