// Real workers for a simulated RunPod: the `runpod` package from PyPI runs a handler of runpod/handlers/, and talks to
// the simulation's worker side.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { root } from '../../scripts/process.mjs';
import { ensurePython } from '../../scripts/python.mjs';
import { workerEnvironment } from './runpod/worker-side.mjs';
import { Watched } from './watched.mjs';

const VENV = join(root, '.tools', 'python');
const folder = fileURLToPath(new URL('runpod/', import.meta.url));
const REQUIREMENTS = [join(folder, 'requirements.txt'), join(folder, 'constraints.txt')];

/** Set in the environment of tests when it is known that the SDK cannot be had. */
export const WITHOUT_SDK = 'FAIRLEAD_WITHOUT_SDK';

const STARTS_WITHIN_MS = 30_000;

/** The Python that has the SDK: 30 s, 200 MB, below .tools. Null where it cannot be had. */
export async function ensureSdk() {
  if (process.env[WITHOUT_SDK]) return null;
  return ensurePython({ name: 'python', requirements: REQUIREMENTS, what: "RunPod's worker SDK", usually: '30 s, once' });
}

/**
 * A worker, once it waits for jobs.
 *
 * @param python what ensureSdk() returned
 * @param runpod a simulation whose `endpoint` has the handler `real`
 * @param handler the name of a file in runpod/handlers/, or the path of another
 */
export async function startWorker(python, runpod, handler, { endpoint, id, pingMs } = {}) {
  const file = resolve(folder, 'handlers', handler.endsWith('.py') ? handler : `${handler}.py`);
  id ??= `real-${basename(file, '.py')}`;
  const child = spawn(python, ['-u', join(folder, 'launch.py'), file], {
    detached: true, // it has a child of its own that pings: both end together, as a process group
    stdio: ['pipe', 'pipe', 'pipe'],
    env: {
      PATH: process.env.PATH,
      HOME: VENV, // the SDK would read a RunPod key from the user's own home
      RUNPOD_LOG_LEVEL: 'INFO',
      ...workerEnvironment(runpod.baseUrl(endpoint), id, pingMs),
    },
  });
  const worker = new Worker(id, child);
  const asksForJobs = ({ operation, rest }) => operation.startsWith('job-take') && rest === id;
  try {
    await Promise.race([
      runpod.until(() => runpod.workerRequests.some(asksForJobs), STARTS_WITHIN_MS),
      once(child, 'exit').then(() => { throw new Error('the worker ended'); }),
    ]);
  } catch (error) {
    await worker.stop();
    throw new Error(`${error.message}\n${worker.log}`);
  }
  return worker;
}

class Worker extends Watched {
  /** What it wrote. */
  log = '';
  #child;
  #gone;

  constructor(id, child) {
    super();
    this.id = id;
    this.#child = child;
    this.#gone = once(child, 'close');
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.log += text;
        this.changed();
      });
    }
  }

  /** The first match in what it wrote, waited for. */
  says(pattern) {
    return this.until(() => pattern.exec(this.log));
  }

  /** At once, as a machine that fails: a worker that is asked to end waits for its polls first. */
  async stop() {
    try {
      process.kill(-this.#child.pid, 'SIGKILL');
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
    await this.#gone;
  }
}
