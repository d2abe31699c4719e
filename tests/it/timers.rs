//! The timers that a user feels: how long is waited for what, and what the client gets meanwhile.

use crate::{script::*, wanted::*, world::World};
use serde_json::{Value, json};
use std::rc::Rc;

/// The timers of an attempt, far from the client's own.
fn policy() -> Value {
    json!({ "headers_ms": 2000, "first_token_ms": 5000, "idle_ms": 3000, "progress_ms": 6000, "commit_after_ms": 80_000 })
}

/// A stream whose first content comes after so long.
fn first_content_after(ms: u64) -> Script {
    [opened(), role(), wait(ms), well("Yes.")[2..].to_vec()].concat()
}

/// A stream that falls silent for so long behind its first content.
fn silent_for(ms: u64) -> Script {
    [opened(), role(), says("Well, "), wait(ms), says("yes."), finishes("stop"), done(), end()].concat()
}

#[test]
fn the_first_token_is_waited_for_longer_when_the_prompt_is_long() {
    let kib = |kib: usize| chat().with("padding", "x".repeat((kib << 10) - chat().bytes().len()));
    for (wanted, ms) in [(kib(1), 5100), (kib(100), 15_000), (kib(2000), 125_000)] {
        let policy = json!({ "first_token_ms": 5000, "commit_after_ms": 200_000, "max_attempts": 1 });
        let world = || World::new().policy(policy.clone());
        let late = world().endpoint("a", [first_content_after(ms + 1)]).run(wanted.clone());
        assert_eq!((&*late.code(), &*late.param(), late.ended_at), ("upstream_timeout", "first_token", ms));
        let in_time = world().endpoint("a", [first_content_after(ms - 1)]).run(wanted);
        assert_eq!(in_time.outcome(), "ok");
    }
}

#[test]
fn who_asks_for_a_policy_of_less_patience_than_the_entrys_own_shuts_no_endpoint() {
    let hasty = json!({ "deadline_ms": 4000, "first_token_ms": 1000, "idle_ms": 1000, "max_attempts": 1 });
    let asked = |entry: &str, script: &Script| {
        let fleet = Rc::default();
        let own = json!({ "breaker": { "consecutive": 1 }, "max_attempts": 1, "deadline_ms": 20_000 });
        let mut policies = json!({ "default": own, "hasty": hasty.clone() });
        policies["default"]["idle_ms"] = if entry == "hasty" { 1000.into() } else { 60_000.into() };
        policies["default"]["first_token_ms"] = policies["default"]["idle_ms"].clone();
        let world = || {
            World::new()
                .fleet(&fleet)
                .policy(policies["default"].clone())
                .named_policy("hasty", policies["hasty"].clone())
        };
        let failed = world().always("a", script.clone()).run(chat().by("hasty"));
        assert_ne!(failed.outcome(), "ok");
        world().always("a", well("Yes.")).run(chat()).outcome().to_owned()
    };
    for script in [&first_content_after(3000), &silent_for(3000)] {
        assert_eq!(asked("patient", script), "ok");
        assert_eq!(asked("hasty", script), "circuit_open", "too slow for everybody");
    }
    let fleet = Rc::default();
    let world = |script| {
        let own = json!({ "breaker": { "consecutive": 1 }, "max_attempts": 1 });
        World::new().fleet(&fleet).policy(own).named_policy("short", json!({ "deadline_ms": 2000 })).always("a", script)
    };
    assert_eq!(world(first_content_after(3000)).run(chat().by("short")).code(), "deadline_exceeded");
    assert_eq!(world(well("Yes.")).run(chat()).outcome(), "ok");
}

#[test]
fn headers_in_time_leave_the_rest_to_the_first_token() {
    let script = [wait(1999), opened(), wait(3000), well("Yes.")[1..].to_vec()].concat();
    let record = World::new().policy(policy()).endpoint("a", [script]).run(chat());
    assert_eq!((record.outcome(), record.head_at), ("ok", 4999));
}

#[test]
fn headers_that_wait_for_a_cold_start_are_given_the_first_tokens_time() {
    let policy = json!({ "headers_ms": 2000, "first_token_ms": 5000, "max_attempts": 1 });
    let cold = |ms| World::new().policy(policy.clone()).endpoint("c", [[wait(ms), well("Yes.")].concat()]).run(chat());
    let record = cold(4999);
    assert_eq!((record.outcome(), record.head_at), ("ok", 4999));
    assert_eq!(record.requests[0].request.url, "https://c.hush.example/v2/id/openai/v1/chat/completions");
    let record = cold(5001);
    assert_eq!((&*record.param(), record.ended_at), ("first_token", 5000));
}

