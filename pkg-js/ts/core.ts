// The wasm, brought to life at the first call; and another instance in place of one that has trapped. What wasm-bindgen
// writes (`../build/core.js`) has room for one instance at a time.

import { adopt, Core as Glue, imports } from '../build/core.js';
import type { Binding, Host, Instance } from './binding.js';

/** The wasm that `compile` gives. If that fails, the next call tries again. */
export function wasm(compile: () => Promise<WebAssembly.Module>): Binding {
  let compiled: WebAssembly.Module | undefined;
  let coming: Promise<Instance> | undefined;

  async function start(): Promise<Instance> {
    compiled ??= await compile();
    const trap = new AbortController();
    const { exports } = await WebAssembly.instantiate(compiled, imports());
    adopt({ exports: watched(exports, trap) }, compiled);
    const forget = () => {
      coming = undefined;
    };
    trap.signal.addEventListener('abort', forget, { once: true });
    return { trapped: trap.signal, create: (config, host) => new Glue(config, letGo(host, trap.signal)) };
  }

  return {
    ready() {
      coming ??= start().catch((error: unknown) => {
        coming = undefined;
        throw error;
      });
      return coming;
    },
  };
}

/** A host whose requests end with the instance: nobody reads their answers any more, and an endpoint works for them. */
function letGo(host: Host, trapped: AbortSignal): Host {
  return {
    ...host,
    fetch: (url, init) => {
      const signals = [init.signal!, trapped];
      // Browsers have it since March 2024; without it the answers of a core that traps are read to their ends.
      return host.fetch(url, AbortSignal.any ? { ...init, signal: AbortSignal.any(signals) } : init);
    },
  };
}

/**
 * The exports of an instance. The first exception that comes out of one is a trap, for wasm-bindgen throws its own
 * outside of them: what Rust was about stays half done, so nobody enters any more.
 */
function watched(exports: WebAssembly.Exports, trap: AbortController): WebAssembly.Exports {
  const watch = (call: (...args: unknown[]) => unknown) => (...args: unknown[]) => {
    if (trap.signal.aborted) return 0;
    try {
      return call(...args);
    } catch (error) {
      trap.abort(error);
      throw error;
    }
  };
  return Object.fromEntries(Object.entries(exports).map(([name, value]) => (
    [name, typeof value === 'function' ? watch(value as () => unknown) : value]
  ))) as WebAssembly.Exports;
}
