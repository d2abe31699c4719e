// The figures that matter most as bars, in one SVG that needs nothing else. A chart library that draws without a
// browser brings one along, or a hundred packages; bars are rectangles.

import { CONTESTANTS } from './contestants.mjs';
import { spread } from './statistics.mjs';
import { bound } from './targets.mjs';

const PANELS = ['paced.cpu', 'burst.rate', 'whole.rate', 'firstByte.p50', 'idle.total', 'cold.first'];
const COLUMNS = 2;
const PANEL = { width: 460, head: 58, row: 24, foot: 44 };
const LEGEND = 'Bars: medians. Thin lines: quartile to quartile. Marks across: the target, by the medians of this run.';
const LABEL = 120;
const BAR = { left: LABEL + 10, width: 230, height: 14 };
const VALUE = BAR.left + BAR.width + 65;

const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-weight: 600; font-size: 13px; fill: #1f2328 }
  .paper { fill: #ffffff } .bar { fill: #afb8c1 } .own { fill: #0969da } .value { fill: #1f2328 }
  .spread { stroke: #1f2328; stroke-width: 1.5 } .axis { stroke: #d0d7de }
  .target { stroke: #bc4c00; stroke-width: 2.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title, .value { fill: #f0f6fc }
    .paper { fill: #0d1117 } .bar { fill: #656c76 } .own { fill: #4493f8 }
    .spread { stroke: #f0f6fc } .axis { stroke: #3d444d } .target { stroke: #f0883e }
  }
`;

/** @param results as for a page, of all workloads */
export function plot(results) {
  const drawn = PANELS.map((path) => panel(results, path));
  const lines = Array.from({ length: Math.ceil(drawn.length / COLUMNS) }, (_, line) => (
    drawn.slice(line * COLUMNS, (line + 1) * COLUMNS)
  ));
  let top = 0;
  const panels = lines.flatMap((line) => {
    const y = top;
    top += Math.max(...line.map(({ height }) => height));
    return line.map(({ marks }, column) => (
      `<g transform="translate(${column * PANEL.width} ${y})">\n${marks.join('\n')}\n</g>`
    ));
  });
  const [width, height] = [PANEL.width * COLUMNS, top + PANEL.foot];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">
<style>${STYLE}</style>
<rect class="paper" width="100%" height="100%" rx="6"/>
${panels.join('\n')}
${text(20, top + 28, LEGEND)}
</svg>
`;
}

/** A bar per contestant from zero to the median, a line from quartile to quartile, and a mark where its target is. */
function panel(results, path) {
  const [workload, figure] = path.split('.');
  const { title, figures, who, rounds } = results[workload];
  const { label, higherIsBetter, digits } = figures[figure];
  const names = CONTESTANTS.map(({ name }) => name).filter((name) => who.includes(name) && name !== 'direct');
  const bars = names.map((name) => ({
    name, ...spread(rounds.map((round) => round[name][figure])), target: bound(results, path, name),
  }));
  const scale = BAR.width / Math.max(...bars.map(({ high, target = 0 }) => Math.max(high, target)));
  const at = (value) => Number((BAR.left + value * scale).toFixed(1));
  const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };

  const rows = bars.flatMap(({ name, median, low, high, target }, index) => {
    const y = PANEL.head + index * PANEL.row;
    const middle = y + BAR.height / 2;
    const kind = name.startsWith('fairlead') ? 'own' : 'bar';
    return [
      text(LABEL, middle + 4, name, 'value', 'end'),
      `<rect class="${kind}" x="${BAR.left}" y="${y}" width="${at(median) - BAR.left}" height="${BAR.height}"/>`,
      line('spread', at(low), middle, at(high), middle),
      ...(target ? [line('target', at(target), y - 3, at(target), y + BAR.height + 3)] : []),
      text(VALUE, middle + 4, median.toLocaleString('en-US', places), 'value', 'end'),
    ];
  });
  const bottom = PANEL.head + bars.length * PANEL.row;
  const marks = [
    text(20, 26, title, 'title'),
    text(20, 43, `${label}: ${higherIsBetter ? 'more' : 'less'} is better`),
    ...rows,
    line('axis', BAR.left, PANEL.head - 5, BAR.left, bottom - PANEL.row + BAR.height + 5),
  ];
  return { height: bottom + 4, marks };
}

const line = (kind, x1, y1, x2, y2) => `<line class="${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;

function text(x, y, words, kind = 'note', anchor = 'start') {
  return `<text class="${kind}" x="${x}" y="${y}" text-anchor="${anchor}">${words}</text>`;
}
