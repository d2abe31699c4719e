// `npm test`: every suite in turn, then what passed, failed and was skipped. `npm test -- NAME…` runs the suites of
// these names only; `--strict` fails on a skip that tests/skips.txt does not list.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { WITHOUT_SDK, ensureSdk } from '../tests/upstream/real-worker.mjs';
import { ensureOpenai } from '../tests/docs/python.mjs';
import { build } from './build.mjs';
import { Failure, main, root, run, step } from './process.mjs';
import { continueOnPackagedNode, ensureChromium, ensureConsumerTools, ensurePackages, ensureSiteTools } from './setup.mjs';

const SUITES = {
  core: rustTests,
  upstream: () => nodeTests('tests/upstream/*.test.mjs'),
  worker: () => nodeTests('tests/worker/*.test.mjs'),
  live: () => nodeTests('tests/live/*.test.mjs'),
  sdk: () => nodeTests('tests/sdk/*.test.mjs'),
  browser: () => nodeTests('tests/browser/*.test.mjs'),
  consumers: () => nodeTests('tests/consumers/*.test.mjs'),
  docs: () => nodeTests('tests/docs/*.test.mjs'),
  scripts: () => nodeTests('scripts/*.test.mjs'),
};

/** Suites that run RunPod's Python package where they can. */
const REAL_WORKERS = ['upstream', 'worker'];
/** Those that open pages. */
const PAGES = ['browser', 'consumers', 'docs'];
/** Those that use what others build with. */
const CONSUMERS = ['consumers', 'docs'];

/** A test that hangs fails after this long, with its name. */
const HANGS_AFTER_MS = 600_000;

await main(async () => {
  const { values: { strict }, positionals } = parseArgs({
    options: { strict: { type: 'boolean', default: false } }, allowPositionals: true,
  });
  const names = positionals.length > 0 ? positionals : Object.keys(SUITES);
  const unknown = names.find((name) => !Object.hasOwn(SUITES, name));
  if (unknown) throw new Failure(`There is no suite ${unknown}; there are ${Object.keys(SUITES).join(', ')}.`);

  await ensurePackages();
  await continueOnPackagedNode();
  await build();
  // Here, because tests in several processes would find it missing at the same time, and each would try again.
  if (names.some((name) => REAL_WORKERS.includes(name)) && (await ensureSdk()) === null) process.env[WITHOUT_SDK] = '1';
  if (names.some((name) => PAGES.includes(name))) process.env.CHROME_BIN = await ensureChromium();
  if (names.some((name) => CONSUMERS.includes(name))) await ensureConsumerTools();
  if (names.includes('docs')) await Promise.all([ensureSiteTools(), ensureOpenai()]);

  const results = [];
  for (const name of names) {
    step(`Testing ${name}`);
    const { code, outcomes } = await SUITES[name]();
    const withOutcome = (wanted) => outcomes.filter(({ outcome }) => outcome === wanted).map((test) => test.name);
    results.push({
      name, code, passed: withOutcome('passed'), failed: withOutcome('failed'), skipped: withOutcome('skipped'),
    });
  }
  summarize(results, strict);
});

/** Cargo's own words are the only stable report of it. The Worker crate has no native tests: it is wasm only. */
async function rustTests() {
  const ends = { ok: 'passed', FAILED: 'failed', ignored: 'skipped' };
  const outcomes = [];
  const code = await run('cargo', ['test', '--package', 'fairlead-core', '--no-fail-fast'], {
    onLine: (line) => {
      const [, name, end] = line.match(/^test (.+) \.\.\. (ok|FAILED|ignored)/) ?? [];
      if (name) outcomes.push({ name, outcome: ends[end] });
    },
  });
  return { code, outcomes };
}

async function nodeTests(files) {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-test-'));
  const report = join(folder, 'outcomes');
  try {
    const code = await run(process.execPath, [
      '--test', `--test-timeout=${HANGS_AFTER_MS}`,
      '--test-reporter=spec', '--test-reporter-destination=stdout',
      '--test-reporter=./scripts/outcomes.mjs', `--test-reporter-destination=${report}`,
      files,
    ]);
    return { code, outcomes: readFileSync(report, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line)) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function summarize(results, strict) {
  step('Summary');
  for (const { name, code, passed, failed, skipped } of results) {
    const counts = [`${passed.length} passed`];
    if (failed.length > 0) counts.push(`${failed.length} failed`);
    if (skipped.length > 0) counts.push(`${skipped.length} skipped`);
    if (code !== 0 && failed.length === 0) counts.push(`ended with exit code ${code}`);
    console.log(`  ${name.padEnd(10)} ${counts.join(', ')}`);
  }

  const listed = readFileSync(join(root, 'tests', 'skips.txt'), 'utf8').split('\n').map((line) => line.trim());
  const failures = results.filter(({ code }) => code !== 0).map(({ name }) => `${name} failed`);
  for (const { name, passed, skipped } of results) {
    if (passed.length === 0) failures.push(`${name} has no test that passed`);
    for (const test of skipped) {
      const isListed = listed.includes(test);
      console.log(`  skipped in ${name}: ${test}${isListed ? '' : ' (not in tests/skips.txt)'}`);
      if (strict && !isListed) failures.push(`${name} skipped ${test}`);
    }
  }
  if (failures.length > 0) throw new Failure(`${failures.join('; ')}.`);
}
