// For Node: the wasm is read from the file beside this one.

import { readFile } from 'node:fs/promises';
import { provide } from '../binding.js';
import { wasm } from '../core.js';

export * from '../index.js';

const binding = wasm(async () => WebAssembly.compile(await readFile(new URL('./core.wasm', import.meta.url))));
provide(binding);

/** Loads the wasm now; else the first call does. */
export async function init(): Promise<void> {
  await binding.ready();
}
