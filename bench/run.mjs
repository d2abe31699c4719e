// `npm run bench`: what Fairlead costs, set against two hand-written Workers in the same run.
// Needs Linux, because it reads CPU times from /proc, and a Worker in worker/build, which the npm script sees to.
//
//   --quick         half a minute, for a look; bench/RESULTS.md stays as it is
//   --date <text>   the date in bench/RESULTS.md, today's without it

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Failure, main, root, step } from '../scripts/process.mjs';
import { CONTESTANTS, start } from './contestants.mjs';
import { conditions, page, table } from './report.mjs';
import { startUpstream } from './upstream.mjs';
import { SIZES, WORKLOADS } from './workloads.mjs';

/** Ten times what the longest part of a round takes on a busy machine. */
const LIMIT_MS = 60_000;

await main(async () => {
  const { quick, date } = parseArgs({
    options: { quick: { type: 'boolean' }, date: { type: 'string', default: new Date().toISOString().slice(0, 10) } },
  }).values;
  if (!existsSync('/proc/self/stat')) throw new Failure('The bench reads CPU times from /proc, so it needs Linux.');
  const command = quick ? 'npm run bench -- --quick' : 'npm run bench';
  const size = quick ? SIZES.quick : SIZES.full;
  const under = conditions();

  step('Benchmarking', quick ? '30 s' : '3 minutes');
  const upstream = await startUpstream();
  const contestants = [];
  try {
    for (const each of CONTESTANTS) contestants.push(await start(each, upstream.port));
    await warmUp(contestants);
    const results = await play(contestants, size);
    const names = contestants.map(({ name }) => name);
    const text = page({ command, date, under, rounds: size.rounds, results: table(names, results) });
    console.log(`\n${text}`);
    if (!quick) writeFileSync(join(root, 'bench/RESULTS.md'), text);
  } finally {
    await Promise.all([upstream, ...contestants].map((each) => each.stop()));
  }
});

/**
 * Lets the runtimes compile what is hot, and makes sure of what the figures rest on: a contestant's work shows in the
 * CPU time of its own process, and not in another's.
 */
async function warmUp(contestants) {
  for (const contestant of contestants) {
    const before = contestants.map((each) => each.cpuMs());
    for (const workload of WORKLOADS) await run(workload, contestant, SIZES.warmUp);
    const spent = contestants.map((each, index) => each.cpuMs() - before[index]);
    const own = spent[contestants.indexOf(contestant)];
    const others = spent.reduce((sum, each) => sum + each, -own);
    if (own === 0 || others > own / 5) {
      throw new Failure(`Only ${contestant.name} was busy, but its CPU shows ${own} ms, the others' ${others} ms.`);
    }
  }
}

/** All rounds; in each, every contestant does every workload, one next to the other. */
async function play(contestants, size) {
  const results = WORKLOADS.map(({ title, figures }) => ({ title, figures, rounds: [] }));
  for (let round = 1; round <= size.rounds; round += 1) {
    console.log(`  round ${round} of ${size.rounds}`);
    for (const [index, workload] of WORKLOADS.entries()) {
      const measured = {};
      for (const contestant of contestants) measured[contestant.name] = await run(workload, contestant, size);
      results[index].rounds.push(measured);
    }
  }
  return results;
}

async function run(workload, contestant, size) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject(new Failure(`After ${LIMIT_MS / 1000} s ${contestant.name} has not ended: ${workload.title}.`));
    }, LIMIT_MS);
  });
  try {
    return await Promise.race([workload.run(contestant, size), limit]);
  } finally {
    clearTimeout(timer);
  }
}
