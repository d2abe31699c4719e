//! A gateway of our own as an endpoint (`e`): it bounds and judges its own endpoints, and what it says in its errors
//! was made for the caller. Most of what it answers here is what a first world has given its client.

use crate::{captures::capture, record::Record, script::*, wanted::*, world::World};
use serde_json::{Value, json};
use std::rc::Rc;

/// What a gateway's client got, as what the gateway sends.
fn as_sent(record: &Record) -> Script {
    let sent = record.head.as_ref().expect("a head");
    let mut script = [wait(record.head_at), vec![Step::Head(sent.clone())]].concat();
    let mut now = record.head_at;
    for (at, bytes) in &record.pieces {
        script.extend([wait(at - now), raw(bytes)].concat());
        now = *at;
    }
    script.extend(wait(record.ended_at - now));
    script.extend(if record.broken { reset() } else { end() });
    script
}

/// A call to a gateway that is itself such a world, and what the gateway's client got.
fn chained(gateway: World, wanted: &Wanted) -> (Record, Record) {
    let inner = gateway.run(wanted.clone());
    let outer = World::new().endpoint("e", [as_sent(&inner)]).run(wanted.clone());
    (inner, outer)
}

/// An error as a gateway tells it before anything else.
fn refuses(status: u16, code: &str, fields: &[(&str, &str)]) -> Script {
    answers(status, fields, told(code).to_string())
}

fn told(code: &str) -> Value {
    json!({ "error": { "message": "In the gateway's words.", "type": "api_error", "param": "theirs", "code": code } })
}

fn breaks_off() -> Script {
    [opened(), role(), says("Half an "), says("answer"), wait(20), reset()].concat()
}

#[test]
fn a_chain_of_gateways_gives_what_the_last_one_gives() {
    for wanted in [chat(), chat_whole(), completions(), messages(), responses()] {
        let script = match wanted.api.path() {
            "/v1/messages" => capture("messages_stream").script(),
            "/v1/responses" => capture("responses_stream").script(),
            _ if wanted.body["stream"].is_null() => answers(200, &[], answer("Yes.")),
            "/v1/completions" => capture("completions_stream").script(),
            _ => well("It goes on."),
        };
        let (inner, outer) = chained(World::new().endpoint("a", [script]), &wanted);
        assert_eq!((inner.outcome(), outer.outcome()), ("ok", "ok"));
        assert_eq!((outer.status(), outer.body()), (200, inner.body()));
        let by = |record: &Record, name: &str| record.header(name).map(str::to_owned);
        for name in ["x-fairlead-endpoint", "x-fairlead-attempts"] {
            assert_eq!(by(&outer, name), by(&inner, name), "the last one knows who has answered");
        }
        assert_eq!(outer.header("x-fairlead-endpoint"), Some("a"));
    }
}

