//! The journal: each request counted once whatever happens to it, lines that say what was done for it, and counts that
//! do not grow with what is counted.

use crate::{record::Record, script::*, wanted::*, world::World};
use fairlead_core::{
    config::LogLevel,
    event::Event,
    journal::{Audience, Caller, Journal, Report, Ticket, Told},
    time::Instant,
};
use serde_json::{Value, json};

const NOW: u64 = 1_795_299_888_000;
const ALL: Audience = Audience { log: LogLevel::Calls, counts: true, points: true };

fn at(ms: u64) -> Instant {
    Instant::from_millis(NOW + ms)
}

fn journal(audience: Audience) -> Journal {
    let mut journal = Journal::new(at(0), "FRA".to_owned());
    journal.heed(audience);
    journal
}

fn caller() -> Caller {
    Caller { request_id: "r1".to_owned(), route: "/v1/chat/completions", ..Caller::default() }
}

/// Opens an account that has come to a call.
fn begun(journal: &mut Journal) -> Ticket {
    let ticket = journal.open(at(0), at(0).after(600_000), caller());
    journal.admit(ticket, Some("web"));
    journal.begin(ticket, "qwen", at(300_000));
    ticket
}

/// Tells the journal all that a call has told, and what came of it.
fn told(journal: &mut Journal, record: &Record) -> Report {
    let ticket = begun(journal);
    let mut reports = record.events.iter().filter_map(|(ms, event)| match journal.tell(ticket, at(*ms), event) {
        Told::Ended(report) => Some(report),
        Told::Noted | Told::Beside => None,
    });
    let report = reports.next().expect("a call has an end");
    assert!(reports.next().is_none());
    *report
}

fn line(report: &Report) -> Value {
    serde_json::from_str(report.line.as_ref().unwrap()).unwrap()
}

fn requests(journal: &Journal) -> u64 {
    journal.models().iter().flat_map(|model| &model.calls).map(|call| call.count).sum()
}

fn started(attempt: u32, endpoint: &str) -> Event {
    Event::AttemptStarted { attempt, endpoint: endpoint.to_owned() }
}

fn failed(attempt: u32, endpoint: &str, reason: &str) -> Event {
    let (endpoint, reason) = (endpoint.to_owned(), reason.to_owned());
    Event::AttemptFailed { attempt, endpoint, reason, then: "failover", wait_ms: 0 }
}

