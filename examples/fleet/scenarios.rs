//! The scenarios of `docs/fleet.md`.

use crate::sim::{
    endpoint::{Curve, Mode, Nature},
    scenario::Scenario,
};
use serde_json::json;

/// So long all is well at first,
const HEALTH_MS: u64 = 180_000;

/// then `a` is ill,
const OUTAGE_MS: u64 = 600_000;

/// and then well again.
const AFTER_MS: u64 = 240_000;

/// The trigger of the metastable scenario.
pub const TRIGGER_MS: std::ops::Range<u64> = 60_000..90_000;

/// The endpoint of the metastable scenario.
pub const CURVE: Curve = Curve { slots: 200, slows_at: 400, slowest: 3, longest: 3000 };

/// Ten minutes in which `a` is so, between two spells of health.
fn outage(name: &str, mode: Mode) -> Scenario {
    let modes = vec![(HEALTH_MS, mode), (HEALTH_MS + OUTAGE_MS, Mode::Well)];
    Scenario {
        name: name.to_owned(),
        seconds: (HEALTH_MS + OUTAGE_MS + AFTER_MS) / 1000,
        a: Nature::Scheduled(modes),
        ..Scenario::default()
    }
}

/// It refuses connections.
pub fn refuses() -> Scenario {
    outage("refuses connections", Mode::Refusing)
}

/// It keeps silent. The endpoint gives up, not the gateway.
pub fn silent() -> Scenario {
    Scenario {
        policy: json!({ "headers_ms": 90_000 }),
        ..outage("silent for 60 s before each failure", Mode::Silent { ms: 60_000 })
    }
}

/// Other fleets, with the first outage.
pub fn fleets() -> Vec<Scenario> {
    let minutes = |n: u64| n * 60_000;
    vec![
        Scenario { name: "isolates live 1 minute".to_owned(), life_ms: minutes(1), ..refuses() },
        Scenario { name: "isolates live 20 minutes".to_owned(), life_ms: minutes(20), ..refuses() },
        Scenario { name: "10,000 isolates".to_owned(), isolates: 10_000, ..refuses() },
    ]
}

/// Other ills.
pub fn ills() -> Vec<Scenario> {
    let slow = Scenario {
        policy: json!({ "breaker": { "slow_first_token_ms": 1000 } }),
        ..outage("20 times as slow, `slow_first_token_ms` 1000", Mode::Slow { factor: 20 })
    };
    let brown = outage("brown-out: 500 to 30 % of requests", Mode::Failing { ppm: 300_000 });
    vec![brown, slow, flaps("flaps every 30 s for 20 minutes", 20 * 60, AFTER_MS / 1000)]
}

/// A whole day of flapping.
pub fn day() -> Scenario {
    flaps("flaps every 30 s for a day", 86_400 - HEALTH_MS / 1000, 0)
}

/// `a` refuses connections for 30 s of every minute.
fn flaps(name: &str, seconds: u64, after: u64) -> Scenario {
    let flap = |flap: u64| {
        let at = HEALTH_MS + flap * 60_000;
        [(at, Mode::Refusing), (at + 30_000, Mode::Well)]
    };
    Scenario {
        name: name.to_owned(),
        seconds: HEALTH_MS / 1000 + seconds + after,
        a: Nature::Scheduled((0..seconds / 60).flat_map(flap).collect()),
        ..Scenario::default()
    }
}

/// One endpoint alone, which the load can bring to its knees.
pub fn metastable(isolates: usize) -> Scenario {
    Scenario {
        name: if isolates == 1 { "one isolate".to_owned() } else { format!("{isolates} isolates") },
        seconds: TRIGGER_MS.end / 1000 + 300,
        isolates,
        // One isolate is to learn by itself, without being replaced.
        life_ms: if isolates == 1 { u64::MAX / 1_000_000 } else { 300_000 },
        rate: 200,
        surge: Some((TRIGGER_MS, 3)),
        a: Nature::Congested(CURVE),
        has_b: false,
        policy: json!({ "deadline_ms": 10_000, "headers_ms": 3000, "first_token_ms": 3000 }),
    }
}
