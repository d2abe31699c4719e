//! Tokens without a parser: an event that differs from an earlier one only in its text.
//!
//! The events of a stream are some 240 bytes of JSON that repeat word for word, around a few
//! letters that do not. Once one of them has been read, the next is compared with it: the same
//! bytes before and behind the text, and between them the inside of a JSON string, make the same
//! JSON with another text in it. That is exact, takes a tenth of the time of reading it, and what
//! does not fit is read as ever.

use crate::json::place_of;
use std::ops::Range;

/// Longer events are no tokens, and not worth the memory.
const MAX_EVENT: usize = 8192;

/// An event with content, and where its text stands.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    event: Vec<u8>,
    text: Range<usize>,
}

impl Pattern {
    /// Keeps an event whose only content is `text`, a JSON string inside of it.
    pub(super) fn learn(&mut self, event: &[u8], text: &str) {
        self.event.clear();
        if event.len() > MAX_EVENT {
            return;
        }
        if let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            self.event.extend_from_slice(event);
            self.text = place_of(text, event);
        }
    }

    /// Whether this is the same event with another text, and not with none.
    pub(super) fn fits(&self, event: &[u8]) -> bool {
        let (Some(before), Some(behind)) = (self.event.get(..self.text.start), self.event.get(self.text.end..)) else {
            return false;
        };
        let text = event.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        text.is_some_and(|text| !self.event.is_empty() && !text.is_empty() && is_inside_of_string(text))
    }
}

/// Whether a JSON string may hold these bytes between its quotes (RFC 8259, section 7).
fn is_inside_of_string(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        let is_allowed = match byte {
            b'\\' => match rest.next() {
                Some(b'u') => (0..4).all(|_| rest.next().is_some_and(u8::is_ascii_hexdigit)),
                escaped => escaped.is_some_and(|escaped| br#""\/bfnrt"#.contains(escaped)),
            },
            byte => *byte >= b' ' && *byte != b'"',
        };
        if !is_allowed {
            return false;
        }
    }
    std::str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn pattern(event: &str, text: &str) -> Pattern {
        let mut pattern = Pattern::default();
        pattern.learn(event.as_bytes(), event.matches(text).next().unwrap());
        pattern
    }

    /// A text fits exactly when a parser would take it for one, and it is not empty.
    #[test]
    fn every_text_that_json_allows_fits_and_no_other() {
        let pattern = pattern(r#"{"content":"x","n":1}"#, r#""x""#);
        let texts: [&[u8]; 24] = [
            b"",
            b"y",
            b" two words ",
            "\\u00e4 \u{1f980}".as_bytes(),
            br"\n\t\r\b\f\/\\",
            br#"\""#,
            br"\u12aF",
            b"\x7f",
            br"\",
            br"\\\",
            br"\x",
            br"\u12",
            br"\u12g4",
            b"\n",
            b"\x00",
            b"\x1f",
            b"\xff",
            b"\xc3",
            b"\xed\xa0\x80",
            br#"""#,
            br#"","role":"y"#,
            br#"y","n":2,"z":""#,
            b"}",
            br"\ud800",
        ];
        for text in texts {
            let string = [b"\"", text, b"\""].concat();
            let is_string = serde_json::from_slice::<&RawValue>(&string).is_ok();
            let event = [br#"{"content":"#, &*string, br#","n":1}"#].concat();
            assert_eq!(pattern.fits(&event), is_string && !text.is_empty(), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_stands_around_the_text_must_be_the_same() {
        let known = pattern(r#"{"content":"x","n":1}"#, r#""x""#);
        for other in
            [r#"{"content":"y","n":2}"#, r#"{"content":"y"}"#, r#"{"conten":"y","n":1}"#, r#"{"content":""#, ""]
        {
            assert!(!known.fits(other.as_bytes()), "{other}");
        }
        assert!(!Pattern::default().fits(b"anything"));
        assert!(!pattern(r#"{"content":["x"]}"#, r#"["x"]"#).fits(br#"{"content":["x"]}"#));
    }
}
