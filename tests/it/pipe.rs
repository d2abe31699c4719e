//! A host whose own pipe carries a stream, and which shows the core in batches what went by, as the
//! Worker does under `forward: "native"` (`worker/src/pipe.js`), in virtual time.

use crate::{
    lane::Takes,
    record::Record,
    wire::Steps,
    world::{Host, State},
};
use fairlead_core::{
    drive::{Body, Piece},
    runtime::Received,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

/// What goes by, and what of it the core has not seen yet.
pub struct Flow {
    steps: Steps,
    batch: Vec<u8>,
    rest_ms: u64,
    rests_until: u64,
    /// The endpoint's side is over, and whether by a failure.
    ended: Option<bool>,
}

/// As much as the Worker reads at a time.
const MAX_BATCH: usize = 65_536;

impl Flow {
    pub fn new(steps: Steps, rest_ms: u64) -> Rc<RefCell<Self>> {
        let flow = Self { steps, batch: Vec::new(), rest_ms, rests_until: 0, ended: None };
        Rc::new(RefCell::new(flow))
    }

    /// Lets pass what is due. `false`: the client cannot be written to.
    fn advance(&mut self, state: &mut State, takes: Takes, record: &mut Record) -> bool {
        while self.ended.is_none() {
            let Poll::Ready(received) = self.steps.next(state) else { break };
            match received {
                Received::Chunk(_) if takes.breaks_at.is_some_and(|at| at <= state.now) => return false,
                Received::Chunk(bytes) => {
                    let piped = record.piped.get_or_insert_default();
                    assert_eq!(piped.end, record.pieces.len(), "nothing is put between the endpoint's bytes");
                    piped.end += 1;
                    record.pieces.push((state.now, bytes.to_vec()));
                    self.batch.extend_from_slice(&bytes);
                }
                Received::End => self.ended = Some(false),
                Received::Failed => self.ended = Some(true),
                Received::Head(_) => {}
            }
        }
        true
    }

    /// The next batch, or the end behind the last one.
    pub fn poll_received(&mut self, state: &mut State) -> Poll<Received<Rc<[u8]>>> {
        if self.ended.is_none() && state.until(self.rests_until).is_pending() {
            return Poll::Pending;
        }
        if self.batch.is_empty() {
            return match self.ended {
                Some(true) => Poll::Ready(Received::Failed),
                Some(false) => Poll::Ready(Received::End),
                None => Poll::Pending,
            };
        }
        self.rests_until = state.now + self.rest_ms;
        let batch: Vec<u8> = self.batch.drain(..self.batch.len().min(MAX_BATCH)).collect();
        Poll::Ready(Received::Chunk(batch.into()))
    }
}

/// Lets the pipe carry the stream, if it may, until the core has something to say or the client is
/// gone. `None`: the pipe may not; else what there is to say.
pub async fn carry(
    host: &Host,
    body: &RefCell<Body<Host>>,
    takes: Takes,
    record: &RefCell<Record>,
) -> Option<Result<Option<Piece<Rc<[u8]>>>, Broken>> {
    let flow = body.borrow_mut().pipe(|wire, rest_ms| Some(wire.pipe(rest_ms)))?;
    let first = record.borrow().pieces.len();
    record.borrow_mut().piped = Some(first..first);
    let step = |context: &mut Context<'_>| {
        // A pipe that was given up carries nothing more, and then this is the only one who has it.
        let goes_on = Rc::strong_count(&flow) > 1;
        if goes_on && !flow.borrow_mut().advance(&mut host.state(), takes, &mut record.borrow_mut()) {
            body.borrow_mut().leave();
            return Poll::Ready(Err(Broken));
        }
        body.borrow_mut().poll_next(context).map(Ok)
    };
    Some(poll_fn(step).await)
}

/// The client cannot be written to.
pub struct Broken;
