// Somebody's Worker that asks a gateway: a program and the packages that it imports, in one module, run in workerd.

import { build } from 'esbuild';
import { Miniflare } from 'miniflare';

/**
 * @param {string} code a module with a handler; the gateway's URL is in `env.BASE_URL`
 * @param {object} options
 * @param {string} options.folder where its imports are looked for
 * @param {string} options.baseUrl
 * @param {string[]} [options.flags] of compatibility
 * @returns {Promise<Miniflare>} ask it by `dispatchFetch`, and `dispose` of it
 */
export async function startClientWorker(code, { folder, baseUrl, flags = [] }) {
  const { outputFiles: [{ text: contents }] } = await build({
    stdin: { contents: code, resolveDir: folder }, bundle: true, format: 'esm', write: false,
    conditions: ['workerd', 'worker'], external: ['node:*'],
  });
  return new Miniflare({
    cf: false, telemetry: { enabled: false }, enableDevRegistry: false,
    workers: [{
      config: {
        name: 'somebody-elses', compatibilityDate: '2026-11-01', compatibilityFlags: flags,
        manifest: { mainModule: 'index.js', modulesRoot: folder, modules: { 'index.js': { type: 'esm', contents } } },
        env: { BASE_URL: { type: 'text', value: baseUrl } },
      },
    }],
  });
}
