//! What the breaker does to whole calls, and they to it.

use crate::{
    record::Record,
    script::*,
    wanted::*,
    world::{Member, World},
};
use fairlead_core::{event::Event, fleet::Fleet};
use serde_json::{Value, json};
use std::{cell::RefCell, rc::Rc};

/// The calls of one isolate, one behind another.
struct Isolate {
    fleet: Rc<RefCell<Fleet>>,
    policy: Value,
    calls: u64,
}

impl Isolate {
    /// Calls ask each endpoint once, unless the policy says otherwise.
    fn new(mut policy: Value) -> Self {
        if policy["max_attempts"].is_null() {
            policy["max_attempts"] = 1.into();
        }
        Self { fleet: Rc::default(), policy, calls: 0 }
    }

    fn world(&mut self, at: u64) -> World {
        self.calls += 1;
        World::new().policy(self.policy.clone()).fleet(&self.fleet).seed(self.calls).begins(at)
    }

    /// A call to the endpoint `a` alone, which does this if it is asked.
    fn call(&mut self, at: u64, script: Script) -> Record {
        self.world(at).always("a", script).run(chat())
    }

    /// So many calls, and whether none of them opened the breaker.
    fn stays_closed(&mut self, count: usize, script: &Script) -> bool {
        (0..count).all(|_| opened_at(&self.call(0, script.clone())).is_none())
    }
}

/// For how long a call has opened a breaker, and why.
fn opened_at(record: &Record) -> Option<(Option<u64>, String)> {
    record.events.iter().find_map(|(_, event)| match event {
        Event::BreakerOpened { open_ms, reason, .. } => Some((*open_ms, reason.clone())),
        _ => None,
    })
}

fn refused(record: &Record) -> bool {
    record.code() == "circuit_open"
}

/// For ever.
const SILENCE: Script = Vec::new();

#[test]
fn alone_and_open_a_call_ends_at_once_with_a_time_to_come_back_and_without_a_request() {
    let mut isolate = Isolate::new(json!({}));
    for _ in 0..4 {
        assert_eq!(opened_at(&isolate.call(0, reset())), None);
    }
    let (open_ms, reason) = opened_at(&isolate.call(0, reset())).expect("the fifth failure opens it");
    assert_eq!(reason, "unreachable");
    let open_ms = open_ms.expect("a length");
    for (at, seconds) in [(0, open_ms.div_ceil(1000)), (open_ms - 1500, 2), (open_ms - 1, 1)] {
        for wanted in [chat(), chat_whole(), completions(), embeddings()] {
            let record = isolate.world(at).endpoint("a", []).run(wanted);
            assert_eq!((record.status(), &*record.code(), &*record.asked()), (503, "circuit_open", ""));
            assert_eq!(record.header("retry-after"), Some(&*seconds.to_string()), "at {at} of {open_ms}");
            assert_eq!(record.ended_at, at, "at once");
        }
    }
}

#[test]
fn what_an_endpoint_is_to_blame_for_opens_it_at_the_fifth_call() {
    for (name, script) in [
        ("a refused connection", reset()),
        ("a 500", answers(500, &[], "{}")),
        ("a 503 without a word", answers(503, &[], "{}")),
        ("a proxy's page", answers(502, &[("content-type", "text/html")], "<html>")),
        ("a redirect", answers(301, &[("location", "/")], "")),
        ("silence", SILENCE),
        ("a head and silence", opened()),
        ("a cut stream", [opened(), role(), says("Yes"), reset()].concat()),
        ("an early end", [opened(), role(), says("Yes"), end()].concat()),
        ("an engine that died", [opened(), engine_error(), done(), end()].concat()),
        ("keepalives only", [opened(), for_ever(1000, ": ping\n\n")].concat()),
        ("an abort", [opened(), role(), says("Yes"), finishes("abort"), done(), end()].concat()),
    ] {
        let mut isolate = Isolate::new(json!({}));
        let first: Vec<_> = (0..5).map(|_| opened_at(&isolate.call(0, script.clone())).is_some()).collect();
        assert_eq!(first, [false, false, false, false, true], "{name}");
    }
}

#[test]
fn what_is_not_the_endpoints_fault_opens_nothing() {
    for status in [400, 401, 403, 404, 408, 409, 413, 422, 429, 499] {
        assert!(Isolate::new(json!({})).stays_closed(20, &answers(status, &[], "{}")), "{status}");
    }
    for status in [429, 500, 503, 529] {
        for word in [("retry-after", "3600"), ("retry-after", "1"), ("retry-after-ms", "250")] {
            assert!(Isolate::new(json!({})).stays_closed(20, &answers(status, &[word], "{}")), "{status} {word:?}");
        }
    }
    let error = r#"{"error":{"message":"No.","type":"BadRequestError","code":400}}"#;
    assert!(Isolate::new(json!({})).stays_closed(20, &[opened(), event(error), done(), end()].concat()), "in band");
}

