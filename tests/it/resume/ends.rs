//! How streams end that nobody goes on with, and calls that do not stream to their client at all.

use super::{TEXT, resume, strict, text_of, ways};
use crate::{
    engine::{Break, Engine},
    runpod::{End, Runpod, Work},
    script::*,
    wanted::*,
    world::World,
};
use serde_json::{Value, json};

#[test]
fn without_resume_a_break_is_told_as_ever() {
    let record = World::new()
        .engine("a", Engine::of(&TEXT).breaking(4, Break::End))
        .engine("b", Engine::of(&TEXT))
        .policy(json!({}))
        .run(chat());
    assert_eq!((&*record.code(), record.asked()), ("stream_interrupted", "a".to_owned()));
    assert_eq!(record.failures(), ["cut content_shown"]);
}

/// A call whose client wants the answer whole.
fn whole() -> Wanted {
    chat_whole()
}

fn internal(way: &str) -> Value {
    json!({ "stream_internally": true, "resume": way, "idle_ms": 5000, "backoff": { "base_ms": 0 } })
}

#[test]
fn an_answer_that_is_streamed_internally_is_whole_whatever_breaks() {
    for way in ["off", "continue", "verify"] {
        for cut in 1..=TEXT.len() {
            for how in Break::ALL {
                let engine = Engine::of(&TEXT).breaking(cut, how);
                let record = World::new().engine("a", engine).policy(internal(way)).run(whole());
                assert_eq!((record.outcome(), record.status()), ("ok", 200), "{way} {cut} {how:?}");
                assert_eq!(record.header("content-type"), Some("application/json"));
                let answer: Value = serde_json::from_slice(&record.body()).unwrap();
                assert_eq!(answer["object"], "chat.completion");
                let choice = &answer["choices"][0];
                assert_eq!(
                    (&choice["message"]["content"], &choice["finish_reason"]),
                    (&json!(TEXT.concat()), &json!("stop"))
                );
                assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
                let gone_on = ways(&record).join(" ");
                let expected = if way == "continue" { "continue at a" } else { "anew at a" };
                assert_eq!(gone_on, expected, "{way} {cut} {how:?}");
                if way == "continue" {
                    let usage = json!({ "prompt_tokens": 7, "total_tokens": 16, "completion_tokens": 9 });
                    for (name, count) in usage.as_object().unwrap() {
                        assert_eq!(&answer["usage"][name], count, "{cut} {how:?} {answer}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_whole_answer_that_is_lost_leaves_its_text_in_the_error() {
    let engine = || Engine::of(&TEXT).breaking(3, Break::Reset).breaking(2, Break::Reset).breaking(1, Break::Reset);
    let record = World::new().engine("a", engine()).policy(internal("continue")).run(whole());
    assert_eq!((record.status(), &*record.code()), (502, "stream_interrupted"));
    assert_eq!(record.error().unwrap()["partial"], TEXT[..6].concat());
    let record = World::new().engine("a", engine()).policy(internal("off")).run(whole());
    assert_eq!((record.status(), &*record.code()), (502, "stream_interrupted"));
    assert_eq!(record.error().unwrap()["partial"], TEXT[..1].concat());
    let slow = Engine { token_ms: 1000, ..Engine::of(&TEXT) };
    let mut policy = internal("off");
    policy["deadline_ms"] = 3500.into();
    let record = World::new().engine("a", slow.clone()).policy(policy.clone()).run(whole());
    assert_eq!((record.status(), &*record.code()), (504, "deadline_exceeded"));
    assert_eq!(record.error().unwrap()["partial"], TEXT[..3].concat());
    policy["on_deadline"] = "partial".into();
    let record = World::new().engine("a", slow).policy(policy).run(whole());
    assert_eq!((record.status(), record.outcome()), (200, "partial"));
    assert_eq!(record.header("x-fairlead-truncated"), Some("deadline"));
    let answer: Value = serde_json::from_slice(&record.body()).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], TEXT[..3].concat());
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["fairlead"], json!({ "truncated": "deadline" }));
    assert_eq!(record.ended_at, 3250);
}

#[test]
fn a_deadline_ends_a_stream_with_what_there_is() {
    let slow = || Engine { token_ms: 1000, ..Engine::of(&TEXT) };
    let policy = json!({ "on_deadline": "partial", "deadline_ms": 3500 });
    let wanted = || chat().with("stream_options", json!({ "include_usage": true }));
    let record = World::new().engine("a", slow()).policy(policy.clone()).run(wanted());
    assert_eq!(strict(&record), (TEXT[..3].concat(), "length".to_owned(), Some(Value::Null)));
    assert_eq!((record.outcome(), record.ended_at), ("partial", 3250));
    assert!(record.text().contains(r#""fairlead":{"truncated":"deadline"}"#));
    assert!(record.requests[0].aborted);

    // Every choice that has begun or not, but for those that have ended.
    let ended = chunk(1, &json!({}), Some("stop"));
    let begun = [opened(), role(), says("A"), event(&ended)].concat();
    let record = World::new().endpoint("a", [begun]).policy(policy.clone()).run(chat().with("n", 3));
    let last: Value = serde_json::from_str(&record.reads()[3].1).unwrap();
    let indices: Vec<&Value> = last["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [0, 2]);

    // Nothing is not an answer.
    for nothing in [Script::new(), opened(), [opened(), role()].concat()] {
        let record = World::new().endpoint("a", [nothing]).policy(policy.clone()).run(chat());
        assert_eq!((record.outcome(), &*record.code()), ("deadline_exceeded", "deadline_exceeded"));
    }

    // A stream that broke and waits for somebody to go on is ended as well.
    let mut both = policy;
    both["resume"] = "continue".into();
    let broken = slow().breaking(2, Break::End);
    let record =
        World::new().engine("a", broken).endpoint("b", [Script::new(), Script::new()]).policy(both).run(wanted());
    assert_eq!(strict(&record), (TEXT[..2].concat(), "length".to_owned(), Some(Value::Null)));
}

#[test]
fn where_nobody_was_asked_to_go_on_the_error_is_its_own() {
    let once = |mut policy: Value| {
        policy["max_attempts"] = 1.into();
        policy
    };
    for how in [Break::Reset, Break::End, Break::Stall, Break::Error, Break::Abort] {
        let run = |policy| {
            let record = World::new().engine("a", Engine::of(&TEXT).breaking(3, how)).policy(policy).run(chat());
            assert_eq!(text_of(&record), TEXT[..3].concat());
            (record.outcome().to_owned(), record.code(), record.param(), record.error())
        };
        let plain = run(json!({ "idle_ms": 5000, "max_attempts": 1 }));
        assert_eq!(run(once(resume("continue"))), plain, "{how:?}");
        assert_eq!(run(once(resume("verify"))), plain, "{how:?}");
        let expected = if how == Break::Stall { ("upstream_timeout", "idle") } else { ("stream_interrupted", "") };
        assert_eq!((&*plain.1, &*plain.2), expected);
    }
    // Who was asked and failed is named; what there is of the answer is no more whole for that.
    let begun = Engine::of(&TEXT).breaking(3, Break::Stall);
    let record = World::new().engine("a", begun).endpoint("b", [reset()]).policy({
        let mut policy = resume("continue");
        policy["max_attempts"] = 2.into();
        policy
    });
    let record = record.run(chat());
    assert_eq!((&*record.code(), &*record.param()), ("stream_interrupted", "idle"));
    assert!(
        record.text().contains("Endpoint `b`, which was to go on, failed as well (unreachable)."),
        "{}",
        record.text()
    );
}

#[test]
fn what_is_not_resumed_fails_as_ever() {
    let created = event(json!({ "type": "response.created", "response": {} }));
    let delta = event(json!({ "type": "response.output_text.delta", "delta": "Y" }));
    let mut failing = Work::yields([json!("a"), json!("b")], 300);
    failing.end = (300, End::Fails("boom".to_owned()));
    let late = Work::chat("one two three four", 300).ends(600_000, End::Never).told_as_timed_out();
    for policy in [json!({ "idle_ms": 5000 }), resume("continue")] {
        let begun = [opened(), created.clone(), delta.clone()].concat();
        let record = World::new().endpoint("a", [begun]).policy(policy.clone()).run(responses());
        assert_eq!(
            (record.outcome(), &*record.code(), &*record.param()),
            ("upstream_timeout", "upstream_timeout", "idle")
        );

        // A job that has come to its end has come to it for everybody.
        let mut patient = policy.clone();
        patient["deadline_ms"] = 60_000.into();
        patient.as_object_mut().unwrap().remove("idle_ms");
        let record = World::new().jobs(Runpod::of(late.clone()).bounds(5000, 3_600_000)).policy(patient).run(chat());
        assert_eq!((record.outcome(), &*record.code()), ("job_timed_out", "job_timed_out"));

        let record = World::new().jobs(Runpod::of(failing.clone())).policy(policy.clone());
        let record = record.visit(errand("run").with(&json!({ "input": { "prompt": "x" } }))).unwrap();
        let id = serde_json::from_slice::<Value>(&record.body()).unwrap()["id"].as_str().unwrap().to_owned();
        let stream = errand(&format!("stream/{id}")).field("accept", "text/event-stream");
        let record = World::new().jobs(record.live()).begins(100).policy(policy).visit(stream).unwrap();
        assert_eq!((record.outcome(), &*record.code()), ("job_failed", "job_failed"));
    }
}

#[test]
fn what_a_job_holds_back_has_not_ended() {
    // Its finish_reason waits for the word that it has ended well.
    let job = || Runpod::of(Work::chat("one two three four", 50).ends(60_000, End::Completes));
    let policy = |way: &str| json!({ "resume": way, "on_deadline": "partial", "deadline_ms": 6000 });
    let begun = [opened(), role(), says("one "), says("two "), reset()].concat();
    let alone = World::new().jobs(job()).policy(policy("off")).run(chat());
    let compared = World::new().endpoint("a", [begun]).jobs(job()).policy(policy("verify")).run(chat());
    for record in [alone, compared] {
        assert_eq!(record.outcome(), "partial");
        assert_eq!(strict(&record), ("one two three four".to_owned(), "length".to_owned(), None));
    }
    let mut policy = policy("off");
    policy["stream_internally"] = true.into();
    let record = World::new().jobs(job()).policy(policy).run(chat_whole());
    let answer: Value = serde_json::from_slice(&record.body()).unwrap();
    assert_eq!(record.outcome(), "partial");
    assert_eq!(answer["choices"][0]["message"]["content"], "one two three four");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn what_had_come_is_kept_until_a_new_attempt_brings_something() {
    let broken = || Engine::of(&TEXT).breaking(6, Break::Reset);
    let mut policy = internal("off");
    policy["deadline_ms"] = 10_000.into();
    policy["on_deadline"] = "partial".into();
    for silent in [Script::new(), opened(), [opened(), role()].concat()] {
        let record = World::new().engine("a", broken()).endpoint("b", [silent]).policy(policy.clone()).run(whole());
        assert_eq!((record.outcome(), record.header("x-fairlead-truncated")), ("partial", Some("deadline")));
        let answer: Value = serde_json::from_slice(&record.body()).unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], TEXT[..6].concat());
    }
    let mut policy = internal("off");
    policy["max_attempts"] = 2.into();
    let record = World::new().engine("a", broken()).endpoint("b", [reset()]).policy(policy.clone()).run(whole());
    assert_eq!(record.code(), "stream_interrupted");
    assert_eq!(record.error().unwrap()["partial"], TEXT[..6].concat());
    // From then on there is that.
    let anew = Engine::of(&TEXT).breaking(2, Break::Reset);
    let record = World::new().engine("a", broken()).engine("b", anew).policy(policy).run(whole());
    assert_eq!(record.error().unwrap()["partial"], TEXT[..2].concat());
}

#[test]
fn what_says_nothing_is_not_cut_short_but_late() {
    let nothing = for_ever(20, empty_delta(20_000));
    let policy = json!({ "on_deadline": "partial", "deadline_ms": 5000 });
    let record = World::new().always("a", [opened(), role(), nothing].concat()).policy(policy).run(chat());
    assert_eq!((record.outcome(), record.ended_at), ("deadline_exceeded", 5000));
    assert!(record.body().len() > 1 << 20, "it was shown none the less");
}

#[test]
fn what_comes_again_has_been_shown_all_the_same() {
    // With stop strings the last word is not given, and is the only one here that is known to be a token.
    let policy = json!({ "on_deadline": "partial", "resume": "continue", "deadline_ms": 3500 });
    let begun = [opened(), role(), says("A fairlead"), reset()].concat();
    let world = World::new().endpoint("a", [begun]).endpoint("b", [opened(), opened()]).policy(policy);
    let record = world.run(chat().with("stop", json!(["<END>"])));
    assert_eq!((record.outcome(), text_of(&record)), ("partial", "A fairlead".to_owned()));
}
