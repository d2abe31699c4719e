//! The configuration in KV, in virtual time: which version serves whom, how long a call waits for it, what a broken
//! one and a broken store come to, and what it costs.

#![allow(unused_must_use, reason = "some calls are made for what goes on beside them")]

use crate::{
    host::{Host, Sleep, State},
    store::{Answer, Kv},
};
use fairlead_core::{
    drive::reload::{Surroundings, read, ready, tell},
    reload::{GOOD, Reload, Report, Source, WANTED},
    runtime::{Runtime, Store},
    settings::{Environment, Settings},
    time::Instant,
};
use serde_json::{Value, json};
use std::{cell::RefCell, rc::Rc};

/// A version of `CONFIG` that is told by its only endpoint.
fn version(name: &str) -> Value {
    json!({
        "open": true,
        "endpoints": [{ "name": name, "provider": "vllm", "base_url": "https://gpu.example.com/v1" }],
        "models": [{ "name": "*", "targets": [{ "endpoint": name }] }],
        "admin_key_secret": "ADMIN_KEY",
    })
}

fn text(name: &str) -> String {
    version(name).to_string()
}

const BROKEN: &str = r#"{"open": true, "endpoints": [], "admin_key_secret": "ADMIN_KEY"}"#;

/// Isolates, one behind another at the same clock, with one KV.
struct Place {
    world: Rc<RefCell<State>>,
    kv: Kv,
    count: usize,
}

/// One of them.
#[derive(Clone)]
struct Isolate {
    host: Host,
    store: Option<Rc<dyn Store>>,
    reload: Rc<RefCell<Reload>>,
    reports: Rc<RefCell<Vec<String>>>,
}

/// What a call found: the version's endpoint, or the paths of the mistakes; and how long it waited.
type Found = (Result<String, Vec<String>>, u64);

impl Place {
    fn new() -> Self {
        Self { world: Rc::default(), kv: Kv::default(), count: 0 }
    }

    fn isolate(&mut self, variables: Option<Value>) -> Isolate {
        self.count += 1;
        let host = Host { world: Rc::clone(&self.world), leaves_at: None, isolate: self.count, rehearsal: None };
        let reading = Settings::read(variables.map(|config| ("CONFIG".to_owned(), config)), &Anywhere);
        let reload = Reload::new(host.now(), reading, true);
        let store = Some(self.kv.for_isolate(&host));
        Isolate { host, store, reload: Rc::new(RefCell::new(reload)), reports: Rc::default() }
    }

    fn pass(&self, ms: u64) {
        self.world.borrow_mut().now += ms;
    }

    fn put(&self, key: &str, text: &str) {
        let now = self.world.borrow().now;
        self.kv.write(now, key, text);
    }
}

impl Isolate {
    /// One call, as the Worker begins it, and what goes on beside it.
    fn call(&self) -> Found {
        self.calls(1).remove(0)
    }

    /// Calls that come one each millisecond.
    fn calls(&self, count: u64) -> Vec<Found> {
        let found = Rc::new(RefCell::new(Vec::new()));
        for at in 0..count {
            let (isolate, found) = (self.clone(), Rc::clone(&found));
            let arrives_at = self.host.now_ms() + at;
            self.host.spawn(Box::pin(async move {
                isolate.host.moment(arrives_at).await;
                let seen = isolate.begin().await;
                found.borrow_mut().push(seen);
            }));
        }
        self.host.run(async {}, None, &mut |_| {});
        found.take()
    }

    async fn begin(&self) -> Found {
        let arrived = self.host.now();
        let due = self.reload.borrow_mut().begin(arrived);
        if let Some(store) = self.store.clone().filter(|_| due) {
            let (reload, isolate) = (Rc::clone(&self.reload), self.clone());
            self.host.spawn(Box::pin(async move { read(&reload, &*store, &isolate).await }));
        }
        ready(&self.reload, self, arrived).await;
        (self.current(), self.host.now().since(arrived))
    }

    fn current(&self) -> Result<String, Vec<String>> {
        let current = Rc::clone(self.reload.borrow().current());
        match &current.settings {
            Ok(settings) => Ok(settings.endpoints[0].1.name.clone()),
            Err(mistakes) => Err(mistakes.iter().map(|mistake| mistake.path.clone()).collect()),
        }
    }

    fn view(&self) -> Value {
        serde_json::to_value(self.reload.borrow().view()).unwrap()
    }

    fn told(&self) -> Vec<String> {
        tell(&self.reload, self);
        self.reports.take()
    }
}

