//! When an endpoint is left alone, and when it is tried again.
//!
//! One breaker stands before each endpoint for each entry of `models`, in the memory of one isolate. It opens at
//! failures that its own calls met, or at the word of another isolate: a [`Record`], which is both what isolates tell
//! each other and what outlives them. An attempt is admitted at its start and counts when it ends.
//!
//! ```text
//!  Closed ── failures ──▶ Open ── its time has passed ──▶ half-open ── a probe succeeds ──▶ Closed
//!                          ▲                                  │
//!                          └──────── a probe fails ───────────┘        Isolated: until an operator closes it
//! ```
//!
//! Half-open lets a share of the calls through that grows with time, because a store without compare-and-swap
//! elects no prober: a fleet probes little, a quiet isolate soon.

mod exchange;
mod record;
mod window;

pub use record::{Record, Standing, merge};

use crate::{policy::BreakerPolicy, rng::Rng, time::Instant};
use std::borrow::Cow;
use window::Window;

/// The breaker before one endpoint. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    state: State,
    /// Grows with every change of the state: what was admitted under another says nothing about this one.
    generation: u32,
    why: Cow<'static, str>,
    /// The highest epoch of a record that was heard or told.
    epoch: u64,
    /// Since when nothing newer is known, from here or elsewhere.
    known_at: Instant,
    /// The times in the records that were told last: a store may show an old one for a minute, and then it is no word
    /// of others.
    told: [Option<u64>; 8],
    /// Epoch and time of the record that was heard last.
    heard: Option<(u64, u64)>,
    window: Window,
    /// Failures without a success between them, nor a window in which nothing failed.
    streak: u32,
    /// Since when calls have been let through and none has shown a sign of life.
    silent_since: Option<Instant>,
    /// The last failures of the two clients that failed last and have not been served since.
    failed: [Option<(Option<usize>, Instant)>; 2],
    /// How often the time of an opening has been doubled.
    doublings: u32,
    closed_at: Option<Instant>,
    /// Other isolates were last seen to care for this endpoint.
    company_at: Option<Instant>,
    /// A store decides who probes.
    elects: bool,
    /// It was last asked for a probe.
    lease_asked: Option<Instant>,
    /// It has granted this isolate a probe, until then.
    leased_until: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// Left alone until then; behind that, half-open.
    Open {
        until: Instant,
        /// Only for this client: nobody else's calls have failed.
        only: Option<usize>,
        /// When the probe went out that is under way.
        probe: Option<Instant>,
    },
    Isolated,
}

/// What a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go through.
    Admitted(Pass),
    /// Not now; it may be asked again at this time, if that is known.
    Refused {
        /// When.
        until: Option<Instant>,
    },
}

/// A call on its way through a breaker: to be given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    generation: u32,
    at: Instant,
    client: Option<usize>,
    probe: bool,
}

/// How a call that was admitted has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was served, its first content after so many milliseconds.
    Served {
        /// Milliseconds from sending, where content came by itself.
        first_content_ms: Option<u64>,
    },
    /// The endpoint is at fault, in these words.
    Failed(String),
    /// Nothing that says anything about the endpoint.
    Neutral,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Left alone.
    Opened {
        /// Milliseconds; none for an isolated one.
        open_ms: Option<u64>,
        /// Only for the client whose call it was.
        one_client: bool,
    },
    /// Asked again like any other.
    Closed {
        /// It was left alone for the client whose call it was, and for no other.
        one_client: bool,
    },
}

/// A breaker as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// `closed`, `open`, `half_open` or `isolated`.
    pub state: &'static str,
    /// The end of the opening that runs, or has passed.
    pub until: Option<Instant>,
    /// The client that it is open for alone.
    pub one_client: Option<usize>,
    /// Why it changed last; empty if it never did.
    pub reason: &'a str,
    /// The highest epoch of a record that was heard or told.
    pub epoch: u64,
    /// Calls in the window,
    pub calls: u32,
    /// and failures among them.
    pub failures: u32,
    /// Failures without a success between them.
    pub in_a_row: u32,
}

/// What the breaker of one endpoint goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Thresholds and times.
    pub policy: &'a BreakerPolicy,
    /// Nobody else could serve what it turns away: then its openings do not grow, and it is tried soon behind them
    /// however many isolates there are, or the entry would be out for longer than the endpoint.
    pub alone: bool,
}

