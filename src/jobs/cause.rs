//! Why a job failed, told from RunPod's words and its worker's (wire facts, sections 2 and 7).

use super::python;
use crate::{
    classify::JobFailure,
    message::{Headers, ResponseHead},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// Why a job failed, from the JSON of its `error`.
///
/// A handler's exception comes as JSON in a string (`error_message`), a generator's as
/// `handler: … \ntraceback: …`; worker-vllm's as the representation of a Python dictionary: since
/// 2.24 with `vLLM returned HTTP 400: …` for its message, before with the server's own fields, the
/// status in `code`. RunPod's own words stand for themselves.
pub fn cause(error: &str, limit_ms: Option<u64>) -> JobFailure {
    let words = serde_json::from_str::<String>(error).unwrap_or_else(|_| error.to_owned());
    let dict = python::read_dict(&words);
    let told = dict.as_ref().and_then(|dict| dict.get("message")).and_then(Value::as_str).unwrap_or(&words);
    if let Some((status, rest)) = vllm_status(told) {
        return answered(status, first_object(rest));
    }
    if let Some(dict) = &dict
        && let Some(status) = status_in(dict)
    {
        return answered(status, Some(json!({ "error": dict }).to_string().into_bytes()));
    }
    let has = |needle: &str| words.contains(needle);
    if has("executionTimeout exceeded") || has("execution timeout") {
        return JobFailure::TimedOut { limit_ms };
    }
    if has("job timed out after") {
        return JobFailure::WorkerLost;
    }
    JobFailure::Raised(message(told))
}

/// The refusal that an older worker has put out as if it were an answer: vLLM before 0.10.1 said
/// `{"object":"error","message":…,"code":400}`, which the worker SDK takes for no error.
pub fn flat_error(json: &str) -> Option<JobFailure> {
    if !json.contains("\"error\"") {
        return None;
    }
    let value: Value = serde_json::from_str(json).ok()?;
    let value = value.as_array().and_then(|list| list.first()).unwrap_or(&value);
    let is_error = value.get("object").is_some_and(|object| object == "error");
    let status = status_in(value).filter(|_| is_error)?;
    Some(answered(status, Some(value.to_string().into_bytes())))
}

fn answered(status: u16, body: Option<Vec<u8>>) -> JobFailure {
    let headers = Headers::from_iter([("content-type", "application/json")]);
    JobFailure::Answered { head: ResponseHead { status, headers }, body }
}

fn status_in(error: &Value) -> Option<u16> {
    let code = error.get("code")?.as_u64()?;
    u16::try_from(code).ok().filter(|status| (400..600).contains(status))
}

/// The status in `vLLM returned HTTP 400: …`, and what stands behind it.
fn vllm_status(words: &str) -> Option<(u16, &str)> {
    let (_, rest) = words.split_once("vLLM returned HTTP ")?;
    let (digits, rest) = rest.split_at_checked(3)?;
    let status = digits.parse().ok().filter(|status| (400..600).contains(status))?;
    Some((status, rest.strip_prefix(": ").unwrap_or(rest)))
}

/// The server's own JSON at the start of this.
fn first_object(text: &str) -> Option<Vec<u8>> {
    let value = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>().next()?.ok()?;
    value.get().starts_with('{').then(|| value.get().as_bytes().to_vec())
}

/// The longest message of a handler's exception that is passed on.
const MAX_MESSAGE: usize = 300;

/// A handler's message without its traceback.
fn message(words: &str) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raised {
        error_type: String,
        error_message: String,
    }
    let Raised { error_type, error_message } = serde_json::from_str(words).unwrap_or_default();
    // `<class 'ValueError'>`
    let class = error_type.split('\'').nth(1).unwrap_or(&error_type).to_owned();
    let (told, _) = words.split_once("traceback:").unwrap_or((words, ""));
    let told = told.trim().strip_prefix("handler:").unwrap_or(told).trim();
    let text = match (class.is_empty(), error_message.is_empty()) {
        (false, false) => format!("{class}: {error_message}"),
        (false, true) => class,
        (true, false) => error_message,
        (true, true) => told.to_owned(),
    };
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(error: &str) -> (u16, String) {
        // As the platform tells it: text in JSON.
        match cause(&serde_json::to_string(error).unwrap(), None) {
            JobFailure::Answered { head, body } => (head.status, String::from_utf8(body.unwrap_or_default()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_servers_status_and_words_are_got_back_from_a_python_representation() {
        let single = r#"{'message': 'vLLM returned HTTP 400: {"error":{"message":"it\'s \\n bad\u200d","code":400}}', 'type': 'worker_error', 'code': None}"#;
        assert_eq!(
            answered(single),
            (400, "{\"error\":{\"message\":\"it's \\n bad\u{200d}\",\"code\":400}}".to_owned())
        );
        let double = r#"{'message': "vLLM returned HTTP 503: it's full", 'type': 'worker_error', 'code': None}"#;
        assert_eq!(answered(double), (503, String::new()));
        let older = r#"{'object': 'error', 'message': 'no', 'type': 'BadRequestError', 'param': None, 'code': 400}"#;
        assert_eq!(answered(older).0, 400);
        let older = r#"{'message': 'no', 'type': 'BadRequestError', 'param': None, 'code': 404}"#;
        let body = r#"{"error":{"code":404,"message":"no","param":null,"type":"BadRequestError"}}"#;
        assert_eq!(answered(older), (404, body.to_owned()));
        assert_eq!(answered("vLLM returned HTTP 429: {\"error\":\"x\"}").0, 429);
    }

    #[test]
    fn what_runpod_and_handlers_say_is_told_apart() {
        let cause = |error: &str| cause(&serde_json::to_string(error).unwrap(), Some(5000));
        assert_eq!(cause("executionTimeout exceeded"), JobFailure::TimedOut { limit_ms: Some(5000) });
        assert_eq!(cause("job timed out after 1 retries"), JobFailure::WorkerLost);
        let raised = r#"{"error_type": "<class 'ValueError'>", "error_message": "no such file", "error_traceback": "Traceback …", "hostname": "h"}"#;
        assert_eq!(cause(raised), JobFailure::Raised("ValueError: no such file".to_owned()));
        let generator = "handler: no such file \ntraceback: Traceback (most recent call last): …";
        assert_eq!(cause(generator), JobFailure::Raised("no such file".to_owned()));
        assert_eq!(cause(""), JobFailure::Raised(String::new()));
        for odd in
            ["vLLM returned HTTP ", "vLLM returned HTTP 4é0", "{'message': 1, 'code': 9}", "\\", "{'message': '\\u12"]
        {
            let _ = cause(odd);
        }
    }
}
