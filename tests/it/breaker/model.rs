//! The rules of the breaker in the plainest words: it keeps all that ever happened, and works everything out
//! from that, each time afresh. It shares nothing with `Breaker` but the types of its inputs.

use fairlead_core::{
    breaker::{Admission, Change, Outcome, Record, Rules, Standing},
    policy::BreakerPolicy,
    rng::Rng,
    time::Instant,
};

/// All that ever happened, in order, each with its time.
#[derive(Default)]
pub struct Model {
    log: Vec<(u64, Fact)>,
    pub elects: bool,
    passes: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Fact {
    /// A call has ended that counts. `sent_at`: when it was admitted.
    Ended {
        client: Option<usize>,
        end: End,
        sent_at: u64,
    },
    /// A client was served.
    Acquitted {
        client: usize,
    },
    /// A probe went out, did not come to anything, or failed.
    Probe(u64),
    ProbeGivenBack(u64),
    ProbeFailed {
        client: Option<usize>,
    },
    /// The state has changed. `own`: by what happened here; `known`: what others may be told.
    Opened {
        until: u64,
        only: Option<usize>,
        doublings: u32,
        reason: String,
        known: bool,
    },
    Closed {
        reason: &'static str,
        known: bool,
    },
    Isolated,
    /// A record was heard: the time in it, and what that comes to by this clock. `counts`: it was news.
    Heard {
        epoch: u64,
        at_ms: u64,
        at: u64,
        counts: bool,
    },
    /// One was heard that nothing was taken of.
    HeardOf {
        epoch: u64,
    },
    Told {
        epoch: u64,
        at_ms: u64,
    },
    /// An operator has said what was so already.
    Repeated,
    Company,
    /// A call was let through while nothing was wrong; the endpoint has begun to answer one.
    LetThrough,
    SignOfLife,
    LeaseAsked,
    LeaseGranted {
        until: u64,
    },
    LeaseSpent,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Served,
    Slow,
    Failed,
}

/// What a call was admitted under.
#[derive(Clone, Copy, Debug)]
pub struct ModelPass {
    number: u64,
    changes: usize,
    at: u64,
    client: Option<usize>,
    probe: bool,
}

/// What the model shows of itself, to be compared.
#[derive(Debug, PartialEq)]
pub struct Sight {
    pub state: &'static str,
    pub until: Option<u64>,
    pub one_client: Option<usize>,
    pub reason: String,
    pub calls: u32,
    pub failures: u32,
    pub in_a_row: u32,
    pub snapshot: Record,
    pub calm: bool,
    pub asks_for_lease: bool,
}

enum State {
    Closed,
    Open { until: u64, only: Option<usize> },
    Isolated,
}

impl Model {
    /// `None` for the pass: refused.
    pub fn admit(
        &mut self,
        now: Instant,
        rules: Rules<'_>,
        client: Option<usize>,
        rng: &mut Rng,
    ) -> (Option<ModelPass>, Option<Option<Instant>>) {
        let now = now.as_millis();
        self.passes += 1;
        let pass = ModelPass { number: self.passes, changes: self.changes(), at: now, client, probe: false };
        let until = match self.state() {
            State::Closed => {
                self.log.push((now, Fact::LetThrough));
                return (Some(pass), None);
            }
            State::Isolated => return (None, Some(None)),
            State::Open { only, .. } if only.is_some() && only != client => return (Some(pass), None),
            State::Open { until, .. } => until,
        };
        if now < until {
            return (None, Some(Some(Instant::from_millis(until))));
        }
        let company = self.has_company(now) && !rules.alone;
        let mut goes = false;
        if !self.probe_is_out(now, if company { 60_000 } else { 10_000 }) {
            let lease = self.lease();
            if lease.is_some() {
                self.log.push((now, Fact::LeaseSpent));
            }
            // Nobody decides by chance where a store elects.
            goes = lease.is_some_and(|until| now < until)
                || rng.up_to(999_999) < if self.elects { 0 } else { share(rules.policy, now - until, company) };
        }
        if !goes {
            return (None, Some(Some(Instant::from_millis(now + 1000))));
        }
        self.log.push((now, Fact::Probe(pass.number)));
        (Some(ModelPass { probe: true, ..pass }), None)
    }

