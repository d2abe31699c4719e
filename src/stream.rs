//! What a stream has proved so far.
//!
//! A stream is whole only when its own dialect says so: a `finish_reason` for every choice, or a
//! closing event. `[DONE]` proves nothing, because vLLM sends an error and then `[DONE]`; the end
//! of the bytes proves nothing, because a cut looks like one in half of the layers below.

mod answer;
mod pattern;
mod transcript;

pub use answer::{Flaw, check_answer};
pub use transcript::Transcript;

use crate::{
    api::Dialect,
    json::{Text, items, member, members, pick, read_object, text, text_of},
    sse::Fields,
};
use pattern::Pattern;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// What one event means to the call.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'e> {
    /// Part of the stream, but no content: roles, usage, keepalives of the API.
    Nothing,
    /// Something that a reader of the answer would see.
    Content(Said<'e>),
    /// The endpoint gave up.
    Error(InBand),
    /// `[DONE]`.
    Done,
    /// Not what this dialect sends; to be dropped.
    Malformed,
}

/// What an event says. Texts are the insides of JSON strings, as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said<'e> {
    /// Of the answer's text.
    pub content: &'e [u8],
    /// Of what the model thinks first.
    pub reasoning: &'e [u8],
    /// Something else: a tool call, a refusal, another choice, another dialect.
    pub other: bool,
}

/// An error that came inside a 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InBand {
    /// The HTTP status it stands for, where it says so.
    pub status: Option<u16>,
    /// Its type, if that is a plain word: `InternalServerError`, `abort`. Its message is left
    /// out, because vLLM repeats parts of the request there.
    pub kind: Option<String>,
}

/// Token counts that an endpoint told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Of the answer.
    pub completion_tokens: Option<u64>,
}

/// The proof of one stream, growing event by event.
#[derive(Debug)]
pub struct Proof {
    dialect: Dialect,
    /// How many choices must finish: `n` for each prompt.
    choices: usize,
    /// Those that have, in their order. It grows with what arrives, for `choices` is a caller's word and may be
    /// any number.
    finished: Vec<usize>,
    closed: bool,
    usage: Usage,
    /// The counts that the latest event has told.
    told: Option<Usage>,
    /// The newest events with nothing but content, by choice.
    patterns: [Pattern; PATTERNS],
}

const OTHER: Said<'static> = Said { content: b"", reasoning: b"", other: true };

/// Choices that are told apart when tokens are compared; further ones share.
const PATTERNS: usize = 4;

impl Proof {
    /// Of a stream that must finish this many choices (only chat and completions have several).
    pub fn new(dialect: Dialect, choices: usize) -> Self {
        Self {
            dialect,
            choices,
            finished: Vec::new(),
            closed: false,
            usage: Usage::default(),
            told: None,
            patterns: Default::default(),
        }
    }

    /// Whether the answer is whole.
    pub fn is_whole(&self) -> bool {
        match self.dialect {
            Dialect::Chat | Dialect::Completions => self.finished.len() >= self.choices,
            Dialect::Responses | Dialect::Messages | Dialect::Whole | Dialect::Job => self.closed,
        }
    }

    /// Whether this choice has ended.
    pub fn has_ended(&self, choice: usize) -> bool {
        self.finished.binary_search(&choice).is_ok()
    }

    /// Whether a whole stream ends in `[DONE]`.
    pub const fn ends_in_done(&self) -> bool {
        matches!(self.dialect, Dialect::Chat | Dialect::Completions)
    }

    /// The newest token counts.
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// The counts that the latest event has told, once.
    pub const fn take_told(&mut self) -> Option<Usage> {
        self.told.take()
    }

