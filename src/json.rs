//! JSON that is looked at where it stands.

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::{de::StrRead, value::RawValue};
use std::{borrow::Cow, fmt, ops::Range};

/// JSON as text: it is UTF-8 (RFC 8259, section 8.1). All is read from texts, as a second parser for bytes would be a
/// second parser in the wasm. What is none is nothing that JSON begins with.
pub(crate) fn text(json: &[u8]) -> &str {
    str::from_utf8(json).unwrap_or("?")
}

/// Reads an object, and nothing but one.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = T::deserialize(Object(&mut reader))?;
    reader.end()?;
    Ok(read)
}

/// Where an object is to stand: Serde would also take a list for a structure.
struct Object<'r, 'de>(&'r mut serde_json::Deserializer<StrRead<'de>>);

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

/// What an object has under these names, nothing where that is null. Another than an object, and one that has one of
/// them twice, is an error. Unlike [`members`] it keeps nothing else, and allocates nothing.
pub(crate) fn pick<'a, const N: usize>(
    json: &'a str,
    names: &[&str; N],
) -> Result<RawFields<'a, N>, serde_json::Error> {
    let mut picked = [None; N];
    pick_into(json, names, &mut picked)?;
    Ok(picked.map(|value| value.filter(|value| value.get() != "null")))
}

/// Values of an object, each where it stands.
pub(crate) type RawFields<'a, const N: usize> = [Option<&'a RawValue>; N];

/// The same, into as many places as there are names, or more; and nulls stay.
pub(crate) fn pick_into<'a>(
    json: &'a str,
    names: &[&str],
    picked: &mut [Option<&'a RawValue>],
) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.deserialize_map(Pick { names, picked })?;
    reader.end()
}

struct Pick<'p, 'a> {
    names: &'p [&'p str],
    picked: &'p mut [Option<&'a RawValue>],
}

impl<'de> Visitor<'de> for Pick<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let value = map.next_value()?;
            let place = self.names.iter().position(|name| *name == key).and_then(|place| self.picked.get_mut(place));
            if place.is_some_and(|place| place.replace(value).is_some()) {
                return Err(A::Error::duplicate_field(""));
            }
        }
        Ok(())
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

/// The members of one object, in their order and each as it stands; nothing but an object has any. Of a key that is
/// there twice both are told, and the last one counts.
pub(crate) fn members<'a>(json: &'a str) -> Option<Vec<(Cow<'a, str>, &'a RawValue)>> {
    serde_json::from_str(json).ok().map(|Members(members)| members)
}

/// What stands under a name; of those that stand there twice the last.
pub(crate) fn member<'a>(members: &[(Cow<'a, str>, &'a RawValue)], name: &str) -> Option<&'a RawValue> {
    members.iter().rfind(|(other, _)| other == name).map(|(_, value)| *value)
}

/// A list's items.
pub(crate) fn items(json: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json.get()).ok()
}

/// What a string says; nothing else says anything, nor does one with half a character in it.
pub(crate) fn text_of(json: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(json.get()).ok().map(|Text(text)| text)
}

/// A JSON string.
pub(crate) fn string(text: &str) -> String {
    // A string always has a JSON form.
    serde_json::to_string(text).unwrap_or_default()
}

/// JSON with other text in some places, which are in their order and apart.
pub(crate) fn edited(json: &[u8], edits: impl IntoIterator<Item = (Range<usize>, String)>) -> Vec<u8> {
    let mut whole = Vec::with_capacity(json.len());
    let mut from = 0;
    for (place, text) in edits {
        whole.extend_from_slice(json.get(from..place.start).unwrap_or_default());
        whole.extend_from_slice(text.as_bytes());
        from = place.end;
    }
    whole.extend_from_slice(json.get(from..).unwrap_or_default());
    whole
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Text(key), value)) = map.next_entry()? {
            members.push((key, value));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_an_object_stand_as_they_came() {
        let json = " {\"b\": 1.50 ,\n\"a\\u0062\":[ 1,{\"x\":2} ],\"b\":\"\\ud83e\",\"\":{}} ";
        let members = members(json).unwrap();
        let texts: Vec<_> = members.iter().map(|(key, value)| (&**key, value.get())).collect();
        assert_eq!(texts, [("b", "1.50"), ("ab", "[ 1,{\"x\":2} ]"), ("b", "\"\\ud83e\""), ("", "{}")]);
        assert!(matches!(members[0].0, Cow::Borrowed(_)));
        assert_eq!(place_of(members[1].1.get(), json.as_bytes()), 24..37);
    }

    #[test]
    fn nothing_but_one_object_has_members() {
        for json in
            ["", "[]", "[[\"a\",1]]", "null", "\"{}\"", "{} {}", "{},", "{\"a\":1", "{\"a\":1,}", "{\"a\":01}", "{a:1}"]
        {
            assert!(members(json).is_none(), "{json}");
        }
        assert!(members("{}").unwrap().is_empty());
        assert!(members(&format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000))).is_some());
    }
}
