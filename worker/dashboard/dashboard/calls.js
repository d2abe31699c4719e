// The last calls: one line each, which opens to what happened in it. No prompt is here: the gateway keeps none.

import { h } from './dom.js';
import { bytes, clock, count, duration } from './numbers.js';
import { timelineView } from './timeline.js';
import { kindOf, outcomeWords, reasonWords } from './words.js';

const COLUMNS = ['Time', 'Outcome', 'Model', 'Endpoint', 'Attempts', 'First content', 'Total', 'Tokens'];
/** Further back lie those that few look for. */
const SHOWN = 15;

/**
 * @param {object[]} calls newest first
 * @param {{ failuresOnly: boolean, text: string, all: boolean }} wishes
 * @param {Set<string>} opened keys of those that are unfolded
 */
export function callsView(calls, wishes, opened, now) {
  const fitting = calls.filter((call) => (!wishes.failuresOnly || kindOf(call.outcome) === 'failed') && fits(call, wishes.text.trim().toLowerCase()));
  if (fitting.length === 0) {
    return h('p', { class: 'soft' }, calls.length === 0 ? 'No calls yet.' : `None of the last ${calls.length} calls is like that.`);
  }
  const shown = wishes.all ? fitting : fitting.slice(0, SHOWN);
  const rest = fitting.length - shown.length;
  return [
    h('table', { role: 'table', class: 'calls' },
      h('caption', { class: 'sr' }, 'The last calls, newest first'),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, COLUMNS.map((name) => h('th', { role: 'columnheader', scope: 'col' }, name)))),
      h('tbody', { role: 'rowgroup' }, shown.map((call) => rows(call, opened.has(call.key), now)))),
    rest > 0 && h('p', { class: 'more' }, h('button', { type: 'button', 'data-act': 'more' }, `Show ${count(rest)} more`)),
  ];
}

function fits(call, text) {
  return text === '' || [call.request_id, call.model, call.endpoint, call.outcome, call.param, call.client, call.route, call.isolate]
    .some((value) => value?.toLowerCase().includes(text));
}

function rows(call, isOpen, now) {
  const cell = (name, value, kind) => h('td', { role: 'cell', 'data-label': name, class: kind || false }, value);
  const id = `call-${call.request_id.replaceAll(/[^\w-]/g, '')}-${call.at_ms}`;
  const day = now - call.at_ms > 86_400_000 ? `${new Date(call.at_ms).toLocaleDateString('en-GB')} ` : '';
  return [
    h('tr', { role: 'row', 'data-key': call.key, class: `call is-${kindOf(call.outcome)}` },
      h('td', { role: 'cell', 'data-label': 'Time' },
        h('button', { type: 'button', class: 'fold', 'data-act': 'fold', 'data-call': call.key, 'aria-expanded': String(isOpen), 'aria-controls': isOpen && id },
          `${day}${clock(call.at_ms)}`)),
      cell('Outcome', [h('span', { class: `outcome of-${kindOf(call.outcome)}` }, call.outcome, call.param && ` (${call.param})`),
        ' ', h('span', { class: 'soft why' }, whyWords(call))]),
      cell('Model', call.model || '–', 'name'),
      cell('Endpoint', call.endpoint ?? '–', 'name'),
      cell('Attempts', count(call.attempts), 'number'),
      cell('First content', duration(call.first_content_ms), 'number'),
      cell('Total', duration(call.total_ms), 'number'),
      cell('Tokens', call.completion_tokens === null ? '–' : `${count(call.prompt_tokens)} + ${count(call.completion_tokens)}`, 'number')),
    isOpen && h('tr', { role: 'row', id, 'data-key': `${call.key} open`, class: 'opened' },
      h('td', { role: 'cell', colspan: COLUMNS.length }, callView(call))),
  ];
}

/** Why it failed, in the words of the attempt that failed last; or what it is that came of it. */
function whyWords(call) {
  const last = call.timeline.findLast(({ event }) => event === 'attempt_failed');
  if (call.outcome === 'ok') return last ? `after ${reasonWords(last.reason)} at ${last.endpoint}` : '';
  return last && kindOf(call.outcome) === 'failed' ? `${reasonWords(last.reason)} at ${last.endpoint}` : outcomeWords(call.outcome);
}

/** All that is known of a call. */
export function callView(call) {
  const fact = (name, value) => value !== null && value !== undefined && h('div', null, h('dt', null, name), h('dd', null, value));
  return h('div', { class: 'whole-call' },
    timelineView(call),
    h('dl', { class: 'facts' },
      fact('Request id', h('code', null, call.request_id)), fact('Client', call.client), fact('Route', h('code', null, call.route)),
      fact('Streamed', call.stream ? 'yes' : 'no'), fact('Outcome', `${call.outcome}${call.param ? ` (${call.param})` : ''}: ${outcomeWords(call.outcome)}`),
      fact('Bytes to the client', bytes(call.bytes)), fact('Isolate', h('code', null, call.isolate))));
}
