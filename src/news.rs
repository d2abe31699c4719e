//! When isolates read and write what they tell each other about breakers: seldom, and never relied on.
//!
//! Counts stay at home; the store holds one small record per breaker ([`crate::breaker::Record`]), written when one
//! opens or closes. Workers KV takes one write a second under a key and, on the free plan, a thousand a day for the
//! whole account, and what it tells is up to a minute old (platform facts, section 1). So no isolate can count on
//! knowing what others have just written: the day's budget is kept by the clock instead. A write may only happen in
//! certain seconds, the same for all isolates, and these become rarer as the day's count in the record grows. As KV
//! takes one write in each, their number bounds the day's writes however many isolates there are.

use crate::{breaker::Record, time::Instant};

/// What one isolate knows of one key, and what it has to say under it.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// The store has answered, or was given up.
    read_at: Option<Instant>,
    /// A task reads or writes.
    busy_since: Option<Instant>,
    /// The store has failed, and has not answered since.
    failed_at: Option<Instant>,
    /// Something has changed here that others are to know.
    pending: bool,
    /// It is only that an opening goes on.
    renews: bool,
    /// It cannot be told before.
    not_before: Option<Instant>,
    /// The record's day and count of writes.
    day: u64,
    writes: u32,
}

/// What comes next under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read what is there.
    Read,
    /// Write at this moment, not before.
    Write(Instant),
    /// Nothing for now.
    Rest,
}

/// What was read is good for so long while something is wrong: KV tells nothing newer before.
const ALERT_MS: u64 = 30_000;

/// And for so long while all is well, for the sake of the free plan's 100,000 reads a day. It is how long an
/// operator's isolation takes to be heard, on top of KV's own minute.
const CALM_MS: u64 = 60_000;

/// A task that has not ended after so long never will.
const STUCK_MS: u64 = 60_000;

/// A write is not waited for longer: a Worker may go on for 30 s behind its response.
const PATIENCE_MS: u64 = 20_000;

const DAY_MS: u64 = 86_400_000;

/// Of the day's seconds every so manieth is for writing, while the day's count is below this.
///
/// The count falls behind: a writer knows what was written 90 s ago (30 s between two reads, 60 s in KV), so that in the
/// worst case all writes of 90 s add one to it. Up to a count of 5 that is 5 times 90 s with a write each 4 s, or 113
/// writes; up to 14 another 101, and up to 30 another 45.
const STRIDES: [(u32, u64); 3] = [(5, 4), (14, 8), (30, 32)];

/// One in so many at least for word that an endpoint is still down: there will be more of it, and the count is kept
/// for what changes.
const RENEWAL_STRIDE: u64 = 12;

/// With more breakers than so many, each gets its turn less often, and less of the count.
const BREAKERS: usize = 2;

/// Behind that, one in so many for all breakers together: 86,400 / 320 = 270 writes a day.
const LAST_STRIDE: u64 = 320;

/// Writes of one key that a day's count may show.
const MOST_WRITES: u32 = 350;

impl Channel {
    /// When the store was asked, while that has come to nothing yet and nothing is known that is younger than half a
    /// minute.
    pub fn asked_at(&self, now: Instant) -> Option<Instant> {
        self.busy_since.filter(|_| self.is_stale(now, ALERT_MS))
    }

    /// Whether nothing was ever read, and nobody has failed to.
    pub const fn is_new(&self) -> bool {
        self.read_at.is_none() && self.failed_at.is_none()
    }

    /// Whether the day's writes are nearly spent, as far as is known.
    pub fn is_spent(&self, now: Instant) -> bool {
        STRIDES.last().is_some_and(|(below, _)| self.writes_on(now) >= *below)
    }

    /// When the store last answered.
    pub const fn read_at(&self) -> Option<Instant> {
        self.read_at
    }

    /// When the store failed, if it has not answered since.
    pub const fn failed_at(&self) -> Option<Instant> {
        self.failed_at
    }

    /// Whether something waits to be told.
    pub const fn is_pending(&self) -> bool {
        self.pending
    }

    /// Something has changed that others are to know.
    pub const fn tell(&mut self) {
        (self.pending, self.renews, self.not_before) = (true, false, None);
    }

