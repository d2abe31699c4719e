//! How a job ends, and what that is to its client and to the next target.

use super::*;
use crate::{
    runpod::{End, words},
    script::{answer, answers, chunk, well},
    wanted::chat_whole,
};
use fairlead_core::jobs::Op;
use serde_json::{Value, json};

/// What a worker-vllm posts when its server has answered with this status: the representation of a
/// Python dictionary, in the quotes that its contents ask for.
fn vllm(status: u16, body: &str) -> String {
    let message = format!("vLLM returned HTTP {status}: {body}");
    let quoted = if message.contains('\'') && !message.contains('"') {
        format!("\"{}\"", message.replace('\\', "\\\\"))
    } else {
        format!("'{}'", message.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"))
    };
    format!("{{'message': {quoted}, 'type': 'worker_error', 'code': None}}")
}

const EXECUTION: &str = "executionTimeout exceeded";
const LOST: &str = "job timed out after 1 retries";

#[test]
fn a_servers_refusal_inside_a_job_goes_back_as_what_it_was() {
    for status in [400, 404, 413, 422] {
        for words in ["No.", "It's too \\\"long\\\".", "Caf\u{e9} \\n two"] {
            let body = format!(r#"{{"error":{{"message":"{words}","type":"BadRequestError","code":{status}}}}}"#);
            let record = settled(jobs(Work::fails(vllm(status, &body), 50)).run(chat_whole()));
            assert_eq!((record.status(), record.attempts()), (status, 1), "{words}");
            assert_eq!(record.text(), body);
            assert_eq!(record.header("x-should-retry"), Some("false"));
        }
    }
    // In a stream that has its 200 already, it is the last event.
    let body = r#"{"error":{"message":"No.","type":"BadRequestError","code":400}}"#;
    let record = run(Work::fails(vllm(400, body), 50).queued(2000));
    assert_eq!((record.status(), &*record.code()), (200, "invalid_request"), "{}", record.text());
    // A worker that is warm answers before that.
    assert_eq!(run(Work::fails(vllm(400, body), 50)).status(), 400);
    // One without a body of its own is told in our words.
    let record = run(Work::fails(vllm(404, "Not Found"), 50));
    assert_eq!((record.status(), record.attempts()), (400, 1), "{}", record.text());
}

#[test]
fn a_prompt_that_is_too_long_goes_to_a_larger_model() {
    let body = r#"{"error":{"message":"This model's maximum context length is 1024 tokens.","code":400}}"#;
    let record = jobs(Work::fails(vllm(400, body), 50)).target("a", Some("large")).endpoint("a", [well("Yes")]);
    let record = settled(record.run(chat()));
    assert_eq!((record.outcome(), record.attempts()), ("ok", 2), "{:?}", record.failures());
    assert_eq!(record.failures(), ["http_400 failover"]);
}

#[test]
fn a_server_inside_a_job_that_has_no_room_or_fails_is_asked_again() {
    for (status, reason) in [(429, "http_429"), (500, "http_500"), (503, "http_503"), (502, "http_502")] {
        let failing = Work::fails(vllm(status, r#"{"error":{"message":"hush","code":0}}"#), 50);
        let runpod = Runpod::of(Work::chat("It is so", 50)).first([failing.clone()]);
        let record = settled(World::new().jobs(runpod).run(chat()));
        assert_eq!((record.outcome(), record.runpod().count(Op::Submit)), ("ok", 2), "{status}");
        assert_eq!(record.failures(), [format!("{reason} retry")]);
        // Another target comes first.
        let record = jobs(failing.clone()).endpoint("a", [well("Yes")]).run(chat());
        assert_eq!((record.outcome(), &*record.failures()[0]), ("ok", &*format!("{reason} failover")));
        let record = settled(jobs(failing).run(chat()));
        let code = if status == 500 {
            "upstream_invalid"
        } else if status == 502 {
            "upstream_unreachable"
        } else {
            "upstream_overloaded"
        };
        assert_eq!((&*record.code(), record.attempts()), (code, 3), "{status}");
    }
}

#[test]
fn an_execution_timeout_names_its_cure_and_is_never_run_again_on_the_same_endpoint() {
    let blocking = Work::chat("one", 100).ends(0, End::Never);
    let told = blocking.clone().told_as_timed_out();
    let early = Work::fails(EXECUTION, 3000);
    for work in [blocking, told, early] {
        for wanted in [chat(), chat_whole()] {
            let runpod = || Runpod::of(work.clone()).bounds(5000, 60_000);
            let mut quiet = work.clone();
            quiet.acts.clear();
            let record = settled(World::new().jobs(Runpod::of(quiet).bounds(5000, 60_000)).run(wanted.clone()));
            assert_eq!((&*record.code(), record.attempts()), ("job_timed_out", 1), "{}", record.text());
            let message = record.error().unwrap()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("executionTimeout") && message.contains("5000"), "{message}");
            assert!(record.ended_at < 6500, "{}", record.ended_at);
            let record = World::new().jobs(runpod()).policy(json!({ "first_token_ms": 90_000 })).run(wanted.clone());
            assert_eq!(&*record.code(), "job_timed_out", "behind content");
        }
    }
    let whole = answers(200, crate::script::NONE, answer("Yes."));
    let record = jobs(Work::fails(EXECUTION, 100)).endpoint("a", [whole]).run(chat_whole());
    assert_eq!((record.outcome(), record.failures()), ("ok", vec!["job_timed_out failover".to_owned()]));
}

#[test]
fn a_handler_that_blocks_past_its_deadline_is_told_in_time() {
    let mut work = Work::chat("one", 100).ends(0, End::Never).stops(crate::runpod::Stops::Never);
    work.acts.clear();
    for wanted in [chat(), chat_whole()] {
        let record = jobs(work.clone()).run(wanted.within(20_000));
        assert_eq!(&*record.code(), "job_timed_out");
        assert!(record.runpod().job().ended.unwrap() <= 20_000);
    }
}

#[test]
fn a_handler_that_raises_is_told_without_its_traceback_and_not_run_again() {
    let json_form = json!({
        "error_type": "<class 'ValueError'>", "error_message": "no such file", "error_traceback": "File \"hush.py\"",
        "hostname": "hush", "worker_id": "hush", "runpod_version": "1.12.0",
    });
    for error in [json_form.to_string(), "handler: no such file \ntraceback: Traceback hush.py".to_owned()] {
        for wanted in [chat(), chat_whole()] {
            let record = settled(jobs(Work::fails(error.clone(), 100)).run(wanted));
            assert_eq!((&*record.code(), record.attempts()), ("job_failed", 1));
            let message = record.error().unwrap()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("no such file") && !message.contains("hush"), "{message}");
        }
    }
    let record = jobs(Work::fails("handler: no \ntraceback: hush", 100)).endpoint("a", [well("Yes")]).run(chat());
    assert_eq!((record.outcome(), record.failures()), ("ok", vec!["job_failed failover".to_owned()]));
}

#[test]
fn a_worker_that_is_lost_is_no_fault_of_the_job() {
    let runpod = Runpod::of(Work::chat("It is so", 50)).first([Work::fails(LOST, 300)]);
    let record = settled(World::new().jobs(runpod).run(chat()));
    assert_eq!((record.outcome(), record.failures()), ("ok", vec!["worker_lost retry".to_owned()]));
    let record = settled(jobs(Work::fails(LOST, 300)).run(chat()));
    assert_eq!((&*record.code(), record.attempts()), ("job_failed", 3));
}

#[test]
fn a_job_that_somebody_else_cancels_is_not_submitted_again() {
    for wanted in [chat(), chat_whole()] {
        let record = settled(jobs(Work::yields([], 0).ends(900, End::IsCancelled)).endpoint("a", []).run(wanted));
        assert_eq!((&*record.code(), record.attempts()), ("job_cancelled", 1));
        assert_eq!(record.runpod().count(Op::Cancel), 0);
    }
    let mut work = Work::chat("one two three", 100).ends(100, End::IsCancelled);
    work.acts.truncate(3);
    let record = run(work);
    assert_eq!(&*record.code(), "job_cancelled");
    assert!(shown(&record).starts_with(&chat_of(&record)) && !record.text().contains("[DONE]"));
}

#[test]
fn a_job_whose_ttl_passes_has_expired() {
    for queue_ms in [u64::MAX, 100] {
        let mut work = Work::chat("one two", 300).ends(0, End::Never).queued(queue_ms);
        work.acts.truncate(3);
        let runpod = Runpod::of(work).bounds(600_000, 12_000);
        let record = settled(World::new().jobs(runpod).run(chat().within(60_000)));
        assert_eq!((&*record.code(), record.attempts()), ("job_expired", 1), "{}", record.text());
        assert!(record.ended_at < 16_000, "{}", record.ended_at);
        assert_eq!(record.runpod().count(Op::Cancel), 1, "in case it is at work all the same");
    }
}

#[test]
fn a_job_that_runpod_does_not_know_yet_is_neither_left_running_nor_submitted_again() {
    let runpod = || {
        let work = Work::chat("one two three", 2000);
        Runpod::of(work).upset(Op::Stream, 0, 1, Fault::Refused(404))
    };
    let record = settled(World::new().jobs(runpod().upset(Op::Status, 0, 4, Fault::Refused(404))).run(chat()));
    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)));
    let record = settled(World::new().jobs(runpod().upset(Op::Status, 0, 99, Fault::Refused(404))).run(chat()));
    assert_eq!((&*record.code(), record.runpod().count(Op::Cancel)), ("job_expired", 1));
}

