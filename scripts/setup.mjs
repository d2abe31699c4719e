// What the commands need on a machine that has only rustup, Node >= 20 and npm: installed when it is
// missing, left alone when it is there. Everything comes from the two package registries, and lands in
// node_modules and .tools; but a browser, where there is none, is the system's own package.

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { capture, Failure, must, root, run, step } from './process.mjs';

export const TARGET = 'wasm32-unknown-unknown';
const PACKAGES = join(root, 'node_modules');
const TOOL_ROOT = join(root, '.tools', 'cargo');
const SHARED_TARGET = join(root, '.tools', 'target');

/** What a Chromium is called in PATH, and where it is on a Mac, which has it nowhere in PATH. */
const BROWSERS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'];
const MAC_BROWSERS = ['Chromium', 'Google Chrome'].map((name) => `/Applications/${name}.app/Contents/MacOS/${name}`);

/** Where the `ensure` functions below put a program. */
export const bin = (name) => join(PACKAGES, '.bin', name);
export const tool = (name) => join(TOOL_ROOT, 'bin', name);

/** What the repository works with. */
export async function ensurePackages() {
  await installPackages(root, 'Installing the npm packages', '20 s');
  if (!existsSync(bin('node'))) {
    throw new Failure('The npm package `node` installed no Node. Are install scripts forbidden (ignore-scripts)?');
  }
}

/** What others build with, and the packed package is tried with. */
export function ensureConsumerTools() {
  return installPackages(join(root, 'tests', 'consumers'), 'Installing what others build with', '15 s');
}

/** What the site is built with. */
export function ensureSiteTools() {
  return installPackages(join(root, 'docs'), 'Installing what the site is built with', '10 s');
}

/** Runs `npm ci` in a folder unless its node_modules holds what its package-lock.json says. */
async function installPackages(folder, what, usually) {
  const stamp = join(folder, 'node_modules', '.package-lock.sha256');
  const wanted = createHash('sha256').update(readFileSync(join(folder, 'package-lock.json'))).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;

  step(what, usually);
  // npm puts node_modules/.bin first in the PATH of its scripts. Its Node may be about to be deleted, so this npm must
  // run on the machine's own.
  const env = { ...process.env, PATH: machinePath().join(delimiter) };
  await must('npm', ['ci', '--loglevel=error'], { cwd: folder, env });
  writeFileSync(stamp, wanted);
}

/** The Node that the machine has by itself. */
export const machineNode = () => findInPath('node', machinePath());

/** PATH without what npm, and `continueOnPackagedNode`, put into it. */
function machinePath() {
  return process.env.PATH.split(delimiter).filter((folder) => !folder.startsWith(PACKAGES));
}

/**
 * Starts the running script again under the Node of node_modules, unless it runs there already: wrangler
 * and the tests want a newer one than the machine may have.
 */
export async function continueOnPackagedNode() {
  const node = realpathSync(bin('node'));
  if (process.execPath === node) return;
  const path = [join(PACKAGES, '.bin'), process.env.PATH].join(delimiter);
  process.exit(await run(node, process.argv.slice(1), { cwd: process.cwd(), env: { ...process.env, PATH: path } }));
}

/** The Rust target and the two cargo-installed tools that turn the Worker into wasm. */
export async function ensureWasmTools() {
  const libraries = capture('rustc', ['--print', 'target-libdir', '--target', TARGET]);
  if (libraries === undefined) {
    throw new Failure(`Rust, or the version of it in rust-toolchain.toml, is missing.
Get rustup from https://rustup.rs, then run: rustup toolchain install`);
  }
  if (!existsSync(libraries)) {
    step(`Adding the Rust target ${TARGET}`, '10 s');
    await must('rustup', ['target', 'add', TARGET]);
  }

  await ensureTool('worker-build', { crate: 'worker-build', version: '0.8.7' });
  // What wasm-bindgen writes must match the crate inside the Worker to the patch version.
  await ensureTool('wasm-bindgen', { crate: 'wasm-bindgen-cli', version: lockedVersion('wasm-bindgen') });
  rmSync(SHARED_TARGET, { recursive: true, force: true });
}

/** The path of cargo-fuzz. What it builds needs a C++ compiler, for the engine is compiled in. */
export async function ensureFuzzTools() {
  if (!['c++', 'g++', 'clang++'].some((name) => findInPath(name))) {
    throw new Failure('Fuzzing needs a C++ compiler (Debian: apt-get install g++).');
  }
  await ensureTool('cargo-fuzz', { crate: 'cargo-fuzz', version: '0.13.1' });
  return tool('cargo-fuzz');
}

async function ensureTool(name, { crate, version }) {
  if (existsSync(tool(name)) && capture(tool(name), ['--version'])?.split(' ').at(-1) === version) return;

  step(`Compiling ${crate} ${version} into .tools`, '1 to 2 minutes, once');
  const env = {
    ...process.env,
    CARGO_TARGET_DIR: SHARED_TARGET, // the two have dependencies in common
    CARGO_PROFILE_RELEASE_OPT_LEVEL: '0', // they run for half a second; making them faster takes three times as long
  };
  const install = ['install', `${crate}@${version}`, '--bin', name, '--root', TOOL_ROOT, '--force'];
  // The versions that its authors tested, where the registry still has them all.
  if ((await run('cargo', [...install, '--locked'], { env })) === 0) return;
  console.log(`No harm done: some dependencies that ${crate} was published with cannot be had. Trying current ones.`);
  await must('cargo', install, { env });
}

/** The path of a Chromium: `CHROME_BIN`, or one that is found, or Debian's, which is installed where it can be. */
export async function ensureChromium() {
  const { CHROME_BIN } = process.env;
  if (CHROME_BIN) {
    if (existsSync(CHROME_BIN)) return CHROME_BIN;
    throw new Failure(`CHROME_BIN is ${CHROME_BIN}, and there is no such file.`);
  }
  const found = findChromium();
  if (found) return found;

  if (process.getuid?.() === 0 && findInPath('apt-get')) {
    step('Installing Chromium', '30 s');
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const install = ['install', '--yes', '--quiet', '--no-install-recommends', 'chromium'];
    // Ubuntu has no such package; who fails is told below what to do.
    if ((await run('apt-get', ['update', '--quiet'], { env })) === 0) await run('apt-get', install, { env });
  }
  const installed = findChromium();
  if (installed) return installed;
  throw new Failure(`The browser tests need Chromium or Chrome, and none was found.
Install one (Debian: apt-get install chromium; macOS: brew install --cask chromium), or set CHROME_BIN to its path.`);
}

function findChromium() {
  return BROWSERS.map((name) => findInPath(name)).find(Boolean) ?? MAC_BROWSERS.find((path) => existsSync(path));
}

function findInPath(name, folders = process.env.PATH.split(delimiter)) {
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** The version of a crate in Cargo.lock. */
function lockedVersion(crate) {
  const [, version] = readFileSync(join(root, 'Cargo.lock'), 'utf8').match(`name = "${crate}"\nversion = "(.+)"`);
  return version;
}
