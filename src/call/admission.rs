//! Whether a target may be asked at all: its breaker, and what other isolates say of it.

use super::{Attempt, Call, Order, Output};
use crate::{
    breaker::{Admission, Change, Outcome, Pass, Rules},
    classify::Failure,
    config::Strategy,
    deadline::{Limits, Timer},
    error::{Code, Error},
    event::Event,
    fleet::{Fleet, Gate, Which},
    load::{Lease, POLL_MS, Ticket as Turn},
    policy::{BreakerPolicy, Policy},
    route::{self, Route},
    settings::{Model, Target},
    time::Instant,
};
use std::{cell::RefCell, rc::Rc};

/// What an attempt holds while it is under way.
#[derive(Debug)]
pub(super) struct Ticket {
    pass: Option<Pass>,
    /// None where it gives the endpoint nothing to do.
    lease: Option<Lease>,
    /// When it was sent, or its worker began.
    since: Instant,
}

/// Why a target cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// Its breaker is open.
    Shut,
    /// It has as many calls as it may.
    Full,
}

/// A record that is to be read or written, beside the call.
#[derive(Debug)]
pub struct Upkeep {
    /// Where its breaker is.
    pub fleet: Rc<RefCell<Fleet>>,
    /// Which breaker.
    pub which: Which,
    /// Its key in the store.
    pub key: String,
    /// What it goes by.
    pub policy: BreakerPolicy,
    /// See [`Rules::alone`].
    pub alone: bool,
    /// Word is to be exchanged; otherwise another task does that.
    pub exchanges: bool,
    /// A store that elects probers is to be asked for a probe.
    pub wants_lease: bool,
    /// For chance.
    pub seed: u64,
    endpoint: String,
    entry: Option<String>,
}

impl Upkeep {
    /// A change as a fact.
    pub fn event(&self, change: &Change, why: &'static str) -> Event {
        breaker_event(change, self.endpoint.clone(), self.entry.clone(), why)
    }
}

/// How long a call waits for what others say. KV answers within 5 ms
/// where somebody has read the key lately (platform facts, section 1).
const WORD_MS: u64 = 200;

/// When to come back to an endpoint that an operator has isolated: nobody knows.
const ISOLATED_MS: u64 = 30_000;

/// The key of a record: names stand between colons in it.
pub fn key(endpoint: &str, entry: Option<&str>) -> String {
    let endpoint = endpoint.replace('%', "%25").replace(':', "%3A");
    match entry {
        Some(entry) => format!("breaker:v1:{endpoint}:{entry}"),
        None => format!("breaker:v1:{endpoint}"),
    }
}

/// A change as a fact.
pub fn breaker_event(change: &Change, endpoint: String, entry: Option<String>, why: &str) -> Event {
    match change {
        Change::Opened { open_ms, one_client } => {
            Event::BreakerOpened { endpoint, entry, reason: why.to_owned(), open_ms: *open_ms, one_client: *one_client }
        }
        Change::Closed { .. } => Event::BreakerClosed { endpoint, entry, reason: why.to_owned() },
    }
}

impl Call {
    /// A record that a task is to see to.
    pub fn poll_upkeep(&mut self) -> Option<Upkeep> {
        self.upkeeps.pop_front()
    }

    /// Until when a call waits for what other isolates say. Only those wait who come right behind the question: a store that does not answer is not waited for call by call.
    pub(super) fn awaits_word(&mut self, now: Instant) -> Option<Instant> {
        let targets = 0..self.order.model.targets.len();
        targets.into_iter().for_each(|target| self.look_after(now, target));
        let until = self.asked_at(now)?.after(WORD_MS);
        (now < until).then_some(until)
    }

    /// Whether other isolates could be heard, and have not been yet.
    pub(super) fn is_uninformed(&self, now: Instant) -> bool {
        self.asked_at(now).is_some()
    }

    /// When the store was asked for the last of those words that are waited for: the first ones, and those about an
    /// endpoint that is in doubt.
    fn asked_at(&self, now: Instant) -> Option<Instant> {
        let mut fleet = self.fleet.borrow_mut();
        fleet.store()?;
        let gates = |target: &Target| [self.isolation_of(target), self.which_of(target)];
        let gates = self.order.model.targets.iter().flat_map(gates).flatten();
        let asked_at = |which| {
            let Gate { breaker, channel } = fleet.gate(which);
            channel.asked_at(now).filter(|_| channel.is_new() || breaker.is_in_doubt(now))
        };
        gates.filter_map(asked_at).max()
    }

