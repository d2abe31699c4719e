//! Brings a body to whoever takes it.
//!
//! Chunks that go on as they are travel in a loop of JavaScript, `lane.js`, which shows each one to the core; a wasm
//! future woken for every token would cost as much again as reading and writing it. Everything else, and all that is
//! decided, stays in the core.

use crate::{
    exchange::{Carried, JsChunk, JsExchange},
    wait::Wait,
};
use fairlead_core::{
    drive::{Body, Piece, Slow},
    message::ResponseHead,
    runtime::{Received, Runtime},
    time::Instant,
};
use js_sys::{Promise, Uint8Array};
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};
use wasm_bindgen::{JsValue, closure::Closure, prelude::wasm_bindgen};

#[wasm_bindgen(module = "/src/lane.js")]
extern "C" {
    type Lane;
    #[wasm_bindgen(constructor)]
    fn new() -> Lane;
    #[wasm_bindgen(method)]
    fn run(this: &Lane, exchange: &JsExchange, writer: &Writer, look: &Look) -> Promise;
    #[wasm_bindgen(method)]
    fn leave(this: &Lane);
    #[wasm_bindgen(method)]
    fn waited(this: &Lane) -> f64;
    #[wasm_bindgen(method)]
    fn interrupt(this: &Lane) -> f64;
}

#[wasm_bindgen]
extern "C" {
    /// Takes a body's bytes: a stream's writer, or whatever has its methods.
    pub type Writer;
    /// Resolves when the bytes are taken; rejects when nobody takes any more.
    #[wasm_bindgen(method)]
    fn write(this: &Writer, chunk: &Uint8Array) -> Promise;
    /// The body is at its end.
    #[wasm_bindgen(method)]
    fn close(this: &Writer) -> Promise;
    /// The body breaks off.
    #[wasm_bindgen(method)]
    pub fn abort(this: &Writer, reason: &JsValue) -> Promise;
}

/// Shows a chunk to the core: the chunk, its length, the time, and the milliseconds that the client
/// took over the one before.
type Look = Closure<dyn FnMut(Uint8Array, u32, f64, f64) -> bool>;

/// Why the lane was left.
enum Left {
    /// A chunk was refused, or a timer is to be armed anew.
    ForNow,
    Ended,
    ReadFailed,
    WriteFailed,
}

impl From<Result<JsValue, JsValue>> for Left {
    fn from(code: Result<JsValue, JsValue>) -> Self {
        // `lane.js` knows the same numbers.
        match code.ok().and_then(|code| code.as_f64()).map(|code| code as u32) {
            Some(0) => Self::ForNow,
            Some(1) => Self::Ended,
            Some(2) => Self::ReadFailed,
            // A client that cannot be written to; or a defect, behind which nothing may go on.
            _ => Self::WriteFailed,
        }
    }
}

/// All of a body that is at hand at once, without a byte `None`; of another the pieces that were taken before the rest.
///
/// An answer that does not stream comes in one piece, unless it is very large.
pub async fn at_once<R: Runtime<Chunk = JsChunk>>(
    head: &ResponseHead,
    body: &mut Body<R>,
) -> Result<Option<Uint8Array>, Vec<Piece<JsChunk>>> {
    let mut first = Vec::new();
    if head.headers.media_type() != "text/event-stream" {
        for _ in 0..2 {
            match body.next().await {
                Some(piece) => first.push(piece),
                None => return Ok(first.pop().and_then(bytes_of)),
            }
        }
    }
    Err(first)
}

fn bytes_of(piece: Piece<JsChunk>) -> Option<Uint8Array> {
    match piece {
        Piece::Bytes(bytes) => Some(Uint8Array::from(bytes.as_slice())),
        Piece::Slice(chunk, range) => Some(chunk.slice(&range)),
        Piece::Broken => None,
    }
}

/// How far a pump has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more.
    Going,
    /// The body came to its end.
    Whole,
    /// It breaks off, or nobody takes it any more.
    Broken,
}

/// A body on its way.
pub struct Pump<R: Runtime> {
    /// What is to be brought.
    pub body: Rc<RefCell<Body<R>>>,
    /// Who takes it.
    pub writer: Writer,
    lane: Lane,
    look: Look,
}

impl<R: Runtime<Chunk = JsChunk, Exchange: Carried>> Pump<R> {
    /// Brings this body to this writer.
    pub fn new(body: Body<R>, writer: Writer) -> Self {
        let body = Rc::new(RefCell::new(body));
        let shared = Rc::clone(&body);
        let look = Look::new(move |bytes, length, now: f64, waited: f64| {
            let chunk = JsChunk::new(bytes, length);
            shared.borrow_mut().look(Instant::from_millis(now as u64), chunk, waited as u64)
        });
        Self { body, writer, lane: Lane::new(), look }
    }

    /// Brings what comes next: a piece, or all that the lane can carry.
    pub async fn step(&self) -> Progress {
        let exchange = self.body.borrow_mut().steady().and_then(Carried::idle);
        if let Some(exchange) = exchange {
            let progress = self.carry(&exchange).await;
            if progress != Progress::Going {
                return progress;
            }
        }
        let next = poll_fn(|context| self.body.borrow_mut().poll_next(context)).await;
        let Some(piece) = next else { return Progress::Whole };
        if self.write(piece).await { Progress::Going } else { Progress::Broken }
    }

    /// Lets the lane carry chunks for as long as it can.
    async fn carry(&self, exchange: &JsExchange) -> Progress {
        let mut run = Wait::from(self.lane.run(exchange, &self.writer, &self.look));
        let slow = || {
            let since = self.lane.interrupt();
            let since = (since > 0.0).then(|| Instant::from_millis(since as u64));
            Slow { waited_ms: self.lane.waited() as u64, since }
        };
        loop {
            let left = poll_fn(|context| {
                if let Poll::Ready(code) = Pin::new(&mut run).poll(context) {
                    return Poll::Ready(Some(Left::from(code)));
                }
                self.body.borrow_mut().poll_other(context, slow).map(|()| None)
            })
            .await;
            match left {
                Some(Left::ForNow) => return Progress::Going,
                Some(Left::Ended) => self.body.borrow_mut().take_in(Received::End),
                Some(Left::ReadFailed) => self.body.borrow_mut().take_in(Received::Failed),
                Some(Left::WriteFailed) => {
                    self.body.borrow_mut().leave();
                    return Progress::Broken;
                }
                None => {}
            }
            let ended = left.is_some();
            loop {
                let taken = self.body.borrow_mut().take_piece();
                let Ok(piece) = taken else { return Progress::Whole };
                let Some(piece) = piece else { break };
                if !self.write(piece).await {
                    return Progress::Broken;
                }
            }
            if ended || !self.body.borrow().is_steady() {
                self.lane.leave();
                return Progress::Going;
            }
        }
    }

    /// Whether the client took it.
    pub async fn write(&self, piece: Piece<JsChunk>) -> bool {
        let Some(bytes) = bytes_of(piece) else { return false };
        let written = self.writer.write(&bytes);
        let mut delivery = pin!(async { Wait::from(written).await.is_ok() });
        poll_fn(|context| self.body.borrow_mut().poll_deliver(context, delivery.as_mut())).await
    }

    /// Ends what the client gets.
    pub async fn end(&self, whole: bool) {
        let end = if whole {
            self.writer.close()
        } else {
            // The client, if it is still there, sees its answer break.
            self.writer.abort(&js_sys::Error::new("The answer could not be brought to its end.").into())
        };
        let _ = Wait::from(end).await;
    }
}
