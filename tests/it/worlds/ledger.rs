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

    /// Every budget is what the requests so far leave of it.
    pub fn check(&self, state: &State) {
        let BudgetPolicy { capacity, transient_cost, throttled_cost, refund } = self.policy;
        let (cheap, dear) = (transient_cost.min(throttled_cost), transient_cost.max(throttled_cost));
        let started: Vec<&str> = started(state).collect();
        let last_endpoint = started.last();
        let ok =
            state.events.iter().any(|(_, event)| matches!(event, Event::CallEnded { outcome, .. } if outcome == "ok"));
        let left = left(&self.fleet, &self.policy);
        for (place, endpoint) in ENDPOINTS.into_iter().enumerate() {
            let asked = started.iter().filter(|other| **other == endpoint).count() as u32;
            let repeats = asked.saturating_sub(1);
            // The next attempt is paid for when it is decided, and may wait or never come.
            let decided = repeats + u32::from(is_decided(state));
            let back = if ok && last_endpoint.is_some_and(|last| *last == endpoint) { refund } else { 0 };
            let with_back = |left: u32| (left + back).min(capacity);
            let affordable = self.before[place] >= repeats * cheap;
            assert!(affordable, "{endpoint} was asked {asked} times with {} tokens", self.before[place]);
            let most = with_back(self.before[place] - repeats * cheap);
            let least = with_back(self.before[place].saturating_sub(decided * dear));
            let is = left[place];
            assert!((least..=most).contains(&is), "{endpoint} has {is} tokens left, not {least} to {most}");
        }
    }
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
    let failures = state.events.iter().rev().filter_map(|(_, event)| match event {
        Event::AttemptFailed { attempt, then, .. } => Some((*attempt as usize, *then)),
        _ => None,
    });
    let mut failures = failures;
    failures
        .next()
        .is_some_and(|(attempt, then)| attempt == started(state).count() && matches!(then, "retry" | "failover"))
}
