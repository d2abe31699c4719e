//! What a caller is told: what happened, how often it was tried, what to change.

use crate::{
    classify::{Failure, retry_after},
    deadline::Limits,
    error::{Code, Error},
    stream::InBand,
    time::Instant,
};

/// The story of a failed call, as far as its error needs it.
#[derive(Clone, Copy, Debug)]
pub struct Story<'a> {
    /// The endpoint that failed last.
    pub endpoint: &'a str,
    /// Attempts over all endpoints.
    pub attempts: u32,
    /// Whether content had reached the client.
    pub shown: bool,
    /// The limits of the last attempt.
    pub limits: &'a Limits,
}

impl Story<'_> {
    /// The error that the last failure comes to.
    pub fn error(&self, failure: &Failure, now: Instant) -> Error {
        let endpoint = self.endpoint;
        let (code, what, advice) = match failure {
            Failure::Unreachable => (
                Code::UpstreamUnreachable,
                format!("No connection to endpoint `{endpoint}`, or it broke before an answer."),
                "Check that the server runs and that its `base_url` is right.",
            ),
            Failure::Timeout(timer) => {
                let ms = self.limits.of(*timer);
                let what = match timer {
                    crate::deadline::Timer::Headers => {
                        format!("Endpoint `{endpoint}` sent no response headers within {ms} ms.")
                    }
                    crate::deadline::Timer::FirstToken => {
                        format!("Endpoint `{endpoint}` sent no content within {ms} ms.")
                    }
                    crate::deadline::Timer::Idle => {
                        format!("Endpoint `{endpoint}` fell silent for {ms} ms in the middle of its answer.")
                    }
                    crate::deadline::Timer::Progress => {
                        format!("Endpoint `{endpoint}` sent bytes but no content for {ms} ms.")
                    }
                };
                let error = Error::new(
                    Code::UpstreamTimeout,
                    format!(
                        "{what} {} If that is its usual pace, raise `{}` in the policy.",
                        self.tried(),
                        timer.field()
                    ),
                );
                return error.with_param(timer.as_str());
            }
            Failure::Cut if self.shown => (
                Code::StreamInterrupted,
                format!("Endpoint `{endpoint}` broke off in the middle of its answer."),
                "What arrived is incomplete; ask again for a whole answer.",
            ),
            Failure::Cut => (
                Code::StreamInterrupted,
                format!("Endpoint `{endpoint}` broke off before its answer was whole."),
                "Its own log may say why; another target in `models` would take over.",
            ),
            Failure::InBand(error) if self.shown => (
                Code::StreamInterrupted,
                format!("Endpoint `{endpoint}` gave up in the middle of its answer{}.", in_words(error)),
                "What arrived is incomplete; ask again for a whole answer.",
            ),
            Failure::InBand(error) => (
                by_status(error.status.unwrap_or(500)),
                format!("Endpoint `{endpoint}` answered with an error inside a 200{}.", in_words(error)),
                "Its own log may say why; another target in `models` would take over.",
            ),
            Failure::Invalid(what) => (
                if self.shown { Code::StreamInterrupted } else { Code::UpstreamInvalid },
                format!("Endpoint `{endpoint}` sent {what}."),
                "Check that its `base_url` leads to an OpenAI-compatible server.",
            ),
            Failure::Status { head, .. } => return self.status_error(head.status, retry_after(&head.headers, now)),
        };
        Error::new(code, format!("{what} {} {advice}", self.tried()))
    }

    /// The whole call ran out of time.
    pub fn deadline(&self, deadline_ms: u64) -> Error {
        let passed = match self.attempts {
            0 => "while the request itself was still coming in, and no endpoint was asked".to_owned(),
            _ if self.shown => format!("in the middle of the answer of endpoint `{}`", self.endpoint),
            _ => format!("before an answer came; endpoint `{}` was asked last", self.endpoint),
        };
        let message = format!(
            "The call's deadline of {deadline_ms} ms passed {passed}. {} Raise `deadline_ms` in the policy, or send a longer `x-fairlead-deadline-ms`.",
            self.tried()
        );
        Error::new(Code::DeadlineExceeded, message)
    }

    fn status_error(&self, status: u16, retry_after_ms: Option<u64>) -> Error {
        let code = by_status(status);
        let advice = match code {
            Code::UpstreamOverloaded => "It has no room: come back later, or add a target to `models`.",
            Code::UpstreamRejectedKey => "It refused the gateway's key: check the secret that `api_key_secret` names.",
            Code::InvalidRequest => "It refused the request itself.",
            _ => "Its own log may say why; another target in `models` would take over.",
        };
        let mut error =
            Error::new(code, format!("Endpoint `{}` answered HTTP {status}. {} {advice}", self.endpoint, self.tried()));
        error.retry_after_ms = retry_after_ms;
        error
    }

    fn tried(&self) -> String {
        match self.attempts {
            0 => "Nothing was tried.".to_owned(),
            1 => "It was asked once.".to_owned(),
            attempts => format!("{attempts} attempts were made in all."),
        }
    }
}

fn by_status(status: u16) -> Code {
    match status {
        429 | 503 | 529 => Code::UpstreamOverloaded,
        401 | 403 => Code::UpstreamRejectedKey,
        408 | 502 | 504 | 520..=527 => Code::UpstreamUnreachable,
        400..=499 => Code::InvalidRequest,
        _ => Code::UpstreamInvalid,
    }
}

fn in_words(error: &InBand) -> String {
    match (&error.kind, error.status) {
        (Some(kind), Some(status)) => format!(" ({kind}, {status})"),
        (Some(kind), None) => format!(" ({kind})"),
        (None, Some(status)) => format!(" ({status})"),
        (None, None) => String::new(),
    }
}
