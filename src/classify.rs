//! What a failed attempt means: whether the same endpoint may be asked again, another one, or none.

use crate::{
    deadline::Timer,
    error::{Code, Error},
    find::find,
    jobs::{IfJobs, if_jobs},
    message::{Barrier, Headers, ResponseHead},
    stream::InBand,
    time::{Instant, positive_ms},
};

/// How an attempt failed, before any of its content was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or one that broke before the headers. Nothing tells these two apart in a
    /// Worker or a browser.
    Unreachable,
    /// A status that is no success; the body where it was read whole.
    Status {
        /// Status and fields.
        head: ResponseHead,
        /// The endpoint's own explanation.
        body: Option<Vec<u8>>,
    },
    /// A timer ran out.
    Timeout(Timer),
    /// Something else than an answer, in a few words.
    Invalid(&'static str),
    /// An error inside a 200.
    InBand(InBand),
    /// The bytes ended before the answer was whole.
    Cut,
    /// A job, or its submission.
    Job(IfJobs<Box<JobFailure>>),
    /// A gateway of our own says why it failed.
    Told(Box<Told>),
    /// The platform did not let the request out, or keeps its answer from us.
    Barred(Barrier),
    /// An answer that was to go on behind another says something else than that.
    Differs,
}

/// What a gateway of our own says of its failure: words that were made for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it says.
    pub error: Error,
    /// The answer that this came as; `None` where it stood inside a 200.
    pub answer: Option<(ResponseHead, Vec<u8>)>,
}

/// How a RunPod job failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobFailure {
    /// Nobody is there who could take it: all workers are throttled or crash.
    NoWorkers,
    /// It is more than RunPod takes.
    TooLarge,
    /// It would have to carry a file.
    Unfit,
    /// Its submission was not answered: it may be at work, and nobody knows its id.
    SubmissionLost,
    /// Its queue has not answered for a minute.
    QueueSilent,
    /// Outputs are missing or stand there twice, and nothing makes that good.
    Gap,
    /// It was handed to a second worker when outputs had come of the first.
    Restarted,
    /// Its worker destroyed so many characters.
    Torn(u32),
    /// Its worker's server answered with a status that is no success.
    Answered {
        /// That status.
        head: ResponseHead,
        /// The server's own explanation, where it could be read.
        body: Option<Vec<u8>>,
    },
    /// Its handler raised, with this message.
    Raised(String),
    /// Its worker is gone.
    WorkerLost,
    /// It took longer than its `executionTimeout`.
    TimedOut {
        /// That limit, in milliseconds, where it is known.
        limit_ms: Option<u64>,
    },
    /// Somebody has cancelled it.
    Cancelled,
    /// Its `ttl` has passed, or its result was kept no longer.
    Expired,
    /// There is no such job.
    Unknown,
}

/// What may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same endpoint may do better later.
    Retry {
        /// It named a time, in milliseconds from now: pushback rather than failure.
        after_ms: Option<u64>,
        /// It said it has no room.
        throttled: bool,
    },
    /// Not this endpoint again, but another.
    NextTarget,
    /// Only an endpoint that is asked for another model.
    OtherModel,
    /// Nobody: the request itself is at fault, or nothing gets out of here.
    Fatal,
}

impl Failure {
    /// What may follow. `now` is for dates in `Retry-After`.
    pub fn verdict(&self, now: Instant) -> Verdict {
        const RETRY: Verdict = Verdict::Retry { after_ms: None, throttled: false };
        match self {
            // Its place in the queue is lost; a second job would only wait behind it.
            Self::Timeout(Timer::Queue) => Verdict::NextTarget,
            Self::Unreachable | Self::Cut | Self::Timeout(_) | Self::Differs => RETRY,
            // An answer of the wrong kind comes from a wrong address or a broken proxy; those do
            // not mend themselves within a call, but a proxy's error page may.
            Self::Invalid(_) => RETRY,
            Self::InBand(error) => error.status.map_or(RETRY, |status| by_status(status, None)),
            Self::Job(failure) => failure.verdict(now),
            // No other endpoint is any nearer.
            Self::Barred(Barrier::Offline) => Verdict::Fatal,
            // Most often a refused key: the answer that says so is the one that cannot be seen.
            Self::Barred(Barrier::Cors) => Verdict::NextTarget,
            Self::Status { head, body } => by_answer(head, body.as_deref(), now),
            Self::Told(told) => match &told.answer {
                Some((head, body)) => by_answer(head, Some(body), now),
                // Its retries are spent as well where no header field can say so.
                None => by_status(told.error.code.status(), None).unless_retried(),
            },
        }
    }