    /// Takes in one event.
    pub fn observe<'e>(&mut self, event: &'e Fields<'_>) -> Seen<'e> {
        if let Some(said) = self.patterns.iter().find_map(|pattern| pattern.read(&event.data)) {
            return Seen::Content(said);
        }
        if *event.data == *b"[DONE]" {
            return Seen::Done;
        }
        match self.dialect {
            Dialect::Chat | Dialect::Completions | Dialect::Whole | Dialect::Job => {
                self.observe_choices(text(&event.data))
            }
            Dialect::Responses | Dialect::Messages => self.observe_named(text(&event.data)),
        }
    }

    fn observe_choices<'e>(&mut self, data: &'e str) -> Seen<'e> {
        let Ok(chunk) = read_object::<ChoicesChunk>(data) else { return Seen::Malformed };
        if let Some(error) = chunk.error {
            return Seen::Error(InBand::from_json(error.get()));
        }
        if chunk.object.is_some_and(is_error) {
            return Seen::Error(InBand::from_json(data));
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage;
            self.told = Some(usage);
        }
        let Choices { content, text, said, finished, aborted } = chunk.choices.unwrap_or_default();
        if aborted {
            return Seen::Error(InBand { status: None, kind: Some("abort".to_owned()) });
        }
        // One that says nothing does not tell what its text would be.
        if let Some((index, text)) = text.filter(|_| content && finished.is_empty() && chunk.usage.is_none()) {
            self.learn(index, data, text, said);
        }
        for index in finished.into_iter().filter(|index| *index < self.choices) {
            if let Err(place) = self.finished.binary_search(&index) {
                self.finished.insert(place, index);
            }
        }
        if content { Seen::Content(said) } else { Seen::Nothing }
    }

    fn learn(&mut self, index: usize, event: &str, text: &RawValue, said: Said<'_>) {
        if let Some(pattern) = self.patterns.get_mut(index % PATTERNS) {
            pattern.learn(event.as_bytes(), text.get(), said);
        }
    }

    fn observe_named<'e>(&mut self, data: &'e str) -> Seen<'e> {
        let Ok([kind, error, usage, response, message, delta]) = pick(data, &NAMED) else { return Seen::Malformed };
        let Some(kind) = kind.map_or(Some(Cow::Borrowed("")), text_of) else { return Seen::Malformed };
        if let Some(error) = error.filter(|_| kind == "error" || kind.is_empty()) {
            return Seen::Error(InBand::from_json(error.get()));
        }
        let inner =
            response.or(message).and_then(|object| pick(object.get(), &["usage"]).ok()).and_then(|[usage]| usage);
        let told = usage.and_then(told_usage).or_else(|| told_usage(inner?));
        if let Some(told) = told {
            // Messages tell the prompt's count first and the answer's later.
            self.usage.prompt_tokens = told.prompt_tokens.or(self.usage.prompt_tokens);
            self.usage.completion_tokens = told.completion_tokens.or(self.usage.completion_tokens);
        }
        match &*kind {
            "error" => Seen::Error(InBand::from_json(data)),
            "response.completed" | "response.incomplete" | "response.failed" | "message_stop" => {
                self.closed = true;
                Seen::Nothing
            }
            "content_block_delta" => {
                if let Some(text) = delta.and_then(block_text).filter(|_| told.is_none()) {
                    self.learn(0, data, text, OTHER);
                }
                Seen::Content(OTHER)
            }
            kind if kind.starts_with("response.") && kind.ends_with(".delta") => Seen::Content(OTHER),
            _ => Seen::Nothing,
        }
    }
}

impl InBand {
    /// Reads an error object; `code` is a number in vLLM and a string in its second frontend.
    pub fn from_json(json: &str) -> Self {
        let [kind, code] = pick(json, &["type", "code"]).unwrap_or_default();
        let kind = kind.and_then(text_of).unwrap_or_default();
        let code = code.map_or("", |code| code.get().trim_matches('"'));
        let plain = |word: &&str| {
            (1..=64).contains(&word.len())
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-. ".contains(&byte))
        };
        let kind = [&*kind, code].into_iter().find(plain);
        Self { status: code.parse().ok().filter(|status| (400..600).contains(status)), kind: kind.map(str::to_owned) }
    }
}

