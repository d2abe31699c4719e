//! One deadline over everything: whatever hangs, the call is over within its millisecond.

use crate::{record::Record, script::*, wanted::*, world::World};
use serde_json::{Value, json};

const DEADLINE_MS: u64 = 5000;

/// Nothing but the deadline can end a call here.
fn patient() -> Value {
    const DAY: u64 = 86_400_000;
    json!({
        "deadline_ms": DEADLINE_MS, "headers_ms": DAY, "first_token_ms": DAY, "idle_ms": DAY, "progress_ms": DAY,
        "commit_after_ms": DAY, "keepalive_ms": 1000,
    })
}

fn expires(record: &Record) {
    assert_eq!(record.ended_at, DEADLINE_MS);
    assert_eq!(record.outcome(), "deadline_exceeded");
    assert!(record.requests.iter().all(|sent| sent.over_at.is_some_and(|at| at <= DEADLINE_MS)));
}

#[test]
fn a_stream_that_hangs_before_its_content_is_a_504_at_the_deadline() {
    for (phase, script) in [
        ("before the head", vec![]),
        ("behind the head", opened()),
        ("behind the role", [opened(), role()].concat()),
        ("in mid-event", [opened(), raw("data: {\"cho")].concat()),
        ("in comments", [opened(), for_ever(10, ": keep-alive\n\n")].concat()),
        ("in empty deltas", [opened(), for_ever(10, empty_delta(1))].concat()),
        ("in an error's body", [head(400, NONE), for_ever(10, " ")].concat()),
    ] {
        let record = World::new().policy(patient()).endpoint("a", [script]).endpoint("b", []).run(chat());
        expires(&record);
        assert_eq!((record.status(), &*record.code(), &*record.asked()), (504, "deadline_exceeded", "a"), "{phase}");
    }
}

#[test]
fn a_stream_that_hangs_behind_its_content_ends_in_an_error_event_at_the_deadline() {
    let begun = |rest: Script| [opened(), role(), says("Well, "), rest].concat();
    for (phase, script) in [
        ("silent", begun(vec![])),
        ("in mid-event", begun(raw("data: {\"cho"))),
        ("in comments", begun(for_ever(10, ": keep-alive\n\n"))),
        ("talking for ever", begun(for_ever(7, body_of(&says("and "))))),
    ] {
        let record = World::new().policy(patient()).endpoint("a", [script]).run(chat());
        expires(&record);
        assert_eq!((record.status(), &*record.code()), (200, "deadline_exceeded"), "{phase}");
    }
}

#[test]
fn behind_an_early_200_the_deadline_is_told_inside_the_stream() {
    let mut policy = patient();
    policy["commit_after_ms"] = 2000.into();
    let record = World::new().policy(policy).endpoint("a", [vec![]]).run(chat());
    expires(&record);
    assert_eq!((record.status(), record.head_at, record.keepalives()), (200, 2000, vec![3000, 4000]));
}

#[test]
fn an_answer_that_does_not_stream_is_a_504_or_broken_off() {
    let json = || head(200, &[("content-type", "application/json")]);
    for script in [vec![], json(), [json(), raw("{\"cho")].concat(), [json(), for_ever(100, " ")].concat()] {
        let record = World::new().policy(patient()).endpoint("a", [script]).endpoint("b", []).run(chat_whole());
        expires(&record);
        assert_eq!((record.status(), &*record.code()), (504, "deadline_exceeded"));
    }
    let long = [json(), raw(vec![b' '; 9 << 20])].concat();
    let record = World::new().policy(patient()).endpoint("a", [long]).run(chat_whole());
    expires(&record);
    assert_eq!((record.status(), record.broken), (200, true));
}

#[test]
fn no_endpoint_works_past_the_deadline_for_a_client_that_takes_nothing() {
    let talking = [opened(), role(), for_ever(7, body_of(&says("and ")))].concat();
    let record = World::new().policy(patient()).takes(1_000_000).endpoint("a", [talking]).run(chat());
    assert_eq!((record.requests[0].over_at, record.requests[0].aborted), (Some(DEADLINE_MS), true));
    assert_eq!((record.outcome(), record.untaken), ("deadline_exceeded", true));
    assert_eq!(record.ended_at, DEADLINE_MS + 1000, "a moment for the last words");
}

#[test]
fn a_client_that_takes_its_time_is_told_about_the_deadline_none_the_less() {
    // A write takes a moment in every host, so at the deadline itself there must be one left.
    for takes in [1, 20, 400] {
        for script in
            [[opened(), says("Well, ")].concat(), [opened(), role(), for_ever(7, body_of(&says("and ")))].concat()]
        {
            let record = World::new().policy(patient()).takes(takes).endpoint("a", [script]).run(chat());
            assert_eq!(record.requests[0].over_at, Some(DEADLINE_MS));
            assert_eq!((&*record.code(), record.untaken), ("deadline_exceeded", false), "{takes}");
            assert!(record.ended_at <= DEADLINE_MS + 1000, "{takes}");
        }
    }
}