    pub fn on_end(
        &mut self,
        now: Instant,
        rules: Rules<'_>,
        pass: ModelPass,
        outcome: &Outcome,
        rng: &mut Rng,
    ) -> Option<Change> {
        let now = now.as_millis();
        let policy = rules.policy;
        // The state that it was admitted under is over.
        if pass.changes != self.changes() {
            return None;
        }
        let (end, why) = match outcome {
            Outcome::Neutral => {
                if pass.probe {
                    self.log.push((now, Fact::ProbeGivenBack(pass.number)));
                }
                return None;
            }
            Outcome::Served { first_content_ms: Some(ms) }
                if policy.slow_first_token_ms.is_some_and(|limit| *ms > limit) =>
            {
                (End::Slow, "slow_first_token")
            }
            Outcome::Served { .. } => (End::Served, ""),
            Outcome::Failed(why) => (End::Failed, &**why),
        };
        if let (End::Served, Some(client)) = (end, pass.client) {
            self.log.push((now, Fact::Acquitted { client }));
        }
        let State::Open { only, .. } = self.state() else {
            return self.on_counted(now, rules, pass, end, why, rng);
        };
        if !pass.probe {
            return self.on_counted(now, rules, pass, end, why, rng);
        }
        if end == End::Served {
            self.log.push((now, Fact::Closed { reason: "probed", known: only.is_none() }));
            return Some(Change::Closed { one_client: only.is_some() });
        }
        self.log.push((now, Fact::ProbeFailed { client: pass.client }));
        let doublings = self.doublings() + 1;
        Some(self.open(now, rules, only, doublings, why, rng))
    }

    /// One that is no probe.
    fn on_counted(
        &mut self,
        now: u64,
        rules: Rules<'_>,
        pass: ModelPass,
        end: End,
        why: &str,
        rng: &mut Rng,
    ) -> Option<Change> {
        let policy = rules.policy;
        self.log.push((now, Fact::Ended { client: pass.client, end, sent_at: pass.at }));
        if end == End::Served {
            return None;
        }
        let (calls, failures) = self.totals(now, policy);
        let too_many = calls >= policy.min_calls
            && u64::from(failures) * 1_000_000 >= u64::from(calls) * u64::from(policy.failure_ppm);
        if !too_many && self.in_a_row(now, policy.window_ms) < policy.consecutive {
            return None;
        }
        let only = pass.client.filter(|client| !self.others_failed(now, policy, *client));
        if let State::Open { only: already, .. } = self.state()
            && only.is_some()
            && only == already
        {
            return None;
        }
        let closed_at = self.log.iter().rev().find(|(_, fact)| matches!(fact, Fact::Closed { .. })).map(|(at, _)| *at);
        let relapse = closed_at.is_some_and(|at| now - at < policy.window_ms);
        let doublings = if relapse { self.doublings() + 1 } else { 0 };
        Some(self.open(now, rules, only, doublings, why, rng))
    }

    fn open(
        &mut self,
        now: u64,
        rules: Rules<'_>,
        only: Option<usize>,
        doublings: u32,
        why: &str,
        rng: &mut Rng,
    ) -> Change {
        let doublings = if rules.alone { 0 } else { doublings };
        let policy = rules.policy;
        let bound = u128::from(policy.open_ms) << doublings.min(60);
        let bound = u64::try_from(bound.min(policy.max_open_ms.into())).expect("no more than a day");
        let length = bound - rng.up_to(bound / 4);
        let (until, reason) = (now + length, why.to_owned());
        self.log.push((now, Fact::Opened { until, only, doublings, reason, known: only.is_none() }));
        Change::Opened { open_ms: Some(length), one_client: only.is_some() }
    }

    pub fn command(&mut self, now: Instant, isolated: bool) -> Option<Change> {
        let now = now.as_millis();
        match (isolated, self.state()) {
            (true, State::Isolated) | (false, State::Closed) => {
                self.log.push((now, Fact::Repeated));
                None
            }
            (true, _) => {
                self.log.push((now, Fact::Isolated));
                Some(Change::Opened { open_ms: None, one_client: false })
            }
            (false, state) => {
                self.log.push((now, Fact::Closed { reason: "closed", known: true }));
                Some(Change::Closed { one_client: matches!(state, State::Open { only: Some(_), .. }) })
            }
        }
    }

