//! One attempt of a call: an exchange with one endpoint, from its head to a proved answer.

use super::{
    Emit,
    admission::Ticket,
    job::Follower,
    resume::Resuming,
    streamed::{Counts, Stream},
};
use crate::{
    api::Dialect,
    ask::Ask,
    classify::{Failure, JobFailure},
    deadline::{AttemptTimers, Limits, Timer},
    jobs::{IfJobs, Op},
    json::text,
    message::{Barrier, Headers, ResponseHead},
    provider::{fairlead, runpod, vllm},
    stream::{Flaw, Proof, Transcript, Usage, check_answer},
    time::Instant,
};
use serde::de::IgnoredAny;
use std::mem;

/// An answer that does not stream is held back up to here, so that a cut one can be asked for
/// again; a larger one flows through.
const MAX_WHOLE: usize = 8 << 20;

/// The longest explanation of an error that is passed on.
const MAX_EXPLANATION: usize = 1 << 20;

/// Ends an event, whatever it has come to.
pub(super) const BLANK_LINE: &[u8] = b"\n\n";

/// One attempt in flight.
#[derive(Debug)]
pub(super) struct Attempt {
    /// From 1, in the order of starting.
    pub(super) id: u32,
    /// Its place among the model's targets.
    pub(super) target: usize,
    /// The exchange whose response it waits for.
    pub(super) exchange: Option<u32>,
    /// The job that it follows, at an endpoint that takes jobs.
    pub(super) job: Option<IfJobs<Box<Follower>>>,
    pub(super) timers: AttemptTimers,
    /// Its leave to be under way; none once its outcome is told.
    pub(super) ticket: Option<Ticket>,
    pub(super) voice: Voice,
    /// What the client has of the answer that it brings, where that is kept.
    pub(super) transcript: Option<Box<Transcript>>,
    /// How it goes on behind another, if it does.
    pub(super) resuming: Option<Box<Resuming>>,
    reply: Reply,
    /// Of an answer that does not stream.
    usage: Usage,
}

/// Who speaks for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// The server.
    Server,
    /// A proxy of RunPod's, which answers where no worker does: what it says counts, not its status.
    Proxy,
    /// A gateway of our own, which tells callers what has failed.
    Gateway,
}

#[derive(Debug)]
enum Reply {
    Awaited,
    /// Not a success; its explanation is being read.
    Refused {
        head: ResponseHead,
        body: Vec<u8>,
    },
    /// An answer that does not stream.
    Whole {
        head: ResponseHead,
        body: Vec<u8>,
        received: usize,
        shown: bool,
    },
    Stream(Box<Stream>),
    /// What a job says is told in RunPod's own words.
    Native {
        headers: Headers,
    },
}

impl Attempt {
    pub(super) fn new(id: u32, target: usize, now: Instant, limits: Limits) -> Self {
        let timers = AttemptTimers::new(now, limits);
        let (reply, usage) = (Reply::Awaited, Usage::default());
        Self {
            id,
            target,
            exchange: None,
            job: None,
            timers,
            ticket: None,
            voice: Voice::Server,
            transcript: None,
            resuming: None,
            reply,
            usage,
        }
    }

    /// An attempt that follows a job.
    pub(super) fn of_job(
        id: u32,
        target: usize,
        now: Instant,
        limits: Limits,
        follower: IfJobs<Box<Follower>>,
    ) -> Self {
        let mut timers = AttemptTimers::queued(now, limits.clone());
        if follower.job.was_there() {
            // Its client waits for as long as it wants.
            timers.on_unseen();
        }
        Self { timers, job: Some(follower), ..Self::new(id, target, now, limits) }
    }

    /// When something is to be done for it.
    pub(super) fn next(&self) -> impl Iterator<Item = Instant> {
        let timer = match self.resuming.as_ref().and_then(|resuming| resuming.counting_until()) {
            Some(at) => Some(at),
            None => self.timers.next().map(|(at, _)| at),
        };
        timer.into_iter().chain(self.job.as_ref().and_then(|follower| follower.job.next()))
    }

