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
        Contestant::{self, Fairlead, Local, None as Unbroken, Oracle, Plain},
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
        a: Nature::Congested(Curve { slots: 100, slows_at: 200, slowest: 3, longest: 1500 }),
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
    let [none, oracle] = [Unbroken, Oracle].map(|contestant| run(&scenario, contestant, 1));
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

#[test]
fn an_outage_costs_a_fleet_little_and_ends_for_all() {
    for (mode, of_none, open_s) in [(Mode::Refusing, 0.1, 60.0), (Mode::Silent { ms: 60_000 }, 0.45, 150.0)] {
        let scenario = Scenario { policy: json!({ "headers_ms": 90_000 }), ..outage(mode) };
        for seed in SEEDS {
            let [own, local, none] = [Fairlead, Local, Unbroken].map(|contestant| figures(&scenario, contestant, seed));
            assert!(own.wasted <= none.wasted * of_none, "{mode:?}, seed {seed}: {own:?}, {none:?}");
            assert!(own.wasted <= local.wasted, "{mode:?}, seed {seed}: {own:?}, {local:?}");
            assert!(own.open_s.is_some_and(|s| s <= open_s), "{mode:?}, seed {seed}: {own:?}");
            assert!(own.back_behind_s.is_some_and(|s| s <= 60.0), "{mode:?}, seed {seed}: {own:?}");
            assert!(own.shut_out_s <= 75.0, "{mode:?}, seed {seed}: {own:?}");
            assert!(own.failed == 0.0, "{mode:?}, seed {seed}: {own:?}");
        }
    }
}

#[test]
fn a_store_that_fails_or_forgets_leaves_a_local_breaker() {
    let scenario = outage(Mode::Refusing);
    let worst = [
        Dials { failing_ppm: 1_000_000, ..Dials::default() },
        Dials { lost_ppm: 1_000_000, ..Dials::default() },
        Dials { failing_ppm: 300_000, lost_ppm: 300_000, ..Dials::default() },
        Dials { read_ms: 120_000, write_ms: 120_000, ..Dials::default() },
    ];
    let local = figures(&scenario, Local, 1);
    for dials in worst {
        let own = Figures::new(&scenario, &run_with(&scenario, Fairlead, 1, dials));
        assert!(own.wasted <= local.wasted * 1.2, "{dials:?}: {own:?}, {local:?}");
        assert!(own.back_s.is_some_and(|s| s <= 120.0), "{dials:?}: {own:?}");
        assert!(own.failed == 0.0, "{dials:?}: {own:?}");
    }
}

#[test]
fn a_budget_and_a_breaker_bring_an_endpoint_back_that_a_surge_has_brought_down() {
    for isolates in [1, 100] {
        let counts = metastable(Fairlead, isolates);
        assert!(counts.well_for_good(60, 170, 0.95).is_some_and(|at| at <= 120), "{isolates} isolates");
    }
}
