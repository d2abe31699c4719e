//! The truth about streams: what proves one whole, what proves nothing, and what is passed on.

use crate::{captures::capture, record::Record, script::*, wanted::*, world::World};
use fairlead_core::{api::Dialect, event::Event, stream::Proof};
use serde_json::json;

fn run(wanted: Wanted, script: Script) -> Record {
    World::new().endpoint("a", [script]).run(wanted)
}

/// The end of one choice.
fn ends(index: u32) -> Script {
    event(chunk(index, &json!({}), Some("stop")))
}

fn interrupted(record: &Record) {
    assert_eq!(
        (record.status(), &*record.code(), record.text().contains("[DONE]")),
        (200, "stream_interrupted", false)
    );
}

#[test]
fn every_choice_must_finish() {
    let begun = [opened(), role(), says("Yes.")].concat();
    let two = |ends: &[Script]| run(chat().with("n", 2), [begun.clone(), ends.concat(), done(), end()].concat());
    assert_eq!(two(&[ends(0), ends(1)]).outcome(), "ok");
    assert_eq!(two(&[ends(1), ends(0)]).outcome(), "ok");
    for half in [&[ends(0)][..], &[ends(1)], &[ends(1), ends(1)], &[ends(0), ends(2)], &[]] {
        interrupted(&two(half));
    }
    let capture = capture("chat_stream_n2");
    assert_eq!(run(chat().with("n", 2), capture.script()).body(), capture.body());
    interrupted(&run(chat().with("n", 3), capture.script()));
}

#[test]
fn an_empty_finish_reason_is_none() {
    // Some servers send it with every event; taken for an end, it would cut the answer short.
    let says_on = |text| event(chunk(0, &json!({ "content": text }), Some("")));
    let script = [opened(), says_on("It "), wait(5000), says_on("goes on."), finishes("stop"), done(), end()].concat();
    let expected = body_of(&script);
    let record = run(chat(), script);
    assert_eq!((record.outcome(), record.body()), ("ok", expected));
    interrupted(&run(chat(), [opened(), says_on("It "), done(), end()].concat()));
}

#[test]
fn all_choices_may_finish_in_one_event() {
    let both = json!({ "choices": [
        { "index": 1, "delta": {}, "finish_reason": "length" }, { "index": 0, "delta": {}, "finish_reason": "stop" },
    ] });
    let script = [opened(), says("Yes."), event(both), done(), end()].concat();
    assert_eq!(run(chat().with("n", 2), script).outcome(), "ok");
}

#[test]
fn a_stream_of_very_many_choices_takes_no_memory_in_advance() {
    // As many as `n` times a list of prompts may come to: nobody can make that many, so the
    // endpoint will refuse; but it may answer 200 first.
    assert!(!Proof::new(Dialect::Completions, usize::MAX).is_whole());
    interrupted(&run(chat().with("n", 16_384), [opened(), says("Yes."), ends(0), done(), end()].concat()));
}

#[test]
fn the_end_that_a_whole_stream_owes_is_added_once() {
    let finished = [opened(), role(), says("Yes."), finishes("stop")].concat();
    let expected = [body_of(&finished), body_of(&done())].concat();
    for ending in [
        end(),
        reset(),
        [raw("data: [DO"), end()].concat(),
        [raw("data: [DONE]\n"), reset()].concat(),
        [done(), end()].concat(),
        [done(), reset()].concat(),
        [done(), done(), end()].concat(),
        [done(), says("more"), engine_error(), end()].concat(),
    ] {
        let record = run(chat(), [finished.clone(), ending].concat());
        assert_eq!((record.outcome(), record.body()), ("ok", expected.clone()));
    }
}

#[test]
fn an_error_behind_the_finish_is_an_error_all_the_same() {
    interrupted(&run(chat(), [opened(), says("Yes."), finishes("stop"), engine_error(), done(), end()].concat()));
}

#[test]
fn a_killed_engine_is_told_as_an_error_and_its_done_is_not_believed() {
    let capture = capture("chat_stream_engine_killed");
    let record = run(chat(), capture.script());
    interrupted(&record);
    let body = record.text();
    let shown = body.rfind("data: {\"error\"").unwrap();
    let theirs = String::from_utf8_lossy(capture.body()).into_owned();
    assert_eq!(body[..shown], theirs[..theirs.find("data: {\"error\"").unwrap()], "all that came before is shown");
}

#[test]
fn abort_is_a_failure_whatever_came_before() {
    let tail = [finishes("abort"), done(), end()].concat();
    interrupted(&run(chat(), [opened(), says("Half an an"), tail.clone()].concat()));
    interrupted(&run(chat().with("n", 2), [opened(), says("Half"), ends(1), tail].concat()));
}

