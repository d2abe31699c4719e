//! From a request to its response: paths, keys, bodies, and then the core.

use crate::{
    admin::Matter,
    assets, cors,
    gateway::{self, Gateway},
    isolate::{Isolate, Witness, isolate},
    log,
    paths::{decoded, method_of, path_of, query_of, route_of},
    response::{self, Extra},
    runtime::WorkerRuntime,
};
use fairlead_core::{
    access::Client,
    allowance::{self, Pass},
    api::{Api, Dialect},
    ask::Ask,
    call::{Call, Order},
    caller::{self, Trace},
    drive::{self, Rehearsal, limiter},
    error::{Code, Error},
    fault::{FAULT, Plan},
    jobs::Op,
    journal::{Caller, Ticket},
    message::{Headers, ResponseHead},
    native,
    policy::Policy,
    settings::{Model, Settings},
    time::Instant,
};
use fairlead_host::{
    MAX_DELAY_MS,
    exchange::read,
    message::{SEPARATOR, describe, split},
    now,
};
use gloo_timers::future::TimeoutFuture;
use js_sys::Uint8Array;
use serde::Serialize;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStreamDefaultReader, Request, Response};
use worker::{Context, Env};

/// Answers one request.
pub async fn answer(request: &Request, env: &Env, context: &Rc<Context>) -> Result<Response, JsValue> {
    let described = describe(request);
    let mut parts = described.split(SEPARATOR);
    let (method, url) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (path, arrived) = (path_of(url), now());
    // A health check says that this Worker runs, and waits for nothing.
    let gateway = match path {
        "/health" => gateway::present(env),
        _ => gateway::gateway(env, context, arrived).await,
    };
    let mut headers = split(parts);
    let trace = headers.get("traceparent").and_then(|_| Trace::read(&headers, random()));
    if let Some(trace) = &trace {
        headers.set("traceparent", trace.traceparent());
    }
    let mut visit = Visit {
        request,
        env,
        context,
        gateway,
        isolate: isolate(request, env),
        request_id: caller::request_id(&headers).map_or_else(new_id, str::to_owned),
        trace,
        headers,
        path,
        query: query_of(url),
        method,
        arrived,
        ticket: None,
    };
    let origins = visit.gateway.settings.as_ref().map_or(&[][..], |settings| &settings.origins);
    let mut extra = if visit.is_preflight() {
        cors::preflight(origins, &visit.headers)
    } else {
        cors::fields(origins, &visit.headers)
    };
    extra.push(("x-request-id", visit.request_id.clone()));
    visit.ticket = visit.open();

    let stop = match visit.dispatch(&mut extra).await {
        Ok(response) => return Ok(response),
        Err(stop) => stop,
    };
    let error = match stop {
        Stop::Told(error) => error,
        Stop::Gone => {
            visit.close("client_gone", None);
            return unread(&extra);
        }
        Stop::Js(error) => {
            log::internal(&visit.request_id, &error);
            Error::new(Code::Internal, "The gateway failed; its log says more under this request's id.")
        }
    };
    visit.close(error.code.as_str(), error.param.as_deref());
    respond_error(&error, visit.path, &extra)
}

/// Why a request gets no ordinary answer.
pub enum Stop {
    /// An error for the caller.
    Told(Error),
    /// The caller has left.
    Gone,
    /// The platform threw.
    Js(JsValue),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

impl From<JsValue> for Stop {
    fn from(error: JsValue) -> Self {
        Self::Js(error)
    }
}

/// One request on its way through the gateway.
pub struct Visit<'a> {
    pub request: &'a Request,
    pub env: &'a Env,
    pub context: &'a Rc<Context>,
    pub gateway: Gateway,
    pub isolate: Rc<Isolate>,
    pub request_id: String,
    pub trace: Option<Trace>,
    pub headers: Headers,
    pub path: &'a str,
    pub query: &'a str,
    pub method: &'a str,
    pub arrived: Instant,
    /// Its account, if it has come to a client's route.
    pub ticket: Option<Ticket>,
}

/// A call that may be made.
struct Planned {
    ask: Ask,
    model: Rc<Model>,
    policy: Rc<Policy>,
    deadline_ms: Option<u64>,
}

