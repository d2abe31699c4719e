//! What a client sends: the peek into its body on every route, and what is made of that body for an endpoint. The
//! first byte chooses the route; of forms the first line is the boundary, of RunPod's routes the path and query.

use super::{choose, value, within};
use fairlead_core::{
    access::{Client, Limits},
    api::Api,
    ask::Ask,
    config::{Mode, Provider},
    error::Error,
    message::Headers,
    native::{Mark, Path, Visit},
    settings::{Endpoint, Secret},
    time::Instant,
};
use serde_json::{Value, json};
use std::rc::Rc;

/// The name that an endpoint knows the model by.
const OTHER: &str = "other/\"name\"";

pub fn run(data: &[u8]) {
    let (route, data) = choose(data);
    match Api::ALL.get(route % (Api::ALL.len() + 2)) {
        Some(api) if api.takes_form() => form(*api, data),
        Some(api) => json_body(*api, data),
        None => native(data),
    }
}

fn read(api: Api, headers: &Headers, body: &Rc<[u8]>) -> Option<Ask> {
    // What is kept of a request: what it says of itself, never more than it is.
    match within(4, body.len(), "a peek", || Ask::read(api, headers, Rc::clone(body))) {
        Ok(ask) => Some(ask),
        Err(error) => {
            check_error(&error);
            None
        }
    }
}

/// A mistake is named, and what was sent is not repeated at length.
fn check_error(error: &Error) {
    assert!(error.message.len() < 400, "{}", error.message);
    assert!((400..500).contains(&error.code.status()));
}

fn json_body(api: Api, data: &[u8]) {
    let body: Rc<[u8]> = data.into();
    let Some(ask) = read(api, &Headers::new(), &body) else { return };
    check_ask(api, &ask);
    bounded(api, &body);
    assert!(Rc::ptr_eq(&ask.body_for(None), &body) && Rc::ptr_eq(&ask.body_for(Some(&ask.model)), &body));
    let renamed = ask.body_for(Some(OTHER));
    let Some(mut expected) = value(&body) else { return };
    assert_eq!(expected["model"], ask.model);
    expected["model"] = OTHER.into();
    if ask.model != OTHER {
        assert_eq!(value(&renamed), Some(expected));
        only_one_place_differs(&body, &renamed, &json!(OTHER).to_string());
    }
    let again = read(api, &Headers::new(), &renamed).unwrap();
    assert_eq!(
        (&*again.model, again.stream, again.choices, again.held_back),
        (OTHER, ask.stream, ask.choices, ask.held_back)
    );
    // All of its members are looked at, which takes more than the peek.
    let Some(streamed) = within(48, body.len(), "asking for a stream", || ask.streamed()) else { return };
    let mut expected = value(&body).unwrap();
    expected["stream"] = true.into();
    expected["stream_options"] = json!({ "include_usage": true });
    assert_eq!(value(&streamed.body), Some(expected));
    let again = read(api, &Headers::new(), &streamed.body).unwrap();
    assert!(again.stream && streamed.stream);
    assert_eq!((&again.model, again.choices), (&ask.model, ask.choices));
    assert_eq!(value(&streamed.body_for(Some(OTHER))).unwrap()["model"], OTHER);
}

/// A client with limits asks for no more than they are, in whatever form; and only a limit is written into its body.
fn bounded(api: Api, body: &Rc<[u8]>) {
    const MOST: u64 = 50;
    let limits = Limits { max_tokens: Some(MOST), max_n: Some(4), ..Limits::default() };
    let ask = match Ask::read_within(api, &Headers::new(), Rc::clone(body), Some(&limits)) {
        Ok(ask) => ask,
        Err(error) => return check_error(&error),
    };
    assert!(ask.choices <= 4 || !api.has_choices());
    let (Some(mut sent), Some(mut given)) = (value(&ask.body), value(body)) else { return };
    assert_eq!(sent["model"], ask.model);
    let names: &[&str] = match api {
        Api::Chat => &["max_completion_tokens", "max_tokens"],
        Api::Completions | Api::Messages => &["max_tokens"],
        Api::Responses => &["max_output_tokens"],
        _ => &[],
    };
    assert!(names.is_empty() || names.iter().any(|name| sent[name].is_u64()));
    for name in names {
        assert!(sent[name].is_null() || sent[name].as_u64().is_some_and(|tokens| tokens <= MOST), "{name}");
        if given[name].is_null() {
            for fields in [&mut sent, &mut given] {
                fields.as_object_mut().unwrap().remove(*name);
            }
        }
    }
    assert_eq!(sent, given);
    assert_eq!(value(&ask.body_for(Some(OTHER))).unwrap()["model"], OTHER);
}

