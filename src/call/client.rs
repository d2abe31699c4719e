//! What the client gets: its status, bytes, an error, an end.

use super::{Attempt, Call, Emit, Output, attempt::BLANK_LINE};
use crate::{
    error::Error,
    event::Event,
    message::{Headers, ResponseHead},
    time::Instant,
};

impl Call {
    /// Sends what an attempt let out to the client. The first that has something wins the call.
    pub(super) fn show(&mut self, now: Instant, id: u32) {
        if self.winner.is_none() {
            self.winner = Some(id);
            if self.interruption.is_some() {
                self.on_resumed(now, id);
            } else {
                self.first_content = Some(now);
                self.on_race_won(now, id);
                self.on_first_content(now, id);
            }
            let losers: Vec<u32> =
                self.attempts.iter().map(|attempt| attempt.id).filter(|other| *other != id).collect();
            losers.into_iter().for_each(|id| self.drop_attempt(now, id));
            let returned = self.attempts.first().and_then(Attempt::returned);
            if let Some((status, headers)) = returned.filter(|_| !self.is_internal()) {
                self.commit(now, status, headers);
            }
        }
        // Taken and given back, so that its memory serves for every chunk.
        let mut emits = std::mem::take(&mut self.emits);
        for emit in emits.drain(..) {
            self.emit(now, emit);
        }
        self.emits = emits;
    }

    pub(super) fn emit(&mut self, now: Instant, emit: Emit) {
        let Some(emit) = self.keep(emit) else { return };
        let emit = match emit {
            // What has gone out unseen may end inside an event.
            Emit::Bytes(bytes) if self.piped => Emit::Bytes([BLANK_LINE, &bytes].concat()),
            emit => emit,
        };
        let length = match &emit {
            Emit::Bytes(bytes) => bytes.len(),
            Emit::Slice(range) => range.len(),
        };
        if length == 0 {
            // Some streams take an empty piece for their end, or for a mistake.
            return;
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        self.client.on_bytes(now);
        self.out.push_back(Output::Emit(emit));
    }

    /// Spends the HTTP status, unless it is spent.
    pub(super) fn commit(&mut self, now: Instant, status: u16, mut headers: Headers) {
        if std::mem::replace(&mut self.committed, true) {
            return;
        }
        let streams = self.streams_out() && status == 200;
        if streams {
            headers.set("cache-control", "no-cache");
            // Asks nginx and its like not to collect the stream before they pass it on.
            headers.set("x-accel-buffering", "no");
        }
        // A gateway that was asked knows better who has answered, and behind how many attempts.
        let is_told = headers.get("x-fairlead-attempts").is_some();
        if !is_told && (self.winner.is_some() || status != 200 && self.started > 0) {
            headers.set("x-fairlead-endpoint", self.endpoint_name());
        }
        if !is_told {
            headers.set("x-fairlead-attempts", self.started.to_string());
        }
        headers.set("server-timing", self.server_timing(now));
        self.client.on_commit(now, streams);
        self.out.push_back(Output::Commit(ResponseHead { status, headers }));
    }

    /// Ends the call in an error: as its answer, or inside the stream that has begun.
    pub(super) fn fail(&mut self, now: Instant, error: &Error) {
        let dialect = self.order.ask.api.dialect();
        self.note_job();
        let error = &self.with_job(error.clone());
        let mut whole = true;
        if !self.committed {
            let mut headers = Headers::from_iter([("content-type", "application/json"), ("x-should-retry", "false")]);
            if let Some(ms) = error.retry_after_ms {
                headers.set("retry-after", ms.div_ceil(1000).to_string());
            }
            self.commit(now, error.code.status(), headers);
            self.emit(now, Emit::Bytes(error.body(dialect)));
        } else if self.streams_out() {
            self.emit(now, Emit::Bytes(error.event(dialect)));
        } else {
            // Half of an answer that does not stream has gone out, which nothing but a broken
            // connection can tell.
            whole = false;
        }
        self.end(now, whole, error.code.as_str(), error.param.clone());
    }

    pub(super) fn end(&mut self, now: Instant, whole: bool, outcome: &str, param: Option<String>) {
        if matches!(outcome, "ok" | "partial")
            && let Err(error) = self.deliver(now)
        {
            return self.fail(now, &error);
        }
        let winner = self.attempts.iter().find(|attempt| Some(attempt.id) == self.winner);
        let mut counts = winner.map(Attempt::counts).unwrap_or_default();
        if let Some(shown) =
            winner.filter(|attempt| attempt.resuming.is_some()).and_then(|attempt| attempt.transcript.as_ref())
        {
            // Of all that the client has, not of the last part alone.
            counts.usage = shown.usage;
        }
        self.over = true;
        self.held = None;
        while let Some(id) = self.attempts.first().map(|attempt| attempt.id) {
            self.drop_attempt(now, id);
        }
        self.waiting = None;
        self.leave_line();
        self.out.push_back(Output::Event(Event::CallEnded {
            outcome: outcome.to_owned(),
            param,
            endpoint: (self.started > 0).then(|| self.endpoint_name()),
            attempts: self.started,
            stream: self.streams_out(),
            first_content_ms: self.first_content.map(|at| at.since(self.order.arrived)),
            total_ms: now.since(self.order.arrived),
            bytes: self.bytes,
            native: self.piped,
            events: counts.events,
            malformed: counts.malformed,
            prompt_tokens: counts.usage.prompt_tokens,
            completion_tokens: counts.usage.completion_tokens,
        }));
        self.out.push_back(Output::Done { whole });
    }
}
