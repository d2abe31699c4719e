// `npm run build`: the Worker, as worker-build makes it, in worker/build; and the npm package in pkg-js/dist.
// Without a change to what they are made of there is nothing to do; `--force` builds all the same.

import { delimiter, join } from 'node:path';
import { keepMade, tellSizes } from './made.mjs';
import { buildPackage } from './package.mjs';
import { isMain, main, must, root, step } from './process.mjs';
import { bin, ensurePackages, ensureWasmTools, tool } from './setup.mjs';

/** What all wasm depends on beside its own crate. */
export const COMMON_INPUTS = [
  'src', 'host', 'Cargo.toml', 'Cargo.lock', '.cargo', 'rust-toolchain.toml', 'package-lock.json', 'scripts/setup.mjs',
  'scripts/made.mjs',
];

/** Installs what is missing and brings both up to date. */
export async function build(options) {
  await buildWorker(options);
  await buildPackage(COMMON_INPUTS, options);
}

/** Brings worker/build up to date. */
export async function buildWorker(options) {
  await ensurePackages();
  const inputs = [...COMMON_INPUTS, 'worker/src', 'worker/dashboard/_headers', 'worker/Cargo.toml', 'scripts/build.mjs'];
  const needed = await keepMade('worker/build', inputs, async () => {
    await ensureWasmTools();
    step('Building the Worker', '1 to 2 minutes, less after a small change');
    await must(tool('worker-build'), ['--release'], {
      cwd: join(root, 'worker'), // from the root it would take the core for the Worker
      env: {
        ...process.env,
        PATH: [join(root, 'node_modules', '.bin'), process.env.PATH].join(delimiter),
        // Set, so that worker-build looks for none of them on the network.
        WASM_BINDGEN_BIN: tool('wasm-bindgen'),
        WASM_OPT_BIN: bin('wasm-opt'),
        ESBUILD_BIN: bin('esbuild'),
      },
    });
  }, options);
  if (!needed) step('The Worker is up to date');
  tellSizes('worker/build', ['index.js', 'index_bg.wasm']);
}

if (isMain(import.meta.url)) await main(() => build({ force: process.argv.includes('--force') }));
