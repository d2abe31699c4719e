//! What an admin wants to go wrong with a call, to rehearse an outage: the field `x-fairlead-fault`.
//!
//! ```text
//! faults = fault *( "," fault )
//! fault  = what [ ";" "attempts=" number *( "," number ) ] [ ";" "endpoint=" name ]
//! what   = "http-" status | "unreachable" | "stall" | "stall-after=" events | "cut=" events | "slow=" ms
//! ```
//!
//! A [`Plan`] says what happens to a request; [`Rehearsal`](crate::drive::Rehearsal) does it. All else takes it for what
//! it looks like: a failure.

use crate::{
    error::{Code, Error},
    settings::Endpoint,
};

/// The field that names faults.
pub const FAULT: &str = "x-fairlead-fault";

/// The field that has the admin key beside a client's own.
pub const ADMIN_KEY: &str = "x-fairlead-admin-key";

/// What there is, for whoever has written something else.
const GRAMMAR: &str = "`x-fairlead-fault` takes `http-503` (any status from 400 to 599), `unreachable`, `stall`, `stall-after=5` and `cut=5` (behind so many events), `slow=2000` (milliseconds); each may be followed by `; attempts=1,2` or `; endpoint=NAME`, and several stand with commas between them. Without either, it is the first attempt.";

/// No answer need be later to be too late.
const MAX_SLOW_MS: u64 = 3_600_000;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is not sent; this status is the answer.
    Status(u16),
    /// It is not sent, as if there were no connection.
    Unreachable,
    /// It is not sent, and never answered.
    Stall,
    /// Behind so many events nothing more comes.
    StallAfter(u32),
    /// Behind so many events the connection breaks.
    Cut(u32),
    /// The answer begins so many milliseconds after the request at the earliest.
    Slow(u64),
}

/// The faults of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    planned: Vec<Planned>,
    /// How many requests each attempt at a job queue has made.
    requests: Vec<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    fault: Fault,
    /// None: all of the endpoint's, or the first where that is not named either.
    attempts: Vec<u32>,
    endpoint: Option<String>,
}

impl Plan {
    /// Reads the field, or says what could stand there.
    pub fn read(field: &str) -> Result<Self, Error> {
        let planned = planned(field).ok_or_else(|| Error::new(Code::InvalidRequest, GRAMMAR).with_param(FAULT))?;
        Ok(Self { planned, requests: Vec::new() })
    }

    /// The endpoints that it names.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.planned.iter().filter_map(|planned| planned.endpoint.as_deref())
    }

    /// What goes wrong with the next request of this attempt. Requests that belong to none, numbered 0, are spared: a job
    /// that is rehearsed is none the less cancelled.
    ///
    /// An attempt at a job queue makes many requests, none of which streams. It is they that are counted there.
    pub fn next(&mut self, attempt: u32, endpoint: &Endpoint) -> Option<Fault> {
        let planned = self.planned.iter().find(|planned| planned.is_for(attempt, &endpoint.name))?;
        let (Fault::Cut(most) | Fault::StallAfter(most)) = planned.fault else { return Some(planned.fault) };
        if !endpoint.takes_jobs() {
            return Some(planned.fault);
        }
        let broken = if planned.fault == Fault::Cut(most) { Fault::Unreachable } else { Fault::Stall };
        (self.count(attempt) >= most).then_some(broken)
    }

    /// How many requests this attempt has made before this one.
    fn count(&mut self, attempt: u32) -> u32 {
        let Some((_, count)) = self.requests.iter_mut().find(|(id, _)| *id == attempt) else {
            self.requests.push((attempt, 1));
            return 0;
        };
        let before = *count;
        *count = before.saturating_add(1);
        before
    }
}

impl Planned {
    fn is_for(&self, attempt: u32, endpoint: &str) -> bool {
        let its = self.endpoint.as_ref().is_none_or(|name| name == endpoint);
        its && match &*self.attempts {
            [] if self.endpoint.is_none() => attempt == 1,
            [] => attempt > 0,
            attempts => attempts.contains(&attempt),
        }
    }
}

fn planned(field: &str) -> Option<Vec<Planned>> {
    let mut all: Vec<Planned> = Vec::new();
    // Commas stand between faults, and between numbers of attempts. No fault begins with a digit.
    let mut lists_attempts = false;
    for part in field.split(',').map(str::trim) {
        if lists_attempts && part.starts_with(|c: char| c.is_ascii_digit()) {
            // An endpoint may follow the last number.
            let (number, rest) = part.split_once(';').map_or((part, None), |(number, rest)| (number, Some(rest)));
            let last = all.last_mut()?;
            last.attempts.push(attempt(number)?);
            lists_attempts = match rest {
                Some(rest) => parameters(last, rest)?,
                None => true,
            };
            continue;
        }
        let (what, rest) = part.split_once(';').map_or((part, None), |(what, rest)| (what, Some(rest)));
        let mut planned = Planned { fault: fault(what.trim())?, attempts: Vec::new(), endpoint: None };
        lists_attempts = match rest {
            Some(rest) => parameters(&mut planned, rest)?,
            None => false,
        };
        all.push(planned);
    }
    Some(all)
}

