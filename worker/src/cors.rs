//! Which pages may call from a browser (Fetch, "HTTP-CORS protocol").

use fairlead_core::message::Headers;

/// What a page may read of a response, beyond what every page may.
const EXPOSED: &str = "x-request-id, x-fairlead-endpoint, x-fairlead-attempts, x-fairlead-truncated, server-timing, retry-after, x-should-retry, ratelimit, ratelimit-policy";

/// Fields that let the page that asks read the response; none where it may not.
pub fn fields(origins: &[String], request: &Headers) -> Vec<(&'static str, String)> {
    if origins.is_empty() {
        return Vec::new();
    }
    // A cache must not hand one page's answer to another, or what came without a page to a page.
    let vary = ("vary", "origin".to_owned());
    let Some(origin) = request.get("origin") else { return vec![vary] };
    let everybody = origins.iter().any(|allowed| allowed == "*");
    if !everybody && !origins.iter().any(|allowed| allowed == origin) {
        return vec![vary];
    }
    let allowed = if everybody { "*" } else { origin };
    vec![
        ("access-control-allow-origin", allowed.to_owned()),
        ("access-control-expose-headers", EXPOSED.to_owned()),
        ("timing-allow-origin", allowed.to_owned()),
        vary,
    ]
}

/// Fields that answer a preflight. The names asked for are reflected, because SDKs add new ones
/// and `*` would not cover `Authorization`.
pub fn preflight(origins: &[String], request: &Headers) -> Vec<(&'static str, String)> {
    let mut fields = fields(origins, request);
    if fields.iter().any(|(name, _)| *name == "access-control-allow-origin") {
        fields.push(("access-control-allow-methods", "GET, POST".to_owned()));
        fields.push(("access-control-max-age", "86400".to_owned()));
        if let Some(names) = request.get("access-control-request-headers") {
            fields.push(("access-control-allow-headers", names.to_owned()));
        }
    }
    fields
}
