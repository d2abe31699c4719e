//! An attempt at a job queue: the operations of one job, and what of it the client gets to see.

use super::{Attempt, Call, Emit, Input, Output};
use crate::{
    classify::{Failure, JobFailure},
    error::{Code, Error},
    event::Event,
    fleet::{Fleet, Look},
    jobs::{self, Aim, Answer, IfJobs, Job, MAX_ANSWER, News, Op, Pace, Want, Word},
    message::ResponseHead,
    native::Verb,
    provider::runpod::{self, Lifetime},
    quota::Permit,
    settings::{Endpoint, Target},
    time::Instant,
};
use std::{cell::RefCell, collections::VecDeque, mem, rc::Rc};

/// A job, and the operation of it that is under way.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) job: Job,
    lifetime: Lifetime,
    /// The response to that operation, as far as it has come.
    head: Option<ResponseHead>,
    body: Vec<u8>,
    permit: Option<Permit>,
    /// Until when its endpoint counts it among those that are followed.
    followed: Instant,
    pub(super) sent_at: Instant,
    /// Outputs have come that do not say how a choice ends.
    pub(super) native: bool,
    torn: u32,
}

/// A job that nobody waits for any more.
#[derive(Debug)]
pub struct Settlement {
    /// Whose.
    pub endpoint: Rc<Endpoint>,
    /// Its place in `CONFIG`.
    pub index: usize,
    /// The job; `None` while its submission is not answered.
    pub job: Option<String>,
    /// The exchange that its submission waits for, and what has come of it.
    pub exchange: Option<u32>,
    /// See `exchange`.
    pub begun: (Option<ResponseHead>, Vec<u8>),
    /// For the endpoint's log.
    pub request_id: String,
    /// Fetches that may still be made for it.
    pub fetches: u32,
    /// Where cancels are counted.
    pub fleet: Rc<RefCell<Fleet>>,
}

/// Fetches that are kept for the end: a cancel, and a look whether it was taken.
const KEPT_FETCHES: u32 = 2;

/// Fetches at least for a job that is ended while its call goes on: three times a cancel and a look. Where
/// there are many, it may have a hundredth of them.
const SETTLING_FETCHES: u32 = 6;

/// What an attempt at a job takes at the least: its submission, a poll, its result, and its end.
const LEAST_FETCHES: u32 = 3 + KEPT_FETCHES;

/// So long `/runpod/…/stream` waits for something to tell: RunPod's npm SDK asks again at once,
/// some thousand times a second otherwise (wire facts, section 7, 11).
const PEEK_MS: u64 = 1000;

/// How long `/status-sync` waits where nobody says (RunPod's own default).
const WAIT_MS: u64 = 90_000;

/// So long before the deadline a client that asked to wait beyond it gets its job's state.
const LAST_STATE_MS: u64 = 500;

