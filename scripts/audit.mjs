// `npm run audit`: asks the databases of known weaknesses about all that this is made of, with the tools that are there,
// and says what could not be asked. Fails where a tool has found something.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, main, root, step } from './process.mjs';

/** Folders with a lockfile of npm's. What is in them builds and tests; none of it is in the Worker or the package. */
const LOCKS = ['.', 'docs', 'tests/consumers'];

/** What a tool says when it is not there, or cannot reach its database: that is no finding. */
const UNREACHABLE = /no such (sub)?command|audit endpoint returned an error|failed to (fetch|clone|open|prepare)|couldn't fetch|could not resolve|ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ETIMEDOUT/i;

const CHECKS = [
  { name: 'cargo deny', command: 'cargo', args: ['deny', '--locked', 'check'], cure: 'cargo install --locked cargo-deny' },
  { name: 'cargo audit', command: 'cargo', args: ['audit', '--deny', 'warnings'], cure: 'cargo install --locked cargo-audit' },
  ...LOCKS.filter((folder) => existsSync(join(root, folder, 'package-lock.json'))).map((folder) => ({
    name: `npm audit in ${folder}`, command: 'npm', args: ['audit', '--audit-level=high'], cwd: join(root, folder),
    cure: 'a registry that answers to audits',
  })),
];

await main(() => {
  const outcomes = CHECKS.map(({ name, command, args, cwd = root, cure }) => {
    step(name);
    const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: 'utf8' });
    const said = `${stdout ?? ''}${stderr ?? ''}`;
    if (error || (status !== 0 && UNREACHABLE.test(said))) {
      return { name, outcome: `not run: it needs ${cure}, and its database in reach` };
    }
    console.log(said.trim());
    return { name, outcome: status === 0 ? 'nothing found' : 'FOUND something, see above', failed: status !== 0 };
  });
  step('Summary');
  for (const { name, outcome } of outcomes) console.log(`  ${name.padEnd(28)} ${outcome}`);
  const failed = outcomes.filter((outcome) => outcome.failed).map(({ name }) => name);
  if (failed.length > 0) throw new Failure(`${failed.join(' and ')} found something.`);
});
