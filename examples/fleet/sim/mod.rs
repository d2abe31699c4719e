//! A fleet of isolates in virtual time, each with the product's own `Call` and what it knows of its endpoints.
//!
//! [`run::run`] plays one [`scenario::Scenario`] with one contestant and one seed, and gives back its
//! [`counts::Counts`]. [`world`] is the host that the core sees: the clock, timers and tasks. [`endpoint`] answers,
//! [`kv`] is where isolates leave word for each other. All times are milliseconds since the start of the run.

pub mod counts;
pub mod endpoint;
pub mod kv;
pub mod measure;
pub mod run;
pub mod scenario;
pub mod tasks;
pub mod world;
