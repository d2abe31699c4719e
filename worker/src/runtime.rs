//! Lets the core's calls touch the world: fetch, timers, the clock, and the client's going.

use crate::{
    gateway,
    log::{self, CallFields},
};
use fairlead_core::{
    event::Event,
    message::{Headers, Request, ResponseHead},
    runtime::{Chunk, Exchange, Received, Runtime, Store, Task},
    settings::Endpoint,
    time::Instant,
};
use gloo_timers::future::TimeoutFuture;
use js_sys::{Array, Date, Promise, Uint8Array};
use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, ReadableStreamDefaultReader, WritableStream, WritableStreamDefaultWriter};
use worker::Env;

#[wasm_bindgen(module = "/src/http.js")]
extern "C" {
    /// One fetch, on JavaScript's side.
    #[wasm_bindgen(js_name = Exchange)]
    #[derive(Clone)]
    pub type JsExchange;
    #[wasm_bindgen(constructor, js_class = "Exchange")]
    fn new(service: &JsValue, method: &str, url: &str, fields: &str, body: &[u8]) -> JsExchange;
    #[wasm_bindgen(method, getter)]
    fn head(this: &JsExchange) -> Promise;
    #[wasm_bindgen(method)]
    fn read(this: &JsExchange) -> Promise;
    #[wasm_bindgen(method, getter)]
    fn reader(this: &JsExchange) -> Option<ReadableStreamDefaultReader>;
    #[wasm_bindgen(method, catch)]
    fn pipe(
        this: &JsExchange,
        writer: &WritableStreamDefaultWriter,
        writable: &WritableStream,
        rest_ms: f64,
    ) -> Result<Pipe, JsValue>;
    #[wasm_bindgen(method)]
    fn abort(this: &JsExchange);
}

#[wasm_bindgen(module = "/src/pipe.js")]
extern "C" {
    /// A response's body on its way to the client by the platform's own pipe.
    pub type Pipe;
    /// Resolves to whether the client can be written to, when nothing goes by any more.
    #[wasm_bindgen(method, getter)]
    pub fn over(this: &Pipe) -> Promise;
    /// Lets nothing more go by.
    #[wasm_bindgen(method)]
    pub fn stop(this: &Pipe);
}

#[wasm_bindgen]
extern "C" {
    /// What a reader tells.
    type ReadResult;
    #[wasm_bindgen(method, getter)]
    fn done(this: &ReadResult) -> bool;
    #[wasm_bindgen(method, getter)]
    fn value(this: &ReadResult) -> Option<Uint8Array>;
    #[wasm_bindgen(method, getter)]
    fn last(this: &ReadResult) -> Option<bool>;
}

/// The longest delay that `setTimeout` takes before it wraps around to none at all.
const MAX_DELAY_MS: u64 = i32::MAX as u64;

/// The host of one call.
#[derive(Clone)]
pub struct WorkerRuntime {
    env: Env,
    context: Rc<worker::Context>,
    departure: Rc<Departure>,
    fields: Rc<CallFields>,
}

impl WorkerRuntime {
    /// The host of a call that this request makes.
    pub fn new(env: Env, context: Rc<worker::Context>, signal: AbortSignal, fields: CallFields) -> Self {
        Self { env, context, departure: Rc::new(Departure::new(signal)), fields: Rc::new(fields) }
    }
}

impl Runtime for WorkerRuntime {
    type Chunk = JsChunk;
    type Exchange = Fetch;
    type Sleep = TimeoutFuture;

    fn now(&self) -> Instant {
        now()
    }

    fn sleep(&self, ms: u64) -> TimeoutFuture {
        TimeoutFuture::new(u32::try_from(ms.min(MAX_DELAY_MS)).unwrap_or(u32::MAX))
    }

    fn send(&self, endpoint: &Endpoint, request: Request) -> Fetch {
        Fetch::send(&self.env, endpoint, &request)
    }

    fn poll_client_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.departure.poll(context)
    }

    fn tell(&self, event: &Event) {
        log::call(&self.fields, event);
    }

    fn spawn(&self, task: Task) {
        self.context.wait_until(task);
    }

    fn store(&self) -> Option<Rc<dyn Store>> {
        Some(Rc::new(gateway::store(&self.env)?))
    }
}

/// The time. In a deployed Worker it stands still between two I/O operations.
pub fn now() -> Instant {
    Instant::from_millis(Date::now() as u64)
}

/// A chunk of a response, left in JavaScript's memory.
#[derive(Clone)]
pub struct JsChunk {
    bytes: Uint8Array,
    length: u32,
}

impl JsChunk {
    /// These bytes, whose number is known.
    pub const fn new(bytes: Uint8Array, length: u32) -> Self {
        Self { bytes, length }
    }

    /// A part of it, by reference.
    pub fn slice(&self, range: &std::ops::Range<usize>) -> Uint8Array {
        let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let (start, end) = (bound(range.start), bound(range.end));
        if start == 0 && end == self.length { self.bytes.clone() } else { self.bytes.subarray(start, end) }
    }
}

impl Chunk for JsChunk {
    fn copy_to(&self, buffer: &mut Vec<u8>) -> usize {
        let length = self.length as usize;
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        self.bytes.copy_to(buffer.get_mut(..length).unwrap_or_default());
        length
    }
}

