//! What a client has been shown of a stream of chat or completions: enough to go on behind it, or to end it.

use super::{Said, Usage};
use crate::{
    api::Dialect,
    json::{member, members},
};

/// What has been shown of one answer, growing event by event.
///
/// Texts are kept as they came, as the insides of JSON strings: those of two events put together are the inside of
/// a JSON string again, and a token costs one copy of its letters.
#[derive(Debug, Default)]
pub struct Transcript {
    /// `id`, `object`, `created` and `model` of the first event, as JSON.
    head: Vec<(&'static str, String)>,
    content: Vec<u8>,
    reasoning: Vec<u8>,
    /// Why the texts are not all that was shown.
    gap: Option<&'static str>,
    /// An event that is lost is not passed over: what follows may come from somebody else.
    pub minds_holes: bool,
    /// The newest token counts that the client has seen.
    pub usage: Usage,
    /// The event with the counts of the whole answer has come.
    pub usage_told: bool,
    /// Events with content: each is a token at least.
    pub events: u64,
}

/// The members that all events of a stream have in common.
const COMMON: [&str; 4] = ["id", "object", "created", "model"];

/// A longer text is not kept: nobody writes so much, and memory is shared with other calls.
const MAX_TEXT: usize = 16 << 20;

impl Transcript {
    /// Nothing, of a stream that may go on elsewhere, or may only be ended.
    pub fn new(minds_holes: bool) -> Self {
        Self { minds_holes, ..Self::default() }
    }

    /// The texts are not all that was shown, or more, for this reason.
    pub fn tear(&mut self, why: &'static str) {
        self.gap = Some(why);
        self.content = Vec::new();
        self.reasoning = Vec::new();
    }

    /// Takes in what the client gets of an event.
    pub fn add(&mut self, said: Said<'_>) {
        self.events = self.events.saturating_add(1);
        if said.other {
            self.tear("tool_calls");
        }
        if self.content.len().saturating_add(self.reasoning.len()) > MAX_TEXT {
            self.tear("length");
        }
        if self.gap.is_some() {
            return;
        }
        self.content.extend_from_slice(said.content);
        self.reasoning.extend_from_slice(said.reasoning);
    }

    /// Takes in what the events of this stream have in common; the first that has it counts.
    pub fn meet(&mut self, event: &[u8]) {
        if !self.head.is_empty() {
            return;
        }
        let Some(event) = str::from_utf8(event).ok().and_then(members) else { return };
        let common = COMMON.into_iter().filter_map(|name| Some((name, member(&event, name)?.get().to_owned())));
        self.head.extend(common);
    }

    /// What the events of the stream have under this name, as JSON.
    pub fn common(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(other, _)| *other == name).map(|(_, json)| &**json)
    }

    /// Why the texts are not all that was shown, if they are not.
    pub const fn gap(&self) -> Option<&'static str> {
        self.gap
    }

    /// The answer's text; `None` where it ends inside a character.
    pub fn content(&self) -> Option<String> {
        decoded(&self.content)
    }

    /// What the model thought first; `None` where it ends inside a character.
    pub fn reasoning(&self) -> Option<String> {
        decoded(&self.reasoning)
    }

    /// An event by which these choices end here, for this reason; `more` are further members of it.
    pub fn ending(&self, dialect: Dialect, choices: impl Iterator<Item = usize>, reason: &str, more: &str) -> Vec<u8> {
        let nothing = if dialect == Dialect::Chat { r#""delta":{}"# } else { r#""text":"""# };
        let choice = |index| format!(r#"{{"index":{index},{nothing},"logprobs":null,"finish_reason":"{reason}"}}"#);
        let choices: Vec<String> = choices.map(choice).collect();
        self.event(&format!(r#""choices":[{}]{more}"#, choices.join(",")))
    }

    /// The last event of a stream whose client asked for the counts of tokens, where they are not known.
    pub fn unknown_usage(&self) -> Vec<u8> {
        self.event(r#""choices":[],"usage":null"#)
    }

    fn event(&self, members: &str) -> Vec<u8> {
        let mut event = String::from("data: {");
        for (name, json) in &self.head {
            event.push_str(&format!(r#""{name}":{json},"#));
        }
        event.push_str(members);
        event.push_str("}\n\n");
        event.into_bytes()
    }
}

fn decoded(inside: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", inside, b"\""].concat()).ok()
}