fn form(api: Api, data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (boundary, body) = data.split_at(end);
    let body: Rc<[u8]> = body.get(1..).unwrap_or_default().into();
    let boundary = String::from_utf8_lossy(boundary);
    let headers = Headers::from_iter([("content-type", format!("multipart/form-data; boundary={boundary}"))]);
    let Some(ask) = read(api, &headers, &body) else { return };
    check_ask(api, &ask);
    let renamed = ask.body_for(Some("other"));
    if ask.model == "other" {
        return;
    }
    only_one_place_differs(&body, &renamed, "other");
    let again = read(api, &headers, &renamed).unwrap();
    assert_eq!((&*again.model, again.stream), ("other", ask.stream));
}

fn check_ask(api: Api, ask: &Ask) {
    assert!(!ask.model.is_empty() && ask.choices > 0);
    assert!(!ask.stream || api.streams());
    assert!(api.has_choices() || ask.choices == 1);
}

/// A piece of the one became `name` in the other; before it and behind it they are equal.
fn only_one_place_differs(one: &[u8], other: &[u8], name: &str) {
    let name = name.as_bytes();
    let same = |(a, b): &(&u8, &u8)| a == b;
    let before = one.iter().zip(other).take_while(same).count();
    let fits = |start: usize| {
        let Some(behind) = other.get(start..).and_then(|rest| rest.strip_prefix(name)) else { return false };
        one.len() >= start + behind.len() && one.ends_with(behind)
    };
    // The old and the new name may begin alike.
    assert!((0..=before).rev().take(name.len() + 1).any(fits), "{}", other.escape_ascii());
}

fn native(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (target, body) = data.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let target = String::from_utf8_lossy(target);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let endpoint = Endpoint {
        name: "burst".to_owned(),
        provider: Provider::Runpod,
        mode: Some(Mode::Jobs),
        root: "https://api.runpod.ai/v2/abc".to_owned(),
        api_key: Some(Secret::new("a key that nobody sees".to_owned())),
        native: true,
        max_execution_ms: 3_600_000,
        max_ttl_ms: 7_200_000,
        ..Endpoint::default()
    };
    let mark = Mark::new(&endpoint, Some("web"));
    assert_eq!(mark.take(&target), None, "nobody guesses a mark");
    // A job of the client's own, where the path speaks of one.
    let path = path.replace("JOB", &mark.give("abc-u1"));
    let Some(path) = Path::read(&path) else { return };
    let now = Instant::from_millis(1_795_299_888_000);
    let headers = Headers::from_iter([("accept", query)]);
    let client = Client { name: "web".to_owned(), ..Client::default() };
    let visit = Visit { path, query, headers: &headers, body, client: Some(&client), now, deadline: now.after(60_000) };
    let ask = match within(64, data.len(), "a visit", || visit.ask(&endpoint)) {
        Ok(ask) => ask,
        Err(error) => return check_error(&error),
    };
    let errand = ask.errand.as_ref().unwrap();
    assert!(errand.wait_ms.is_none_or(|ms| (1000..=300_000).contains(&ms)));
    assert!(errand.job.as_deref().is_none_or(|job| job == "abc-u1"));
    let request = errand.request(&endpoint, &ask.body, "id");
    assert!(request.url.starts_with(&endpoint.root) && request.url.bytes().all(|byte| byte.is_ascii_graphic()));
    if path.verb.submits()
        && let (Some(sent), Some(given)) = (value(body), value(&ask.body))
    {
        check_submission(sent, given, &endpoint);
    }
    let relabelled = errand.relabel(body);
    if let Some(id) = serde_json::from_slice::<Value>(body).ok().and_then(|body| body["id"].as_str().map(str::to_owned))
        && let Ok(told) = serde_json::from_slice::<Value>(&relabelled)
    {
        assert!(told["id"].as_str().is_some_and(|told| told == id || told.starts_with(&format!("{id}."))));
    }
}

/// What goes out is what came in, but for the times that it may take.
fn check_submission(sent: Value, mut given: Value, endpoint: &Endpoint) {
    let strip = |mut envelope: Value| {
        let mut policy = envelope.as_object_mut().unwrap().remove("policy").unwrap_or_default();
        if let Some(policy) = policy.as_object_mut() {
            policy.remove("ttl");
            policy.remove("executionTimeout");
        }
        (envelope, policy.as_object().cloned().unwrap_or_default())
    };
    let policy = given["policy"].take();
    let within = |name: &str, most: u64| policy[name].as_u64().is_none_or(|ms| (5000..=most).contains(&ms));
    assert!(within("executionTimeout", endpoint.max_execution_ms) && within("ttl", endpoint.max_ttl_ms), "{policy}");
    assert!(policy["ttl"].is_u64());
    given["policy"] = policy;
    assert_eq!(strip(sent), strip(given));
}
