//! The wire form of `CONFIG`: what an operator writes, and how it is read.
//!
//! Every field is optional here, so that one reading finds every mistake; [`crate::settings`]
//! decides what is required and gives the defaults. Times are milliseconds.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use std::{collections::BTreeMap, fmt};

/// A list whose element is `None` where it could not be read (and was reported).
pub type List<T> = Vec<Option<T>>;

/// The whole of `CONFIG`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub(crate) endpoints: List<EndpointConfig>,
    pub(crate) models: List<ModelConfig>,
    pub(crate) policies: BTreeMap<String, PolicyConfig>,
    pub(crate) clients: Option<List<ClientConfig>>,
    pub(crate) open: bool,
    pub(crate) cors: CorsConfig,
    pub(crate) admin_key_secret: Option<String>,
}

/// One server.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointConfig {
    pub(crate) name: Option<String>,
    pub(crate) provider: Option<Provider>,
    pub(crate) mode: Option<Mode>,
    pub(crate) base_url: Option<String>,
    pub(crate) api_key_secret: Option<String>,
    pub(crate) via: Option<String>,
    pub(crate) max_concurrency: Option<u32>,
    pub(crate) r#continue: Option<bool>,
    pub(crate) native: Option<bool>,
    pub(crate) max_execution_ms: Option<u64>,
    pub(crate) max_ttl_ms: Option<u64>,
    pub(crate) max_subrequests: Option<u32>,
}

/// What kind of server an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// vLLM, or any OpenAI-compatible server.
    #[default]
    Vllm,
    /// RunPod serverless.
    Runpod,
    /// A gateway of our own.
    Fairlead,
}

/// How a RunPod endpoint is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `/run`, `/status`, `/stream`, `/cancel`.
    #[default]
    Jobs,
    /// RunPod's own OpenAI proxy.
    Openai,
    /// A load-balancer endpoint.
    LoadBalancer,
}

/// One name that clients may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    pub(crate) name: Option<String>,
    pub(crate) strategy: Option<Strategy>,
    pub(crate) policy: Option<String>,
    pub(crate) targets: List<TargetConfig>,
}

/// How a model's targets are chosen from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// In order.
    #[default]
    Failover,
    /// At random, by weight.
    Weighted,
    /// The least busy first.
    LeastLoaded,
}

/// One endpoint that can serve a model.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetConfig {
    pub(crate) endpoint: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) weight: Option<u32>,
}

/// Overrides of a policy's defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    pub(crate) preset: Option<Preset>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) headers_ms: Option<u64>,
    pub(crate) first_token_ms: Option<u64>,
    pub(crate) prefill_ms_per_kib: Option<u64>,
    pub(crate) idle_ms: Option<u64>,
    pub(crate) progress_ms: Option<u64>,
    pub(crate) queue_ms: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff: BackoffConfig,
    pub(crate) retry_after_max_ms: Option<u64>,
    pub(crate) keepalive_ms: Option<u64>,
    pub(crate) commit_after_ms: Option<u64>,
    pub(crate) on_deadline: Option<OnDeadline>,
    pub(crate) forward: Option<Forward>,
    pub(crate) resume: Option<Resume>,
    pub(crate) stream_internally: Option<bool>,
    pub(crate) hedge_after_ms: Option<u64>,
    pub(crate) max_request_bytes: Option<u64>,
    pub(crate) breaker: BreakerConfig,
    pub(crate) budget: BudgetConfig,
}

/// Timers that suit a kind of use; other fields override them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Short answers that somebody waits for.
    Simple,
    /// Code.
    Code,
    /// Long documents.
    Document,
    /// Models that think first.
    Reasoning,
}

/// What a call whose deadline comes ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// An error.
    Error,
    /// What there is.
    Partial,
}

/// How a stream's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// Every chunk is seen before it goes on.
    Checked,
    /// By the platform's own pipe, checked behind it.
    Native,
}

/// What to do when a stream breaks behind its first content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// End in an error.
    Off,
    /// Ask a target to go on.
    Continue,
    /// Ask again from the start and compare.
    Verify,
}

/// Overrides of the backoff.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackoffConfig {
    pub(crate) base_ms: Option<u64>,
    pub(crate) throttled_base_ms: Option<u64>,
    pub(crate) max_ms: Option<u64>,
}

/// Overrides of the retry budget.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    pub(crate) capacity: Option<u32>,
    pub(crate) transient_cost: Option<u32>,
    pub(crate) throttled_cost: Option<u32>,
    pub(crate) refund: Option<u32>,
}

/// Overrides of the circuit breaker.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    pub(crate) enabled: Option<bool>,
    pub(crate) failure_ratio: Option<f64>,
    pub(crate) min_calls: Option<u32>,
    pub(crate) window_ms: Option<u64>,
    pub(crate) consecutive: Option<u32>,
    pub(crate) open_ms: Option<u64>,
    pub(crate) max_open_ms: Option<u64>,
    pub(crate) probe_ratio: Option<f64>,
    pub(crate) slow_first_token_ms: Option<u64>,
}

