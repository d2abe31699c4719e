//! RunPod serverless: where its operations are, what a job is wrapped in, and what its words mean.
//!
//! Sources: the wire facts, sections 2 and 7.

use crate::{
    api::Dialect,
    ask::Ask,
    classify::{Failure, JobFailure},
    find::find,
    jobs::{self, Op, Piece, cause},
    json::{Text, one_line, read_object, text},
    message::{Headers, Method, Request, ResponseHead},
    settings::{Endpoint, Target},
    time::Instant,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::{borrow::Cow, rc::Rc};

/// What `/run` takes, in bytes; larger ones go to `/runsync`.
pub const MAX_RUN: usize = 10_000_000;
/// What `/runsync` takes, in bytes.
pub const MAX_RUNSYNC: usize = 20_000_000;

/// RunPod's bounds on `executionTimeout` and `ttl`, in milliseconds.
const EXECUTION_MS: (u64, u64) = (5000, 604_800_000);
const TTL_MS: (u64, u64) = (10_000, 604_800_000);

/// A job expires so long before its caller's deadline.
const TTL_MARGIN_MS: u64 = 500;

/// And its execution ends so long before, that its end can still be told.
pub const EXECUTION_MARGIN_MS: u64 = 2000;

/// How long a job may be at work, and how long it may exist, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// `executionTimeout`
    pub execution_ms: u64,
    /// `ttl`, from the submission on. RunPod deletes the job then, even while it runs.
    pub ttl_ms: u64,
}

impl Lifetime {
    /// Of a job whose caller waits until `deadline`.
    pub fn until(now: Instant, deadline: Instant, endpoint: &Endpoint) -> Self {
        let left = |margin_ms| now.until(deadline).saturating_sub(margin_ms);
        Self::within(left(EXECUTION_MARGIN_MS), left(TTL_MARGIN_MS), endpoint)
    }

    /// Inside RunPod's bounds and the endpoint's own.
    pub fn within(execution_ms: u64, ttl_ms: u64, endpoint: &Endpoint) -> Self {
        let bound = |ms: u64, (least, most): (u64, u64), own: u64| ms.min(own).clamp(least, most);
        Self {
            execution_ms: bound(execution_ms, EXECUTION_MS, endpoint.max_execution_ms),
            ttl_ms: bound(ttl_ms, TTL_MS, endpoint.max_ttl_ms),
        }
    }
}

/// An operation on a job, or on the endpoint's queue.
pub fn operation(endpoint: &Endpoint, op: Op, job: Option<&str>, request_id: &str) -> Request {
    let job = job.unwrap_or_default();
    let (method, path) = match op {
        Op::Health => (Method::Get, "/health".to_owned()),
        Op::Submit => (Method::Post, "/run".to_owned()),
        Op::Stream => (Method::Get, format!("/stream/{job}")),
        Op::Status => (Method::Get, format!("/status/{job}")),
        Op::Cancel => (Method::Post, format!("/cancel/{job}")),
    };
    request(endpoint, method, &path, request_id, Rc::new([]))
}

/// A request to the endpoint's queue.
pub fn request(endpoint: &Endpoint, method: Method, path: &str, request_id: &str, body: Rc<[u8]>) -> Request {
    let mut headers = Headers::from_iter([("x-request-id", request_id)]);
    if !body.is_empty() {
        headers.set("content-type", "application/json");
    }
    if let Some(key) = &endpoint.api_key {
        headers.set("authorization", format!("Bearer {}", key.reveal()));
    }
    Request { method, url: format!("{}{path}", endpoint.root), headers, body }
}

/// The submission of a job; `None` where it is more than RunPod takes.
pub fn submission(endpoint: &Endpoint, body: Rc<[u8]>, request_id: &str) -> Option<Request> {
    let path = match body.len() {
        0..=MAX_RUN => "/run",
        // Answers with the job's id as soon as it may, which is after a second.
        _ if body.len() <= MAX_RUNSYNC => "/runsync?wait=1000",
        _ => return None,
    };
    Some(request(endpoint, Method::Post, path, request_id, body))
}

