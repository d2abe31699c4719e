//! The JSON Schema, draft 2020-12, with its fields in the order in which people write them.

use fairlead_core::config::schema::{Field, Schema};
use serde_json::{Value, json};

/// Members of an object, in their order.
type Members = Vec<(String, Text)>;

/// JSON whose objects keep their order, which `serde_json::Value` sorts.
enum Text {
    Plain(Value),
    Object(Members),
    List(Vec<Text>),
}

/// The schema of all of `CONFIG`.
pub fn whole(schema: &Schema) -> String {
    let Text::Object(members) = form(schema, &Value::Null) else { return String::new() };
    let mut all = vec![
        plain("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        plain("title", json!("CONFIG of a Fairlead gateway")),
    ];
    for (name, value) in members {
        all.push(match value {
            Text::Object(mut fields) if name == "properties" => {
                let about = "The schema of this file, for editors. The gateway takes no notice of it.";
                let editor = vec![plain("description", json!(about)), plain("type", json!("string"))];
                fields.insert(0, ("$schema".to_owned(), Text::Object(editor)));
                (name, Text::Object(fields))
            }
            value => (name, value),
        });
    }
    let mut text = String::new();
    write(&Text::Object(all), 0, &mut text);
    text.push('\n');
    text
}

fn plain(name: &str, value: Value) -> (String, Text) {
    (name.to_owned(), Text::Plain(value))
}

/// The schema of a value, with the facts of the field that holds it.
fn form(schema: &Schema, facts: &Value) -> Text {
    let bounds = || facts.as_object().into_iter().flatten();
    let bounds = bounds().filter(|(name, _)| !matches!(name.as_str(), "required" | "items"));
    let bounds = bounds.map(|(name, value)| plain(name, value.clone()));
    let of_type = |name: &str| vec![plain("type", json!(name))];
    let mut members = match schema {
        Schema::Text => of_type("string"),
        Schema::Whole => of_type("integer"),
        Schema::Number => of_type("number"),
        Schema::Flag => of_type("boolean"),
        Schema::Word(words) => {
            let word = |(word, about): &(&str, &str)| {
                Text::Object(vec![plain("const", json!(word)), plain("description", json!(about))])
            };
            vec![("oneOf".to_owned(), Text::List(words.iter().map(word).collect()))]
        }
        Schema::WholeOr(word) => {
            let mut number = of_type("integer");
            number.extend(bounds);
            let word = Text::Object(vec![plain("const", json!(word))]);
            return Text::Object(vec![("anyOf".to_owned(), Text::List(vec![Text::Object(number), word]))]);
        }
        Schema::List(item) => {
            let item = form(item, facts.get("items").unwrap_or(&Value::Null));
            let mut members = of_type("array");
            members.push(("items".to_owned(), item));
            members
        }
        Schema::Named(item) => {
            let mut members = of_type("object");
            members.push(("additionalProperties".to_owned(), form(item, &Value::Null)));
            members
        }
        Schema::Object { about, fields } => {
            let mut members = vec![plain("description", json!(about))];
            members.extend(of_type("object"));
            members.push(("properties".to_owned(), Text::Object(fields.iter().map(property).collect())));
            let required = fields.iter().filter(|field| field.facts.get("required").is_some()).map(|field| field.name);
            let required: Vec<&str> = required.collect();
            if !required.is_empty() {
                members.push(plain("required", json!(required)));
            }
            members.push(plain("additionalProperties", json!(false)));
            members
        }
    };
    members.extend(bounds);
    Text::Object(members)
}

fn property(field: &Field) -> (String, Text) {
    let mut members = vec![plain("description", json!(field.about))];
    if let Text::Object(form) = form(&field.schema, &field.facts) {
        members.extend(form.into_iter().filter(|(name, _)| name != "description"));
    }
    (field.name.to_owned(), Text::Object(members))
}

fn write(text: &Text, depth: usize, into: &mut String) {
    let deeper = depth.saturating_add(1);
    let indent = |depth: usize| format!("\n{}", "  ".repeat(depth));
    let (open, close) = match text {
        Text::Plain(value) => return into.push_str(&value.to_string()),
        Text::Object(members) if members.is_empty() => return into.push_str("{}"),
        Text::List(items) if items.is_empty() => return into.push_str("[]"),
        Text::Object(_) => ('{', '}'),
        Text::List(_) => ('[', ']'),
    };
    into.push(open);
    let (mut names, mut values) = (Vec::new(), Vec::new());
    match text {
        Text::Object(members) => members.iter().for_each(|(name, value)| {
            names.push(format!("{}: ", json!(name)));
            values.push(value);
        }),
        Text::List(items) => values.extend(items),
        Text::Plain(_) => {}
    }
    for (at, value) in values.into_iter().enumerate() {
        if at > 0 {
            into.push(',');
        }
        into.push_str(&indent(deeper));
        into.push_str(names.get(at).map_or("", String::as_str));
        write(value, deeper, into);
    }
    into.push_str(&indent(depth));
    into.push(close);
}
