//! What this isolate keeps: the settings from `CONFIG` and the state that its calls share.
//!
//! Read from the environment once per isolate. Only plain data may live here: a Worker must not
//! touch one request's streams, bodies or signals from another.

use crate::{log, store::BoundStore};
use fairlead_core::{
    config::Mistake,
    fleet::Fleet,
    settings::{Environment, Secret, Settings},
};
use js_sys::{JSON, Object, Reflect};
use serde_json::Value;
use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};
use wasm_bindgen::{JsCast, JsValue};
use worker::Env;

/// The gateway as `CONFIG` describes it.
pub struct Gateway {
    /// What `CONFIG` says, or what is wrong with it.
    pub settings: Result<Settings, Vec<Mistake>>,
    /// Who may see the mistakes.
    pub admin_key: Option<Secret>,
    /// What calls know together.
    pub fleet: Rc<RefCell<Fleet>>,
}

thread_local! {
    static GATEWAY: OnceCell<Rc<Gateway>> = const { OnceCell::new() };
}

/// The gateway of this isolate.
pub fn gateway(env: &Env) -> Rc<Gateway> {
    GATEWAY.with(|cell| Rc::clone(cell.get_or_init(|| Rc::new(read(env)))))
}

fn read(env: &Env) -> Gateway {
    let reading = Settings::read(parts(env), &Bindings(env));
    for mistake in &reading.mistakes {
        log::config("error", mistake);
    }
    for warning in &reading.warnings {
        log::config("warn", warning);
    }
    let fleet = match &reading.settings {
        Some(settings) => match store(env) {
            Some(store) if store.grants_leases() => Fleet::electing(breakers_of(settings)),
            Some(_) => Fleet::shared(breakers_of(settings)),
            None => Fleet::default(),
        },
        None => Fleet::default(),
    };
    Gateway {
        settings: reading.settings.ok_or(reading.mistakes),
        admin_key: reading.admin_key,
        fleet: Rc::new(RefCell::new(fleet)),
    }
}

/// How many breakers write to a store: one for each target of each entry. An operator's own word is as rare as
/// operators are.
fn breakers_of(settings: &Settings) -> usize {
    settings.models.iter().map(|model| model.targets.len()).sum()
}

/// Where isolates leave word for each other: the Durable Objects of `BREAKERS`, or else the KV
/// namespace `STATE`.
pub fn store(env: &Env) -> Option<BoundStore> {
    let bound = |name| Some(binding(env, name)).filter(JsValue::is_object);
    bound("BREAKERS")
        .map(|objects| BoundStore::objects(&objects))
        .or_else(|| bound("STATE").map(|kv| BoundStore::namespace(&kv)))
}

/// `CONFIG` and its `CONFIG_<KEY>` parts, each text or an object.
fn parts(env: &Env) -> Vec<(String, Value)> {
    let names = Object::keys(env.unchecked_ref::<Object>());
    let parts =
        names.iter().filter_map(|name| name.as_string()).filter(|name| name == "CONFIG" || name.starts_with("CONFIG_"));
    parts
        .map(|name| {
            let value = binding(env, &name);
            // An object as text too: to read it with `serde-wasm-bindgen` takes 10 kB of the gzipped Worker,
            // among it all that writes floating-point numbers.
            let text = value.as_string().or_else(|| JSON::stringify(&value).ok()?.as_string());
            (name, text.map_or(Value::Null, Value::String))
        })
        .collect()
}

/// What is bound under a name.
pub fn binding(env: &Env, name: &str) -> JsValue {
    Reflect::get(env, &JsValue::from_str(name)).unwrap_or_default()
}

/// The binding that an endpoint's `via` names.
pub fn service(env: &Env, name: &str) -> Option<JsValue> {
    let service = binding(env, name);
    let fetch = Reflect::get(&service, &JsValue::from_str("fetch")).ok()?;
    fetch.is_function().then_some(service)
}

struct Bindings<'a>(&'a Env);

impl Environment for Bindings<'_> {
    fn secret(&self, name: &str) -> Option<String> {
        binding(self.0, name).as_string()
    }

    fn has_service(&self, name: &str) -> bool {
        service(self.0, name).is_some()
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        Reflect::get(&binding(self.0, name), &JsValue::from_str("limit")).is_ok_and(|limit| limit.is_function())
    }
}
