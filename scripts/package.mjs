// The npm package: pkg-js/build is the wasm with wasm-bindgen's glue, pkg-js/dist what is published.

import { appendFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { keepMade, tellSizes } from './made.mjs';
import { capture, Failure, must, root, step } from './process.mjs';
import { bin, ensurePackages, ensureWasmTools, tool, TARGET } from './setup.mjs';

const BUILD = 'pkg-js/build';
const DIST = 'pkg-js/dist';
/** What `import "fairlead"` leads to, by who asks. */
const ENTRIES = ['index', 'node', 'workerd', 'slim'];

/** What every browser with simd128 has (since March 2023), and no more: `wasm-opt` would use what is newer, too. */
const FEATURES = [
  'bulk-memory', 'nontrapping-float-to-int', 'sign-ext', 'mutable-globals', 'reference-types', 'multivalue', 'simd',
].map((feature) => `--enable-${feature}`);

/** Brings pkg-js/dist up to date. */
export async function buildPackage(inputs, options) {
  await ensurePackages();
  const own = ['pkg-js/src', 'pkg-js/Cargo.toml', 'scripts/package.mjs'];
  const isNew = await keepMade(BUILD, [...inputs, ...own], makeWasm, options);
  const face = ['pkg-js/ts', 'pkg-js/tsconfig.json', 'pkg-js/package.json'];
  const needed = await keepMade(DIST, [...inputs, ...own, ...face], makeFace, { ...options, force: isNew || options?.force });
  if (!needed) step('The npm package is up to date');
  tellSizes(DIST, ['core.wasm', ...ENTRIES.map((name) => `${name}.js`)]);
}

async function makeWasm() {
  await ensureWasmTools();
  step('Building the npm package: wasm', '1 minute, less after a small change');
  await must('cargo', ['build', '--release', '--package', 'fairlead-js', '--target', TARGET]);
  const { target_directory: targets } = JSON.parse(capture('cargo', ['metadata', '--no-deps', '--format-version', '1']));
  rmSync(join(root, BUILD), { recursive: true, force: true });
  await must(tool('wasm-bindgen'), [
    // What is left of an instance that has trapped must not enter the next.
    '--target', 'web', '--experimental-reset-state-function', '--out-dir', BUILD, '--out-name', 'core',
    join(targets, TARGET, 'release', 'fairlead_js.wasm'),
  ]);
  await must(bin('wasm-opt'), ['-Oz', '--one-caller-inline-max-function-size=50', ...FEATURES, `${BUILD}/core_bg.wasm`, '-o', `${BUILD}/core.wasm`]);
  const glue = join(root, BUILD, 'core.js');
  writeFileSync(glue, opened(readFileSync(glue, 'utf8')));
  appendFileSync(join(root, BUILD, 'core.d.ts'), `
export function imports(): WebAssembly.Imports;
export function adopt(instance: { exports: WebAssembly.Exports }, module: WebAssembly.Module): void;
`);
}

/**
 * wasm-bindgen's glue, so that ts/core.ts makes the instances, one behind another: its own way waits for nothing but
 * keeps no watch over them. What an instance has left behind, a timer for one, comes to nothing in the next.
 */
function opened(glue) {
  const stale = "throw new Error('Cannot invoke closure from previous WASM instance');";
  for (const expected of [stale, 'function __wbg_get_imports()', 'function __wbg_finalize_init(instance, module)', 'let __wbg_instance_id']) {
    if (!glue.includes(expected)) throw new Failure(`The glue of this wasm-bindgen has changed: it has no ${expected}`);
  }
  return `${glue.replace(stale, 'return;')}
export { __wbg_get_imports as imports };
export function adopt(instance, module) {
    __wbg_instance_id++;
    __wbg_finalize_init(instance, module);
}
`;
}

async function makeFace() {
  step('Building the npm package: JavaScript and types', '10 s');
  const out = join(root, DIST);
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const wasm = readFileSync(join(root, BUILD, 'core.wasm'));
  writeFileSync(join(out, 'core.wasm'), wasm);
  // Base64 of what is compressed already costs the wire 2 % more than the wasm by itself, of the wasm it would be 44 %.
  const inline = `export default ${JSON.stringify(gzipSync(wasm, { level: 9 }).toString('base64'))};\n`;
  writeFileSync(join(root, BUILD, 'inline.js'), inline);
  writeFileSync(join(root, BUILD, 'inline.d.ts'), 'declare const packed: string;\nexport default packed;\n');
  const shared = [
    '--bundle', '--format=esm', '--target=es2022', '--minify', '--sourcemap', '--legal-comments=linked',
    '--external:./core.wasm', '--log-level=warning',
  ];
  for (const name of ENTRIES) {
    const platform = name === 'node' ? 'node' : 'neutral';
    await must(bin('esbuild'), [`pkg-js/ts/entries/${name}.ts`, ...shared, `--platform=${platform}`, `--outfile=${DIST}/${name}.js`]);
  }
  await must(bin('tsc'), ['--project', 'pkg-js/tsconfig.json']);
  for (const licence of ['LICENSE-MIT', 'LICENSE-APACHE']) cpSync(join(root, licence), join(root, 'pkg-js', licence));
}
