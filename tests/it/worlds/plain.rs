//! The plain reading of what one endpoint sent: all its bytes are kept, blocks are found by looking
//! at the text again, and events are read as JSON values. It shares nothing with the core's
//! decoder and proof, and says what the client may get of it.

use crate::record::read_events;
use fairlead_core::api::Dialect;
use serde_json::Value;
use std::{cell::RefCell, collections::BTreeSet, collections::HashMap, ops::Range, rc::Rc};

/// One endpoint's stream up to now.
pub struct Plain {
    dialect: Dialect,
    choices: usize,
    pub bytes: Vec<u8>,
    cut: Cut,
    /// What the blocks are, where each ends.
    ends: Vec<(usize, Meaning)>,
    finished: BTreeSet<u64>,
    /// The proof of the dialect has come.
    pub whole: bool,
    /// What stands behind this place is of no account: an error or a `[DONE]` has come.
    pub closed_at: Option<usize>,
    /// The stream is in error.
    pub failed: bool,
    pub content: bool,
    /// Its text, and what was thought before it; where there are many choices, that of all of them.
    pub said: String,
    pub thought: String,
    /// Bytes of events so far.
    pub weight: usize,
    /// The largest block so far.
    pub largest: usize,
    /// Something came that can be read in more than one way.
    pub odd: bool,
    /// An event that is not whole breaks it.
    pub minds_holes: bool,
}

/// What one block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Comments, blank lines, fields without data.
    NoEvent,
    Event {
        content: bool,
        finishes: Vec<u64>,
        closes: bool,
        /// Its text, and what is thought in it.
        words: Rc<[String; 2]>,
    },
    Error,
    Done,
    /// No JSON object.
    Malformed,
    /// A JSON object that is not whole, or of another shape.
    Hole,
    /// Damaged in a way that JSON readers differ about.
    Odd,
}

impl Plain {
    pub fn new(dialect: Dialect, choices: usize) -> Self {
        Self {
            dialect,
            choices,
            bytes: Vec::new(),
            cut: Cut::default(),
            ends: Vec::new(),
            finished: BTreeSet::new(),
            whole: false,
            closed_at: None,
            failed: false,
            content: false,
            said: String::new(),
            thought: String::new(),
            weight: 0,
            largest: 0,
            odd: false,
            minds_holes: false,
        }
    }

    /// Takes more bytes in; whether there was content among them.
    pub fn grow(&mut self, chunk: &[u8]) -> bool {
        self.bytes.extend_from_slice(chunk);
        let mut content = false;
        while let Some(block) = self.cut.next(&self.bytes) {
            let meaning = meaning(self.dialect, &self.bytes[block.clone()]);
            content |= self.take(&meaning, &block);
            self.ends.push((block.end, meaning));
        }
        content
    }

    /// Whether this was content that counts.
    fn take(&mut self, meaning: &Meaning, block: &Range<usize>) -> bool {
        if self.closed_at.is_some() {
            return false;
        }
        self.largest = self.largest.max(block.len());
        match meaning {
            Meaning::Hole if self.minds_holes => {
                self.failed = true;
                self.closed_at = Some(block.start);
            }
            Meaning::NoEvent | Meaning::Malformed | Meaning::Hole => {}
            Meaning::Odd => self.odd = true,
            Meaning::Error => {
                self.failed = true;
                self.closed_at = Some(block.start);
            }
            Meaning::Done => {
                self.failed |= !self.whole;
                // What is odd may have been the proof.
                self.closed_at = Some(if self.whole || self.odd { block.end } else { block.start });
            }
            Meaning::Event { content, finishes, closes, words } => {
                let [said, thought] = &**words;
                self.said.push_str(said);
                self.thought.push_str(thought);
                self.weight += block.len();
                self.finished.extend(finishes.iter().filter(|index| (**index as usize) < self.choices));
                self.whole |= *closes
                    || matches!(self.dialect, Dialect::Chat | Dialect::Completions)
                        && self.finished.len() >= self.choices;
                self.content |= *content;
                return *content;
            }
        }
        false
    }

    /// Whether a whole stream of its kind ends in `[DONE]`.
    pub const fn ends_in_done(&self) -> bool {
        !named(self.dialect)
    }

    /// Its events as JSON, up to its end.
    pub fn events(&self) -> Vec<Value> {
        let reads = read_events(&self.bytes[..self.closed_at.unwrap_or(self.bytes.len())]);
        reads.iter().filter_map(|(_, data)| serde_json::from_str(data).ok()).collect()
    }

    /// Where the block begins whose end has not come.
    pub const fn open(&self) -> usize {
        self.cut.open
    }

    /// Where the text begins.
    pub fn start(&self) -> usize {
        if self.bytes.starts_with(BOM) { BOM.len() } else { 0 }
    }

    /// The end of the block at this place, and what it is.
    pub fn block_at(&self, place: usize) -> Option<(usize, &Meaning)> {
        let next = self.ends.partition_point(|(end, _)| *end <= place);
        self.ends.get(next).map(|(end, meaning)| (*end, meaning))
    }
}

