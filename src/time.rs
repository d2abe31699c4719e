//! Time as data: milliseconds that a host reads and the core is told.

use serde::{Deserialize, Serialize};

/// A moment: whole milliseconds since the Unix epoch by the host's clock.
///
/// Plain and serialisable, so that a breaker's record may outlive the process. All arithmetic
/// saturates: in a Worker the clock stands still between two I/O operations, and anywhere it may
/// step backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The moment `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `millis` milliseconds later.
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds since `earlier`; 0 when that lies ahead.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds until `later`; 0 when that has passed.
    pub const fn until(self, later: Self) -> u64 {
        later.since(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_steps_back_gives_zero_not_a_wrap() {
        let now = Instant::from_millis(5);
        assert_eq!(now.since(Instant::from_millis(9)), 0);
        assert_eq!(now.until(Instant::from_millis(9)), 4);
        assert_eq!(now.after(u64::MAX).as_millis(), u64::MAX);
    }
}
