//! What one call did, as the client, the endpoints and the log saw it; and the promises that hold
//! for every call, checked on every run of every test.

use crate::{
    runpod::Runpod,
    wanted::{CLIENT_KEY, HUSH},
};
use fairlead_core::{
    api::{Api, Dialect},
    ask::Ask,
    config::Forward,
    error::Error,
    event::Event,
    message::{Request, ResponseHead},
    policy::Policy,
};
use serde_json::Value;
use std::{cell::OnceCell, collections::BTreeSet, ops::Range, rc::Rc};

/// A request that an endpoint got.
pub struct Sent {
    /// Whose.
    pub endpoint: String,
    /// When.
    pub at: u64,
    /// What.
    pub request: Request,
    /// When it came to its end or was given up.
    pub over_at: Option<u64>,
    /// Whether it was given up before its end.
    pub aborted: bool,
    /// The head of its response, once that was read.
    pub head: Option<ResponseHead>,
    /// What was read of its body.
    pub chunks: Vec<Rc<[u8]>>,
}

impl Sent {
    /// A request that goes out now.
    pub const fn new(endpoint: String, at: u64, request: Request) -> Self {
        Self { endpoint, at, request, over_at: None, aborted: false, head: None, chunks: Vec::new() }
    }

    /// Whether this is part of a job's life: of those, an attempt makes many.
    pub fn is_of_job(&self) -> bool {
        self.endpoint == "d"
    }

    /// Whether it may go on behind the call: a job's submission, which may still tell an id, or what
    /// ends a job and looks whether it did.
    pub fn may_settle(&self) -> bool {
        let path = |name: &str| self.request.url.contains(name);
        self.is_of_job() && (path("/run") || path("/cancel/") || path("/status/"))
    }

    /// Whether it asks for a count of tokens, before its attempt asks to go on.
    pub fn counts(&self) -> bool {
        self.request.url.ends_with("/tokenize")
    }

    /// Which attempt it belongs to.
    pub fn attempt(&self) -> u32 {
        let id = self.request.headers.get("x-request-id").expect("an id");
        id.strip_prefix("req-").and_then(|number| number.parse().ok()).expect("the id of an attempt")
    }

    /// Which of a crowd sent it.
    pub fn member(&self) -> Option<usize> {
        self.request.headers.get("x-request-id")?.split_once('-')?.0.parse().ok()
    }
}

/// What one call did.
pub struct Record {
    /// What was asked for.
    pub ask: Ask,
    /// How it was to be carried out.
    pub policy: Rc<Policy>,
    /// When the call must be over.
    pub deadline_ms: u64,
    /// The client's status and fields; `None` when it left before them.
    pub head: Option<ResponseHead>,
    /// When the client got them.
    pub head_at: u64,
    /// Every piece of the body, and when the client was given it.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Those of them that a pipe brought.
    pub piped: Option<Range<usize>>,
    /// The body was broken off.
    pub broken: bool,
    /// The client did not take everything at once.
    pub slow: bool,
    /// Something went wrong on purpose.
    pub rehearsed: bool,
    /// How long the request took to come in.
    pub upload_ms: u64,
    /// It was not let in.
    pub refused: Option<Error>,
    /// The client had left when the call ended.
    pub gone: bool,
    /// The client did not take its last piece.
    pub untaken: bool,
    /// When the request arrived.
    pub begins_at: u64,
    /// When the call ended.
    pub ended_at: u64,
    /// When whatever it left behind was over.
    pub settled_at: u64,
    /// The simulated RunPod when all its jobs had ended, and as it was left.
    pub runpod: Option<Box<(Runpod, Runpod)>>,
    /// In the order of sending.
    pub requests: Vec<Sent>,
    /// Every fact told, and when.
    pub events: Vec<(u64, Event)>,
    /// Host timers that were armed.
    pub timers: usize,
    /// Exchanges that were in flight at the end.
    pub left_open: usize,
    /// The body as events, once it has been read as such.
    reads: OnceCell<Vec<Read>>,
}

/// An event as a client reads it: its name and its data.
pub type Read = (String, String);

impl Record {
    /// Of a call that has not begun.
    pub fn new(ask: Ask, policy: &Rc<Policy>, deadline_ms: Option<u64>) -> Self {
        Self {
            ask,
            policy: Rc::clone(policy),
            deadline_ms: deadline_ms.map_or(policy.deadline_ms, |own| own.min(policy.deadline_ms)),
            head: None,
            head_at: 0,
            pieces: Vec::new(),
            piped: None,
            broken: false,
            slow: false,
            rehearsed: false,
            upload_ms: 0,
            refused: None,
            gone: false,
            untaken: false,
            begins_at: 0,
            ended_at: 0,
            settled_at: 0,
            runpod: None,
            requests: Vec::new(),
            events: Vec::new(),
            timers: 0,
            left_open: 0,
            reads: OnceCell::new(),
        }
    }

