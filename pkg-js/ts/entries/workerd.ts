// For Cloudflare Workers, which compile no wasm while they run: it is imported as a module.

import module from './core.wasm';
import { provide } from '../binding.js';
import { wasm } from '../core.js';

export * from '../index.js';

const binding = wasm(async () => module);
provide(binding);

/** Makes the instance now; else the first call does. */
export async function init(): Promise<void> {
  await binding.ready();
}
