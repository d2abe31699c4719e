//! A host whose own pipe carries a stream, and which shows the core in batches what went by, as the
//! Worker does under `forward: "native"` (`worker/src/pipe.js`), in virtual time.

use crate::{
    host::{Host, State},
    lane::Takes,
    record::Record,
    wire::Steps,
};
use fairlead_core::{
    drive::{Body, Piece, Rehearsal},
    runtime::Received,
};
use std::{cell::RefCell, collections::VecDeque, future::poll_fn, pin::pin, rc::Rc, task::Poll};

/// What goes by: all of it is looked at as it comes, and the client takes it in its own time.
pub struct Flow {
    steps: Steps,
    /// What the core has not seen yet.
    unseen: Vec<u8>,
    /// What the client has not taken yet, and when it takes the next.
    untaken: VecDeque<Rc<[u8]>>,
    free_at: u64,
    rest_ms: u64,
    rests_until: u64,
    /// The endpoint's side is over, and whether by a failure.
    ended: Option<bool>,
}

/// As much as the Worker reads at a time.
const MAX_BATCH: usize = 32_768;

impl Flow {
    pub fn new(steps: Steps, rest_ms: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            steps,
            unseen: Vec::new(),
            untaken: VecDeque::new(),
            free_at: 0,
            rest_ms,
            rests_until: 0,
            ended: None,
        }))
    }

    /// Lets pass what is due. `false`: the client cannot be written to.
    fn advance(&mut self, state: &mut State, takes: Takes, record: &mut Record) -> bool {
        while self.ended.is_none() {
            let Poll::Ready(received) = self.steps.next(state) else { break };
            match received {
                Received::Chunk(bytes) => {
                    self.unseen.extend_from_slice(&bytes);
                    self.untaken.push_back(bytes);
                }
                Received::End => self.ended = Some(false),
                Received::Failed | Received::Barred(_) => self.ended = Some(true),
                Received::Head(_) => {}
            }
        }
        while !self.untaken.is_empty() && state.until(self.free_at).is_ready() {
            if takes.breaks_at.is_some_and(|at| at <= state.now) {
                return false;
            }
            let piped = record.piped.get_or_insert_default();
            assert_eq!(piped.end, record.pieces.len(), "nothing is put between the endpoint's bytes");
            piped.end += 1;
            record.pieces.extend(self.untaken.pop_front().map(|bytes| (state.now, bytes.to_vec())));
            self.free_at = state.now + takes.time_for(record);
        }
        true
    }

    /// Whether the client has taken everything that came.
    fn poll_over(&self, state: &mut State) -> Poll<()> {
        if self.ended.is_some() && self.untaken.is_empty() { state.until(self.free_at) } else { Poll::Pending }
    }

    /// The next batch, or the end behind the last one.
    pub fn poll_received(&mut self, state: &mut State) -> Poll<Received<Rc<[u8]>>> {
        if self.ended.is_none() && state.until(self.rests_until).is_pending() {
            return Poll::Pending;
        }
        if self.unseen.is_empty() {
            return match self.ended {
                Some(true) => Poll::Ready(Received::Failed),
                Some(false) => Poll::Ready(Received::End),
                None => Poll::Pending,
            };
        }
        let batch: Vec<u8> = self.unseen.drain(..self.unseen.len().min(MAX_BATCH)).collect();
        // Behind much there may be more.
        self.rests_until = state.now + if batch.len() > MAX_BATCH / 2 { 0 } else { self.rest_ms };
        Poll::Ready(Received::Chunk(batch.into()))
    }
}

/// Lets the pipe carry the stream, if it may, until the core has something to say behind it and the
/// client has taken all that came. `None`: the pipe may not; else what there is to say.
pub async fn carry(
    host: &Host,
    body: &RefCell<Body<Rehearsal<Host>>>,
    takes: Takes,
    record: &RefCell<Record>,
) -> Option<Result<Option<Piece<Rc<[u8]>>>, Broken>> {
    let flow = body.borrow_mut().pipe(|played, rest_ms| Some(played.plain()?.pipe(rest_ms)))?;
    let first = record.borrow().pieces.len();
    record.borrow_mut().piped = Some(first..first);
    let advance = || {
        // A request that was given up brings nothing more, and then this is the only one who has it.
        if Rc::strong_count(&flow) == 1 {
            flow.borrow_mut().ended.get_or_insert(true);
        }
        flow.borrow_mut().advance(&mut host.state(), takes, &mut record.borrow_mut())
    };
    let next = poll_fn(|context| {
        if !advance() {
            body.borrow_mut().leave();
            return Poll::Ready(Err(Broken));
        }
        body.borrow_mut().poll_next(context).map(Ok)
    });
    let next = match next.await {
        Ok(next) => next,
        Err(broken) => return Some(Err(broken)),
    };
    let wait = host.taking();
    let mut taken = pin!(poll_fn(|_| {
        if !advance() {
            return Poll::Ready(false);
        }
        flow.borrow().poll_over(&mut host.state()).map(|()| true)
    }));
    let taken = poll_fn(|context| body.borrow_mut().poll_deliver(context, taken.as_mut())).await;
    drop(wait);
    Some(if taken { Ok(next) } else { Err(Broken) })
}

/// The client cannot be written to.
pub struct Broken;