/// Whether what stands last is a list that a comma may go on with.
fn parameters(planned: &mut Planned, text: &str) -> Option<bool> {
    let mut lists_attempts = false;
    for parameter in text.split(';') {
        let (name, value) = parameter.split_once('=')?;
        lists_attempts = name.trim() == "attempts";
        match name.trim() {
            "attempts" if planned.attempts.is_empty() => planned.attempts.push(attempt(value)?),
            "endpoint" if planned.endpoint.is_none() && !value.trim().is_empty() => {
                planned.endpoint = Some(value.trim().to_owned());
            }
            _ => return None,
        }
    }
    Some(lists_attempts)
}

/// They are counted from 1.
fn attempt(text: &str) -> Option<u32> {
    number(text).filter(|attempt| *attempt > 0)
}

fn fault(what: &str) -> Option<Fault> {
    if let Some(status) = what.strip_prefix("http-") {
        return number(status).filter(|status| (400..600).contains(status)).map(Fault::Status);
    }
    match what.split_once('=') {
        None if what == "unreachable" => Some(Fault::Unreachable),
        None if what == "stall" => Some(Fault::Stall),
        Some(("stall-after", events)) => number(events).map(Fault::StallAfter),
        Some(("cut", events)) => number(events).map(Fault::Cut),
        Some(("slow", ms)) => number(ms).filter(|ms| *ms <= MAX_SLOW_MS).map(Fault::Slow),
        _ => None,
    }
}

/// Digits, and nothing else that Rust takes for a number.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    fn at(name: &str) -> Endpoint {
        Endpoint { name: name.to_owned(), ..Endpoint::default() }
    }

    /// What goes wrong with the first request of the attempts 1 to 4 at `a`, and at `b`.
    fn read(field: &str) -> [[Option<Fault>; 4]; 2] {
        let plan = Plan::read(field).unwrap();
        ["a", "b"].map(|name| [1, 2, 3, 4].map(|attempt| plan.clone().next(attempt, &at(name))))
    }

    const CUT: Option<Fault> = Some(Fault::Cut(5));
    const STALL: Option<Fault> = Some(Fault::Stall);

    #[test]
    fn a_fault_is_the_first_attempts_unless_attempts_or_an_endpoint_are_named() {
        assert_eq!(read("cut=5"), [[CUT, None, None, None]; 2]);
        assert_eq!(read("cut=5; attempts=1,3"), [[CUT, None, CUT, None]; 2]);
        assert_eq!(read("cut=5;endpoint=b"), [[None; 4], [CUT; 4]]);
        assert_eq!(read("cut=5; endpoint=a; attempts=2, 4"), [[None, CUT, None, CUT], [None; 4]]);
        assert_eq!(read("cut=5; attempts=2, 4; endpoint=a"), [[None, CUT, None, CUT], [None; 4]]);
    }

    #[test]
    fn of_several_faults_each_attempt_gets_the_first_that_is_for_it() {
        assert_eq!(read("cut=5, stall; attempts=1,2"), [[CUT, STALL, None, None]; 2]);
        assert_eq!(read("stall; attempts=2,3,cut=5"), [[CUT, STALL, STALL, None]; 2]);
        assert_eq!(read("stall; endpoint=a, cut=5; endpoint=b"), [[STALL; 4], [CUT; 4]]);
    }

    #[test]
    fn every_fault_has_a_name() {
        for (field, fault) in [
            ("http-503", Fault::Status(503)),
            ("unreachable", Fault::Unreachable),
            ("stall", Fault::Stall),
            (" stall-after=0 ", Fault::StallAfter(0)),
            ("cut=12", Fault::Cut(12)),
            ("slow=2000", Fault::Slow(2000)),
        ] {
            assert_eq!(read(field)[0][0], Some(fault), "{field}");
        }
    }

    #[test]
    fn whoever_writes_something_else_is_told_what_there_is() {
        for field in [
            "",
            ",",
            "cut",
            "cut=",
            "cut=-1",
            "cut=+1",
            "cut=5;",
            "cut=5;attempts=0",
            "cut=5;attempts=",
            "cut=5;attempts=1,",
            "cut=5;attempts=1;attempts=2",
            "cut=5;endpoint=",
            "cut=5;endpoint=a;endpoint=b",
            "cut=5;color=red",
            "cut=5,7",
            "http-",
            "http-200",
            "http-600",
            "http-5O3",
            "slow=3600001",
            "stall=5",
            "Stall",
            "cut=99999999999",
            "explode",
        ] {
            let error = Plan::read(field).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (Code::InvalidRequest, Some(FAULT)), "{field}");
            assert_eq!(error.message, GRAMMAR);
        }
    }

    #[test]
    fn at_a_job_queue_requests_are_counted_and_those_of_no_attempt_are_spared() {
        let queue = Endpoint { mode: Some(Mode::Jobs), ..at("d") };
        let mut plan = Plan::read("cut=2; endpoint=d").unwrap();
        let mut next = |attempt| plan.next(attempt, &queue);
        assert_eq!([next(1), next(1), next(2), next(1)], [None, None, None, Some(Fault::Unreachable)]);
        assert_eq!([next(0), next(2), next(2)], [None, None, Some(Fault::Unreachable)]);
        assert_eq!(Plan::read("stall-after=0").unwrap().next(1, &queue), STALL);
        assert_eq!(Plan::read("http-500").unwrap().next(1, &queue), Some(Fault::Status(500)));
    }
}
