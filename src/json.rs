//! JSON that is looked at where it stands.

use serde::Deserialize;
use std::{borrow::Cow, ops::Range};

/// Reads an object, and nothing but one: Serde would also take a list for a structure.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("a list"));
    }
    serde_json::from_slice(json)
}

/// A string, borrowed unless it has escapes. Inside an `Option` Serde copies a bare [`Cow`].
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Where a slice that was borrowed from `whole` stands in it.
pub(crate) fn place_of(part: &str, whole: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start.saturating_add(part.len())
}

/// JSON without line ends, which can only stand between its tokens: in an event stream, what stands
/// behind one would be lost.
pub(crate) fn one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) { json.replace(['\n', '\r'], " ").into() } else { json.into() }
}