impl Call {
    /// The follower of the job that an attempt at this target is; `None` where it is none.
    pub(super) fn follower(&self, now: Instant, target: &Target) -> Option<IfJobs<Box<Follower>>> {
        if !jobs::ENABLED {
            return None;
        }
        let endpoint = &target.endpoint;
        let errand = self.order.ask.errand.as_deref();
        let wait_ms = errand.and_then(|errand| errand.wait_ms);
        let stream = self.order.ask.stream;
        // Whoever wants to wait longer than it may gets the state, too, not an error.
        let wait = |ms: u64| now.after(ms.min(now.until(self.deadline).saturating_sub(LAST_STATE_MS)));
        let (want, until) = match errand.map(|errand| errand.verb) {
            None if !endpoint.takes_jobs() => return None,
            None if stream => (Want::Outputs, None),
            None => (Want::Result, None),
            Some(Verb::Stream) if stream => (Want::Outputs, None),
            Some(Verb::Stream) => (Want::Peek, Some(now.after(PEEK_MS))),
            Some(Verb::StatusSync) => (Want::Result, Some(wait(wait_ms.unwrap_or(WAIT_MS)))),
            // One that may go on behind its caller keeps its stream to itself.
            Some(Verb::RunSync) if wait_ms.is_some() => (Want::Result, wait_ms.map(wait)),
            Some(Verb::RunSync) if errand.is_some_and(|errand| errand.keep) => (Want::Result, None),
            Some(Verb::RunSync) => (Want::ResultOrOutputs, None),
            Some(_) => return None,
        };
        let lifetime = errand.map_or_else(|| Lifetime::until(now, self.deadline, endpoint), |errand| errand.lifetime);
        let is_told = errand.is_none_or(|errand| errand.verb == Verb::RunSync && !errand.keep && wait_ms.is_none());
        let execution_ms = is_told.then_some(lifetime.execution_ms);
        let aim = Aim { want, deadline: self.deadline, execution_ms, until, aggregates: errand.is_none() };
        let job = match errand.and_then(|errand| errand.job.clone()) {
            Some(id) => Job::follow(now, aim, id),
            None => {
                let look = self.fleet.borrow_mut().queue(target.index).look(now);
                Job::submit(now, aim, errand.is_none() && look != Look::Queue)
            }
        };
        self.fleet.borrow_mut().queue(target.index).follow(now, self.deadline);
        let follower = Follower {
            job,
            lifetime,
            head: None,
            body: Vec::new(),
            permit: None,
            followed: self.deadline,
            sent_at: now,
            native: false,
            torn: 0,
        };
        jobs::if_jobs(Box::new(follower))
    }

    /// Whether a client asks for more than RunPod takes, at a time when that cannot be waited for. Jobs
    /// that are followed wait; and of cancels two thirds are kept for those that nobody waits for.
    pub(super) fn over_quota(&self, now: Instant, target: &Target) -> Option<Error> {
        let verb = self.order.ask.errand.as_ref()?.verb;
        if verb.is_followed() {
            return None;
        }
        let mut fleet = self.fleet.borrow_mut();
        let quota = fleet.queue(target.index).quota(verb.op())?;
        let parts = if verb == Verb::Cancel { 3 } else { 1 };
        let refusal = quota.take_share(now, 0, parts).err()?;
        let message = "RunPod takes no more of these requests for now. Come back later.";
        let mut error = Error::new(Code::RateLimited, message);
        error.retry_after_ms = Some(now.until(refusal.again));
        Some(error)
    }

    /// Whether a call may make as many more requests as a job at this endpoint takes at the least.
    pub(super) const fn affords_a_job(&self, endpoint: &Endpoint) -> bool {
        let used = self.exchanges.saturating_add(self.given_away).saturating_add(LEAST_FETCHES);
        used <= endpoint.max_subrequests
    }

    /// Sends whatever operations are due.
    pub(super) fn tend(&mut self, now: Instant) {
        if self.over || self.paused.is_some() {
            return;
        }
        let due = |attempt: &Attempt| Some((attempt.id, attempt.job.as_ref()?.job.due(now)?));
        while let Some((id, op)) = self.attempts.iter().find_map(due) {
            self.send_operation(now, id, op);
            if self.over {
                return;
            }
        }
    }

