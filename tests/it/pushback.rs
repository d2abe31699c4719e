//! An endpoint's own word on when to come back: a floor for the wait, never more than is bearable.

use crate::{record::Record, script::*, wanted::*, world::World};
use serde_json::json;

fn pushes_back(status: u16, fields: &[(&str, &str)]) -> Script {
    answers(status, fields, r#"{"error":{"message":"busy","type":"Service Unavailable","code":503}}"#)
}

fn says_wait(seconds: &str) -> Script {
    pushes_back(503, &[("retry-after", seconds)])
}

fn refused_at_once(record: &Record, retry_after: Option<&str>) {
    assert_eq!((record.status(), &*record.code(), record.ended_at), (503, "upstream_overloaded", 0));
    assert_eq!(record.header("retry-after"), retry_after);
    assert_eq!(record.requests.len(), 1);
}

#[test]
fn retry_after_is_a_floor_in_every_form() {
    for status in [429, 503, 529] {
        for fields in [
            &[("retry-after", "2")][..],
            &[("retry-after", " 2 ")],
            &[("retry-after", "1.9999")],
            &[("retry-after-ms", "2000")],
            &[("retry-after-ms", "1999.5"), ("retry-after", "9")],
            &[("retry-after", "Sat, 21 Nov 2026 22:24:50 GMT")],
            &[("retry-after", "Saturday, 21-Nov-26 22:24:50 GMT")],
            &[("retry-after", "Sat Nov 21 22:24:50 2026")],
            &[("retry-after", "Sat, 21 Nov 2020 10:00:02 GMT"), ("date", "Sat, 21 Nov 2020 10:00:00 GMT")],
        ] {
            for seed in 0..10 {
                let scripts = [pushes_back(status, fields), well("Now.")];
                let record = World::new().seed(seed).endpoint("a", scripts).run(chat());
                assert_eq!((record.sent_at(), record.outcome()), (vec![0, 2000], "ok"), "{status} {fields:?}");
            }
        }
    }
}

#[test]
fn a_floor_below_the_jitter_leaves_the_jitter() {
    let waits: Vec<u64> = (0..300)
        .map(|seed| {
            let scripts = [pushes_back(429, &[("retry-after-ms", "400")]), well("Now.")];
            World::new().seed(seed).endpoint("a", scripts).run(chat()).sent_at()[1]
        })
        .collect();
    assert!(waits.iter().all(|wait| (400..=1000).contains(wait)), "{waits:?}");
    assert!(waits.contains(&400) && waits.iter().any(|wait| *wait > 950), "{waits:?}");
}

#[test]
fn nonsense_and_the_past_count_as_nothing_said() {
    for value in ["soon", "-1", "0", "", "NaN", "inf", "Sat, 21 Nov 2026 22:24:40 GMT", "2 seconds"] {
        for seed in 0..20 {
            let record = World::new().seed(seed).endpoint("a", [says_wait(value), well("Now.")]).run(chat());
            assert!(record.sent_at()[1] <= 1000, "{value:?}");
        }
    }
}

#[test]
fn another_failure_that_names_a_time_is_waited_for_too() {
    for status in [500, 502, 408] {
        let scripts = [pushes_back(status, &[("retry-after", "7")]), well("Now.")];
        assert_eq!(World::new().endpoint("a", scripts).run(chat()).sent_at(), [0, 7000], "{status}");
    }
}

#[test]
fn more_than_is_bearable_is_not_waited_for_but_told() {
    refused_at_once(&World::new().endpoint("a", [says_wait("31")]).run(chat()), Some("31"));
    refused_at_once(&World::new().endpoint("a", [says_wait("30.001")]).run(chat_whole()), Some("31"));
    refused_at_once(&World::new().endpoint("a", [says_wait("1e300")]).run(chat()), Some("18446744073709552"));
    let strict = World::new().policy(json!({ "retry_after_max_ms": 0 }));
    refused_at_once(&strict.endpoint("a", [says_wait("1")]).run(chat()), Some("1"));
    let record = World::new().endpoint("a", [says_wait("30"), well("Now.")]).run(chat());
    assert_eq!(record.sent_at(), [0, 30_000], "as long as is bearable");
}

#[test]
fn what_the_deadline_does_not_allow_fails_at_once() {
    let hurried = || World::new().policy(json!({ "deadline_ms": 10_000 }));
    refused_at_once(&hurried().endpoint("a", [says_wait("9.801")]).run(chat()), Some("10"));
    refused_at_once(&World::new().endpoint("a", [says_wait("20")]).run(chat().within(20_000)), Some("20"));
    let record = hurried().endpoint("a", [says_wait("9.8"), well("Now.")]).run(chat());
    assert_eq!((record.sent_at(), record.outcome()), (vec![0, 9800], "ok"), "just in time");
}

#[test]
fn another_endpoint_is_asked_at_once_and_then_the_one_that_is_free_first() {
    let world = World::new().endpoint("a", [says_wait("9")]).endpoint("b", [says_wait("4"), well("Now.")]);
    let record = world.run(chat());
    assert_eq!((&*record.asked(), record.sent_at()), ("abb", vec![0, 0, 4000]));
    let world = World::new().endpoint("a", [says_wait("99")]).endpoint("b", [says_wait("9"), well("Now.")]);
    let record = world.run(chat());
    assert_eq!((&*record.asked(), record.sent_at()), ("abb", vec![0, 0, 9000]), "a is out of the call");
}

#[test]
fn the_floor_is_the_endpoints_whatever_model_it_is_asked_for() {
    let record = World::new()
        .target("a", Some("small"))
        .target("a", Some("large"))
        .endpoint("a", [says_wait("6"), well("Now.")])
        .run(chat());
    assert_eq!(record.sent_at(), [0, 6000]);
}

#[test]
fn the_client_of_a_stream_waits_with_comments() {
    let record = World::new().endpoint("a", [says_wait("21"), well("Now.")]).run(chat());
    assert_eq!((record.head_at, record.keepalives()), (10_000, vec![15_000, 20_000]));
    assert_eq!((record.outcome(), record.without_keepalives()), ("ok", body_of(&well("Now."))));
}

#[test]
fn the_captured_full_queue_is_pushback_without_a_time() {
    let full = crate::captures::capture("error_503_queue_full").script();
    for seed in 0..50 {
        let record = World::new().seed(seed).always("a", full.clone()).run(chat());
        assert_eq!((record.status(), &*record.code(), &*record.asked()), (503, "upstream_overloaded", "aaa"));
        assert_eq!(record.header("retry-after"), None);
        assert!(record.ended_at <= 3000);
    }
}
