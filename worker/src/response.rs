//! The client's responses: whole ones, and streams.

use crate::{
    log,
    pump::{pump, writer_of},
    runtime::CallRuntime,
};
use fairlead_core::{drive::Opened, message::ResponseHead};
use fairlead_host::{
    message::{join, respond, respond_plainly},
    pump::at_once,
};
use js_sys::Uint8Array;
use wasm_bindgen::{JsValue, prelude::*};
use web_sys::{ReadableStream, Response, WritableStream};
use worker::Context;

#[wasm_bindgen]
extern "C" {
    /// Cloudflare's byte pipe: what is written to one side is read from the other, natively.
    type IdentityTransformStream;
    #[wasm_bindgen(constructor)]
    fn new() -> IdentityTransformStream;
    #[wasm_bindgen(method, getter)]
    fn readable(this: &IdentityTransformStream) -> ReadableStream;
    #[wasm_bindgen(method, getter)]
    fn writable(this: &IdentityTransformStream) -> WritableStream;
}

/// Fields that every response to this request carries.
pub type Extra = Vec<(&'static str, String)>;

/// A response with this body.
pub fn whole(head: ResponseHead, extra: &Extra, body: &[u8]) -> Result<Response, JsValue> {
    let body = if body.is_empty() { JsValue::NULL } else { Uint8Array::from(body).into() };
    with_body(head, extra, &body)
}

/// What is left to say when even an error could not be made a response of.
pub fn failed(error: &JsValue) -> Response {
    log::internal("", error);
    respond_plainly(500, "", "INTERNAL SERVER ERROR")
}

/// The response of a call: whole where its body is at hand at once, else a stream that goes on
/// under `wait_until`, so that a client's going is still told to the log.
pub async fn of_call(opened: Opened<CallRuntime>, extra: &Extra, context: &Context) -> Result<Response, JsValue> {
    let Opened { head, mut body } = opened;
    let first = match at_once(&head, &mut body).await {
        Ok(bytes) => return with_body(head, extra, &bytes.map_or(JsValue::NULL, Into::into)),
        Err(first) => first,
    };
    let pipe = IdentityTransformStream::new();
    let response = with_body(head, extra, &pipe.readable())?;
    let writable = pipe.writable();
    let writer = writer_of(&writable)?;
    context.wait_until(pump(first, body, writable, writer));
    Ok(response)
}

fn with_body(head: ResponseHead, extra: &Extra, body: &JsValue) -> Result<Response, JsValue> {
    let ResponseHead { status, mut headers } = head;
    extra.iter().for_each(|(name, value)| headers.set(name, value));
    respond(status, &join(&headers), body)
}
