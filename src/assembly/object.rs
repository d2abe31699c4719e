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
    pub(super) members: Vec<(Cow<'static, str>, Part)>,
}

/// What has come of a member.
#[derive(Debug)]
pub(super) enum Part {
    /// JSON; empty where nothing has come.
    Value(String),
    /// The inside of a string, with its escapes: such insides go one behind another, and halves of a surrogate pair
    /// become one.
    Text(String),
    /// The inside of a list.
    Items(String),
    Object(Object),
    /// Objects by their index. In their order rather than in their place, because an index may be any number.
    List(Vec<(u64, Object)>),
}

impl Object {
    pub(super) fn new(kind: Kind) -> Self {
        let members = kind.form().split_ascii_whitespace().map(|key| (key.into(), kind.beginning(key))).collect();
        Self { kind, members }
    }

    pub(super) fn get(&mut self, key: &str) -> Option<&mut Part> {
        self.members.iter_mut().find(|(name, _)| name == key).map(|(_, part)| part)
    }

    /// What has come of this member, which is new if nothing has.
    pub(super) fn part(&mut self, key: &str, room: &mut Room) -> Result<&mut Part, TooLarge> {
        let place = match self.members.iter().position(|(name, _)| name == key) {
            Some(place) => place,
            None if self.members.len() >= MAX_MEMBERS => return Err(TooLarge),
            None => {
                room.take(MEMBER.saturating_add(key.len()))?;
                self.members.push((key.to_owned().into(), Part::nothing()));
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
        let key = if self.kind == Kind::ChatChoice && key == "delta" { "message" } else { key };
        match self.kind.rule(key) {
            Rule::Skip => Ok(()),
            Rule::Last => self.part(key, room)?.replace(value, room),
            Rule::Join => self.part(key, room)?.join(value, room),
            Rule::Object(kind) => {
                let part = self.part(key, room)?;
                match members(value) {
                    Some(members) => part.object(kind, room)?.merge(&members, room),
                    None => part.replace(value, room),
                }
            }
            Rule::List(kind) => {
                let part = self.part(key, room)?;
                match serde_json::from_str::<Vec<&RawValue>>(value) {
                    Ok(items) => part.merge_items(kind, &items, room),
                    Err(_) => part.replace(value, room),
                }
            }
        }
    }

    pub(super) fn write(&self, json: &mut String) {
        json.push('{');
        for (place, (key, part)) in self.members.iter().enumerate() {
            if place > 0 {
                json.push(',');
            }
            // A string always has a JSON form.
            json.push_str(&serde_json::to_string(key).unwrap_or_default());
            json.push(':');
            part.write(json);
        }
        json.push('}');
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
        if is_empty(value) && !self.is_nothing() {
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
        let inside = |open: char, close| value.strip_prefix(open).and_then(|value| value.strip_suffix(close));
        if let Some(text) = inside('"', '"') {
            if !matches!(self, Self::Text(_)) && (self.is_nothing() || !text.is_empty()) {
                *self = Self::Text(String::new());
            }
            if let Self::Text(kept) = self {
                room.take(text.len())?;
                kept.push_str(text);
            }
            return Ok(());
        }
        let Some(items) = inside('[', ']').map(str::trim) else { return self.replace(value, room) };
        if !matches!(self, Self::Items(_)) && (self.is_nothing() || !items.is_empty()) {
            *self = Self::Items(String::new());
        }
        if let Self::Items(kept) = self {
            room.take(items.len().saturating_add(1))?;
            if !kept.is_empty() && !items.is_empty() {
                kept.push(',');
            }
            kept.push_str(items);
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
                    if let Some(shown) = object.get("index") {
                        *shown = Self::Value(index.to_string());
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

    fn write(&self, json: &mut String) {
        match self {
            Self::Value(value) if value.is_empty() => json.push_str("null"),
            Self::Value(value) => json.push_str(value),
            Self::Text(text) => json.extend(["\"", text, "\""]),
            Self::Items(items) => json.extend(["[", items, "]"]),
            Self::Object(object) => object.write(json),
            Self::List(objects) => {
                json.push('[');
                for (place, (_, object)) in objects.iter().enumerate() {
                    if place > 0 {
                        json.push(',');
                    }
                    object.write(json);
                }
                json.push(']');
            }
        }
    }
}

/// Servers send empty ones with every event: they take nothing back.
pub(super) fn is_empty(value: &str) -> bool {
    matches!(value, "" | "null" | "\"\"")
}
