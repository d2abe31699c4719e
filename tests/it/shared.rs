//! Isolates that share a store: what one of them finds out, the others know; and whatever the store does, each has a
//! breaker that works.

use crate::{
    record::Record,
    script::*,
    store::{Answer, Inside, Kv},
    wanted::*,
    world::{Member, START, World},
};
use fairlead_core::{
    breaker::{self, Rules, Standing},
    event::Event,
    fleet::{Fleet, Which},
    policy::BreakerPolicy,
    rng::Rng,
};
use serde_json::json;
use std::{cell::RefCell, rc::Rc};

type Isolate = Rc<RefCell<Fleet>>;

const KEY: &str = "breaker:v1:a:m";

/// The breaker of endpoint `a`.
const A: Which = Which { endpoint: 0, entry: Some(0) };

fn isolate() -> Isolate {
    Rc::new(RefCell::new(Fleet::shared(1)))
}

/// A call that asks an endpoint once.
fn world(isolate: &Isolate, kv: &Kv, at: u64) -> World {
    World::new().policy(json!({ "max_attempts": 1 })).fleet(isolate).store(kv).begins(at).seed(at + 1)
}

fn call(isolate: &Isolate, kv: &Kv, at: u64, script: Script) -> Record {
    world(isolate, kv, at).always("a", script).run(chat())
}

/// Whether a call is turned away without a request.
fn is_refused(record: &Record) -> bool {
    record.code() == "circuit_open" && record.requests.is_empty()
}

/// Five failures, of which the last opens it; when.
fn open(isolate: &Isolate, kv: &Kv, at: u64) -> u64 {
    for number in 0..5 {
        call(isolate, kv, at + number, reset());
    }
    let closed = isolate.borrow_mut().gate(A).breaker.is_calm(START.after(at + 4));
    assert!(!closed);
    at + 4
}

fn state(isolate: &Isolate, at: u64) -> &'static str {
    isolate.borrow_mut().gate(A).breaker.view(START.after(at), &BreakerPolicy::default()).state
}

#[test]
fn an_isolate_that_is_started_behind_an_opening_begins_open_and_sends_nothing() {
    let kv = Kv::default();
    kv.inside().takes_ms = 4;
    let (first, second) = (isolate(), isolate());
    let at = open(&first, &kv, 0);
    let written = kv.history(KEY);
    let [(written_at, record)] = &*written else { panic!("{written:?}") };
    assert!((at..at + 10_000).contains(written_at), "in the next second for writing: {written_at}");
    assert_eq!((record.state, record.epoch, record.writes, &*record.reason), (Standing::Open, 1, 1, "unreachable"));
    let refused = world(&second, &kv, 6000).endpoint("a", []).run(chat());
    assert!(is_refused(&refused));
    assert!(refused.ended_at <= 6000 + 20, "the store's answer is waited for, and no more: {}", refused.ended_at);
    let told = |event: &Event| matches!(event, Event::BreakerOpened { reason, .. } if reason == "told");
    assert!(refused.events.iter().any(|(_, event)| told(event)));
}

#[test]
fn word_of_a_recovery_closes_it_elsewhere() {
    let kv = Kv::default();
    let (first, second) = (isolate(), isolate());
    open(&first, &kv, 0);
    assert!(is_refused(&world(&second, &kv, 6000).endpoint("a", []).run(chat())));
    // Whoever had told it tries again, and is served.
    let at = (20_000..300_000).step_by(100).find(|at| call(&first, &kv, *at, well("Yes.")).outcome() == "ok");
    let at = at.expect("a probe");
    let last = kv.record(KEY).expect("a record");
    assert_eq!((last.state, last.epoch, last.writes), (Standing::Closed, 2, 2));
    // Its next read, at most 30 s behind the last one, tells the second.
    call(&second, &kv, at + 40_000, well("Yes."));
    assert_eq!(state(&second, at + 40_000), "closed");
}

