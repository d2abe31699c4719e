// What the page has seen so far. Each answer is one isolate's, and the next may be another's: each has counts of its own,
// which are kept apart. What the store says, and which calls there were, is true whoever tells it.

import { kindOf } from './words.js';

/** So much of the past is drawn. */
const PAST_MS = 5 * 60_000;
/** One that has been silent for so long may be gone; another that answers takes its place. */
const SILENT_MS = 20_000;
const MOST_CALLS = 200;
const MOST_ISOLATES = 50;

export class Seen {
  /** By id: the last status, when it came, and the counts before it. */
  isolates = new Map();
  /** The id of the isolate that is shown. */
  shown = undefined;
  /** Whether the reader has chosen it. */
  isChosen = false;
  /** What the store has said last: its own state, and the records by endpoint and entry. */
  store = undefined;
  /** Newest first, of all isolates. */
  calls = [];

  /**
   * @param {object} status as GET /status gives it
   * @param {number} at when it came, by this page's clock
   * @param {boolean} withStore whether the store was asked for it
   */
  take(status, at, withStore) {
    const { id } = status.isolate;
    const isolate = this.isolates.get(id) ?? { id, past: [] };
    Object.assign(isolate, { status, at, ahead: status.now_ms - at });
    isolate.past = [...isolate.past, pointOf(status, at)].filter((point) => at - point.at <= PAST_MS);
    this.isolates.delete(id);
    this.isolates.set(id, isolate); // the last to answer is the last in line
    if (this.isolates.size > MOST_ISOLATES) this.isolates.delete(this.isolates.keys().next().value);
    this.#choose(id, at);
    if (withStore) this.store = { ...status.store, at, records: recordsOf(status) };
    this.#addCalls(id, status.calls ?? []);
  }

  /** As at the beginning. */
  forget() {
    this.isolates.clear();
    Object.assign(this, { shown: undefined, isChosen: false, store: undefined, calls: [] });
  }

  choose(id) {
    this.isChosen = this.isolates.has(id);
    if (this.isChosen) this.shown = id;
  }

  get isolate() {
    return this.isolates.get(this.shown);
  }

  call(requestId) {
    return this.calls.find((call) => call.request_id === requestId);
  }

  #choose(id, at) {
    const shown = this.isolates.get(this.shown);
    if (!shown || (!this.isChosen && at - shown.at > SILENT_MS)) {
      this.shown = id;
      this.isChosen = false;
    }
  }

  #addCalls(isolate, calls) {
    const known = new Set(this.calls.map(({ key }) => key));
    const fresh = calls.map((call) => ({ ...call, isolate, key: `${isolate} ${call.request_id} ${call.at_ms}` }));
    const added = fresh.filter(({ key }) => !known.has(key));
    this.calls = [...added, ...this.calls].sort((a, b) => b.at_ms - a.at_ms).slice(0, MOST_CALLS);
  }
}

/** The counts of a moment, from which those of a span are told. */
function pointOf({ models, endpoints }, at) {
  return {
    at,
    ...sumOutcomes(models.map(({ outcomes }) => outcomes)),
    models: Object.fromEntries(models.map(({ name, outcomes }) => [name, outcomes])),
    endpoints: Object.fromEntries(endpoints.map(({ name, attempts, failures }) => [name, { attempts, failures: sum(failures) }])),
  };
}

export const sum = (counts) => Object.values(counts ?? {}).reduce((all, each) => all + each, 0);

/** All calls, and those that failed. */
export function sumOutcomes(list) {
  let [calls, failed] = [0, 0];
  for (const outcomes of list) {
    for (const [outcome, times] of Object.entries(outcomes)) {
      calls += times;
      if (kindOf(outcome) === 'failed') failed += times;
    }
  }
  return { calls, failed };
}

/** The point from which a span is counted: the last one before it, or the first that there is. */
export function since(past, spanMs) {
  const now = past.at(-1);
  return past.findLast(({ at }) => now.at - at >= spanMs) ?? past[0];
}

/** What was counted between two moments; an entry that is new began with nothing. */
export function between(before, after) {
  const counts = Object.entries(after ?? {}).map(([name, times]) => [name, times - (before?.[name] ?? 0)]);
  return Object.fromEntries(counts.filter(([, times]) => times > 0));
}

function recordsOf({ endpoints }) {
  const records = new Map();
  for (const endpoint of endpoints) {
    records.set(placeOf(endpoint.name), endpoint.stored);
    for (const breaker of endpoint.breakers) records.set(placeOf(endpoint.name, breaker.entry), breaker.stored);
  }
  return records;
}

/** Where a record stands: an operator's own without an entry. */
export const placeOf = (endpoint, entry) => JSON.stringify([endpoint, entry]);
