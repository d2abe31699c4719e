//! How much may be asked: so many requests in a span of time, and so many at once.
//!
//! RunPod counts each of its operations over ten seconds and answers 429 above that (wire facts,
//! "Queue operations"). One isolate cannot know what others send, so a quota bounds what it sends
//! itself, a tenth below what is documented. And clients have theirs of the gateway: see [`crate::allowance`].

use crate::time::Instant;
use std::collections::VecDeque;

/// Bounds, and what has been used of them.
#[derive(Debug)]
pub struct Quota {
    span: Span,
    in_span: u32,
    at_once: usize,
    /// Requests by the tick in which they went out, oldest first.
    sent: VecDeque<(u64, u32)>,
    /// What is under way, by number, and when it counts as over in any case: a request that the
    /// platform drops never says so.
    under_way: Vec<(u64, Instant)>,
    taken: u64,
}

/// The time over which requests are counted, in ticks. One more is kept, because a tick at its end is not over:
/// in any such span there are never more than may be, and by one tick's part fewer than could.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    ticks: u64,
    tick_ms: u64,
}

impl Span {
    /// RunPod's ten seconds and one more, because a request arrives later than it goes out, on a busy machine by
    /// hundreds of milliseconds.
    pub const RUNPOD: Self = Self { ticks: 11, tick_ms: 1000 };
    /// A minute.
    pub const MINUTE: Self = Self { ticks: 240, tick_ms: 250 };
}

/// Permission for one request. To be given back when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    number: u64,
    tick: u64,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When to ask again.
    pub again: Instant,
    /// Too much is under way; otherwise too much went out.
    pub crowded: bool,
}

/// How soon to ask again where too much is under way: nobody can say when it is over.
const CROWDED_MS: u64 = 50;

impl Quota {
    /// At most `in_span` requests in a span, and `at_once` at a time; the greatest numbers are no bounds.
    pub const fn new(span: Span, in_span: u32, at_once: usize) -> Self {
        Self { span, in_span, at_once, sent: VecDeque::new(), under_way: Vec::new(), taken: 0 }
    }

    /// The calls of a client, until its bounds are set.
    pub const fn of_client() -> Self {
        Self::new(Span::MINUTE, u32::MAX, usize::MAX)
    }

    /// Other bounds from now on.
    pub const fn bound(&mut self, in_span: u32, at_once: usize) {
        (self.in_span, self.at_once) = (in_span, at_once);
    }

    /// Permission for a request that takes at most `most_ms`; or why not.
    pub fn take(&mut self, now: Instant, most_ms: u64) -> Result<Permit, Refusal> {
        self.take_share(now, most_ms, 1)
    }

    /// The same, where all who ask like this may only use one part in so many.
    pub fn take_share(&mut self, now: Instant, most_ms: u64, parts: u32) -> Result<Permit, Refusal> {
        self.under_way.retain(|(_, until)| *until > now);
        if self.under_way.len() >= self.at_once {
            return Err(Refusal { again: now.after(CROWDED_MS), crowded: true });
        }
        if self.used(now) >= self.in_span.checked_div(parts).unwrap_or(self.in_span) {
            return Err(Refusal { again: self.frees_at().unwrap_or(now).max(now.after(1)), crowded: false });
        }
        self.taken = self.taken.wrapping_add(1);
        let mut permit = Permit { number: self.taken, tick: self.tick(now) };
        if self.in_span < u32::MAX {
            match self.sent.back_mut() {
                Some((sent, count)) if *sent >= permit.tick => {
                    *count = count.saturating_add(1);
                    permit.tick = *sent;
                }
                _ => self.sent.push_back((permit.tick, 1)),
            }
        }
        if self.at_once < usize::MAX {
            self.under_way.push((permit.number, now.after(most_ms)));
        }
        Ok(permit)
    }

    /// The request is over at `until` in any case.
    pub fn ends(&mut self, permit: Permit, until: Instant) {
        if let Some((_, end)) = self.under_way.iter_mut().find(|(number, _)| *number == permit.number) {
            *end = until;
        }
    }

