//! Whom a call asks next, and when: its route, its budget, and a place in line where all have enough to do.

use super::{Call, LEAST_USEFUL_MS, admission::Ticket, admission::Turned};
use crate::{
    classify::JobFailure,
    config::Media,
    error::{Code, Error},
    load::{POLL_MS, Ticket as Turn, longest_wait_ms},
    route::Next,
    settings::Target,
    time::Instant,
};
use std::rc::Rc;

/// What comes next.
#[derive(Debug)]
pub(super) enum Plan {
    /// Ask this target now.
    Ask(usize, Ticket),
    /// Ask this one later.
    Later(Instant, usize),
    /// Wait for a place.
    Line,
}

/// Waiting for a place at endpoints that have enough to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    turn: Turn,
    until: Instant,
    /// The target of a repeat that is paid for.
    paid: Option<usize>,
}

impl Call {
    /// The first attempt.
    pub(super) fn begin(&mut self, now: Instant) {
        match self.choose(now) {
            Ok(plan) => self.follow(now, plan),
            Err(why) => self.refuse(now, why),
        }
    }

    /// A repeat that was waited for. It is paid for; but while it waited its endpoint may have been shut, or filled.
    pub(super) fn ask_again(&mut self, now: Instant, target: usize) {
        match self.enter(now, target, self.line.map(|line| line.turn)) {
            Ok(ticket) => {
                self.paid = None;
                self.follow(now, Plan::Ask(target, ticket));
            }
            Err(Turned::Full) => match self.stand_in_line(now, &[target], Some(target)) {
                true => self.follow(now, Plan::Line),
                false => {
                    self.give_back(target);
                    self.refuse(now, "no_room");
                }
            },
            Err(Turned::Shut) => {
                self.leave_line();
                self.give_back(target);
                self.route.on_shut(target);
                self.begin(now);
            }
        }
    }

    /// A repeat that was paid for does not come to pass.
    fn give_back(&mut self, target: usize) {
        let Some(throttled) = self.paid.take() else { return };
        let endpoint = self.endpoint_index(target);
        self.fleet.borrow_mut().budget(endpoint).give_back(&self.order.policy.budget, throttled);
    }

    /// Looks whether a place has become free.
    pub(super) fn look_for_room(&mut self, now: Instant) {
        match self.line {
            Some(Line { paid: Some(target), .. }) => self.ask_again(now, target),
            _ => self.begin(now),
        }
    }

    pub(super) fn follow(&mut self, now: Instant, plan: Plan) {
        match plan {
            Plan::Ask(target, ticket) => {
                self.leave_line();
                self.launch(now, target, ticket);
                self.on_awaited(now, target);
            }
            Plan::Later(at, target) => {
                self.leave_line();
                self.waiting = Some((at, target));
            }
            Plan::Line => {
                let until = self.line.map_or(now, |line| line.until);
                self.looks_at = now.after(POLL_MS).min(until);
            }
        }
    }

    /// Nobody is asked any more: what failed last is the answer, or why nothing was tried.
    fn refuse(&mut self, now: Instant, why: &'static str) {
        self.leave_line();
        if let Some(failure) = self.failure.take() {
            return self.give_up(now, &failure);
        }
        let error = match why {
            "circuit_open" => self.circuit_open(now),
            "no_room" => self.no_room(),
            // Settings have no model without a target, but a job carries no file.
            _ => return self.give_up(now, &JobFailure::Unfit.into()),
        };
        self.fail(now, &error);
    }

