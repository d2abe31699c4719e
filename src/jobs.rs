//! A RunPod job, from its submission to its end.
//!
//! A [`Job`] says which operation to send and when ([`Job::due`]), takes in what came of it
//! ([`Job::on_answer`]) and tells what that means. It never has more than one operation under way.
//! What it stands on:
//!
//! - A poll that fails is polled again. Only [`Op::Submit`] starts anything, and it is sent once.
//! - `/stream` consumes what it returns. Once a reply of it was lost, nothing more of the stream
//!   can be shown without a gap: the job is followed by `/status`, and the aggregate of its final
//!   status says what was missed.
//! - What has come of the stream is held against that aggregate in any case ([`tally`]).
//!
//! Whom to ask next after a failure, how long to wait for content, and what a client sees of all
//! this is not decided here.

mod cancel;
mod operation;
mod pace;
mod reply;
mod tally;

pub use cancel::{Cancel, Cancelled, Next};
pub use operation::{Answer, Op};
pub use pace::Pace;
pub use reply::{Health, Piece, Reply, Word};

use crate::{
    classify::{Failure, JobFailure},
    message::{Headers, ResponseHead},
    provider::runpod,
    time::Instant,
};
use pace::Cadence;
use tally::Tally;

/// What is wanted of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its outputs, as they come.
    Outputs,
    /// Its result.
    Result,
    /// Its result; and its outputs so far, should there be none.
    ResultOrOutputs,
    /// One answer of `/stream` that has something in it, as it is.
    Peek,
}

/// What is wanted of a job, and within which bounds.
#[derive(Clone, Debug)]
pub struct Aim {
    /// What.
    pub want: Want,
    /// When it must be over.
    pub deadline: Instant,
    /// The `executionTimeout` that was asked for, in milliseconds; `None` of a job that was there already.
    pub execution_ms: Option<u64>,
    /// Until when its end is waited for; then its state is told as it is.
    pub until: Option<Instant>,
    /// Its handler puts all its outputs into its result, as worker-vllm does.
    pub aggregates: bool,
}

/// What an answer has come to.
#[derive(Debug, Default)]
pub struct News {
    /// It told the endpoint's health.
    pub health: Option<Health>,
    /// A poll has shown the job in its queue.
    pub queued: bool,
    /// A worker has it now, and had not before.
    pub started: bool,
    /// Outputs that nobody has seen yet.
    pub pieces: Vec<Piece>,
    /// The job is over for whoever waits: well, or not.
    pub end: Option<Result<(), Failure>>,
}

/// What is known of a job, for the log and for whoever may know its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// RunPod's id.
    pub id: Option<String>,
    /// Its last status.
    pub word: Option<Word>,
    /// Milliseconds in the queue, by RunPod's count.
    pub delay_ms: Option<u64>,
    /// Milliseconds at work, by RunPod's count.
    pub execution_ms: Option<u64>,
    /// Who was at it.
    pub worker: Option<String>,
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Job {
    aim: Aim,
    stage: Stage,
    facts: Facts,
    under_way: Option<(Op, Instant)>,
    /// When the next operation goes out.
    due: Instant,
    /// It was submitted here.
    own: bool,
    /// A poll has been answered with its state.
    known: bool,
    tally: Tally,
    /// A reply of `/stream` was lost: only the aggregate can say what comes next.
    doubt: bool,
    /// Outputs from the first on that may have come before.
    suspects: Vec<Piece>,
    suspect_bytes: usize,
    /// When `/stream` last answered.
    heard: Instant,
    /// A reply of `/stream` was read.
    streamed: bool,
    /// How often `/stream` did not know the job.
    unstreamed: u32,
    retries: u64,
    /// Polls that failed one behind another, and since when.
    failing: u32,
    submitted: Instant,
    answered: Instant,
    missing: u32,
    started: Option<Instant>,
    /// Whether execution has passed most of its time was told already.
    warned: bool,
    kept: Vec<Piece>,
    kept_bytes: usize,
    /// The newest answer about the job's status, as it came.
    latest: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Looking,
    Submitting,
    /// Its state is asked for until it is final.
    Following,
    /// It has ended, and `/stream` may still hold outputs of it.
    Draining(Word),
    /// It has ended; the final status is to be had.
    Closing,
    Over,
}

