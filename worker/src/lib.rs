//! Fairlead as a Cloudflare Worker: the edge gateway that any OpenAI client can point at.
//!
//! A thin host. [`routes`] answers requests, [`gateway`] is the only reader of the Worker's
//! environment, [`isolate`] keeps what became of its requests, [`admin`] shows it,
//! [`runtime`] lets the core's calls touch the world, [`response`] makes the client's
//! responses and [`pump`] brings their bodies. What is decided is decided in `fairlead-core`; what a
//! page does alike stands in `fairlead-host`.

mod admin;
mod assets;
mod cors;
mod gateway;
mod isolate;
mod log;
mod paths;
mod pump;
mod response;
mod routes;
mod runtime;
mod store;

use std::{convert::Infallible, rc::Rc};
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{Context, Env, event};

#[wasm_bindgen(module = "/src/microtask.js")]
extern "C" {
    fn adopt();
}

/// The entry point that the runtime calls for each request. It answers whatever happens: the `worker` crate's own way
/// from an error to a response takes 5 kB of the gzipped Worker.
#[event(fetch)]
async fn fetch(request: web_sys::Request, env: Env, context: Context) -> Result<web_sys::Response, Infallible> {
    adopt();
    Ok(routes::answer(&request, &env, &Rc::new(context)).await.unwrap_or_else(|error| response::failed(&error)))
}
