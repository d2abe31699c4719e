//! The wire form of `CONFIG`: what an operator writes, and how it is read.
//!
//! Every field is optional here, so that one reading finds every mistake; [`crate::settings`]
//! decides what is required and gives the defaults. Times are milliseconds.
//!
//! Read by hand, not by Serde: that one stops at its first mistake, and what it derives for these structures is
//! 50 kB of wasm.

use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

/// A list whose element is `None` where it could not be read (and was reported).
pub type List<T> = Vec<Option<T>>;

/// An object whose keys are names.
pub type Named<T> = Vec<(String, T)>;

/// What has this name.
pub(crate) fn named<'a, T>(list: &'a [(String, T)], name: &str) -> Option<&'a T> {
    list.iter().find(|(other, _)| other == name).map(|(_, item)| item)
}

/// Structures of `CONFIG`, each field of which may be absent. What stands behind a `=` is for the schema.
macro_rules! forms {
    ($($(#[doc = $about:literal])* pub struct $form:ident {
        $($(#[doc = $meaning:literal])* $field:ident: $type:ty $(= $facts:tt)?,)*
    })*) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Default)]
        pub struct $form {
            $($(#[doc = $meaning])* pub(crate) $field: $type,)*
        }

        impl Form for $form {
            fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
                let fields = reader.fields(value, const { &[$(name_of(stringify!($field))),*] })?;
                Some(Self { $($field: reader.field(fields, const { name_of(stringify!($field)) }),)* })
            }
        }

        impl schema::Described for $form {
            fn schema() -> schema::Schema {
                let fields = vec![$(schema::Field {
                    name: const { name_of(stringify!($field)) },
                    about: schema::joined(&[$($meaning),*]),
                    schema: <$type as schema::Described>::schema(),
                    facts: schema::first([$(json!($facts),)? Value::Null]),
                }),*];
                schema::Schema::Object { about: schema::joined(&[$($about),*]), fields }
            }
        }
    )*};
}

/// Choices between words. Behind `else` stands what it is without any.
macro_rules! words {
    ($($(#[doc = $about:literal])* pub enum $choice:ident $(else $default:ident)? {
        $($(#[doc = $meaning:literal])* $variant:ident = $word:literal,)*
    })*) => {$(
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $choice {
            $($(#[doc = $meaning])* $variant,)*
        }

        $(impl Default for $choice {
            fn default() -> Self {
                Self::$default
            }
        })?

        impl $choice {
            /// What `CONFIG` calls them, in their order.
            pub(crate) const WORDS: &[&str] = &[$($word),*];

            /// What `CONFIG` calls it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl Form for $choice {
            fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
                const ALL: &[$choice] = &[$($choice::$variant),*];
                ALL.get(reader.word(value, Self::WORDS)?).copied()
            }
        }

        impl schema::Described for $choice {
            fn schema() -> schema::Schema {
                schema::Schema::Word(vec![$(($word, concat!($($meaning),*).trim())),*])
            }
        }
    )*};
}

mod forms;
mod near;
pub mod schema;

pub use forms::*;
pub(crate) use near::nearest;

/// How long content is awaited before another target is asked as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// So many milliseconds.
    Ms(u64),
    /// As long as all but the slowest twentieth of the endpoint's answers take to begin.
    P95,
}

/// One mistake in `CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where, as `models[0].targets[1].endpoint`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Mistake {
    /// A mistake at this path.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Puts `CONFIG` and the bindings `CONFIG_<KEY>` together into one object.
///
/// Each part is a binding's name and its value: an object, or text that holds JSON.
pub fn assemble(parts: impl IntoIterator<Item = (String, Value)>) -> (Value, Vec<Mistake>) {
    let mut whole = Map::new();
    let mut origins: Named<String> = Vec::new();
    let mut mistakes = Vec::new();
    let mut any = false;
    for (binding, value) in parts {
        any = true;
        let value = match value {
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(error) => {
                    mistakes.push(Mistake::at(binding, format!("is not JSON: {error}")));
                    continue;
                }
            },
            value => value,
        };
        let fields = match (binding.strip_prefix("CONFIG_"), value) {
            (Some(key), value) => {
                let mut field = Map::new();
                field.insert(key.to_ascii_lowercase(), value);
                field
            }
            (None, Value::Object(fields)) => fields,
            (None, _) => {
                mistakes.push(Mistake::at(binding, "must be an object"));
                continue;
            }
        };
        // An editor's, at the top of a file of its own.
        for (key, value) in fields.into_iter().filter(|(key, _)| key != "$schema") {
            if let Some((_, earlier)) = origins.iter().find(|(other, _)| *other == key) {
                mistakes.push(Mistake::at(&*key, format!("stands twice: in {earlier} and in {binding}")));
            }
            origins.push((key.clone(), binding.clone()));
            whole.insert(key, value);
        }
    }
    if !any {
        mistakes.push(Mistake::at(
            "CONFIG",
            "is missing: put it into a variable of this name, or into KV: see docs/live-config.md",
        ));
    }
    (Value::Object(whole), mistakes)
}

/// Reads a value and reports everything in it that does not fit.
pub fn read<T: Form + Default>(value: &Value) -> (T, Vec<Mistake>) {
    let mut reader = Reader { path: String::new(), mistakes: Vec::new() };
    let config = T::read(value, &mut reader).unwrap_or_default();
    (config, reader.mistakes)
}

/// What a value can be read as.
pub trait Form: Sized {
    /// Reads it; `None` when it does not fit, which has been reported.
    fn read(value: &Value, reader: &mut Reader) -> Option<Self>;
}

impl Form for String {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        reader.fit(value, value.as_str(), "must be a string").map(str::to_owned)
    }
}

