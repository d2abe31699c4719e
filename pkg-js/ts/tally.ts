// What has come of a streamed answer so far, and what each piece of it says. Chat, completions and the Responses API,
// told apart by their shape.

import type { PartialAnswer, PartialToolCall } from './errors.js';
import type { AssistantMessage, Usage } from './types.js';

/** What a piece of a stream says, told apart by `type`. */
export type StreamEvent =
  /** More text. */
  | { type: 'content'; choice: number; text: string }
  /** More of what the model thinks, under either of vLLM's names for it. */
  | { type: 'reasoning'; choice: number; text: string }
  | { type: 'refusal'; choice: number; text: string }
  /** A fragment of a call of a tool. */
  | { type: 'tool_call.delta'; choice: number; index: number; id: string; name: string; arguments: string }
  /** A whole call of a tool. */
  | {
      type: 'tool_call';
      choice: number;
      index: number;
      id: string;
      name: string;
      /** Parsed; `undefined` where the model wrote no JSON. */
      arguments: unknown;
      /** As the model wrote them. */
      raw: string;
      /** Why they could not be parsed. */
      error: SyntaxError | undefined;
    }
  | { type: 'usage'; usage: Usage }
  /** A choice is whole. */
  | { type: 'finish'; choice: number; reason: string }
  /** The stream is whole; the last event. */
  | { type: 'done'; text: string; reasoning: string; usage: Usage | undefined };

type Emit = (event: StreamEvent) => void;

/** One choice of an answer. */
class Choice {
  text = '';
  reasoning = '';
  refusal = '';
  /** In the order in which they began; `indices` has the server's number of each. */
  calls: PartialToolCall[] = [];
  indices: number[] = [];
  finishReason: string | undefined;
  /** How many calls have been told as whole. */
  told = 0;
}

/** The fields of a piece that matter here; each may be absent or of another kind. */
interface Piece {
  type?: string;
  choices?: (PieceChoice | null)[];
  usage?: Usage | null;
  delta?: string;
  output_index?: number;
  item?: { type?: string; call_id?: string; id?: string; name?: string; arguments?: string };
  response?: { usage?: Usage | null; status?: string };
}
interface PieceChoice {
  index?: number;
  text?: string;
  delta?: {
    content?: string | null;
    reasoning?: string | null;
    reasoning_content?: string | null;
    refusal?: string | null;
    tool_calls?: ({ index?: number; id?: string | null; function?: { name?: string | null; arguments?: string | null } } | null)[] | null;
  };
  finish_reason?: string | null;
}

export class Tally {
  usage: Usage | undefined;
  /** The first choice: mostly the only one. */
  readonly first = new Choice();
  readonly #others = new Map<number, Choice>();
  /** Of the Responses API: which call an output is. */
  readonly #outputs = new Map<number, number>();
  readonly #emit: Emit | undefined;

  /** @param emit hears what each piece says */
  constructor(emit?: Emit) {
    this.#emit = emit;
  }

  get partial(): PartialAnswer {
    const { text, reasoning, refusal, calls, finishReason } = this.first;
    return { text, reasoning, refusal, toolCalls: calls.map((call) => ({ ...call })), usage: this.usage, finishReason };
  }

  /** The first choice as a message, fit to be sent back in `messages`. */
  get message(): AssistantMessage {
    const { text, reasoning, refusal, calls } = this.first;
    return {
      role: 'assistant',
      content: text || (calls.length > 0 || refusal ? null : ''),
      ...(reasoning && { reasoning }),
      ...(refusal && { refusal }),
      ...(calls.length > 0 && {
        tool_calls: calls.map(({ id, name, arguments: text }) => ({ id, type: 'function' as const, function: { name, arguments: text } })),
      }),
    };
  }

  /** The next piece of the answer. */
  add(value: unknown): void {
    if (typeof value !== 'object' || value === null) return;
    const piece = value as Piece;
    if (Array.isArray(piece.choices)) {
      for (const choice of objects(piece.choices)) this.#addChoice(choice);
      if (piece.usage) this.#addUsage(piece.usage);
    } else if (typeof piece.type === 'string') {
      this.#addEvent(piece.type, piece);
    }
  }

  /** The stream is whole. */
  done(): void {
    const { text, reasoning } = this.first;
    this.#emit?.({ type: 'done', text, reasoning, usage: this.usage });
  }

