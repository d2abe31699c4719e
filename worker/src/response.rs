//! The client's responses: whole ones, and streams.

use crate::{
    pump::pump,
    runtime::{JsChunk, WorkerRuntime},
};
use fairlead_core::{
    drive::{Opened, Piece},
    message::ResponseHead,
};
use js_sys::{Array, Uint8Array};
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use web_sys::{ReadableStream, Response, ResponseInit, WritableStream};
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
pub fn whole(head: &ResponseHead, extra: &Extra, body: &[u8]) -> Result<Response, JsValue> {
    let mut body = body.to_vec();
    Response::new_with_opt_u8_array_and_init(Some(&mut body), &init(head, extra))
}

/// The response of a call: whole where its body is at hand at once, else a stream that goes on
/// under `wait_until`, so that a client's going is still told to the log.
pub async fn of_call(opened: Opened<WorkerRuntime>, extra: &Extra, context: &Context) -> Result<Response, JsValue> {
    let Opened { head, mut body } = opened;
    let mut first = Vec::new();
    if head.headers.media_type() != "text/event-stream" {
        // An answer that does not stream comes in one piece, unless it is very large.
        for _ in 0..2 {
            match body.next().await {
                Some(piece) => first.push(piece),
                None => {
                    return Response::new_with_opt_js_u8_array_and_init(
                        first.pop().and_then(only).as_ref(),
                        &init(&head, extra),
                    );
                }
            }
        }
    }
    let pipe = IdentityTransformStream::new();
    let response = Response::new_with_opt_readable_stream_and_init(Some(&pipe.readable()), &init(&head, extra))?;
    let writable = pipe.writable();
    let writer = writable.get_writer()?;
    context.wait_until(pump(first, body, writable, writer));
    Ok(response)
}

/// The only piece of a whole answer.
fn only(piece: Piece<JsChunk>) -> Option<Uint8Array> {
    match piece {
        Piece::Bytes(bytes) => Some(Uint8Array::from(bytes.as_slice())),
        Piece::Slice(chunk, range) => Some(chunk.slice(&range)),
        Piece::Broken => None,
    }
}

fn init(head: &ResponseHead, extra: &Extra) -> ResponseInit {
    let init = ResponseInit::new();
    init.set_status(head.status);
    let own = extra.iter().map(|(name, value)| (*name, value.as_str()));
    let fields = head.headers.iter().chain(own).map(|(name, value)| Array::of2(&name.into(), &value.into()));
    init.set_headers(fields.collect::<Array>().unchecked_ref());
    init
}
