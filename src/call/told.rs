//! What a client gets of a job: its outputs as the response that was asked for, or in RunPod's own
//! words.

use super::{Attempt, Call, Emit};
use crate::{
    classify::Failure,
    config::OnDeadline,
    error::{Error, JobState},
    jobs::{Piece, Reply, Word, flat_error, if_jobs},
    message::{Headers, ResponseHead},
    native::{self, Verb},
    provider::runpod,
    time::Instant,
};

impl Call {
    /// Outputs of a job become the response that was asked for.
    pub(super) fn feed(&mut self, now: Instant, id: u32, pieces: Vec<Piece>) -> Option<Result<(), Failure>> {
        let errand = self.order.ask.errand.is_some();
        if !self.order.ask.stream {
            // The result holds them all.
            return None;
        }
        let outcome = self.step(now, id, |attempt, ask, out| {
            if attempt.returned().is_none() {
                let headers = Headers::from_iter([("content-type", "text/event-stream; charset=utf-8")]);
                if errand {
                    attempt.open_natively(headers);
                } else {
                    attempt.on_head(now, ResponseHead { status: 200, headers }, ask)?;
                    attempt.hold_end();
                }
            }
            for piece in pieces {
                if errand {
                    out.push(Emit::Bytes(native::output_event(&piece)));
                    continue;
                }
                if let Piece::Json(json) = &piece
                    && let Some(failure) = flat_error(json)
                {
                    return Err(failure.into());
                }
                if let Some(follower) = attempt.job.as_deref_mut() {
                    follower.native |= runpod::is_native(&piece);
                }
                let bytes = runpod::stream_bytes(piece, ask.api.dialect());
                attempt.on_bytes_of_job(now, &bytes, out)?;
            }
            Ok(())
        });
        outcome.filter(Result::is_err)
    }

    /// The job has completed, and nothing of it is missing.
    pub(super) fn on_job_done(&mut self, now: Instant, id: u32) {
        if self.order.ask.errand.is_some() {
            return self.tell_result(now, id);
        }
        let choices = self.order.ask.choices;
        if self.order.ask.stream {
            let fed = self.step(now, id, |attempt, _, out| {
                let owes_end = attempt.job.as_ref().is_some_and(|follower| follower.native) && !attempt.is_whole();
                if owes_end { attempt.on_bytes_of_job(now, &runpod::native_end(choices), out) } else { Ok(()) }
            });
            if let Some(Err(failure)) = fed {
                return self.on_failure(now, id, failure);
            }
            return self.finish(now, id, Attempt::on_end);
        }
        let fed = self.step(now, id, |attempt, ask, _| {
            let latest = attempt.job.as_mut().map(|follower| follower.job.take_latest()).unwrap_or_default();
            let result = Reply::read(&latest).and_then(|reply| reply.output);
            if let Some(failure) = result.and_then(|output| flat_error(output.get())) {
                return Err(failure.into());
            }
            let body = result.map(|output| runpod::whole_bytes(output, ask.api.dialect()));
            attempt.on_result(body.unwrap_or_default());
            Ok(())
        });
        match fed {
            Some(Err(failure)) => self.on_failure(now, id, failure),
            _ => self.finish(now, id, Attempt::on_end),
        }
    }

    /// The client of a job gets its result, or its state when it has waited long enough.
    pub(super) fn tell_result(&mut self, now: Instant, id: u32) {
        let Some(errand) = self.order.ask.errand.clone() else { return };
        let stream = self.order.ask.stream;
        let told = self.step(now, id, |attempt, _, out| {
            let Some(follower) = attempt.job.as_deref() else { return Ok(()) };
            let state = errand.state(follower.job.facts(), &[]);
            let (media_type, body) = match stream {
                true => ("text/event-stream; charset=utf-8", native::end_event(&state)),
                false => ("application/json", errand.relabel(follower.job.latest())),
            };
            if attempt.returned().is_none() {
                attempt.open_natively(Headers::from_iter([("content-type", media_type)]));
            }
            out.push(Emit::Bytes(body));
            Ok(())
        });
        if told.is_some() {
            // One that goes on was waited for as long as its client wished.
            self.let_go_on(id);
            self.succeed(now);
        }
    }

