//! What `CONFIG` may hold, as data: `examples/schema.rs` makes the JSON Schema and the reference of it.
//!
//! Nothing that serves calls uses this, so that neither the Worker nor the package carries it.

use super::{HedgeAfter, List, Named};
use serde_json::Value;

/// The form of a value.
#[derive(Debug)]
pub enum Schema {
    /// A text.
    Text,
    /// A whole number.
    Whole,
    /// A number.
    Number,
    /// `true` or `false`.
    Flag,
    /// One of these words, each with its meaning.
    Word(Vec<(&'static str, &'static str)>),
    /// A whole number, or this word.
    WholeOr(&'static str),
    /// A list.
    List(Box<Schema>),
    /// An object with names of the operator's own.
    Named(Box<Schema>),
    /// An object with these fields and no others.
    Object {
        /// What it is.
        about: String,
        /// In the order in which people write them.
        fields: Vec<Field>,
    },
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: String,
    /// Its value.
    pub schema: Schema,
    /// Its default and bounds, by the keywords of JSON Schema; `required` is true where it may not be missing.
    pub facts: Value,
}

/// What can be described.
pub trait Described {
    /// Its form.
    fn schema() -> Schema;
}

impl Described for String {
    fn schema() -> Schema {
        Schema::Text
    }
}

impl Described for u64 {
    fn schema() -> Schema {
        Schema::Whole
    }
}

impl Described for f64 {
    fn schema() -> Schema {
        Schema::Number
    }
}

impl Described for bool {
    fn schema() -> Schema {
        Schema::Flag
    }
}

impl Described for HedgeAfter {
    fn schema() -> Schema {
        Schema::WholeOr("p95")
    }
}

impl<T: Described> Described for Option<T> {
    fn schema() -> Schema {
        T::schema()
    }
}

impl<T: Described> Described for List<T> {
    fn schema() -> Schema {
        Schema::List(Box::new(T::schema()))
    }
}

impl<T: Described> Described for Named<T> {
    fn schema() -> Schema {
        Schema::Named(Box::new(T::schema()))
    }
}

/// The lines of a documentation comment as one text.
pub(super) fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The facts of a field, or none.
pub(super) fn first<const N: usize>(facts: [Value; N]) -> Value {
    facts.into_iter().next().unwrap_or_default()
}
