// `npm run check -- [FILE] [--env NAME]`: what is wrong with the CONFIG of a wrangler configuration, or with a JSON file
// that is to go into KV, and which secrets it wants.
//
// Exits with 1 if there are mistakes, with 2 if there is nothing to judge.

import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { judge } from './judge.mjs';
import { main, root } from './process.mjs';
import { continueOnPackagedNode, ensurePackages } from './setup.mjs';

await main(async () => {
  const { values: { env }, positionals } = parseArgs({ options: { env: { type: 'string' } }, allowPositionals: true });
  const file = positionals[0] ?? join(root, 'wrangler.toml');
  await ensurePackages();
  await continueOnPackagedNode();
  // npm runs scripts in the root; a file's name is meant from where the user is.
  const { valid } = await judge(resolve(process.env.INIT_CWD ?? '.', file), { env, file });
  if (valid) console.log(`CONFIG of ${file} is valid.`);
  process.exit(valid ? 0 : 1);
});
