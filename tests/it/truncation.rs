//! Every recorded stream, ended and broken at every byte: never a whole answer that is none.

use crate::{
    captures::{Capture, capture, streams},
    cuts::places,
    record::Record,
    script::*,
    world::World,
};
use serde_json::{Value, json};

/// Where a stream shows its first content, and where its own proof of being whole is complete:
/// behind which byte.
struct Marks {
    content: usize,
    whole: usize,
}

fn marks(capture: &Capture) -> Marks {
    let body = std::str::from_utf8(capture.body()).unwrap();
    let (mut at, mut content, mut whole) = (0, None, 0);
    for block in body.split_inclusive("\n\n") {
        at += block.len();
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        if content.is_none() && shows(&event) {
            content = Some(at);
        }
        if closes(&event) {
            whole = at;
        }
    }
    Marks { content: content.expect("a stream with content"), whole }
}

/// Whether a reader would see something of this event.
fn shows(event: &Value) -> bool {
    let says = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty()) || value.is_array();
    let choice = &event["choices"][0];
    let delta = &choice["delta"];
    says(&choice["text"])
        || ["content", "reasoning", "tool_calls"].iter().any(|field| says(&delta[field]))
        || event["type"].as_str().is_some_and(|kind| kind.ends_with("delta") && event["delta"] != Value::Null)
}

/// Whether this event ends a choice or the whole stream. The last that does completes the proof.
fn closes(event: &Value) -> bool {
    event["choices"][0]["finish_reason"].is_string()
        || event["type"] == "response.completed"
        || event["type"] == "message_stop"
}

/// The stream up to `place`, and then this.
fn cut_short(capture: &Capture, place: usize, ending: Script) -> Record {
    let script = [capture.opened(), raw(&capture.body()[..place]), ending].concat();
    let policy = json!({ "max_attempts": 1 });
    World::new().policy(policy).endpoint("a", [script]).run(capture.wanted())
}

fn every_place(ending: fn() -> Script) {
    for capture in streams() {
        let body = capture.body();
        let Marks { content, whole } = marks(capture);
        for place in places(body.len()) {
            // `Record::check` has the stream's own proof weighed against its end.
            let record = cut_short(capture, place, ending());
            let at = format!("{} up to byte {place}", capture.name);
            if place < content {
                assert_eq!((record.status(), &*record.code()), (502, "stream_interrupted"), "{at}");
            } else if place < whole {
                assert_eq!((record.status(), &*record.code()), (200, "stream_interrupted"), "{at}");
                assert!(!record.text().contains("[DONE]"), "{at}");
            } else {
                assert_eq!(record.outcome(), "ok", "{at}");
                let owed = if capture.body().ends_with(b"data: [DONE]\n\n") { "data: [DONE]\n\n" } else { "" };
                assert!(record.text().ends_with(owed), "{at}");
            }
        }
    }
}

#[test]
fn a_stream_that_ends_at_any_byte_is_whole_only_when_it_has_proved_so() {
    every_place(end);
}

#[test]
fn a_stream_that_breaks_at_any_byte_is_whole_only_when_it_has_proved_so() {
    every_place(reset);
}

#[test]
fn what_was_shown_of_a_stream_that_broke_are_its_own_whole_events() {
    for capture in streams() {
        let body = capture.body();
        for place in places(body.len()).step_by(3) {
            let shown = cut_short(capture, place, reset()).text();
            if let Some(shown) = shown.split_once("data: {\"error\"").map(|(shown, _)| shown) {
                let shown = shown.strip_suffix("event: error\n").unwrap_or(shown).as_bytes();
                assert!(body.starts_with(shown) && (shown.is_empty() || shown.ends_with(b"\n\n")));
            }
        }
    }
}

#[test]
fn a_killed_engines_stream_is_never_whole_wherever_it_stops() {
    let capture = capture("chat_stream_engine_killed");
    for place in places(capture.body().len()) {
        let record = cut_short(capture, place, end());
        assert_eq!(record.code(), "stream_interrupted", "up to byte {place}");
        assert!(!record.text().contains("[DONE]"));
    }
}

#[test]
fn behind_a_stream_that_broke_before_its_content_another_endpoint_answers() {
    let capture = capture("chat_stream_usage");
    for place in 0..marks(capture).content {
        let script = [capture.opened(), raw(&capture.body()[..place]), reset()].concat();
        let record = World::new().endpoint("a", [script]).endpoint("b", [capture.script()]).run(capture.wanted());
        assert!(record.body() == capture.body(), "up to byte {place}");
    }
}