    /// Whether a job is on its way to be submitted, so that its exchange is not to be given up.
    pub(super) fn is_submitting(&self) -> bool {
        self.job.as_ref().is_some_and(|follower| follower.job.under_way() == Some(Op::Submit))
    }

    /// What proves a stream whole is not shown before its end: a job's outputs are checked there.
    pub(super) fn hold_end(&mut self) {
        if let Reply::Stream(stream) = &mut self.reply {
            stream.hold_end();
        }
    }

    /// The response of a job that a client follows by itself: its own words, not a server's.
    pub(super) fn open_natively(&mut self, headers: Headers) {
        self.reply = Reply::Native { headers };
    }

    /// The response has begun.
    pub(super) fn on_head(&mut self, now: Instant, head: ResponseHead, ask: &Ask) -> Result<(), Failure> {
        let media_type = head.headers.media_type();
        self.timers.on_head(now);
        if !(200..600).contains(&head.status) {
            return Err(Failure::Invalid("a status that HTTP does not have"));
        }
        if !(200..300).contains(&head.status) {
            if !Failure::is_refusal(head.status) && self.voice == Voice::Server {
                return Err(Failure::Status { head, body: None });
            }
            // What explains a failure that is none of the request's is not waited for as an answer is.
            match Failure::is_refusal(head.status) {
                true => self.timers.on_body(now),
                false => self.timers.on_finished(now),
            }
            self.reply = Reply::Refused { head, body: Vec::new() };
            return Ok(());
        }
        if self.voice == Voice::Proxy && head.status == 204 {
            return Err(Failure::Status { head, body: None });
        }
        let may_be_text = ask.api.takes_form() || ask.api.dialect() == Dialect::Whole;
        let wanted = match ask.stream {
            true => media_type == "text/event-stream",
            false => is_json(&media_type) || may_be_text && media_type != "text/html",
        };
        if self.voice == Voice::Proxy && !wanted {
            self.reply = Reply::Refused { head, body: Vec::new() };
            return Ok(());
        }
        if ask.stream {
            if !wanted {
                return Err(Failure::Invalid("something else than the event stream that was asked for"));
            }
            let of_gateway = self.voice == Voice::Gateway;
            let proof = Proof::new(ask.api.dialect(), ask.choices);
            self.reply = Reply::Stream(Box::new(Stream::new(head.headers, proof, of_gateway)));
            return Ok(());
        }
        if !wanted {
            return Err(Failure::Invalid("something else than the JSON that was asked for"));
        }
        self.reply = Reply::Whole { head, body: Vec::new(), received: 0, shown: false };
        Ok(())
    }

    /// The result of a job that was to be answered whole.
    pub(super) fn on_result(&mut self, body: Vec<u8>) {
        let headers = Headers::from_iter([("content-type", "application/json")]);
        let received = body.len();
        self.reply = Reply::Whole { head: ResponseHead { status: 200, headers }, body, received, shown: false };
    }

    /// Takes in bytes that a job has put out: they are the core's own, and no chunk holds them.
    pub(super) fn on_bytes_of_job(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Emit>) -> Result<(), Failure> {
        let mut own = Vec::new();
        let malformed = self.counts().malformed;
        let seen = self.on_copied(now, bytes, &mut own);
        if self.counts().malformed > malformed {
            // A server's events are well formed: a piece in the middle is missing. What follows in
            // these bytes would stand behind a gap.
            if let Some(transcript) = self.transcript.as_mut().filter(|_| !own.is_empty()) {
                // What went before in them does not go out either.
                transcript.tear("gap");
            }
            return Err(JobFailure::Gap.into());
        }
        out.append(&mut own);
        seen
    }

