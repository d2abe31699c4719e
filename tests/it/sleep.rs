//! Hosts that sleep: a laptop that is shut, a hidden page whose timers fire once a minute. Nobody is to blame for what
//! could not be heard meanwhile, and a stall still ends.

use crate::{record::Record, script::*, wanted::*, world::World};
use serde_json::json;
use std::ops::Range;

const MINUTE: u64 = 60_000;
/// Ten minutes.
const NIGHT: Range<u64> = 1000..601_000;

fn page() -> World {
    World::new().page()
}

/// With timers that run out in any sleep.
fn hasty(world: World) -> World {
    world.policy(json!({
        "headers_ms": 2000, "first_token_ms": 2000, "idle_ms": 3000, "progress_ms": 3000, "deadline_ms": 20_000,
        "prefill_ms_per_kib": 0, "max_attempts": 1, "commit_after_ms": 20_000,
    }))
}

/// Carried by the host, and asked for piece by piece.
fn both_ways(world: impl Fn() -> World, script: &Script) -> [Record; 2] {
    [world(), world().piece_by_piece()].map(|world| world.endpoint("a", [script.clone()]).run(chat()))
}

fn failed(record: &Record) -> (&str, String, u64) {
    (record.outcome(), record.param(), record.ended_at)
}

fn rest() -> Script {
    [says("goes on."), finishes("stop"), done(), end()].concat()
}

#[test]
fn a_stream_goes_on_behind_a_sleep_whenever_its_next_bytes_come() {
    for at in [500, 1000, 300_000, NIGHT.end - 1, NIGHT.end, NIGHT.end + 1, NIGHT.end + 2500] {
        let script = [opened(), says("It "), wait(at), rest()].concat();
        for record in both_ways(|| hasty(page()).asleep(NIGHT), &script) {
            assert_eq!(record.outcome(), "ok", "{at}");
            assert_eq!(record.without_keepalives(), body_of(&script));
        }
        if at > NIGHT.start {
            for record in both_ways(|| hasty(World::new()).asleep(NIGHT), &script) {
                assert_ne!(record.outcome(), "ok", "a host that never sleeps goes by the clock");
            }
        }
    }
}

#[test]
fn headers_the_first_token_and_a_whole_answer_may_come_behind_a_sleep() {
    for begins in [vec![], opened(), [opened(), role()].concat()] {
        let opened = if begins.is_empty() { opened() } else { vec![] };
        let script = [begins, wait(NIGHT.end + 1000), opened, says("It "), rest()].concat();
        for record in both_ways(|| hasty(page()).asleep(NIGHT), &script) {
            assert_eq!((record.outcome(), record.head_at), ("ok", NIGHT.end + 1000));
        }
    }
    let script = [wait(NIGHT.end + 5000), answers(200, &[], answer("Yes."))].concat();
    assert_eq!(hasty(page()).asleep(NIGHT).endpoint("a", [script]).run(chat_whole()).outcome(), "ok");
}

#[test]
fn a_stream_that_died_in_the_sleep_ends_a_moment_behind_it() {
    let script = [opened(), says("It ")].concat();
    for record in both_ways(|| hasty(page()).asleep(NIGHT), &script) {
        assert_eq!(failed(&record), ("upstream_timeout", "idle".to_owned(), NIGHT.end + 3000));
    }
    for record in both_ways(|| page().asleep(NIGHT).policy(json!({ "keepalive_ms": 60_000 })), &script) {
        // It was last looked after when five seconds had passed.
        assert_eq!(failed(&record), ("upstream_timeout", "idle".to_owned(), NIGHT.end + 55_000));
    }
    for record in both_ways(|| hasty(page()).asleep(NIGHT).takes(2000), &script) {
        let (outcome, param, at) = failed(&record);
        assert_eq!((outcome, &*param), ("upstream_timeout", "idle"));
        assert!((NIGHT.end..=NIGHT.end + 8000).contains(&at), "a client that took its time meanwhile: {at}");
    }
}

