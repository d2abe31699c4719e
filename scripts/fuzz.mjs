// `npm run fuzz -- TARGET [SECONDS]`: looks for inputs that break a promise of one of the targets in tests/fuzz, guided
// by coverage, from its corpus on. `--keep` adds what was found to that: small inputs that lead where no other does.
//
// cargo-fuzz under the toolchain of rust-toolchain.toml: no sanitizer, which would want a nightly one, as there is no
// unsafe code to find fault with.

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Failure, main, root, run, step } from './process.mjs';
import { ensureFuzzTools } from './setup.mjs';

const CRATE = join('tests', 'fuzz', 'libfuzzer');
const CORPUS = join(root, 'tests', 'fuzz', 'corpus');
/** What is found on the way, of no use to anybody else. */
const WORK = join(root, '.tools', 'fuzz');
const TARGET_FOLDER = join('target', 'fuzz');
/** The largest corpus that is kept, and the largest input that is added to one, in bytes. */
const MOST_KEPT = 60_000;
const SMALL = 700;

await main(async () => {
  const { values: { keep }, positionals: [target, seconds = '60'] } = parseArgs({
    options: { keep: { type: 'boolean', default: false } }, allowPositionals: true,
  });
  const targets = readdirSync(CORPUS).map((file) => file.replace(/\.txt$/, ''));
  if (!targets.includes(target) || !(Number(seconds) > 0)) {
    throw new Failure(`npm run fuzz -- TARGET [SECONDS] [--keep], where TARGET is one of ${targets.join(', ')}.`);
  }
  const cargoFuzz = await ensureFuzzTools();
  const folder = (name) => {
    const path = join(WORK, target, name);
    mkdirSync(path, { recursive: true });
    return path;
  };
  const [seeds, found, artifacts] = [folder('seeds'), folder('found'), folder('artifacts')];
  unpack(join(CORPUS, `${target}.txt`), seeds);

  const fuzz = (folders, ...options) => run(cargoFuzz, [
    'run', '--fuzz-dir', CRATE, '--target-dir', TARGET_FOLDER, '--sanitizer', 'none', target, ...folders,
    '--', '-rss_limit_mb=512', `-artifact_prefix=${artifacts}/`, ...options,
  ]);
  step(`Fuzzing ${target}`, `${seconds} s`);
  const code = await fuzz([found, seeds], `-max_total_time=${seconds}`, '-max_len=4096', '-timeout=10', '-print_final_stats=1');
  if (code !== 0) {
    const inputs = readdirSync(artifacts).map((file) => `  ${escaped(readFileSync(join(artifacts, file)))}`);
    throw new Failure(`A promise of ${target} is broken. Inputs, as lines of ${CORPUS}/${target}.txt:\n${inputs.join('\n')}`);
  }
  if (!keep) return;

  step('Choosing what to keep');
  const old = new Set(readdirSync(seeds));
  if ((await fuzz([seeds, found], '-set_cover_merge=1', `-max_len=${SMALL}`)) !== 0) throw new Failure('Nothing is kept.');
  const fresh = readdirSync(seeds).filter((name) => !old.has(name)).map((name) => readFileSync(join(seeds, name)));
  append(fresh, join(CORPUS, `${target}.txt`));
});

/** A file for each line of a corpus. */
function unpack(corpus, folder) {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
  for (const line of readFileSync(corpus, 'latin1').split('\n').slice(0, -1)) {
    const input = unescaped(line);
    writeFileSync(join(folder, createHash('sha1').update(input).digest('hex')), input);
  }
}

/** A line for each input, the smallest first, until the corpus is large enough. */
function append(inputs, corpus) {
  inputs.sort((one, other) => one.length - other.length || Buffer.compare(one, other));
  let text = readFileSync(corpus, 'latin1');
  let added = 0;
  for (const line of inputs.map(escaped)) {
    if (text.length + line.length >= MOST_KEPT) break;
    text += `${line}\n`;
    added += 1;
  }
  writeFileSync(corpus, text, 'latin1');
  console.log(`${added} of ${inputs.length} that are new were added to ${corpus}.`);
}

/** As Rust's `escape_ascii`. */
function escaped(bytes) {
  const named = { 9: '\\t', 10: '\\n', 13: '\\r', 34: '\\"', 39: "\\'", 92: '\\\\' };
  const one = (byte) =>
    named[byte] ?? (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`);
  return [...bytes].map(one).join('');
}

function unescaped(line) {
  const codes = { n: 10, r: 13, t: 9 };
  const text = line.replace(/\\(?:x(..)|(.))/g, (_, hex, name) =>
    String.fromCharCode(hex ? parseInt(hex, 16) : codes[name] ?? name.charCodeAt(0)));
  return Buffer.from(text, 'latin1');
}
