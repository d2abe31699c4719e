// The endpoints: who is asked, who is left alone and for how long, and how the calls there fare.

import { histogram, share } from './charts.js';
import { h } from './dom.js';
import { placeOfEndpoint } from './findings.js';
import { ago, count, countdown, duration, many, percent } from './numbers.js';
import { placeOf, sum } from './seen.js';
import { reasonWords, STATES } from './words.js';

/** @param {import('./seen.js').Seen} seen @param {number} now by the gateway's clock */
export function endpointsView(seen, now) {
  const { endpoints } = seen.isolate.status;
  return endpoints.map((endpoint, at) => endpointView(endpoint, at, seen.store, now));
}

function endpointView(endpoint, at, store, now) {
  const { name, provider, isolated, breakers, attempts = 0, failures = {} } = endpoint;
  const stored = store?.records.get(placeOf(name));
  const state = stateOf(endpoint);
  const failed = sum(failures);
  const title = `${placeOfEndpoint(at)}-name`;
  return h('article', { class: `card is-${state.kind}`, id: placeOfEndpoint(at), 'data-key': name, 'aria-labelledby': title, tabindex: -1 },
    h('div', { class: 'card-head' },
      h('h3', { id: title }, name), h('span', { class: 'tag' }, provider),
      h('span', { class: `state of-${state.kind}` }, state.text)),
    h('dl', { class: 'figures' },
      figure('In flight', inFlightWords(endpoint)),
      figure('In line', count(endpoint.waiting)),
      figure('Attempts', count(attempts)),
      figure('Failed', failed > 0 ? `${count(failed)} (${percent(failed, attempts)})` : '0', failed > 0 && 'of-failed'),
      figure('First token', endpoint.first_token_ms === null ? '–' : `${duration(endpoint.first_token_ms)}`, '', 'the moving average'),
      figure('Retry tokens', count(endpoint.retry_tokens_left), endpoint.retry_tokens_left === 0 && 'of-failed', 'left for repeats'),
      endpoint.jobs && queueFigures(endpoint.jobs, now)),
    attempts > 0 && share([{ kind: 'ok', count: attempts - failed }, { kind: 'failed', count: failed }],
      `${count(attempts - failed)} attempts went well, ${count(failed)} failed`),
    failed > 0 && h('ul', { class: 'counts' }, Object.entries(failures).sort((a, b) => b[1] - a[1]).map(([reason, times]) =>
      h('li', null, h('b', null, count(times)), ' ', reasonWords(reason), ' ', h('code', null, reason)))),
    breakersView(breakers, name, store, now),
    h('div', { class: 'card-foot' },
      h('span', { class: 'soft' }, storedWords(stored, store, now) ?? ''),
      h('button', { type: 'button', 'data-act': 'isolate', 'data-endpoint': name, disabled: isolated && stored?.state === 'isolated' },
        'Isolate', h('span', { class: 'sr' }, ` ${name}`)),
      h('button', { type: 'button', 'data-act': 'close', 'data-endpoint': name }, 'Close breakers', h('span', { class: 'sr' }, ` of ${name}`))));
}

/** RunPod's own numbers are as old as the last question to it: while a worker is known to be at work, there is none. */
function queueFigures({ in_queue: queue, workers, cold_starts: cold, looked_at_ms: at }, now) {
  const told = at ? `as RunPod said ${ago(now - at)}` : 'RunPod was not asked yet';
  return [
    figure('RunPod queue', queue === null ? '–' : many(queue, 'job'), '', told),
    figure('Workers', count(workers), '', told),
    figure('Cold starts', count(cold)),
  ];
}

/** What it comes to for calls. */
function stateOf({ isolated, breakers }) {
  if (isolated) return { kind: 'isolated', text: 'Isolated' };
  const open = breakers.filter(({ state }) => state === 'open');
  if (open.length > 0) return { kind: 'open', text: open.length === breakers.length ? 'Left alone' : `Left alone for ${open.length} of ${many(breakers.length, 'model')}` };
  if (breakers.some(({ state }) => state === 'half_open')) return { kind: 'half', text: 'To be probed' };
  if (breakers.length === 0) return { kind: 'off', text: 'Serves no model' };
  return breakers.every(({ state }) => state === 'off') ? { kind: 'off', text: 'No breaker' } : { kind: 'closed', text: 'In service' };
}

