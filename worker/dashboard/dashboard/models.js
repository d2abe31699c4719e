// The models: what came of their calls, in how many attempts, and how long it took beside what they are allowed.

import { share } from './charts.js';
import { h } from './dom.js';
import { figure, times } from './endpoints.js';
import { placeOfModel } from './findings.js';
import { count, duration, many, percent } from './numbers.js';
import { sum } from './seen.js';
import { kindOf, outcomeWords } from './words.js';

/** Those that were asked for as they stand in CONFIG; of the others their names. */
export function modelsView({ models }) {
  const idle = models.filter(({ outcomes }) => sum(outcomes) === 0);
  return [
    models.map((model, at) => sum(model.outcomes) > 0 && modelView(model, at)),
    idle.length > 0 && h('p', { class: 'soft idle', 'data-key': '\0idle' },
      idle.length === models.length ? 'Nobody has asked this isolate for anything yet: ' : 'Not asked for yet: ',
      idle.map(({ name }, at) => [at > 0 && ', ', h('span', { class: 'name' }, name)]), '.'),
  ];
}

function modelView(model, at) {
  const { name, policy, outcomes, attempts } = model;
  const calls = sum(outcomes);
  const of = (kind) => sum(Object.fromEntries(Object.entries(outcomes).filter(([outcome]) => kindOf(outcome) === kind)));
  const title = `${placeOfModel(at)}-name`;
  const parts = ['ok', 'cut', 'theirs', 'failed'].map((kind) => ({ kind, count: of(kind) }));
  const limit = (label, ms) => (ms > 0 ? [{ name: `${label} ${duration(ms)}`, ms }] : []);
  return h('article', { class: 'card wide', id: placeOfModel(at), 'data-key': name, 'aria-labelledby': title, tabindex: -1 },
    h('div', { class: 'card-head' }, h('h3', { id: title }, name), h('span', { class: 'tag' }, 'policy ', policy.name)),
    h('dl', { class: 'figures' },
      figure('Calls', count(calls)),
      figure('Answered', percent(of('ok'), calls)),
      figure('Failed', of('failed') > 0 ? `${count(of('failed'))} (${percent(of('failed'), calls)})` : '0', of('failed') > 0 && 'of-failed'),
      figure('Prompt', `${count(model.prompt_tokens)} tokens`),
      figure('Completion', `${count(model.completion_tokens)} tokens`)),
    share(parts, `Of ${many(calls, 'call')}: ${of('ok')} answered, ${of('cut')} cut short, ${of('theirs')} at fault themselves, ${of('failed')} failed`),
    h('div', { class: 'columns' },
      h('div', null,
        h('h4', null, 'Outcomes'),
        h('ul', { class: 'counts' }, Object.entries(outcomes).filter(([, times]) => times > 0).sort((a, b) => b[1] - a[1]).map(([outcome, times]) =>
          h('li', null, h('i', { class: `dot bar-${kindOf(outcome)}`, 'aria-hidden': 'true' }), h('b', null, count(times)), ' ',
            outcomeWords(outcome), ' ', h('code', null, outcome)))),
        h('h4', null, 'Attempts per call'),
        attemptsView(attempts, calls),
        h('p', { class: 'soft limits' }, 'Limits: ', limitsWords(policy))),
      times('First content', model.first_content_ms, limit('first token', policy.first_token_ms)),
      times('Whole call', model.total_ms, limit('deadline', policy.deadline_ms))));
}

function attemptsView(attempts, calls) {
  const rows = attempts.map((times, number) => ({ times, number })).filter(({ times }) => times > 0);
  return h('ul', { class: 'bars' }, rows.map(({ times, number }) => h('li', null,
    h('span', null, number === 0 ? 'none' : count(number)),
    h('svg:svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      h('svg:rect', { x: 0, y: 0, width: 100, height: 10, class: 'lane-ground' }),
      h('svg:rect', { x: 0, y: 0, width: Math.max(0.8, (100 * times) / calls), height: 10, class: number === 1 ? 'bar-ok' : number === 0 ? 'bar-failed' : 'bar-cut' })),
    h('span', null, `${count(times)} (${percent(times, calls)})`))));
}

function limitsWords(policy) {
  return [
    policy.first_token_ms > 0 && `first token ${duration(policy.first_token_ms)}`,
    policy.idle_ms > 0 && `silence ${duration(policy.idle_ms)}`,
    policy.progress_ms > 0 && `keepalives alone ${duration(policy.progress_ms)}`,
    policy.queue_ms > 0 && `queue ${duration(policy.queue_ms)}`,
    policy.deadline_ms > 0 && `deadline ${duration(policy.deadline_ms)}`,
    `${many(policy.max_attempts, 'attempt')}`,
  ].filter(Boolean).join(' · ');
}