    /// Whether such a status lays the fault with the request. Its body must be read: it may say
    /// more, and in the end it is the caller's answer.
    pub fn is_refusal(status: u16) -> bool {
        by_status(status, None) == Verdict::Fatal
    }

    /// Whether the endpoint is at fault, so that its breaker counts this: not where the request is, where somebody else
    /// ended it, or where the endpoint named a time to come back, which is pushback. `own_limits`: the limits of a job
    /// are the policy's, not shortened by the caller's deadline.
    pub fn is_endpoints_fault(&self, own_limits: bool) -> bool {
        let faulty = |status: u16, head: Option<&ResponseHead>| {
            let pushback = head.is_some_and(|head| retry_after(&head.headers, Instant::default()).is_some());
            !matches!(status, 400..=499 | 501 | 505) && !pushback
        };
        match self {
            Self::Unreachable | Self::Timeout(_) | Self::Invalid(_) | Self::Cut => true,
            Self::Status { head, .. } => faulty(head.status, Some(head)),
            Self::InBand(error) => error.status.is_none_or(|status| faulty(status, None)),
            Self::Barred(_) | Self::Differs => false,
            // Whoever tells of others' failures is well.
            Self::Told(told) => matches!(told.error.code, Code::Internal | Code::ConfigInvalid),
            Self::Job(failure) => match &**failure {
                JobFailure::TooLarge | JobFailure::Unfit | JobFailure::Cancelled | JobFailure::Unknown => false,
                // Pushback: the endpoint's health is looked at anyway.
                JobFailure::NoWorkers => false,
                JobFailure::TimedOut { .. } | JobFailure::Expired => own_limits,
                JobFailure::Answered { head, .. } => faulty(head.status, Some(head)),
                JobFailure::SubmissionLost
                | JobFailure::QueueSilent
                | JobFailure::Gap
                | JobFailure::Restarted
                | JobFailure::Torn(_)
                | JobFailure::Raised(_)
                | JobFailure::WorkerLost => true,
            },
        }
    }

    /// Whether the endpoint may have died under this very request. A request that two endpoints
    /// died under is not given to a third.
    pub fn is_death(&self) -> bool {
        match self {
            Self::Cut => true,
            Self::Status { head, .. } => head.status == 500,
            Self::InBand(error) => {
                error.kind.as_deref() != Some("abort") && error.status.is_none_or(|status| status == 500)
            }
            Self::Told(told) => matches!(told.error.code, Code::StreamInterrupted | Code::Internal),
            Self::Job(failure) => **failure == JobFailure::WorkerLost,
            Self::Unreachable | Self::Timeout(_) | Self::Invalid(_) | Self::Barred(_) | Self::Differs => false,
        }
    }

    /// Whether this refuses the request for what stands in it, and not for its length.
    pub fn refuses_form(&self) -> bool {
        let Self::Status { head, body } = self else { return false };
        matches!(head.status, 400 | 422) && !body.as_deref().is_some_and(is_context_length)
    }

    /// Whether this refuses the request.
    pub fn refuses_request(&self) -> bool {
        match self {
            Self::Status { head, .. } => Self::is_refusal(head.status),
            Self::InBand(error) => error.status.is_some_and(Self::is_refusal),
            Self::Told(told) => Self::is_refusal(told.error.code.status()),
            _ => false,
        }
    }

    /// How a job failed, if this is that.
    pub fn of_job(&self) -> Option<&JobFailure> {
        if let Self::Job(failure) = self { Some(failure) } else { None }
    }

    /// A few words for logs.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable => "unreachable".to_owned(),
            Self::Status { head, .. } => format!("http_{}", head.status),
            Self::Timeout(timer) => timer.as_str().to_owned(),
            Self::Invalid(_) => "invalid".to_owned(),
            Self::InBand(error) if error.kind.as_deref() == Some("abort") => "abort".to_owned(),
            Self::InBand(_) => "in_band".to_owned(),
            Self::Cut => "cut".to_owned(),
            Self::Job(failure) => failure.reason().to_owned(),
            Self::Told(told) => told.error.code.as_str().to_owned(),
            Self::Barred(barrier) => barrier.as_str().to_owned(),
            Self::Differs => "differs".to_owned(),
        }
    }
}

/// The longest piece of a server's words that goes into a message.
const MAX_WORDS: usize = 300;

impl JobFailure {
    /// This as what it would have been without a job around it.
    pub fn unwrapped(self) -> Failure {
        match self {
            Self::Answered { head, body } => Failure::Status { head, body },
            failure => failure.into(),
        }
    }

