//! Where isolates leave word for each other: the KV namespace `STATE`, or the Durable Objects of
//! `BREAKERS`, one for each endpoint.
//!
//! Nothing here is in the path of an answer: the core asks beside its calls, and knows what to do
//! when a store fails, lies or says nothing.

use fairlead_core::{
    breaker::merge,
    runtime::{Later, Store, StoreError},
};
use js_sys::{Array, Promise};
use wasm_bindgen::{JsValue, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Request, Response};

#[wasm_bindgen(module = "/src/store.js")]
extern "C" {
    /// Either of the two below, on JavaScript's side.
    #[derive(Clone)]
    type JsStore;
    #[wasm_bindgen(method)]
    fn get(this: &JsStore, key: &str) -> Promise;
    #[wasm_bindgen(method)]
    fn put(this: &JsStore, key: &str, text: &str) -> Promise;
    #[wasm_bindgen(method)]
    fn lease(this: &JsStore, key: &str, ms: f64) -> Promise;

    #[wasm_bindgen(extends = JsStore)]
    type Namespace;
    #[wasm_bindgen(constructor)]
    fn new(kv: &JsValue) -> Namespace;

    #[wasm_bindgen(extends = JsStore)]
    type Objects;
    #[wasm_bindgen(constructor)]
    fn new(objects: &JsValue) -> Objects;

    /// What a Durable Object keeps.
    type Ledger;
    #[wasm_bindgen(constructor)]
    fn new(state: &JsValue) -> Ledger;
    #[wasm_bindgen(method, catch)]
    fn brought(this: &Ledger, request: &Request) -> Result<Array, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn answer(this: &Ledger, request: &Request, merged: Option<&str>) -> Result<Response, JsValue>;
}

/// A store that is bound to this Worker.
pub struct BoundStore {
    inner: JsStore,
    grants_leases: bool,
}

impl BoundStore {
    /// The KV namespace of a binding, or whatever answers as one.
    pub fn namespace(kv: &JsValue) -> Self {
        Self { inner: Namespace::new(kv).into(), grants_leases: false }
    }

    /// The namespace of Durable Objects of a binding.
    pub fn objects(objects: &JsValue) -> Self {
        Self { inner: Objects::new(objects).into(), grants_leases: true }
    }

    /// Whether it elects who probes.
    pub const fn grants_leases(&self) -> bool {
        self.grants_leases
    }
}

impl Store for BoundStore {
    fn kind(&self) -> &'static str {
        if self.grants_leases { "durable_object" } else { "kv" }
    }

    fn get(&self, key: &str) -> Later<Option<String>> {
        let answer = self.inner.get(key);
        Box::pin(async move { Ok(settled(answer).await?.as_string()) })
    }

    fn put(&self, key: &str, text: String) -> Later<()> {
        let answer = self.inner.put(key, &text);
        Box::pin(async move { settled(answer).await.map(drop) })
    }

    fn lease(&self, key: &str, ms: u64) -> Option<Later<bool>> {
        let answer = self.grants_leases.then(|| self.inner.lease(key, ms as f64))?;
        Some(Box::pin(async move { Ok(settled(answer).await?.is_truthy()) }))
    }
}

async fn settled(answer: Promise) -> Result<JsValue, StoreError> {
    JsFuture::from(answer).await.map_err(|limited| match limited.as_bool() {
        Some(true) => StoreError::Limited,
        _ => StoreError::Unavailable,
    })
}

/// The Durable Object of one endpoint. It handles one request at a time and has no `await` between
/// reading a record and writing it, so that nothing is lost when two isolates write at once.
#[wasm_bindgen]
pub struct Breakers {
    ledger: Ledger,
}

#[wasm_bindgen]
impl Breakers {
    /// What the platform calls when the object is needed.
    #[wasm_bindgen(constructor)]
    pub fn new(state: &JsValue) -> Self {
        Self { ledger: Ledger::new(state) }
    }

    /// What the platform calls for each request; they come from `store.js` alone.
    pub fn fetch(&self, request: &Request) -> Result<Response, JsValue> {
        let brought = self.ledger.brought(request)?;
        let merged = brought.get(0).as_string().map(|new| merge(brought.get(1).as_string().as_deref(), &new));
        self.ledger.answer(request, merged.as_deref())
    }
}
