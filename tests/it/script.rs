//! What a scripted endpoint does with one request. Scripts are concatenated from the parts below:
//! `[opened(), role(), says("Yes"), wait(5), reset()].concat()`.

use fairlead_core::message::{Barrier, Headers, ResponseHead};
use serde_json::{Value, json};
use std::rc::Rc;

/// One answer, step by step. What ends in none of [`Step::End`], [`Step::Reset`] and
/// [`Step::Barred`] keeps silent for ever.
pub type Script = Vec<Step>;

/// One thing that an endpoint does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing for so many milliseconds, counted from the step before (or the sending).
    Wait(u64),
    /// Status and fields.
    Head(ResponseHead),
    /// Bytes of the body, as one chunk.
    Chunk(Rc<[u8]>),
    /// The same chunk again and again, each time after so many milliseconds.
    ForEver(u64, Rc<[u8]>),
    /// The end of the body, as far as the transport can tell.
    End,
    /// The connection is refused, or breaks.
    Reset,
    /// The platform lets nothing out, or nothing in.
    Barred(Barrier),
}

/// A pause.
pub fn wait(ms: u64) -> Script {
    vec![Step::Wait(ms)]
}

/// A response's head.
pub fn head(status: u16, fields: &[(&str, &str)]) -> Script {
    vec![Step::Head(ResponseHead { status, headers: fields.iter().copied().collect() })]
}

/// The head of an event stream.
pub fn opened() -> Script {
    head(200, &[("content-type", "text/event-stream; charset=utf-8")])
}

/// One chunk of exactly these bytes.
pub fn raw(bytes: impl AsRef<[u8]>) -> Script {
    vec![Step::Chunk(bytes.as_ref().into())]
}

/// The same bytes over and over.
pub fn for_ever(every_ms: u64, bytes: impl AsRef<[u8]>) -> Script {
    vec![Step::ForEver(every_ms, bytes.as_ref().into())]
}

/// A clean end.
pub fn end() -> Script {
    vec![Step::End]
}

/// The same steps so many times.
pub fn times(count: usize, steps: Script) -> Script {
    std::iter::repeat_n(steps, count).flatten().collect()
}

/// A broken connection.
pub fn reset() -> Script {
    vec![Step::Reset]
}

/// The platform stands in the way.
pub fn barred(barrier: Barrier) -> Script {
    vec![Step::Barred(barrier)]
}

/// An event with this payload.
pub fn event(payload: impl std::fmt::Display) -> Script {
    raw(format!("data: {payload}\n\n"))
}

/// A chat chunk in vLLM's shape.
pub fn chunk(index: u32, delta: &Value, finish_reason: Option<&str>) -> Value {
    let choice = json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
    json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "served", "choices": [choice] })
}

/// The first event of a choice: a role and no content.
pub fn role() -> Script {
    event(chunk(0, &json!({ "role": "assistant", "content": "" }), None))
}

/// Content of the first choice.
pub fn says(text: &str) -> Script {
    event(chunk(0, &json!({ "content": text }), None))
}

/// The end of the first choice.
pub fn finishes(reason: &str) -> Script {
    event(chunk(0, &json!({}), Some(reason)))
}

/// An event that holds nothing to read, whatever it weighs.
pub fn empty_delta(bytes: usize) -> String {
    let mut chunk = chunk(0, &json!({ "content": "" }), None);
    chunk["padding"] = "x".repeat(bytes).into();
    format!("data: {chunk}\n\n")
}

/// `[DONE]`.
pub fn done() -> Script {
    event("[DONE]")
}

/// vLLM's words when its engine has died under a stream.
pub fn engine_error() -> Script {
    event(
        r#"{"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": null, "code": 500}}"#,
    )
}

/// A whole chat stream that says this, word by word.
pub fn well(text: &str) -> Script {
    let words = text.split_inclusive(' ').flat_map(says);
    [opened(), role()].into_iter().flatten().chain(words).chain([finishes("stop"), done(), end()].concat()).collect()
}

/// A whole answer with this status: JSON, unless the fields say otherwise.
pub fn answers(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Script {
    let typed = fields.iter().any(|(name, _)| *name == "content-type");
    let json: &[(&str, &str)] = if typed { &[] } else { &[("content-type", "application/json")] };
    [head(status, &[json, fields].concat()), raw(body), end()].concat()
}

/// A chat answer that does not stream.
pub fn answer(text: &str) -> String {
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
    json!({ "id": "chatcmpl-1", "object": "chat.completion", "choices": [choice] }).to_string()
}

/// All bytes that a script sends as its body.
pub fn body_of(script: &Script) -> Vec<u8> {
    let chunks = script.iter().filter_map(|step| match step {
        Step::Chunk(bytes) => Some(&**bytes),
        _ => None,
    });
    chunks.collect::<Vec<_>>().concat()
}

/// These bytes, cut before each of these places.
pub fn cut_at(bytes: &[u8], places: impl IntoIterator<Item = usize>) -> Script {
    let mut script = Script::new();
    let mut start = 0;
    for place in places.into_iter().chain([bytes.len()]) {
        script.extend(raw(&bytes[start..place]));
        start = place;
    }
    script
}

/// No fields, for heads that need none.
pub const NONE: &[(&str, &str)] = &[];

/// A field of a head in a script.
pub fn with_field(script: Script, name: &str, value: &str) -> Script {
    let set = |mut headers: Headers| {
        headers.set(name, value);
        headers
    };
    let step = |step| match step {
        Step::Head(ResponseHead { status, headers }) => Step::Head(ResponseHead { status, headers: set(headers) }),
        other => other,
    };
    script.into_iter().map(step).collect()
}
