//! HTTP messages as plain data, the same in every host.

use std::rc::Rc;

/// The two methods that the routes know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
}

impl Method {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// Header fields in the order they were added; names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No fields.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The first value of the field `name` (lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// Sets the field, whether or not it was there.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let name = name.to_ascii_lowercase();
        self.remove(&name);
        self.0.push((name, value.into()));
    }

    /// Takes the field `name` (lower case) out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(field, _)| *field != name);
    }

    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The media type of `content-type` in lower case, without its parameters; empty when absent.
    pub fn media_type(&self) -> String {
        let value = self.get("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let lower = |(name, value): (N, V)| (name.into().to_ascii_lowercase(), value.into());
        Self(fields.into_iter().map(lower).collect())
    }
}

/// A request as it goes to an endpoint.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// The fields, the endpoint's key among them: never log this.
    pub headers: Headers,
    /// The body; shared by all attempts that send the same bytes.
    pub body: Rc<[u8]>,
}

/// Status line and header fields of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// The fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// Whether a body has the length that was announced; a decoded one has another.
    pub fn length_fits(&self, received: usize) -> bool {
        let announced = self.headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
        self.headers.get("content-encoding").is_some() || announced.is_none_or(|announced| announced == received)
    }
}

/// What of the platform's own kept a request from its endpoint, or the answer from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// This device has no network.
    Offline,
    /// The browser lets this page not see the answer: it does not say that the page's origin may.
    Cors,
}

impl Barrier {
    /// The name in `error.param` and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Cors => "cors",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_set_replaces() {
        let mut headers = Headers::from_iter([("Content-Type", "Text/HTML; charset=x"), ("A", "1")]);
        headers.set("A", "2");
        assert_eq!(headers.get("a"), Some("2"));
        assert_eq!(headers.media_type(), "text/html");
        assert_eq!(headers.iter().count(), 2);
    }
}