    /// What others know goes on.
    pub const fn tell_again(&mut self) {
        self.renews = self.renews || !self.pending;
        (self.pending, self.not_before) = (true, None);
    }

    /// Others know as much.
    pub const fn hush(&mut self) {
        self.pending = false;
    }

    /// Whether a task should see to this key now. `calm`: everything is well as far as this isolate knows.
    pub fn is_due(&self, now: Instant, calm: bool) -> bool {
        if self.busy_since.is_some_and(|since| now.since(since) < STUCK_MS) {
            return false;
        }
        let tells = self.pending && self.not_before.is_none_or(|at| at <= now);
        tells || self.is_stale(now, if calm { CALM_MS } else { ALERT_MS })
    }

    /// A task sees to this key.
    pub const fn begin(&mut self, now: Instant) {
        self.busy_since = Some(now);
    }

    /// It does so no longer.
    pub const fn end(&mut self) {
        self.busy_since = None;
    }

    /// Somebody has said that there is something new: it is to be read before anybody is asked.
    pub const fn on_news(&mut self) {
        (self.read_at, self.failed_at) = (None, None);
    }

    /// What that task does next, at a store on this machine.
    pub fn next_at_hand(&self, now: Instant) -> Step {
        match () {
            () if self.is_stale(now, ALERT_MS) => Step::Read,
            () if self.pending => Step::Write(now),
            () => Step::Rest,
        }
    }

    /// What that task does next. `key` tells keys apart, of which there are so many.
    pub fn next(&mut self, now: Instant, key: &str, breakers: usize) -> Step {
        // A read within half a minute of another is answered from the same cache.
        if self.is_stale(now, ALERT_MS) {
            return Step::Read;
        }
        if !self.pending {
            return Step::Rest;
        }
        let at = self.slot(now, key, breakers);
        let wait_ms = now.until(at);
        if wait_ms <= PATIENCE_MS && self.writes_on(now) < MOST_WRITES {
            return Step::Write(at);
        }
        // Not every call until then need have a task look.
        self.not_before = Some(now.after(wait_ms.saturating_sub(PATIENCE_MS).max(1000)));
        Step::Rest
    }

    /// The store has told what stands under this key, or has failed to.
    pub fn on_read(&mut self, now: Instant, record: Result<Option<&Record>, ()>) {
        let Ok(record) = record else {
            self.failed_at = Some(now);
            return;
        };
        (self.read_at, self.failed_at) = (Some(now), None);
        if let Some(record) = record {
            // A clock that is ahead does not use up tomorrow's writes.
            let known = record.day <= day_of(now) && (record.day, record.writes) > (self.day, self.writes);
            (self.day, self.writes) = if known { (record.day, record.writes) } else { (self.day, self.writes) };
        }
    }

    /// The record to write now: what is known, with the day's count.
    pub fn stamp(&self, now: Instant, record: Record) -> Record {
        Record { day: day_of(now), writes: self.writes_on(now).saturating_add(1), ..record }
    }

    /// This record was written.
    pub const fn on_written(&mut self, record: &Record) {
        (self.day, self.writes, self.pending) = (record.day, record.writes, false);
    }

    /// The store has failed to write.
    pub const fn on_failed(&mut self, now: Instant) {
        self.failed_at = Some(now);
    }

    fn is_stale(&self, now: Instant, ms: u64) -> bool {
        let last = self.read_at.max(self.failed_at);
        last.is_none_or(|at| now.since(at) >= ms)
    }

    fn writes_on(&self, now: Instant) -> u32 {
        if self.day == day_of(now) { self.writes } else { 0 }
    }

    /// The next second in which this key may be written.
    fn slot(&self, now: Instant, key: &str, breakers: usize) -> Instant {
        let times = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).max(1);
        let turns = times(breakers.div_ceil(BREAKERS));
        let used = u64::from(self.writes_on(now)).saturating_mul(turns);
        // Where the store fails, nobody knows the day's count: then every write may be one of the last.
        let stride = match STRIDES.iter().find(|(below, _)| used < u64::from(*below) && self.failed_at.is_none()) {
            Some((_, stride)) => stride.saturating_mul(turns),
            None => LAST_STRIDE.saturating_mul(times(breakers)),
        };
        let stride = if self.renews { stride.max(RENEWAL_STRIDE.saturating_mul(turns)) } else { stride };
        let second = now.as_millis() / 1000;
        // Keys have different seconds.
        let ahead = stride.saturating_sub(second.wrapping_add(hash(key)).checked_rem(stride).unwrap_or_default());
        if ahead == stride { now } else { Instant::from_millis(second.saturating_add(ahead).saturating_mul(1000)) }
    }
}

