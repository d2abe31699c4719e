//! A streamed answer: its events on their way to the client, and what they prove.

use super::Emit;
use crate::{
    ask::Ask,
    classify::Failure,
    deadline::AttemptTimers,
    json::{items, member, members},
    message::Headers,
    provider::fairlead,
    resume::Terms,
    splice::{Differs, Splice},
    sse::Decoder,
    stream::{Proof, Seen, Transcript, Usage, is_content},
    time::Instant,
};
use std::{mem, ops::Range};

/// Events without content are held back up to here, so that a failure behind them stays
/// invisible; a stream that sends more of them is shown as it is.
const MAX_HELD: usize = 1 << 20;

/// A streamed answer and what it has proved.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) headers: Headers,
    decoder: Decoder,
    proof: Proof,
    /// Events before the first content.
    held: Vec<u8>,
    shown: bool,
    /// `[DONE]` has been passed on or put in: nothing may follow.
    closed: bool,
    /// What proves it whole and follows that is held back in `tail` until the end is known.
    holds_end: bool,
    /// So is the event with the counts of tokens.
    holds_usage: bool,
    /// Its errors may be in a gateway's own words.
    of_gateway: bool,
    tail: Vec<u8>,
    events: u64,
    malformed: u64,
}

/// What a stream counted, for the log.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) malformed: u64,
    pub(super) usage: Usage,
}

impl Stream {
    /// One of which nothing has come. `of_gateway`: see [`fairlead::event`].
    pub(super) fn new(headers: Headers, proof: Proof, of_gateway: bool) -> Self {
        Self {
            headers,
            decoder: Decoder::default(),
            proof,
            held: Vec::new(),
            shown: false,
            closed: false,
            holds_end: false,
            holds_usage: false,
            of_gateway,
            tail: Vec::new(),
            events: 0,
            malformed: 0,
        }
    }

    /// See [`super::Attempt::hold_end`].
    pub(super) const fn hold_end(&mut self) {
        self.holds_end = true;
    }

    /// Whether its bytes so far end with a whole event.
    pub(super) const fn is_between_events(&self) -> bool {
        self.decoder.is_between_blocks()
    }

    /// Whether it has proved itself whole, and holds nothing back of that.
    pub(super) fn is_whole(&self) -> bool {
        self.proof.is_whole() && !self.holds_end
    }

    /// Those of so many choices whose ends the client has not got.
    pub(super) fn open_choices(&self, choices: usize) -> Vec<usize> {
        let held = ends_in(&self.tail);
        (0..choices).filter(|index| held.contains(index) || !self.proof.has_ended(*index)).collect()
    }

    /// What it counted.
    pub(super) const fn counts(&self) -> Counts {
        Counts { events: self.events, malformed: self.malformed, usage: self.proof.usage() }
    }

