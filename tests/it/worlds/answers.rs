//! What a world's client may ask for, and what a healthy endpoint would say to it, event by event.

use super::choices::Dice;
use crate::{captures::capture, script::answer, wanted::*};
use serde_json::{Value, json};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Chat,
    ChatOfTwo,
    ChatWithTools,
    ChatWhole,
    Completions,
    CompletionsWhole,
    Messages,
    Responses,
    Embeddings,
    Transcription,
    TranscriptionStream,
}

/// What a part of a stream is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Content,
    Finish,
    Usage,
    Done,
    Other,
}

/// One event of a stream.
#[derive(Clone)]
pub struct Part {
    pub piece: Piece,
    pub text: Vec<u8>,
}

impl Part {
    pub const fn new(piece: Piece, text: Vec<u8>) -> Self {
        Self { piece, text }
    }
}

impl Asked {
    /// Some kinds more often, as there is more that can happen to them.
    pub const ALL: &[Self] = &[
        Self::Chat,
        Self::Chat,
        Self::Chat,
        Self::ChatOfTwo,
        Self::ChatWithTools,
        Self::ChatWhole,
        Self::ChatWhole,
        Self::Completions,
        Self::Completions,
        Self::CompletionsWhole,
        Self::Messages,
        Self::Responses,
        Self::Embeddings,
        Self::Transcription,
        Self::TranscriptionStream,
    ];

    pub fn wanted(self) -> Wanted {
        match self {
            Self::Chat => chat(),
            Self::ChatOfTwo => chat().with("n", 2),
            Self::ChatWithTools => chat().with("tools", json!([{ "type": "function" }])),
            Self::ChatWhole => chat_whole(),
            Self::Completions => completions(),
            Self::CompletionsWhole => completions().with("stream", false),
            Self::Messages => messages(),
            Self::Responses => responses(),
            Self::Embeddings => embeddings(),
            Self::Transcription => transcription(),
            Self::TranscriptionStream => transcription().streamed(),
        }
    }

    pub const fn streams(self) -> bool {
        !matches!(self, Self::ChatWhole | Self::CompletionsWhole | Self::Embeddings | Self::Transcription)
    }

    /// The kind that endpoints are asked for where the policy has `stream_internally`.
    pub const fn inside(self) -> Self {
        match self {
            Self::ChatWhole => Self::Chat,
            Self::CompletionsWhole => Self::Completions,
            other => other,
        }
    }

    /// Whether it is known what a model has to say to it.
    pub const fn is_of_one_text(self) -> bool {
        matches!(self.inside(), Self::Chat | Self::ChatWithTools | Self::Completions)
    }

    /// All events of a whole answer.
    pub fn stream(self, dice: &mut Dice) -> Vec<Part> {
        match self {
            Self::Messages => recorded("messages_stream"),
            Self::Responses => recorded("responses_stream"),
            Self::ChatOfTwo if dice.one_in(4) => recorded("chat_stream_n2"),
            Self::ChatWithTools if dice.one_in(4) => recorded("chat_stream_tool"),
            Self::Chat if dice.one_in(4) => recorded(dice.pick(&["chat_stream", "chat_stream_usage", "chat_continue"])),
            Self::Completions if dice.one_in(4) => recorded("completions_stream"),
            _ => self.made_up(dice),
        }
    }

