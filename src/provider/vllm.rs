//! vLLM, and every other server that speaks OpenAI's HTTP.

use crate::{
    api::Api,
    ask::Ask,
    json::string,
    message::{Headers, Method, Request},
    settings::{Endpoint, Target},
};

/// The policy that a caller asks for: a word between callers and gateways, which no other server gets.
pub(super) const POLICY: &str = "x-fairlead-policy";

/// The request for one attempt: the caller's bytes with the target's model in them.
///
/// The id goes out as `<id>-<attempt>`, because before 0.14 vLLM's engine could break when an id
/// came twice at a time (vllm#10583), and because it tells attempts apart in the server's log.
pub fn request(ask: &Ask, target: &Target, request_id: &str, attempt: u32) -> Request {
    let headers = headers(ask, target, &format!("{request_id}-{attempt}"));
    let url = url(&target.endpoint, ask.api.path());
    Request { method: Method::Post, url, headers, body: ask.body_for(target.model.as_deref()) }
}

/// The caller's fields, with the attempt's id and the endpoint's own key.
fn headers(ask: &Ask, target: &Target, attempt_id: &str) -> Headers {
    let mut headers: Headers = ask.headers.iter().filter(|(name, _)| *name != POLICY).collect();
    if headers.get("content-type").is_none() {
        headers.set("content-type", "application/json");
    }
    headers.set("x-request-id", attempt_id);
    if let Some(key) = &target.endpoint.api_key {
        headers.set("authorization", format!("Bearer {}", key.reveal()));
    }
    headers
}

/// Asks a server how many tokens this text is to the model that a call asks it for.
///
/// With the fields of the call: a server may let nobody in without one of them.
pub fn count_request(ask: &Ask, target: &Target, text: &str, attempt_id: &str) -> Request {
    let model = string(target.model.as_deref().unwrap_or(&ask.model));
    let body = format!(r#"{{"model":{model},"prompt":{},"add_special_tokens":false}}"#, string(text));
    let headers = headers(ask, target, attempt_id);
    let url = url(&target.endpoint, Api::Tokenize.path());
    Request { method: Method::Post, url, headers, body: body.into_bytes().into() }
}

/// Routes below `/v1` stand below the endpoint's prefix, the others at its root.
fn url(endpoint: &Endpoint, path: &str) -> String {
    let Endpoint { root, prefix, .. } = endpoint;
    match path.strip_prefix("/v1") {
        Some(rest) => format!("{root}{prefix}{rest}"),
        None => format!("{root}{path}"),
    }
}

/// Header fields of an endpoint's response that the client gets to see.
const RETURNED: [&str; 6] =
    ["cache-control", "content-disposition", "content-language", "content-type", "metadata", "openai-processing-ms"];

/// What of a response's header goes on to the client: no cookies, no CORS of the endpoint's, no
/// framing (the host makes its own), nothing that tells what server it was.
pub fn returned(headers: &Headers) -> Headers {
    headers.iter().filter(|(name, _)| RETURNED.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;
    use std::rc::Rc;

    fn target(root: &str, prefix: &'static str) -> Target {
        let api_key = Some(Secret::new("sk-endpoint".to_owned()));
        let endpoint = Endpoint { name: "a".to_owned(), root: root.to_owned(), prefix, api_key, ..Endpoint::default() };
        Target { endpoint: Rc::new(endpoint), index: 0, model: Some("served".to_owned()), weight: 1 }
    }

    #[test]
    fn the_endpoint_gets_its_own_key_name_and_an_id_per_attempt() {
        let headers = Headers::from_iter([("authorization", "Bearer client"), ("content-type", "application/json")]);
        let ask = Ask::read(Api::Chat, &headers, br#"{"model":"qwen"}"#[..].into()).unwrap();
        let request = request(&ask, &target("https://gpu.example.com", "/v1"), "req-1", 2);
        assert_eq!(request.url, "https://gpu.example.com/v1/chat/completions");
        assert_eq!(request.headers.get("authorization"), Some("Bearer sk-endpoint"));
        assert_eq!(request.headers.get("x-request-id"), Some("req-1-2"));
        assert_eq!(*request.body, *br#"{"model":"served"}"#);
    }

    #[test]
    fn tokens_are_counted_with_the_fields_of_the_call() {
        let headers =
            Headers::from_iter([("x-own", "1"), ("x-fairlead-policy", "p"), ("authorization", "Bearer client")]);
        let mut ask = Ask::read(Api::Chat, &headers, br#"{"model":"qwen"}"#[..].into()).unwrap();
        ask.headers = headers;
        let request = count_request(&ask, &target("https://gpu.example.com", "/v1"), "a\"b", "req-1-2");
        let fields: Vec<_> = ["x-own", "x-fairlead-policy", "authorization", "x-request-id", "content-type"]
            .map(|name| request.headers.get(name).map(str::to_owned))
            .into();
        let expected = [Some("1"), None, Some("Bearer sk-endpoint"), Some("req-1-2"), Some("application/json")];
        assert_eq!(fields, expected.map(|field| field.map(str::to_owned)));
        assert_eq!(request.url, "https://gpu.example.com/tokenize");
        assert_eq!(*request.body, *br#"{"model":"served","prompt":"a\"b","add_special_tokens":false}"#);
    }

    #[test]
    fn routes_outside_v1_stand_at_the_root() {
        let plain = target("https://x.example.com/api", "");
        assert_eq!(url(&plain.endpoint, "/v1/chat/completions"), "https://x.example.com/api/chat/completions");
        assert_eq!(url(&target("https://x", "/v1").endpoint, "/tokenize"), "https://x/tokenize");
        assert_eq!(
            url(&target("https://x/v2/id", "/openai/v1").endpoint, "/v1/completions"),
            "https://x/v2/id/openai/v1/completions"
        );
    }

    #[test]
    fn cookies_and_cors_of_the_endpoint_stay_behind() {
        let headers = Headers::from_iter([
            ("set-cookie", "a"),
            ("access-control-allow-origin", "*"),
            ("server", "uvicorn"),
            ("content-length", "3"),
            ("content-type", "text/plain"),
        ]);
        assert_eq!(returned(&headers), Headers::from_iter([("content-type", "text/plain")]));
    }
}
