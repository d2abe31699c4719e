// For browsers, bundlers and whatever else has WebAssembly: the wasm stands inside, compressed.

import packed from '../../build/inline.js';
import { provide } from '../binding.js';
import { wasm } from '../core.js';

export * from '../index.js';

const binding = wasm(async () => {
  // A blob would take its way through another process of the browser.
  const inflated = new Response(new Response(decoded(packed)).body!.pipeThrough(new DecompressionStream('gzip')));
  return WebAssembly.compile(await inflated.arrayBuffer());
});
provide(binding);

/** Loads the wasm now; else the first call does. */
export async function init(): Promise<void> {
  await binding.ready();
}

/** Browsers can do it since 2025. Before that a loop is the quickest: `Uint8Array.from` takes five times as long. */
function decoded(base64: string): Uint8Array<ArrayBuffer> {
  const { fromBase64 } = Uint8Array as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> };
  if (fromBase64) return fromBase64.call(Uint8Array, base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}