    fn made_up(self, dice: &mut Dice) -> Vec<Part> {
        let choices = if self == Self::ChatOfTwo { 2 } else { 1 };
        let mut parts = Vec::new();
        for index in (0..choices).filter(|_| self != Self::Completions) {
            parts.push(self.event(Piece::Other, index, &json!({ "role": "assistant", "content": "" }), None));
        }
        let texts = dice.some(6, |dice| (dice.up_to(choices - 1), dice.pick(CONTENTS)));
        for (index, delta) in texts {
            if dice.one_in(8) {
                parts.push(Part::new(Piece::Other, dice.pick(ASIDES).as_bytes().to_vec()));
            }
            let delta: Value = serde_json::from_str(delta).expect("JSON");
            parts.push(self.event(Piece::Content, index, &delta, None));
        }
        for index in 0..choices {
            let reason = dice.pick(&["stop", "length", "tool_calls"]);
            parts.push(self.event(Piece::Finish, index, &json!({}), Some(reason)));
        }
        if dice.one_in(2) {
            let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 4 } });
            parts.push(Part::new(Piece::Usage, format!("data: {usage}\n\n").into_bytes()));
        }
        parts.push(Part::new(Piece::Done, b"data: [DONE]\n\n".to_vec()));
        parts
    }

    fn event(self, piece: Piece, index: u64, delta: &Value, finish_reason: Option<&str>) -> Part {
        let mut choice = json!({ "index": index, "finish_reason": finish_reason });
        if self == Self::Completions {
            choice["text"] = delta["content"].as_str().unwrap_or_default().into();
        } else {
            choice["delta"] = delta.clone();
        }
        Part::new(piece, format!("data: {}\n\n", json!({ "choices": [choice] })).into_bytes())
    }

    /// An event without content, of at least this weight.
    pub fn empty_event(self, weight: usize) -> Vec<u8> {
        let padding = "x".repeat(weight);
        match self {
            Self::Messages => format!("event: ping\ndata: {{\"type\":\"ping\",\"padding\":\"{padding}\"}}\n\n"),
            Self::Responses => {
                format!("event: keepalive\ndata: {{\"type\":\"keepalive\",\"padding\":\"{padding}\"}}\n\n")
            }
            _ => format!("data: {{\"choices\":[],\"padding\":\"{padding}\"}}\n\n"),
        }
        .into_bytes()
    }

    /// What an engine says that is made to drop the answer.
    pub fn aborted(self) -> Vec<u8> {
        match self {
            Self::Messages | Self::Responses => {
                named("error", &json!({ "type": "error", "error": { "type": "api_error" } }))
            }
            _ if self.streams() => self.event(Piece::Finish, 0, &json!({}), Some("abort")).text,
            _ => answer("Half of").replace("stop", "abort").into_bytes(),
        }
    }

    /// An error inside a 200.
    pub fn error(self, dice: &mut Dice) -> Vec<u8> {
        let error = dice.pick(&[
            r#"{"error":{"message":"hush","type":"InternalServerError","code":500}}"#,
            r#"{"error":{"message":"hush","type":"BadRequestError","code":400}}"#,
            r#"{"error":{"message":"hush","code":"503"}}"#,
            r#"{"object":"error","message":"hush","code":500}"#,
            r#"{"error":"hush"}"#,
        ]);
        if !self.streams() {
            return error.as_bytes().to_vec();
        }
        match self {
            Self::Messages => named("error", &json!({ "type": "error", "error": { "type": "overloaded_error" } })),
            Self::Responses => named("error", &json!({ "type": "error", "code": "server_error", "message": "hush" })),
            _ => format!("data: {error}\n\n").into_bytes(),
        }
    }

    /// A whole answer that does not stream.
    pub fn plain_answer(self, dice: &mut Dice) -> Vec<u8> {
        match self {
            Self::Embeddings => br#"{"object":"list","data":[{"index":0,"embedding":[0.5]}]}"#.to_vec(),
            Self::Transcription => b"Hello there.\n".to_vec(),
            Self::CompletionsWhole => {
                br#"{"object":"text_completion","choices":[{"index":0,"text":"Yes.","finish_reason":"stop"}]}"#.to_vec()
            }
            _ if dice.one_in(2) => capture("chat").body().to_vec(),
            _ => answer("Yes.").into_bytes(),
        }
    }

    pub const fn plain_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Transcription => ("content-type", "text/plain; charset=utf-8"),
            _ => ("content-type", "application/json"),
        }
    }
}

/// Deltas with something to read in them; some hold what must not be taken for framing.
const CONTENTS: &[&str] = &[
    r#"{"content":"Yes"}"#,
    r#"{"content":" 🦀 né"}"#,
    r#"{"content":"\n\ndata: [DONE]\n\n"}"#,
    r#"{"content":"\"finish_reason\":\"stop\""}"#,
    r#"{"content":"{\"error\":{}}"}"#,
    r#"{"content":"","reasoning":"hm"}"#,
    r#"{"content":null,"reasoning_content":"hm"}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#,
];

/// What else may stand between events.
const ASIDES: &[&str] = &[
    ": keep-alive\n\n",
    "\n\n\n",
    "retry: 1000\n\n",
    "id: 7\nevent: message\ndata: {\"choices\":\ndata: []}\n\n",
    "data: {\"choices\":[]}\n: in the middle\nunknown: field\n\n",
    "data\n\n",
    "data: [1]\n\n",
    "data: \"text\"\n\n",
    "data: {\"choices\":[}\n\n",
    "data: {\"choices\":5}\n\n",
    "data: [DONE] \n\n",
];

fn named(name: &str, data: &Value) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}

/// A recorded stream, block by block.
fn recorded(name: &str) -> Vec<Part> {
    let text = std::str::from_utf8(capture(name).body()).expect("UTF-8");
    let part = |block: &str| {
        let has = |words: &[&str]| words.iter().any(|word| block.contains(word));
        let piece = if has(&["data: [DONE]"]) {
            Piece::Done
        } else if has(&["\"finish_reason\":\"", "event: message_stop", "event: response.completed"]) {
            Piece::Finish
        } else if has(&["\"choices\":[]"]) {
            Piece::Usage
        } else if has(&["\"content\":\"\"", "event: message", "event: response"]) && !has(&["delta\n"]) {
            Piece::Other
        } else {
            Piece::Content
        };
        Part::new(piece, block.as_bytes().to_vec())
    };
    text.split_inclusive("\n\n").map(part).collect()
}