#[test]
fn silence_is_borne_twice_as_long_where_parsers_hold_text_back() {
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let schema = json!({ "type": "json_schema" });
    for (wanted, ms) in [
        (chat(), 3000),
        (chat().with("tools", tools), 6000),
        (chat().with("response_format", schema), 6000),
        (chat().with("structured_outputs", json!({ "choice": ["a"] })), 6000),
    ] {
        let record = World::new().policy(policy()).endpoint("a", [silent_for(ms + 1)]).run(wanted.clone());
        assert_eq!((&*record.code(), &*record.param(), record.ended_at), ("upstream_timeout", "idle", ms));
        let record = World::new().policy(policy()).endpoint("a", [silent_for(ms - 1)]).run(wanted);
        assert_eq!(record.outcome(), "ok");
    }
}

#[test]
fn any_byte_feeds_idle_but_only_content_feeds_progress() {
    let pause = |bytes: &str| [wait(2900), raw(bytes)].concat();
    let with = |middle: Script| {
        let begun = [opened(), says("Well, ")].concat();
        let script = [begun, middle, wait(2900), says("yes."), finishes("stop"), done(), end()].concat();
        World::new().policy(policy()).endpoint("a", [script]).run(chat())
    };
    assert_eq!(with(pause(": comment\n\n")).outcome(), "ok");
    assert_eq!(with(pause(&empty_delta(1))).outcome(), "ok");
    let twice = with([pause(": comment\n\n"), pause(&empty_delta(1))].concat());
    assert_eq!((&*twice.param(), twice.ended_at), ("progress", 6000));
    for content in [r#""reasoning":"hm""#, r#""tool_calls":[{"index":0,"function":{"arguments":"{"}}]"#] {
        let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{content}}}}}]}}\n\n");
        assert_eq!(with([pause(&event), pause(&event)].concat()).outcome(), "ok", "{content}");
    }
}

#[test]
fn a_message_about_a_timer_says_which_field_to_change() {
    let record = World::new().policy(policy()).endpoint("a", [silent_for(9000)]).run(chat());
    let message = record.error().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("`a`") && message.contains("3000 ms") && message.contains("`idle_ms`"), "{message}");
}

#[test]
fn comments_fill_every_silence_of_a_stream_between_events_and_never_inside_one() {
    let torn = body_of(&says("yes, indeed."));
    for script in [
        silent_for(16_000),
        [opened(), says("Well, "), raw(&torn[..30]), wait(16_000), raw(&torn[30..]), finishes("stop"), done(), end()]
            .concat(),
    ] {
        let expected = body_of(&script);
        let record = World::new().endpoint("a", [script]).run(chat());
        assert_eq!(record.keepalives(), [5000, 10_000, 15_000]);
        assert_eq!(record.without_keepalives(), expected);
        assert_eq!(record.outcome(), "ok");
    }
}

#[test]
fn a_stream_that_flows_needs_no_comments_and_no_timers() {
    let token = [wait(40), says("token ")].concat();
    let script = [opened(), role(), times(1000, token), finishes("stop"), done(), end()].concat();
    let expected = body_of(&script);
    let record = World::new().endpoint("a", [script]).run(chat());
    assert_eq!(record.body(), expected);
    assert_eq!(record.ended_at, 40_000);
    // A timer that is early is armed again: at most once per `keepalive_ms`.
    assert!(record.timers <= 10, "{} timers for 1000 tokens", record.timers);
}

