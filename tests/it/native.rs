//! `forward: "native"`: what still holds when bytes go by before they are looked at.

use crate::{
    captures::{capture, streams},
    record::Record,
    script::*,
    wanted::*,
    world::World,
};
use serde_json::{Value, json};

fn native(fields: Value) -> World {
    let mut policy = json!({ "forward": "native" });
    policy.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    World::new().policy(policy)
}

fn run(script: Script) -> Record {
    native(json!({})).endpoint("a", [script]).run(chat())
}

/// Content has begun to flow.
fn flowing() -> Script {
    [opened(), role(), says("It ")].concat()
}

const BLANK: &str = "\n\n";

#[test]
fn every_recorded_stream_goes_by_as_it_is() {
    for capture in streams() {
        for piece in [7, 100, 64 << 10] {
            let body = capture.body();
            let pieces = body.chunks(piece).flat_map(|bytes| [raw(bytes), wait(20)].concat());
            let script: Script = capture.opened().into_iter().chain(pieces).chain(end()).collect();
            let record = native(json!({})).endpoint("a", [script]).run(capture.wanted());
            assert_eq!(record.outcome(), "ok", "{} in pieces of {piece}", capture.name);
            assert_eq!(record.body(), body, "{} in pieces of {piece}", capture.name);
            let checked = World::new().endpoint("a", [capture.script()]).run(capture.wanted());
            let told = |record: &Record| match serde_json::to_value(&record.events.last().unwrap().1).unwrap() {
                Value::Object(fields) => ["events", "malformed", "bytes", "prompt_tokens", "completion_tokens"]
                    .map(|name| fields[name].clone()),
                other => panic!("{other}"),
            };
            assert_eq!(told(&record), told(&checked), "{}", capture.name);
        }
    }
}

#[test]
fn content_goes_on_at_once_and_costs_no_timer() {
    let script = [flowing(), times(500, [wait(10), says("on ")].concat()), finishes("stop"), done(), end()].concat();
    let record = run(script);
    let on: Vec<u64> = record.pieces.iter().map(|(at, _)| *at).filter(|at| *at > 0).take(500).collect();
    assert_eq!(on, (1..=500).map(|number| number * 10).collect::<Vec<_>>());
    assert!(record.timers <= 5, "{} timers", record.timers);
}

#[test]
fn a_missing_done_is_put_in() {
    let record = run([flowing(), wait(5), finishes("stop"), end()].concat());
    assert_eq!(record.outcome(), "ok");
    assert!(record.text().ends_with("data: [DONE]\n\n"));
    let record = run([flowing(), wait(5), finishes("stop"), reset()].concat());
    assert_eq!(record.outcome(), "ok");
    let record = run([flowing(), wait(5), finishes("stop")].concat());
    assert_eq!(
        (record.outcome(), record.requests[0].aborted),
        ("ok", true),
        "the end that does not come is not waited for"
    );
    assert!(record.ended_at <= 1500, "{}", record.ended_at);
}

#[test]
fn a_cut_ends_in_an_error_even_in_the_middle_of_an_event() {
    for rest in [raw(""), raw("data: {\"cho"), raw("data: {}\n"), raw(": comm")] {
        let flow = [flowing(), wait(5), says("goes"), rest.clone()].concat();
        for ending in [end(), reset()] {
            let record = run([flow.clone(), ending].concat());
            assert_eq!((&*record.code(), record.outcome()), ("stream_interrupted", "stream_interrupted"), "{rest:?}");
            let body = record.body();
            assert!(body.starts_with(&body_of(&flow)) && !record.text().contains("[DONE]"));
        }
    }
}

#[test]
fn an_event_that_only_lacks_its_blank_line_counts() {
    let last = body_of(&finishes("stop"));
    let unfinished = raw(&last[..last.len() - 1]);
    let record = run([flowing(), wait(5), unfinished, end()].concat());
    assert_eq!(record.outcome(), "ok");
    let record = run([flowing(), wait(5), finishes("stop"), raw("data: [DONE]"), end()].concat());
    assert_eq!((record.outcome(), record.text().matches("[DONE]").count()), ("ok", 1));
}

