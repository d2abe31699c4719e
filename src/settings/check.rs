//! The validation of `CONFIG`: goes through all of it, whatever it finds on the way.

use super::{DEFAULT_POLICY, Endpoint, Environment, Model, Places, Reading, Secret, Settings, Target};
use crate::{
    access::{self, Client, Limits, RateLimiter},
    config::{
        self, ClientConfig, Config, EndpointConfig, List, Mistake, Mode, ModelConfig, Named, PolicyConfig, Provider,
        Strategy, TargetConfig, named,
    },
    jobs,
    policy::Policy,
};
use serde_json::Value;
use std::rc::Rc;

/// Reads and validates `CONFIG`.
pub(super) fn read(
    places: Places,
    parts: impl IntoIterator<Item = (String, Value)>,
    environment: &dyn Environment,
) -> Reading {
    let (value, mut mistakes) = config::assemble(parts);
    let (config, unfit) = config::read::<Config>(&value);
    mistakes.extend(unfit);
    let mut check = Check { environment, places, mistakes: Vec::new(), warnings: Vec::new() };
    let settings = check.settings(&config);
    let Check { mistakes: mut found, warnings, .. } = check;
    // What could not be read was taken out: do not also call it missing.
    found.retain(|mistake| !mistakes.iter().any(|earlier| covers(&earlier.path, &mistake.path)));
    mistakes.append(&mut found);
    let admin_key = settings.admin_key.clone();
    Reading { settings: mistakes.is_empty().then_some(settings), admin_key, mistakes, warnings }
}

