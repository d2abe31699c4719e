//! A call whose client wants its answer whole, and whose endpoint streams it (`stream_internally`).
//!
//! Inside, it is a call for a stream, with every timer, comparison and continuation of one. What its client would
//! read is read here instead, and put together.

use super::{Attempt, Call, Emit};
use crate::{
    api::Dialect,
    ask::Ask,
    assembly::Assembly,
    error::{Code, Error},
    policy::Policy,
    time::Instant,
};

/// The answer that is being put together.
#[derive(Debug)]
pub(super) struct Internal {
    dialect: Dialect,
    answer: Assembly,
    /// It has become more than is kept.
    overflown: bool,
}

impl Internal {
    /// Makes a request one for a stream, where the policy wants that and its client does not.
    pub(super) fn of(ask: &mut Ask, policy: &Policy) -> Option<Self> {
        if !policy.stream_internally || ask.stream || !ask.api.has_choices() {
            return None;
        }
        *ask = ask.streamed()?;
        let dialect = ask.api.dialect();
        Some(Self { dialect, answer: Assembly::new(dialect), overflown: false })
    }
}

impl Call {
    /// Whether its client gets whole what its endpoint streams.
    pub(super) const fn is_internal(&self) -> bool {
        self.internal.is_some()
    }

    /// Whether the client reads a stream.
    pub(super) const fn streams_out(&self) -> bool {
        self.order.ask.stream && !self.is_internal()
    }

    /// Takes in what would go to the client; `Some` gives it back where it does.
    pub(super) fn keep(&mut self, emit: Emit) -> Option<Emit> {
        match (&mut self.internal, emit) {
            (Some(internal), Emit::Bytes(bytes)) if !self.committed => {
                internal.overflown |= internal.answer.push(&bytes).is_err();
                None
            }
            (_, emit) => Some(emit),
        }
    }

    /// What has come of the answer counts no more.
    pub(super) fn forget_answer(&mut self) {
        if let Some(internal) = &mut self.internal {
            internal.answer = Assembly::new(internal.dialect);
            internal.overflown = false;
        }
    }

    /// Gives the client the answer, where it was put together here. `Err`: it is more than could be kept.
    pub(super) fn deliver(&mut self, now: Instant) -> Result<(), Error> {
        let Some(internal) = self.internal.as_mut().filter(|_| !self.committed) else { return Ok(()) };
        if internal.overflown {
            let message = "The answer is over the 64 MiB that are put together of a stream. Ask for a stream instead.";
            return Err(Error::new(Code::UpstreamInvalid, message));
        }
        let answer = std::mem::replace(&mut internal.answer, Assembly::new(internal.dialect)).finish();
        let winner = self.attempts.iter().find(|attempt| Some(attempt.id) == self.winner);
        let mut headers = winner.and_then(Attempt::returned).map(|(_, headers)| headers).unwrap_or_default();
        headers.set("content-type", "application/json");
        if self.truncated {
            headers.set("x-fairlead-truncated", "deadline");
        }
        self.commit(now, 200, headers);
        self.emit(now, Emit::Bytes(answer));
        Ok(())
    }
}
