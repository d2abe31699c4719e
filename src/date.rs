//! Dates as HTTP writes them (RFC 9110, section 5.6.7).
//!
//! By hand, because the crate for it brings 1.9 kB of wasm (gzipped).

use crate::time::Instant;

/// The three forms, behind the name of the day. A letter that stands for digits is that of a field, `N` that of a month's
/// name; all else is meant.
const FORMS: [&[u8]; 3] = [b", DD NNN YYYY hh:mm:ss GMT", b", DD-NNN-YY hh:mm:ss GMT", b" NNN DD hh:mm:ss YYYY"];
const FIELDS: &[u8] = b"YDhms";

const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
/// The epoch began on a Thursday.
const WEEKDAYS: &[u8] = b"ThuFriSatSunMonTueWed";

/// A date from 1970 on.
pub(crate) fn parse(value: &str) -> Option<Instant> {
    let letters = value.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (weekday, rest) = value.as_bytes().split_at_checked(letters)?;
    let form = FORMS.iter().find(|form| form.len() == rest.len())?;
    let mut fields = [0u64; FIELDS.len()];
    for (kind, byte) in form.iter().zip(rest) {
        match FIELDS.iter().position(|field| field == kind).and_then(|field| fields.get_mut(field)) {
            // The third form has a space before a day of one digit.
            Some(0) if (*kind, *byte, form.first()) == (b'D', b' ', Some(&b' ')) => {}
            Some(field) if byte.is_ascii_digit() => {
                *field = field.saturating_mul(10).saturating_add(u64::from(byte & 15));
            }
            None if *kind == b'N' || kind == byte => {}
            _ => return None,
        }
    }
    let [mut year, day, hour, minute, mut second] = fields;
    let has_century = year > 99;
    if !has_century {
        // As everybody reads it.
        year = year.saturating_add(if year < 70 { 2000 } else { 1900 });
    }
    let name_at = form.iter().position(|kind| *kind == b'N')?;
    let name = rest.get(name_at..)?.get(..3)?;
    let month = MONTHS.chunks_exact(3).position(|own| own == name)?;
    if (hour, minute, second) == (23, 59, 60) {
        // A leap second is none to the Unix epoch: it is the last second of its day once more.
        second = 59;
    }
    let days = days_before(year, month)?.saturating_add(day.checked_sub(1)?);
    let own_day = WEEKDAYS.chunks_exact(3).nth(usize::try_from(days.checked_rem(7)?).ok()?)?;
    let is_named = weekday.starts_with(own_day) && (if has_century { letters == 3 } else { weekday.ends_with(b"day") });
    if days >= days_before(year, month.saturating_add(1))? || !is_named || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let minutes = days.saturating_mul(24).saturating_add(hour).saturating_mul(60).saturating_add(minute);
    Some(Instant::from_millis(minutes.saturating_mul(60).saturating_add(second).saturating_mul(1000)))
}

/// Days from the epoch to the first of a month, which is counted from 0.
fn days_before(year: u64, month: usize) -> Option<u64> {
    const BEFORE: [u64; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
    /// Leap days up to the epoch.
    const LEAPS: u64 = 477;
    let years = year.checked_sub(1970)?;
    // That of this year counts behind February.
    let last = if month > 1 { year } else { year.saturating_sub(1) };
    let leaps = (last / 4).saturating_sub(last / 100).saturating_add(last / 400).saturating_sub(LEAPS);
    Some(years.saturating_mul(365).saturating_add(leaps).saturating_add(*BEFORE.get(month)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Day by day over one round of the calendar, and no other day of any month.
    #[test]
    fn every_day_has_its_number() {
        let names = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
        let mut days = 0u64;
        for year in 1970..2370u64 {
            let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            let february = if is_leap { 29 } else { 28 };
            let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            for (month, length) in MONTHS.chunks(3).zip(lengths) {
                let month = str::from_utf8(month).unwrap();
                for day in 0..=32 {
                    let name = names[usize::try_from((days + day + 6) % 7).unwrap()];
                    let short = &name[..3];
                    let expected = (1..=length).contains(&day).then(|| (days + day - 1) * 86_400_000 + 3_723_000);
                    let read = |date: String| parse(&date).map(Instant::as_millis);
                    assert_eq!(
                        read(format!("{short}, {day:02} {month} {year} 01:02:03 GMT")),
                        expected,
                        "{year} {day}"
                    );
                    assert_eq!(read(format!("{short} {month} {day:2} 01:02:03 {year}")), expected, "{year} {day}");
                    if year < 2070 {
                        let date = format!("{name}, {day:02}-{month}-{:02} 01:02:03 GMT", year % 100);
                        assert_eq!(read(date), expected, "{year} {day}");
                    }
                }
                days += length;
            }
        }
    }
}
