//! Facts that a call lets out as it goes. The core never logs; a host turns these into log lines,
//! metrics or callbacks. Names are few and fixed, and nothing here holds a prompt, a key or a URL.

use serde::Serialize;

/// One fact about one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An attempt went out.
    AttemptStarted {
        /// From 1.
        attempt: u32,
        /// The endpoint's name in `CONFIG`.
        endpoint: String,
    },
    /// An attempt is still awaited, so another goes out beside it: the next to start.
    HedgeStarted {
        /// The other's number.
        attempt: u32,
        /// The other's endpoint.
        endpoint: String,
        /// Milliseconds for which the first has been awaited.
        after_ms: u64,
    },
    /// An attempt failed, and what follows.
    AttemptFailed {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// Why: a timer's name, `http_503`, `unreachable`, `cut`, `invalid`, `in_band`, `abort`, `offline`,
        /// `cors`, or the code that a gateway behind this one has told.
        reason: String,
        /// `retry`, `failover`, or `line` where it waits for a place; or why not: `attempts_spent`, `nobody_left`, `no_time_left`,
        /// `budget_spent`, `circuit_open`, `no_room`, `another_attempt_runs`, `content_shown`; where a policy resumes
        /// broken streams, and this one cannot be, `not_retryable`, `differs`, `dialect`, `choices`, `logprobs`, `token_ids`,
        /// `multimodal`, `tool_calls`, `gap`, `length` or `characters`.
        then: &'static str,
        /// Milliseconds until the next attempt.
        wait_ms: u64,
    },
    /// An attempt is to go on behind a stream that broke.
    ResumeStarted {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// `continue`, `verify`, or `anew` where the client has nothing yet.
        way: &'static str,
        /// Why it is not the way that the policy names: `endpoint` (it does not continue), `refused`, `differs`, `model`
        /// (it is asked for another one), `job`, `reasoning`, `stop`, `structured_output`, `prompt`, `max_tokens`,
        /// `sampling`, `white_space`, `context` (it would be too long), or one of those that bar both ways.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'static str>,
        /// Bytes of text that the client has.
        bytes: u64,
    },
    /// A stream that broke goes on.
    StreamResumed {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// As in `ResumeStarted`.
        way: &'static str,
        /// Milliseconds since it broke.
        gap_ms: u64,
    },
    /// A worker has an attempt's job now.
    JobStarted {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// Milliseconds since the attempt went out.
        queued_ms: u64,
    },
    /// A job has been at work for four fifths of its `executionTimeout`.
    JobSlow {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// A job's worker has destroyed characters: it decodes each read by itself, and a character
    /// was cut in two.
    CharactersDestroyed {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// How many.
        characters: u32,
    },
    /// Nothing more is asked about a job.
    JobEnded {
        /// From 1.
        attempt: u32,
        /// The endpoint's name.
        endpoint: String,
        /// RunPod's last word on it.
        status: Option<&'static str>,
        /// Milliseconds in the queue, by RunPod's count.
        delay_ms: Option<u64>,
        /// Milliseconds at work, by RunPod's count.
        execution_ms: Option<u64>,
        /// Who was at it.
        worker: Option<String>,
    },
    /// A job that nobody waited for was cancelled, or could not be. Comes beside the call, mostly behind
    /// its end.
    JobCancelled {
        /// The endpoint's name.
        endpoint: String,
        /// `cancelled`, `ended` by itself, or `left` to its `ttl`.
        outcome: &'static str,
        /// Cancels that were sent.
        cancels: u32,
    },
    /// An endpoint is left alone from now on.
    BreakerOpened {
        /// The endpoint's name.
        endpoint: String,
        /// The entry of `models`; none where an operator has isolated the endpoint.
        entry: Option<String>,
        /// The failure that it opened at, as in `AttemptFailed`; or `deadline`, `slow_first_token`, `told` by another
        /// isolate, `isolated` by an operator.
        reason: String,
        /// For so many milliseconds; none where an operator ends it.
        open_ms: Option<u64>,
        /// Only for the client of this call, as nobody else's have failed.
        one_client: bool,
    },
    /// An endpoint is asked again like any other.
    BreakerClosed {
        /// The endpoint's name.
        endpoint: String,
        /// The entry of `models`.
        entry: Option<String>,
        /// `probed`, `told` by another isolate, or `closed` by an operator.
        reason: String,
    },
    /// The store that isolates share could not be used; breakers work from memory.
    StoreFailed {
        /// `get` or `put`.
        operation: &'static str,
    },
    /// A rate limiting binding did not say whether a call may be made, so it was let through.
    RateLimiterFailed {
        /// Its name in `CONFIG`.
        binding: String,
        /// `error`, or `timeout` where it took too long.
        reason: &'static str,
    },
    /// The call is over.
    CallEnded {
        /// `ok`, an error's code, `upstream_400` and the like (an endpoint's own answer, passed on), `partial` (cut short
        /// at the deadline) or `client_gone`.
        outcome: String,
        /// The timer or field behind an error.
        #[serde(skip_serializing_if = "Option::is_none")]
        param: Option<String>,
        /// Who answered, or who was asked last.
        endpoint: Option<String>,
        /// Attempts over all endpoints.
        attempts: u32,
        /// Whether the caller asked for a stream.
        stream: bool,
        /// Milliseconds from arrival to the first content.
        first_content_ms: Option<u64>,
        /// Milliseconds from arrival to the end.
        total_ms: u64,
        /// Bytes sent to the client.
        bytes: u64,
        /// Whether they went by the platform's own pipe once content flowed.
        native: bool,
        /// Events of the answering stream.
        events: u64,
        /// Events dropped because they were malformed.
        malformed: u64,
        /// `usage.prompt_tokens`, if the endpoint told.
        prompt_tokens: Option<u64>,
        /// `usage.completion_tokens`, if the endpoint told.
        completion_tokens: Option<u64>,
    },
}
