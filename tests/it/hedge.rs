//! A second target beside one that is still awaited: whole calls in virtual time.

use crate::{
    record::Record,
    runpod::{Runpod, Work},
    script::*,
    wanted::*,
    world::{Crowd, START, World},
};
use fairlead_core::{
    event::Event,
    fleet::{Fleet, Which},
    policy::BreakerPolicy,
    rng::Rng,
};
use serde_json::{Value, json};
use std::{cell::RefCell, rc::Rc};

/// A stream that says this after so long, and ends so much later.
fn says_in(ms: u64, text: &str, rest_ms: u64) -> Script {
    [opened(), role(), wait(ms), says(text), wait(rest_ms), finishes("stop"), done(), end()].concat()
}

/// After 100 ms, as often as there is reason to.
fn hedged() -> Value {
    json!({ "hedge_after_ms": 100, "hedge_ratio": 1 })
}

/// The same with these fields.
fn with(fields: Value) -> Value {
    let mut policy = hedged();
    policy.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    policy
}

fn world(a: Script, b: Script) -> World {
    World::new().always("a", a).always("b", b).policy(hedged())
}

/// Hedges by their numbers, endpoints, and how long was waited before them.
fn hedges(events: &[(u64, Event)]) -> Vec<(u32, String, u64)> {
    let hedge = |(_, event): &'_ (u64, Event)| match event {
        Event::HedgeStarted { attempt, endpoint, after_ms } => Some((*attempt, endpoint.clone(), *after_ms)),
        _ => None,
    };
    events.iter().filter_map(hedge).collect()
}

/// Whom a call asked and when, and when it let them go before their end.
fn races(record: &Record) -> Vec<(&str, u64, Option<u64>)> {
    let gone = |sent: &crate::record::Sent| sent.over_at.filter(|_| sent.aborted);
    record.requests.iter().map(|sent| (&*sent.endpoint, sent.at, gone(sent))).collect()
}

/// Who the last fact says has answered, and behind how many attempts.
fn answered(record: &Record) -> (Option<&str>, u32) {
    let end = record.events.iter().find_map(|(_, event)| match event {
        Event::CallEnded { endpoint, attempts, .. } => Some((endpoint.as_deref(), *attempts)),
        _ => None,
    });
    end.expect("an end")
}

/// What the client read, without comments.
fn shown(record: &Record) -> String {
    record.text().split_inclusive("\n\n").filter(|block| !block.starts_with(':')).collect()
}

/// What is left of the first endpoints' budgets.
fn left(fleet: &RefCell<Fleet>) -> [u32; 3] {
    let policy = fairlead_core::policy::Policy::default().budget;
    [0, 1, 2].map(|endpoint| fleet.borrow_mut().budget(endpoint).left(&policy))
}

fn fleet() -> Rc<RefCell<Fleet>> {
    Rc::default()
}

#[test]
fn the_first_may_still_win_and_the_hedge_is_given_up_at_once() {
    let (first, fleet) = (says_in(300, "A.", 900), fleet());
    let record = world(first.clone(), says_in(500, "B.", 0)).fleet(&fleet).run(chat());
    assert_eq!(races(&record), [("a", 0, None), ("b", 100, Some(300))]);
    assert_eq!((record.outcome(), record.body()), ("ok", body_of(&first)));
    assert_eq!((record.header("x-fairlead-endpoint"), record.header("x-fairlead-attempts")), (Some("a"), Some("2")));
    assert_eq!(answered(&record), (Some("a"), 2));
    assert_eq!(record.failures(), [""; 0], "to lose is no failure");
    assert_eq!(left(&fleet), [87, 100, 100], "the hedge is paid for, and the success gives back");
}