    /// The request is over.
    pub fn give_back(&mut self, permit: Permit) {
        self.under_way.retain(|(number, _)| *number != permit.number);
    }

    /// It did not go out at all, and does not count.
    pub fn take_back(&mut self, permit: Permit) {
        self.give_back(permit);
        if let Ok(place) = self.sent.binary_search_by_key(&permit.tick, |(sent, _)| *sent)
            && let Some((_, count)) = self.sent.get_mut(place)
        {
            *count = count.saturating_sub(1);
        }
    }

    /// How many more may go out now, and when the oldest of those that count ceases to, if any does.
    pub fn left(&mut self, now: Instant) -> (u32, Option<Instant>) {
        (self.in_span.saturating_sub(self.used(now)), self.frees_at())
    }

    fn used(&mut self, now: Instant) -> u32 {
        let tick = self.tick(now);
        let is_over = |sent: u64| sent.saturating_add(self.span.ticks) < tick;
        while self.sent.front().is_some_and(|(sent, count)| is_over(*sent) || *count == 0) {
            self.sent.pop_front();
        }
        self.sent.iter().map(|(_, count)| count).sum()
    }

    fn frees_at(&self) -> Option<Instant> {
        let (oldest, _) = self.sent.front()?;
        let over = oldest.saturating_add(self.span.ticks).saturating_add(1);
        Some(Instant::from_millis(over.saturating_mul(self.span.tick_ms)))
    }

    const fn tick(&self, now: Instant) -> u64 {
        match now.as_millis().checked_div(self.span.tick_ms) {
            Some(tick) => tick,
            None => 0,
        }
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
        let mut quota = Quota::new(Span::RUNPOD, 90, 1000);
        let mut sent: Vec<u64> = Vec::new();
        let mut now = 0;
        while now < 60_000 {
            match quota.take(at(now), 1) {
                Ok(_) => sent.push(now),
                Err(Refusal { again, crowded }) => {
                    assert!(again > at(now) && !crowded);
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
        let mut quota = Quota::new(Span::RUNPOD, 100, 2);
        let first = quota.take(at(0), 5000).unwrap();
        quota.take(at(0), 5000).unwrap();
        assert_eq!(quota.take(at(10), 5000), Err(Refusal { again: at(60), crowded: true }));
        quota.give_back(first);
        quota.take(at(60), 5000).unwrap();
        assert!(quota.take(at(4999), 5000).is_err());
        assert!(quota.take(at(5000), 5000).is_ok(), "a permit ends by itself");
    }

    #[test]
    fn a_clock_that_steps_back_neither_blocks_nor_opens() {
        let mut quota = Quota::new(Span::RUNPOD, 2, 10);
        quota.take(at(30_000), 1).unwrap();
        quota.take(at(0), 1).unwrap();
        assert!(quota.take(at(0), 1).is_err());
        assert!(quota.take(at(42_000), 1).is_ok());
    }

    #[test]
    fn what_did_not_go_out_does_not_count() {
        let mut quota = Quota::new(Span::MINUTE, 2, 2);
        let first = quota.take(at(0), 5000).unwrap();
        let second = quota.take(at(100), 5000).unwrap();
        assert_eq!(quota.left(at(100)), (0, Some(at(60_250))));
        quota.take_back(second);
        assert_eq!(quota.left(at(100)).0, 1);
        quota.take_back(first);
        assert_eq!(quota.left(at(100)), (2, None));
        quota.take(at(200), 5000).unwrap();
        quota.take_back(first);
        assert_eq!(quota.left(at(60_500)), (2, None), "long ago");
    }

    #[test]
    fn an_end_can_be_set_later_and_what_is_not_bounded_is_not_kept() {
        let mut quota = Quota::new(Span::MINUTE, u32::MAX, 1);
        let permit = quota.take(at(0), 100_000).unwrap();
        quota.ends(permit, at(300));
        assert!(quota.take(at(299), 1).is_err());
        quota.take(at(300), 1).unwrap();
        quota.bound(u32::MAX, usize::MAX);
        (0..1000).for_each(|_| assert!(quota.take(at(400), 1000).is_ok()));
        assert!(quota.sent.is_empty() && quota.under_way.is_empty());
    }
}
