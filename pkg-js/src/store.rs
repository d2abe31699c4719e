//! Where a page leaves its breakers' records for its next life and for its other tabs.

use fairlead_core::runtime::{Later, Store, StoreError};
use js_sys::Promise;
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// An object with `kind`, `get` and `put`, which give promises.
    #[derive(Clone)]
    pub type JsStore;
    #[wasm_bindgen(method, getter)]
    fn kind(this: &JsStore) -> String;
    #[wasm_bindgen(method)]
    fn get(this: &JsStore, key: &str) -> Promise;
    #[wasm_bindgen(method)]
    fn put(this: &JsStore, key: &str, text: &str) -> Promise;
}

/// The store of a page.
pub struct PageStore(JsStore);

impl PageStore {
    /// This one.
    pub const fn new(store: JsStore) -> Self {
        Self(store)
    }
}

impl Store for PageStore {
    fn kind(&self) -> &'static str {
        // The kinds that `ts/stores.ts` has.
        match &*self.0.kind() {
            "indexeddb" => "indexeddb",
            "localstorage" => "localstorage",
            "memory" => "memory",
            _ => "custom",
        }
    }

    fn get(&self, key: &str) -> Later<Option<String>> {
        let answer = self.0.get(key);
        Box::pin(async move { Ok(settled(answer).await?.as_string()) })
    }

    fn put(&self, key: &str, text: String) -> Later<()> {
        let answer = self.0.put(key, &text);
        Box::pin(async move { settled(answer).await.map(drop) })
    }
}

async fn settled(answer: Promise) -> Result<JsValue, StoreError> {
    JsFuture::from(answer).await.map_err(|_| StoreError::Unavailable)
}