#[test]
fn a_queue_that_is_too_long_is_left() {
    for wanted in [chat(), chat_whole()] {
        let policy = json!({ "queue_ms": 3000 });
        let record = settled(jobs(Work::chat("one", 50).queued(60_000)).policy(policy.clone()).run(wanted.clone()));
        assert_eq!((&*record.code(), &*record.param(), record.attempts()), ("upstream_timeout", "queue", 1));
        assert_eq!((record.ended_at, record.runpod().job().word), (3000, "CANCELLED"));
        let script =
            if wanted.body["stream"] == true { well("Yes") } else { answers(200, crate::script::NONE, answer("Yes")) };
        let world = jobs(Work::chat("one", 50).queued(60_000)).endpoint("a", [script]).policy(policy);
        let record = settled(world.run(wanted));
        assert_eq!((record.outcome(), record.failures()), ("ok", vec!["queue failover".to_owned()]));
        assert_eq!(record.runpod().job().word, "CANCELLED");
    }
}

#[test]
fn the_time_to_the_first_token_runs_from_the_workers_taking_the_job() {
    let policy = json!({ "first_token_ms": 2000, "max_attempts": 1 });
    let mut work = Work::chat("one two", 100).queued(20_000);
    work.acts[1].0 = 1700;
    assert_eq!(jobs(work.clone()).policy(policy.clone()).run(chat()).outcome(), "ok");
    work.acts[1].0 = 2700;
    let record = settled(jobs(work).policy(policy).run(chat()));
    assert_eq!((&*record.code(), &*record.param()), ("upstream_timeout", "first_token"));
    assert!((22_000..22_500).contains(&record.ended_at), "{}", record.ended_at);
    assert_eq!(record.runpod().job().word, "CANCELLED");
}

