// The package as others get it: packed, and installed from its tarball into a folder that knows nothing of this
// repository. Projects are folders beneath it.

import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const TOOLS = fileURLToPath(new URL('node_modules/', import.meta.url));
const PACKAGE = fileURLToPath(new URL('../../pkg-js/', import.meta.url));
const LONGEST_MS = 60_000;
const execute = promisify(execFile);

/** Packs the package and installs it. */
export async function startProjects() {
  const projects = new Projects(await realpath(await mkdtemp(join(tmpdir(), 'fairlead-consumers-'))));
  await projects.install();
  return projects;
}

class Projects {
  /** The files in the tarball: { path, size }. */
  files;
  tarball;
  folder;

  constructor(folder) {
    this.folder = folder;
  }

  async install() {
    const packed = await this.run('npm', ['pack', '--json', '--pack-destination', this.folder], { cwd: PACKAGE });
    const [{ filename, files }] = JSON.parse(packed.stdout);
    this.files = files;
    this.tarball = join(this.folder, filename);
    await this.create('.', { 'package.json': { name: 'somebody-elses', private: true, type: 'module' } });
    // Offline, because the package needs nothing but itself.
    await this.run('npm', ['install', '--offline', '--no-audit', '--no-fund', this.tarball]);
  }

  /** A project of these files; objects are written as JSON. Gives its folder. */
  async create(name, files) {
    const folder = join(this.folder, name);
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), typeof content === 'string' ? content : JSON.stringify(content));
    }
    return folder;
  }

  /** Lets all projects import what stands in tests/consumers/package.json under this name. */
  async lend(name) {
    const link = join(this.folder, 'node_modules', name);
    await mkdir(dirname(link), { recursive: true });
    await symlink(join(TOOLS, name), link);
  }

  /** Runs a command to its end; rejects with what it has said if that is bad. */
  async run(command, args, { cwd = this.folder, env } = {}) {
    try {
      return await execute(command, args, { cwd, timeout: LONGEST_MS, env: { ...process.env, ...env } });
    } catch (error) {
      throw new Error(`${error.message}\n${error.stdout}`);
    }
  }

  close() {
    return rm(this.folder, { recursive: true });
  }
}

export const tool = (name) => join(TOOLS, '.bin', name);
