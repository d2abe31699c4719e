//! A host under which attempts go wrong on purpose, as a [`Plan`] says.
//!
//! It stands between the core and a real [`Runtime`]: what is rehearsed looks to a call exactly as if it had happened.
//! Without a plan it only hands on. A host that carries a stream's chunks by itself ([`Body::steady`](super::Body::steady),
//! [`Body::pipe`](super::Body::pipe)) may do so where [`Played::plain`] gives the real exchange.

use crate::{
    event::Event,
    fault::{Fault, Plan},
    message::{Headers, Request, ResponseHead},
    runtime::{Chunk, Exchange, Received, Runtime, Store, Task},
    settings::Endpoint,
    sse::Decoder,
    time::Instant,
};
use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// What stands in an answer that no endpoint gave.
const WORDS: &str = r#"{"error":{"message":"This answer was asked for by x-fairlead-fault.","type":"fault","param":null,"code":"fault"}}"#;

/// See the module's documentation.
#[derive(Clone)]
pub struct Rehearsal<R> {
    runtime: R,
    plan: Option<Rc<RefCell<Plan>>>,
}

impl<R> Rehearsal<R> {
    /// This host, with what is to go wrong, if anything is.
    pub fn new(runtime: R, plan: Option<Plan>) -> Self {
        Self { runtime, plan: plan.map(|plan| Rc::new(RefCell::new(plan))) }
    }
}

impl<R: Runtime> Runtime for Rehearsal<R> {
    type Chunk = R::Chunk;
    type Exchange = Played<R>;
    type Sleep = R::Sleep;

    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn sleep(&self, ms: u64) -> R::Sleep {
        self.runtime.sleep(ms)
    }

    fn sleeps(&self) -> bool {
        self.runtime.sleeps()
    }

    fn send(&self, endpoint: &Endpoint, attempt: u32, request: Request) -> Played<R> {
        let fault = self.plan.as_ref().and_then(|plan| plan.borrow_mut().next(attempt, endpoint));
        let act = match fault {
            None => Act::Plain,
            Some(Fault::Status(status)) => Act::Refuses(status),
            Some(Fault::Unreachable) => Act::Breaks,
            Some(Fault::Stall) => Act::Stalls,
            Some(Fault::StallAfter(events)) => Act::Counts(Box::new(Counted::new(events, true))),
            Some(Fault::Cut(events)) => Act::Counts(Box::new(Counted::new(events, false))),
            Some(Fault::Slow(ms)) => {
                Act::Waits { until: self.now().after(ms), sleep: self.sleep(ms), runtime: self.runtime.clone() }
            }
        };
        let sent = !matches!(act, Act::Refuses(_) | Act::Breaks | Act::Stalls);
        Played { exchange: sent.then(|| self.runtime.send(endpoint, attempt, request)), act }
    }

    fn poll_client_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.runtime.poll_client_gone(context)
    }

    fn tell(&self, event: &Event) {
        self.runtime.tell(event);
    }

    fn spawn(&self, task: Task) {
        self.runtime.spawn(task);
    }

    fn store(&self) -> Option<Rc<dyn Store>> {
        self.runtime.store()
    }
}

/// An exchange, or what is played in its place.
pub struct Played<R: Runtime> {
    /// None where nothing was sent. One that stalls is kept: its endpoint works on until the call gives it up.
    exchange: Option<R::Exchange>,
    act: Act<R>,
}

enum Act<R: Runtime> {
    /// Nothing goes wrong, or not any more.
    Plain,
    /// An answer with this status.
    Refuses(u16),
    /// The rest of that answer.
    Explains,
    Ends,
    Breaks,
    Stalls,
    Waits {
        until: Instant,
        sleep: R::Sleep,
        runtime: R,
    },
    Counts(Box<Counted>),
}

/// An answer that breaks in the middle.
struct Counted {
    /// Events that still go by.
    left: u32,
    stalls: bool,
    /// Of a stream.
    decoder: Option<Decoder>,
    buffer: Vec<u8>,
}

impl<R: Runtime> Played<R> {
    /// The real exchange, where nothing goes wrong with it any more.
    pub fn plain(&mut self) -> Option<&mut R::Exchange> {
        self.exchange.as_mut().filter(|_| matches!(self.act, Act::Plain))
    }
}

impl<R: Runtime> Exchange for Played<R> {
    type Chunk = R::Chunk;

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Received<R::Chunk>> {
        loop {
            let exchange = self.exchange.as_mut();
            match &mut self.act {
                Act::Plain => return exchange.map_or(Poll::Pending, |exchange| exchange.poll_received(context)),
                Act::Refuses(status) => {
                    let headers = Headers::from_iter([("content-type", "application/json")]);
                    let head = ResponseHead { status: *status, headers };
                    self.act = Act::Explains;
                    return Poll::Ready(Received::Head(head));
                }
                Act::Explains => {
                    self.act = Act::Ends;
                    return Poll::Ready(Received::Chunk(R::Chunk::of(WORDS.as_bytes())));
                }
                Act::Ends => return Poll::Ready(Received::End),
                Act::Breaks => {
                    self.exchange = None;
                    return Poll::Ready(Received::Failed);
                }
                Act::Stalls => return Poll::Pending,
                Act::Waits { until, sleep, runtime } => {
                    ready!(Pin::new(&mut *sleep).poll(context));
                    // A timer may fire early.
                    match runtime.now().until(*until) {
                        0 => self.act = Act::Plain,
                        ms => *sleep = runtime.sleep(ms),
                    }
                }
                Act::Counts(counted) => {
                    let Some(exchange) = exchange else { return Poll::Pending };
                    let received = ready!(exchange.poll_received(context));
                    let (goes_on, received) = counted.take_in(received);
                    if !goes_on {
                        self.act = if counted.stalls { Act::Stalls } else { Act::Breaks };
                    }
                    if let Some(received) = received {
                        return Poll::Ready(received);
                    }
                }
            }
        }
    }
}

impl Counted {
    fn new(left: u32, stalls: bool) -> Self {
        Self { left, stalls, decoder: None, buffer: Vec::new() }
    }

    /// Whether more may go by behind this, and what of it still does. What does not stream, or has fewer events, breaks at
    /// its end.
    fn take_in<C: Chunk>(&mut self, received: Received<C>) -> (bool, Option<Received<C>>) {
        match received {
            Received::Head(head) => {
                let streams = head.headers.media_type() == "text/event-stream";
                self.decoder = streams.then(Decoder::default);
                (self.left > 0, Some(Received::Head(head)))
            }
            Received::Chunk(chunk) => match self.place_in(&chunk) {
                None => (true, Some(Received::Chunk(chunk))),
                Some(place) => {
                    let shown = self.buffer.get(..place).unwrap_or_default();
                    (false, Some(Received::Chunk(C::of(shown))))
                }
            },
            Received::End => (false, None),
            received => (true, Some(received)),
        }
    }

    /// Where in a chunk the last event ends that still goes by.
    fn place_in(&mut self, chunk: &impl Chunk) -> Option<usize> {
        let decoder = self.decoder.as_mut()?;
        let length = chunk.copy_to(&mut self.buffer);
        let bytes = self.buffer.get(..length).unwrap_or_default();
        let mut at = 0;
        while let Ok(Some(block)) = decoder.next(bytes, &mut at) {
            // Comments are no events.
            self.left = self.left.saturating_sub(u32::from(block.fields().is_some()));
            if self.left == 0 {
                return Some(at);
            }
        }
        None
    }
}
