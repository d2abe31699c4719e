//! The account of one request: who asked for what, what was done for it and when, and how it ended.

use crate::{caller::Trace, event::Event, time::Instant};
use serde::Serialize;
use std::rc::Rc;

/// Who asks for what. Every name is one of `CONFIG`'s or a route's, never the caller's own text; but the request's id, and
/// an admin's fault, which were both found to have their form.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Caller {
    /// The request's id.
    pub request_id: String,
    /// Where it stands in a trace, if it belongs to one.
    #[serde(flatten)]
    pub trace: Option<Trace>,
    /// The client's name; none where the gateway is open to anybody, or nobody was let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The route.
    pub route: &'static str,
    /// The entry of `models`, or the endpoint whose jobs are meant; empty where it came to neither.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// What an admin wants to go wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Something that happened on the way.
#[derive(Debug, Serialize)]
pub struct Moment {
    /// Milliseconds since the request arrived.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The account of one request, up to now or to its end.
#[derive(Debug)]
pub struct Account {
    /// When it arrived.
    pub arrived: Instant,
    /// Who asks for what.
    pub caller: Rc<Caller>,
    /// What happened, in order.
    pub timeline: Vec<Moment>,
    /// How it ended: [`Event::CallEnded`].
    pub end: Option<Event>,
    /// By then it has ended, or nobody is there to tell of its end.
    pub(super) until: Instant,
}

/// Twenty attempts, the most that a policy allows, come to less; only destroyed characters may come more often.
const MOST_MOMENTS: usize = 200;

impl Account {
    /// Takes note of what has happened.
    pub(super) fn note(&mut self, now: Instant, event: &Event) {
        if self.timeline.len() < MOST_MOMENTS {
            self.timeline.push(Moment { at_ms: now.since(self.arrived), event: event.clone() });
        }
    }

    /// How bad it is, in a log's words: an answer that took a second attempt is worth a look, although its caller saw
    /// nothing of that.
    pub fn level(&self) -> &'static str {
        let end = self.end.as_ref().map_or("error", level);
        let warned = self.timeline.iter().any(|moment| level(&moment.event) != "info");
        if end == "info" && warned { "warn" } else { end }
    }

    /// Whether it went as it should, at the first attempt.
    pub(super) fn is_smooth(&self) -> bool {
        let first = matches!(&self.end, Some(Event::CallEnded { attempts, .. }) if *attempts <= 1);
        first && self.level() == "info"
    }

    /// Its line in the log.
    pub fn line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            level: &'a str,
            #[serde(flatten)]
            caller: &'a Caller,
            #[serde(flatten)]
            end: &'a Option<Event>,
            timeline: &'a [Moment],
        }
        json(&Line { level: self.level(), caller: &self.caller, end: &self.end, timeline: &self.timeline })
    }

    /// What became of each attempt that went out: its endpoint, and `ok`, why it failed, or `given_up` where nobody
    /// waited for it any more.
    pub(super) fn attempts(&self) -> impl Iterator<Item = (&str, &str)> {
        let served = match &self.end {
            Some(Event::CallEnded { outcome, endpoint: Some(endpoint), .. }) if is_answer(outcome) => Some(endpoint),
            _ => None,
        };
        let events = || self.timeline.iter().map(|moment| &moment.event);
        events().filter_map(move |event| {
            let Event::AttemptStarted { attempt, endpoint } = event else { return None };
            let failed = events().find_map(|event| match event {
                Event::AttemptFailed { attempt: other, reason, .. } if other == attempt => Some(&**reason),
                _ => None,
            });
            let otherwise = if served == Some(endpoint) { "ok" } else { "given_up" };
            Some((&**endpoint, failed.unwrap_or(otherwise)))
        })
    }

    /// Which endpoint has failed it last, and why; empty where none has.
    pub(super) fn last_failure(&self) -> (&str, &str) {
        let failure = self.timeline.iter().rev().find_map(|moment| match &moment.event {
            Event::AttemptFailed { endpoint, reason, .. } => Some((&**endpoint, &**reason)),
            _ => None,
        });
        failure.unwrap_or_default()
    }
}

/// Whether the caller has got an answer, or as much of one as its deadline allowed.
fn is_answer(outcome: &str) -> bool {
    matches!(outcome, "ok" | "partial")
}

/// How bad a fact is, in a log's words.
pub fn level(event: &Event) -> &'static str {
    match event {
        Event::AttemptStarted { .. }
        | Event::HedgeStarted { .. }
        | Event::ResumeStarted { .. }
        | Event::StreamResumed { .. }
        | Event::JobStarted { .. }
        | Event::JobEnded { .. }
        | Event::JobCancelled { outcome: "cancelled" | "ended", .. }
        | Event::BreakerClosed { .. } => "info",
        Event::AttemptFailed { .. }
        | Event::JobSlow { .. }
        | Event::CharactersDestroyed { .. }
        | Event::JobCancelled { .. }
        | Event::BreakerOpened { .. }
        | Event::StoreFailed { .. }
        | Event::RateLimiterFailed { .. } => "warn",
        Event::CallEnded { outcome, .. } if outcome == "ok" || outcome == "client_gone" => "info",
        Event::CallEnded { outcome, .. } if outcome == "partial" => "warn",
        Event::CallEnded { .. } => "error",
    }
}

/// The line of a fact that is no part of any call, told by this one.
pub fn line_beside(caller: &Caller, event: &Event) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        level: &'a str,
        #[serde(flatten)]
        caller: &'a Caller,
        #[serde(flatten)]
        event: &'a Event,
    }
    json(&Line { level: level(event), caller, event })
}

fn json(value: &impl Serialize) -> String {
    // Numbers and strings: serialising them cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}
