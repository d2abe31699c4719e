//! A host that reads a steady stream by itself and only shows the core what comes, as the Worker's
//! loop of JavaScript does (`worker/src/pump.rs` and `lane.js`), in virtual time.

use crate::{
    host::{Host, Nap},
    record::Record,
};
use fairlead_core::{
    drive::{Body, Piece, Played, Rehearsal, Slow},
    runtime::{Exchange, Received, Runtime},
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::Poll,
};

/// Why the lane was left.
enum Left {
    Ended,
    ReadFailed,
    WriteFailed,
    /// A chunk does not go on as it is, or a timer is to be armed anew.
    ForNow,
}

/// Carries chunks for as long as that is all there is to do. `None`: the next piece is to be asked
/// for; else whether the client took everything.
pub async fn carry(
    host: &Host,
    body: &RefCell<Body<Rehearsal<Host>>>,
    takes: Takes,
    record: &RefCell<Record>,
) -> Option<bool> {
    body.borrow_mut().steady()?.plain()?;
    let (waited_ms, slow_since, paused) = (Cell::new(0), Cell::new(None), Cell::new(false));
    let mut run = pin!(async {
        loop {
            let received = poll_fn(|context| match body.borrow_mut().steady().and_then(Played::plain) {
                Some(exchange) => exchange.poll_received(context),
                None => Poll::Pending,
            });
            let chunk: Rc<[u8]> = match received.await {
                Received::Chunk(chunk) => chunk,
                Received::End => return Left::Ended,
                Received::Failed | Received::Barred(_) | Received::Head(_) => return Left::ReadFailed,
            };
            if !body.borrow_mut().look(host.now(), Rc::clone(&chunk), waited_ms.take()) {
                return Left::ForNow;
            }
            record.borrow_mut().pieces.push((host.now_ms(), chunk.to_vec()));
            let since = host.now();
            slow_since.set(Some(since));
            if !takes.take(host, true, record).await {
                return Left::WriteFailed;
            }
            waited_ms.set(waited_ms.get() + host.now().since(since));
            slow_since.set(None);
            if paused.take() {
                return Left::ForNow;
            }
        }
    });
    let slow = || {
        let since = slow_since.get().inspect(|_| paused.set(true));
        Slow { waited_ms: if since.is_none() { waited_ms.take() } else { 0 }, since }
    };
    let mut meanwhile = None;
    loop {
        // A chunk wakes the loop of JavaScript, but nothing of Rust: only what the core waits for
        // itself does.
        let mut wake = None;
        let left = poll_fn(|context| match meanwhile.take().map_or_else(|| run.as_mut().poll(context), Poll::Ready) {
            Poll::Ready(left) => Poll::Ready(Some(left)),
            Poll::Pending if wake.is_some_and(|at| host.is_before(at)) => Poll::Pending,
            Poll::Pending => {
                let (other, at) = host.watch(|| body.borrow_mut().poll_other(context, slow));
                wake = at;
                other.map(|()| None)
            }
        })
        .await;
        match left {
            Some(Left::ForNow) => return None,
            Some(Left::Ended) => body.borrow_mut().take_in(Received::End),
            Some(Left::ReadFailed) => body.borrow_mut().take_in(Received::Failed),
            Some(Left::WriteFailed) => {
                body.borrow_mut().leave();
                return Some(false);
            }
            None => {}
        }
        loop {
            let taken = body.borrow_mut().take_piece();
            let Ok(piece) = taken else { return Some(true) };
            let Some(piece) = piece else { break };
            let mut delivery = pin!(deliver(host, body, piece, takes, left.is_some(), record));
            // The loop of JavaScript goes on meanwhile.
            let taken = poll_fn(|context| {
                if left.is_none()
                    && meanwhile.is_none()
                    && let Poll::Ready(left) = run.as_mut().poll(context)
                {
                    meanwhile = Some(left);
                }
                delivery.as_mut().poll(context)
            });
            if !taken.await {
                return Some(false);
            }
        }
        if left.is_some() || !body.borrow().is_steady() {
            return None;
        }
    }
}

/// Whether the client took a piece. `stops`: until it has, nothing is read.
pub async fn deliver(
    host: &Host,
    body: &RefCell<Body<Rehearsal<Host>>>,
    piece: Piece<Rc<[u8]>>,
    takes: Takes,
    stops: bool,
    record: &RefCell<Record>,
) -> bool {
    let now = host.now_ms();
    match piece {
        Piece::Bytes(bytes) => record.borrow_mut().pieces.push((now, bytes)),
        Piece::Slice(chunk, range) => record.borrow_mut().pieces.push((now, chunk[range].to_vec())),
        Piece::Broken => {
            record.borrow_mut().broken = true;
            return true;
        }
    }
    let mut delivery = pin!(takes.take(host, stops, record));
    poll_fn(|context| body.borrow_mut().poll_deliver(context, delivery.as_mut())).await
}

/// How a client takes a piece.
#[derive(Clone, Copy)]
pub struct Takes {
    pub ms: u64,
    /// It takes its time over every so manieth piece, and the others at once.
    pub every: usize,
    /// It leaves then, and only a write tells.
    pub breaks_at: Option<u64>,
}

impl Default for Takes {
    fn default() -> Self {
        Self { ms: 0, every: 1, breaks_at: None }
    }
}

impl Takes {
    /// Takes the latest piece of the record.
    fn take(self, host: &Host, stops: bool, record: &RefCell<Record>) -> Nap {
        host.nap(self.time_for(&record.borrow()), self.breaks_at, stops)
    }

    /// How long it takes over the latest piece.
    pub const fn time_for(self, record: &Record) -> u64 {
        if record.pieces.len().is_multiple_of(self.every) { self.ms } else { 0 }
    }
}