#[test]
fn a_clients_own_deadline_shortens_and_never_lengthens() {
    for (own, ends) in [(1, 1), (1500, 1500), (5000, 5000), (600_000, 5000)] {
        let record = World::new().policy(patient()).endpoint("a", [vec![]]).run(chat().within(own));
        assert_eq!((record.ended_at, &*record.code()), (ends, "deadline_exceeded"), "{own}");
        let message = record.error().unwrap()["message"].to_string();
        assert!(message.contains(&format!("{ends} ms")), "{message}");
    }
}

#[test]
fn the_deadline_is_one_for_all_attempts_together() {
    let mut policy = patient();
    policy["max_attempts"] = 20.into();
    policy["budget"] = json!({ "transient_cost": 0 });
    for seed in 0..50 {
        let slow_death = [wait(700), reset()].concat();
        let world = World::new().policy(policy.clone()).seed(seed).always("a", slow_death.clone());
        let record = world.always("b", slow_death).run(chat());
        assert!(record.ended_at <= DEADLINE_MS, "seed {seed}");
        let last = record.sent_at().pop().unwrap();
        assert!(last + 200 <= DEADLINE_MS, "seed {seed}: an attempt at {last} cannot come to anything");
    }
}

#[test]
fn a_wait_that_the_deadline_does_not_allow_is_not_begun() {
    // All that is left at 4850 is less than any attempt could use, also of an endpoint not asked yet.
    let late = [wait(4850), reset()].concat();
    for world in [World::new(), World::new().endpoint("a", []).endpoint("b", [])] {
        let record = world.policy(patient()).endpoint("a", [late.clone()]).run(chat());
        assert_eq!((record.ended_at, &*record.code(), record.requests.len()), (4850, "upstream_unreachable", 1));
        assert_eq!(record.failures(), ["unreachable no_time_left"]);
    }
    let mut policy = patient();
    policy["backoff"] = json!({ "base_ms": 86_400_000, "max_ms": 86_400_000 });
    let record = World::new().policy(policy).endpoint("a", [reset()]).run(chat());
    assert_eq!((record.ended_at, record.failures()), (0, vec!["unreachable no_time_left".to_owned()]));
}

#[test]
fn an_answer_that_is_whole_when_the_deadline_comes_is_ended_as_one() {
    let finished = [wait(4500), opened(), role(), says("Yes."), finishes("stop")].concat();
    for (script, owed) in [(finished.clone(), "data: [DONE]\n\n"), ([finished, done()].concat(), "")] {
        let whole = String::from_utf8(body_of(&script)).unwrap();
        let record = World::new().policy(patient()).endpoint("a", [script]).run(chat());
        assert_eq!((record.ended_at, record.outcome()), (DEADLINE_MS, "ok"));
        assert_eq!(record.text(), format!("{whole}{owed}"));
    }
    let closed = crate::captures::capture("messages_stream");
    let script = [wait(4500), closed.opened(), raw(closed.body())].concat();
    let record = World::new().policy(patient()).endpoint("a", [script]).run(messages());
    assert_eq!((record.ended_at, record.outcome()), (DEADLINE_MS, "ok"));
    assert_eq!(record.body(), closed.body());
}

#[test]
fn a_request_that_takes_long_to_come_in_is_no_silence_of_the_endpoint() {
    let policy = json!({ "headers_ms": 1000, "max_attempts": 1 });
    let script = [wait(900), well("Here.")].concat();
    let record = World::new().policy(policy).uploads(5000).endpoint("a", [script]).run(chat());
    assert_eq!((record.outcome(), record.ended_at), ("ok", 5900));
}

#[test]
fn a_request_that_comes_in_behind_its_deadline_is_given_to_nobody() {
    let record = World::new().policy(json!({ "deadline_ms": 4000 })).uploads(5000).endpoint("a", []).run(chat());
    assert_eq!((record.status(), &*record.code(), record.requests.len()), (504, "deadline_exceeded", 0));
    assert!(record.error().unwrap()["message"].to_string().contains("no endpoint was asked"));
}

#[test]
fn a_retry_that_a_slow_client_has_put_off_is_not_begun_without_the_time_for_it() {
    let policy = || json!({ "deadline_ms": DEADLINE_MS, "commit_after_ms": 0 });
    let pushback = || answers(503, &[("retry-after", "1")], "{}");
    for (starts_after, asked) in [(4800, "aa"), (4801, "a")] {
        let world = World::new().policy(policy()).starts_after(starts_after).endpoint("a", [pushback(), vec![]]);
        let record = world.run(chat());
        assert_eq!((&*record.asked(), &*record.code(), record.ended_at), (asked, "deadline_exceeded", DEADLINE_MS));
    }
}
