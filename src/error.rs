//! The one error that callers see, in every dialect.
//!
//! A message says what happened, how often it was tried and which field to change. It never holds
//! a key, a prompt or an endpoint's URL, so it may be logged as it is.

use crate::{api::Dialect, jobs::IfJobs};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;

/// Codes, each with its stable name, its HTTP status, and its `error.type` in the words that the SDKs of OpenAI and
/// Anthropic know.
macro_rules! codes {
    ($($(#[$meaning:meta])* $code:ident = $name:literal, $status:literal, $kind:literal;)*) => {
        /// What went wrong, by its stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$meaning])* $code,)*
        }

        impl Code {
            const ALL: &[Self] = &[$(Self::$code),*];

            /// The stable name, as in `error.code`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)*
                }
            }

            /// The HTTP status of an answer that is nothing but this error.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$code => $status,)*
                }
            }

            const fn kind(self) -> &'static str {
                match self {
                    $(Self::$code => $kind,)*
                }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    InvalidRequest = "invalid_request", 400, "invalid_request_error";
    /// No key, or an unknown one.
    InvalidApiKey = "invalid_api_key", 401, "authentication_error";
    /// The key is known but may not do this.
    Forbidden = "forbidden", 403, "permission_error";
    /// No entry of `models` takes this name.
    ModelNotFound = "model_not_found", 404, "not_found_error";
    /// The path is not a route.
    RouteNotFound = "route_not_found", 404, "not_found_error";
    /// There is no such job, or it is another client's.
    JobNotFound = "job_not_found", 404, "not_found_error";
    /// The path is a route, for another method.
    MethodNotAllowed = "method_not_allowed", 405, "invalid_request_error";
    /// The body is over `max_request_bytes`.
    RequestTooLarge = "request_too_large", 413, "request_too_large";
    /// Too much at a time.
    RateLimited = "rate_limited", 429, "rate_limit_error";
    /// A timer of one attempt ran out; `param` names it.
    UpstreamTimeout = "upstream_timeout", 504, "timeout_error";
    /// The whole call ran out of time.
    DeadlineExceeded = "deadline_exceeded", 504, "timeout_error";
    /// No connection, or one that broke before an answer.
    UpstreamUnreachable = "upstream_unreachable", 502, "api_error";
    /// An answer that cannot be used.
    UpstreamInvalid = "upstream_invalid", 502, "api_error";
    /// The endpoint refused the gateway's key.
    UpstreamRejectedKey = "upstream_rejected_key", 502, "api_error";
    /// The endpoint has no room.
    UpstreamOverloaded = "upstream_overloaded", 503, "overloaded_error";
    /// Every endpoint that could serve the call is left alone for now.
    CircuitOpen = "circuit_open", 503, "overloaded_error";
    /// The stream ended before its answer was whole.
    StreamInterrupted = "stream_interrupted", 502, "api_error";
    /// A job's handler raised, or its worker was lost.
    JobFailed = "job_failed", 502, "api_error";
    /// A job took longer than its `executionTimeout`.
    JobTimedOut = "job_timed_out", 504, "timeout_error";
    /// A job was cancelled by somebody else.
    JobCancelled = "job_cancelled", 502, "api_error";
    /// A job's `ttl` passed, or its result was kept no longer.
    JobExpired = "job_expired", 504, "timeout_error";
    /// `CONFIG` has mistakes.
    ConfigInvalid = "config_invalid", 500, "api_error";
    /// A defect of the gateway.
    Internal = "internal", 500, "api_error";
}

impl Code {
    /// The code of this name.
    pub fn read(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|code| code.as_str() == name).copied()
    }
}

/// An error on its way to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What went wrong.
    pub code: Code,
    /// For people: what happened and what to change.
    pub message: String,
    /// The field or timer concerned.
    pub param: Option<String>,
    /// When asking again makes sense, in milliseconds, where that is known.
    pub retry_after_ms: Option<u64>,
    /// The job that it is about, for a client that may know it.
    pub job: Option<IfJobs<Box<JobState>>>,
    /// The text that had come of an answer of which the client has nothing.
    pub partial: Option<String>,
}

