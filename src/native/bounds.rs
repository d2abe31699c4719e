//! How large an answer a job may ask a worker-vllm for.
//!
//! Its input has one of three forms, and workers before and since its release 2.24 do not agree on which of them comes
//! first: whatever is there is held against the client's limits.

use super::{Object, invalid};
use crate::{
    access::Limits,
    api::Api,
    ask::{Edit, bound_object},
    error::Error,
    json::{edited, member, place_of, read_object, string, text_of},
};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The tokens that a worker makes of a `prompt` in its own form where none are named: before 2.24 so many, since then
/// vLLM's own 16. Of `messages` those since then make as many as there may be.
const WORKER_TOKENS: u64 = 100;

/// What an input becomes that leaves its length to the worker; `None` where it stays as it is.
pub(super) fn bound_input(input: &str, limits: &Limits) -> Result<Option<String>, Error> {
    let Ok(Object(fields)) = read_object::<Object>(input) else {
        return Err(invalid("input", "`input` must be an object, no field twice."));
    };
    let get = |name: &str| member(&fields, name).filter(|value| value.get() != "null");
    let mut edits: Vec<Edit> = Vec::new();
    for (route, body, unnamed) in [("openai_route", "openai_input", Some(Api::Chat)), ("route", "body", None)] {
        let api = get(route).map_or(unnamed, |route| text_of(route).and_then(|route| Api::at(&route)));
        let object = get(body).filter(|body| body.get().starts_with('{'));
        if let Some((api, object)) = api.zip(object) {
            let edit = bound_object(api, object.get(), None, limits).map_err(|error| within(body, error))?;
            edits.extend(edit.map(|edit| shifted(edit, object, input)));
        }
    }
    edits.extend(bound_own_form(input, &fields, limits)?);
    edits.sort_by_key(|(place, _)| place.start);
    let body = (!edits.is_empty()).then(|| edited(input.as_bytes(), edits));
    Ok(body.and_then(|body| String::from_utf8(body).ok()))
}

