// `npm run deploy`: the Worker onto Cloudflare. What follows `--` goes to `wrangler deploy`, `--dry-run` for one.

import { buildWorker } from './build.mjs';
import { main, must } from './process.mjs';
import { bin, continueOnPackagedNode, ensurePackages } from './setup.mjs';

await main(async () => {
  await ensurePackages();
  await continueOnPackagedNode();
  await buildWorker();
  await must(process.execPath, [bin('wrangler'), 'deploy', ...process.argv.slice(2)]);
});
