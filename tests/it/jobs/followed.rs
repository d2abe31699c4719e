//! A job that goes well, from its submission to its last output.

use super::*;
use crate::{
    runpod::{Act, End, words},
    wanted::*,
};
use fairlead_core::jobs::Op;
use serde_json::{Value, json};

#[test]
fn a_warm_worker_streams_and_every_byte_of_it_arrives() {
    let record = run(Work::chat("Yes, it is so.", 40));
    assert_eq!((record.outcome(), record.status()), ("ok", 200));
    assert_eq!(shown(&record), chat_of(&record));
    let job = record.runpod().job();
    assert_eq!((job.word, record.runpod().count(Op::Submit), record.runpod().count(Op::Cancel)), ("COMPLETED", 1, 0));
    assert_eq!(record.header("x-fairlead-endpoint"), Some("d"));
    assert_eq!(told(&record, "job_started").len(), 1);
    let [Event::JobEnded { status, delay_ms, execution_ms, worker, .. }] = &*told(&record, "job_ended") else {
        panic!("one end: {:?}", record.events)
    };
    assert_eq!((*status, *delay_ms, worker.as_deref()), (Some("COMPLETED"), Some(0), Some("w1")));
    assert_eq!(*execution_ms, Some(job.billed_ms()));
}

#[test]
fn the_first_token_is_shown_soon_after_the_worker_yields_it() {
    for after in [0, 30, 100, 400, 2000, 9000] {
        let mut work = Work::chat("Yes, it is so.", 40).queued(100);
        work.acts[0].0 = after;
        let record = run(work);
        let job = record.runpod().job();
        // The role comes first, then the first word.
        let yielded = job.runs[0].0 + after + 40;
        let first = record.pieces.iter().find(|(_, piece)| piece.starts_with(b"data")).unwrap().0;
        assert!(first <= yielded + 200, "yielded at {yielded}, shown at {first}");
    }
}

#[test]
fn outputs_of_any_extent_make_one_stream() {
    let whole: String = words("Half 🦀 an event").iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    let characters: Vec<char> = whole.chars().collect();
    for length in [1, 3, 17, 100, 10_000] {
        let outputs = characters.chunks(length).map(|piece| Value::String(piece.iter().collect()));
        let record = run(Work::yields(outputs, 5));
        assert_eq!((record.outcome(), shown(&record)), ("ok", whole.clone()), "{length} characters at a time");
    }
}

#[test]
fn a_lower_rank_of_outputs_is_understood() {
    // The older worker's batches: events as objects, in lists, without `[DONE]`.
    let event = |content: &str, reason: Value| json!({ "choices": [{ "index": 0, "delta": { "content": content }, "finish_reason": reason }] });
    let batches = [json!([event("It ", Value::Null), event("is", Value::Null)]), json!([event("", "stop".into())])];
    let record = run(Work::yields(batches, 30));
    assert_eq!(record.outcome(), "ok");
    assert!(record.text().ends_with("data: [DONE]\n\n"), "{}", record.text());
    assert!(record.text().contains("\"It \"") && record.text().contains("\"is\""));
    // Its native form.
    let tokens = |tokens: &[&str]| json!({ "choices": [{ "tokens": tokens }], "usage": { "input": 3, "output": 2 } });
    let record = run(Work::yields([tokens(&["It ", "is"]), tokens(&[" so"])], 30));
    assert_eq!(record.outcome(), "ok");
    assert!(record.text().contains("\"It is\"") && record.text().ends_with("data: [DONE]\n\n"), "{}", record.text());
}

#[test]
fn an_answer_that_does_not_stream_is_the_jobs_result() {
    let answer: Value = serde_json::from_str(&crate::script::answer("Yes.")).unwrap();
    for result in [json!([answer]), answer.clone(), json!(answer.to_string())] {
        let record = settled(jobs(Work::returns(result, 900).queued(300)).run(chat_whole()));
        assert_eq!((record.outcome(), record.status()), ("ok", 200));
        assert_eq!(serde_json::from_slice::<Value>(&record.body()).unwrap(), answer);
        assert_eq!(record.header("x-fairlead-endpoint"), Some("d"));
        let timing = record.header("server-timing").unwrap();
        assert!(timing.contains("queue;dur=300") && timing.contains("execution;dur=900"), "{timing}");
        assert_eq!(record.runpod().count(Op::Stream), 0);
    }
    let embeddings = json!([{ "object": "list", "data": [{ "index": 0, "embedding": [0.5] }] }]);
    let record = settled(jobs(Work::returns(embeddings, 100)).run(super::super::wanted::embeddings()));
    assert_eq!(record.outcome(), "ok");
}

#[test]
fn a_worker_is_given_the_route_and_the_callers_own_bytes() {
    let record = jobs(Work::chat("Yes", 5)).target("d", Some("other")).run(chat().with("seed", 7).within(20_000));
    let body = &record.runpod().job().body;
    assert_eq!(body["input"]["openai_route"], "/v1/chat/completions");
    assert_eq!(body["input"]["openai_input"]["seed"], 7);
    assert_eq!(body["policy"], json!({ "executionTimeout": 17_980, "ttl": 19_480 }));
}

