//! The validated form of `CONFIG`: names resolved, secrets filled in, nothing left to check.

mod check;

use crate::{
    access::{self, Client},
    config::{LogLevel, Media, Mistake, Mode, Named, Provider, Strategy, named},
    error::{Code, Error},
    fault::{self, Plan},
    message::Headers,
    policy::Policy,
    time::Instant,
};
use serde_json::Value;
use std::{fmt, rc::Rc};

/// Everything that `CONFIG` says.
#[derive(Debug, Default)]
pub struct Settings {
    /// Every server that can be used, with its place.
    pub endpoints: Vec<(usize, Rc<Endpoint>)>,
    /// What clients may ask for.
    pub models: Vec<Rc<Model>>,
    /// By name.
    pub policies: Named<Rc<Policy>>,
    /// Who may come in.
    pub clients: Vec<Client>,
    /// Whether everybody may.
    pub open: bool,
    /// Pages that may call from a browser; `*` for all.
    pub origins: Vec<String>,
    /// For the admin routes.
    pub admin_key: Option<Secret>,
    /// Which calls leave a line in the log.
    pub log: LogLevel,
    /// Whether an admin may have attempts fail on purpose.
    pub faults: bool,
    /// What the next version of `CONFIG` goes on from.
    pub places: Places,
}

/// The places by which [`crate::fleet::Fleet`] knows endpoints, entries of `models` and clients. A name keeps its own
/// through all versions of `CONFIG` that an isolate reads, and nobody else gets it.
#[derive(Clone, Debug, Default)]
pub struct Places {
    endpoints: Names,
    models: Names,
    clients: Names,
}

/// Names, each at its place.
#[derive(Clone, Debug, Default)]
struct Names(Vec<String>);

impl Names {
    /// The place of a name; a new one gets the next.
    fn place(&mut self, name: &str) -> usize {
        self.0.iter().position(|other| other == name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len().saturating_sub(1)
        })
    }
}

/// One server.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// Its name, in headers and logs.
    pub name: String,
    /// What kind of server it is.
    pub provider: Provider,
    /// How a RunPod endpoint is spoken to.
    pub mode: Option<Mode>,
    /// Its root, without a slash at the end and without `/v1`.
    pub root: String,
    /// What stands between the root and a route's path below `/v1`.
    pub prefix: &'static str,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// The binding that its requests go through, instead of the public network.
    pub via: Option<String>,
    /// Its jobs may be submitted and followed by clients themselves.
    pub native: bool,
    /// It can go on from a given beginning of an answer.
    pub can_continue: bool,
    /// Its operator says so; otherwise it may turn out that it begins again.
    pub surely_continues: bool,
    /// The longest that a job may run, in milliseconds, whatever is asked for.
    pub max_execution_ms: u64,
    /// The longest that a job may exist, in milliseconds from its submission.
    pub max_ttl_ms: u64,
    /// Fetches that one call may make, one of them kept for `/cancel`.
    pub max_subrequests: u32,
    /// Calls that one isolate has it serve at a time.
    pub max_concurrency: Option<u32>,
    /// What pictures and sounds in a request may stand for.
    pub media: Media,
}

/// One name that clients may ask for.
#[derive(Debug)]
pub struct Model {
    /// The name; `*` takes what no other entry takes.
    pub name: String,
    /// Its place; `None` for an endpoint whose jobs a client asks about by itself.
    pub index: Option<usize>,
    /// How a target is chosen.
    pub strategy: Strategy,
    /// Who can serve it; under [`Strategy::Failover`] in the order of trying.
    pub targets: Vec<Target>,
    /// How calls are carried out unless a client asks for another policy.
    pub policy: Rc<Policy>,
}

/// One endpoint that can serve a model.
#[derive(Debug)]
pub struct Target {
    /// The server.
    pub endpoint: Rc<Endpoint>,
    /// The server's place.
    pub index: usize,
    /// The name it is asked for; `None` for the client's own.
    pub model: Option<String>,
    /// Its share of the calls under [`Strategy::Weighted`]; with 0 it is asked when all others have failed.
    pub weight: u32,
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

/// The policy of whatever names none.
pub(crate) const DEFAULT_POLICY: &str = "default";

/// What a host can say about its environment.
pub trait Environment {
    /// The secret of this name.
    fn secret(&self, name: &str) -> Option<String>;
    /// Whether there is a binding of this name that requests can go through.
    fn has_service(&self, name: &str) -> bool;
    /// Whether there is a rate limiting binding of this name.
    fn has_rate_limiter(&self, _name: &str) -> bool {
        false
    }
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

impl Endpoint {
    /// Whether what it is asked goes into a job.
    pub fn takes_jobs(&self) -> bool {
        self.mode == Some(Mode::Jobs)
    }
}

impl Settings {
    /// Reads `CONFIG` from its bindings (see [`crate::config::assemble`]) and finds every mistake at once.
    pub fn read(parts: impl IntoIterator<Item = (String, Value)>, environment: &dyn Environment) -> Reading {
        Self::read_next(&Places::default(), parts, environment)
    }

    /// The same for a later version, behind one that had these places.
    pub fn read_next(
        places: &Places,
        parts: impl IntoIterator<Item = (String, Value)>,
        environment: &dyn Environment,
    ) -> Reading {
        check::read(places.clone(), parts, environment)
    }

    /// The entry that takes this name.
    pub fn model(&self, name: &str) -> Option<&Rc<Model>> {
        let named = |wanted: &str| self.models.iter().find(|model| model.name == wanted);
        named(name).filter(|_| name != "*").or_else(|| named("*"))
    }