/// What a worker-vllm is given for a call: the route, and the caller's own bytes.
pub fn openai_job(ask: &Ask, target: &Target, lifetime: Lifetime) -> Rc<[u8]> {
    let route = ask.api.path();
    let before = format!(r#"{{"input":{{"openai_route":"{route}","openai_input":"#);
    let Lifetime { execution_ms, ttl_ms } = lifetime;
    let behind = format!(r#"}},"policy":{{"executionTimeout":{execution_ms},"ttl":{ttl_ms}}}}}"#);
    [before.as_bytes(), &ask.body_for(target.model.as_deref()), behind.as_bytes()].concat().into()
}

/// What an output of a worker-vllm adds to the event stream that was asked for.
///
/// Since 2.24 it is raw text of the stream, of arbitrary extent. Older workers send the same in
/// batches, or the chunks as objects, one by one or in lists, without `[DONE]`; asked in their own
/// form they send `{"choices":[{"tokens":[…]}],"usage":{…}}`.
pub fn stream_bytes(piece: Piece, dialect: Dialect) -> Vec<u8> {
    match piece {
        Piece::Text(text) => text.into_bytes(),
        Piece::Json(json) => {
            let list: Vec<&RawValue> = serde_json::from_str(&json).unwrap_or_default();
            if list.is_empty() {
                return frame(&json, dialect);
            }
            let bytes = |item: &RawValue| match Piece::read(item) {
                Piece::Text(text) => text.into_bytes(),
                Piece::Json(json) => frame(&json, dialect),
            };
            list.into_iter().flat_map(bytes).collect()
        }
    }
}

fn frame(event: &str, dialect: Dialect) -> Vec<u8> {
    [b"data: ", one_line(&chunk(event, dialect)).as_bytes(), b"\n\n"].concat()
}

/// The answer that a worker-vllm's result holds: a list of one, or the answer itself, as an object
/// or as text.
pub fn whole_bytes(result: &RawValue, dialect: Dialect) -> Vec<u8> {
    let list: Vec<&RawValue> = serde_json::from_str(result.get()).unwrap_or_default();
    let only = if let [only] = *list { only } else { result };
    // A result may have many megabytes: it is copied once.
    match serde_json::from_str::<Text>(only.get()) {
        Ok(Text(text)) => text.into_owned().into_bytes(),
        Err(_) => answer(only.get(), dialect).into_owned().into_bytes(),
    }
}

/// The native output of workers before 2.24.
#[derive(Deserialize)]
struct Native {
    choices: Vec<NativeChoice>,
    #[serde(default)]
    usage: Option<NativeUsage>,
}

#[derive(Deserialize)]
struct NativeChoice {
    tokens: Vec<String>,
}

#[derive(Deserialize)]
struct NativeUsage {
    #[serde(default)]
    input: u64,
    #[serde(default)]
    output: u64,
}

impl Native {
    fn read(json: &str) -> Option<Self> {
        // A chunk with nothing but token counts has no choices, in OpenAI's form.
        serde_json::from_str(json).ok().filter(|native: &Self| !native.choices.is_empty())
    }

    fn usage(&self) -> Option<Value> {
        let NativeUsage { input, output } = self.usage.as_ref()?;
        let total = input.saturating_add(*output);
        Some(json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": total }))
    }

    fn texts(&self) -> impl Iterator<Item = (usize, String)> {
        self.choices.iter().map(|choice| choice.tokens.concat()).enumerate()
    }
}

/// Whether this is the native output of an older worker, which does not say how a choice ends.
pub fn is_native(piece: &Piece) -> bool {
    matches!(piece, Piece::Json(json) if Native::read(json).is_some())
}

/// The end that a native stream owes once its job has completed.
pub fn native_end(choices: usize) -> Vec<u8> {
    let choice = |index| json!({ "index": index, "delta": {}, "text": "", "finish_reason": "stop" });
    let choices: Vec<Value> = (0..choices).map(choice).collect();
    let chunk =
        json!({ "id": "job", "object": "chat.completion.chunk", "created": 0, "model": "", "choices": choices });
    format!("data: {chunk}\n\n").into_bytes()
}

/// An event's JSON in the dialect that was asked for.
fn chunk(json: &str, dialect: Dialect) -> Cow<'_, str> {
    let Some(native) = Native::read(json) else { return json.into() };
    let choices: Vec<Value> = match dialect {
        Dialect::Completions => {
            native.texts().map(|(index, text)| json!({ "index": index, "text": text, "finish_reason": null })).collect()
        }
        _ => {
            let choice = |(index, text)| json!({ "index": index, "delta": { "content": text }, "finish_reason": null });
            native.texts().map(choice).collect()
        }
    };
    let object = if dialect == Dialect::Completions { "text_completion" } else { "chat.completion.chunk" };
    let usage = native.usage();
    json!({ "id": "job", "object": object, "created": 0, "model": "", "choices": choices, "usage": usage })
        .to_string()
        .into()
}

/// An answer's JSON in the dialect that was asked for.
fn answer(json: &str, dialect: Dialect) -> Cow<'_, str> {
    let Some(native) = Native::read(json) else { return json.into() };
    let choice = |(index, text): (usize, String)| match dialect {
        Dialect::Completions => json!({ "index": index, "text": text, "finish_reason": "stop" }),
        _ => {
            let message = json!({ "role": "assistant", "content": text });
            json!({ "index": index, "message": message, "finish_reason": "stop" })
        }
    };
    let choices: Vec<Value> = native.texts().map(choice).collect();
    let object = if dialect == Dialect::Completions { "text_completion" } else { "chat.completion" };
    let usage = native.usage();
    json!({ "id": "job", "object": object, "created": 0, "model": "", "choices": choices, "usage": usage })
        .to_string()
        .into()
}

/// A load balancer's own words where no worker of its endpoint answers: its statuses are
/// undocumented, its words are not.
pub fn has_no_worker(body: &[u8]) -> bool {
    let says = |words: &str| find(body, words.as_bytes()).is_some();
    says("no workers available") || says("affinity_worker_gone") || says("worker_timeout")
}

/// What a proxy of RunPod's says instead of a server: whatever its status, that there is no worker,
/// or how the job inside it failed, where jobs are known.
pub fn said(head: &ResponseHead, body: &[u8]) -> Option<Failure> {
    #[derive(Deserialize)]
    struct Said<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    if has_no_worker(body) {
        return Some(no_room(head));
    }
    if !jobs::ENABLED {
        return None;
    }
    let error = read_object::<Said>(text(body)).ok()?.error?.get();
    match cause(Some(error).filter(|error| error.starts_with('"'))?, None) {
        answered @ JobFailure::Answered { .. } => Some(answered.unwrapped()),
        _ => None,
    }
}

fn no_room(head: &ResponseHead) -> Failure {
    Failure::Status { head: ResponseHead { status: 503, ..head.clone() }, body: None }
}

/// What an answer of a proxy of RunPod's that is none really is.
pub fn refusal(failure: Failure) -> Failure {
    let Failure::Status { head, body } = failure else { return failure };
    if let Some(said) = body.as_deref().and_then(|body| said(&head, body)) {
        return said;
    }
    match head.status {
        // What a worker's `/ping` says while it starts.
        204 => no_room(&head),
        200..=299 => Failure::Invalid("something else than the answer that was asked for"),
        _ => Failure::Status { head, body },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_times_stay_inside_runpods_bounds_and_the_endpoints_own() {
        let endpoint = Endpoint { max_execution_ms: 60_000, max_ttl_ms: 90_000, ..Endpoint::default() };
        let until = |ms| Lifetime::until(Instant::from_millis(0), Instant::from_millis(ms), &endpoint);
        assert_eq!(until(31_000), Lifetime { execution_ms: 29_000, ttl_ms: 30_500 });
        assert_eq!(until(2000), Lifetime { execution_ms: 5000, ttl_ms: 10_000 });
        assert_eq!(until(3_600_000), Lifetime { execution_ms: 60_000, ttl_ms: 90_000 });
    }

    #[test]
    fn every_form_of_a_workers_output_becomes_the_stream_that_was_asked_for() {
        let stream = |piece, dialect| String::from_utf8(stream_bytes(piece, dialect)).unwrap();
        assert_eq!(stream(Piece::Text("data: {\"a".into()), Dialect::Chat), "data: {\"a");
        let list = Piece::Json(r#"[{"choices":[]},{"choices":[]}]"#.into());
        assert_eq!(stream(list, Dialect::Chat), "data: {\"choices\":[]}\n\n".repeat(2));
        let native = || Piece::Json(r#"{"choices":[{"tokens":["It ","was"]}],"usage":{"input":3,"output":2}}"#.into());
        assert!(is_native(&native()));
        let chat = stream(native(), Dialect::Chat);
        assert!(chat.contains(r#""delta":{"content":"It was"}"#) && chat.contains(r#""prompt_tokens":3"#), "{chat}");
        assert!(stream(native(), Dialect::Completions).contains(r#""text":"It was""#));
        let whole = |json: &str| {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            String::from_utf8(whole_bytes(&raw, Dialect::Chat)).unwrap()
        };
        assert_eq!(whole(r#"[{"id": 1.0}]"#), r#"{"id": 1.0}"#, "bytes are kept");
        assert_eq!(whole(r#"{"id":1}"#), r#"{"id":1}"#);
        assert_eq!(whole(r#"["{\"id\":1}"]"#), r#"{"id":1}"#);
        assert!(whole(r#"[{"choices":[{"tokens":["a"]}]}]"#).contains(r#""finish_reason":"stop""#));
    }
}
