//! Every way in which an endpoint can misbehave: alone, and with a well endpoint behind it.

use crate::{
    script::*,
    wanted::{Wanted, chat, chat_whole},
    world::World,
};
use serde_json::{Value, json};

/// What a fault comes to where there is only the endpoint that has it.
#[derive(Clone, Copy)]
enum Alone {
    /// An error as the answer, after so many attempts.
    Fails { status: u16, code: &'static str, param: &'static str, attempts: usize },
    /// Content has gone out, then an error event: nobody else can go on.
    BreaksOff { code: &'static str, param: &'static str },
}
use Alone::{BreaksOff, Fails};

struct Fault {
    name: &'static str,
    script: Script,
    alone: Alone,
    /// How long one attempt takes to fail.
    ms: u64,
}

/// A fault that shows at once.
fn fault(name: &'static str, script: impl AsRef<[Script]>, alone: Alone) -> Fault {
    Fault { name, script: script.as_ref().concat(), alone, ms: 0 }
}

impl Fault {
    /// A fault that shows after so long.
    fn after(mut self, ms: u64) -> Self {
        self.ms = ms;
        self
    }
}

const fn fails(status: u16, code: &'static str, attempts: usize) -> Alone {
    Fails { status, code, param: "", attempts }
}

const fn times_out(param: &'static str) -> Alone {
    Fails { status: 504, code: "upstream_timeout", param, attempts: 3 }
}

const UNREACHABLE: Alone = fails(502, "upstream_unreachable", 3);
const INVALID: Alone = fails(502, "upstream_invalid", 3);
const OVERLOADED: Alone = fails(503, "upstream_overloaded", 3);
const CUT: Alone = fails(502, "stream_interrupted", 3);
const REJECTED: Alone = fails(502, "upstream_rejected_key", 1);
const INTERRUPTED: Alone = BreaksOff { code: "stream_interrupted", param: "" };
const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// Timers far apart, so that each fault runs into its own; the early 200 has tests of its own.
fn policy() -> Value {
    json!({
        "deadline_ms": 60_000, "headers_ms": 2000, "first_token_ms": 5000, "prefill_ms_per_kib": 0,
        "idle_ms": 3000, "progress_ms": 6000, "commit_after_ms": 60_000, "keepalive_ms": 60_000,
    })
}

