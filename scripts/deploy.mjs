// `npm run deploy`: the Worker onto Cloudflare. What follows `--` goes to `wrangler deploy`, `--dry-run` for one.
//
// A CONFIG with mistakes is refused, and so is one that lets everybody in or is still the demo's; `--yes-open` says that
// this is meant.

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { buildWorker } from './build.mjs';
import { judge } from './judge.mjs';
import { Failure, main, must, root } from './process.mjs';
import { bin, continueOnPackagedNode, ensurePackages } from './setup.mjs';

const OWN = '--yes-open';

/** A configuration that says everything by a secret or by KV. */
const NOTHING_TO_JUDGE = 2;

await main(async () => {
  const args = process.argv.slice(2).filter((arg) => arg !== OWN);
  // wrangler knows all others.
  const { values: { env, config } } = parseArgs({
    args, strict: false, options: { env: { type: 'string', short: 'e' }, config: { type: 'string', short: 'c' } },
  });
  const file = config ?? ['wrangler.json', 'wrangler.jsonc', 'wrangler.toml'].find((name) => existsSync(join(root, name)));
  await ensurePackages();
  await continueOnPackagedNode();
  await refuse(resolve(root, file ?? 'wrangler.toml'), env);
  await buildWorker();
  await must(process.execPath, [bin('wrangler'), 'deploy', ...args]);
});

/** Fails where a deployment would serve nobody, or everybody. */
async function refuse(path, env) {
  let judged;
  try {
    judged = await judge(path, { env });
  } catch (error) {
    if (error.exitCode !== NOTHING_TO_JUDGE || !existsSync(path)) throw error;
    console.log(`${error.message} It is deployed unread.`);
    return;
  }
  if (!judged.valid) throw new Failure('CONFIG has mistakes: this Worker would answer nobody. Nothing was deployed.');
  if (judged.demo.length > 0 && !process.argv.includes(OWN)) {
    throw new Failure(`Nothing was deployed: see the warnings above. If all of this is meant: npm run deploy -- ${OWN}`);
  }
}
