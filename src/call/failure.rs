//! What follows when an attempt has failed: another one, or the client's answer.

use super::{Call, Emit, Output, attempt::Voice, choice::Plan};
use crate::{
    classify::{Failure, JobFailure, Told, Verdict},
    config::{OnDeadline, Provider},
    event::Event,
    jobs::pointer,
    message::Headers,
    native,
    provider::{fairlead, runpod, vllm},
    time::Instant,
};

impl Call {
    pub(super) fn on_failure(&mut self, now: Instant, id: u32, failure: Failure) {
        let failure = self.plain(id, failure);
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.id == id) else { return };
        let (target, submitting) = (attempt.target, attempt.is_submitting());
        self.last_target = target;
        let outcome = self.outcome_of(&failure);
        self.conclude(now, id, outcome);
        // The limit of a job that follows from the deadline comes shortly before it.
        let out_of_time = matches!(failure.of_job(), Some(JobFailure::TimedOut { .. } | JobFailure::Expired));
        let late = now.until(self.deadline) <= runpod::EXECUTION_MARGIN_MS;
        let partial = self.order.policy.on_deadline == OnDeadline::Partial;
        if out_of_time && late && partial && (self.tell_partial(now) || self.cut_short(now)) {
            return;
        }
        let shown = self.winner == Some(id);
        if shown && self.end_finished(now, id) {
            return;
        }
        if shown && let Err(why) = self.interrupt(now, id, &failure) {
            self.tell_failure(id, &failure, why, 0);
            if self.interruption.is_some() {
                return self.fail_interrupted(now, None);
            }
            let error = self.story().error(&failure, now);
            return self.fail(now, &error);
        }
        if submitting && failure.of_job() != Some(&JobFailure::SubmissionLost) {
            self.route.on_lost_submission();
        }
        let otherwise = if shown { None } else { self.on_not_resumed(now, id, &failure) };
        self.drop_attempt(now, id);
        let verdict = otherwise.unwrap_or_else(|| failure.verdict(now));
        if matches!(verdict, Verdict::Retry { .. } | Verdict::NextTarget) {
            let endpoint = self.endpoint_index(target);
            self.fleet.borrow_mut().load(endpoint).on_failure(now);
        }
        // Whoever has brought content of the answer has not died of the question.
        let died = failure.is_death() && !(shown && failure == Failure::Cut);
        self.route.on_failure(target, &failure, verdict, died, now, self.order.policy.retry_after_max_ms);
        if !self.attempts.is_empty() {
            return self.tell_failure(id, &failure, "another_attempt_runs", 0);
        }
        match self.choose(now) {
            Ok(plan) => {
                let (wait_ms, next) = match &plan {
                    Plan::Ask(next, _) => (0, Some(*next)),
                    Plan::Later(at, next) => (now.until(*at), Some(*next)),
                    Plan::Line => (0, None),
                };
                let then = match next.map(|next| self.endpoint_index(next)) {
                    None => "line",
                    Some(endpoint) if endpoint == self.endpoint_index(target) => "retry",
                    Some(_) => "failover",
                };
                self.tell_failure(id, &failure, then, wait_ms);
                self.failure = Some(failure);
                self.follow(now, plan);
            }
            Err(why) => {
                self.tell_failure(id, &failure, why, 0);
                self.give_up(now, &failure);
            }
        }
    }

    /// A failure as what it is without a job or a proxy around it.
    fn plain(&self, id: u32, failure: Failure) -> Failure {
        let voice = self.attempts.iter().find(|attempt| attempt.id == id).map(|attempt| attempt.voice);
        match failure {
            Failure::Job(failure) if self.order.ask.errand.is_some() => pointer(failure).as_told().into(),
            Failure::Job(failure) => pointer(failure).unwrapped(),
            failure => match voice {
                Some(Voice::Proxy) => runpod::refusal(failure),
                Some(Voice::Gateway) => fairlead::refusal(failure),
                Some(Voice::Server) | None => failure,
            },
        }
    }

    /// No attempt is left: the last failure becomes the client's answer.
    pub(super) fn give_up(&mut self, now: Instant, failure: &Failure) {
        if self.interruption.is_some() {
            return self.fail_interrupted(now, Some(failure));
        }
        match failure {
            // RunPod does not know the job, or not any more.
            Failure::Status { head, .. } if head.status == 404 && self.asks_about_a_job() => {
                self.fail(now, &native::not_found());
            }
            Failure::Job(failure) if **failure == JobFailure::Unknown => self.fail(now, &native::not_found()),
            // The endpoint's own answer to the caller's own mistake.
            Failure::Status { head, body: Some(body) } if !self.committed && Failure::is_refusal(head.status) => {
                let target = self.order.model.targets.get(self.last_target);
                // Behind a gateway it is what the gateway has passed on.
                let headers = match target.map(|target| target.endpoint.provider) {
                    Some(Provider::Fairlead) => fairlead::returned(&head.headers),
                    _ => vllm::returned(&head.headers),
                };
                self.pass_on(now, head.status, headers, body);
                self.end(now, true, &format!("upstream_{}", head.status), None);
            }
            Failure::Told(told)
                if let Told { error, answer: Some((head, body)) } = &**told
                    && !self.committed =>
            {
                self.pass_on(now, head.status, fairlead::returned(&head.headers), body);
                self.end(now, true, error.code.as_str(), error.param.clone());
            }
            failure => {
                let error = self.story().error(failure, now);
                self.fail(now, &error);
            }
        }
    }

    /// An endpoint's own answer goes to the caller as it is.
    fn pass_on(&mut self, now: Instant, status: u16, mut headers: Headers, body: &[u8]) {
        if headers.get("x-should-retry").is_none() {
            headers.set("x-should-retry", "false");
        }
        self.commit(now, status, headers);
        self.emit(now, Emit::Bytes(body.to_vec()));
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
