//! Retries are paid for: what an outage does to the calls that share an isolate.

use crate::{record::Record, script::*, wanted::*, world::World};
use fairlead_core::fleet::Fleet;
use serde_json::{Value, json};
use std::{cell::RefCell, rc::Rc};

/// The calls of one isolate, under one policy and without a breaker.
struct Isolate {
    fleet: Rc<RefCell<Fleet>>,
    policy: Value,
}

impl Isolate {
    fn new(mut policy: Value) -> Self {
        policy["breaker"] = json!({ "enabled": false });
        Self { fleet: Rc::default(), policy }
    }

    fn world(&self) -> World {
        World::new().policy(self.policy.clone()).fleet(&self.fleet)
    }

    /// A call to the endpoint `a` alone, which always does this.
    fn call(&self, script: Script) -> Record {
        self.world().always("a", script).run(chat())
    }

    /// The attempts of so many calls in a row.
    fn attempts(&self, calls: usize, script: &Script) -> Vec<usize> {
        (0..calls).map(|_| self.call(script.clone()).requests.len()).collect()
    }
}

#[test]
fn an_outage_drains_the_bucket_and_then_nobody_retries() {
    let isolate = Isolate::new(json!({}));
    assert_eq!(isolate.attempts(6, &reset()), [3, 3, 3, 2, 1, 1], "seven repeats of 14 tokens from 100");
    let record = isolate.call(reset());
    assert_eq!((record.status(), &*record.code()), (502, "upstream_unreachable"));
    assert_eq!((record.failures(), record.ended_at), (vec!["unreachable budget_spent".to_owned()], 0));
}

#[test]
fn pushback_costs_less() {
    let isolate = Isolate::new(json!({}));
    let full = answers(503, &[], "{}");
    assert_eq!(isolate.attempts(12, &full), [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 1, 1], "twenty repeats of 5 tokens");
}

#[test]
fn a_first_try_of_another_endpoint_is_free_however_empty_the_buckets_are() {
    let isolate = Isolate::new(json!({}));
    isolate.attempts(5, &reset());
    for _ in 0..50 {
        let record = isolate.world().always("a", reset()).endpoint("b", [well("From b.")]).run(chat());
        assert_eq!((&*record.asked(), record.outcome()), ("ab", "ok"));
    }
}

#[test]
fn successes_give_back_a_little_each() {
    let isolate = Isolate::new(json!({}));
    assert_eq!(isolate.attempts(5, &reset()), [3, 3, 3, 2, 1], "98 of 100 tokens are spent");
    for (successes, attempts) in [(11, 1), (1, 2), (13, 1), (1, 2)] {
        isolate.attempts(successes, &well("Yes."));
        assert_eq!(isolate.attempts(1, &reset()), [attempts]);
    }
    let passed_on = answers(400, &[], "{}");
    isolate.attempts(50, &passed_on);
    assert_eq!(isolate.attempts(1, &reset()), [1], "an endpoint's refusal is no success");
}

#[test]
fn what_is_not_tried_is_not_paid_for() {
    let isolate = Isolate::new(json!({ "deadline_ms": 5000 }));
    isolate.attempts(100, &answers(503, &[("retry-after", "9")], "{}"));
    isolate.attempts(100, &[wait(4900), reset()].concat());
    isolate.attempts(100, &answers(401, &[], "{}"));
    assert_eq!(isolate.attempts(5, &reset()), [3, 3, 3, 2, 1]);
}

#[test]
fn prices_and_capacity_are_the_policys() {
    let with = |budget: Value| Isolate::new(json!({ "budget": budget, "max_attempts": 4 }));
    assert_eq!(with(json!({ "capacity": 0 })).attempts(2, &reset()), [1, 1]);
    assert_eq!(with(json!({ "capacity": 10, "transient_cost": 5 })).attempts(3, &reset()), [3, 1, 1]);
    assert_eq!(with(json!({ "transient_cost": 0 })).attempts(40, &reset()), [4; 40]);
    let generous = with(json!({ "capacity": 5, "transient_cost": 5, "refund": 5 }));
    assert_eq!(generous.attempts(2, &reset()), [2, 1]);
    generous.call(well("Yes."));
    assert_eq!(generous.attempts(1, &reset()), [2]);
}

#[test]
fn each_endpoint_has_its_own_bucket() {
    let isolate = Isolate::new(json!({}));
    isolate.attempts(5, &reset());
    let record = isolate.world().endpoint("b", [reset(), well("From b.")]).run(chat());
    assert_eq!((&*record.asked(), record.outcome()), ("bb", "ok"));
}

#[test]
fn alone_it_keeps_two_hundred_calls_at_a_dead_endpoint_to_a_few_repeats() {
    for script in [reset(), answers(503, &[], "{}"), [opened(), reset()].concat()] {
        let attempts: usize = Isolate::new(json!({})).attempts(200, &script).iter().sum();
        assert!((200..=240).contains(&attempts), "{attempts}");
    }
}
