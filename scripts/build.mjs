// `npm run build`: the Worker, as worker-build makes it, in worker/build.
// Without a change to what it is made of there is nothing to do; `--force` builds all the same.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { isMain, main, must, root, step } from './process.mjs';
import { bin, ensurePackages, ensureWasmTools, tool } from './setup.mjs';

/** All that the bytes of the Worker depend on: sources, compiler, and the tools behind it. */
const INPUTS = [
  'src', 'worker/src', 'worker/Cargo.toml', 'Cargo.toml', 'Cargo.lock', '.cargo', 'rust-toolchain.toml',
  'package-lock.json', 'scripts/setup.mjs', 'scripts/build.mjs',
];
const OUTPUT = join(root, 'worker', 'build');

/** Installs what is missing and brings worker/build up to date. */
export async function build({ force = false } = {}) {
  await ensurePackages();
  const stamp = join(OUTPUT, '.inputs.sha256');
  const wanted = digest(INPUTS);
  if (force || !existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
    await ensureWasmTools();
    rmSync(stamp, { force: true }); // a build that is broken off leaves nothing that passes for whole
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
    writeFileSync(stamp, wanted);
  } else {
    step('The Worker is up to date');
  }
  for (const file of ['index.js', 'index_bg.wasm']) {
    const bytes = readFileSync(join(OUTPUT, file));
    console.log(`  worker/build/${file.padEnd(14)} ${kib(bytes.length)}, ${kib(gzipSync(bytes).length)} gzipped`);
  }
}

function digest(paths) {
  const hash = createHash('sha256');
  const add = (path) => {
    const absolute = join(root, path);
    if (statSync(absolute).isDirectory()) {
      for (const name of readdirSync(absolute).sort()) add(`${path}/${name}`);
    } else {
      hash.update(`${path}\0`).update(readFileSync(absolute)).update('\0');
    }
  };
  paths.forEach(add);
  return hash.digest('hex');
}

const kib = (bytes) => `${(bytes / 1024).toFixed(1).padStart(7)} KiB`;

if (isMain(import.meta.url)) await main(() => build({ force: process.argv.includes('--force') }));