/// The reason of those whose first content came too late.
const SLOW: &str = "slow_first_token";

/// A probe that has not ended for so long does not keep the next one back.
const PROBE_MS: u64 = 10_000;

/// In company it does for longer: others probe, too, and some of them will be told.
const PROBE_IN_COMPANY_MS: u64 = 60_000;

/// An isolate that knows of no other probes within so long behind an opening.
const SOON_MS: u64 = 8000;

/// In company the share of probes doubles in this time: long enough that the word of a failed probe, which takes up to
/// 90 s (30 s between two reads, 60 s in KV), comes before most isolates have sent their own.
const DOUBLING_MS: u64 = 55_000;

/// An endpoint that answers nobody for so long may be ill.
const SILENT_MS: u64 = 10_000;

/// So long other isolates are remembered. On a day that has used its writes up they are heard of every 11 minutes
/// (`news::LAST_STRIDE`, for two breakers).
const COMPANY_MS: u64 = 1_800_000;

const WHOLE_PPM: u64 = 1_000_000;

impl Pass {
    /// Whether the call tries an endpoint that is left alone.
    pub const fn is_probe(self) -> bool {
        self.probe
    }
}

impl Breaker {
    /// Whether a call may go through now. Chance decides in half-open.
    pub fn admit(&mut self, now: Instant, rules: Rules<'_>, client: Option<usize>, rng: &mut Rng) -> Admission {
        let company = self.company(now) && !rules.alone;
        let pass = Pass { generation: self.generation, at: now, client, probe: false };
        let (until, probe) = match &mut self.state {
            State::Closed => {
                self.silent_since = self.silent_since.or(Some(now));
                return Admission::Admitted(pass);
            }
            State::Isolated => return Admission::Refused { until: None },
            State::Open { only: Some(only), .. } if Some(*only) != client => return Admission::Admitted(pass),
            State::Open { until, probe, .. } => (*until, probe),
        };
        if now < until {
            return Admission::Refused { until: Some(until) };
        }
        let probe_ms = if company { PROBE_IN_COMPANY_MS } else { PROBE_MS };
        let blocked = probe.is_some_and(|at| now.since(at) < probe_ms);
        let leased = self.leased_until.take_if(|_| !blocked).is_some_and(|until| now < until);
        let share = if self.elects { 0 } else { share_ppm(rules.policy, now.since(until), company) };
        if blocked || !leased && rng.up_to(WHOLE_PPM.saturating_sub(1)) >= share {
            return Admission::Refused { until: Some(now.after(1000)) };
        }
        *probe = Some(now);
        Admission::Admitted(Pass { probe: true, ..pass })
    }

    /// A call that was admitted has ended.
    pub fn on_end(
        &mut self,
        now: Instant,
        rules: Rules<'_>,
        pass: Pass,
        outcome: Outcome,
        rng: &mut Rng,
    ) -> Option<Change> {
        if pass.generation != self.generation {
            return None;
        }
        let slow = |limit: u64| matches!(outcome, Outcome::Served { first_content_ms: Some(ms) } if ms > limit);
        let slow = rules.policy.slow_first_token_ms.is_some_and(slow);
        match outcome {
            Outcome::Neutral => {
                self.give_back(pass);
                None
            }
            Outcome::Served { .. } if !slow => self.on_success(now, rules.policy, pass),
            Outcome::Served { .. } => self.on_failure(now, rules, pass, Cow::Borrowed(SLOW), rng),
            Outcome::Failed(why) => self.on_failure(now, rules, pass, Cow::Owned(why), rng),
        }
    }

    fn on_success(&mut self, now: Instant, policy: &BreakerPolicy, pass: Pass) -> Option<Change> {
        self.acquit(pass.client);
        if pass.probe {
            return Some(self.close(now, "probed"));
        }
        self.window.add(now, policy.window_ms, false);
        self.streak = 0;
        self.silent_since = None;
        // Whoever was let in behind some word about this endpoint, and was served, knows better.
        self.known_at = self.known_at.max(pass.at);
        None
    }

