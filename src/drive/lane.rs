//! The fast lane: a host carries the chunks of a steady stream by itself, and shows each one.
//!
//! In a Worker, waking a wasm future for every token costs as much CPU as half of reading and
//! writing it, so the loop over the chunks is the host's own there (`worker/src/lane.js`). The
//! rules between it and the core:
//!
//! 1. [`Body::steady`] gives the exchange to read while there is nothing else to do. The lane
//!    begins there, and it alone reads that exchange until it ends.
//! 2. Each chunk goes to [`Body::look`]. If it goes on as it is, the host writes it to the client
//!    and reads the next. If not, the lane ends, and [`Body::poll_next`] gives what it came to.
//! 3. An end or a failure goes to [`Body::take_in`], and the lane ends.
//! 4. Meanwhile [`Body::poll_other`] watches the timers and the client. When it is ready,
//!    [`Body::take_piece`] gives what the client gets of it, and the lane goes on, unless the call
//!    is over, or [`Body::is_steady`] says that this exchange is (a stream that stalled goes on
//!    elsewhere): then the host leaves the lane, and a chunk that it reads behind that is nobody's.
//! 5. While the client has not taken a chunk, nothing is read: the host says so by [`Slow`], and
//!    that time is not the endpoint's silence. If a timer ran out meanwhile, the lane ends behind
//!    the write, so that the timers are armed anew.

use super::{Body, Piece, Step};
use crate::{
    call::Input,
    runtime::{Received, Runtime},
    time::Instant,
};
use std::task::{Context, Poll};

/// Nothing more will come.
#[derive(Clone, Copy, Debug)]
pub struct Over;

/// The time that the client has taken over chunks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slow {
    /// In all, in milliseconds, since this was last told.
    pub waited_ms: u64,
    /// Since when it has been at it now.
    pub since: Option<Instant>,
}

impl<R: Runtime> Body<R> {
    /// The exchange whose answer the client has begun to get, while there is nothing else to do
    /// than to carry its chunks over.
    pub fn steady(&mut self) -> Option<&mut R::Exchange> {
        if !self.is_steady() {
            return None;
        }
        self.resume();
        self.exchanges.first_mut().map(|(_, exchange)| exchange)
    }

    /// Whether there is such an exchange.
    pub fn is_steady(&self) -> bool {
        !self.over && self.call.is_steady() && self.exchanges.len() == 1
    }

    /// Takes in a chunk. `true`: it goes on as it is. `false`: what it comes to is among the next
    /// pieces, or a timer is now due earlier than the one that is armed. `now` is the time, which
    /// a host may know more cheaply than by [`Runtime::now`]; `waited_ms` is what
    /// [`Slow::waited_ms`] would tell.
    pub fn look(&mut self, now: Instant, chunk: R::Chunk, waited_ms: u64) -> bool {
        self.notice_sleep_at(now);
        self.call.excuse(now, waited_ms);
        self.take_in_at(now, Received::Chunk(chunk));
        let Some(due) = self.call.poll_timeout() else {
            // The client may still be busy with a comment: no endpoint works until it has taken it.
            self.exchanges.clear();
            return false;
        };
        let in_time = self.timer.as_ref().is_some_and(|(armed, _)| *armed <= due);
        in_time && self.call.take_whole_slice(self.length)
    }

    /// Takes in what else came from the exchange.
    pub fn take_in(&mut self, received: Received<R::Chunk>) {
        self.notice_sleep();
        self.take_in_at(self.runtime.now(), received);
    }

    fn take_in_at(&mut self, now: Instant, received: Received<R::Chunk>) {
        self.call.resume(now);
        if let [(exchange, _)] = *self.exchanges.as_slice() {
            self.on_received(now, exchange, received);
        }
    }

    /// Ready when something else than a chunk is there. `slow` is asked when a timer ran out.
    pub fn poll_other(&mut self, context: &mut Context<'_>, slow: impl Fn() -> Slow) -> Poll<()> {
        self.notice_sleep();
        while !self.over && !self.call.has_output() {
            if self.poll_gone(context) {
                self.call.handle_input(self.runtime.now(), Input::ClientGone);
                break;
            }
            let Some(at) = self.call.poll_timeout() else { break };
            let Poll::Ready(()) = self.poll_timer(context, at) else { return Poll::Pending };
            let Slow { waited_ms, since } = slow();
            self.call.excuse(self.runtime.now(), waited_ms);
            if let Some(since) = since {
                self.call.pause(since);
            }
            self.call.handle_input(self.runtime.now(), Input::Timeout);
        }
        Poll::Ready(())
    }

    /// The next bytes that are there already; `Err`: the call is over.
    pub fn take_piece(&mut self) -> Result<Option<Piece<R::Chunk>>, Over> {
        match self.take_outputs() {
            Some(Step::Piece(piece)) => Ok(Some(piece)),
            Some(Step::Head(_)) | None => Ok(None),
            Some(Step::Over) => Err(Over),
        }
    }
}