impl Form for u64 {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        reader.fit(value, value.as_u64(), "must be a whole number of at least 0")
    }
}

impl Form for f64 {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        reader.fit(value, value.as_f64(), "must be a number")
    }
}

impl Form for HedgeAfter {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let p95 = (value.as_str() == Some("p95")).then_some(Self::P95);
        reader.fit(
            value,
            p95.or_else(|| value.as_u64().map(Self::Ms)),
            "must be a whole number of at least 1, or `p95`",
        )
    }
}

impl Form for bool {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        reader.fit(value, value.as_bool(), "must be true or false")
    }
}

impl<T: Form> Form for Option<T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::read(value, reader).map(Some) }
    }
}

impl<T: Form> Form for List<T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let items = reader.fit(value, value.as_array(), "must be a list")?;
        let mut list = Self::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let above = reader.enter(format_args!("[{index}]"));
            list.push(T::read(item, reader));
            reader.path.truncate(above);
        }
        Some(list)
    }
}

impl<T: Form> Form for Named<T> {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let items = reader.fit(value, value.as_object(), "must be an object")?;
        let mut named = Self::with_capacity(items.len());
        for (name, item) in items {
            let above = reader.enter(format_args!(".{name}"));
            named.extend(T::read(item, reader).map(|item| (name.clone(), item)));
            reader.path.truncate(above);
        }
        Some(named)
    }
}

/// Knows where in `CONFIG` a value stands, and collects what is wrong.
pub struct Reader {
    path: String,
    mistakes: Vec<Mistake>,
}

impl Reader {
    /// Goes to something inside; returns how much of the path leads back.
    fn enter(&mut self, step: fmt::Arguments<'_>) -> usize {
        let above = self.path.len();
        // Text can always be written into a string.
        let _ = fmt::Write::write_fmt(&mut self.path, step);
        above
    }

    fn report(&mut self, message: String) {
        let path = self.path.strip_prefix('.').unwrap_or(&self.path);
        self.mistakes.push(Mistake::at(path, message));
    }

    /// What was read; or else what was to be there, and what is.
    fn fit<T>(&mut self, value: &Value, read: Option<T>, message: &str) -> Option<T> {
        if read.is_none() {
            let found = match value {
                Value::Null => "null".to_owned(),
                Value::Bool(flag) => flag.to_string(),
                // Without its decimals, whose printing would be a tenth of the Worker.
                Value::Number(number) if number.as_i64().is_none() => "another number".to_owned(),
                Value::Number(number) => number.as_i64().unwrap_or_default().to_string(),
                // It may be a secret.
                Value::String(_) => "a string".to_owned(),
                Value::Array(_) => "a list".to_owned(),
                Value::Object(_) => "an object".to_owned(),
            };
            self.report(format!("{message}, not {found}"));
        }
        read
    }

