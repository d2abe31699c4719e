//! The native routes: jobs that clients submit and follow by themselves.

use super::*;
use crate::{
    runpod::{Act, End},
    wanted::{Errand, OTHER_KEY, errand},
};
use fairlead_core::{error::Error, jobs::Op};
use serde_json::{Value, json};

fn body() -> Value {
    json!({ "input": { "prompt": "hush" } })
}

fn read(record: &Record) -> Value {
    serde_json::from_slice(&record.body()).unwrap_or_else(|_| panic!("JSON: {}", record.text()))
}

fn outputs() -> Vec<Value> {
    vec![json!("a"), json!({ "b": 1 }), json!("c"), json!("c")]
}

/// Submits a job that comes to this, and gives its id and what is to go on with.
fn submitted(work: Work) -> (String, Runpod) {
    let record = jobs(work).visit(errand("run").with(&body())).unwrap();
    assert_eq!((record.status(), record.requests.len()), (200, 1));
    (read(&record)["id"].as_str().unwrap().to_owned(), record.live())
}

/// Asks about a job at this moment.
fn ask(runpod: &Runpod, at: u64, errand: Errand) -> Record {
    World::new().jobs(runpod.clone()).begins(at).visit(errand).unwrap()
}

fn refused(outcome: Result<Record, Error>) -> (&'static str, u16, String) {
    let Err(error) = outcome else { panic!("not refused") };
    (error.code.as_str(), error.code.status(), error.param.unwrap_or_default())
}

#[test]
fn a_job_that_is_run_has_its_callers_own_times_within_the_operators_bounds() {
    for (policy, execution, ttl) in [
        (json!(null), 600_000, 3_600_000),
        (json!({ "executionTimeout": 9_000_000, "ttl": 90_000_000 }), 600_000, 3_600_000),
        (json!({ "executionTimeout": 1, "ttl": 1 }), 5000, 10_000),
        (json!({ "executionTimeout": 70_000, "ttl": 80_000, "lowPriority": true }), 70_000, 80_000),
    ] {
        let mut body = body();
        body["policy"] = policy.clone();
        body["webhook"] = "https://hush.example".into();
        let record = jobs(Work::returns(json!(7), 3000)).leaves(60_000).visit(errand("run").with(&body)).unwrap();
        let job = record.runpod().job();
        assert_eq!((job.execution_ms, job.ttl_ms, job.word), (execution, ttl, "COMPLETED"), "{policy}");
        assert_eq!(job.body["webhook"], body["webhook"]);
        assert_eq!(job.body["policy"]["lowPriority"], policy["lowPriority"]);
        assert_eq!((read(&record)["status"].as_str(), record.runpod().visits.len()), (Some("IN_QUEUE"), 1));
    }
}

#[test]
fn a_job_is_never_submitted_again_for_a_client_of_its_own() {
    for what in ["run", "runsync"] {
        for fault in FAULTS {
            let runpod = Runpod::of(Work::returns(json!(7), 100)).upset(Op::Submit, 0, 9, fault);
            let record = World::new().jobs(runpod).visit(errand(what).with(&body())).unwrap();
            assert_eq!(record.runpod().count(Op::Submit), 1, "{what} {fault:?}");
            if !matches!(fault, Fault::Late(_) | Fault::Torn(_)) {
                assert!(record.status() >= 429, "{what} {fault:?}: {}", record.text());
                assert_eq!(record.header("x-should-retry"), Some("false"));
            }
        }
    }
}

#[test]
fn a_clients_job_is_asked_for_by_the_id_that_it_was_given() {
    let (id, runpod) = submitted(Work::returns(json!({ "answer": 7 }), 900).queued(400));
    assert!(id.starts_with("job0-u1."), "{id}");
    for (at, word) in [(100, "IN_QUEUE"), (700, "IN_PROGRESS"), (2000, "COMPLETED")] {
        let record = ask(&runpod, at, errand(&format!("status/{id}")));
        assert_eq!((read(&record)["status"].as_str(), read(&record)["id"].as_str()), (Some(word), Some(&*id)));
        assert_eq!((record.status(), record.requests.len()), (200, 1));
        if word == "COMPLETED" {
            assert_eq!(
                (&read(&record)["output"], &read(&record)["executionTime"]),
                (&json!({ "answer": 7 }), &json!(900))
            );
        }
    }
    // A failure of the job is no failure to tell it.
    let (id, runpod) = submitted(Work::fails("handler: no", 100));
    let record = ask(&runpod, 900, errand(&format!("status/{id}")));
    assert_eq!((record.status(), read(&record)["status"].as_str()), (200, Some("FAILED")));
}

