//! Whom a call asks first, and what happens where endpoints have enough to do: whole calls in
//! virtual time.

use crate::{
    host::State,
    record::Record,
    runpod::{Runpod, Work},
    script::*,
    wanted::*,
    world::{Crowd, Member, START, World},
};
use fairlead_core::{
    breaker::{Breaker, Record as News, Rules, Standing},
    event::Event,
    fleet::{Fleet, Which},
    policy::BreakerPolicy,
    rng::Rng,
};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

/// A whole answer whose first content comes after so long, and its end so much later.
fn answer_in(first_ms: u64, rest_ms: u64) -> Script {
    [opened(), role(), wait(first_ms), says("Yes."), wait(rest_ms), finishes("stop"), done(), end()].concat()
}

/// An answer that takes so long.
fn busy(ms: u64) -> Script {
    answer_in(0, ms)
}

/// How often each endpoint was asked first by these calls, in the order of their names.
fn firsts<'a>(calls: impl IntoIterator<Item = &'a Record>) -> Vec<usize> {
    let mut counts = BTreeMap::from([("a", 0), ("b", 0), ("c", 0)]);
    for record in calls {
        *counts.get_mut(&*record.requests[0].endpoint).unwrap() += 1;
    }
    counts.into_values().collect()
}

/// The same for a crowd.
fn firsts_of(crowd: &Crowd) -> Vec<usize> {
    let first = |member| crowd.requests_of(member).next().map(|sent| sent.endpoint.as_str());
    let firsts: Vec<&str> = (0..crowd.records.len()).filter_map(first).collect();
    ["a", "b", "c"].map(|name| firsts.iter().filter(|first| **first == name).count()).into()
}

fn assert_shares(counts: &[usize], percent: &[usize]) {
    let all: usize = counts.iter().sum();
    let far = |(count, percent): (&usize, &usize)| count.abs_diff(percent * all / 100) > all * 3 / 100;
    assert!(!counts.iter().zip(percent).any(far), "{counts:?}, not {percent:?} %");
}

/// When a member was first asked for, if it was.
fn began(crowd: &Crowd, member: usize) -> Option<u64> {
    crowd.requests_of(member).next().map(|sent| sent.at)
}

/// The code of a member's error and when it was told.
fn refusal(crowd: &Crowd, member: usize) -> (String, u64) {
    (crowd.records[member].code(), crowd.records[member].ended_at)
}

fn is_served(record: &Record) -> bool {
    record.error().is_none() && record.reads().last().is_some_and(|(_, data)| data == "[DONE]")
}

fn weighted(scripts: [(&str, u32, Script); 3], seed: u64) -> Record {
    let add = |world: World, (name, weight, script)| World::always(world, name, script).weight(weight);
    scripts.into_iter().fold(World::new().strategy("weighted"), add).seed(seed).run(chat())
}

#[test]
fn calls_are_shared_by_weight() {
    let well = || well("Yes.");
    let records: Vec<Record> =
        (0..4000).map(|seed| weighted([("a", 1, well()), ("b", 6, well()), ("c", 3, well())], seed)).collect();
    assert_shares(&firsts(&records), &[10, 60, 30]);
    assert!(records.iter().all(|record| record.asked().len() == 1));
}

#[test]
fn what_a_failed_target_leaves_is_shared_by_weight() {
    let well = || well("Yes.");
    let records: Vec<Record> =
        (0..3000).map(|seed| weighted([("a", 6, reset()), ("b", 3, well()), ("c", 1, well())], seed)).collect();
    let mut second = [0, 0];
    for record in &records {
        assert_eq!((record.outcome(), record.ended_at), ("ok", 0));
        match &*record.asked() {
            "ab" => second[0] += 1,
            "ac" => second[1] += 1,
            other => assert!(other == "b" || other == "c", "{other}"),
        }
    }
    assert_shares(&firsts(&records), &[60, 30, 10]);
    assert_shares(&second, &[75, 25]);
}

