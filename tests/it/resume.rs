//! Streams that break behind their first content, and go on.

use crate::{
    captures::capture,
    engine::{Break, Engine},
    record::Record,
    script::*,
    wanted::*,
    world::World,
};
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

/// The chunks of a capture, one for each event.
fn events_of(name: &str) -> Vec<String> {
    let body = String::from_utf8(capture(name).body().to_vec()).unwrap();
    body.split_inclusive("\n\n").map(str::to_owned).collect()
}

/// What the events of a capture say, and how it ends.
fn said_by(events: &[String]) -> (Vec<String>, String) {
    let (mut tokens, mut finish) = (Vec::new(), String::new());
    for event in events {
        let event: Value = serde_json::from_str(event.trim().trim_start_matches("data: ")).unwrap_or_default();
        let choice = &event["choices"][0];
        let said = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        if !said.is_empty() {
            tokens.push(said.to_owned());
        }
        finish = choice["finish_reason"].as_str().map_or(finish, str::to_owned);
    }
    (tokens, finish)
}

#[test]
fn every_capture_goes_on_from_every_event() {
    let mut resumed = 0;
    for name in [
        "chat_stream",
        "chat_stream_long",
        "chat_stream_unicode",
        "chat_stream_usage",
        "chat_stream_token_ids",
        "chat_continue",
        "completions_stream",
    ] {
        let events = events_of(name);
        let (tokens, finish) = said_by(&events);
        let mut wanted = capture(name).wanted().with("stream_options", json!({ "include_usage": true }));
        if finish == "length" {
            wanted = wanted.with("max_tokens", tokens.len());
        }
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        for cut in 0..events.len() {
            for how in Break::ALL {
                for names in [&["a"][..], &["a", "b"]] {
                    let begun: Vec<_> = events[..cut].iter().flat_map(raw).collect();
                    let broken = [capture(name).opened(), begun, how.script()].concat();
                    let mut world = World::new().endpoint("a", [broken]).policy(resume("continue"));
                    for name in names {
                        world = world.engine(name, Engine::of(&tokens));
                    }
                    let record = world.run(wanted.clone());
                    let at = format!("{name} cut at {cut} by {how:?}, {names:?}: {:?}", record.failures());
                    assert_eq!(record.outcome(), "ok", "{at}\n{}", record.text());
                    let (text, end, usage) = strict(&record);
                    assert_eq!((text, &end), (tokens.concat(), &finish), "{at}");
                    if ways(&record).is_empty() {
                        continue;
                    }
                    resumed += 1;
                    assert_eq!(ways(&record), [format!("continue at {}", names.last().unwrap())], "{at}");
                    let completion = tokens.len() + usize::from(finish == "stop");
                    // Where the last token had come, nobody is asked any more who could tell.
                    let usage = usage.expect("an event with counts");
                    if record.requests.last().is_some_and(|sent| !sent.counts()) {
                        assert_eq!(usage["completion_tokens"], completion, "{at}");
                        assert_eq!(usage["prompt_tokens"], 7, "{at}");
                    }
                }
            }
        }
    }
    assert!(resumed > 500, "{resumed}");
}

#[test]
fn white_space_at_the_end_is_neither_lost_nor_doubled() {
    for tokens in [&["a \n", "\n b", "\t", "c"][..], &["x", " ", " ", "\u{a0}", "y"], &["one", "\n", "two"]] {
        for cut in 1..=tokens.len() {
            for keeps_white_space in [false, true] {
                let mut engine = Engine::of(tokens).breaking(cut, Break::Reset);
                engine.keeps_white_space = keeps_white_space;
                let record = World::new().engine("a", engine).policy(resume("continue")).run(chat());
                assert_eq!(strict(&record).0, tokens.concat(), "cut at {cut}");
                assert_eq!(ways(&record), ["continue at a"], "cut at {cut}");
            }
        }
    }
}