#[test]
fn the_hedge_wins_and_the_first_is_given_up_at_once() {
    let (second, fleet) = (says_in(50, "B.", 900), fleet());
    let record = world(says_in(3000, "A.", 0), second.clone()).fleet(&fleet).run(chat());
    assert_eq!(races(&record), [("a", 0, Some(150)), ("b", 100, None)]);
    assert_eq!((record.outcome(), record.body(), record.ended_at), ("ok", body_of(&second), 1050));
    assert_eq!((record.header("x-fairlead-endpoint"), record.header("x-fairlead-attempts")), (Some("b"), Some("2")));
    assert_eq!(answered(&record), (Some("b"), 2));
    assert_eq!(left(&fleet), [86, 100, 100], "whoever is too slow pays, and the success is the other's");
    let told: Vec<Value> = record.events.iter().map(|(_, event)| serde_json::to_value(event).unwrap()).collect();
    assert_eq!(told[0], json!({ "event": "attempt_started", "attempt": 1, "endpoint": "a" }));
    assert_eq!(told[1], json!({ "event": "hedge_started", "attempt": 2, "endpoint": "b", "after_ms": 100 }));
    assert_eq!(told[2], json!({ "event": "attempt_started", "attempt": 2, "endpoint": "b" }));
}

#[test]
fn to_lose_says_nothing_about_an_endpoint() {
    let fleet = fleet();
    let policy = || with(json!({ "breaker": { "consecutive": 1, "min_calls": 1 } }));
    for (a, b) in [(3000, 50), (300, 3000)] {
        let record = world(says_in(a, "A.", 0), says_in(b, "B.", 0)).policy(policy()).fleet(&fleet).run(chat());
        assert_eq!((record.outcome(), record.asked()), ("ok", "ab".to_owned()));
    }
    let at = START.after(10_000);
    for endpoint in [0, 1] {
        let mut fleet = fleet.borrow_mut();
        let view = fleet.gate(Which { endpoint, entry: Some(0) }).breaker.view(at, &BreakerPolicy::default());
        assert_eq!((view.state, view.failures), ("closed", 0));
        assert_eq!(fleet.load(endpoint).in_flight(at), 0);
    }
}

#[test]
fn nothing_is_hedged_that_has_content_in_time() {
    for ms in [0, 99, 100] {
        let record = world(says_in(ms, "A.", 5000), well("B.")).run(chat());
        assert_eq!((record.asked(), hedges(&record.events)), ("a".to_owned(), vec![]), "{ms}");
    }
    assert_eq!(world(says_in(101, "A.", 0), well("B.")).run(chat()).asked(), "ab");
}

#[test]
fn nothing_is_hedged_that_is_refused_already() {
    let refusal =
        [head(400, &[("content-type", "application/json")]), raw("{\"error\":"), wait(500), raw("{}}"), end()];
    let record = world(refusal.concat(), well("B.")).run(chat());
    assert_eq!((record.asked(), record.status(), hedges(&record.events)), ("a".to_owned(), 400, vec![]));
}

#[test]
fn of_two_that_speak_in_the_same_moment_one_is_heard_and_nothing_of_the_other() {
    let (first, second) = (says_in(300, "A.", 10), says_in(200, "B.", 10));
    let record = world(first.clone(), second).run(chat());
    assert_eq!(races(&record), [("a", 0, None), ("b", 100, Some(300))]);
    assert_eq!((record.body(), record.header("x-fairlead-endpoint")), (body_of(&first), Some("a")));
}

#[test]
fn keepalives_and_a_role_are_no_content() {
    let pings = [opened(), for_ever(20, ": ping\n\n")].concat();
    let roles = [opened(), role(), for_ever(20, empty_delta(0))].concat();
    for first in [pings, roles, opened(), vec![], wait(200)] {
        let second = says_in(50, "B.", 0);
        let record = world(first, second.clone()).run(chat());
        assert_eq!(races(&record), [("a", 0, Some(150)), ("b", 100, None)]);
        assert_eq!(record.body(), body_of(&second));
    }
}

#[test]
fn a_client_that_has_its_status_already_is_told_the_same() {
    let second = says_in(500, "B.", 0);
    let policy = with(json!({ "commit_after_ms": 50, "keepalive_ms": 100 }));
    let record = world(says_in(5000, "A.", 0), second.clone()).policy(policy).run(chat());
    assert_eq!((record.head_at, record.outcome()), (50, "ok"));
    assert_eq!(record.keepalives(), [150, 250, 350, 450, 550]);
    assert_eq!(record.without_keepalives(), body_of(&second));
}

