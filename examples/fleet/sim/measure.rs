//! What a run comes to.

use super::{
    counts::{Counts, Second},
    scenario::Scenario,
};

/// Traffic is looked at over so many seconds, so that chance does not decide.
const SPAN: usize = 5;

/// What a run comes to. Times are in seconds; `None`: it did not happen, or means nothing here.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Attempts at `a` that it did not answer, or only slowly.
    pub wasted: f64,
    /// From the moment that `a` is first ill until the breakers of 90 % of the isolates that have had a call are open.
    pub open_s: Option<f64>,
    /// From the moment that `a` is well for good until 90 % of the calls of five seconds ask it first.
    pub back_s: Option<f64>,
    /// The same from the end of the longest opening that was running then.
    pub back_behind_s: Option<f64>,
    /// The most attempts at `a` in one second while it is ill that came through an open breaker.
    pub probes: Option<f64>,
    /// Attempts per call, less one.
    pub retries: f64,
    /// Calls that were not answered.
    pub failed: f64,
    /// Calls that ended with their isolate.
    pub cut: f64,
    /// The longest time that an isolate sent `a`, which was well, no call by others' word alone.
    pub shut_out_s: f64,
    /// KV reads in a day of such traffic.
    pub reads_a_day: f64,
    /// KV writes in the run.
    pub writes: f64,
    /// KV writes that came too soon behind another.
    pub refused: f64,
}

impl Figures {
    pub fn new(scenario: &Scenario, counts: &Counts) -> Self {
        let ill = scenario.ill();
        let second = |ms: u64| (ms / 1000) as usize;
        let open_at = ill.as_ref().and_then(|ill| {
            let is_open = |second: &Second| second.used > 0 && second.open * 10 >= second.used * 9;
            let from = second(ill.start);
            counts.seconds.iter().skip(from).position(is_open).map(|after| from + after)
        });
        let open_at = open_at.filter(|at| ill.as_ref().is_some_and(|ill| *at < second(ill.end)));
        let back_at = ill.as_ref().and_then(|ill| counts.back_at(second(ill.end)));
        let since = |at: Option<usize>, from: u64| at.map(|at| at as f64 - from as f64 / 1000.0);
        // An opening that ended before has no say.
        let opening = ill.as_ref().and_then(|ill| Some(counts.open_until?.max(ill.end)));
        let probes = ill.as_ref().map(|ill| {
            let most = counts.seconds[second(ill.start)..second(ill.end)].iter().map(|second| second.probes).max();
            f64::from(most.unwrap_or(0))
        });
        Self {
            wasted: counts.wasted as f64,
            open_s: ill.as_ref().and_then(|ill| since(open_at, ill.start)),
            back_s: ill.as_ref().and_then(|ill| since(back_at, ill.end)),
            back_behind_s: opening.and_then(|opening| since(back_at, opening)),
            probes,
            retries: counts.attempts as f64 / counts.calls as f64 - 1.0,
            failed: counts.failed() as f64,
            cut: counts.cut as f64,
            shut_out_s: counts.shut_out_ms as f64 / 1000.0,
            reads_a_day: counts.reads as f64 * 86_400.0 / scenario.seconds as f64,
            writes: counts.writes as f64,
            refused: counts.refused as f64,
        }
    }
}

impl Counts {
    /// The sum of something over the seconds from this one.
    fn sum(&self, from: usize, of: impl Fn(&Second) -> u32) -> f64 {
        self.seconds.iter().skip(from).take(SPAN).map(|second| f64::from(of(second))).sum()
    }

    /// The first second from this one on at which 90 % of calls ask `a` first.
    fn back_at(&self, from: usize) -> Option<usize> {
        let last = self.seconds.len().saturating_sub(SPAN);
        (from..last).find(|at| self.share_at_a(*at) >= 0.9)
    }

    /// The share of calls that ask `a` first, over five seconds.
    pub fn share_at_a(&self, from: usize) -> f64 {
        self.sum(from, |second| second.at_a_first) / self.sum(from, |second| second.calls).max(1.0)
    }

    /// The share of calls that are answered, over five seconds.
    pub fn goodput(&self, from: usize) -> f64 {
        self.sum(from, |second| second.answered) / self.sum(from, |second| second.calls).max(1.0)
    }

    /// Attempts at `a` a second, over five seconds.
    pub fn attempts_at_a(&self, from: usize) -> f64 {
        self.sum(from, |second| second.attempts[0]) / SPAN as f64
    }

    /// The share of isolates in use whose breaker for `a` is open.
    pub fn share_open(&self, at: usize) -> f64 {
        let second = &self.seconds[at];
        f64::from(second.open) / f64::from(second.used.max(1))
    }

    /// The first second from this one on from which `share` of calls is answered in every span of five seconds, up to
    /// `end`.
    pub fn well_for_good(&self, from: usize, end: usize, share: f64) -> Option<usize> {
        let last_bad = (from..end).rev().find(|at| self.goodput(*at) < share);
        match last_bad {
            None => Some(from),
            Some(at) if at + 1 < end => Some(at + 1),
            Some(_) => None,
        }
    }
}
