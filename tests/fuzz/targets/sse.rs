//! Event streams: their framing, what they prove, and what is made of them. The first byte chooses the dialect, the
//! second how the rest is cut.

use super::{choose, chunks, value, within};
use fairlead_core::{
    api::Dialect,
    assembly::Assembly,
    splice::Splice,
    sse::{Decoder, Fields},
    stream::{Proof, Seen, Transcript},
};
use std::borrow::Cow;

const DIALECTS: [Dialect; 6] =
    [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Messages, Dialect::Whole, Dialect::Job];

pub fn run(data: &[u8]) {
    let (dialect, data) = choose(data);
    let (seed, stream) = choose(data);
    let dialect = DIALECTS[dialect % DIALECTS.len()];
    let cut = chunks(stream, seed as u64);

    let whole = decode([stream]);
    assert!(decode(cut.iter().copied()) == whole, "cuts change something");
    assert!(whole.0 == by_the_standard(stream), "other events than by the standard");
    within(12, stream.len(), "a proof", || prove(dialect, cut.iter().copied()));
    judge_alone_as_in_line(dialect, &whole.0);
    if matches!(dialect, Dialect::Chat | Dialect::Completions) {
        assemble(dialect, stream, &cut);
        splice(dialect, &whole.0, seed);
    }
}

/// An event: its name and its data.
type Event = (Vec<u8>, Vec<u8>);

/// The events, the bytes of all blocks, and whether the stream ends between two.
fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>, bool) {
    let mut decoder = Decoder::default();
    let (mut events, mut bytes) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let mut at = 0;
        while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
            if let Some(range) = &block.range {
                assert_eq!(&chunk[range.clone()], block.bytes);
            }
            bytes.extend_from_slice(block.bytes);
            events.extend(block.fields().map(|fields| (fields.name.to_vec(), fields.data.into_owned())));
        }
        assert_eq!(at, chunk.len());
    }
    let between = decoder.is_between_blocks();
    (events, bytes, between)
}

/// The same by the letter of the standard: line by line, with everything held (HTML, section 9.2.6).
fn by_the_standard(stream: &[u8]) -> Vec<Event> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let (mut events, mut name, mut data) = (Vec::new(), Vec::new(), Vec::new());
    let mut line = Vec::new();
    let mut bytes = stream.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if !matches!(byte, b'\r' | b'\n') {
            line.push(byte);
            continue;
        }
        if byte == b'\r' {
            bytes.next_if_eq(&b'\n');
        }
        let line = std::mem::take(&mut line);
        if line.is_empty() {
            // The standard's data buffer ends in a line end, which is taken off.
            if data.pop().is_some() {
                events.push((std::mem::take(&mut name), std::mem::take(&mut data)));
            }
            name.clear();
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => data.extend(value.iter().chain(b"\n")),
            _ => {}
        }
    }
    events
}

/// What a call does with every stream.
fn prove<'a>(dialect: Dialect, chunks: impl IntoIterator<Item = &'a [u8]>) {
    let mut decoder = Decoder::default();
    let mut proof = Proof::new(dialect, usize::MAX);
    for chunk in chunks {
        let mut at = 0;
        while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
            if let Some(fields) = block.fields() {
                proof.observe(&fields);
            }
        }
    }
}

const fn fields(data: &[u8]) -> Fields<'_> {
    Fields { name: b"", data: Cow::Borrowed(data) }
}

/// What repeats is read without a parser, and means the same.
fn judge_alone_as_in_line(dialect: Dialect, events: &[Event]) {
    let mut proof = Proof::new(dialect, 3);
    let mut slow = Proof::new(dialect, 3);
    let mut ended: Vec<usize> = Vec::new();
    for (_, data) in events {
        let event = fields(data);
        let mut alone = Proof::new(dialect, 3);
        assert_eq!(proof.observe(&event), alone.observe(&event), "{}", data.escape_ascii());
        // The same counts: where a dialect tells them by the piece, they are told once.
        assert_eq!(proof.take_told(), alone.take_told());
        ended.extend((0..3).filter(|choice| alone.has_ended(*choice)));
        for choice in 0..3 {
            assert_eq!(proof.has_ended(choice), ended.contains(&choice));
        }
        slow.observe(&event);
    }
    assert_eq!((proof.is_whole(), proof.usage()), (slow.is_whole(), slow.usage()));
}

/// A stream as a whole answer: JSON, of a bounded size, however it was cut.
fn assemble(dialect: Dialect, stream: &[u8], cut: &[&[u8]]) {
    let put_together = |chunks: &[&[u8]]| {
        let mut assembly = Assembly::new(dialect);
        chunks.iter().try_for_each(|chunk| assembly.push(chunk)).ok().map(|()| assembly.finish())
    };
    // A choice is an object with all its empty fields, even where it came as `{}`. What all may take is `MAX_ANSWER`.
    let json = within(400, stream.len(), "an assembly", || put_together(cut));
    assert_eq!(json, put_together(&[stream]));
    if let Some(json) = json {
        assert!(value(&json).is_none_or(|json| json.is_object()));
    }
}

/// A stream that breaks somewhere and is begun again: what comes behind the break is what would have come.
fn splice(dialect: Dialect, events: &[Event], seed: usize) {
    let broken_at = seed % (events.len() + 1);
    let mut proof = Proof::new(dialect, 1);
    let (mut first, mut all) = (Transcript::new(true), Transcript::new(true));
    let mut passed: Vec<&[u8]> = Vec::new();
    for (index, (_, data)) in events.iter().enumerate() {
        let event = fields(data);
        let said = match proof.observe(&event) {
            Seen::Content(said) => said,
            Seen::Nothing => Default::default(),
            _ => break,
        };
        passed.push(data);
        all.add(said);
        if index < broken_at {
            first.meet(data);
            first.add(said);
        }
    }
    let Some(mut splice) = Splice::of_repeat(&first) else { return };
    for event in passed {
        // An answer that differs ends in an error; nothing else may happen to it.
        let Ok(spliced) = splice.pass(event) else { return };
        let Some(spliced) = spliced else { continue };
        assert!(value(spliced.json.as_bytes()).is_none_or(|json| json.is_object()));
        assert!(!spliced.json.contains(['\n', '\r']));
        first.add(spliced.said());
    }
    if splice.is_level() && first.gap().is_none() && all.gap().is_none() {
        assert_eq!((first.content(), first.reasoning()), (all.content(), all.reasoning()));
    }
}
