//! The framing of event streams (HTML, section 9.2.5 and 9.2.6), over bytes.
//!
//! The decoder only observes: it says where each block of lines ends and lets the block be read in
//! place, so that what goes on to the client are the bytes that came in. Only the bytes of a block
//! that is not complete yet are kept. Line ends are LF, CRLF or CR, also when a chunk ends between
//! CR and LF; bytes are never decoded, so a character cut by a chunk is no concern here.

use memchr::{memchr, memchr2};
use std::{borrow::Cow, ops::Range};

/// The largest block that is accepted. vLLM's own are some hundred bytes; a Responses stream
/// repeats the whole request in its first events.
pub const MAX_BLOCK: usize = 16 << 20;

/// A block outgrew [`MAX_BLOCK`] without an end.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockTooLong;

/// Cuts a stream of chunks into blocks, each up to and including its blank line.
#[derive(Debug)]
pub struct Decoder {
    /// The beginning of a block whose end has not come.
    tail: Vec<u8>,
    /// `tail` is the block that was handed out last.
    spent: bool,
    /// No byte of the current line has come.
    at_line_start: bool,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
    /// No block has ended yet, so a byte order mark may come first.
    first: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { tail: Vec::new(), spent: false, at_line_start: true, after_cr: false, first: true }
    }
}

/// A block of lines, with its blank line.
#[derive(Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Its bytes, without a byte order mark.
    pub bytes: &'a [u8],
    /// Where it stands in the chunk at hand; `None` when it began in an earlier one.
    pub range: Option<Range<usize>>,
}

/// What a block dispatches.
#[derive(Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The last `event` field.
    pub name: &'a [u8],
    /// The `data` lines, joined by LF.
    pub data: Cow<'a, [u8]>,
}

impl Decoder {
    /// The next block that ends in `chunk`, reading from `*at` and moving it. `None` means that
    /// the rest of the chunk is kept for the next one. To be called until then.
    pub fn next<'a>(&'a mut self, chunk: &'a [u8], at: &mut usize) -> Result<Option<Block<'a>>, BlockTooLong> {
        if self.spent {
            self.tail.clear();
            self.spent = false;
        }
        let start = *at;
        let rest = chunk.get(start..).unwrap_or_default();
        if self.after_cr && self.tail.is_empty() && rest.starts_with(b"\n") {
            // The second half of the line end of a block that is out already. It goes behind it, for nothing else may come.
            self.after_cr = false;
            *at = start.saturating_add(1);
            return Ok(Some(Block { bytes: b"\n", range: Some(start..*at) }));
        }
        let Some(length) = self.scan(rest) else {
            *at = chunk.len();
            if self.tail.len().saturating_add(rest.len()) > MAX_BLOCK {
                return Err(BlockTooLong);
            }
            self.tail.extend_from_slice(rest);
            return Ok(None);
        };
        let (block, _) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        let end = start.saturating_add(length);
        *at = end;
        let first = std::mem::replace(&mut self.first, false);
        let skip = |bytes: &[u8]| if first && bytes.starts_with(BOM) { BOM.len() } else { 0 };
        if self.tail.is_empty() {
            let bom = skip(block);
            let bytes = block.get(bom..).unwrap_or_default();
            return Ok(Some(Block { bytes, range: Some(start.saturating_add(bom)..end) }));
        }
        self.tail.extend_from_slice(block);
        self.spent = true;
        let bom = skip(&self.tail);
        Ok(Some(Block { bytes: self.tail.get(bom..).unwrap_or_default(), range: None }))
    }

    /// Whether what has come so far ends with a whole block.
    pub const fn is_between_blocks(&self) -> bool {
        (self.spent || self.tail.is_empty()) && !self.after_cr
    }

