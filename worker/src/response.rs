//! The client's responses: whole ones, and streams.

use crate::runtime::WorkerRuntime;
use fairlead_core::{
    drive::{Body, Opened, Piece},
    message::ResponseHead,
    runtime::Runtime,
};
use js_sys::{Array, Uint8Array};
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStream, Response, ResponseInit, WritableStream, WritableStreamDefaultWriter};
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
                        first.pop().and_then(bytes).as_ref(),
                        &init(&head, extra),
                    );
                }
            }
        }
    }
    let pipe = IdentityTransformStream::new();
    let writer = pipe.writable().get_writer()?;
    let response = Response::new_with_opt_readable_stream_and_init(Some(&pipe.readable()), &init(&head, extra))?;
    context.wait_until(pump(first, body, writer));
    Ok(response)
}

/// Brings a body to the client, piece by piece.
async fn pump(
    first: Vec<Piece<<WorkerRuntime as Runtime>::Chunk>>,
    mut body: Body<WorkerRuntime>,
    writer: WritableStreamDefaultWriter,
) {
    let mut first = first.into_iter();
    loop {
        let piece = match first.next() {
            Some(piece) => Some(piece),
            None => body.next().await,
        };
        let Some(piece) = piece else { break };
        let taken = match bytes(piece) {
            Some(bytes) => {
                let written = writer.write_with_chunk(&bytes);
                body.deliver(async { JsFuture::from(written).await.is_ok() }).await
            }
            None => false,
        };
        if !taken {
            // For the platform's log; the client, if it is still there, sees its connection break.
            let reason = js_sys::Error::new("The answer could not be brought to its end.");
            let _ = JsFuture::from(writer.abort_with_reason(&reason)).await;
            return;
        }
    }
    let _ = JsFuture::from(writer.close()).await;
}

/// A piece as the platform takes it; `None` for a body that must be broken off.
fn bytes(piece: Piece<<WorkerRuntime as Runtime>::Chunk>) -> Option<Uint8Array> {
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
