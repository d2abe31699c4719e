//! What both hosts of `fairlead-core`, the Worker and the npm package, do alike where JavaScript runs.
//!
//! [`exchange`] makes a fetch an exchange of the core's, [`departure`] a signal the client's going, [`message`] is how
//! requests and responses cross, and [`pump`] brings a body to whoever takes it. Nothing is decided here, and nothing is known of bindings, pages or stores.

pub mod departure;
pub mod exchange;
pub mod message;
pub mod pump;
pub mod wait;

use fairlead_core::time::Instant;
use js_sys::Date;

/// The time. In a deployed Worker it stands still between two I/O operations.
pub fn now() -> Instant {
    Instant::from_millis(Date::now() as u64)
}

/// The longest delay that `setTimeout` takes before it wraps around to none at all, in milliseconds.
pub const MAX_DELAY_MS: u32 = i32::MAX.unsigned_abs();
