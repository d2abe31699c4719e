//! What a caller's header fields say about itself: its key, its request's id, its patience.

use crate::{
    api::Dialect,
    error::{Code, Error},
    message::Headers,
    time::positive_ms,
};
use serde::Serialize;

/// The key that was sent: `Authorization: Bearer`, or for the Messages API also `x-api-key`, as
/// its SDKs do.
pub fn key(headers: &Headers, dialect: Dialect) -> Option<&str> {
    let bearer = headers.get("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let own = || headers.get("x-api-key").filter(|_| dialect == Dialect::Messages);
    bearer.or_else(own).filter(|key| !key.is_empty())
}

/// The id that a caller gave its request, if it is fit for logs and header fields: up to 128 of
/// `[A-Za-z0-9._-]`.
pub fn request_id(headers: &Headers) -> Option<&str> {
    let fit = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    headers.get("x-request-id").filter(fit)
}

/// How long the caller waits, in milliseconds: `x-fairlead-deadline-ms`, or the
/// `x-stainless-timeout` in seconds that OpenAI's SDKs send along with a timeout of their own.
pub fn deadline_ms(headers: &Headers) -> Result<Option<u64>, Error> {
    if let Some(value) = headers.get("x-fairlead-deadline-ms") {
        return match value.trim().parse::<u64>() {
            Ok(ms) if ms > 0 => Ok(Some(ms)),
            _ => {
                let message = "`x-fairlead-deadline-ms` must be a whole number of milliseconds above 0.";
                Err(Error::new(Code::InvalidRequest, message).with_param("x-fairlead-deadline-ms"))
            }
        };
    }
    // An SDK's own field: what cannot be read there is no fault of the caller's.
    Ok(headers.get("x-stainless-timeout").and_then(|value| positive_ms(value, 1000)))
}

/// Where in a trace a request stands (W3C Trace Context).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The trace.
    pub trace_id: String,
    /// This request's own span, the parent of what endpoints do for it.
    pub span_id: String,
    /// The span of whoever sent it.
    pub parent_span_id: String,
    #[serde(skip)]
    flags: u8,
}

/// Flags of a trace that mean something to a later participant: sampled, and a trace id that is random.
const KNOWN_FLAGS: u8 = 0b11;

impl Trace {
    /// The trace that the request belongs to, if `traceparent` has the form of the standard:
    /// `00-<32 hex>-<16 hex>-<2 hex>` in lower case, neither id all zeros. Of two such fields neither counts.
    /// `span` is the span that begins here.
    pub fn read(headers: &Headers, span: u64) -> Option<Self> {
        let mut fields = headers.iter().filter(|(name, _)| *name == "traceparent");
        let ((_, value), None) = (fields.next()?, fields.next()) else { return None };
        let mut parts = value.trim_matches([' ', '\t']).split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let id = |part: &str, length| hex(part, length) && part.bytes().any(|byte| byte != b'0');
        // Later versions may add parts; version ff is forbidden, and 00 has exactly four.
        let versioned = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        let whole = versioned && id(trace, 32) && id(parent, 16) && hex(flags, 2);
        whole.then(|| Self {
            trace_id: trace.to_owned(),
            span_id: format!("{:016x}", span.max(1)),
            parent_span_id: parent.to_owned(),
            flags: u8::from_str_radix(flags, 16).unwrap_or_default() & KNOWN_FLAGS,
        })
    }

    /// The `traceparent` of what is done for this request.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &str, value: &str) -> Headers {
        Headers::from_iter([(name, value)])
    }

    #[test]
    fn keys_come_as_bearer_and_for_messages_as_x_api_key() {
        assert_eq!(key(&headers("authorization", "Bearer abc"), Dialect::Chat), Some("abc"));
        assert_eq!(key(&headers("authorization", "bearer  abc "), Dialect::Chat), Some("abc"));
        assert_eq!(key(&headers("authorization", "Basic abc"), Dialect::Chat), None);
        assert_eq!(key(&headers("authorization", "Bearer "), Dialect::Chat), None);
        assert_eq!(key(&headers("x-api-key", "abc"), Dialect::Chat), None);
        assert_eq!(key(&headers("x-api-key", "abc"), Dialect::Messages), Some("abc"));
    }

    #[test]
    fn an_id_that_could_break_a_log_is_not_taken() {
        assert_eq!(request_id(&headers("x-request-id", "a.B_c-9")), Some("a.B_c-9"));
        for unfit in ["", "a b", "a\"", "é", &"x".repeat(129)] {
            assert_eq!(request_id(&headers("x-request-id", unfit)), None, "{unfit}");
        }
    }

    #[test]
    fn a_callers_patience_is_read_from_two_fields() {
        assert_eq!(deadline_ms(&headers("x-fairlead-deadline-ms", "1500")).unwrap(), Some(1500));
        for wrong in ["0", "-1", "1.5", "soon", ""] {
            assert!(deadline_ms(&headers("x-fairlead-deadline-ms", wrong)).is_err(), "{wrong}");
        }
        assert_eq!(deadline_ms(&headers("x-stainless-timeout", "0.5")).unwrap(), Some(500));
        assert_eq!(deadline_ms(&headers("x-stainless-timeout", "never")).unwrap(), None);
        let both = Headers::from_iter([("x-stainless-timeout", "9"), ("x-fairlead-deadline-ms", "1500")]);
        assert_eq!(deadline_ms(&both).unwrap(), Some(1500));
        assert_eq!(deadline_ms(&Headers::new()).unwrap(), None);
    }

    #[test]
    fn a_trace_has_the_form_of_the_standard() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = |value: &str| Trace::read(&headers("traceparent", value), 0xabc);
        let read = trace(good).unwrap();
        assert_eq!((&*read.trace_id, &*read.parent_span_id), ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"));
        assert_eq!(read.traceparent(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000abc-01");
        assert!(trace(&good.replacen("00", "01", 1).replace("-01", "-01-what")).is_some());
        for bad in [
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &format!("{good}-x"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "",
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }
}
