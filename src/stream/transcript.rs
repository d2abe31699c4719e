//! What a client has been shown of a stream of chat or completions: enough to go on behind it, or to end it.

use super::{Said, Usage};
use crate::{
    api::Dialect,
    json::{member, members, text},
};

/// What has been shown of one answer, growing event by event.
///
/// Texts are kept as they came, as the insides of JSON strings: those of two events put together are the inside of
/// a JSON string again, and a token costs one copy of its letters.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The first event, which has what all have in common.
    head: Vec<u8>,
    content: Vec<u8>,
    reasoning: Vec<u8>,
    /// Why the texts are not all that was shown.
    gap: Option<&'static str>,
    /// An event that is lost is not passed over: what follows may come from somebody else.
    pub minds_holes: bool,
    /// The token counts of all that the client has, where they are known.
    pub usage: Usage,
    /// The event with the counts of the whole answer has come.
    pub usage_told: bool,
    /// Tokens at least: each event with content is one.
    pub events: u64,
}

/// The members that all events of a stream have in common.
const COMMON: [&str; 4] = ["id", "object", "created", "model"];

/// A longer event is not kept for them: the first may repeat the whole prompt, and the next has them, too.
const MAX_HEAD: usize = 4096;

/// Bytes of a text that is no long one, so that it is seldom moved while it grows.
const BEGINNING: usize = 1024;

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
    #[inline]
    pub fn add(&mut self, said: Said<'_>) {
        if said == Said::default() {
            return;
        }
        self.events = self.events.saturating_add(1);
        // Whoever told it has not counted this.
        self.usage.completion_tokens = None;
        if self.gap.is_some() {
            return;
        }
        let length = self.content.len().saturating_add(self.reasoning.len());
        if said.other || length > MAX_TEXT {
            self.tear(if said.other { "tool_calls" } else { "length" });
            return;
        }
        self.content.extend_from_slice(said.content);
        if !said.reasoning.is_empty() {
            self.reasoning.extend_from_slice(said.reasoning);
        }
    }

    /// Takes in the counts that an event has told, behind what it says.
    pub const fn count(&mut self, told: Option<Usage>) {
        if let Some(told) = told {
            self.usage = told;
        }
    }

    /// Takes in an event for what it has in common with the others of this stream.
    #[inline]
    pub fn meet(&mut self, event: &[u8]) {
        if self.head.is_empty() && event.len() <= MAX_HEAD {
            self.head.extend_from_slice(event);
            self.content.reserve(BEGINNING);
        }
    }

    /// What the events of the stream have under this name, as JSON.
    pub fn common(&self, name: &str) -> Option<String> {
        Some(member(&members(str::from_utf8(&self.head).ok()?)?, name)?.get().to_owned())
    }

    /// Whether nothing was shown that says anything.
    pub const fn is_empty(&self) -> bool {
        self.gap.is_none() && self.content.is_empty() && self.reasoning.is_empty()
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
        let mut list = String::new();
        for index in choices {
            let comma = if list.is_empty() { "" } else { "," };
            list.push_str(&format!(
                r#"{comma}{{"index":{index},{nothing},"logprobs":null,"finish_reason":"{reason}"}}"#
            ));
        }
        self.event(&format!(r#""choices":[{list}]{more}"#))
    }

    /// The last event of a stream whose client asked for the counts of tokens, where they are not known.
    pub fn unknown_usage(&self) -> Vec<u8> {
        self.event(r#""choices":[],"usage":null"#)
    }

    fn event(&self, members: &str) -> Vec<u8> {
        let mut event = String::from("data: {");
        for name in COMMON {
            if let Some(json) = self.common(name) {
                event.push_str(&format!(r#""{name}":{json},"#));
            }
        }
        event.push_str(members);
        event.push_str("}\n\n");
        event.into_bytes()
    }
}

fn decoded(inside: &[u8]) -> Option<String> {
    serde_json::from_str(text(&[b"\"", inside, b"\""].concat())).ok()
}
