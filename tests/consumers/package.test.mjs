// The tarball itself: what is in it, and what the judges of packages say of its exports and types.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { startProjects, tool } from './project.mjs';

let projects;
let installed;
let manifest;
before(async () => {
  projects = await startProjects();
  installed = join(projects.folder, 'node_modules', 'fairlead');
  manifest = JSON.parse(await readFile(join(installed, 'package.json')));
});
after(() => projects?.close());

const has = (path) => projects.files.some((file) => file.path === path);

it('every path that the manifest exports is there', () => {
  const paths = (exported) => (typeof exported === 'string' ? [exported] : Object.values(exported).flatMap(paths));
  const missing = paths(manifest.exports).map((path) => path.replace('./', '')).filter((path) => !has(path));
  assert.deepEqual(missing, []);
});

it('README, licences and source maps are inside, and whatever else it needs', async () => {
  assert.ok(has('README.md'));
  assert.ok(projects.files.some(({ path }) => /^LICENSE/.test(path)));
  for (const { path } of projects.files.filter(({ path: each }) => each.endsWith('.js'))) {
    assert.ok(has(`${path}.map`), `${path} has no source map`);
    const { sources, sourcesContent } = JSON.parse(await readFile(join(installed, `${path}.map`)));
    assert.equal(sourcesContent?.length, sources.length, `${path}.map shows no sources`);
  }
  assert.equal(manifest.dependencies, undefined);
});

it('no file of it names this machine', async () => {
  for (const { path } of projects.files) {
    const text = await readFile(join(installed, path), 'latin1');
    assert.ok(!text.includes(process.cwd()), `${path} names ${process.cwd()}`);
  }
});

it('no script runs where it is installed', () => {
  const { preinstall, install, postinstall, prepare } = manifest.scripts ?? {};
  assert.deepEqual([preinstall, install, postinstall, prepare], [undefined, undefined, undefined, undefined]);
});

it('publint finds nothing', async () => {
  const { messages } = await publint({ pkgDir: installed, strict: true, pack: false });
  assert.deepEqual(messages.map((message) => formatMessage(message, manifest)), []);
});

it('attw finds its types under every resolution that knows modules', async () => {
  const wish = ['--profile', 'esm-only', '--exclude-entrypoints', './core.wasm', '--no-color'];
  await projects.run(tool('attw'), [projects.tarball, ...wish]);
});
