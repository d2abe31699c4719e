// `npm run docs`: the site, from the pages of `docs/` into docs/.vitepress/dist. With `--serve` it is then served on this
// machine (`PORT`, 4173); `--base /path/` is for a site that does not stand at the root of its host.

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Failure, isMain, main, must, root } from './process.mjs';
import { continueOnPackagedNode, ensurePackages, ensureSiteTools } from './setup.mjs';

const FOLDER = join(root, 'docs');
const VITEPRESS = join(FOLDER, 'node_modules', 'vitepress', 'bin', 'vitepress.js');

/** Builds the site into `outDir`, or where the configuration has it. */
export function buildSite({ base = '/', outDir } = {}) {
  const args = [VITEPRESS, 'build', FOLDER, ...(outDir ? ['--outDir', outDir] : [])];
  return must(process.execPath, args, { env: { ...process.env, DOCS_BASE: base } });
}

if (isMain(import.meta.url)) await main(async () => {
  const { values: { serve, base } } = parseArgs({
    options: { serve: { type: 'boolean', default: false }, base: { type: 'string', default: '/' } },
  });
  if (!/^\/(.+\/)?$/.test(base)) throw new Failure(`--base is ${base}; it begins and ends with a slash.`);
  await ensurePackages();
  await continueOnPackagedNode();
  await ensureSiteTools();
  await buildSite({ base });
  if (serve) await must(process.execPath, [VITEPRESS, 'preview', FOLDER, '--port', process.env.PORT ?? '4173'], {
    env: { ...process.env, DOCS_BASE: base },
  });
});