    /// Whom to ask next, and when; or why nobody.
    pub(super) fn choose(&mut self, now: Instant) -> Result<Plan, &'static str> {
        let policy = Rc::clone(&self.order.policy);
        if self.started >= policy.max_attempts {
            return Err("attempts_spent");
        }
        let mut full = Vec::new();
        loop {
            let (at, target, paid) = match self.next_target(now, &full) {
                Next::Nobody if !full.is_empty() => {
                    return if self.stand_in_line(now, &full, None) { Ok(Plan::Line) } else { Err("no_room") };
                }
                Next::Nobody if self.shut_until.is_some() => return Err("circuit_open"),
                Next::Nobody => return Err("nobody_left"),
                Next::First { target } => (now, target, None),
                Next::Again { target, repeat, throttled, not_before } => {
                    let wait = policy.backoff.wait_ms(&mut self.rng, repeat, throttled);
                    (now.after(wait).max(not_before.unwrap_or(now)), target, Some(throttled))
                }
            };
            if self.started > 0 && at.after(LEAST_USEFUL_MS) > self.deadline {
                return Err("no_time_left");
            }
            // Whoever would turn it away now is not waited for.
            let ticket = match self.enter(now, target, self.line.map(|line| line.turn)) {
                Ok(ticket) => ticket,
                Err(Turned::Full) => {
                    full.push(target);
                    continue;
                }
                Err(Turned::Shut) => {
                    self.route.on_shut(target);
                    continue;
                }
            };
            let endpoint = self.endpoint_index(target);
            let price = |throttled| self.fleet.borrow_mut().budget(endpoint).withdraw(&policy.budget, throttled);
            if !paid.is_none_or(price) {
                self.tear(now, target, ticket);
                return Err("budget_spent");
            }
            if at <= now {
                return Ok(Plan::Ask(target, ticket));
            }
            self.tear(now, target, ticket);
            self.paid = paid;
            return Ok(Plan::Later(at, target));
        }
    }

    /// The target that comes next, of those that are not `full`. Those that take jobs are passed by where the request
    /// has a file, which no job carries, where two jobs may be at work for it already, or where too few fetches are
    /// left to follow another. Nor is anybody asked who must not fetch what the request names.
    pub(super) fn next_target(&self, now: Instant, full: &[usize]) -> Next {
        let unfit = self.order.ask.api.takes_form() || self.route.has_lost_enough();
        let passed_by = |Target { endpoint, .. }: &Target| {
            let fetches_not = self.order.ask.has_address && endpoint.media == Media::Data;
            fetches_not || endpoint.takes_jobs() && (unfit || !self.affords_a_job(endpoint))
        };
        // Nobody is asked to go on who cannot.
        let broken = self.interruption.is_some();
        let is_out = |target| full.contains(&target) || broken && self.way(now, target).is_err();
        self.route.next(|target| is_out(target) || self.order.model.targets.get(target).is_some_and(passed_by))
    }

    /// Gets in line at these targets, or says that it is still there. False: it has waited long enough, or too many
    /// wait.
    fn stand_in_line(&mut self, now: Instant, targets: &[usize], paid: Option<usize>) -> bool {
        let mut fleet = self.fleet.borrow_mut();
        let patient = fleet.is_patient();
        let longest_ms = if patient { u64::MAX } else { longest_wait_ms(now.until(self.deadline)) };
        let line =
            *self.line.get_or_insert_with(|| Line { turn: fleet.issue_turn(), until: now.after(longest_ms), paid });
        let mut waits = false;
        for target in targets.iter().filter_map(|target| self.order.model.targets.get(*target)) {
            let most = target.endpoint.max_concurrency.filter(|_| !patient).unwrap_or(u32::MAX);
            waits |= fleet.load(target.index).wait(now, line.turn, most);
        }
        waits && now < line.until
    }

    pub(super) fn leave_line(&mut self) {
        let Some(line) = self.line.take() else { return };
        let mut fleet = self.fleet.borrow_mut();
        self.order.model.targets.iter().for_each(|target| fleet.load(target.index).leave_queue(line.turn));
    }

    /// All endpoints have as many calls as they may, and as many wait.
    fn no_room(&self) -> Error {
        let mut known = Vec::new();
        let mut most = 0u32;
        for Target { index, endpoint, .. } in &self.order.model.targets {
            // One endpoint may be there under several models.
            if !known.contains(index) {
                known.push(*index);
                most = most.saturating_add(endpoint.max_concurrency.unwrap_or(0));
            }
        }
        let message = format!(
            "The endpoints of the model `{}` have all the calls that `max_concurrency` lets them have ({most}), and no place became free in time. Nothing was tried. Come back later, raise `max_concurrency`, or add a target to `models`.",
            self.order.model.name
        );
        let mut error = Error::new(Code::UpstreamOverloaded, message);
        error.retry_after_ms = Some(1000);
        error
    }
}