    /// Takes in bytes, and lets out what may go on of them as bytes of its own.
    pub(super) fn on_copied(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<Emit>) -> Result<(), Failure> {
        let from = out.len();
        let seen = self.on_chunk(now, bytes, out);
        for emit in out.iter_mut().skip(from) {
            if let Emit::Slice(range) = emit {
                *emit = Emit::Bytes(bytes.get(range.clone()).unwrap_or_default().to_vec());
            }
        }
        seen
    }

    /// Takes in bytes. What may go on is added to `out`, as ranges of `chunk` wherever possible.
    pub(super) fn on_chunk(&mut self, now: Instant, chunk: &[u8], out: &mut Vec<Emit>) -> Result<(), Failure> {
        self.timers.on_bytes(now);
        match &mut self.reply {
            Reply::Awaited | Reply::Native { .. } => Ok(()),
            Reply::Refused { head, body } => {
                if body.len().saturating_add(chunk.len()) > MAX_EXPLANATION {
                    return Err(Failure::Status { head: head.clone(), body: None });
                }
                body.extend_from_slice(chunk);
                Ok(())
            }
            Reply::Whole { body, received, shown, .. } => {
                *received = received.saturating_add(chunk.len());
                if !*shown && *received <= MAX_WHOLE {
                    body.extend_from_slice(chunk);
                    return Ok(());
                }
                if !mem::replace(shown, true) {
                    out.push(Emit::Bytes(mem::take(body)));
                }
                out.push(Emit::Slice(0..chunk.len()));
                Ok(())
            }
            Reply::Stream(stream) => {
                let splice = self.resuming.as_mut().and_then(|resuming| resuming.splice.as_mut());
                stream.on_chunk(now, chunk, &mut self.timers, self.transcript.as_deref_mut(), splice, out)
            }
        }
    }

    /// What its endpoint is asked, where the client asks for this.
    pub(super) fn ask<'a>(&'a self, own: &'a Ask) -> &'a Ask {
        self.resuming.as_ref().and_then(|resuming| resuming.ask.as_deref()).unwrap_or(own)
    }

    /// Those of so many choices whose ends the client has not got.
    pub(super) fn open_choices(&self, choices: usize) -> Vec<usize> {
        match &self.reply {
            Reply::Stream(stream) => stream.open_choices(choices),
            _ => (0..choices).collect(),
        }
    }

    /// The response is at its end: either the answer is whole, or this attempt has failed.
    pub(super) fn on_end(&mut self, ask: &Ask, out: &mut Vec<Emit>) -> Result<(), Failure> {
        match &mut self.reply {
            Reply::Native { .. } => Ok(()),
            Reply::Awaited => Err(Failure::Cut),
            Reply::Refused { head, body } => {
                let body = head.length_fits(body.len()).then(|| mem::take(body));
                Err(Failure::Status { head: head.clone(), body })
            }
            Reply::Whole { head, received, .. } if !head.length_fits(*received) => Err(Failure::Cut),
            Reply::Whole { shown: true, .. } => Ok(()),
            Reply::Whole { body, .. } if let Some(errand) = &ask.errand => {
                // A failure of the job that RunPod tells is no failure to tell it.
                serde_json::from_str::<IgnoredAny>(text(body)).map_err(|_| Failure::Cut)?;
                out.push(Emit::Bytes(errand.relabel(body)));
                Ok(())
            }
            Reply::Whole { head, body, .. } => {
                if is_json(&head.headers.media_type()) {
                    // A transcription has no choices.
                    let dialect = if ask.api.takes_form() { Dialect::Whole } else { ask.api.dialect() };
                    self.usage = check_answer(dialect, body).map_err(|flaw| match flaw {
                        Flaw::Cut => Failure::Cut,
                        Flaw::Empty => Failure::Invalid("JSON without a finished choice in it"),
                        Flaw::Error(error) => {
                            let said = (self.voice == Voice::Proxy).then(|| runpod::said(head, body));
                            said.flatten().unwrap_or(Failure::InBand(error))
                        }
                    })?;
                } else if body.is_empty() {
                    return Err(Failure::Cut);
                }
                out.push(Emit::Bytes(mem::take(body)));
                Ok(())
            }
            Reply::Stream(stream) => stream.finish(self.transcript.as_deref(), ask, out),
        }
    }

