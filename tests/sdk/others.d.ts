// What the examples of the READMEs lean on and what is not installed here, as far as they use it: other people's
// packages, and the words that the README explains in prose.

declare const ai: import('fairlead').Fairlead;
declare const messages: import('fairlead').ChatMessage[];
declare function show(text: string): void;

declare const process: { env: Record<string, string | undefined>; stdout: { write(text: string): void } };

declare module '*.wasm?url' {
  const url: string;
  export default url;
}

declare module 'react' {
  export function useState<T>(initial: T): [T, (next: T | ((last: T) => T)) => void];
  export function useEffect(effect: () => void | (() => void), dependencies: readonly unknown[]): void;
}

declare module 'ai' {
  export function streamText(options: {
    model: import('@ai-sdk/openai-compatible').LanguageModel;
    prompt: string;
    maxRetries?: number;
    onError?: (event: { error: unknown }) => void;
  }): { textStream: AsyncIterable<string> };
}

declare module '@ai-sdk/openai-compatible' {
  export interface LanguageModel { readonly modelId: string }
  export function createOpenAICompatible(settings: {
    name: string; baseURL: string; apiKey?: string; fetch?: typeof globalThis.fetch;
  }): { chatModel(id: string): LanguageModel };
}

declare module '@langchain/openai' {
  export class ChatOpenAI {
    constructor(fields: {
      model: string; apiKey: string; maxRetries: number;
      configuration: { baseURL: string; fetch: typeof globalThis.fetch };
    });
    stream(input: string): Promise<AsyncIterable<{ content: string | object[] }>>;
  }
}
