// Pictures of numbers. Each says in words, too, what it shows.

import { h } from './dom.js';
import { count, duration } from './numbers.js';

const WIDTH = 320;
const BARS = 64;
const ROW = 13;
/** What a letter of a label takes, about. */
const LETTER = 5.8;
/** Slots that are always there, so that two calls do not look like a wall. */
const FEWEST_SLOTS = 8;

/**
 * How long something took: its buckets, side by side, with marks for the percentiles and for the limits in force.
 * @param {{ count: number, p50: number | null, p95: number | null, p99: number | null, buckets: [number | null, number][] }} times
 * @param {{ name: string, ms: number }[]} limits
 */
export function histogram(times, limits, what) {
  const slots = slotsOf(times.buckets, limits);
  const slotWidth = WIDTH / slots.length;
  const at = (ms) => positionOf(slots, ms) * slotWidth;
  const most = Math.max(1, ...slots.map((slot) => slot.count));
  const marks = rowsOf([
    ...limits.map(({ name, ms }) => ({ x: at(ms), label: name, kind: 'limit' })),
    ...[['p50', times.p50], ['p95', times.p95], ['p99', times.p99]].filter(([, ms]) => ms !== null && ms !== undefined)
      .map(([name, ms]) => ({ x: at(ms), label: name, kind: 'mark' })),
  ]);
  const top = ROW * Math.max(2, ...marks.map(({ row }) => row + 1));
  const ground = top + BARS;
  const words = [`${what}: ${count(times.count)} in all`,
    ...[['p50', times.p50], ['p95', times.p95], ['p99', times.p99]].map(([name, ms]) => `${name} ${duration(ms)}`),
    ...limits.map(({ name, ms }) => `limit ${name} ${duration(ms)}`)].join(', ');
  return h('svg:svg', { viewBox: `0 0 ${WIDTH} ${ground + 14}`, role: 'img', 'aria-label': words, class: 'histogram' },
    h('svg:line', { x1: 0, x2: WIDTH, y1: ground, y2: ground, class: 'ground' }),
    slots.map((slot, index) => slot.count > 0 && h('svg:rect', {
      x: index * slotWidth + 0.75, width: slotWidth - 1.5, class: 'bar',
      y: ground - Math.max(2, (BARS * slot.count) / most), height: Math.max(2, (BARS * slot.count) / most),
    }, h('svg:title', null, `${slotWords(slot)}: ${count(slot.count)}`))),
    marks.map(({ x, label, kind, row, anchor }) => [
      h('svg:line', { x1: x, x2: x, y1: ROW * row + ROW - 2, y2: ground, class: kind }),
      h('svg:text', { x: anchor === 'end' ? x - 3 : x + 3, y: ROW * row + ROW - 3, 'text-anchor': anchor, class: `label ${kind}-label` }, label),
    ]),
    boundsOf(slots).map(({ index, label, anchor }) =>
      h('svg:text', { x: index * slotWidth, y: ground + 12, 'text-anchor': anchor, class: 'bound' }, label)));
}

function slotWords({ from, to }) {
  return to === null ? `over ${duration(from)}` : `${duration(from)} to ${duration(to)}`;
}

/** From a bucket below the first that holds anything to one above the last and above the limits. */
function slotsOf(buckets, limits) {
  let from = 0;
  const all = buckets.map(([to, times]) => {
    const slot = { from, to, count: times };
    from = to ?? from;
    return slot;
  });
  const holds = (slot) => slot.count > 0 || limits.some(({ ms }) => ms > slot.from && (slot.to === null || ms <= slot.to));
  let first = Math.max(0, all.findIndex(holds) - 1);
  const last = Math.min(all.length - 1, Math.max(all.findLastIndex(holds) + 1, first + FEWEST_SLOTS - 1));
  first = Math.max(0, Math.min(first, last - FEWEST_SLOTS + 1));
  return all.slice(first, last + 1);
}

/** Where a time stands, in slots. */
function positionOf(slots, ms) {
  const index = slots.findIndex(({ to }) => to === null || ms <= to);
  if (index === -1) return slots.length;
  const { from, to } = slots[index];
  return index + Math.max(0, Math.min(1, to === null ? 0.5 : (ms - from) / (to - from)));
}

/** Labels of which none covers another: each in the first row that has room. */
function rowsOf(marks) {
  const ends = [];
  return marks.sort((a, b) => a.x - b.x).map((mark) => {
    const width = mark.label.length * LETTER + 8;
    const anchor = mark.x + width > WIDTH ? 'end' : 'start';
    const start = anchor === 'end' ? mark.x - width : mark.x;
    let row = ends.findIndex((end) => end <= start);
    if (row === -1) row = ends.length;
    ends[row] = start + width;
    return { ...mark, row, anchor };
  });
}

/** Four or five bounds under the ground. */
function boundsOf(slots) {
  const step = Math.max(1, Math.ceil(slots.length / 5));
  const labels = [];
  const isAtEdge = (index, ms) => (WIDTH * index) / slots.length + (LETTER * duration(ms).length) / 2 > WIDTH;
  for (let index = 0; index <= slots.length; index += step) {
    const ms = index === slots.length ? slots.at(-1).to : slots[index].from;
    if (ms === null) continue;
    labels.push({ index, label: duration(ms), anchor: index === 0 ? 'start' : isAtEdge(index, ms) ? 'end' : 'middle' });
  }
  return labels;
}

/** Calls of late, those that failed in another colour: what was counted in each step. */
export function sparkline(steps, what) {
  const most = Math.max(1, ...steps.map(({ calls }) => calls));
  const width = 100 / Math.max(1, steps.length);
  const bar = (value, y, index, kind) => value > 0 && h('svg:rect', {
    x: index * width, width: Math.max(0.3, width - 0.3), y, height: Math.max(0.8, (24 * value) / most), class: kind,
  });
  return h('svg:svg', { viewBox: '0 0 100 24', preserveAspectRatio: 'none', role: 'img', 'aria-label': what, class: 'sparkline' },
    steps.map(({ calls, failed }, index) => [
      bar(calls, 24 - Math.max(0.8, (24 * calls) / most), index, 'bar'),
      bar(failed, 24 - Math.max(0.8, (24 * failed) / most), index, 'bar-failed'),
    ]));
}

/** Parts of a whole, one behind another. */
export function share(parts, what) {
  const all = parts.reduce((total, part) => total + part.count, 0);
  let x = 0;
  return h('svg:svg', { viewBox: '0 0 100 6', preserveAspectRatio: 'none', role: 'img', 'aria-label': what, class: 'share' },
    h('svg:rect', { x: 0, y: 0, width: 100, height: 6, class: 'lane-ground' }),
    parts.filter((part) => part.count > 0).map((part) => {
      const width = (100 * part.count) / Math.max(1, all);
      const rect = h('svg:rect', { x, y: 0, width: Math.max(0.6, width), height: 6, class: `bar-${part.kind}` });
      x += width;
      return rect;
    }));
}