    fn on_failure(
        &mut self,
        now: Instant,
        rules: Rules<'_>,
        pass: Pass,
        why: Cow<'static, str>,
        rng: &mut Rng,
    ) -> Option<Change> {
        let policy = rules.policy;
        self.streak = self.row(now, policy);
        let culprit = self.culprit(now, policy, pass.client);
        if pass.probe {
            let only = self.only();
            self.doublings = self.doublings.saturating_add(1);
            return Some(self.open(now, rules, only, why, rng));
        }
        self.window.add(now, policy.window_ms, true);
        // A slow endpoint is up.
        self.streak = if why == SLOW { 0 } else { self.streak.saturating_add(1) };
        let (calls, failures) = self.window.totals(now, policy.window_ms);
        let share = u64::from(failures).saturating_mul(WHOLE_PPM);
        let too_many = calls >= policy.min_calls && share >= u64::from(calls).saturating_mul(policy.failure_ppm.into());
        if self.streak < policy.consecutive && !too_many {
            return None;
        }
        // Already left alone for this client, and nobody else has failed.
        if culprit.is_some() && self.only() == culprit {
            return None;
        }
        let relapse = self.closed_at.is_some_and(|at| now.since(at) < policy.window_ms);
        self.doublings = if relapse { self.doublings.saturating_add(1) } else { 0 };
        Some(self.open(now, rules, culprit, why, rng))
    }

    /// Failures in a row, unless nothing has failed for a window: then they are forgotten as well.
    fn row(&self, now: Instant, policy: &BreakerPolicy) -> u32 {
        let [last, _] = self.failed;
        last.filter(|(_, at)| now.since(*at) < policy.window_ms).map_or(0, |_| self.streak)
    }

    /// The client of this failure, if no other client has failed lately.
    fn culprit(&mut self, now: Instant, policy: &BreakerPolicy, client: Option<usize>) -> Option<usize> {
        let [last, _] = self.failed;
        let other = if last.is_some_and(|(last, _)| last != client) { last } else { self.failed[1] };
        self.failed = [Some((client, now)), other];
        client.filter(|_| other.is_none_or(|(_, at)| now.since(at) >= policy.window_ms))
    }

    /// This client is served: its failures are no sign that those of another are everybody's.
    fn acquit(&mut self, client: Option<usize>) {
        if client.is_some() {
            let fails = |failed: &(Option<usize>, Instant)| failed.0 != client;
            let [last, other] = self.failed.map(|failed| failed.filter(fails));
            self.failed = if last.is_some() { [last, other] } else { [other, None] };
        }
    }

    fn open(
        &mut self,
        now: Instant,
        rules: Rules<'_>,
        only: Option<usize>,
        why: Cow<'static, str>,
        rng: &mut Rng,
    ) -> Change {
        if rules.alone {
            self.doublings = 0;
        }
        let BreakerPolicy { open_ms, max_open_ms, .. } = *rules.policy;
        let longest = open_ms.saturating_mul(2u64.saturating_pow(self.doublings)).min(max_open_ms);
        // Not all isolates come back at the same moment.
        let open_ms = longest.saturating_sub(rng.up_to(longest / 4));
        self.shift(State::Open { until: now.after(open_ms), only, probe: None }, now, why);
        Change::Opened { open_ms: Some(open_ms), one_client: only.is_some() }
    }

    fn close(&mut self, now: Instant, why: &'static str) -> Change {
        let one_client = self.only().is_some();
        self.shift(State::Closed, now, Cow::Borrowed(why));
        self.closed_at = Some(now);
        self.streak = 0;
        Change::Closed { one_client }
    }

    /// Another state, known from now on.
    fn shift(&mut self, state: State, now: Instant, why: Cow<'static, str>) {
        // What concerns one client is nothing to know for others.
        let aside = self.only().is_some() && state == State::Closed;
        self.state = state;
        if self.only().is_none() && !aside {
            self.known_at = now;
        }
        self.generation = self.generation.wrapping_add(1);
        self.why = why;
        self.window.clear();
        self.silent_since = None;
        self.leased_until = None;
    }

    const fn only(&self) -> Option<usize> {
        match self.state {
            State::Open { only, .. } => only,
            State::Closed | State::Isolated => None,
        }
    }

    /// An operator's word: nobody asks this endpoint, or it is asked again.
    pub fn command(&mut self, now: Instant, isolated: bool) -> Option<Change> {
        match (isolated, &self.state) {
            (true, State::Isolated) | (false, State::Closed) => {
                // A newer word all the same: others may have heard something else in between.
                self.known_at = now;
                None
            }
            (true, _) => {
                self.shift(State::Isolated, now, Cow::Borrowed("isolated"));
                Some(Change::Opened { open_ms: None, one_client: false })
            }
            (false, _) => {
                let change = self.close(now, "closed");
                self.known_at = now;
                Some(change)
            }
        }
    }