#[test]
fn choices_of_the_winner_alone_are_shown() {
    let choice = |index, text: &str| event(chunk(index, &json!({ "content": text }), None));
    let ends = |index| event(chunk(index, &json!({}), Some("stop")));
    let two = |first_ms, text: &str| {
        [opened(), role(), wait(first_ms), choice(1, text), wait(100), choice(0, text), ends(1), ends(0), done(), end()]
            .concat()
    };
    for (first_ms, second_ms) in [(150, 400), (400, 50)] {
        let (first, second) = (two(first_ms, "A."), two(second_ms, "B."));
        let record = world(first.clone(), second.clone()).run(chat().with("n", 2));
        let winner = if first_ms == 150 { first } else { second };
        assert_eq!((record.outcome(), record.body()), ("ok", body_of(&winner)));
    }
}

#[test]
fn one_that_fails_leaves_the_other_and_when_both_have_the_route_goes_on() {
    let breaks = |ms| [opened(), role(), wait(ms), reset()].concat();
    let second = says_in(500, "B.", 0);
    let record = world(breaks(200), second.clone()).run(chat());
    assert_eq!((record.failures(), record.body()), (vec!["cut another_attempt_runs".to_owned()], body_of(&second)));
    assert_eq!((record.header("x-fairlead-endpoint"), record.header("x-fairlead-attempts")), (Some("b"), Some("2")));

    let record = world(says_in(500, "A.", 0), breaks(50)).run(chat());
    assert_eq!(record.failures(), ["cut another_attempt_runs"]);
    assert_eq!((record.outcome(), record.header("x-fairlead-endpoint")), ("ok", Some("a")));

    let refuses = |ms| [wait(ms), answers(503, &[], "{}")].concat();
    for (a, b, failures) in [(200, 300, ["a", "b"]), (500, 50, ["b", "a"])] {
        let record = world(refuses(a), refuses(b)).always("c", well("C.")).run(chat());
        assert_eq!((record.outcome(), record.asked()), ("ok", "abc".to_owned()));
        assert_eq!(record.failures(), ["http_503 another_attempt_runs", "http_503 failover"]);
        let told: Vec<&str> = record
            .events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::AttemptFailed { endpoint, .. } => Some(&**endpoint),
                _ => None,
            })
            .collect();
        assert_eq!(told, failures);
        assert_eq!((record.header("x-fairlead-endpoint"), answered(&record)), (Some("c"), (Some("c"), 3)));
    }

    let policy = with(json!({ "max_attempts": 2 }));
    let record = world(refuses(500), refuses(50)).policy(policy).run(chat());
    assert_eq!(record.failures(), ["http_503 another_attempt_runs", "http_503 attempts_spent"]);
    assert_eq!((&*record.code(), answered(&record)), ("upstream_overloaded", (Some("a"), 2)));
    let message = record.error().unwrap()["message"].to_string();
    assert!(message.contains("`a`") && !message.contains("`b`"), "{message}");
}

#[test]
fn whoever_is_asked_behind_a_failure_may_be_hedged_but_a_call_hedges_once() {
    let (slow, second) = (says_in(5000, "B.", 0), says_in(50, "C.", 0));
    let record = world(reset(), slow.clone()).always("c", second.clone()).run(chat());
    assert_eq!(races(&record), [("a", 0, None), ("b", 0, Some(150)), ("c", 100, None)]);
    assert_eq!((hedges(&record.events), record.body()), (vec![(3, "c".to_owned(), 100)], body_of(&second)));

    let record = world(slow.clone(), slow).always("c", second).run(chat());
    assert_eq!((record.asked(), hedges(&record.events).len(), record.ended_at), ("ab".to_owned(), 1, 5000));
}