/// What a client is told of its own job, in RunPod's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobState {
    /// The id that the client has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `FAILED`, `IN_QUEUE`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// Milliseconds in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_time: Option<u64>,
    /// Milliseconds at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_time: Option<u64>,
    /// Who was at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// What it put out before it ended, or before it was given up.
    /// Each as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_json")]
    pub stream: Vec<String>,
}

fn as_json<S: Serializer>(pieces: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(pieces.iter().filter_map(|piece| serde_json::from_str::<&RawValue>(piece).ok()))
}

#[derive(Serialize)]
struct Fields<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<&'a str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a str>,
    /// What the Responses API itself puts beside `type`; its SDKs raise on `error`.
    #[serde(flatten)]
    beside: Option<Fields<'a>>,
    /// Where RunPod's own SDKs look.
    #[serde(flatten)]
    job: Option<&'a IfJobs<Box<JobState>>>,
    error: Fields<'a>,
}

impl Error {
    /// An error with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after_ms: None, job: None, partial: None }
    }

    /// The error of a body that is over this limit of a policy, in bytes.
    pub fn too_large(limit: u64) -> Self {
        let message = format!("The body is over the limit of {limit} bytes (`max_request_bytes` in the policy).");
        Self::new(Code::RequestTooLarge, message)
    }

    /// The error of a body that was still on its way when its call's time was over.
    pub fn too_slow() -> Self {
        let message = "The call's deadline passed while the request itself was still coming in, and no endpoint was asked. Send it faster, raise `deadline_ms` in the policy, or send a longer `x-fairlead-deadline-ms`.";
        Self::new(Code::DeadlineExceeded, message)
    }

    /// Names the field or timer concerned.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The JSON body of an answer that is nothing but this error.
    pub fn body(&self, dialect: Dialect) -> Vec<u8> {
        let r#type = matches!(dialect, Dialect::Messages).then_some("error");
        json(&Envelope { r#type, beside: None, job: self.job.as_ref(), error: self.fields() })
    }

    /// The event that ends a stream which has begun. No `[DONE]` belongs behind it.
    pub fn event(&self, dialect: Dialect) -> Vec<u8> {
        let named = matches!(dialect, Dialect::Responses | Dialect::Messages | Dialect::Job);
        let beside = matches!(dialect, Dialect::Responses).then(|| Fields { r#type: "error", ..self.fields() });
        // Flattened fields bring their own `type`.
        let r#type = matches!(dialect, Dialect::Messages).then_some("error");
        let body = json(&Envelope { r#type, beside, job: self.job.as_ref(), error: self.fields() });
        let prefix: &[u8] = if named { b"event: error\ndata: " } else { b"data: " };
        [prefix, &body, b"\n\n"].concat()
    }

    fn fields(&self) -> Fields<'_> {
        Fields {
            message: &self.message,
            r#type: self.code.kind(),
            param: self.param.as_deref(),
            code: self.code.as_str(),
            partial: self.partial.as_deref(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Error {}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings and nothing else: serialising them cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_dialect_gets_the_shape_its_sdk_raises_on() {
        let error = Error::new(Code::StreamInterrupted, "It \"broke\"").with_param("idle");
        let fields = r#"{"message":"It \"broke\"","type":"api_error","param":"idle","code":"stream_interrupted"}"#;
        assert_eq!(text(error.body(Dialect::Chat)), format!(r#"{{"error":{fields}}}"#));
        assert_eq!(text(error.event(Dialect::Chat)), format!("data: {{\"error\":{fields}}}\n\n"));
        assert_eq!(text(error.body(Dialect::Messages)), format!(r#"{{"type":"error","error":{fields}}}"#));
        assert_eq!(
            text(error.event(Dialect::Messages)),
            format!("event: error\ndata: {{\"type\":\"error\",\"error\":{fields}}}\n\n")
        );
        let responses = text(error.event(Dialect::Responses));
        assert!(
            responses.starts_with("event: error\ndata: {\"message\":\"It \\\"broke\\\"\",\"type\":\"error\","),
            "{responses}"
        );
        assert!(responses.contains(&format!("\"error\":{fields}")), "{responses}");
    }
}