/// After a poll that failed, doubled each time up to the second.
const FAILED_MS: (u64, u64) = (200, 5000);
/// A queue that answers nothing for so long has lost its job for us.
const PATIENCE_MS: u64 = 60_000;
/// `/status` may say 404 for a moment to a job that it knows; then the job has expired.
const MISSING: u32 = 3;
/// To one that it does not know yet it may say so for longer, some six seconds with this.
const MISSING_NEW: u32 = 5;
/// `/stream` may say so too; when it does again while `/status` knows the job, it serves none such.
const UNSTREAMED: u32 = 2;
/// Only between polls so close can be told how long an output has taken to come.
const WATCHED_MS: u64 = 600;
/// What is kept of outputs for an answer in case the job does not end well, and of those that may
/// have come twice.
const MAX_KEPT: usize = 1 << 20;
/// Outputs of 1 MB each, and results of 20 MB, are what RunPod allows.
pub const MAX_ANSWER: usize = 32 << 20;

impl Job {
    /// A job that is to be submitted, after a look at its endpoint's health or at once.
    pub fn submit(now: Instant, aim: Aim, look_first: bool) -> Self {
        Self::new(now, aim, if look_first { Stage::Looking } else { Stage::Submitting }, Facts::default())
    }

    /// A job that is there already.
    pub fn follow(now: Instant, aim: Aim, id: String) -> Self {
        Self::new(now, aim, Stage::Following, Facts { id: Some(id), ..Facts::default() })
    }

    fn new(now: Instant, aim: Aim, stage: Stage, facts: Facts) -> Self {
        Self {
            aim,
            stage,
            own: facts.id.is_none(),
            known: false,
            facts,
            under_way: None,
            due: now,
            tally: Tally::default(),
            doubt: false,
            suspects: Vec::new(),
            suspect_bytes: 0,
            heard: now,
            streamed: false,
            unstreamed: 0,
            retries: 0,
            failing: 0,
            submitted: now,
            answered: now,
            missing: 0,
            started: None,
            warned: false,
            kept: Vec::new(),
            kept_bytes: 0,
            latest: Vec::new(),
        }
    }

    /// What is known of it.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The newest answer about its status, as it came.
    pub fn latest(&self) -> &[u8] {
        &self.latest
    }

