// What both simulators are to a test: something whose records change, and that can be waited for.

import { EventEmitter } from 'node:events';

export class Watched extends EventEmitter {
  constructor() {
    super();
    this.setMaxListeners(0); // every waiting test is one
  }

  changed() {
    this.emit('change');
  }

  /** Resolves with the first true value of `predicate`, which is tried again at each change of a record. */
  until(predicate, ms = 5000) {
    return new Promise((resolve, reject) => {
      const settle = (done, value) => {
        clearTimeout(timer);
        this.off('change', check);
        done(value);
      };
      const check = () => {
        try {
          const value = predicate();
          if (value) settle(resolve, value);
        } catch (error) {
          settle(reject, error);
        }
      };
      const timer = setTimeout(() => settle(reject, new Error(`not within ${ms} ms: ${predicate}`)), ms);
      this.on('change', check);
      check();
    });
  }
}
