//! What the client reads is one answer: nothing of it is lost or doubled, and nothing in it was said by nobody.

use super::{TEXT, body, resume, strict, text_of, ways};
use crate::{
    captures::capture,
    engine::{Break, Engine},
    runpod::{Runpod, Work, words},
    script::*,
    wanted::*,
    world::World,
};
use serde_json::{Value, json};

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
        let body = body(&record, 1);
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
        assert_eq!(body(&record, 1)["messages"][1]["content"], "A fairlead guides");
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
    let ended = [broken, finishes("stop"), event(chunk(1, &json!({ "content": "B" }), Some("stop"))), done(), end()];
    for (policy, wanted) in [(json!({}), chat()), (resume("continue"), chat().with("n", 2))] {
        let record = World::new().endpoint("a", [ended.concat()]).policy(policy).run(wanted);
        assert_eq!((record.dropped(), record.outcome()), (1, "ok"));
    }
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

#[test]
fn a_piece_that_a_job_loses_while_it_is_compared_is_not_lost_to_the_next() {
    let mut broken = words("one two three four");
    broken[2] = Value::String(broken[2].as_str().unwrap()[..40].to_owned() + "\n\n");
    let record = World::new()
        .endpoint("a", [[opened(), role(), says("one "), says("two "), reset()].concat()])
        .jobs(Runpod::of(Work::yields(broken, 30)))
        .endpoint("b", [well("one two three four")])
        .policy(resume("verify"))
        .run(chat());
    assert_eq!(record.failures(), ["cut failover", "gap failover"]);
    assert_eq!(
        (ways(&record), strict(&record).0),
        (vec!["verify at d".to_owned(), "verify at b".to_owned()], "one two three four".to_owned())
    );
}

#[test]
fn thoughts_that_stand_there_under_two_names_are_thought_once() {
    let thinks = |text: &str| event(chunk(0, &json!({ "reasoning": text, "reasoning_content": text }), None));
    let begun = || [opened(), role(), thinks("Hm"), thinks(".")].concat();
    let whole = || [begun(), says("A"), says(" line"), finishes("stop"), done(), end()].concat();
    for broken in [[begun(), reset()].concat(), [begun(), says("A"), reset()].concat()] {
        let record =
            World::new().endpoint("a", [broken]).endpoint("b", [whole()]).policy(resume("continue")).run(chat());
        assert_eq!(
            (ways(&record), strict(&record).0),
            (vec!["verify at b, reasoning".to_owned()], "A line".to_owned())
        );
        for name in ["reasoning", "reasoning_content"] {
            let thought = record.reads().iter().filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok());
            let thought = thought.filter_map(|event| Some(event["choices"][0]["delta"][name].as_str()?.to_owned()));
            assert_eq!(thought.collect::<String>(), "Hm.", "{name}");
        }
    }
}

#[test]
fn fields_that_nobody_knows_are_no_content() {
    let says = |text: &str| event(chunk(0, &json!({ "content": text, "x": 1 }), None));
    let begun = [opened(), role(), says("A"), says(" fairlead")].concat();
    let whole = [begun.clone(), says(" guides"), finishes("stop"), done(), end()].concat();
    let record = World::new()
        .endpoint("a", [[begun, reset()].concat()])
        .endpoint("b", [whole])
        .policy(resume("verify"))
        .run(chat());
    assert_eq!((ways(&record), strict(&record).0), (vec!["verify at b".to_owned()], "A fairlead guides".to_owned()));
}

#[test]
fn an_end_may_come_without_a_delta() {
    let mut end_alone = chunk(0, &json!({}), Some("stop"));
    end_alone["choices"][0].as_object_mut().unwrap().remove("delta");
    let rest = [opened(), role(), says(" guides"), event(end_alone), done(), end()].concat();
    let record = World::new()
        .endpoint("a", [[opened(), role(), says("A"), says(" fairlead"), reset()].concat()])
        .endpoint("b", [rest])
        .continues(true)
        .policy(resume("continue"))
        .run(chat());
    assert_eq!((ways(&record), strict(&record).0), (vec!["continue at b".to_owned()], "A fairlead guides".to_owned()));
}

#[test]
fn an_event_that_says_nothing_teaches_nothing() {
    // Half a character, or what a stop string may have begun in: the next has the same shape, and a text.
    for (wanted, member) in [(completions().with("max_tokens", 50), "text"), (chat(), "content"), (chat(), "reasoning")]
    {
        let says = |text: &str| {
            let mut event = chunk(0, &json!({}), None);
            let choice = &mut event["choices"][0];
            let place = if member == "text" { choice } else { &mut choice["delta"] };
            place[member] = text.into();
            crate::script::event(&event)
        };
        for empty in 0..3 {
            let begun: Vec<Script> = (0..3).map(|at| says(if at == empty { "" } else { " a line" })).collect();
            let is_thought = member == "reasoning";
            let ask = wanted.clone();
            let whole = Engine::of(&[" a line", " a line", "."]);
            let whole = if is_thought { Engine { thoughts: whole.tokens.clone(), ..whole } } else { whole };
            let record = World::new()
                .endpoint("a", [[opened(), begun.concat(), reset()].concat()])
                .engine("b", whole)
                .policy(resume("continue"))
                .run(ask);
            let expected = if is_thought { "verify at b, reasoning" } else { "continue at b" };
            assert_eq!((ways(&record), text_of(&record)), (vec![expected.to_owned()], " a line a line.".to_owned()));
        }
    }
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