#[test]
fn where_it_may_not_be_a_call_waits_as_ever() {
    let slow = || says_in(600, "A.", 0);
    let alone = |world: World, wanted: Wanted, why: &str| {
        let record = world.run(wanted);
        assert_eq!((record.asked(), hedges(&record.events)), ("a".to_owned(), vec![]), "{why}");
        record
    };
    let both = || world(slow(), well("B."));
    let policy = |fields| both().policy(with(fields));
    assert_eq!(alone(policy(json!({ "max_attempts": 1 })), chat(), "attempts are spent").ended_at, 600);
    alone(policy(json!({ "budget": { "capacity": 13 } })), chat(), "nothing to pay with");
    alone(policy(json!({ "hedge_ratio": 0.99 })), chat(), "no share yet");
    alone(both().policy(json!({})), chat(), "not by default");
    alone(both(), chat().within(299), "too late to be of use");
    alone(World::new().always("a", slow()).policy(hedged()), chat(), "nobody else");
    let models = World::new().target("a", Some("large")).target("a", Some("small")).always("a", slow());
    alone(models.policy(hedged()), chat(), "the same endpoint");
    let whole = [wait(600), answers(200, &[], answer("A."))].concat();
    alone(world(whole, well("B.")), chat_whole(), "an answer that does not stream");
    alone(policy(json!({ "hedge_after_ms": "p95" })), chat(), "nothing is known yet");

    let full = fleet();
    let _lease = full.borrow_mut().load(1).try_enter(START, START.after(60_000), None, None);
    alone(both().room("b", 1).fleet(&full), chat(), "it is full");
    assert_eq!(left(&full), [100, 100, 100], "nothing is paid for what is not sent");

    let shut = fleet();
    let breaker = || with(json!({ "breaker": { "consecutive": 1 } }));
    World::new().fleet(&shut).policy(breaker()).always("b", reset()).run(chat());
    let before = left(&shut);
    alone(both().policy(breaker()).fleet(&shut), chat(), "it is shut");
    assert_eq!(left(&shut), before);
}

#[test]
fn who_is_shut_or_full_is_passed_by_for_the_next() {
    let three = || world(says_in(3000, "A.", 0), well("B.")).always("c", says_in(50, "C.", 0));
    let full = fleet();
    let _lease = full.borrow_mut().load(1).try_enter(START, START.after(60_000), None, None);
    let record = three().room("b", 1).fleet(&full).run(chat());
    assert_eq!(races(&record), [("a", 0, Some(150)), ("c", 100, None)]);
    assert_eq!(left(&full), [86, 100, 100]);

    let shut = fleet();
    let breaker = || with(json!({ "breaker": { "consecutive": 1 } }));
    World::new().fleet(&shut).policy(breaker()).always("b", reset()).run(chat());
    let record = three().policy(breaker()).fleet(&shut).run(chat());
    assert_eq!((record.asked(), record.outcome()), ("ac".to_owned(), "ok"));
}

#[test]
fn who_was_shut_to_a_hedge_is_asked_once_it_is_open_again() {
    let shut = fleet();
    let breaker = || with(json!({ "breaker": { "consecutive": 1, "open_ms": 1000, "probe_ratio": 1 } }));
    World::new().fleet(&shut).policy(breaker()).always("b", reset()).run(chat());
    let slow = [wait(5000), reset()].concat();
    let record = world(slow, well("B.")).policy(breaker()).fleet(&shut).run(chat());
    assert_eq!(
        (record.outcome(), record.sent_at(), record.failures()),
        ("ok", vec![0, 5000], vec!["unreachable failover".to_owned()])
    );
    // And nothing is said of breakers when all were asked.
    let refuses = || answers(401, &[], "{}");
    let slow = [wait(5000), refuses()].concat();
    World::new().fleet(&shut).policy(breaker()).always("b", reset()).begins(60_000).run(chat());
    let record = world(slow, refuses()).policy(breaker()).fleet(&shut).begins(60_000).run(chat());
    assert_eq!(record.failures(), ["http_401 failover", "http_401 nobody_left"]);
}

#[test]
fn a_client_that_leaves_and_a_deadline_end_both() {
    let both = || world(says_in(3000, "A.", 0), says_in(3000, "B.", 0));
    for at in [101, 500, 2999] {
        let record = both().leaves(at).run(chat());
        assert_eq!(races(&record), [("a", 0, Some(at)), ("b", 100, Some(at))]);
        assert_eq!(record.outcome(), "client_gone");
    }
    for within in [300, 301, 2999] {
        let record = both().run(chat().within(within));
        assert_eq!(races(&record), [("a", 0, Some(within)), ("b", 100, Some(within))]);
        assert_eq!((&*record.code(), answered(&record).1), ("deadline_exceeded", 2));
    }
    // The host drops the call.
    let record = both().cancelled(500).run(chat());
    assert!(record.requests.iter().all(|sent| sent.over_at == Some(500)));
}

/// A chat whose job is queued for so long and then says a word every 100 ms.
fn job(queue_ms: u64) -> Runpod {
    Runpod::of(Work::chat("one two three four", 100).queued(queue_ms))
}

