//! Responses recorded from vLLM 0.32.0, as scripts and as bytes.

use crate::script::{Script, end, raw};
use crate::wanted::{Wanted, chat, completions, messages, responses};
use crate::{script::Step, wanted::chat_whole};
use fairlead_core::message::ResponseHead;

/// One recorded response.
pub struct Capture {
    /// The file, without its ending.
    pub name: &'static str,
    file: &'static [u8],
}

macro_rules! captures {
    ($($name:literal),+ $(,)?) => {
        &[$(Capture {
            name: $name,
            file: include_bytes!(concat!("../fixtures/vllm-0.32/", $name, ".http")),
        }),+]
    };
}

/// Streams that are whole, in every dialect.
const STREAMS: &[Capture] = captures![
    "chat_stream",
    "chat_stream_long",
    "chat_stream_n2",
    "chat_stream_token_ids",
    "chat_stream_tool",
    "chat_stream_unicode",
    "chat_stream_usage",
    "chat_continue",
    "completions_stream",
    "messages_stream",
    "responses_stream",
];

/// The rest: a stream whose engine was killed, and answers that do not stream.
const OTHERS: &[Capture] = captures![
    "chat_stream_engine_killed",
    "chat",
    "tokenize",
    "error_400_context",
    "error_400_json",
    "error_400_validation",
    "error_401",
    "error_404_model",
    "error_404_route",
    "error_405",
    "error_503_queue_full",
];

/// All whole streams.
pub fn streams() -> impl Iterator<Item = &'static Capture> {
    STREAMS.iter()
}

/// The capture of this name.
pub fn capture(name: &str) -> &'static Capture {
    STREAMS.iter().chain(OTHERS).find(|capture| capture.name == name).expect("a capture of this name")
}

impl Capture {
    fn parts(&self) -> (&'static str, &'static [u8]) {
        let split = self.file.windows(4).position(|window| window == b"\r\n\r\n").expect("a blank line");
        (std::str::from_utf8(&self.file[..split]).expect("a head in ASCII"), &self.file[split + 4..])
    }

    /// Status and fields. The framing is the transport's: it does not reach the core.
    pub fn head(&self) -> ResponseHead {
        let mut lines = self.parts().0.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
        let fields = lines.filter_map(|line| line.split_once(": ")).filter(|(name, _)| *name != "transfer-encoding");
        ResponseHead { status: status.parse().expect("a number"), headers: fields.collect() }
    }

    /// The body, byte for byte.
    pub fn body(&self) -> &'static [u8] {
        self.parts().1
    }

    /// Only the head, as the beginning of a script.
    pub fn opened(&self) -> Script {
        vec![Step::Head(self.head())]
    }

    /// The whole response, its body as one chunk.
    pub fn script(&self) -> Script {
        [self.opened(), raw(self.body()), end()].concat()
    }

    /// The request that such a response answers.
    pub fn wanted(&self) -> Wanted {
        match self.name {
            "chat_stream_n2" => chat().with("n", 2),
            "completions_stream" => completions(),
            "messages_stream" => messages(),
            "responses_stream" => responses(),
            "chat" => chat_whole(),
            _ => chat(),
        }
    }
}
