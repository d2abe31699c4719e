// The calls of one client: their way into the core and back, and what must not outlive them.

import { binding, type Core, type Handoff, type Host, type Instance, type Wishes } from './binding.js';
import { complaint, type Setup } from './config.js';
import { AbortError, failure, FairleadError } from './errors.js';
import type { Listeners } from './events.js';
import { split } from './headers.js';
import { after, listen } from './platform.js';

/** What goes into a call. */
export interface Ask {
  /** One of the core's routes. */
  path: string;
  /** Header fields as the core reads them, joined. */
  fields: string;
  body: Uint8Array;
  wishes: Wishes;
  signal: AbortSignal | null | undefined;
}

/** What comes out, failures included: an answer as HTTP has it. */
export interface Answer {
  status: number;
  headers: Headers;
  body: Uint8Array | Handoff;
  /** Still up while the body comes. */
  flight: Flight;
}

/** One call while it lasts: every wait of it ends when the caller leaves, and nothing of it stays behind. */
export class Flight {
  readonly controller = new AbortController();
  #failure: { error: unknown } | undefined;
  #ended = false;
  /** Ends what is being waited for. */
  #reject: ((error: unknown) => void) | undefined;
  /** What to do at the end. */
  readonly #atEnd: (() => void)[] = [];

  /** @param signal the caller's own */
  constructor(signal?: AbortSignal | null) {
    const { controller } = this;
    controller.signal.addEventListener('abort', () => this.fail(new AbortError(controller.signal.reason)), { once: true });
    if (signal) this.follow(signal, () => controller.abort(signal.reason));
  }

  /** Does something when a signal aborts, now or as long as the call lasts. */
  follow(signal: AbortSignal, act: () => void): void {
    if (signal.aborted) {
      act();
    } else {
      signal.addEventListener('abort', act, { once: true });
      this.atEnd(() => signal.removeEventListener('abort', act));
    }
  }

  /** Also right away, where the end has been. */
  atEnd(act: () => void): void {
    if (this.#ended) act();
    else this.#atEnd.push(act);
  }

  /** The same, but it ends with the call at the latest. One at a time. */
  guard<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      promise.then(resolve, reject);
      if (this.#failure) reject(this.#failure.error);
      this.#reject = reject;
    });
  }

  /** Nothing more comes of it. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#failure = { error };
    this.#reject?.(error);
    this.end();
    this.controller.abort(error);
  }

  /** It is over, well or not. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const act of this.#atEnd.splice(0)) act();
  }
}

/** Ends a call of which the core does not know when its time is over; returns how to leave that to others. */
export function limit(flight: Flight, ms: number): () => void {
  const stop = after(ms, () => {
    flight.fail(failure('deadline_exceeded', `The call's time of ${ms} ms passed before its answer was whole. Raise \`timeout\`.`));
  });
  flight.atEnd(stop);
  return stop;
}

export class Calls {
  readonly #setup: Setup;
  readonly #host: Host;
  readonly #listeners: Listeners;
  readonly #flights = new Set<Flight>();
  #made: { core: Core; instance: Instance } | undefined;
  #closed = false;
  /** Stops hearing of the page. */
  #sleep: (() => void) | undefined;

  constructor(setup: Setup, host: Host, listeners: Listeners) {
    this.#setup = setup;
    this.#host = host;
    this.#listeners = listeners;
  }

  /** A call, whoever carries it out; it ends with the client. */
  begin(signal?: AbortSignal | null): Flight {
    if (this.#closed) throw closed();
    const flight = new Flight(signal);
    this.#flights.add(flight);
    // Where a clock stood still, timers must look at it when it goes on.
    this.#sleep ??= wakeOn(() => this.#wake());
    flight.atEnd(() => this.#ended(flight));
    return flight;
  }

  /** One call through the core. Rejects with an {@link AbortError}, or where there is no core to be had. */
  async start({ path, fields, body, wishes, signal }: Ask): Promise<Answer> {
    const flight = this.begin(signal);
    const [status, answered, content] = await this.#through(flight, wishes.timeout, (core) => (
      core.call(path, fields, body, wishes, flight.controller.signal, this.#listeners.nextCall())
    ));
    if (ArrayBuffer.isView(content)) flight.end();
    else flight.atEnd(() => quietly(() => content.cancel()));
    return { status, headers: split(answered), body: content, flight };
  }

  /** What the core knows of its endpoints, as JSON. */
  async status(): Promise<string> {
    const flight = this.begin();
    const told = await this.#through(flight, undefined, (core) => core.status());
    flight.end();
    return told;
  }

  /** Asks the core, and tells its caller in any case: a core that traps owes all its answers. */
  async #through<T>(flight: Flight, timeout: number | undefined, ask: (core: Core) => Promise<T>): Promise<T> {
    try {
      // Until there is a core, nobody else looks at the time: wasm may be as long in coming as anything.
      const handOver = limit(flight, timeout ?? this.#setup.timeout);
      const { core, instance } = await flight.guard(this.#core());
      handOver();
      flight.follow(instance.trapped, () => flight.fail(lost()));
      return await flight.guard(ask(core));
    } catch (error) {
      flight.end();
      if (error === undefined) throw new AbortError(flight.controller.signal.reason);
      throw error instanceof FairleadError || error instanceof TypeError ? error : lost(error);
    }
  }

  /** Another tab has put a record. */
  news(key: string): void {
    quietly(() => this.#made?.core.news?.(key));
  }

  /** Ends what is in flight; there is nothing more to be had. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const flight of [...this.#flights]) flight.fail(closed());
    const made = this.#made;
    this.#made = undefined;
    // Behind what the aborts have set going.
    if (made) setTimeout(() => quietly(() => made.core.free()));
  }

  async #core(): Promise<{ core: Core; instance: Instance }> {
    let instance: Instance;
    try {
      instance = await binding().ready();
    } catch (cause) {
      throw failure('internal', `The WebAssembly of fairlead could not be loaded: ${String(cause)}`, { cause });
    }
    if (this.#closed) throw closed();
    if (instance !== this.#made?.instance) {
      try {
        this.#made = { core: instance.create(this.#setup.config, this.#host), instance };
      } catch (error) {
        throw complaint(error, this.#setup.baseURL !== undefined);
      }
    }
    return this.#made;
  }

  #ended(flight: Flight): void {
    this.#flights.delete(flight);
    if (this.#flights.size > 0) return;
    this.#sleep?.();
    this.#sleep = undefined;
  }

  #wake(): void {
    quietly(() => this.#made?.core.wake());
  }
}

const lost = (cause?: unknown): FairleadError =>
  failure('internal', 'The core of fairlead failed. Ask again: the next call gets a new one.', { cause, retryable: true });
const closed = (): AbortError => new AbortError(new DOMException('This client was closed.', 'AbortError'));

function wakeOn(wake: () => void): () => void {
  const stop = [listen('document', ['visibilitychange', 'resume'], wake), listen('window', ['online', 'pageshow'], wake)];
  return () => stop.forEach((end) => end());
}

/** For what may be done to an instance that has trapped: those who wait hear of it themselves. */
function quietly(act: () => void): void {
  try {
    act();
  } catch {
    // They have.
  }
}
