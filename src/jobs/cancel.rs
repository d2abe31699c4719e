//! The end of a job that nobody waits for: it is cancelled, and looked at again.
//!
//! A cancel that arrives within some 100 ms of a worker's taking the job is lost, although it is
//! answered well; so the job's status is asked for a moment later, and it is cancelled again if it
//! still runs (wire facts, section 7, 1). What cannot be cancelled in time is bounded by its `ttl`.

use super::{Answer, Op, Reply, Word};
use crate::time::Instant;

/// The machine of one cancellation.
#[derive(Debug)]
pub struct Cancel {
    op: Op,
    due: Instant,
    /// When it is given up: a Worker may go on for half a minute behind its response.
    until: Instant,
    /// Whether a cancel was answered well.
    accepted: bool,
    /// Cancels that were sent.
    sent: u32,
    /// Answers that were none, one behind another.
    failing: u32,
    /// Fetches that may still be made.
    fetches: u32,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This operation goes out.
    Send(Op),
    /// Nothing before this moment.
    Wait(Instant),
    /// It is over.
    Over(Cancelled),
}

/// What a cancellation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The job is cancelled.
    Done,
    /// It had ended by itself.
    Ended,
    /// It could not be reached; its `ttl` ends it.
    Left,
}

/// A worker asks for jobs to stop about so often; only then does it show whether one did.
const LOOK_AGAIN_MS: u64 = 700;
/// After an answer that was none, doubled each time up to the second.
const FAILED_MS: (u64, u64) = (250, 4000);
/// How long it is tried in all.
const PATIENCE_MS: u64 = 28_000;
/// A worker that older SDKs run may never stop.
const MAX_CANCELS: u32 = 5;

impl Cancel {
    /// A cancellation that may make so many fetches, at least one, of a job that nobody has waited for
    /// since `since`.
    pub const fn new(since: Instant, now: Instant, fetches: u32) -> Self {
        let fetches = if fetches == 0 { 1 } else { fetches };
        let until = since.after(PATIENCE_MS);
        Self { op: Op::Cancel, due: now, until, accepted: false, sent: 0, failing: 0, fetches }
    }

    /// What comes next.
    pub fn next(&self, now: Instant) -> Next {
        let spent = self.fetches == 0 || (self.op == Op::Cancel && self.sent >= MAX_CANCELS);
        if spent || now >= self.until {
            return Next::Over(if self.accepted { Cancelled::Done } else { Cancelled::Left });
        }
        if self.due > now { Next::Wait(self.due.min(self.until)) } else { Next::Send(self.op) }
    }

    /// How long it has been tried.
    pub const fn tries(&self) -> u32 {
        self.sent
    }

    /// It cannot go out before `at`.
    pub const fn defer(&mut self, at: Instant) {
        self.due = at;
    }

    /// That operation has gone out.
    pub const fn on_sent(&mut self) {
        self.fetches = self.fetches.saturating_sub(1);
        if matches!(self.op, Op::Cancel) {
            self.sent = self.sent.saturating_add(1);
        }
    }

    /// Takes in what came of it; `Some` when that is all.
    pub fn on_answer(&mut self, now: Instant, answer: Answer<'_>) -> Option<Cancelled> {
        let (head, body) = match answer {
            Answer::Whole { head, body } => (head, body),
            Answer::Lost => return self.on_failed(now),
        };
        let gone = if self.accepted { Cancelled::Done } else { Cancelled::Ended };
        match head.status {
            200..=299 => {}
            // Never refused for good: too many at a time.
            429 | 500..=599 => return self.on_failed(now),
            // Unknown, or over; or not known yet, so that is looked at.
            400 | 404 | 409 | 422 if self.op == Op::Cancel => {
                (self.op, self.due) = (Op::Status, now.after(LOOK_AGAIN_MS));
                return None;
            }
            400 | 404 | 409 | 422 => return Some(gone),
            _ => return Some(Cancelled::Left),
        }
        let Some(reply) = Reply::read(&body) else { return self.on_failed(now) };
        self.failing = 0;
        match (self.op, reply.word) {
            (Op::Cancel, Some(word)) if word.is_final() && word != Word::Cancelled => return Some(gone),
            (Op::Cancel, _) => {
                self.accepted = true;
                (self.op, self.due) = (Op::Status, now.after(LOOK_AGAIN_MS));
            }
            (_, Some(word)) if !word.is_final() => (self.op, self.due) = (Op::Cancel, now),
            (_, Some(Word::Cancelled)) => return Some(Cancelled::Done),
            _ => return Some(gone),
        }
        None
    }