#[test]
fn what_is_no_event_of_the_dialect_is_dropped_and_counted_and_the_rest_goes_through() {
    let good = [opened(), role(), says("It "), says("goes "), says("on."), finishes("stop"), done(), end()].concat();
    for (bad, count) in [
        ("data: {\"choices\": [\n\n", 1),
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"torn\n\n", 1),
        ("data: not json\n\n", 1),
        ("data: []\n\ndata: 7\n\ndata: \"text\"\n\n", 3),
        ("data: {\"choices\":{}}\n\n", 1),
        ("data: \u{1}\u{2}\n\n", 1),
    ] {
        for place in 1..=6 {
            let script = [&good[..place], &raw(bad), &good[place..]].concat();
            let record = run(chat(), script);
            assert_eq!((record.outcome(), record.dropped()), ("ok", count), "{bad:?}");
            assert_eq!(record.body(), body_of(&good), "{bad:?} at {place}");
        }
    }
    let latin: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xe9\"}}]}\n\n";
    let record = run(chat(), [&good[..3], &raw(latin), &good[3..]].concat());
    assert_eq!(record.outcome(), "ok", "bytes that are no UTF-8 do not end a stream");
}

#[test]
fn what_nobody_here_knows_goes_through_as_it_is() {
    let odd = [
        "event: message\nid: 7\nretry: 10\ndata: {\"choices\":[],\"x\":1}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\",\"new\":{\"deep\":[1e999]}},\"top\":null}],\"metrics\":{}}\n\n",
        "data:{\"choices\": [ {\"index\" : 0, \"delta\":{\"content\":\"\\u00e9\\ud83e\\udd80\"} } ] }\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{}}],\"usage\":null,\"error\":null}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}],\"usage\":{\"prompt_tokens\":7.0}}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"c\"},\"finish_reason\":\"\"}],\"usage\":[]}\n\n",
        "data: {\ndata: \"choices\":[]}\n\n",
    ];
    let script = [opened(), says("Well: "), raw(odd.concat()), finishes("stop"), done(), end()].concat();
    let expected = body_of(&script);
    let record = run(chat(), script);
    assert_eq!((record.outcome(), record.body(), record.dropped()), ("ok", expected, 0));
}

#[test]
fn whatever_a_reader_would_see_is_content_and_ends_invisible_failover() {
    for delta in [
        json!({ "content": "x" }),
        json!({ "reasoning": "hm" }),
        json!({ "reasoning_content": "hm" }),
        json!({ "refusal": "no" }),
        json!({ "tool_calls": [{ "index": 0, "id": "call-1", "function": { "name": "f", "arguments": "" } }] }),
        json!({ "function_call": { "name": "f" } }),
    ] {
        let script = [opened(), role(), event(chunk(0, &delta, None)), reset()].concat();
        let record = World::new().endpoint("a", [script]).endpoint("b", []).run(chat());
        interrupted(&record);
    }
    for delta in [json!({ "content": null }), json!({ "tool_calls": [] }), json!({ "reasoning": "" }), json!({})] {
        let script = [opened(), role(), event(chunk(0, &delta, None)), reset()].concat();
        let record = World::new().endpoint("a", [script]).endpoint("b", [well("From b.")]).run(chat());
        assert_eq!(record.body(), body_of(&well("From b.")));
    }
}

#[test]
fn an_empty_answer_is_an_answer() {
    for tail in [[done(), end()].concat(), end(), reset(), vec![]] {
        let script = [opened(), role(), finishes("stop"), tail].concat();
        let record = World::new().endpoint("a", [script]).endpoint("b", []).run(chat());
        assert_eq!(record.outcome(), "ok");
        assert_eq!(record.body(), body_of(&[role(), finishes("stop"), done()].concat()));
    }
}

#[test]
fn the_head_waits_for_the_first_content_and_nothing_is_lost_meanwhile() {
    let script =
        [wait(100), opened(), wait(100), role(), wait(100), says("Yes."), wait(100), finishes("stop"), done(), end()];
    let record = run(chat(), script.concat());
    assert_eq!(record.head_at, 300);
    assert_eq!(record.body(), body_of(&script.concat()));
    assert_eq!(record.header("cache-control"), Some("no-cache"));
    assert_eq!(record.header("x-accel-buffering"), Some("no"));
    assert_eq!(record.header("server-timing"), Some("fairlead;dur=300, attempts;desc=\"1\""));
}

#[test]
fn the_last_fact_tells_what_the_stream_came_to() {
    let capture = capture("chat_stream_usage");
    let script = [wait(50), capture.opened(), wait(70), raw(capture.body()), wait(5), end()].concat();
    let record = World::new().endpoint("a", [reset()]).endpoint("b", [script]).run(chat());
    assert_eq!(
        record.events.last().unwrap().1,
        Event::CallEnded {
            outcome: "ok".to_owned(),
            param: None,
            endpoint: Some("b".to_owned()),
            attempts: 2,
            stream: true,
            first_content_ms: Some(120),
            total_ms: 125,
            bytes: capture.body().len() as u64,
            native: false,
            events: 7,
            malformed: 0,
            prompt_tokens: Some(7),
            completion_tokens: Some(4),
        }
    );
}