    pub fn restore(&mut self, now: Instant, rules: Rules<'_>, record: &Record, rng: &mut Rng) -> Option<Change> {
        let now = now.as_millis();
        let policy = rules.policy;
        if record.at_ms > now + 10_000 {
            // By a clock that is wrong.
            self.log.push((now, Fact::HeardOf { epoch: record.epoch }));
            return None;
        }
        let at = record.at_ms.min(now);
        // What was heard last says nothing new, however often it is read.
        let again = self.log.iter().rev().find_map(|(_, fact)| match fact {
            Fact::Heard { epoch, at_ms, .. } => Some((*epoch, *at_ms) == (record.epoch, record.at_ms)),
            _ => None,
        });
        let counts = again != Some(true) && at > self.known_at();
        self.log.push((now, Fact::Heard { epoch: record.epoch, at_ms: record.at_ms, at, counts }));
        if !counts {
            return None;
        }
        // No opening is longer.
        let told_until = record.open_until_ms.min(at + policy.max_open_ms);
        match (record.state, self.state()) {
            (Standing::Isolated, State::Isolated) | (Standing::Open, State::Isolated) => None,
            (Standing::Isolated, _) => {
                self.log.push((at, Fact::Isolated));
                Some(Change::Opened { open_ms: None, one_client: false })
            }
            // That was long ago.
            (Standing::Open, _) if told_until + 4 * policy.max_open_ms <= now => None,
            (Standing::Open, _) => {
                let length = told_until.saturating_sub(at);
                let until = (told_until + rng.up_to(length / 4)).min(at + policy.max_open_ms);
                // The first bound that it fits into.
                let fits = |doublings: &u32| u128::from(policy.open_ms) << doublings >= length.into();
                let doublings = (0..64).find(fits).expect("some number of doublings");
                let reason = "told".to_owned();
                self.log.push((at, Fact::Opened { until, only: None, doublings, reason, known: true }));
                Some(Change::Opened { open_ms: Some(until.saturating_sub(now)), one_client: false })
            }
            (Standing::Closed, State::Open { only: None, .. } | State::Isolated) => {
                self.log.push((at, Fact::Closed { reason: "told", known: true }));
                Some(Change::Closed { one_client: false })
            }
            (Standing::Closed, _) => None,
        }
    }

    pub fn on_told(&mut self, now: Instant, record: &Record) {
        self.log.push((now.as_millis(), Fact::Told { epoch: record.epoch, at_ms: record.at_ms }));
    }

    pub fn on_company(&mut self, now: Instant) {
        self.log.push((now.as_millis(), Fact::Company));
    }

    pub fn on_sign_of_life(&mut self, now: Instant, pass: ModelPass) {
        self.log.push((now.as_millis(), Fact::SignOfLife));
        if pass.probe {
            self.log.push((now.as_millis(), Fact::ProbeGivenBack(pass.number)));
        }
    }

    pub fn on_lease_asked(&mut self, now: Instant) {
        self.log.push((now.as_millis(), Fact::LeaseAsked));
    }

    pub fn grant(&mut self, now: Instant, until: Instant) {
        self.log.push((now.as_millis(), Fact::LeaseGranted { until: until.as_millis() }));
    }

    pub fn agrees(&self, now: Instant, record: &Record) -> bool {
        let now = now.as_millis();
        match self.state() {
            State::Closed | State::Open { only: Some(_), .. } => record.state == Standing::Closed,
            State::Isolated => record.state == Standing::Isolated,
            State::Open { until, only: None } => {
                let (own, told) = (until.saturating_sub(now), record.open_until_ms.saturating_sub(now));
                record.state == Standing::Open && told >= own / 2
            }
        }
    }