#[test]
fn a_call_is_one_line_with_all_that_was_done_for_it() {
    let world = World::new().endpoint("a", [reset()]).endpoint("b", [well("Well.")]);
    let mut journal = journal(ALL);
    let report = told(&mut journal, &world.run(chat()));
    let line = line(&report);
    for (field, value) in [
        ("level", json!("warn")),
        ("event", json!("call_ended")),
        ("request_id", json!("r1")),
        ("client", json!("web")),
        ("route", json!("/v1/chat/completions")),
        ("model", json!("qwen")),
        ("outcome", json!("ok")),
        ("endpoint", json!("b")),
        ("attempts", json!(2)),
        ("stream", json!(true)),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    let timeline = line["timeline"].as_array().unwrap();
    let events: Vec<&str> = timeline.iter().map(|moment| moment["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["attempt_started", "attempt_failed", "attempt_started"]);
    assert_eq!(timeline[1]["reason"], "unreachable");
    assert!(timeline.windows(2).all(|pair| pair[0]["at_ms"].as_u64() <= pair[1]["at_ms"].as_u64()));
    assert!(line.get("trace_id").is_none());
}

#[test]
fn what_is_no_part_of_a_call_has_a_line_of_its_own() {
    let mut journal = journal(ALL);
    let ticket = begun(&mut journal);
    let cancelled = Event::JobCancelled { endpoint: "b".into(), outcome: "cancelled", cancels: 1 };
    assert_eq!(journal.tell(ticket, at(1), &cancelled), Told::Beside);
    journal.close(ticket, at(2), "ok", None).unwrap();
    assert_eq!(journal.tell(ticket, at(3), &cancelled), Told::Beside);
    assert_eq!(journal.tell(ticket, at(4), &Event::StoreFailed { operation: "get" }), Told::Beside);
}

#[test]
fn an_account_ends_once_whoever_ends_it_first() {
    let end = |journal: &mut Journal, ticket| {
        let record = World::new().endpoint("a", [well("Well.")]).run(chat());
        journal.tell(ticket, at(9), &record.events.last().unwrap().1)
    };
    let mut journal = journal(ALL);
    let ticket = begun(&mut journal);
    assert!(matches!(end(&mut journal, ticket), Told::Ended(_)));
    assert_eq!(end(&mut journal, ticket), Told::Noted);
    assert_eq!(journal.close(ticket, at(10), "internal", None), None);
    assert!(journal.overdue(at(10_000_000)).is_empty());
    assert_eq!(requests(&journal), 1);

    let refused = journal.open(at(20_000_000), at(20_000_000).after(600_000), caller());
    assert!(journal.close(refused, at(20_000_001), "invalid_api_key", None).is_some());
    assert_eq!(journal.close(refused, at(20_000_002), "internal", None), None);
    assert_eq!(requests(&journal), 2);
}

#[test]
fn a_request_that_the_platform_drops_is_counted_behind_its_deadline_as_one_whose_client_left() {
    let mut journal = journal(ALL);
    let ticket = begun(&mut journal);
    let reading = journal.open(at(0), at(0).after(600_000), caller());
    journal.tell(ticket, at(5), &started(1, "a"));
    assert!(journal.overdue(at(309_999)).is_empty());
    let reports = journal.overdue(at(311_000));
    assert_eq!(reports.len(), 1);
    let line = line(&reports[0]);
    assert_eq!(
        [&line["outcome"], &line["attempts"], &line["endpoint"], &line["total_ms"]],
        [&json!("client_gone"), &json!(1), &json!("a"), &json!(311_000)]
    );
    assert_eq!(journal.tell(ticket, at(311_001), &started(2, "b")), Told::Noted, "it goes on, and nobody counts it");
    assert!(journal.overdue(at(311_500)).is_empty(), "not looked for again so soon");
    assert_eq!(journal.overdue(at(700_000)).len(), 1, "nor is a body read for ever");
    assert_eq!(journal.close(reading, at(700_001), "ok", None), None);
    assert_eq!(requests(&journal), 2);
}

#[test]
fn counts_stand_by_route_client_and_outcome_and_refusals_under_no_model() {
    let mut journal = journal(ALL);
    for _ in 0..3 {
        told(&mut journal, &World::new().endpoint("a", [well("Well.")]).run(chat()));
    }
    told(&mut journal, &World::new().endpoint("a", [reset(), reset(), reset()]).run(chat()));
    for code in ["invalid_api_key", "forbidden", "invalid_api_key"] {
        let ticket = journal.open(at(0), at(0).after(600_000), caller());
        journal.close(ticket, at(1), code, None).unwrap();
    }
    let counts: Vec<_> = journal
        .models()
        .iter()
        .flat_map(|model| model.calls.iter().map(|call| (&*model.name, &*call.client, &*call.outcome, call.count)))
        .collect();
    assert_eq!(
        counts,
        [
            ("qwen", "web", "ok", 3),
            ("qwen", "web", "upstream_unreachable", 1),
            ("", "", "invalid_api_key", 2),
            ("", "", "forbidden", 1)
        ]
    );
    let qwen = &journal.models()[0];
    assert_eq!((&qwen.attempts[..], qwen.total.count(), qwen.first_content.count()), (&[0, 3, 0, 1][..], 4, 3));
    let endpoint = &journal.endpoints()[0];
    assert_eq!(
        (&*endpoint.name, &endpoint.attempts[..]),
        ("a", &[("ok".to_owned(), 3), ("unreachable".to_owned(), 3)][..])
    );
    assert_eq!(journal.last().count(), 4, "refusals are only counted");
}

#[test]
fn of_two_attempts_that_did_not_fail_one_has_answered() {
    let mut journal = journal(ALL);
    let ticket = begun(&mut journal);
    journal.tell(ticket, at(1), &started(1, "a"));
    journal.tell(ticket, at(2), &started(2, "b"));
    let record = World::new().endpoint("b", [well("Well.")]).run(chat());
    journal.tell(ticket, at(9), &record.events.last().unwrap().1);
    let became: Vec<_> =
        journal.endpoints().iter().map(|endpoint| (&*endpoint.name, &*endpoint.attempts[0].0)).collect();
    assert_eq!(became, [("a", "given_up"), ("b", "ok")]);
}

#[test]
fn what_is_kept_does_not_grow() {
    let mut journal = journal(ALL);
    let smooth = World::new().endpoint("a", [well("Well.")]).run(chat());
    for _ in 0..200 {
        told(&mut journal, &smooth);
    }
    assert_eq!((journal.last().count(), requests(&journal)), (50, 200));
    let ticket = begun(&mut journal);
    for ms in 0..1000 {
        let destroyed = Event::CharactersDestroyed { attempt: 1, endpoint: "a".into(), characters: 1 };
        journal.tell(ticket, at(ms), &destroyed);
    }
    journal.close(ticket, at(1000), "client_gone", None);
    assert_eq!(journal.last().next().unwrap().timeline.len(), 200);
}

#[test]
fn of_what_nobody_sees_nothing_is_kept() {
    let mut journal = journal(Audience { log: LogLevel::Off, counts: false, points: false });
    let report = told(&mut journal, &World::new().endpoint("a", [well("Well.")]).run(chat()));
    assert_eq!(report, Report::default());
    assert_eq!((journal.models().len(), journal.endpoints().len(), journal.last().count()), (0, 0, 0));
    let ticket = begun(&mut journal);
    assert_eq!(
        journal.tell(ticket, at(1), &Event::StoreFailed { operation: "get" }),
        Told::Beside,
        "what concerns the gateway itself is still said"
    );
}

#[test]
fn the_log_may_leave_out_what_went_well_at_once() {
    let quiet = Audience { log: LogLevel::Failures, counts: false, points: false };
    let cases = [
        (World::new().endpoint("a", [well("Well.")]), false),
        (World::new().endpoint("a", [reset(), well("Well.")]), true),
        (World::new().endpoint("a", [reset(), reset(), reset()]), true),
        (World::new().endpoint("a", [vec![]]).leaves(100), false),
    ];
    for (world, is_logged) in cases {
        let record = world.run(chat());
        let report = told(&mut journal(quiet), &record);
        assert_eq!(report.line.is_some(), is_logged, "{}", record.outcome());
    }
}

#[test]
fn a_data_point_has_its_numbers_and_says_what_it_does_not_know() {
    let mut journal = journal(ALL);
    let record = World::new().endpoint("a", [reset(), reset(), reset()]).run(chat());
    let point = told(&mut journal, &record).point.unwrap();
    assert_eq!(point.index, "qwen");
    assert_eq!(point.blobs, ["upstream_unreachable", "a", "web", "/v1/chat/completions", "unreachable", "FRA", "a"]);
    let Some((_, Event::CallEnded { total_ms, bytes, .. })) = record.events.last() else { panic!() };
    assert_eq!(point.doubles, [*total_ms as f64, -1.0, 3.0, *bytes as f64, -1.0, -1.0, 1.0]);

    let ticket = journal.open(at(0), at(0).after(600_000), caller());
    journal.begin(ticket, &"ä".repeat(60), at(1));
    let point = journal.close(ticket, at(1), "ok", None).unwrap().point.unwrap();
    assert_eq!(point.index, "ä".repeat(48), "no more bytes than an index may have, and whole characters");
}

#[test]
fn a_failure_is_told_although_the_attempt_behind_it_has_answered() {
    let mut journal = journal(ALL);
    let ticket = begun(&mut journal);
    journal.tell(ticket, at(1), &started(1, "a"));
    journal.tell(ticket, at(2), &failed(1, "a", "http_503"));
    journal.tell(ticket, at(2), &started(2, "a"));
    let record = World::new().endpoint("a", [well("Well.")]).run(chat());
    let Told::Ended(report) = journal.tell(ticket, at(9), &record.events.last().unwrap().1) else { panic!() };
    assert_eq!(report.point.unwrap().blobs[4], "http_503");
    assert_eq!(journal.endpoints()[0].attempts, [("http_503".to_owned(), 1), ("ok".to_owned(), 1)]);
}