#[test]
fn a_job_that_loses_is_cancelled() {
    // It says its first word at 5120 or so.
    let second = says_in(50, "B.", 5000);
    let record = World::new().jobs(job(5000)).always("b", second.clone()).policy(hedged()).run(chat());
    assert_eq!((record.outcome(), answered(&record)), ("ok", (Some("b"), 2)));
    let job_of = record.runpod().job();
    assert_eq!((job_of.word, job_of.billed_ms()), ("CANCELLED", 0), "nobody has worked at it");
    assert!(job_of.ended.unwrap() <= 200, "{:?}", job_of.ended);
    assert_eq!(shown(&record).into_bytes(), body_of(&second));

    // As a hedge, whose worker has begun, and while it is being submitted.
    for (first_ms, latest) in [(300, 2000), (125, 1000)] {
        let first = says_in(first_ms, "A.", 3000);
        let long = Runpod::of(Work::chat("one two three four", 1000));
        let world = World::new().always("a", first.clone()).jobs(long).policy(hedged());
        let record = world.run(chat());
        let job_of = record.runpod().job();
        assert_eq!((record.outcome(), answered(&record), job_of.word), ("ok", (Some("a"), 2), "CANCELLED"));
        assert!(job_of.billed_until().unwrap_or_default() <= latest, "{:?}", job_of.billed_until());
    }
}

#[test]
fn a_job_wins_when_its_first_word_comes_first() {
    let record = World::new().always("a", says_in(3000, "A.", 0)).jobs(job(200)).policy(hedged()).run(chat());
    assert_eq!(answered(&record), (Some("d"), 2));
    assert_eq!(record.runpod().job().word, "COMPLETED");
    assert!(record.requests[0].aborted && record.requests[0].over_at.is_some_and(|at| at < 700));
    assert_eq!(shown(&record), record.runpod().job().text());
}

#[test]
fn jobs_are_hedged_from_their_submission_on() {
    let record = World::new().jobs(job(5000)).always("b", says_in(50, "B.", 0)).policy(hedged()).run(chat());
    assert_eq!(hedges(&record.events), [(2, "b".to_owned(), 100)]);
    assert_eq!(record.requests.iter().find(|sent| sent.endpoint == "b").unwrap().at, 100);
}

#[test]
fn a_hidden_page_hears_what_has_come_before_it_asks_somebody_else() {
    // Timers fire once a minute; the answer wakes nobody.
    let record = world(says_in(3000, "A.", 0), well("B.")).page().hidden().run(chat());
    assert_eq!((record.asked(), record.outcome()), ("a".to_owned(), "ok"));
    let record = world(says_in(250, "A.", 0), well("B.")).page().asleep(50..700_000).run(chat());
    assert_eq!((record.asked(), record.outcome()), ("a".to_owned(), "ok"));
    let record = world(vec![], well("B.")).page().asleep(50..700_000).run(chat());
    assert_eq!((record.asked(), record.outcome()), ("ab".to_owned(), "ok"));
    let at = record.requests[1].at;
    assert!((700_000..=700_100).contains(&at), "what was slept through is not held against it: {at}");
}

#[test]
fn of_all_calls_no_more_hedge_than_the_share() {
    for (ratio, most) in [(0.05, 100), (0.01, 20), (0.5, 1000)] {
        let policy = with(json!({ "hedge_ratio": ratio, "budget": { "capacity": 1_000_000 } }));
        let crowd = world(says_in(1000, "A.", 0), says_in(50, "B.", 0)).policy(policy).crowd(2000, 20, &chat());
        let told = hedges(&crowd.events);
        assert_eq!(told.len(), most, "at {ratio}");
        assert_eq!(crowd.requests.len(), 2000 + most);
        // Nor of those that have come by any moment.
        let began = crowd.events.iter().filter(|(_, event)| matches!(event, Event::AttemptStarted { attempt: 1, .. }));
        let began: Vec<u64> = began.map(|(at, _)| *at).collect();
        let told = crowd.events.iter().filter(|(_, event)| matches!(event, Event::HedgeStarted { .. }));
        for (hedged, (at, _)) in (1u32..).zip(told) {
            let calls = began.partition_point(|begins| begins <= at) as f64;
            assert!(f64::from(hedged) <= calls * ratio, "{hedged} of {calls}");
        }
    }
}

