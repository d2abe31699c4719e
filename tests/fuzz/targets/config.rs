//! `CONFIG` and the bindings beside it. The input is the text of `CONFIG`; behind each zero byte follows the name of
//! another binding and, in the next line, its text.

use super::within;
use fairlead_core::{
    api::Api,
    ask::Ask,
    call::{Call, Input, Order, Output},
    message::Headers,
    settings::{Environment, Reading, Settings},
    time::Instant,
};
use serde_json::Value;
use std::rc::Rc;

/// What no message and no output for people may hold.
const SECRET: &str = "hush-3b9f";

struct Worker;

impl Environment for Worker {
    fn secret(&self, name: &str) -> Option<String> {
        (!name.starts_with("NO")).then(|| SECRET.to_owned())
    }

    fn has_service(&self, name: &str) -> bool {
        name == "TUNNEL"
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        name == "WEB_LIMIT"
    }
}

type Parts = Vec<(String, Value)>;

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut texts = text.split('\0');
    let mut parts: Parts = vec![("CONFIG".to_owned(), texts.next().unwrap_or_default().into())];
    parts.extend(texts.map(|part| {
        let (name, text) = part.split_once('\n').unwrap_or((part, ""));
        (name.to_owned(), text.into())
    }));
    // Each mistake says where it is, and what may stand there.
    let most = if data.len() < 1 << 13 { data.len() * 512 } else { data.len() * data.len() };
    let reading = within(1, most, "a reading", || read(parts.clone()));
    check_mistakes(&reading);
    let Some(settings) = reading.settings else { return };
    let shown = format!("{settings:?}");
    assert!(!shown.contains(SECRET));
    assert_eq!(format!("{:?}", read(parts.clone()).settings.unwrap()), shown);
    if let [(_, Value::String(text))] = &*parts {
        let whole = serde_json::from_str(text).unwrap();
        for other in [as_an_object(&whole), key_by_key(&whole)] {
            assert_eq!(format!("{:?}", read(other).settings.unwrap()), shown);
        }
    }
    carry_a_call(&settings);
}

fn read(parts: Parts) -> Reading {
    Settings::read(parts, &Worker)
}

fn check_mistakes(reading: &Reading) {
    assert_eq!(reading.settings.is_some(), reading.mistakes.is_empty());
    for mistake in reading.mistakes.iter().chain(&reading.warnings) {
        assert!(!mistake.message.is_empty());
        assert!(!mistake.to_string().contains(SECRET));
    }
}

fn as_an_object(whole: &Value) -> Parts {
    vec![("CONFIG".to_owned(), whole.clone())]
}

fn key_by_key(whole: &Value) -> Parts {
    let fields = whole.as_object().unwrap().iter();
    let binding = |key: &String| format!("CONFIG_{}", key.to_ascii_uppercase());
    // A binding that is no object is text that holds JSON.
    fields.map(|(key, value)| (binding(key), value.to_string().into())).collect()
}

/// Whatever is valid can carry a call whose endpoints keep silent: to an end, in a bounded number of steps.
fn carry_a_call(settings: &Settings) {
    for (place, model) in settings.models.iter().take(4).enumerate() {
        let name = if model.name == "*" { "any" } else { &model.name };
        let (entry, policy) = settings.plan(None, name, None).unwrap();
        let body = serde_json::json!({ "model": name, "stream": place % 2 == 0 }).to_string();
        let Ok(ask) = Ask::read(Api::Chat, &Headers::new(), body.into_bytes().into()) else { continue };
        let arrived = Instant::from_millis(1_795_299_888_000);
        let order = Order {
            ask,
            model: entry,
            policy,
            arrived,
            request_id: "r".to_owned(),
            deadline_ms: None,
            client: None,
            seed: 7,
        };
        let mut call = Call::new(arrived, order, Rc::default());
        let mut now = arrived;
        // Keepalives of an hour's call, one a second at most, are the longest way.
        for _ in 0..200 {
            let mut done = false;
            let mut unreachable = Vec::new();
            while let Some(output) = call.poll_output() {
                match output {
                    Output::Done { .. } => done = true,
                    Output::Send { exchange, .. } if exchange % 2 == 0 => unreachable.push(exchange),
                    _ => {}
                }
            }
            if done {
                break;
            }
            if unreachable.is_empty() {
                let next = call.poll_timeout().expect("a call that is not over waits for something");
                now = now.max(next);
                call.handle_input(now, Input::Timeout);
            }
            for exchange in unreachable {
                call.handle_input(now, Input::Failed { exchange });
            }
        }
    }
}
