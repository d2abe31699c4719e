//! `Retry-After` by the book: RFC 9110, section 10.2.3, with the dates of its section 5.6.7.

use crate::world::START;
use fairlead_core::{classify::retry_after, message::Headers, time::Instant};

/// The example of section 5.6.7, as Unix time.
const THEN: Instant = Instant::from_millis(784_111_777_000);

fn said(now: Instant, value: &str) -> Option<u64> {
    retry_after(&Headers::from_iter([("retry-after", value)]), now)
}

#[test]
fn the_three_forms_of_one_date_are_one_moment() {
    let earlier = Instant::from_millis(THEN.as_millis() - 5000);
    for date in [
        "Sun, 06 Nov 1994 08:49:37 GMT",    // IMF-fixdate
        "Sunday, 06-Nov-94 08:49:37 GMT",   // RFC 850
        "Sun Nov  6 08:49:37 1994",         // asctime, its day of one digit behind two spaces
        " Sun, 06 Nov 1994 08:49:37 GMT\t", // white space around a value is none of it
    ] {
        assert_eq!(said(earlier, date), Some(5000), "{date}");
        assert_eq!(said(THEN, date), None, "{date}: at once is nothing said");
        assert_eq!(said(THEN.after(1), date), None, "{date}: past");
    }
}

/// All of these are held against Sat, 21 Nov 2026 22:24:48 GMT.
#[test]
fn seconds_and_dates_are_read_as_the_rfc_says_and_nonsense_is_nothing_said() {
    const DAY: u64 = 86_400_000;
    for (why, value, expected) in [
        // delay-seconds = 1*DIGIT
        ("the RFC's own example", "120", Some(120_000)),
        ("leading zeros", "0120", Some(120_000)),
        ("now", "0", None),
        ("a negative number", "-1", None),
        ("a fraction, which is none of the grammar but is sent", "1.5", Some(1500)),
        ("a fraction of a millisecond is rounded up", "0.0001", Some(1)),
        ("more than 64 bits", "99999999999999999999", Some(u64::MAX)),
        ("hexadecimal", "0x10", None),
        ("a unit", "10s", None),
        ("two numbers", "10, 20", None),
        ("no ASCII digits", "١٠", None),
        ("empty", "", None),
        ("a word", "tomorrow", None),
        // HTTP-date
        ("a minute and two seconds", "Sat, 21 Nov 2026 22:25:50 GMT", Some(62_000)),
        ("over midnight", "Sun, 22 Nov 2026 00:00:00 GMT", Some(5_712_000)),
        ("over the year's end", "Fri, 01 Jan 2027 00:00:00 GMT", Some(5_712_000 + 40 * DAY)),
        ("a leap day", "Tue, 29 Feb 2028 22:24:48 GMT", Some(465 * DAY)),
        ("no leap day", "Mon, 29 Feb 2027 22:24:48 GMT", None),
        ("the last date of all", "Fri, 31 Dec 9999 23:59:59 GMT", Some(5_711_000 + 2_912_118 * DAY)),
        ("the past", "Sat, 21 Nov 2026 22:24:47 GMT", None),
        ("before the epoch", "Wed, 31 Dec 1969 23:59:59 GMT", None),
        // A leap second is the last of its day once more, as in every clock that does not count it.
        ("a leap second", "Thu, 31 Dec 2026 23:59:60 GMT", Some(5_711_000 + 40 * DAY)),
        ("a leap second in RFC 850", "Thursday, 31-Dec-26 23:59:60 GMT", Some(5_711_000 + 40 * DAY)),
        ("a leap second in asctime", "Thu Dec 31 23:59:60 2026", Some(5_711_000 + 40 * DAY)),
        ("a second 60 at another time", "Thu, 31 Dec 2026 22:59:60 GMT", None),
        ("a second 61", "Thu, 31 Dec 2026 23:59:61 GMT", None),
        // Two digits of a year are the past where they would be more than 50 years ahead.
        ("25 years ahead", "Tuesday, 21-Nov-51 22:24:48 GMT", Some(9131 * DAY)),
        ("32 years ago, not 68 ahead", "Sunday, 06-Nov-94 08:49:37 GMT", None),
        // The crate draws that line at 1970; who asks for 44 years is not waited for anyway.
        ("44 years ahead", "Friday, 21-Nov-70 22:24:48 GMT", None),
        ("the end of the last century", "Friday, 31-Dec-99 23:59:59 GMT", None),
        // Case counts, and every part has its width.
        ("lower case", "sat, 21 nov 2026 22:25:50 gmt", None),
        ("a wrong weekday", "Mon, 21 Nov 2026 22:25:50 GMT", None),
        ("no weekday", "21 Nov 2026 22:25:50 GMT", None),
        ("a day of one digit", "Sun, 6 Dec 2026 22:25:50 GMT", None),
        ("another zone", "Sat, 21 Nov 2026 22:25:50 UTC", None),
        ("an offset", "Sat, 21 Nov 2026 22:25:50 +0000", None),
        ("an hour 24", "Sat, 21 Nov 2026 24:00:00 GMT", None),
        ("ISO 8601", "2026-11-21T22:25:50Z", None),
        ("half a date", "Sat, 21 Nov", None),
    ] {
        assert_eq!(said(START, value), expected, "{why}: {value:?}");
    }
}

#[test]
fn a_date_is_held_against_the_senders_own_clock() {
    let at = |date, value| retry_after(&Headers::from_iter([("date", date), ("retry-after", value)]), START);
    let date = "Sunday, 06-Nov-94 08:49:37 GMT";
    assert_eq!(at("Sun, 06 Nov 1994 08:49:27 GMT", date), Some(10_000), "years behind");
    assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT", date), None);
    assert_eq!(at("Fri, 01 Jan 2038 00:00:00 GMT", "Fri, 01 Jan 2038 00:01:00 GMT"), Some(60_000), "years ahead");
    assert_eq!(at("whenever", "Sat, 21 Nov 2026 22:25:48 GMT"), Some(60_000), "a clock that cannot be read");
    assert_eq!(at("Fri, 01 Jan 2038 00:00:00 GMT", "120"), Some(120_000), "seconds need no clock");
}

/// OpenAI's `retry-after-ms` is finer, so it goes first where it can be read.
#[test]
fn milliseconds_go_before_seconds() {
    let both = |ms| retry_after(&Headers::from_iter([("retry-after-ms", ms), ("retry-after", "9")]), START);
    for (ms, expected) in
        [("250", 250), ("12.5", 13), ("0", 9000), ("-5", 9000), ("soon", 9000), ("", 9000), ("NaN", 9000)]
    {
        assert_eq!(both(ms), Some(expected), "{ms:?}");
    }
    assert_eq!(retry_after(&Headers::from_iter([("retry-after-ms", "250")]), START), Some(250));
}
