//! The event streams of the web-platform-tests, their folder `eventsource`, and of the examples in
//! HTML's section 9.2.6: what browsers make of these bytes, the decoder makes of them too.
//!
//! `id` and `retry` belong to a browser's reconnecting, which a gateway has no use for: they are
//! not read, and the rows show that they disturb nothing.

use crate::{
    record::read_events,
    script::{end, finishes, head, raw, says},
    wanted::chat,
    world::World,
};
use fairlead_core::sse::Decoder;

/// The file that the case is from, its stream, and the name and data of each event.
type Case = (&'static str, Vec<u8>, &'static [(&'static str, &'static str)]);

/// The server of these tests ends a stream so, unless a case is about its end.
fn message(text: &str) -> Vec<u8> {
    format!("{text}\n\n\n").into()
}

fn cases() -> Vec<Case> {
    let long = "x".repeat(2048);
    let comments = format!("data:1\r:\0\n:\r\ndata:2\n:{long}\rdata:3\n:data:fail\r:{long}\ndata:4\n\n");
    let fields =
        "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n";
    let unknown = "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test";
    let lines =
        concat!("data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\n", "data\n\ndata:end\n\n");
    vec![
        ("event-data", lines.into(), &[("", "msg\nmsg"), ("", ""), ("", "end")]),
        ("format-bom", message("\u{feff}data:1\n\n\u{feff}data:2\n\ndata:3"), &[("", "1"), ("", "3")]),
        ("format-bom-2", message("\u{feff}\u{feff}data:1\n\ndata:2\n\ndata:3"), &[("", "2"), ("", "3")]),
        ("format-comments", comments.into(), &[("", "1\n2\n3\n4")]),
        (
            "format-data-before-final-empty-line",
            b"retry:1000\ndata:test1\n\nid:test\ndata:test2\n".into(),
            &[("", "test1")],
        ),
        ("format-field-data", message("data:\n\ndata\ndata\n\ndata:test"), &[("", ""), ("", "\n"), ("", "test")]),
        ("format-field-event", message("event:test\ndata:x\n\ndata:x"), &[("test", "x"), ("", "x")]),
        ("format-field-event-empty", message("event: \ndata:data"), &[("", "data")]),
        ("format-field-id", b"id: \xe2\x80\xa6\nretry: 200\ndata: hello\n\n".into(), &[("", "hello")]),
        ("format-field-id-2", b"data: \xe2\x80\xa6\n\n".into(), &[("", "…")]),
        ("format-field-id-3, kept", b"id: 1\ndata: 1\n\ndata:2\n\n".into(), &[("", "1"), ("", "2")]),
        (
            "format-field-id-3, changed",
            b"id: 1\ndata: 1\n\nid: 2\ndata:2\n\ndata:3\n\n".into(),
            &[("", "1"), ("", "2"), ("", "3")],
        ),
        (
            "format-field-id-3, reset",
            b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n".into(),
            &[("", "1"), ("", "2"), ("", "3")],
        ),
        ("format-field-id-null", b"id: \0\0\nretry: 200\ndata: hello\n\n".into(), &[("", "hello")]),
        ("format-field-parsing", fields.into(), &[("", "\0\n 2\n1\n3\n\n4")]),
        ("format-field-retry", message("retry:02000\ndata:x"), &[("", "x")]),
        ("format-field-retry-bogus", message("retry:2000\nretry:1000x\ndata:x"), &[("", "x")]),
        ("format-field-retry-empty", message("retry\ndata:test"), &[("", "test")]),
        ("format-field-unknown", message(unknown), &[("", "test\n\ntest")]),
        ("format-leading-space", message("data:\ttest\rdata: \ndata:test"), &[("", "\ttest\n\ntest")]),
        ("format-newlines", b"data:test\r\ndata\ndata:test\r\n\r\n".into(), &[("", "test\n\ntest")]),
        ("format-null-character", message("data:\0\n\n"), &[("", "\0")]),
        ("format-utf-8", message("data:ok…"), &[("", "ok…")]),
        ("HTML, several lines", b"data: A\ndata: +2\ndata: 10\n\n".into(), &[("", "A\n+2\n10")]),
        (
            "HTML, a comment and four blocks",
            b": so\n\ndata: one\nid: 1\n\ndata:two\nid\n\ndata:  three\n\ndata: open\n".into(),
            &[("", "one"), ("", "two"), ("", " three")],
        ),
        ("HTML, no data and no end", b"data\n\ndata\ndata\n\ndata:".into(), &[("", ""), ("", "\n")]),
        ("HTML, one space", b"data:test\n\ndata: test\n\n".into(), &[("", "test"), ("", "test")]),
    ]
}