#[test]
fn each_entry_has_a_share_of_its_own_and_what_is_not_streamed_adds_nothing() {
    let fleet = fleet();
    let policy = with(json!({ "hedge_ratio": 0.5 }));
    let answers = || [wait(300), answers(200, &[], answer("A."))].concat();
    for _ in 0..10 {
        World::new()
            .always("a", answers())
            .always("b", well("B."))
            .policy(policy.clone())
            .fleet(&fleet)
            .run(chat_whole());
    }
    let stream = || world(says_in(3000, "A.", 0), well("B.")).policy(policy.clone()).fleet(&fleet).run(chat()).asked();
    assert_eq!([stream(), stream(), stream(), stream()], ["a", "ab", "a", "ab"]);
    assert!(!fleet.borrow_mut().hedges(1).has_one());
}

/// By the 95th percentile, with enough to pay from.
fn by_p95(ratio: f64) -> Value {
    json!({ "hedge_after_ms": "p95", "hedge_ratio": ratio, "budget": { "capacity": 1_000_000 } })
}

#[test]
fn the_95th_percentile_is_learned_from_twenty_calls_and_forgotten() {
    let fleet = fleet();
    let call = |ms, begins| {
        let world = world(says_in(ms, "A.", 0), says_in(50, "B.", 0)).policy(by_p95(1.0)).fleet(&fleet).begins(begins);
        let record = world.run(chat());
        hedges(&record.events).first().map(|(_, _, after_ms)| *after_ms)
    };
    for number in 0..19 {
        assert_eq!(call(200 + number, number * 1000), None);
    }
    assert_eq!(call(5000, 20_000), None, "too few yet");
    assert_eq!(call(5000, 30_000), Some(218), "of twenty the second");
    assert_eq!(call(200, 31_000), None);
    assert_eq!(call(5000, 500_000), None, "what was so long ago says nothing");
}

#[test]
fn jobs_that_are_slow_in_coming_are_measured_from_their_submission() {
    let fleet = fleet();
    for number in 0..20 {
        let world = World::new().jobs(job(1000)).policy(by_p95(1.0)).fleet(&fleet).begins(number * 10_000);
        assert_eq!(world.run(chat()).outcome(), "ok");
    }
    let mut fleet = fleet.borrow_mut();
    let at = START.after(200_000);
    let p95 = fleet.load(3).awaited_p95_ms(at).unwrap();
    assert!((1100..1600).contains(&p95), "{p95}");
    assert!(fleet.load(3).first_token_ms(at).unwrap() < 600, "the average goes by the worker's time");
}

/// So many calls to two endpoints that answer in `fast` milliseconds, drawn each time, or in 3 s, two in a hundred.
fn tail(seed: u64, calls: usize, fast: std::ops::RangeInclusive<u64>, policy: Value) -> Crowd {
    let mut rng = Rng::from_seed(seed);
    let mut scripts = |count: usize| -> Vec<Script> {
        let ms = |rng: &mut Rng| match rng.up_to(99) {
            0 | 1 => 3000,
            _ => fast.start() + rng.up_to(fast.end() - fast.start()),
        };
        (0..count).map(|_| says_in(ms(&mut rng), "Yes.", 100)).collect()
    };
    let world = World::new().endpoint("a", scripts(calls + 1000)).endpoint("b", scripts(calls)).policy(policy);
    world.seed(seed).crowd(calls as u64, 40, &chat())
}

/// The times to the first content, in ascending order.
fn first_contents(crowd: &Crowd) -> Vec<u64> {
    let mut times: Vec<u64> = crowd
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::CallEnded { first_content_ms, outcome, .. } => {
                assert_eq!(outcome, "ok");
                *first_content_ms
            }
            _ => None,
        })
        .collect();
    assert_eq!(times.len(), crowd.records.len());
    times.sort_unstable();
    times
}

/// Of all, so many in a hundred are not slower (the nearest rank).
fn percentile(times: &[u64], percent: usize) -> u64 {
    times[(times.len() * percent).div_ceil(100) - 1]
}