    /// The outputs so far of a job whose client's deadline has come, if there are any.
    pub(super) fn tell_partial(&mut self, now: Instant) -> bool {
        let Some(errand) = self.order.ask.errand.clone().filter(|_| !self.committed) else { return false };
        debug_assert_eq!(self.order.policy.on_deadline, OnDeadline::Partial);
        let found = self.attempts.iter().find_map(|attempt| {
            let job = &attempt.job.as_deref()?.job;
            (!job.kept().is_empty()).then(|| errand.state(job.facts(), job.kept()))
        });
        let Some(mut state) = found else { return false };
        let ended = state.status.is_some_and(|status| !matches!(status, "IN_QUEUE" | "IN_PROGRESS"));
        if !errand.keep && !ended {
            state.status = Some(Word::Cancelled.as_str());
        }
        let mut headers = Headers::from_iter([("content-type", "application/json")]);
        headers.set("x-fairlead-truncated", "deadline");
        self.commit(now, 200, headers);
        self.emit(now, Emit::Bytes(native::partial(state)));
        self.end(now, true, "partial", None);
        true
    }

    /// What the client gets to know while its job waits: its state and the seconds so far.
    pub(super) fn queue_comment(&self, now: Instant) -> Option<Vec<u8>> {
        let follower = self.attempts.iter().find_map(|attempt| attempt.job.as_deref())?;
        let word = follower.job.facts().word.filter(|_| follower.job.is_queued())?;
        let seconds = now.since(follower.sent_at) / 1000;
        Some(format!(": {} {seconds} s\n\n", word.as_str()).into_bytes())
    }

    /// Spends the status of a stream, before there is anything to stream.
    pub(super) fn commit_stream(&mut self, now: Instant) {
        self.commit(now, 200, Headers::from_iter([("content-type", "text/event-stream; charset=utf-8")]));
    }

    /// Times for `Server-Timing`, in milliseconds; RunPod's own where it has told them.
    pub(super) fn server_timing(&mut self, now: Instant) -> String {
        self.note_job();
        let mut timing = format!("fairlead;dur={}, attempts;desc=\"{}\"", now.since(self.order.arrived), self.started);
        let Some(job) = &self.job else { return timing };
        let JobState { delay_time, execution_time, worker_id, .. } = &**job;
        for (name, ms) in [("queue", delay_time), ("execution", execution_time)] {
            if let Some(ms) = ms {
                timing.push_str(&format!(", {name};dur={ms}"));
            }
        }
        let plain = |id: &&String| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if let Some(worker) = worker_id.as_ref().filter(plain) {
            timing.push_str(&format!(", worker;desc=\"{worker}\""));
        }
        timing
    }

    /// Takes note of what is known of the newest job, before its attempt is dropped.
    pub(super) fn note_job(&mut self) {
        let errand = self.order.ask.errand.as_ref();
        if let Some(job) = self.attempts.iter().rev().find_map(|attempt| Some(&attempt.job.as_deref()?.job)) {
            let facts = job.facts();
            let mut state = errand.map_or_else(JobState::default, |errand| errand.state(facts, job.kept()));
            state.delay_time = facts.delay_ms;
            state.execution_time = facts.execution_ms;
            state.worker_id = facts.worker.clone();
            self.job = if_jobs(Box::new(state));
        }
    }

    /// An error as the client of a job gets it.
    pub(super) fn with_job(&self, mut error: Error) -> Error {
        if self.order.ask.errand.is_some() {
            error.job = self.job.clone().filter(|job| **job != JobState::default());
        }
        error
    }

    /// Whether the client has asked for the job's state at its end, and that is there, whatever it is.
    pub(super) fn may_tell_state(&self, id: u32) -> bool {
        let asks = self.order.ask.errand.as_ref().is_some_and(|errand| errand.verb == Verb::StatusSync);
        let job = self.attempts.iter().find(|attempt| attempt.id == id).and_then(|attempt| attempt.job.as_deref());
        asks && job.is_some_and(|follower| follower.job.has_ended())
    }

    /// Whether the client asks about a job of its own.
    pub(super) fn asks_about_a_job(&self) -> bool {
        self.order.ask.errand.as_ref().is_some_and(|errand| errand.job.is_some())
    }
}
