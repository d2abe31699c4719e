//! What the core's machines cost by themselves, natively: `cargo bench`.
//!
//! Times are for an optimised native build; the Worker's wasm is another compilation of the same
//! code. The allocation counts hold for both: none may grow with the number of events.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a benchmark stops at the first thing that is not as expected"
)]

use divan::{AllocProfiler, Bencher, black_box, counter::BytesCount};
use fairlead_core::{
    api::{Api, Dialect},
    ask::Ask,
    call::{Call, Emit, Input, Order, Output},
    classify::Failure,
    fleet::Fleet,
    message::{Headers, ResponseHead},
    settings::{Environment, Settings},
    sse::Decoder,
    stream::{Proof, Seen},
    time::Instant,
};
use std::{cell::RefCell, rc::Rc};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const EVENTS: usize = 300;
const NOW: Instant = Instant::from_millis(1_795_299_888_000);
const HEAD: &str = r#"{"id":"chatcmpl-8511b35c9c3e86e9","object":"chat.completion.chunk","created":1795299886,"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{"index":0,"#;

/// What differs from one event of a stream to the next.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The text of a token, as vLLM sends it.
    Text,
    /// The text, and the token counts so far (`continuous_usage_stats`).
    Usage,
    /// The arguments of a tool call.
    Tool,
    /// Text of which every character is escaped.
    Escapes,
    /// The text of two choices in turn.
    Two,
    /// The text, and its probability.
    Logprobs,
}

const KINDS: [Kind; 6] = [Kind::Text, Kind::Tool, Kind::Escapes, Kind::Two, Kind::Usage, Kind::Logprobs];

