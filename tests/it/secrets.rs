//! Keys, prompts and addresses stay where they belong. `Record::check` looks for them in every
//! fact, header and error of every run; here endpoints do their worst to have them repeated.

use crate::{record::Record, script::*, wanted::*, world::World};
use fairlead_core::{
    api::Api,
    ask::Ask,
    message::Headers,
    settings::{Endpoint, Secret},
};
use serde_json::json;

/// An error that repeats what it was asked, as vLLM's validation errors do.
fn indiscreet() -> String {
    json!({ "error": {
        "message": "Cannot answer `hush: nobody may read this prompt` with the key sk-hush-a at https://a.hush.example",
        "type": "BadRequestError", "param": "hush", "code": 500
    } })
    .to_string()
}

fn keeps_quiet(record: &Record) {
    assert!(!record.text().contains(HUSH), "{}", record.text());
}

#[test]
fn what_an_endpoint_repeats_in_an_error_is_not_repeated_by_the_gateway() {
    let inside = |begun: Script| [begun, event(indiscreet()), done(), end()].concat();
    for script in [
        answers(500, &[("x-hush", "hush"), ("set-cookie", "hush")], indiscreet()),
        answers(503, &[("retry-after", "hush")], indiscreet()),
        answers(401, &[("www-authenticate", "hush")], indiscreet()),
        answers(307, &[("location", "https://a.hush.example/")], indiscreet()),
        answers(200, &[("content-type", "text/html")], indiscreet()),
        inside(opened()),
        inside([opened(), role(), says("Well, ")].concat()),
        [opened(), says("Well, "), raw("data: hush, not JSON\n\n"), end()].concat(),
    ] {
        keeps_quiet(&World::new().always("a", script.clone()).run(chat()));
        let late = [wait(11_000), script].concat();
        keeps_quiet(&World::new().always("a", late).run(chat()));
    }
    for script in [answers(200, &[], indiscreet()), answers(500, &[], indiscreet())] {
        keeps_quiet(&World::new().always("a", script).run(chat_whole()));
    }
}

#[test]
fn an_endpoints_own_words_to_its_caller_go_to_nobody_else() {
    let record = World::new().endpoint("a", [answers(400, &[], indiscreet())]).run(chat());
    assert_eq!(record.text(), indiscreet(), "the caller's own prompt, back to the caller");
    assert!(!format!("{:?} {:?}", record.events, record.head).contains(HUSH));
}

#[test]
fn an_endpoint_sees_of_the_clients_header_only_what_concerns_it() {
    let mut wanted = chat();
    for (name, value) in [("accept", "text/event-stream"), ("x-forwarded-for", "::1"), ("x-stainless-lang", "js")] {
        wanted.headers.set(name, value);
    }
    let world = World::new().named_policy("quick", json!({ "preset": "simple" })).endpoint("a", [well("Yes.")]);
    let record = world.run(wanted.within(60_000).by("quick"));
    let mut names: Vec<&str> = record.requests[0].request.headers.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "content-type", "traceparent", "x-request-id"]);
}

#[test]
fn a_request_that_cannot_be_read_is_not_quoted() {
    for body in [
        "hush",
        "{\"model\": \"m\", \"prompt\": \"hush",
        "{\"model\": [\"hush\"]}",
        "{\"model\": \"m\", \"stream\": \"hush\"}",
        "{\"model\": \"m\", \"n\": \"hush\"}",
        "{\"model\": \"m\", \"response_format\": \"hush\"}",
        "{\"model\": \"m\", \"model\": \"hush\"}",
        "[\"hush\"]",
    ] {
        let error = Ask::read(Api::Chat, &Headers::new(), body.as_bytes().into()).unwrap_err();
        assert_eq!(error.code.status(), 400, "{body}");
        assert!(!format!("{error:?}").contains(HUSH), "{error:?}");
    }
}

#[test]
fn a_secret_is_not_shown_by_accident() {
    let endpoint =
        Endpoint { name: "a".to_owned(), api_key: Some(Secret::new("sk-hush-a".to_owned())), ..Endpoint::default() };
    assert!(!format!("{endpoint:?}").contains(HUSH));
}