#[test]
fn a_slow_tail_is_cut_for_few_requests_more() {
    const CALLS: usize = 5000;
    for (seed, fast) in [(1, 50..=50), (2, 50..=50), (3, 30..=70), (4, 30..=70)] {
        let plain = first_contents(&tail(seed, CALLS, fast.clone(), json!({})));
        let crowd = tail(seed, CALLS, fast.clone(), json!({ "hedge_after_ms": "p95" }));
        let times = first_contents(&crowd);
        let more = crowd.requests.len() - CALLS;
        let [before, after] = [&plain, &times].map(|times| [50, 95, 99].map(|percent| percentile(times, percent)));
        println!("{fast:?} ms: p50, p95, p99 from {before:?} to {after:?} ms, with {more} requests more of {CALLS}");
        assert!(after[2] * 4 <= before[2], "p99 {} of {}", after[2], before[2]);
        assert!(more * 20 <= CALLS, "{more} more requests than {CALLS}");
    }
}

#[test]
fn the_95th_percentile_does_not_sink_where_the_slow_are_given_up() {
    // With a share of one nothing but the measure bounds the hedges.
    let crowd = tail(5, 5000, 50..=50, by_p95(1.0));
    let told = hedges(&crowd.events);
    assert!((60..=150).contains(&told.len()), "{} hedges", told.len());
    assert!(told.iter().all(|(_, _, after_ms)| *after_ms >= 50));
    // Nor where almost every hedge wins, and nobody ever hears how long the first would have taken.
    let mut rng = Rng::from_seed(6);
    let scripts: Vec<Script> = (0..5000).map(|_| says_in(50 + rng.up_to(2000), "A.", 0)).collect();
    let world = World::new().endpoint("a", scripts).always("b", says_in(50, "B.", 0)).policy(by_p95(1.0));
    let fleet = fleet();
    let crowd = world.fleet(&fleet).crowd(5000, 100, &chat());
    let told = hedges(&crowd.events);
    assert!((200..=350).contains(&told.len()), "{} hedges", told.len());
    // Of 128 samples the 95th percentile is known to 2 %.
    let late = &told[told.len() / 2..];
    assert!(late.iter().all(|(_, _, after_ms)| *after_ms >= 1600), "{late:?}");
    let at = START.after(crowd.records[4999].ended_at);
    assert!(fleet.borrow_mut().load(0).awaited_p95_ms(at).is_some());
    assert_eq!(fleet.borrow_mut().load(1).awaited_p95_ms(at), None, "of hedges only the fast would be known");
}

/// Two endpoints that do anything, and clients that come and go.
#[test]
fn whatever_happens_one_is_shown_and_nothing_is_left_behind() {
    for seed in 0..3000 {
        let mut rng = Rng::from_seed(seed);
        let mut answers = |text: &'static str| {
            let ms = rng.up_to(400);
            let first = [opened(), role(), wait(ms)].concat();
            let more = match rng.up_to(6) {
                0 => reset(),
                1 => [says(text), wait(50), reset()].concat(),
                2 => vec![],
                3 => [says(text), wait(300)].concat(),
                _ => [says(text), wait(100), says(text), finishes("stop"), done(), end()].concat(),
            };
            let refused = [wait(ms), crate::script::answers(503, &[], "{}")].concat();
            if rng.up_to(9) == 0 { refused } else { [first, more].concat() }
        };
        let world = world(answers("A"), answers("B")).always("c", answers("C"));
        let policy = with(json!({
            "first_token_ms": 100 + rng.up_to(800), "idle_ms": 500, "hedge_after_ms": 1 + rng.up_to(300),
            "deadline_ms": 500 + rng.up_to(3000), "backoff": { "base_ms": rng.up_to(100) },
        }));
        let leaves = rng.up_to(3) == 0;
        let at = rng.up_to(1500);
        let fleet = fleet();
        let world = world.policy(policy).seed(seed).fleet(&fleet);
        let record = if leaves { world.leaves(at).run(chat()) } else { world.run(chat()) };
        assert!(hedges(&record.events).len() <= 1, "{seed}");
        let shown = ["\"A\"", "\"B\"", "\"C\""].iter().filter(|text| record.text().contains(**text)).count();
        assert!(shown <= 1, "{seed}: {}", record.text());
        for number in 1..record.requests.len() {
            let at = record.requests[number].at;
            let in_flight =
                record.requests.iter().filter(|sent| sent.at <= at && sent.over_at.is_none_or(|over| over > at));
            assert!(in_flight.count() <= 2, "{seed}");
        }
        let at = START.after(record.settled_at);
        assert!((0..3).all(|endpoint| fleet.borrow_mut().load(endpoint).in_flight(at) == 0), "{seed}");
    }
}
