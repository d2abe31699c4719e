//! What follows when an attempt has failed: another one, or the client's answer.

use super::{Call, Emit, LEAST_USEFUL_MS, Output};
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
        self.drop_attempt(id);
        let verdict = failure.verdict(now);
        self.route.on_failure(target, &failure, verdict, now, self.order.policy.retry_after_max_ms);
        if !self.attempts.is_empty() {
            return self.tell_failure(id, &failure, "another_attempt_runs", 0);
        }
        match self.choose(now) {
            Ok((at, next)) => {
                let same = self.endpoint_index(next) == self.endpoint_index(target);
                self.tell_failure(id, &failure, if same { "retry" } else { "failover" }, now.until(at));
                if at <= now { self.launch(now, next) } else { self.waiting = Some((at, next)) }
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

    /// Whom to ask next, and when; or why nobody.
    fn choose(&mut self, now: Instant) -> Result<(Instant, usize), &'static str> {
        let policy = Rc::clone(&self.order.policy);
        if self.started >= policy.max_attempts {
            return Err("attempts_spent");
        }
        let (at, target, paid) = match self.next_target() {
            Next::Nobody => return Err("nobody_left"),
            Next::First { target } => (now, target, None),
            Next::Again { target, repeat, throttled, not_before } => {
                let wait = policy.backoff.wait_ms(&mut self.rng, repeat, throttled);
                (now.after(wait).max(not_before.unwrap_or(now)), target, Some(throttled))
            }
        };
        if at.after(LEAST_USEFUL_MS) > self.deadline {
            return Err("no_time_left");
        }
        let endpoint = self.endpoint_index(target);
        let affordable =
            paid.is_none_or(|throttled| self.fleet.borrow_mut().budget(endpoint).withdraw(&policy.budget, throttled));
        if !affordable {
            return Err("budget_spent");
        }
        Ok((at, target))
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