#[test]
fn nothing_is_written_but_at_transitions() {
    let kv = Kv::default();
    let only = isolate();
    for number in 0..300 {
        let script = if number % 5 == 0 { reset() } else { well("Yes.") };
        call(&only, &kv, number * 1000, script);
        let others = call(&only, &kv, number * 1000 + 500, answers(400, &[], "{}"));
        assert_eq!(others.status(), 400);
    }
    let inside = kv.inside();
    assert_eq!((inside.writes, inside.limited), (0, 0));
    assert!(inside.reads <= 2 * 12, "two keys every half a minute while something fails: {}", inside.reads);
}

/// What is wrong with a store.
fn faults() -> Vec<(&'static str, Kv)> {
    let with = |change: fn(&mut Inside)| {
        let kv = Kv::default();
        change(&mut kv.inside());
        kv
    };
    vec![
        ("reads fail", with(|kv| kv.gets = Answer::Fails)),
        ("writes fail", with(|kv| kv.puts = Answer::Fails)),
        ("all fails", with(|kv| (kv.gets, kv.puts) = (Answer::Fails, Answer::Fails))),
        ("it fails late", with(|kv| (kv.gets, kv.puts, kv.takes_ms) = (Answer::Fails, Answer::Fails, 3000))),
        ("reads hang", with(|kv| kv.gets = Answer::Hangs)),
        ("all hangs", with(|kv| (kv.gets, kv.puts) = (Answer::Hangs, Answer::Hangs))),
        ("it is slow", with(|kv| kv.takes_ms = 2000)),
        ("it is very slow", with(|kv| kv.takes_ms = 60_000)),
        ("writes are lost", with(|kv| kv.loses = true)),
        ("no JSON", with(|kv| kv.gets = Answer::Says("<html>hush"))),
        ("another's JSON", with(|kv| kv.gets = Answer::Says(r#"{"epoch":-1,"state":"ajar","at_ms":"now"}"#))),
        ("nothing", with(|kv| kv.gets = Answer::Says(""))),
        (
            "the largest numbers",
            with(|kv| {
                kv.gets = Answer::Says(
                    r#"{"epoch":18446744073709551615,"state":"closed","open_until_ms":18446744073709551615,"at_ms":18446744073709551615,"day":18446744073709551615,"writes":4294967295}"#,
                );
            }),
        ),
        ("old words", with(|kv| (kv.stale_ms, kv.forgetful) = (60_000, true))),
    ]
}

#[test]
fn whatever_the_store_does_the_breaker_works_and_only_an_isolates_first_call_waits_for_it() {
    for (name, kv) in faults() {
        let only = isolate();
        let first = call(&only, &kv, 0, well("Yes."));
        assert_eq!(first.outcome(), "ok", "{name}");
        assert!(first.ended_at <= 200, "{name}: {} ms", first.ended_at);
        for at in [1, 100, 199, 200, 201, 1000, 4000, 70_000, 140_000] {
            let record = call(&only, &kv, at, well("Yes."));
            assert_eq!(record.outcome(), "ok", "{name}");
            let waits = record.ended_at.saturating_sub(at);
            assert!(at + waits <= at.max(200), "{name}: {waits} ms at {at}");
        }
        let at = open(&only, &kv, 200_000);
        for at in [at, at + 500, at + 11_000] {
            let record = world(&only, &kv, at).endpoint("a", []).run(chat());
            assert!(is_refused(&record) && record.ended_at == at, "{name}: {:?}", record.events);
        }
        let back = (at + 11_000..at + 300_000)
            .step_by(1000)
            .find(|at| call(&only, &kv, *at, well("Yes.")).outcome() == "ok")
            .expect("used again");
        assert!(back <= at + 25_000, "{name}: {back}, of {at}");
    }
}

#[test]
fn who_comes_while_the_first_word_is_awaited_waits_no_longer_than_the_first() {
    let kv = Kv::default();
    kv.inside().gets = Answer::Hangs;
    let only = isolate();
    let arrivals: Vec<u64> = (0..60).map(|number| number * 10).collect();
    let crowd = World::new()
        .store(&kv)
        .always("a", well("Yes."))
        .fleet(&only)
        .mixed_crowd(arrivals.iter().map(|at| Member::at(*at, &chat())));
    for (sent, at) in crowd.requests.iter().zip(&arrivals) {
        // It looks again every 20 ms.
        assert!((*at.max(&200)..=at.max(&200) + 20).contains(&sent.at), "of the call at {at}");
    }
    assert_eq!(kv.inside().reads, 2, "the endpoint's key and the entry's");
}

#[test]
fn a_record_by_a_clock_that_is_ahead_shuts_nothing() {
    let kv = Kv::default();
    let hour = 3_600_000;
    let ahead = json!({
        "epoch": 9, "state": "open", "reason": "unreachable", "day": 999_999, "writes": 5,
        "open_until_ms": START.as_millis() + 2 * hour, "at_ms": START.as_millis() + hour,
    });
    kv.put(0, KEY, &breaker::Record::read(&ahead.to_string()).unwrap());
    let only = isolate();
    assert!((0..hour / 2).step_by(1000).all(|at| call(&only, &kv, at, well("Yes.")).outcome() == "ok"));
    // What the isolate finds out itself is above it, and does not use up tomorrow's writes.
    open(&only, &kv, hour / 2);
    let last = kv.record(KEY).unwrap();
    assert_eq!((last.state, last.epoch, last.writes), (Standing::Open, 10, 1));
}

/// Isolates at so many endpoints that all flap every half a minute, for a day.
fn flap(isolates: u64, endpoints: &[&str], kv: &Kv) -> Vec<(u64, Event)> {
    const DAY_MS: u64 = 86_400_000;
    let fleets: Vec<Isolate> = (0..isolates).map(|_| Rc::new(RefCell::new(Fleet::shared(endpoints.len())))).collect();
    let chat = chat();
    let members =
        (0..DAY_MS / 2000).map(|number| Member::at(number * 2000, &chat).within(&fleets[(number % isolates) as usize]));
    let breaker = json!({ "consecutive": 1, "open_ms": 5000, "max_open_ms": 10_000 });
    let mut world = World::new().policy(json!({ "max_attempts": endpoints.len(), "breaker": breaker })).store(kv);
    for endpoint in endpoints {
        world = world.always(endpoint, well("Yes."));
        for at in (0..DAY_MS).step_by(60_000) {
            world = world.during(at..at + 30_000, endpoint, reset());
        }
    }
    world.mixed_crowd(members).events
}

#[test]
fn the_days_budget_holds_however_much_flaps_and_however_old_the_words_are() {
    for (isolates, endpoints, stale_ms) in [(12, &["a"][..], 0), (12, &["a", "b"], 0), (60, &["a", "b"], 60_000)] {
        let kv = Kv::default();
        (kv.inside().stale_ms, kv.inside().forgetful) = (stale_ms, stale_ms > 0);
        let events = flap(isolates, endpoints, &kv);
        let own = |(_, event): &&(u64, Event)| match event {
            Event::BreakerOpened { reason, .. } | Event::BreakerClosed { reason, .. } => reason != "told",
            _ => false,
        };
        let changes = events.iter().filter(own).count();
        let Inside { reads, writes, limited, .. } = *kv.inside();
        println!(
            "{isolates} isolates, {} endpoints, words {stale_ms} ms old: {changes} changes, {reads} reads, {writes} writes, {limited} refused",
            endpoints.len()
        );
        assert!(changes > 5000, "{changes}");
        assert!(writes < 800, "{writes} writes by {isolates} isolates with words {stale_ms} ms old");
        let history = kv.history(KEY);
        assert!(history.windows(2).all(|pair| pair[1].0 >= pair[0].0 + 1000), "one a second");
    }
}

#[test]
fn an_isolation_travels_and_so_does_its_end() {
    let kv = Kv::default();
    let (first, second) = (isolate(), isolate());
    assert_eq!(call(&first, &kv, 0, well("Yes.")).outcome(), "ok");
    let endpoint = Which { endpoint: 0, entry: None };
    let said = |at: u64, isolated: bool| {
        let mut fleet = first.borrow_mut();
        let gate = fleet.gate(endpoint);
        gate.breaker.command(START.after(at), isolated).expect("a change");
        gate.channel.tell();
    };
    said(1000, true);
    let refused = world(&first, &kv, 1000).endpoint("a", []).run(chat());
    assert!(is_refused(&refused) && refused.header("retry-after") == Some("30"));
    assert_eq!(kv.record("breaker:v1:a").expect("told").state, Standing::Isolated);
    assert!(is_refused(&world(&second, &kv, 20_000).endpoint("a", []).run(chat())));
    // For as long as he wants.
    assert!(is_refused(&world(&second, &kv, 80_000_000).endpoint("a", []).run(chat())));
    said(80_000_100, false);
    call(&first, &kv, 80_000_200, well("Yes."));
    call(&second, &kv, 80_100_000, well("Yes."));
    assert_eq!(call(&second, &kv, 80_101_000, well("Yes.")).outcome(), "ok");
}

#[test]
fn a_store_that_grants_leases_lets_one_isolate_probe_at_a_time() {
    let kv = Kv::default();
    kv.inside().elects = true;
    let fleets: Vec<Isolate> = (0..20).map(|_| Rc::new(RefCell::new(Fleet::electing(1)))).collect();
    let slow_failure = [wait(2000), reset()].concat();
    // All of them know that it is dead; each has a call every two seconds.
    let members = (0..6000).map(|number| Member::at(number * 100, &chat()).within(&fleets[(number % 20) as usize]));
    let world = World::new().policy(json!({ "max_attempts": 1, "breaker": { "consecutive": 1 } })).store(&kv);
    let crowd = world.always("a", slow_failure).mixed_crowd(members);
    let behind: Vec<u64> = crowd.requests.iter().map(|sent| sent.at).filter(|at| *at > 60_000).collect();
    assert!(behind.len() > 5, "{behind:?}");
    // A lease may be used at its end, and the next one at its beginning; but the first has failed by then.
    assert!(behind.windows(2).all(|pair| pair[1] >= pair[0] + 2000), "one at a time: {behind:?}");
    assert!(behind.windows(3).all(|three| three[2] >= three[0] + 10_000), "one for each lease: {behind:?}");
}

#[test]
fn a_store_that_cannot_be_asked_for_leases_elects_nobody_and_chance_does() {
    for answer in [Answer::Fails, Answer::Hangs] {
        let kv = Kv::default();
        (kv.inside().elects, kv.inside().gets) = (true, answer);
        let only = Rc::new(RefCell::new(Fleet::electing(1)));
        let at = open(&only, &kv, 10_000);
        let back = (at..at + 300_000)
            .step_by(1000)
            .find(|at| call(&only, &kv, *at, well("Yes.")).outcome() == "ok")
            .expect("used again");
        assert!(back <= at + 40_000, "{answer:?}: {back}");
    }
}

#[test]
fn while_a_store_is_slow_a_lease_is_asked_for_by_one_task_and_not_by_every_call() {
    let kv = Kv::default();
    kv.inside().elects = true;
    let only = Rc::new(RefCell::new(Fleet::electing(1)));
    let at = open(&only, &kv, 0);
    kv.inside().gets = Answer::Hangs;
    let reads = kv.inside().reads;
    let members = (0..1000).map(|number| Member::at(at + 40_000 + number, &chat()));
    let world = World::new().policy(json!({ "max_attempts": 1 })).store(&kv).fleet(&only).always("a", reset());
    world.mixed_crowd(members);
    assert!(kv.inside().reads - reads <= 4, "{} reads for a thousand calls", kv.inside().reads - reads);
}

#[test]
fn a_snapshot_as_text_restores_the_same() {
    let kv = Kv::default();
    let first = isolate();
    let at = open(&first, &kv, 0);
    let record = first.borrow_mut().gate(A).breaker.snapshot();
    let again = breaker::Record::read(&record.text()).expect("its own text");
    assert_eq!(again, record);
    let policy = BreakerPolicy::default();
    let (mut other, now) = (breaker::Breaker::default(), START.after(at));
    let rules = Rules { policy: &policy, alone: true };
    assert!(other.restore(now, rules, &again, &mut Rng::from_seed(1)).is_some());
    assert_eq!((other.view(now, &policy).state, other.snapshot().state), ("open", Standing::Open));
    assert!(other.agrees(now, &record));
}
