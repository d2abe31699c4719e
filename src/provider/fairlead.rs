//! A gateway of our own: asked like [vLLM](super::vllm), told how much time is left, and believed when it says why it
//! failed, because those words were made for the caller.

use super::vllm;
use crate::{
    ask::Ask,
    classify::{Failure, Told},
    error::{Code, Error},
    json::{member, members, text, text_of},
    message::{Headers, Request},
    settings::Target,
};

/// The request for one attempt, with the milliseconds that are left of its call: the gateway need not work any longer.
pub fn request(ask: &Ask, target: &Target, request_id: &str, attempt: u32, left_ms: u64) -> Request {
    let mut request = vllm::request(ask, target, request_id, attempt);
    if let Some(policy) = ask.headers.get(vllm::POLICY) {
        request.headers.set(vllm::POLICY, policy);
    }
    // Only a caller's own host lets one come this far: it speaks for this call, where the key speaks for all.
    if let Some(own) = ask.headers.get("authorization") {
        request.headers.set("authorization", own);
    }
    request.headers.set("x-fairlead-deadline-ms", left_ms.to_string());
    request
}

/// A refusal as the gateway's own words, if that is what its body holds: behind the same address there may be another
/// server, or a proxy.
pub fn refusal(failure: Failure) -> Failure {
    match failure {
        Failure::Status { head, body: Some(body) } => match error(&body) {
            Some(error) => Failure::Told(Box::new(Told { error, answer: Some((head, body)) })),
            None => Failure::Status { head, body: Some(body) },
        },
        failure => failure,
    }
}

/// The words of an error event, if they are the gateway's own.
pub fn event(data: &[u8]) -> Option<Failure> {
    error(data).map(|error| Failure::Told(Box::new(Told { error, answer: None })))
}

/// What of the header of the gateway's response goes on to the client: who has answered it, and when to come back, is
/// for it, too.
pub fn returned(headers: &Headers) -> Headers {
    let mut returned = vllm::returned(headers);
    for name in ["retry-after", "x-fairlead-attempts", "x-fairlead-endpoint", "x-fairlead-truncated", "x-should-retry"]
    {
        if let Some(value) = headers.get(name) {
            returned.set(name, value);
        }
    }
    returned
}

/// Reads `{"error":{"code":…}}`, whatever stands beside it, where the code is one of ours.
fn error(json: &[u8]) -> Option<Error> {
    let fields = members(member(&members(text(json))?, "error")?.get())?;
    let text = |name| text_of(member(&fields, name)?);
    let error = Error::new(Code::read(&text("code")?)?, text("message")?);
    Some(match text("param") {
        Some(param) => error.with_param(param),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Api, Dialect},
        settings::{Endpoint, Secret},
    };
    use std::rc::Rc;

    #[test]
    fn only_a_gateway_is_told_the_policy_and_the_time_that_is_left() {
        let headers = Headers::from_iter([("content-type", "application/json")]);
        let mut ask = Ask::read(Api::Chat, &headers, br#"{"model":"m"}"#[..].into()).unwrap();
        ask.headers.set(vllm::POLICY, "chat-ui");
        let endpoint = Rc::new(Endpoint { root: "https://x".to_owned(), prefix: "/v1", ..Endpoint::default() });
        let target = Target { endpoint, index: 0, model: None, weight: 1 };
        let sent = request(&ask, &target, "req", 1, 1500);
        assert_eq!(sent.headers.get("x-fairlead-policy"), Some("chat-ui"));
        assert_eq!(sent.headers.get("x-fairlead-deadline-ms"), Some("1500"));
        assert_eq!((&*sent.url, sent.headers.get("x-request-id")), ("https://x/v1/chat/completions", Some("req-1")));
        let plain = vllm::request(&ask, &target, "req", 1);
        assert!(plain.headers.iter().all(|(name, _)| !name.starts_with("x-fairlead")));
    }

    #[test]
    fn a_calls_own_authorization_goes_before_the_key() {
        let mut ask = Ask::read(Api::Chat, &Headers::new(), br#"{"model":"m"}"#[..].into()).unwrap();
        let api_key = Some(Secret::new("key".to_owned()));
        let endpoint =
            Rc::new(Endpoint { root: "https://x".to_owned(), prefix: "/v1", api_key, ..Endpoint::default() });
        let target = Target { endpoint, index: 0, model: None, weight: 1 };
        let sent = |ask: &Ask| request(ask, &target, "req", 1, 1500).headers.get("authorization").map(str::to_owned);
        assert_eq!(sent(&ask).as_deref(), Some("Bearer key"));
        ask.headers.set("authorization", "Bearer own");
        assert_eq!(sent(&ask).as_deref(), Some("Bearer own"));
    }

    #[test]
    fn every_error_of_a_gateway_is_understood_in_every_dialect() {
        let sent = Error::new(Code::UpstreamTimeout, "It \"took\" long.").with_param("idle");
        for dialect in [Dialect::Chat, Dialect::Messages, Dialect::Responses] {
            assert_eq!(error(&sent.body(dialect)), Some(sent.clone()));
            let event = sent.event(dialect);
            let data = event.windows(6).position(|bytes| bytes == b"data: ").map(|at| &event[at + 6..]);
            assert_eq!(error(data.unwrap()), Some(sent.clone()));
        }
        for code in ["internal", "upstream_rejected_key", "job_timed_out", "request_too_large"] {
            let body = format!(r#"{{"error":{{"message":"","param":null,"code":"{code}"}}}}"#);
            assert_eq!(error(body.as_bytes()).unwrap().code.as_str(), code);
        }
    }

    #[test]
    fn other_servers_words_are_not_taken_for_a_gateways() {
        for body in [
            r#"{"error":{"message":"no","type":"InternalServerError","param":null,"code":500}}"#,
            r#"{"error":{"message":"no","code":"server_error"}}"#,
            r#"{"error":{"code":"internal"}}"#,
            r#"{"error":"internal"}"#,
            r#"{"code":"internal","message":"no"}"#,
            r#"[{"error":{"message":"no","code":"internal"}}]"#,
            "",
        ] {
            assert_eq!(error(body.as_bytes()), None, "{body}");
        }
    }
}