    /// The connection broke, or the last bytes of a whole answer did not come in time.
    pub(super) fn on_broken(&mut self, ask: &Ask, out: &mut Vec<Emit>) -> Result<(), Failure> {
        match &mut self.reply {
            Reply::Awaited | Reply::Native { .. } => Err(Failure::Unreachable),
            Reply::Refused { head, .. } => Err(Failure::Status { head: head.clone(), body: None }),
            Reply::Whole { .. } => Err(Failure::Cut),
            Reply::Stream(stream) => stream.finish(self.transcript.as_deref(), ask, out),
        }
    }

    /// The platform stands between the endpoint and us. What has come by then is worth what it would be otherwise.
    pub(super) fn on_barred(&mut self, barrier: Barrier, ask: &Ask, out: &mut Vec<Emit>) -> Result<(), Failure> {
        self.on_broken(ask, out).map_err(|failure| match failure {
            Failure::Unreachable | Failure::Cut => Failure::Barred(barrier),
            failure => failure,
        })
    }

    /// A timer ran out. A refusal remains one when the rest of its explanation does not come.
    pub(super) fn on_silence(&self, timer: Timer) -> Failure {
        match &self.reply {
            Reply::Refused { head, .. } => Failure::Status { head: head.clone(), body: None },
            _ => Failure::Timeout(timer),
        }
    }

    /// Whether the answer is a stream whose bytes so far end with a whole event.
    pub(super) fn is_between_events(&self) -> bool {
        matches!(&self.reply, Reply::Stream(stream) if stream.is_between_events())
    }

    /// Ends an event that was cut in the middle and has gone out as it was.
    pub(super) fn seal(&mut self, now: Instant, out: &mut Vec<Emit>) -> Result<(), Failure> {
        if self.is_between_events() {
            return Ok(());
        }
        let seen = self.on_chunk(now, BLANK_LINE, out);
        out.clear();
        // The blank line itself, which everything begins with that is said behind a pipe.
        out.push(Emit::Bytes(Vec::new()));
        seen
    }

    /// Status and fields of the answer, as the client gets them.
    pub(super) fn returned(&self) -> Option<(u16, Headers)> {
        let (status, headers) = match &self.reply {
            Reply::Stream(stream) => (200, &stream.headers),
            Reply::Whole { head, .. } => (head.status, &head.headers),
            Reply::Native { headers } => (200, headers),
            Reply::Awaited | Reply::Refused { .. } => return None,
        };
        Some(match self.voice {
            Voice::Gateway => (status, fairlead::returned(headers)),
            Voice::Server | Voice::Proxy => (status, vllm::returned(headers)),
        })
    }

    /// Whether it has shown life without content: a gateway that has begun its answer works on it.
    pub(super) const fn is_alive(&self) -> bool {
        matches!((self.voice, &self.reply), (Voice::Gateway, Reply::Stream(_)))
    }

    /// Whether the answer is a stream that has proved itself whole, even if its end is missing. That
    /// of a job has not: only the job's end tells whether outputs of it were lost.
    pub(super) fn is_whole(&self) -> bool {
        matches!(&self.reply, Reply::Stream(stream) if stream.is_whole())
    }

    /// Whether it has been told no, and only hears why.
    pub(super) const fn is_refused(&self) -> bool {
        matches!(self.reply, Reply::Refused { .. })
    }

    pub(super) fn counts(&self) -> Counts {
        match &self.reply {
            Reply::Stream(stream) => stream.counts(),
            _ => Counts { usage: self.usage, ..Counts::default() },
        }
    }
}

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}
