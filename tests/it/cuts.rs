//! Every recorded stream, whole and cut at every byte.

use crate::{
    captures::{Capture, capture, streams},
    record::{Read, read_events},
    script::*,
    world::World,
};
use fairlead_core::sse::Decoder;

/// What the decoder makes of these chunks: its events, and the bytes of all its blocks.
fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Read>, Vec<u8>) {
    let mut decoder = Decoder::default();
    let (mut events, mut bytes) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let mut at = 0;
        while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
            if let Some(range) = &block.range {
                assert_eq!(&chunk[range.clone()], block.bytes);
            }
            bytes.extend_from_slice(block.bytes);
            if let Some(fields) = block.fields() {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                events.push((text(fields.name), text(&fields.data)));
            }
        }
    }
    (events, bytes)
}

/// All streams, the broken one among them.
fn all() -> impl Iterator<Item = &'static Capture> {
    streams().chain([capture("chat_stream_engine_killed")])
}

/// Every byte of short streams; of long ones, whose events are all alike, both ends and places
/// between them at a distance that is prime to the length of any event.
pub fn places(length: usize) -> impl Iterator<Item = usize> {
    const NEAR: usize = 1000;
    (0..=length).filter(move |at| is_short(length) || *at < NEAR || at % 31 == 0 || length - at < NEAR)
}

fn is_short(length: usize) -> bool {
    length < 20_000
}

#[test]
fn a_whole_stream_reaches_the_client_byte_for_byte() {
    for capture in streams() {
        let record = World::new().endpoint("a", [capture.script()]).run(capture.wanted());
        assert_eq!((record.status(), record.outcome()), (200, "ok"), "{}", capture.name);
        assert_eq!(record.text(), String::from_utf8_lossy(capture.body()), "{}", capture.name);
        assert_eq!(record.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(record.header("server"), None);
    }
}

#[test]
fn a_stream_cut_at_every_byte_gives_the_decoder_the_same_events() {
    for capture in all() {
        for stretch in stretches(capture.body()) {
            every_cut_decodes_the_same(stretch);
        }
    }
}

/// A stream as one, or, where it is long, in overlapping stretches of whole blocks: behind a blank
/// line the decoder begins anew, so a cut shows in the blocks around it or nowhere.
fn stretches(body: &[u8]) -> Vec<&[u8]> {
    if is_short(body.len()) {
        return vec![body];
    }
    let ends: Vec<usize> = (0..=body.len()).filter(|place| *place == 0 || body[..*place].ends_with(b"\n\n")).collect();
    let last = ends.len().saturating_sub(9);
    let starts = (0..last).step_by(6).chain([last]);
    starts.map(|start| &body[ends[start]..ends[start + 8]]).collect()
}

fn every_cut_decodes_the_same(body: &[u8]) {
    let whole = decode([body]);
    assert_eq!(whole.0, read_events(body));
    assert_eq!(whole.1, body);
    for place in 0..=body.len() {
        let (first, second) = body.split_at(place);
        assert!(decode([first, second]) == whole, "cut at {place}");
    }
}

#[test]
fn a_stream_in_chunks_of_any_size_gives_the_decoder_the_same_events() {
    for capture in all() {
        let whole = decode([capture.body()]);
        for size in [1, 2, 3, 5, 64, 1000] {
            assert!(decode(capture.body().chunks(size)) == whole, "{} in chunks of {size}", capture.name);
        }
    }
}

#[test]
fn a_short_stream_cut_at_every_byte_gives_the_client_the_same_bytes() {
    all().filter(|capture| is_short(capture.body().len())).for_each(cuts_change_nothing);
}

#[test]
fn a_long_stream_cut_anywhere_gives_the_client_the_same_bytes() {
    all().filter(|capture| !is_short(capture.body().len())).for_each(cuts_change_nothing);
}

fn cuts_change_nothing(capture: &Capture) {
    let body = capture.body();
    let expected = World::new().endpoint("a", [capture.script()]).run(capture.wanted()).body();
    for place in places(body.len()) {
        let script = [capture.opened(), cut_at(body, [place]), end()].concat();
        let record = World::new().endpoint("a", [script]).run(capture.wanted());
        assert!(record.body() == expected, "{} cut at {place}", capture.name);
    }
}

#[test]
fn line_ends_of_two_bytes_stay_whole_wherever_they_are_cut() {
    let capture = capture("messages_stream");
    let body = String::from_utf8_lossy(capture.body()).replace('\n', "\r\n").into_bytes();
    for place in 0..=body.len() {
        let script = [capture.opened(), cut_at(&body, [place]), end()].concat();
        let record = World::new().endpoint("a", [script]).run(capture.wanted());
        assert!(record.body() == body, "cut at {place}");
    }
}

#[test]
fn a_stream_in_chunks_of_any_size_gives_the_client_the_same_bytes() {
    for capture in all() {
        let body = capture.body();
        let expected = World::new().endpoint("a", [capture.script()]).run(capture.wanted()).body();
        for size in [1, 3, 64, 1000] {
            let chunks = cut_at(body, (1..body.len()).filter(|place| place % size == 0));
            let script = [capture.opened(), chunks, end()].concat();
            let record = World::new().endpoint("a", [script]).run(capture.wanted());
            assert!(record.body() == expected, "{} in chunks of {size}", capture.name);
        }
    }
}
