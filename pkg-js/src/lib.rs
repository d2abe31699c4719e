//! Fairlead as an npm package: the same core as in the Worker, called from JavaScript with promises.
//!
//! A thin host. [`Core`] is what `ts/core.ts` sees of wasm; [`call`] carries one call out, [`runtime`] lets it touch the
//! world, [`store`] keeps breakers beyond a page's life. Options, classes, errors and streams as people use them stand
//! in `ts/`. What is decided is decided in `fairlead-core`.

mod call;
mod runtime;
mod store;

use crate::{
    call::{Shared, Wishes},
    runtime::Host,
};
use js_sys::{Function, Promise};
use std::rc::Rc;
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::future_to_promise;
use web_sys::AbortSignal;

/// One client: its settings, and what its calls share.
#[wasm_bindgen]
pub struct Core(Rc<Shared>);

#[wasm_bindgen]
impl Core {
    /// `config` is JSON in the form of `CONFIG`. Fails with an `Error` whose message is JSON, a list of
    /// `{"path","message"}`: all that is wrong with it.
    #[wasm_bindgen(constructor)]
    pub fn new(config: String, host: Host) -> Result<Self, JsValue> {
        Ok(Self(Rc::new(Shared::new(config, host)?)))
    }

    /// Carries a call to `POST {path}` out. Resolves to `[status, fields, body]`, where the body is a `Uint8Array` or,
    /// while it still comes, a `Handoff`; failures are told as a gateway would tell them. Rejects with `undefined` when
    /// the signal is aborted before that. `hear` gets the call's facts as they come.
    pub fn call(
        &self,
        path: String,
        fields: String,
        body: Vec<u8>,
        wishes: Wishes,
        signal: AbortSignal,
        hear: Function,
    ) -> Promise {
        let shared = Rc::clone(&self.0);
        future_to_promise(async move { shared.answer(&path, &fields, body, wishes, signal, hear).await })
    }

    /// What `GET /status` of a gateway tells, as JSON.
    pub fn status(&self) -> Promise {
        let shared = Rc::clone(&self.0);
        future_to_promise(async move { Ok(shared.status().await.into()) })
    }

    /// Somebody else has put a record under this key: what is known of it is out of date.
    pub fn news(&self, key: &str) {
        self.0.news(key);
    }

    /// Timers look at the clock at once, which may have gone on while the page did not run.
    pub fn wake(&self) {
        self.0.bell.ring();
    }
}