#[test]
fn an_error_inside_the_stream_is_told_again_in_our_own_words() {
    let script = [flowing(), wait(5), engine_error(), done(), end()].concat();
    let record = run(script.clone());
    assert_eq!((&*record.code(), record.outcome()), ("stream_interrupted", "stream_interrupted"));
    assert!(record.body().starts_with(&[body_of(&script), BLANK.into()].concat()));
    let killed = capture("chat_stream_engine_killed");
    assert_eq!(native(json!({})).endpoint("a", [killed.script()]).run(chat()).code(), "stream_interrupted");
}

#[test]
fn damaged_events_go_on_and_are_counted() {
    let record = run([flowing(), raw("data: {\n\n"), says("on"), finishes("stop"), done(), end()].concat());
    assert_eq!((record.outcome(), record.dropped()), ("ok", 1));
    assert!(record.text().contains("data: {\n\n"));
}

#[test]
fn half_an_event_is_not_overtaken() {
    let begun = body_of(&says("whole again"));
    let (first, rest) = begun.split_at(20);
    let script =
        [flowing(), raw(first), wait(40), raw(rest), wait(40), says("on"), finishes("stop"), done(), end()].concat();
    // The first content and the beginning of the next event come in one chunk.
    let (head, chunks) = script.split_at(1);
    let together = body_of(&chunks[..3].to_vec());
    let script = [head.to_vec(), raw(together), chunks[3..].to_vec()].concat();
    let record = run(script.clone());
    assert_eq!((record.outcome(), record.body()), ("ok", body_of(&script)));
}

#[test]
fn silence_is_noticed_in_time() {
    let record = native(json!({ "idle_ms": 2000 })).endpoint("a", [flowing()]).run(chat());
    assert_eq!((&*record.code(), &*record.param()), ("upstream_timeout", "idle"));
    assert_eq!(record.ended_at, 2000);
    let later = [flowing(), wait(100), says("on")].concat();
    let record = native(json!({ "idle_ms": 2000 })).endpoint("a", [later]).run(chat());
    assert!((2100..=2350).contains(&record.ended_at), "{}", record.ended_at);
    let noise = [flowing(), for_ever(100, ": keep-alive\n\n")].concat();
    let record = native(json!({ "progress_ms": 3000 })).endpoint("a", [noise]).run(chat());
    assert_eq!((&*record.param(), record.ended_at), ("progress", 3000));
    assert!(record.requests[0].aborted);
}

#[test]
fn a_rest_is_no_silence() {
    // Shorter than a quarter of a second, and bytes come shortly before it is over.
    for idle in [8, 40, 100, 300] {
        let every = idle - idle / 4 - 1;
        let script =
            [flowing(), times(50, [wait(every), says("on ")].concat()), finishes("stop"), done(), end()].concat();
        let record = native(json!({ "idle_ms": idle, "progress_ms": idle })).endpoint("a", [script]).run(chat());
        assert_eq!(record.outcome(), "ok", "idle {idle}");
    }
}

#[test]
fn the_deadline_ends_a_native_stream_too() {
    let script = [flowing(), for_ever(10, body_of(&says("on ")))].concat();
    let record = native(json!({ "deadline_ms": 5000 })).endpoint("a", [script]).run(chat());
    assert_eq!((&*record.code(), record.ended_at, record.requests[0].over_at), ("deadline_exceeded", 5000, Some(5000)));
}

