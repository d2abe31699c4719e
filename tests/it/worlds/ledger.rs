//! The retry budgets, kept a second time: asking an endpoint again is paid for, a success gives
//! back, and nothing else changes what is left.

use crate::host::State;
use fairlead_core::{event::Event, fleet::Fleet, policy::BudgetPolicy};
use std::{cell::RefCell, rc::Rc};

const ENDPOINTS: [&str; 4] = ["a", "b", "c", "d"];

/// The budgets of all endpoints during one call.
pub struct Ledger {
    fleet: Rc<RefCell<Fleet>>,
    policy: BudgetPolicy,
    /// What was left when the call began.
    before: [u32; 4],
}

impl Ledger {
    pub fn new(fleet: &Rc<RefCell<Fleet>>, policy: &BudgetPolicy) -> Self {
        let before = left(fleet, policy);
        Self { fleet: Rc::clone(fleet), policy: policy.clone(), before }
    }

    /// Every budget is what the requests so far leave of it. `resumes`: broken streams go on.
    pub fn check(&self, state: &State, resumes: bool) {
        let BudgetPolicy { capacity, transient_cost, throttled_cost, refund } = self.policy;
        let (cheap, dear) = (transient_cost.min(throttled_cost), transient_cost.max(throttled_cost));
        let started: Vec<&str> = started(state).collect();
        let hedges = hedges(state);
        // One that was cut off behind its end is ok, but no success of its endpoint's.
        let served = state.events.iter().find_map(|(_, event)| match event {
            Event::CallEnded { outcome, endpoint, .. } if outcome == "ok" => endpoint.as_deref(),
            _ => None,
        });
        let left = left(&self.fleet, &self.policy);
        for (place, endpoint) in ENDPOINTS.into_iter().enumerate() {
            let asked = started.iter().filter(|other| **other == endpoint).count() as u32;
            let repeats = asked.saturating_sub(1);
            // Whoever was too slow has paid for a hedge.
            let hedged = hedges.iter().filter(|hedge| started.get(**hedge - 2) == Some(&endpoint)).count() as u32;
            let paid = hedged * transient_cost;
            // The next attempt is paid for when it is decided, and may wait or never come.
            let decided = repeats + u32::from(is_decided(state));
            let back = if served == Some(endpoint) { refund } else { 0 };
            let with_back = |left: u32| (left + back).min(capacity);
            let affordable = self.before[place] >= repeats * cheap + paid;
            assert!(affordable, "{endpoint} was asked {asked} times with {} tokens", self.before[place]);
            let most = with_back(self.before[place] - repeats * cheap - paid);
            let least = self.before[place].saturating_sub(decided * dear + paid);
            let least = if resumes { least } else { with_back(least) };
            let is = left[place];
            assert!((least..=most).contains(&is), "{endpoint} has {is} tokens left, not {least} to {most}");
        }
    }
}

/// The numbers of attempts that were made beside another.
fn hedges(state: &State) -> Vec<usize> {
    let hedge = |(_, event): &(u64, Event)| match event {
        Event::HedgeStarted { attempt, .. } => Some(*attempt as usize),
        _ => None,
    };
    state.events.iter().filter_map(hedge).collect()
}

fn left(fleet: &RefCell<Fleet>, policy: &BudgetPolicy) -> [u32; 4] {
    let mut fleet = fleet.borrow_mut();
    [0, 1, 2, 3].map(|endpoint| fleet.budget(endpoint).left(policy))
}

/// Whom attempts were made at.
fn started(state: &State) -> impl Iterator<Item = &str> {
    state.events.iter().filter_map(|(_, event)| match event {
        Event::AttemptStarted { endpoint, .. } => Some(endpoint.as_str()),
        _ => None,
    })
}

/// Whether the last failure was followed by the decision to ask again, but not yet by a request.
fn is_decided(state: &State) -> bool {
    let last = state.events.iter().rev().find_map(|(_, event)| match event {
        Event::AttemptFailed { then, .. } => Some(matches!(*then, "retry" | "failover")),
        Event::AttemptStarted { .. } => Some(false),
        _ => None,
    });
    last == Some(true)
}
