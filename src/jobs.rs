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

mod answers;
mod cancel;
mod cause;
mod enabled;
mod operation;
mod pace;
mod python;
mod reply;
mod tally;

pub use cancel::{Cancel, Cancelled, Next};
pub use cause::{cause, flat_error};
pub use enabled::{ENABLED, IfJobs, if_jobs, pointer};
pub use operation::{Answer, Op};
pub use pace::Pace;
pub use reply::{Health, Piece, Reply, Word, is_job_id};

use crate::{classify::Failure, time::Instant};
use answers::UNSTREAMED;
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
    /// It has answered without a status, and with nothing else.
    wordless: bool,
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
            wordless: false,
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
            Stage::Following if !self.streams() || self.missing > 0 || self.needs_a_word() => Op::Status,
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

    /// Whether only `/status` can tell more: how long it was queued, or how it stands.
    fn needs_a_word(&self) -> bool {
        let untimed = self.aim.want == Want::ResultOrOutputs && self.started.is_some() && self.latest.is_empty();
        untimed || self.wordless
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
}

#[cfg(test)]
mod tests;