#[test]
fn the_deadline_counts_the_time_in_which_the_host_ran() {
    let record = hasty(page()).asleep(NIGHT).endpoint("a", [vec![]]).run(chat_whole());
    assert_eq!((record.outcome(), record.status()), ("deadline_exceeded", 504));
    assert!((NIGHT.end + 15_000..=NIGHT.end + 19_000).contains(&record.ended_at), "{}", record.ended_at);
    let script = [opened(), for_ever(500, body_of(&says("on ")))].concat();
    for record in both_ways(|| hasty(page()).asleep(NIGHT), &script) {
        assert_eq!(record.outcome(), "deadline_exceeded");
        assert!((NIGHT.end + 15_000..=NIGHT.end + 19_000).contains(&record.ended_at), "{}", record.ended_at);
    }
}

#[test]
fn a_hidden_page_hears_what_comes_although_its_timers_are_late() {
    let policy = json!({ "idle_ms": 30_000, "first_token_ms": 30_000, "headers_ms": 10_000 });
    let script = [wait(9000), opened(), wait(20_000), times(8, [says("on "), wait(29_000)].concat()), rest()].concat();
    for record in both_ways(|| page().hidden().policy(policy.clone()), &script) {
        assert_eq!(record.outcome(), "ok");
    }
}

#[test]
fn a_stall_in_a_hidden_page_ends_for_there_is_no_grace_twice() {
    let script = [opened(), says("It ")].concat();
    for record in both_ways(|| hasty(page()).hidden().policy(json!({ "idle_ms": 3000 })), &script) {
        // At the first minute it is given time to be heard, at the second there is none left.
        assert_eq!(failed(&record), ("upstream_timeout", "idle".to_owned(), 2 * MINUTE));
    }
    let comments = [opened(), for_ever(2000, ": comment\n\n")].concat();
    let policy = json!({ "first_token_ms": 5000, "max_attempts": 1 });
    for record in both_ways(|| page().hidden().policy(policy.clone()), &comments) {
        assert_eq!((record.outcome(), &*record.param()), ("upstream_timeout", "first_token"));
        assert!(record.ended_at <= 2 * MINUTE, "{}", record.ended_at);
    }
}

#[test]
fn bytes_give_a_hidden_pages_stream_its_moment_again() {
    let policy = json!({ "idle_ms": 3000, "progress_ms": 3000 });
    // Just behind each minute, at which the silence was found to be too long.
    let script =
        [opened(), says("on "), wait(MINUTE), times(3, [wait(1000), says("on "), wait(MINUTE - 1000)].concat())];
    let script = [script.concat(), wait(1000), rest()].concat();
    for record in both_ways(|| page().hidden().policy(policy.clone()), &script) {
        assert_eq!(record.outcome(), "ok");
    }
}

#[test]
fn a_hidden_page_holds_the_deadline_as_well_as_its_timers_can() {
    let policy = json!({ "deadline_ms": 90_000 });
    let record = page().hidden().policy(policy.clone()).endpoint("a", [vec![]]).run(chat_whole());
    assert_eq!((record.outcome(), record.ended_at), ("deadline_exceeded", 2 * MINUTE));
    let script = [opened(), for_ever(500, body_of(&says("on ")))].concat();
    for record in both_ways(|| page().hidden().policy(policy.clone()), &script) {
        assert_eq!((record.outcome(), record.ended_at), ("deadline_exceeded", 90_000), "chunks wake it in time");
    }
}

#[test]
fn a_client_that_takes_its_time_is_not_taken_for_a_sleep() {
    let script = [opened(), says("It "), rest()].concat();
    let policy = json!({ "deadline_ms": 100_000 });
    for record in both_ways(|| page().takes(80_000).policy(policy.clone()), &script) {
        assert_eq!(record.outcome(), "deadline_exceeded");
        assert!(record.ended_at <= 101_000);
    }
}
