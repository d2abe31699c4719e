//! One JSON line per fact, for `wrangler tail` and Workers Logs.

use fairlead_core::{config::Mistake, event::Event};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn log(line: &str);
}

/// What every line of a call begins with.
#[derive(Clone, Debug, Serialize)]
pub struct CallFields {
    /// The request's id.
    pub request_id: String,
    /// The trace it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The client's name in `CONFIG`; none where the gateway is open to anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The route.
    pub route: &'static str,
    /// The entry of `models`, never the caller's own text; empty for an operator's requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
}

#[derive(Serialize)]
struct CallLine<'a> {
    level: &'a str,
    #[serde(flatten)]
    fields: &'a CallFields,
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes a call's failures, with what followed, its hedge, how it went on behind a break, and its end. An attempt that
/// merely starts is no news.
pub fn call(fields: &CallFields, event: &Event) {
    let level = match event {
        Event::AttemptStarted { .. } | Event::JobStarted { .. } => return,
        Event::JobCancelled { outcome: "cancelled" | "ended", .. } | Event::JobEnded { .. } => "info",
        Event::BreakerClosed { .. } | Event::HedgeStarted { .. } => "info",
        Event::ResumeStarted { .. } | Event::StreamResumed { .. } => "info",
        Event::AttemptFailed { .. }
        | Event::JobSlow { .. }
        | Event::CharactersDestroyed { .. }
        | Event::BreakerOpened { .. }
        | Event::StoreFailed { .. }
        | Event::JobCancelled { .. } => "warn",
        Event::CallEnded { outcome, .. } if outcome == "ok" || outcome == "client_gone" => "info",
        Event::CallEnded { outcome, .. } if outcome == "partial" => "warn",
        Event::CallEnded { .. } => "error",
    };
    write(&CallLine { level, fields, event });
}

#[derive(Serialize)]
struct ConfigLine<'a> {
    level: &'a str,
    event: &'a str,
    path: &'a str,
    message: &'a str,
}

/// Writes a mistake or a warning about `CONFIG`.
pub fn config(level: &str, mistake: &Mistake) {
    write(&ConfigLine { level, event: "config", path: &mistake.path, message: &mistake.message });
}

#[derive(Serialize)]
struct InternalLine<'a> {
    level: &'a str,
    event: &'a str,
    request_id: &'a str,
    message: &'a str,
}

/// Writes an exception of the platform that nothing was ready for.
pub fn internal(request_id: &str, error: &JsValue) {
    let message = error.dyn_ref::<js_sys::Error>().map(|error| String::from(error.message())).unwrap_or_default();
    write(&InternalLine { level: "error", event: "internal", request_id, message: &message });
}

fn write(line: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(line) {
        log(&line);
    }
}
