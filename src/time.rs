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

/// A positive decimal number of units of `unit_ms` each, in milliseconds rounded up. An absurd number is merely a
/// very long time.
///
/// By hand, because reading an `f64` brings 13 kB of tables into a Worker (gzipped).
pub fn positive_ms(text: &str, unit_ms: u64) -> Option<u64> {
    let text = text.trim();
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.strip_prefix('+').unwrap_or(whole);
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().next().is_none() || !digits().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // More would be less than a nanosecond.
    let places = fraction.len().min(6);
    let digits = digits().take(whole.len().saturating_add(places));
    let digits = digits.fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit & 15)));
    let shift = exponent.saturating_sub(i16::try_from(places).unwrap_or_default());
    let power = 10u64.saturating_pow(shift.unsigned_abs().into());
    let ms = digits.saturating_mul(unit_ms);
    let ms = if shift < 0 { ms.div_ceil(power) } else { ms.saturating_mul(power) };
    (ms > 0).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_are_read_as_floats_are() {
        for (text, ms) in [
            ("1", 1000),
            ("1.5", 1500),
            (" +.5 ", 500),
            ("600.0", 600_000),
            ("007", 7000),
            ("1.", 1000),
            ("2.5e1", 25_000),
            ("1E-2", 10),
            ("0.0001", 1),
            ("0.1234567890123456789", 124),
            ("1e300", u64::MAX),
            ("3e+2", 300_000),
            ("0.33333333333333333333333333333333333333333333", 334),
            ("1e-9", 1),
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(positive_ms(text, 1000), Some(ms), "{text}");
        }
        for text in [
            "",
            " ",
            ".",
            "+",
            "-1",
            "0",
            "0.0",
            "0e5",
            "inf",
            "NaN",
            "1 s",
            "1,5",
            "1.2.3",
            "e5",
            "1e",
            "1e9999999",
            "0x1",
            "++1",
            "١",
        ] {
            assert_eq!(positive_ms(text, 1000), None, "{text}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_gives_zero_not_a_wrap() {
        let now = Instant::from_millis(5);
        assert_eq!(now.since(Instant::from_millis(9)), 0);
        assert_eq!(now.until(Instant::from_millis(9)), 4);
        assert_eq!(now.after(u64::MAX).as_millis(), u64::MAX);
    }
}
