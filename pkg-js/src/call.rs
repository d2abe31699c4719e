//! One call, from its request to its answer.

use crate::runtime::{Bell, Host, PageRuntime};
use fairlead_core::{
    api::{Api, Dialect},
    ask::Ask,
    call::{Call, Order},
    caller,
    drive::{self, Opened, Piece, operator},
    error::{Code, Error},
    fleet::Fleet,
    message::{Headers, ResponseHead},
    policy::Policy,
    settings::Settings,
    status,
    time::Instant,
};
use fairlead_host::{
    exchange::JsChunk,
    message::{SEPARATOR, join, split},
    now,
    pump::{Progress, Pump, Writer, at_once},
};
use js_sys::{Array, Function, Uint8Array};
use std::{cell::RefCell, rc::Rc};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::AbortSignal;

#[wasm_bindgen]
extern "C" {
    /// What one call wants otherwise than its client.
    pub type Wishes;
    /// Milliseconds for the whole call.
    #[wasm_bindgen(method, getter)]
    fn timeout(this: &Wishes) -> Option<f64>;
    #[wasm_bindgen(method, getter, js_name = maxRetries)]
    fn max_retries(this: &Wishes) -> Option<u32>;
    #[wasm_bindgen(method, getter)]
    fn policy(this: &Wishes) -> Option<String>;
    /// Header fields for the endpoint, the caller's own.
    #[wasm_bindgen(method, getter)]
    fn headers(this: &Wishes) -> Option<String>;
    /// When it was asked for, in milliseconds since the Unix epoch.
    #[wasm_bindgen(method, getter)]
    fn arrived(this: &Wishes) -> f64;
}

#[wasm_bindgen(module = "/src/handoff.js")]
extern "C" {
    type Handoff;
    #[wasm_bindgen(constructor)]
    fn new() -> Handoff;
}

/// What the calls of a client share.
pub struct Shared {
    settings: Settings,
    fleet: Rc<RefCell<Fleet>>,
    host: Host,
    /// Wakes their timers.
    pub bell: Rc<Bell>,
}

impl Shared {
    /// Reads the settings, or tells all that is wrong with them.
    pub fn new(config: String, host: Host) -> Result<Self, JsValue> {
        let reading = Settings::read([("CONFIG".to_owned(), config.into())], &host);
        reading.warnings.iter().for_each(|warning| host.warn(&warning.path, &warning.message));
        let Some(settings) = reading.settings else {
            // Texts: serialising them cannot fail.
            return Err(js_sys::Error::new(&serde_json::to_string(&reading.mistakes).unwrap_or_default()).into());
        };
        let fleet = if host.page_store().is_some() { Fleet::at_hand() } else { Fleet::default() };
        Ok(Self { settings, fleet: Rc::new(RefCell::new(fleet.patient())), host, bell: Rc::default() })
    }

    /// See [`crate::Core::call`].
    pub async fn answer(
        &self,
        path: &str,
        fields: &str,
        body: Vec<u8>,
        wishes: Wishes,
        signal: AbortSignal,
        hear: Function,
    ) -> Result<JsValue, JsValue> {
        let headers = split(fields.split(SEPARATOR));
        let own = wishes.headers().map(|own| split(own.split(SEPARATOR))).unwrap_or_default();
        let request_id = caller::request_id(&own).map_or_else(new_id, str::to_owned);
        let opened = match self.order(path, &headers, &own, body, &wishes, &request_id) {
            Ok(order) => {
                let call = Call::new(now(), order, Rc::clone(&self.fleet));
                drive::open(PageRuntime::of_call(&self.host, &self.bell, signal, hear), call).await
            }
            Err(error) => {
                let mut head = ResponseHead { status: error.code.status(), headers: Headers::new() };
                head.headers.set("content-type", "application/json");
                // Nobody was asked: it is this client that speaks.
                head.headers.set("x-fairlead-attempts", "0");
                let dialect = Api::at(path).map_or(Dialect::Chat, Api::dialect);
                let body = Uint8Array::from(error.body(dialect).as_slice());
                return Ok(told(head, &request_id, &body));
            }
        };
        match opened {
            Some(opened) => Ok(brought(opened, &request_id, Rc::clone(&self.bell)).await),
            None => {
                self.bell.ring();
                Err(JsValue::UNDEFINED)
            }
        }
    }

