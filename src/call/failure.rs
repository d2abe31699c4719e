//! What follows when an attempt has failed: another one, or the client's answer.

use super::{Call, Emit, LEAST_USEFUL_MS, Output, admission::Ticket};
use crate::{
    classify::{Failure, JobFailure},
    config::OnDeadline,
    event::Event,
    native,
    provider::{runpod, vllm},
    route::Next,
    settings::Target,
    time::Instant,
};
use std::rc::Rc;

impl Call {
    pub(super) fn on_failure(&mut self, now: Instant, id: u32, failure: Failure) {
        let failure = self.plain(id, failure);
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.id == id) else { return };
        let (target, submitting) = (attempt.target, attempt.is_submitting());
        self.last_target = target;
        let outcome = self.outcome_of(&failure);
        self.conclude(now, id, outcome);
        // The limit of a job that follows from the deadline comes shortly before it.
        let out_of_time = matches!(failure, Failure::Job(JobFailure::TimedOut { .. } | JobFailure::Expired));
        let late = now.until(self.deadline) <= runpod::EXECUTION_MARGIN_MS;
        if out_of_time && late && self.order.policy.on_deadline == OnDeadline::Partial && self.tell_partial(now) {
            return;
        }
        if self.winner == Some(id) {
            self.tell_failure(id, &failure, "content_shown", 0);
            let error = self.story().error(&failure, now);
            return self.fail(now, &error);
        }
        if submitting && failure != Failure::Job(JobFailure::SubmissionLost) {
            self.route.on_lost_submission();
        }
        self.drop_attempt(now, id);
        let verdict = failure.verdict(now);
        self.route.on_failure(target, &failure, verdict, now, self.order.policy.retry_after_max_ms);
        if !self.attempts.is_empty() {
            return self.tell_failure(id, &failure, "another_attempt_runs", 0);
        }
        match self.choose(now) {
            Ok((at, next, ticket)) => {
                let same = self.endpoint_index(next) == self.endpoint_index(target);
                self.tell_failure(id, &failure, if same { "retry" } else { "failover" }, now.until(at));
                self.failure = Some(failure);
                match ticket {
                    Some(ticket) => self.launch(now, next, ticket),
                    None => self.waiting = Some((at, next)),
                }
            }
            Err(why) => {
                self.tell_failure(id, &failure, why, 0);
                self.give_up(now, &failure);
            }
        }
    }

    /// A failure as what it is without a job or a proxy around it.
    fn plain(&self, id: u32, failure: Failure) -> Failure {
        let proxied = self.attempts.iter().any(|attempt| attempt.id == id && attempt.proxied);
        match failure {
            Failure::Job(failure) if self.order.ask.errand.is_some() => Failure::Job(failure.as_told()),
            Failure::Job(failure) => failure.unwrapped(),
            failure if proxied => runpod::refusal(failure),
            failure => failure,
        }
    }

    /// The first attempt.
    pub(super) fn begin(&mut self, now: Instant) {
        match self.choose(now) {
            Ok((_, target, Some(ticket))) => self.launch(now, target, ticket),
            Ok((at, target, None)) => self.waiting = Some((at, target)),
            Err("circuit_open") => {
                let error = self.circuit_open(now);
                self.fail(now, &error);
            }
            // Settings have no model without a target, but a job carries no file.
            Err(_) => self.give_up(now, &Failure::Job(JobFailure::Unfit)),
        }
    }

    /// A repeat that was waited for. It is paid for; but while it waited its endpoint may have been shut.
    pub(super) fn ask_again(&mut self, now: Instant, target: usize) {
        if let Ok(ticket) = self.enter(now, target) {
            return self.launch(now, target, ticket);
        }
        self.route.on_shut(target);
        match (self.choose(now), self.failure.take()) {
            (Ok((_, target, Some(ticket))), _) => self.launch(now, target, ticket),
            (Ok((at, target, None)), failure) => {
                self.failure = failure;
                self.waiting = Some((at, target));
            }
            (Err(_), Some(failure)) => self.give_up(now, &failure),
            (Err(_), None) => {
                let error = self.circuit_open(now);
                self.fail(now, &error);
            }
        }
    }

    /// Whom to ask next, and when: with a ticket for whoever is asked at once. Or why nobody.
    fn choose(&mut self, now: Instant) -> Result<(Instant, usize, Option<Ticket>), &'static str> {
        let policy = Rc::clone(&self.order.policy);
        if self.started >= policy.max_attempts {
            return Err("attempts_spent");
        }
        loop {
            let (at, target, paid) = match self.next_target() {
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
            // Whoever is shut now is not waited for.
            let ticket = match self.enter(now, target) {
                Ok(ticket) => ticket,
                Err(_) => {
                    self.route.on_shut(target);
                    continue;
                }
            };
            let endpoint = self.endpoint_index(target);
            let price = |throttled| self.fleet.borrow_mut().budget(endpoint).withdraw(&policy.budget, throttled);
            let ticket = Some(ticket);
            if !paid.is_none_or(price) {
                self.tear(now, target, ticket);
                return Err("budget_spent");
            }
            return Ok((at, target, if at <= now { ticket } else { self.tear(now, target, ticket) }));
        }
    }

    /// The target that comes next. Those that take jobs are passed by where the request has a file,
    /// which no job carries, where two jobs may be at work for it already, or where too few fetches
    /// are left to follow another.
    pub(super) fn next_target(&self) -> Next {
        let unfit = self.order.ask.api.takes_form() || self.route.has_lost_enough();
        let passed_by =
            |Target { endpoint, .. }: &Target| endpoint.takes_jobs() && (unfit || !self.affords_a_job(endpoint));
        self.route.next(|target| self.order.model.targets.get(target).is_some_and(passed_by))
    }

    /// No attempt is left: the last failure becomes the client's answer.
    pub(super) fn give_up(&mut self, now: Instant, failure: &Failure) {
        match failure {
            // RunPod does not know the job, or not any more.
            Failure::Status { head, .. } if head.status == 404 && self.asks_about_a_job() => {
                self.fail(now, &native::not_found());
            }
            Failure::Job(JobFailure::Unknown) => self.fail(now, &native::not_found()),
            // The endpoint's own answer to the caller's own mistake.
            Failure::Status { head, body: Some(body) } if !self.committed && Failure::is_refusal(head.status) => {
                let mut headers = vllm::returned(&head.headers);
                headers.set("x-should-retry", "false");
                self.commit(now, head.status, headers);
                self.emit(now, Emit::Bytes(body.clone()));
                self.end(now, true, &format!("upstream_{}", head.status), None);
            }
            failure => {
                let error = self.story().error(failure, now);
                self.fail(now, &error);
            }
        }
    }

    fn tell_failure(&mut self, attempt: u32, failure: &Failure, then: &'static str, wait_ms: u64) {
        let endpoint = self.endpoint_name();
        self.out.push_back(Output::Event(Event::AttemptFailed {
            attempt,
            endpoint,
            reason: failure.reason(),
            then,
            wait_ms,
        }));
    }
}