    /// Lets a task see to the records of a target, where one is due.
    fn look_after(&mut self, now: Instant, target: usize) {
        let Some(chosen) = self.order.model.targets.get(target) else { return };
        let mut fleet = self.fleet.borrow_mut();
        if fleet.store().is_none() {
            return;
        }
        for which in [self.isolation_of(chosen), self.which_of(chosen)].into_iter().flatten() {
            let gate = fleet.gate(which);
            let wants_lease = gate.breaker.asks_for_lease(now);
            let exchanges = gate.channel.is_due(now, gate.breaker.is_calm(now));
            if !wants_lease && !exchanges {
                continue;
            }
            if exchanges {
                gate.channel.begin(now);
            }
            if wants_lease {
                gate.breaker.on_lease_asked(now);
            }
            let endpoint = chosen.endpoint.name.clone();
            let entry = which.entry.map(|_| self.order.model.name.clone());
            self.upkeeps.push_back(Upkeep {
                fleet: Rc::clone(&self.fleet),
                which,
                key: key(&endpoint, entry.as_deref()),
                policy: self.order.model.policy.breaker.clone().unwrap_or_default(),
                alone: is_alone(&self.order.model),
                exchanges,
                wants_lease,
                seed: self.rng.next_u64(),
                endpoint,
                entry,
            });
        }
    }

    /// The breaker before a target, unless the entry has none.
    fn which_of(&self, target: &Target) -> Option<Which> {
        self.order.model.policy.breaker.as_ref()?;
        Some(Which { endpoint: target.index, entry: Some(self.order.model.index?) })
    }

    /// What an operator may have isolated. What a client asks about its own jobs goes on none the less.
    fn isolation_of(&self, target: &Target) -> Option<Which> {
        let asks = self.order.ask.errand.as_ref().is_some_and(|errand| !errand.verb.submits());
        (!asks).then_some(Which { endpoint: target.index, entry: None })
    }

    /// The targets in the order of trying.
    pub(super) fn lay_route(&mut self, now: Instant) -> Route {
        let Model { strategy, targets, .. } = &*self.order.model;
        let mut fleet = self.fleet.borrow_mut();
        let fastest = match strategy {
            Strategy::LeastLoaded => {
                targets.iter().filter_map(|target| fleet.load(target.index).first_token_ms(now)).min()
            }
            Strategy::Failover | Strategy::Weighted => None,
        };
        let order =
            route::order(*strategy, targets, |endpoint| fleet.load(endpoint).score(now, fastest), &mut self.rng);
        Route::ordered(targets, &order)
    }

    /// Goes on if what it waits for has come: the first word of others, or a place.
    pub(super) fn look_around(&mut self, now: Instant) {
        match self.awaiting_word {
            Some(until) if until <= now || !self.is_uninformed(now) => {
                self.awaiting_word = None;
                self.begin(now);
            }
            Some(_) => self.looks_at = now.after(POLL_MS),
            None if self.line.is_some() => self.look_for_room(now),
            None => {}
        }
    }

    /// Looks at the next chance whether what it waits for has come, as the host says that it may have. False: it waits
    /// for nothing that others give.
    pub fn looks_again(&mut self, now: Instant) -> bool {
        let waits = self.awaiting_word.is_some() || self.line.is_some();
        if waits {
            self.looks_at = now;
        }
        waits
    }