#[test]
fn silence_and_want_of_progress_are_noticed_while_polling() {
    let policy = json!({ "idle_ms": 1500, "progress_ms": 3000 });
    let mut work = Work::chat("one two three", 200);
    work.acts[3].0 = 1200;
    assert_eq!(jobs(work.clone()).policy(policy.clone()).run(chat()).outcome(), "ok");
    work.acts[3].0 = 2000;
    let record = settled(jobs(work).policy(policy.clone()).run(chat()));
    assert_eq!((&*record.code(), &*record.param()), ("upstream_timeout", "idle"));
    assert_eq!(record.runpod().job().word, "CANCELLED");
    // Outputs without content.
    let outputs = words("one two")[..2].to_vec().into_iter().chain((0..40).map(|_| Value::from(": ping\n\n")));
    let record = settled(jobs(Work::yields(outputs, 500)).policy(policy).run(chat()));
    assert_eq!((&*record.code(), &*record.param()), ("upstream_timeout", "progress"));
}

#[test]
fn what_a_job_has_held_back_at_the_deadline_has_not_ended_its_stream() {
    let policy = json!({ "on_deadline": "partial", "deadline_ms": 3000 });
    for (wanted, choices) in [(chat(), 1), (chat().with("n", 2), 2)] {
        let wanted = wanted.with("stream_options", json!({ "include_usage": true }));
        let ends = (0..choices).map(|index| chunk(index, &json!({}), Some("stop")));
        let said = (0..choices).map(|index| chunk(index, &json!({ "content": "Yes" }), None));
        let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 2 } });
        let events = said.chain(ends).chain([usage]).map(|event| json!(format!("data: {event}\n\n")));
        let mut work = Work::yields(events.collect::<Vec<_>>(), 20);
        work.end.1 = End::Never;
        let record = settled(jobs(work).policy(policy.clone()).run(wanted));
        assert_eq!(record.outcome(), "partial");
        let text = record.text();
        assert!(text.contains(r#""finish_reason":"length"}]"#) && text.contains(r#""truncated":"deadline""#), "{text}");
        assert!(text.ends_with("\"usage\":null}\n\ndata: [DONE]\n\n"), "{text}");
    }
}
