// `npm run test:live`: asks a running server, Fairlead or any other that speaks OpenAI's HTTP, whether it keeps to the
// protocol, and says what differs and how. What follows `--` are words: only checks whose names hold one of them run.
//
// Exits with 1 if something differs. Without its variables it asks nobody, says so, and exits with 0.

import { parseArgs } from 'node:util';
import { CHECKS, run } from '../tests/live/run.mjs';
import { Failure, main } from './process.mjs';
import { continueOnPackagedNode, ensurePackages } from './setup.mjs';

const VARIABLES = {
  FAIRLEAD_LIVE_URL: 'the base URL, as an OpenAI client takes it: https://gateway.example.com/v1',
  FAIRLEAD_LIVE_KEY: 'a key; any word for a server that asks for none',
  FAIRLEAD_LIVE_MODEL: 'the model to ask for',
};

await main(async () => {
  const { positionals: words } = parseArgs({ allowPositionals: true });
  const missing = Object.keys(VARIABLES).filter((name) => !process.env[name]);
  if (missing.length > 0) return skipAloud(missing);

  const { FAIRLEAD_LIVE_URL: url, FAIRLEAD_LIVE_KEY: key, FAIRLEAD_LIVE_MODEL: model } = process.env;
  if (!isHttp(url)) throw new Failure('FAIRLEAD_LIVE_URL is no http or https URL.');
  const checks = CHECKS.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
  if (checks.length === 0) throw new Failure(`No check has ${words.join(' or ')} in its name.`);
  await ensurePackages();
  await continueOnPackagedNode();
  await reach(url);
  console.log(`${model} at ${shown(url)}\n`);
  const counts = await run({ url, key, model }, checks, console.log);
  if (counts.differs > 0) process.exitCode = 1;
});

function skipAloud(missing) {
  const notSet = `${missing.join(', ')} ${missing.length > 1 ? 'are' : 'is'} not set`;
  console.log(`SKIPPED: no server was asked anything, because ${notSet}.\n`);
  for (const name of missing) console.log(`  ${name.padEnd(20)} ${VARIABLES[name]}`);
  console.log(`\n${CHECKS.length} checks would run:\n`);
  for (const { name } of CHECKS) console.log(`  ${name}`);
}

function isHttp(url) {
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
}

/** Without a query or a password that may stand in it. */
function shown(url) {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname}`;
}

/** One clear word instead of as many differences as there are checks. */
async function reach(url) {
  await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(30_000) }).then(
    (response) => response.body?.cancel(),
    ({ name, cause }) => { throw new Failure(`${shown(url)} gives no answer (${cause?.code ?? name}).`); },
  );
}
