//! Streams that break behind their first content, and go on.
//!
//! [`way`] has whether and how they may, [`splice`] what the client reads then, [`counts`] its tokens, and [`ends`] how
//! streams end that nobody goes on with, or that nobody but the call itself reads.

mod counts;
mod ends;
mod splice;
mod way;

use crate::record::Record;
use fairlead_core::event::Event;
use serde_json::{Value, json};

const TEXT: [&str; 8] = ["A", " fairlead", " guides", "\n\n", "a", " \"line\"", " 🦀", "."];

fn resume(way: &str) -> Value {
    json!({ "resume": way, "idle_ms": 5000, "backoff": { "base_ms": 0 } })
}

/// The client's stream, held to all that a stream of one choice must keep to.
fn strict(record: &Record) -> (String, String, Option<Value>) {
    let reads = record.reads();
    let (done, events) = reads.split_last().expect("events");
    assert_eq!(done.1, "[DONE]", "{}", record.text());
    let events: Vec<Value> = events.iter().map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect();
    let (mut text, mut finish, mut usage, mut roles) = (String::new(), None, None, 0);
    for event in &events {
        assert!(event.get("error").is_none(), "{event}");
        for name in ["id", "created", "model", "object"] {
            assert_eq!(event[name], events[0][name], "{name} of {event}");
        }
        if event["choices"] == json!([]) {
            assert!(usage.is_none() && finish.is_some(), "{event}");
            usage = Some(event["usage"].clone());
        }
        for choice in event["choices"].as_array().expect("choices") {
            assert_eq!(finish, None, "nothing behind the end: {event}");
            roles += u32::from(choice["delta"].get("role").is_some());
            let said = choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default();
            text.push_str(said);
            finish = choice["finish_reason"].as_str().map(str::to_owned);
        }
    }
    assert_eq!(roles, u32::from(record.ask.api.path().contains("chat")), "{}", record.text());
    if let Some(usage) = usage.as_ref().filter(|usage| !usage.is_null()) {
        let count = |name| usage[name].as_u64().expect("a count");
        assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    }
    (text, finish.expect("an end"), usage)
}

/// How a call resumed, each time.
fn ways(record: &Record) -> Vec<String> {
    let way = |(_, event): &(u64, Event)| match event {
        Event::ResumeStarted { endpoint, way, why, .. } => {
            Some(format!("{way} at {endpoint}{}", why.map(|why| format!(", {why}")).unwrap_or_default()))
        }
        _ => None,
    };
    record.events.iter().filter_map(way).collect()
}

/// What the client can read, whatever it ends in.
fn text_of(record: &Record) -> String {
    let said = |(_, data): &(String, String)| {
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        let choice = &event["choices"][0];
        choice["delta"]["content"].as_str().or(choice["text"].as_str()).map(str::to_owned)
    };
    record.reads().iter().filter_map(said).collect()
}

/// What an endpoint was sent.
fn body(record: &Record, at: usize) -> Value {
    serde_json::from_slice(&record.requests[at].request.body).expect("JSON")
}