#[test]
fn a_target_of_weight_0_is_asked_when_all_others_have_failed() {
    for seed in 0..200 {
        let all_well = weighted([("a", 0, well("A.")), ("b", 1, well("B.")), ("c", 5, well("C."))], seed);
        assert_ne!(all_well.asked(), "a");
        let record = weighted([("a", 0, well("A.")), ("b", 1, reset()), ("c", 5, reset())], seed);
        assert!(["bca", "cba"].contains(&&*record.asked()), "{}", record.asked());
        assert_eq!(record.outcome(), "ok");
    }
}

#[test]
fn a_weighted_target_that_is_full_leaves_its_calls_to_the_others() {
    let world = World::new().strategy("weighted").always("a", busy(1000)).weight(1_000_000).always("b", busy(1000));
    let crowd = world.weight(1).room("a", 4).crowd(20, 1, &chat());
    assert_eq!(firsts_of(&crowd), [4, 16, 0]);
    assert!(crowd.requests.iter().all(|sent| sent.at < 20), "nobody waits");
}

fn least_loaded() -> World {
    World::new().strategy("least_loaded")
}

#[test]
fn the_least_loaded_has_the_fewest_calls_in_flight() {
    for seed in 0..20 {
        let world = least_loaded().always("a", busy(900)).always("b", busy(900)).always("c", busy(900));
        assert_eq!(firsts_of(&world.seed(seed).crowd(30, 0, &chat())), [10, 10, 10]);
    }
}

#[test]
fn of_two_the_faster_one_gets_more_in_proportion() {
    for seed in 0..5 {
        let world = least_loaded().always("a", answer_in(100, 900)).always("b", answer_in(400, 600));
        let crowd = world.seed(seed).crowd(2000, 50, &chat());
        assert_shares(&firsts_of(&crowd), &[80, 20, 0]);
        assert!(crowd.records.iter().all(is_served));
    }
}

#[test]
fn an_endpoint_that_nobody_knows_is_tried_and_a_slow_one_again_a_minute_later() {
    for seed in 0..20 {
        let world = least_loaded().always("a", answer_in(100, 0)).always("b", answer_in(900, 0)).seed(seed * 1000);
        let crowd = world.crowd(150, 2000, &chat());
        let slow: Vec<u64> = crowd.requests.iter().filter(|sent| sent.endpoint == "b").map(|sent| sent.at).collect();
        // At first neither is known.
        let later: Vec<u64> = slow.iter().copied().filter(|at| *at > 30_000).collect();
        assert!(later.len() < slow.len() && (3..=4).contains(&later.len()), "in 300 s: {slow:?}");
        assert!(later.windows(2).all(|pair| pair[1] - pair[0] >= 60_000), "{slow:?}");
    }
}

#[test]
fn an_endpoint_that_refuses_at_once_does_not_attract_all_calls() {
    let refuses = [answers(503, &[("retry-after", "60")], "{}"), answers(401, &[], "{}")];
    for (script, seed) in refuses.into_iter().zip(0..) {
        let world = least_loaded().always("a", script).always("b", busy(500)).seed(seed);
        let crowd = world.policy(json!({ "breaker": { "enabled": false } })).crowd(1000, 50, &chat());
        let [asked, ..] = firsts_of(&crowd)[..] else { panic!("three endpoints") };
        assert!((5..=50).contains(&asked), "{asked} of 1000 in 50 s");
        assert!(crowd.records.iter().all(is_served));
    }
}

