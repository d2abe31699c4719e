/// <reference lib="esnext.disposable" preserve="true" />

import { Flight } from './calls.js';
import type { PartialAnswer } from './errors.js';
import { Body, fork, handoff, lines, type Result, type Source } from './sources.js';
import { Tally, type StreamEvent } from './tally.js';
import type { AssistantMessage, ResponseInfo, Usage } from './types.js';

/**
 * An answer that comes piece by piece. It is read once, in one of the ways below; {@link Stream.tee} makes two of it.
 *
 * A failure throws where the stream is read: the error's `partial` has what came. Leaving the loop early aborts the
 * call; so does {@link Stream.abort}, and then whoever still reads gets an `AbortError`.
 */
export class Stream<T> implements AsyncIterable<T> {
  /** What is known of the answer beside its content. */
  readonly response: ResponseInfo | undefined;
  readonly #source: Source<T>;
  #begun = false;

  /** @internal */
  constructor(source: Source<T>, response?: ResponseInfo) {
    this.#source = source;
    this.response = response;
  }

  /** What {@link Stream.toReadableStream} wrote, as a stream again. */
  static fromReadableStream<T>(readable: ReadableStream<Uint8Array>, controller?: AbortController): Stream<T> {
    const flight = new Flight(controller?.signal);
    const body = handoff(readable);
    flight.atEnd(() => body.cancel());
    return new Stream(new Body<T>(body, flight, lines));
  }

  /** Aborts the call. */
  get controller(): AbortController {
    return this.#source.controller;
  }

  /** Aborts the call, wherever it is. */
  abort(reason?: unknown): void {
    this.controller.abort(reason);
  }

  /** Tokens, as far as the server has told them: with `stream_options: { include_usage: true }` at the end. */
  get usage(): Usage | undefined {
    return this.#source.tally.usage;
  }

  /** What has arrived so far, also after a failure. */
  get partial(): PartialAnswer {
    return this.#source.tally.partial;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<T> {
    const source = this.#begin();
    return iterator(() => source.next(), () => source.cancel());
  }

  /** What each piece says: text, reasoning, calls of tools with their arguments parsed, usage. */
  events(): AsyncIterableIterator<StreamEvent> {
    const source = this.#begin();
    let waiting: StreamEvent[] = [];
    let isDone = false;
    const tally = new Tally((event) => waiting.push(event));
    const next = async (): Promise<Result<StreamEvent>> => {
      for (;;) {
        const event = waiting.shift();
        if (event) return { done: false, value: event };
        if (isDone) return { done: true, value: undefined };
        const result = await source.next();
        isDone = result.done === true;
        if (result.done) tally.done();
        else tally.add(result.value);
      }
    };
    return iterator(inTurn(next), () => {
      waiting = [];
      source.cancel();
    });
  }

  /** The whole text of the first choice. It may be called before the stream is read, or behind its end. */
  async finalText(): Promise<string> {
    return (await this.#whole()).first.text;
  }

  /** The whole message of the first choice, fit to be sent back in `messages`. */
  async finalMessage(): Promise<AssistantMessage> {
    return (await this.#whole()).message;
  }

  /** The same pieces twice, each read at its own speed. The call is aborted when both have been left. */
  tee(): [Stream<T>, Stream<T>] {
    const [left, right] = fork(this.#begin());
    return [new Stream(left, this.response), new Stream(right, this.response)];
  }

  /** The pieces as lines of JSON, to be sent on; see {@link Stream.fromReadableStream}. */
  toReadableStream(): ReadableStream<Uint8Array> {
    const source = this.#begin();
    const encoder = new TextEncoder();
    return new ReadableStream(
      {
        async pull(controller) {
          const result = await source.next();
          if (result.done) controller.close();
          else controller.enqueue(encoder.encode(`${JSON.stringify(result.value)}\n`));
        },
        cancel: () => source.cancel(),
      },
      { highWaterMark: 0 },
    );
  }

  async #whole(): Promise<Tally> {
    const source = this.#source;
    if (!source.ended) {
      this.#begin();
      while (!(await source.next()).done);
    }
    if (source.ended?.error) throw source.ended.error;
    return source.tally;
  }

  #begin(): Source<T> {
    if (this.#begun) throw new TypeError('A stream can be read once; use tee() to read it twice.');
    this.#begun = true;
    return this.#source;
  }

  static {
    // Not every platform has it yet.
    if (Symbol.asyncDispose) {
      Object.defineProperty(this.prototype, Symbol.asyncDispose, {
        value(this: Stream<unknown>): Promise<void> {
          if (!this.#source.ended) this.#source.cancel();
          return Promise.resolve();
        },
      });
    }
  }
}

export interface Stream<T> {
  /** Aborts the call unless it has ended. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** By hand: a generator would cost each piece several promises more. */
function iterator<T>(next: () => Promise<Result<T>>, leave: () => void): AsyncIterableIterator<T> {
  return {
    next,
    return: () => {
      leave();
      return Promise.resolve({ done: true, value: undefined });
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/** One at a time, however many are asked for. */
function inTurn<T>(next: () => Promise<T>): () => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return () => {
    const turn = last.then(next, next);
    last = turn.catch(() => {});
    return turn;
  };
}