    fn send_operation(&mut self, now: Instant, id: u32, op: Op) {
        let request_id = self.attempt_id(id);
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let (Some(target), Some(follower)) = (self.order.model.targets.get(attempt.target), attempt.job.as_deref_mut())
        else {
            return;
        };
        let mut fleet = self.fleet.borrow_mut();
        let queue = fleet.queue(target.index);
        if op == Op::Health {
            match queue.look(now) {
                Look::Ask => queue.on_look(now),
                Look::NoWorkers
                    if self.route.has_others(attempt.target) && self.started < self.order.policy.max_attempts =>
                {
                    drop(fleet);
                    return self.on_failure(now, id, JobFailure::NoWorkers.into());
                }
                // A job that nobody else takes waits for a worker here.
                Look::NoWorkers | Look::Queue => return follower.job.skip_look(),
            }
        }
        let permit = match queue.quota(op).map(|quota| quota.take(now, op.limit_ms())) {
            Some(Err(refusal)) => return follower.job.defer(refusal.again),
            Some(Ok(permit)) => Some(permit),
            None => None,
        };
        let endpoint = Rc::clone(&target.endpoint);
        let ask = attempt.resuming.as_ref().and_then(|resuming| resuming.ask.as_deref()).unwrap_or(&self.order.ask);
        let request = match (op, &ask.errand) {
            (Op::Submit, Some(_)) => runpod::submission(&endpoint, Rc::clone(&ask.body), &request_id),
            (Op::Submit, None) => {
                // A look at the endpoint, or others' submissions, may have taken their time.
                follower.lifetime = Lifetime::until(now, self.deadline, &endpoint);
                follower.job.limit(follower.lifetime.execution_ms);
                let body = runpod::openai_job(ask, target, follower.lifetime);
                runpod::submission(&endpoint, body, &request_id)
            }
            (op, _) => Some(runpod::operation(&endpoint, op, follower.job.facts().id.as_deref(), &request_id)),
        };
        drop(fleet);
        let Some(request) = request else {
            return self.on_failure(now, id, JobFailure::TooLarge.into());
        };
        follower.permit = permit;
        follower.job.on_sent(now, op);
        let exchange = self.send(endpoint, id, request);
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) {
            attempt.exchange = Some(exchange);
        }
    }

    /// Something of the response to an operation.
    pub(super) fn on_job_response(&mut self, now: Instant, id: u32, input: Input<'_>) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let Some(follower) = attempt.job.as_deref_mut() else { return };
        match input {
            Input::Head { head, .. } => follower.head = Some(head),
            Input::Chunk { bytes, .. } if follower.body.len().saturating_add(bytes.len()) > MAX_ANSWER => {
                self.on_answered(now, id, false);
            }
            Input::Chunk { bytes, .. } => follower.body.extend_from_slice(bytes),
            Input::End { .. } => {
                let whole = follower.head.as_ref().is_some_and(|head| head.length_fits(follower.body.len()));
                self.on_answered(now, id, whole);
            }
            _ => self.on_answered(now, id, false),
        }
    }

    /// Something came when the call's time was over: of a submission it is taken in all the same, for
    /// it tells the id of a job that is to be cancelled.
    pub(super) fn on_late_response(&mut self, now: Instant, input: Input<'_>) {
        let (Input::Head { exchange, .. } | Input::Chunk { exchange, .. } | Input::End { exchange }) = &input else {
            return;
        };
        let waits = |attempt: &&mut Attempt| attempt.exchange == Some(*exchange) && attempt.is_submitting();
        let Some(attempt) = self.attempts.iter_mut().find(waits) else { return };
        let Some(follower) = attempt.job.as_deref_mut() else { return };
        match input {
            Input::Head { head, .. } => follower.head = Some(head),
            Input::Chunk { bytes, .. } => follower.body.extend_from_slice(bytes),
            _ => {
                attempt.exchange = None;
                let answer = match &follower.head {
                    Some(head) => Answer::Whole { head, body: mem::take(&mut follower.body) },
                    None => Answer::Lost,
                };
                drop(follower.job.on_answer(now, answer, Pace { fair_share_ms: 0, fetches: 0 }));
            }
        }
    }

    /// The timers of jobs, but for those that every attempt has.
    pub(super) fn on_job_timers(&mut self, now: Instant) {
        if self.paused.is_some() {
            return;
        }
        let ids: Vec<u32> = self.attempts.iter().map(|attempt| attempt.id).collect();
        for id in ids {
            let Some((follower, target)) = self
                .attempts
                .iter_mut()
                .find(|attempt| attempt.id == id)
                .and_then(|attempt| Some((attempt.job.as_deref_mut()?, attempt.target)))
            else {
                continue;
            };
            if follower.job.take_warning(now) {
                let limit_ms = follower.lifetime.execution_ms;
                let endpoint = self.name_of(target);
                self.out.push_back(Output::Event(Event::JobSlow { attempt: id, endpoint, limit_ms }));
            } else if follower.job.is_overdue(now) {
                if follower.job.under_way() == Some(Op::Submit) {
                    // Its answer may still come, and then there is something to cancel.
                    self.on_failure(now, id, JobFailure::SubmissionLost.into());
                } else {
                    self.on_answered(now, id, false);
                }
            } else if follower.job.is_waited_for(now) {
                self.tell_result(now, id);
            }
        }
    }

    /// An operation is over.
    fn on_answered(&mut self, now: Instant, id: u32, whole: bool) {
        self.release_answered(id, whole);
        let own = !self.asks_about_a_job();
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let (Some(target), Some(follower)) = (self.order.model.targets.get(attempt.target), attempt.job.as_deref_mut())
        else {
            return;
        };
        let left = target.endpoint.max_subrequests.saturating_sub(self.exchanges).saturating_sub(self.given_away);
        let mut fleet = self.fleet.borrow_mut();
        let queue = fleet.queue(target.index);
        if let (Some(permit), Some(op)) = (follower.permit.take(), follower.job.under_way())
            && let Some(quota) = queue.quota(op)
        {
            quota.give_back(permit);
        }
        let pace = Pace { fair_share_ms: queue.fair_share_ms(), fetches: left.saturating_sub(KEPT_FETCHES) };
        let (head, body) = (follower.head.take(), mem::take(&mut follower.body));
        let answer = match &head {
            Some(head) if whole => Answer::Whole { head, body },
            _ => Answer::Lost,
        };
        let submitting = follower.job.under_way() == Some(Op::Submit);
        let news = follower.job.on_answer(now, answer, pace);
        if submitting && follower.job.facts().id.is_some() {
            self.route.on_submitted();
        }
        let told = news.health.is_some();
        if let Some(health) = news.health.clone() {
            queue.on_health(now, health);
        }
        let no_workers = told && queue.look(now) == Look::NoWorkers;
        let at_work = match follower.job.facts().word {
            Some(Word::InProgress) => true,
            // It was taken and done between two polls, unless it is a client's own of long ago.
            Some(Word::Completed) => news.started && own,
            _ => false,
        };
        if at_work {
            queue.on_work(now);
        }
        let alone = !self.route.has_others(attempt.target) || self.started >= self.order.policy.max_attempts;
        drop(fleet);
        if no_workers && !alone {
            return self.on_failure(now, id, JobFailure::NoWorkers.into());
        }
        self.on_news(now, id, news);
    }

    /// The exchange has ended by itself, or is given up because it has not.
    fn release_answered(&mut self, id: u32, whole: bool) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let exchange = attempt.exchange.take();
        if let Some(exchange) = exchange.filter(|_| !whole) {
            self.out.push_front(Output::Abort { exchange });
        }
    }

    fn on_news(&mut self, now: Instant, id: u32, news: News) {
        let News { queued, started, pieces, end, .. } = news;
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let target = attempt.target;
        let Some(follower) = attempt.job.as_deref_mut() else { return };
        let queued_ms = now.since(follower.sent_at);
        let torn = follower.job.torn();
        let characters = torn.saturating_sub(mem::replace(&mut follower.torn, torn));
        // Nobody knows how long the handler of a client's own takes from output to output.
        if follower.job.is_in_doubt() || (started && self.order.ask.errand.is_some()) {
            attempt.timers.on_unseen();
        } else if started {
            attempt.timers.on_started(now);
        } else if queued {
            attempt.timers.on_queued(now);
        }
        if let Some(ticket) = attempt.ticket.as_mut().filter(|_| started) {
            ticket.restart(now);
        }
        if started {
            let endpoint = self.name_of(target);
            self.out.push_back(Output::Event(Event::JobStarted { attempt: id, endpoint, queued_ms }));
        }
        if characters > 0 {
            let endpoint = self.name_of(target);
            self.out.push_back(Output::Event(Event::CharactersDestroyed { attempt: id, endpoint, characters }));
        }
        if !pieces.is_empty()
            && let Some(Err(failure)) = self.feed(now, id, pieces)
        {
            return self.on_failure(now, id, failure);
        }
        match end {
            // Not before it is known to go on: another attempt would wait behind what the client is told.
            None if queued && self.streams_out() && !self.committed => {
                self.commit_stream(now);
                if let Some(comment) = self.queue_comment(now) {
                    self.emit(now, Emit::Bytes(comment));
                }
            }
            None => {}
            Some(Err(Failure::Job(_))) if self.may_tell_state(id) => self.tell_result(now, id),
            Some(Err(failure)) => self.on_failure(now, id, failure),
            Some(Ok(())) if torn > 0 => self.on_failure(now, id, JobFailure::Torn(torn).into()),
            Some(Ok(())) => self.on_job_done(now, id),
        }
    }

    /// A job whose attempt is dropped: told, and cancelled if nobody wants it to go on.
    pub(super) fn settle(&mut self, id: u32) {
        self.note_job();
        let request_id = self.attempt_id(id);
        // A job that was there before this call, or is to go on behind it.
        let keep = self.order.ask.errand.as_ref().is_some_and(|errand| errand.keep || errand.verb != Verb::RunSync);
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let target = attempt.target;
        let exchange = attempt.exchange.take();
        let Some(follower) = attempt.job.take().map(jobs::pointer) else { return };
        let Some(Target { endpoint, index, .. }) = self.order.model.targets.get(target) else { return };
        let mut fleet = self.fleet.borrow_mut();
        let queue = fleet.queue(*index);
        queue.unfollow(follower.followed);
        if let (Some(permit), Some(op)) = (follower.permit, follower.job.under_way())
            && let Some(quota) = queue.quota(op)
        {
            quota.give_back(permit);
        }
        drop(fleet);
        let facts = follower.job.facts();
        if facts.id.is_some() {
            self.out.push_back(Output::Event(Event::JobEnded {
                attempt: id,
                endpoint: endpoint.name.clone(),
                status: facts.word.map(Word::as_str),
                delay_ms: facts.delay_ms,
                execution_ms: facts.execution_ms,
                worker: facts.worker.clone(),
            }));
        }
        let withdrawn = exchange.is_some_and(|exchange| withdraw(&mut self.out, exchange));
        if withdrawn || !follower.job.may_run() || keep {
            exchange.into_iter().for_each(|exchange| self.out.push_front(Output::Abort { exchange }));
            return;
        }
        let left = endpoint.max_subrequests.saturating_sub(self.exchanges).saturating_sub(self.given_away);
        // As long as the call goes on, so do its own requests.
        let fetches = if self.over { left } else { left.min(SETTLING_FETCHES.max(left / 100)) };
        self.given_away = self.given_away.saturating_add(fetches);
        let settlement = Settlement {
            endpoint: Rc::clone(endpoint),
            index: *index,
            job: facts.id.clone(),
            exchange,
            begun: (follower.head, follower.body),
            request_id,
            fetches,
            fleet: Rc::clone(&self.fleet),
        };
        self.settlements.extend(jobs::if_jobs(Box::new(settlement)));
    }

    /// Lets a job go its way, if it has not ended.
    pub(super) fn let_go_on(&mut self, id: u32) {
        self.note_job();
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let Some(follower) = attempt.job.take_if(|follower| follower.job.may_run()) else { return };
        if let Some(target) = self.order.model.targets.get(attempt.target) {
            self.fleet.borrow_mut().queue(target.index).unfollow(follower.followed);
        }
    }

    fn name_of(&self, target: usize) -> String {
        self.order.model.targets.get(target).map(|target| target.endpoint.name.clone()).unwrap_or_default()
    }
}

/// Takes back a request that has not gone out yet.
pub(super) fn withdraw(out: &mut VecDeque<Output>, exchange: u32) -> bool {
    let place =
        out.iter().position(|output| matches!(output, Output::Send { exchange: other, .. } if *other == exchange));
    place.is_some_and(|place| out.remove(place).is_some())
}
