//! Every framing of an event stream, cut everywhere: line ends, byte order marks, characters.

use crate::{record::read_events, script::*, wanted::*, world::World};

const TEXT: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    ": note\n",
    "event: message\n",
    "data: {\"choices\":\n",
    "data:  [{\"index\":0,\"delta\":{\"content\":\"é 🦀\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
);

fn framings() -> Vec<(&'static str, Vec<u8>)> {
    let with = |line_end: &str| TEXT.replace('\n', line_end).into_bytes();
    let mixed = TEXT.replacen("\n\n", "\r\n\r", 1).replacen("\n\n", "\r\n\n", 1);
    vec![
        ("LF", with("\n")),
        ("CRLF", with("\r\n")),
        ("CR", with("\r")),
        ("mixed", mixed.into_bytes()),
        ("byte order mark", [b"\xef\xbb\xbf", &*with("\r\n")].concat()),
        ("blank lines", [b"\n\r\n\r", &*with("\n")].concat()),
    ]
}

#[test]
fn two_cuts_anywhere_in_any_framing_change_no_event() {
    for (name, bytes) in framings() {
        let expected = read_events(&bytes);
        for first in 0..=bytes.len() {
            // The second cut follows closely, where both fall into one line end or one character.
            for second in [first, first + 1, first + 2, first + 3].map(|place| place.min(bytes.len())) {
                let script = [opened(), cut_at(&bytes, [first, second]), end()].concat();
                let record = World::new().endpoint("a", [script]).run(chat());
                assert_eq!(record.outcome(), "ok", "{name} cut at {first} and {second}");
                assert_eq!(record.reads(), expected, "{name} cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn the_framing_itself_reaches_the_client_unchanged() {
    let plain = |name: &str| !["byte order mark", "blank lines"].contains(&name);
    for (name, bytes) in framings().into_iter().filter(|(name, _)| plain(name)) {
        let script = [opened(), raw(&bytes), end()].concat();
        let record = World::new().endpoint("a", [script]).run(chat());
        assert_eq!(record.text(), String::from_utf8_lossy(&bytes), "{name}");
    }
}

#[test]
fn one_byte_at_a_time_changes_no_event() {
    for (name, bytes) in framings() {
        let script = [opened(), cut_at(&bytes, 1..bytes.len()), end()].concat();
        let record = World::new().endpoint("a", [script]).run(chat());
        assert_eq!((record.outcome(), record.reads()), ("ok", &*read_events(&bytes)), "{name}");
    }
}

#[test]
fn what_is_put_in_is_an_event_of_its_own_in_every_framing_wherever_the_silence_falls() {
    // A mark in the middle of a stream would be none.
    for (name, bytes) in framings().into_iter().filter(|(name, _)| *name != "byte order mark") {
        let expected = read_events(&bytes);
        for place in 0..bytes.len() {
            let halves = [raw(&bytes[..place]), wait(7000), raw(&bytes[place..])].concat();
            let paused = [opened(), says("First. "), halves, end()].concat();
            let record = World::new().endpoint("a", [paused]).run(chat());
            assert_eq!(record.reads()[1..], expected, "{name}, a comment at {place}");
            let broken = [opened(), says("First. "), raw(&bytes[..place]), reset()].concat();
            let record = World::new().endpoint("a", [broken]).run(chat());
            if record.outcome() == "ok" {
                continue;
            }
            assert_eq!(record.code(), "stream_interrupted", "{name}, broken at {place}");
            let whole_events = record.reads().len() - 2;
            assert_eq!(record.reads()[1..=whole_events], expected[..whole_events], "{name}, broken at {place}");
        }
    }
}
