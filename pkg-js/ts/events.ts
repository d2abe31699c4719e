// What the core tells of a call, on its way to `onEvent` and the console. Nothing here holds a key or a prompt.

import { report } from './platform.js';
import { camel } from './schema.js';

/** How much goes to the console. */
export type LogLevel = 'off' | 'error' | 'warn' | 'info' | 'debug';

/** One fact about one call. */
export type FairleadEvent = { /** Tells the calls of a client apart, from 1. */ readonly call: number } & Fact;

/** What happened, told apart by `type`. Times are milliseconds. */
export type Fact =
  | { readonly type: 'attempt_started'; /** From 1. */ readonly attempt: number; readonly endpoint: string }
  /** Another attempt is to start beside one that has been awaited for so long. */
  | { readonly type: 'hedge_started'; readonly attempt: number; readonly endpoint: string; readonly afterMs: number }
  | {
      readonly type: 'attempt_failed';
      readonly attempt: number;
      readonly endpoint: string;
      /**
       * A timer's name, `http_503`, `unreachable`, `cut`, `invalid`, `in_band`, `abort`, `offline`, `cors`, or a gateway's
       * code.
       */
      readonly reason: string;
      /** `retry`, `failover` or `line`; or why not: `attempts_spent`, `nobody_left`, `no_time_left`, `budget_spent`, …, `differs`, `tool_calls`, … */
      readonly then: string;
      /** Until the next attempt. */
      readonly waitMs: number;
    }
  | {
      /** An attempt is to go on behind a stream that broke. */
      readonly type: 'resume_started';
      readonly attempt: number;
      readonly endpoint: string;
      /** From there, asked for again and compared, or asked for again where the caller has nothing yet. */
      readonly way: 'continue' | 'verify' | 'anew';
      /** Why not as the policy has it, if so: `endpoint`, `refused`, `differs`, `model`, `reasoning`, `stop`, … */
      readonly why?: string;
      /** Of the text so far. */
      readonly bytes: number;
    }
  | {
      /** The first content behind a break. */
      readonly type: 'stream_resumed';
      readonly attempt: number;
      readonly endpoint: string;
      readonly way: 'continue' | 'verify';
      /** Since it broke. */
      readonly gapMs: number;
    }
  | { readonly type: 'job_started'; readonly attempt: number; readonly endpoint: string; readonly queuedMs: number }
  | { readonly type: 'job_slow'; readonly attempt: number; readonly endpoint: string; readonly limitMs: number }
  | { readonly type: 'characters_destroyed'; readonly attempt: number; readonly endpoint: string; readonly characters: number }
  | {
      readonly type: 'job_ended';
      readonly attempt: number;
      readonly endpoint: string;
      readonly status: string | null;
      readonly delayMs: number | null;
      readonly executionMs: number | null;
      readonly worker: string | null;
    }
  | { readonly type: 'job_cancelled'; readonly endpoint: string; readonly outcome: string; readonly cancels: number }
  | {
      readonly type: 'breaker_opened';
      readonly endpoint: string;
      /** The entry of `models`. */
      readonly entry: string | null;
      /** As of `attempt_failed`; or `deadline`, `slow_first_token`, `told` by another tab. */
      readonly reason: string;
      readonly openMs: number | null;
      readonly oneClient: boolean;
    }
  | { readonly type: 'breaker_closed'; readonly endpoint: string; readonly entry: string | null; readonly reason: string }
  | { readonly type: 'store_failed'; readonly operation: 'get' | 'put' }
  | {
      readonly type: 'call_ended';
      /** `ok`, `partial` (cut at the deadline), an error's code, `upstream_4xx` or `client_gone`. */
      readonly outcome: string;
      readonly param?: string;
      readonly endpoint: string | null;
      readonly attempts: number;
      readonly stream: boolean;
      readonly firstContentMs: number | null;
      readonly totalMs: number;
      readonly bytes: number;
      /** Events of a stream, and those among them that were no JSON and dropped. */
      readonly events: number;
      readonly malformed: number;
      readonly promptTokens: number | null;
      readonly completionTokens: number | null;
    };

const LEVELS: readonly LogLevel[] = ['off', 'error', 'warn', 'info', 'debug'];

/** Those that are not `debug`. */
const LEVEL_OF: Readonly<Record<string, LogLevel>> = {
  attempt_failed: 'info',
  breaker_opened: 'warn',
  breaker_closed: 'info',
  characters_destroyed: 'warn',
  store_failed: 'warn',
  stream_resumed: 'info',
};

/** Where the facts of a client's calls go. */
export class Listeners {
  readonly #onEvent: ((event: FairleadEvent) => void) | undefined;
  readonly #level: number;
  #waiting: FairleadEvent[] = [];
  #calls = 0;

  constructor(onEvent: ((event: FairleadEvent) => void) | undefined, level: LogLevel = 'warn') {
    this.#onEvent = onEvent;
    this.#level = LEVELS.indexOf(level);
  }

  /** What hears of one more call. It is called from inside wasm, so it only takes note. */
  nextCall(): (fact: object) => void {
    this.#calls += 1;
    const call = this.#calls;
    return (fact) => {
      const { event: type, ...fields } = fact as { event: string };
      const told: Record<string, unknown> = { call, type };
      for (const [name, value] of Object.entries(fields)) told[camel(name)] = value;
      if (this.#waiting.push(told as unknown as FairleadEvent) === 1) queueMicrotask(() => this.#deliver());
    };
  }

  /** Something about the client itself. */
  warn(text: string): void {
    if (this.#level >= LEVELS.indexOf('warn')) console.warn(`[fairlead] ${text}`);
  }

  #deliver(): void {
    const events = this.#waiting;
    this.#waiting = [];
    for (const event of events) {
      this.#log(event);
      try {
        const returned: unknown = this.#onEvent?.(event);
        // Somebody's `async` handler.
        if (returned instanceof Promise) returned.catch(report);
      } catch (error) {
        report(error);
      }
    }
  }

  #log(event: FairleadEvent): void {
    const level = LEVEL_OF[event.type] ?? 'debug';
    if (LEVELS.indexOf(level) > this.#level) return;
    const { type, ...fields } = event;
    const words = Object.entries(fields).map(([name, value]) => `${name}=${String(value)}`);
    console[level as 'warn'](`[fairlead] ${type} ${words.join(' ')}`);
  }
}