#[derive(Deserialize)]
struct ChoicesChunk<'a> {
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Choices<'a>>,
    #[serde(default, deserialize_with = "usage")]
    usage: Option<Usage>,
}

/// What is looked at in an event of these dialects. `response` is an object with `usage` in it, `message` the same in
/// `message_start` and a text in an error, `delta` an object in the messages API and a text in responses.
const NAMED: [&str; 6] = ["type", "error", "usage", "response", "message", "delta"];

/// The text in the `delta` of a `content_block_delta`.
fn block_text(delta: &RawValue) -> Option<&RawValue> {
    pick(delta.get(), &["text", "thinking", "partial_json"]).ok()?.into_iter().flatten().next()
}

/// Token counts are only told to the log: what has another shape there is passed over, or an answer
/// would be lost for it.
fn usage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Usage>, D::Error> {
    let told = <Option<&RawValue>>::deserialize(deserializer)?;
    Ok(told.and_then(told_usage))
}

/// Token counts that an endpoint told.
pub(crate) fn told_usage(told: &RawValue) -> Option<Usage> {
    // The names that the APIs have for them; some servers send both.
    let names = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"];
    let counts = pick(told.get(), &names).ok()?;
    let [prompt, completion, input, output] = counts.map(|count| count.and_then(|count| count.get().parse().ok()));
    Some(Usage { prompt_tokens: prompt.or(input), completion_tokens: completion.or(output) })
}

/// All that matters of `choices`, gathered without keeping any of it.
#[derive(Default)]
struct Choices<'a> {
    /// One of them holds something to read.
    content: bool,
    /// Where that is a single string: of which choice, and the string.
    text: Option<(usize, &'a RawValue)>,
    /// What they say.
    said: Said<'a>,
    /// Those that end here. Empty, hence without an allocation, in every event but the last ones.
    finished: Vec<usize>,
    /// One of them was given up by the endpoint.
    aborted: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Choices<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ChoicesVisitor)
    }
}

struct ChoicesVisitor;

impl<'de> Visitor<'de> for ChoicesVisitor {
    type Value = Choices<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of choices")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Choices<'de>, A::Error> {
        let mut choices = Choices::default();
        let mut alone = true;
        while let Some(choice) = items.next_element::<Choice>()? {
            let delta = choice.delta.unwrap_or_default();
            choices.content |= choice.text.is_some_and(is_content) || delta.has_content();
            let said = choice.text.map_or_else(|| delta.said(), |text| inside(text).map_or(OTHER, said_content));
            alone &= choice.index.unwrap_or_default() == 0;
            choices.said = if alone { said } else { OTHER };
            alone = false;
            choices.text = choice.text.or_else(|| delta.text()).map(|text| (choice.index.unwrap_or_default(), text));
            match choice.finish_reason.as_ref().map(|Text(reason)| &**reason) {
                // Some servers send an empty one with every event.
                None | Some("") => {}
                // vLLM's word for an answer it was made to drop: shutdown, sleep, pause.
                Some("abort") => choices.aborted = true,
                Some(_) => choices.finished.push(choice.index.unwrap_or_default()),
            }
        }
        Ok(choices)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// Some servers leave it out where there is but one choice.
    #[serde(default)]
    index: Option<usize>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Text<'a>>,
}

/// The fields that hold something to read, under vLLM's old and new names.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

impl<'a> Delta<'a> {
    fn has_content(&self) -> bool {
        [self.content, self.reasoning, self.reasoning_content, self.refusal, self.tool_calls, self.function_call]
            .into_iter()
            .flatten()
            .any(is_content)
    }

