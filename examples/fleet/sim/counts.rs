//! What is seen of a run while it goes on.

use super::{
    endpoint::{Fate, Mode},
    world::{ENDPOINTS, Isolate, View},
};
use fairlead_core::event::Event;
use std::collections::BTreeMap;

/// What was seen in one second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Calls that arrived,
    pub calls: u32,
    /// those of them that were answered in the end,
    pub answered: u32,
    /// and those that asked `a` first.
    pub at_a_first: u32,
    /// Attempts at either endpoint in this second,
    pub attempts: [u32; 2],
    /// and those at `a` that isolates made whose breaker for it was open: probes.
    pub probes: u32,
    /// Isolates that have had a call, at the beginning of this second,
    pub used: u32,
    /// and those of them whose breaker for `a` was open.
    pub open: u32,
}

/// Everything that was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub seconds: Vec<Second>,
    pub calls: u64,
    pub attempts: u64,
    /// Attempts at `a` that it did not answer, or only slowly.
    pub wasted: u64,
    /// How calls ended.
    pub outcomes: BTreeMap<String, u64>,
    /// Calls that ended with their isolate.
    pub cut: u64,
    /// The end of the longest opening that was running when `a` was well again.
    pub open_until: Option<u64>,
    /// The longest time that openings kept an isolate from `a`, which was well, by others' word alone.
    pub shut_out_ms: u64,
    pub reads: u64,
    pub writes: u64,
    pub refused: u64,
    used: u32,
    open: u32,
}

impl Counts {
    pub fn new(seconds: u64) -> Self {
        let seconds = usize::try_from(seconds).expect("fewer seconds than that");
        Self { seconds: vec![Second::default(); seconds + 1], ..Self::default() }
    }

    fn at(&mut self, ms: u64) -> &mut Second {
        let last = self.seconds.len() - 1;
        &mut self.seconds[((ms / 1000) as usize).min(last)]
    }

    pub fn on_call(&mut self, now: u64, isolate: &Isolate) {
        self.calls += 1;
        self.at(now).calls += 1;
        let mut view = isolate.view.borrow_mut();
        if !std::mem::replace(&mut view.is_used, true) {
            self.used += 1;
        }
    }

    pub fn on_attempt(&mut self, now: u64, endpoint: usize, mode: Mode, fate: &Fate) {
        self.attempts += 1;
        self.at(now).attempts[endpoint] += 1;
        let slow = matches!(mode, Mode::Slow { .. });
        self.wasted += u64::from(endpoint == 0 && (slow || matches!(fate, Fate::Refused { .. })));
    }

    /// A second begins.
    pub fn on_second(&mut self, now: u64) {
        let (used, open) = (self.used, self.open);
        let second = self.at(now);
        (second.used, second.open) = (used, open);
    }

    /// An isolate takes no more calls.
    pub fn on_leaving(&mut self, isolate: &Isolate) {
        let mut view = isolate.view.borrow_mut();
        self.used -= u32::from(view.is_used);
        self.open -= u32::from(view.open_until.is_some());
        view.is_leaving = true;
    }

    /// Something that an isolate told. `well_since`: `a` is well since then.
    pub fn on_event(&mut self, now: u64, arrived: u64, isolate: &Isolate, event: &Event, well_since: Option<u64>) {
        let mut view = isolate.view.borrow_mut();
        let is_a = |endpoint: &str| endpoint == ENDPOINTS[0];
        match event {
            Event::AttemptStarted { attempt, endpoint } if is_a(endpoint) => {
                view.told_at = None;
                self.at(now).probes += u32::from(view.open_until.is_some());
                self.at(arrived).at_a_first += u32::from(*attempt == 1);
            }
            Event::AttemptStarted { attempt: 1, .. } => self.on_turned_away(now, &view, well_since),
            Event::BreakerOpened { endpoint, entry: Some(_), reason, open_ms, one_client: false } if is_a(endpoint) => {
                let until = now + open_ms.unwrap_or(u64::MAX / 2);
                if view.open_until.replace(until).is_none() {
                    self.open += u32::from(!view.is_leaving);
                    view.told_at = (reason == "told").then_some(now);
                }
            }
            Event::BreakerClosed { endpoint, entry: Some(_), .. } if is_a(endpoint) => {
                view.told_at = None;
                if view.open_until.take().is_some() {
                    self.open -= u32::from(!view.is_leaving);
                }
            }
            Event::CallEnded { outcome, attempts, .. } => {
                if *attempts == 0 {
                    self.on_turned_away(now, &view, well_since);
                }
                self.at(arrived).answered += u32::from(outcome == "ok");
                match self.outcomes.get_mut(outcome) {
                    Some(count) => *count += 1,
                    None => drop(self.outcomes.insert(outcome.clone(), 1)),
                }
            }
            _ => {}
        }
    }

    fn on_turned_away(&mut self, now: u64, view: &View, well_since: Option<u64>) {
        let opening = view.open_until.filter(|until| now < *until);
        if let (Some(_), Some(told_at), Some(well_since)) = (opening, view.told_at, well_since) {
            self.shut_out_ms = self.shut_out_ms.max(now - told_at.max(well_since));
        }
    }

    /// Calls that were not answered.
    pub fn failed(&self) -> u64 {
        self.outcomes.iter().filter(|(outcome, _)| *outcome != "ok").map(|(_, count)| count).sum()
    }
}
