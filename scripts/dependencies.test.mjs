// What everything is made of: where it comes from, that it is pinned, and under which licences. `deny.toml` says the same
// to cargo-deny, which takes minutes to compile and a database to ask.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from './process.mjs';

const read = (file) => readFileSync(join(root, file), 'utf8');
const CRATES = 'registry+https://github.com/rust-lang/crates.io-index';
const allowed = JSON.parse(/^allow = (\[.*\])$/m.exec(read('deny.toml'))[1]);

/** workerd for other systems: the registry that the lockfile was made with did not have them, so it knows no checksum. */
const UNTOLD = ['darwin-64', 'darwin-arm64', 'windows-64'].map((system) => `node_modules/@cloudflare/workerd-${system}`);

/** Whether an SPDX expression without nested brackets can be fulfilled. */
function mayBeUsed(expression) {
  const [, inner] = /\(([^()]*)\)/.exec(expression) ?? [];
  if (inner) return mayBeUsed(expression.replace(`(${inner})`, mayBeUsed(inner) ? allowed[0] : 'none'));
  return expression.split(/ OR |\//).some((either) => either.split(' AND ').every((license) => allowed.includes(license.trim())));
}

test('an expression of licences is read as it is meant', () => {
  for (const good of ['MIT', 'MIT/Apache-2.0', 'GPL-3.0 OR MIT', 'MIT AND BSD-3-Clause', '(MIT OR GPL-3.0) AND Unicode-3.0']) {
    assert.ok(mayBeUsed(good), good);
  }
  for (const bad of ['', 'GPL-3.0', 'MIT AND GPL-3.0', '(GPL-3.0 OR AGPL-3.0) AND MIT']) assert.ok(!mayBeUsed(bad), bad);
});

test('every crate is from crates.io, pinned with its checksum, and may be used', () => {
  const entries = read('Cargo.lock').split('[[package]]\n').slice(1);
  const foreign = entries.filter((entry) => !/^name = "fairlead-/m.test(entry));
  assert.ok(foreign.length > 50);
  for (const entry of foreign) {
    assert.match(entry, new RegExp(`^source = "${CRATES.replace('+', '\\+')}"$`, 'm'));
    assert.match(entry, /^checksum = "[0-9a-f]{64}"$/m);
  }
  const { stdout, stderr, status } = spawnSync('cargo', ['metadata', '--format-version', '1', '--locked', '--offline'], {
    cwd: root, encoding: 'utf8', maxBuffer: 64 << 20,
  });
  assert.equal(status, 0, stderr);
  const { packages } = JSON.parse(stdout);
  const unfit = packages.filter(({ license }) => !license || !mayBeUsed(license));
  assert.deepEqual(unfit.map(({ name, license }) => `${name}: ${license}`), []);
});

test('of each crate there is one version, but for what is only run by the compiler', () => {
  const names = read('Cargo.lock').match(/^name = ".*"$/gm).map((line) => line.slice(8, -1));
  const skipped = [...read('deny.toml').matchAll(/^skip = \[(.*)\]$/gm)].flatMap(([, list]) => list.match(/"[^"]+"/g).map((name) => name.slice(1, -1)));
  const twice = names.filter((name, at) => names.indexOf(name) !== at && !skipped.includes(name));
  assert.deepEqual(twice, []);
});

for (const folder of ['.', 'docs', 'tests/consumers'].filter((each) => existsSync(join(root, each, 'package-lock.json')))) {
  test(`what npm installs in ${folder} is from its registry, named exactly, and pinned with its checksum`, () => {
    const { dependencies, devDependencies } = JSON.parse(read(join(folder, 'package.json')));
    for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
      assert.match(version, /^(\d+\.\d+\.\d+(-[\w.]+)?|file:.+)$/, name);
    }
    const { packages } = JSON.parse(read(join(folder, 'package-lock.json')));
    for (const [place, { integrity, resolved, link, inBundle }] of Object.entries(packages)) {
      if (place === '' || link || inBundle || resolved?.startsWith('file:')) continue;
      assert.equal(resolved, undefined, `${place}: npm is to take it from the registry that it is set up with`);
      if (!UNTOLD.includes(place)) assert.match(integrity ?? '', /^sha512-/, place);
    }
  });
}

test('what is published needs nothing else', () => {
  const { dependencies, peerDependencies, optionalDependencies, scripts } = JSON.parse(read('pkg-js/package.json'));
  assert.deepEqual([dependencies, peerDependencies, optionalDependencies], [undefined, undefined, undefined]);
  for (const name of ['preinstall', 'install', 'postinstall']) assert.equal(scripts?.[name], undefined);
});