    fn said(&self) -> Said<'a> {
        let text = |value: Option<&'a RawValue>| match value.filter(|value| is_content(value)) {
            None => Some(&b""[..]),
            Some(value) => inside(value),
        };
        let others = [self.refusal, self.tool_calls, self.function_call].into_iter().flatten().any(is_content);
        // Some servers send what the model thinks under both names.
        let thought = [self.reasoning, self.reasoning_content].into_iter().find(|value| value.is_some_and(is_content));
        match (text(self.content), text(thought.flatten())) {
            (Some(content), Some(reasoning)) => Said { content, reasoning, other: others },
            _ => OTHER,
        }
    }

    /// The string that the next event may have another of.
    fn text(&self) -> Option<&'a RawValue> {
        [self.content, self.reasoning, self.reasoning_content]
            .into_iter()
            .flatten()
            .find(|value| is_content(value))
            .or_else(|| {
                let [call] = *items(self.tool_calls?)? else { return None };
                member(&members(member(&members(call.get())?, "function")?.get())?, "arguments")
            })
    }
}

/// An `object` that is an error itself, as vLLM said it before 0.10.1.
fn is_error(object: &RawValue) -> bool {
    object.get() == "\"error\""
}

/// The inside of a JSON string.
fn inside(value: &RawValue) -> Option<&[u8]> {
    Some(value.get().strip_prefix('"')?.strip_suffix('"')?.as_bytes())
}

const fn said_content(content: &[u8]) -> Said<'_> {
    Said { content, reasoning: b"", other: false }
}

