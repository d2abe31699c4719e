//! Every route speaks its own dialect: its own proof of a whole stream, its own error.

use crate::{
    captures::capture,
    record::Record,
    script::*,
    wanted::{Wanted, chat, completions, embeddings, messages, responses, transcription},
    world::World,
};
use serde_json::{Value, json};

/// A named event.
fn named(name: &str, mut payload: Value) -> Script {
    payload["type"] = name.into();
    raw(format!("event: {name}\ndata: {payload}\n\n"))
}

fn response_begun() -> Script {
    [
        opened(),
        named("response.created", json!({ "response": { "id": "resp-1", "error": null, "status": "in_progress" } })),
        named("response.output_text.delta", json!({ "delta": "Well, " })),
    ]
    .concat()
}

fn message_begun() -> Script {
    let delta = json!({ "index": 0, "delta": { "type": "text_delta", "text": "Well, " } });
    [
        opened(),
        named("message_start", json!({ "message": { "id": "msg-1", "content": [], "usage": { "input_tokens": 7 } } })),
        named("ping", json!({})),
        named("content_block_delta", delta),
    ]
    .concat()
}

/// Each streaming route: what it wants, and a stream of it that has shown content.
fn routes() -> [(Wanted, Script); 5] {
    let text = event(json!({ "choices": [{ "index": 0, "text": "Well, ", "finish_reason": null }] }));
    [
        (chat(), [opened(), role(), says("Well, ")].concat()),
        (completions(), [opened(), text].concat()),
        (responses(), response_begun()),
        (messages(), message_begun()),
        (transcription().streamed(), [opened(), says("Well, ")].concat()),
    ]
}

fn run(wanted: Wanted, script: Script) -> Record {
    World::new().policy(json!({ "max_attempts": 1 })).endpoint("a", [script]).run(wanted)
}

/// The error as an SDK of the route finds it in the last event, and that event's name.
fn last_event(record: &Record) -> (String, Value) {
    let (name, data) = record.reads().last().unwrap();
    (name.clone(), serde_json::from_str(data).unwrap())
}

#[test]
fn a_stream_that_breaks_tells_it_as_its_own_sdks_expect() {
    for (wanted, begun) in routes() {
        let path = wanted.api.path();
        for ending in [end(), reset(), [done(), end()].concat()] {
            let record = run(wanted.clone(), [begun.clone(), ending].concat());
            assert_eq!(&*record.code(), "stream_interrupted", "{path}");
            let (name, event) = last_event(&record);
            let error = &event["error"];
            assert!(error["message"].is_string() && error["param"].is_null(), "{path}: {event}");
            assert_eq!(error["type"], "api_error", "{path}");
            match path {
                "/v1/responses" => {
                    assert_eq!((&*name, event["type"].as_str()), ("error", Some("error")));
                    assert_eq!((&event["message"], &event["code"]), (&error["message"], &error["code"]));
                }
                "/v1/messages" => {
                    assert_eq!((&*name, event["type"].as_str()), ("error", Some("error")));
                    assert_eq!(event.as_object().unwrap().len(), 2, "{event}");
                }
                _ => assert_eq!((&*name, event.as_object().unwrap().len()), ("", 1), "{event}"),
            }
        }
    }
}

#[test]
fn an_error_before_the_stream_has_the_shape_of_the_route() {
    let wanted = routes().map(|(wanted, _)| wanted).into_iter().chain([embeddings()]);
    for wanted in wanted {
        let path = wanted.api.path();
        let record = run(wanted, reset());
        assert_eq!((record.status(), record.header("content-type")), (502, Some("application/json")), "{path}");
        let body: Value = serde_json::from_str(&record.text()).unwrap();
        assert_eq!(body["error"]["code"], "upstream_unreachable", "{path}");
        assert_eq!(body["type"].as_str(), (path == "/v1/messages").then_some("error"), "{path}");
        let fields: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["code", "message", "param", "type"], "{path}");
    }
}

