//! Answers that do not stream are whole or nothing.

use crate::{captures::capture, script::*, wanted::*, world::World};
use fairlead_core::event::Event;
use serde_json::json;

#[test]
fn a_whole_answer_reaches_the_client_byte_for_byte() {
    for (name, wanted) in [("chat", chat_whole()), ("tokenize", embeddings())] {
        let capture = capture(name);
        for place in 0..=capture.body().len() {
            let script = [capture.opened(), cut_at(capture.body(), [place]), end()].concat();
            let record = World::new().endpoint("a", [script]).run(wanted.clone());
            assert_eq!((record.outcome(), record.body()), ("ok", capture.body().to_vec()), "{name} cut at {place}");
            assert_eq!(record.header("content-type"), Some("application/json"));
            assert_eq!(record.header("x-fairlead-endpoint"), Some("a"));
            assert_eq!(record.header("content-length"), None, "framing is the host's");
            assert_eq!(record.pieces.len(), 1);
        }
    }
}

#[test]
fn what_an_answer_cost_is_told_to_the_log() {
    let record = World::new().endpoint("a", [capture("chat").script()]).run(chat_whole());
    let Some((_, Event::CallEnded { prompt_tokens, completion_tokens, .. })) = record.events.last() else { panic!() };
    assert_eq!((*prompt_tokens, *completion_tokens), (Some(7), Some(70)));
}

#[test]
fn an_answer_cut_at_any_byte_is_asked_for_again() {
    let capture = capture("chat");
    let unsized_head = || head(200, &[("content-type", "application/json")]);
    for place in 0..capture.body().len() {
        for (opened, ending) in
            [(capture.opened(), end()), (unsized_head(), end()), (capture.opened(), reset()), (unsized_head(), reset())]
        {
            let script = [opened, raw(&capture.body()[..place]), ending].concat();
            let record = World::new().endpoint("a", [script]).endpoint("b", [capture.script()]).run(chat_whole());
            assert_eq!((&*record.asked(), record.body() == capture.body()), ("ab", true), "cut at {place}");
        }
    }
}

#[test]
fn the_head_waits_for_the_last_byte() {
    let body = answer("Slowly.");
    let json_head = || head(201, &[("content-type", "application/json")]);
    let script = [wait(50_000), json_head(), raw(&body[..9]), wait(50_000), raw(&body[9..]), wait(50_000), end()];
    let record = World::new().endpoint("a", [script.concat()]).run(chat_whole());
    assert_eq!((record.status(), record.head_at, record.text()), (201, 150_000, body));
}

#[test]
fn a_body_that_was_compressed_on_the_way_has_another_length() {
    let fields = [("content-type", "application/json"), ("content-length", "20"), ("content-encoding", "gzip")];
    let body = answer("Decoded by the transport.");
    let record = World::new().endpoint("a", [[head(200, &fields), raw(&body), end()].concat()]).run(chat_whole());
    assert_eq!((record.outcome(), record.text(), record.header("content-encoding")), ("ok", body, None));
}

#[test]
fn a_long_answer_flows_through() {
    let chunk = vec![b'7'; 1 << 20];
    let json_head = head(200, &[("content-type", "application/json"), ("content-length", &(20 << 20).to_string())]);
    let script = [json_head, times(20, [wait(10), raw(&chunk)].concat()), end()].concat();
    let record = World::new().endpoint("a", [script.clone()]).run(embeddings());
    assert_eq!((record.outcome(), record.head_at, record.ended_at), ("ok", 90, 200));
    assert!(record.body() == chunk.repeat(20));
    let short = [&script[..script.len() - 3], &[Step::End][..]].concat();
    let record = World::new().endpoint("a", [short]).endpoint("b", []).run(embeddings());
    assert_eq!((record.status(), record.broken, record.outcome()), (200, true, "stream_interrupted"));
    let stalls = script[..script.len() - 3].to_vec();
    let record = World::new().policy(json!({ "idle_ms": 3000 })).endpoint("a", [stalls]).run(embeddings());
    assert_eq!((record.broken, record.outcome(), record.ended_at), (true, "upstream_timeout", 3190));
}

#[test]
fn token_counts_of_another_shape_cost_no_answer() {
    for usage in [json!({ "prompt_tokens": 7.0 }), json!([]), json!("none"), json!({ "prompt_tokens": -1 })] {
        let mut body: serde_json::Value = serde_json::from_str(&answer("Yes.")).unwrap();
        body["usage"] = usage;
        let record = World::new().endpoint("a", [answers(200, &[], body.to_string())]).run(chat_whole());
        assert_eq!((record.outcome(), record.text()), ("ok", body.to_string()));
    }
}

#[test]
fn any_json_type_is_json_and_nothing_else_is() {
    for (media_type, ok) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/vnd.api+json", true),
        ("text/html", false),
        ("text/plain", false),
        ("text/event-stream", false),
        ("", false),
    ] {
        let script = [head(200, &[("content-type", media_type)]), raw(answer("Yes.")), end()].concat();
        let record = World::new().policy(json!({ "max_attempts": 1 })).endpoint("a", [script]).run(chat_whole());
        assert_eq!(record.code(), if ok { "" } else { "upstream_invalid" }, "{media_type:?}");
    }
}

#[test]
fn a_transcription_may_be_plain_text_and_its_form_goes_through_untouched() {
    let plain = [head(200, &[("content-type", "text/plain; charset=utf-8")]), raw("A dark night."), end()].concat();
    let record = World::new().target("a", Some("whisper-large")).endpoint("a", [plain]).run(transcription());
    assert_eq!((record.outcome(), record.text()), ("ok", "A dark night.".to_owned()));
    let sent = &record.requests[0].request;
    assert!(sent.url.ends_with("/v1/audio/transcriptions"));
    assert_eq!(sent.headers.get("content-type"), Some("multipart/form-data; boundary=XX"));
    let was = transcription().bytes();
    let place = was.windows(9).position(|window| window == b"\r\n\r\nm\r\n--").unwrap() + 4;
    assert_eq!(*sent.body, *[&was[..place], b"whisper-large", &was[place + 1..]].concat());
    for fault in [
        [head(200, &[("content-type", "text/plain")]), end()].concat(),
        answers(200, &[("content-type", "text/html")], "<h1>Welcome</h1>"),
    ] {
        let record = World::new().policy(json!({ "max_attempts": 1 })).endpoint("a", [fault]).run(transcription());
        assert_eq!(record.status(), 502);
    }
}

#[test]
fn routes_outside_v1_stand_at_the_endpoints_root() {
    let mut wanted = embeddings();
    wanted.api = fairlead_core::api::Api::Tokenize;
    let record = World::new().endpoint("a", [capture("tokenize").script()]).run(wanted);
    assert_eq!(record.requests[0].request.url, "https://a.hush.example/tokenize");
}

#[test]
fn no_piece_is_empty() {
    let json_head = || head(200, &[("content-type", "application/json")]);
    let large = [json_head(), raw(vec![b' '; 9 << 20]), raw(""), raw("{}"), end()].concat();
    for script in [large, answers(404, NONE, "")] {
        let record = World::new().endpoint("a", [script]).run(embeddings());
        assert!(record.pieces.iter().all(|(_, piece)| !piece.is_empty()), "{}", record.status());
    }
}
