//! One JSON line per fact, for `wrangler tail` and Workers Logs.

use fairlead_core::{
    config::Mistake,
    reload::{Report, Source},
};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn log(line: &str);
}

/// Writes a line that the core has made.
pub fn line(line: &str) {
    log(line);
}

#[derive(Serialize)]
struct ConfigLine<'a> {
    level: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(flatten)]
    mistake: Option<&'a Mistake>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
}

/// Writes what has come of reading `CONFIG`.
pub fn config(report: &Report) {
    let (level, event, source, mistake, operation) = match report {
        Report::Mistake(source, mistake) => ("error", "config", Some(*source), Some(mistake), None),
        Report::Warning(source, mistake) => ("warn", "config", Some(*source), Some(mistake), None),
        Report::Serves(source) => ("info", "config_taken", Some(*source), None, None),
        Report::StoreFailed(operation) => ("warn", "store_failed", None, None, Some(*operation)),
    };
    write(&ConfigLine { level, event, source, mistake, operation });
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
