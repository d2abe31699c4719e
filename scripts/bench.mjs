// `npm run bench`: bench/run.mjs on a Worker that is up to date. What follows `--` goes to it.

import { build } from './build.mjs';
import { main, must } from './process.mjs';
import { continueOnPackagedNode, ensurePackages } from './setup.mjs';

await main(async () => {
  await ensurePackages();
  await continueOnPackagedNode();
  await build();
  await must(process.execPath, ['bench/run.mjs', ...process.argv.slice(2)]);
});
