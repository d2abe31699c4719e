//! A scripted endpoint's side of one request.

use crate::{
    host::State,
    pipe::Flow,
    script::{Script, Step},
};
use fairlead_core::runtime::{Exchange, Received};
use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// One request on its way.
pub struct Wire {
    world: Rc<RefCell<State>>,
    number: usize,
    flows: Flows,
}

enum Flows {
    /// Each step is read by itself.
    Read(Steps),
    /// A pipe carries the bytes to the client.
    Piped(Rc<RefCell<Flow>>),
    /// The answer is made when the request arrives.
    Asked,
}

/// What the endpoint does. It keeps to its script's times whether or not anybody reads.
#[derive(Default)]
pub struct Steps {
    /// When the step at hand begins.
    at: u64,
    queue: VecDeque<Step>,
}

impl Steps {
    /// The next thing that comes, once it is due.
    pub fn next(&mut self, state: &mut State) -> Poll<Received<Rc<[u8]>>> {
        while let Some(Step::Wait(ms)) = self.queue.front() {
            self.at += ms;
            self.queue.pop_front();
        }
        let due = match self.queue.front() {
            Some(Step::ForEver(every, _)) => self.at + every,
            Some(_) => self.at,
            None => return Poll::Pending,
        };
        if state.until(due).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(match self.queue.pop_front() {
            Some(Step::ForEver(every, bytes)) => {
                self.at = due;
                self.queue.push_front(Step::ForEver(every, Rc::clone(&bytes)));
                Received::Chunk(bytes)
            }
            Some(Step::Head(head)) => Received::Head(head),
            Some(Step::Chunk(bytes)) => Received::Chunk(bytes),
            Some(Step::End) => Received::End,
            Some(Step::Reset) => Received::Failed,
            Some(Step::Barred(barrier)) => Received::Barred(barrier),
            Some(Step::Wait(_)) | None => return Poll::Pending,
        })
    }
}

impl Wire {
    /// The request of this number, sent at this moment.
    pub fn new(world: &Rc<RefCell<State>>, number: usize, at: u64, script: Script) -> Self {
        let flows = Flows::Read(Steps { at, queue: script.into() });
        Self { world: Rc::clone(world), number, flows }
    }

    /// A request to the simulated RunPod.
    pub fn asked(world: &Rc<RefCell<State>>, number: usize) -> Self {
        Self { world: Rc::clone(world), number, flows: Flows::Asked }
    }

    /// From now on a pipe carries what comes.
    pub fn pipe(&mut self, rest_ms: u64) -> Rc<RefCell<Flow>> {
        let Flows::Read(steps) = &mut self.flows else { panic!("piped twice") };
        let flow = Flow::new(std::mem::take(steps), rest_ms);
        self.flows = Flows::Piped(Rc::clone(&flow));
        flow
    }
}

impl Exchange for Wire {
    type Chunk = Rc<[u8]>;

    fn poll_received(&mut self, _: &mut Context<'_>) -> Poll<Received<Rc<[u8]>>> {
        let mut state = self.world.borrow_mut();
        assert_eq!(state.requests[self.number].over_at, None, "polled behind its end");
        if matches!(self.flows, Flows::Asked) {
            let now = state.now;
            match state.runpod.as_mut().expect("a simulated RunPod").answer(self.number, now) {
                Ok((at, script)) => self.flows = Flows::Read(Steps { at, queue: script.into() }),
                Err(at) => {
                    let _ = state.until(at);
                    return Poll::Pending;
                }
            }
        }
        let received = match &mut self.flows {
            Flows::Asked => unreachable!("answered above"),
            Flows::Read(steps) => ready!(steps.next(&mut state)),
            Flows::Piped(flow) => ready!(flow.borrow_mut().poll_received(&mut state)),
        };
        let settles = state.requests[self.number].may_settle();
        assert!(settles || state.stopping.count == 0, "nothing is read while the client takes nothing");
        let now = state.now;
        let sent = &mut state.requests[self.number];
        match &received {
            Received::Head(head) => sent.head = Some(head.clone()),
            Received::Chunk(bytes) => sent.chunks.push(Rc::clone(bytes)),
            Received::End | Received::Failed | Received::Barred(_) => sent.over_at = Some(now),
        }
        Poll::Ready(received)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut state = self.world.borrow_mut();
        state.in_flight -= 1;
        let now = state.now;
        let sent = &mut state.requests[self.number];
        if sent.over_at.is_none() {
            sent.aborted = true;
            sent.over_at = Some(now);
        }
    }
}
