//! A platform that does not let a request out, or keeps its answer: a device without a network, a browser whose page
//! may not see what another origin says.

use crate::{script::*, wanted::*, world::World};
use fairlead_core::message::Barrier::{Cors, Offline};
use serde_json::json;
use std::rc::Rc;

#[test]
fn a_device_without_a_network_asks_nobody_else_and_nobody_again() {
    for wanted in [chat(), chat_whole(), messages()] {
        let world = World::new().endpoint("a", [[wait(3000), barred(Offline)].concat()]).endpoint("b", []);
        let record = world.run(wanted);
        assert_eq!((record.status(), &*record.code(), &*record.param()), (502, "upstream_unreachable", "offline"));
        assert_eq!((&*record.asked(), record.ended_at, record.outcome()), ("a", 3000, "upstream_unreachable"));
        assert_eq!(record.failures(), ["offline nobody_left"]);
        assert!(record.error().unwrap()["message"].as_str().unwrap().starts_with("This device is offline"));
    }
}

#[test]
fn an_answer_that_is_kept_from_the_page_is_like_a_refused_key() {
    let record = World::new().endpoint("a", [barred(Cors)]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!((&*record.asked(), record.body()), ("ab", body_of(&well("From b."))));
    let record = World::new().endpoint("a", [barred(Cors)]).run(chat());
    assert_eq!((record.status(), &*record.code(), &*record.param()), (502, "upstream_unreachable", "cors"));
    assert_eq!((&*record.asked(), record.failures()), ("a", vec!["cors nobody_left".to_owned()]));
    let message = record.error().unwrap()["message"].to_string();
    for cure in ["`--allowed-origins`", "`cors.origins`", "401", "502"] {
        assert!(message.contains(cure), "{message}");
    }
}

#[test]
fn neither_is_an_endpoints_fault_nor_paid_for() {
    for barrier in [Offline, Cors] {
        let fleet = Rc::default();
        let policy = json!({ "breaker": { "consecutive": 1, "min_calls": 1 } });
        let world = |script| World::new().fleet(&fleet).policy(policy.clone()).always("a", script);
        for _ in 0..20 {
            assert_eq!(world(barred(barrier)).run(chat()).param(), barrier.as_str());
        }
        let record = world(well("Yes.")).run(chat());
        assert_eq!(record.outcome(), "ok");
        let capacity = record.policy.budget.capacity;
        assert_eq!(fleet.borrow_mut().budget(0).left(&record.policy.budget), capacity);
    }
}

#[test]
fn a_network_that_goes_away_in_the_middle_interrupts_the_stream_and_says_why() {
    let script = [opened(), says("Half"), barred(Offline)].concat();
    let record = World::new().endpoint("a", [script]).endpoint("b", []).piece_by_piece().run(chat());
    assert_eq!((record.status(), &*record.code(), &*record.param()), (200, "stream_interrupted", "offline"));
    let whole = [opened(), says("All."), finishes("stop"), barred(Offline)].concat();
    assert_eq!(World::new().endpoint("a", [whole]).piece_by_piece().run(chat()).outcome(), "ok");
    let refused = [head(400, &[]), raw("{\"err"), barred(Offline)].concat();
    assert_eq!(World::new().endpoint("a", [refused]).run(chat()).code(), "invalid_request");
}
