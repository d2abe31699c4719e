// The page's upper end: whether all is well, the few numbers that say how much goes on, and who tells them. And its lower
// one: the gateway itself.

import { sparkline } from './charts.js';
import { h } from './dom.js';
import { verdict } from './findings.js';
import { ago, clock, count, duration, many, percent, rate } from './numbers.js';
import { since, sum, sumOutcomes } from './seen.js';
import { kindOf, outcomeWords, SOURCES, STORE_ERRORS, STORES } from './words.js';

const LATELY_MS = 60_000;
/** How many bars a sparkline has, for five minutes. */
const STEPS = 50;
const STEP_MS = 6000;

/** What is wrong. */
export function findingsView(found, status) {
  const { level, text } = verdict(found, status);
  return [
    h('p', { class: `verdict of-${level}` }, text),
    found.length > 0 && h('ul', { class: 'findings' }, found.map((finding) =>
      h('li', { class: `finding of-${finding.level}` }, h('a', { href: `#${finding.place}` }, finding.text)))),
  ];
}

/** How much goes on. */
export function tilesView({ status, past }) {
  const before = since(past, LATELY_MS);
  const last = past.at(-1);
  const span = Math.max(1, last.at - before.at);
  const lately = { calls: last.calls - before.calls, failed: last.failed - before.failed };
  const all = sumOutcomes(status.models.map(({ outcomes }) => outcomes));
  const hasPast = past.length > 1;
  const attempts = status.models.reduce((sums, model) => model.attempts.map((times, at) => times + (sums[at] ?? 0)).concat(sums.slice(model.attempts.length)), []);
  const repeated = sum(attempts.slice(2));
  const refused = sum(status.refused);
  const [mostRefused] = Object.entries(status.refused ?? {}).sort((a, b) => b[1] - a[1]);
  const flying = status.endpoints.reduce((total, each) => total + each.in_flight, 0);
  const waiting = status.endpoints.reduce((total, each) => total + each.waiting, 0);
  const steps = stepsOf(past);
  return [
    tile('Calls', hasPast ? rate((1000 * lately.calls) / span) : '…', `${count(all.calls)} since ${clock(status.isolate.since_ms)}`,
      sparkline(steps, `Calls in the last five minutes: ${many(sum(steps.map(({ calls }) => calls)), 'call')}, ${count(sum(steps.map(({ failed }) => failed)))} failed`)),
    tile('Failed in the last minute', hasPast ? percent(lately.failed, Math.max(1, lately.calls)) : '…',
      `${count(all.failed)} of ${count(all.calls)} in all`, null, lately.failed > 0 && 'of-failed'),
    tile('In flight', count(flying), waiting > 0 ? `${count(waiting)} in line` : 'none in line', null, waiting > 0 && 'of-warn'),
    tile('Took more than one attempt', percent(repeated, Math.max(1, all.calls)), `${many(repeated, 'call')}`),
    tile('Refused at the door', count(refused), mostRefused ? `mostly: ${outcomeWords(mostRefused[0])}` : 'bad keys, limits, requests'),
  ];
}

function tile(name, value, more, picture, kind) {
  return h('div', { class: 'tile' }, h('h3', null, name), h('p', { class: `value ${kind || ''}` }, value), picture, h('p', { class: 'soft' }, more));
}

/** What was counted in each step of the last five minutes. */
function stepsOf(past) {
  const end = past.at(-1).at;
  const steps = Array.from({ length: STEPS }, () => ({ calls: 0, failed: 0 }));
  for (const [at, point] of past.entries()) {
    const index = STEPS - 1 - Math.floor((end - point.at) / STEP_MS);
    if (at === 0 || index < 0) continue;
    steps[index].calls += Math.max(0, point.calls - past[at - 1].calls);
    steps[index].failed += Math.max(0, point.failed - past[at - 1].failed);
  }
  return steps;
}

/** Who tells all this. */
export function isolateView(seen, now) {
  const { status } = seen.isolate;
  const { id, since_ms: began, colo } = status.isolate;
  const size = seen.isolates.size;
  return [
    'Speaking for isolate ', h('code', null, id), colo && ` in ${colo}`, `, up for ${duration(now - began)}`,
    size > 1 ? ` – 1 of ${size} seen. ` : ' – the only one seen. ',
    h('span', { class: 'soft' }, size > 1 && seen.isolate.at < Math.max(...[...seen.isolates.values()].map(({ at }) => at))
      ? `It answered last ${ago(now - seen.isolate.ahead - seen.isolate.at)}. ` : '',
    'Counts are its own; what is marked fleet-wide, and the last calls, are of all.'),
  ];
}

/** The gateway itself: its configuration, its store, and whom it refused. */
export function gatewayView(seen, now) {
  const { status } = seen.isolate;
  return [configView(status.config, now), storeView(status, seen.store, now), refusedView(status.refused)];
}

function configView(config, now) {
  if (!config) return null;
  const { refused } = config;
  return h('article', { class: `card ${refused ? 'is-open' : ''}`, 'data-key': 'config' },
    h('h3', null, 'Configuration'),
    h('p', null, 'Read from ', SOURCES[config.source] ?? config.source, `, ${ago(now - config.since_ms)}.`),
    refused && [
      h('p', { class: 'of-failed' }, `A newer version was refused ${ago(now - refused.at_ms)}, for:`),
      h('ul', { class: 'mistakes' }, refused.mistakes.map(({ path, message }) => h('li', null, path && [h('code', null, path), ': '], message))),
    ]);
}

function storeView({ store }, asked, now) {
  const { name } = STORES[store.kind] ?? { name: store.kind };
  const error = asked?.error;
  const isWell = store.kind !== 'none' && !error && !store.failed_at_ms;
  return h('article', { class: `card ${error || store.failed_at_ms ? 'is-half' : ''}`, 'data-key': 'store' },
    h('h3', null, 'Store'),
    store.kind === 'none'
      ? h('p', null, 'None is bound: each isolate finds out by itself which endpoints are down.')
      : [
        h('p', null, h('span', { class: `state of-${isWell ? 'closed' : 'half'}` }, isWell ? 'answers' : 'does not answer'), ' ', name),
        h('ul', { class: 'counts' },
          asked && h('li', null, error ? `When it was last asked from here: ${STORE_ERRORS[error] ?? error}.` : 'It answered when it was last asked from here.'),
          store.read_at_ms && h('li', null, `It answered calls of this isolate ${ago(now - store.read_at_ms)}.`),
          store.failed_at_ms && h('li', null, `It failed calls of this isolate ${ago(now - store.failed_at_ms)}.`)),
      ]);
}

function refusedView(refused = {}) {
  const entries = Object.entries(refused).filter(([, times]) => times > 0).sort((a, b) => b[1] - a[1]);
  return h('article', { class: 'card', 'data-key': 'refused' },
    h('h3', null, 'Refused requests'),
    h('p', { class: 'soft' }, 'They never reached a model.'),
    entries.length === 0
      ? h('p', null, 'None.')
      : h('ul', { class: 'counts' }, entries.map(([code, times]) =>
        h('li', null, h('i', { class: `dot bar-${kindOf(code)}`, 'aria-hidden': 'true' }), h('b', null, count(times)), ' ', outcomeWords(code), ' ', h('code', null, code)))));
}