    /// An object that has only these fields.
    fn fields<'a>(&mut self, value: &'a Value, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let fields = self.fit(value, value.as_object(), "must be an object")?;
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let above = self.enter(format_args!(".{name}"));
            let meant = meant(name, known.iter().copied());
            self.report(format!("is unknown{meant} Here may stand {}", one_of(known)));
            self.path.truncate(above);
        }
        Some(fields)
    }

    /// What stands in this field; the default if nothing does, or nothing that fits.
    fn field<T: Form + Default>(&mut self, fields: &Map<String, Value>, name: &str) -> T {
        let Some(value) = fields.get(name) else { return T::default() };
        let above = self.enter(format_args!(".{name}"));
        let read = T::read(value, self);
        self.path.truncate(above);
        read.unwrap_or_default()
    }

    /// Which of these words it is.
    fn word(&mut self, value: &Value, words: &[&str]) -> Option<usize> {
        let place = words.iter().position(|word| value.as_str() == Some(word));
        if place.is_none() {
            let given = value.as_str().unwrap_or_default();
            // Whatever else was put here by mistake is not repeated.
            let is_word = given.len() <= 30 && given.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let shown = if given.is_empty() || !is_word { String::new() } else { format!(", not `{given}`") };
            self.report(format!("must be {}{shown}", one_of(words)));
        }
        place
    }
}

/// The end of a sentence about a name that is not there: what may have been meant.
pub(crate) fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(|| ".".to_owned(), |near| format!(": did you mean `{near}`?"))
}

/// Words as a choice: "`a`, `b` or `c`".
pub(crate) fn one_of(words: &[&str]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let before = match words.len().saturating_sub(index) {
            _ if index == 0 => "`",
            1 => "` or `",
            _ => "`, `",
        };
        text.push_str(before);
        text.push_str(word);
    }
    text.push('`');
    text
}

/// A field's name without what Rust needs before a keyword.
const fn name_of(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_mistake_is_found_in_one_reading() {
        let (config, mistakes) = read::<Config>(&json!({
            "endpoints": [{ "name": "a", "provider": "ollama", "base": 1 }, 7],
            "models": [{ "name": 5, "targets": [{ "endpoint": "a", "wieght": 2 }] }],
            "policies": { "p": { "idle_ms": -1, "backoff": { "base_ms": "x" } } },
            "opne": true
        }));
        let mut paths: Vec<&str> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [
                "endpoints[0].base",
                "endpoints[0].provider",
                "endpoints[1]",
                "models[0].name",
                "models[0].targets[0].wieght",
                "opne",
                "policies.p.backoff.base_ms",
                "policies.p.idle_ms",
            ],
            "{mistakes:#?}"
        );
        assert_eq!(config.endpoints.len(), 2);
        assert!(config.endpoints[1].is_none());
    }

    #[test]
    fn a_mistake_says_what_would_be_right() {
        let (_, mistakes) = read::<Config>(&json!({
            "endpoints": { "a": {} },
            "models": [{ "name": 5, "strategy": "fastest", "targets": [null, { "wieght": 2, "weight": -1 }] }],
            "policies": { "p": { "breaker": { "failure_ratio": "half" } } },
            "open": "yes",
        }));
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "endpoints: must be a list, not an object",
                "models[0].name: must be a string, not 5",
                "models[0].strategy: must be `failover`, `weighted` or `least_loaded`, not `fastest`",
                "models[0].targets[0]: must be an object, not null",
                "models[0].targets[1].wieght: is unknown: did you mean `weight`? Here may stand `endpoint`, `model` or `weight`",
                "models[0].targets[1].weight: must be a whole number of at least 0, not -1",
                "policies.p.breaker.failure_ratio: must be a number, not a string",
                "open: must be true or false, not a string",
            ]
        );
    }

    #[test]
    fn a_key_may_stand_in_a_binding_of_its_own_but_not_twice() {
        let (whole, mistakes) = assemble([
            ("CONFIG".to_owned(), json!(r#"{"open": true}"#)),
            ("CONFIG_CLIENTS".to_owned(), json!([])),
            ("CONFIG_OPEN".to_owned(), json!("false")),
            ("CONFIG_MODELS".to_owned(), json!("[")),
        ]);
        assert_eq!(whole, json!({ "open": false, "clients": [] }));
        let paths: Vec<&str> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
        assert_eq!(paths, ["open", "CONFIG_MODELS"]);
    }
}
