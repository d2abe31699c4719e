//! Nothing that an endpoint sends is held without a bound.

use crate::{script::*, wanted::*, world::World};
use serde_json::json;

const MIB: usize = 1 << 20;

#[test]
fn events_without_content_are_held_back_up_to_a_mebibyte() {
    let event = empty_delta(1 << 10);
    let events_of_a_mebibyte = MIB.div_ceil(event.len()) as u64;
    let script = [opened(), for_ever(1, &event)].concat();
    let policy = json!({ "first_token_ms": 3000, "progress_ms": 3000 });
    let record = World::new().policy(policy).endpoint("a", [script]).endpoint("b", []).run(chat());
    assert!(record.head_at.abs_diff(events_of_a_mebibyte) <= 2, "shown at {}", record.head_at);
    assert!(record.pieces[0].1.len() <= MIB + 2 * event.len());
    assert_eq!((record.status(), &*record.code(), &*record.param()), (200, "upstream_timeout", "first_token"));
    assert_eq!(record.ended_at, 3000);
}

#[test]
fn less_than_that_stays_invisible() {
    let event = empty_delta(1 << 10);
    let many = raw(event.repeat(MIB / event.len()));
    let script = [opened(), many, reset()].concat();
    let record = World::new().endpoint("a", [script]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!(record.body(), body_of(&well("From b.")));
}

#[test]
fn an_event_of_sixteen_mebibytes_is_refused() {
    let endless = || [opened(), for_ever(1, vec![b'x'; MIB])].concat();
    let record = World::new().endpoint("a", [endless()]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!(record.requests[0].over_at, Some(17), "the first byte over the bound is the last that is taken");
    assert_eq!(record.body(), body_of(&well("From b.")));
    let begun = [opened(), says("Well, "), for_ever(1, vec![b'x'; MIB])].concat();
    let record = World::new().endpoint("a", [begun]).endpoint("b", []).run(chat());
    assert_eq!((record.status(), &*record.code(), record.ended_at), (200, "stream_interrupted", 17));
    assert!(record.error().unwrap()["message"].to_string().contains("16 MiB"));
}

#[test]
fn an_event_of_a_few_mebibytes_goes_through() {
    let big = says(&"x".repeat(3 * MIB));
    let pieces = cut_at(&body_of(&big), (1..48).map(|piece| piece << 16));
    let script = [opened(), pieces, finishes("stop"), done(), end()].concat();
    let expected = body_of(&script);
    assert!(World::new().endpoint("a", [script]).run(chat()).body() == expected);
}

#[test]
fn an_explanation_is_passed_on_up_to_a_mebibyte() {
    for (length, status, code) in [(MIB, 422, ""), (MIB + 1, 400, "invalid_request")] {
        let script = [head(422, NONE), raw(vec![b'x'; length]), end()].concat();
        let record = World::new().endpoint("a", [script]).endpoint("b", []).run(chat());
        assert_eq!((record.status(), &*record.code(), &*record.asked()), (status, code, "a"), "{length}");
        assert_eq!(record.body().len() == length, code.is_empty());
    }
}

#[test]
fn an_answer_that_does_not_stream_is_held_back_up_to_eight_mebibytes() {
    let json_head = || head(200, &[("content-type", "application/json")]);
    let most = raw(vec![b' '; 8 * MIB]);
    let held = [json_head(), most.clone(), wait(5), reset()].concat();
    let record =
        World::new().endpoint("a", [held]).endpoint("b", [answers(200, &[], answer("From b."))]).run(chat_whole());
    assert_eq!(record.text(), answer("From b."));
    let flows = [json_head(), wait(3), most, raw(" "), wait(5), reset()].concat();
    let record = World::new().endpoint("a", [flows]).endpoint("b", []).run(chat_whole());
    assert_eq!((record.status(), record.head_at, record.broken), (200, 3, true));
    assert_eq!(record.body().len(), 8 * MIB + 1);
    assert_eq!(record.outcome(), "stream_interrupted");
}