    /// The number of bytes up to and including the next blank line.
    fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0usize;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(length) = memchr2(b'\n', b'\r', rest) else {
                if !rest.is_empty() {
                    self.at_line_start = false;
                    self.after_cr = false;
                }
                return None;
            };
            let carriage_return = rest.get(length) == Some(&b'\r');
            at = at.saturating_add(length).saturating_add(1);
            if length == 0 && self.after_cr && !carriage_return {
                // The second half of a CRLF whose CR ended the line already.
                self.after_cr = false;
                continue;
            }
            let blank = length == 0 && self.at_line_start;
            self.at_line_start = true;
            self.after_cr = carriage_return;
            if blank {
                if carriage_return && bytes.get(at) == Some(&b'\n') {
                    self.after_cr = false;
                    at = at.saturating_add(1);
                }
                return Some(at);
            }
        }
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl<'a> Block<'a> {
    /// What the block dispatches; `None` where it has no `data`: comments, blank lines, a name alone.
    pub fn fields(&self) -> Option<Fields<'a>> {
        let mut name: &[u8] = b"";
        let mut data: Option<Cow<'a, [u8]>> = None;
        let mut rest = self.bytes;
        while !rest.is_empty() {
            let (line, next) = split_line(rest);
            rest = next;
            let (field, value) = match memchr(b':', line) {
                // A comment.
                Some(0) => continue,
                Some(colon) => {
                    let (field, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
                    let value = value.get(1..).unwrap_or_default();
                    (field, value.strip_prefix(b" ").unwrap_or(value))
                }
                None => (line, &b""[..]),
            };
            match field {
                b"event" => name = value,
                b"data" => match &mut data {
                    None => data = Some(Cow::Borrowed(value)),
                    Some(lines) => {
                        let lines = lines.to_mut();
                        lines.push(b'\n');
                        lines.extend_from_slice(value);
                    }
                },
                _ => {}
            }
        }
        data.map(|data| Fields { name, data })
    }
}

/// The first line without its end, and what follows.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some(length) = memchr2(b'\n', b'\r', bytes) else { return (bytes, &[]) };
    let (line, end) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
    let end_length = if end.starts_with(b"\r\n") { 2 } else { 1 };
    (line, end.get(end_length..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events and the bytes of all blocks, for a stream that arrives in these chunks.
    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, String)>, Vec<u8>) {
        let mut decoder = Decoder::default();
        let (mut events, mut bytes) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let mut at = 0;
            while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
                if let Some(range) = &block.range {
                    assert_eq!(&chunk[range.clone()], block.bytes);
                }
                bytes.extend_from_slice(block.bytes);
                if let Some(fields) = block.fields() {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    events.push((text(fields.name), text(&fields.data)));
                }
            }
        }
        (events, bytes)
    }

    fn data(stream: &str) -> Vec<String> {
        decode([stream.as_bytes()]).0.into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for stream in [
            "data: a\n\ndata: b\n\n",
            "data: a\r\n\r\ndata: b\r\n\r\n",
            "data: a\r\rdata: b\r\r",
            "data: a\r\n\ndata: b\n\r\n",
            "data: a\n\rdata: b\r\n\r",
        ] {
            assert_eq!(data(stream), ["a", "b"], "{stream:?}");
        }
    }

    #[test]
    fn fields_follow_the_standard() {
        assert_eq!(data("data\n\n"), [""]);
        assert_eq!(data("data:\n\n"), [""]);
        assert_eq!(data("event: x\n\n"), [""; 0]);
        assert_eq!(data("data\ndata\n\n"), ["\n"]);
        assert_eq!(data("data:a\ndata:  b\n\n"), ["a\n b"]);
        assert_eq!(data(": note\ndata: a\nid: 1\nretry: 2\nother\n\n"), ["a"]);
        assert_eq!(data("data : a\n\nDATA: b\n\n"), [""; 0]);
        assert_eq!(data("\n\n\ndata: a\n\n\n"), ["a"]);
        assert_eq!(data("data: never finished\n"), [""; 0]);
        let (events, _) = decode([&b"event: x\nevent: y\ndata: {}\n\ndata: {}\n\n"[..]]);
        assert_eq!(events, [("y".into(), "{}".into()), ("".into(), "{}".into())]);
    }

    #[test]
    fn one_byte_order_mark_is_taken_off_at_the_start_only() {
        let (events, bytes) = decode([&b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"[..]]);
        assert_eq!(events.len(), 1);
        assert!(bytes.starts_with(b"data: a"));
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_events_and_bytes() {
        for stream in [
            &b"\xef\xbb\xbf: hi\r\n\r\ndata: a\r\ndata: b\r\n\r\nevent: e\rdata: c\r\rdata: d\n\n"[..],
            "data: {\"text\": \"🦀 é\"}\n\ndata: [DONE]\n\n".as_bytes(),
            b"data: a\r\n\r\ndata: [DONE]\r\n\r\n",
            b"data: a\r\n\r\ndata: [DONE]\r\n\r\n",
        ] {
            let whole = decode([stream]);
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let (events, bytes) = decode([&stream[..first], &stream[first..second], &stream[second..]]);
                    assert_eq!(events, whole.0, "cut at {first} and {second}");
                    assert_eq!(bytes, whole.1, "cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn an_endless_block_is_refused_before_it_fills_the_memory() {
        let mut decoder = Decoder::default();
        let chunk = vec![b'x'; 1 << 20];
        let outcome = (0..100).find_map(|count| decoder.next(&chunk, &mut 0).err().map(|_| count));
        assert_eq!(outcome, Some(MAX_BLOCK >> 20));
    }
}