#[test]
fn whoever_is_shut_is_skipped_under_every_strategy() {
    for strategy in ["failover", "weighted", "least_loaded"] {
        for seed in 0..20 {
            let fleet = Rc::new(RefCell::new(Fleet::default()));
            let breaker = json!({ "breaker": { "consecutive": 1 } });
            let world = || World::new().fleet(&fleet).seed(seed).policy(breaker.clone());
            let opened = world().always("a", reset()).run(chat());
            assert_eq!(opened.code(), "upstream_unreachable");
            let record = world().strategy(strategy).always("a", well("A.")).always("b", well("B.")).run(chat());
            assert_eq!((&*record.asked(), record.attempts()), ("b", 1), "{strategy}");
            let record = world().strategy(strategy).always("a", well("A.")).run(chat());
            assert_eq!((record.status(), &*record.code(), &*record.asked()), (503, "circuit_open", ""));
            assert!(record.header("retry-after").is_some_and(|after| (1..=15).contains(&after.parse().unwrap())));
            let Some((_, Event::CallEnded { endpoint, .. })) = record.events.last() else { panic!("no end") };
            assert_eq!(*endpoint, None, "nobody was asked");
        }
    }
}

#[test]
fn where_one_is_shut_and_the_other_full_the_full_one_is_waited_for() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let breaker = json!({ "breaker": { "consecutive": 1 } });
    World::new().fleet(&fleet).policy(breaker.clone()).always("a", reset()).run(chat());
    let world = World::new().fleet(&fleet).policy(breaker).always("a", well("A.")).always("b", busy(700)).room("b", 1);
    let crowd = world.crowd(2, 0, &chat());
    assert_eq!(firsts_of(&crowd), [0, 2, 0]);
    assert!(began(&crowd, 1).is_some_and(|at| (700..=720).contains(&at)));
}

#[test]
fn no_more_calls_are_in_flight_than_max_concurrency_allows() {
    for (seed, apart) in [(1, 0), (2, 3), (3, 40), (4, 95)] {
        let world = World::new().always("a", busy(300)).room("a", 3).always("b", busy(170)).room("b", 2);
        let crowd = world.seed(seed).crowd(120, apart, &chat());
        assert_eq!((crowd.most_at("a"), crowd.most_at("b")), (3, if apart == 95 { 1 } else { 2 }), "{apart}");
        for record in &crowd.records {
            assert!(is_served(record) || record.code() == "upstream_overloaded", "{}", record.text());
        }
    }
}

#[test]
fn repeats_wait_for_a_place_as_well() {
    for seed in 0..30 {
        let scripts = (0..200).map(|number| match number % 3 {
            0 => [wait(40), reset()].concat(),
            1 => busy(220),
            _ => [wait(15), answers(503, &[], "{}")].concat(),
        });
        let policy = json!({ "breaker": { "enabled": false }, "budget": { "capacity": 100_000 }, "max_attempts": 4 });
        let world = World::new().endpoint("a", scripts).room("a", 2).policy(policy).seed(seed * 100);
        let crowd = world.crowd(40, 60, &chat());
        assert_eq!(crowd.most_at("a"), 2, "{seed}");
        let again = (0..40).filter(|member| crowd.requests_of(*member).count() > 1).count();
        assert!(again >= 5, "{seed}: {again} were asked for again");
    }
}

#[test]
fn a_repeat_whose_place_was_taken_gets_the_next() {
    let scripts = [[wait(10), reset()].concat(), busy(1000), well("Yes.")];
    let policy = json!({ "backoff": { "base_ms": 600 } });
    let late = |seed: &u64| {
        let world = World::new().endpoint("a", scripts.clone()).room("a", 1).policy(policy.clone()).seed(*seed);
        let crowd = world.mixed_crowd([Member::at(0, &chat()), Member::at(15, &chat())]);
        assert_eq!(crowd.most_at("a"), 1);
        assert!(crowd.records.iter().all(is_served));
        let again: Vec<u64> = crowd.requests_of(0).map(|sent| sent.at).collect();
        again[1] > 1000
    };
    assert!((0..20).filter(late).count() >= 15, "a backoff of less than 5 ms is rare");
}

#[test]
fn a_full_target_is_passed_by_when_another_has_room() {
    let world = World::new().always("a", busy(1000)).room("a", 1).always("b", busy(1000));
    let crowd = world.crowd(3, 10, &chat());
    assert_eq!(
        crowd.requests.iter().map(|sent| (&*sent.endpoint, sent.at)).collect::<Vec<_>>(),
        [("a", 0), ("b", 10), ("b", 20)]
    );
    assert_eq!(crowd.records[1].header("x-fairlead-endpoint"), Some("b"));
    assert_eq!(crowd.records[1].header("x-fairlead-attempts"), Some("1"), "passing by is no attempt");
}