  #addChoice({ index = 0, delta, text, finish_reason: reason }: PieceChoice): void {
    const choice = this.#choice(index);
    const content = delta ? delta.content : text;
    if (content) this.#grow(choice, index, 'content', content);
    if (delta) {
      const thought = delta.reasoning ?? delta.reasoning_content;
      if (thought) this.#grow(choice, index, 'reasoning', thought);
      if (delta.refusal) this.#grow(choice, index, 'refusal', delta.refusal);
      for (const call of objects(delta.tool_calls)) {
        this.#addCall(choice, index, call.index ?? 0, call.id, call.function?.name, call.function?.arguments);
      }
    }
    if (reason) this.#finish(choice, index, reason);
  }

  /** An event of the Responses API. */
  #addEvent(type: string, { delta, output_index: output = 0, item, response }: Piece): void {
    const choice = this.first;
    if (typeof delta === 'string') {
      const call = this.#outputs.get(output);
      if (type === 'response.output_text.delta') this.#grow(choice, 0, 'content', delta);
      else if (type === 'response.refusal.delta') this.#grow(choice, 0, 'refusal', delta);
      else if (/^response\.reasoning.*\.delta$/.test(type)) this.#grow(choice, 0, 'reasoning', delta);
      else if (type === 'response.function_call_arguments.delta' && call !== undefined) this.#addCall(choice, 0, call, '', '', delta);
    } else if (item?.type === 'function_call') {
      const known = this.#outputs.get(output);
      const call = known ?? this.#outputs.size;
      this.#outputs.set(output, call);
      if (known === undefined) this.#addCall(choice, 0, call, item.call_id ?? item.id, item.name, item.arguments);
      if (type === 'response.output_item.done') this.#tellCalls(choice, 0, call + 1);
    } else if (response && isEnd(type)) {
      if (response.usage) this.#addUsage(response.usage);
      this.#finish(choice, 0, response.status ?? type.replace('response.', ''));
    }
  }

  #grow(choice: Choice, index: number, type: 'content' | 'reasoning' | 'refusal', text: string): void {
    if (type === 'content') choice.text += text;
    else choice[type] += text;
    this.#emit?.({ type, choice: index, text });
  }

  #addCall(choice: Choice, index: number, at: number, id?: string | null, name?: string | null, text?: string | null): void {
    const place = choice.indices.indexOf(at);
    const call = choice.calls[place] ?? { id: '', name: '', arguments: '' };
    if (place < 0) {
      choice.indices.push(at);
      choice.calls.push(call);
    }
    call.id ||= id ?? '';
    call.name ||= name ?? '';
    call.arguments += text ?? '';
    this.#emit?.({ type: 'tool_call.delta', choice: index, index: at, id: call.id, name: call.name, arguments: text ?? '' });
  }

  #finish(choice: Choice, index: number, reason: string): void {
    choice.finishReason = reason;
    this.#tellCalls(choice, index, choice.calls.length);
    this.#emit?.({ type: 'finish', choice: index, reason });
  }

  #tellCalls(choice: Choice, index: number, upTo: number): void {
    for (; choice.told < upTo; choice.told += 1) {
      const { id, name, arguments: raw } = choice.calls[choice.told]!;
      let parsed: unknown;
      let error: SyntaxError | undefined;
      try {
        // Of a tool without parameters some models write nothing at all.
        parsed = JSON.parse(raw || '{}');
      } catch (thrown) {
        error = thrown as SyntaxError;
      }
      this.#emit?.({ type: 'tool_call', choice: index, index: choice.indices[choice.told]!, id, name, arguments: parsed, raw, error });
    }
  }

  #addUsage(usage: Usage): void {
    this.usage = usage;
    this.#emit?.({ type: 'usage', usage });
  }

  #choice(index: number): Choice {
    if (index === 0) return this.first;
    let choice = this.#others.get(index);
    if (!choice) this.#others.set(index, (choice = new Choice()));
    return choice;
  }
}

/** Those of a list that are any: what a server gets wrong in one place must not cost the answer. */
const objects = <T>(list: readonly (T | null)[] | null | undefined): T[] =>
  Array.isArray(list) ? list.filter((item) => typeof item === 'object' && item !== null) : [];

/** Whether an event of the Responses API is the last. */
export const isEnd = (type: unknown): boolean =>
  type === 'response.completed' || type === 'response.incomplete' || type === 'response.failed';