/// The events, and the bytes of all blocks, of a stream that arrives in these pieces.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, String)>, Vec<u8>) {
    let mut decoder = Decoder::default();
    let (mut events, mut bytes) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut at = 0;
        while let Some(block) = decoder.next(piece, &mut at).unwrap() {
            bytes.extend_from_slice(block.bytes);
            if let Some(fields) = block.fields() {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                events.push((text(fields.name), text(&fields.data)));
            }
        }
    }
    (events, bytes)
}

fn owned(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect()
}

#[test]
fn each_stream_gives_the_events_that_a_browser_dispatches() {
    for (file, stream, expected) in cases() {
        assert_eq!(decode([&*stream]).0, owned(expected), "{file}");
        assert_eq!(read_events(&stream), owned(expected), "{file}, as these tests read what a client gets");
    }
}

#[test]
fn each_stream_may_be_cut_at_every_byte() {
    for (file, stream, expected) in cases() {
        let expected = owned(expected);
        assert_eq!(decode(stream.chunks(1)).0, expected, "{file}, byte by byte");
        for place in 0..=stream.len() {
            assert_eq!(decode([&stream[..place], &stream[place..]]).0, expected, "{file}, cut at {place}");
        }
    }
}

#[test]
fn nothing_but_a_mark_at_the_start_and_an_open_end_is_left_out_of_the_bytes() {
    for (file, stream, _) in cases() {
        let (_, bytes) = decode([&*stream]);
        let stream = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&stream);
        let open = stream.strip_prefix(&*bytes).unwrap_or_else(|| panic!("{file}: other bytes"));
        assert!(!open.windows(2).any(|ends| ends == b"\n\n"), "{file}: {open:?}");
    }
}

/// `format-mime-*` and `format-utf-8`: the media type decides, whatever its parameters say.
#[test]
fn only_the_media_type_of_event_streams_opens_one() {
    for (file, content_type, outcome) in [
        ("format-mime-trailing-semicolon", "text/event-stream;", "ok"),
        ("format-utf-8", "text/event-stream;charset=windows-1252", "ok"),
        ("format-mime-valid-bogus", "text/x-bogus", "upstream_invalid"),
        ("format-mime-bogus", "x bogus", "upstream_invalid"),
    ] {
        let fields = [("content-type", content_type)];
        let script = [head(200, &fields), says("So…"), finishes("stop"), end()].concat();
        let record = World::new().always("a", script).run(chat());
        assert_eq!(record.outcome(), outcome, "{file}");
    }
}

/// OpenAI's SDKs end in a syntax error where an event has no JSON, and an empty one has none.
#[test]
fn an_event_without_text_is_kept_from_the_client() {
    for empty in ["data:\n\n", "data\n\n", "event: ping\ndata: \n\n"] {
        let script = [raw(empty), says("So"), raw(empty), says(" on."), finishes("stop"), raw(empty), end()].concat();
        let opened = crate::script::opened();
        let record = World::new().endpoint("a", [[opened, script].concat()]).run(chat());
        assert_eq!(record.outcome(), "ok", "{empty:?}");
        assert!(record.reads().iter().all(|(_, data)| !data.is_empty()), "{empty:?}");
        assert_eq!(record.dropped(), 3, "{empty:?}");
    }
}
