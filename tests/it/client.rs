//! The client leaves: whatever is in flight for it ends at that very moment.

use crate::{record::Record, script::*, wanted::*, world::World};
use serde_json::json;

const LEAVES_AT: u64 = 12_345;

/// A phase of a call that lasts past [`LEAVES_AT`], and whether a request is in flight in it.
fn phases() -> Vec<(&'static str, World, Wanted, bool)> {
    let world = || World::new().policy(json!({ "headers_ms": 60_000, "commit_after_ms": 60_000 }));
    let early = || World::new().policy(json!({ "headers_ms": 60_000 }));
    let busy = || answers(503, &[("retry-after", "25")], "");
    let begun = || [opened(), role(), says("Well, ")].concat();
    let json_head = || head(200, &[("content-type", "application/json")]);
    let long = || [json_head(), raw(vec![b' '; 9 << 20])].concat();
    vec![
        ("before the head", world().endpoint("a", [vec![]]), chat(), true),
        ("behind the head", world().endpoint("a", [opened()]), chat(), true),
        ("behind the role", world().endpoint("a", [[opened(), role()].concat()]), chat(), true),
        ("behind an early 200", early().endpoint("a", [vec![]]), chat(), true),
        ("in a second attempt", world().endpoint("a", [reset()]).endpoint("b", [vec![]]), chat(), true),
        ("waiting for a second attempt", world().endpoint("a", [busy()]), chat(), false),
        ("waiting behind an early 200", early().endpoint("a", [busy()]), chat(), false),
        ("in mid-stream", world().endpoint("a", [begun()]), chat(), true),
        (
            "in a stream that flows",
            world().endpoint("a", [[begun(), for_ever(20, body_of(&says("and ")))].concat()]),
            chat(),
            true,
        ),
        ("in the middle of an event", world().endpoint("a", [[begun(), raw("data: {")].concat()]), chat(), true),
        ("before a whole answer", world().endpoint("a", [vec![]]), chat_whole(), true),
        ("in a whole answer", world().endpoint("a", [[json_head(), raw("{")].concat()]), chat_whole(), true),
        ("in a long answer", world().endpoint("a", [long()]), chat_whole(), true),
        ("in a refusal", world().endpoint("a", [[head(400, NONE), raw("{")].concat()]), chat(), true),
        ("taking slowly", world().takes(7000).endpoint("a", [begun()]), chat(), true),
    ]
}

fn is_gone(name: &str, record: &Record, at: u64, in_flight: bool) {
    assert_eq!((record.outcome(), record.ended_at), ("client_gone", at), "{name}");
    let last = record.requests.last().unwrap();
    assert_eq!((last.over_at == Some(at), last.aborted || !in_flight), (in_flight, true), "{name}");
    assert!(record.requests.iter().all(|sent| sent.over_at.is_some_and(|over| over <= at)), "{name}");
    assert!(record.error().is_none(), "{name}: nobody is there to be told");
}

#[test]
fn a_leave_that_the_runtime_tells_ends_everything_at_once_in_every_phase() {
    for (name, world, wanted, in_flight) in phases() {
        let record = world.leaves(LEAVES_AT).run(wanted);
        is_gone(name, &record, LEAVES_AT, in_flight);
    }
}

#[test]
fn a_call_that_its_host_drops_takes_everything_with_it() {
    for (name, world, wanted, in_flight) in phases() {
        let record = world.cancelled(LEAVES_AT).run(wanted);
        let last = record.requests.last().unwrap();
        assert_eq!((last.over_at == Some(LEAVES_AT), last.aborted || !in_flight), (in_flight, true), "{name}");
    }
}

#[test]
fn a_leave_before_anything_happens_asks_nobody_for_long() {
    for wanted in [chat(), chat_whole()] {
        let record = World::new().endpoint("a", [vec![]]).leaves(0).run(wanted);
        is_gone("at once", &record, 0, true);
        assert!(record.head.is_none());
    }
}

#[test]
fn a_leave_that_only_a_write_tells_is_seen_at_the_next_write() {
    let talking = [opened(), role(), for_ever(20, body_of(&says("and ")))].concat();
    let silent = [opened(), role(), says("Well, ")].concat();
    for (name, script, at) in [
        ("in a stream that flows", talking, LEAVES_AT.next_multiple_of(20)),
        ("in silence, by the comment", silent, 15_000),
        ("behind an early 200, by the comment", vec![], 15_000),
    ] {
        let record = World::new().endpoint("a", [script]).breaks(LEAVES_AT).run(chat());
        is_gone(name, &record, at, true);
    }
    let slow = World::new().takes(90_000).endpoint("a", [[opened(), says("Well, ")].concat()]).breaks(LEAVES_AT);
    is_gone("taking slowly", &slow.run(chat()), LEAVES_AT, true);
}

#[test]
fn a_leave_behind_the_last_byte_changes_nothing() {
    let script = [opened(), role(), says("Yes."), finishes("stop"), done(), end()].concat();
    let record = World::new().endpoint("a", [script.clone()]).leaves(1).run(chat());
    assert_eq!((record.outcome(), record.ended_at), ("ok", 0));
    // While the client takes the last piece, the call is over already.
    let record = World::new()
        .takes(10)
        .endpoint("a", [reset(), reset(), reset()])
        .policy(json!({ "backoff": { "base_ms": 0 } }));
    assert_eq!(record.leaves(5).run(chat()).outcome(), "upstream_unreachable");
}

#[test]
fn an_endpoint_that_fails_while_the_client_takes_a_comment_is_let_go_at_once() {
    let script = [opened(), role(), says("Well, "), wait(6000), engine_error(), for_ever(10, ": on\n\n")].concat();
    // The first two pieces are the role and the content, the third is the comment.
    let record = World::new().takes(10_000).every(3).endpoint("a", [script]).run(chat());
    assert_eq!((record.keepalives(), record.requests[0].over_at), (vec![5000], Some(6000)));
    assert_eq!((record.outcome(), record.ended_at), ("stream_interrupted", 15_000));
}
