// Where this code runs, as far as anything depends on it.

/** A page, or a worker of one: everybody who opens it can read what is in it. */
export function inBrowser(): boolean {
  if (typeof window === 'object' && typeof document === 'object') return true;
  // Other runtimes have a worker's global scope, too; only browsers call themselves Mozilla.
  const agent = typeof navigator === 'object' ? navigator.userAgent : undefined;
  return 'WorkerGlobalScope' in globalThis && agent !== undefined && agent.startsWith('Mozilla/');
}

/** What is known to have no way out. */
export const isOffline = (): boolean => typeof navigator === 'object' && navigator.onLine === false;

/** Listens to the page, where there is one; returns how to stop. */
export function listen(target: 'window' | 'document', names: readonly string[], heard: (event: Event) => void): () => void {
  const found = target === 'window' ? (inBrowser() ? globalThis : undefined) : typeof document === 'object' ? document : undefined;
  if (typeof found?.addEventListener !== 'function') return () => {};
  for (const name of names) found.addEventListener(name, heard);
  return () => {
    for (const name of names) found.removeEventListener(name, heard);
  };
}

/** A timer that keeps no process alive. */
export function after(ms: number, run: () => void): () => void {
  const timer: unknown = setTimeout(run, ms);
  (timer as { unref?: () => void }).unref?.();
  return () => clearTimeout(timer as number);
}

/** Tells an error that nobody waits for, as the platform tells one that nobody caught. */
export function report(error: unknown): void {
  if (typeof reportError === 'function') reportError(error);
  else console.error(error);
}