#[test]
fn who_leaves_or_has_little_time_opens_nothing() {
    let slow = || [opened(), wait(5000), role()].concat();
    for script in [SILENCE, opened(), slow(), [opened(), role(), says("Yes")].concat()] {
        let mut isolate = Isolate::new(json!({}));
        for _ in 0..20 {
            let worlds = [
                isolate.world(0).always("a", script.clone()).leaves(300).run(chat()),
                isolate.world(0).always("a", script.clone()).breaks(6000).run(chat()),
                isolate.world(0).always("a", script.clone()).cancelled(300).run(chat()),
                isolate.world(0).always("a", script.clone()).run(chat().within(2000)),
                isolate.world(0).always("a", SILENCE).run(chat_whole().within(2000)),
                // What is left of the policy's time when the request has come in.
                isolate.world(0).always("a", SILENCE).uploads(290_000).run(chat_whole()),
            ];
            assert!(worlds.iter().all(|record| opened_at(record).is_none() && !refused(record)));
        }
    }
}

#[test]
fn the_policys_own_deadline_is_the_endpoints_fault_where_it_had_all_of_it() {
    let mut isolate = Isolate::new(json!({ "deadline_ms": 5000 }));
    let records: Vec<Record> = (0..5).map(|_| isolate.world(0).always("a", SILENCE).run(chat_whole())).collect();
    assert_eq!(records.iter().filter_map(opened_at).map(|(_, why)| why).collect::<Vec<_>>(), ["deadline"]);
}

#[test]
fn a_call_counts_once_for_each_endpoint_however_often_it_repeats() {
    let mut isolate = Isolate::new(json!({ "max_attempts": 10 }));
    for call in 0..5 {
        let record = isolate.world(0).always("a", reset()).always("b", reset()).run(chat());
        let opened = record.events.iter().filter(|(_, event)| matches!(event, Event::BreakerOpened { .. })).count();
        assert_eq!(opened, if call < 4 { 0 } else { 2 }, "call {call}: {:?}", record.asked());
        assert!(record.asked().len() >= 2);
    }
    // At a single one as well.
    let mut isolate = Isolate::new(json!({ "max_attempts": 3 }));
    assert!(isolate.stays_closed(4, &reset()));
    assert!(!isolate.stays_closed(1, &reset()));
}

#[test]
fn an_open_target_is_passed_by_and_the_next_one_asked_at_once() {
    let mut isolate = Isolate::new(json!({ "max_attempts": 3 }));
    for call in 0..20 {
        let record = isolate.world(0).always("a", reset()).always("b", well("From b.")).run(chat());
        assert_eq!(&*record.asked(), if call < 5 { "ab" } else { "b" }, "call {call}");
        assert_eq!((record.outcome(), record.ended_at), ("ok", 0));
    }
}

#[test]
fn the_last_failure_is_the_answer_where_the_others_are_shut() {
    let mut isolate = Isolate::new(json!({ "max_attempts": 3 }));
    for _ in 0..5 {
        isolate.world(0).always("a", reset()).always("b", well("Yes.")).run(chat());
    }
    let record = isolate.world(0).endpoint("a", []).endpoint("b", [answers(401, &[], "{}")]).run(chat());
    assert_eq!(
        (&*record.code(), record.failures()),
        ("upstream_rejected_key", vec!["http_401 circuit_open".to_owned()])
    );
}

#[test]
fn one_client_whose_requests_all_fail_does_not_open_it_for_two_who_are_served() {
    let mut isolate = Isolate::new(json!({}));
    let mut turned_away = 0;
    for round in 0..200 {
        let at = round * 1000;
        for _ in 0..3 {
            let record = isolate.world(at).client(0).always("a", answers(500, &[], "{}")).run(chat());
            turned_away += u32::from(refused(&record));
            assert!(
                record.events.iter().all(|(_, event)| !matches!(event, Event::BreakerOpened { one_client: false, .. }))
            );
        }
        for client in [1, 2] {
            let record = isolate.world(at).client(client).always("a", well("Yes.")).run(chat());
            assert_eq!(record.outcome(), "ok", "client {client}, round {round}");
        }
    }
    assert!(turned_away > 300, "{turned_away}: its own are spared the endpoint");
}

