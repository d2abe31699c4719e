// Virtual environments of Python below .tools, for tests with packages from PyPI.

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { capture, root, run, step } from './process.mjs';

const NEEDS = 'import sys, venv, ensurepip; assert sys.version_info >= (3, 10)';

/**
 * The Python that has what is required, installed unless it is there. Null, and words that say why, where there is no
 * Python or the packages cannot be had.
 *
 * @param {object} environment
 * @param {string} environment.name of the folder below .tools
 * @param {string[]} environment.requirements files; pip reads the first, and a change of any installs all anew
 * @param {string} environment.what is installed, in words
 * @param {string} environment.usually how long that takes
 */
export async function ensurePython({ name, requirements, what, usually }) {
  const venv = join(root, '.tools', name);
  const stamp = join(venv, 'requirements.sha256');
  const installed = join(venv, 'bin', 'python');
  const wanted = createHash('sha256').update(requirements.map((file) => readFileSync(file)).join()).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return installed;

  const missing = (why) => {
    console.log(`There is no ${what}: ${why}`);
    return null;
  };
  const python = ['python3', 'python'].find((command) => capture(command, ['-c', NEEDS]) !== undefined);
  if (!python) return missing('Python 3.10 or newer, with venv and pip, is missing.');
  step(`Installing ${what} into .tools/${name}`, usually);
  rmSync(venv, { recursive: true, force: true });
  const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--requirement', requirements[0]];
  for (const [command, args] of [[python, ['-m', 'venv', venv]], [installed, pip]]) {
    if ((await run(command, args)) !== 0) return missing(`${[command, ...args].join(' ')} failed.`);
  }
  writeFileSync(stamp, wanted);
  return installed;
}
