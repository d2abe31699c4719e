//! Answers that did not stream.

use super::{Choices, InBand, Usage, is_error, told_usage};
use crate::{
    api::Dialect,
    json::{pick, text},
};
use serde::de::IgnoredAny;

/// Why an answer that did not stream is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not JSON to its end.
    Cut,
    /// It is whole, and holds nothing that was asked for.
    Empty,
    /// It is an error, or half an answer that the endpoint gave up.
    Error(InBand),
}

/// Whether an answer that did not stream is whole, by its own words, and what it cost.
pub fn check_answer(dialect: Dialect, body: &[u8]) -> Result<Usage, Flaw> {
    let body = text(body);
    let wants_choices = matches!(dialect, Dialect::Chat | Dialect::Completions);
    if !wants_choices && body.trim_ascii_start().starts_with('[') {
        return serde_json::from_str::<IgnoredAny>(body).map(|_| Usage::default()).map_err(|_| Flaw::Cut);
    }
    let [object, error, choices, usage] =
        pick(body, &["object", "error", "choices", "usage"]).map_err(|_| Flaw::Cut)?;
    if object.is_some_and(is_error) {
        return Err(Flaw::Error(InBand::from_json(body)));
    }
    // A response that failed is an answer of that API, and tells its error itself.
    if let Some(error) = error.filter(|_| object.is_none_or(|object| object.get() != "\"response\"")) {
        return Err(Flaw::Error(InBand::from_json(error.get())));
    }
    match choices.map(|choices| serde_json::from_str::<Choices>(choices.get())).transpose().map_err(|_| Flaw::Cut)? {
        Some(choices) if choices.aborted => Err(Flaw::Error(InBand { status: None, kind: Some("abort".to_owned()) })),
        Some(choices) if wants_choices && choices.finished.is_empty() => Err(Flaw::Empty),
        None if wants_choices => Err(Flaw::Empty),
        _ => Ok(usage.and_then(told_usage).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_did_not_stream_can_still_be_none() {
        let error = |dialect, body: &str| matches!(check_answer(dialect, body.as_bytes()), Err(Flaw::Error(_)));
        let half = r#"{"choices":[{"index":0,"message":{"content":"ha"},"finish_reason":"abort"}],"usage":null}"#;
        assert!(error(Dialect::Chat, half));
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Messages, Dialect::Responses, Dialect::Whole] {
            assert!(error(dialect, r#"{"error":{"code":500}}"#), "{dialect:?}");
            assert!(error(dialect, r#"{"object":"error","message":"x","code":500}"#), "{dialect:?}");
            assert!(error(dialect, r#"{"error":"scaling"}"#), "{dialect:?}");
            assert_eq!(check_answer(dialect, br#"{"choices":[{"index":0,"#), Err(Flaw::Cut), "{dialect:?}");
        }
        for nothing in ["{}", r#"{"choices":[]}"#, r#"{"choices":[{"index":0,"message":{}}]}"#] {
            assert_eq!(check_answer(Dialect::Chat, nothing.as_bytes()), Err(Flaw::Empty), "{nothing}");
        }
        assert!(
            check_answer(Dialect::Responses, br#"{"object":"response","status":"failed","error":{"code":"x"}}"#)
                .is_ok()
        );
        assert!(check_answer(Dialect::Responses, br#"{"object":"response","error":null}"#).is_ok());
        assert!(check_answer(Dialect::Messages, br#"{"input_tokens":3}"#).is_ok());
        assert!(check_answer(Dialect::Whole, br#"{"data":[]}"#).is_ok());
        assert!(check_answer(Dialect::Whole, b"[1, 2]").is_ok() && check_answer(Dialect::Whole, b"[1, 2").is_err());
    }
}