#[test]
fn who_waits_for_several_gets_in_where_a_place_is_free_first() {
    let world = World::new().always("a", busy(900)).room("a", 1).always("b", busy(400)).room("b", 1);
    let crowd = world.crowd(3, 0, &chat());
    let last = crowd.requests_of(2).next().unwrap();
    assert_eq!(last.endpoint, "b");
    assert!((400..=420).contains(&last.at), "{}", last.at);
}

#[test]
fn two_models_of_one_endpoint_share_its_places() {
    let world = World::new().target("a", Some("large")).target("a", Some("small")).always("a", busy(500)).room("a", 1);
    let crowd = world.crowd(3, 0, &chat());
    assert_eq!(crowd.most_at("a"), 1);
    assert!(began(&crowd, 1).is_some_and(|at| (500..=520).contains(&at)));
    let message = crowd.records[2].error().unwrap()["message"].to_string();
    assert!(message.contains("(1)") && message.contains("max_concurrency"), "{message}");
}

#[test]
fn first_come_first_served() {
    for seed in 0..50_u64 {
        let scripts: Vec<Script> = (0..60).map(|number| busy(100 + (seed * 37 + number * 131) % 400)).collect();
        let crowd = World::new().endpoint("a", scripts).room("a", 3).seed(seed).crowd(60, 70, &chat());
        let begun: Vec<u64> = (0..60).filter_map(|member| began(&crowd, member)).collect();
        assert!(begun.len() > 30 && crowd.requests.iter().any(|sent| sent.at % 70 != 0), "some wait: {begun:?}");
        // Places that become free within one poll are taken in any order.
        assert!(begun.is_sorted_by(|one, next| *one <= next + 20), "{begun:?}");
    }
    // With one place at a time nobody overtakes.
    let crowd = World::new().always("a", busy(90)).room("a", 1).crowd(100, 50, &chat());
    let members: Vec<usize> = crowd.requests.iter().filter_map(|sent| sent.member()).collect();
    assert!(members.is_sorted() && members.len() > 40, "{members:?}");
}

#[test]
fn as_many_wait_as_may_be_in_flight_and_others_are_told_at_once() {
    let crowd = World::new().always("a", busy(1000)).room("a", 2).crowd(10, 0, &chat());
    assert!(crowd.records[..4].iter().all(is_served));
    assert_eq!([0, 1].map(|member| began(&crowd, member)), [Some(0), Some(0)]);
    assert!([2, 3].iter().all(|member| began(&crowd, *member).is_some_and(|at| (1000..=1020).contains(&at))));
    for record in &crowd.records[4..] {
        assert_eq!((record.status(), &*record.code(), record.ended_at), (503, "upstream_overloaded", 0));
        assert_eq!(record.header("retry-after"), Some("1"));
        assert_eq!(record.header("x-should-retry"), Some("false"));
        assert_eq!((record.header("x-fairlead-attempts"), record.header("x-fairlead-endpoint")), (Some("0"), None));
    }
}

#[test]
fn a_wait_ends_after_five_seconds_or_half_of_the_deadline() {
    let world = || World::new().always("a", busy(20_000)).room("a", 1);
    for (wanted, waits) in [(chat(), 5000), (chat_whole(), 5000), (chat().within(4000), 2000), (chat().within(9), 4)] {
        let crowd = world().mixed_crowd([Member::at(0, &chat()), Member::at(100, &wanted)]);
        assert_eq!(refusal(&crowd, 1), ("upstream_overloaded".to_owned(), 100 + waits));
        assert_eq!((crowd.records[1].status(), crowd.records[1].header("retry-after")), (503, Some("1")));
    }
    // What the upload has taken is gone.
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let _lease = fleet.borrow_mut().load(0).try_enter(START, START.after(60_000), None, None);
    let record = world().fleet(&fleet).uploads(2000).run(chat().within(4000));
    assert_eq!((&*record.code(), record.ended_at), ("upstream_overloaded", 3000));
}

