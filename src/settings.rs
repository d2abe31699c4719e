//! The validated form of `CONFIG`: names resolved, secrets filled in, nothing left to check.

use crate::{
    access::{self, Client},
    config::{
        self, ClientConfig, Config, EndpointConfig, Forward, List, Mistake, Mode, ModelConfig, OnDeadline,
        PolicyConfig, Provider, Resume, Strategy, TargetConfig,
    },
    error::{Code, Error},
    policy::Policy,
};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, rc::Rc};

/// Everything that `CONFIG` says.
#[derive(Debug, Default)]
pub struct Settings {
    /// The servers; targets refer to them by index.
    pub endpoints: Vec<Rc<Endpoint>>,
    /// What clients may ask for.
    pub models: Vec<Rc<Model>>,
    /// By name.
    pub policies: BTreeMap<String, Rc<Policy>>,
    /// Who may come in.
    pub clients: Vec<Client>,
    /// Whether everybody may.
    pub open: bool,
    /// Pages that may call from a browser; `*` for all.
    pub origins: Vec<String>,
    /// For the admin routes.
    pub admin_key: Option<Secret>,
}

/// One server.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name, in headers and logs.
    pub name: String,
    /// Its root, without a slash at the end and without `/v1`.
    pub root: String,
    /// What stands between the root and a route's path below `/v1`.
    pub prefix: &'static str,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// The binding that its requests go through, instead of the public network.
    pub via: Option<String>,
}

/// One name that clients may ask for.
#[derive(Debug)]
pub struct Model {
    /// The name; `*` takes what no other entry takes.
    pub name: String,
    /// In the order of trying.
    pub targets: Vec<Target>,
    /// How calls are carried out unless a client asks for another policy.
    pub policy: Rc<Policy>,
}

/// One endpoint that can serve a model.
#[derive(Debug)]
pub struct Target {
    /// The server.
    pub endpoint: Rc<Endpoint>,
    /// Its place in [`Settings::endpoints`].
    pub index: usize,
    /// The name it is asked for; `None` for the client's own.
    pub model: Option<String>,
}

