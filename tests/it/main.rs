//! The proof of `Call` and `drive`: whole calls in virtual time, from `CONFIG` to the client's
//! last byte.
//!
//! [`world`] is a host whose clock only jumps; endpoints in it follow a [`script`], often of the
//! recorded bytes in [`captures`]; what everybody saw comes back as a [`record`], which checks the
//! promises that hold for every call. The other modules are the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "tests may say what they expect in the shortest way, and so may what they are built of"
)]

mod captures;
mod engine;
mod host;
mod lane;
mod pipe;
mod record;
mod runpod;
mod script;
mod store;
mod wanted;
mod wire;
mod world;

mod access;
mod assembly;
mod barriers;
mod bounds;
mod breaker;
mod budget;
mod client;
mod config;
mod cuts;
mod deadline;
mod dialects;
mod event_stream;
mod faults;
mod fleet;
mod framing;
mod gateway;
mod hedge;
mod jobs;
mod journal;
mod limits;
mod native;
mod pushback;
mod refusals;
mod rehearsal;
mod reload;
mod resume;
mod retries;
mod retry_after;
mod routing;
mod secrets;
mod shared;
mod sleep;
mod streams;
mod timers;
mod traceparent;
mod truncation;
mod whole;
mod worlds;