#[test]
fn of_one_callers_own_calls_all_wait_and_until_their_deadlines() {
    let fleet = || Rc::new(RefCell::new(Fleet::default().patient()));
    let world = || World::new().always("a", busy(1000)).room("a", 2);
    let crowd = world().fleet(&fleet()).crowd(40, 0, &chat());
    assert!(crowd.records.iter().all(is_served));
    assert_eq!(crowd.most_at("a"), 2);
    assert!(crowd.records.iter().any(|record| record.ended_at >= 20_000));
    let crowd = world().fleet(&fleet()).crowd(5, 0, &chat().within(1900));
    assert_eq!(refusal(&crowd, 4), ("deadline_exceeded".to_owned(), 1900), "the last one never had a place");
    assert_eq!(began(&crowd, 4), None);
}

#[test]
fn a_client_that_leaves_the_line_makes_room_in_it() {
    for leaves in [true, false] {
        let second = Member::at(10, &chat());
        let second = if leaves { second.leaves(200) } else { second };
        let world = World::new().always("a", busy(1000)).room("a", 1);
        let crowd = world.mixed_crowd([Member::at(0, &chat()), second, Member::at(201, &chat())]);
        assert_eq!(is_served_member(&crowd, 1), !leaves);
        assert_eq!(is_served_member(&crowd, 2), leaves);
        let waited = began(&crowd, if leaves { 2 } else { 1 });
        assert!(waited.is_some_and(|at| (1000..=1020).contains(&at)), "{waited:?}");
        assert_eq!(crowd.records[1].ended_at, if leaves { 200 } else { crowd.records[1].ended_at });
    }
}

fn is_served_member(crowd: &Crowd, member: usize) -> bool {
    crowd.records[member].head.is_some() && is_served(&crowd.records[member])
}

#[test]
fn who_is_cancelled_in_line_without_a_word_loses_its_place_soon() {
    let world = World::new().always("a", busy(1000)).room("a", 1);
    let members = [
        Member::at(0, &chat()),
        Member::at(10, &chat()).dropped(200),
        // It asked last at 190.
        Member::at(280, &chat()),
        Member::at(291, &chat()),
    ];
    let crowd = world.mixed_crowd(members);
    assert_eq!(refusal(&crowd, 2), ("upstream_overloaded".to_owned(), 280));
    assert!(began(&crowd, 3).is_some_and(|at| (1000..=1020).contains(&at)));
}

#[test]
fn who_is_cancelled_in_flight_without_a_word_holds_its_place_until_its_deadline() {
    let world = World::new().always("a", busy(1000)).room("a", 1).policy(json!({ "deadline_ms": 10_000 }));
    let members = [Member::at(0, &chat()).dropped(100), Member::at(4000, &chat()), Member::at(9500, &chat())];
    let crowd = world.mixed_crowd(members);
    assert_eq!(refusal(&crowd, 1), ("upstream_overloaded".to_owned(), 9000));
    assert!(began(&crowd, 2).is_some_and(|at| (10_000..=10_020).contains(&at)));
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let world = World::new().always("a", busy(60_000)).room("a", 1);
    let crowd = world.mixed_crowd([Member::at(0, &chat()).leaves(2000), Member::at(10, &chat()).leaves(9000)]);
    assert!(began(&crowd, 1).is_some_and(|at| (2000..=2020).contains(&at)));
    assert_eq!(crowd.most_at("a"), 1);
}