    /// The same, to be kept.
    pub fn take_latest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.latest)
    }

    /// Its outputs so far, where they are kept.
    pub fn kept(&self) -> &[Piece] {
        &self.kept
    }

    /// The operation that is under way.
    pub fn under_way(&self) -> Option<Op> {
        self.under_way.map(|(op, _)| op)
    }

    /// Whether it may be at work somewhere, so that it has to be cancelled when nobody wants it.
    pub fn may_run(&self) -> bool {
        let submitted = self.facts.id.is_some() || self.under_way() == Some(Op::Submit);
        submitted && !self.facts.word.is_some_and(Word::is_final)
    }

    /// Whether it was there before it was followed.
    pub const fn was_there(&self) -> bool {
        !self.own
    }

    /// Whether its final status was told.
    pub fn has_ended(&self) -> bool {
        self.facts.word.is_some_and(Word::is_final) && !self.latest.is_empty()
    }

    /// Whether it waits for a worker.
    pub fn is_queued(&self) -> bool {
        self.started.is_none() && self.stage == Stage::Following
    }

    /// Whether its outputs cannot be shown as they come any more.
    pub const fn is_in_doubt(&self) -> bool {
        self.doubt || !self.suspects.is_empty()
    }

    /// Characters that its worker destroyed in what is shown as it comes.
    pub fn torn(&self) -> u32 {
        if self.aim.want == Want::Outputs { self.tally.torn() } else { 0 }
    }

    /// When something is to be done: an operation goes out, or one has taken too long.
    pub fn next(&self) -> Option<Instant> {
        let due = match self.under_way {
            Some((op, since)) => since.after(op.limit_ms()),
            None => self.due,
        };
        let until = self.aim.until.filter(|_| self.under_way.is_none() && !self.latest.is_empty());
        let next = due.min(until.unwrap_or(due));
        let next = self.warning_at().map_or(next, |at| next.min(at));
        (self.stage != Stage::Over).then_some(next)
    }

    /// Whether the operation that is under way has taken too long.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.under_way.is_some_and(|(op, since)| since.after(op.limit_ms()) <= now)
    }

    /// Whether its end was waited for as long as was wished.
    pub fn is_waited_for(&self, now: Instant) -> bool {
        self.under_way.is_none() && self.aim.until.is_some_and(|until| until <= now) && !self.latest.is_empty()
    }

    /// The operation that goes out now, if one does.
    pub fn due(&self, now: Instant) -> Option<Op> {
        let op = match self.stage {
            Stage::Looking => Op::Health,
            Stage::Submitting => Op::Submit,
            Stage::Following if self.aim.want == Want::Peek => Op::Stream,
            Stage::Following if !self.streams() || self.missing > 0 || self.is_timed_by_nobody() => Op::Status,
            Stage::Following | Stage::Draining(_) => Op::Stream,
            Stage::Closing => Op::Status,
            Stage::Over => return None,
        };
        (self.under_way.is_none() && self.due <= now).then_some(op)
    }

    /// Whether `/stream` is read.
    fn streams(&self) -> bool {
        let wanted = matches!(self.aim.want, Want::Outputs | Want::ResultOrOutputs);
        wanted && !self.doubt && self.unstreamed < UNSTREAMED
    }

    /// Whether only `/status` can tell how long it was queued, and has not been asked.
    fn is_timed_by_nobody(&self) -> bool {
        self.aim.want == Want::ResultOrOutputs && self.started.is_some() && self.latest.is_empty()
    }

    /// The `executionTimeout` that is asked for, in milliseconds.
    pub const fn limit(&mut self, execution_ms: u64) {
        self.aim.execution_ms = Some(execution_ms);
    }

    /// Its endpoint's health is known already.
    pub const fn skip_look(&mut self) {
        if matches!(self.stage, Stage::Looking) {
            self.stage = Stage::Submitting;
        }
    }

    /// That operation has gone out.
    pub const fn on_sent(&mut self, now: Instant, op: Op) {
        self.under_way = Some((op, now));
    }

    /// That operation cannot go out before `at`.
    pub const fn defer(&mut self, at: Instant) {
        self.due = at;
    }

    /// Whether execution has just passed four fifths of what it may take: told once.
    pub fn take_warning(&mut self, now: Instant) -> bool {
        let due = self.warning_at().is_some_and(|at| at <= now);
        self.warned |= due;
        due
    }

    fn warning_at(&self) -> Option<Instant> {
        let started = self.started.filter(|_| !self.warned && self.stage == Stage::Following)?;
        Some(started.after((self.aim.execution_ms? / 5).saturating_mul(4)))
    }

    /// For so long nothing was read, because the client was slow: that is no silence of the queue.
    pub fn excuse(&mut self, ms: u64) {
        self.answered = self.answered.after(ms);
        self.under_way = self.under_way.map(|(op, since)| (op, since.after(ms)));
    }

    /// Takes in what came of the operation under way.
    pub fn on_answer(&mut self, now: Instant, answer: Answer<'_>, pace: Pace) -> News {
        let Some((op, _)) = self.under_way.take() else { return News::default() };
        let mut news = News::default();
        match (op, answer) {
            (Op::Health, answer) => self.on_health(now, answer, &mut news),
            (Op::Submit, answer) => self.on_submitted(now, answer, &mut news),
            (_, Answer::Lost) => self.on_lost(now, op, &mut news),
            (_, Answer::Whole { head, body }) => self.on_poll(now, op, head, body, &mut news),
        }
        if self.due <= now && self.stage == Stage::Following {
            self.due = now.after(pace.interval_ms(self.cadence(), now, self.aim.deadline));
        } else if self.failing > 0 {
            // A poll that fails has cost a fetch like any other.
            self.due = self.due.max(now.after(pace.least_ms(now, self.aim.deadline)));
        }
        if news.end.is_some() {
            self.stage = Stage::Over;
        }
        news
    }

    fn cadence(&self) -> Cadence {
        match self.started {
            None => Cadence::Queued(self.submitted),
            _ if self.doubt => Cadence::Doubt,
            Some(_) if self.aim.want == Want::Peek => Cadence::Flowing,
            Some(started) if self.aim.want != Want::Outputs || !self.streams() => Cadence::Result(started),
            Some(_) if self.tally.is_empty() => Cadence::Started,
            Some(_) => Cadence::Flowing,
        }
    }

    /// The endpoint's health is only a hint: what cannot be read is taken for good news.
    fn on_health(&mut self, now: Instant, answer: Answer<'_>, news: &mut News) {
        let read = match answer {
            Answer::Whole { head, body } if head.status == 200 => Health::read(&body),
            _ => None,
        };
        news.health = Some(read.unwrap_or_default());
        self.stage = Stage::Submitting;
        self.due = now;
    }

    fn on_submitted(&mut self, now: Instant, answer: Answer<'_>, news: &mut News) {
        let lost = || Failure::Job(JobFailure::SubmissionLost);
        let (head, body) = match answer {
            Answer::Lost => return news.end = Some(Err(lost())),
            Answer::Whole { head, body } => (head, body),
        };
        news.end = match head.status {
            200..=299 => None,
            // Said before anything was queued.
            429 | 503 => Some(Err(refusal(head))),
            500..=599 => Some(Err(lost())),
            404 => Some(Err(Failure::Invalid("HTTP 404 to a job: no such endpoint at its `base_url`"))),
            _ => Some(Err(refusal(head))),
        };
        if news.end.is_some() {
            return;
        }
        let reply = Reply::read(&body);
        let id = reply.as_ref().and_then(|reply| reply.id.as_deref()).filter(|id| runpod::is_job_id(id));
        let Some(id) = id else {
            // Something was started, and nobody can tell what.
            return news.end = Some(Err(lost()));
        };
        self.facts.id = Some(id.to_owned());
        // Whatever it answers from now on, it was there.
        self.facts.word = Some(Word::InQueue);
        self.stage = Stage::Following;
        (self.submitted, self.answered) = (now, now);
        if let Some(reply) = reply.filter(|reply| reply.word.is_some_and(Word::is_final)) {
            // `/runsync` may bring the end along.
            self.stage = Stage::Closing;
            self.on_status(now, &reply, news);
            self.latest = body;
        }
    }

    /// A poll has brought nothing that could be understood.
    fn on_lost(&mut self, now: Instant, op: Op, news: &mut News) {
        if self.aim.want == Want::Peek {
            return news.end = Some(Err(Failure::Job(JobFailure::Gap)));
        }
        // Its outputs went with it.
        self.doubt |= op == Op::Stream;
        if matches!(self.stage, Stage::Draining(_)) {
            self.stage = Stage::Closing;
        }
        self.on_failed_poll(now, news);
    }

    fn on_failed_poll(&mut self, now: Instant, news: &mut News) {
        let (first, most) = FAILED_MS;
        let wait = first.saturating_mul(2u64.saturating_pow(self.failing)).min(most);
        self.failing = self.failing.saturating_add(1);
        self.due = now.after(wait);
        if now.since(self.answered) >= PATIENCE_MS {
            news.end = Some(Err(Failure::Job(JobFailure::QueueSilent)));
        }
    }

    /// How often a job may be unknown before it has expired.
    const fn patience(&self) -> u32 {
        if self.own && !self.known { MISSING_NEW } else { MISSING }
    }

    /// Nobody knows the job any more.
    fn expire(&mut self, news: &mut News) {
        let known = self.own || self.facts.word.is_some();
        // One of this call's own is cancelled all the same: should it be at work, nobody waits for it.
        news.end = Some(Err(Failure::Job(if known { JobFailure::Expired } else { JobFailure::Unknown })));
    }

    fn on_poll(&mut self, now: Instant, op: Op, head: &ResponseHead, body: Vec<u8>, news: &mut News) {
        match head.status {
            200..=299 => {}
            // Nothing was handed out.
            429 => return self.on_failed_poll(now, news),
            401 | 403 => return news.end = Some(Err(refusal(head))),
            404 if self.aim.want == Want::Peek => return self.expire(news),
            // What it may still have held is lost, too.
            400..=499 if matches!(self.stage, Stage::Draining(_)) => return self.on_lost(now, op, news),
            // `/status` has the last word.
            400..=499 if op == Op::Stream => {
                self.missing = self.missing.saturating_add(1);
                self.unstreamed = self.unstreamed.saturating_add(1);
                self.due = now;
                return;
            }
            404 if self.missing >= self.patience() => return self.expire(news),
            404 => {
                self.missing = self.missing.saturating_add(1);
                return self.on_failed_poll(now, news);
            }
            _ => return self.on_lost(now, op, news),
        }
        let Some(reply) = Reply::read(&body) else { return self.on_lost(now, op, news) };
        (self.failing, self.answered) = (0, now);
        if op == Op::Status {
            self.missing = 0;
            self.on_status(now, &reply, news);
            self.latest = body;
            return;
        }
        self.streamed = true;
        self.note(now, &reply, news);
        if self.aim.want == Want::Peek {
            let something = !reply.entries.is_empty() || reply.word.is_some_and(Word::is_final);
            news.end = something.then_some(Ok(()));
            self.latest = body;
            return;
        }
        if news.end.is_some() {
            return;
        }
        let drained = reply.entries.is_empty();
        self.take_entries(now, reply.entries, news);
        self.heard = now;
        match (self.stage, reply.word) {
            (Stage::Draining(_), _) if !drained => self.due = now,
            (Stage::Draining(Word::Completed), _) if self.doubt => news.end = Some(Err(Failure::Job(JobFailure::Gap))),
            (Stage::Draining(Word::Completed), _) => {
                // Nothing says that any of them came twice.
                let suspects = std::mem::take(&mut self.suspects);
                suspects.into_iter().for_each(|piece| self.take(now, piece, news));
                news.end = Some(Ok(()));
            }
            (Stage::Draining(_), _) => (self.stage, self.due) = (Stage::Closing, now),
            // Its aggregate brings whatever is left.
            (_, Some(Word::Completed)) => (self.stage, self.due) = (Stage::Closing, now),
            (_, Some(word)) if word.is_final() => (self.stage, self.due) = (Stage::Draining(word), now),
            _ => {}
        }
    }

    fn on_status(&mut self, now: Instant, reply: &Reply<'_>, news: &mut News) {
        self.note(now, reply, news);
        let word = reply.word.filter(|word| word.is_final());
        let Some(word) = word.filter(|_| news.end.is_none()) else {
            if self.stage == Stage::Closing {
                // `/stream` knows more than `/status` yet.
                self.on_failed_poll(now, news);
            }
            return;
        };
        if word != Word::Completed {
            if self.streams() && self.stage != Stage::Closing {
                (self.stage, self.due) = (Stage::Draining(word), now);
                return;
            }
            news.end = Some(Err(Failure::Job(self.cause(word, reply))));
            return;
        }
        match self.aim.want {
            Want::Outputs => self.complete(now, reply, news),
            Want::Result | Want::ResultOrOutputs | Want::Peek => news.end = Some(Ok(())),
        }
    }

    /// The job has completed, and its outputs were wanted as they came.
    fn complete(&mut self, now: Instant, reply: &Reply<'_>, news: &mut News) {
        let gap = Failure::Job(JobFailure::Gap);
        let result = || reply.output.map(Piece::read);
        news.end = match reply.aggregate() {
            // Where `/stream` had nothing, the handler has returned a list, which is one output; unless
            // these are texts, which count like those that came by it.
            Some(aggregate) if !self.tally.is_empty() || self.doubt || !self.streamed || are_texts(&aggregate) => {
                let rest = if self.tally.is_empty() { Some(aggregate) } else { self.tally.rest_of(aggregate) };
                let whole = rest.is_some();
                self.doubt = false;
                self.suspects.clear();
                // Nothing of it is a repost, whatever it is equal to.
                rest.unwrap_or_default().into_iter().for_each(|piece| self.take(now, piece, news));
                Some(if whole { Ok(()) } else { Err(gap) })
            }
            // Nothing says what was lost.
            None if self.doubt => Some(Err(gap)),
            // A handler that returns its result instead of yielding it.
            _ if self.tally.is_empty() => {
                result().into_iter().for_each(|piece| self.take(now, piece, news));
                Some(Ok(()))
            }
            // No aggregate: then `/stream` is read to its end.
            _ => {
                (self.stage, self.due) = (Stage::Draining(Word::Completed), now);
                None
            }
        };
    }

    /// Takes note of what every answer tells.
    fn note(&mut self, now: Instant, reply: &Reply<'_>, news: &mut News) {
        self.known = true;
        let facts = &mut self.facts;
        facts.word = reply.word.or(facts.word);
        facts.delay_ms = reply.delay_ms.or(facts.delay_ms);
        facts.execution_ms = reply.execution_ms.or(facts.execution_ms);
        facts.worker = reply.worker.as_ref().map(|worker| worker.clone().into_owned()).or(facts.worker.take());
        // A worker that was lost for good is counted as a retry too.
        let failed = matches!(reply.word, Some(Word::Failed | Word::TimedOut));
        let requeued = reply.word == Some(Word::InQueue) && self.started.is_some();
        let again = requeued || (reply.retries > self.retries && !failed);
        // `/stream` does not tell how often: what was seen here is not new when `/status` tells it.
        self.retries = reply.retries.max(self.retries.saturating_add(requeued.into()));
        // A result says by itself whether it is the one that was shown.
        let proven = reply.word == Some(Word::Completed) && reply.aggregate().is_some();
        match self.aim.want {
            _ if !again || proven || self.tally.is_empty() => {}
            // A second answer is about to come behind the first.
            Want::Outputs => news.end = Some(Err(Failure::Job(JobFailure::Restarted))),
            // What was kept is not what will be there at the end.
            _ => (self.tally, self.kept, self.kept_bytes) = (Tally::default(), Vec::new(), 0),
        }
        match reply.word {
            Some(Word::InQueue) => (self.started, news.queued) = (None, true),
            Some(Word::InProgress | Word::Completed | Word::Failed) if self.started.is_none() => {
                (self.started, news.started) = (Some(now), true);
            }
            _ => {}
        }
    }

    fn take_entries(&mut self, now: Instant, entries: Vec<Piece>, news: &mut News) {
        let watched = self.aim.aggregates && now.since(self.heard) < WATCHED_MS;
        for piece in entries {
            if self.doubt {
                return;
            }
            // Whether it is a repost only the aggregate can tell; until then nothing more is shown.
            let suspect = !self.suspects.is_empty() || watched && self.tally.may_be_repost(now, &piece);
            if !suspect {
                self.take(now, piece, news);
                continue;
            }
            self.suspect_bytes = self.suspect_bytes.saturating_add(piece.to_json().len());
            self.suspects.push(piece);
            if self.suspect_bytes > MAX_KEPT {
                self.doubt = true;
                self.suspects = Vec::new();
            }
        }
    }

    fn take(&mut self, now: Instant, piece: Piece, news: &mut News) {
        self.tally.add(now, &piece);
        if self.aim.want == Want::ResultOrOutputs && self.kept_bytes < MAX_KEPT {
            self.kept_bytes = self.kept_bytes.saturating_add(piece.to_json().len());
            self.kept.push(piece.clone());
        }
        news.pieces.push(piece);
    }

    fn cause(&self, word: Word, reply: &Reply<'_>) -> JobFailure {
        let limit_ms = self.aim.execution_ms;
        match word {
            Word::Cancelled => JobFailure::Cancelled,
            // A job that expires in the queue is called so, too.
            Word::TimedOut if self.facts.execution_ms.is_none_or(|ms| ms == 0) && !self.has_worked() => {
                JobFailure::Expired
            }
            Word::TimedOut => JobFailure::TimedOut { limit_ms },
            _ => runpod::cause(reply.error.map_or("", |error| error.get()), limit_ms),
        }
    }

    /// Whether a worker is known to have had it.
    const fn has_worked(&self) -> bool {
        self.started.is_some() || self.facts.worker.is_some() || !self.tally.is_empty()
    }
}

fn are_texts(aggregate: &[Piece]) -> bool {
    !aggregate.is_empty() && aggregate.iter().all(|piece| matches!(piece, Piece::Text(_)))
}

fn refusal(head: &ResponseHead) -> Failure {
    // Its words are about the gateway's envelope, not about the caller's request.
    let headers: Headers = head.headers.iter().filter(|(name, _)| name.starts_with("retry-after")).collect();
    Failure::Status { head: ResponseHead { status: head.status, headers }, body: None }
}

#[cfg(test)]
mod tests;
