//! JSON that is looked at where it stands.

use serde::{Deserialize, Deserializer, de::Visitor, forward_to_deserialize_any};
use serde_json::de::SliceRead;
use std::{borrow::Cow, ops::Range};

/// Reads an object, and nothing but one.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = T::deserialize(Object(&mut reader))?;
    reader.end()?;
    Ok(read)
}

/// Where an object is to stand: Serde would also take a list for a structure.
struct Object<'r, 'de>(&'r mut serde_json::Deserializer<SliceRead<'de>>);

impl<'de> Deserializer<'de> for Object<'_, 'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
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
