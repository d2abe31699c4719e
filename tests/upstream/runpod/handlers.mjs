// The simplest handlers that an endpoint can have. Each takes its parameters from the job's input.

import { setTimeout as sleep } from 'node:timers/promises';

/** An error by the name that Python's would have. */
class PythonError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

const raised = ({ error = 'ValueError', message = 'the handler raised' }) => new PythonError(error, message);

/** @type {Record<string, import('./perform.mjs').Handler>} */
export const HANDLERS = {
  echo: { run: (input) => input },

  /** `n` outputs, one every `everyMs`; `value` repeats one output, where equal neighbours are wanted. */
  generator: {
    generator: true,
    async* run({ n = 5, everyMs = 20, value, ...rest }, { signal }) {
      for (let at = 0; at < n; at += 1) {
        await sleep(everyMs, undefined, { signal });
        yield value ?? { index: at, ...rest };
      }
    },
  },

  /** Some outputs, then an exception. */
  'generator-raise': {
    generator: true,
    async* run({ n = 2, everyMs = 20, ...rest }, { signal }) {
      for (let at = 0; at < n; at += 1) {
        await sleep(everyMs, undefined, { signal });
        yield { index: at };
      }
      throw raised(rest);
    },
  },

  sleep: {
    async run({ ms = 100 }, { signal }) {
      await sleep(ms, undefined, { signal });
      return { slept: ms };
    },
  },

  /** Says how far it is, as `progress_update` does. */
  progress: {
    async run({ n = 5, everyMs = 20 }, { signal, progress }) {
      for (let at = 1; at <= n; at += 1) {
        await sleep(everyMs, undefined, { signal });
        progress(`${at}/${n}`);
      }
      return { done: n };
    },
  },

  raise: { run(input) { throw raised(input); } },

  /** A dict with an error is how a handler fails without an exception. */
  error: { run: ({ error = 'the handler refuses', ...rest }) => ({ error, ...rest }) },

  /** Deaf to the platform, like time.sleep() in a handler: its worker stays busy whatever becomes of the job. */
  block: {
    async run({ ms = 1000 }) {
      await sleep(ms);
      return { blocked: ms };
    },
  },
};
