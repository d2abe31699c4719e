// Where a stream's items come from: bytes of a body, cut into items as they arrive. A chunk must cost little, so there is
// one promise for each that has to be waited for and none for those that are there.

import { createParser } from 'eventsource-parser';
import type { Handoff } from './binding.js';
import type { Flight } from './calls.js';
import { AbortError, errorOf, failure, FairleadError, type Circumstances } from './errors.js';
import { isEnd, Tally } from './tally.js';

export type Result<T> = IteratorResult<T, undefined>;

/** Items, one behind another. */
export interface Source<T> {
  next(): Promise<Result<T>>;
  /** Nobody wants more. */
  cancel(): void;
  /** What has arrived, though it may not have been asked for yet. */
  readonly tally: Tally;
  /** Its end has been told; `error` where it was no good one. */
  readonly ended: { readonly error?: unknown } | undefined;
  readonly controller: AbortController;
}

const END: Result<never> = { done: true, value: undefined };

/** Cuts text into items. */
interface Cutter {
  feed(text: string): void;
  /** The body has ended: whether it was whole. */
  readonly isWhole: boolean;
  /** What is known of the answer, for errors. */
  readonly known?: Circumstances;
}

/** What a cutter tells. */
interface Taker {
  item(value: unknown): void;
  /** Nothing of interest follows. */
  end(): void;
  fail(error: FairleadError): void;
}

/** Ends the calls whose streams nobody can read any more. */
const abandoned = typeof FinalizationRegistry === 'function'
  ? new FinalizationRegistry<Flight>((flight) => flight.controller.abort())
  : undefined;

/** Outside of the stream, so that nothing of this holds it. */
function watch(stream: object, flight: Flight): void {
  abandoned?.register(stream, flight, flight);
  // A flight that has failed leads back to its stream by the stack of its error.
  flight.atEnd(() => abandoned?.unregister(flight));
}

/** The items of a body. */
export class Body<T> implements Source<T> {
  readonly tally = new Tally();
  ended: { readonly error?: unknown } | undefined;
  readonly #handoff: Handoff;
  readonly #flight: Flight;
  readonly #cutter: Cutter;
  readonly #decoder = new TextDecoder();
  /** Items that have arrived, from `#head` on. */
  #items: T[] = [];
  #head = 0;
  /** What stands behind the last item. */
  #behind: { error?: FairleadError } | undefined;
  /** How many wait for the next piece of the body, and the last of them. */
  #pending = 0;
  #last: Promise<unknown> | undefined;

  constructor(handoff: Handoff, flight: Flight, cut: (taker: Taker) => Cutter) {
    this.#handoff = handoff;
    this.#flight = flight;
    this.#cutter = cut({
      item: (value) => {
        this.tally.add(value);
        this.#items.push(value as T);
      },
      end: () => (this.#behind ??= {}),
      fail: (error) => (this.#behind ??= { error }),
    });
    watch(this, flight);
  }

  get controller(): AbortController {
    return this.#flight.controller;
  }

  next(): Promise<Result<T>> {
    if (this.#pending === 0 && this.#head < this.#items.length) return Promise.resolve(this.#take());
    const go = () => this.#step();
    const step = this.#pending === 0 ? go() : this.#last!.then(go, go);
    this.#pending += 1;
    this.#last = step;
    return step;
  }

  cancel(): void {
    if (this.ended) return;
    const error = new AbortError(undefined, this.tally.partial);
    this.ended = { error };
    this.#items = [];
    this.#head = 0;
    this.#flight.fail(error);
  }

  async #step(): Promise<Result<T>> {
    try {
      while (this.#head >= this.#items.length) {
        if (this.ended) return END;
        if (this.#behind) return await this.#end(); // which reads: nobody else may meanwhile
        await this.#read();
      }
      return this.#take();
    } finally {
      this.#pending -= 1;
    }
  }

  async #read(): Promise<void> {
    try {
      const { done, value } = await this.#flight.guard(this.#handoff.read());
      if (value) this.#cutter.feed(this.#decoder.decode(value, { stream: true }));
      if (done) this.#behind ??= this.#cutter.isWhole ? {} : { error: cutOff(this.#cutter.known) };
    } catch (error) {
      const known = this.#cutter.known;
      this.#behind ??= { error: error instanceof FairleadError ? error : error === LATE ? late(known) : cutOff(known, error) };
    }
  }

  #take(): Result<T> {
    const value = this.#items[this.#head]!;
    this.#head += 1;
    if (this.#head === this.#items.length) {
      this.#items = [];
      this.#head = 0;
    }
    return { done: false, value };
  }

  async #end(): Promise<Result<T>> {
    const { error } = this.#behind!;
    if (error) {
      this.ended = { error };
      error.partial = this.tally.partial;
      this.#flight.fail(error);
      throw error;
    }
    try {
      // Left before the body's own end, the call would count as one that was given up, and a Worker would never hear of it.
      while (!(await this.#flight.guard(this.#handoff.read())).done);
    } catch {
      // The answer was whole before.
    }
    this.ended ??= {};
    this.#flight.end();
    return END;
  }
}

/** What the core breaks a body off by whose rest was not read within the call's time. */
export const LATE = 'deadline_exceeded';

export const late = (known?: Circumstances): FairleadError =>
  failure(LATE, "The call's time passed before all of its answer was read. Read it as it comes, or raise `timeout`.", known);

