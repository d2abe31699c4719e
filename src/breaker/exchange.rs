//! What a breaker tells other isolates, and hears of them.

use super::{Breaker, Change, PROBE_MS, Record, Rules, Standing, State};
use crate::{rng::Rng, time::Instant};
use std::borrow::Cow;

/// How often an isolate asks its store for a probe: each request to a Durable Object is billed.
const LEASE_EVERY_MS: u64 = 2000;

/// Clocks that differ by more are wrong.
const AHEAD_MS: u64 = 10_000;

/// After so many times the longest opening an end that nobody has told was lost: till then a probe may still be waiting
/// in silence, and its word be on its way.
const LOST_OPENINGS: u64 = 4;

impl Breaker {
    /// What is known now, as others are told it. Its epoch is above all that was heard.
    pub fn snapshot(&self) -> Record {
        let (standing, open_until) = match self.state {
            State::Open { until, only: None, .. } => (Standing::Open, until),
            State::Open { .. } | State::Closed => (Standing::Closed, Instant::default()),
            State::Isolated => (Standing::Isolated, Instant::default()),
        };
        Record {
            epoch: self.epoch.saturating_add(1),
            state: standing,
            open_until_ms: open_until.as_millis(),
            reason: self.why.to_string(),
            at_ms: self.known_at.as_millis(),
            day: 0,
            writes: 0,
        }
    }

    /// This record was told to others.
    pub fn on_told(&mut self, record: &Record) {
        self.epoch = self.epoch.max(record.epoch);
        self.told.rotate_right(1);
        self.told[0] = Some(record.at_ms);
    }

    /// Takes in a record of another isolate, or of this one's earlier life. What is known later wins: a call that was
    /// admitted behind the record and served knows better. It opens for at most `max_open_ms`; and what is known in
    /// the future, by a clock that is ahead, would be news at every read, so it is none.
    pub fn restore(&mut self, now: Instant, rules: Rules<'_>, record: &Record, rng: &mut Rng) -> Option<Change> {
        let at = Instant::from_millis(record.at_ms);
        self.epoch = self.epoch.max(record.epoch);
        if now.until(at) > AHEAD_MS {
            return None;
        }
        let at = at.min(now);
        if !self.told.contains(&Some(record.at_ms)) {
            self.company_at = self.company_at.max(Some(at));
        }
        // By a clock that is ahead the same record would be news each time.
        let again = self.heard.replace((record.epoch, record.at_ms)) == Some((record.epoch, record.at_ms));
        if again || at <= self.known_at {
            return None;
        }
        let max_open_ms = rules.policy.max_open_ms;
        let lost_ms = max_open_ms.saturating_mul(LOST_OPENINGS);
        // No opening is longer: a record that says so would shut every new isolate anew.
        let told = Instant::from_millis(record.open_until_ms).min(at.after(max_open_ms));
        let change = match (record.state, &self.state) {
            (Standing::Isolated, State::Isolated) => None,
            (Standing::Isolated, _) => {
                self.shift(State::Isolated, at, Cow::Borrowed("isolated"));
                Some(Change::Opened { open_ms: None, one_client: false })
            }
            // An opening ends an isolation no more than a failure does.
            (Standing::Open, State::Isolated) => None,
            // The word of its end was lost.
            (Standing::Open, _) if told.after(lost_ms) <= now => None,
            (Standing::Open, _) => {
                let length = at.until(told);
                // Isolates that were told the same do not come back at the same moment: the first tell the others how
                // they fared.
                let until = told.after(rng.up_to(length / 4)).min(at.after(max_open_ms));
                let times = length.saturating_sub(1).checked_div(rules.policy.open_ms).unwrap_or_default();
                self.doublings = times.checked_ilog2().map_or(0, |doublings| doublings.saturating_add(1));
                self.shift(State::Open { until, only: None, probe: None }, at, Cow::Borrowed("told"));
                Some(Change::Opened { open_ms: Some(now.until(until)), one_client: false })
            }
            (Standing::Closed, State::Open { only: None, .. } | State::Isolated) => {
                self.shift(State::Closed, at, Cow::Borrowed("told"));
                self.closed_at = Some(at);
                self.streak = 0;
                Some(Change::Closed { one_client: false })
            }
            (Standing::Closed, _) => None,
        };
        self.known_at = at;
        change
    }

    /// Whether a record says what is known here, so that it need not be told again.
    pub fn agrees(&self, now: Instant, record: &Record) -> bool {
        match &self.state {
            State::Closed | State::Open { only: Some(_), .. } => record.state == Standing::Closed,
            State::Isolated => record.state == Standing::Isolated,
            State::Open { until, .. } => {
                let told = now.until(Instant::from_millis(record.open_until_ms));
                record.state == Standing::Open && told >= now.until(*until) / 2
            }
        }
    }

    /// Others were seen to care for this endpoint.
    pub fn on_company(&mut self, now: Instant) {
        self.company_at = self.company_at.max(Some(now));
    }

    /// Whether a store decides who probes, instead of chance.
    pub const fn elects(&mut self, elects: bool) {
        self.elects = elects;
    }

    /// The store is asked for a probe.
    pub const fn on_lease_asked(&mut self, now: Instant) {
        self.lease_asked = Some(now);
    }

    /// The store has granted this isolate a probe.
    pub const fn grant(&mut self, until: Instant) {
        self.leased_until = Some(until);
    }

    /// Whether a store is to be asked for a probe.
    pub fn asks_for_lease(&self, now: Instant) -> bool {
        let State::Open { until, probe, .. } = self.state else { return false };
        let lately = |at: Option<Instant>, ms| at.is_some_and(|at| now.since(at) < ms);
        let has_one = self.leased_until.is_some_and(|until| now < until);
        self.elects && until <= now && !has_one && !lately(probe, PROBE_MS) && !lately(self.lease_asked, LEASE_EVERY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{breaker::Admission, policy::BreakerPolicy};

    #[test]
    fn a_record_of_long_ago_that_names_a_far_future_shuts_no_new_isolate() {
        let (policy, mut rng) = (BreakerPolicy::default(), Rng::from_seed(1));
        let rules = Rules { policy: &policy, alone: false };
        let now = Instant::from_millis(1_795_299_888_000);
        let record = |at_ms: u64| Record {
            epoch: u64::MAX,
            state: Standing::Open,
            open_until_ms: u64::MAX,
            reason: String::new(),
            at_ms,
            day: 0,
            writes: 0,
        };
        for at_ms in [0, now.as_millis() - 600_000, now.as_millis() + 600_000, u64::MAX] {
            let mut breaker = Breaker::default();
            assert_eq!(breaker.restore(now, rules, &record(at_ms), &mut rng), None, "{at_ms}");
            assert!(matches!(breaker.admit(now, rules, None, &mut rng), Admission::Admitted(_)), "{at_ms}");
        }
        let mut breaker = Breaker::default();
        assert!(breaker.restore(now, rules, &record(now.as_millis() - 1000), &mut rng).is_some());
        assert!(breaker.view(now, &policy).until.is_some_and(|until| until <= now.after(policy.max_open_ms)));
    }
}
