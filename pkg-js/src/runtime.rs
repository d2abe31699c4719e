//! Lets the core's calls touch the world from a page: fetch, timers, signals, and who listens.

use crate::store::{JsStore, PageStore};
use fairlead_core::{
    event::Event,
    message::Request,
    runtime::{Runtime, Store, Task},
    settings::{Endpoint, Environment},
    time::Instant,
};
use fairlead_host::{
    MAX_DELAY_MS,
    departure::Departure,
    exchange::{Fetch, JsChunk},
};
use gloo_timers::future::TimeoutFuture;
use js_sys::{Function, Reflect};
use serde::Serialize;
use serde_wasm_bindgen::Serializer;
use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::AbortSignal;

#[wasm_bindgen]
extern "C" {
    /// What `ts/` gives: `secrets` by name, `fetch`, and a `store` if there is one.
    #[derive(Clone)]
    pub type Host;
    #[wasm_bindgen(method, getter)]
    fn secrets(this: &Host) -> JsValue;
    #[wasm_bindgen(method, getter)]
    fn store(this: &Host) -> Option<JsStore>;
    /// Hears what is understood but has no effect.
    #[wasm_bindgen(method)]
    pub fn warn(this: &Host, path: &str, message: &str);
}

impl Environment for Host {
    fn secret(&self, name: &str) -> Option<String> {
        Reflect::get(&self.secrets(), &JsValue::from_str(name)).ok()?.as_string()
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

impl Host {
    /// Where records are kept.
    pub fn page_store(&self) -> Option<PageStore> {
        self.store().map(PageStore::new)
    }
}

/// Wakes all timers of a client.
#[derive(Default)]
pub struct Bell {
    rings: Cell<u32>,
    next: Cell<u32>,
    sleepers: RefCell<Vec<(u32, Waker)>>,
}

impl Bell {
    /// Every timer that is armed fires now.
    pub fn ring(&self) {
        self.rings.set(self.rings.get().wrapping_add(1));
        let sleepers = self.sleepers.take();
        sleepers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn forget(&self, key: u32) {
        self.sleepers.borrow_mut().retain(|(other, _)| *other != key);
    }
}

/// A timer that also a bell ends.
pub struct Nap {
    timer: TimeoutFuture,
    bell: Rc<Bell>,
    /// Rings before it began.
    rings: u32,
    key: u32,
}

impl Nap {
    fn new(bell: &Rc<Bell>, ms: u64) -> Self {
        let key = bell.next.get();
        bell.next.set(key.wrapping_add(1));
        let timer = TimeoutFuture::new(u32::try_from(ms).unwrap_or(MAX_DELAY_MS).min(MAX_DELAY_MS));
        Self { timer, bell: Rc::clone(bell), rings: bell.rings.get(), key }
    }
}

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.bell.rings.get() != self.rings {
            return Poll::Ready(());
        }
        self.bell.forget(self.key);
        self.bell.sleepers.borrow_mut().push((self.key, context.waker().clone()));
        Pin::new(&mut self.timer).poll(context)
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        self.bell.forget(self.key);
    }
}

/// The host of one call.
#[derive(Clone)]
pub struct PageRuntime {
    host: Host,
    bell: Rc<Bell>,
    /// None where nobody can leave.
    departure: Option<Rc<Departure>>,
    hear: Option<Function>,
}

impl PageRuntime {
    /// The host of a call that may be left by this signal, and whose facts are told.
    pub fn of_call(host: &Host, bell: &Rc<Bell>, signal: AbortSignal, hear: Function) -> Self {
        let departure = Some(Rc::new(Departure::new(signal)));
        Self { departure, hear: Some(hear), ..Self::of_client(host, bell) }
    }

    /// The host of what no call asks for.
    pub fn of_client(host: &Host, bell: &Rc<Bell>) -> Self {
        Self { host: host.clone(), bell: Rc::clone(bell), departure: None, hear: None }
    }
}

impl Runtime for PageRuntime {
    type Chunk = JsChunk;
    type Exchange = Fetch;
    type Sleep = Nap;

    fn now(&self) -> Instant {
        fairlead_host::now()
    }

    fn sleep(&self, ms: u64) -> Nap {
        Nap::new(&self.bell, ms)
    }

    fn sleeps(&self) -> bool {
        true
    }

    fn send(&self, _: &Endpoint, _: u32, request: Request) -> Fetch {
        // A page is not told how a body was compressed.
        Fetch::send(&self.host, &request).of_unknown_length()
    }

    fn poll_client_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.departure.as_ref().map_or(Poll::Pending, |departure| departure.poll(context))
    }

    fn tell(&self, event: &Event) {
        let Some(hear) = &self.hear else { return };
        if let Ok(event) = event.serialize(&Serializer::json_compatible()) {
            // It only takes note, in `ts/events.ts`.
            let _ = hear.call1(&JsValue::UNDEFINED, &event);
        }
    }

    fn spawn(&self, task: Task) {
        let bell = Rc::clone(&self.bell);
        spawn_local(async move {
            task.await;
            // What it has heard of a breaker a call may wait for, which else would look again by a timer only.
            bell.ring();
        });
    }

    fn store(&self) -> Option<Rc<dyn Store>> {
        Some(Rc::new(self.host.page_store()?))
    }
}