/// Before any content of a stream.
fn before_content() -> Vec<Fault> {
    let refused = |status| answers(status, &[], r#"{"error":{"message":"no","type":"x","param":null,"code":1}}"#);
    let told = |status, word| with_field(refused(status), "x-should-retry", word);
    let page = answers(200, &[("content-type", "text/html")], "<h1>Welcome</h1>");
    let json = answers(200, &[], answer("not streamed"));
    let half = || raw(&body_of(&role())[..40]);
    let failed = || [engine_error(), done(), end()].concat();
    let aborted = [finishes("abort"), done(), end()].concat();
    let flat = event(r#"{"object":"error","message":"dead","type":"InternalServerError","code":500}"#);
    let full = event(r#"{"error":{"message":"Request queue full.","type":"Service Unavailable","code":503}}"#);
    let moved = head(307, &[("location", "https://elsewhere.example/v1/chat/completions")]);
    let blanks = for_ever(900, empty_delta(9));
    vec![
        fault("reset before the headers", [reset()], UNREACHABLE),
        fault("no connection for a second", [wait(1000), reset()], UNREACHABLE).after(1000),
        fault("silence before the headers", [], times_out("headers")).after(2000),
        fault("silence behind the headers", [opened()], times_out("first_token")).after(5000),
        fault("silence behind the role", [opened(), role()], times_out("first_token")).after(5000),
        fault("headers too late", [wait(2001), well("Late.")], times_out("headers")).after(2000),
        fault("first token too late", [opened(), wait(5001), says("Late.")], times_out("first_token")).after(5000),
        fault("comments for ever", [opened(), for_ever(900, KEEP_ALIVE)], times_out("first_token")).after(5000),
        fault("empty deltas for ever", [opened(), role(), blanks], times_out("first_token")).after(5000),
        fault("end behind the headers", [opened(), end()], CUT),
        fault("reset behind the headers", [opened(), reset()], CUT),
        fault("cut in mid-event", [opened(), wait(7), half(), reset()], CUT).after(7),
        fault("end in mid-event", [opened(), half(), end()], CUT),
        fault("end behind the role", [opened(), role(), end()], CUT),
        fault("[DONE] behind the role", [opened(), role(), done(), end()], CUT),
        fault("error event", [opened(), failed()], INVALID),
        fault("error event behind the role", [opened(), role(), failed()], INVALID),
        fault("flat error event", [opened(), flat, done(), end()], INVALID),
        fault("error event of a full queue", [opened(), full, done(), end()], OVERLOADED),
        fault("abort behind the role", [opened(), role(), aborted], INVALID),
        fault("HTML with 200", [page], INVALID),
        fault("no stream with 200", [json], INVALID),
        fault("408", [refused(408)], UNREACHABLE),
        fault("429", [refused(429)], OVERLOADED),
        fault("500", [refused(500)], INVALID),
        fault("502", [refused(502)], UNREACHABLE),
        fault("503", [refused(503)], OVERLOADED),
        fault("504", [refused(504)], UNREACHABLE),
        fault("524", [refused(524)], UNREACHABLE),
        fault("529", [refused(529)], OVERLOADED),
        fault("401", [refused(401)], REJECTED),
        fault("403", [refused(403)], REJECTED),
        fault("redirect", [moved], fails(502, "upstream_invalid", 1)),
        fault("503 that forbids retries", [told(503, "false")], fails(503, "upstream_overloaded", 1)),
    ]
}

/// Behind the first content of a stream.
fn behind_content() -> Vec<Fault> {
    let begun = || [opened(), role(), says("It "), says("was "), wait(10)].concat();
    let timeout = |param| BreaksOff { code: "upstream_timeout", param };
    let half = || raw(&body_of(&says("a dark"))[..50]);
    vec![
        fault("reset", [begun(), reset()], INTERRUPTED).after(10),
        fault("end without finish_reason", [begun(), end()], INTERRUPTED).after(10),
        fault("cut in mid-event", [begun(), half(), reset()], INTERRUPTED).after(10),
        fault("end in mid-event", [begun(), half(), end()], INTERRUPTED).after(10),
        fault("[DONE] without finish_reason", [begun(), done(), end()], INTERRUPTED).after(10),
        fault("error event", [begun(), engine_error(), done(), end()], INTERRUPTED).after(10),
        fault("abort", [begun(), finishes("abort"), done(), end()], INTERRUPTED).after(10),
        fault("stall", [begun()], timeout("idle")).after(3000),
        fault("stall in mid-event", [begun(), half()], timeout("idle")).after(3010),
        fault("comments for ever", [begun(), for_ever(900, KEEP_ALIVE)], timeout("progress")).after(6000),
        fault("empty deltas for ever", [begun(), for_ever(900, empty_delta(9))], timeout("progress")).after(6000),
    ]
}

/// In answers that do not stream.
fn not_streaming() -> Vec<Fault> {
    let body = answer("It was a dark and stormy night.");
    let json = || head(200, &[("content-type", "application/json")]);
    let sized = |length: usize| with_field(json(), "content-length", &length.to_string());
    let half = || raw(&body[..60]);
    let aborted = body.replace(r#""stop""#, r#""abort""#);
    let page = answers(200, &[("content-type", "text/html; charset=utf-8")], "<h1>Welcome</h1>");
    let error = r#"{"error":{"message":"dead","type":"InternalServerError","code":500}}"#;
    let flat = r#"{"object":"error","message":"dead","type":"InternalServerError","code":500}"#;
    vec![
        fault("reset before the headers", [reset()], UNREACHABLE),
        fault("reset in mid-body", [json(), half(), reset()], CUT),
        fault("short body", [json(), half(), end()], CUT),
        fault("empty body", [json(), end()], CUT),
        fault("content-length too long", [sized(body.len() + 1), raw(&body), end()], CUT),
        fault("content-length too short", [sized(body.len() - 1), raw(&body), end()], CUT),
        fault("stall in mid-body", [json(), half()], times_out("idle")).after(3000),
        fault("HTML with 200", [page], INVALID),
        fault("abort with half the text", [answers(200, &[], aborted)], INVALID),
        fault("an error with 200", [answers(200, &[], error)], INVALID),
        fault("a flat error with 200", [answers(200, &[], flat)], INVALID),
        fault("500", [answers(500, &[], "Internal Server Error")], INVALID),
        fault("204", [head(204, NONE), end()], INVALID),
    ]
}

#[test]
fn alone_before_its_content_a_fault_is_retried_and_then_an_error_with_its_own_status() {
    for fault in before_content() {
        fails_alone(fault, chat());
    }
}

#[test]
fn alone_without_a_stream_too() {
    for fault in not_streaming() {
        fails_alone(fault, chat_whole());
    }
}

fn fails_alone(Fault { name, script, alone, ms }: Fault, wanted: Wanted) {
    let Fails { status, code, param, attempts } = alone else { panic!("{name}") };
    for seed in 0..20 {
        let record = World::new().policy(policy()).seed(seed).always("a", script.clone()).run(wanted.clone());
        assert_eq!((record.status(), &*record.code(), &*record.param()), (status, code, param), "{name}");
        assert_eq!(record.requests.len(), attempts, "{name}");
        assert_eq!(record.header("content-type"), Some("application/json"), "{name}");
        assert_eq!(record.header("x-fairlead-endpoint"), Some("a"), "{name}");
        assert_eq!(record.header("x-fairlead-attempts"), Some(&*attempts.to_string()), "{name}");
        assert_eq!(record.outcome(), code, "{name}");
        for sent in &record.requests {
            assert_eq!(sent.over_at, Some(sent.at + ms), "{name}");
        }
        let least = attempts as u64 * ms;
        // Full jitter: up to base and twice base.
        let most = least + if code == "upstream_overloaded" { 3000 } else { 600 };
        assert!((least..=most).contains(&record.ended_at), "{name}: ended at {}", record.ended_at);
    }
}

#[test]
fn behind_the_first_content_a_fault_ends_the_stream_in_a_typed_error_and_asks_nobody_else() {
    for Fault { name, script, alone, ms } in behind_content() {
        let BreaksOff { code, param } = alone else { panic!("{name}") };
        let whole_events = [role(), says("It "), says("was ")].concat();
        for world in [World::new(), World::new().endpoint("a", []).endpoint("b", [])] {
            let record = world.policy(policy()).endpoint("a", [script.clone()]).run(chat());
            assert_eq!(record.status(), 200, "{name}");
            assert_eq!((&*record.code(), &*record.param()), (code, param), "{name}");
            assert_eq!(record.asked(), "a", "{name}");
            assert_eq!(record.header("x-fairlead-endpoint"), Some("a"), "{name}");
            assert!(record.text().starts_with(&*String::from_utf8_lossy(&body_of(&whole_events))), "{name}");
            assert!(!record.text().contains("dark") && !record.text().contains("EngineCore"), "{name}");
            assert_eq!(record.ended_at, ms, "{name}");
            assert_eq!(record.failures().last().map(|failure| failure.ends_with("content_shown")), Some(true));
        }
    }
}

#[test]
fn a_well_endpoint_behind_a_faulty_one_answers_as_if_nothing_had_been() {
    for fault in before_content() {
        fails_over(fault, chat(), well("From b, whole and unchanged."));
    }
}

#[test]
fn a_well_endpoint_takes_over_without_a_stream_too() {
    for fault in not_streaming() {
        fails_over(fault, chat_whole(), answers(200, &[], answer("From b.")));
    }
}

fn fails_over(Fault { name, script, ms, .. }: Fault, wanted: Wanted, well: Script) {
    let expected = body_of(&well);
    let record =
        World::new().policy(policy()).endpoint("a", [script]).endpoint("b", [well]).endpoint("c", []).run(wanted);
    assert_eq!(record.status(), 200, "{name}");
    assert_eq!(record.body(), expected, "{name}");
    assert_eq!(record.asked(), "ab", "{name}");
    assert_eq!(record.header("x-fairlead-endpoint"), Some("b"), "{name}");
    assert_eq!(record.header("x-fairlead-attempts"), Some("2"), "{name}");
    assert_eq!(record.sent_at(), [0, ms], "{name}: the first try of another endpoint is at once");
    assert_eq!(record.ended_at, ms, "{name}");
    assert_eq!(record.outcome(), "ok", "{name}");
    assert!(record.failures()[0].ends_with(" failover"), "{name}");
}

#[test]
fn what_is_odd_but_whole_goes_through_at_the_first_attempt() {
    let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"é 🦀\"}}]}\n\n";
    let end_of_it = [finishes("stop"), done(), end()].concat();
    let whole = [opened(), role(), raw(text), end_of_it.clone()].concat();
    let big = [opened(), says(&"x".repeat(1 << 20)), end_of_it.clone()].concat();
    let framed = |line_end: &str| {
        let text = String::from_utf8(body_of(&whole)).unwrap().replace('\n', line_end);
        [opened(), raw(text), end()].concat()
    };
    let marked = [opened(), raw("\u{feff}"), raw(body_of(&whole)), end()].concat();
    let commented = [opened(), raw(KEEP_ALIVE), role(), raw(KEEP_ALIVE), raw(text), raw(KEEP_ALIVE), end_of_it.clone()];
    let crab = text.find("🦀").unwrap();
    let torn = |at: usize| [opened(), role(), cut_at(text.as_bytes(), [at]), end_of_it.clone()].concat();
    let bytewise = [opened(), cut_at(&body_of(&whole), 1..body_of(&whole).len()), end()].concat();
    let slow = [opened(), wait(4999), whole[1..].to_vec()].concat();
    for (name, script) in [
        ("CRLF", framed("\r\n")),
        ("CR", framed("\r")),
        ("byte order mark", marked),
        ("comments", commented.concat()),
        ("a character cut in two", torn(crab + 2)),
        ("an event cut in two", torn(9)),
        ("byte by byte", bytewise),
        ("slow first token", slow),
        ("an event of a mebibyte", big.clone()),
    ] {
        let record = World::new().policy(policy()).endpoint("a", [script]).endpoint("b", []).run(chat());
        assert_eq!((record.status(), record.outcome(), &*record.asked()), (200, "ok", "a"), "{name}");
        let source = if name == "an event of a mebibyte" { &big } else { &whole };
        assert_eq!(record.reads(), crate::record::read_events(&body_of(source)), "{name}");
    }
}
