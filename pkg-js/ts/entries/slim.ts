// Without the wasm: whoever uses this says where it is, so that it is compiled while it loads, and a
// Content-Security-Policy needs to allow no more than `'wasm-unsafe-eval'`.

import { provide } from '../binding.js';
import { wasm } from '../core.js';

export * from '../index.js';

/** Where the wasm comes from: `fairlead/core.wasm` by its URL, a response with it, its bytes, or compiled. */
export type WasmSource = string | URL | Response | ArrayBuffer | ArrayBufferView<ArrayBuffer> | WebAssembly.Module;

let source: WasmSource | Promise<WasmSource> | undefined;

const binding = wasm(async () => {
  if (source === undefined) throw new Error('fairlead/slim has no wasm of its own: call init() with the URL of fairlead/core.wasm first.');
  const found = await source;
  if (found instanceof WebAssembly.Module) return found;
  if (ArrayBuffer.isView(found) || found instanceof ArrayBuffer) return WebAssembly.compile(found);
  const response = found instanceof Response ? found : await fetch(found);
  if (!response.ok) throw new Error(`The wasm of fairlead could not be loaded: HTTP ${response.status}.`);
  if (response.headers.get('content-type') === 'application/wasm') return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
});
provide(binding);

/**
 * Loads the wasm now, from here.
 * @throws Error where it cannot be loaded; then it may be called again
 */
export async function init(from: WasmSource | Promise<WasmSource>): Promise<void> {
  source = from;
  await binding.ready();
}
