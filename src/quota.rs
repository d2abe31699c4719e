//! How much may be asked of an endpoint: so many requests in a span of time, and so many at once.
//!
//! RunPod counts each of its operations over ten seconds and answers 429 above that (wire facts,
//! "Queue operations"). One isolate cannot know what others send, so a quota bounds what it sends
//! itself, a tenth below what is documented.

use crate::time::Instant;
use std::collections::VecDeque;

/// One operation's bounds and what has been used of them.
#[derive(Debug)]
pub struct Quota {
    in_span: u32,
    at_once: usize,
    /// Requests by the second in which they went out, oldest first.
    sent: VecDeque<(u64, u32)>,
    /// What is under way, by number, and when it counts as over in any case: a request that the
    /// platform drops never says so.
    under_way: Vec<(u64, Instant)>,
    taken: u64,
}

/// Permission for one request. To be given back when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(u64);

/// The span in which requests are counted, in seconds: RunPod's ten and one more, because a request
/// arrives later than it goes out, on a busy machine by hundreds of milliseconds. Yet another is
/// kept, because a second at its end is not over.
const SPAN_S: u64 = 11;

/// How soon to ask again where too much is under way: nobody can say when it is over.
const CROWDED_MS: u64 = 50;

impl Quota {
    /// At most `in_span` requests in ten seconds, and `at_once` at a time.
    pub const fn new(in_span: u32, at_once: usize) -> Self {
        Self { in_span, at_once, sent: VecDeque::new(), under_way: Vec::new(), taken: 0 }
    }

    /// Permission for a request that takes at most `most_ms`; or when to ask again.
    pub fn take(&mut self, now: Instant, most_ms: u64) -> Result<Permit, Instant> {
        self.take_share(now, most_ms, 1)
    }

    /// The same, where all who ask like this may only use one part in so many.
    pub fn take_share(&mut self, now: Instant, most_ms: u64, parts: u32) -> Result<Permit, Instant> {
        self.under_way.retain(|(_, until)| *until > now);
        let second = now.as_millis() / 1000;
        while self.sent.front().is_some_and(|(sent, _)| sent.saturating_add(SPAN_S) < second) {
            self.sent.pop_front();
        }
        if self.under_way.len() >= self.at_once {
            return Err(now.after(CROWDED_MS));
        }
        let used: u32 = self.sent.iter().map(|(_, count)| count).sum();
        if used >= self.in_span.checked_div(parts).unwrap_or(self.in_span) {
            let oldest = self.sent.front().map_or(second, |(sent, _)| *sent);
            let again = oldest.saturating_add(SPAN_S).saturating_add(1).saturating_mul(1000);
            return Err(Instant::from_millis(again).max(now.after(1)));
        }
        match self.sent.back_mut() {
            Some((sent, count)) if *sent >= second => *count = count.saturating_add(1),
            _ => self.sent.push_back((second, 1)),
        }
        self.taken = self.taken.wrapping_add(1);
        self.under_way.push((self.taken, now.after(most_ms)));
        Ok(Permit(self.taken))
    }

    /// The request is over.
    pub fn give_back(&mut self, permit: Permit) {
        self.under_way.retain(|(number, _)| *number != permit.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(1_795_299_888_000).after(ms)
    }

    #[test]
    fn never_more_than_the_quota_in_any_ten_seconds_also_where_some_arrive_a_second_late() {
        let mut quota = Quota::new(90, 1000);
        let mut sent: Vec<u64> = Vec::new();
        let mut now = 0;
        while now < 60_000 {
            match quota.take(at(now), 1) {
                Ok(_) => sent.push(now),
                Err(again) => {
                    assert!(again > at(now));
                    now = again.as_millis() - at(0).as_millis();
                    continue;
                }
            }
            now += now % 7;
        }
        assert!(sent.len() > 400, "{} in a minute", sent.len());
        for (index, start) in sent.iter().enumerate() {
            let within = sent[index..].iter().take_while(|other| **other < start + 11_000).count();
            assert!(within <= 90, "{within} from {start}");
        }
    }

    #[test]
    fn what_is_under_way_counts_until_it_is_given_back_or_must_be_over() {
        let mut quota = Quota::new(100, 2);
        let first = quota.take(at(0), 5000).unwrap();
        quota.take(at(0), 5000).unwrap();
        assert_eq!(quota.take(at(10), 5000), Err(at(60)));
        quota.give_back(first);
        quota.take(at(60), 5000).unwrap();
        assert!(quota.take(at(4999), 5000).is_err());
        assert!(quota.take(at(5000), 5000).is_ok(), "a permit ends by itself");
    }

    #[test]
    fn a_clock_that_steps_back_neither_blocks_nor_opens() {
        let mut quota = Quota::new(2, 10);
        quota.take(at(30_000), 1).unwrap();
        quota.take(at(0), 1).unwrap();
        assert!(quota.take(at(0), 1).is_err());
        assert!(quota.take(at(42_000), 1).is_ok());
    }
}
