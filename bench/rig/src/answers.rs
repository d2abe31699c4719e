//! What the upstream says, prepared once: it writes `steps`, and a client expects `payload`.
//!
//! The shapes are those that vLLM 0.32 sends (`tests/fixtures/vllm-0.32`): an event of some 240 bytes, each event a
//! chunk of its own, which is how a Worker gets to read it.

use std::{error::Error, fmt, str::FromStr};

const ID: &str = "chatcmpl-8511b35c9c3e86e9";
const ABOUT: &str = r#""created":1795299886,"model":"Qwen/Qwen2.5-7B-Instruct""#;
const TEXT: &str = "A fairlead is a ring or a hook that keeps a rope running in the right direction. \
    A fairlead is a ring or a hook that keeps a rope running in the right direction. \
    A fairlead is a ring or a hook that keeps a rope running in the right direction. ";

/// Bytes of text that a held stream has brought.
const HELD: usize = 20_000;

/// What a request asks for.
#[derive(Clone, Copy)]
pub enum Kind {
    /// An answer that is not streamed.
    Whole,
    /// The shortest stream there is.
    Brief,
    /// A long stream, as fast as it is taken.
    Burst,
    /// A long stream, token by token.
    Paced,
    /// A stream that has begun, and says nothing more until its client leaves.
    Idle,
    /// The same behind 20 kB of text.
    Held,
}

impl Kind {
    const ALL: [(&str, Self); 6] = [
        ("whole", Self::Whole),
        ("brief", Self::Brief),
        ("burst", Self::Burst),
        ("paced", Self::Paced),
        ("idle", Self::Idle),
        ("held", Self::Held),
    ];

    /// Whether its client ends it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Idle | Self::Held)
    }

    /// The kind that a request's body asks for, in a field that nobody between client and upstream knows.
    pub fn of(body: &[u8]) -> Option<Self> {
        let body = str::from_utf8(body).ok()?;
        let (_, behind) = body.split_once(r#""bench":""#)?;
        behind.split_once('"')?.0.parse().ok()
    }

    fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind).ok_or(UnknownKind)
    }
}

#[derive(Debug)]
pub struct UnknownKind;

impl fmt::Display for UnknownKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("There is no such kind of answer.")
    }
}

impl Error for UnknownKind {}

pub struct Answer {
    /// What is written at once; before each but the first, a paced upstream waits.
    pub steps: Vec<Vec<u8>>,
    /// What has to arrive of it, without heads and framing.
    pub payload: Vec<u8>,
}

pub struct Answers {
    whole: Answer,
    brief: Answer,
    burst: Answer,
    paced: Answer,
    idle: Answer,
    held: Answer,
}

impl Answers {
    /// `events` are those of a long stream, `[DONE]` among them.
    pub fn new(events: usize) -> Self {
        Self {
            whole: whole(),
            brief: stream(4, " token").at_once(),
            burst: stream(events, " token").at_once(),
            paced: stream(events, " token"),
            idle: stream(events, " token").only(2),
            held: stream(events, TEXT).only(HELD / TEXT.len()).at_once(),
        }
    }

    pub fn of(&self, kind: Kind) -> &Answer {
        match kind {
            Kind::Whole => &self.whole,
            Kind::Brief => &self.brief,
            Kind::Burst => &self.burst,
            Kind::Paced => &self.paced,
            Kind::Idle => &self.idle,
            Kind::Held => &self.held,
        }
    }
}

impl Answer {
    fn at_once(self) -> Self {
        Self { steps: vec![self.steps.concat()], ..self }
    }

    /// The first so many steps, of which the first has two events.
    fn only(self, steps: usize) -> Self {
        let ends = self.payload.windows(2).enumerate().filter(|(_, bytes)| bytes == b"\n\n").map(|(at, _)| at + 2);
        let end = ends.take(steps + 1).last().unwrap_or_default();
        Self { steps: self.steps.into_iter().take(steps).collect(), payload: self.payload[..end].to_vec() }
    }
}

/// What a client sends to be answered so.
pub fn request(kind: Kind) -> Vec<u8> {
    let (stream, bench) = (!matches!(kind, Kind::Whole), kind.name());
    let system = format!(r#"{{"role":"system","content":"{TEXT}"}}"#);
    let messages = format!(r#"[{system},{{"role":"user","content":"What is a fairlead?"}}]"#);
    let body =
        format!(r#"{{"model":"bench","messages":{messages},"temperature":0.7,"stream":{stream},"bench":"{bench}"}}"#);
    let head = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: bench",
        "accept: application/json",
        "user-agent: OpenAI/JS 7.57.0",
        "authorization: Bearer sk-bench",
        "content-type: application/json",
    ];
    format!("{}\r\ncontent-length: {}\r\n\r\n{body}", head.join("\r\n"), body.len()).into_bytes()
}

fn whole() -> Answer {
    let message =
        format!(r#"{{"role":"assistant","content":"{TEXT}","refusal":null,"annotations":null,"reasoning":null}}"#);
    let behind = r#""finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null"#;
    let choice = format!(r#"{{"index":0,"message":{message},"logprobs":null,{behind}}}"#);
    let tokens = r#""prompt_tokens":87,"total_tokens":157,"completion_tokens":70,"prompt_tokens_details":null"#;
    let behind =
        format!(r#""service_tier":null,"usage":{{{tokens}}},"prompt_logprobs":null,"kv_transfer_params":null"#);
    let payload =
        format!(r#"{{"id":"{ID}","object":"chat.completion",{ABOUT},"choices":[{choice}],{behind}}}"#).into_bytes();
    let head = head("application/json", &format!("content-length: {}", payload.len()));
    Answer { steps: vec![[head, payload.clone()].concat()], payload }
}

fn stream(count: usize, text: &str) -> Answer {
    let token = |delta: &str, finish: &str| {
        let behind = format!(r#""logprobs":null,"finish_reason":{finish},"token_ids":null"#);
        let choice = format!(r#"{{"index":0,"delta":{delta},{behind}}}"#);
        let chunk = format!(r#"{{"id":"{ID}","object":"chat.completion.chunk",{ABOUT},"choices":[{choice}]}}"#);
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![token(r#"{"role":"assistant","content":""}"#, "null")];
    events.extend((0..count - 3).map(|index| token(&format!(r#"{{"content":"{text} {index}"}}"#), "null")));
    events.extend([token("{}", r#""stop""#), "data: [DONE]\n\n".to_owned()]);

    let chunk = |event: &String| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes();
    let mut steps = vec![head("text/event-stream; charset=utf-8", "transfer-encoding: chunked")];
    steps.extend(events.iter().map(chunk));
    steps.push(b"0\r\n\r\n".to_vec());
    // vLLM sends the role together with the first token, and ends in the step that ends the text.
    let first: Vec<_> = steps.drain(..3).collect();
    let last: Vec<_> = steps.drain(steps.len() - 3..).collect();
    steps.insert(0, first.concat());
    steps.push(last.concat());
    Answer { steps, payload: events.concat().into_bytes() }
}

fn head(content_type: &str, framing: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 22:24:46 GMT\r\nserver: uvicorn\r\ncontent-type: {content_type}\r\n\
         x-request-id: 30fc698db7124a39b29b37d03e3524d0\r\n{framing}\r\n\r\n"
    )
    .into_bytes()
}
