//! What breakers and places promise, whatever happens: by the facts of all calls of a case, one behind another.

use crate::{host::State, record::Record, world::START};
use fairlead_core::{
    event::Event,
    fleet::{Fleet, Which},
    policy::BreakerPolicy,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

const ENDPOINTS: [&str; 4] = ["a", "b", "c", "d"];

/// A probe that does not end keeps the next one back for so long.
const PROBE_MS: u64 = 10_000;

/// What is known of the breakers of one isolate.
pub struct Doors {
    fleet: Rc<RefCell<Fleet>>,
    policy: Option<BreakerPolicy>,
    /// Until when an endpoint was told to be left alone, by everybody.
    open: BTreeMap<String, u64>,
    /// When the last probe went out, of those that have not ended.
    probes: BTreeMap<String, u64>,
    /// When the last call that was dropped is over in any case.
    dropped_until: u64,
}

impl Doors {
    pub const fn new(fleet: Rc<RefCell<Fleet>>) -> Self {
        Self { fleet, policy: None, open: BTreeMap::new(), probes: BTreeMap::new(), dropped_until: 0 }
    }

    /// Whether all of these are open to a call at this moment.
    pub fn are_all_shut(&self, endpoints: &BTreeSet<&str>, client: Option<usize>, at: u64) -> bool {
        let Some(policy) = &self.policy else { return false };
        let mut fleet = self.fleet.borrow_mut();
        endpoints.iter().all(|name| {
            let endpoint = ENDPOINTS.iter().position(|other| other == name).expect("an endpoint");
            let view = fleet.gate(Which { endpoint, entry: Some(0) }).breaker.view(START.after(at), policy);
            view.state == "open" && (view.one_client.is_none() || view.one_client == client)
        })
    }

    /// A call is over, or was dropped.
    pub fn see(&mut self, record: &Record) {
        self.policy.clone_from(&record.policy.breaker);
        let content: BTreeSet<&str> =
            record.requests.iter().filter(|sent| !sent.chunks.is_empty()).map(|sent| &*sent.endpoint).collect();
        let resumed = |attempt: u32| {
            let resumes = |(_, event): &(u64, Event)| matches!(event, Event::ResumeStarted { attempt: other, .. } if *other == attempt);
            record.events.iter().any(resumes)
        };
        for (at, event) in &record.events {
            match event {
                // Facts wait behind what a slow client has not taken: then nobody knows since when.
                Event::BreakerOpened { endpoint, open_ms: Some(open_ms), one_client: false, .. } if !record.slow => {
                    self.open.insert(endpoint.clone(), at + open_ms);
                    self.probes.remove(endpoint);
                }
                Event::BreakerOpened { endpoint, .. } | Event::BreakerClosed { endpoint, .. } => {
                    self.open.remove(endpoint);
                    self.probes.remove(endpoint);
                }
                Event::AttemptStarted { attempt, endpoint } if !record.slow => {
                    if resumed(*attempt) {
                        // Whoever was asked beside the one that broke was let go when that had content.
                        self.probes.clear();
                    }
                    self.see_attempt(*at, endpoint);
                }
                Event::AttemptFailed { endpoint, .. } => {
                    self.probes.remove(endpoint);
                }
                Event::CallEnded { .. } => self.probes.clear(),
                _ => {}
            }
        }
        self.probes.retain(|endpoint, _| !content.contains(&**endpoint));
        if !record.is_over() {
            self.dropped_until = self.dropped_until.max(record.deadline_ms);
        }
        let at = START.after(record.settled_at.max(self.dropped_until));
        let mut fleet = self.fleet.borrow_mut();
        for (endpoint, name) in ENDPOINTS.iter().enumerate() {
            assert_eq!(fleet.load(endpoint).in_flight(at), 0, "calls are in flight at {name} when all are over");
            assert_eq!(fleet.load(endpoint).waiting(at.after(1000)), 0, "calls wait at {name} when all are over");
        }
    }

    fn see_attempt(&mut self, at: u64, endpoint: &str) {
        let Some(until) = self.open.get(endpoint) else { return };
        assert!(at >= *until, "{endpoint} is asked at {at}, and was to be left alone until {until}");
        if let Some(last) = self.probes.insert(endpoint.to_owned(), at) {
            assert!(at >= last + PROBE_MS, "a probe at {last}, and another one at {at}");
        }
    }
}

/// A call that finds all shut asks nobody, and does not wait.
pub fn check_refused(state: &State, record: &Record) {
    let began = record.begins_at + record.upload_ms;
    assert!(state.requests.is_empty() && record.attempts() == 0, "nobody is asked where all are shut");
    let over = record.is_over() || state.events.iter().any(|(_, event)| matches!(event, Event::CallEnded { .. }));
    assert!(over || state.taking.count > 0 || state.now <= began, "nobody is waited for where all are shut");
}
