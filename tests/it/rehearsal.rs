//! What an admin has go wrong on purpose is to everybody else what it looks like.

use crate::{
    engine::Engine,
    record::Record,
    runpod::{Runpod, Work},
    script::*,
    wanted::{Wanted, chat, chat_whole, errand},
    world::World,
};
use fairlead_core::{error::Code, event::Event, fleet::Fleet, jobs::Op, message::Headers, settings::Settings};
use serde_json::{Value, json};
use std::{cell::RefCell, rc::Rc};

const TEXT: &str = "It was a dark and stormy night.";

/// A fault, what a server does that really has it, and the text behind which a stream has it.
fn faults() -> Vec<(&'static str, Script)> {
    let begun = || [opened(), role(), says("It "), says("was ")].concat();
    let whole = well(TEXT);
    vec![
        ("http-503", answers(503, &[], "{}")),
        ("http-429", answers(429, &[], "{}")),
        ("http-401", answers(401, &[], "{}")),
        ("unreachable", reset()),
        ("stall", Script::new()),
        ("cut=0", [opened(), reset()].concat()),
        ("cut=1", [opened(), role(), reset()].concat()),
        ("cut=3", [begun(), reset()].concat()),
        ("stall-after=0", opened()),
        ("stall-after=3", begun()),
        ("slow=1500", [wait(1500), whole.clone()].concat()),
        ("slow=90000", [wait(90_000), whole].concat()),
    ]
}

/// The same in answers that do not stream.
fn faults_of_whole_answers() -> Vec<(&'static str, Script)> {
    let json = || head(200, &[("content-type", "application/json")]);
    let whole = || [json(), raw(answer(TEXT))].concat();
    vec![
        ("http-500", answers(500, &[], "{}")),
        ("unreachable", reset()),
        ("stall", Script::new()),
        ("cut=0", [json(), reset()].concat()),
        ("cut=7", [whole(), reset()].concat()),
        ("stall-after=0", json()),
        ("stall-after=7", whole()),
        ("slow=1500", [wait(1500), whole(), end()].concat()),
    ]
}

fn policy() -> Value {
    json!({ "deadline_ms": 60_000, "headers_ms": 2000, "first_token_ms": 5000, "idle_ms": 3000, "backoff": { "base_ms": 0 } })
}

/// What everybody saw of a call.
fn seen(record: &Record) -> (Vec<u8>, Option<u16>, Vec<String>, String, u64) {
    let status = record.head.as_ref().map(|head| head.status);
    (record.body(), status, record.failures(), record.outcome().to_owned(), record.ended_at)
}

