//! Brings a body to the client: as `fairlead-host` does, or where the policy says so by the platform's own pipe,
//! `pipe.js`, behind which the core sees the chunks later.

use crate::runtime::CallRuntime;
use fairlead_core::drive::{Body, Piece};
use fairlead_host::{
    exchange::{Carried, JsChunk, JsExchange},
    pump::{Progress, Pump, Writer},
    wait::Wait,
};
use js_sys::Promise;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use web_sys::WritableStream;

#[wasm_bindgen(module = "/src/pipe.js")]
extern "C" {
    /// A response's body on its way to the client by the platform's own pipe.
    type Pipe;
    /// Lets an exchange's body go by, while nothing is read from it. The writer's lock is released.
    #[wasm_bindgen(catch)]
    fn pipe(exchange: &JsExchange, writer: &Writer, writable: &WritableStream, rest_ms: f64) -> Result<Pipe, JsValue>;
    /// Resolves to whether the client can be written to, when nothing goes by any more.
    #[wasm_bindgen(method, getter)]
    fn over(this: &Pipe) -> Promise;
    /// Lets nothing more go by.
    #[wasm_bindgen(method)]
    fn stop(this: &Pipe);
}

/// Writes a body to its end. `first` are pieces of it that were taken before.
pub async fn pump(first: Vec<Piece<JsChunk>>, body: Body<CallRuntime>, writable: WritableStream, writer: Writer) {
    let mut delivery = Delivery { pump: Pump::new(body, writer), writable };
    let whole = delivery.run(first).await;
    delivery.pump.end(whole).await;
}

/// The writer of a stream.
pub fn writer_of(writable: &WritableStream) -> Result<Writer, JsValue> {
    writable.get_writer().map(JsCast::unchecked_into)
}

/// The client cannot be written to.
struct Gone;

struct Delivery {
    pump: Pump<CallRuntime>,
    writable: WritableStream,
}

impl Delivery {
    /// Whether the body came to its end.
    async fn run(&mut self, first: Vec<Piece<JsChunk>>) -> bool {
        for piece in first {
            if !self.pump.write(piece).await {
                return false;
            }
        }
        loop {
            if let Some(pipe) = self.pipe()
                && !self.follow(&pipe).await
            {
                return false;
            }
            match self.pump.step().await {
                Progress::Going => {}
                Progress::Whole => return true,
                Progress::Broken => return false,
            }
        }
    }

    /// Lets the platform's own pipe bring the rest, if it may.
    fn pipe(&self) -> Option<Pipe> {
        self.pump.body.borrow_mut().pipe(|exchange, rest_ms| {
            exchange.idle().and_then(|exchange| pipe(&exchange, &self.pump.writer, &self.writable, rest_ms as f64).ok())
        })
    }

    /// Follows the pipe until there is something to say behind it, and says it. Whether the client
    /// took it.
    async fn follow(&mut self, pipe: &Pipe) -> bool {
        let body = &self.pump.body;
        let mut over = Wait::from(pipe.over());
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
            body.borrow_mut().poll_next(context).map(Ok)
        })
        .await;
        let Ok(next) = next else {
            body.borrow_mut().leave();
            return false;
        };
        if settled.is_none() {
            // The client may be behind: what is to be said comes behind all that it has not taken yet.
            let mut taken = pin!(async { over.await.is_ok_and(|takes_bytes| takes_bytes.is_truthy()) });
            if !poll_fn(|context| body.borrow_mut().poll_deliver(context, taken.as_mut())).await {
                pipe.stop();
                return false;
            }
        }
        // The pipe has given the lock back.
        let Ok(writer) = writer_of(&self.writable) else { return false };
        self.pump.writer = writer;
        match next {
            Some(piece) => self.pump.write(piece).await,
            None => true,
        }
    }
}