impl Visit<'_> {
    async fn dispatch(&self, extra: &mut Extra) -> Result<Response, Stop> {
        if self.is_preflight() {
            return Ok(response::whole(head(204, &[]), extra, b"")?);
        }
        if let Some(file) = assets::answer(self.env, self.method, self.path).await? {
            return Ok(file);
        }
        let Some(method) = method_of(self.path) else {
            let message = "There is nothing at this path. The documentation lists the routes of this gateway.";
            return Err(Error::new(Code::RouteNotFound, message).into());
        };
        // A job's outputs are handed out once, and nobody reads them in answer to a HEAD.
        let may_be_head = method == "GET" && native::Path::read(self.path).is_none();
        if self.method != method && !(may_be_head && self.method == "HEAD") {
            let message = format!("This route takes {method} only.");
            return Err(Error::new(Code::MethodNotAllowed, message).into());
        }
        if self.path == "/health" {
            return json(extra, br#"{"status":"ok"}"#);
        }
        let settings = self.settings()?;
        if let Some(matter) = Matter::read(self.path) {
            return self.operate(settings, matter, extra).await;
        }
        let api = Api::at(self.path);
        let key = caller::key(&self.headers, api.map_or(Dialect::Chat, Api::dialect));
        let client = settings.admit(key)?;
        if let Some(ticket) = self.ticket {
            self.isolate.journal.borrow_mut().admit(ticket, client.map(|client| &*client.name));
        }
        let rehearsal = self.rehearsal(settings)?;
        let errand = native::Path::read(self.path);
        let counts = api.is_some() || errand.is_some_and(|path| path.verb.op() == Op::Submit);
        let pass = self.pass(settings, client.filter(|_| counts)).await;
        extra.extend(client.into_iter().flat_map(|client| allowance::fields(&self.gateway.fleet, client, now())));
        let pass = pass?;
        let Planned { ask, model, policy, deadline_ms } = match (api, errand) {
            (Some(api), _) => self.ask(api, settings, client).await?,
            (None, Some(path)) => self.errand(path, settings, client).await?,
            (None, None) => {
                let list = models(settings, client, self.path, extra)?;
                self.close("ok", None);
                return Ok(list);
            }
        };
        let order = Order {
            ask,
            model,
            policy,
            arrived: self.arrived,
            request_id: self.request_id.clone(),
            deadline_ms,
            client: settings.place_of(client),
            seed: random(),
        };
        self.carry_out(order, pass, rehearsal, extra).await
    }

    /// The settings; or, where `CONFIG` has mistakes, all of them for an admin and their number
    /// for anybody else.
    fn settings(&self) -> Result<&Settings, Error> {
        let mistakes = match &self.gateway.settings {
            Ok(settings) => return Ok(settings),
            Err(mistakes) => mistakes,
        };
        let key = caller::key(&self.headers, Dialect::Chat);
        let admin = self.gateway.admin_key.as_ref().is_some_and(|secret| key.is_some_and(|key| secret.matches(key)));
        let message = if admin {
            let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            format!("CONFIG has mistakes. {}", lines.join("; "))
        } else {
            format!(
                "CONFIG has {} mistakes. They stand in this Worker's log, and `npm run check` shows them.",
                mistakes.len()
            )
        };
        Err(Error::new(Code::ConfigInvalid, message))
    }

    /// What is to go wrong with it on purpose.
    fn rehearsal(&self, settings: &Settings) -> Result<Option<Plan>, Error> {
        let plan = settings.rehearsal(&self.headers)?;
        if let (Some(ticket), Some(words)) = (self.ticket.filter(|_| plan.is_some()), self.headers.get(FAULT)) {
            self.isolate.journal.borrow_mut().rehearse(ticket, words);
        }
        Ok(plan)
    }

    /// Lets a call in, or says which of its client's limits has been reached.
    async fn pass(&self, settings: &Settings, client: Option<&Client>) -> Result<Option<Pass>, Error> {
        let Some(client) = client else { return Ok(None) };
        let pass = Pass::take(&self.gateway.fleet, client, now(), settings.latest(self.arrived))?;
        if client.limits.rate_limiter.is_none() {
            return Ok(pass);
        }
        let route = route_of(self.path).unwrap_or_default();
        let caller = Caller { route, client: Some(client.name.clone()), ..self.caller() };
        let runtime = self.runtime(Rc::new(caller), None);
        limiter::ask(&runtime, client, pass).await
    }

    /// What a client asks of its model.
    async fn ask(&self, api: Api, settings: &Settings, client: Option<&Client>) -> Result<Planned, Stop> {
        let deadline_ms = caller::deadline_ms(&self.headers)?;
        let until = settings.latest(self.arrived).min(self.arrived.after(deadline_ms.unwrap_or(u64::MAX)));
        let body = self.body(settings.max_request_bytes(), until).await?;
        let length = body.len();
        let mut ask = Ask::read_within(api, &self.headers, body, client.map(|client| &client.limits))?;
        let (model, policy) = settings.plan(client, &ask.model, self.headers.get("x-fairlead-policy"))?;
        policy.admit(length)?;
        ask.look_for_addresses(&model.targets)?;
        Ok(Planned { ask, model, policy, deadline_ms })
    }

    /// What a client wants of a job of its own.
    async fn errand(
        &self,
        path: native::Path<'_>,
        settings: &Settings,
        client: Option<&Client>,
    ) -> Result<Planned, Stop> {
        let deadline_ms = caller::deadline_ms(&self.headers)?;
        let wanted = self.headers.get("x-fairlead-policy");
        let (model, policy) = settings.plan_errand(client, path.endpoint, path.verb.is_once(), wanted)?;
        let Some(target) = model.targets.first() else { return Err(native::not_found().into()) };
        let limit = u64::try_from(path.verb.max_bytes()).unwrap_or(u64::MAX).min(policy.max_request_bytes);
        let deadline = self.arrived.after(deadline_ms.unwrap_or(u64::MAX).min(policy.deadline_ms));
        let body = if path.verb.submits() { self.body(limit, deadline).await? } else { Rc::new([]) };
        let visit = native::Visit {
            path,
            query: self.query,
            headers: &self.headers,
            body: &body,
            client,
            now: now(),
            deadline,
        };
        let mut ask = visit.ask(&target.endpoint)?;
        ask.look_for_addresses(&model.targets)?;
        Ok(Planned { ask, model, policy, deadline_ms })
    }

    async fn carry_out(
        &self,
        order: Order,
        pass: Option<Pass>,
        rehearsal: Option<Plan>,
        extra: &Extra,
    ) -> Result<Response, Stop> {
        let model = Rc::clone(&order.model);
        let mut call = Call::new(now(), order, Rc::clone(&self.gateway.fleet));
        if let Some(pass) = pass {
            let pass = pass.until(call.deadline());
            call.hold(pass);
        }
        let caller = match self.ticket {
            Some(ticket) => self.isolate.journal.borrow_mut().begin(ticket, &model.name, call.deadline()),
            None => Rc::new(self.caller()),
        };
        let runtime = Rehearsal::new(self.runtime(caller, self.ticket), rehearsal);
        match drive::open(runtime, call).await {
            Some(opened) => Ok(response::of_call(opened, extra, self.context).await?),
            None => Err(Stop::Gone),
        }
    }

    /// The host of what this request brings about.
    pub fn runtime(&self, caller: Rc<Caller>, ticket: Option<Ticket>) -> WorkerRuntime {
        let witness = Witness { isolate: Rc::clone(&self.isolate), env: self.env.clone(), caller, ticket };
        WorkerRuntime::new(self.env.clone(), Rc::clone(self.context), self.request.signal(), witness)
    }

    /// Who asks, as far as that is known on arrival.
    pub fn caller(&self) -> Caller {
        Caller { request_id: self.request_id.clone(), trace: self.trace.clone(), ..Caller::default() }
    }

    /// Opens the account of a request to a client's route.
    fn open(&self) -> Option<Ticket> {
        let route = route_of(self.path).filter(|_| !self.is_preflight())?;
        let caller = Caller { route, ..self.caller() };
        Some(self.isolate.open(self.arrived, caller, &self.gateway, self.env))
    }

    /// Closes it, unless its call has.
    fn close(&self, outcome: &str, param: Option<&str>) {
        if let Some(ticket) = self.ticket {
            self.isolate.close(ticket, self.env, outcome, param);
        }
    }

    /// The request's body, up to a bound, and up to a moment: whoever sends a byte a second is not waited for. One that
    /// breaks off is left behind by a caller who has gone: no failure of the gateway.
    pub async fn body(&self, limit: u64, until: Instant) -> Result<Rc<[u8]>, Stop> {
        let ms = u32::try_from(now().until(until)).unwrap_or(MAX_DELAY_MS).min(MAX_DELAY_MS);
        let (mut late, mut body) = (TimeoutFuture::new(ms), pin!(self.whole_body(limit)));
        poll_fn(|context| match body.as_mut().poll(context) {
            Poll::Pending => Pin::new(&mut late).poll(context).map(|()| Err(Error::too_slow().into())),
            read => read,
        })
        .await
    }

    async fn whole_body(&self, limit: u64) -> Result<Rc<[u8]>, Stop> {
        let announced = self.headers.get("content-length").and_then(|length| length.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(Error::too_large(limit).into());
        }
        if announced.is_some() {
            let buffer = JsFuture::from(self.request.array_buffer()?).await.map_err(|_| Stop::Gone)?;
            return Ok(Uint8Array::new(&buffer).to_vec().into());
        }
        let Some(stream) = self.request.body() else { return Ok(Rc::new([])) };
        let reader: ReadableStreamDefaultReader = stream.get_reader().unchecked_into();
        let mut body = Vec::new();
        while let Some(chunk) = read(&reader).await.map_err(|_| Stop::Gone)? {
            body.extend_from_slice(&chunk.to_vec());
            if u64::try_from(body.len()).is_ok_and(|length| length > limit) {
                return Err(Error::too_large(limit).into());
            }
        }
        Ok(body.into())
    }

    fn is_preflight(&self) -> bool {
        self.method == "OPTIONS" && self.headers.get("access-control-request-method").is_some()
    }
}