impl Surroundings for Isolate {
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        Runtime::now(&self.host)
    }

    fn sleep(&self, ms: u64) -> Sleep {
        Runtime::sleep(&self.host, ms)
    }

    fn tell(&self, report: &Report) {
        self.reports.borrow_mut().push(match report {
            Report::Mistake(source, mistake) => format!("{source:?} {}", mistake.path),
            Report::Warning(source, warning) => format!("{source:?} warns {}", warning.path),
            Report::Serves(source) => format!("{source:?} serves"),
            Report::StoreFailed(operation) => format!("{operation} failed"),
        });
    }
}

impl Environment for Isolate {
    fn secret(&self, name: &str) -> Option<String> {
        Anywhere.secret(name)
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

/// Has one secret.
struct Anywhere;

impl Environment for Anywhere {
    fn secret(&self, name: &str) -> Option<String> {
        (name == "ADMIN_KEY").then(|| "sesame".to_owned())
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

fn ok(name: &str) -> Result<String, Vec<String>> {
    Ok(name.to_owned())
}

#[test]
fn what_stands_in_kv_wins_over_the_variables_from_the_first_call_on() {
    let mut place = Place::new();
    place.kv.inside().takes_ms = 40;
    place.put(WANTED, &text("kv"));
    let isolate = place.isolate(Some(version("var")));
    for (found, waited_ms) in isolate.calls(5) {
        assert_eq!(found, ok("kv"));
        assert!((35..=45).contains(&waited_ms), "{waited_ms}");
    }
    assert_eq!(isolate.call(), (ok("kv"), 0), "afterwards nobody waits");
    assert_eq!(isolate.told(), ["Kv serves"]);
    assert_eq!((&isolate.view()["source"], &isolate.view()["refused"]), (&json!("kv"), &Value::Null));
}

#[test]
fn without_anything_in_kv_the_variables_serve() {
    let mut place = Place::new();
    let isolate = place.isolate(Some(version("var")));
    assert_eq!(isolate.call().0, ok("var"));
    assert_eq!(isolate.view()["source"], "var");
    assert_eq!(isolate.told(), [""; 0]);
    assert_eq!(place.kv.inside().reads, 1, "nobody asks for a good version where none is wanted");
}

#[test]
fn a_change_is_taken_within_half_a_minute_and_reading_goes_with_the_calls() {
    let mut place = Place::new();
    let isolate = place.isolate(Some(version("var")));
    isolate.call();
    place.put(WANTED, &text("new"));
    let mut taken_ms = 0;
    while isolate.call() != (ok("new"), 0) {
        place.pass(1000);
        taken_ms += 1000;
        assert!(taken_ms <= 31_000, "not taken");
    }
    let reads = place.kv.inside().reads;
    place.pass(3_600_000);
    assert_eq!(place.kv.inside().reads, reads, "nothing is read while nobody calls");
    for _ in 0..3600 {
        assert_eq!(isolate.call(), (ok("new"), 0));
        place.pass(1000);
    }
    let hourly = place.kv.inside().reads - reads;
    assert!((115..=125).contains(&hourly), "{hourly} reads in an hour of calls");
}

#[test]
fn a_valid_version_is_kept_once_by_whoever_finds_it_first() {
    let mut place = Place::new();
    place.put(WANTED, &text("kv"));
    let isolates: Vec<Isolate> = (0..20).map(|_| place.isolate(Some(version("var")))).collect();
    for _ in 0..100 {
        for isolate in &isolates {
            assert_eq!(isolate.call().0, ok("kv"));
        }
        place.pass(10_000);
    }
    assert_eq!(place.kv.text(GOOD), Some(text("kv")));
    assert_eq!(place.kv.inside().writes, 1);
}

#[test]
fn where_all_find_it_at_once_kv_is_written_a_few_times_and_ends_right() {
    let mut place = Place::new();
    place.kv.inside().stale_ms = 45_000;
    let isolates: Vec<Isolate> = (0..50).map(|_| place.isolate(Some(version("var")))).collect();
    for (round, name) in [(0, "first"), (1, "second")] {
        place.put(WANTED, &text(name));
        for _ in 0..40 {
            for isolate in &isolates {
                isolate.call();
            }
            place.pass(5000);
        }
        assert!(isolates.iter().all(|isolate| isolate.current() == ok(name)), "round {round}");
        assert_eq!(place.kv.text(GOOD), Some(text(name)));
    }
    let inside = place.kv.inside();
    assert!(inside.writes <= 12, "{} writes", inside.writes);
}

#[test]
fn a_broken_version_changes_nothing_but_what_is_reported() {
    let mut place = Place::new();
    place.put(WANTED, &text("kv"));
    let isolate = place.isolate(Some(version("var")));
    isolate.call();
    isolate.told();
    for broken in [BROKEN, "{", "", "null", "[]", "7", "\u{0}", &"[".repeat(100_000)] {
        place.pass(30_000);
        place.put(WANTED, broken);
        for _ in 0..5 {
            assert_eq!(isolate.call(), (ok("kv"), 0), "{broken:.20}");
            place.pass(30_000);
        }
        let view = isolate.view();
        assert_eq!(view["source"], "kv");
        let mistakes = view["refused"]["mistakes"].as_array().unwrap();
        let told = isolate.told();
        assert_eq!(told.len(), mistakes.len(), "each once: {told:?}");
        assert!(!mistakes.is_empty() && mistakes[0]["path"].is_string() && mistakes[0]["message"].is_string());
    }
    assert_eq!(place.kv.text(GOOD), Some(text("kv")), "and the good one stays");
    place.put(WANTED, &text("kv"));
    isolate.call();
    assert_eq!(isolate.view()["refused"], Value::Null, "it was taken back");
}

#[test]
fn a_new_isolate_serves_with_the_last_good_version_while_the_wanted_one_is_broken() {
    for variables in [Some(version("var")), Some(json!({})), None] {
        let mut place = Place::new();
        place.kv.inside().takes_ms = 20;
        place.put(WANTED, BROKEN);
        place.put(GOOD, &text("good"));
        let isolate = place.isolate(variables);
        let (found, waited_ms) = isolate.call();
        assert_eq!(found, ok("good"));
        assert!(waited_ms <= 45, "{waited_ms}");
        assert_eq!(isolate.view()["source"], "kv_good");
        assert_eq!(isolate.told(), ["Kv endpoints", "Kv models", "KvGood serves"]);
        place.put(WANTED, &text("mended"));
        place.pass(30_000);
        isolate.call();
        assert_eq!(isolate.call().0, ok("mended"));
        assert_eq!(place.kv.text(GOOD), Some(text("mended")));
    }
}

#[test]
fn where_no_good_version_is_kept_a_broken_one_leaves_the_variables() {
    let mut place = Place::new();
    place.put(WANTED, BROKEN);
    let isolate = place.isolate(Some(version("var")));
    assert_eq!(isolate.call().0, ok("var"));
    assert_eq!(isolate.view()["source"], "var");
    assert!(isolate.view()["refused"].is_object());
    place.put(GOOD, BROKEN);
    place.pass(30_000);
    isolate.call();
    assert_eq!(isolate.call().0, ok("var"));
}

#[test]
fn where_nothing_can_serve_all_mistakes_are_there_for_an_admin() {
    let mut place = Place::new();
    place.put(WANTED, BROKEN);
    let isolate = place.isolate(None);
    assert_eq!(isolate.call().0, Err(vec!["endpoints".to_owned(), "models".to_owned()]));
    assert!(isolate.reload.borrow().current().admin_key.as_ref().is_some_and(|key| key.matches("sesame")));
    assert_eq!(isolate.told(), ["Kv endpoints", "Kv models", "Var CONFIG"]);
    let of_variables = Place::new().isolate(Some(json!({ "admin_key_secret": "ADMIN_KEY" })));
    of_variables.call();
    assert!(of_variables.reload.borrow().current().admin_key.is_some());
    place.put(WANTED, &text("mended"));
    place.pass(1000);
    assert_eq!(isolate.call().0, ok("mended"), "it is looked for at once, not after half a minute");
}

#[test]
fn an_admin_sees_a_broken_version_with_the_key_of_the_variables_if_it_names_none() {
    let mut place = Place::new();
    place.put(WANTED, "{");
    let isolate = place.isolate(Some(json!({ "admin_key_secret": "ADMIN_KEY" })));
    assert_eq!(isolate.call().0, Err(vec!["CONFIG".to_owned()]));
    assert!(isolate.reload.borrow().current().admin_key.is_some());
}

#[test]
fn a_deleted_version_gives_way_to_the_variables_or_else_serves_on() {
    for (variables, then, source) in [(Some(version("var")), "var", "var"), (None, "kv", "kv_good")] {
        let mut place = Place::new();
        place.put(WANTED, &text("kv"));
        let isolate = place.isolate(variables.clone());
        assert_eq!(isolate.call().0, ok("kv"));
        place.kv.delete(WANTED);
        place.pass(30_000);
        isolate.call();
        assert_eq!(isolate.call().0, ok(then));
        assert_eq!(isolate.view()["source"], source);
        let new = place.isolate(variables);
        assert_eq!(new.call().0, ok(then));
        assert_eq!(new.view()["source"], source);
        place.put(WANTED, &text("kv"));
        place.pass(30_000);
        isolate.call();
        assert_eq!((isolate.current(), isolate.view()["source"].clone()), (ok("kv"), json!("kv")));
    }
}

#[test]
fn a_version_that_was_taken_back_does_not_return_behind_a_broken_one() {
    let mut place = Place::new();
    place.put(WANTED, &text("kv"));
    let isolate = place.isolate(Some(version("var")));
    isolate.call();
    assert_eq!(place.kv.text(GOOD), Some(text("kv")));
    place.kv.delete(WANTED);
    place.pass(30_000);
    isolate.call();
    let before = place.kv.inside().reads;
    place.put(WANTED, BROKEN);
    for _ in 0..5 {
        place.pass(30_000);
        isolate.call();
        assert_eq!(isolate.call().0, ok("var"), "what was in force stays so");
    }
    assert!(isolate.view()["refused"].is_object());
    assert_eq!(place.kv.inside().reads - before, 5, "nobody asks for a good version any more");
    let new = place.isolate(Some(version("var")));
    assert_eq!(new.call().0, ok("var"), "neither does it in an isolate that begins");
    place.put(WANTED, &text("next"));
    place.pass(30_000);
    isolate.call();
    assert_eq!((isolate.call().0, place.kv.text(GOOD)), (ok("next"), Some(text("next"))));
}

#[test]
fn a_store_that_fails_or_hangs_costs_the_first_calls_200_ms_and_nothing_else() {
    for (answer, most_ms) in [(Answer::Fails, 5), (Answer::Hangs, 200)] {
        let mut place = Place::new();
        place.kv.inside().gets = answer;
        let isolate = place.isolate(Some(version("var")));
        for (found, waited_ms) in isolate.calls(20) {
            assert_eq!(found, ok("var"));
            assert!(waited_ms <= most_ms, "{waited_ms} ms for one that {answer:?}");
        }
        for _ in 0..20 {
            place.pass(7000);
            assert_eq!(isolate.call(), (ok("var"), 0));
        }
        assert_eq!(isolate.told(), ["get failed"], "once");
        place.kv.inside().gets = Answer::Works;
        place.put(WANTED, &text("kv"));
        place.pass(30_000);
        isolate.call();
        assert_eq!(isolate.call(), (ok("kv"), 0));
        for answer in [Answer::Fails, Answer::Hangs] {
            place.kv.inside().gets = answer;
            for _ in 0..20 {
                place.pass(7000);
                assert_eq!(isolate.call(), (ok("kv"), 0), "what serves goes on serving");
            }
        }
    }
}

#[test]
fn a_slow_store_is_waited_for_where_there_is_nothing_else_but_not_for_ever() {
    let mut place = Place::new();
    place.kv.inside().takes_ms = 3000;
    place.put(WANTED, &text("kv"));
    let isolate = place.isolate(None);
    for (found, waited_ms) in isolate.calls(5) {
        assert_eq!(found, ok("kv"));
        assert!((2990..=3005).contains(&waited_ms), "{waited_ms}");
    }
    let isolate = place.isolate(Some(version("var")));
    assert_eq!(isolate.call(), (ok("var"), 200));
    place.kv.inside().gets = Answer::Hangs;
    let isolate = place.isolate(None);
    let (found, waited_ms) = isolate.call();
    assert_eq!(found, Err(vec!["CONFIG".to_owned()]));
    assert_eq!(waited_ms, 5000);
    assert_eq!(isolate.current(), Err(vec!["CONFIG".to_owned(), "config".to_owned()]), "and why");
    place.kv.inside().gets = Answer::Works;
    assert_eq!(isolate.call().0, ok("kv"));
}

#[test]
fn a_reading_that_was_lost_with_its_request_is_begun_again() {
    let mut place = Place::new();
    let isolate = place.isolate(Some(version("var")));
    let now = |place: &Place| {
        Runtime::now(&Host { world: Rc::clone(&place.world), leaves_at: None, isolate: 0, rehearsal: None })
    };
    assert!(isolate.reload.borrow_mut().begin(now(&place)));
    place.pass(19_999);
    assert!(!isolate.reload.borrow_mut().begin(now(&place)));
    place.pass(1);
    assert!(isolate.reload.borrow_mut().begin(now(&place)));
}

#[test]
fn writes_that_fail_cost_nobody_anything_and_end() {
    for answer in [Answer::Fails, Answer::Hangs] {
        let mut place = Place::new();
        place.kv.inside().puts = answer;
        place.put(WANTED, &text("kv"));
        let isolate = place.isolate(None);
        for _ in 0..100 {
            assert_eq!(isolate.call().0, ok("kv"));
            place.pass(10_000);
        }
        let told = isolate.told();
        assert!(told.contains(&"put failed".to_owned()) && told.len() <= 5, "{told:?}");
        assert!(place.kv.inside().reads <= 45, "it gives up: {} reads", place.kv.inside().reads);
    }
}

#[test]
fn a_text_beyond_a_mebibyte_is_refused_unread() {
    let mut place = Place::new();
    let padded = |bytes: usize| format!("{}{}", text("kv"), " ".repeat(bytes - text("kv").len()));
    place.put(WANTED, &padded(1 << 20));
    assert_eq!(place.isolate(Some(version("var"))).call().0, ok("kv"));
    place.put(WANTED, &padded((1 << 20) + 1));
    let isolate = place.isolate(None);
    isolate.call();
    assert_eq!(
        isolate.view()["refused"]["mistakes"][0]["message"],
        "is 1048577 bytes long; it must be at most 1048576"
    );
}

#[test]
fn names_keep_their_places_through_versions_and_new_ones_get_new_places() {
    let with = |endpoints: &[&str]| {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|name| json!({ "name": name, "provider": "vllm", "base_url": "https://gpu.example.com/v1" }))
            .collect();
        let target = json!([{ "endpoint": endpoints[0]["name"] }]);
        let clients =
            [("p", "00"), ("q", "11")].map(|(name, byte)| json!({ "name": name, "keys_sha256": [byte.repeat(32)] }));
        json!({ "endpoints": endpoints, "models": [{ "name": "m", "targets": target }], "clients": clients })
    };
    let mut place = Place::new();
    let isolate = place.isolate(Some(with(&["a", "b", "c"])));
    let places = || {
        let current = Rc::clone(isolate.reload.borrow().current());
        let settings = current.settings.as_ref().unwrap();
        assert_eq!(settings.clients.iter().map(|client| client.index).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(settings.models[0].index, Some(0));
        let target = &settings.models[0].targets[0];
        let endpoints = settings.endpoints.iter();
        assert!(endpoints.clone().any(|(at, other)| *at == target.index && other.name == target.endpoint.name));
        endpoints.map(|(at, endpoint)| (endpoint.name.clone(), *at)).collect::<Vec<_>>()
    };
    let named =
        |places: &[(&str, usize)]| places.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect::<Vec<_>>();
    assert_eq!(places(), named(&[("a", 0), ("b", 1), ("c", 2)]));
    for (version, expected) in [
        (with(&["c", "d", "a"]), named(&[("c", 2), ("d", 3), ("a", 0)])),
        (with(&["e"]), named(&[("e", 4)])),
        (with(&["b", "e"]), named(&[("b", 1), ("e", 4)])),
    ] {
        place.put(WANTED, &version.to_string());
        place.pass(30_000);
        isolate.call();
        assert_eq!(places(), expected);
    }
    place.kv.delete(WANTED);
    place.pass(30_000);
    isolate.call();
    assert_eq!(places(), named(&[("a", 0), ("b", 1), ("c", 2)]));
    place.put(WANTED, &with(&["f"]).to_string());
    place.pass(30_000);
    isolate.call();
    assert_eq!(places(), named(&[("f", 5)]), "d and e keep theirs");
}

#[test]
fn calls_in_flight_keep_what_they_began_with() {
    let mut place = Place::new();
    let isolate = place.isolate(Some(version("var")));
    isolate.call();
    let in_flight = Rc::clone(isolate.reload.borrow().current());
    place.put(WANTED, &text("kv"));
    place.pass(30_000);
    isolate.call();
    assert_eq!(isolate.current(), ok("kv"));
    assert_eq!(in_flight.settings.as_ref().unwrap().endpoints[0].1.name, "var");
}

#[test]
fn a_version_is_told_where_it_came_from_in_three_words() {
    for (source, word) in [(Source::Var, "var"), (Source::Kv, "kv"), (Source::KvGood, "kv_good")] {
        assert_eq!(serde_json::to_value(source).unwrap(), word);
    }
}
