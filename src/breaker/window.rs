//! How calls have ended lately.

use crate::time::Instant;

/// Slices of the window: it forgets by a tenth at a time.
const SLICES: u64 = 10;

/// Outcomes in a sliding window of time. What is older has no weight, however long nothing happened since.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    slices: [Slice; SLICES as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// Which tenth of a window since the epoch of time this is.
    number: u64,
    calls: u32,
    failures: u32,
}

impl Window {
    /// Counts a call that has ended now.
    pub(super) fn add(&mut self, now: Instant, window_ms: u64, failed: bool) {
        let number = number_of(now, window_ms);
        let place = usize::try_from(number % SLICES).unwrap_or_default();
        let Some(slice) = self.slices.get_mut(place) else { return };
        if slice.number != number {
            *slice = Slice { number, ..Slice::default() };
        }
        slice.calls = slice.calls.saturating_add(1);
        slice.failures = slice.failures.saturating_add(failed.into());
    }

    /// Calls in the window, and failures among them.
    pub(super) fn totals(&self, now: Instant, window_ms: u64) -> (u32, u32) {
        let newest = number_of(now, window_ms);
        let oldest = newest.saturating_sub(SLICES - 1);
        let lately = self.slices.iter().filter(|slice| (oldest..=newest).contains(&slice.number));
        lately.fold((0, 0), |(calls, failures), slice| {
            (u32::saturating_add(calls, slice.calls), u32::saturating_add(failures, slice.failures))
        })
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

const fn number_of(now: Instant, window_ms: u64) -> u64 {
    let slice_ms = window_ms.div_ceil(SLICES);
    match now.as_millis().checked_div(slice_ms) {
        Some(number) => number,
        None => 0,
    }
}