    /// Takes in bytes. What may go on is added to `out`.
    pub(super) fn on_chunk(
        &mut self,
        now: Instant,
        chunk: &[u8],
        timers: &mut AttemptTimers,
        mut transcript: Option<&mut Transcript>,
        mut splice: Option<&mut Splice>,
        out: &mut Vec<Emit>,
    ) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let mut at = 0;
        let mut content = false;
        let too_long = Failure::Invalid("an event of more than 16 MiB");
        while let Some(block) = self.decoder.next(chunk, &mut at).map_err(|_| too_long.clone())? {
            let fields = block.fields();
            self.events = self.events.saturating_add(fields.is_some().into());
            let had_ended = transcript.is_some() && self.proof.is_whole();
            let seen = fields.as_ref().map_or(Seen::Nothing, |fields| self.proof.observe(fields));
            let holds = self.holds_end && self.proof.is_whole();
            match seen {
                Seen::Nothing | Seen::Content(_) => {
                    let said = if let Seen::Content(said) = seen { Some(said) } else { None };
                    content |= said.is_some();
                    let told = self.proof.take_told();
                    // Only counts stand behind the end.
                    self.holds_usage |= had_ended && holds;
                    match (&fields, splice.as_deref_mut()) {
                        (Some(fields), Some(splice)) => {
                            let Some(spliced) = splice.pass(&fields.data).map_err(|Differs| Failure::Differs)? else {
                                continue;
                            };
                            let event = [b"data: ", spliced.json.as_bytes(), b"\n\n"].concat();
                            if holds {
                                self.tail.extend_from_slice(&event);
                                continue;
                            }
                            if let Some(transcript) = transcript.as_deref_mut() {
                                transcript.add(spliced.said());
                                transcript.count(spliced.usage);
                                transcript.usage_told |= had_ended;
                            }
                            self.shown = true;
                            out.push(Emit::Bytes(event));
                        }
                        _ if holds => self.tail.extend_from_slice(block.bytes),
                        (fields, _) => {
                            if let (Some(transcript), Some(fields)) = (&mut transcript, fields) {
                                transcript.meet(&fields.data);
                                said.into_iter().for_each(|said| transcript.add(said));
                                transcript.count(told);
                                transcript.usage_told |= had_ended;
                            }
                            if said.is_some() || self.held.len() > MAX_HELD {
                                show(&mut self.shown, &mut self.held, out);
                            }
                            if self.shown {
                                pass_on(block.bytes, block.range, out);
                            } else if fields.is_some() || block.bytes == b"\n" {
                                self.held.extend_from_slice(block.bytes);
                            }
                        }
                    }
                }
                Seen::Malformed => {
                    self.malformed = self.malformed.saturating_add(1);
                    // A piece of the text is lost with it, behind which another endpoint can go on.
                    let cut = fields.is_some_and(|fields| fields.data.starts_with(b"{"));
                    if cut && transcript.as_deref().is_some_and(|transcript| transcript.minds_holes) {
                        return Err(Failure::Invalid("an event that is not whole"));
                    }
                }
                Seen::Error(error) => {
                    let own =
                        block.fields().filter(|_| self.of_gateway).and_then(|fields| fairlead::event(&fields.data));
                    return Err(own.unwrap_or(Failure::InBand(error)));
                }
                Seen::Done if !self.proof.is_whole() => return Err(Failure::Cut),
                Seen::Done if holds => {
                    self.tail.extend_from_slice(block.bytes);
                    self.closed = true;
                    return Ok(());
                }
                Seen::Done => {
                    show(&mut self.shown, &mut self.held, out);
                    pass_on(block.bytes, block.range, out);
                    self.closed = true;
                    timers.on_finished(now);
                    return Ok(());
                }
            }
        }
        if content {
            timers.on_content(now);
        }
        if self.proof.is_whole() && !self.holds_end {
            timers.on_finished(now);
        }
        Ok(())
    }

    /// No more bytes: whole if the dialect's own proof says so, and then with the end it owes.
    pub(super) fn finish(&mut self, shown: Option<&Transcript>, ask: &Ask, out: &mut Vec<Emit>) -> Result<(), Failure> {
        if self.closed && self.tail.is_empty() {
            return Ok(());
        }
        if !self.proof.is_whole() {
            return Err(Failure::Cut);
        }
        show(&mut self.shown, &mut self.held, out);
        if !self.tail.is_empty() {
            out.push(Emit::Bytes(mem::take(&mut self.tail)));
        }
        if self.proof.ends_in_done() && !self.closed {
            let told = self.holds_usage;
            let lacks_usage = |shown: &&Transcript| !told && !shown.usage_told && Terms::read(ask).wants_usage();
            out.extend(shown.filter(lacks_usage).map(|shown| Emit::Bytes(shown.unknown_usage())));
            out.push(Emit::Bytes(b"data: [DONE]\n\n".to_vec()));
        }
        self.closed = true;
        Ok(())
    }
}

/// Lets what was held back out, once.
fn show(shown: &mut bool, held: &mut Vec<u8>, out: &mut Vec<Emit>) {
    *shown = true;
    if !held.is_empty() {
        out.push(Emit::Bytes(mem::take(held)));
    }
}

/// Lets a block out: by reference where the chunk holds it whole, next to its neighbour if it can.
fn pass_on(bytes: &[u8], range: Option<Range<usize>>, out: &mut Vec<Emit>) {
    match (range, out.last_mut()) {
        (Some(range), Some(Emit::Slice(last))) if last.end == range.start => last.end = range.end,
        (Some(range), _) => out.push(Emit::Slice(range)),
        (None, _) => out.push(Emit::Bytes(bytes.to_vec())),
    }
}

/// The choices that end in these events.
fn ends_in(events: &[u8]) -> Vec<usize> {
    let (mut decoder, mut at, mut ends) = (Decoder::default(), 0, Vec::new());
    while let Ok(Some(block)) = decoder.next(events, &mut at) {
        let fields = block.fields();
        let event = fields.as_ref().and_then(|fields| members(str::from_utf8(&fields.data).ok()?));
        let choices = event.and_then(|event| member(&event, "choices").and_then(items)).unwrap_or_default();
        for choice in choices.into_iter().filter_map(|choice| members(choice.get())) {
            if member(&choice, "finish_reason").is_some_and(is_content) {
                ends.push(member(&choice, "index").and_then(|index| index.get().parse().ok()).unwrap_or_default());
            }
        }
    }
    ends
}