#[test]
fn nothing_is_put_between_the_endpoints_bytes() {
    let script = [flowing(), wait(50_000), says("on"), finishes("stop"), done(), end()].concat();
    let record = native(json!({ "keepalive_ms": 1000 })).endpoint("a", [script.clone()]).run(chat());
    assert_eq!((record.outcome(), record.body()), ("ok", body_of(&script)));
    // Before the first content nothing has gone native yet.
    let script = [opened(), wait(50_000), flowing()[1..].to_vec(), finishes("stop"), done(), end()].concat();
    let record = native(json!({ "keepalive_ms": 1000 })).endpoint("a", [script]).run(chat());
    assert!(record.keepalives().len() > 10, "{:?}", record.keepalives());
}

#[test]
fn what_fails_before_content_fails_over() {
    let broken = [opened(), role(), engine_error(), done(), end()].concat();
    let record = native(json!({})).endpoint("a", [broken]).endpoint("b", [well("Yes.")]).run(chat());
    assert_eq!((record.outcome(), &*record.asked()), ("ok", "ab"));
}

#[test]
fn a_client_that_leaves_ends_the_endpoints_work() {
    let script = || [flowing(), for_ever(10, body_of(&says("on ")))].concat();
    let record = native(json!({})).endpoint("a", [script()]).leaves(3000).run(chat());
    assert_eq!((record.outcome(), record.requests[0].over_at), ("client_gone", Some(3000)));
    let record = native(json!({})).endpoint("a", [script()]).breaks(3005).run(chat());
    assert_eq!((record.outcome(), record.requests[0].over_at), ("client_gone", Some(3010)));
}

#[test]
fn a_client_that_is_behind_gets_all_of_it_and_then_what_is_said_behind_it() {
    let flow = |ending: Script| [flowing(), times(200, [wait(1), says("on ")].concat()), ending].concat();
    let run = |ending: Script| native(json!({})).takes(40).endpoint("a", [flow(ending)]).run(chat());
    let endings = [
        ("ok", [finishes("stop"), done(), end()].concat()),
        ("ok", [finishes("stop"), end()].concat()),
        ("ok", [finishes("stop"), done()].concat()),
        ("ok", finishes("stop")),
        ("stream_interrupted", reset()),
        ("stream_interrupted", [engine_error(), done(), end()].concat()),
    ];
    for (outcome, ending) in endings {
        let record = run(ending.clone());
        assert_eq!(record.outcome(), outcome, "{ending:?}");
        assert!(record.body().starts_with(&body_of(&flow(ending.clone()))), "{ending:?}");
        assert_eq!(record.error().is_some(), outcome != "ok");
        assert_eq!(record.text().matches("[DONE]").count(), 1 - usize::from(matches!(ending[..], [Step::Reset])));
        assert!(record.requests[0].over_at.unwrap() < 2000 && record.pieces.last().unwrap().0 > 8000);
    }
}

#[test]
fn a_client_that_takes_nothing_is_waited_for_until_the_deadline() {
    let script = [flowing(), says("on"), says("on"), finishes("stop"), done(), end()].concat();
    let world = native(json!({ "deadline_ms": 5000 })).takes(4000).endpoint("a", [script]);
    let record = world.run(chat());
    assert!(record.untaken && record.ended_at <= 6000, "{}", record.ended_at);
}

#[test]
fn more_than_can_be_looked_at_at_a_time_is_looked_at_without_rest() {
    let much = says(&"x".repeat(20_000));
    let script = [flowing(), times(400, [wait(10), much].concat()), finishes("stop"), done(), end()].concat();
    let record = native(json!({ "deadline_ms": 4500 })).endpoint("a", [script]).run(chat());
    assert_eq!(record.outcome(), "ok");
}

#[test]
fn answers_that_do_not_stream_are_still_whole_or_nothing() {
    let body = answer("Yes.");
    let cut = [head(200, &[("content-type", "application/json")]), raw(&body[..20]), end()].concat();
    let record = native(json!({})).endpoint("a", [cut]).endpoint("b", [answers(200, NONE, &body)]).run(chat_whole());
    assert_eq!((record.outcome(), record.text()), ("ok", body));
}