    /// Lets the call through to a target, in its turn if it stands in line.
    pub(super) fn enter(&mut self, now: Instant, target: usize, turn: Option<Turn>) -> Result<Ticket, Turned> {
        let Some(chosen) = self.order.model.targets.get(target) else { return Err(Turned::Shut) };
        let mut fleet = self.fleet.borrow_mut();
        let isolated = self.isolation_of(chosen).is_some_and(|which| fleet.gate(which).breaker.is_isolated());
        let admission = match self.which_of(chosen).zip(self.order.model.policy.breaker.as_ref()) {
            _ if isolated => Some(Admission::Refused { until: None }),
            Some((which, policy)) => {
                let rules = Rules { policy, alone: is_alone(&self.order.model) };
                Some(fleet.gate(which).breaker.admit(now, rules, self.order.client, &mut self.rng))
            }
            None => None,
        };
        let pass = match admission {
            None => None,
            Some(Admission::Admitted(pass)) => Some(pass),
            Some(Admission::Refused { until }) => {
                drop(fleet);
                self.look_after(now, target);
                let until = until.unwrap_or_else(|| now.after(ISOLATED_MS));
                self.shut_until = Some(self.shut_until.map_or(until, |other| other.min(until)));
                return Err(Turned::Shut);
            }
        };
        let errand = self.order.ask.errand.as_ref();
        if errand.is_some_and(|errand| !errand.verb.submits()) {
            return Ok(Ticket { pass, lease: None, since: now });
        }
        let most = chosen.endpoint.max_concurrency.filter(|_| errand.is_none());
        let lease = fleet.load(chosen.index).try_enter(now, self.deadline, most, turn);
        if lease.is_none() {
            drop(fleet);
            self.count(now, target, pass, Outcome::Neutral);
            return Err(Turned::Full);
        }
        Ok(Ticket { pass, lease, since: now })
    }

    /// Gives a ticket back that is not used.
    pub(super) fn tear(&mut self, now: Instant, target: usize, ticket: Ticket) {
        self.end_lease(target, ticket.lease);
        self.count(now, target, ticket.pass, Outcome::Neutral);
    }

