//! From one target to another under one deadline, and the look at an endpoint's health before a
//! job is queued.

use super::*;
use crate::script::{NONE, answers, head, wait, well};
use fairlead_core::jobs::Op;
use serde_json::json;

#[test]
fn a_dead_server_gives_way_to_a_cold_start() {
    for cold_ms in [0, 8000, 25_000] {
        let runpod = Runpod::of(Work::chat("It is so", 50).queued(cold_ms));
        let world = World::new().endpoint("a", [answers(503, NONE, "{}")]).jobs(runpod);
        let record = settled(world.run(chat().within(30_000)));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{cold_ms}");
        assert_eq!(record.failures(), ["http_503 failover"]);
        assert_eq!(record.runpod().job().ttl_ms, 29_480);
    }
    // One deadline counts for both.
    let runpod = Runpod::of(Work::chat("It is so", 50).queued(25_000));
    let late = [wait(8000), answers(503, NONE, "{}")].concat();
    let record = settled(World::new().endpoint("a", [late]).jobs(runpod).run(chat().within(30_000)));
    assert_eq!((&*record.code(), record.ended_at), ("deadline_exceeded", 30_000));
    let job = record.runpod().job();
    assert_eq!((job.word, job.ttl_ms), ("EXPIRED", 21_480));
}

#[test]
fn a_job_that_fails_gives_way_to_a_server() {
    for work in [
        Work::fails("handler: no \ntraceback: hush", 100),
        Work::fails("job timed out after 1 retries", 100),
        Work::chat("one", 100).queued(u64::MAX),
    ] {
        let world = jobs(work).endpoint("a", [well("It is so")]).policy(json!({ "queue_ms": 4000 }));
        let record = settled(world.run(chat()));
        assert_eq!(record.outcome(), "ok", "{:?}", record.failures());
        assert!(record.text().contains("is ") && record.text().ends_with("data: [DONE]\n\n"));
        assert_eq!(record.attempts(), 2);
    }
}

#[test]
fn and_back_again_when_both_fail_at_first() {
    let runpod = Runpod::of(Work::chat("It is so", 50)).first([Work::fails("job timed out after 1 retries", 100)]);
    let world = World::new().jobs(runpod).endpoint("a", [answers(503, NONE, "{}")]);
    let record = settled(world.run(chat()));
    assert_eq!((record.outcome(), record.attempts()), ("ok", 3), "{:?}", record.failures());
    assert_eq!(record.runpod().jobs.len(), 2);
}

#[test]
fn content_that_was_shown_spends_failover() {
    let mut work = Work::fails("handler: no \ntraceback: hush", 100);
    work.acts = Work::chat("one two", 50).acts;
    work.acts.truncate(2);
    let record = settled(jobs(work).endpoint("a", []).run(chat()));
    assert_eq!((&*record.code(), record.attempts()), ("job_failed", 1));
}

const THROTTLED: &str = r#"{"jobs":{"inQueue":5},"workers":{"throttled":3}}"#;
const UNHEALTHY: &str = r#"{"workers":{"unhealthy":1}}"#;
const ASLEEP: &str = r#"{"jobs":{"inQueue":0},"workers":{"idle":0,"running":0}}"#;

#[test]
fn an_endpoint_without_workers_is_passed_by_where_another_is_there() {
    for health in [THROTTLED, UNHEALTHY] {
        let runpod = || Runpod::of(Work::chat("It is so", 50)).health(serde_json::from_str(health).unwrap());
        let record = World::new().jobs(runpod()).endpoint("a", [well("Yes")]).run(chat());
        assert_eq!((record.outcome(), record.failures()), ("ok", vec!["no_workers failover".to_owned()]));
        assert!(record.runpod().jobs.is_empty());
        // Alone it is used all the same.
        let record = settled(World::new().jobs(runpod()).run(chat()));
        assert_eq!((record.outcome(), record.attempts()), ("ok", 1));
        // So it is when the other has failed.
        let record = World::new().endpoint("a", [answers(503, NONE, "{}")]).jobs(runpod()).run(chat());
        assert_eq!((record.outcome(), record.attempts()), ("ok", 2), "{:?}", record.failures());
    }
    // One that has scaled to zero starts a worker.
    let runpod = Runpod::of(Work::chat("It is so", 50)).health(serde_json::from_str(ASLEEP).unwrap());
    let record = World::new().jobs(runpod).endpoint("a", []).run(chat());
    assert_eq!((record.outcome(), record.attempts()), ("ok", 1));
}

#[test]
fn an_endpoint_without_workers_is_looked_at_every_few_seconds_only() {
    let fleet = std::rc::Rc::default();
    let mut runpod = Runpod::of(Work::chat("It is so", 50)).health(serde_json::from_str(THROTTLED).unwrap());
    for (at, looks) in [(0, 1), (1000, 1), (2900, 1), (3100, 2), (6000, 2), (6200, 3)] {
        let world = World::new().jobs(runpod).endpoint("a", [well("Yes")]).fleet(&fleet).begins(at);
        let record = world.run(chat());
        assert_eq!((record.outcome(), record.attempts()), ("ok", 2));
        assert_eq!(record.runpod().count(Op::Health), looks, "at {at}");
        runpod = record.live();
    }
}

#[test]
fn a_file_is_never_given_to_a_job() {
    let script = [
        head(200, &[("content-type", "application/json")]),
        crate::script::raw(r#"{"text":"Yes"}"#),
        crate::script::end(),
    ]
    .concat();
    let record = jobs(Work::chat("Yes", 5)).endpoint("a", [script]).run(crate::wanted::transcription());
    assert_eq!((record.outcome(), record.attempts(), record.asked()), ("ok", 1, "a".to_owned()));
    let record = jobs(Work::chat("Yes", 5)).run(crate::wanted::transcription());
    assert_eq!((record.status(), &*record.code(), record.requests.len()), (400, "invalid_request", 0));
}