    /// The endpoint has begun to answer a call. That proves nothing yet, for a stream may break; but the next probe
    /// need not wait for its end, which may be minutes away.
    pub fn on_sign_of_life(&mut self, pass: Pass) {
        self.silent_since = None;
        self.give_back(pass);
    }

    /// Whether an operator has taken the endpoint out.
    pub fn is_isolated(&self) -> bool {
        self.state == State::Isolated
    }

    /// Whether everything is well as far as this isolate knows.
    pub fn is_calm(&self, now: Instant) -> bool {
        let silent = self.silent_since.is_some_and(|since| now.since(since) >= SILENT_MS);
        self.state == State::Closed && self.streak == 0 && !silent
    }

    /// Whether a call that goes on now might better hear first what others know: calls have failed here, or have shown
    /// no sign of life, or an opening has passed.
    pub fn is_in_doubt(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => !self.is_calm(now),
            State::Open { until, .. } => until <= now,
            State::Isolated => false,
        }
    }

    /// What there is to see of it.
    pub fn view(&self, now: Instant, policy: &BreakerPolicy) -> View<'_> {
        let (calls, failures) = self.window.totals(now, policy.window_ms);
        let (state, until, one_client) = match &self.state {
            State::Closed => ("closed", None, None),
            State::Isolated => ("isolated", None, None),
            State::Open { until, only, .. } if now < *until => ("open", Some(*until), *only),
            State::Open { until, only, .. } => ("half_open", Some(*until), *only),
        };
        View {
            state,
            until,
            one_client,
            reason: &self.why,
            epoch: self.epoch,
            calls,
            failures,
            in_a_row: self.row(now, policy),
        }
    }

    fn give_back(&mut self, pass: Pass) {
        if let State::Open { probe, .. } = &mut self.state
            && pass.probe
            && *probe == Some(pass.at)
        {
            *probe = None;
        }
    }

    /// Whether other isolates are known to care for this endpoint.
    pub fn company(&self, now: Instant) -> bool {
        self.company_at.is_some_and(|at| now.since(at) < COMPANY_MS)
    }
}

/// The share of calls that probe so long behind an opening, in millionths.
fn share_ppm(policy: &BreakerPolicy, elapsed_ms: u64, company: bool) -> u64 {
    let first = u64::from(policy.probe_ppm);
    let share = if company {
        let (times, rest) = (elapsed_ms / DOUBLING_MS, elapsed_ms % DOUBLING_MS);
        let share = first.saturating_mul(2u64.saturating_pow(u32::try_from(times).unwrap_or(u32::MAX)));
        share.saturating_add(share.saturating_mul(rest) / DOUBLING_MS)
    } else {
        first.saturating_add(WHOLE_PPM.saturating_mul(elapsed_ms) / SOON_MS)
    };
    share.min(WHOLE_PPM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_fails_is_alone_with_it_where_another_has_failed_once_and_is_served() {
        let (policy, mut rng) = (BreakerPolicy::default(), Rng::from_seed(1));
        let rules = Rules { policy: &policy, alone: false };
        let mut breaker = Breaker::default();
        let mut call = |breaker: &mut Breaker, ms: u64, client, outcome| {
            let now = Instant::from_millis(1_795_299_888_000 + ms);
            let Admission::Admitted(pass) = breaker.admit(now, rules, Some(client), &mut rng) else { return false };
            breaker.on_end(now, rules, pass, outcome, &mut rng);
            true
        };
        let served = Outcome::Served { first_content_ms: None };
        let failed = Outcome::Failed("http_500".to_owned());
        for round in 45..600u64 {
            let outcome = if round % 100 == 50 { &failed } else { &served };
            assert!(call(&mut breaker, round * 1000, 1, outcome.clone()), "round {round}");
            for _ in 0..if round < 52 { 0 } else { 9 } {
                call(&mut breaker, round * 1000 + 500, 0, failed.clone());
            }
        }
        for round in 600..610u64 {
            call(&mut breaker, round * 1000, 1, failed.clone());
        }
        assert!(!call(&mut breaker, 610_000, 2, served), "where both fail, it is the endpoint");
    }
}