    /// This as what whoever knows of the job is told: it has failed, and with these words.
    pub fn as_told(self) -> Self {
        match self {
            Self::Answered { head, body } => {
                let body = body.unwrap_or_default();
                let words = String::from_utf8_lossy(&body);
                let words: String = words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
                Self::Raised(format!("vLLM returned HTTP {} {words}", head.status).trim_end().to_owned())
            }
            failure => failure,
        }
    }

    fn verdict(&self, now: Instant) -> Verdict {
        match self {
            Self::Answered { head, body } => Failure::Status { head: head.clone(), body: body.clone() }.verdict(now),
            Self::NoWorkers => Verdict::Retry { after_ms: None, throttled: true },
            // What came of it is cancelled or over. Of those that nobody could cancel there is at
            // most one more: see `route`.
            Self::SubmissionLost | Self::Gap | Self::Restarted | Self::Torn(_) | Self::WorkerLost => {
                Verdict::Retry { after_ms: None, throttled: false }
            }
            // The same again on the same endpoint, or a second job beside one that may still run.
            Self::TooLarge
            | Self::Unfit
            | Self::QueueSilent
            | Self::Raised(_)
            | Self::TimedOut { .. }
            | Self::Expired
            | Self::Unknown => Verdict::NextTarget,
            // Whoever did that meant it.
            Self::Cancelled => Verdict::Fatal,
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::NoWorkers => "no_workers",
            Self::TooLarge => "too_large",
            Self::Unfit => "unfit",
            Self::SubmissionLost => "submission_lost",
            Self::QueueSilent => "queue_silent",
            Self::Gap => "gap",
            Self::Restarted => "restarted",
            Self::Torn(_) => "torn_characters",
            Self::Answered { .. } => "job_answered",
            Self::Raised(_) => "job_failed",
            Self::WorkerLost => "worker_lost",
            Self::TimedOut { .. } => "job_timed_out",
            Self::Cancelled => "job_cancelled",
            Self::Expired => "job_expired",
            Self::Unknown => "job_unknown",
        }
    }
}

impl From<JobFailure> for Failure {
    fn from(failure: JobFailure) -> Self {
        // Where no job is followed none fails.
        if_jobs(Box::new(failure)).map_or(Self::Unreachable, Self::Job)
    }
}

impl Verdict {
    /// This verdict, or a plain retry where it forbids one.
    const fn or_retry(self) -> Self {
        match self {
            Self::Retry { .. } => self,
            _ => Self::Retry { after_ms: None, throttled: false },
        }
    }

    /// This verdict of somebody who has retried already.
    const fn unless_retried(self) -> Self {
        match self {
            Self::Retry { .. } => Self::NextTarget,
            _ => self,
        }
    }
}

fn by_answer(head: &ResponseHead, body: Option<&[u8]>, now: Instant) -> Verdict {
    let verdict = by_status(head.status, retry_after(&head.headers, now));
    match head.headers.get("x-should-retry") {
        Some("true") => verdict.or_retry(),
        Some("false") if matches!(verdict, Verdict::Retry { .. }) => verdict.unless_retried(),
        _ if head.status == 400 && body.is_some_and(is_context_length) => Verdict::OtherModel,
        _ => verdict,
    }
}

fn by_status(status: u16, after_ms: Option<u64>) -> Verdict {
    match status {
        // No room. 529 is Anthropic's word for it.
        429 | 503 | 529 => Verdict::Retry { after_ms, throttled: true },
        // The gateway's key, not the caller's request.
        401 | 403 => Verdict::NextTarget,
        408 | 425 => Verdict::Retry { after_ms, throttled: false },
        // A redirect is never followed: it would carry the key elsewhere.
        300..=399 => Verdict::NextTarget,
        // Not implemented, version not supported: the same tomorrow.
        501 | 505 => Verdict::Fatal,
        400..=499 => Verdict::Fatal,
        // The rest of 5xx, and numbers that are no status at all.
        _ => Verdict::Retry { after_ms, throttled: false },
    }
}

/// vLLM's and OpenAI's ways to say that a prompt is too long for the model.
fn is_context_length(body: &[u8]) -> bool {
    let contains = |needle: &str| find(body, needle.as_bytes()).is_some();
    contains("maximum context length") || contains("context_length_exceeded") || contains("\"param\":\"input_tokens\"")
}

/// When to come back, in milliseconds from now: `retry-after-ms` (OpenAI's), or `Retry-After` in
/// seconds or as an HTTP date (RFC 9110, section 10.2.3). A date is held against the sender's own
/// `Date` where it sent one, so that its clock may be wrong. Nonsense and the past count as
/// nothing said.
pub fn retry_after(headers: &Headers, now: Instant) -> Option<u64> {
    if let Some(ms) = headers.get("retry-after-ms").and_then(|value| positive_ms(value, 1)) {
        return Some(ms);
    }
    let value = headers.get("retry-after")?.trim();
    if let Some(ms) = positive_ms(value, 1000) {
        return Some(ms);
    }
    let when = date(value)?;
    let sender = headers.get("date").and_then(date).unwrap_or(now);
    (when > sender).then(|| sender.until(when))
}