#[test]
fn a_stream_in_line_has_its_status_and_comments_in_time() {
    let policy = json!({ "commit_after_ms": 1000, "keepalive_ms": 500 });
    let world = |ms| World::new().always("a", busy(ms)).room("a", 1).policy(policy.clone());
    let served = &world(3200).crowd(2, 0, &chat()).records[1];
    assert_eq!((served.status(), served.head_at), (200, 1000));
    assert!(served.keepalives().iter().filter(|at| **at < 3200).count() >= 4, "{:?}", served.keepalives());
    assert!(is_served(served));
    let refused = &world(30_000).crowd(2, 0, &chat()).records[1];
    assert_eq!((refused.status(), refused.head_at), (200, 1000));
    assert_eq!(refused.code(), "upstream_overloaded");
    assert!(refused.ended_at == 5000 && !refused.text().contains("[DONE]"));
}

#[test]
fn before_all_entries_an_endpoint_is_shut_by_an_operators_word_alone() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let opened = News { state: Standing::Open, ..Breaker::default().snapshot() };
    let opened = News { open_until_ms: START.after(60_000).as_millis(), at_ms: START.as_millis(), ..opened };
    let rules = Rules { policy: &BreakerPolicy::default(), alone: false };
    let all = Which { endpoint: 0, entry: None };
    fleet.borrow_mut().gate(all).breaker.restore(START, rules, &opened, &mut Rng::from_seed(1));
    let call = |at| World::new().fleet(&fleet).begins(at).always("a", well("Yes.")).run(chat());
    assert!((0..5).all(|number| call(number * 20_000).outcome() == "ok"), "whoever has written that");
    let isolate = |isolated| fleet.borrow_mut().gate(all).breaker.command(START.after(100_000), isolated);
    assert!(isolate(true).is_some());
    assert_eq!(call(100_000).code(), "circuit_open");
    assert!(isolate(false).is_some());
    assert_eq!(call(100_000).outcome(), "ok");
    assert!(fleet.borrow_mut().gate(all).breaker.is_calm(START.after(120_000)), "it need not be read so often");
}

/// The calls that `d` has at a moment.
fn in_flight(fleet: &RefCell<Fleet>, now: u64) -> usize {
    fleet.borrow_mut().load(3).in_flight(START.after(now))
}

#[test]
fn a_clients_own_jobs_hold_a_place_while_they_are_submitted_only() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let body = json!({ "input": {} });
    let runpod = Runpod::of(Work::returns(json!(7), 3000));
    let world = || World::new().jobs(runpod.clone()).fleet(&fleet);
    let mut most = 0;
    let mut watch = |state: &State, _: &Record| most = most.max(in_flight(&fleet, state.now));
    let submitted = world().visit_watched(errand("run").with(&body), &mut watch).unwrap();
    assert_eq!((most, in_flight(&fleet, submitted.ended_at)), (1, 0));
    let answer: Value = serde_json::from_slice(&submitted.body()).unwrap();
    let (id, live) = (answer["id"].as_str().unwrap(), submitted.live());
    let mut most = 0;
    let mut watch = |state: &State, _: &Record| most = most.max(in_flight(&fleet, state.now));
    let follows = World::new().jobs(live).fleet(&fleet).begins(submitted.ended_at + 1);
    follows.visit_watched(errand(&format!("status-sync/{id}")), &mut watch).unwrap();
    assert_eq!(most, 0, "it gives the endpoint nothing to do");
}

#[test]
fn what_a_quota_refuses_holds_no_place() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let visit = || {
        let world = World::new().jobs(Runpod::of(Work::returns(json!(7), 3000))).fleet(&fleet);
        world.visit(errand("run").with(&json!({ "input": {} }))).unwrap()
    };
    let refused = (0..1000).map(|_| visit()).find(|record| record.code() == "rate_limited");
    assert!(refused.is_some_and(|record| record.requests.is_empty()));
    assert_eq!(in_flight(&fleet, 1000), 0);
}

#[test]
fn timers_that_are_early_change_nothing_about_a_wait() {
    let crowd = World::new().early_timers().always("a", busy(1000)).room("a", 1).crowd(3, 0, &chat());
    assert!(began(&crowd, 1).is_some_and(|at| (1000..=1020).contains(&at)));
    assert_eq!(refusal(&crowd, 2), ("upstream_overloaded".to_owned(), 0));
}