/// One fetch. Dropping it aborts; and it owns its reader, because workers-rs' `ByteStream` turns an
/// abort into a clean end.
pub struct Fetch {
    exchange: JsExchange,
    state: State,
}

enum State {
    /// Waiting for the head.
    Sent(JsFuture),
    /// The head has come; so may be waited for.
    Open(Option<JsFuture>),
    /// The last bytes have come.
    Ended,
    /// Nothing more will come.
    Over,
}

impl Fetch {
    fn send(env: &Env, endpoint: &Endpoint, request: &Request) -> Self {
        let service = endpoint.via.as_deref().and_then(|name| gateway::service(env, name));
        let Request { method, url, headers, body } = request;
        let exchange = JsExchange::new(&service.unwrap_or_default(), method.as_str(), url, &join(headers), body);
        let state = State::Sent(JsFuture::from(exchange.head()));
        Self { exchange, state }
    }

    /// The exchange, while its body is there to be read and nobody reads it.
    pub fn idle(&mut self) -> Option<JsExchange> {
        (matches!(self.state, State::Open(None)) && self.exchange.reader().is_some()).then(|| self.exchange.clone())
    }

    /// Lets the platform's own pipe bring the body to the client, while nothing is being read. The
    /// writer's lock is released.
    pub fn pipe(
        &mut self,
        writer: &WritableStreamDefaultWriter,
        writable: &WritableStream,
        rest_ms: u64,
    ) -> Option<Pipe> {
        self.idle().and_then(|exchange| exchange.pipe(writer, writable, rest_ms as f64).ok())
    }
}

impl Exchange for Fetch {
    type Chunk = JsChunk;

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Received<JsChunk>> {
        let received = match &mut self.state {
            State::Sent(head) => match ready!(Pin::new(head).poll(context)) {
                Ok(head) => {
                    self.state = State::Open(None);
                    return Poll::Ready(Received::Head(read_head(&head.unchecked_into())));
                }
                Err(_) => Received::Failed,
            },
            State::Open(read) => {
                let pending = read.get_or_insert_with(|| JsFuture::from(self.exchange.read()));
                let result =
                    ready!(Pin::new(pending).poll(context)).map(|result| result.unchecked_into::<ReadResult>());
                match result {
                    Ok(result) if !result.done() => {
                        self.state = if result.last() == Some(true) { State::Ended } else { State::Open(None) };
                        let bytes = result.value().unwrap_or_default();
                        let length = bytes.length();
                        return Poll::Ready(Received::Chunk(JsChunk::new(bytes, length)));
                    }
                    Ok(_) => Received::End,
                    Err(_) => Received::Failed,
                }
            }
            State::Ended => Received::End,
            State::Over => return Poll::Pending,
        };
        self.state = State::Over;
        Poll::Ready(received)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !matches!(self.state, State::Over | State::Ended) {
            self.exchange.abort();
        }
    }
}

fn read_head(head: &Array) -> ResponseHead {
    let status = head.get(0).as_f64().map_or(0, |status| status as u16);
    ResponseHead { status, headers: split(head.get(1).as_string().unwrap_or_default().split(SEPARATOR)) }
}

/// Stands between the parts of a text that crosses to or from `http.js`.
pub const SEPARATOR: char = '\0';

/// Header fields as they cross.
pub fn join(headers: &Headers) -> String {
    let mut text = String::with_capacity(512);
    for (name, value) in headers.iter() {
        if !text.is_empty() {
            text.push(SEPARATOR);
        }
        text.push_str(name);
        text.push(SEPARATOR);
        text.push_str(value);
    }
    text
}

/// Header fields as they have crossed: names and values in turn.
pub fn split<'a>(mut parts: impl Iterator<Item = &'a str>) -> Headers {
    std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
}

/// Notices that the client has left, from the signal of its request.
struct Departure {
    signal: AbortSignal,
    state: Rc<RefCell<Presence>>,
    listener: Closure<dyn FnMut()>,
}

/// The signal's own field is not asked at every turn, because that crosses into JavaScript.
struct Presence {
    left: bool,
    waker: Option<Waker>,
}

impl Departure {
    fn new(signal: AbortSignal) -> Self {
        let state = Rc::new(RefCell::new(Presence { left: signal.aborted(), waker: None }));
        let shared = Rc::clone(&state);
        let listener = Closure::new(move || {
            let mut state = shared.borrow_mut();
            state.left = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        // A signal always takes a listener.
        let _ = signal.add_event_listener_with_callback("abort", listener.as_ref().unchecked_ref());
        Self { signal, state, listener }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.left {
            return Poll::Ready(());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let _ = self.signal.remove_event_listener_with_callback("abort", self.listener.as_ref().unchecked_ref());
    }
}

/// The next chunk from a reader; `None` at the end.
pub async fn read(reader: &ReadableStreamDefaultReader) -> Result<Option<Uint8Array>, JsValue> {
    let result: ReadResult = JsFuture::from(reader.read()).await?.unchecked_into();
    Ok(if result.done() { None } else { result.value() })
}
