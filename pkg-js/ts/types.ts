// The shapes of requests and answers, as OpenAI's API has them and vLLM speaks them. All are open: a server's own
// fields (`top_k`, `structured_outputs`, `chat_template_kwargs`, …) go through and come back as they are.

/** A server's own fields. */
export interface Open {
  [field: string]: unknown;
}

/** A part of a message's content. */
export type ContentPart =
  | ({ type: 'text'; text: string } & Open)
  | ({ type: 'image_url'; image_url: { url: string; detail?: 'auto' | 'low' | 'high' } } & Open)
  | ({ type: 'input_audio'; input_audio: { data: string; format: string } } & Open)
  | ({ type: string } & Open);

/** A call of a tool, as a message carries it. */
export interface ToolCall {
  id: string;
  type: 'function';
  function: {
    name: string;
    /** JSON, as the model wrote it: it may be broken. */
    arguments: string;
  };
}

/** One message of a conversation. */
export interface ChatMessage {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool' | (string & {});
  content?: string | null | readonly ContentPart[];
  name?: string;
  tool_calls?: readonly ToolCall[];
  tool_call_id?: string;
  refusal?: string | null;
  /** An earlier answer's, where the model wants it back. */
  reasoning?: string | null;
  reasoning_content?: string | null;
}

/** A tool that the model may call. */
export interface Tool extends Open {
  type: 'function';
  function: { name: string; description?: string; parameters?: object; strict?: boolean | null };
}

/** A request for a chat answer. */
export interface ChatCompletionCreateParams extends Open {
  /** A name that the gateway, or the option `models`, knows. */
  model: string;
  messages: readonly ChatMessage[];
  /** Whether the answer comes piece by piece. */
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean; continuous_usage_stats?: boolean } | null;
  temperature?: number | null;
  top_p?: number | null;
  n?: number | null;
  /** Tokens of the answer, reasoning included. */
  max_completion_tokens?: number | null;
  max_tokens?: number | null;
  stop?: string | readonly string[] | null;
  seed?: number | null;
  tools?: readonly Tool[];
  tool_choice?: 'none' | 'auto' | 'required' | { type: 'function'; function: { name: string } };
  response_format?: { type: 'text' | 'json_object' | 'json_schema' } & Open;
  logprobs?: boolean | null;
  top_logprobs?: number | null;
}

/** Tokens, as the server counted them. */
export interface Usage extends Open {
  prompt_tokens?: number;
  completion_tokens?: number;
  total_tokens?: number;
}

/** What Fairlead says of an answer, beside what the endpoint says. */
export interface FairleadNote {
  /** It is not whole: its time was over. `finish_reason` is `length`. */
  truncated?: 'deadline';
}

/** Why an answer ended: vLLM says `abort` and `repetition`, too. */
export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'abort' | 'repetition' | (string & {});

/** The model's message. */
export interface AssistantMessage extends Open {
  role: 'assistant';
  content: string | null;
  refusal?: string | null;
  tool_calls?: ToolCall[];
  /** What a reasoning model thought. */
  reasoning?: string | null;
  /** The same, under its older name. */
  reasoning_content?: string | null;
}

/** A chat answer. */
export interface ChatCompletion extends Open {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: ({ index: number; message: AssistantMessage; finish_reason: FinishReason | null; logprobs?: unknown } & Open)[];
  usage?: Usage | null;
  fairlead?: FairleadNote;
}

/** What a piece of a chat answer adds. */
export interface ChatDelta extends Open {
  role?: string;
  content?: string | null;
  refusal?: string | null;
  reasoning?: string | null;
  reasoning_content?: string | null;
  tool_calls?: {
    index: number;
    id?: string | null;
    type?: 'function' | null;
    function?: { name?: string | null; arguments?: string | null };
  }[];
}

/** A piece of a chat answer. */
export interface ChatCompletionChunk extends Open {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: ({ index: number; delta: ChatDelta; finish_reason?: FinishReason | null; logprobs?: unknown } & Open)[];
  usage?: Usage | null;
  fairlead?: FairleadNote;
}

/** A request for a text to be continued. */
export interface CompletionCreateParams extends Open {
  model: string;
  prompt: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean; continuous_usage_stats?: boolean } | null;
  /** vLLM's default is 16. */
  max_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  n?: number | null;
  stop?: string | readonly string[] | null;
  seed?: number | null;
  echo?: boolean | null;
}

/** A continued text; its pieces have the same shape. */
export interface Completion extends Open {
  id: string;
  object: 'text_completion';
  created: number;
  model: string;
  choices: ({ index: number; text: string; finish_reason?: FinishReason | null; logprobs?: unknown } & Open)[];
  usage?: Usage | null;
  fairlead?: FairleadNote;
}

/** A request for embeddings. */
export interface EmbeddingCreateParams extends Open {
  model: string;
  input: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  dimensions?: number;
  encoding_format?: 'float' | 'base64';
}

/** Embeddings: numbers, or base64 where that was asked for. */
export interface EmbeddingResponse extends Open {
  object: 'list';
  model: string;
  data: ({ object: 'embedding'; index: number; embedding: number[] | string } & Open)[];
  usage?: Usage;
}

/** A request of the Responses API. */
export interface ResponseCreateParams extends Open {
  model: string;
  input: string | readonly object[];
  instructions?: string | null;
  stream?: boolean | null;
  max_output_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  tools?: readonly object[];
}

/** An answer of the Responses API. */
export interface ResponseAnswer extends Open {
  id: string;
  object: 'response';
  status?: 'completed' | 'incomplete' | 'failed' | 'in_progress' | (string & {});
  model: string;
  output: ({ type: string } & Open)[];
  usage?: Open | null;
}

/** One event of a streamed answer of the Responses API, told apart by `type`. */
export interface ResponseEvent extends Open {
  type: string;
  sequence_number?: number;
}

/** A model that may be asked for. */
export interface Model extends Open {
  id: string;
  object: 'model';
  created?: number;
  owned_by?: string;
}

/** What is known of an answer beside its content. */
export interface ResponseInfo {
  status: number;
  headers: Headers;
  /** The id under which the call stands in a gateway's log, where `-` and the attempt follow it. */
  requestId: string | undefined;
  /** Who answered: by the gateway's word, else by this client's, which calls what is behind `baseURL` `gateway`. */
  endpoint: string | undefined;
  /** Attempts over all endpoints, the first included. */
  attempts: number | undefined;
}
