//! What the schema of `CONFIG` says is what the gateway does: each default is tried, and each bound from both sides.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests may say what they expect in the shortest way"
)]

use fairlead_core::{
    config::{
        Config,
        schema::{Described, Field, Schema},
    },
    settings::{Environment, Reading, Settings},
};
use serde_json::{Value, json};

/// Has everything.
struct Anywhere;

impl Environment for Anywhere {
    fn secret(&self, name: &str) -> Option<String> {
        Some(format!("the value of {name}"))
    }

    fn has_service(&self, _: &str) -> bool {
        true
    }

    fn has_rate_limiter(&self, _: &str) -> bool {
        true
    }
}

/// A valid `CONFIG` in which every field has an effect, and none that has a default stands.
fn base() -> Value {
    json!({
        "endpoints": [{
            "name": "r", "provider": "runpod", "base_url": "https://api.runpod.ai/v2/id", "api_key_secret": "KEY",
        }],
        "models": [{ "name": "m", "targets": [{ "endpoint": "r" }] }],
        "policies": { "default": { "hedge_after_ms": 700 } },
        "clients": [{ "name": "web", "keys_sha256": ["00".repeat(32)], "rate_limiter": "LIMIT" }],
        "admin_key_secret": "KEY",
    })
}

fn read(config: &Value) -> Reading {
    Settings::read([("CONFIG".to_owned(), config.clone())], &Anywhere)
}

/// The base with this value at this JSON pointer.
fn with(pointer: &str, value: &Value) -> Value {
    let mut config = base();
    // An opening may not be longer than the longest.
    if pointer.ends_with("/max_open_ms") && value.as_i64() < Some(15_000) {
        config = set(config, &pointer.replace("max_open_ms", "open_ms"), &json!(1));
    }
    set(config, pointer, value)
}

fn set(mut config: Value, pointer: &str, value: &Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    if config.pointer(parent).is_none() {
        config = set(config, parent, &json!({}));
    }
    config.pointer_mut(parent).unwrap()[field] = value.clone();
    config
}

/// Calls `look` with every field and where it stands.
fn each(schema: &Schema, pointer: &str, look: &mut dyn FnMut(&Field, &str)) {
    let Schema::Object { fields, .. } = schema else { return };
    for field in fields {
        let here = format!("{pointer}/{}", field.name);
        look(field, &here);
        match &field.schema {
            Schema::List(inner) => each(inner, &format!("{here}/0"), look),
            Schema::Named(inner) => each(inner, &format!("{here}/default"), look),
            inner => each(inner, &here, look),
        }
    }
}

/// The path by which a mistake names what a JSON pointer leads to.
fn path(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace("/0", "[0]").replace('/', ".")
}

fn assert_valid(pointer: &str, value: &Value) {
    let reading = read(&with(pointer, value));
    assert!(reading.settings.is_some(), "{pointer} may be {value}: {:?}", reading.mistakes);
}

fn assert_mistake(pointer: &str, value: &Value) {
    let reading = read(&with(pointer, value));
    let path = path(pointer);
    assert!(reading.mistakes.iter().any(|mistake| mistake.path == path), "{path} may not be {value}: {reading:?}");
}

#[test]
fn every_default_is_what_the_gateway_does_without_the_field() {
    let without = format!("{:?}", read(&base()).settings.unwrap());
    let mut tried = 0;
    each(&Config::schema(), "", &mut |field, pointer| {
        let Some(default) = field.facts.get("default") else { return };
        tried += 1;
        let reading = read(&with(pointer, default));
        assert_eq!(format!("{:?}", reading.settings.unwrap()), without, "{pointer} is not {default} by itself");
    });
    assert!(tried > 35, "{tried}");
}

#[test]
fn every_bound_is_where_the_gateway_has_it() {
    let mut tried = 0;
    each(&Config::schema(), "", &mut |field, pointer| {
        let fact = |name: &str| field.facts.get(name);
        if let (Some(least), Some(most)) = (fact("minimum"), fact("maximum")) {
            tried += 1;
            assert_valid(pointer, least);
            assert_valid(pointer, most);
            assert_mistake(pointer, &json!(least.as_i64().unwrap() - 1));
            assert_mistake(pointer, &json!(most.as_i64().unwrap() + 1));
        }
        if let (Some(above), Some(most)) = (fact("exclusiveMinimum"), fact("maximum")) {
            tried += 1;
            assert_valid(pointer, &json!(above.as_f64().unwrap() + 0.000_001));
            assert_valid(pointer, most);
            assert_mistake(pointer, above);
            assert_mistake(pointer, &json!(most.as_f64().unwrap() + 0.001));
        }
        if let Some(Value::Array(choices)) = fact("enum") {
            tried += 1;
            choices.iter().for_each(|choice| assert_valid(pointer, choice));
            assert_mistake(pointer, &json!(choices[0].as_i64().unwrap() + 1));
        }
        if fact("minItems").is_some() {
            assert_mistake(pointer, &json!([]));
        }
        if let Some(most) = fact("maxLength") {
            assert_mistake(pointer, &json!("x".repeat(most.as_u64().unwrap() as usize + 1)));
            assert_mistake(pointer, &json!(""));
        }
        if matches!(field.schema, Schema::Whole | Schema::Number | Schema::WholeOr(_)) {
            let is_bounded = fact("maximum").is_some() || fact("enum").is_some();
            assert!(is_bounded, "{pointer} has no bounds in the schema");
        }
    });
    assert!(tried > 35, "{tried}");
}

#[test]
fn what_is_required_may_not_be_missing_and_all_else_may() {
    each(&Config::schema(), "", &mut |field, pointer| {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let mut config = base();
        let is_there = config.pointer_mut(parent).and_then(|parent| parent.as_object_mut()?.remove(name)).is_some();
        if field.facts.get("required").is_some() {
            assert!(is_there, "{pointer} is missing in the base");
            let path = path(pointer);
            assert!(read(&config).mistakes.iter().any(|mistake| mistake.path == path), "{path} may be missing");
        } else {
            assert!(read(&config).settings.is_some(), "{pointer} may not be missing");
        }
    });
}

#[test]
fn every_word_is_one_that_the_gateway_takes() {
    each(&Config::schema(), "", &mut |field, pointer| {
        let Schema::Word(words) = &field.schema else { return };
        for (word, _) in words {
            let reading = read(&with(pointer, &json!(word)));
            let path = path(pointer);
            assert!(!reading.mistakes.iter().any(|mistake| mistake.path == path), "{path}: {word}");
        }
        assert_mistake(pointer, &json!("something_else"));
    });
}
