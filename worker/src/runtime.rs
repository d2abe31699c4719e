//! Lets the core's calls touch the world: fetch, timers, the clock, and the client's going.

use crate::{
    gateway,
    log::{self, CallFields},
};
use fairlead_core::{
    event::Event,
    message::{Headers, Request, ResponseHead},
    runtime::{Chunk, Exchange, Received, Runtime},
    settings::Endpoint,
    time::Instant,
};
use gloo_timers::future::TimeoutFuture;
use js_sys::{Date, Promise, Uint8Array};
use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, AbortSignal, ReadableStream, ReadableStreamDefaultReader, RequestInit, RequestRedirect, Response,
    WritableStream,
};
use worker::Env;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch)]
    fn global_fetch(url: &str, init: &RequestInit) -> Promise;

    /// What `reader.read()` resolves to.
    type ReadResult;
    #[wasm_bindgen(method, getter)]
    fn done(this: &ReadResult) -> bool;
    #[wasm_bindgen(method, getter)]
    fn value(this: &ReadResult) -> Option<Uint8Array>;
}

#[wasm_bindgen(module = "/src/pipe.js")]
extern "C" {
    /// A response's body on its way to the client by the platform's own pipe.
    #[derive(Clone)]
    pub type Pipe;
    #[wasm_bindgen(constructor)]
    pub fn new(body: &ReadableStream, writable: &WritableStream, rest_ms: f64) -> Pipe;
    #[wasm_bindgen(method, getter)]
    pub fn over(this: &Pipe) -> Promise;
    #[wasm_bindgen(method)]
    pub fn stop(this: &Pipe);
    #[wasm_bindgen(method)]
    fn next(this: &Pipe) -> Promise;
}

/// The longest delay that `setTimeout` takes before it wraps around to none at all.
const MAX_DELAY_MS: u64 = i32::MAX as u64;

/// The host of one call.
pub struct WorkerRuntime {
    env: Env,
    departure: Departure,
    fields: CallFields,
}

impl WorkerRuntime {
    /// The host of a call that this request makes.
    pub fn new(env: Env, signal: AbortSignal, fields: CallFields) -> Self {
        Self { env, departure: Departure::new(signal), fields }
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
}

/// The time. In a deployed Worker it stands still between two I/O operations.
pub fn now() -> Instant {
    Instant::from_millis(Date::now() as u64)
}

/// A chunk of a response, left in JavaScript's memory.
#[derive(Clone)]
pub struct JsChunk(Uint8Array);

impl From<Uint8Array> for JsChunk {
    fn from(bytes: Uint8Array) -> Self {
        Self(bytes)
    }
}

impl JsChunk {
    /// A part of it, by reference.
    pub fn slice(&self, range: &std::ops::Range<usize>) -> Uint8Array {
        let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let (start, end) = (bound(range.start), bound(range.end));
        if start == 0 && end == self.0.length() { self.0.clone() } else { self.0.subarray(start, end) }
    }
}

impl Chunk for JsChunk {
    fn copy_to(&self, buffer: &mut Vec<u8>) {
        buffer.resize(self.0.length() as usize, 0);
        self.0.copy_to(buffer);
    }
}

/// One fetch. It owns its `AbortController`, so none can be made without a signal, and dropping it
/// aborts; it owns its reader, because workers-rs' `ByteStream` turns an abort into a clean end.
pub struct Fetch {
    controller: AbortController,
    state: State,
}

enum Body {
    Read(ReadableStream, ReadableStreamDefaultReader),
    /// The client gets it already; what comes of it here are copies.
    Piped(Pipe),
}

impl Body {
    fn read(&self) -> Promise {
        match self {
            Self::Read(_, reader) => reader.read(),
            Self::Piped(pipe) => pipe.next(),
        }
    }
}

enum State {
    /// Waiting for the head.
    Sent(JsFuture),
    /// The head has come.
    Open { body: Body, read: Option<JsFuture> },
    /// The head has come, and there is no body.
    Empty,
    /// Nothing more will come.
    Over,
}

impl Fetch {
    /// The body's reader, while nothing is being read from it.
    pub fn idle_reader(&mut self) -> Option<ReadableStreamDefaultReader> {
        match &self.state {
            State::Open { body: Body::Read(_, reader), read: None } => Some(reader.clone()),
            _ => None,
        }
    }

