// A promise that somebody waits for until they do not any more.

export class Wait {
  #told;

  /**
   * @param {Promise<unknown>} promise
   * @param {(well: boolean, value: unknown) => void} told called once at most
   */
  constructor(promise, told) {
    this.#told = told;
    promise.then((value) => this.#told?.(true, value), (reason) => this.#told?.(false, reason));
  }

  /** Nobody is told any more, and nobody is held by a promise that may never settle. */
  leave() {
    this.#told = undefined;
  }
}
