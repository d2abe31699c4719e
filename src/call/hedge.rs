//! Hedging: when an attempt is awaited for longer than usual, another target is asked as well. The first of the two to
//! bring content wins; the other is given up.
//!
//! It is for the slow few of otherwise healthy endpoints (Dean and Barroso, "The Tail at Scale", 2013), so it may only
//! ever cost a little: one hedge in a call, for a share of an entry's calls, paid for like a repeat, never in place of a
//! wait, and nobody is asked for it who is shut or full.

use super::{Attempt, Call, LEAST_USEFUL_MS, Output, admission::Ticket};
use crate::{config::HedgeAfter, event::Event, route::Next, time::Instant};

/// The attempt that a call may hedge.
#[derive(Debug, Default)]
pub(super) struct Hedging {
    /// None once content has come.
    awaited: Option<Awaited>,
    /// There was a hedge, and there will be no other.
    done: bool,
}

/// An attempt that is no hedge, until there is content.
#[derive(Debug)]
struct Awaited {
    attempt: u32,
    since: Instant,
    /// So long behind that a hedge is due; `None`: it was, or there is none.
    after_ms: Option<u64>,
}

impl Hedging {
    /// For so long up to now nobody listened.
    pub(super) fn excuse(&mut self, now: Instant, ms: u64) {
        if let Some(Awaited { since, .. }) = &mut self.awaited {
            *since = since.after(ms).min(now).max(*since);
        }
    }
}

impl Call {
    /// An attempt has gone out that is no hedge.
    pub(super) fn on_awaited(&mut self, now: Instant, target: usize) {
        let fits = self.order.ask.stream && self.first_content.is_none();
        let Some(hedge) = self.order.policy.hedge.filter(|_| fits) else { return };
        // There is no entry behind what a client wants of its own jobs.
        let Some(entry) = self.order.model.index else { return };
        let endpoint = self.endpoint_index(target);
        let mut fleet = self.fleet.borrow_mut();
        if self.started == 1 {
            fleet.hedges(entry).on_call(hedge.share_ppm);
        }
        let after_ms = match hedge.after {
            _ if self.hedging.done => None,
            HedgeAfter::Ms(ms) => Some(ms),
            HedgeAfter::P95 => fleet.load(endpoint).awaited_p95_ms(now),
        };
        drop(fleet);
        self.hedging.awaited = Some(Awaited { attempt: self.started, since: now, after_ms });
    }

    /// When to look whether another target is to be asked.
    pub(super) fn hedge_at(&self) -> Option<Instant> {
        let Awaited { since, after_ms, .. } = self.hedging.awaited.as_ref().filter(|_| self.paused.is_none())?;
        after_ms.map(|ms| since.after(ms))
    }

    /// Asks another target if it is time, and if that may be.
    pub(super) fn hedge(&mut self, now: Instant) {
        if self.hedge_at().is_none_or(|at| now < at) {
            return;
        }
        let Some(awaited) = &mut self.hedging.awaited else { return };
        awaited.after_ms = None;
        let after_ms = now.since(awaited.since);
        // Whoever has refused it only explains why.
        let refused = self.attempts.iter().any(Attempt::is_refused);
        let alone = self.attempts.len() == 1 && self.waiting.is_none() && self.line.is_none() && !refused;
        let late = now.after(LEAST_USEFUL_MS) > self.deadline;
        if !alone || late || self.started >= self.order.policy.max_attempts {
            return;
        }
        let Some((target, ticket)) = self.choose_hedge(now) else { return };
        self.hedging.done = true;
        let endpoint = self.order.model.targets.get(target).map(|target| target.endpoint.name.clone());
        self.out.push_back(Output::Event(Event::HedgeStarted {
            attempt: self.started.saturating_add(1),
            endpoint: endpoint.unwrap_or_default(),
            after_ms,
        }));
        self.launch(now, target, ticket);
    }

    /// Whom to ask beside the attempt that is awaited: the next whose endpoint this call has not asked, if it is neither
    /// shut nor full, and if the hedge is within its share and the budget.
    ///
    /// The endpoint that is too slow pays, whose other calls fill its budget again. The next in a `failover` has none but
    /// these, and after some of them could never pay for one more.
    fn choose_hedge(&mut self, now: Instant) -> Option<(usize, Ticket)> {
        let entry = self.order.model.index?;
        if !self.fleet.borrow_mut().hedges(entry).has_one() {
            return None;
        }
        let mut passed_by = Vec::new();
        let shut_until = self.shut_until;
        let found = loop {
            let Next::First { target } = self.next_target(now, &passed_by) else { break None };
            match self.enter(now, target, None) {
                Ok(ticket) => break Some((target, ticket)),
                Err(_) => passed_by.push(target),
            }
        };
        // Whoever is shut now may be open by the time that the call has to ask somebody else.
        self.shut_until = shut_until;
        let (target, ticket) = found?;
        let slow = self.endpoint_index(self.last_target);
        let mut fleet = self.fleet.borrow_mut();
        if fleet.budget(slow).withdraw(&self.order.policy.budget, false) {
            fleet.hedges(entry).spend();
            return Some((target, ticket));
        }
        drop(fleet);
        self.tear(now, target, ticket);
        None
    }

    /// The first content has come, from this attempt. What is told of the call from here on is told of its endpoint.
    pub(super) fn on_race_won(&mut self, now: Instant, id: u32) {
        let target_of = |id: u32| self.attempts.iter().find(|attempt| attempt.id == id).map(|attempt| attempt.target);
        let winners = target_of(id);
        let awaited = self.hedging.awaited.take();
        let hedges_by_p95 = self.order.policy.hedge.is_some_and(|hedge| hedge.after == HedgeAfter::P95);
        // An attempt that its hedge has outrun counts for as long as it was awaited, which is more than the 95th
        // percentile: without such samples the slow would vanish from the measure, it would sink, and hedges would become
        // ever more. Hedges give none: of theirs only the fast would be known.
        let sample =
            awaited.filter(|_| hedges_by_p95).and_then(|awaited| Some((target_of(awaited.attempt)?, awaited.since)));
        if let Some((target, since)) = sample {
            let endpoint = self.endpoint_index(target);
            self.fleet.borrow_mut().load(endpoint).on_awaited(now, now.since(since));
        }
        self.last_target = winners.unwrap_or(self.last_target);
    }
}