#[test]
fn a_completions_stream_is_whole_when_every_prompt_has_all_its_choices() {
    let ends = |index: usize| event(json!({ "choices": [{ "index": index, "text": "!", "finish_reason": "stop" }] }));
    for (wanted, choices) in [
        (completions(), 1),
        (completions().with("n", 3), 3),
        (completions().with("prompt", json!(["one", "two"])), 2),
        (completions().with("prompt", json!(["one", "two"])).with("n", 2), 4),
        (completions().with("prompt", json!([1, 2, 3])), 1),
        (completions().with("prompt", json!([[1, 2], [3]])), 2),
    ] {
        let all: Vec<Script> = (0..choices).map(ends).collect();
        let stream = |ends: &[Script]| [opened(), ends.concat(), done(), end()].concat();
        assert_eq!(run(wanted.clone(), stream(&all)).outcome(), "ok");
        if choices > 1 {
            assert_eq!(run(wanted.clone(), stream(&all[1..])).code(), "stream_interrupted");
            assert_eq!(run(wanted, stream(&all[..choices - 1])).code(), "stream_interrupted");
        }
    }
}

#[test]
fn responses_close_with_one_of_three_events_and_get_no_done() {
    for closing in ["response.completed", "response.incomplete", "response.failed"] {
        for ending in [end(), reset(), vec![]] {
            let closed = named(closing, json!({ "response": { "id": "resp-1", "usage": { "input_tokens": 7 } } }));
            let script = [response_begun(), closed, ending].concat();
            let expected = body_of(&script);
            let record = run(responses(), script);
            assert_eq!((record.outcome(), record.body()), ("ok", expected), "{closing}");
        }
    }
    let almost = named("response.output_text.done", json!({ "text": "Well, " }));
    assert_eq!(run(responses(), [response_begun(), almost, end()].concat()).code(), "stream_interrupted");
}

#[test]
fn messages_close_with_message_stop_and_nothing_else() {
    let stop =
        named("message_delta", json!({ "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 4 } }));
    for ending in [end(), reset(), vec![]] {
        let script = [message_begun(), stop.clone(), named("message_stop", json!({})), ending].concat();
        let expected = body_of(&script);
        let record = run(messages(), script);
        assert_eq!((record.outcome(), record.body()), ("ok", expected));
    }
    assert_eq!(run(messages(), [message_begun(), stop, end()].concat()).code(), "stream_interrupted");
}

#[test]
fn an_error_event_of_a_named_dialect_is_taken_for_what_it_is() {
    let overloaded = json!({ "error": { "type": "overloaded_error", "message": "busy" } });
    let openai =
        event(json!({ "error": { "message": "dead", "type": "InternalServerError", "param": null, "code": 500 } }));
    let of_responses = named("error", json!({ "code": "server_error", "message": "dead", "param": null }));
    for (wanted, begun, error, well) in [
        (messages(), message_begun(), named("error", overloaded), capture("messages_stream")),
        (messages(), message_begun(), openai.clone(), capture("messages_stream")),
        (responses(), response_begun(), of_responses, capture("responses_stream")),
        (responses(), response_begun(), openai, capture("responses_stream")),
    ] {
        let before = [&begun[..2], &error, &end()].concat();
        let record = World::new().endpoint("a", [before]).endpoint("b", [well.script()]).run(wanted.clone());
        assert_eq!((&*record.asked(), record.body() == well.body()), ("ab", true));
        let behind = [begun, error, end()].concat();
        let record = World::new().endpoint("a", [behind]).endpoint("b", []).run(wanted);
        assert_eq!((&*record.asked(), &*record.code()), ("a", "stream_interrupted"));
        assert!(!record.text().contains("dead") && !record.text().contains("busy"));
    }
}

#[test]
fn the_first_events_of_a_named_dialect_are_no_content_yet() {
    for (wanted, begun, well) in [
        (messages(), message_begun(), capture("messages_stream")),
        (responses(), response_begun(), capture("responses_stream")),
    ] {
        let started = [&begun[..begun.len() - 1], &reset()].concat();
        let record = World::new().endpoint("a", [started]).endpoint("b", [well.script()]).run(wanted);
        assert_eq!((&*record.asked(), record.body() == well.body()), ("ab", true));
    }
}

#[test]
fn a_streamed_transcription_is_proved_like_a_chat() {
    let finished = [opened(), says("A dark night."), finishes("stop"), done(), end()].concat();
    let record = run(transcription().streamed(), finished.clone());
    assert_eq!((record.outcome(), record.body()), ("ok", body_of(&finished)));
}