/// `{"messages" or "prompt", "sampling_params"}`: the latter are the rest of a request.
fn bound_own_form(input: &str, fields: &[(Cow<'_, str>, &RawValue)], limits: &Limits) -> Result<Option<Edit>, Error> {
    const PARAMS: &str = "sampling_params";
    let filled = |name: &str| member(fields, name).filter(|value| value.get() != "null");
    let (api, prompt) = match (filled("messages"), filled("prompt")) {
        (Some(_), _) => (Api::Chat, None),
        (None, Some(prompt)) => (Api::Completions, Some(prompt)),
        (None, None) => return Ok(None),
    };
    let params = filled(PARAMS);
    // Python makes a dictionary of a list of pairs as well.
    if params.is_some_and(|params| !params.get().starts_with('{')) {
        let message = "`input.sampling_params` must be an object.";
        return Err(invalid("input.sampling_params", message));
    }
    let object = params.map_or("{}", RawValue::get);
    let edit = bound_object(api, object, prompt, limits).map_err(|error| within(PARAMS, error))?;
    let suffices = |(place, _): &Edit| {
        // Other handlers take prompts, too, and need no such parameters.
        let is_missing = place.is_empty();
        is_missing && api == Api::Completions && limits.max_tokens.is_some_and(|most| most >= WORKER_TOKENS)
    };
    let Some(edit) = edit.filter(|edit| !suffices(edit)) else { return Ok(None) };
    Ok(Some(match (params, member(fields, PARAMS)) {
        (Some(params), _) => shifted(edit, params, input),
        (None, Some(null)) => (place_of(null.get(), input.as_bytes()), format!("{{{}}}", edit.1)),
        (None, None) => {
            let start = input.find('{').unwrap_or_default().saturating_add(1);
            // `messages` or `prompt` comes behind it.
            (start..start, format!("{}:{{{}}},", string(PARAMS), edit.1))
        }
    }))
}

/// An edit of a part as one of the whole.
fn shifted((place, text): Edit, part: &RawValue, whole: &str) -> Edit {
    let start = place_of(part.get(), whole.as_bytes()).start;
    (place.start.saturating_add(start)..place.end.saturating_add(start), text)
}

fn within(field: &str, error: Error) -> Error {
    let param = match &error.param {
        Some(param) => format!("input.{field}.{param}"),
        None => format!("input.{field}"),
    };
    error.with_param(param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn bounded(input: &str, max_tokens: u64) -> Result<String, (Code, String)> {
        let limits = Limits { max_tokens: Some(max_tokens), max_n: Some(2), ..Limits::default() };
        match bound_input(input, &limits) {
            Ok(bounded) => Ok(bounded.unwrap_or_else(|| input.to_owned())),
            Err(error) => Err((error.code, error.param.unwrap_or_default())),
        }
    }

    #[test]
    fn what_an_input_leaves_to_the_worker_is_written_into_it() {
        for (input, become_) in [
            (
                r#"{"openai_route":"/v1/chat/completions","openai_input":{"messages":[]}}"#,
                r#"{"openai_route":"/v1/chat/completions","openai_input":{"max_tokens":200,"messages":[]}}"#,
            ),
            (r#"{"openai_input":{"x":1.0}}"#, r#"{"openai_input":{"max_tokens":200,"x":1.0}}"#),
            (
                r#"{"route":"/v1/responses","body":{"max_output_tokens": null }}"#,
                r#"{"route":"/v1/responses","body":{"max_output_tokens": 200 }}"#,
            ),
            (r#"{"messages":[]}"#, r#"{"sampling_params":{"max_tokens":200},"messages":[]}"#),
            (
                r#"{ "sampling_params" : null,"messages":[]}"#,
                r#"{ "sampling_params" : {"max_tokens":200},"messages":[]}"#,
            ),
            (r#"{"messages":[],"sampling_params":{}}"#, r#"{"messages":[],"sampling_params":{"max_tokens":200}}"#),
            (
                r#"{"prompt":"x","sampling_params":{"max_tokens":null}}"#,
                r#"{"prompt":"x","sampling_params":{"max_tokens":200}}"#,
            ),
        ] {
            assert_eq!(bounded(input, 200).as_deref(), Ok(become_), "{input}");
        }
        assert_eq!(
            bounded(r#"{"prompt":"x"}"#, 99).as_deref(),
            Ok(r#"{"sampling_params":{"max_tokens":16},"prompt":"x"}"#)
        );
    }

    #[test]
    fn what_is_within_the_limits_or_no_text_at_all_stays_as_it_is() {
        for input in [
            r#"{"prompt":"x"}"#,
            r#"{"prompt":["x","y"],"sampling_params":{"n":1,"max_tokens":200}}"#,
            r#"{"openai_route":"/v1/models"}"#,
            r#"{"openai_route":"/v1/embeddings","openai_input":{"input":"x","max_tokens":9999}}"#,
            r#"{"route":"north","body":{"max_tokens":9999}}"#,
            r#"{"image":"x","sampling_params":[1]}"#,
        ] {
            assert_eq!(bounded(input, 200).as_deref(), Ok(input));
        }
    }

    #[test]
    fn whatever_an_input_looks_like_nothing_gets_by() {
        for (input, code, param) in [
            (r#"{"openai_input":{"max_tokens":201}}"#, Code::Forbidden, "input.openai_input.max_tokens"),
            (
                r#"{"openai_input":{"max\u005ftokens":201,"max_completion_tokens":5}}"#,
                Code::Forbidden,
                "input.openai_input.max_tokens",
            ),
            (r#"{"openai_input":{"max_tokens":1,"max_tokens":900}}"#, Code::InvalidRequest, "input.openai_input"),
            (r#"{"route":"/v1/completions","body":{"prompt":["a","b"],"n":2}}"#, Code::Forbidden, "input.body.prompt"),
            (
                r#"{"openai_input":{"max_tokens":5},"messages":[],"sampling_params":{"max_tokens":1e9}}"#,
                Code::InvalidRequest,
                "input.sampling_params.max_tokens",
            ),
            (
                r#"{"messages":[],"sampling_params":[["max_tokens",9999]]}"#,
                Code::InvalidRequest,
                "input.sampling_params",
            ),
            (
                r#"{"prompt":["a","b","c"],"sampling_params":{"max_tokens":5}}"#,
                Code::Forbidden,
                "input.sampling_params.prompt",
            ),
            (
                r#"{"prompt":"a","sampling_params":{"best_of":3,"max_tokens":5}}"#,
                Code::Forbidden,
                "input.sampling_params.best_of",
            ),
        ] {
            assert_eq!(bounded(input, 200), Err((code, param.to_owned())), "{input}");
        }
    }
}
