// `npm run check -- [FILE] [--env NAME]`: what is wrong with the CONFIG of a wrangler configuration, and which secrets
// it wants. wrangler reads the file, and the core that will read CONFIG in the Worker judges it.
//
// Exits with 1 if there are mistakes, with 2 if there is nothing to judge.

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Failure, main, must, root, run } from './process.mjs';
import { continueOnPackagedNode, ensurePackages } from './setup.mjs';

const NOTHING_TO_JUDGE = 2;

await main(async () => {
  const { values: { env }, positionals } = parseArgs({ options: { env: { type: 'string' } }, allowPositionals: true });
  const file = positionals[0] ?? join(root, 'wrangler.toml');
  // npm runs scripts in the root; a file's name is meant from where the user is.
  const path = resolve(process.env.INIT_CWD ?? '.', file);
  if (!existsSync(path)) throw new Failure(`There is no ${file}.`, NOTHING_TO_JUDGE);
  await ensurePackages();
  await continueOnPackagedNode();

  const worker = await read(path, env);
  const bindings = Object.fromEntries(Object.entries(worker.vars).filter(([name]) => /^CONFIG(_|$)/.test(name)));
  if (Object.keys(bindings).length === 0) {
    throw new Failure(`${file} has no CONFIG among its vars; a secret cannot be read here.`, NOTHING_TO_JUDGE);
  }
  const services = [worker.services, worker.vpc_services, worker.vpc_networks].flat()
    .filter(Boolean).map(({ binding }) => binding);

  const example = ['--package', 'fairlead-core', '--example', 'check'];
  await must('cargo', ['build', ...example]); // on its own, so that progress is seen
  const code = await run('cargo', ['run', '--quiet', ...example], {
    input: JSON.stringify({ ...bindings, services, rate_limiters: (worker.ratelimits ?? []).map(({ name }) => name) }),
  });
  for (const name of secretsOf(Object.values(bindings).map(parsed))) {
    // A var of this name serves as well, and wrangler refuses a secret beside it.
    if (!Object.hasOwn(worker.vars, name)) console.log(`secret ${name}: set it with  npx wrangler secret put ${name}`);
  }
  if (code === 0) console.log(`CONFIG of ${file} is valid.`);
  process.exit(code);
});

async function read(path, env) {
  const { unstable_readConfig: readConfig } = await import('wrangler');
  try {
    return readConfig({ config: path, env }, { hideWarnings: true });
  } catch (error) {
    const { file = path, line } = error.location ?? {};
    throw new Failure(`${file}${line ? `:${line}` : ''} cannot be read: ${error.message}`, NOTHING_TO_JUDGE);
  }
}

/** A var may hold JSON as text. What is not JSON has been reported as a mistake. */
function parsed(value) {
  try {
    return typeof value === 'string' ? JSON.parse(value) : value;
  } catch {
    return undefined;
  }
}

/** Every name in a `*_secret` field, at any depth, once. */
function secretsOf(value, names = new Set()) {
  for (const [key, inner] of Object.entries(value ?? {})) {
    if (typeof inner === 'object') secretsOf(inner, names);
    else if (key.endsWith('_secret') && typeof inner === 'string') names.add(inner);
  }
  return names;
}
