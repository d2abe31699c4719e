//! What a path means, before anything else of a request is looked at.

use crate::admin::Matter;
use fairlead_core::{api::Api, native};

/// The method that a path takes; `None` where there is nothing.
pub fn method_of(path: &str) -> Option<&'static str> {
    let read = path == "/health" || is_models(path);
    match native::Path::read(path) {
        _ if read => Some("GET"),
        Some(path) => Some(path.verb.method().as_str()),
        None => Matter::read(path).map(Matter::method).or_else(|| Api::at(path).map(|_| "POST")),
    }
}

/// The client's route that a path belongs to, by a name that is none of the caller's.
pub fn route_of(path: &str) -> Option<&'static str> {
    match native::Path::read(path) {
        Some(_) => Some(Api::Job.path()),
        None if is_models(path) => Some(MODELS),
        None => Api::at(path).map(Api::path),
    }
}

const MODELS: &str = "/v1/models";

fn is_models(path: &str) -> bool {
    path.strip_prefix(MODELS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A name from a path; SDKs and pages encode what is special in names like `Qwen/Qwen2.5-7B`.
pub fn decoded(name: &str) -> String {
    js_sys::decode_uri_component(name).map_or_else(|_| name.to_owned(), String::from)
}

/// The path of an absolute URL, as the platform has normalised it.
pub fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').and_then(|start| rest.get(start..)).unwrap_or("/");
    path.split(['?', '#']).next().unwrap_or("/")
}

/// What stands behind the `?` of an absolute URL.
pub fn query_of(url: &str) -> &str {
    let url = url.split('#').next().unwrap_or_default();
    url.split_once('?').map_or("", |(_, query)| query)
}
