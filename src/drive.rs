//! Runs a [`Call`] on a [`Runtime`]: the core's only `.await`.
//!
//! [`open`] waits for the client's status; [`Body::next`] for the next bytes. The call decides,
//! the host touches the world, and this file carries things between them. Where a task woken per
//! token is too dear, a host carries a steady stream's chunks by itself: see [`Body::steady`].

mod lane;
pub mod limiter;
pub mod operator;
mod pipe;
mod rehearsal;
pub mod reload;
mod settle;
mod upkeep;

pub use lane::{Over, Slow};
pub use rehearsal::{Played, Rehearsal};

use crate::{
    call::{Call, Emit, Input, Output},
    jobs,
    message::ResponseHead,
    runtime::{Chunk, Exchange, Later, Received, Runtime, StoreError},
    time::Instant,
};
use std::{
    future::{Future, poll_fn},
    mem,
    ops::Range,
    pin::{Pin, pin},
    task::{Context, Poll},
};

/// Bytes for the client.
#[derive(Debug)]
pub enum Piece<C> {
    /// Bytes of the core's own making.
    Bytes(Vec<u8>),
    /// A part of a chunk that came from an endpoint.
    Slice(C, Range<usize>),
    /// The body must be broken off here: it is incomplete, and nothing else can tell.
    Broken,
}

/// A client's response: its head, and its body to be read piece by piece.
pub struct Opened<R: Runtime> {
    /// Status and fields.
    pub head: ResponseHead,
    /// What follows.
    pub body: Body<R>,
}

/// The body of a client's response. Dropping it aborts everything that is in flight.
pub struct Body<R: Runtime> {
    call: Call,
    runtime: R,
    exchanges: Vec<(u32, R::Exchange)>,
    /// The chunk that the latest outputs refer to, and a buffer for looking at it, of which it fills
    /// so much.
    chunk: Option<R::Chunk>,
    buffer: Vec<u8>,
    length: usize,
    /// The timer that is armed, and for when. It may be early: then it is armed again.
    timer: Option<(Instant, R::Sleep)>,
    /// It was: something may have happened that the call has been waiting for.
    woken_early: bool,
    /// When a host that sleeps is to poll this again at the latest.
    wakes_at: Option<Instant>,
    client_gone: bool,
    over: bool,
}

/// A timer that is armed early need not be armed anew for whatever comes up before a later one.
const LONGEST_SLEEP_MS: u64 = 5000;

/// How long behind its deadline a call waits for the client to take its last words.
const LAST_WORDS_MS: u64 = 1000;

enum Step<C> {
    Head(ResponseHead),
    Piece(Piece<C>),
    Over,
}

/// Runs the call until the client's status is known. `None`: the client left before that.
pub async fn open<R: Runtime>(runtime: R, call: Call) -> Option<Opened<R>> {
    let mut body = Body {
        call,
        runtime,
        exchanges: Vec::new(),
        chunk: None,
        buffer: Vec::new(),
        length: 0,
        timer: None,
        woken_early: false,
        wakes_at: None,
        client_gone: false,
        over: false,
    };
    let step = poll_fn(|context| body.poll_step(context)).await;
    body.rest();
    match step {
        Step::Head(head) => Some(Opened { head, body }),
        Step::Piece(_) | Step::Over => None,
    }
}

