//! How long something takes, as counts in fixed buckets: what is kept does not grow with what is measured.

use serde::{Serialize, Serializer};

/// The upper bounds of all buckets but the last, which has none, in milliseconds: about six to each power of ten, so
/// that a quantile read off them is within a fifth of the truth.
pub const BOUNDS_MS: [u64; 34] = [
    5, 10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, 10_000, 15_000, 20_000,
    30_000, 50_000, 70_000, 100_000, 150_000, 200_000, 300_000, 500_000, 700_000, 1_000_000, 1_500_000, 2_000_000,
    3_600_000,
];

/// Durations, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u32; BOUNDS_MS.len()],
    /// Above the last bound.
    beyond: u32,
    count: u64,
    sum_ms: u64,
    longest_ms: u64,
}

impl Histogram {
    /// Nothing yet.
    pub const fn empty() -> Self {
        Self { counts: [0; BOUNDS_MS.len()], beyond: 0, count: 0, sum_ms: 0, longest_ms: 0 }
    }

    /// Takes one in.
    pub fn add(&mut self, ms: u64) {
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < ms);
        let counter = self.counts.get_mut(bucket).unwrap_or(&mut self.beyond);
        *counter = counter.saturating_add(1);
        self.count = self.count.saturating_add(1);
        self.sum_ms = self.sum_ms.saturating_add(ms);
        self.longest_ms = self.longest_ms.max(ms);
    }

    /// How many there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How long they took together.
    pub const fn sum_ms(&self) -> u64 {
        self.sum_ms
    }

    /// Each bucket's upper bound and what is in it; the last has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounded = BOUNDS_MS.iter().zip(&self.counts).map(|(bound, count)| (Some(*bound), u64::from(*count)));
        bounded.chain([(None, u64::from(self.beyond))])
    }

    /// The duration that so many per cent do not exceed, as if those of a bucket were spread over it evenly.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = self.count.saturating_mul(percent).div_ceil(100).max(1);
        let (mut below, mut lower) = (0u64, 0u64);
        for (bound, count) in self.buckets() {
            let upper = bound.unwrap_or(self.longest_ms);
            if count > 0 && below.saturating_add(count) >= rank {
                let (share, span) = (rank.saturating_sub(below), upper.saturating_sub(lower));
                // A product would be cut short where somebody's clock has leapt.
                let into = if share == count {
                    span
                } else {
                    span.saturating_mul(share).checked_div(count).unwrap_or_default()
                };
                let found = lower.saturating_add(into);
                return Some(found.min(self.longest_ms));
            }
            below = below.saturating_add(count);
            lower = upper;
        }
        None
    }
}

#[derive(Serialize)]
struct Distribution {
    count: u64,
    sum_ms: u64,
    p50: Option<u64>,
    p95: Option<u64>,
    p99: Option<u64>,
    buckets: Vec<(Option<u64>, u64)>,
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [p50, p95, p99] = [50, 95, 99].map(|percent| self.percentile(percent));
        let buckets = self.buckets().collect();
        Distribution { count: self.count, sum_ms: self.sum_ms, p50, p95, p99, buckets }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn of(samples: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::empty();
        samples.into_iter().for_each(|ms| histogram.add(ms));
        histogram
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(of([]).percentile(50), None);
        assert_eq!(of([]).buckets().map(|(_, count)| count).sum::<u64>(), 0);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_beyond_all_to_the_last() {
        let histogram = of([0, 5, 6, 3_600_000, 3_600_001, u64::MAX]);
        let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(5), 2), (Some(10), 1), (Some(3_600_000), 1), (None, 2)]);
        assert_eq!(histogram.percentile(99), Some(u64::MAX));
    }

    #[test]
    fn one_alone_is_every_percentile() {
        for ms in [0, 1, 5, 42, 999, 4_000_000] {
            assert_eq!([1, 50, 99].map(|percent| of([ms]).percentile(percent)), [Some(ms); 3], "{ms}");
        }
    }

    #[test]
    fn a_percentile_is_within_a_bucket_of_the_truth() {
        let mut rng = Rng::from_seed(5);
        for _ in 0..50 {
            let mut samples: Vec<u64> = (0..997).map(|_| 5 + rng.up_to(10) * rng.up_to(10) * rng.up_to(1000)).collect();
            let histogram = of(samples.iter().copied());
            samples.sort_unstable();
            for percent in [50, 95, 99] {
                let truth = *samples.get(usize::try_from(997 * percent / 100).unwrap()).unwrap();
                let found = histogram.percentile(percent).unwrap();
                let bucket = |ms: u64| BOUNDS_MS.partition_point(|bound| *bound < ms);
                assert!(bucket(found).abs_diff(bucket(truth)) <= 1, "p{percent}: {found}, not {truth}");
            }
            assert_eq!((histogram.count(), histogram.sum_ms()), (997, samples.iter().sum()));
        }
    }

    #[test]
    fn it_is_told_with_its_percentiles_and_all_buckets() {
        let told: serde_json::Value = serde_json::to_value(of([100, 200])).unwrap();
        assert_eq!((&told["count"], &told["sum_ms"], &told["p50"]), (&2.into(), &300.into(), &100.into()));
        let buckets = told["buckets"].as_array().unwrap();
        assert_eq!((buckets.len(), &buckets[6][1], buckets[34][0].is_null()), (35, &1.into(), true));
    }
}
