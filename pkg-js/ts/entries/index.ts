// For browsers, bundlers and whatever else has WebAssembly: the wasm stands inside, compressed.

import packed from '../../build/inline.js';
import { provide } from '../binding.js';
import { wasm } from '../core.js';

export * from '../index.js';

const binding = wasm(async () => {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const inflated = new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip')));
  return WebAssembly.compile(await inflated.arrayBuffer());
});
provide(binding);

/** Loads the wasm now; else the first call does. */
export async function init(): Promise<void> {
  await binding.ready();
}
