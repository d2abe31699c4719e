// What `import … from "fairlead"` gives, whichever entry is behind it.

export { Fairlead } from './client.js';
export type {
  BreakerRecord, BreakerStatus, ChatCompletions, ClientStatus, Completions, Embeddings, EndpointStatus, ModelList, Models, NotStreaming,
  Responses, Streaming,
} from './client.js';
export {
  AbortError, AuthenticationError, CircuitOpenError, ConnectionError, FairleadError, InternalError, InvalidRequestError, JobError,
  NotFoundError, OverloadedError, PermissionError, RateLimitError, StreamInterruptedError, TimeoutError, UpstreamError,
} from './errors.js';
export type { ErrorFields, PartialAnswer, PartialToolCall } from './errors.js';
export type { Fact, FairleadEvent, LogLevel } from './events.js';
export type { HeadersLike } from './headers.js';
export type {
  BackoffOptions, BreakerOptions, BudgetOptions, CallOptions, CustomStore, EndpointOptions, FairleadOptions, Fetch, ModelOptions,
  PolicyOptions, StoreOption, TargetOptions,
} from './options.js';
export type { RunPod, RunPodHealth, RunPodJob, RunPodRequest, RunSyncOptions } from './runpod.js';
export { Stream } from './stream.js';
export type { StreamEvent } from './tally.js';
export type { Answered } from './transport.js';
export type * from './types.js';
