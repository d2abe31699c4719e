//! What this isolate keeps: the settings from `CONFIG` and the state that its calls share.
//!
//! Only plain data may live here: a Worker must not touch one request's streams, bodies or signals from another.

use crate::{log, store::BoundStore};
use fairlead_core::{
    drive::reload::{self, Surroundings},
    fleet::Fleet,
    reload::{Current, Reload, Report},
    runtime::{Later, StoreError},
    settings::{Environment, Settings},
    time::Instant,
};
use fairlead_host::MAX_DELAY_MS;
use gloo_timers::future::TimeoutFuture;
use js_sys::{JSON, Object, Promise, Reflect};
use serde_json::Value;
use std::{
    cell::{OnceCell, RefCell},
    ops::Deref,
    rc::Rc,
};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use worker::{Context, Env};

/// The gateway as one request finds it. It finishes with what it has begun with.
pub struct Gateway {
    current: Rc<Current>,
    /// What calls know together.
    pub fleet: Rc<RefCell<Fleet>>,
    /// Which version of the settings serves.
    pub reload: Rc<RefCell<Reload>>,
}

impl Deref for Gateway {
    type Target = Current;

    fn deref(&self) -> &Current {
        &self.current
    }
}

#[wasm_bindgen]
extern "C" {
    /// A rate limiting binding.
    type RateLimiter;
    #[wasm_bindgen(method, catch)]
    fn limit(this: &RateLimiter, options: &Object) -> Result<JsValue, JsValue>;
}

/// What lives as long as the isolate.
struct Isolate {
    fleet: Rc<RefCell<Fleet>>,
    reload: Rc<RefCell<Reload>>,
}

thread_local! {
    static ISOLATE: OnceCell<Isolate> = const { OnceCell::new() };
}

/// The gateway for a request that arrived at this moment. Where it is time, what an operator has put into KV is read
/// beside the call.
pub async fn gateway(env: &Env, context: &Context, arrived: Instant) -> Gateway {
    let reload = ISOLATE.with(|cell| Rc::clone(&cell.get_or_init(|| Isolate::new(env)).reload));
    let host = Bindings(env.clone());
    reload::tell(&reload, &host);
    let is_due = reload.borrow_mut().begin(arrived);
    if is_due && let Some(store) = namespace(env) {
        let reload = Rc::clone(&reload);
        context.wait_until(async move { reload::read(&reload, &store, &host).await });
    }
    reload::ready(&reload, &Bindings(env.clone()), arrived).await;
    present(env)
}

/// The gateway as it is now.
pub fn present(env: &Env) -> Gateway {
    ISOLATE.with(|cell| {
        let Isolate { fleet, reload } = cell.get_or_init(|| Isolate::new(env));
        let current = Rc::clone(reload.borrow().current());
        if let Ok(settings) = &current.settings {
            fleet.borrow_mut().resize(breakers_of(settings));
        }
        Gateway { current, fleet: Rc::clone(fleet), reload: Rc::clone(reload) }
    })
}

impl Isolate {
    fn new(env: &Env) -> Self {
        let reading = Settings::read(parts(env), &Bindings(env.clone()));
        let fleet = match store(env) {
            Some(store) if store.grants_leases() => Fleet::electing(0),
            Some(_) => Fleet::shared(0),
            None => Fleet::default(),
        };
        let reload = Reload::new(fairlead_host::now(), reading, namespace(env).is_some());
        Self { fleet: Rc::new(RefCell::new(fleet)), reload: Rc::new(RefCell::new(reload)) }
    }
}

/// How many breakers write to a store: one for each target of each entry. An operator's own word is as rare as
/// operators are.
fn breakers_of(settings: &Settings) -> usize {
    settings.models.iter().map(|model| model.targets.len()).sum()
}

/// The KV namespace `STATE`, where the configuration may stand.
fn namespace(env: &Env) -> Option<BoundStore> {
    Some(binding(env, "STATE")).filter(JsValue::is_object).map(|kv| BoundStore::namespace(&kv))
}

/// Where isolates leave word for each other: the Durable Objects of `BREAKERS`, or else the KV
/// namespace `STATE`.
pub fn store(env: &Env) -> Option<BoundStore> {
    let objects = Some(binding(env, "BREAKERS")).filter(JsValue::is_object);
    objects.map(|objects| BoundStore::objects(&objects)).or_else(|| namespace(env))
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

/// Asks a rate limiting binding whether one more request may be made under this key.
pub fn limit(env: &Env, name: &str, key: &str) -> Later<bool> {
    let options = Object::new();
    // A plain object takes any field.
    let _ = Reflect::set(&options, &"key".into(), &key.into());
    let asked = binding(env, name).unchecked_into::<RateLimiter>().limit(&options);
    Box::pin(async move {
        let unavailable = |_| StoreError::Unavailable;
        let answer = JsFuture::from(Promise::resolve(&asked.map_err(unavailable)?)).await.map_err(unavailable)?;
        let success = Reflect::get(&answer, &"success".into()).map_err(unavailable)?;
        success.as_bool().ok_or(StoreError::Unavailable)
    })
}

struct Bindings(Env);

impl Surroundings for Bindings {
    type Sleep = TimeoutFuture;

    fn now(&self) -> Instant {
        fairlead_host::now()
    }

    fn sleep(&self, ms: u64) -> TimeoutFuture {
        TimeoutFuture::new(u32::try_from(ms).unwrap_or(MAX_DELAY_MS).min(MAX_DELAY_MS))
    }

    fn tell(&self, report: &Report) {
        log::config(report);
    }
}

impl Environment for Bindings {
    fn secret(&self, name: &str) -> Option<String> {
        binding(&self.0, name).as_string()
    }

    fn has_service(&self, name: &str) -> bool {
        service(&self.0, name).is_some()
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        Reflect::get(&binding(&self.0, name), &JsValue::from_str("limit")).is_ok_and(|limit| limit.is_function())
    }
}
