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
        let limit = if finish == "length" { tokens.len() } else { 10_000 };
        wanted = wanted.with("max_tokens", limit);
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        for cut in 0..events.len() {
            for how in Break::ALL {
                for names in [&["a"][..], &["a", "b"]] {
                    let begun: Vec<_> = events[..cut].iter().flat_map(raw).collect();
                    let broken = [capture(name).opened(), begun, how.script()].concat();
                    let mut world = World::new().endpoint("a", [broken]).policy(resume("continue")).continues(true);
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

/// A text of the same length that differs from a character on.
fn differing_at(place: usize) -> Vec<String> {
    let mut at = 0;
    let other = |character: char| {
        at += 1;
        match at > place {
            true if character == 'x' => 'y',
            true => 'x',
            false => character,
        }
    };
    let text: String = TEXT.concat().chars().map(other).collect();
    text.chars().map(String::from).collect()
}

#[test]
fn a_second_answer_is_shown_only_where_it_has_said_the_same() {
    let length = TEXT.concat().chars().count();
    for cut in 1..TEXT.len() {
        let shown = TEXT[..cut].concat();
        for place in 0..=length {
            let other = differing_at(place);
            let other: Vec<&str> = other.iter().map(String::as_str).collect();
            let record = World::new()
                .engine("a", Engine::of(&TEXT).breaking(cut, Break::Reset))
                .engine("b", Engine::of(&other))
                .policy(resume("verify"))
                .run(chat());
            assert_eq!(ways(&record), ["verify at b"]);
            if place < shown.chars().count() {
                assert_eq!((record.outcome(), &*record.code()), ("stream_interrupted", "stream_interrupted"));
                assert_eq!(text_of(&record), shown, "differs at {place}");
                assert_eq!(record.failures()[1], "differs nobody_left");
            } else {
                // What the second says is one answer, and so is what the client has.
                assert_eq!(strict(&record).0, other.concat(), "differs at {place}");
            }
        }
    }
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

#[test]
fn what_cannot_be_continued_is_verified_and_what_cannot_be_verified_ends_in_the_error() {
    let verified = |why: &str| (vec![format!("verify at b, {why}")], "ok".to_owned());
    let lost = |why: &str| (vec![], format!("unreachable {why}"));
    let cases = vec![
        ("json", chat().with("response_format", json!({ "type": "json_object" })), verified("structured_output")),
        ("grammar", chat().with("structured_outputs", json!({ "regex": "a" })), verified("structured_output")),
        ("forced tool", chat().with("tool_choice", "required"), verified("structured_output")),
        ("stop", chat().with("stop", json!("fairlead guides")), verified("stop")),
        ("stops", chat().with("stop", json!(["never", "ad's"])), verified("stop")),
        ("begun", chat().with("stop", "guides you").with("include_stop_str_in_output", true), verified("stop")),
        ("hidden", chat().with("include_reasoning", false), verified("reasoning")),
        ("limit", chat().with("max_tokens", 50.0), verified("max_tokens")),
        ("no limit", completions(), verified("max_tokens")),
        ("penalty", chat().with("presence_penalty", 0.5), verified("sampling")),
        ("least", chat().with("min_tokens", 3), verified("sampling")),
        ("own", chat().with("add_generation_prompt", true), verified("prompt")),
        ("n", chat().with("n", 2), lost("choices")),
        ("logprobs", chat().with("logprobs", true), lost("logprobs")),
        ("ids", chat().with("return_token_ids", true), lost("token_ids")),
        ("sound", chat().with("modalities", json!(["text", "audio"])), lost("multimodal")),
        ("completions", completions().with("max_tokens", 50).with("echo", true), verified("prompt")),
        ("tokens", completions().with("max_tokens", 50).with("prompt", json!([1, 2, 3])), verified("prompt")),
        ("prompts", completions().with("prompt", json!(["a", "b"])), lost("choices")),
        ("counted", completions().with("logprobs", 2), lost("logprobs")),
    ];
    for (name, wanted, expected) in cases {
        let mut wanted = wanted;
        let chat = wanted.body.get("messages").is_some();
        let begun = if chat {
            [opened(), role(), says("A"), says(" fairlead"), says(" guides")].concat()
        } else {
            let says = |text| event(json!({ "choices": [{ "index": 0, "text": text, "finish_reason": null }] }));
            [opened(), says("A"), says(" fairlead"), says(" guides")].concat()
        };
        let whole = Engine::of(&TEXT).answer_to_any(chat);
        wanted.headers.set("x-request-id", name);
        let record = World::new()
            .endpoint("a", [[begun, reset()].concat()])
            .endpoint("b", [whole])
            .policy(resume("continue"))
            .run(wanted);
        let (expected_ways, end) = expected;
        assert_eq!(ways(&record), expected_ways, "{name}");
        if end == "ok" {
            assert_eq!((record.outcome(), text_of(&record)), ("ok", TEXT.concat()), "{name}");
        } else {
            assert_eq!(record.code(), "stream_interrupted", "{name}");
            assert_eq!(record.failures(), [end.replace("unreachable", "cut")], "{name}");
            assert_eq!(text_of(&record), "A fairlead guides", "{name}");
        }
    }
}

#[test]
fn with_stop_strings_a_text_is_gone_on_with_from_a_word_end() {
    // vLLM holds back as much text as a stop string may have begun in: its events end anywhere.
    let whole = "A fairlead guides a line.";
    for cut in 3..whole.len() {
        let first = [&whole[..cut]].map(str::to_owned).to_vec();
        let begun = [opened(), role(), says(&first[0]), reset()].concat();
        let record = World::new()
            .endpoint("a", [begun])
            .engine("b", Engine::of(&["A", " fairlead", " guides", " a", " line", "."]))
            .policy(resume("continue"))
            .run(chat().with("stop", json!(["<END>"])));
        assert_eq!(text_of(&record), whole, "{cut}");
        assert_eq!(ways(&record)[0], "continue at b", "{cut}");
        let body: Value = serde_json::from_slice(&record.requests[1].request.body).unwrap();
        let given = body["messages"][1]["content"].as_str().unwrap();
        assert!(whole[..cut].starts_with(&format!("{given} ")), "{cut}: {given:?}");
    }
    for stop in [json!("\n"), json!([]), json!("x")] {
        let record = World::new()
            .engine("a", Engine::of(&TEXT).breaking(3, Break::End))
            .policy(resume("continue"))
            .run(chat().with("stop", stop));
        assert_eq!(ways(&record), ["continue at a"]);
        assert_eq!(strict(&record).0, TEXT.concat());
        let body: Value = serde_json::from_slice(&record.requests[1].request.body).unwrap();
        assert_eq!(body["messages"][1]["content"], "A fairlead guides");
    }
}

#[test]
fn tool_calls_and_thoughts_are_not_gone_on_from() {
    let call = json!({ "tool_calls": [{ "index": 0, "id": "c", "type": "function", "function": { "name": "f" } }] });
    let begun = [opened(), role(), says("A"), event(chunk(0, &call, None)), reset()].concat();
    let record = World::new()
        .endpoint("a", [begun])
        .engine("b", Engine::of(&TEXT))
        .policy(resume("continue"))
        .run(chat().with("tools", json!([{}])));
    assert_eq!((&*record.code(), record.failures()), ("stream_interrupted", vec!["cut tool_calls".to_owned()]));

    // What was thought is compared as well; going on in the middle of it, or behind it, is not for vLLM.
    let mut thinks = Engine::of(&TEXT);
    thinks.thoughts = ["Hm", ".", " Well"].map(str::to_owned).to_vec();
    for cut in 1..8 {
        let first = Engine { breaks: [(cut, Break::Reset)].into(), ..thinks.clone() };
        let record = World::new().engine("a", first).engine("b", thinks.clone()).policy(resume("continue")).run(chat());
        assert_eq!(ways(&record), ["verify at b, reasoning"], "{cut}");
        assert_eq!(strict(&record).0, TEXT.concat(), "{cut}");
        let thought: String = record
            .reads()
            .iter()
            .filter_map(|(_, data)| {
                Some(serde_json::from_str::<Value>(data).ok()?["choices"][0]["delta"]["reasoning"].as_str()?.to_owned())
            })
            .collect();
        assert_eq!(thought, "Hm. Well", "{cut}");
        let other = Engine { thoughts: vec!["Um".to_owned()], ..thinks.clone() };
        let first = Engine { breaks: [(cut, Break::Reset)].into(), ..thinks.clone() };
        let record = World::new().engine("a", first).engine("b", other).policy(resume("continue")).run(chat());
        assert_eq!(record.failures().last().unwrap(), "differs nobody_left", "{cut}");
    }
}

#[test]
fn whoever_refuses_to_continue_is_not_asked_so_again() {
    let refusing = || Engine { refuses: true, ..Engine::of(&TEXT) };
    let fleet = Default::default();
    for (call, expected) in [(0, vec!["continue at b", "continue at a"]), (1, vec!["verify at b, refused"])] {
        let record = World::new()
            .fleet(&fleet)
            .begins(call * 60_000)
            .engine("a", Engine::of(&TEXT).breaking(4, Break::End))
            .engine("b", refusing())
            .policy(json!({ "resume": "continue", "backoff": { "base_ms": 0 }, "max_attempts": 5 }))
            .run(chat());
        assert_eq!(ways(&record), expected, "{:?}", record.failures());
        assert_eq!(strict(&record).0, TEXT.concat());
    }
}

#[test]
fn the_last_attempt_is_not_spent_on_what_may_be_refused_again() {
    let refusing = || Engine { refuses: true, ..Engine::of(&TEXT) };
    let record = World::new()
        .engine("a", Engine { breaks: [(4, Break::End)].into(), ..refusing() })
        .engine("b", refusing())
        .policy(resume("continue"))
        .run(chat());
    assert_eq!(ways(&record), ["continue at b", "verify at a, refused"]);
    assert_eq!(strict(&record).0, TEXT.concat());
}

#[test]
fn one_break_behind_another_goes_on_until_the_attempts_are_spent() {
    const TOKENS: [&str; 7] = ["One", " two", " three", " four", " five", " six", "."];
    for attempts in 2..8 {
        let mut engine = Engine::of(&TOKENS);
        for _ in 0..6 {
            engine = engine.breaking(1, Break::Reset);
        }
        let mut policy = resume("continue");
        policy["max_attempts"] = attempts.into();
        let record = World::new().engine("a", engine).policy(policy).run(chat().with("max_tokens", 100));
        assert_eq!(record.attempts(), attempts);
        if attempts < 7 {
            assert_eq!(record.code(), "stream_interrupted", "{attempts}");
            assert_eq!(text_of(&record), TOKENS[..attempts].concat(), "{attempts}");
        } else {
            assert_eq!(strict(&record).0, TOKENS.concat());
        }
    }
}

#[test]
fn what_nobody_counts_is_said_to_be_unknown() {
    let silent = || Engine { counts_nothing: true, ..Engine::of(&TEXT) };
    let wanted = || chat().with("stream_options", json!({ "include_usage": true })).with("max_tokens", 30);
    let record = World::new().engine("a", silent().breaking(3, Break::End)).policy(resume("continue")).run(wanted());
    assert_eq!(strict(&record), (TEXT.concat(), "stop".to_owned(), Some(Value::Null)));
    let body = |at: usize| serde_json::from_slice::<Value>(&record.requests[at].request.body).unwrap();
    assert_eq!(body(2)["max_tokens"], 27, "a token for each event");
    // Who does not answer is not waited for long.
    let mut slow = Engine::of(&TEXT).breaking(3, Break::End);
    slow.counts_late = true;
    let record = World::new().engine("a", slow).policy(resume("continue")).run(wanted());
    assert_eq!(strict(&record).0, TEXT.concat());
    assert_eq!(record.requests[2].at - record.requests[1].at, 2000);
    assert!(record.requests[1].aborted);
}

#[test]
fn an_endpoint_of_another_model_does_not_go_on_but_may_say_the_same() {
    let broken = || Engine::of(&TEXT).breaking(4, Break::End);
    let record = World::new()
        .engine("a", broken())
        .target("b", Some("another"))
        .engine("b", Engine::of(&TEXT))
        .policy(resume("continue"))
        .run(chat());
    assert_eq!(ways(&record), ["verify at b, model"]);
    assert_eq!(strict(&record).0, TEXT.concat());
}

#[test]
fn without_resume_a_break_is_told_as_ever() {
    let record = World::new()
        .engine("a", Engine::of(&TEXT).breaking(4, Break::End))
        .engine("b", Engine::of(&TEXT))
        .policy(json!({}))
        .run(chat());
    assert_eq!((&*record.code(), record.asked()), ("stream_interrupted", "a".to_owned()));
    assert_eq!(record.failures(), ["cut content_shown"]);
}

/// A call whose client wants the answer whole.
fn whole() -> Wanted {
    chat_whole()
}

fn internal(way: &str) -> Value {
    json!({ "stream_internally": true, "resume": way, "idle_ms": 5000, "backoff": { "base_ms": 0 } })
}

#[test]
fn an_answer_that_is_streamed_internally_is_whole_whatever_breaks() {
    for way in ["off", "continue", "verify"] {
        for cut in 1..=TEXT.len() {
            for how in Break::ALL {
                let engine = Engine::of(&TEXT).breaking(cut, how);
                let record = World::new().engine("a", engine).policy(internal(way)).run(whole());
                assert_eq!((record.outcome(), record.status()), ("ok", 200), "{way} {cut} {how:?}");
                assert_eq!(record.header("content-type"), Some("application/json"));
                let answer: Value = serde_json::from_slice(&record.body()).unwrap();
                assert_eq!(answer["object"], "chat.completion");
                let choice = &answer["choices"][0];
                assert_eq!(
                    (&choice["message"]["content"], &choice["finish_reason"]),
                    (&json!(TEXT.concat()), &json!("stop"))
                );
                assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
                let gone_on = ways(&record).join(" ");
                let expected = if way == "continue" { "continue at a" } else { "anew at a" };
                assert_eq!(gone_on, expected, "{way} {cut} {how:?}");
                if way == "continue" {
                    let usage = json!({ "prompt_tokens": 7, "total_tokens": 16, "completion_tokens": 9 });
                    for (name, count) in usage.as_object().unwrap() {
                        assert_eq!(&answer["usage"][name], count, "{cut} {how:?} {answer}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_whole_answer_that_is_lost_leaves_its_text_in_the_error() {
    let engine = || Engine::of(&TEXT).breaking(3, Break::Reset).breaking(2, Break::Reset).breaking(1, Break::Reset);
    let record = World::new().engine("a", engine()).policy(internal("continue")).run(whole());
    assert_eq!((record.status(), &*record.code()), (502, "stream_interrupted"));
    assert_eq!(record.error().unwrap()["partial"], TEXT[..6].concat());
    let record = World::new().engine("a", engine()).policy(internal("off")).run(whole());
    assert_eq!((record.status(), &*record.code()), (502, "stream_interrupted"));
    assert_eq!(record.error().unwrap()["partial"], TEXT[..1].concat());
    let slow = Engine { token_ms: 1000, ..Engine::of(&TEXT) };
    let mut policy = internal("off");
    policy["deadline_ms"] = 3500.into();
    let record = World::new().engine("a", slow.clone()).policy(policy.clone()).run(whole());
    assert_eq!((record.status(), &*record.code()), (504, "deadline_exceeded"));
    assert_eq!(record.error().unwrap()["partial"], TEXT[..3].concat());
    policy["on_deadline"] = "partial".into();
    let record = World::new().engine("a", slow).policy(policy).run(whole());
    assert_eq!((record.status(), record.outcome()), (200, "partial"));
    assert_eq!(record.header("x-fairlead-truncated"), Some("deadline"));
    let answer: Value = serde_json::from_slice(&record.body()).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], TEXT[..3].concat());
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["fairlead"], json!({ "truncated": "deadline" }));
    assert_eq!(record.ended_at, 3250);
}

#[test]
fn a_deadline_ends_a_stream_with_what_there_is() {
    let slow = || Engine { token_ms: 1000, ..Engine::of(&TEXT) };
    let policy = json!({ "on_deadline": "partial", "deadline_ms": 3500 });
    let wanted = || chat().with("stream_options", json!({ "include_usage": true }));
    let record = World::new().engine("a", slow()).policy(policy.clone()).run(wanted());
    assert_eq!(strict(&record), (TEXT[..3].concat(), "length".to_owned(), Some(Value::Null)));
    assert_eq!((record.outcome(), record.ended_at), ("partial", 3250));
    assert!(record.text().contains(r#""fairlead":{"truncated":"deadline"}"#));
    assert!(record.requests[0].aborted);

    // Every choice that has begun or not, but for those that have ended.
    let ended = chunk(1, &json!({}), Some("stop"));
    let begun = [opened(), role(), says("A"), event(&ended)].concat();
    let record = World::new().endpoint("a", [begun]).policy(policy.clone()).run(chat().with("n", 3));
    let last: Value = serde_json::from_str(&record.reads()[3].1).unwrap();
    let indices: Vec<&Value> = last["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [0, 2]);

    // Nothing is not an answer.
    for nothing in [Script::new(), opened(), [opened(), role()].concat()] {
        let record = World::new().endpoint("a", [nothing]).policy(policy.clone()).run(chat());
        assert_eq!((record.outcome(), &*record.code()), ("deadline_exceeded", "deadline_exceeded"));
    }

    // A stream that broke and waits for somebody to go on is ended as well.
    let mut both = policy;
    both["resume"] = "continue".into();
    let broken = slow().breaking(2, Break::End);
    let record =
        World::new().engine("a", broken).endpoint("b", [Script::new(), Script::new()]).policy(both).run(wanted());
    assert_eq!(strict(&record), (TEXT[..2].concat(), "length".to_owned(), Some(Value::Null)));
}

#[test]
fn only_vllm_is_believed_to_go_on_unless_somebody_vouches_for_a_server() {
    for cut in 1..TEXT.len() {
        let foreign = || Engine { begins_again: true, ..Engine::of(&TEXT) };
        let world = || World::new().engine("a", Engine::of(&TEXT).breaking(cut, Break::End)).engine("b", foreign());
        let record = world().policy(resume("continue")).run(chat());
        assert_eq!(ways(&record), ["continue at b", "verify at a, differs"], "{cut}");
        assert_eq!(strict(&record).0, TEXT.concat(), "{cut}");
        // Whoever says that it goes on is taken at their word.
        let record = world().continues(true).policy(resume("continue")).run(chat());
        let lacks_white_space = TEXT[cut - 1].trim().is_empty();
        assert_eq!(ways(&record).len(), 1 + usize::from(lacks_white_space), "{cut}");
    }
}

#[test]
fn an_event_that_is_lost_is_a_break() {
    let broken =
        [opened(), role(), says("A"), raw("data: {\"choices\":[{\"index\":0,\"del\n\n"), says(" guides")].concat();
    let record = World::new()
        .endpoint("a", [broken.clone()])
        .engine("b", Engine::of(&TEXT))
        .policy(resume("continue"))
        .run(chat());
    assert_eq!((ways(&record), strict(&record).0), (vec!["continue at b".to_owned()], TEXT.concat()));
    // What is no chunk at all takes no text with it; and without a way on, it is passed over as ever.
    let odd =
        [opened(), role(), says("A"), raw("data: ping\n\n"), says(" line"), finishes("stop"), done(), end()].concat();
    let record = World::new().endpoint("a", [odd]).policy(resume("continue")).run(chat());
    assert_eq!((record.dropped(), strict(&record).0), (1, "A line".to_owned()));
    let record =
        World::new().endpoint("a", [[broken, finishes("stop"), done(), end()].concat()]).policy(json!({})).run(chat());
    assert_eq!((record.dropped(), record.outcome()), (1, "ok"));
}

#[test]
fn an_endpoint_that_cannot_continue_is_asked_again_and_compared() {
    let record = World::new()
        .engine("a", Engine::of(&TEXT).breaking(4, Break::End))
        .continues(false)
        .policy(resume("continue"))
        .run(chat());
    assert_eq!((ways(&record), strict(&record).0), (vec!["verify at a, endpoint".to_owned()], TEXT.concat()));
}

#[test]
fn a_completion_with_empty_events_goes_on_behind_all_of_its_text() {
    let says = |text: &str| event(json!({ "choices": [{ "index": 0, "text": text, "finish_reason": null }] }));
    let begun = [opened(), says(""), says("A"), says(""), says(" fairlead"), reset()].concat();
    let world = World::new().endpoint("a", [begun]).engine("a", Engine::of(&TEXT)).policy(resume("continue"));
    let record = world.run(completions().with("max_tokens", 100));
    assert_eq!(ways(&record), ["continue at a"]);
    let said = |(_, data): &(String, String)| {
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        event["choices"][0]["text"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(record.reads().iter().map(said).collect::<String>(), TEXT.concat());
}

#[test]
fn what_says_nothing_is_not_cut_short_but_late() {
    let nothing = for_ever(20, empty_delta(20_000));
    let policy = json!({ "on_deadline": "partial", "deadline_ms": 5000 });
    let record = World::new().always("a", [opened(), role(), nothing].concat()).policy(policy).run(chat());
    assert_eq!((record.outcome(), record.ended_at), ("deadline_exceeded", 5000));
    assert!(record.body().len() > 1 << 20, "it was shown none the less");
}

#[test]
fn nobody_is_asked_for_no_more_tokens() {
    // RunPod's proxy cannot count them, and each event is one at least.
    let begun = Engine::of(&TEXT).breaking(3, Break::Reset);
    let world = World::new().engine("c", begun).continues_at("c", true).policy(resume("continue"));
    let record = world.run(chat().with("max_tokens", 3));
    assert_eq!(record.requests.len(), 1);
    assert_eq!((strict(&record).0, strict(&record).1), (TEXT[..3].concat(), "length".to_owned()));
}