impl<R: Runtime> Body<R> {
    /// The next bytes; `None` at the end. Before the first call and between two nothing is read
    /// from any endpoint, and the timers of its silence stand still.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece<R::Chunk>>> {
        self.resume();
        let Poll::Ready(step) = self.poll_step(context) else { return Poll::Pending };
        self.rest();
        Poll::Ready(match step {
            Step::Piece(piece) => Some(piece),
            Step::Head(_) | Step::Over => None,
        })
    }

    /// See [`Body::poll_next`].
    pub async fn next(&mut self) -> Option<Piece<R::Chunk>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Waits until the client has taken what `delivery` brings it, for as long as the call's
    /// deadline allows; at the deadline its endpoints are let go, and what there is to say about
    /// it is waited for a moment longer, or it could reach nobody. `false`: the client did not
    /// take it; the call is over.
    pub fn poll_deliver(
        &mut self,
        context: &mut Context<'_>,
        mut delivery: Pin<&mut impl Future<Output = bool>>,
    ) -> Poll<bool> {
        self.notice_sleep();
        loop {
            if let Poll::Ready(taken) = delivery.as_mut().poll(context) {
                if !taken {
                    self.leave();
                }
                self.wakes_at = None;
                return Poll::Ready(taken);
            }
            if self.poll_gone(context) {
                self.leave();
                return Poll::Ready(false);
            }
            let over = self.call.poll_timeout().is_none();
            let until = self.call.deadline().after(if over { LAST_WORDS_MS } else { 0 });
            match self.poll_timer(context, until) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if over => {
                    self.leave();
                    return Poll::Ready(false);
                }
                Poll::Ready(()) => self.call.handle_input(self.runtime.now(), Input::Timeout),
            }
            self.settle();
            self.exchanges.clear();
        }
    }

    /// See [`Body::poll_deliver`].
    pub async fn deliver(&mut self, delivery: impl Future<Output = bool>) -> bool {
        let mut delivery = pin!(delivery);
        poll_fn(|context| self.poll_deliver(context, delivery.as_mut())).await
    }

    /// The client has left: the call is over. Nobody takes what is left to say; only its facts are
    /// still of use.
    pub fn leave(&mut self) {
        self.call.handle_input(self.runtime.now(), Input::ClientGone);
        self.settle();
        while let Some(output) = self.call.poll_output() {
            if let Output::Event(event) = output {
                self.runtime.tell(&event);
            }
        }
        self.exchanges.clear();
        self.over = true;
    }

    /// Whether the call's time is over.
    pub fn is_late(&self) -> bool {
        self.runtime.now() >= self.call.deadline()
    }

    /// Until it is polled again, the client takes its time, which is no sleep of the host's.
    fn rest(&mut self) {
        self.call.pause(self.runtime.now());
        self.wakes_at = None;
    }

    fn resume(&mut self) {
        if self.call.is_paused() {
            self.call.resume(self.runtime.now());
        }
    }

    /// Tells the call for how long the host has slept, before anything is held against the clock.
    fn notice_sleep(&mut self) {
        if self.wakes_at.is_some() {
            self.notice_sleep_at(self.runtime.now());
        }
    }

    fn notice_sleep_at(&mut self, now: Instant) {
        let Some(wakes_at) = self.wakes_at.filter(|at| *at < now) else { return };
        self.call.on_late_wake(now, now.since(wakes_at));
        self.wakes_at = Some(now);
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step<R::Chunk>> {
        self.notice_sleep();
        loop {
            if let Some(step) = self.take_outputs() {
                return Poll::Ready(step);
            }
            if self.poll_gone(context) {
                self.call.handle_input(self.runtime.now(), Input::ClientGone);
                continue;
            }
            if self.poll_exchanges(context) {
                continue;
            }
            let Some(at) = self.call.poll_timeout() else { return Poll::Ready(Step::Over) };
            match self.poll_timer(context, at) {
                Poll::Ready(()) => self.call.handle_input(self.runtime.now(), Input::Timeout),
                Poll::Pending if mem::take(&mut self.woken_early) && self.call.looks_again(self.runtime.now()) => {
                    self.call.handle_input(self.runtime.now(), Input::Timeout);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Lets jobs that nobody waits for any more be ended, and word about breakers be exchanged, beside the call.
    fn settle(&mut self) {
        while let Some(upkeep) = self.call.poll_upkeep() {
            self.runtime.spawn(Box::pin(upkeep::upkeep(self.runtime.clone(), upkeep)));
        }
        while let Some(settlement) = self.call.poll_settlement() {
            let place = self.exchanges.iter().position(|(id, _)| Some(*id) == settlement.exchange);
            let submission = place.map(|place| self.exchanges.swap_remove(place).1);
            self.runtime.spawn(Box::pin(settle::settle(self.runtime.clone(), *jobs::pointer(settlement), submission)));
        }
    }

    /// Does what the call wants done, up to the first thing that the client gets.
    fn take_outputs(&mut self) -> Option<Step<R::Chunk>> {
        self.settle();
        if self.over {
            return Some(Step::Over);
        }
        while let Some(output) = self.call.poll_output() {
            match output {
                Output::Send { exchange, endpoint, attempt, request } => {
                    self.exchanges.push((exchange, self.runtime.send(&endpoint, attempt, request)));
                }
                Output::Abort { exchange } => self.exchanges.retain(|(id, _)| *id != exchange),
                Output::Event(event) => self.runtime.tell(&event),
                Output::Commit(head) => return Some(Step::Head(head)),
                Output::Emit(Emit::Bytes(bytes)) => return Some(Step::Piece(Piece::Bytes(bytes))),
                Output::Emit(Emit::Slice(range)) => {
                    if let Some(chunk) = &self.chunk {
                        return Some(Step::Piece(Piece::Slice(chunk.clone(), range)));
                    }
                }
                Output::Done { whole } => {
                    self.over = true;
                    return Some(if whole { Step::Over } else { Step::Piece(Piece::Broken) });
                }
            }
        }
        None
    }

    /// Whether the client has left; once it has, the host is not asked again.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        self.client_gone = self.client_gone || self.runtime.poll_client_gone(context).is_ready();
        self.client_gone
    }

    /// Takes in the first thing that any exchange has received.
    fn poll_exchanges(&mut self, context: &mut Context<'_>) -> bool {
        for (id, exchange) in &mut self.exchanges {
            let Poll::Ready(received) = exchange.poll_received(context) else { continue };
            let id = *id;
            self.on_received(self.runtime.now(), id, received);
            return true;
        }
        false
    }

    fn on_received(&mut self, now: Instant, exchange: u32, received: Received<R::Chunk>) {
        match received {
            Received::Head(head) => self.call.handle_input(now, Input::Head { exchange, head }),
            Received::Chunk(chunk) => {
                self.length = chunk.copy_to(&mut self.buffer);
                self.chunk = Some(chunk);
                let bytes = self.buffer.get(..self.length).unwrap_or_default();
                self.call.handle_input(now, Input::Chunk { exchange, bytes });
            }
            Received::End => {
                self.exchanges.retain(|(id, _)| *id != exchange);
                self.call.handle_input(now, Input::End { exchange });
            }
            Received::Failed => {
                self.exchanges.retain(|(id, _)| *id != exchange);
                self.call.handle_input(now, Input::Failed { exchange });
            }
            Received::Barred(barrier) => {
                self.exchanges.retain(|(id, _)| *id != exchange);
                self.call.handle_input(now, Input::Barred { exchange, barrier });
            }
        }
    }

    /// Ready when the moment `at` has come. Progress moves that moment later without touching the
    /// timer that is armed; only an earlier moment needs a new one.
    fn poll_timer(&mut self, context: &mut Context<'_>, at: Instant) -> Poll<()> {
        loop {
            let now = self.runtime.now();
            if at <= now {
                return Poll::Ready(());
            }
            if self.timer.as_ref().is_none_or(|(armed, _)| *armed > at) {
                let ms = now.until(at).min(LONGEST_SLEEP_MS);
                self.timer = Some((now.after(ms), self.runtime.sleep(ms)));
            }
            let Some((armed, sleep)) = &mut self.timer else { return Poll::Pending };
            match Pin::new(sleep).poll(context) {
                Poll::Ready(()) => {
                    self.woken_early = now < *armed;
                    self.timer = None;
                }
                Poll::Pending => {
                    // It may be overdue, where something else has woken the host.
                    self.wakes_at = self.runtime.sleeps().then(|| now.max(*armed));
                    return Poll::Pending;
                }
            }
        }
    }
}

/// What the platform answers, if it comes within so many milliseconds.
async fn in_time<R: Runtime, T>(runtime: &R, ms: u64, answer: Later<T>) -> Option<Result<T, StoreError>> {
    within((|| runtime.now(), |ms| runtime.sleep(ms), ms), answer).await
}

/// The same, by this clock and this timer.
async fn within<S: Future<Output = ()>, T>(
    (now, sleep, ms): (impl Fn() -> Instant, impl Fn(u64) -> S, u64),
    mut answer: Later<T>,
) -> Option<Result<T, StoreError>> {
    let until = now().after(ms);
    let mut timer = pin!(sleep(ms));
    poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(Some(answer));
        }
        while timer.as_mut().poll(context).is_ready() {
            let left = now().until(until);
            if left == 0 {
                return Poll::Ready(None);
            }
            // It has fired early.
            timer.set(sleep(left));
        }
        Poll::Pending
    })
    .await
}
