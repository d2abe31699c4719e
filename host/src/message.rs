//! Requests and responses as they cross between wasm and JavaScript. Header fields cross as one text, names and values
//! in turn: a crossing for each would cost more than all of them together.

use fairlead_core::message::Headers;
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use web_sys::{Request, Response};

#[wasm_bindgen(module = "/src/http.js")]
extern "C" {
    /// The method, the URL and the header fields of a request, [`SEPARATOR`] between them.
    pub fn describe(request: &Request) -> String;
    /// A response with these fields and this body.
    #[wasm_bindgen(catch)]
    pub fn respond(status: u16, fields: &str, body: &JsValue) -> Result<Response, JsValue>;
    /// The same where nothing can be wrong with the fields.
    #[wasm_bindgen(js_name = respond)]
    pub fn respond_plainly(status: u16, fields: &str, body: &str) -> Response;
}

/// Stands between the parts of a text that crosses; no field can hold one. `http.js` knows it, too.
pub const SEPARATOR: char = '\0';

/// Header fields as they cross.
pub fn join(headers: &Headers) -> String {
    let mut text = String::with_capacity(512);
    for (name, value) in headers.iter() {
        if !text.is_empty() {
            text.push(SEPARATOR);
        }
        text.push_str(name);
        text.push(SEPARATOR);
        text.push_str(value);
    }
    text
}

/// Header fields as they have crossed.
pub fn split<'a>(mut parts: impl Iterator<Item = &'a str>) -> Headers {
    std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
}