#[test]
fn a_stream_that_waits_long_gets_its_200_and_comments_and_failover_stays_invisible() {
    let slow_death = [opened(), role(), wait(26_000), reset()].concat();
    let record = World::new().endpoint("a", [slow_death]).endpoint("b", [well("From b.")]).run(chat());
    assert_eq!((record.status(), record.head_at), (200, 10_000));
    assert_eq!(record.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(record.header("x-fairlead-endpoint"), None, "nobody has answered yet");
    assert_eq!(record.header("x-fairlead-attempts"), Some("1"));
    assert_eq!(record.keepalives(), [15_000, 20_000, 25_000]);
    assert_eq!(record.without_keepalives(), body_of(&well("From b.")));
    assert_eq!((record.asked().as_str(), record.outcome()), ("ab", "ok"));
}

#[test]
fn behind_an_early_200_every_failure_is_told_inside_the_stream() {
    let late = |script: Script| [wait(11_000), script].concat();
    for (script, code) in [
        (late(reset()), "upstream_unreachable"),
        (late(answers(503, &[], "{}")), "upstream_overloaded"),
        (late(answers(401, &[], "{}")), "upstream_rejected_key"),
        (late(answers(400, &[], r#"{"error":{"message":"no","code":400}}"#)), "invalid_request"),
        (late(answers(200, &[("content-type", "text/html")], "<p>")), "upstream_invalid"),
        (late([opened(), role(), engine_error(), done(), end()].concat()), "upstream_invalid"),
        (vec![], "upstream_timeout"),
    ] {
        let record = World::new().policy(json!({ "max_attempts": 2 })).always("a", script).run(chat());
        assert_eq!((record.status(), record.head_at, &*record.code()), (200, 10_000, code));
        assert!(!record.text().contains("[DONE]"));
    }
}

#[test]
fn an_answer_that_does_not_stream_is_never_given_a_status_or_a_comment_in_advance() {
    let slow = [wait(100_000), answers(200, &[], answer("At last."))].concat();
    let record = World::new().endpoint("a", [slow]).run(chat_whole());
    assert_eq!((record.status(), record.head_at, record.text()), (200, 100_000, answer("At last.")));
}

#[test]
fn a_slow_client_is_not_a_silent_endpoint() {
    // Whether the endpoint is ahead of the client or the client has to wait for it in the end.
    for pause in [1000, 10_000] {
        let tokens = times(5, [wait(pause), says("token ")].concat());
        let script = [opened(), wait(pause), role(), tokens, finishes("stop"), done(), end()].concat();
        let expected = body_of(&script);
        let mut policy = policy();
        policy["first_token_ms"] = 30_000.into();
        for world in [World::new(), World::new().piece_by_piece()] {
            let record = world.policy(policy.clone()).takes(9000).endpoint("a", [script.clone()]).run(chat());
            assert_eq!((record.outcome(), record.without_keepalives()), ("ok", expected.clone()), "{pause}");
        }
    }
    // The endpoint is silent all the same when it is: the client's time is not counted, its own is.
    let record = World::new().policy(policy()).takes(9000).endpoint("a", [silent_for(30_000)]).run(chat());
    assert_eq!(record.param(), "idle");
}

#[test]
fn a_host_that_is_slow_to_read_behind_the_head_is_not_a_silent_endpoint() {
    let script = [opened(), says("Well, "), wait(11_000), says("yes."), finishes("stop"), done(), end()].concat();
    let expected = body_of(&script);
    let record = World::new().policy(policy()).starts_after(10_000).takes(10).endpoint("a", [script]).run(chat());
    assert_eq!((record.outcome(), record.body()), ("ok", expected));
}

#[test]
fn a_client_that_is_slow_for_less_than_the_idle_time_is_none_either() {
    let script = [opened(), says("Hi "), times(4, [wait(3500), says("x ")].concat()), finishes("stop"), done(), end()];
    let expected = body_of(&script.concat());
    let record =
        World::new().policy(json!({ "idle_ms": 3000 })).takes(2900).endpoint("a", [script.concat()]).run(chat());
    assert_eq!((record.outcome(), record.without_keepalives()), ("ok", expected));
}

#[test]
fn a_finished_stream_whose_end_does_not_come_is_ended_after_a_second() {
    let finished = [opened(), role(), says("Yes."), finishes("stop")].concat();
    for (script, owed) in [
        (finished.clone(), "data: [DONE]\n\n"),
        ([finished.clone(), raw("data: [DO")].concat(), "data: [DONE]\n\n"),
        ([finished, done()].concat(), ""),
    ] {
        let whole = String::from_utf8(body_of(&script)).unwrap().trim_end_matches("data: [DO").to_owned();
        let record = World::new().policy(json!({ "keepalive_ms": 100 })).endpoint("a", [script]).run(chat());
        assert_eq!(record.text(), format!("{whole}{owed}"), "and no comment behind the answer");
        assert_eq!((record.ended_at, record.outcome(), record.requests[0].aborted), (1000, "ok", true));
    }
}

#[test]
fn no_comment_puts_off_the_end_of_a_finished_stream() {
    let babbles = for_ever(300, ": keep-alive\n\n");
    let script = [opened(), says("Yes."), finishes("stop"), babbles].concat();
    let record = World::new().endpoint("a", [script]).run(chat());
    assert_eq!((record.ended_at, record.outcome()), (1000, "ok"));
}

#[test]
fn the_usage_behind_the_finish_is_waited_for() {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 4 } });
    let script = [opened(), says("Yes."), finishes("stop"), wait(900), event(usage), done(), end()].concat();
    let expected = body_of(&script);
    let record = World::new().endpoint("a", [script]).run(chat());
    assert_eq!((record.outcome(), record.body()), ("ok", expected));
}

#[test]
fn timers_that_fire_early_change_nothing_that_anybody_sees() {
    let scripts = || [vec![], first_content_after(4000), silent_for(2500), silent_for(9000), reset()];
    for script in scripts() {
        let policy = json!({ "headers_ms": 2000, "first_token_ms": 5000, "idle_ms": 3000, "keepalive_ms": 700 });
        let world = || World::new().policy(policy.clone());
        let punctual = world().always("a", script.clone()).run(chat());
        let early = world().early_timers().always("a", script).run(chat());
        assert_eq!(early.pieces, punctual.pieces);
        assert_eq!(early.events, punctual.events);
        assert_eq!((early.head, early.ended_at), (punctual.head, punctual.ended_at));
    }
}

#[test]
fn a_client_may_ask_for_another_policy_by_name() {
    let hurried = json!({ "preset": "simple", "headers_ms": 700, "max_attempts": 1 });
    let world = || World::new().named_policy("hurried", hurried.clone()).always("a", vec![]);
    let record = world().run(chat().by("hurried"));
    assert_eq!((&*record.param(), record.ended_at), ("headers", 700));
    assert!((90_000..=90_600).contains(&world().run(chat()).ended_at), "the default's, three times");
}
