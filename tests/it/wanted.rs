//! What the scripted client asks for.

use fairlead_core::{api::Api, message::Headers};
use serde_json::{Value, json};

/// Stands in every prompt, key and address of these tests, and must stand nowhere else.
pub const HUSH: &str = "hush";

/// The client's own key.
pub const CLIENT_KEY: &str = "fl-hush-client";

/// Another client's.
pub const OTHER_KEY: &str = "fl-hush-other";

/// One request, as the client sends it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The route.
    pub api: Api,
    /// Its fields.
    pub headers: Headers,
    /// Its body, where that is JSON.
    pub body: Value,
    /// Its body, where that is a form.
    pub form: Option<String>,
}

fn wanted(api: Api, body: Value) -> Wanted {
    let headers = Headers::from_iter([
        ("authorization", "Bearer fl-hush-client"),
        ("cookie", "session=hush"),
        ("content-type", "application/json"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]);
    Wanted { api, headers, body, form: None }
}

fn conversation() -> Value {
    json!([{ "role": "user", "content": "hush: nobody may read this prompt" }])
}

/// A chat that streams.
pub fn chat() -> Wanted {
    wanted(Api::Chat, json!({ "model": "m", "messages": conversation(), "stream": true }))
}

/// A chat that does not.
pub fn chat_whole() -> Wanted {
    wanted(Api::Chat, json!({ "model": "m", "messages": conversation() }))
}

/// A completion that streams.
pub fn completions() -> Wanted {
    wanted(Api::Completions, json!({ "model": "m", "prompt": "hush", "stream": true }))
}

/// A Responses stream.
pub fn responses() -> Wanted {
    wanted(Api::Responses, json!({ "model": "m", "input": "hush", "stream": true }))
}

/// A Messages stream.
pub fn messages() -> Wanted {
    wanted(Api::Messages, json!({ "model": "m", "messages": conversation(), "max_tokens": 9, "stream": true }))
}

/// Embeddings, which never stream.
pub fn embeddings() -> Wanted {
    wanted(Api::Embeddings, json!({ "model": "m", "input": ["hush"] }))
}

/// A transcription that does not stream.
pub fn transcription() -> Wanted {
    let mut wanted = wanted(Api::Transcriptions, Value::Null);
    wanted.headers.set("content-type", "multipart/form-data; boundary=XX");
    let field =
        |name: &str, value: &str| format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let file = field("file\"; filename=\"a.wav", "\u{0}\u{1}hush name=\"model\"");
    wanted.form = Some(format!("{file}{}--XX--\r\n", field("model", "m")));
    wanted
}

impl Wanted {
    /// The same form, asking for a stream.
    pub fn streamed(mut self) -> Self {
        let field = "--XX\r\nContent-Disposition: form-data; name=\"stream\"\r\n\r\ntrue\r\n--XX--\r\n";
        self.form = self.form.map(|form| form.replace("--XX--\r\n", field));
        self
    }

    /// With one more field in the body.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.body[field] = value.into();
        self
    }

    /// With a deadline of its own.
    pub fn within(mut self, ms: u64) -> Self {
        self.headers.set("x-fairlead-deadline-ms", ms.to_string());
        self
    }

    /// Asking for a policy by name.
    pub fn by(mut self, policy: &str) -> Self {
        self.headers.set("x-fairlead-policy", policy);
        self
    }

    /// The body's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.form.clone().unwrap_or_else(|| self.body.to_string()).into_bytes()
    }
}

/// A request about a client's own job.
#[derive(Clone, Debug)]
pub struct Errand {
    /// `/runpod/d/run`
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    pub headers: Headers,
    pub body: String,
}

/// A request about a job of endpoint `d`: `run`, `status/ID`, …
pub fn errand(what: &str) -> Errand {
    let (path, query) = what.split_once('?').unwrap_or((what, ""));
    let headers = Headers::from_iter([("authorization", "Bearer fl-hush-client"), ("cookie", "session=hush")]);
    Errand { path: format!("/runpod/d/{path}"), query: query.to_owned(), headers, body: String::new() }
}

impl Errand {
    /// With this body.
    pub fn with(mut self, body: &Value) -> Self {
        self.body = body.to_string();
        self
    }

    /// With one more field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }

    /// With a deadline of its own.
    pub fn within(self, ms: u64) -> Self {
        self.field("x-fairlead-deadline-ms", &ms.to_string())
    }
}