    pub fn sight(&self, now: Instant, policy: &BreakerPolicy) -> Sight {
        let at = now.as_millis();
        let (calls, failures) = self.totals(at, policy);
        let (state, until, one_client) = match self.state() {
            State::Closed => ("closed", None, None),
            State::Isolated => ("isolated", None, None),
            State::Open { until, only } => (if at < until { "open" } else { "half_open" }, Some(until), only),
        };
        let asked = |fact: &(u64, Fact)| matches!(fact, (asked, Fact::LeaseAsked) if at - asked < 2000);
        Sight {
            state,
            until,
            one_client,
            reason: self.reason(),
            calls,
            failures,
            in_a_row: self.in_a_row(at, policy.window_ms),
            snapshot: Record {
                epoch: self.epoch() + 1,
                state: match self.state() {
                    State::Isolated => Standing::Isolated,
                    State::Open { only: None, .. } => Standing::Open,
                    State::Closed | State::Open { .. } => Standing::Closed,
                },
                open_until_ms: until.filter(|_| one_client.is_none()).unwrap_or_default(),
                reason: self.reason(),
                at_ms: self.known_at(),
                day: 0,
                writes: 0,
            },
            calm: state == "closed" && self.in_a_row(at, u64::MAX) == 0 && !self.is_silent(at),
            asks_for_lease: self.elects
                && state == "half_open"
                && self.lease().is_none_or(|until| until <= at)
                && !self.probe_is_out(at, 10_000)
                && !self.log.iter().rev().any(asked),
        }
    }

    fn is_change(fact: &Fact) -> bool {
        matches!(fact, Fact::Opened { .. } | Fact::Closed { .. } | Fact::Isolated)
    }

    fn changes(&self) -> usize {
        self.log.iter().filter(|(_, fact)| Self::is_change(fact)).count()
    }

    fn since_change(&self) -> &[(u64, Fact)] {
        let last = self.log.iter().rposition(|(_, fact)| Self::is_change(fact));
        &self.log[last.map_or(0, |place| place + 1)..]
    }

    fn state(&self) -> State {
        match self.log.iter().rev().find(|(_, fact)| Self::is_change(fact)) {
            Some((_, Fact::Opened { until, only, .. })) => State::Open { until: *until, only: *only },
            Some((_, Fact::Isolated)) => State::Isolated,
            _ => State::Closed,
        }
    }

    fn reason(&self) -> String {
        match self.log.iter().rev().find(|(_, fact)| Self::is_change(fact)) {
            Some((_, Fact::Opened { reason, .. })) => reason.clone(),
            Some((_, Fact::Closed { reason, .. })) => (*reason).to_owned(),
            Some((_, Fact::Isolated)) => "isolated".to_owned(),
            _ => String::new(),
        }
    }

    /// The calls that have ended under this state, in this tenth of a window and the nine before it.
    fn totals(&self, now: u64, policy: &BreakerPolicy) -> (u32, u32) {
        let tenth = |at: u64| at / policy.window_ms.div_ceil(10);
        let ended = self.since_change().iter().filter_map(|(at, fact)| match fact {
            Fact::Ended { end, .. } if tenth(*at) + 10 > tenth(now) => Some(*end),
            _ => None,
        });
        ended.fold((0, 0), |(calls, failures), end| (calls + 1, failures + u32::from(end != End::Served)))
    }

    /// Failures up to now between which nobody was served, not even slowly, and in no window of which nothing failed.
    /// Probes are no part of it, but a window in which one failed is no such window.
    fn in_a_row(&self, now: u64, window_ms: u64) -> u32 {
        let (mut row, mut behind) = (0, now);
        for (at, fact) in self.log.iter().rev() {
            let fails = match fact {
                Fact::Ended { end: End::Failed, .. } => 1,
                Fact::ProbeFailed { .. } => 0,
                Fact::Ended { .. } | Fact::Closed { .. } => break,
                _ => continue,
            };
            if behind - at >= window_ms {
                break;
            }
            (row, behind) = (row + fails, *at);
        }
        row
    }

    /// Whether the calls that were let through have shown no sign of life for ten seconds.
    fn is_silent(&self, now: u64) -> bool {
        let facts = self.since_change();
        let sign = |(_, fact): &(u64, Fact)| matches!(fact, Fact::SignOfLife | Fact::Ended { end: End::Served, .. });
        let since = facts.iter().rposition(sign).map_or(0, |place| place + 1);
        let first = facts[since..].iter().find(|(_, fact)| *fact == Fact::LetThrough);
        first.is_some_and(|(at, _)| now - at >= 10_000)
    }

