//! A token that passes through the core allocates nothing, whatever it is the token of.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests may stop at what is not expected"
)]

use fairlead_core::{
    api::{Api, Dialect},
    ask::Ask,
    call::{Call, Emit, Input, Order, Output},
    jobs::{Aim, Answer, Job, Pace, Want},
    message::{Headers, ResponseHead},
    settings::{Environment, Settings},
    sse::Fields,
    stream::{Proof, Seen},
    time::Instant,
};
use std::rc::Rc;

struct NoSecrets;

impl Environment for NoSecrets {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

const NOW: Instant = Instant::from_millis(1_795_299_888_000);

/// A streaming call under this policy, whose endpoint has answered with this event.
fn steady(api: Api, event: &str, policy: &serde_json::Value) -> Call {
    let config = serde_json::json!({
        "open": true,
        "endpoints": [{ "name": "a", "provider": "vllm", "base_url": "https://a.example.com/v1" }],
        "models": [{ "name": "m", "targets": [{ "endpoint": "a" }] }],
        "policies": { "default": policy },
    });
    let settings = Settings::read([("CONFIG".to_owned(), config)], &NoSecrets).settings.unwrap();
    let ask = Ask::read(api, &Headers::new(), Rc::new(*br#"{"model":"m","stream":true}"#)).unwrap();
    let (model, policy) = settings.plan(None, &ask.model, None).unwrap();
    let order = Order {
        ask,
        model,
        policy,
        arrived: NOW,
        request_id: "r".to_owned(),
        deadline_ms: None,
        client: None,
        seed: 7,
    };
    let mut call = Call::new(NOW, order, Rc::default());
    let headers = Headers::from_iter([("content-type", "text/event-stream")]);
    call.handle_input(NOW, Input::Head { exchange: 1, head: ResponseHead { status: 200, headers } });
    call.handle_input(NOW, Input::Chunk { exchange: 1, bytes: event.as_bytes() });
    while call.poll_output().is_some() {}
    call
}

#[test]
fn a_token_allocates_nothing() {
    let chat =
        |delta: &str| format!(r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta}}}]}}"#);
    let usage =
        r#"{"choices":[{"index":0,"delta":{"content":"N"}}],"usage":{"prompt_tokens":5,"completion_tokens":N}}"#;
    let tokens = [
        (Api::Chat, chat(r#"{"content":" N"}"#)),
        (Api::Chat, chat(r#"{"content":"\n\u00e4N"}"#)),
        (Api::Chat, chat(r#"{"reasoning":" N"}"#)),
        (Api::Chat, chat(r#"{"tool_calls":[{"index":0,"function":{"arguments":"N"}}]}"#)),
        (Api::Chat, usage.to_owned()),
        (Api::Completions, r#"{"choices":[{"index":0,"text":"N","finish_reason":null}]}"#.to_owned()),
        (
            Api::Messages,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"N"}}"#.to_owned(),
        ),
        (Api::Responses, r#"{"type":"response.output_text.delta","sequence_number":N,"delta":"x"}"#.to_owned()),
    ];
    for (api, token) in tokens {
        let events: Vec<String> =
            (1..1000).map(|number| format!("data: {}\n\n", token.replace('N', &number.to_string()))).collect();
        let mut call = steady(api, &events[0], &serde_json::json!({}));
        let mut passed = 0;
        let allocations = allocation_counter::measure(|| {
            for event in &events {
                call.handle_input(NOW, Input::Chunk { exchange: 1, bytes: event.as_bytes() });
                while let Some(output) = call.poll_output() {
                    passed +=
                        usize::from(matches!(output, Output::Emit(Emit::Slice(range)) if range == (0..event.len())));
                }
            }
        });
        assert_eq!(passed, events.len(), "{token}");
        // What is kept of the newest event may grow a little with it.
        assert!(allocations.count_total <= 4, "{allocations:?} for {token}");
    }
}

#[test]
fn where_a_stream_may_be_resumed_a_token_adds_its_text_alone() {
    let event =
        |text: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    for policy in [serde_json::json!({ "resume": "continue" }), serde_json::json!({ "on_deadline": "partial" })] {
        let text = " 20 bytes of a token";
        let event = event(text);
        let mut call = steady(Api::Chat, &event, &policy);
        let measured = allocation_counter::measure(|| {
            for _ in 0..10_000 {
                call.handle_input(NOW, Input::Chunk { exchange: 1, bytes: event.as_bytes() });
                while call.poll_output().is_some() {}
            }
        });
        // The text moves into twice the room whenever it has outgrown its own.
        assert!(measured.count_total <= 10, "{measured:?} for {policy}");
        let bound = 2 * 10_000 * text.len();
        assert!(measured.bytes_current <= i64::try_from(bound).unwrap(), "{measured:?} for {policy}");
    }
}

/// The most that this takes at a time, for each byte that it reads.
fn taken_by(input: &[u8], work: impl FnOnce()) -> f64 {
    allocation_counter::measure(work).bytes_max as f64 / input.len() as f64
}

#[test]
fn what_is_only_counted_or_looked_at_is_not_kept() {
    // A prompt of tokens, as RAG sends them; a million of them would otherwise take a good part of an isolate.
    let body: Rc<[u8]> = format!(r#"{{"model":"m","prompt":[1{}]}}"#, ",1".repeat(100_000)).into_bytes().into();
    let ask = || assert_eq!(Ask::read(Api::Completions, &Headers::new(), Rc::clone(&body)).unwrap().choices, 1);
    assert!(taken_by(&body, ask) < 0.1);
    // A job's result, an embedding say, that goes on as it came.
    let body = format!(r#"{{"id":"a","status":"COMPLETED","output":[0.5{}]}}"#, ",0.5".repeat(100_000)).into_bytes();
    let aim =
        Aim { want: Want::Result, deadline: NOW.after(60_000), execution_ms: None, until: None, aggregates: false };
    let mut job = Job::follow(NOW, aim, "a".to_owned());
    let head = ResponseHead { status: 200, headers: Headers::new() };
    let op = job.due(NOW).unwrap();
    job.on_sent(NOW, op);
    let answer = Answer::Whole { head: &head, body: body.clone() };
    let mut news = None;
    let follow = || news = Some(job.on_answer(NOW, answer, Pace { fair_share_ms: 0, fetches: 9 }));
    assert!(taken_by(&body, follow) < 0.1);
    assert_eq!(news.unwrap().end, Some(Ok(())));
    // An error or a piece of an answer with more members than anybody has a use for.
    let members = r#","":0"#.repeat(100_000);
    for (dialect, event) in [
        (Dialect::Chat, format!(r#"{{"error":{{"type":"x"{members}}}}}"#)),
        (Dialect::Responses, format!(r#"{{"type":"response.completed","response":{{"usage":null{members}}}}}"#)),
        (Dialect::Messages, format!(r#"{{"type":"content_block_delta","delta":{{"text":"x"{members}}}}}"#)),
    ] {
        let fields = Fields { name: b"", data: event.as_bytes().into() };
        let mut proof = Proof::new(dialect, 1);
        let observe = || assert_ne!(proof.observe(&fields), Seen::Malformed);
        // Of a piece of text one is kept, to hold the next against it.
        assert!(taken_by(event.as_bytes(), observe) < 1.1, "{dialect:?}");
    }
}
