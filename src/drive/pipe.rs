//! The platform's own pipe: a host lets a stream's bytes go by and looks at them afterwards.
//!
//! In a Worker a token that JavaScript never sees costs less than half the CPU of one that it
//! does. The rules between the host and the core, where the policy says `forward: "native"`:
//!
//! 1. [`Body::pipe`] hands the exchange over once content flows and no event is half told. From
//!    then on its bytes reach the client by themselves, and it gives them to the core in batches,
//!    resting between two of them; its end follows its last batch.
//! 2. [`Body::poll_next`] is polled as ever. It takes the batches in and keeps the timers; it
//!    gives a piece only when there is something to say that the endpoint did not: the `[DONE]`
//!    that it owes, or an error. The core is ahead of a slow client then: the host lets the client
//!    take what has come ([`Body::poll_deliver`]), and writes the piece behind it. An exchange that
//!    is dropped ends the request, not the way of what has come of it.
//! 3. A client that cannot be written to has left: [`Body::leave`].
//!
//! What is lost against looking first: what is wrong has reached the client when it is found, so
//! whatever is said behind it begins with a blank line; a silence in the middle has no comments in
//! it, so that a client which leaves meanwhile is noticed with the next bytes or when the silence
//! has lasted too long; and a timer does not know what came since the last look.

use super::Body;
use crate::runtime::Runtime;

impl<R: Runtime> Body<R> {
    /// Lets `start` turn the exchange into one whose bytes go by themselves, if that may be; it
    /// gets the milliseconds that the exchange may rest, and says `None` when it cannot.
    pub fn pipe<T>(&mut self, start: impl FnOnce(&mut R::Exchange, u64) -> Option<T>) -> Option<T> {
        let [(_, exchange)] = self.exchanges.as_mut_slice() else { return None };
        let rest_ms = self.call.may_pipe()?;
        let pipe = start(exchange, rest_ms)?;
        self.call.pipe();
        Some(pipe)
    }
}