#[test]
fn nobody_reaches_another_clients_job() {
    let (id, runpod) = submitted(Work::returns(json!(7), 100));
    let other = |what: &str| errand(what).field("authorization", &format!("Bearer {OTHER_KEY}"));
    let world = || World::new().jobs(runpod.clone()).begins(500);
    for what in ["status", "status-sync", "stream", "cancel", "retry"] {
        assert_eq!(refused(world().visit(other(&format!("{what}/{id}")))).0, "job_not_found", "{what}");
        let raw = id.split('.').next().unwrap();
        for guess in [
            raw.to_owned(),
            format!("{raw}."),
            format!("{raw}.{}", "0".repeat(20)),
            "../health".into(),
            format!("{id}0"),
        ] {
            if !guess.contains('/') {
                assert_eq!(refused(world().visit(errand(&format!("{what}/{guess}")))).1, 404, "{what} {guess}");
            }
        }
        // Its own is there.
        assert!(!world().visit(errand(&format!("{what}/{id}"))).unwrap().requests.is_empty());
    }
}

#[test]
fn what_is_wrong_with_a_submission_is_said_before_it_is_sent() {
    let world = || jobs(Work::returns(json!(7), 1));
    for (body, param) in [
        (json!({}), "input"),
        (json!({ "input": "hush" }), "input"),
        (json!({ "input": {}, "policy": 7 }), "policy"),
        (json!({ "input": {}, "policy": { "ttl": "soon" } }), "policy.ttl"),
        (json!({ "input": {}, "policy": { "executionTimeout": -1 } }), "policy.executionTimeout"),
        (json!([1]), "input"),
    ] {
        for what in ["run", "runsync"] {
            let told = refused(world().visit(errand(what).with(&body)));
            assert_eq!(told, ("invalid_request", 400, param.to_owned()), "{body}");
        }
    }
    for route in ["/metrics", "/v1/load_lora_adapter", "/v1/../metrics"] {
        for field in ["openai_route", "route"] {
            let told = refused(world().visit(errand("run").with(&json!({ "input": { field: route } }))));
            assert_eq!((told.0, told.1), ("forbidden", 403), "{field} {route}");
        }
    }
    assert_eq!(refused(world().visit(errand("runsync?wait=soon").with(&body()))).2, "wait");
    let large = json!({ "input": { "text": "x".repeat(10_000_000) } });
    assert_eq!(refused(world().visit(errand("run").with(&large))).0, "request_too_large");
    let record = world().visit(errand("runsync").with(&large)).unwrap();
    assert_eq!(record.status(), 200, "twice as much fits there");
    assert!(record.requests[0].request.url.contains("/runsync"));
    let larger = json!({ "input": { "text": "x".repeat(20_000_000) } });
    assert_eq!(refused(world().visit(errand("runsync").with(&larger))).0, "request_too_large");
    let mut elsewhere = errand("run").with(&body());
    elsewhere.path = "/runpod/e/run".to_owned();
    assert_eq!(refused(world().visit(elsewhere)).0, "route_not_found");
}

#[test]
fn runsync_waits_to_the_deadline_and_gives_the_result() {
    for after in [50, 5000, 200_000] {
        let record =
            settled(jobs(Work::returns(json!({ "answer": 7 }), after)).visit(errand("runsync").with(&body())).unwrap());
        let told = read(&record);
        assert_eq!(
            (record.status(), record.outcome(), &told["output"]),
            (200, "ok", &json!({ "answer": 7 })),
            "{after}"
        );
        assert_eq!((told["status"].as_str(), told["executionTime"].as_u64()), (Some("COMPLETED"), Some(after)));
        assert!(told["id"].as_str().unwrap().contains('.'));
    }
    let record = settled(jobs(Work::yields(outputs(), 100)).visit(errand("runsync").with(&body())).unwrap());
    assert_eq!(read(&record)["output"], json!(outputs()));
}

#[test]
fn runsync_that_does_not_end_in_time_is_cancelled_unless_it_is_to_be_kept() {
    let work = || Work::returns(json!(7), 50_000);
    let record = settled(jobs(work()).visit(errand("runsync").with(&body()).within(20_000)).unwrap());
    assert_eq!((record.status(), &*record.code()), (504, "job_timed_out"));
    assert!(read(&record)["id"].as_str().unwrap().contains("job0"), "{}", record.text());
    let record = jobs(work()).visit(errand("runsync?keep=true").with(&body()).within(20_000)).unwrap();
    assert_eq!((&*record.code(), record.runpod().job().word), ("deadline_exceeded", "COMPLETED"));
    assert_eq!(cancelled(&record), []);
}

