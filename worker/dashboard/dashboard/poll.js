// When the gateway is asked again: every two seconds while somebody looks, and never twice at a time.

const EVERY_MS = 2000;
/** The store counts its reads, and a minute old is as fresh as KV gets. */
const STORE_EVERY_MS = 30_000;

export class Poll {
  #ask;
  #timer;
  #asking = false;
  #again = false;
  #storeAt = -Infinity;
  isPaused = false;
  isRunning = false;

  /** @param {(wishes: { store: boolean }) => Promise<void>} ask never rejects */
  constructor(ask) {
    this.#ask = ask;
    document.addEventListener('visibilitychange', () => this.now());
  }

  start() {
    this.isRunning = true;
    this.now({ store: true });
  }

  stop() {
    this.isRunning = false;
    clearTimeout(this.#timer);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.now();
  }

  /** Asks at once: something has happened. A paused page asks for what its reader has done. */
  now({ store = false, evenPaused = false } = {}) {
    if (store) this.#storeAt = -Infinity;
    clearTimeout(this.#timer);
    if (!this.isRunning || document.hidden || (this.isPaused && !evenPaused)) return;
    if (this.#asking) this.#again = true;
    else this.#turn();
  }

  async #turn() {
    this.#asking = true;
    this.#again = false;
    const store = performance.now() - this.#storeAt >= STORE_EVERY_MS;
    if (store) this.#storeAt = performance.now();
    try {
      await this.#ask({ store });
    } finally {
      // Whatever was wrong with one answer, the next is asked for.
      this.#asking = false;
      this.#next();
    }
  }

  #next() {
    if (!this.isRunning || document.hidden) return;
    if (this.#again) this.#turn();
    else if (!this.isPaused) this.#timer = setTimeout(() => this.now(), EVERY_MS);
  }
}
