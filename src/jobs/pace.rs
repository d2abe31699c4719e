//! How often a job is asked about.
//!
//! A worker's own way to the first token takes some 100 ms (wire facts, section 7, 8); of the 400 ms
//! that a caller may feel, polls get the rest.

use crate::time::Instant;

/// How often a job may be asked about.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Milliseconds between two polls at which all jobs of the endpoint together stay inside its quota.
    pub fair_share_ms: u64,
    /// Fetches that this call has left for polls.
    pub fetches: u32,
}

/// What there is to be heard of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cadence {
    /// It waits for a worker, since its submission.
    Queued(Instant),
    /// Its worker has it and has said nothing.
    Started,
    /// Its outputs come.
    Flowing,
    /// Its result is wanted as a whole; it has been at work since then.
    Result(Instant),
    /// A reply of its stream was lost: it can only be waited for.
    Doubt,
}

/// A job in the queue: soon behind its submission, for a warm worker takes it at once, and then so
/// often that its first token does not wait for the next poll.
const QUEUED_MS: (u64, u64) = (100, 250);
/// One whose worker is at it but has said nothing: the time to the first token counts.
const STARTED_MS: u64 = 100;
/// One whose outputs come.
const FLOWING_MS: u64 = 150;
/// One whose result is wanted as a whole: a tenth of the time it has taken, within these.
const RESULT_MS: (u64, u64) = (100, 1000);
/// One that can only be waited for, because a reply of its stream was lost.
const DOUBT_MS: u64 = 500;

/// Fetches that are spread evenly over what is left of a call.
const EVEN: u64 = 20;

impl Pace {
    /// Milliseconds until the next poll of a job whose caller waits until `deadline`.
    ///
    /// While fetches are many, up to twice the even rate: what is saved for the end, where few calls
    /// come to, is better spent at the beginning. The last ones are spread evenly.
    pub(super) fn interval_ms(self, cadence: Cadence, now: Instant, deadline: Instant) -> u64 {
        let usual = match cadence {
            Cadence::Queued(since) => now.since(since).clamp(QUEUED_MS.0, QUEUED_MS.1),
            Cadence::Started => STARTED_MS,
            Cadence::Flowing => FLOWING_MS,
            Cadence::Result(since) => (now.since(since) / 10).clamp(RESULT_MS.0, RESULT_MS.1),
            Cadence::Doubt => DOUBT_MS,
        };
        usual.max(self.least_ms(now, deadline))
    }

    /// Milliseconds until the next poll at the soonest, whatever it is for.
    pub(super) fn least_ms(self, now: Instant, deadline: Instant) -> u64 {
        let left = now.until(deadline);
        let fetches = u64::from(self.fetches);
        let shares = fetches.saturating_add(fetches.saturating_sub(EVEN)).saturating_add(1);
        // With no fetch left, never.
        let lasting = if fetches == 0 { u64::MAX } else { left.checked_div(shares).unwrap_or(left) };
        self.fair_share_ms.max(lasting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn fetches_last_to_the_deadline_however_few_they_are() {
        for fetches in [1, 8, 43, 998] {
            let (mut now, mut left, mut last) = (at(0), fetches, at(0));
            loop {
                let pace = Pace { fair_share_ms: 0, fetches: left };
                now = now.after(pace.interval_ms(Cadence::Flowing, now, at(300_000)));
                if now >= at(300_000) {
                    break;
                }
                (left, last) = (left - 1, now);
            }
            let silent = at(300_000).since(last);
            assert!(silent <= 300_000 / u64::from(fetches.min(20) + 1) + 1, "{silent} ms after {fetches}");
        }
        assert_eq!(Pace { fair_share_ms: 0, fetches: 0 }.interval_ms(Cadence::Started, at(0), at(9)), u64::MAX);
    }

    #[test]
    fn each_state_has_its_cadence_and_a_crowd_slows_all() {
        let pace = Pace { fair_share_ms: 0, fetches: 1000 };
        let ms = |cadence, now| pace.interval_ms(cadence, at(now), at(60_000));
        assert_eq!((ms(Cadence::Queued(at(0)), 0), ms(Cadence::Queued(at(0)), 5000)), (100, 250));
        assert_eq!((ms(Cadence::Started, 0), ms(Cadence::Flowing, 0), ms(Cadence::Doubt, 0)), (100, 150, 500));
        assert_eq!((ms(Cadence::Result(at(0)), 3000), ms(Cadence::Result(at(0)), 50_000)), (300, 1000));
        let crowded = Pace { fair_share_ms: 667, ..pace };
        assert_eq!(crowded.interval_ms(Cadence::Started, at(0), at(60_000)), 667);
    }
}