/// Whether a mistake at `outer` explains one at `inner`. Without `CONFIG` everything is missing.
fn covers(outer: &str, inner: &str) -> bool {
    outer == "CONFIG" || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// One validation: collects what it finds and goes on.
struct Check<'a> {
    environment: &'a dyn Environment,
    places: Places,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

/// An endpoint as models and clients may refer to it.
struct Declared {
    name: String,
    index: usize,
    /// `None`: what is wrong with it has been reported; those who refer to it are not to blame.
    usable: Option<Rc<Endpoint>>,
}

impl Check<'_> {
    fn settings(&mut self, config: &Config) -> Settings {
        let endpoints = self.endpoints(&config.endpoints);
        let policies = config.policies.iter();
        let mut policies: Named<_> =
            policies.map(|(name, policy)| (name.clone(), Rc::new(self.policy(name, policy)))).collect();
        // There without being written out.
        if named(&policies, DEFAULT_POLICY).is_none() {
            policies.push((DEFAULT_POLICY.to_owned(), Rc::default()));
        }
        let models = self.models(&config.models, &endpoints, &policies);
        let clients = self.clients(config, &models, &policies, &endpoints);
        if config.open && config.clients.is_some() {
            let message = "lets everybody in, with every model and policy, whatever `clients` says";
            self.warnings.push(Mistake::at("open", message));
        }
        if config.endpoints.is_empty() {
            self.mistake("endpoints", "is empty: name at least one server");
        }
        if config.models.is_empty() {
            self.mistake("models", "is empty: name at least one model, `*` for all");
        }
        let usable = |declared: &Declared| Some((declared.index, Rc::clone(declared.usable.as_ref()?)));
        Settings {
            endpoints: endpoints.iter().filter_map(usable).collect(),
            models,
            policies,
            clients,
            open: config.open,
            origins: self.origins(&config.cors.origins),
            admin_key: self.secret("admin_key_secret", config.admin_key_secret.as_deref()),
            log: config.log.unwrap_or_default(),
            faults: config.faults,
            places: std::mem::take(&mut self.places),
        }
    }

    fn endpoints(&mut self, list: &List<EndpointConfig>) -> Vec<Declared> {
        let names = self.names("endpoints", list, |endpoint| endpoint.name.as_ref());
        let mut declared = Vec::new();
        for ((index, endpoint), name) in (0usize..).zip(list).zip(names) {
            let path = format!("endpoints[{index}]");
            if name.chars().any(|letter| letter.is_control() || letter > '\u{ff}') {
                self.mistake(
                    format!("{path}.name"),
                    "stands in header fields, which hold no characters beyond Latin-1",
                );
            }
            let usable = endpoint.as_ref().and_then(|endpoint| self.endpoint(&path, endpoint, &name));
            declared.push(Declared { index: self.places.endpoints.place(&name), name, usable });
        }
        declared
    }

    fn endpoint(&mut self, path: &str, config: &EndpointConfig, name: &str) -> Option<Rc<Endpoint>> {
        let api_key = self.secret(&format!("{path}.api_key_secret"), config.api_key_secret.as_deref());
        if let Some(via) = &config.via
            && !self.environment.has_service(via)
        {
            self.mistake(
                format!("{path}.via"),
                format!("names the binding `{via}`, which this Worker does not have: add it to wrangler.toml"),
            );
        }
        let max_concurrency =
            config.max_concurrency.map(|most| self.count(path, "max_concurrency", Some(most), 1, 1, 1_000_000));
        if config.provider.is_none() {
            self.mistake(format!("{path}.provider"), format!("is missing: {}", config::one_of(Provider::WORDS)));
        }
        let max_execution_ms =
            self.bounded(path, "max_execution_ms", config.max_execution_ms, 600_000, 5000, LONGEST_JOB);
        let max_ttl_ms = self.bounded(path, "max_ttl_ms", config.max_ttl_ms, 3_600_000, 10_000, LONGEST_JOB);
        let max_subrequests = self.count(path, "max_subrequests", config.max_subrequests, 1000, 10, 10_000);
        if config.provider.is_some_and(|provider| provider != Provider::Runpod) {
            for (field, set) in [
                ("mode", config.mode.is_some()),
                ("native", config.native == Some(true)),
                ("max_execution_ms", config.max_execution_ms.is_some()),
                ("max_ttl_ms", config.max_ttl_ms.is_some()),
            ] {
                if set {
                    self.mistake(format!("{path}.{field}"), "is for `\"provider\": \"runpod\"` only");
                }
            }
        }
        let takes_jobs = config.provider == Some(Provider::Runpod) && config.mode.unwrap_or_default() == Mode::Jobs;
        if takes_jobs && !jobs::ENABLED {
            let message = "`jobs` need a gateway: without one it can be `openai` or `load_balancer`";
            self.mistake(format!("{path}.mode"), message);
        }
        let native = config.provider == Some(Provider::Runpod) && config.native == Some(true);
        if native && config.mode == Some(Mode::LoadBalancer) {
            self.mistake(format!("{path}.native"), "is not for `\"mode\": \"load_balancer\"`, which has no jobs");
        }
        if native && config.api_key_secret.is_none() {
            let message = "is missing: the job ids that clients of a `native` endpoint get are marked with it";
            self.mistake(format!("{path}.api_key_secret"), message);
        }
        let base_url = config.base_url.as_deref().ok_or("is missing: for example `https://gpu.example.com/v1`");
        let base_url = base_url.and_then(check_url);
        if let Err(message) = base_url {
            self.mistake(format!("{path}.base_url"), message);
        }
        let (Some(provider), Ok(base_url)) = (config.provider, base_url) else { return None };
        let (root, prefix) = match (provider, config.mode.unwrap_or_default()) {
            (Provider::Vllm | Provider::Fairlead, _) => match base_url.strip_suffix("/v1") {
                Some(root) => (root, "/v1"),
                None => (base_url, ""),
            },
            (Provider::Runpod, Mode::Openai) => (base_url, "/openai/v1"),
            (Provider::Runpod, Mode::LoadBalancer) => (base_url.strip_suffix("/v1").unwrap_or(base_url), "/v1"),
            (Provider::Runpod, Mode::Jobs) => (base_url, ""),
        };
        Some(Rc::new(Endpoint {
            name: name.to_owned(),
            provider,
            mode: (provider == Provider::Runpod).then(|| config.mode.unwrap_or_default()),
            root: root.to_owned(),
            prefix,
            api_key,
            via: config.via.clone(),
            native,
            can_continue: config.r#continue.unwrap_or(provider == Provider::Vllm),
            surely_continues: config.r#continue == Some(true),
            max_execution_ms,
            max_ttl_ms,
            max_subrequests,
            max_concurrency,
            media: config.media.unwrap_or_default(),
        }))
    }

    /// A number that must be from `least` to `most`.
    fn bounded(&mut self, path: &str, field: &str, value: Option<u64>, default: u64, least: u64, most: u64) -> u64 {
        let value = value.unwrap_or(default);
        if !(least..=most).contains(&value) {
            self.mistake(format!("{path}.{field}"), format!("is {value}; it must be from {least} to {most}"));
        }
        value
    }

    /// The same, for small numbers.
    fn count(&mut self, path: &str, field: &str, value: Option<u64>, default: u32, least: u32, most: u32) -> u32 {
        let value = self.bounded(path, field, value, default.into(), least.into(), most.into());
        u32::try_from(value).unwrap_or(most)
    }

    fn policy(&mut self, name: &str, config: &PolicyConfig) -> Policy {
        let path = format!("policies.{name}");
        Policy::new(config, &path, &mut self.mistakes)
    }

    fn models(
        &mut self,
        list: &List<ModelConfig>,
        endpoints: &[Declared],
        policies: &Named<Rc<Policy>>,
    ) -> Vec<Rc<Model>> {
        let names = self.names("models", list, |model| model.name.as_ref());
        let mut models = Vec::new();
        for ((index, model), name) in (0usize..).zip(list).zip(names) {
            let Some(model) = model else { continue };
            let path = format!("models[{index}]");
            let wanted = model.policy.as_deref().unwrap_or(DEFAULT_POLICY);
            if named(policies, wanted).is_none() {
                let meant = config::meant(wanted, policies.iter().map(|(name, _)| &**name));
                self.mistake(format!("{path}.policy"), format!("names `{wanted}`, which is not in `policies`{meant}"));
            }
            let policy = named(policies, wanted).cloned().unwrap_or_default();
            let strategy = model.strategy.unwrap_or_default();
            let targets = self.targets(&path, &model.targets, endpoints, strategy);
            let index = Some(self.places.models.place(&name));
            models.push(Rc::new(Model { name, index, strategy, targets, policy }));
        }
        models
    }

    fn targets(
        &mut self,
        path: &str,
        list: &List<TargetConfig>,
        endpoints: &[Declared],
        strategy: Strategy,
    ) -> Vec<Target> {
        let mut targets = Vec::new();
        for (index, target) in (0usize..).zip(list) {
            let Some(target) = target else { continue };
            let path = format!("{path}.targets[{index}]");
            if target.weight.is_some() && strategy != Strategy::Weighted {
                let message = "has an effect under `\"strategy\": \"weighted\"` only";
                self.warnings.push(Mistake::at(format!("{path}.weight"), message));
            }
            let weight = self.count(&path, "weight", target.weight, 1, 0, 1_000_000);
            let Some(name) = &target.endpoint else {
                self.mistake(format!("{path}.endpoint"), "is missing: the name of an endpoint");
                continue;
            };
            match endpoints.iter().find(|declared| declared.name == *name) {
                Some(Declared { usable: Some(endpoint), index, .. }) => {
                    let (endpoint, model) = (Rc::clone(endpoint), target.model.clone());
                    targets.push(Target { endpoint, index: *index, model, weight });
                }
                Some(Declared { usable: None, .. }) => {}
                None => {
                    let meant = config::meant(name, endpoints.iter().map(|declared| &*declared.name));
                    let message = format!("names `{name}`, which is not in `endpoints`{meant}");
                    self.mistake(format!("{path}.endpoint"), message)
                }
            }
        }
        if list.is_empty() {
            self.mistake(format!("{path}.targets"), "is empty: name at least one endpoint");
        }
        targets
    }

    fn clients(
        &mut self,
        config: &Config,
        models: &[Rc<Model>],
        policies: &Named<Rc<Policy>>,
        endpoints: &[Declared],
    ) -> Vec<Client> {
        let Some(list) = &config.clients else { return Vec::new() };
        let names = self.names("clients", list, |client| client.name.as_ref());
        let mut clients = Vec::new();
        for ((index, client), name) in (0usize..).zip(list).zip(names) {
            let Some(client) = client else { continue };
            let path = format!("clients[{index}]");
            let takes_all = models.iter().any(|model| model.name == "*");
            let is_model = |name: &str| takes_all || models.iter().any(|model| model.name == name);
            let is_endpoint = |name: &str| endpoints.iter().any(|declared| declared.name == name);
            let allowed =
                client.models.as_ref().map(|list| self.references(&format!("{path}.models"), list, "models", is_model));
            let asked = self.references(&format!("{path}.policies"), &client.policies, "policies", |name| {
                named(policies, name).is_some()
            });
            let runpod = self.references(&format!("{path}.runpod"), &client.runpod, "endpoints", is_endpoint);
            for (index, name) in (0usize..).zip(&runpod) {
                let closed = |declared: &&Declared| declared.usable.as_ref().is_some_and(|endpoint| !endpoint.native);
                if endpoints.iter().filter(|declared| declared.name == *name).any(|declared| closed(&declared)) {
                    let message = format!("names `{name}`, whose jobs are not open: it needs `\"native\": true`");
                    self.mistake(format!("{path}.runpod[{index}]"), message);
                }
            }
            let keys = self.keys(&path, &client.keys_sha256, &clients);
            clients.push(Client {
                index: self.places.clients.place(&name),
                name,
                keys,
                models: allowed,
                policies: asked,
                runpod,
                limits: self.limits(&path, client),
            });
        }
        clients
    }

    fn limits(&mut self, path: &str, config: &ClientConfig) -> Limits {
        const MOST: u32 = 1_000_000_000;
        let mut count =
            |field: &str, value: Option<u64>| value.map(|value| self.count(path, field, Some(value), 1, 1, MOST));
        let requests_per_minute = count("requests_per_minute", config.requests_per_minute);
        let max_concurrency = count("max_concurrency", config.max_concurrency);
        let max_tokens = count("max_tokens", config.max_tokens).map(u64::from);
        let max_n = count("max_n", config.max_n);
        let rate_limiter = config.rate_limiter.as_ref().map(|binding| {
            if !self.environment.has_rate_limiter(binding) {
                let message = format!("names the rate limiting binding `{binding}`, which this Worker does not have: add it to wrangler.toml");
                self.mistake(format!("{path}.rate_limiter"), message);
            }
            let period_ms = config.rate_limiter_period_ms.unwrap_or(60_000);
            if !matches!(period_ms, 10_000 | 60_000) {
                let message = format!("is {period_ms}; a rate limiting binding has a period of 10000 or 60000");
                self.mistake(format!("{path}.rate_limiter_period_ms"), message);
            }
            RateLimiter { binding: binding.clone(), period_ms }
        });
        if config.rate_limiter.is_none() && config.rate_limiter_period_ms.is_some() {
            self.mistake(format!("{path}.rate_limiter_period_ms"), "is the period of `rate_limiter`, which is missing");
        }
        Limits { rate_limiter, requests_per_minute, max_concurrency, max_tokens, max_n }
    }

    fn keys(&mut self, path: &str, list: &List<String>, earlier: &[Client]) -> Vec<access::KeyHash> {
        if list.is_empty() {
            self.mistake(format!("{path}.keys_sha256"), "is empty: put in the SHA-256 of a key, 64 hexadecimal digits");
        }
        let mut keys = Vec::new();
        for (index, hex) in (0usize..).zip(list) {
            match hex.as_deref().map(access::parse_hash) {
                Some(Some(hash)) => {
                    // Whose limits would hold for it?
                    if let Some(other) = earlier.iter().find(|other| other.keys.contains(&hash)) {
                        let message =
                            format!("is a key of the client `{}` already: a key belongs to one client", other.name);
                        self.mistake(format!("{path}.keys_sha256[{index}]"), message);
                    }
                    keys.push(hash);
                }
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
            // Somebody may have put the secret itself here: only what looks like a name is repeated.
            let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
            let name = if is_name { name } else { "NAME" };
            self.mistake(path, format!("names a secret that is not set: `npx wrangler secret put {name}`"));
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
                Some(name) if name.len() > MAX_NAME => {
                    let message = format!("is {} bytes long; it must be at most {MAX_NAME}", name.len());
                    self.mistake(format!("{path}[{index}].name"), message);
                }
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
}

/// The longest name: two of them stand in a key of Workers KV, which has 512 bytes.
const MAX_NAME: usize = 200;

/// Seven days in milliseconds: RunPod's bound on `executionTimeout` and `ttl`.
const LONGEST_JOB: u64 = 604_800_000;

/// An absolute http(s) URL without user, query or fragment; returned without slashes at its end.
///
/// By hand, because the crate that knows all URLs is 6 kB of wasm; whoever fetches knows them, too.
fn check_url(url: &str) -> Result<&str, &'static str> {
    let split = url.split_once("://").filter(|(scheme, _)| matches!(&*scheme.to_ascii_lowercase(), "http" | "https"));
    let (_, rest) = split.ok_or("must begin with https:// or http://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("must not hold a user or password: use `api_key_secret`");
    }
    if path.contains(['?', '#']) {
        return Err("must not hold a query or fragment");
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of an IPv6 address is none before a port.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    if host.is_empty() {
        return Err("has no host");
    }
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%[]:".contains(&byte);
    let is_url = host.bytes().all(in_host) && port.parse::<u16>().is_ok() && path.bytes().all(|b| b.is_ascii_graphic());
    is_url.then(|| url.trim_end_matches('/')).ok_or("is not a URL: for example `https://gpu.example.com/v1`")
}

#[cfg(test)]
mod tests {
    use super::check_url;

    #[test]
    fn what_is_a_base_url_and_what_is_wrong_with_others() {
        for url in [
            "https://gpu.example.com/v1",
            "http://10.0.0.7:8000",
            "http://[fd00::7]:8000/v1",
            "http://[::1]",
            "HTTPS://gpu",
            "https://api.runpod.ai/v2/abc_1-2~%20",
        ] {
            assert_eq!(check_url(url), Ok(url));
            assert_eq!(check_url(&format!("{url}/")), Ok(url));
        }
        for (url, wrong) in [
            ("", "must begin"),
            ("/v1", "must begin"),
            ("gpu.example.com/v1", "must begin"),
            ("ftp://gpu.example.com", "must begin"),
            ("https://", "has no host"),
            ("https:///v1", "has no host"),
            ("https://:8000", "has no host"),
            ("https://user:word@gpu.example.com", "must not hold a user"),
            ("https://gpu.example.com?x=1", "must not hold a query"),
            ("https://gpu.example.com/v1#x", "must not hold a query"),
            ("https://gpu example.com", "is not a URL"),
            ("https://gpu.example.com/v 1", "is not a URL"),
            ("https://gpu.example.com:http", "is not a URL"),
            ("https://gpu.example.com:70000", "is not a URL"),
            ("https://gpü.example.com", "is not a URL"),
        ] {
            assert!(check_url(url).is_err_and(|message| message.starts_with(wrong)), "{url}: {:?}", check_url(url));
        }
    }
}
