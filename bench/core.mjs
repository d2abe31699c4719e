// The core by itself, natively: `cargo bench` as rows of a table, with what it is to reach.

import { Failure, capture, step } from '../scripts/process.mjs';

/** What the words of `bench/core.rs` are to come to: bytes a second, nanoseconds, or one time over another. */
const TARGETS = [
  {
    names: ['decoder/Text'], what: 'decoder, 240-byte events', target: '≥ 1 GB/s',
    shown: ([{ throughput }]) => throughput, met: ([{ rate }]) => rate >= 1e9,
  },
  {
    names: ['call/Text'], what: 'a streamed call of 300 events', target: '< 100 µs',
    shown: ([{ median }]) => median, met: ([{ ns }]) => ns < 1e5,
  },
  {
    names: ['healthy/least_loaded of 2, shared'], what: 'breaker, budget and routing over 2 targets', target: '≤ 2 µs',
    shown: ([{ median }]) => median, met: ([{ ns }]) => ns <= 2e3,
  },
  {
    names: ['healthy/least_loaded of 5, shared'], what: 'breaker, budget and routing over 5 targets', target: '≤ 2 µs',
    shown: ([{ median }]) => median, met: ([{ ns }]) => ns <= 2e3,
  },
  {
    names: ['short/breaker', 'short/none'], what: 'a short stream with a breaker / without', target: '≤ 1.1',
    shown: (rows) => over(...rows).toFixed(2), met: (rows) => over(...rows) <= 1.1,
  },
  {
    names: ['account/All'], what: "a call's key, line, data point and counts", target: '≤ 10 µs',
    shown: ([{ median }]) => median, met: ([{ ns }]) => ns <= 1e4,
  },
  ...['Text', 'Usage', 'Ids'].flatMap((kind) => [1, 8].map((together) => ({
    names: [`resume/${kind} by ${together}, Continue`, `resume/${kind} by ${together}, Off`],
    what: `a stream that is well, \`${kind}\`, ${together} in a chunk: resume on / off`, target: '≤ 1.1',
    shown: (rows) => over(...rows).toFixed(2), met: (rows) => over(...rows) <= 1.1,
  }))),
  {
    names: ['open/Continue', 'open/Off'], what: 'memory of an open stream by `resume`, over its text', target: '≤ 2',
    shown: (rows) => grownBy(...rows).toFixed(2), met: (rows) => grownBy(...rows) <= 2,
  },
];

const over = (one, other) => one.ns / other.ns;

/** What 500 open streams of 20 kB each hold more than others, over their text. */
const grownBy = (one, other) => (one.held - other.held) / (500 * 20_000);

const UNITS = {
  ns: 1, 'µs': 1e3, ms: 1e6, s: 1e9, B: 1, KB: 1e3, MB: 1e6, GB: 1e9, 'B/s': 1, 'KB/s': 1e3, 'MB/s': 1e6, 'GB/s': 1e9,
};

/** Runs it, and returns its rows { name, median, throughput, ns, rate } and its verdicts. */
export function benchCore() {
  step('Benchmarking the core', '1 to 2 minutes');
  const printed = capture('cargo', ['bench', '--quiet', '--bench', 'core']);
  if (printed === undefined) throw new Failure('cargo bench has failed.');
  const rows = read(printed);
  const row = (name) => {
    const found = rows.find((each) => each.name === name);
    if (!found) throw new Failure(`cargo bench has no ${name}.`);
    return found;
  };
  const verdicts = TARGETS.map(({ names, what, target, met, shown }) => {
    const own = names.map(row);
    return [`the core natively: ${what}`, shown(own), target, met(own) ? 'met' : '**missed**'];
  });
  return { rows, verdicts };
}

/**
 * A bench is a line of times below the line of its function; its throughput stands in the next line, and the most
 * bytes that it held at once in the second one below `max alloc`. Medians are third.
 */
function read(printed) {
  const rows = [];
  let group = '';
  const lines = printed.split('\n');
  for (const [at, line] of lines.entries()) {
    if (at === 0) continue;
    const [, depth, name] = /^([│ ]*)[├╰]─ (.+?) {2,}/.exec(line) ?? [];
    const [, , median] = line.match(/[\d.]+ (ns|µs|ms|s)(?= )/g) ?? [];
    const [, , throughput] = line.match(/[\d.]+ [KMG]?B\/s/g) ?? [];
    if (name && median) {
      rows.push({ name: depth ? `${group}/${name}` : name, median, throughput: '', ns: number(median) });
    } else if (name) {
      group = name;
    } else if (throughput && rows.length > 0) {
      Object.assign(rows.at(-1), { throughput, rate: number(throughput) });
    } else if (line.includes('max alloc:')) {
      const [, , bytes] = lines[at + 2].match(/[\d.]+ [KMG]?B/g);
      rows.at(-1).held = number(bytes);
    }
  }
  return rows;
}

function number(text) {
  const [value, unit] = text.split(' ');
  return Number(value) * UNITS[unit];
}