    fn order(
        &self,
        path: &str,
        headers: &Headers,
        own: &Headers,
        body: Vec<u8>,
        wishes: &Wishes,
        request_id: &str,
    ) -> Result<Order, Error> {
        let Some(api) = Api::at(path) else {
            return Err(Error::new(Code::RouteNotFound, "This is no route of an OpenAI-compatible server."));
        };
        let deadline_ms = caller::deadline_ms(headers)?;
        let mut ask = Ask::read(api, headers, body.into())?;
        own.iter().for_each(|(name, value)| ask.headers.set(name, value));
        let (model, policy) = self.settings.plan(None, &ask.model, wishes.policy().as_deref())?;
        policy.admit(ask.body.len())?;
        let arrived = Instant::from_millis(wishes.arrived() as u64);
        let policy = wished(policy, wishes);
        let seed = random();
        Ok(Order { ask, model, policy, arrived, request_id: request_id.to_owned(), deadline_ms, client: None, seed })
    }

    /// What is known of the endpoints.
    pub async fn status(&self) -> String {
        let runtime = PageRuntime::of_client(&self.host, &self.bell);
        let body = operator::status(&runtime, &self.settings, &self.fleet).await;
        String::from_utf8(body).unwrap_or_default()
    }

    /// See [`crate::Core::news`].
    pub fn news(&self, key: &str) {
        for (which, _) in status::breakers(&self.settings).into_iter().filter(|(_, known)| known == key) {
            self.fleet.borrow_mut().gate(which).channel.on_news();
        }
    }
}

/// A policy with one call's own time and patience.
fn wished(policy: Rc<Policy>, wishes: &Wishes) -> Rc<Policy> {
    let (timeout, max_retries) = (wishes.timeout(), wishes.max_retries());
    if timeout.is_none() && max_retries.is_none() {
        return policy;
    }
    let deadline_ms = timeout.map_or(policy.deadline_ms, |ms| ms as u64);
    let max_attempts = max_retries.map_or(policy.max_attempts, |retries| retries.saturating_add(1));
    Rc::new(Policy { deadline_ms, max_attempts, ..(*policy).clone() })
}

/// The answer of a call: whole where its body is at hand at once, else with a [`Handoff`] that the rest comes by.
///
/// At its end those who stand in line for its place are woken: timers of hidden pages come too seldom for that.
async fn brought(opened: Opened<PageRuntime>, request_id: &str, bell: Rc<Bell>) -> JsValue {
    let Opened { head, mut body } = opened;
    let first = match at_once(&head, &mut body).await {
        Ok(bytes) => {
            bell.ring();
            return told(head, request_id, &bytes.unwrap_or_default());
        }
        Err(first) => first,
    };
    let handoff = Handoff::new();
    let answer = told(head, request_id, &handoff);
    spawn_local(async move {
        let pump = Pump::new(body, handoff.unchecked_into::<Writer>());
        let whole = bring(first, &pump).await;
        if !whole && pump.body.borrow().is_late() {
            // Whoever reads only now hears why there is no more; the words of the core itself waited for him in vain.
            let _ = JsFuture::from(pump.writer.abort(&JsValue::from_str(Code::DeadlineExceeded.as_str()))).await;
        } else {
            pump.end(whole).await;
        }
        drop(pump);
        bell.ring();
    });
    answer
}

/// Whether the body came to its end.
async fn bring(first: Vec<Piece<JsChunk>>, pump: &Pump<PageRuntime>) -> bool {
    for piece in first {
        if !pump.write(piece).await {
            return false;
        }
    }
    loop {
        match pump.step().await {
            Progress::Going => {}
            Progress::Whole => return true,
            Progress::Broken => return false,
        }
    }
}

fn told(mut head: ResponseHead, request_id: &str, body: &JsValue) -> JsValue {
    head.headers.set("x-request-id", request_id);
    let fields = JsValue::from_str(&join(&head.headers));
    Array::of3(&JsValue::from(head.status), &fields, body).into()
}

/// 64 random bits; where the platform has none, the clock has to do.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| now().as_millis())
}

fn new_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}
