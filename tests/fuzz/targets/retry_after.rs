//! Header fields: when an endpoint wants to be asked again, how long a caller waits, which trace a request is of. The
//! input is a header: a field in each line.

use super::within;
use fairlead_core::{
    api::Dialect,
    caller::{self, Trace},
    classify::{Failure, Verdict, retry_after},
    message::{Headers, ResponseHead},
    time::{Instant, positive_ms},
};

const NOW: Instant = Instant::from_millis(1_795_299_888_000);

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let headers: Headers = text.lines().map(|line| line.split_once(':').unwrap_or(("retry-after", line))).collect();
    // It is copied for a failure, and each field takes what two strings do, however short.
    within(128, data.len(), "a header", || read(&headers));
    for line in text.lines() {
        let (_, value) = line.split_once(':').unwrap_or(("", line));
        [1, 1000].into_iter().for_each(|unit| read_as_a_float(value, unit));
    }
}

fn read(headers: &Headers) {
    if let Some(ms) = retry_after(headers, NOW) {
        assert!(ms > 0);
        // Somebody will add it to the time.
        assert!(NOW.after(ms) > NOW);
        let number = ["retry-after", "retry-after-ms"].iter().any(|name| {
            headers.get(name).is_some_and(|value| positive_ms(value, 1).is_some() || positive_ms(value, 1000).is_some())
        });
        // An HTTP date has four digits for its year.
        assert!(number || ms < 10_000 * 366 * 86_400_000, "{ms}");
    }
    for status in [200, 302, 400, 409, 429, 500, 503, 529] {
        let failure = Failure::Status { head: ResponseHead { status, headers: headers.clone() }, body: None };
        if let Verdict::Retry { after_ms, .. } = failure.verdict(NOW) {
            assert!(after_ms.is_none_or(|ms| ms > 0));
        }
        failure.is_endpoints_fault(true);
    }
    match caller::deadline_ms(headers) {
        Ok(ms) => assert!(ms.is_none_or(|ms| ms > 0)),
        Err(error) => assert!(error.message.len() < 200),
    }
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if let Some(trace) = Trace::read(headers, 7) {
        assert!(trace.trace_id.len() == 32 && is_hex(&trace.trace_id));
        // What goes on to an endpoint is what it would go on from.
        let sent = Headers::from_iter([("traceparent", trace.traceparent())]);
        assert_eq!(Trace::read(&sent, 9).map(|next| next.trace_id), Some(trace.trace_id));
    }
    let is_plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>&".contains(&byte));
    assert!(caller::request_id(headers).is_none_or(|id| !id.is_empty() && id.len() <= 128 && is_plain(id)));
    for dialect in [Dialect::Chat, Dialect::Messages] {
        assert!(caller::key(headers, dialect).is_none_or(|key| !key.is_empty()));
    }
    let head = ResponseHead { status: 200, headers: headers.clone() };
    head.length_fits(7);
    head.headers.media_type();
}

/// What is read by hand is what a float would be read as, but for numbers that nobody writes.
fn read_as_a_float(text: &str, unit: u64) {
    let ours = positive_ms(text, unit);
    assert_ne!(ours, Some(0));
    let text = text.trim();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let is_plain = digits.len() <= 12 && exponent.len() <= 2;
    let float = text.parse::<f64>().ok().filter(|float| float.is_finite() && is_plain).map(|float| float * unit as f64);
    match (ours, float) {
        (Some(ms), Some(float)) => {
            let float = float.min(u64::MAX as f64);
            assert!((ms as f64 - float.ceil()).abs() <= 1.0 + float * 1e-9, "{text}: {ms} instead of {float}");
        }
        // Less than a nanosecond is nothing.
        (None, Some(float)) => assert!(float < 1e-6 * unit as f64, "{text} is {float}"),
        (Some(ms), None) => assert!(!is_plain, "{text}: {ms}"),
        (None, None) => {}
    }
}
