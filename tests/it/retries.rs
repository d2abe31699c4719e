//! How often, when and whom a call asks again.

use crate::{script::*, wanted::*, world::World};
use serde_json::{Value, json};

/// The waits before the first and the second repeat, for many seeds.
fn waits(policy: &Value, fault: &Script) -> Vec<[u64; 2]> {
    let gaps = |seed| {
        let record = World::new().policy(policy.clone()).seed(seed).always("a", fault.clone()).run(chat());
        let at = record.sent_at();
        [at[1] - at[0], at[2] - at[1]]
    };
    (0..500).map(gaps).collect()
}

/// Every wait is within its bound, and they fill it.
fn fill(waits: &[[u64; 2]], bounds: [u64; 2]) {
    for (repeat, bound) in bounds.into_iter().enumerate() {
        let waits = || waits.iter().map(|waits| waits[repeat]);
        assert!(waits().all(|wait| wait <= bound), "{:?} over {bound}", waits().max());
        assert!(waits().any(|wait| wait <= bound / 20) && waits().any(|wait| wait >= bound - bound / 20));
        let mean = waits().sum::<u64>() / 500;
        assert!(mean.abs_diff(bound / 2) <= bound / 10, "a mean of {mean} of {bound}");
    }
}

#[test]
fn waits_are_full_jitter_under_a_bound_that_doubles() {
    let full = answers(503, &[], "{}");
    fill(&waits(&json!({}), &reset()), [200, 400]);
    fill(&waits(&json!({}), &full), [1000, 2000]);
    let capped = json!({ "backoff": { "base_ms": 6000, "throttled_base_ms": 12_000, "max_ms": 9000 } });
    fill(&waits(&capped, &reset()), [6000, 9000]);
    fill(&waits(&capped, &full), [9000, 9000]);
}

#[test]
fn a_seed_replays_the_call() {
    let run = |seed| World::new().seed(seed).always("a", reset()).run(chat()).sent_at();
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn attempts_are_counted_over_all_targets_the_first_included() {
    let dead = || answers(502, &[], "bad gateway");
    for most in 1..=6 {
        let policy = json!({ "max_attempts": most, "backoff": { "base_ms": 0 } });
        let alone = World::new().policy(policy.clone()).always("a", dead()).run(chat());
        assert_eq!(alone.asked(), "aaaaaa"[..most]);
        let three = World::new().policy(policy).always("a", dead()).always("b", dead()).always("c", dead()).run(chat());
        assert_eq!(three.asked(), "abcabc"[..most]);
        let error = three.error().unwrap()["message"].to_string();
        let told = if most == 1 { "asked once".to_owned() } else { format!("{most} attempts") };
        assert!(error.contains(&told), "{error}");
        assert_eq!(three.failures().last().unwrap(), "http_502 attempts_spent");
    }
}

#[test]
fn every_attempt_gets_the_same_bytes_but_for_the_targets_model() {
    let record = World::new()
        .target("a", Some("Qwen/Qwen2.5-7B-Instruct"))
        .target("b", None)
        .endpoint("a", [reset(), reset()])
        .endpoint("b", [reset()])
        .run(chat().with("top_k", 1.0e1).with("vllm_xargs", json!({ "model": "inner" })));
    let bodies: Vec<String> =
        record.requests.iter().map(|sent| String::from_utf8(sent.request.body.to_vec()).unwrap()).collect();
    assert_eq!(bodies[1], String::from_utf8(record.ask.body.to_vec()).unwrap());
    assert_eq!(bodies[0], bodies[1].replace(r#""model":"m""#, r#""model":"Qwen/Qwen2.5-7B-Instruct""#));
    assert_eq!(bodies[2], bodies[0]);
    for sent in &record.requests {
        assert!(sent.request.url.ends_with("/v1/chat/completions"));
        assert!(sent.request.headers.get("traceparent").is_some());
        assert_eq!(sent.request.headers.get("content-type"), Some("application/json"));
    }
}

#[test]
fn a_silent_endpoint_is_not_asked_again_while_another_is_there() {
    let policy = || json!({ "max_attempts": 5, "headers_ms": 1000, "first_token_ms": 2000 });
    for silent in [vec![], opened(), [opened(), for_ever(100, ": still here\n\n")].concat()] {
        let world = World::new().policy(policy()).endpoint("a", [silent.clone()]).always("b", reset());
        assert_eq!(world.run(chat()).asked(), "abbbb");
        // Nor under another model's name: it is the endpoint that keeps silent.
        let world = World::new()
            .policy(policy())
            .target("a", Some("small"))
            .target("a", Some("large"))
            .endpoint("a", [silent.clone()])
            .always("b", reset());
        assert_eq!(world.run(chat()).asked(), "abbbb");
        let rejecting = World::new().policy(policy()).always("a", silent).endpoint("b", [answers(401, &[], "")]);
        assert_eq!(rejecting.run(chat()).asked(), "abaaa", "alone, it is asked again");
    }
}

#[test]
fn a_request_that_two_endpoints_died_under_is_not_given_to_a_third() {
    let deaths = || {
        [
            answers(500, &[], "Internal Server Error"),
            [opened(), role(), reset()].concat(),
            [opened(), role(), end()].concat(),
            [opened(), engine_error(), done(), end()].concat(),
        ]
    };
    for first in deaths() {
        for second in deaths() {
            let world = World::new().policy(json!({ "max_attempts": 9 })).endpoint("a", [first.clone()]);
            let record = world.endpoint("b", [second]).endpoint("c", []).run(chat());
            assert_eq!(record.asked(), "ab");
            assert!(record.failures()[1].ends_with("nobody_left"), "{:?}", record.failures());
        }
        for alive in [
            reset(),
            answers(503, &[], ""),
            answers(502, &[], ""),
            [opened(), role(), finishes("abort"), done(), end()].concat(),
            answers(200, &[("content-type", "text/html")], "<p>"),
        ] {
            let world = World::new().endpoint("a", [first.clone()]).endpoint("b", [alive]);
            assert_eq!(world.endpoint("c", [well("From c.")]).run(chat()).outcome(), "ok");
        }
    }
}

#[test]
fn each_failure_is_told_with_its_reason_and_what_follows() {
    let record = World::new()
        .policy(json!({ "max_attempts": 4, "headers_ms": 1000 }))
        .endpoint("a", [vec![]])
        .endpoint("b", [answers(503, &[("retry-after", "3")], "")])
        .endpoint("c", [reset(), well("Yes.")])
        .run(chat());
    assert_eq!(record.failures(), ["headers failover", "http_503 failover", "unreachable retry"]);
    assert_eq!((&*record.asked(), record.outcome()), ("abcc", "ok"));
    let told = serde_json::to_value(record.events.iter().map(|(_, event)| event).collect::<Vec<_>>()).unwrap();
    assert_eq!(told[0], json!({ "event": "attempt_started", "attempt": 1, "endpoint": "a" }));
    assert_eq!(
        told[1],
        json!({
            "event": "attempt_failed", "attempt": 1, "endpoint": "a", "reason": "headers", "then": "failover",
            "wait_ms": 0
        })
    );
}