/// A value that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the wire only.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `guess` is the value, in a time that does not tell how much of it was right.
    pub fn matches(&self, guess: &str) -> bool {
        use subtle::ConstantTimeEq;
        access::hash_key(&self.0).ct_eq(&access::hash_key(guess)).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a host can say about its environment.
pub trait Environment {
    /// The secret of this name.
    fn secret(&self, name: &str) -> Option<String>;
    /// Whether there is a binding of this name that requests can go through.
    fn has_service(&self, name: &str) -> bool;
}

/// What reading `CONFIG` came to.
#[derive(Debug)]
pub struct Reading {
    /// The settings; `None` when there are mistakes.
    pub settings: Option<Settings>,
    /// Who may be told the mistakes.
    pub admin_key: Option<Secret>,
    /// What must be mended.
    pub mistakes: Vec<Mistake>,
    /// What is understood but has no effect in this version.
    pub warnings: Vec<Mistake>,
}

impl Settings {
    /// Reads `CONFIG` from its bindings (see [`config::assemble`]) and finds every mistake at once.
    pub fn read(parts: impl IntoIterator<Item = (String, Value)>, environment: &dyn Environment) -> Reading {
        let (value, mut read) = config::assemble(parts);
        let (config, unfit) = config::read::<Config>(value);
        read.extend(unfit);
        let mut found = Vec::new();
        let mut check = Check { environment, mistakes: &mut found, warnings: Vec::new(), left_out: Vec::new() };
        let settings = check.settings(&config);
        let warnings = check.warnings;
        // What could not be read was taken out: do not also call it missing.
        found.retain(|mistake| !read.iter().any(|earlier| covers(&earlier.path, &mistake.path)));
        read.append(&mut found);
        let admin_key = settings.admin_key.clone();
        Reading { settings: read.is_empty().then_some(settings), admin_key, mistakes: read, warnings }
    }

    /// The entry that takes this name.
    pub fn model(&self, name: &str) -> Option<&Rc<Model>> {
        let named = |wanted: &str| self.models.iter().find(|model| model.name == wanted);
        named(name).filter(|_| name != "*").or_else(|| named("*"))
    }

    /// The largest body that any policy takes.
    pub fn max_request_bytes(&self) -> u64 {
        let policies = self.policies.values().chain(self.models.iter().map(|model| &model.policy));
        policies.map(|policy| policy.max_request_bytes).max().unwrap_or(0)
    }

    /// Who a request with this key comes from: `None` is anybody, where the gateway is open.
    pub fn admit(&self, key: Option<&str>) -> Result<Option<&Client>, Error> {
        let client = key.and_then(|key| access::find(&self.clients, key));
        if client.is_some() || self.open {
            return Ok(client);
        }
        let message = match key {
            _ if self.clients.is_empty() => {
                "Nobody may use this gateway yet: its CONFIG has no `clients`. Add one with `keys_sha256`, or set `\"open\": true` to let everybody in."
            }
            Some(_) => "This API key is not known here. Check the key, or ask who runs this gateway for one.",
            None => "No API key was sent. Send it as `Authorization: Bearer <key>`.",
        };
        Err(Error::new(Code::InvalidApiKey, message))
    }

    /// The entry for `model` and the policy to carry the call out with.
    pub fn plan(
        &self,
        client: Option<&Client>,
        model: &str,
        wanted: Option<&str>,
    ) -> Result<(Rc<Model>, Rc<Policy>), Error> {
        let unknown = || {
            let message = format!(
                "No model of this gateway is called `{}`. GET /v1/models lists those you may use.",
                shorten(model)
            );
            Error::new(Code::ModelNotFound, message).with_param("model")
        };
        let entry = self.model(model).ok_or_else(unknown)?;
        if client.is_some_and(|client| !client.may_use(model, &entry.name)) {
            let message =
                format!("Your key may not use the model `{}`. GET /v1/models lists those it may.", shorten(model));
            return Err(Error::new(Code::Forbidden, message).with_param("model"));
        }
        let policy = match wanted {
            None => &entry.policy,
            Some(name) => self.wanted_policy(client, name)?,
        };
        Ok((Rc::clone(entry), Rc::clone(policy)))
    }

    fn wanted_policy(&self, client: Option<&Client>, name: &str) -> Result<&Rc<Policy>, Error> {
        let allowed = client.is_none_or(|client| client.policies.iter().any(|policy| policy == name));
        if !allowed {
            let message =
                format!("Your key may not ask for the policy `{}`: `clients[].policies` must name it.", shorten(name));
            return Err(Error::new(Code::Forbidden, message).with_param("x-fairlead-policy"));
        }
        self.policies.get(name).ok_or_else(|| {
            let message = format!("No policy of this gateway is called `{}`.", shorten(name));
            Error::new(Code::InvalidRequest, message).with_param("x-fairlead-policy")
        })
    }
}

/// A caller's name for something, bounded before it goes into a message.
fn shorten(name: &str) -> String {
    name.chars().take(100).filter(|c| !c.is_control()).collect()
}

/// Whether a mistake at `outer` explains one at `inner`.
fn covers(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// One validation: collects what it finds and goes on.
struct Check<'a> {
    environment: &'a dyn Environment,
    mistakes: &'a mut Vec<Mistake>,
    warnings: Vec<Mistake>,
    /// Endpoints that only RunPod's job API reaches.
    left_out: Vec<String>,
}

impl Check<'_> {
    fn settings(&mut self, config: &Config) -> Settings {
        let endpoints = self.endpoints(&config.endpoints);
        let policies: BTreeMap<String, Rc<Policy>> =
            config.policies.iter().map(|(name, policy)| (name.clone(), Rc::new(self.policy(name, policy)))).collect();
        let models = self.models(&config.models, &endpoints, &policies);
        let clients = self.clients(config, &models, &policies, &endpoints);
        if config.endpoints.is_empty() {
            self.mistake("endpoints", "is empty: name at least one server");
        }
        if config.models.is_empty() {
            self.mistake("models", "is empty: name at least one model, `*` for all");
        }
        Settings {
            endpoints: endpoints.into_iter().flatten().collect(),
            models,
            policies,
            clients,
            open: config.open,
            origins: self.origins(&config.cors.origins),
            admin_key: self.secret("admin_key_secret", config.admin_key_secret.as_deref()),
        }
    }

    fn endpoints(&mut self, list: &List<EndpointConfig>) -> Vec<Option<Rc<Endpoint>>> {
        let names = self.names("endpoints", list, |endpoint| endpoint.name.as_ref());
        let mut endpoints = Vec::new();
        for ((index, endpoint), name) in (0usize..).zip(list).zip(names) {
            let path = format!("endpoints[{index}]");
            let built = endpoint.as_ref().and_then(|endpoint| self.endpoint(&path, endpoint, name));
            endpoints.push(built.map(Rc::new));
        }
        endpoints
    }

    fn endpoint(&mut self, path: &str, config: &EndpointConfig, name: String) -> Option<Endpoint> {
        let api_key = self.secret(&format!("{path}.api_key_secret"), config.api_key_secret.as_deref());
        if let Some(via) = &config.via
            && !self.environment.has_service(via)
        {
            self.mistake(
                format!("{path}.via"),
                format!("names the binding `{via}`, which this Worker does not have: add it to wrangler.toml"),
            );
        }
        for (field, set) in [
            ("max_concurrency", config.max_concurrency.is_some()),
            ("continue", config.r#continue.is_some()),
            ("native", config.native.is_some()),
            ("max_execution_ms", config.max_execution_ms.is_some()),
            ("max_ttl_ms", config.max_ttl_ms.is_some()),
            ("max_subrequests", config.max_subrequests.is_some()),
        ] {
            self.no_effect(path, field, set);
        }
        let provider = config.provider.or_else(|| {
            self.mistake(format!("{path}.provider"), "is missing: `vllm` or `runpod`");
            None
        })?;
        if provider == Provider::Vllm && config.mode.is_some() {
            self.mistake(format!("{path}.mode"), "is for `\"provider\": \"runpod\"` only");
        }
        let Some(base_url) = config.base_url.as_deref() else {
            self.mistake(format!("{path}.base_url"), "is missing: for example `https://gpu.example.com/v1`");
            return None;
        };
        let base_url = match check_url(base_url) {
            Ok(url) => url,
            Err(message) => {
                self.mistake(format!("{path}.base_url"), message);
                return None;
            }
        };
        let (root, prefix) = match (provider, config.mode.unwrap_or_default()) {
            (Provider::Vllm, _) => match base_url.strip_suffix("/v1") {
                Some(root) => (root, "/v1"),
                None => (base_url, ""),
            },
            (Provider::Runpod, Mode::Openai) => (base_url, "/openai/v1"),
            (Provider::Runpod, Mode::LoadBalancer) => (base_url, "/v1"),
            (Provider::Runpod, Mode::Jobs) => {
                let message = "`jobs` is not supported by this version, so no model uses this endpoint: `\"mode\": \"openai\"` is";
                self.warnings.push(Mistake::at(format!("{path}.mode"), message));
                self.left_out.push(name.clone());
                (base_url, "")
            }
        };
        Some(Endpoint { name, root: root.to_owned(), prefix, api_key, via: config.via.clone() })
    }

    fn policy(&mut self, name: &str, config: &PolicyConfig) -> Policy {
        let path = format!("policies.{name}");
        for (field, set) in [
            ("queue_ms", config.queue_ms.is_some()),
            ("on_deadline", config.on_deadline == Some(OnDeadline::Partial)),
            ("forward", config.forward == Some(Forward::Native)),
            ("resume", !matches!(config.resume, None | Some(Resume::Off))),
            ("stream_internally", config.stream_internally == Some(true)),
            ("hedge_after_ms", config.hedge_after_ms.is_some()),
            ("breaker", config.breaker.is_some()),
        ] {
            self.no_effect(&path, field, set);
        }
        Policy::new(config, &path, self.mistakes)
    }

    fn models(
        &mut self,
        list: &List<ModelConfig>,
        endpoints: &[Option<Rc<Endpoint>>],
        policies: &BTreeMap<String, Rc<Policy>>,
    ) -> Vec<Rc<Model>> {
        let names = self.names("models", list, |model| model.name.as_ref());
        let default = policies.get("default").cloned().unwrap_or_default();
        let mut models = Vec::new();
        for ((index, model), name) in (0usize..).zip(list).zip(names) {
            let Some(model) = model else { continue };
            let path = format!("models[{index}]");
            self.no_effect(&path, "strategy", !matches!(model.strategy, None | Some(Strategy::Failover)));
            let policy = match &model.policy {
                None => Rc::clone(&default),
                Some(wanted) => policies.get(wanted).cloned().unwrap_or_else(|| {
                    // The name `default` may be used without being written out.
                    if wanted != "default" {
                        self.mistake(format!("{path}.policy"), format!("names `{wanted}`, which is not in `policies`"));
                    }
                    Rc::clone(&default)
                }),
            };
            let targets = self.targets(&path, &model.targets, endpoints);
            models.push(Rc::new(Model { name, targets, policy }));
        }
        models
    }

    fn targets(&mut self, path: &str, list: &List<TargetConfig>, endpoints: &[Option<Rc<Endpoint>>]) -> Vec<Target> {
        let mut targets = Vec::new();
        for (index, target) in (0usize..).zip(list) {
            let Some(target) = target else { continue };
            let path = format!("{path}.targets[{index}]");
            self.no_effect(&path, "weight", target.weight.is_some());
            let Some(name) = &target.endpoint else {
                self.mistake(format!("{path}.endpoint"), "is missing: the name of an endpoint");
                continue;
            };
            let found = (0usize..).zip(endpoints).find_map(|(index, endpoint)| {
                endpoint.as_ref().filter(|endpoint| endpoint.name == *name).map(|endpoint| (index, endpoint))
            });
            match found {
                Some((index, endpoint)) => {
                    targets.push(Target { endpoint: Rc::clone(endpoint), index, model: target.model.clone() });
                }
                // An endpoint that was itself reported is not also reported by its targets.
                None if endpoints.iter().any(Option::is_none) => {}
                None => {
                    self.mistake(format!("{path}.endpoint"), format!("names `{name}`, which is not in `endpoints`"))
                }
            }
        }
        let named = targets.len();
        targets.retain(|target| !self.left_out.contains(&target.endpoint.name));
        if list.is_empty() {
            self.mistake(format!("{path}.targets"), "is empty: name at least one endpoint");
        } else if targets.is_empty() && named > 0 {
            self.mistake(format!("{path}.targets"), "has no endpoint that this version can use");
        }
        targets
    }

    fn clients(
        &mut self,
        config: &Config,
        models: &[Rc<Model>],
        policies: &BTreeMap<String, Rc<Policy>>,
        endpoints: &[Option<Rc<Endpoint>>],
    ) -> Vec<Client> {
        let Some(list) = &config.clients else { return Vec::new() };
        let names = self.names("clients", list, |client| client.name.as_ref());
        let mut clients = Vec::new();
        for ((index, client), name) in (0usize..).zip(list).zip(names) {
            let Some(client) = client else { continue };
            let path = format!("clients[{index}]");
            for (field, set) in unenforced_limits(client) {
                self.no_effect(&path, field, set);
            }
            let takes_all = models.iter().any(|model| model.name == "*");
            let is_model = |name: &str| takes_all || models.iter().any(|model| model.name == name);
            let is_endpoint = |name: &str| {
                endpoints.iter().any(|endpoint| endpoint.as_ref().is_none_or(|endpoint| endpoint.name == name))
            };
            let allowed =
                client.models.as_ref().map(|list| self.references(&format!("{path}.models"), list, "models", is_model));
            let asked = self.references(&format!("{path}.policies"), &client.policies, "policies", |name| {
                policies.contains_key(name)
            });
            self.references(&format!("{path}.runpod"), &client.runpod, "endpoints", is_endpoint);
            clients.push(Client {
                name,
                keys: self.keys(&path, &client.keys_sha256),
                models: allowed,
                policies: asked,
            });
        }
        clients
    }

    fn keys(&mut self, path: &str, list: &List<String>) -> Vec<access::KeyHash> {
        if list.is_empty() {
            self.mistake(format!("{path}.keys_sha256"), "is empty: put in the SHA-256 of a key, 64 hexadecimal digits");
        }
        let mut keys = Vec::new();
        for (index, hex) in (0usize..).zip(list) {
            match hex.as_deref().map(access::parse_hash) {
                Some(Some(hash)) => keys.push(hash),
                Some(None) => self.mistake(
                    format!("{path}.keys_sha256[{index}]"),
                    "is not a SHA-256: 64 hexadecimal digits, never the key itself",
                ),
                None => {}
            }
        }
        keys
    }

    fn origins(&mut self, list: &List<String>) -> Vec<String> {
        let mut origins = Vec::new();
        for (index, origin) in (0usize..).zip(list) {
            let Some(origin) = origin else { continue };
            let valid =
                origin == "*" || check_url(origin).is_ok_and(|url| url == origin && origin.matches('/').count() == 2);
            if !valid {
                self.mistake(
                    format!("cors.origins[{index}]"),
                    "is not an origin: `https://app.example.com` without a path, or `*`",
                );
            }
            origins.push(origin.clone());
        }
        origins
    }

    fn secret(&mut self, path: &str, name: Option<&str>) -> Option<Secret> {
        let name = name?;
        let value = self.environment.secret(name).filter(|value| !value.is_empty());
        if value.is_none() {
            self.mistake(
                path,
                format!("names the secret `{name}`, which is not set: `npx wrangler secret put {name}`"),
            );
        }
        value.map(Secret)
    }

    /// The names of a list's elements, each present and there once.
    fn names<T>(&mut self, path: &str, list: &List<T>, name: impl Fn(&T) -> Option<&String>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (index, item) in (0usize..).zip(list) {
            let name = item.as_ref().and_then(&name);
            match name {
                _ if item.is_none() => {}
                None => self.mistake(format!("{path}[{index}].name"), "is missing"),
                Some(name) if name.is_empty() => self.mistake(format!("{path}[{index}].name"), "is empty"),
                Some(name) if names.contains(name) => {
                    self.mistake(format!("{path}[{index}].name"), format!("`{name}` is there twice"))
                }
                Some(_) => {}
            }
            names.push(name.cloned().unwrap_or_default());
        }
        names
    }

    /// The names in a list, each of which must stand in `section`.
    fn references(
        &mut self,
        path: &str,
        list: &List<String>,
        section: &str,
        exists: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        for (index, name) in (0usize..).zip(list) {
            if let Some(name) = name
                && !exists(name)
            {
                self.mistake(format!("{path}[{index}]"), format!("names `{name}`, which is not in `{section}`"));
            }
        }
        list.iter().flatten().cloned().collect()
    }

    fn mistake(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(Mistake::at(path, message));
    }

    fn no_effect(&mut self, path: &str, field: &str, set: bool) {
        if set {
            self.warnings.push(Mistake::at(format!("{path}.{field}"), "has no effect in this version"));
        }
    }
}

const fn unenforced_limits(client: &ClientConfig) -> [(&'static str, bool); 5] {
    [
        ("rate_limiter", client.rate_limiter.is_some()),
        ("requests_per_minute", client.requests_per_minute.is_some()),
        ("max_concurrency", client.max_concurrency.is_some()),
        ("max_tokens", client.max_tokens.is_some()),
        ("max_n", client.max_n.is_some()),
    ]
}

/// An absolute http(s) URL without user, query or fragment; returned without slashes at its end.
fn check_url(url: &str) -> Result<&str, &'static str> {
    let uri: http::Uri = url.parse().map_err(|_| "is not a URL: for example `https://gpu.example.com/v1`")?;
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    match uri.scheme_str() {
        Some("http" | "https") if authority.is_empty() => Err("has no host"),
        Some("http" | "https") if authority.contains('@') => {
            Err("must not hold a user or password: use `api_key_secret`")
        }
        Some("http" | "https") if uri.query().is_some() || url.contains('#') => {
            Err("must not hold a query or fragment")
        }
        Some("http" | "https") => Ok(url.trim_end_matches('/')),
        _ => Err("must begin with https:// or http://"),
    }
}