    /// Whether anybody else has failed within a window, under whatever state, and was not served since; of the two
    /// whose last failures were the latest.
    fn others_failed(&self, now: u64, policy: &BreakerPolicy, own: usize) -> bool {
        let mut failed: Vec<(u64, Option<usize>)> = Vec::new();
        for (at, fact) in &self.log {
            match fact {
                Fact::Acquitted { client } => failed.retain(|(_, other)| *other != Some(*client)),
                Fact::Ended { client, end: End::Failed | End::Slow, .. } | Fact::ProbeFailed { client } => {
                    failed.retain(|(_, other)| other != client);
                    failed.insert(0, (*at, *client));
                    failed.truncate(2);
                }
                _ => {}
            }
        }
        failed.iter().any(|(at, client)| *client != Some(own) && now - at < policy.window_ms)
    }

    /// How often the latest opening was doubled.
    fn doublings(&self) -> u32 {
        let last = self.log.iter().rev().find_map(|(_, fact)| match fact {
            Fact::Opened { doublings, .. } => Some(*doublings),
            _ => None,
        });
        last.unwrap_or_default()
    }

    /// The latest moment of which anything is known that others may be told.
    fn known_at(&self) -> u64 {
        let known = self.log.iter().filter_map(|(at, fact)| match fact {
            Fact::Opened { known: true, .. } | Fact::Closed { known: true, .. } | Fact::Isolated | Fact::Repeated => {
                Some(*at)
            }
            Fact::Heard { at, counts: true, .. } => Some(*at),
            Fact::Ended { end: End::Served, sent_at, .. } => Some(*sent_at),
            _ => None,
        });
        known.max().unwrap_or_default()
    }

    fn epoch(&self) -> u64 {
        let epochs = self.log.iter().filter_map(|(_, fact)| match fact {
            Fact::Heard { epoch, .. } | Fact::HeardOf { epoch } | Fact::Told { epoch, .. } => Some(*epoch),
            _ => None,
        });
        epochs.max().unwrap_or_default()
    }

    /// Whether others have been about in the last half hour: somebody has told what this isolate had not lately told
    /// itself.
    fn has_company(&self, now: u64) -> bool {
        let mut told = Vec::new();
        let mut seen = None;
        for (at, fact) in &self.log {
            match fact {
                Fact::Told { at_ms, .. } => told.push(*at_ms),
                Fact::Company => seen = seen.max(Some(*at)),
                Fact::Heard { at_ms, at, .. } if !told.iter().rev().take(8).any(|told| told == at_ms) => {
                    seen = seen.max(Some(*at));
                }
                _ => {}
            }
        }
        seen.is_some_and(|at| now - at < 1_800_000)
    }

    /// Whether the latest probe is under way, and nothing has come of it for less than so long.
    fn probe_is_out(&self, now: u64, ms: u64) -> bool {
        let facts = self.since_change();
        let last = facts.iter().rev().find_map(|(at, fact)| match fact {
            Fact::Probe(number) => Some((*at, *number)),
            _ => None,
        });
        last.is_some_and(|(at, number)| {
            now - at < ms && !facts.iter().any(|(_, fact)| *fact == Fact::ProbeGivenBack(number))
        })
    }

    /// The end of the lease that was granted under this state, unless it is used up.
    fn lease(&self) -> Option<u64> {
        let last = self.since_change().iter().rev().find_map(|(_, fact)| match fact {
            Fact::LeaseGranted { until } => Some(Some(*until)),
            Fact::LeaseSpent => Some(None),
            _ => None,
        });
        last.flatten()
    }
}

/// In millionths: the first share doubles every 55 s in company; a lonely isolate gets an eighth more each second.
fn share(policy: &BreakerPolicy, elapsed: u64, company: bool) -> u64 {
    let first = u128::from(policy.probe_ppm);
    let elapsed = u128::from(elapsed);
    let share = if company {
        let doubled = first << (elapsed / 55_000).min(60);
        doubled + doubled * (elapsed % 55_000) / 55_000
    } else {
        first + 1_000_000 * elapsed / 8000
    };
    u64::try_from(share.min(1_000_000)).expect("a million at most")
}

/// Whether both say the same.
pub fn is_same(ours: (Option<ModelPass>, Option<Option<Instant>>), theirs: Admission) -> bool {
    match theirs {
        Admission::Admitted(_) => ours.0.is_some(),
        Admission::Refused { until } => ours.1 == Some(until),
    }
}
