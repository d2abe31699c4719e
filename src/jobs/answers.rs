//! What each answer means to a job.

use super::{Answer, Health, Job, News, Op, Piece, Reply, Stage, Want, Word, cause, is_job_id, tally::Tally};
use crate::{
    classify::{Failure, JobFailure},
    message::{Headers, ResponseHead},
    time::Instant,
};

/// After a poll that failed, doubled each time up to the second.
const FAILED_MS: (u64, u64) = (200, 5000);
/// A queue that answers nothing for so long has lost its job for us.
const PATIENCE_MS: u64 = 60_000;
/// `/status` may say 404 for a moment to a job that it knows; then the job has expired.
const MISSING: u32 = 3;
/// To one that it does not know yet it may say so for longer, some six seconds with this.
const MISSING_NEW: u32 = 5;
/// `/stream` may say so too; when it does again while `/status` knows the job, it serves none such.
pub(super) const UNSTREAMED: u32 = 2;
/// Only between polls so close can be told how long an output has taken to come.
const WATCHED_MS: u64 = 600;
/// What is kept of outputs for an answer in case the job does not end well, and of those that may
/// have come twice.
const MAX_KEPT: usize = 1 << 20;

impl Job {
    /// The endpoint's health is only a hint: what cannot be read is taken for good news.
    pub(super) fn on_health(&mut self, now: Instant, answer: Answer<'_>, news: &mut News) {
        let read = match answer {
            Answer::Whole { head, body } if head.status == 200 => Health::read(&body),
            _ => None,
        };
        news.health = Some(read.unwrap_or_default());
        self.stage = Stage::Submitting;
        self.due = now;
    }

    pub(super) fn on_submitted(&mut self, now: Instant, answer: Answer<'_>, news: &mut News) {
        let lost = || JobFailure::SubmissionLost.into();
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
        let id = reply.as_ref().and_then(|reply| reply.id.as_deref()).filter(|id| is_job_id(id));
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
    pub(super) fn on_lost(&mut self, now: Instant, op: Op, news: &mut News) {
        if self.aim.want == Want::Peek {
            return news.end = Some(Err(JobFailure::Gap.into()));
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
            news.end = Some(Err(JobFailure::QueueSilent.into()));
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
        news.end = Some(Err(Failure::from(if known { JobFailure::Expired } else { JobFailure::Unknown })));
    }

    pub(super) fn on_poll(&mut self, now: Instant, op: Op, head: &ResponseHead, body: Vec<u8>, news: &mut News) {
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
            (self.missing, self.wordless) = (0, false);
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
        // As RunPod's documentation shows it, a bare list.
        self.wordless = drained && reply.word.is_none();
        self.take_entries(now, reply.entries, news);
        self.heard = now;
        match (self.stage, reply.word) {
            (Stage::Draining(_), _) if !drained => self.due = now,
            (Stage::Draining(Word::Completed), _) if self.doubt => news.end = Some(Err(JobFailure::Gap.into())),
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
            news.end = Some(Err(self.cause(word, reply).into()));
            return;
        }
        match self.aim.want {
            Want::Outputs => self.complete(now, reply, news),
            Want::Result | Want::ResultOrOutputs | Want::Peek => news.end = Some(Ok(())),
        }
    }

    /// The job has completed, and its outputs were wanted as they came.
    fn complete(&mut self, now: Instant, reply: &Reply<'_>, news: &mut News) {
        let gap = JobFailure::Gap.into();
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
        let proven = reply.word == Some(Word::Completed) && reply.has_aggregate();
        match self.aim.want {
            _ if !again || proven || self.tally.is_empty() => {}
            // A second answer is about to come behind the first.
            Want::Outputs => news.end = Some(Err(JobFailure::Restarted.into())),
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
            _ => cause(reply.error.map_or("", |error| error.get()), limit_ms),
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
