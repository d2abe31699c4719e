//! Brings a body to the client.
//!
//! Chunks that go on as they are travel in a loop of JavaScript, `lane.js`, which shows each one
//! to the core; a wasm future woken for every token would cost as much again as reading and
//! writing it. Where the policy says so they travel in the platform's own pipe, `pipe.js`, and the
//! core sees them later. Everything else, and all that is decided, stays here.

use crate::runtime::{Fetch, JsChunk, JsExchange, Pipe, WorkerRuntime};
use fairlead_core::{
    drive::{Body, Piece, Slow},
    runtime::Received,
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
use wasm_bindgen::{JsValue, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::{WritableStream, WritableStreamDefaultWriter};

#[wasm_bindgen(module = "/src/lane.js")]
extern "C" {
    type Lane;
    #[wasm_bindgen(constructor)]
    fn new() -> Lane;
    #[wasm_bindgen(method)]
    fn run(this: &Lane, exchange: &JsExchange, writer: &WritableStreamDefaultWriter, look: &Look) -> Promise;
    #[wasm_bindgen(method)]
    fn waited(this: &Lane) -> f64;
    #[wasm_bindgen(method)]
    fn interrupt(this: &Lane) -> f64;
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

/// Writes a body to its end. `first` are pieces of it that were taken before.
pub async fn pump(
    first: Vec<Piece<JsChunk>>,
    body: Body<WorkerRuntime>,
    writable: WritableStream,
    writer: WritableStreamDefaultWriter,
) {
    let mut pump = Pump { body: Rc::new(RefCell::new(body)), writable, writer };
    let end = if pump.run(first).await {
        pump.writer.close()
    } else {
        // For the platform's log; the client, if it is still there, sees its connection break. A pipe that was
        // stopped has broken it already.
        let reason = js_sys::Error::new("The answer could not be brought to its end.");
        pump.writer.abort_with_reason(&reason)
    };
    let _ = JsFuture::from(end).await;
}

/// The client cannot be written to.
struct Gone;

struct Pump {
    body: Rc<RefCell<Body<WorkerRuntime>>>,
    writable: WritableStream,
    writer: WritableStreamDefaultWriter,
}

impl Pump {
    /// Whether the body came to its end.
    async fn run(&mut self, first: Vec<Piece<JsChunk>>) -> bool {
        for piece in first {
            if !self.write(piece).await {
                return false;
            }
        }
        let shared = Rc::clone(&self.body);
        let look = Look::new(move |bytes, length, now: f64, waited: f64| {
            let chunk = JsChunk::new(bytes, length);
            shared.borrow_mut().look(Instant::from_millis(now as u64), chunk, waited as u64)
        });
        let lane = Lane::new();
        loop {
            if let Some(pipe) = self.pipe()
                && !self.follow(&pipe).await
            {
                return false;
            }
            let exchange = self.body.borrow_mut().steady().and_then(Fetch::idle);
            if let Some(exchange) = exchange
                && let Some(whole) = self.carry(&lane, &exchange, &look).await
            {
                return whole;
            }
            let next = poll_fn(|context| self.body.borrow_mut().poll_next(context)).await;
            let Some(piece) = next else { return true };
            if !self.write(piece).await {
                return false;
            }
        }
    }

    /// Lets the lane carry chunks for as long as it can. `None`: the next piece is to be asked
    /// for; else whether the body came to its end.
    async fn carry(&self, lane: &Lane, exchange: &JsExchange, look: &Look) -> Option<bool> {
        let mut run = JsFuture::from(lane.run(exchange, &self.writer, look));
        let slow = || {
            let since = lane.interrupt();
            let since = (since > 0.0).then(|| Instant::from_millis(since as u64));
            Slow { waited_ms: lane.waited() as u64, since }
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
                Some(Left::ForNow) => return None,
                Some(Left::Ended) => self.body.borrow_mut().take_in(Received::End),
                Some(Left::ReadFailed) => self.body.borrow_mut().take_in(Received::Failed),
                Some(Left::WriteFailed) => {
                    self.body.borrow_mut().leave();
                    return Some(false);
                }
                None => {}
            }
            let ended = left.is_some();
            loop {
                let taken = self.body.borrow_mut().take_piece();
                let Ok(piece) = taken else { return Some(true) };
                let Some(piece) = piece else { break };
                if !self.write(piece).await {
                    return Some(false);
                }
            }
            if ended {
                return None;
            }
        }
    }

    /// Lets the platform's own pipe bring the rest, if it may.
    fn pipe(&self) -> Option<Pipe> {
        self.body.borrow_mut().pipe(|fetch, rest_ms| fetch.pipe(&self.writer, &self.writable, rest_ms))
    }

    /// Follows the pipe until there is something to say behind it, and says it. Whether the client
    /// took it.
    async fn follow(&mut self, pipe: &Pipe) -> bool {
        let mut over = JsFuture::from(pipe.over());
        let mut settled = None;
        let next = poll_fn(|context| {
            if settled.is_none()
                && let Poll::Ready(takes_bytes) = Pin::new(&mut over).poll(context)
            {
                settled = Some(takes_bytes.is_ok_and(|takes_bytes| takes_bytes.is_truthy()));
            }
            if settled == Some(false) {
                return Poll::Ready(Err(Gone));
            }
            self.body.borrow_mut().poll_next(context).map(Ok)
        })
        .await;
        let Ok(next) = next else {
            self.body.borrow_mut().leave();
            return false;
        };
        if settled.is_none() {
            // The client may be behind: what is to be said comes behind all that it has not taken yet.
            let mut taken = pin!(async { over.await.is_ok_and(|takes_bytes| takes_bytes.is_truthy()) });
            if !poll_fn(|context| self.body.borrow_mut().poll_deliver(context, taken.as_mut())).await {
                pipe.stop();
                return false;
            }
        }
        // The pipe has given the lock back.
        let Ok(writer) = self.writable.get_writer() else { return false };
        self.writer = writer;
        match next {
            Some(piece) => self.write(piece).await,
            None => true,
        }
    }

    /// Whether the client took it.
    async fn write(&self, piece: Piece<JsChunk>) -> bool {
        let bytes = match piece {
            Piece::Bytes(bytes) => Uint8Array::from(bytes.as_slice()),
            Piece::Slice(chunk, range) => chunk.slice(&range),
            Piece::Broken => return false,
        };
        let written = self.writer.write_with_chunk(&bytes);
        let mut delivery = pin!(async { JsFuture::from(written).await.is_ok() });
        poll_fn(|context| self.body.borrow_mut().poll_deliver(context, delivery.as_mut())).await
    }
}
