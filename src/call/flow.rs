//! What a host may do by itself while content flows.

use super::{Call, Emit, Output};
use crate::{call::attempt::Attempt, config::Forward, time::Instant};

/// A busy page's timers are late by so much.
const PUNCTUAL_MS: u64 = 1000;

/// Those of a hidden page are late by no more than the minute at which browsers wake it
/// (<https://developer.chrome.com/blog/timer-throttling-in-chrome-88>), and a moment.
const HIDDEN_MS: u64 = 65_000;

impl Call {
    /// The client takes nothing for now, so nothing is read either: the timers of silence stand
    /// still until [`Call::resume`].
    pub const fn pause(&mut self, now: Instant) {
        if self.paused.is_none() {
            self.paused = Some(now);
        }
    }

    /// Reading goes on.
    pub fn resume(&mut self, now: Instant) {
        if let Some(since) = self.paused.take() {
            self.excuse(now, now.since(since));
            // What was just delivered is no silence.
            self.client.on_bytes(now);
        }
    }

    /// For so long the client took nothing, so nothing was read.
    pub fn excuse(&mut self, now: Instant, ms: u64) {
        self.hedging.excuse(now, ms);
        for attempt in &mut self.attempts {
            attempt.timers.shift(now, ms);
            attempt.job.iter_mut().for_each(|follower| follower.job.excuse(ms));
        }
    }

    /// The host should have run so long ago, and could not: whatever has come meanwhile is heard only now. This is
    /// told before anything is held against the clock.
    ///
    /// A page that did not run at all has lost that time: even the deadline does not count it, as an
    /// `AbortSignal.timeout()` does not, which counts the time in which its document is active
    /// (<https://dom.spec.whatwg.org/#dom-abortsignal-timeout>). In a page that is merely hidden, whose timers are
    /// late, the deadline holds.
    pub fn on_late_wake(&mut self, now: Instant, late_ms: u64) {
        let slept = late_ms > HIDDEN_MS;
        if slept {
            self.deadline = self.deadline.after(late_ms);
            self.client.shift(late_ms);
            self.attempts.iter_mut().filter_map(|attempt| attempt.ticket.as_mut()).for_each(|own| own.excuse(late_ms));
        }
        if late_ms <= PUNCTUAL_MS || self.is_paused() {
            // All of a pause is excused at its end.
            return;
        }
        match slept {
            true => self.excuse(now, late_ms),
            // What has come meanwhile is heard before somebody else is asked.
            false => self.hedging.excuse(now, late_ms),
        }
        self.attempts.iter_mut().for_each(|attempt| attempt.timers.forgive(now));
    }

    /// Whether the client takes nothing for now.
    pub const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether nothing is left to do for now but to bring one attempt's content to the client.
    pub fn is_steady(&self) -> bool {
        let polls = self.attempts.iter().any(|attempt| attempt.job.is_some());
        self.winner.is_some() && self.streams_out() && !polls && !self.has_output()
    }

    /// Whether an output waits to be taken.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes the output that sends the whole of a chunk of this length on, if that is all there is.
    pub fn take_whole_slice(&mut self, length: usize) -> bool {
        let only = self.out.len() == 1
            && matches!(self.out.front(), Some(Output::Emit(Emit::Slice(range))) if *range == (0..length));
        if only {
            self.out.clear();
        }
        only
    }

    /// For how many milliseconds at a time the host may leave an answer that it carries by a pipe
    /// of its own unseen; `None` where every chunk must be seen before it goes on.
    pub fn may_pipe(&self) -> Option<u64> {
        let native = self.order.policy.forward == Forward::Native && !self.keeps_transcript();
        let wanted = native && !self.piped && self.is_steady();
        // Half an event is still with the core: the rest of it cannot go ahead of it.
        let possible = wanted && self.attempts.iter().all(Attempt::is_between_events);
        possible.then(|| self.limits.rest_ms())
    }

    /// What arrives from now on goes out by itself. Whatever else is said begins with a blank line.
    pub const fn pipe(&mut self) {
        self.piped = true;
        self.client.on_pipe();
    }

    /// Looks at bytes that the client has got already.
    pub(super) fn on_piped(&mut self, now: Instant, attempt: u32, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.go_on(now, attempt, |attempt, _, out| {
            let seen = attempt.on_chunk(now, bytes, out);
            out.clear();
            seen
        });
    }
}
