// `npm run bench`: what Fairlead costs, set against hand-written Workers in the same run.
// Needs Linux, because it reads CPU times and memory from /proc, and a Worker in worker/build, which the npm script
// sees to.
//
//   package         the npm package alone, set against the openai SDK in Chromium; only its section is written
//   --quick         a good minute, for a look; bench/RESULTS.md stays as it is
//   --only <name>   this workload only, and nothing is written: whole, watched, firstByte, paced, burst, idle,
//                   held, cold or bundle
//   --date <text>   the date in bench/RESULTS.md, today's without it

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Failure, main, root, step } from '../scripts/process.mjs';
import { CONTESTANTS, countReads, start } from './contestants.mjs';
import { benchCore } from './core.mjs';
import { plot } from './plot.mjs';
import { HEADING, benchPackage, section } from './package.mjs';
import { openFilesLimit } from './proc.mjs';
import { conditions, page } from './report.mjs';
import { buildRig, startUpstream } from './rig.mjs';
import { AT_A_TIME, CONNECTIONS, IDLE, SIZES, WORKLOADS } from './workloads.mjs';

/** Ten times what the longest part of a round takes on a busy machine. */
const LIMIT_MS = 60_000;

await main(async () => {
  const { values: { quick, only, date }, positionals: [part, ...more] } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: 'boolean' },
      only: { type: 'string' },
      date: { type: 'string', default: new Date().toISOString().slice(0, 10) },
    },
  });
  if ((part && part !== 'package') || more.length > 0) throw new Failure('The only part that runs alone is `package`.');
  if (part && only) throw new Failure('--only names a workload of the Worker.');
  if (!existsSync('/proc/self/stat')) throw new Failure('The bench reads CPU times from /proc, so it needs Linux.');
  if (only && !Object.hasOwn(WORKLOADS, only)) {
    throw new Failure(`There is no workload ${only}; there are ${Object.keys(WORKLOADS).join(', ')}.`);
  }
  const workloads = Object.fromEntries(Object.entries(WORKLOADS).filter(([name]) => !only || name === only));
  const size = quick ? SIZES.quick : SIZES.full;
  const options = [part, quick && '--quick', only && `--only ${only}`].filter(Boolean);
  const command = ['npm run bench', ...(options.length > 0 ? ['--', ...options] : [])].join(' ');
  const under = conditions();
  if (part) return packageAlone({ quick, command, date, under });

  const core = quick || only ? undefined : benchCore();
  await buildRig();
  step('Benchmarking the Worker', quick ? '70 s' : '7 minutes');
  const upstream = await startUpstream();
  const contestants = [];
  try {
    for (const each of CONTESTANTS) contestants.push(await start(each, upstream.port));
    checkOpenFiles(contestants);
    await warmUp(contestants, Object.values(workloads), upstream);
    const results = await play(contestants, workloads, size, upstream);
    const reads = {
      paced: await countReads('paced', AT_A_TIME, upstream.port),
      burst: await countReads('burst', CONNECTIONS, upstream.port),
    };
    const npm = quick || only ? undefined : await benchPackage();
    const text = page({ command, date, under, results, reads, core, npm });
    console.log(`\n${text}`);
    if (!quick && !only) {
      writeFileSync(join(root, 'bench/RESULTS.md'), text);
      writeFileSync(join(root, 'bench/results.svg'), plot(results));
    }
  } finally {
    await Promise.all([upstream, ...contestants].map((each) => each.stop()));
  }
});

/** Measures what pages have, and leaves the rest of the results as it is. */
async function packageAlone({ quick, ...about }) {
  const text = section({ ...about, npm: await benchPackage({ quick }) });
  console.log(`\n${text}`);
  if (quick) return;
  const file = join(root, 'bench/RESULTS.md');
  const [rest] = readFileSync(file, 'utf8').split(`\n${HEADING}\n`);
  writeFileSync(file, `${rest.trimEnd()}\n\n${text}`);
}

/** Each open stream is two connections of a Worker, and two handles at both of their ends. */
function checkOpenFiles(contestants) {
  const needed = 2 * IDLE + 100;
  for (const { name, pid } of contestants) {
    if (pid && openFilesLimit(pid) < needed) {
      throw new Failure(`${name} may not open ${needed} files. Before the bench: ulimit -n ${needed}`);
    }
  }
}

/**
 * Lets the runtimes compile what is hot, and makes sure of what the figures rest on: a contestant's work shows in the
 * CPU time of its own process, and not in another's.
 */
async function warmUp(all, workloads, upstream) {
  const contestants = all.filter(({ pid }) => pid);
  for (const contestant of contestants) {
    const before = contestants.map((each) => each.cpuMs());
    for (const workload of workloads) {
      const takesPart = workload.who.includes(contestant.name) && !workload.needsNewProcess;
      if (takesPart) await run(workload, contestant, SIZES.warmUp, upstream);
    }
    const spent = contestants.map((each, index) => each.cpuMs() - before[index]);
    const own = spent[contestants.indexOf(contestant)];
    const others = spent.reduce((sum, each) => sum + each, -own);
    if (others > own / 5 && others > 50) {
      throw new Failure(`Only ${contestant.name} was busy, but its CPU shows ${own} ms, the others' ${others} ms.`);
    }
  }
}

/** All rounds. In each, the contestants do a workload one next to the other, and who begins changes. */
async function play(contestants, workloads, size, upstream) {
  const results = {};
  for (const [name, { title, figures, who }] of Object.entries(workloads)) {
    results[name] = { title, figures, who, rounds: [] };
  }
  for (let round = 0; round < size.rounds; round += 1) {
    console.log(`  round ${round + 1} of ${size.rounds}`);
    for (const [name, workload] of Object.entries(workloads)) {
      if (round >= (workload.rounds?.(size) ?? size.rounds)) continue;
      const takePart = contestants.filter((each) => workload.who.includes(each.name));
      const first = round % takePart.length;
      const measured = {};
      for (const contestant of [...takePart.slice(first), ...takePart.slice(0, first)]) {
        measured[contestant.name] = await run(workload, contestant, size, upstream);
      }
      results[name].rounds.push(measured);
    }
  }
  return results;
}

async function run(workload, contestant, size, upstream) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject(new Failure(`After ${LIMIT_MS / 1000} s ${contestant.name} has not ended: ${workload.title}.`));
    }, LIMIT_MS);
  });
  try {
    return await Promise.race([workload.run(contestant, size, upstream), limit]);
  } finally {
    clearTimeout(timer);
  }
}
