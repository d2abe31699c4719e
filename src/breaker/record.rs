//! What isolates tell each other about a breaker.

use crate::json::{member, members, text_of};
use serde::Serialize;

/// The text under `breaker:v1:{endpoint}:{entry}`, and under `breaker:v1:{endpoint}` for what concerns all of an
/// endpoint. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Grows with every record that is written.
    pub epoch: u64,
    /// What the endpoint's calls are to go by.
    pub state: Standing,
    /// The end of an opening.
    pub open_until_ms: u64,
    /// Why, in a word.
    pub reason: String,
    /// When that was known.
    pub at_ms: u64,
    /// The day of the last write, in days since the Unix epoch.
    pub day: u64,
    /// Writes under this key on that day, this one included, as far as its writer knew.
    pub writes: u32,
}

/// What the calls of an endpoint are to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Asked.
    Closed,
    /// Left alone until a moment, and then tried.
    Open,
    /// Left alone until an operator says otherwise.
    Isolated,
}

/// Longer texts are no records.
const MAX_TEXT: usize = 1000;

impl Record {
    /// Reads the text under a key; whatever else somebody has put there is nothing.
    pub fn read(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let fields = members(text)?;
        let get = |name| member(&fields, name);
        let number = |name| get(name).map_or(Some(0), |number| number.get().parse().ok());
        let state = match &*text_of(get("state")?)? {
            "closed" => Standing::Closed,
            "open" => Standing::Open,
            "isolated" => Standing::Isolated,
            _ => return None,
        };
        Some(Self {
            epoch: get("epoch").and(number("epoch"))?,
            state,
            open_until_ms: number("open_until_ms")?,
            reason: get("reason").map_or(Some("".into()), text_of)?.into_owned(),
            at_ms: get("at_ms").and(number("at_ms"))?,
            day: number("day")?,
            writes: u32::try_from(number("writes")?).ok()?,
        })
    }

    /// The text to put under a key.
    pub fn text(&self) -> String {
        // Numbers and strings: serialising them cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether this outranks another: by its epoch, and among equals by the latest opening, so that none is lost.
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |record: &Self| (record.epoch, record.state == Standing::Isolated, record.open_until_ms);
        rank(self) > rank(other)
    }
}

/// What is to stand under a key for which two isolates have something to say: for a store that can compare and set.
/// Writes of one day add up.
pub fn merge(old: Option<&str>, new: &str) -> String {
    let (old, new) = (old.and_then(Record::read), Record::read(new));
    match (old, new) {
        (Some(old), Some(new)) => {
            let (day, writes) = match old.day.cmp(&new.day) {
                std::cmp::Ordering::Less => (new.day, new.writes),
                std::cmp::Ordering::Equal => (old.day, old.writes.saturating_add(1)),
                std::cmp::Ordering::Greater => (old.day, old.writes),
            };
            let record = if old.outranks(&new) { old } else { new };
            Record { day, writes, ..record }.text()
        }
        (Some(record), None) | (None, Some(record)) => record.text(),
        (None, None) => String::new(),
    }
}
