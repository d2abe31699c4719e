//! The cases that the W3C's suite for Trace Context has for `traceparent` (w3c/trace-context,
//! `test/test.py` and `test/tracecontext/test_traceparent.py`), held against the trace id that goes
//! into the log.
//!
//! Where a participant would begin a trace of its own, the log names none: Fairlead begins no traces. What it goes on
//! with has the caller's trace id and a span of its own.

use fairlead_core::{caller::Trace, message::Headers};

fn trace_id(headers: &Headers) -> Option<String> {
    Trace::read(headers, 7).map(|trace| trace.trace_id)
}

const TRACE: &str = "12345678901234567890123456789012";

/// What the suite calls a header, and whether the trace in it is to be taken.
const CASES: [(&str, &str, bool); 48] = [
    ("included", "00-12345678901234567890123456789012-1234567890123456-01", true),
    ("flags 00", "00-12345678901234567890123456789012-1234567890123456-00", true),
    ("flags 02", "00-12345678901234567890123456789012-1234567890123456-02", true),
    ("flags 03", "00-12345678901234567890123456789012-1234567890123456-03", true),
    ("flags ff", "00-12345678901234567890123456789012-1234567890123456-ff", true),
    ("parent_id all ones", "00-12345678901234567890123456789012-ffffffffffffffff-00", true),
    ("version_0x00", "00-12345678901234567890123456789012-1234567890123456-01.", false),
    ("version_0x00", "00-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like", false),
    ("version_0x00, a dash", "00-12345678901234567890123456789012-1234567890123456-01-", false),
    ("version 01", "01-12345678901234567890123456789012-1234567890123456-00", true),
    ("version 02", "02-12345678901234567890123456789012-1234567890123456-00", true),
    ("version_0xcc", "cc-12345678901234567890123456789012-1234567890123456-01", true),
    ("version_0xcc", "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like", true),
    ("version_0xcc", "cc-12345678901234567890123456789012-1234567890123456-01.what-the-future-will-be-like", false),
    ("version_0xff", "ff-12345678901234567890123456789012-1234567890123456-01", false),
    ("version_illegal_characters", ".0-12345678901234567890123456789012-1234567890123456-01", false),
    ("version_illegal_characters", "0.-12345678901234567890123456789012-1234567890123456-01", false),
    ("version_too_long", "000-12345678901234567890123456789012-1234567890123456-01", false),
    ("version_too_long", "0000-12345678901234567890123456789012-1234567890123456-01", false),
    ("version_too_short", "0-12345678901234567890123456789012-1234567890123456-01", false),
    ("trace_id_all_zero", "00-00000000000000000000000000000000-1234567890123456-01", false),
    ("trace_id_all_zero, future", "cc-00000000000000000000000000000000-1234567890123456-01", false),
    ("trace_id_illegal_characters", "00-.2345678901234567890123456789012-1234567890123456-01", false),
    ("trace_id_illegal_characters", "00-1234567890123456789012345678901.-1234567890123456-01", false),
    ("trace_id_too_long", "00-123456789012345678901234567890123-1234567890123456-01", false),
    ("trace_id_too_short", "00-1234567890123456789012345678901-1234567890123456-01", false),
    ("parent_id_all_zero", "00-12345678901234567890123456789012-0000000000000000-01", false),
    ("parent_id_illegal_characters", "00-12345678901234567890123456789012-.234567890123456-01", false),
    ("parent_id_illegal_characters", "00-12345678901234567890123456789012-123456789012345.-01", false),
    ("parent_id_too_long", "00-12345678901234567890123456789012-12345678901234567-01", false),
    ("parent_id_too_short", "00-12345678901234567890123456789012-123456789012345-01", false),
    ("trace_flags_illegal_characters", "00-12345678901234567890123456789012-1234567890123456-.0", false),
    ("trace_flags_illegal_characters", "00-12345678901234567890123456789012-1234567890123456-0.", false),
    ("trace_flags_too_long", "00-12345678901234567890123456789012-1234567890123456-001", false),
    ("trace_flags_too_short", "00-12345678901234567890123456789012-1234567890123456-1", false),
    ("upper case version", "CC-12345678901234567890123456789012-1234567890123456-01", false),
    ("upper case trace_id", "00-1234567890123456789012345678901A-1234567890123456-01", false),
    ("upper case parent_id", "00-12345678901234567890123456789012-123456789012345A-01", false),
    ("upper case flags", "00-12345678901234567890123456789012-1234567890123456-0A", false),
    ("ows_handling", " 00-12345678901234567890123456789012-1234567890123456-01", true),
    ("ows_handling", "\t00-12345678901234567890123456789012-1234567890123456-01", true),
    ("ows_handling", "00-12345678901234567890123456789012-1234567890123456-01 ", true),
    ("ows_handling", "00-12345678901234567890123456789012-1234567890123456-01\t", true),
    ("ows_handling", "\t 00-12345678901234567890123456789012-1234567890123456-01 \t", true),
    ("no white space inside", "00-12345678901234567890123456789012 -1234567890123456-01", false),
    ("no other white space", "\u{a0}00-12345678901234567890123456789012-1234567890123456-01", false),
    ("missing parts", "00-12345678901234567890123456789012", false),
    ("empty", "", false),
];

#[test]
fn each_header_is_taken_or_not_as_the_w3c_says() {
    for (name, value, is_taken) in CASES {
        let headers = Headers::from_iter([("traceparent", value)]);
        assert_eq!(trace_id(&headers), is_taken.then_some(TRACE.to_owned()), "{name}: {value:?}");
    }
}

#[test]
fn every_other_trace_id_is_taken_as_it_stands() {
    for trace in ["ffffffffffffffffffffffffffffffff", "00000000000000000000000000000001"] {
        let headers = Headers::from_iter([("traceparent", format!("00-{trace}-1234567890123456-00"))]);
        assert_eq!(trace_id(&headers), Some(trace.to_owned()));
    }
}

#[test]
fn the_name_counts_in_any_case_and_in_no_other_spelling() {
    let value = "00-12345678901234567890123456789012-1234567890123456-01";
    for name in ["traceparent", "TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        assert_eq!(trace_id(&Headers::from_iter([(name, value)])), Some(TRACE.to_owned()), "{name}");
    }
    for name in ["trace-parent", "trace.parent", "tracestate"] {
        assert_eq!(trace_id(&Headers::from_iter([(name, value)])), None, "{name}");
    }
    assert_eq!(trace_id(&Headers::new()), None);
}

#[test]
fn two_of_them_are_none_whether_a_host_joins_them_or_not() {
    let (first, second) = (
        "00-12345678901234567890123456789011-1234567890123456-01",
        "00-12345678901234567890123456789012-1234567890123456-01",
    );
    let apart = Headers::from_iter([("traceparent", first), ("traceparent", second)]);
    assert_eq!(trace_id(&apart), None);
    let joined = Headers::from_iter([("traceparent", format!("{first}, {second}"))]);
    assert_eq!(trace_id(&joined), None);
}
