//! Small fleets: that the simulator of `examples/fleet` tells the truth, and the claims of `docs/fleet.md` in forms that
//! few seeds cannot miss.

#[allow(dead_code, reason = "the example uses all of it")]
#[path = "../../examples/fleet/sim/mod.rs"]
mod sim;

use serde_json::json;
use sim::{
    counts::Counts,
    endpoint::{Curve, Mode, Nature},
    kv::Dials,
    measure::Figures,
    run::{run, run_with},
    scenario::{
        Contestant::{self, Fairlead, Local, None as NoBreaker, Oracle, Plain},
        Scenario,
    },
};

const SEEDS: [u64; 2] = [1, 2];

/// A hundred isolates and forty requests a second: one minute of health, four of outage, two and a half of health.
fn outage(mode: Mode) -> Scenario {
    Scenario {
        name: "a small outage".to_owned(),
        seconds: 450,
        isolates: 100,
        rate: 40,
        a: Nature::Scheduled(vec![(60_000, mode), (300_000, Mode::Well)]),
        ..Scenario::default()
    }
}

fn figures(scenario: &Scenario, contestant: Contestant, seed: u64) -> Figures {
    Figures::new(scenario, &run(scenario, contestant, seed))
}

/// One endpoint alone that the load of this many isolates brings to its knees for half a minute.
fn metastable(contestant: Contestant, isolates: usize) -> Counts {
    let scenario = Scenario {
        name: "metastable".to_owned(),
        seconds: 180,
        isolates,
        life_ms: 10_000_000_000,
        rate: 100,
        surge: Some((30_000..60_000, 3)),
        a: Nature::Congested(Curve { slots: 100, slows_at: 200, slowest: 3, longest: 1500, loses: None }),
        has_b: false,
        policy: json!({ "deadline_ms": 10_000, "headers_ms": 3000, "first_token_ms": 3000 }),
    };
    run(&scenario, contestant, 1)
}

#[test]
fn a_seed_replays_a_whole_fleet_and_another_does_not() {
    let scenario = Scenario { seconds: 90, ..outage(Mode::Refusing) };
    let told = |seed| format!("{:?}", run(&scenario, Fairlead, seed));
    assert_eq!(told(1), told(1));
    assert_ne!(told(1), told(2));
}

#[test]
fn contestants_get_the_same_requests_and_without_a_breaker_each_is_wasted_once() {
    let scenario = outage(Mode::Refusing);
    let [none, oracle] = [NoBreaker, Oracle].map(|contestant| run(&scenario, contestant, 1));
    let calls = |counts: &Counts| counts.seconds.iter().map(|second| second.calls).collect::<Vec<_>>();
    assert_eq!(calls(&none), calls(&oracle));
    let during: u32 = calls(&none)[60..300].iter().sum();
    assert_eq!((none.wasted, oracle.wasted), (during.into(), 0));
    assert_eq!((none.failed(), oracle.failed()), (0, 0), "the second endpoint serves everybody");
}

#[test]
fn plain_retries_keep_an_endpoint_down_that_a_surge_has_brought_down() {
    let plain = metastable(Plain, 1);
    assert!((0..25).all(|second| plain.goodput(second) > 0.99), "well at first");
    assert!((120..170).all(|second| plain.goodput(second) < 0.05), "and a minute behind the surge still down");
}
