// The results as the page for the repository.

import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { root } from '../scripts/process.mjs';
import { CONTESTANTS } from './contestants.mjs';
import { section } from './package.mjs';
import { EVENTS } from './rig.mjs';
import { spread } from './statistics.mjs';
import { VERDICTS, figures, markdown, ratios, verdict } from './tables.mjs';
import { judge } from './targets.mjs';

/** Who is set against whom. */
const PAIRS = [
  ['pump', 'pass-through'], ['steps', 'pump'], ['unheld', 'pump'], ['fairlead', 'pass-through'], ['fairlead', 'pump'],
  ['fairlead', 'pull'], ['fairlead', 'steps'], ['fairlead native', 'pass-through'], ['fairlead native', 'pump'],
  ['fairlead resume', 'fairlead'],
];

/** What figures depend on besides the code. To be asked before the run, which is a load of its own. */
export function conditions() {
  return `${availableParallelism()} cores (${cpus()[0].model}), load average ${loadavg()[0].toFixed(1)} before the run`;
}

/**
 * The page.
 * @param results by workload, { title, figures, who, rounds: [{ [contestant]: { [figure]: number } }] }
 * @param reads by kind of stream, how many reads each of some streams came in
 * @param core the core by itself, where it was measured
 * @param npm the npm package, where it was measured
 */
export function page({ command, date, under, results, reads, core, npm }) {
  const { version } = JSON.parse(readFileSync(join(root, 'node_modules/workerd/package.json'), 'utf8'));
  return `# Results of the bench

\`${command}\`, ${date}: workerd ${version}, ${under}

## Targets

${markdown([VERDICTS, ...judge(results).map(verdict), ...(core?.verdicts ?? [])])}

![The figures below as bars](results.svg)

## Figures

${figures(results, CONTESTANTS)}

Each cell is the median of the rounds, with the quartiles in brackets: ${roundsOf(results)}.
↑ more is better, ↓ less is better.

## Ratios

${ratios(results, PAIRS)}

They are taken within a round, so that what slowed one round down is on both sides. They hold from machine to machine,
which the absolute figures do not.

${core ? byItself(core) : ''}## Who takes part

${CONTESTANTS.map(({ name, does }) => `- **${name}** is ${does}`).join('\n')}

## What is measured

- In every round the contestants take turns, and who begins changes. Each is alone in a workerd process in front of
  the same upstream. Every byte of every answer was compared with what the upstream had sent.
- **CPU** is user and system time of that whole process, and opening the streams is part of it.
- **Upstream and clients** are one native program, \`bench/rig\`. Neither limits a Worker: *direct* says what they do
  without one, and *the rig beside it* how busy both were, together, while a Worker was as fast as it could be.
- **An event is a chunk of its own** for a Worker that reads: a stream of ${EVENTS} events came in
  ${readings(reads.paced)} reads where it is paced, and in ${readings(reads.burst)} where it is not.
- **A stream that is not paced** is over before \`native\` takes its first look: the figure is its price per stream.
- **Latencies** contain the upstream, the clients and the kernel, which are the same for all.
- **Memory** is what the process has for itself alone (the private pages of \`smaps_rollup\`), once it no longer moves.
  For each measure there is a new process, which has carried 50 short streams before.
- **The first request of a new isolate** is a cold start as the platform has it: in a process that runs already, a
  Worker asks a Worker Loader for an isolate that is made for this request. Parsing, compiling and instantiating are
  part of it. The first request to a new workerd would show none of that: workerd does it before it listens.
- **What is uploaded** is the sum of the Worker's modules, each gzipped.
${npm ? `\n${section({ command, date, under, npm })}` : ''}`;
}

function byItself({ rows: benches }) {
  return `## The core by itself

\`cargo bench\`: the machines natively, without a Worker around them. Tokens that differ only in their text are
compared; others (\`Usage\`, \`Logprobs\`) are parsed. Neither allocates, but for \`Logprobs\`, where the parser needs a
small stack for each event: \`tests/allocations.rs\`.

${markdown([['', 'median', 'throughput'], ...benches.map(({ name, median, throughput }) => [name, median, throughput])])}

`;
}

function roundsOf({ idle, held, ...others }) {
  const most = Math.max(...Object.values(others).map(({ rounds }) => rounds.length), 0);
  return [most > 0 && `${most} rounds`, idle && `${idle.rounds.length} of the idle streams`].filter(Boolean).join(', ');
}

function readings(counts) {
  const { median } = spread(counts);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  return least === most ? `${most}` : `${Math.round(median)} (${least}–${most})`;
}