/// Neither an empty string nor an empty list.
pub(crate) fn is_content(value: &RawValue) -> bool {
    !matches!(value.get(), "\"\"" | "[]" | "{}" | "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(proof: &mut Proof, data: &str) -> Seen<'static> {
        // Told apart by what it is, not by what it says.
        match proof.observe(&Fields { name: b"", data: Cow::Borrowed(data.as_bytes()) }) {
            Seen::Content(_) => CONTENT,
            Seen::Nothing => Seen::Nothing,
            Seen::Error(error) => Seen::Error(error),
            Seen::Done => Seen::Done,
            Seen::Malformed => Seen::Malformed,
        }
    }

    const CONTENT: Seen<'static> = Seen::Content(OTHER);

    #[test]
    fn a_chat_is_whole_when_every_choice_has_finished() {
        let mut proof = Proof::new(Dialect::Chat, 2);
        assert_eq!(
            observe(
                &mut proof,
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#
            ),
            Seen::Nothing
        );
        assert_eq!(observe(&mut proof, r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#), CONTENT);
        assert_eq!(
            observe(&mut proof, r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#),
            Seen::Nothing
        );
        observe(&mut proof, r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#);
        assert_eq!(observe(&mut proof, "[DONE]"), Seen::Done);
        assert!(!proof.is_whole());
        observe(&mut proof, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#);
        assert_eq!(
            observe(&mut proof, r#"{"choices":[],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}}"#),
            Seen::Nothing
        );
        assert!(proof.is_whole());
        assert_eq!(proof.usage(), Usage { prompt_tokens: Some(7), completion_tokens: Some(2) });
    }

    #[test]
    fn content_is_whatever_a_reader_would_see() {
        for (delta, content) in [
            (r#"{"content":"x"}"#, true),
            (r#"{"content":"\n"}"#, true),
            (r#"{"content":null,"reasoning":"hm"}"#, true),
            (r#"{"reasoning_content":"hm"}"#, true),
            (r#"{"refusal":"no"}"#, true),
            (r#"{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#, true),
            (r#"{"content":"","tool_calls":[],"reasoning":null}"#, false),
            (r#"{}"#, false),
        ] {
            let mut proof = Proof::new(Dialect::Chat, 1);
            let seen = observe(&mut proof, &format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#));
            assert_eq!(seen == CONTENT, content, "{delta}");
        }
        let mut proof = Proof::new(Dialect::Completions, 1);
        assert_eq!(observe(&mut proof, r#"{"choices":[{"index":0,"text":" the"}]}"#), CONTENT);
        assert_eq!(observe(&mut proof, r#"{"choices":[{"index":0,"text":""}]}"#), Seen::Nothing);
    }

    #[test]
    fn a_completion_that_begins_with_nothing_is_text_all_the_same() {
        let mut proof = Proof::new(Dialect::Completions, 1);
        for text in ["", "Yes", "", "no"] {
            let data = format!(r#"{{"choices":[{{"index":0,"text":"{text}"}}]}}"#);
            let fields = Fields { name: b"", data: Cow::Borrowed(data.as_bytes()) };
            let expected = if text.is_empty() { Seen::Nothing } else { Seen::Content(said_content(text.as_bytes())) };
            assert_eq!(proof.observe(&fields), expected);
        }
    }

    #[test]
    fn errors_are_told_in_every_form_that_vllm_has_had() {
        let cases = [
            (
                r#"{"error": {"message": "secret prompt", "type": "InternalServerError", "param": null, "code": 500}}"#,
                Some(500),
                "InternalServerError",
            ),
            (r#"{"error":{"message":"x","type":"server_error","code":"server_error"}}"#, None, "server_error"),
            (
                r#"{"object":"error","message":"x","type":"BadRequestError","param":null,"code":400}"#,
                Some(400),
                "BadRequestError",
            ),
        ];
        for (data, status, kind) in cases {
            let expected = InBand { status, kind: Some(kind.to_owned()) };
            assert_eq!(observe(&mut Proof::new(Dialect::Chat, 1), data), Seen::Error(expected));
        }
        let bare = Seen::Error(InBand { status: None, kind: None });
        assert_eq!(observe(&mut Proof::new(Dialect::Chat, 1), r#"{"error":"scaling"}"#), bare);
        let abort = Seen::Error(InBand { status: None, kind: Some("abort".to_owned()) });
        assert_eq!(
            observe(
                &mut Proof::new(Dialect::Chat, 1),
                r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"abort"}]}"#
            ),
            abort
        );
    }

    #[test]
    fn what_is_no_event_of_the_dialect_is_malformed() {
        for data in ["{", "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}", "hello", "[]", "null"] {
            assert_eq!(observe(&mut Proof::new(Dialect::Chat, 1), data), Seen::Malformed, "{data}");
        }
    }

    #[test]
    fn the_only_choice_needs_no_index() {
        let mut proof = Proof::new(Dialect::Chat, 1);
        observe(&mut proof, r#"{"choices":[{"index":null,"delta":{"content":"x"},"finish_reason":"stop"}]}"#);
        assert!(proof.is_whole());
    }

    #[test]
    fn named_dialects_close_with_their_own_event() {
        let mut proof = Proof::new(Dialect::Messages, 1);
        assert_eq!(
            observe(&mut proof, r#"{"type":"message_start","message":{"usage":{"input_tokens":7,"output_tokens":0}}}"#),
            Seen::Nothing
        );
        assert_eq!(
            observe(&mut proof, r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Y"},"index":0}"#),
            CONTENT
        );
        observe(
            &mut proof,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#,
        );
        assert!(!proof.is_whole());
        observe(&mut proof, r#"{"type":"message_stop"}"#);
        assert!(proof.is_whole());
        assert_eq!(proof.usage(), Usage { prompt_tokens: Some(7), completion_tokens: Some(4) });

        let mut proof = Proof::new(Dialect::Responses, 1);
        assert_eq!(observe(&mut proof, r#"{"type":"response.created","response":{"error":null}}"#), Seen::Nothing);
        assert_eq!(observe(&mut proof, r#"{"type":"response.output_text.delta","delta":"Y"}"#), CONTENT);
        observe(
            &mut proof,
            r#"{"type":"response.completed","response":{"usage":{"input_tokens":7,"output_tokens":4}}}"#,
        );
        assert!(proof.is_whole());
        let error = observe(&mut proof, r#"{"type":"error","code":"server_error","message":"x"}"#);
        assert_eq!(error, Seen::Error(InBand { status: None, kind: Some("error".to_owned()) }));
    }
}
