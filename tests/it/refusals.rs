//! What an endpoint refuses: its word on the caller's own mistakes is passed on, anything else is
//! a matter between the gateway and its endpoints.

use crate::{captures::capture, record::Record, script::*, wanted::*, world::World};
use serde_json::{Value, json};

const CONTEXT: &str = "error_400_context";

/// The endpoint's own answer, byte for byte, after one attempt.
fn passed_on(record: &Record, status: u16, body: &[u8]) {
    assert_eq!((record.status(), record.text()), (status, String::from_utf8_lossy(body).into_owned()));
    assert_eq!(record.header("x-should-retry"), Some("false"));
    assert_eq!(record.header("x-fairlead-endpoint"), Some("a"));
    assert_eq!((&*record.asked(), record.outcome()), ("a", &*format!("upstream_{status}")));
}

#[test]
fn a_callers_mistake_comes_back_with_the_endpoints_own_status_and_words() {
    for name in [
        "error_400_context",
        "error_400_json",
        "error_400_validation",
        "error_404_model",
        "error_404_route",
        "error_405",
    ] {
        let capture = capture(name);
        for wanted in [chat(), chat_whole(), completions(), messages(), embeddings()] {
            let record = World::new().endpoint("a", [capture.script()]).endpoint("b", []).run(wanted);
            passed_on(&record, capture.head().status, capture.body());
            assert_eq!(record.header("content-type"), Some("application/json"));
        }
    }
    for status in [400, 402, 404, 405, 409, 410, 413, 415, 418, 422, 451] {
        let body = format!("no, {status}\r\n\u{0}");
        let script = [head(status, &[("content-type", "text/plain")]), cut_at(body.as_bytes(), [2, 3]), end()].concat();
        let record = World::new().endpoint("a", [script]).endpoint("b", []).run(chat());
        passed_on(&record, status, body.as_bytes());
        assert_eq!(record.header("content-type"), Some("text/plain"));
    }
}

#[test]
fn a_refusal_that_gives_leave_to_retry_is_tried_again_and_passed_on_in_the_end() {
    let script = answers(409, &[("x-should-retry", "true")], "busy with this very request");
    let record = World::new().always("a", script).run(chat());
    assert_eq!((record.status(), &*record.text(), &*record.asked()), (409, "busy with this very request", "aaa"));
    assert_eq!((record.header("x-should-retry"), record.outcome()), (Some("false"), "upstream_409"));
}

#[test]
fn nothing_of_the_endpoints_header_comes_with_it_but_what_belongs_to_the_body() {
    let fields = [
        ("set-cookie", "a=1"),
        ("server", "uvicorn"),
        ("www-authenticate", "Bearer"),
        ("access-control-allow-origin", "*"),
        ("x-request-id", "theirs"),
        ("content-language", "en"),
    ];
    let record = World::new().endpoint("a", [answers(422, &fields, "{}")]).run(chat());
    let names: Vec<&str> = record.head.as_ref().unwrap().headers.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "content-type",
            "content-language",
            "x-should-retry",
            "x-fairlead-endpoint",
            "x-fairlead-attempts",
            "server-timing"
        ]
    );
}

