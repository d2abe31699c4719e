//! Objects that grow by merging, made of JSON that stays as it came.

use super::{
    TooLarge,
    kind::{Kind, Rule},
};
use crate::json::members;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Bytes that may still be kept.
#[derive(Debug)]
pub(super) struct Room(pub(super) usize);

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.0 = self.0.checked_sub(bytes).ok_or(TooLarge)?;
        Ok(())
    }
}

/// What an object and a member take beside their texts, about.
const OBJECT: usize = 1024;
const MEMBER: usize = 64;

/// Members that an object may have. vLLM's largest have fourteen.
const MAX_MEMBERS: usize = 256;

/// Members in the order in which they came.
#[derive(Debug)]
pub(super) struct Object {
    kind: Kind,
    pub(super) members: Vec<(String, Part)>,
}

/// What has come of a member.
#[derive(Debug)]
pub(super) enum Part {
    /// JSON; empty where nothing has come.
    Value(String),
    /// The insides of strings or of lists, one behind another. Strings keep their escapes, and halves of a surrogate
    /// pair become one.
    Joined {
        list: bool,
        inside: String,
    },
    Object(Object),
    /// Objects by their index. In their order rather than in their place, because an index may be any number.
    List(Vec<(u64, Object)>),
}

impl Object {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, members: Vec::new() }
    }

    /// What has come of this member, which is new if nothing has.
    pub(super) fn part(&mut self, key: &str, room: &mut Room) -> Result<&mut Part, TooLarge> {
        let place = match self.members.iter().position(|(name, _)| name == key) {
            Some(place) => place,
            None if self.members.len() >= MAX_MEMBERS => return Err(TooLarge),
            None => {
                room.take(MEMBER.saturating_add(key.len()))?;
                self.members.push((key.to_owned(), Part::nothing()));
                self.members.len().saturating_sub(1)
            }
        };
        self.members.get_mut(place).map(|(_, part)| part).ok_or(TooLarge)
    }

    pub(super) fn merge(&mut self, members: &[(Cow<'_, str>, &RawValue)], room: &mut Room) -> Result<(), TooLarge> {
        if members.len() > MAX_MEMBERS {
            return Err(TooLarge);
        }
        let mut rest = members;
        while let Some(((key, value), behind)) = rest.split_first() {
            rest = behind;
            // Of a key that is there twice the last one counts.
            if !rest.iter().any(|(other, _)| other == key) {
                self.take(key, value.get(), room)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &str, room: &mut Room) -> Result<(), TooLarge> {
        let (key, value) = match (key, value) {
            ("delta", _) if self.kind == Kind::ChatChoice => ("message", value),
            ("object", _) if self.kind == Kind::Chat => (key, "\"chat.completion\""),
            _ => (key, value),
        };
        let rule = self.kind.rule(key);
        if matches!(rule, Rule::Skip) {
            return Ok(());
        }
        let part = self.part(key, room)?;
        match rule {
            Rule::Join => return part.join(value, room),
            Rule::Object(kind) => {
                if let Some(members) = members(value) {
                    return part.object(kind, room)?.merge(&members, room);
                }
            }
            Rule::List(kind) => {
                if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value) {
                    return part.merge_items(kind, &items, room);
                }
            }
            Rule::Last | Rule::Skip => {}
        }
        part.replace(value, room)
    }

    pub(super) fn write(&self, json: &mut Vec<u8>) {
        json.push(b'{');
        for (key, part) in &self.members {
            // A string always has a JSON form.
            json.extend(serde_json::to_vec(key).unwrap_or_default());
            json.push(b':');
            part.write(json);
            json.push(b',');
        }
        for key in self.kind.form().split(' ') {
            if !key.is_empty() && !self.members.iter().any(|(name, _)| name == key) {
                let nothing: &[u8] = if matches!(key, "text" | "arguments") { b"\":\"\"," } else { b"\":null," };
                json.push(b'"');
                json.extend(key.as_bytes());
                json.extend(nothing);
            }
        }
        close(json, b'}');
    }
}

impl Part {
    pub(super) const fn nothing() -> Self {
        Self::Value(String::new())
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Value(value) if is_empty(value))
    }

    fn replace(&mut self, value: &str, room: &mut Room) -> Result<(), TooLarge> {
        let is_made_of_objects = matches!(self, Self::Object(_) | Self::List(_));
        if is_made_of_objects || (is_empty(value) && !self.is_nothing()) {
            return Ok(());
        }
        if !matches!(self, Self::Value(_)) {
            *self = Self::nothing();
        }
        if let Self::Value(kept) = self {
            // Only what a value grows by: one that came with every event would use up the room.
            room.take(value.len().saturating_sub(kept.len()))?;
            value.clone_into(kept);
        }
        Ok(())
    }

    fn join(&mut self, value: &str, room: &mut Room) -> Result<(), TooLarge> {
        let list = match value.as_bytes().first() {
            Some(b'"') => false,
            Some(b'[') => true,
            _ => return self.replace(value, room),
        };
        let inside = value.get(1..value.len().saturating_sub(1)).unwrap_or_default();
        let inside = if list { inside.trim_ascii() } else { inside };
        if !matches!(self, Self::Joined { list: before, .. } if *before == list) {
            if inside.is_empty() && !self.is_nothing() {
                return Ok(());
            }
            *self = Self::Joined { list, inside: String::new() };
        }
        if let Self::Joined { inside: kept, .. } = self {
            room.take(inside.len().saturating_add(1))?;
            if list && !kept.is_empty() && !inside.is_empty() {
                kept.push(',');
            }
            kept.push_str(inside);
        }
        Ok(())
    }

    fn object(&mut self, kind: Kind, room: &mut Room) -> Result<&mut Object, TooLarge> {
        if !matches!(self, Self::Object(_)) {
            room.take(OBJECT)?;
            *self = Self::Object(Object::new(kind));
        }
        if let Self::Object(object) = self { Ok(object) } else { Err(TooLarge) }
    }

    fn merge_items(&mut self, kind: Kind, items: &[&RawValue], room: &mut Room) -> Result<(), TooLarge> {
        if !matches!(self, Self::List(_)) {
            *self = Self::List(Vec::new());
        }
        let Self::List(objects) = self else { return Ok(()) };
        for (place, item) in (0..).zip(items) {
            let Some(members) = members(item.get()) else { continue };
            let told = members.iter().rev().find(|(key, _)| key == "index");
            // Some servers leave it out where there is but one.
            let index = told.and_then(|(_, index)| index.get().parse().ok()).unwrap_or(place);
            let at = match objects.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(at) => at,
                Err(at) => {
                    room.take(OBJECT)?;
                    let mut object = Object::new(kind);
                    if kind != Kind::ToolCall {
                        *object.part("index", room)? = Part::Value(index.to_string());
                    }
                    // A choice has a message even if no event brings any of it.
                    if kind == Kind::ChatChoice {
                        object.take("message", "{}", room)?;
                    }
                    objects.insert(at, (index, object));
                    at
                }
            };
            if let Some((_, object)) = objects.get_mut(at) {
                object.merge(&members, room)?;
            }
        }
        Ok(())
    }

    fn write(&self, json: &mut Vec<u8>) {
        match self {
            Self::Value(value) if value.is_empty() => json.extend(b"null"),
            Self::Value(value) => json.extend(value.as_bytes()),
            Self::Joined { list, inside } => {
                json.push(if *list { b'[' } else { b'"' });
                json.extend(inside.as_bytes());
                json.push(if *list { b']' } else { b'"' });
            }
            Self::Object(object) => object.write(json),
            Self::List(objects) => {
                json.push(b'[');
                for (_, object) in objects {
                    object.write(json);
                    json.push(b',');
                }
                close(json, b']');
            }
        }
    }
}

/// Ends what was written with a comma behind each part.
fn close(json: &mut Vec<u8>, end: u8) {
    if json.ends_with(b",") {
        json.pop();
    }
    json.push(end);
}

/// Servers send empty ones with every event: they take nothing back.
fn is_empty(value: &str) -> bool {
    matches!(value, "" | "null" | "\"\"")
}