#[test]
fn whoever_waits_for_so_long_only_gets_the_jobs_state_and_may_come_again() {
    let record =
        jobs(Work::returns(json!(7), 5000).queued(500)).visit(errand("runsync?wait=2000").with(&body())).unwrap();
    let told = read(&record);
    assert_eq!((record.status(), told["status"].as_str()), (200, Some("IN_PROGRESS")));
    assert!((2000..3500).contains(&record.ended_at), "{}", record.ended_at);
    let id = told["id"].as_str().unwrap();
    let again = ask(&record.live(), record.settled_at, errand(&format!("status-sync/{id}")));
    assert_eq!((read(&again)["status"].as_str(), &read(&again)["output"]), (Some("COMPLETED"), &json!(7)));
    assert_eq!((again.runpod().job().word, again.runpod().count(Op::Cancel)), ("COMPLETED", 0));
    let short = ask(&record.live(), record.settled_at, errand(&format!("status-sync/{id}?wait=1000")));
    assert_eq!(read(&short)["status"].as_str(), Some("IN_PROGRESS"));
}

#[test]
fn a_job_that_fails_is_a_typed_error_with_its_state_and_what_it_has_put_out() {
    for (work, code, status, word) in [
        (
            Work::yields(outputs(), 200).ends(100, End::Fails("handler: no \ntraceback: hush".into())),
            "job_failed",
            502,
            "FAILED",
        ),
        (Work::yields(outputs(), 200).ends(0, End::Never), "job_timed_out", 504, "FAILED"),
        (Work::yields(outputs(), 200).ends(0, End::Never).told_as_timed_out(), "job_timed_out", 504, "TIMED_OUT"),
        (Work::yields(outputs(), 200).ends(10, End::IsCancelled), "job_cancelled", 502, "CANCELLED"),
    ] {
        let runpod = Runpod::of(work).bounds(5000, 60_000);
        let record = settled(World::new().jobs(runpod).visit(errand("runsync").with(&body())).unwrap());
        assert_eq!((&*record.code(), record.status()), (code, status), "{}", record.text());
        let told = read(&record);
        assert_eq!((told["status"].as_str(), told["stream"].clone()), (Some(word), json!(outputs())), "{told}");
        assert!(told["id"].as_str().unwrap().contains('.') && told["delayTime"].is_u64(), "{told}");
        assert!(!record.text().contains("hush"));
    }
}

#[test]
fn a_deadline_gives_what_there_is_where_the_policy_says_so() {
    let work = || Work::yields(outputs(), 1000).ends(60_000, End::Completes);
    let world = || jobs(work()).policy(json!({ "on_deadline": "partial", "deadline_ms": 3500 }));
    let record = settled(world().visit(errand("runsync").with(&body())).unwrap());
    let told = read(&record);
    assert_eq!((record.status(), record.header("x-fairlead-truncated")), (200, Some("deadline")));
    assert_eq!((told["output"].clone(), told["status"].as_str()), (json!(outputs()[..3]), Some("CANCELLED")));
    assert_eq!(record.runpod().job().word, "CANCELLED");
    let record = world().visit(errand("runsync?keep=true").with(&body())).unwrap();
    assert_eq!(read(&record)["status"].as_str(), Some("IN_PROGRESS"));
    assert_eq!(record.runpod().count(Op::Cancel), 0);
    // Nothing is there yet.
    let record = jobs(Work::returns(json!(7), 9000))
        .policy(json!({ "on_deadline": "partial", "deadline_ms": 3500 }))
        .visit(errand("runsync").with(&body()))
        .unwrap();
    assert_eq!(&*record.code(), "deadline_exceeded");
}

#[test]
fn a_stream_is_runpods_json_for_its_sdks() {
    let (id, mut runpod) = submitted(Work::yields(outputs(), 400).ends(300, End::Completes));
    let (mut at, mut got, mut rounds) = (50, Vec::new(), 0);
    loop {
        let record = ask(&runpod, at, errand(&format!("stream/{id}")));
        let told = read(&record);
        got.extend(told["stream"].as_array().unwrap().iter().map(|entry| entry["output"].clone()));
        (runpod, at, rounds) = (record.live(), record.settled_at, rounds + 1);
        assert!(record.ended_at - record.begins_at <= 1300, "it waits a second at most");
        if told["status"] == "COMPLETED" {
            break;
        }
    }
    assert_eq!(got, outputs());
    assert!(rounds <= 12, "{rounds} rounds");
    let (id, runpod) = submitted(Work::returns(json!(7), 9000));
    let record = ask(&runpod, 50, errand(&format!("stream/{id}")));
    assert_eq!((read(&record)["stream"].clone(), read(&record)["status"].as_str()), (json!([]), Some("IN_PROGRESS")));
    assert!((950..1300).contains(&(record.ended_at - 50)), "{}", record.ended_at);
    assert!(record.runpod().count(Op::Stream) <= 9);
}

