// What the types of the package allow and what they do not. Compiled, never run.

import {
  AbortError, Fairlead, FairleadError, Stream, TimeoutError,
  type Answered, type ChatCompletion, type ChatCompletionChunk, type ChatMessage, type ClientStatus, type FairleadEvent, type PartialAnswer,
  type StreamEvent, type ToolCall,
} from '../../../pkg-js/ts/index.js';

const ai = new Fairlead({ baseURL: 'https://gateway.example.com/v1', apiKey: undefined, timeout: 60_000, onEvent });
const messages: ChatMessage[] = [{ role: 'user', content: [{ type: 'text', text: 'Hello' }] }];

export async function calls(signal: AbortSignal, isStreamed: boolean): Promise<void> {
  const answer: ChatCompletion = await ai.chat.completions.create({ model: 'qwen', messages, top_k: 3 }, { signal, timeout: 5 });
  messages.push(answer.choices[0]!.message);
  const text: string | null = answer.choices[0]!.message.content;
  const stream: Stream<ChatCompletionChunk> = await ai.chat.completions.create({ model: 'qwen', messages, stream: true });
  for await (const chunk of stream) chunk.choices[0]?.delta.reasoning?.trim();
  const isCut: boolean = answer.fairlead?.truncated === 'deadline';
  const either: ChatCompletion | Stream<ChatCompletionChunk> = await ai.chat.completions.create({ model: 'qwen', messages, stream: isStreamed });
  const { data, response } = await ai.embeddings.create({ model: 'e', input: ['a'] }).withResponse();
  const attempts: number | undefined = response.attempts;
  const promise: Answered<ChatCompletion> = ai.chat.completions.create({ model: 'qwen', messages, stream: false });
  for await (const output of ai.runpod('burst').stream<{ text: string }>('job')) output.text.trim();
  const status: ClientStatus = await ai.status();
  const again: Stream<ChatCompletionChunk> = Stream.fromReadableStream(stream.toReadableStream());
  using _ = ai;
  await using left = stream.tee()[0];
  void [text, isCut, either, data, attempts, promise, status, again, left, fetch satisfies typeof ai.fetch];
}

export function onEvent(event: FairleadEvent): void {
  if (event.type === 'attempt_failed') event.waitMs.toFixed();
  if (event.type === 'resume_started' && event.way === 'verify') event.why?.trim();
  if (event.type === 'stream_resumed') event.gapMs.toFixed();
  // @ts-expect-error: no such event
  if (event.type === 'attempt_filed') return;
}

export function show(event: StreamEvent): string | ToolCall | unknown {
  switch (event.type) {
    case 'content': case 'reasoning': return event.text;
    case 'tool_call': return event.error ? event.raw : event.arguments;
    default: return undefined;
  }
}

export function told(error: unknown): PartialAnswer | undefined {
  if (error instanceof AbortError) return undefined;
  if (error instanceof TimeoutError && error.param === 'idle') return error.partial;
  return error instanceof FairleadError && error.retryable ? error.partial : undefined;
}

// @ts-expect-error: an option that is misspelt
new Fairlead({ baseUrl: 'https://gateway.example.com/v1' });
// @ts-expect-error: an endpoint without a provider
new Fairlead({ endpoints: [{ name: 'a', baseURL: 'https://a.example.com/v1' }] });
// @ts-expect-error: a request without messages
void ai.chat.completions.create({ model: 'qwen' });
// @ts-expect-error: an option that calls do not have
void ai.chat.completions.create({ model: 'qwen', messages }, { retries: 3 });