fn date(value: &str) -> Option<Instant> {
    // A leap second is none to the Unix epoch: it is the last second of its day once more.
    let value = value.replacen("23:59:60", "23:59:59", 1);
    let since = httpdate::parse_http_date(&value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Instant::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(1_795_299_888_000); // Sat, 21 Nov 2026 22:24:48 GMT

    fn status(status: u16, fields: &[(&str, &str)], body: &str) -> Failure {
        let headers = fields.iter().copied().collect();
        Failure::Status { head: ResponseHead { status, headers }, body: Some(body.as_bytes().to_vec()) }
    }

    #[test]
    fn the_table_that_users_of_vllm_clients_know() {
        for code in [408, 429, 500, 502, 503, 504, 520, 524, 529] {
            assert!(matches!(status(code, &[], "").verdict(NOW), Verdict::Retry { after_ms: None, .. }), "{code}");
        }
        for code in [400, 402, 404, 405, 409, 413, 415, 422, 501] {
            assert_eq!(status(code, &[], "").verdict(NOW), Verdict::Fatal, "{code}");
        }
        for code in [301, 307, 401, 403] {
            assert_eq!(status(code, &[], "").verdict(NOW), Verdict::NextTarget, "{code}");
        }
        for failure in [Failure::Unreachable, Failure::Cut, Failure::Invalid("html"), Failure::Timeout(Timer::Idle)] {
            assert_eq!(failure.verdict(NOW), Verdict::Retry { after_ms: None, throttled: false });
        }
    }

    #[test]
    fn an_upstreams_word_on_retrying_is_obeyed() {
        assert!(matches!(status(409, &[("x-should-retry", "true")], "").verdict(NOW), Verdict::Retry { .. }));
        assert_eq!(status(503, &[("x-should-retry", "false")], "").verdict(NOW), Verdict::NextTarget);
        assert_eq!(status(400, &[("x-should-retry", "false")], "").verdict(NOW), Verdict::Fatal);
    }

    #[test]
    fn a_prompt_too_long_may_fit_another_model_and_a_filtered_one_goes_back() {
        let vllm = r#"{"error":{"message":"This model's maximum context length is 1024 tokens.","type":"BadRequestError","param":"input_tokens","code":400}}"#;
        assert_eq!(status(400, &[], vllm).verdict(NOW), Verdict::OtherModel);
        let filter = r#"{"error":{"message":"filtered","code":"content_filter"}}"#;
        assert_eq!(status(400, &[], filter).verdict(NOW), Verdict::Fatal);
    }

    #[test]
    fn errors_inside_a_200_are_judged_by_the_status_they_name() {
        let in_band = |status| Failure::InBand(InBand { status, kind: None }).verdict(NOW);
        assert_eq!(in_band(Some(400)), Verdict::Fatal);
        assert_eq!(in_band(Some(503)), Verdict::Retry { after_ms: None, throttled: true });
        assert_eq!(in_band(Some(500)), Verdict::Retry { after_ms: None, throttled: false });
        assert_eq!(in_band(None), Verdict::Retry { after_ms: None, throttled: false });
    }

    #[test]
    fn retry_after_in_all_its_forms() {
        for (fields, expected) in [
            (&[("retry-after", "2")][..], Some(2000)),
            (&[("retry-after", " 1.5 ")], Some(1500)),
            (&[("retry-after-ms", "12.5"), ("retry-after", "9")], Some(13)),
            (&[("retry-after", "Sat, 21 Nov 2026 22:24:58 GMT")], Some(10_000)),
            (&[("retry-after", "Saturday, 21-Nov-26 22:24:58 GMT")], Some(10_000)),
            (&[("retry-after", "Sat Nov 21 22:24:58 2026")], Some(10_000)),
            (
                &[("retry-after", "Sat, 21 Nov 2026 22:00:10 GMT"), ("date", "Sat, 21 Nov 2026 22:00:00 GMT")],
                Some(10_000),
            ),
            (&[("retry-after", "Sat, 21 Nov 2026 22:24:38 GMT")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "1e300")], Some(u64::MAX)),
            (&[], None),
        ] {
            assert_eq!(retry_after(&fields.iter().copied().collect(), NOW), expected, "{fields:?}");
        }
    }
}