    fn on_failed(&mut self, now: Instant) -> Option<Cancelled> {
        let (first, most) = FAILED_MS;
        self.due = now.after(first.saturating_mul(2u64.saturating_pow(self.failing)).min(most));
        self.failing = self.failing.saturating_add(1);
        if self.op == Op::Cancel {
            // What failed does not count: it may never have arrived.
            self.sent = self.sent.saturating_sub(1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Headers, ResponseHead};

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn answer(cancel: &mut Cancel, now: Instant, status: u16, body: &str) -> Option<Cancelled> {
        assert!(matches!(cancel.next(now), Next::Send(_)), "{:?}", cancel.next(now));
        cancel.on_sent();
        let head = ResponseHead { status, headers: Headers::new() };
        cancel.on_answer(now, Answer::Whole { head: &head, body: body.as_bytes().to_vec() })
    }

    const CANCELLED: &str = r#"{"id":"a","status":"CANCELLED"}"#;
    const RUNNING: &str = r#"{"id":"a","status":"IN_PROGRESS"}"#;

    #[test]
    fn a_job_that_still_runs_is_cancelled_again() {
        let mut cancel = Cancel::new(at(0), at(0), 100);
        assert_eq!(answer(&mut cancel, at(0), 200, CANCELLED), None);
        assert_eq!(cancel.next(at(0)), Next::Wait(at(700)));
        assert_eq!(answer(&mut cancel, at(700), 200, RUNNING), None);
        assert_eq!(cancel.next(at(700)), Next::Send(Op::Cancel));
        assert_eq!(answer(&mut cancel, at(700), 200, CANCELLED), None);
        assert_eq!(answer(&mut cancel, at(1400), 200, CANCELLED), Some(Cancelled::Done));
        assert_eq!(cancel.tries(), 2);
    }

    #[test]
    fn a_refused_cancel_is_sent_again_until_its_time_is_over() {
        let mut cancel = Cancel::new(at(0), at(0), 100);
        assert_eq!(answer(&mut cancel, at(0), 429, ""), None);
        assert_eq!(answer(&mut cancel, at(250), 500, ""), None);
        assert_eq!(cancel.next(at(250)), Next::Wait(at(750)));
        cancel.on_sent();
        assert_eq!(cancel.on_answer(at(750), Answer::Lost), None);
        assert_eq!(cancel.next(at(28_000)), Next::Over(Cancelled::Left));
        assert_eq!(answer(&mut cancel, at(27_000), 404, ""), None, "it may not be known yet");
        assert_eq!(answer(&mut cancel, at(27_700), 404, ""), Some(Cancelled::Ended));
    }

    #[test]
    fn a_look_that_fails_is_repeated_for_the_job_may_still_run() {
        let mut cancel = Cancel::new(at(0), at(0), 100);
        assert_eq!(answer(&mut cancel, at(0), 200, CANCELLED), None);
        assert_eq!(answer(&mut cancel, at(700), 429, ""), None);
        assert_eq!(cancel.next(at(700)), Next::Wait(at(950)));
        assert_eq!(answer(&mut cancel, at(950), 200, RUNNING), None);
        assert_eq!(answer(&mut cancel, at(950), 200, CANCELLED), None);
        assert_eq!(answer(&mut cancel, at(1650), 500, ""), None);
        assert_eq!(cancel.next(at(28_000)), Next::Over(Cancelled::Done));
        assert_eq!(cancel.tries(), 2);
    }

    #[test]
    fn one_fetch_is_enough_to_cancel_and_no_more_are_made() {
        let mut cancel = Cancel::new(at(0), at(0), 0);
        assert_eq!(answer(&mut cancel, at(0), 200, CANCELLED), None);
        assert_eq!(cancel.next(at(700)), Next::Over(Cancelled::Done));
        let mut cancel = Cancel::new(at(0), at(0), 1);
        assert_eq!(answer(&mut cancel, at(0), 500, ""), None);
        assert_eq!(cancel.next(at(250)), Next::Over(Cancelled::Left));
    }

    #[test]
    fn a_worker_that_never_stops_is_not_asked_for_ever() {
        let mut cancel = Cancel::new(at(0), at(0), 100);
        let mut now = 0;
        let outcome = loop {
            match cancel.next(at(now)) {
                Next::Over(outcome) => break outcome,
                Next::Wait(until) => now = until.as_millis(),
                Next::Send(Op::Cancel) => drop(answer(&mut cancel, at(now), 200, CANCELLED)),
                Next::Send(_) => drop(answer(&mut cancel, at(now), 200, RUNNING)),
            }
        };
        assert_eq!((outcome, cancel.tries(), now), (Cancelled::Done, 5, 3500));
    }
}
