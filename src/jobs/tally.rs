//! What has come of a job's outputs, to be held against the aggregate of its final status.
//!
//! `/stream` cannot be trusted alone: it consumes what it returns, so a reply that is lost takes
//! its outputs with it; a chunk whose post broke inside RunPod is missing, and one that was posted
//! again stands there twice. Only the aggregate is right (wire facts, section 7, 2 to 4). Equal
//! neighbours prove nothing, because a model may repeat a token.

use super::reply::Piece;
use crate::time::Instant;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// A running digest of all outputs so far: their texts, one behind another.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: usize,
    digest: Sha256,
    last: Option<(Instant, Piece)>,
    torn: u32,
}

/// What a worker reads as U+FFFD: half a character, at the end of a read or at its beginning.
const TORN: char = '\u{fffd}';

/// A worker posts a chunk again 2 s after the post that it thinks has failed; what comes so long
/// behind its equal may be one.
const REPOST_MS: u64 = 1000;

impl Tally {
    /// Whether nothing has come.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Characters that the worker cut in two and destroyed, one at each end of two reads. A genuine
    /// U+FFFD stands inside an event, not on both sides of a boundary.
    pub const fn torn(&self) -> u32 {
        self.torn
    }

    /// Whether this may be the output before it, posted once more.
    pub fn may_be_repost(&self, now: Instant, piece: &Piece) -> bool {
        self.last.as_ref().is_some_and(|(at, last)| now.since(*at) >= REPOST_MS && last == piece)
    }

    /// An output has come.
    pub fn add(&mut self, now: Instant, piece: &Piece) {
        if let (Some((_, Piece::Text(before))), Piece::Text(text)) = (&self.last, piece)
            && before.ends_with(TORN)
            && text.starts_with(TORN)
        {
            self.torn = self.torn.saturating_add(1);
        }
        let bytes = bytes(piece);
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.digest.update(&bytes);
        self.last = Some((now, piece.clone()));
    }

    /// What of the aggregate has not come yet; `None` if it does not begin with what has.
    pub fn rest_of(&self, aggregate: Vec<Piece>) -> Option<Vec<Piece>> {
        let mut digest = Sha256::new();
        let mut left = self.bytes;
        let mut rest = Vec::new();
        for piece in aggregate {
            let piece_bytes = bytes(&piece);
            let (seen, _) = piece_bytes.split_at_checked(left).unwrap_or((&piece_bytes, &[]));
            digest.update(seen);
            let cut = seen.len();
            left = left.saturating_sub(cut);
            match piece {
                _ if cut == piece_bytes.len() => {}
                Piece::Text(text) => rest.push(Piece::Text(text.get(cut..)?.to_owned())),
                piece if cut == 0 => rest.push(piece),
                Piece::Json(_) => return None,
            }
        }
        (left == 0 && digest.finalize() == self.digest.clone().finalize()).then_some(rest)
    }
}

/// The bytes that a piece counts by. JSON is brought into one form: two answers may write the same
/// value differently.
fn bytes(piece: &Piece) -> Cow<'_, [u8]> {
    match piece {
        Piece::Text(text) => text.as_bytes().into(),
        Piece::Json(json) => {
            let Ok(value) = serde_json::from_str(json) else { return json.as_bytes().into() };
            let mut form = Vec::new();
            one_form(&value, &mut form);
            form.into()
        }
    }
}

fn one_form(value: &Value, form: &mut Vec<u8>) {
    match value {
        Value::Null => form.push(b'n'),
        Value::Bool(is) => form.push(if *is { b't' } else { b'f' }),
        // 1 and 1.0 are the same.
        Value::Number(number) => {
            form.push(b'#');
            form.extend(number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::String(text) => {
            form.push(b'"');
            form.extend(text.len().to_le_bytes());
            form.extend(text.as_bytes());
        }
        Value::Array(items) => {
            form.push(b'[');
            items.iter().for_each(|item| one_form(item, form));
            form.push(b']');
        }
        // In the order of their names.
        Value::Object(fields) => {
            form.push(b'{');
            for (name, value) in fields {
                form.extend(name.len().to_le_bytes());
                form.extend(name.as_bytes());
                one_form(value, form);
            }
            form.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(0);

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn tally(pieces: &[&str]) -> Tally {
        let mut tally = Tally::default();
        pieces.iter().for_each(|piece| tally.add(NOW, &text(piece)));
        tally
    }

    #[test]
    fn the_aggregate_makes_good_what_is_missing_at_the_end_only() {
        let all = || vec![text("a"), text("b"), text("b"), text("cd")];
        assert_eq!(tally(&[]).rest_of(all()), Some(all()));
        assert_eq!(tally(&["a", "b"]).rest_of(all()), Some(vec![text("b"), text("cd")]));
        assert_eq!(tally(&["a", "b", "b", "cd"]).rest_of(all()), Some(vec![]));
        assert_eq!(tally(&["abbc"]).rest_of(all()), Some(vec![text("d")]), "extents do not matter");
        assert_eq!(tally(&["a", "b", "cd"]).rest_of(all()), None, "one is missing");
        assert_eq!(tally(&["a", "b", "b", "b", "cd"]).rest_of(all()), None, "one came twice");
        assert_eq!(tally(&["a", "b", "b", "cd", "cd"]).rest_of(all()), None, "more came");
        assert_eq!(tally(&["é"]).rest_of(vec![text("éé")]), Some(vec![text("é")]));
        assert_eq!(tally(&["a"]).rest_of(vec![]), None);
    }

    #[test]
    fn json_counts_by_what_it_says() {
        let mut tally = Tally::default();
        tally.add(NOW, &Piece::Json(r#"{"a": 1.0, "b": [1.50, "\u00e9"]}"#.to_owned()));
        let rest = tally.rest_of(vec![Piece::Json(r#"{"b":[1.5,"é"],"a":1}"#.to_owned()), Piece::Json("2".to_owned())]);
        assert_eq!(rest, Some(vec![Piece::Json("2".to_owned())]));
    }

    #[test]
    fn a_character_that_was_cut_in_two_is_counted_and_a_genuine_one_is_not() {
        assert_eq!(tally(&["x\u{fffd}", "\u{fffd}\u{fffd}y"]).torn(), 1);
        assert_eq!(tally(&["x\u{fffd}", "y", "\u{fffd}"]).torn(), 0);
    }

    #[test]
    fn an_equal_neighbour_is_suspect_only_when_it_comes_late() {
        let tally = tally(&["a"]);
        assert!(!tally.may_be_repost(Instant::from_millis(999), &text("a")));
        assert!(tally.may_be_repost(Instant::from_millis(1000), &text("a")));
        assert!(!tally.may_be_repost(Instant::from_millis(1000), &text("b")));
    }
}