    /// An attempt has ended in this, as far as its endpoint is concerned. The first word counts.
    pub(super) fn conclude(&mut self, now: Instant, id: u32, outcome: Outcome) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let target = attempt.target;
        let Some(Ticket { pass, lease, .. }) = attempt.ticket.take() else { return };
        self.end_lease(target, lease);
        self.count(now, target, pass, outcome);
    }

    fn end_lease(&self, target: usize, lease: Option<Lease>) {
        let Some(lease) = lease else { return };
        let endpoint = self.endpoint_index(target);
        self.fleet.borrow_mut().load(endpoint).leave(lease);
    }

    /// Tells a target's breaker how a call that it had let through has ended.
    fn count(&mut self, now: Instant, target: usize, pass: Option<Pass>, outcome: Outcome) {
        let Some(pass) = pass else { return };
        let Some(chosen) = self.order.model.targets.get(target) else { return };
        let Some((which, policy)) = self.which_of(chosen).zip(self.order.model.policy.breaker.as_ref()) else { return };
        let failed = matches!(outcome, Outcome::Failed(_));
        // Repeats make no more of a failure than it is; but a probe that fails has failed.
        let repeated = failed && !self.route.counts_failure(target);
        let outcome = if repeated && !pass.is_probe() { Outcome::Neutral } else { outcome };
        let rules = Rules { policy, alone: is_alone(&self.order.model) };
        let mut fleet = self.fleet.borrow_mut();
        let gate = fleet.gate(which);
        let change = gate.breaker.on_end(now, rules, pass, outcome, &mut self.rng);
        match change {
            Some(Change::Opened { one_client: false, .. }) if pass.is_probe() => gate.channel.tell_again(),
            Some(Change::Opened { one_client: false, .. } | Change::Closed { one_client: false }) => {
                gate.channel.tell()
            }
            _ => {}
        }
        if let Some(change) = change {
            let (endpoint, entry) = (chosen.endpoint.name.clone(), Some(self.order.model.name.clone()));
            let why = gate.breaker.view(now, policy).reason;
            self.out.push_back(Output::Event(breaker_event(&change, endpoint, entry, why)));
        }
        let calm = gate.breaker.is_calm(now) && !gate.channel.is_pending();
        drop(fleet);
        if !calm {
            self.look_after(now, target);
        }
    }

    /// What a failure says about the endpoint.
    pub(super) fn outcome_of(&self, failure: &Failure) -> Outcome {
        let hurried = matches!(failure, Failure::Timeout(timer) if self.is_hurried(*timer));
        match failure.is_endpoints_fault(!self.is_shortened()) && !hurried {
            true => Outcome::Failed(failure.reason()),
            false => Outcome::Neutral,
        }
    }

    /// Whether the client has asked for a policy under which this timer is shorter than under the entry's own.
    fn is_hurried(&self, timer: Timer) -> bool {
        let Order { ask, policy, model, .. } = &self.order;
        let of = |policy: &Policy| Limits::new(policy, ask.stream, ask.body.len(), ask.held_back).of(timer);
        of(policy) < of(&model.policy)
    }

    /// Whether the client has less time than the entry's own policy gives.
    fn is_shortened(&self) -> bool {
        self.deadline_ms < self.order.policy.deadline_ms.max(self.order.model.policy.deadline_ms)
    }

    /// What the deadline says about the endpoints that were being asked: nothing, unless one had all of the policy's
    /// time and has shown nothing.
    pub(super) fn blame_for_deadline(&mut self, now: Instant) {
        let [attempt] = &*self.attempts else { return };
        let Attempt { id, ticket, .. } = attempt;
        // A request that was long in coming left it less.
        let since = ticket.as_ref().map_or(now, |ticket| ticket.since);
        let had_all = now.since(since) >= self.deadline_ms.saturating_mul(9) / 10;
        let silent = self.started == 1 && self.winner.is_none() && !attempt.is_alive();
        if had_all && silent && !self.is_shortened() && self.order.ask.errand.is_none() {
            self.conclude(now, *id, Outcome::Failed("deadline".to_owned()));
        }
    }

    /// The call has been served by this attempt.
    pub(super) fn on_served(&mut self, now: Instant, id: u32) {
        let since = self.attempts.iter().find(|attempt| attempt.id == id).and_then(|attempt| attempt.ticket.as_ref());
        let streamed = self.first_content.filter(|_| self.order.ask.stream);
        // That of a stream which goes on behind another came before this attempt.
        let own = since.zip(streamed).filter(|(ticket, at)| *at >= ticket.since);
        let first_content_ms = own.map(|(ticket, at)| at.since(ticket.since));
        if streamed.is_none() {
            let endpoint = self.endpoint_index(self.last_target);
            self.fleet.borrow_mut().load(endpoint).on_success();
        }
        self.conclude(now, id, Outcome::Served { first_content_ms });
    }

    /// A stream's first content has come.
    pub(super) fn on_first_content(&mut self, now: Instant, id: u32) {
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.id == id) else { return };
        let (endpoint, ticket) = (self.endpoint_index(attempt.target), attempt.ticket.as_ref());
        if let Some(ticket) = ticket.filter(|_| self.order.ask.stream) {
            let mut fleet = self.fleet.borrow_mut();
            fleet.load(endpoint).on_first_content(now, now.since(ticket.since));
            let chosen = self.order.model.targets.get(attempt.target);
            if let Some((which, pass)) = chosen.and_then(|target| self.which_of(target)).zip(ticket.pass) {
                fleet.gate(which).breaker.on_sign_of_life(pass);
            }
        }
    }

    /// Nobody may be asked.
    pub(super) fn circuit_open(&self, now: Instant) -> Error {
        let wait_ms = self.shut_until.map_or(1000, |until| now.until(until)).max(1);
        let mut names: Vec<&str> = self.order.model.targets.iter().map(|target| &*target.endpoint.name).collect();
        names.dedup();
        let message = format!(
            "No endpoint is asked for the model `{}` now: the breakers of {} are open, because calls to them failed or an operator isolated them. Nothing was tried. Come back in {} s; GET /status tells an operator more.",
            self.order.model.name,
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            wait_ms.div_ceil(1000),
        );
        let mut error = Error::new(Code::CircuitOpen, message);
        error.retry_after_ms = Some(wait_ms);
        error
    }
}

impl Ticket {
    /// For so long it could not be told what came.
    pub(super) const fn excuse(&mut self, ms: u64) {
        self.since = self.since.after(ms);
    }

    /// Its time to the first content runs from here on.
    pub(super) const fn restart(&mut self, now: Instant) {
        self.since = now;
    }
}

/// Whether only one endpoint serves this entry.
fn is_alone(model: &Model) -> bool {
    let first = model.targets.first().map(|target| target.index);
    model.targets.iter().all(|target| Some(target.index) == first)
}
