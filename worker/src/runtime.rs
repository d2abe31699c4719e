//! Lets the core's calls touch the world: fetch, timers, the clock, and the client's going.

use crate::{gateway, isolate::Witness};
use fairlead_core::{
    drive::Rehearsal,
    event::Event,
    message::Request,
    runtime::{Later, Runtime, Store, Task},
    settings::Endpoint,
    time::Instant,
};
use fairlead_host::{
    MAX_DELAY_MS,
    departure::Departure,
    exchange::{Fetch, JsChunk},
};
use gloo_timers::future::TimeoutFuture;
use std::{
    rc::Rc,
    task::{Context, Poll},
};
use web_sys::AbortSignal;
use worker::Env;

/// The host of one call, under which what an admin wants to go wrong does.
pub type CallRuntime = Rehearsal<WorkerRuntime>;

/// The host of one request.
#[derive(Clone)]
pub struct WorkerRuntime {
    env: Env,
    context: Rc<worker::Context>,
    departure: Rc<Departure>,
    witness: Rc<Witness>,
}

impl WorkerRuntime {
    /// The host of a call that this request makes.
    pub fn new(env: Env, context: Rc<worker::Context>, signal: AbortSignal, witness: Witness) -> Self {
        Self { env, context, departure: Rc::new(Departure::new(signal)), witness: Rc::new(witness) }
    }
}

impl Runtime for WorkerRuntime {
    type Chunk = JsChunk;
    type Exchange = Fetch;
    type Sleep = TimeoutFuture;

    fn now(&self) -> Instant {
        fairlead_host::now()
    }

    fn sleep(&self, ms: u64) -> TimeoutFuture {
        TimeoutFuture::new(u32::try_from(ms).unwrap_or(MAX_DELAY_MS).min(MAX_DELAY_MS))
    }

    fn send(&self, endpoint: &Endpoint, _: u32, request: Request) -> Fetch {
        let service = endpoint.via.as_deref().and_then(|name| gateway::service(&self.env, name));
        Fetch::send(&service.unwrap_or_default(), &request)
    }

    fn poll_client_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.departure.poll(context)
    }

    fn tell(&self, event: &Event) {
        self.witness.tell(self.now(), event);
    }

    fn spawn(&self, task: Task) {
        self.context.wait_until(task);
    }

    fn store(&self) -> Option<Rc<dyn Store>> {
        Some(Rc::new(gateway::store(&self.env)?))
    }

    fn limit(&self, binding: &str, key: &str) -> Option<Later<bool>> {
        Some(gateway::limit(&self.env, binding, key))
    }
}
