//! The reference of `CONFIG` that people read.

use fairlead_core::config::schema::{Field, Schema};
use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = include_str!("head.md");

/// The whole page.
pub fn whole(schema: &Schema) -> String {
    let mut text = HEAD.to_owned();
    section("CONFIG", "", schema, &mut text);
    text
}

/// One object's fields, and behind it those of the objects inside.
fn section(title: &str, path: &str, schema: &Schema, text: &mut String) {
    let Schema::Object { about, fields } = schema else { return };
    let _ = write!(text, "\n## `{title}`\n\n{about}\n\n| field | may be | without it | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let Field { name, about, facts, schema } = field;
        let required = facts.get("required").is_some();
        let default = facts.get("default").map(|default| format!("`{}`", bare(default)));
        let without = if required { "a mistake".to_owned() } else { default.unwrap_or_else(|| "–".to_owned()) };
        let _ = writeln!(text, "| `{name}` | {} | {without} | {} |", may_be(schema, facts), meaning(about, schema));
    }
    for field in fields {
        let path = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        match &field.schema {
            Schema::List(inner) => section(&format!("{path}[]"), &format!("{path}[]"), inner, text),
            Schema::Named(inner) => section(&format!("{path}.NAME"), &format!("{path}.NAME"), inner, text),
            inner => section(&path, &path, inner, text),
        }
    }
}

fn meaning(about: &str, schema: &Schema) -> String {
    let mut text = about.to_owned();
    if let Schema::Word(words) = schema {
        let words: Vec<String> = words.iter().map(|(word, about)| format!("`{word}`: {about}")).collect();
        let _ = write!(text, "<br>{}", words.join("<br>"));
    }
    // A bar would end the cell.
    text.replace('|', "\\|")
}

fn may_be(schema: &Schema, facts: &Value) -> String {
    let bounds = || match (facts.get("minimum"), facts.get("exclusiveMinimum"), facts.get("maximum")) {
        (Some(least), _, Some(most)) => format!(" from {least} to {most}"),
        (None, Some(above), Some(most)) => format!(" above {above}, at most {most}"),
        _ => String::new(),
    };
    match schema {
        Schema::Text => "a text".to_owned(),
        Schema::Whole => match facts.get("enum").and_then(Value::as_array) {
            Some(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
            None => format!("a whole number{}", bounds()),
        },
        Schema::Number => format!("a number{}", bounds()),
        Schema::Flag => "`true`, `false`".to_owned(),
        Schema::Word(words) => words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Schema::WholeOr(word) => format!("a whole number{}, or `{word}`", bounds()),
        Schema::List(inner) => match **inner {
            Schema::Object { .. } => "a list of objects, see below".to_owned(),
            _ => "a list of texts".to_owned(),
        },
        Schema::Named(_) => "an object of objects, see below".to_owned(),
        Schema::Object { .. } => "an object, see below".to_owned(),
    }
}

/// A value as text, a word without its quotation marks.
fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