#[test]
fn a_refused_key_is_the_gateways_affair() {
    let refused = || capture("error_401").script();
    let record = World::new().endpoint("a", [refused()]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!((&*record.asked(), record.body()), ("ab", body_of(&well("From b."))));
    let forbidden = answers(403, &[], "{}");
    let record = World::new().endpoint("a", [forbidden]).endpoint("b", [refused()]).run(chat());
    assert_eq!((record.status(), &*record.code(), &*record.asked()), (502, "upstream_rejected_key", "ab"));
    assert!(record.error().unwrap()["message"].to_string().contains("`api_key_secret`"));
}

#[test]
fn a_prompt_too_long_goes_to_another_model_only() {
    let too_long = || capture(CONTEXT).script();
    let record = World::new()
        .target("a", Some("small"))
        .target("b", Some("small"))
        .target("c", Some("large"))
        .endpoint("a", [too_long()])
        .endpoint("b", [])
        .endpoint("c", [well("It fits.")])
        .run(chat());
    assert_eq!((&*record.asked(), record.outcome(), record.ended_at), ("ac", "ok", 0));
    let record = World::new().endpoint("a", [too_long()]).endpoint("b", []).run(chat());
    passed_on(&record, 400, capture(CONTEXT).body());
    let record = World::new()
        .target("a", Some("small"))
        .target("b", Some("large"))
        .endpoint("a", [too_long()])
        .endpoint("b", [too_long()])
        .run(chat());
    assert_eq!((record.status(), &*record.asked(), record.text().as_bytes()), (400, "ab", capture(CONTEXT).body()));
}

#[test]
fn a_filtered_prompt_goes_back_at_once() {
    let filter = r#"{"error":{"message":"The prompt was filtered.","type":"invalid_request_error","param":null,"code":"content_filter"}}"#;
    let record = World::new()
        .target("a", Some("small"))
        .target("b", Some("large"))
        .endpoint("a", [answers(400, &[], filter)])
        .endpoint("b", [])
        .run(chat());
    passed_on(&record, 400, filter.as_bytes());
}

#[test]
fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let moved = head(status, &[("location", "https://b.hush.example/v1/chat/completions")]);
        let record = World::new().endpoint("a", [moved.clone()]).endpoint("b", [well("From b.")]).run(chat());
        assert_eq!((&*record.asked(), record.outcome()), ("ab", "ok"));
        let record = World::new().endpoint("a", [moved]).run(chat());
        assert_eq!((record.status(), &*record.code(), record.header("location")), (502, "upstream_invalid", None));
    }
}

#[test]
fn an_endpoints_word_on_retrying_is_obeyed() {
    let told = |status, word| answers(status, &[("x-should-retry", word)], "{}");
    let record = World::new().endpoint("a", [told(400, "true"), well("Now.")]).run(chat());
    assert_eq!((&*record.asked(), record.outcome()), ("aa", "ok"));
    let record = World::new().endpoint("a", [told(503, "false")]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!((&*record.asked(), record.outcome()), ("ab", "ok"));
    for status in [429, 500, 503] {
        let record = World::new().endpoint("a", [told(status, "false")]).run(chat());
        assert_eq!((&*record.asked(), record.ended_at), ("a", 0), "{status}");
    }
}

#[test]
fn an_error_inside_a_200_is_judged_by_the_status_it_names() {
    let names = |code: Value| {
        let error =
            event(json!({ "error": { "message": "no", "type": "BadRequestError", "param": null, "code": code } }));
        [opened(), error, done(), end()].concat()
    };
    for (code, asked, got) in [
        (json!(400), "a", (400, "invalid_request")),
        (json!("404"), "a", (400, "invalid_request")),
        (json!(503), "aaa", (503, "upstream_overloaded")),
        (json!(500), "aaa", (502, "upstream_invalid")),
        (json!("server_error"), "aaa", (502, "upstream_invalid")),
        (Value::Null, "aaa", (502, "upstream_invalid")),
    ] {
        let record = World::new().always("a", names(code.clone())).run(chat());
        assert_eq!((&*record.asked(), (record.status(), &*record.code())), (asked, got), "{code}");
    }
}

#[test]
fn a_refusal_whose_words_do_not_arrive_is_a_refusal_all_the_same() {
    let refused = || head(400, &[("content-type", "application/json"), ("content-length", "50")]);
    let endless = [head(400, NONE), for_ever(1, vec![b'x'; 64 << 10])].concat();
    for (name, script) in [
        ("cut", [refused(), raw("{\"err"), end()].concat()),
        ("broken", [refused(), raw("{\"err"), reset()].concat()),
        ("stalled", [refused(), raw("{\"err")].concat()),
        ("endless", endless),
    ] {
        for wanted in [chat(), chat_whole()] {
            let world = World::new().policy(json!({ "idle_ms": 3000 })).endpoint("a", [script.clone()]);
            let record = world.endpoint("b", []).run(wanted);
            assert_eq!((record.status(), &*record.code(), &*record.asked()), (400, "invalid_request", "a"), "{name}");
            assert!(record.ended_at <= 3000, "{name}");
        }
    }
}