const fn day_of(now: Instant) -> u64 {
    now.as_millis() / DAY_MS
}

/// FNV-1a: the same in every isolate.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) >> 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Breaker;

    const START: Instant = Instant::from_millis(20_000 * DAY_MS);

    /// How often an isolate writes in an hour in which it always has something to say, and a call comes every second.
    /// What it reads and writes fails, or not.
    fn writes_in_an_hour(reads_fail: bool, writes_fail: bool) -> u32 {
        let (mut channel, mut writes, mut now) = (Channel::default(), 0, START);
        while now < START.after(3_600_000) {
            now = now.after(1000);
            if !channel.is_pending() {
                channel.tell();
            }
            if !channel.is_due(now, false) {
                continue;
            }
            loop {
                match channel.next(now, "breaker:v1:a:m", 2) {
                    Step::Read => channel.on_read(now, if reads_fail { Err(()) } else { Ok(None) }),
                    Step::Write(at) if at > now => now = at,
                    Step::Write(_) => {
                        writes = u32::saturating_add(writes, 1);
                        if writes_fail {
                            channel.on_failed(now);
                            break;
                        }
                        channel.on_written(&channel.stamp(now, Breaker::default().snapshot()));
                    }
                    Step::Rest => break,
                }
            }
        }
        writes
    }

    #[test]
    fn where_the_days_count_cannot_be_read_every_write_may_be_one_of_the_last() {
        // 3600 / 512, for two breakers share the last slots.
        assert!(writes_in_an_hour(true, false) <= 8, "reads fail");
        assert!(writes_in_an_hour(false, true) <= 120, "writes fail: one behind each read");
        assert!(writes_in_an_hour(false, false) > 20);
    }

    #[test]
    fn who_has_to_wait_for_its_second_is_not_looked_after_at_every_call() {
        let (mut channel, mut tasks) = (Channel::default(), 0);
        channel.on_read(START, Ok(None));
        channel.on_written(&Record { writes: 100, ..channel.stamp(START, Breaker::default().snapshot()) });
        channel.tell();
        for ms in 0..29_000 {
            let now = START.after(ms);
            if channel.is_due(now, false) {
                tasks += 1;
                match channel.next(now, "breaker:v1:a:m", 2) {
                    Step::Rest => {}
                    step => assert!(matches!(step, Step::Write(_)) && tasks <= 2, "{step:?}"),
                }
            }
            if channel.is_due(now, false) {
                break;
            }
        }
        assert!(tasks <= 2, "{tasks} tasks");
    }

    /// Writes of a day on which every isolate always has something to say under each of so many keys, and knows what
    /// was written 90 s ago.
    #[expect(clippy::arithmetic_side_effects, reason = "small numbers, in a test")]
    fn writes_in_a_day(breakers: usize) -> u32 {
        let keys: Vec<String> = (0..breakers).map(|number| format!("breaker:v1:a:m{number}")).collect();
        let mut sum = 0;
        for key in keys {
            let (mut written, mut known) = (Vec::new(), 0);
            let mut channel = Channel::default();
            channel.tell();
            for second in 0..86_400 {
                let now = START.after(second * 1000);
                while written.get(known).is_some_and(|at| at + 90 <= second) {
                    known += 1;
                }
                let record = Record { writes: known as u32, ..channel.stamp(now, Breaker::default().snapshot()) };
                channel.on_read(now, Ok(Some(&record)));
                if channel.next(now, &key, breakers) == Step::Write(now) {
                    written.push(second);
                }
            }
            sum += written.len() as u32;
        }
        sum
    }

    #[test]
    fn however_many_breakers_flap_all_day_the_accounts_writes_last() {
        for breakers in [1, 2, 3, 4, 7, 20, 40] {
            let writes = writes_in_a_day(breakers);
            assert!((300..800).contains(&writes), "{breakers} breakers: {writes}");
        }
    }
}