    /// Lets `pipe` bring the body to the client, while nothing is being read from it.
    pub fn pipe(&mut self, pipe: impl FnOnce(&ReadableStream) -> Pipe) -> Option<Pipe> {
        let State::Open { body, read: None } = &mut self.state else { return None };
        let Body::Read(stream, reader) = &*body else { return None };
        reader.release_lock();
        let pipe = pipe(stream);
        *body = Body::Piped(pipe.clone());
        Some(pipe)
    }

    fn send(env: &Env, endpoint: &Endpoint, request: &Request) -> Self {
        // The constructor takes nothing and cannot fail.
        let controller = AbortController::new().unwrap_throw();
        let init = RequestInit::new();
        init.set_method(request.method.as_str());
        init.set_redirect(RequestRedirect::Manual);
        init.set_signal(Some(&controller.signal()));
        init.set_body(&Uint8Array::from(&*request.body));
        let headers = request.headers.iter().map(|(name, value)| js_sys::Array::of2(&name.into(), &value.into()));
        init.set_headers(&headers.collect::<js_sys::Array>());
        let promise = match endpoint.via.as_deref().and_then(|name| gateway::service(env, name)) {
            Some((service, fetch)) => fetch
                .call2(&service, &request.url.as_str().into(), &init)
                .and_then(|promise| promise.dyn_into())
                .unwrap_or_else(|error| Promise::reject(&error)),
            None => global_fetch(&request.url, &init),
        };
        Self { controller, state: State::Sent(JsFuture::from(promise)) }
    }
}

impl Exchange for Fetch {
    type Chunk = JsChunk;

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Received<JsChunk>> {
        let received = match &mut self.state {
            State::Sent(response) => match Pin::new(response).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(response)) => {
                    let (head, state) = open(response.unchecked_ref());
                    self.state = state;
                    return Poll::Ready(Received::Head(head));
                }
                Poll::Ready(Err(_)) => Received::Failed,
            },
            State::Open { body, read } => {
                let pending = read.get_or_insert_with(|| JsFuture::from(body.read()));
                match Pin::new(pending).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(result) => {
                        *read = None;
                        match result.map(|result| result.unchecked_into::<ReadResult>()) {
                            Ok(result) if !result.done() => {
                                let chunk = JsChunk(result.value().unwrap_or_default());
                                return Poll::Ready(Received::Chunk(chunk));
                            }
                            Ok(_) => Received::End,
                            Err(_) => Received::Failed,
                        }
                    }
                }
            }
            State::Empty => Received::End,
            State::Over => return Poll::Pending,
        };
        self.state = State::Over;
        Poll::Ready(received)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let State::Open { body: Body::Piped(pipe), .. } = &self.state {
            pipe.stop();
        }
        if !matches!(self.state, State::Over) {
            self.controller.abort();
        }
    }
}

fn open(response: &Response) -> (ResponseHead, State) {
    let head = ResponseHead { status: response.status(), headers: headers(&response.headers()) };
    let state = match response.body() {
        Some(stream) => {
            // A fresh body has no reader yet.
            let reader = stream.get_reader().unchecked_into();
            State::Open { body: Body::Read(stream, reader), read: None }
        }
        None => State::Empty,
    };
    (head, state)
}

/// Header fields as the core holds them.
pub fn headers(headers: &web_sys::Headers) -> Headers {
    let pairs = headers.entries().into_iter().flatten().filter_map(|pair| {
        let pair: js_sys::Array = pair.unchecked_into();
        Some((pair.get(0).as_string()?, pair.get(1).as_string()?))
    });
    pairs.collect()
}

/// Notices that the client has left, from the signal of its request.
struct Departure {
    signal: AbortSignal,
    waker: Rc<RefCell<Option<Waker>>>,
    listener: Closure<dyn FnMut()>,
}

impl Departure {
    fn new(signal: AbortSignal) -> Self {
        let waker = Rc::new(RefCell::new(None::<Waker>));
        let shared = Rc::clone(&waker);
        let listener = Closure::new(move || {
            if let Some(waker) = shared.borrow_mut().take() {
                waker.wake();
            }
        });
        // A signal always takes a listener.
        let _ = signal.add_event_listener_with_callback("abort", listener.as_ref().unchecked_ref());
        Self { signal, waker, listener }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.signal.aborted() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
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