const cutOff = (known?: Circumstances, cause?: unknown): FairleadError =>
  failure('stream_interrupted', 'The stream ended before its answer was whole. What arrived is incomplete; ask again.', { ...known, cause });

/** More than any output of a job; an event without end would fill the page's memory. */
const LONGEST_EVENT = 32 << 20;

/** The events of a stream, each of them JSON. */
export function events({ pick, ...known }: Circumstances & { pick?: (value: unknown) => unknown }): (taker: Taker) => Cutter {
  const ofJob = pick !== undefined;
  return (taker) => {
    let isWhole = false;
    const whole = () => {
      isWhole = true;
      taker.end();
    };
    const parser = createParser({
      maxBufferSize: LONGEST_EVENT,
      onError: ({ type }) => {
        if (type === 'max-buffer-size-exceeded') taker.fail(failure('upstream_invalid', `The stream has an event of more than ${LONGEST_EVENT} characters.`, known));
      },
      onEvent: ({ event, data }) => {
        if (isWhole) return;
        if (data === '[DONE]') return whole();
        let value: { type?: string; error?: unknown } | null;
        try {
          value = JSON.parse(data);
        } catch (cause) {
          return taker.fail(failure('upstream_invalid', 'The stream has an event that is no JSON.', { ...known, cause }));
        }
        // OpenAI's way is an `error` in the data; other dialects name the event.
        if (event === 'error' || value?.error) return taker.fail(errorOf(value, known));
        // The end of a job's outputs; elsewhere a server's own affair, behind which the answer goes on.
        if (ofJob && event === 'status') return whole();
        taker.item(pick ? pick(value) : value);
        if (event !== undefined && isEnd(event)) whole();
      },
    });
    return {
      feed: (text) => parser.feed(text),
      get isWhole() {
        return isWhole;
      },
      known,
    };
  };
}

/** Lines, each of them JSON. */
export function lines(taker: Taker): Cutter {
  let rest = '';
  const take = (line: string) => {
    if (!line.trim()) return;
    try {
      taker.item(JSON.parse(line));
    } catch (cause) {
      taker.fail(failure('upstream_invalid', 'The stream has a line that is no JSON.', { cause }));
    }
  };
  return {
    feed(text) {
      const found = (rest + text).split('\n');
      rest = found.pop()!;
      for (const line of found) take(line);
    },
    get isWhole() {
      take(rest);
      rest = '';
      return true;
    },
  };
}

/** A readable stream as a body of the core's. */
export function handoff(readable: ReadableStream<Uint8Array>): Handoff {
  const reader = readable.getReader();
  return {
    read: () => reader.read() as ReturnType<Handoff['read']>,
    cancel: () => void reader.cancel().catch(() => {}),
  };
}

/** Bytes that are all there, as a body. */
export function atOnce(bytes: Uint8Array): Handoff {
  let left: Uint8Array | undefined = bytes;
  return {
    read: () => {
      const value = left;
      left = undefined;
      return Promise.resolve({ done: value === undefined, value });
    },
    cancel: () => {},
  };
}

/** More than any answer has; a server that never ends one would fill the page's memory within its time. */
const LONGEST_BYTES = 128 << 20;

/** All of a body. */
export async function gather(body: Handoff, flight: Flight): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await flight.guard(body.read());
      if (value) length += value.length;
      if (length > LONGEST_BYTES) throw failure('upstream_invalid', `The answer is longer than ${LONGEST_BYTES} bytes.`);
      if (value) parts.push(value);
      if (done) break;
    }
  } finally {
    flight.end();
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The same items twice, each read at its own speed. */
export function fork<T>(source: Source<T>): [Source<T>, Source<T>] {
  const branches: Branch<T>[] = [];
  const pull = (): Promise<Result<T>> => {
    const result = source.next();
    for (const branch of branches) branch.offer(result);
    return result;
  };
  const left = new Branch(source, pull, branches);
  const right = new Branch(source, pull, branches);
  branches.push(left, right);
  return [left, right];
}

class Branch<T> implements Source<T> {
  ended: { readonly error?: unknown } | undefined;
  readonly #source: Source<T>;
  readonly #pull: () => Promise<Result<T>>;
  /** Those that still read. */
  readonly #branches: Branch<T>[];
  #waiting: Promise<Result<T>>[] = [];

  constructor(source: Source<T>, pull: () => Promise<Result<T>>, branches: Branch<T>[]) {
    this.#source = source;
    this.#pull = pull;
    this.#branches = branches;
  }

  get tally(): Tally {
    return this.#source.tally;
  }

  get controller(): AbortController {
    return this.#source.controller;
  }

  offer(result: Promise<Result<T>>): void {
    this.#waiting.push(result);
  }

  async next(): Promise<Result<T>> {
    if (this.ended) return END;
    if (this.#waiting.length === 0) void this.#pull().catch(() => {});
    try {
      const result = await this.#waiting.shift()!;
      if (result.done) this.ended ??= {};
      return result;
    } catch (error) {
      this.ended ??= { error };
      throw error;
    }
  }

  /** The other goes on. */
  cancel(): void {
    this.ended ??= { error: new AbortError(undefined, this.tally.partial) };
    this.#waiting = [];
    const at = this.#branches.indexOf(this);
    if (at >= 0) this.#branches.splice(at, 1);
    if (this.#branches.length === 0) this.#source.cancel();
  }
}