impl Meaning {
    /// Whether the client may be spared it: `in_front` of the first content, comments as well.
    pub const fn may_be_dropped(&self, in_front: bool) -> bool {
        match self {
            Self::NoEvent => in_front,
            Self::Malformed | Self::Hole | Self::Odd => true,
            Self::Event { .. } | Self::Error | Self::Done => false,
        }
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Where a text that grows was cut into blocks up to now.
#[derive(Default)]
struct Cut {
    /// The first byte of the block whose end has not come.
    open: usize,
    /// The first byte of its last line.
    line: usize,
    /// How far that line was looked at.
    looked: usize,
}

impl Cut {
    /// The next block, up to and including its blank line.
    fn next(&mut self, text: &[u8]) -> Option<Range<usize>> {
        loop {
            if text.get(self.line) == Some(&b'\n') && self.line > 0 && text[self.line - 1] == b'\r' {
                // It belongs to the line before, whose end was seen too early to know.
                self.line += 1;
                if self.open + 1 == self.line {
                    // And to the block before, behind which it goes out by itself.
                    self.open = self.line;
                    return Some(self.line - 1..self.line);
                }
            }
            let from = self.looked.max(self.line);
            let Some(length) = memchr::memchr2(b'\n', b'\r', text.get(from..)?) else {
                self.looked = text.len();
                return None;
            };
            let end = from + length;
            let is_blank = end == self.line;
            self.line = if text[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
            if is_blank {
                let start = std::mem::replace(&mut self.open, self.line);
                return Some(start..self.line);
            }
        }
    }
}

fn meaning(dialect: Dialect, block: &[u8]) -> Meaning {
    // Worlds are made of few different events.
    thread_local!(static KNOWN: RefCell<HashMap<(bool, Vec<u8>), Meaning>> = RefCell::default());
    KNOWN.with_borrow_mut(|known| {
        if known.len() > 10_000 {
            known.clear();
        }
        let key = (named(dialect), block.to_vec());
        known.entry(key).or_insert_with(|| read(dialect, block)).clone()
    })
}

fn read(dialect: Dialect, block: &[u8]) -> Meaning {
    if std::str::from_utf8(block).is_err() {
        return Meaning::Odd;
    }
    let events = read_events(block.strip_prefix(BOM).unwrap_or(block));
    let [(_, data)] = &*events else { return Meaning::NoEvent };
    if data == "[DONE]" {
        return Meaning::Done;
    }
    let strict: Result<Value, _> = serde_json::from_str(data);
    let lenient = serde_json::from_str::<serde::de::IgnoredAny>(data).is_ok();
    let other = if data.starts_with('{') { Meaning::Hole } else { Meaning::Malformed };
    match strict {
        Ok(value) if value.is_object() => {
            if named(dialect) { read_named(&value) } else { read_choices(&value) }.unwrap_or(other)
        }
        Err(_) if lenient && data.trim_start().starts_with('{') => Meaning::Odd,
        Ok(_) | Err(_) => other,
    }
}

const fn named(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Messages | Dialect::Responses)
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    match &value[field] {
        Value::Null => Some(""),
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn read_named(event: &Value) -> Option<Meaning> {
    let kind = text(event, "type")?;
    if kind == "error" || kind.is_empty() && !event["error"].is_null() {
        return Some(Meaning::Error);
    }
    let closes = ["response.completed", "response.incomplete", "response.failed", "message_stop"].contains(&kind);
    let content = kind == "content_block_delta" || kind.starts_with("response.") && kind.ends_with(".delta");
    Some(Meaning::Event { content, finishes: Vec::new(), closes, words: Rc::default() })
}

fn read_choices(event: &Value) -> Option<Meaning> {
    if !event["error"].is_null() || text(event, "object")? == "error" {
        return Some(Meaning::Error);
    }
    let choices = match &event["choices"] {
        Value::Null => &Vec::new(),
        Value::Array(choices) => choices,
        _ => return None,
    };
    let (mut content, mut finishes) = (false, Vec::new());
    let (mut said, mut thought) = (String::new(), String::new());
    for choice in choices {
        let says = |value: &Value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        let fields = ["content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call"];
        let delta =
            Some(&choice["delta"]).filter(|delta| delta.is_object() || delta.is_null() && choice.is_object())?;
        content |= says(&choice["text"]) || fields.iter().any(|field| says(&delta[field]));
        for part in [&delta["content"], &choice["text"]] {
            said.push_str(part.as_str().unwrap_or_default());
        }
        for part in [&delta["reasoning"], &delta["reasoning_content"]] {
            thought.push_str(part.as_str().unwrap_or_default());
        }
        let index = if choice["index"].is_null() { 0 } else { choice["index"].as_u64()? };
        match text(choice, "finish_reason")? {
            "" => {}
            "abort" => return Some(Meaning::Error),
            _ => finishes.push(index),
        }
    }
    Some(Meaning::Event { content, finishes, closes: false, words: Rc::new([said, thought]) })
}
