// What is wrong now, worst first, in sentences: what an operator would find by reading all of the page.

import { count, duration, many, percent } from './numbers.js';
import { between, placeOf, since, sum, sumOutcomes } from './seen.js';
import { kindOf, outcomeWords, reasonWords, STORE_ERRORS, STORES } from './words.js';

/** Failures of so long ago are not news any more. */
const LATELY_MS = 60_000;
/** One that fails now and then is nothing to point at. */
const MANY_FAIL = 0.05;
/** So many that users talk about it. */
const MOST_FAIL = 0.2;
/** A limit that so much of is used will soon be met. */
const NEAR = 0.8;
const FEW_CALLS = 20;

/**
 * @param {import('./seen.js').Seen} seen
 * @param {number} now by the gateway's clock
 * @returns {{ level: 'bad' | 'warn', text: string, place: string }[]} `place` is the id of the part that shows more
 */
export function findings(seen, now) {
  const { status, past } = seen.isolate;
  const found = [
    ...ofConfig(status, now), ...ofModels(status, past), ...ofEndpoints(status, seen.store), ...ofStore(status, seen.store),
  ];
  return [...found.filter(({ level }) => level === 'bad'), ...found.filter(({ level }) => level === 'warn')];
}

/** Ids of parts of the page: names are not fit for that. */
export const placeOfEndpoint = (at) => `endpoint-${at}`;
export const placeOfModel = (at) => `model-${at}`;

function* ofConfig({ config }, now) {
  if (!config?.refused) return;
  const { at_ms: at, mistakes } = config.refused;
  const text = `A new configuration was refused ${duration(now - at)} ago, for ${many(mistakes.length, 'mistake')}. The last valid one serves on.`;
  yield { level: 'bad', text, place: 'gateway' };
}

function* ofEndpoints({ endpoints }, store) {
  for (const [at, endpoint] of endpoints.entries()) {
    const { name, breakers, in_flight: inFlight, max_concurrency: most, waiting, retry_tokens_left: tokens, jobs } = endpoint;
    const place = placeOfEndpoint(at);
    const open = breakers.filter(({ state }) => state === 'open' || state === 'half_open');
    if (endpoint.isolated) {
      yield { level: 'warn', text: `${name} is isolated: an operator has taken it out.`, place };
    } else if (store?.records.get(placeOf(name))?.state === 'isolated') {
      yield { level: 'warn', text: `${name} is isolated, but this isolate has not heard of it yet.`, place };
    } else if (open.length > 0) {
      const entries = open.length === breakers.length ? '' : ` for ${open.map(({ entry }) => entry).join(', ')}`;
      const all = open.every(({ client }) => client) ? ` (for ${many(open.length, 'client')} only)` : '';
      yield { level: 'bad', text: `${name} is left alone${entries}${all}: ${reasonWords(open[0].reason)}.`, place };
    }
    if (waiting > 0) {
      yield { level: 'warn', text: `${name} is full: ${count(inFlight)} of ${count(most)} calls in flight, ${count(waiting)} in line.`, place };
    }
    if (tokens === 0) yield { level: 'warn', text: `${name} has no retry tokens left: failures there are not tried again.`, place };
    if (jobs && near(jobs.execution_ms, jobs.max_execution_ms)) {
      yield {
        level: 'warn', place,
        text: `${name}: jobs take ${duration(jobs.execution_ms.p95)} at p95, and are ended at ${duration(jobs.max_execution_ms)}.`,
      };
    }
    if (jobs && jobs.in_queue > 0 && jobs.workers === 0) {
      yield { level: 'warn', text: `${name} has ${many(jobs.in_queue, 'job')} in its queue and no worker yet.`, place };
    }
  }
}

function* ofModels({ models }, past) {
  const before = since(past, LATELY_MS);
  for (const [at, model] of models.entries()) {
    const place = placeOfModel(at);
    // Where nothing is known of before, all that there is counts.
    const lately = past.length > 1 ? between(before.models[model.name], model.outcomes) : model.outcomes;
    const { calls, failed } = sumOutcomes([lately]);
    if (failed > 0 && failed / calls >= MANY_FAIL) {
      const [worst] = Object.entries(lately).filter(([outcome]) => kindOf(outcome) === 'failed').sort((a, b) => b[1] - a[1])[0];
      const span = past.length > 1 ? ` in the last ${duration(past.at(-1).at - before.at)}` : '';
      const text = `${model.name}: ${count(failed)} of ${many(calls, 'call')}${span} failed (${percent(failed, calls)}), mostly as ${worst}: ${outcomeWords(worst)}.`;
      yield { level: failed / calls >= MOST_FAIL ? 'bad' : 'warn', text, place };
    }
    const { first_token_ms: firstToken, deadline_ms: deadline } = model.policy;
    if (near(model.first_content_ms, firstToken)) {
      yield { level: 'warn', place, text: `${model.name}: the first content takes ${duration(model.first_content_ms.p95)} at p95, and the timer ends an attempt at ${duration(firstToken)}.` };
    }
    if (near(model.total_ms, deadline)) {
      yield { level: 'warn', place, text: `${model.name}: calls take ${duration(model.total_ms.p95)} at p95, and are ended at ${duration(deadline)}.` };
    }
  }
}

function* ofStore(status, store) {
  if (status.store.kind === 'none') return;
  const { name } = STORES[status.store.kind] ?? { name: status.store.kind };
  const why = store?.error ? STORE_ERRORS[store.error] ?? store.error : status.store.failed_at_ms && 'it has failed this isolate’s calls';
  if (why) yield { level: 'warn', text: `The store (${name}) does not answer: ${why}. Isolates hear nothing of each other.`, place: 'gateway' };
}

const near = (times, limit) => times.count >= FEW_CALLS && limit > 0 && times.p95 >= NEAR * limit;

/** One line for all of it. */
export function verdict(found, status) {
  const bad = found.filter(({ level }) => level === 'bad').length;
  if (bad > 0) return { level: 'bad', text: `${many(bad, 'problem')} now` };
  if (found.length > 0) return { level: 'warn', text: `${many(found.length, 'thing')} to look at` };
  const calls = status.models.reduce((all, { outcomes }) => all + sum(outcomes), 0);
  return { level: 'ok', text: calls === 0 ? 'All well; no calls yet' : 'All well' };
}
