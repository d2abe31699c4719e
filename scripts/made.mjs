// What is made of sources, and need not be made again while they are the same.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { root } from './process.mjs';

/**
 * Lets `make` fill a folder, unless what it depends on is as it was when the folder was filled last.
 * @param {string} folder from the repository's root
 * @param {string[]} inputs files and folders, from there, too: sources, compilers, and the tools behind them
 * @param {() => Promise<void>} make
 * @returns {Promise<boolean>} whether it was needed
 */
export async function keepMade(folder, inputs, make, { force = false } = {}) {
  const stamp = join(root, folder, '.inputs.sha256');
  const wanted = digest(inputs);
  if (!force && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return false;
  rmSync(stamp, { force: true }); // a build that is broken off leaves nothing that passes for whole
  await make();
  writeFileSync(stamp, wanted);
  return true;
}

/** Says how large files of a folder are. */
export function tellSizes(folder, names) {
  for (const name of names) {
    const bytes = readFileSync(join(root, folder, name));
    console.log(`  ${`${folder}/${name}`.padEnd(27)} ${kib(bytes.length)}, ${kib(gzipSync(bytes, { level: 9 }).length)} gzipped`);
  }
}

function digest(paths) {
  const hash = createHash('sha256');
  const add = (path) => {
    const absolute = join(root, path);
    if (statSync(absolute).isDirectory()) {
      for (const name of readdirSync(absolute).sort()) add(`${path}/${name}`);
    } else {
      hash.update(`${path}\0`).update(readFileSync(absolute)).update('\0');
    }
  };
  paths.forEach(add);
  return hash.digest('hex');
}

const kib = (bytes) => `${(bytes / 1024).toFixed(1).padStart(7)} KiB`;