#[test]
fn a_reply_of_a_clients_own_stream_that_is_lost_is_told() {
    for fault in [Fault::DoneBut(500), Fault::DoneButReset, Fault::Half, Fault::Malformed] {
        let (id, runpod) = submitted(Work::yields(outputs(), 100));
        let runpod = runpod.upset(Op::Stream, 0, 1, fault);
        let record = ask(&runpod, 250, errand(&format!("stream/{id}")));
        assert_eq!(&*record.code(), "stream_interrupted", "{fault:?}: {}", record.text());
        assert_eq!(record.runpod().count(Op::Stream), 1, "what was lost is not passed over in silence");
    }
}

fn sse(id: &str) -> Errand {
    errand(&format!("stream/{id}")).field("accept", "text/event-stream")
}

#[test]
fn a_stream_is_real_events_for_whoever_asks_for_them() {
    let (id, runpod) = submitted(Work::yields(outputs(), 300).queued(900).with(2, 100, Act::Notes(json!("half"))));
    let record = settled(ask(&runpod, 50, sse(&id)));
    assert_eq!((record.outcome(), record.header("content-type")), ("ok", Some("text/event-stream; charset=utf-8")));
    let events: Vec<(String, Value)> =
        record.reads().iter().map(|(name, data)| (name.clone(), serde_json::from_str(data).unwrap())).collect();
    let (last, others) = events.split_last().unwrap();
    let expected: Vec<(String, Value)> =
        outputs().into_iter().map(|output| (String::new(), json!({ "output": output }))).collect();
    assert_eq!(others, expected);
    assert_eq!((&*last.0, last.1["status"].as_str(), last.1["id"].as_str()), ("status", Some("COMPLETED"), Some(&*id)));
    assert!(comments(&record)[0].1.contains("IN_QUEUE"));
    for (work, code) in [
        (Work::yields(outputs(), 100).ends(50, End::Fails("handler: no".into())), "job_failed"),
        (Work::yields(outputs(), 100).loses(1), "stream_interrupted"),
        (Work::yields(outputs(), 100).ends(50, End::IsCancelled), "job_cancelled"),
    ] {
        let (id, runpod) = submitted(work);
        let record = ask(&runpod, 50, sse(&id));
        assert_eq!(&*record.code(), code, "{}", record.text());
        assert_eq!(record.runpod().count(Op::Submit), 1);
    }
    // Who only looks on does not end the job by leaving.
    let (id, runpod) = submitted(Work::yields(outputs(), 300));
    let record = World::new().jobs(runpod).begins(50).leaves(400).visit(sse(&id)).unwrap();
    assert_eq!(record.runpod().job().word, "COMPLETED");
}

#[test]
fn a_job_is_cancelled_and_retried_by_its_client() {
    let (id, runpod) = submitted(Work::returns(json!(7), 9000));
    let record = ask(&runpod, 1000, errand(&format!("cancel/{id}")));
    assert_eq!((read(&record)["status"].as_str(), read(&record)["id"].as_str()), (Some("CANCELLED"), Some(&*id)));
    assert_eq!(record.runpod().job().word, "CANCELLED");
    let (id, runpod) = submitted(Work::fails("handler: no", 100));
    let record = ask(&runpod, 1000, errand(&format!("retry/{id}")));
    assert_eq!((record.status(), read(&record)["status"].as_str()), (200, Some("IN_QUEUE")));
    assert_eq!(record.runpod().job().runs.len(), 2);
    // What has not failed is not retried: RunPod's own words go back.
    let (id, runpod) = submitted(Work::returns(json!(7), 10));
    assert_eq!(ask(&runpod, 1000, errand(&format!("retry/{id}"))).status(), 400);
}

#[test]
fn a_job_that_is_not_there_any_more_is_not_found() {
    let (id, runpod) = submitted(Work::returns(json!(7), 10));
    let late = 3_600_000;
    for what in ["status", "status-sync", "stream", "cancel", "retry"] {
        let record = ask(&runpod, late, errand(&format!("{what}/{id}")));
        assert_eq!((record.status(), &*record.code()), (404, "job_not_found"), "{what}: {}", record.text());
        assert!(record.ended_at - late < 3000);
    }
}

#[test]
fn health_is_runpods_own() {
    let record = jobs(Work::returns(json!(7), 10)).visit(errand("health")).unwrap();
    assert_eq!((record.status(), read(&record)["workers"]["idle"].as_u64()), (200, Some(1)));
}

#[test]
fn questions_that_may_be_repeated_are() {
    for fault in [Fault::Refused(500), Fault::Refused(503), Fault::Reset, Fault::Half, Fault::Html] {
        for (what, op) in [("status", Op::Status), ("cancel", Op::Cancel)] {
            let (id, runpod) = submitted(Work::returns(json!(7), 9000));
            let record = ask(&runpod.upset(op, 0, 1, fault), 1000, errand(&format!("{what}/{id}")));
            assert_eq!((record.status(), record.attempts()), (200, 2), "{what} {fault:?}");
        }
    }
}
