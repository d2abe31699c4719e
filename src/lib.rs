//! The machines of Fairlead: what a resilient route to GPUs decides, without the world.
//!
//! No I/O, no clock, no entropy and no JavaScript in here. Time and chance are arguments, so every
//! behaviour can be tried natively in virtual time; a Worker and a browser are thin hosts around it.
//!
//! ```text
//!            CONFIG ── settings ──┐            time, rng: arguments
//!                                 ▼
//!  client ──▶ ask ──▶ ┌───────── call ─────────┐ ──▶ Send, Abort ──▶ endpoint
//!                     │ route      whom next   │
//!                     │ classify   what now    │ ◀── Head, Chunk, End, Failed
//!                     │ backoff, budget  when  │
//!                     │ deadline   how long    │
//!  client ◀── Commit, │ sse, stream  how whole │
//!             Emit ◀─ └────────────────────────┘
//!                       drive: awaits for it      runtime: what a host gives
//! ```
//!
//! # Example
//!
//! One call, by hand: a request goes out, the endpoint refuses it, and the second endpoint is
//! asked at once.
//!
//! ```
//! use fairlead_core::{
//!     api::Api, ask::Ask, call::{Call, Input, Order, Output}, fleet::Fleet,
//!     message::{Headers, ResponseHead}, settings::{Environment, Settings}, time::Instant,
//! };
//! use std::{cell::RefCell, rc::Rc};
//!
//! struct Nothing;
//! impl Environment for Nothing {
//!     fn secret(&self, _: &str) -> Option<String> { None }
//!     fn has_service(&self, _: &str) -> bool { false }
//! }
//!
//! let config = r#"{
//!     "open": true,
//!     "endpoints": [
//!         { "name": "a", "provider": "vllm", "base_url": "https://a.example.com/v1" },
//!         { "name": "b", "provider": "vllm", "base_url": "https://b.example.com/v1" }
//!     ],
//!     "models": [{ "name": "qwen", "targets": [{ "endpoint": "a" }, { "endpoint": "b" }] }]
//! }"#;
//! let settings = Settings::read([("CONFIG".to_owned(), config.into())], &Nothing).settings.unwrap();
//!
//! let body = br#"{"model": "qwen", "stream": true, "messages": []}"#;
//! let ask = Ask::read(Api::Chat, &Headers::new(), Rc::new(*body)).unwrap();
//! let (model, policy) = settings.plan(None, &ask.model, None).unwrap();
//! let now = Instant::from_millis(0);
//! let order = Order { ask, model, policy, arrived: now, request_id: "r1".into(), deadline_ms: None, client: None, seed: 7 };
//! let mut call = Call::new(now, order, Rc::new(RefCell::new(Fleet::default())));
//! let sent = |call: &mut Call| std::iter::from_fn(|| call.poll_output()).find_map(|output| match output {
//!     Output::Send { endpoint, .. } => Some(endpoint.name.clone()),
//!     _ => None,
//! });
//! assert_eq!(sent(&mut call).as_deref(), Some("a"));
//!
//! let head = ResponseHead { status: 503, headers: Headers::new() };
//! call.handle_input(now.after(20), Input::Head { exchange: 1, head });
//! assert_eq!(sent(&mut call).as_deref(), Some("b"));
//! ```
//!
//! # Modules, in reading order
//!
//! Plain data: [`time`], [`rng`], [`message`], [`api`], [`error`], [`event`]. What an operator
//! wrote: [`config`], [`policy`], [`access`], [`settings`]. What a client sent: [`caller`],
//! [`ask`], [`fault`]. The machines, each for itself: [`classify`], [`backoff`], [`budget`], [`breaker`], [`news`], [`deadline`],
//! [`route`], [`quantile`], [`quota`], [`load`], [`share`], [`sse`], [`stream`], [`resume`], [`splice`], [`assembly`], [`provider`],
//! [`explain`], [`fleet`], [`allowance`], [`journal`], [`status`]. One call:
//! [`call`]. Its way into the world: [`runtime`], [`drive`].

pub mod access;
pub mod allowance;
pub mod api;
pub mod ask;
pub mod assembly;
pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod call;
pub mod caller;
pub mod classify;
pub mod config;
pub mod deadline;
pub mod drive;
pub mod error;
pub mod event;
pub mod explain;
pub mod fault;
mod find;
pub mod fleet;
pub mod jobs;
pub mod journal;
mod json;
pub mod load;
mod media;
pub mod message;
pub mod native;
pub mod news;
pub mod policy;
pub mod provider;
pub mod quantile;
pub mod quota;
pub mod reload;
pub mod resume;
pub mod rng;
pub mod route;
pub mod runtime;
pub mod settings;
pub mod share;
pub mod splice;
pub mod sse;
pub mod status;
pub mod stream;
pub mod time;
