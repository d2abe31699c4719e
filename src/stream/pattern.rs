//! Tokens without a parser: an event that differs from an earlier one only in its text.
//!
//! The events of a stream are some 240 bytes of JSON that repeat word for word, around a few
//! letters that do not. Once one of them has been read, the next is compared with it: the same
//! bytes before and behind the text, and between them the inside of a JSON string, make the same
//! JSON with another text in it. That is exact, takes a tenth of the time of reading it, and what
//! does not fit is read as ever.

use super::{OTHER, Said};
use crate::json::place_of;
use std::ops::Range;

/// Longer events are no tokens, and not worth the memory.
const MAX_EVENT: usize = 8192;

/// An event with content, and where its text stands.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    event: Vec<u8>,
    text: Range<usize>,
    kind: Kind,
}

/// What the text is.
#[derive(Clone, Copy, Debug, Default)]
enum Kind {
    Content,
    Reasoning,
    #[default]
    Other,
}

impl Pattern {
    /// Keeps an event whose only content is `text`, a JSON string inside of it, and what it `said` by that.
    pub(super) fn learn(&mut self, event: &[u8], text: &str, said: Said<'_>) {
        self.event.clear();
        self.kind = match said {
            Said { other: true, .. } => Kind::Other,
            Said { content: b"", .. } => Kind::Reasoning,
            Said { reasoning: b"", .. } => Kind::Content,
            // Two texts in one event are no pattern.
            Said { .. } => return,
        };
        if event.len() > MAX_EVENT {
            return;
        }
        if let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            self.event.extend_from_slice(event);
            self.text = place_of(text, event);
        }
    }

    /// What an event says that is the same with another text, and not with none.
    pub(super) fn read<'e>(&self, event: &'e [u8]) -> Option<Said<'e>> {
        let (before, behind) = (self.event.get(..self.text.start)?, self.event.get(self.text.end..)?);
        let text = event.strip_prefix(before)?.strip_suffix(behind)?;
        let fits = !self.event.is_empty() && !text.is_empty() && is_inside_of_string(text);
        fits.then_some(match self.kind {
            Kind::Content => Said { content: text, reasoning: b"", other: false },
            Kind::Reasoning => Said { content: b"", reasoning: text, other: false },
            Kind::Other => OTHER,
        })
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
        pattern.learn(event.as_bytes(), event.matches(text).next().unwrap(), OTHER);
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
            assert_eq!(
                pattern.read(&event).is_some(),
                is_string && !text.is_empty(),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn what_stands_around_the_text_must_be_the_same() {
        let known = pattern(r#"{"content":"x","n":1}"#, r#""x""#);
        for other in
            [r#"{"content":"y","n":2}"#, r#"{"content":"y"}"#, r#"{"conten":"y","n":1}"#, r#"{"content":""#, ""]
        {
            assert!(known.read(other.as_bytes()).is_none(), "{other}");
        }
        assert!(Pattern::default().read(b"anything").is_none());
        assert!(pattern(r#"{"content":["x"]}"#, r#"["x"]"#).read(br#"{"content":["x"]}"#).is_none());
    }
}