fn alike(wanted: &Wanted, well: &Script, faults: Vec<(&'static str, Script)>) {
    for (fault, really) in faults {
        // Alone and at every attempt.
        let alone = || World::new().policy(policy());
        let played =
            alone().always("a", well.clone()).rehearse(&format!("{fault}; attempts=1,2,3")).run(wanted.clone());
        let real = alone().always("a", really.clone()).run(wanted.clone());
        assert_eq!(seen(&played), seen(&real), "{fault}");
        // The first of two.
        let first = || World::new().policy(policy());
        let played = first().always("a", well.clone()).always("b", well.clone()).rehearse(fault).run(wanted.clone());
        let real = first().always("a", really).always("b", well.clone()).run(wanted.clone());
        assert_eq!(seen(&played), seen(&real), "{fault} with another endpoint");
    }
}

#[test]
fn a_fault_that_is_played_is_to_everybody_what_a_real_one_is() {
    alike(&chat(), &well(TEXT), faults());
}

#[test]
fn in_answers_that_do_not_stream_too() {
    alike(&chat_whole(), &answers(200, &[], answer(TEXT)), faults_of_whole_answers());
}

#[test]
fn events_are_counted_wherever_chunks_end() {
    let bytes = body_of(&well(TEXT));
    let at_once = [opened(), raw(&bytes), end()].concat();
    let bytewise = [opened(), cut_at(&bytes, 1..bytes.len()), end()].concat();
    let expected = body_of(&[role(), says("It "), says("was ")].concat());
    for script in [at_once, bytewise] {
        for world in [World::new(), World::new().piece_by_piece()] {
            let record = world.policy(policy()).always("a", script.clone()).rehearse("cut=3").run(chat());
            assert!(record.body().starts_with(&expected), "{}", record.text());
            assert!(!record.text().contains("dark"), "{}", record.text());
            assert_eq!(record.code(), "stream_interrupted");
        }
    }
}

#[test]
fn a_stream_with_fewer_events_breaks_where_it_ends() {
    let record = World::new().policy(policy()).always("a", well("Yes.")).rehearse("cut=999").run(chat());
    // Nothing of it is missing.
    assert_eq!((record.body(), record.outcome()), (body_of(&well("Yes.")), "ok"));
}

#[test]
fn a_stream_carried_by_the_hosts_pipe_is_cut_all_the_same() {
    let native = json!({ "forward": "native" });
    let script = [opened(), role(), says("It "), wait(400), says("was "), wait(400), says("dark"), end()].concat();
    let record = World::new().policy(native).always("a", script).rehearse("cut=3").run(chat());
    assert_eq!((record.code(), record.text().contains("dark")), ("stream_interrupted".to_owned(), false));
}

#[test]
fn nothing_is_sent_where_nothing_could_arrive_and_what_stalls_is_let_go() {
    for fault in ["http-503", "unreachable", "stall"] {
        let world = World::new().policy(policy()).always("a", well(TEXT)).always("b", well(TEXT));
        let record = world.rehearse(fault).run(chat());
        assert_eq!((record.asked(), record.outcome()), ("b".to_owned(), "ok"), "{fault}");
    }
    for fault in ["stall-after=1", "slow=9000", "cut=1"] {
        let world = World::new().policy(policy()).always("a", well(TEXT)).always("b", well(TEXT));
        let record = world.rehearse(fault).run(chat());
        assert_eq!((record.asked(), record.outcome()), ("ab".to_owned(), "ok"), "{fault}");
        assert_eq!(record.left_open, 0, "{fault}");
    }
    let record =
        World::new().policy(policy()).always("a", well(TEXT)).rehearse("stall-after=2").leaves(700).run(chat());
    assert_eq!((record.outcome(), record.requests[0].over_at), ("client_gone", Some(700)));
}

#[test]
fn a_stream_that_is_cut_goes_on_elsewhere_as_one_that_breaks() {
    let mut engine = Engine::of(&["A", " fairlead", " guides", " a", " line", "."]);
    let text = engine.text();
    let mut other = engine.clone();
    let world = World::new()
        .policy(json!({ "resume": "continue", "backoff": { "base_ms": 0 } }))
        .answers("a", Box::new(move |request| engine.answer(request)))
        .answers("b", Box::new(move |request| other.answer(request)));
    let record = world.rehearse("cut=4; endpoint=a").run(chat());
    let said: String = record
        .reads()
        .iter()
        .filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok())
        .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!((said, record.outcome()), (text, "ok"));
    assert!(
        record
            .events
            .iter()
            .any(|(_, event)| matches!(event, Event::StreamResumed { endpoint, .. } if endpoint == "b"))
    );
}

#[test]
fn a_breaker_opens_at_faults_that_are_played() {
    let fleet: Rc<RefCell<Fleet>> = Rc::default();
    let call = |at: u64, faults: Option<&str>| {
        let world = World::new().policy(json!({ "max_attempts": 1 })).fleet(&fleet).begins(at).always("a", well(TEXT));
        match faults {
            Some(faults) => world.rehearse(faults).run(chat()),
            None => world.run(chat()),
        }
    };
    for at in 0..5 {
        assert_eq!(call(at * 100, Some("unreachable")).code(), "upstream_unreachable");
    }
    let shut = call(600, None);
    assert_eq!((shut.status(), shut.code()), (503, "circuit_open".to_owned()));
    assert_eq!(call(60_000, None).outcome(), "ok");
}

fn queue() -> Runpod {
    Runpod::of(Work::chat("one two three four five six", 300).queued(400))
}

