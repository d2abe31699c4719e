// RunPod's rate limits, for each operation of one endpoint: requests within ten seconds, and at a time.
// What they are is documented (docs, serverless/endpoints/operation-reference); how a 429 looks is not.

/** [requests per window, at a time] */
const DOCUMENTED = {
  run: [1000, 200],
  runsync: [2000, 400],
  status: [2000, 400],
  'status-sync': [2000, 400],
  stream: [2000, 400],
  cancel: [100, 20],
  'purge-queue': [2, Infinity],
  openai: [2000, 400],
};
const NONE = [Infinity, Infinity];

export class Limits {
  #operations = new Map();
  #windowMs;
  #overrides;

  /** @param options `limits`: overrides of the table above; `limitWindowMs` */
  constructor({ limits, limitWindowMs }) {
    this.#windowMs = limitWindowMs;
    this.#overrides = limits;
  }

  /** A function that tells of the request's end, or null where there have been too many. */
  enter(operation) {
    const seen = this.#seen(operation);
    const [perWindow, concurrent] = this.#overrides[operation] ?? DOCUMENTED[operation] ?? NONE;
    const now = Date.now();
    seen.recent = seen.recent.filter((at) => at > now - this.#windowMs);
    // Refused ones are counted too: the peaks show what a client tried.
    seen.recent.push(now);
    seen.underWay += 1;
    seen.peak.perWindow = Math.max(seen.peak.perWindow, seen.recent.length);
    seen.peak.concurrent = Math.max(seen.peak.concurrent, seen.underWay);
    seen.peak.total += 1;
    if (seen.recent.length <= perWindow && seen.underWay <= concurrent) return () => { seen.underWay -= 1; };
    seen.underWay -= 1;
    seen.peak.refused += 1;
    return null;
  }

  /** For each operation that was asked for: { total, perWindow, concurrent, refused }, the middle two at their peak. */
  get peaks() {
    return Object.fromEntries([...this.#operations].map(([name, { peak }]) => [name, { ...peak }]));
  }

  #seen(operation) {
    if (!this.#operations.has(operation)) {
      const peak = { total: 0, perWindow: 0, concurrent: 0, refused: 0 };
      this.#operations.set(operation, { recent: [], underWay: 0, peak });
    }
    return this.#operations.get(operation);
  }
}