    /// The policy of this name.
    pub fn policy(&self, name: &str) -> Option<&Rc<Policy>> {
        named(&self.policies, name)
    }

    /// The largest body that any policy takes.
    pub fn max_request_bytes(&self) -> u64 {
        let policies =
            self.policies.iter().map(|(_, policy)| policy).chain(self.models.iter().map(|model| &model.policy));
        policies.map(|policy| policy.max_request_bytes).max().unwrap_or(0)
    }

    /// When no call that arrives now can still be under way.
    pub fn latest(&self, now: Instant) -> Instant {
        let policies =
            self.policies.iter().map(|(_, policy)| policy).chain(self.models.iter().map(|model| &model.policy));
        now.after(policies.map(|policy| policy.deadline_ms).max().unwrap_or(0).max(Policy::default().deadline_ms))
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

    /// Lets an admin in, and nobody else.
    pub fn admit_admin(&self, key: Option<&str>) -> Result<(), Error> {
        let Some(admin_key) = &self.admin_key else {
            let message = "This route is closed: CONFIG names no admin key. Put one into a secret (`npx wrangler secret put ADMIN_KEY`) and name it in `admin_key_secret`.";
            return Err(Error::new(Code::Forbidden, message));
        };
        if key.is_some_and(|key| admin_key.matches(key)) {
            return Ok(());
        }
        let message = "This route takes the admin key, as `Authorization: Bearer <key>`.";
        Err(Error::new(Code::InvalidApiKey, message))
    }

    /// What is to go wrong with a call on purpose, if an admin says so in its header.
    pub fn rehearsal(&self, headers: &Headers) -> Result<Option<Plan>, Error> {
        let Some(field) = headers.get(fault::FAULT) else { return Ok(None) };
        let forbidden = |message: &str| Error::new(Code::Forbidden, message).with_param(fault::FAULT);
        if !self.faults {
            let message =
                "Nothing goes wrong on purpose here: CONFIG has no `\"faults\": true`. The call was not made.";
            return Err(forbidden(message));
        }
        let key = headers.get(fault::ADMIN_KEY);
        if !self.admin_key.as_ref().is_some_and(|admin| key.is_some_and(|key| admin.matches(key))) {
            let message = "`x-fairlead-fault` is for admins: send the admin key as `x-fairlead-admin-key` beside your own. The call was not made.";
            return Err(forbidden(message));
        }
        let plan = Plan::read(field)?;
        let unknown = plan.endpoints().find(|name| !self.endpoints.iter().any(|(_, endpoint)| endpoint.name == *name));
        if let Some(unknown) = unknown {
            let names: Vec<String> =
                self.endpoints.iter().map(|(_, endpoint)| format!("`{}`", endpoint.name)).collect();
            let message = format!("CONFIG has no endpoint `{}`. It has {}.", shorten(unknown), names.join(", "));
            return Err(Error::new(Code::InvalidRequest, message).with_param(fault::FAULT));
        }
        Ok(Some(plan))
    }

    /// A client's place, where there is more than one client.
    pub fn place_of(&self, client: Option<&Client>) -> Option<usize> {
        client.filter(|_| self.clients.len() > 1).map(|client| client.index)
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

    /// The endpoint of this name as a model of its own, and the policy to carry errands on its jobs
    /// out with. Whatever submits is tried once.
    pub fn plan_errand(
        &self,
        client: Option<&Client>,
        endpoint: &str,
        once: bool,
        wanted: Option<&str>,
    ) -> Result<(Rc<Model>, Rc<Policy>), Error> {
        let found = self.endpoints.iter().find(|(_, other)| other.name == endpoint && other.native);
        let Some((index, endpoint)) = found else {
            let message = "No RunPod endpoint of this name is open here: it needs `\"native\": true`.";
            return Err(Error::new(Code::RouteNotFound, message));
        };
        if client.is_some_and(|client| !client.runpod.contains(&endpoint.name)) {
            let message = "Your key may not use this endpoint's jobs: `clients[].runpod` must name it.";
            return Err(Error::new(Code::Forbidden, message));
        }
        let policy = match wanted {
            None => self.policy(DEFAULT_POLICY).cloned().unwrap_or_default(),
            Some(name) => Rc::clone(self.wanted_policy(client, name)?),
        };
        let policy = if once { Rc::new(Policy { max_attempts: 1, ..(*policy).clone() }) } else { policy };
        let target = Target { endpoint: Rc::clone(endpoint), index: *index, model: None, weight: 1 };
        let model = Model {
            name: endpoint.name.clone(),
            index: None,
            strategy: Strategy::Failover,
            targets: vec![target],
            policy: Rc::clone(&policy),
        };
        Ok((Rc::new(model), policy))
    }

    fn wanted_policy(&self, client: Option<&Client>, name: &str) -> Result<&Rc<Policy>, Error> {
        let allowed = client.is_none_or(|client| client.policies.iter().any(|policy| policy == name));
        if !allowed {
            let message =
                format!("Your key may not ask for the policy `{}`: `clients[].policies` must name it.", shorten(name));
            return Err(Error::new(Code::Forbidden, message).with_param("x-fairlead-policy"));
        }
        self.policy(name).ok_or_else(|| {
            let message = format!("No policy of this gateway is called `{}`.", shorten(name));
            Error::new(Code::InvalidRequest, message).with_param("x-fairlead-policy")
        })
    }
}

/// A caller's name for something, bounded before it goes into a message.
fn shorten(name: &str) -> String {
    name.chars().take(100).filter(|c| !c.is_control()).collect()
}
