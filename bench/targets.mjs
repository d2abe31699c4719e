// What Fairlead is to cost at most, set against the other contestants of the same run.

import { IDLE } from './workloads.mjs';
import { compared, difference, ratio, spread } from './statistics.mjs';

/** `of` set against `over` by their ratio, unless `by` says otherwise; without `over` the figure itself. */
const TARGETS = [
  { figure: 'paced.cpu', what: 'CPU per paced event', of: 'fairlead', over: 'pump', atMost: 1.15 },
  { figure: 'paced.cpu', what: 'CPU per paced event', of: 'fairlead', over: 'pull', atMost: 0.85 },
  { figure: 'paced.cpu', what: 'CPU per paced event', of: 'fairlead native', over: 'pump', atMost: 0.6 },
  { figure: 'paced.cpu', what: 'CPU per paced event', of: 'fairlead resume', over: 'fairlead', atMost: 1.1 },
  { figure: 'burst.cpu', what: 'CPU per unpaced event', of: 'fairlead resume', over: 'fairlead', atMost: 1.1 },
  { figure: 'burst.rate', what: 'unpaced events per second', of: 'fairlead', over: 'pump', atLeast: 0.9 },
  {
    figure: 'burst.rate', what: 'unpaced events per second', of: 'fairlead native', over: 'pass-through', atLeast: 0.6,
  },
  { figure: 'whole.rate', what: 'requests per second', of: 'fairlead', over: 'pump', atLeast: 0.95 },
  {
    figure: 'watched.cpu', what: 'CPU per request with keys, limits, log and metrics', of: 'fairlead watched',
    over: 'fairlead quiet', atMost: 1.1,
  },
  { figure: 'whole.p99', what: 'latency p99 of requests', of: 'fairlead', over: 'pump', atMost: 1.3 },
  {
    figure: 'firstByte.p50', what: 'first byte p50', of: 'fairlead', over: 'pump', by: difference, atMost: 0.5,
    unit: 'ms',
  },
  {
    figure: 'firstByte.p99', what: 'first byte p99', of: 'fairlead', over: 'pump', by: difference, atMost: 2,
    unit: 'ms',
  },
  { figure: 'idle.total', what: `memory with ${IDLE} idle streams`, of: 'fairlead', over: 'pump', atMost: 1.3 },
  {
    figure: 'held.texts', what: 'what an open stream keeps, over its text', of: 'fairlead resume', over: 'fairlead',
    by: difference, atMost: 2, unit: '',
  },
  { figure: 'bundle.size', what: 'gzipped upload', of: 'fairlead', atMost: 250, unit: 'kB' },
  {
    figure: 'cold.first', what: 'first request of a new isolate', of: 'fairlead', over: 'pass-through', by: difference,
    atMost: 15, unit: 'ms',
  },
  // The npm package, by the workloads of package.mjs.
  { figure: 'size.wasm', what: 'gzipped wasm', of: 'fairlead', atMost: 120, unit: 'kB' },
  { figure: 'size.page', what: 'all that a page loads, gzipped', of: 'fairlead', atMost: 160, unit: 'kB' },
  { figure: 'size.page', what: 'all that a page loads, gzipped', of: 'fairlead/slim', atMost: 160, unit: 'kB' },
  { figure: 'start.total', what: 'start to the first request', of: 'fairlead', atMost: 50, unit: 'ms' },
  { figure: 'start.total', what: 'start to the first request', of: 'fairlead/slim', atMost: 50, unit: 'ms' },
  { figure: 'single.cpu', what: 'main thread per event, a chunk each', of: 'fairlead', over: 'openai', atMost: 1.3 },
  { figure: 'grouped.cpu', what: 'main thread per event, 8 in a chunk', of: 'fairlead', over: 'openai', atMost: 1.3 },
  { figure: 'live.cpu', what: 'main thread per event, as they come', of: 'fairlead', over: 'openai', atMost: 1.3 },
];

/**
 * Each as { what, target, measured, met }, `measured` with its spread; those whose workload was not run are left out.
 * @param results by workload, { rounds: [{ [contestant]: { [figure]: number } }] }
 */
export function judge(results) {
  return TARGETS.flatMap(({ figure: path, what, of, over, by = ratio, atMost, atLeast, unit = '' }) => {
    const [workload, figure] = path.split('.');
    const result = results[workload];
    if (!result) return [];
    const own = () => result.rounds.map((round) => round[of][figure]);
    const values = over ? compared(result, figure, { of, over, by }) : own();
    const measured = spread(values);
    return {
      what: `${what}: ${of}${over ? `${by === ratio ? ' / ' : ' − '}${over}` : ''}`,
      target: `${atMost === undefined ? `≥ ${atLeast}` : `≤ ${atMost}`} ${unit}`.trim(),
      measured,
      unit,
      met: atMost === undefined ? measured.median >= atLeast : measured.median <= atMost,
    };
  });
}

/** What a contestant's strictest target comes to, by the medians of this run; `undefined` if it has none. */
export function bound(results, path, name) {
  const [workload, figure] = path.split('.');
  const bounds = TARGETS.filter((target) => target.figure === path && target.of === name).map((target) => {
    const { over, by = ratio, atMost, atLeast } = target;
    const base = spread(results[workload].rounds.map((round) => round[over][figure])).median;
    const limit = atMost ?? atLeast;
    return by === ratio ? base * limit : base + limit;
  });
  const { higherIsBetter } = results[workload].figures[figure];
  return bounds.sort((a, b) => (higherIsBetter ? b - a : a - b))[0];
}