/// Somebody with keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    pub(crate) name: Option<String>,
    pub(crate) keys_sha256: List<String>,
    pub(crate) models: Option<List<String>>,
    pub(crate) policies: List<String>,
    pub(crate) runpod: List<String>,
    pub(crate) rate_limiter: Option<String>,
    pub(crate) requests_per_minute: Option<u32>,
    pub(crate) max_concurrency: Option<u32>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) max_n: Option<u32>,
}

/// Which pages may call from a browser.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    pub(crate) origins: List<String>,
}

/// One mistake in `CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, as `models[0].targets[1].endpoint`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Mistake {
    /// A mistake at this path.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Puts `CONFIG` and the bindings `CONFIG_<KEY>` together into one object.
///
/// Each part is a binding's name and its value: an object, or text that holds JSON.
pub fn assemble(parts: impl IntoIterator<Item = (String, Value)>) -> (Value, Vec<Mistake>) {
    let mut whole = Map::new();
    let mut origins: BTreeMap<String, String> = BTreeMap::new();
    let mut mistakes = Vec::new();
    let mut any = false;
    for (binding, value) in parts {
        any = true;
        let value = match value {
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(error) => {
                    mistakes.push(Mistake::at(binding, format!("is not JSON: {error}")));
                    continue;
                }
            },
            value => value,
        };
        let fields = match (binding.strip_prefix("CONFIG_"), value) {
            (Some(key), value) => {
                let mut field = Map::new();
                field.insert(key.to_ascii_lowercase(), value);
                field
            }
            (None, Value::Object(fields)) => fields,
            (None, _) => {
                mistakes.push(Mistake::at(binding, "must be an object"));
                continue;
            }
        };
        for (key, value) in fields {
            if let Some(earlier) = origins.insert(key.clone(), binding.clone()) {
                mistakes.push(Mistake::at(&*key, format!("stands twice: in {earlier} and in {binding}")));
            }
            whole.insert(key, value);
        }
    }
    if !any {
        mistakes.push(Mistake::at("CONFIG", "is missing: this Worker has no such variable"));
    }
    (Value::Object(whole), mistakes)
}

/// Reads a value into its type and reports everything in it that does not fit.
///
/// Serde stops at its first error, so what it names is reported, taken out, and the rest is read
/// again; each round takes one node away, so it ends.
pub fn read<T: DeserializeOwned + Default>(mut value: Value) -> (T, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(config) => return (config, mistakes),
            Err(error) => error,
        };
        let path = error.path().clone();
        mistakes.push(Mistake::at(path.to_string(), error.into_inner().to_string()));
        if !take_out(&mut value, path.iter()) {
            return (T::default(), mistakes);
        }
    }
}

/// Removes the node that a path leads to (in a list it becomes null, so that indices hold).
fn take_out<'a>(mut value: &mut Value, path: impl Iterator<Item = &'a Segment>) -> bool {
    let mut path = path.peekable();
    while let Some(segment) = path.next() {
        let last = path.peek().is_none();
        match (segment, value) {
            (Segment::Map { key }, Value::Object(fields)) if last => return fields.remove(key).is_some(),
            (Segment::Map { key }, Value::Object(fields)) => match fields.get_mut(key) {
                Some(inner) => value = inner,
                None => return false,
            },
            (Segment::Seq { index }, Value::Array(items)) => match items.get_mut(*index) {
                Some(item) if last => return !std::mem::take(item).is_null(),
                Some(item) => value = item,
                None => return false,
            },
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_mistake_is_found_in_one_reading() {
        let (config, mistakes) = read::<Config>(json!({
            "endpoints": [{ "name": "a", "provider": "ollama", "base": 1 }, 7],
            "models": [{ "name": 5, "targets": [{ "endpoint": "a", "wieght": 2 }] }],
            "policies": { "p": { "idle_ms": -1, "backoff": { "base_ms": "x" } } },
            "opne": true
        }));
        let mut paths: Vec<&str> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [
                "endpoints[0].base",
                "endpoints[0].provider",
                "endpoints[1]",
                "models[0].name",
                "models[0].targets[0].wieght",
                "opne",
                "policies.p.backoff.base_ms",
                "policies.p.idle_ms",
            ],
            "{mistakes:#?}"
        );
        assert_eq!(config.endpoints.len(), 2);
        assert!(config.endpoints[1].is_none());
    }

    #[test]
    fn a_key_may_stand_in_a_binding_of_its_own_but_not_twice() {
        let (whole, mistakes) = assemble([
            ("CONFIG".to_owned(), json!(r#"{"open": true}"#)),
            ("CONFIG_CLIENTS".to_owned(), json!([])),
            ("CONFIG_OPEN".to_owned(), json!("false")),
            ("CONFIG_MODELS".to_owned(), json!("[")),
        ]);
        assert_eq!(whole, json!({ "open": false, "clients": [] }));
        let paths: Vec<&str> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
        assert_eq!(paths, ["open", "CONFIG_MODELS"]);
    }
}