/// A stream as vLLM 0.32 sends it, event by event: a role, content, a `finish_reason`, the token
/// counts, `[DONE]`.
fn events(kind: Kind) -> Vec<Vec<u8>> {
    let event = |delta: &str, finish: &str, usage: &str| {
        format!(r#"data: {HEAD}"delta":{delta},"logprobs":null,"finish_reason":{finish},"token_ids":null}}]{usage}}}"#)
            .into_bytes()
    };
    let token = |index: usize| match kind {
        Kind::Text => event(&format!(r#"{{"content":" token {index}"}}"#), "null", ""),
        Kind::Usage => {
            let usage =
                format!(r#","usage":{{"prompt_tokens":87,"total_tokens":{},"completion_tokens":{index}}}"#, 87 + index);
            event(&format!(r#"{{"content":" token {index}"}}"#), "null", &usage)
        }
        Kind::Tool => {
            event(&format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{index}"}}}}]}}"#), "null", "")
        }
        Kind::Escapes => event(r#"{"content":"\n\n\u00e4\"\\"}"#, "null", ""),
        Kind::Two => {
            let event = event(&format!(r#"{{"content":" token {index}"}}"#), "null", "");
            String::from_utf8(event).unwrap().replace(r#""index":0"#, &format!(r#""index":{}"#, index % 2)).into_bytes()
        }
        Kind::Logprobs => {
            let event = event(&format!(r#"{{"content":" token {index}"}}"#), "null", "");
            let logprobs = format!(
                r#""logprobs":{{"content":[{{"token":" token {index}","logprob":-0.{index},"bytes":[32],"top_logprobs":[]}}]}}"#
            );
            String::from_utf8(event).unwrap().replace(r#""logprobs":null"#, &logprobs).into_bytes()
        }
    };
    let mut events = vec![event(r#"{"role":"assistant","content":""}"#, "null", "")];
    events.extend((0..EVENTS - 4).map(token));
    events.push(event("{}", r#""stop""#, ""));
    let usage = r#""usage":{"prompt_tokens":87,"total_tokens":384,"completion_tokens":297}"#;
    events.push(format!(r#"data: {{"id":"chatcmpl-8511b35c9c3e86e9","choices":[],{usage}}}"#).into_bytes());
    events.push(b"data: [DONE]".to_vec());
    events.iter_mut().for_each(|event| event.extend(b"\n\n"));
    events
}

fn size(events: &[Vec<u8>]) -> BytesCount {
    BytesCount::new(events.iter().map(Vec::len).sum::<usize>())
}

/// Framing and everything that a stream needs of each event, one event per chunk.
#[divan::bench(args = KINDS)]
fn decoder(bencher: Bencher<'_, '_>, kind: Kind) {
    let events = events(kind);
    bencher.counter(size(&events)).bench_local(|| {
        let (mut decoder, mut proof) = (Decoder::default(), Proof::new(Dialect::Chat, 1));
        let mut content = 0;
        for chunk in black_box(&events) {
            let mut at = 0;
            while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
                let seen = block.fields().map(|fields| proof.observe(&fields));
                content += usize::from(seen == Some(Seen::Content));
            }
        }
        assert!(proof.is_whole() && proof.usage().completion_tokens.is_some());
        content
    });
}

/// The same, where the whole stream is one chunk.
#[divan::bench(args = KINDS)]
fn decoder_coalesced(bencher: Bencher<'_, '_>, kind: Kind) {
    let stream = events(kind).concat();
    bencher.counter(BytesCount::new(stream.len())).bench_local(|| {
        let (mut decoder, mut proof) = (Decoder::default(), Proof::new(Dialect::Chat, 1));
        let mut at = 0;
        while let Some(block) = decoder.next(black_box(&stream), &mut at).unwrap() {
            if let Some(fields) = block.fields() {
                proof.observe(&fields);
            }
        }
        assert!(proof.is_whole());
    });
}

/// Framing alone.
#[divan::bench]
fn framing(bencher: Bencher<'_, '_>) {
    let events = events(Kind::Text);
    bencher.counter(size(&events)).bench_local(|| {
        let mut decoder = Decoder::default();
        let mut bytes = 0;
        for chunk in black_box(&events) {
            let mut at = 0;
            while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
                bytes += block.fields().map_or(0, |fields| fields.data.len());
            }
        }
        bytes
    });
}

/// A whole streamed call: request out, head and 300 events in, every byte out, the end.
#[divan::bench(args = KINDS)]
fn call(bencher: Bencher<'_, '_>, kind: Kind) {
    let events = events(kind);
    let plan = Plan::new();
    bencher.counter(size(&events)).with_inputs(|| plan.order(true)).bench_local_values(|order| {
        let mut call = Call::new(NOW, order, Rc::clone(&plan.fleet));
        let mut bytes = 0;
        take(&mut call);
        call.handle_input(NOW, Input::Head { exchange: 1, head: stream_head() });
        for chunk in black_box(&events) {
            call.handle_input(NOW, Input::Chunk { exchange: 1, bytes: chunk });
            bytes += take(&mut call);
        }
        call.handle_input(NOW, Input::End { exchange: 1 });
        assert_eq!(call.poll_timeout(), None);
        bytes + take(&mut call)
    });
}

/// Takes all that the call wants done and counts the bytes for the client.
fn take(call: &mut Call) -> usize {
    let mut bytes = 0;
    while let Some(output) = call.poll_output() {
        bytes += match output {
            Output::Emit(Emit::Slice(range)) => range.len(),
            Output::Emit(Emit::Bytes(bytes)) => bytes.len(),
            _ => 0,
        };
    }
    bytes
}

/// A refusal, from its head to the decision and the pushback that it asks for.
#[divan::bench(args = ["12", "Sat, 21 Nov 2026 22:25:00 GMT"])]
fn classify(bencher: Bencher<'_, '_>, retry_after: &str) {
    let headers = Headers::from_iter([("content-type", "application/json"), ("retry-after", retry_after)]);
    let failure = Failure::Status { head: ResponseHead { status: 503, headers }, body: None };
    bencher.bench_local(|| black_box(&failure).verdict(black_box(NOW)));
}

/// What is read from a request of about so many KiB, and its body with another model's name.
#[divan::bench(args = [1, 100, 4096])]
fn peek(bencher: Bencher<'_, '_>, kib: usize) {
    let body = request(true, kib << 10);
    let headers = Headers::from_iter([("content-type", "application/json")]);
    bencher.counter(BytesCount::new(body.len())).bench_local(|| {
        let ask = Ask::read(Api::Chat, black_box(&headers), Rc::clone(&body)).unwrap();
        ask.body_for(Some("served"))
    });
}

fn request(stream: bool, bytes: usize) -> Rc<[u8]> {
    let text = "A fairlead keeps a rope running. ".repeat(bytes / 33);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"qwen","temperature":0.7,"stream":{stream}}}"#
    );
    body.into_bytes().into()
}

fn stream_head() -> ResponseHead {
    ResponseHead { status: 200, headers: Headers::from_iter([("content-type", "text/event-stream; charset=utf-8")]) }
}

/// The settings that the calls are made under.
struct Plan {
    settings: Settings,
    fleet: Rc<RefCell<Fleet>>,
}

struct NoSecrets;

impl Environment for NoSecrets {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

impl Plan {
    fn new() -> Self {
        let config = serde_json::json!({
            "open": true,
            "endpoints": [{ "name": "a", "provider": "vllm", "base_url": "https://a.example.com/v1" }],
            "models": [{ "name": "qwen", "targets": [{ "endpoint": "a", "model": "served" }] }],
        });
        let settings = Settings::read([("CONFIG".to_owned(), config)], &NoSecrets).settings.unwrap();
        Self { settings, fleet: Rc::default() }
    }

    fn order(&self, stream: bool) -> Order {
        let ask = Ask::read(Api::Chat, &Headers::new(), request(stream, 1 << 10)).unwrap();
        let (model, policy) = self.settings.plan(None, &ask.model, None).unwrap();
        Order { ask, model, policy, arrived: NOW, request_id: "r".to_owned(), deadline_ms: None, client: None, seed: 7 }
    }
}