/// `GET /v1/models` and `GET /v1/models/{id}`: the names that this client may ask for.
fn models(settings: &Settings, client: Option<&Client>, path: &str, extra: &Extra) -> Result<Response, Stop> {
    let allowed = |name: &str| client.is_none_or(|client| client.may_use(name, name));
    let names = settings.models.iter().map(|model| model.name.as_str()).filter(|name| *name != "*" && allowed(name));
    let Some(id) = path.strip_prefix("/v1/models/") else {
        let list = ModelList { object: "list", data: names.map(ModelCard::new).collect() };
        return json(extra, &serde_json::to_vec(&list).unwrap_or_default());
    };
    let id = decoded(id);
    match names.into_iter().find(|name| *name == id) {
        Some(name) => json(extra, &serde_json::to_vec(&ModelCard::new(name)).unwrap_or_default()),
        None => {
            let message = "No model of this name is listed for your key. GET /v1/models lists those you may use.";
            Err(Error::new(Code::ModelNotFound, message).with_param("model").into())
        }
    }
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelCard<'a>>,
}

#[derive(Serialize)]
struct ModelCard<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> ModelCard<'a> {
    const fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: 0, owned_by: "fairlead" }
    }
}

fn respond_error(error: &Error, path: &str, extra: &Extra) -> Result<Response, JsValue> {
    let dialect = Api::at(path).map_or(Dialect::Chat, Api::dialect);
    let mut head = head(error.code.status(), &[("content-type", "application/json")]);
    if let Some(ms) = error.retry_after_ms {
        head.headers.set("retry-after", ms.div_ceil(1000).to_string());
    }
    match error.code {
        Code::MethodNotAllowed => head.headers.set("allow", method_of(path).unwrap_or_default()),
        Code::InvalidApiKey => head.headers.set("www-authenticate", "Bearer"),
        // The same tomorrow: SDKs would ask twice more.
        Code::ConfigInvalid | Code::Internal => head.headers.set("x-should-retry", "false"),
        _ => {}
    }
    response::whole(head, extra, &error.body(dialect))
}

/// The answer that nobody is there to read, with nginx's status for that.
fn unread(extra: &Extra) -> Result<Response, JsValue> {
    response::whole(head(499, &[]), extra, b"")
}

/// A whole answer of JSON.
pub fn json(extra: &Extra, body: &[u8]) -> Result<Response, Stop> {
    answer_of(extra, "application/json", body)
}

/// A whole answer.
pub fn answer_of(extra: &Extra, media_type: &str, body: &[u8]) -> Result<Response, Stop> {
    Ok(response::whole(head(200, &[("content-type", media_type)]), extra, body)?)
}

fn head(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
    ResponseHead { status, headers: fields.iter().copied().collect() }
}

/// 64 random bits; where the platform has none, the clock has to do.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| now().as_millis())
}

fn new_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}
