//! The 95th percentile of what was measured lately.
//!
//! Of the samples themselves, not of an estimate: a hundred are few enough to look at each time that somebody asks, which
//! is once in a call, and a percentile that follows a change only after thousands of calls is of no use here.

use crate::time::Instant;
use std::mem;

/// The latest samples, in milliseconds, and when each was taken.
#[derive(Debug, Default)]
pub struct Recent {
    samples: Vec<(u64, Instant)>,
}

/// So many are kept: six of them are above the 95th percentile.
const MOST: usize = 128;

/// Of how many it is the smallest.
const LARGEST: usize = MOST / 20 + 1;

/// With fewer the 95th percentile would be the largest of them.
const LEAST: usize = 20;

/// What was measured so long ago says nothing about now.
const FORGET_MS: u64 = 300_000;

impl Recent {
    /// Takes a sample.
    pub fn add(&mut self, now: Instant, ms: u64) {
        if self.samples.len() >= MOST {
            self.samples.remove(0);
        }
        self.samples.push((ms, now));
    }

    /// The smallest sample of the last five minutes that 95 % of them do not exceed (the nearest rank); `None` where
    /// there are fewer than twenty.
    pub fn p95(&self, now: Instant) -> Option<u64> {
        let fresh = || self.samples.iter().filter(|(_, at)| now.since(*at) < FORGET_MS).map(|(ms, _)| *ms);
        let count = fresh().count();
        if count < LEAST {
            return None;
        }
        // In descending order. A sort of all would be more work, and more code.
        let mut largest = [0; LARGEST];
        for mut ms in fresh() {
            for other in &mut largest {
                if ms > *other {
                    mem::swap(other, &mut ms);
                }
            }
        }
        largest.get(count / 20).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(1_795_299_888_000_u64.saturating_add(ms))
    }

    fn of(samples: impl IntoIterator<Item = u64>) -> Recent {
        let mut recent = Recent::default();
        samples.into_iter().for_each(|ms| recent.add(at(0), ms));
        recent
    }

    #[test]
    fn a_handful_says_nothing() {
        assert_eq!(of([]).p95(at(0)), None);
        assert_eq!(of(1..=19).p95(at(0)), None);
        assert_eq!(of(1..=20).p95(at(0)), Some(19));
    }

    #[test]
    fn it_is_the_nearest_rank_whatever_the_order() {
        let mut rng = Rng::from_seed(3);
        for count in 20..=128 {
            let mut samples: Vec<u64> = (0..count).map(|_| rng.up_to(90)).collect();
            let found = of(samples.iter().copied()).p95(at(0));
            samples.sort_unstable();
            assert_eq!(
                found,
                samples.get(samples.len().saturating_mul(95).div_ceil(100).saturating_sub(1)).copied(),
                "of {count}"
            );
        }
        assert_eq!(of([7; 128]).p95(at(0)), Some(7));
        assert_eq!(of([u64::MAX; 20]).p95(at(0)), Some(u64::MAX));
    }

    #[test]
    fn only_the_latest_count() {
        let mut recent = of([9000; 128]);
        (0..121).for_each(|_| recent.add(at(1), 50));
        assert_eq!(recent.p95(at(1)), Some(9000));
        recent.add(at(1), 50);
        assert_eq!(recent.p95(at(1)), Some(50), "six of the old are left");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut recent = of([9000; 30]);
        (0..20).for_each(|_| recent.add(at(1000), 50));
        assert_eq!(recent.p95(at(299_999)), Some(9000));
        assert_eq!(recent.p95(at(300_000)), Some(50));
        assert_eq!(recent.p95(at(301_000)), None);
    }
}