#[test]
fn a_dead_endpoint_is_shut_for_all_by_the_second_clients_first_failure() {
    let mut isolate = Isolate::new(json!({}));
    for _ in 0..5 {
        isolate.world(0).client(0).always("a", reset()).run(chat());
    }
    let record = isolate.world(10).client(1).always("a", reset()).run(chat());
    assert!(matches!(
        record.events.iter().find(|(_, event)| matches!(event, Event::BreakerOpened { .. })),
        Some((_, Event::BreakerOpened { one_client: false, .. }))
    ));
    assert!(refused(&isolate.world(10).client(2).endpoint("a", []).run(chat())));
}

#[test]
fn slow_first_tokens_open_it_where_the_policy_says_so() {
    let slow = [opened(), wait(3000), role(), says("Yes"), finishes("stop"), done(), end()].concat();
    let mut isolate = Isolate::new(json!({ "breaker": { "slow_first_token_ms": 2000 } }));
    let openings: Vec<_> = (0..8).filter_map(|_| opened_at(&isolate.call(0, slow.clone()))).collect();
    let [(_, reason)] = &*openings else { panic!("{openings:?}") };
    assert_eq!(reason, "slow_first_token");
    assert!(Isolate::new(json!({})).stays_closed(50, &slow));
    let slow_later = [opened(), role(), says("Yes"), wait(9000), finishes("stop"), done(), end()].concat();
    assert!(Isolate::new(json!({ "breaker": { "slow_first_token_ms": 2000 } })).stays_closed(50, &slow_later));
}

/// Of calls that come every second, when the first one is served again.
fn served_again(policy: &Value, script: &Script, recovers: u64, until: u64) -> (u64, usize) {
    let mut isolate = Isolate::new(policy.clone());
    let mut wasted = 0;
    for at in (0..until).step_by(1000) {
        let script = if at < recovers { script.clone() } else { well("Yes.") };
        let record = isolate.call(at, script);
        wasted += record.requests.iter().filter(|_| at < recovers).count();
        if at >= recovers && record.outcome() == "ok" {
            return (at, wasted);
        }
    }
    panic!("never served again");
}

#[test]
fn alone_it_is_used_again_within_its_opening_and_ten_seconds_of_recovery() {
    for recovers in [20_000, 60_000, 77_000, 600_000] {
        let (at, wasted) = served_again(&json!({}), &reset(), recovers, recovers + 60_000);
        assert!(at <= recovers + 15_000 + 10_000, "back at {recovers}, used at {at}");
        assert!(wasted as u64 <= 5 + recovers / 11_000, "{wasted} requests in {recovers} ms");
    }
}

#[test]
fn half_open_lets_no_more_than_its_share_of_a_crowd_through() {
    let (mut probes, runs) = (0, 200);
    for seed in 0..runs {
        let mut isolate = Isolate::new(json!({}));
        let open_ms = (0..5).find_map(|_| opened_at(&isolate.call(0, reset()))).unwrap().0.unwrap();
        let slow = [opened(), wait(3000), role(), says("Yes"), finishes("stop"), done(), end()].concat();
        let world = isolate.world(0).seed(seed * 1000).always("a", slow);
        let crowd = world.mixed_crowd((0..100).map(|_| Member::at(open_ms, &chat())));
        assert!(crowd.requests.len() <= 1, "one at a time");
        probes += crowd.requests.len();
        let refused = crowd.records.iter().filter(|record| record.code() == "circuit_open").count();
        assert_eq!(refused + crowd.requests.len(), 100);
    }
    // One of a hundred, in 63.4 % of all crowds.
    assert!((105..150).contains(&probes), "{probes} of {runs} crowds");
}

#[test]
fn a_probe_is_alone_until_it_begins_to_be_answered_or_has_ended() {
    let late = [opened(), wait(5000), role(), says("Yes"), wait(3000), finishes("stop"), done(), end()].concat();
    let mut isolate = Isolate::new(json!({ "breaker": { "probe_ratio": 1 } }));
    let open_ms = (0..5).find_map(|_| opened_at(&isolate.call(0, reset()))).unwrap().0.unwrap();
    let members = (0..100).map(|number| Member::at(open_ms + number * 100, &chat()));
    let crowd = isolate.world(0).always("a", late).mixed_crowd(members);
    let sent: Vec<u64> = crowd.requests.iter().map(|sent| sent.at - open_ms).collect();
    assert_eq!(sent[..4], [0, 5000, 8000, 8100], "{sent:?}");
}
