// The packed package through the bundlers that people use, and through none, run in Chromium: one import, one call.

import assert from 'node:assert/strict';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { promisify } from 'node:util';
import * as esbuild from 'esbuild';
import { build as vite } from 'vite';
import webpack from 'webpack';
import { startPages } from '../browser/pages.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startProjects } from './project.mjs';

/** What each of them builds. */
const APP = `
  import { Fairlead } from 'fairlead';
  globalThis.ask = async (options) => {
    const ai = new Fairlead(options);
    const messages = [{ role: 'user', content: 'Hi' }];
    let text = '';
    for await (const chunk of await ai.chat.completions.create({ model: 'qwen', messages, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? '';
    }
    return text;
  };
`;
/** The same for who wants the wasm beside the script, to compile while it comes. */
const SLIM_APP = (wasm) => APP
  .replace("{ Fairlead } from 'fairlead'", `{ Fairlead, init } from 'fairlead/slim'; ${wasm}`)
  .replace('const ai', 'await init(fetch(wasm)); const ai');
const page = (script) => `<!DOCTYPE html><script type="module" src="${script}"></script>`;

let vllm;
let projects;
let pages;
before(async () => {
  [vllm, projects, pages] = await Promise.all([startVllm({ apiKey: 'key' }), startProjects(), startPages()]);
});
after(async () => {
  await Promise.all([pages?.close(), projects?.close(), vllm.close()]);
  assert.deepEqual(pages.troubles, []);
});

async function assertRuns(name, folder) {
  pages.serve(name, folder);
  const opened = await pages.open({ path: `/${name}/index.html` });
  const options = { baseURL: `${vllm.url}/v1`, apiKey: 'key' };
  assert.equal(await opened.evaluate((how) => globalThis.ask(how), options), DEFAULT_TEXT);
}

async function viteBuild(name, app) {
  const root = await projects.create(name, { 'index.html': page('./app.js'), 'app.js': app });
  await vite({ root, base: './', configFile: false, logLevel: 'warn', build: { outDir: 'out' } });
  return join(root, 'out');
}

async function webpackBuild(name, app) {
  const context = await projects.create(name, { 'app.js': app, 'out/index.html': page('./app.js') });
  const stats = await promisify(webpack)({
    context, mode: 'production', entry: './app.js', output: { path: join(context, 'out'), filename: 'app.js' },
  });
  assert.deepEqual(stats.toJson({ errors: true, warnings: true }).errors, []);
  return join(context, 'out');
}

async function esbuildBuild(name, app, more) {
  const folder = await projects.create(name, { 'app.js': app, 'out/index.html': page('./app.js') });
  const { warnings } = await esbuild.build({
    absWorkingDir: folder, entryPoints: ['app.js'], outdir: 'out', bundle: true, format: 'esm', logLevel: 'error',
    ...more,
  });
  assert.deepEqual(warnings, []);
  return join(folder, 'out');
}

it('Vite', async () => assertRuns('vite', await viteBuild('vite', APP)));
it('webpack', async () => assertRuns('webpack', await webpackBuild('webpack', APP)));
it('esbuild', async () => assertRuns('esbuild', await esbuildBuild('esbuild', APP)));

it('no bundler', async () => {
  const folder = await projects.create('plain', {
    'index.html': `<!DOCTYPE html>
      <script type="importmap">{ "imports": { "fairlead": "./fairlead/dist/index.js" } }</script>
      <script type="module">${APP}</script>`,
  });
  await cp(join(folder, '../node_modules/fairlead'), join(folder, 'fairlead'), { recursive: true });
  await assertRuns('plain', folder);
});

it('Vite, with the wasm beside the script', async () => {
  await assertRuns('vite-slim', await viteBuild('vite-slim', SLIM_APP("import wasm from 'fairlead/core.wasm?url'")));
});

it('webpack, with the wasm beside the script', async () => {
  const app = SLIM_APP("const wasm = new URL('fairlead/core.wasm', import.meta.url)");
  await assertRuns('webpack-slim', await webpackBuild('webpack-slim', app));
});

it('esbuild, with the wasm beside the script', async () => {
  const app = SLIM_APP("import wasm from 'fairlead/core.wasm'");
  await assertRuns('esbuild-slim', await esbuildBuild('esbuild-slim', app, { loader: { '.wasm': 'file' } }));
});
