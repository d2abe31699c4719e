//! The dashboard, where the platform does not serve it by itself: plain workerd, or a Worker that is asked first.

use crate::gateway;
use js_sys::Promise;
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::Response;
use worker::Env;

/// What every file of the dashboard comes with, as the platform reads it.
const FIELDS: &str = include_str!("../dashboard/_headers");

#[wasm_bindgen(module = "/src/assets.js")]
extern "C" {
    fn file(assets: &JsValue, method: &str, path: &str, fields: &str) -> Promise;
}

/// The dashboard's file at a path; `None` where there is none, or nobody who has it.
pub async fn answer(env: &Env, method: &str, path: &str) -> Result<Option<Response>, JsValue> {
    let is_ours = path == "/" || path.starts_with("/dashboard/");
    if !is_ours || !matches!(method, "GET" | "HEAD") {
        return Ok(None);
    }
    let Some(assets) = gateway::service(env, "ASSETS") else { return Ok(None) };
    let found = JsFuture::from(file(&assets, method, path, FIELDS)).await?;
    Ok(found.dyn_into().ok())
}
