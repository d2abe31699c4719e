//! What a caller is told: what happened, how often it was tried, what to change.

use crate::{
    classify::{Failure, JobFailure, retry_after},
    deadline::Limits,
    error::{Code, Error},
    message::Barrier,
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
                    crate::deadline::Timer::Queue => {
                        format!("No worker of endpoint `{endpoint}` took the job within {ms} ms.")
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
            Failure::Job(failure) => self.job_error(failure),
            Failure::Told(told) => return told.error.clone(),
            Failure::Differs => (
                Code::StreamInterrupted,
                format!("Endpoint `{endpoint}` was asked to go on, and says something else than what has arrived."),
                "What arrived is incomplete; ask again for a whole answer.",
            ),
            Failure::Barred(barrier) => return self.barred(*barrier),
            Failure::Status { head, .. } => return self.status_error(head.status, retry_after(&head.headers, now)),
        };
        Error::new(code, format!("{what} {} {advice}", self.tried()))
    }

    /// The error of a stream that broke behind its first content, by the `cause`, and did not go on: because of what
    /// came `last`, if it was tried.
    pub fn interrupted(&self, cause: &Failure, broke_at: &str, last: Option<&Failure>, now: Instant) -> Error {
        let told = Story { endpoint: broke_at, ..*self }.error(cause, now);
        let what = match last {
            None => String::new(),
            Some(Failure::Differs) => {
                format!(
                    " Endpoint `{}` was asked to go on, and says something else than what has arrived.",
                    self.endpoint
                )
            }
            Some(last) => {
                format!(" Endpoint `{}`, which was to go on, failed as well ({}).", self.endpoint, last.reason())
            }
        };
        // Where nobody was asked to go on, it is what it would be anyway.
        let code = if last.is_some() { Code::StreamInterrupted } else { told.code };
        Error { code, message: told.message + &what, retry_after_ms: None, ..told }
    }

    /// How a job failed, and the cure.
    fn job_error(&self, failure: &JobFailure) -> (Code, String, &'static str) {
        let endpoint = self.endpoint;
        let (code, what, advice) = match failure {
            JobFailure::NoWorkers => (
                Code::UpstreamOverloaded,
                format!("Endpoint `{endpoint}` has no worker: all are throttled or unhealthy."),
                "Give it more GPU types or regions, or add a target to `models`.",
            ),
            JobFailure::TooLarge => (
                Code::RequestTooLarge,
                format!("The request is over the 20 MB that RunPod takes as a job's input (endpoint `{endpoint}`)."),
                "Send links to large inputs instead of the inputs themselves.",
            ),
            JobFailure::Unfit => (
                Code::InvalidRequest,
                "This model is served by jobs, which carry no files.".to_owned(),
                "Add a target to `models` whose endpoint is asked directly.",
            ),
            JobFailure::SubmissionLost => (
                Code::UpstreamUnreachable,
                format!("Endpoint `{endpoint}` did not answer when a job was submitted."),
                "The job may be at work all the same, no longer than its `ttl`.",
            ),
            JobFailure::QueueSilent => (
                Code::UpstreamUnreachable,
                format!("Endpoint `{endpoint}` has not answered for a minute while a job was followed."),
                "The job was given up, and cancelled if that could be reached.",
            ),
            JobFailure::Gap => (
                Code::StreamInterrupted,
                format!(
                    "Outputs of the job at endpoint `{endpoint}` were lost or came twice, and its result does not make that good."
                ),
                "What arrived is not the whole answer; ask again.",
            ),
            JobFailure::Restarted => (
                Code::StreamInterrupted,
                format!("Endpoint `{endpoint}` handed the job to a second worker in the middle of its answer."),
                "What arrived is not the whole answer; ask again. Its own log may say why the first worker was lost.",
            ),
            JobFailure::Torn(characters) => (
                Code::StreamInterrupted,
                format!(
                    "The worker of endpoint `{endpoint}` destroyed {characters} characters (U+FFFD): it cut them in two."
                ),
                "Use `\"mode\": \"openai\"` or a worker that decodes its stream as one, and ask again.",
            ),
            JobFailure::Answered { head, .. } => (
                by_status(head.status),
                format!("The server inside endpoint `{endpoint}` answered HTTP {}.", head.status),
                "Its own log may say why.",
            ),
            JobFailure::Raised(message) if message.is_empty() => (
                Code::JobFailed,
                format!("The handler of endpoint `{endpoint}` failed without a word."),
                "Its own log may say why. It is not run again on this endpoint.",
            ),
            JobFailure::Raised(message) => (
                Code::JobFailed,
                format!("The handler of endpoint `{endpoint}` raised: {message}."),
                "Its own log has the traceback. It is not run again on this endpoint.",
            ),
            JobFailure::WorkerLost => (
                Code::JobFailed,
                format!("The worker of endpoint `{endpoint}` that had the job was lost."),
                "It may have run out of memory: its own log may say. Ask again.",
            ),
            JobFailure::TimedOut { limit_ms } => (
                Code::JobTimedOut,
                format!(
                    "The handler of endpoint `{endpoint}` took longer than the job's `executionTimeout`{}.",
                    limit_ms.map(|ms| format!(" of {ms} ms")).unwrap_or_default()
                ),
                "Raise that limit (`deadline_ms` in the policy, `max_execution_ms` of the endpoint, `policy.executionTimeout` of your own jobs), or make the handler yield in time: code that blocks cannot even be cancelled.",
            ),
            JobFailure::Cancelled => (
                Code::JobCancelled,
                format!("Somebody has cancelled the job at endpoint `{endpoint}`."),
                "It is not submitted again; ask again if that was not meant.",
            ),
            JobFailure::Expired => (
                Code::JobExpired,
                format!(
                    "The job at endpoint `{endpoint}` has expired: its `ttl` passed before its end, or its result was not kept."
                ),
                "Raise its `ttl` (`deadline_ms` in the policy, `max_ttl_ms` of the endpoint), or shorten the queue with more workers.",
            ),
            JobFailure::Unknown => {
                (Code::JobNotFound, format!("Endpoint `{endpoint}` knows no such job."), "Check its id.")
            }
        };
        // Behind content, the stream is what was interrupted, whatever did it, unless the job says more.
        let says_more = matches!(code, Code::JobFailed | Code::JobTimedOut | Code::JobCancelled | Code::JobExpired);
        (if self.shown && !says_more { Code::StreamInterrupted } else { code }, what, advice)
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

    /// What the platform did.
    fn barred(&self, barrier: Barrier) -> Error {
        let endpoint = self.endpoint;
        let (what, advice) = match barrier {
            Barrier::Offline => (
                format!("This device is offline: there was no way to endpoint `{endpoint}`, or to any other."),
                "Ask again when it has a network.",
            ),
            Barrier::Cors => (
                format!("The browser keeps the answer of endpoint `{endpoint}` from this page."),
                "Either the server's CORS does not allow the page's origin: add it to `--allowed-origins` of vLLM, or to `cors.origins` of a Fairlead gateway. Or it answered an error that has no CORS fields, as vLLM's 401 for a wrong key and a proxy's 502 have none: check the key, and ask from outside a browser.",
            ),
        };
        let code = if self.shown { Code::StreamInterrupted } else { Code::UpstreamUnreachable };
        Error::new(code, format!("{what} {} {advice}", self.tried())).with_param(barrier.as_str())
    }

    fn status_error(&self, status: u16, retry_after_ms: Option<u64>) -> Error {
        let code = by_status(status);
        let advice = match code {
            Code::UpstreamOverloaded => "It has no room: come back later, or add a target to `models`.",
            Code::UpstreamRejectedKey => {
                "It refused the key that it was sent: check the secret that `api_key_secret` names."
            }
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
