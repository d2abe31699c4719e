//! A fetch as the core's exchange.

use crate::{
    message::{SEPARATOR, join, split},
    wait::Wait,
};
use fairlead_core::{
    drive::Played,
    message::{Barrier, Request, ResponseHead},
    runtime::{Chunk, Exchange, Received, Runtime},
};
use js_sys::{Array, Promise, Uint8Array};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use web_sys::ReadableStreamDefaultReader;

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
    #[wasm_bindgen(method)]
    fn abort(this: &JsExchange);
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
    fn of(bytes: &[u8]) -> Self {
        let bytes = Uint8Array::from(bytes);
        let length = bytes.length();
        Self { bytes, length }
    }

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
    tells_length: bool,
}

enum State {
    /// Waiting for the head.
    Sent(Wait),
    /// The head has come; so may be waited for.
    Open(Option<Wait>),
    /// The last bytes have come.
    Ended,
    /// Nothing more will come.
    Over,
}

impl Fetch {
    /// Sends a request through `service`, which has a `fetch`; `undefined` is the public network.
    pub fn send(service: &JsValue, request: &Request) -> Self {
        let Request { method, url, headers, body } = request;
        let exchange = JsExchange::new(service, method.as_str(), url, &join(headers), body);
        let state = State::Sent(Wait::from(exchange.head()));
        Self { exchange, state, tells_length: true }
    }

    /// What is announced as the body's length need not be that of what arrives: the platform checks it by itself.
    pub const fn of_unknown_length(mut self) -> Self {
        self.tells_length = false;
        self
    }
}

/// An exchange whose body may be carried by JavaScript.
pub trait Carried {
    /// The exchange, while its body is there to be read and nobody reads it.
    fn idle(&mut self) -> Option<JsExchange>;
}

impl Carried for Fetch {
    fn idle(&mut self) -> Option<JsExchange> {
        (matches!(self.state, State::Open(None)) && self.exchange.reader().is_some()).then(|| self.exchange.clone())
    }
}

impl<R: Runtime<Exchange = Fetch>> Carried for Played<R> {
    fn idle(&mut self) -> Option<JsExchange> {
        self.plain()?.idle()
    }
}

impl Exchange for Fetch {
    type Chunk = JsChunk;

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Received<JsChunk>> {
        let received = match &mut self.state {
            State::Sent(head) => match ready!(Pin::new(head).poll(context)) {
                Ok(head) => {
                    self.state = State::Open(None);
                    let mut head = read_head(&head.unchecked_into());
                    if !self.tells_length {
                        head.headers.remove("content-length");
                    }
                    return Poll::Ready(Received::Head(head));
                }
                Err(reason) => match reason.as_string().as_deref() {
                    // What a page can know; `ts/network.ts` says so in these words.
                    Some("offline") => Received::Barred(Barrier::Offline),
                    Some("blocked") => Received::Barred(Barrier::Cors),
                    _ => Received::Failed,
                },
            },
            State::Open(read) => {
                let pending = read.get_or_insert_with(|| Wait::from(self.exchange.read()));
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

/// The next chunk from a reader; `None` at the end.
pub async fn read(reader: &ReadableStreamDefaultReader) -> Result<Option<Uint8Array>, JsValue> {
    let result: ReadResult = Wait::from(reader.read()).await?.unchecked_into();
    Ok(if result.done() { None } else { result.value() })
}
