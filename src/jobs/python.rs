//! Values as Python writes them: RunPod's worker SDK posts `str()` of the error that a handler
//! yields.

use serde_json::Value;
use std::{iter::Peekable, str::Chars};

/// Reads the `repr` of a dictionary of plain values; `None` where it is none.
pub fn read_dict(repr: &str) -> Option<Value> {
    let repr = repr.trim();
    if !repr.starts_with('{') {
        return None;
    }
    let mut json = String::with_capacity(repr.len());
    let mut rest = repr.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\'' | '"' => json.push_str(&serde_json::to_string(&text(&mut rest, character)?).ok()?),
            letter if letter.is_ascii_alphabetic() => json.push_str(word(&mut rest, letter)?),
            other => json.push(other),
        }
    }
    serde_json::from_str(&json).ok()
}

/// A string, to its closing quote.
fn text(rest: &mut Peekable<Chars<'_>>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match rest.next()? {
            end if end == quote => return Some(text),
            '\\' => text.push(match rest.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'x' => code_point(rest, 2)?,
                'u' => code_point(rest, 4)?,
                'U' => code_point(rest, 8)?,
                other => other,
            }),
            other => text.push(other),
        }
    }
}

fn code_point(rest: &mut Peekable<Chars<'_>>, digits: usize) -> Option<char> {
    let mut value = 0u32;
    for _ in 0..digits {
        value = value.checked_mul(16)?.checked_add(rest.next()?.to_digit(16)?)?;
    }
    char::from_u32(value)
}

/// `None`, `True` and `False`.
fn word(rest: &mut Peekable<Chars<'_>>, first: char) -> Option<&'static str> {
    let mut word = String::from(first);
    while let Some(letter) = rest.next_if(char::is_ascii_alphabetic) {
        word.push(letter);
    }
    match &*word {
        "None" => Some("null"),
        "True" => Some("true"),
        "False" => Some("false"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dictionary_is_read_whatever_its_quotes_and_escapes() {
        let repr = r#"{'message': "it's", 'body': '{"a": "it\'s \\n"}', 'x': '\xa0\u2028\U0001f9ff\n🪢', 'n': [1, -2.5], 'none': None, 'yes': True}"#;
        let expected = json!({
            "message": "it's", "body": r#"{"a": "it's \n"}"#, "x": "\u{a0}\u{2028}\u{1f9ff}\n🪢",
            "n": [1, -2.5], "none": null, "yes": true,
        });
        assert_eq!(read_dict(repr), Some(expected));
        for none in ["", "handler: no", "{'a': b}", "{'a", "{'a': <class>}", "['a']", r"{'a': '\ud800'}"] {
            assert_eq!(read_dict(none), None, "{none}");
        }
    }
}