    /// The client's status.
    pub fn status(&self) -> u16 {
        self.head.as_ref().expect("a head").status
    }

    /// A field of the client's response.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.as_ref().expect("a head").headers.get(name)
    }

    /// All that the client got.
    pub fn body(&self) -> Vec<u8> {
        self.pieces.iter().map(|(_, bytes)| &**bytes).collect::<Vec<_>>().concat()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body()).into_owned()
    }

    /// The same without comments that were put in.
    pub fn without_keepalives(&self) -> Vec<u8> {
        self.text().replace(": keepalive\n\n", "").into_bytes()
    }

    /// When the client got comments.
    pub fn keepalives(&self) -> Vec<u64> {
        self.pieces.iter().filter(|(_, bytes)| bytes.starts_with(b": keepalive")).map(|(at, _)| *at).collect()
    }

    /// The events of the client's stream.
    pub fn reads(&self) -> &[Read] {
        self.reads.get_or_init(|| read_events(&self.body()))
    }

    /// The error that the client got: as its answer, or as the last event of its stream.
    pub fn error(&self) -> Option<Value> {
        let json = if self.is_stream() { self.reads().last()?.1.clone() } else { self.text() };
        let value: Value = serde_json::from_str(&json).ok()?;
        value.get("error").filter(|error| !error.is_null()).cloned()
    }

    /// Its code, or nothing.
    pub fn code(&self) -> String {
        self.error_field("code")
    }

    /// The timer or field that it names, or nothing.
    pub fn param(&self) -> String {
        self.error_field("param")
    }

    fn error_field(&self, name: &str) -> String {
        let error = self.error().unwrap_or_default();
        error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Whom the call asked, in order.
    pub fn asked(&self) -> String {
        self.requests.iter().map(|sent| sent.endpoint.as_str()).collect()
    }

    /// When it asked.
    pub fn sent_at(&self) -> Vec<u64> {
        self.requests.iter().map(|sent| sent.at).collect()
    }

    /// Why each attempt failed, and what followed: `503 retry`.
    pub fn failures(&self) -> Vec<String> {
        let failure = |(_, event): &(u64, Event)| match event {
            Event::AttemptFailed { reason, then, .. } => Some(format!("{reason} {then}")),
            _ => None,
        };
        self.events.iter().filter_map(failure).collect()
    }

    /// The call's last fact, behind which only its jobs' ends are told, and what became of breakers.
    fn end(&self) -> Option<&(u64, Event)> {
        self.events.iter().rfind(|(_, event)| !is_beside(event))
    }

    /// The `outcome` of the call's last fact.
    pub fn outcome(&self) -> &str {
        match &self.end().expect("an event").1 {
            Event::CallEnded { outcome, .. } => outcome,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// Whether the call has come to its end.
    pub fn is_over(&self) -> bool {
        is_over(&self.events)
    }

    /// Events that were dropped because they were malformed.
    pub fn dropped(&self) -> u64 {
        match &self.end().expect("an event").1 {
            Event::CallEnded { malformed, .. } => *malformed,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// The simulated RunPod, all of whose jobs have ended.
    pub fn runpod(&self) -> &Runpod {
        &self.runpod.as_ref().expect("a simulated RunPod").0
    }

    /// The simulated RunPod as this call left it.
    pub fn live(&self) -> Runpod {
        self.runpod.as_ref().expect("a simulated RunPod").1.clone()
    }

    /// Attempts over all endpoints.
    pub fn attempts(&self) -> usize {
        self.events.iter().filter(|(_, event)| matches!(event, Event::AttemptStarted { .. })).count()
    }

    fn is_stream(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.headers.media_type() == "text/event-stream")
    }

    /// The promises that hold for every call.
    pub fn check(&self) {
        assert_eq!(self.left_open, 0, "every exchange has ended or was aborted");
        for sent in &self.requests {
            let latest = if sent.may_settle() { self.settled_at } else { self.deadline_ms };
            assert!(sent.over_at.is_some_and(|at| at <= latest), "over at {:?}", sent.over_at);
        }
        assert!(self.attempts() <= self.policy.max_attempts as usize, "{} attempts", self.attempts());
        self.check_facts();
        self.check_secrets();
        self.check_requests();
        if let Some(head) = self.head.as_ref().filter(|_| !self.gone && !self.untaken) {
            assert!(head.headers.get("x-fairlead-attempts").is_some());
            if !(200..300).contains(&head.status) {
                assert_eq!(head.headers.get("x-should-retry"), Some("false"), "retrying here is spent");
            } else if self.is_stream() && self.policy.forward == Forward::Native {
                self.check_own_words();
            } else if self.is_stream() {
                self.check_truth();
            } else if head.headers.media_type() == "application/json" && !self.broken {
                serde_json::from_slice::<serde::de::IgnoredAny>(&self.body()).expect("a whole answer");
            }
        }
    }

    /// What is told fits what happened.
    fn check_facts(&self) {
        let started = self.attempts();
        let ended = self.events.iter().filter(|(_, event)| matches!(event, Event::CallEnded { .. })).count();
        // An attempt at a job makes many requests, or none where it finds nobody to take the job.
        let jobs = self
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::AttemptStarted { endpoint, .. } if endpoint == "d"));
        // What is counted before is part of its attempt, which may end with that.
        let asked = |sent: &&Sent| !sent.is_of_job() && (self.ask.api == Api::Tokenize || !sent.counts());
        let ids: BTreeSet<u32> = self.requests.iter().filter(|sent| !sent.is_of_job()).map(Sent::attempt).collect();
        let plain = self.requests.iter().filter(asked).count();
        assert!(plain <= ids.len(), "one request for each attempt");
        let plain = ids.len();
        let made = plain + jobs.count();
        // While a client takes its time, a call may end before its last attempt has been made.
        let unmade = usize::from(started > made && (self.slow || self.outcome() == "client_gone"));
        // What is played in an attempt's place is not sent.
        let unsent = if self.rehearsed { started.saturating_sub(made + unmade) } else { 0 };
        assert_eq!((started, ended), (made + unmade + unsent, 1), "{:?}", self.events);
        let Some((at, Event::CallEnded { attempts, total_ms, bytes, .. })) = self.end() else {
            panic!("nothing follows the call's end: {:?}", self.events);
        };
        // A client that is behind a pipe goes on taking what is over for the endpoint.
        assert!(*at == self.ended_at || self.piped.is_some() && *at <= self.ended_at, "told at {at}");
        let latest = (self.deadline_ms - self.begins_at).max(self.upload_ms);
        assert!(*total_ms <= latest, "{total_ms} ms of {latest}");
        // The last words of a call may have to wait for its client.
        let told = *at - self.begins_at;
        assert!(told == *total_ms || self.slow && *at <= self.deadline_ms + 1000, "told at {at}");
        assert_eq!(*attempts as usize, started);
        if !self.untaken && !self.gone {
            // What went by itself shortly before the end may not have been looked at.
            let most = self.body().len();
            let unseen = if self.policy.forward == Forward::Native { most } else { 0 };
            assert!((most - unseen..=most).contains(&(*bytes as usize)), "{bytes} bytes told of {most}");
        }
    }

    /// No key, prompt or address in anything but the requests themselves.
    fn check_secrets(&self) {
        let told = serde_json::to_string(&self.events.iter().map(|(_, event)| event).collect::<Vec<_>>());
        assert!(!told.expect("events are JSON").contains(HUSH), "{:?}", self.events);
        assert!(!format!("{:?}", self.head).contains(HUSH), "{:?}", self.head);
        // Where a pipe brought the last event, it is the endpoint's own, on its way to who asked for it.
        let own = self.piped.as_ref().is_none_or(|piped| piped.end < self.pieces.len());
        let failed = !matches!(self.outcome(), "ok" | "partial") && !self.outcome().starts_with("upstream_4");
        if let Some(error) = self.error().filter(|_| own && failed) {
            assert!(!error.to_string().contains(HUSH), "{error}");
        }
    }

    /// Each endpoint gets its own key and id, and nothing of the client's secrets.
    fn check_requests(&self) {
        let mut attempts: Vec<u32> = Vec::new();
        let hedged = self.events.iter().any(|(_, event)| matches!(event, Event::HedgeStarted { .. }));
        for sent in &self.requests {
            let Sent { endpoint, request, .. } = sent;
            let Request { url, headers, .. } = request;
            assert!(url.starts_with(&format!("https://{endpoint}.hush.example/")), "{url}");
            assert_eq!(headers.get("authorization"), Some(&*format!("Bearer sk-hush-{endpoint}")));
            let attempt = sent.attempt();
            if attempts.last() != Some(&attempt) && !sent.may_settle() {
                // One that follows a job goes on beside its hedge.
                let again = attempts.contains(&attempt) && !(hedged && sent.is_of_job());
                assert!(!again, "attempt {attempt} goes on behind another");
                attempts.push(attempt);
            }
            assert!(attempt as usize <= self.attempts(), "an attempt that was told");
            assert_eq!(headers.get("cookie"), None);
            assert!(headers.iter().all(|(_, value)| !value.contains(CLIENT_KEY)));
        }
    }

    /// Where the endpoint's bytes go by as they are, Fairlead's own words behind them are still true.
    fn check_own_words(&self) {
        if !matches!(self.outcome(), "ok" | "partial") {
            assert!(self.error().is_some(), "{}", self.text());
        } else if matches!(self.ask.api.dialect(), Dialect::Chat | Dialect::Completions) {
            assert!(self.reads().iter().any(|(_, data)| data == "[DONE]"), "{}", self.text());
            assert!(finished(self.reads()) >= self.ask.choices, "{}", self.text());
        }
    }

    /// A stream ends in its dialect's proof or in an error event, never in both or neither.
    fn check_truth(&self) {
        let reads = self.reads();
        let failed = self.error().is_some();
        let says = |kind: &str| {
            reads.iter().any(|(_, data)| serde_json::from_str::<Value>(data).is_ok_and(|event| event["type"] == kind))
        };
        let whole = match self.ask.api.dialect() {
            Dialect::Messages => says("message_stop"),
            Dialect::Job => reads.iter().any(|(name, _)| name == "status"),
            Dialect::Responses => {
                ["response.completed", "response.incomplete", "response.failed"].into_iter().any(says)
            }
            Dialect::Chat | Dialect::Completions | Dialect::Whole => {
                let done = reads.iter().filter(|(_, data)| data == "[DONE]").count();
                assert!(done <= 1, "{done} times [DONE]");
                assert_eq!(done == 1, reads.last().is_some_and(|(_, data)| data == "[DONE]"), "[DONE] is the last");
                assert!(done == 0 || finished(reads) >= self.ask.choices, "[DONE] without {} ends", self.ask.choices);
                done == 1
            }
        };
        assert!(whole != failed, "whole: {whole}, failed: {failed}: {}", self.text());
        assert_eq!(whole, matches!(self.outcome(), "ok" | "partial"));
    }
}

/// Whether a call has come to its end by these facts.
pub fn is_over(events: &[(u64, Event)]) -> bool {
    matches!(events.iter().rfind(|(_, event)| !is_beside(event)), Some((_, Event::CallEnded { .. })))
}

/// Whether this may be told beside a call, and so behind its end.
const fn is_beside(event: &Event) -> bool {
    matches!(
        event,
        Event::JobCancelled { .. }
            | Event::BreakerOpened { .. }
            | Event::BreakerClosed { .. }
            | Event::StoreFailed { .. }
            | Event::RateLimiterFailed { .. }
    )
}

/// How many choices have ended well, by a reading of one's own.
fn finished(reads: &[Read]) -> usize {
    let mut ended = std::collections::BTreeSet::new();
    // Most events end nothing; reading them all as JSON would take most of these tests' time.
    let open = |data: &str| data.matches("finish_reason").count() == data.matches(r#""finish_reason":null"#).count();
    for (_, data) in reads.iter().filter(|(_, data)| !open(data)) {
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        for choice in event["choices"].as_array().into_iter().flatten() {
            assert_ne!(choice["finish_reason"], "abort");
            if choice["finish_reason"].as_str().is_some_and(|reason| !reason.is_empty()) {
                ended.insert(choice["index"].as_u64());
            }
        }
    }
    ended.len()
}

/// Reads an event stream the plain way: whole, as text, line by line.
pub fn read_events(stream: &[u8]) -> Vec<Read> {
    let mut text = String::from_utf8_lossy(stream);
    if text.contains('\r') {
        text = text.replace("\r\n", "\n").replace('\r', "\n").into();
    }
    let mut reads = Vec::new();
    let (mut name, mut data) = (String::new(), Vec::new());
    // What stands behind the last line end is no line yet.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "event" => name = value,
            "data" => data.push(value),
            "" if line.is_empty() => {
                let (name, data) = (std::mem::take(&mut name), std::mem::take(&mut data));
                if !data.is_empty() {
                    reads.push((name, data.join("\n")));
                }
            }
            _ => {}
        }
    }
    reads
}
