// Results as tables that read well in a terminal and in Markdown.

import { compared, spread } from './statistics.mjs';

export const VERDICTS = ['', 'measured', 'target', ''];

/** What targets.mjs says of a target, as a row below {@link VERDICTS}. */
export function verdict({ what, target, measured, unit, met }) {
  return [what, `${withSpread(measured, 2)} ${unit}`.trim(), target, met ? 'met' : '**missed**'];
}

/**
 * A row per figure, a column per contestant.
 * @param results by workload, { title, figures, who, rounds: [{ [contestant]: { [figure]: number } }] }
 */
export function figures(results, contestants) {
  const all = Object.values(results);
  const names = contestants.map(({ name }) => name).filter((name) => all.some(({ who }) => who.includes(name)));
  return rows(all, names, ({ rounds }, figure, { digits }, name) => {
    const values = rounds.map((round) => round[name]?.[figure]);
    return values.every(Number.isFinite) ? withSpread(spread(values), digits) : '';
  });
}

/** A row per figure, a column for each of these pairs. */
export function ratios(results, pairs) {
  const all = Object.values(results).filter((result) => Object.values(result.figures).some(isCompared));
  const takePart = ([of, over], { who }) => who.includes(of) && who.includes(over);
  const shown = pairs.filter((pair) => all.some((result) => takePart(pair, result)));
  const compare = (result, figure, _, [of, over]) => (
    takePart([of, over], result) ? withSpread(spread(compared(result, figure, { of, over })), 2) : ''
  );
  return rows(all, shown, compare, isCompared);
}

const isCompared = ({ isAbsolute }) => !isAbsolute;

function rows(results, columns, cell, isShown = () => true) {
  const heading = ['', ...columns.map((column) => [column].flat().join(' / '))];
  return markdown([heading, ...results.flatMap((result) => [
    [`**${result.title}**`],
    ...Object.entries(result.figures).filter(([, about]) => isShown(about)).map(([figure, about]) => [
      `${about.label} ${about.higherIsBetter ? '↑' : '↓'}`,
      ...columns.map((column) => cell(result, figure, about, column)),
    ]),
  ])]);
}

export function withSpread({ median, low, high }, digits) {
  const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const [middle, from, to] = [median, low, high].map((value) => value.toLocaleString('en-US', places));
  return from === to ? middle : `${middle} (${from}–${to})`;
}

/** Labels to the left, numbers to the right, padded so that the source is a table, too. */
export function markdown(rows) {
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
