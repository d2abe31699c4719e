// The results as a table that reads well in a terminal and in Markdown.

import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { root } from '../scripts/process.mjs';
import { spread } from './statistics.mjs';

/** What figures depend on besides the code. To be asked before the run, which is a load of its own. */
export function conditions() {
  const { version } = JSON.parse(readFileSync(join(root, 'node_modules/workerd/package.json'), 'utf8'));
  return [
    `workerd ${version}`, `Node ${process.versions.node}`, `${availableParallelism()} cores (${cpus()[0].model})`,
    `load average ${loadavg()[0].toFixed(1)} before the run`,
  ].join(', ');
}

/**
 * One row per figure: each contestant, then the last contestant as a multiple of each other one.
 * @param names of the contestants
 * @param results [{ title, figures, rounds: [{ [name]: { [figure]: number } }] }]
 */
export function table(names, results) {
  const others = names.slice(0, -1);
  const last = names.at(-1);
  const heading = ['', ...names, ...others.map((other) => `${last} / ${other}`)];
  const rows = results.flatMap(({ title, figures, rounds }) => [
    [`**${title}**`],
    ...Object.entries(figures).map(([figure, { label, higherIsBetter, digits }]) => {
      const of = (name) => rounds.map((round) => round[name][figure]);
      // Round by round, so that what slowed one round down is on both sides.
      const ratios = (other) => rounds.map((round) => round[last][figure] / round[other][figure]);
      return [
        `${label} ${higherIsBetter ? '↑' : '↓'}`,
        ...names.map((name) => cell(of(name), digits)),
        ...others.map((other) => cell(ratios(other), 2)),
      ];
    }),
  ]);
  return markdown([heading, ...rows]);
}

/** The page for the repository. */
export function page({ command, date, under, rounds, results }) {
  return `# Results of the bench

\`${command}\`, ${date}: ${under}

${results}

Each cell is the median of ${rounds} rounds, with the quartiles in brackets; ↑ more is better, ↓ less is better. The
last columns are ratios within a round: they hold from machine to machine, the absolute figures do not.

- **pass-through** is one line, \`fetch(request)\` to the upstream: what the platform costs, and nobody's own work.
- **pump** is the least that a Worker must do to see what it passes on: it reads a whole answer before it goes on, and
  brings a stream chunk by chunk from a reader into an \`IdentityTransformStream\`.
- **fairlead** is \`worker/build\`, which also checks, times and logs what it passes on.

In every round the contestants take turns, each alone in a workerd process in front of the same upstream. CPU is user
and system time of that whole process, and opening the streams is part of it. Latencies contain the upstream and the
load generator, which are the same for all. Every byte of every answer was compared with what the upstream had sent.
`;
}

function cell(values, digits) {
  const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const format = (value) => value.toLocaleString('en-US', places);
  const { median, low, high } = spread(values);
  return `${format(median)} (${format(low)}–${format(high)})`;
}

/** Labels to the left, numbers to the right, padded so that the source is a table, too. */
function markdown(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  const [heading, ...lines] = rows.map((row) => {
    const cells = widths.map((width, column) => {
      const text = row[column] ?? '';
      return column === 0 ? text.padEnd(width) : text.padStart(width);
    });
    return `| ${cells.join(' | ')} |`;
  });
  const rule = widths.map((width, column) => (column === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`));
  return [heading, `|${rule.join('|')}|`, ...lines].join('\n');
}
