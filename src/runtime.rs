//! What a host gives to the core: a clock, timers, exchanges, and a sink for facts.
//!
//! Everything is polled from one task. Nothing here may outlive the request it serves, because a
//! Worker must not touch one request's streams from another.

use crate::{
    event::Event,
    message::{Barrier, Request, ResponseHead},
    settings::Endpoint,
    time::Instant,
};
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// A host, as one call sees it.
pub trait Runtime: Clone + 'static {
    /// Bytes of a response, left where the host has them.
    type Chunk: Chunk;
    /// A request on its way and its response.
    type Exchange: Exchange<Chunk = Self::Chunk>;
    /// A timer; dropping it stops it.
    type Sleep: Future<Output = ()> + Unpin;

    /// The time.
    fn now(&self) -> Instant;
    /// A timer of this many milliseconds; it may fire early, never much too late.
    fn sleep(&self, ms: u64) -> Self::Sleep;
    /// Whether timers may fire very late all the same: a browser wakes a hidden page once a minute, and a laptop
    /// sleeps. Such a host polls [`Body`](crate::drive::Body) whenever it can while it has one that is not ready: the
    /// core takes the time by which that is late for a sleep.
    fn sleeps(&self) -> bool {
        false
    }
    /// Sends a request of this attempt; 0 stands for none. Redirects are not followed.
    fn send(&self, endpoint: &Endpoint, attempt: u32, request: Request) -> Self::Exchange;
    /// Ready once the client has left.
    fn poll_client_gone(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// Takes note of a fact.
    fn tell(&self, event: &Event);
    /// Runs something to its end beside the call, and behind it if it takes longer.
    fn spawn(&self, task: Task);
    /// Where isolates leave word for each other, if they can.
    fn store(&self) -> Option<Rc<dyn Store>>;
    /// Asks a rate limiting binding of the platform whether one more request may be made under this key; `None`
    /// where there are no such bindings.
    fn limit(&self, _binding: &str, _key: &str) -> Option<Later<bool>> {
        None
    }
}

/// Where isolates leave word for each other: one small text under each key. Nothing relies on it: what it tells may
/// be a minute old, what it is told may be lost, and it may take for ever.
pub trait Store {
    /// What it is, in a word for an operator.
    fn kind(&self) -> &'static str {
        "memory"
    }
    /// The text under a key; `None` where there is none.
    fn get(&self, key: &str) -> Later<Option<String>>;
    /// Puts a text under a key.
    fn put(&self, key: &str, text: String) -> Later<()>;
    /// Asks to be the only one for so many milliseconds that may probe what a key stands for. `None`: this store
    /// cannot grant that.
    fn lease(&self, _key: &str, _ms: u64) -> Option<Later<bool>> {
        None
    }
}

/// What a [`Store`] answers, or another helper of the platform.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>>>>;

/// Why a [`Store`] did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Somebody else has put a text under that key in the same second (KV's 429).
    Limited,
    /// Anything else.
    Unavailable,
}

/// See [`Runtime::spawn`].
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A piece of a response's body that the core looks at and passes on by reference.
pub trait Chunk: Clone {
    /// These bytes.
    fn of(bytes: &[u8]) -> Self;
    /// Puts its bytes at the start of `buffer`, which grows where it must, and says how many.
    fn copy_to(&self, buffer: &mut Vec<u8>) -> usize;
}

impl Chunk for Rc<[u8]> {
    fn of(bytes: &[u8]) -> Self {
        bytes.into()
    }

    fn copy_to(&self, buffer: &mut Vec<u8>) -> usize {
        buffer.clear();
        buffer.extend_from_slice(self);
        self.len()
    }
}

/// One request and its response. Dropping it aborts it: the endpoint stops working for nobody.
pub trait Exchange {
    /// Bytes of the body.
    type Chunk;
    /// The next thing that comes. Not polled again behind [`Received::End`], [`Received::Failed`] or
    /// [`Received::Barred`].
    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Received<Self::Chunk>>;
}

/// What comes from an exchange: a head, chunks, and an end, or a failure or a barrier at any point.
#[derive(Debug)]
pub enum Received<C> {
    /// Status and fields.
    Head(ResponseHead),
    /// A piece of the body.
    Chunk(C),
    /// The body is complete as far as the transport can tell.
    End,
    /// No connection, or it broke.
    Failed,
    /// The platform did not let the request out, or keeps its answer from us. A device without a network has
    /// waited for it to come back before it says so: nothing is tried again.
    Barred(Barrier),
}