#[test]
fn a_jobs_times_stay_within_runpods_bounds_and_the_endpoints() {
    for (deadline, execution, ttl) in
        [(3000, 5000, 10_000), (9000, 6980, 10_000), (120_000, 60_000, 100_000), (290_000, 60_000, 100_000)]
    {
        let runpod = Runpod::of(Work::chat("Yes", 5)).bounds(60_000, 100_000);
        let record = World::new().jobs(runpod).run(chat().within(deadline));
        let job = record.runpod().job();
        assert_eq!((job.execution_ms, job.ttl_ms), (execution, ttl), "{deadline}");
    }
}

#[test]
fn a_client_sees_its_place_in_the_queue_and_keepalives_behind_it() {
    let record = run(Work::chat("Yes", 20).queued(17_000));
    assert_eq!(record.outcome(), "ok");
    assert!(record.head_at < 300, "{}", record.head_at);
    let comments = comments(&record);
    assert_eq!(comments[0].1, ": IN_QUEUE 0 s");
    let seconds: Vec<&str> = comments.iter().map(|(_, comment)| comment.as_str()).collect();
    assert_eq!(seconds[..3], [": IN_QUEUE 0 s", ": IN_QUEUE 1 s", ": IN_QUEUE 2 s"]);
    assert_eq!(shown(&record), chat_of(&record));
    let [Event::JobStarted { queued_ms, .. }] = &*told(&record, "job_started") else { panic!("one start") };
    assert!((17_000..17_400).contains(queued_ms), "{queued_ms}");
}

#[test]
fn an_answer_that_does_not_stream_keeps_its_status_for_the_end() {
    let record = jobs(Work::fails("handler: no \ntraceback: hush", 50).queued(30_000)).run(chat_whole());
    assert_eq!((record.status(), &*record.code()), (502, "job_failed"));
}

#[test]
fn a_note_on_progress_is_no_output() {
    let work = Work::chat("Yes", 50).with(1, 200, Act::Notes(json!("half of it")));
    let record = run(work);
    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)));
    let work = Work::returns(serde_json::from_str(&crate::script::answer("Yes.")).unwrap(), 900).with(
        0,
        100,
        Act::Notes(json!({ "choices": "hush" })),
    );
    assert_eq!(jobs(work).run(chat_whole()).outcome(), "ok");
}

#[test]
fn a_handler_that_returns_its_stream_instead_of_yielding_it_is_understood() {
    let whole: String = words("All at once").iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    for result in [json!(whole), json!([whole])] {
        let record = run(Work::returns(result, 700));
        assert_eq!((record.outcome(), shown(&record)), ("ok", whole.clone()));
    }
}

#[test]
fn an_endpoint_that_has_no_stream_is_followed_by_its_status() {
    for status in [400, 404, 405] {
        let runpod = Runpod::of(Work::chat("It is so", 300)).upset(Op::Stream, 0, 1000, Fault::Refused(status));
        let record = settled(World::new().jobs(runpod).run(chat()));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{status}");
        assert!(record.runpod().count(Op::Stream) <= 2, "{} looks", record.runpod().count(Op::Stream));
    }
}

#[test]
fn nothing_is_warm_for_ever_but_a_warm_endpoint_is_not_looked_at() {
    let fleet = std::rc::Rc::default();
    let mut runpod = Runpod::of(Work::chat("Yes", 20));
    let mut at = 0;
    for (pause, looks) in [(0, 1), (2000, 1), (9000, 1), (30_000, 2)] {
        at += pause;
        let record = World::new().jobs(runpod).fleet(&fleet).begins(at).run(chat());
        assert_eq!(record.outcome(), "ok");
        assert_eq!(record.runpod().count(Op::Health), looks, "{pause} ms behind the last");
        (runpod, at) = (record.live(), record.settled_at);
    }
}

#[test]
fn a_stream_that_lasts_long_is_warned_of() {
    let work = Work::chat("one two three four five six", 8000);
    let record = jobs(work.clone()).run(chat().within(61_000));
    let [Event::JobSlow { limit_ms, .. }] = &*told(&record, "job_slow") else { panic!("one warning") };
    // The look at the endpoint has taken 20 ms.
    assert_eq!(*limit_ms, 58_980);
    let at = record.events.iter().find(|(_, event)| matches!(event, Event::JobSlow { .. })).unwrap().0;
    assert!((47_200..47_700).contains(&at), "{at}");
    assert_eq!(told(&jobs(work).run(chat()), "job_slow").len(), 0);
}

#[test]
fn equal_neighbours_pass() {
    for every_ms in [100, 1500, 3000] {
        let record = run(Work::chat("ha ha ha ha ha ha", every_ms));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "every {every_ms} ms");
        assert_eq!(record.text().matches("ha ").count(), 5);
    }
}

#[test]
fn a_job_whose_end_is_never_told_is_not_taken_for_whole() {
    let record = jobs(Work::chat("It is so", 50).ends(0, End::Never)).run(chat());
    assert_eq!((record.outcome(), &*record.param()), ("upstream_timeout", "idle"));
    assert!(!record.text().contains("[DONE]"));
    assert_eq!(cancelled(&settled(record)), [("cancelled", 1)]);
}