function inFlightWords({ in_flight: now, max_concurrency: most }) {
  return most === null ? count(now) : `${count(now)} of ${count(most)}`;
}

export function figure(name, value, kind, title) {
  return h('div', { title: title || false }, h('dt', null, name), h('dd', { class: kind || false }, value));
}

/** Those that keep calls away at once, and the rest folded. */
function breakersView(breakers, endpoint, store, now) {
  const isNews = ({ state, entry }) => state === 'open' || state === 'half_open' || store?.records.get(placeOf(endpoint, entry))?.state === 'open';
  const view = (breaker) => breakerView(breaker, store?.records.get(placeOf(endpoint, breaker.entry)), store, now);
  const news = breakers.filter(isNews);
  const rest = breakers.filter((breaker) => !isNews(breaker));
  return [
    news.length > 0 && h('ul', { class: 'breakers', 'data-key': 'news' }, news.map(view)),
    rest.length > 0 && h('details', { 'data-key': 'rest' },
      h('summary', null, `${many(rest.length, 'breaker')} ${rest.every(({ state }) => state === 'off') ? 'off' : 'closed'}`),
      h('ul', { class: 'breakers' }, rest.map(view))),
  ];
}

function breakerView(breaker, stored, store, now) {
  const { entry, state, until_ms: until, client, reason, calls, failures, in_a_row: inARow } = breaker;
  const left = until === null ? null : until - now;
  const facts = [
    state === 'open' && left !== null && (left > 0 ? ['tried again in ', h('b', { class: 'count' }, countdown(left))] : 'the next call may try it'),
    state === 'half_open' && 'the next call may try it',
    client && `for client ${client} only`,
    state !== 'closed' && reason && [reasonWords(reason), ' ', h('code', null, reason)],
    calls > 0 && `${count(failures)} of ${many(calls, 'call')} in the window failed`,
    inARow > 1 && `${count(inARow)} in a row`,
    storedWords(stored, store, now),
  ].filter(Boolean);
  return h('li', { 'data-key': entry },
    h('span', { class: `state of-${{ open: 'open', half_open: 'half', off: 'off' }[state] ?? 'closed'}` }, STATES[state] ?? state), ' ',
    h('b', { class: 'name' }, entry),
    h('span', { class: 'soft' }, facts.map((fact) => [' · ', fact])));
}

/** What the store says: the same for all isolates. */
function storedWords(record, store, now) {
  if (!record || !store) return undefined;
  const left = record.state === 'open' && record.open_until_ms > now ? ` for ${countdown(record.open_until_ms - now)}` : '';
  return ['fleet-wide: ', `${STATES[record.state] ?? record.state}${left}`, `, told ${ago(Math.max(0, now - record.at_ms))}`];
}

/** How long jobs stand in RunPod's queues, and how long they are worked at, beside what they may take. */
export function jobsView({ endpoints }) {
  return endpoints.map(({ name, jobs }, at) => jobs && h('article', { class: 'card wide', 'data-key': name, 'aria-labelledby': `jobs-${at}-name` },
    h('div', { class: 'card-head' }, h('h3', { id: `jobs-${at}-name` }, name), h('span', { class: 'tag' }, 'runpod')),
    h('div', { class: 'columns' },
      times('Time in the queue', jobs.queue_ms, []),
      times('Time at work', jobs.execution_ms, jobs.max_execution_ms > 0 ? [{ name: `limit ${duration(jobs.max_execution_ms)}`, ms: jobs.max_execution_ms }] : []))));
}

/** A histogram with its percentiles in words below. */
export function times(title, distribution, limits) {
  return h('figure', null,
    h('figcaption', null, title, ' ', h('span', { class: 'soft' }, distribution.count > 0 ? `${count(distribution.count)} measured` : 'none measured yet')),
    distribution.count > 0 && [
      histogram(distribution, limits, title),
      h('dl', { class: 'percentiles' },
        ['p50', 'p95', 'p99'].map((name) => h('div', null, h('dt', null, name), h('dd', null, duration(distribution[name])))),
        h('div', null, h('dt', null, 'mean'), h('dd', null, duration(distribution.sum_ms / distribution.count)))),
    ]);
}