#[test]
fn what_a_gateway_says_of_its_failure_is_passed_on_as_it_is() {
    let overloaded = || answers(503, &[("retry-after", "7")], r#"{"error":"no room"}"#);
    let cases = [
        (reset(), "upstream_unreachable"),
        (answers(401, &[], "{}"), "upstream_rejected_key"),
        (answers(200, &[("content-type", "text/html")], "<p>Welcome"), "upstream_invalid"),
        ([opened(), role(), end()].concat(), "stream_interrupted"),
    ];
    for wanted in [chat(), messages(), responses()] {
        for (script, code) in &cases {
            let (inner, outer) = chained(World::new().always("a", script.clone()), &wanted);
            assert_eq!((inner.outcome(), outer.outcome()), (*code, *code));
            assert_eq!((outer.status(), outer.text()), (inner.status(), inner.text()));
            assert_eq!((&*outer.asked(), outer.failures()), ("e", vec![format!("{code} nobody_left")]));
            assert_eq!(outer.header("content-type"), Some("application/json"));
        }
    }
    let policy = json!({ "max_attempts": 1 });
    let (inner, outer) = chained(World::new().policy(policy).endpoint("a", [overloaded()]), &chat());
    assert_eq!((outer.status(), &*outer.code(), outer.text()), (503, "upstream_overloaded", inner.text()));
    assert_eq!((outer.header("retry-after"), outer.header("x-should-retry")), (Some("7"), Some("false")));
}

#[test]
fn what_a_gateway_passes_on_comes_with_who_has_answered_it() {
    let fields = [("x-fairlead-endpoint", "a"), ("x-fairlead-attempts", "3")];
    let record = World::new().endpoint("e", [answers(400, &fields, r#"{"error":"in vLLM's words"}"#)]).run(chat());
    assert_eq!((record.status(), record.outcome()), (400, "upstream_400"));
    for (name, value) in fields {
        assert_eq!(record.header(name), Some(value));
    }
}

#[test]
fn a_gateways_refusal_of_the_caller_is_the_callers_affair() {
    for (status, code) in
        [(401, "invalid_api_key"), (403, "forbidden"), (404, "model_not_found"), (429, "rate_limited")]
    {
        let script = refuses(status, code, &[("x-should-retry", "false"), ("server", "theirs")]);
        let record = World::new().endpoint("e", [script]).run(chat());
        assert_eq!((record.status(), &*record.code(), record.outcome()), (status, code, code));
        assert_eq!((record.text(), &*record.param()), (told(code).to_string(), "theirs"));
        assert_eq!((record.header("server"), record.header("x-fairlead-endpoint")), (None, Some("e")));
    }
}

#[test]
fn another_target_may_still_answer() {
    for script in [refuses(502, "upstream_unreachable", &[("x-should-retry", "false")]), refuses(401, "forbidden", &[])]
    {
        let record = World::new().endpoint("e", [script]).endpoint("b", [well("From b.")]).run(chat());
        assert_eq!((&*record.asked(), record.body()), ("eb", body_of(&well("From b."))));
    }
    let begun = [opened(), wait(50), event(told("upstream_timeout"))].concat();
    let record = World::new().endpoint("e", [begun.clone()]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!(
        (&*record.asked(), record.outcome(), record.failures()[0].as_str()),
        ("eb", "ok", "upstream_timeout failover")
    );
    let record = World::new().endpoint("e", [begun]).endpoint("b", [answers(401, &[], "{}")]).run(chat());
    assert_eq!((record.outcome(), &*record.asked()), ("upstream_rejected_key", "eb"), "the last one's failure counts");
}

#[test]
fn an_error_in_the_middle_of_a_gateways_stream_is_passed_on_in_its_words_and_without_done() {
    let recorded = std::str::from_utf8(capture("messages_stream").body()).unwrap();
    let half = &recorded[..recorded.rfind("event: content_block_delta").unwrap()];
    for (wanted, script) in [
        (chat(), breaks_off()),
        (completions(), [opened(), event(r#"{"choices":[{"index":0,"text":"Half"}]}"#), reset()].concat()),
        (messages(), [opened(), raw(half), reset()].concat()),
    ] {
        let policy = json!({ "idle_ms": 3000 });
        let (inner, outer) = chained(World::new().policy(policy).endpoint("a", [script]), &wanted);
        assert_ne!(inner.outcome(), "ok");
        assert_eq!((outer.outcome(), outer.param(), outer.text()), (inner.outcome(), inner.param(), inner.text()));
        assert!(!outer.text().contains("[DONE]"));
    }
    let script = [opened(), says("Half"), event(told("job_failed")), done(), end()].concat();
    let record = World::new().endpoint("e", [script]).run(chat());
    assert_eq!((&*record.code(), &*record.param(), record.outcome()), ("job_failed", "theirs", "job_failed"));
    assert_eq!(record.error(), told("job_failed").get("error").cloned());
}

#[test]
fn an_error_behind_an_early_200_becomes_the_answer_if_there_is_none_yet() {
    let begun = || [opened(), raw(": keepalive\n\n"), wait(50), event(told("upstream_overloaded")), end()].concat();
    let record = World::new().endpoint("e", [begun()]).run(chat());
    assert_eq!((record.status(), &*record.code(), &*record.asked()), (503, "upstream_overloaded", "e"));
    assert_eq!((&*record.param(), record.outcome()), ("theirs", "upstream_overloaded"));
    let record = World::new().policy(json!({ "commit_after_ms": 10 })).endpoint("e", [begun()]).run(chat());
    assert_eq!((record.status(), &*record.code(), &*record.asked()), (200, "upstream_overloaded", "e"));
}

#[test]
fn what_does_not_speak_fairlead_is_any_server() {
    let vllm = |status| answers(status, &[], r#"{"error":{"message":"hush","type":"x","param":null,"code":500}}"#);
    let record = World::new().always("e", vllm(500)).run(chat());
    assert_eq!((record.status(), &*record.code(), &*record.asked()), (502, "upstream_invalid", "eee"));
    let record = World::new().endpoint("e", [vllm(401)]).run(chat());
    assert_eq!((record.status(), &*record.code()), (502, "upstream_rejected_key"));
    let record = World::new().endpoint("e", [vllm(400)]).run(chat());
    assert_eq!((record.status(), record.outcome()), (400, "upstream_400"));
    let record = World::new().endpoint("e", [[opened(), says("Half"), engine_error(), done()].concat()]).run(chat());
    assert_eq!((&*record.code(), record.outcome()), ("stream_interrupted", "stream_interrupted"));
    let page = answers(502, &[("content-type", "text/html")], "<p>Bad Gateway");
    let record = World::new().endpoint("e", [page, well("Now.")]).run(chat());
    assert_eq!((&*record.asked(), record.outcome()), ("ee", "ok"));
    // And a server that is none of ours cannot claim to be.
    let record = World::new().endpoint("a", [refuses(503, "internal", &[("x-should-retry", "false")])]).run(chat());
    assert_eq!((record.status(), &*record.code()), (503, "upstream_overloaded"));
}

#[test]
fn a_refusal_whose_words_do_not_come_is_not_waited_for() {
    let script = [head(503, &[("content-type", "application/json")]), raw("{\"err")].concat();
    let record = World::new().policy(json!({ "max_attempts": 1 })).endpoint("e", [script]).run(chat_whole());
    assert_eq!((&*record.code(), record.ended_at), ("upstream_overloaded", 1000));
}

#[test]
fn a_gateway_that_tells_of_failures_is_well() {
    let breaker = json!({ "breaker": { "consecutive": 1, "min_calls": 1 }, "max_attempts": 1 });
    for (code, shuts) in [
        ("upstream_timeout", false),
        ("deadline_exceeded", false),
        ("invalid_api_key", false),
        ("circuit_open", false),
        ("internal", true),
        ("config_invalid", true),
    ] {
        for script in [refuses(500, code, &[]), [opened(), event(told(code)), end()].concat()] {
            let fleet = Rc::default();
            let world = |script| World::new().fleet(&fleet).policy(breaker.clone()).always("e", script);
            assert_eq!(world(script).run(chat()).outcome(), code);
            let after = world(well("Yes.")).run(chat());
            assert_eq!(after.outcome(), if shuts { "circuit_open" } else { "ok" }, "{code}");
        }
    }
}

#[test]
fn each_request_says_how_much_of_the_calls_time_is_left() {
    let policy = json!({ "deadline_ms": 60_000, "headers_ms": 2000, "backoff": { "base_ms": 0 } });
    let record = World::new().policy(policy).endpoint("e", [vec![], well("Yes.")]).run(chat().by("default"));
    let left = record.requests.iter().map(|sent| {
        assert_eq!(sent.request.headers.get("x-fairlead-policy"), None, "that was for this gateway");
        sent.request.headers.get("x-fairlead-deadline-ms").expect("a number").parse().expect("a number")
    });
    let expected: Vec<u64> = record.sent_at().iter().map(|at| 60_000 - at).collect();
    assert_eq!((left.collect::<Vec<u64>>(), expected[0]), (expected, 60_000));
    let record = World::new().endpoint("e", [well("Yes.")]).run(chat().within(1500));
    assert_eq!(record.requests[0].request.headers.get("x-fairlead-deadline-ms"), Some("1500"));
    let record = World::new().endpoint("a", [well("Yes.")]).run(chat().within(1500));
    assert_eq!(record.requests[0].request.headers.get("x-fairlead-deadline-ms"), None);
}

#[test]
fn a_gateways_own_timers_rule_its_endpoints_and_only_its_silence_is_timed() {
    let policy = || {
        json!({
            "deadline_ms": 60_000, "headers_ms": 2000, "first_token_ms": 5000, "idle_ms": 3000, "progress_ms": 6000,
            "max_attempts": 1, "commit_after_ms": 60_000, "prefill_ms_per_kib": 0,
        })
    };
    let run = |script: Script| World::new().policy(policy()).endpoint("e", [script]).run(chat());
    let comments = |count| times(count, [wait(2900), raw(": keepalive\n\n")].concat());
    let late = run([opened(), comments(10), well("Late.")[1..].to_vec()].concat());
    assert_eq!((late.outcome(), late.head_at), ("ok", 29_000));
    let slow = [opened(), says("Well, "), comments(10), says("yes."), finishes("stop"), done(), end()].concat();
    assert_eq!(run(slow).outcome(), "ok", "no progress for 29 s");
    for (param, ms, script) in [
        ("headers", 2000, vec![]),
        ("first_token", 2900 + 5000, [opened(), comments(1)].concat()),
        ("idle", 2900 + 3000, [opened(), says("Well, "), comments(1)].concat()),
    ] {
        let record = run(script);
        assert_eq!((record.outcome(), &*record.param(), record.ended_at), ("upstream_timeout", param, ms));
    }
}

#[test]
fn a_gateway_that_works_until_the_deadline_is_not_to_blame() {
    let policy = json!({ "deadline_ms": 20_000, "breaker": { "consecutive": 1 } });
    let fleet = Rc::default();
    let world = |script| World::new().fleet(&fleet).policy(policy.clone()).always("e", script);
    let works = [opened(), for_ever(5000, ": keepalive\n\n")].concat();
    assert_eq!(world(works).run(chat()).outcome(), "deadline_exceeded");
    assert_eq!(world(well("Yes.")).run(chat()).outcome(), "ok");
}