#[test]
fn of_a_job_a_fault_hits_every_request_but_the_cancel() {
    for fault in ["http-500", "unreachable"] {
        let record = World::new().policy(policy()).jobs(queue()).rehearse(&format!("{fault}; endpoint=d")).run(chat());
        assert_eq!((record.code(), record.runpod().visits.len()), ("upstream_unreachable".to_owned(), 0), "{fault}");
    }
    let world = World::new().policy(policy()).jobs(queue()).always("b", well(TEXT));
    let record = world.rehearse("stall").run(chat());
    assert_eq!((record.outcome(), record.asked()), ("ok", "b".to_owned()));
    let record = World::new().jobs(queue()).rehearse("slow=500").run(chat());
    assert_eq!(record.outcome(), "ok");
}

#[test]
fn a_job_whose_queue_falls_silent_is_given_up_and_cancelled() {
    for (fault, ms) in [("cut=5", 60_000), ("stall-after=5", 60_000)] {
        let world = World::new()
            .policy(json!({ "idle_ms": 600_000, "progress_ms": 600_000 }))
            .jobs(Runpod::of(Work::chat(&"word ".repeat(400), 1000)));
        let record = world.rehearse(fault).run(chat());
        let runpod = record.runpod();
        let answered = runpod.visits.iter().take_while(|visit| visit.op != Op::Cancel).count();
        assert_eq!((answered, runpod.count(Op::Cancel) > 0), (5, true), "{fault}");
        assert!(record.ended_at >= ms, "{fault}: {}", record.ended_at);
        assert!(runpod.job().billed_until().unwrap() <= record.ended_at + 1500, "{fault}");
    }
}

#[test]
fn a_clients_own_errand_is_hit_too() {
    let submitted = errand("run").with(&json!({ "input": {} }));
    let record = World::new().jobs(queue()).rehearse("http-503").visit(submitted.clone()).unwrap();
    assert_eq!((record.code(), record.runpod().visits.len()), ("upstream_overloaded".to_owned(), 0));
    let record = World::new().jobs(queue()).rehearse("stall").visit(submitted.within(2000)).unwrap();
    assert_eq!(record.code(), "deadline_exceeded");
}

fn settings(faults: bool, admin: bool) -> Settings {
    let config = json!({
        "open": true, "faults": faults,
        "endpoints": [{ "name": "a", "provider": "vllm", "base_url": "https://a.example/v1" }],
        "models": [{ "name": "m", "targets": [{ "endpoint": "a" }] }],
        "admin_key_secret": admin.then_some("KEY_ADMIN"),
    });
    Settings::read([("CONFIG".to_owned(), config)], &crate::world::Vault).settings.unwrap()
}

#[test]
fn only_an_admin_has_things_go_wrong_and_only_where_that_is_on() {
    let ask = |faults, admin, fields: &[(&str, &str)]| {
        let headers = Headers::from_iter(fields.iter().copied());
        settings(faults, admin).rehearsal(&headers).map(|plan| plan.is_some()).map_err(|error| error.code)
    };
    let (fault, key) = (("x-fairlead-fault", "stall"), ("x-fairlead-admin-key", "sk-hush-admin"));
    assert_eq!(ask(true, true, &[fault, key]), Ok(true));
    assert_eq!(ask(true, true, &[key]), Ok(false));
    assert_eq!(ask(false, false, &[]), Ok(false));
    for (faults, admin, fields) in [
        (false, true, &[fault, key][..]),
        (true, false, &[fault, key]),
        (true, true, &[fault]),
        (true, true, &[fault, ("x-fairlead-admin-key", "sk-hush-admin2")]),
        (true, true, &[fault, ("x-fairlead-admin-key", "")]),
        (true, true, &[fault, ("authorization", "Bearer sk-hush-admin")]),
        // Whoever is no admin is not told how it is done.
        (true, true, &[("x-fairlead-fault", "?")]),
    ] {
        assert_eq!(ask(faults, admin, fields), Err(Code::Forbidden), "{fields:?}");
    }
    for wrong in ["?", "", "cut=5; endpoint=b"] {
        assert_eq!(ask(true, true, &[("x-fairlead-fault", wrong), key]), Err(Code::InvalidRequest), "{wrong}");
    }
}
