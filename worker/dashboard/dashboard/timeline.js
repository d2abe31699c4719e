// A call's life as bars over time: each attempt a lane, with the time that its job stood in a queue, and the waits
// between.

import { h } from './dom.js';
import { duration } from './numbers.js';
import { eventWords, kindOf, reasonWords, thenWords } from './words.js';

/** A wait that is shorter, or a smaller part of the call, is none. */
const NO_WAIT_MS = 5;
const NO_WAIT = 0.01;

/**
 * @param {object} call as in `calls` of GET /status
 * @returns {{ from: number, to: number, kind: 'wait' | 'ok' | 'failed' | 'cut' | 'stopped', label: string, words: string, queuedTo?: number }[]}
 */
export function lanes(call) {
  const found = [];
  const running = new Map();
  let idleSince = 0;
  const wait = (until, words) => {
    if (running.size === 0 && until - idleSince > Math.max(NO_WAIT_MS, NO_WAIT * call.total_ms)) {
      found.push({ from: idleSince, to: until, kind: 'wait', label: 'wait', words: `${duration(until - idleSince)} ${words}` });
    }
  };
  for (const event of call.timeline) {
    const lane = running.get(event.attempt);
    switch (event.event) {
      case 'attempt_started': {
        wait(event.at_ms, found.length === 0 ? 'before anybody was asked' : 'until it was tried again');
        const fresh = { from: event.at_ms, to: null, kind: 'stopped', label: `${event.attempt} · ${event.endpoint}`, endpoint: event.endpoint, words: '' };
        found.push(fresh);
        running.set(event.attempt, fresh);
        break;
      }
      case 'job_started':
        if (lane) lane.queuedTo = event.at_ms;
        break;
      case 'attempt_failed':
        if (!lane) break;
        Object.assign(lane, { to: event.at_ms, kind: 'failed', words: `${reasonWords(event.reason)}; ${thenWords(event.then)}` });
        running.delete(event.attempt);
        idleSince = event.at_ms;
        break;
      default:
    }
  }
  const kind = kindOf(call.outcome);
  const answering = [...running.values()].findLast(({ endpoint }) => endpoint === call.endpoint);
  for (const lane of running.values()) {
    const isAnswer = lane === answering;
    lane.to = isAnswer ? call.total_ms : Math.max(lane.from, call.first_content_ms ?? call.total_ms);
    lane.kind = isAnswer ? (kind === 'theirs' ? 'failed' : kind) : 'stopped';
    lane.words = isAnswer ? answerWords(call, kind) : 'given up, as the other one answered';
  }
  if (running.size === 0) wait(call.total_ms, 'until the call was given up');
  return found;
}

function answerWords(call, kind) {
  const first = call.first_content_ms === null || call.first_content_ms === undefined
    ? '' : `, first content after ${duration(call.first_content_ms)}`;
  return `${{ ok: 'answered', cut: 'cut short', theirs: 'refused it', failed: 'did not answer' }[kind]}${first}`;
}

/** The picture, and the same in words. */
export function timelineView(call) {
  const all = lanes(call);
  const end = Math.max(1, call.total_ms, ...all.map(({ to }) => to));
  const at = (ms) => (1000 * Math.min(ms, end)) / end;
  const picture = all.length > 0 && h('div', { class: 'lanes' },
    all.map((lane) => h('div', { class: 'lane' },
      h('span', { class: 'lane-label' }, lane.label),
      h('svg:svg', { viewBox: '0 0 1000 20', preserveAspectRatio: 'none', 'aria-hidden': 'true', class: 'lane-bar' },
        h('svg:rect', { x: 0, y: 0, width: 1000, height: 20, class: 'lane-ground' }),
        h('svg:rect', { x: at(lane.from), y: 3, width: Math.max(4, at(lane.to) - at(lane.from)), height: 14, class: `bar-${lane.kind}` }),
        lane.queuedTo && h('svg:rect', { x: at(lane.from), y: 3, width: Math.max(2, at(lane.queuedTo) - at(lane.from)), height: 14, class: 'bar-queue' }),
        call.first_content_ms > 0 && ['ok', 'cut', 'failed'].includes(lane.kind) && lane.to > call.first_content_ms && lane.from <= call.first_content_ms
          && h('svg:rect', { x: Math.min(997, at(call.first_content_ms)), y: 0, width: 3, height: 20, class: 'bar-first' })),
      h('span', { class: `lane-words of-${lane.kind}` }, lane.words, lane.queuedTo && `, ${duration(lane.queuedTo - lane.from)} in the queue`))),
    h('div', { class: 'lane lane-axis', 'aria-hidden': 'true' },
      h('span', { class: 'lane-label' }),
      h('span', { class: 'axis' }, [0, 0.25, 0.5, 0.75, 1].map((part) => h('span', null, duration(end * part)))),
      h('span', { class: 'lane-words' })));
  return h('div', { class: 'timeline' }, picture,
    h('ol', { class: 'events' }, call.timeline.map((event) =>
      h('li', null, h('span', { class: 'at' }, duration(event.at_ms)), ' ', eventWords(event, duration)))),
    call.timeline.length === 0 && h('p', { class: 'soft' }, 'Nobody was asked.'));
}
