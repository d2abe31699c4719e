//! From a request to its response: paths, keys, bodies, and then the core.

use crate::{
    cors,
    gateway::{Gateway, gateway},
    log::{self, CallFields},
    response::{self, Extra},
    runtime::WorkerRuntime,
};
use fairlead_core::{
    access::Client,
    api::{Api, Dialect},
    ask::Ask,
    call::{Call, Order},
    caller,
    drive::{self, operator},
    error::{Code, Error},
    message::{Headers, ResponseHead},
    native,
    settings::Settings,
    time::Instant,
};
use fairlead_host::{
    exchange::read,
    message::{SEPARATOR, describe, split},
    now,
};
use js_sys::Uint8Array;
use serde::Serialize;
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStreamDefaultReader, Request, Response};
use worker::{Context, Env};

/// An operator's orders are shorter.
const MAX_ORDER_BYTES: u64 = 1000;

/// Answers one request.
pub async fn answer(request: &Request, env: &Env, context: &Rc<Context>) -> Result<Response, JsValue> {
    let described = describe(request);
    let mut parts = described.split(SEPARATOR);
    let (method, url) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let visit = Visit {
        request,
        env,
        context,
        gateway: gateway(env),
        headers: split(parts),
        path: path_of(url),
        query: query_of(url),
        method,
        arrived: now(),
    };
    let request_id = caller::request_id(&visit.headers).map_or_else(new_id, str::to_owned);
    let origins = visit.gateway.settings.as_ref().map_or(&[][..], |settings| &settings.origins);
    let mut extra = if visit.is_preflight() {
        cors::preflight(origins, &visit.headers)
    } else {
        cors::fields(origins, &visit.headers)
    };
    extra.push(("x-request-id", request_id.clone()));

    match visit.dispatch(&request_id, &extra).await {
        Ok(response) => Ok(response),
        Err(Stop::Told(error)) => respond_error(&error, visit.path, &extra),
        Err(Stop::Gone) => unread(&extra),
        Err(Stop::Js(error)) => {
            log::internal(&request_id, &error);
            let error = Error::new(Code::Internal, "The gateway failed; its log says more under this request's id.");
            respond_error(&error, visit.path, &extra)
        }
    }
}

/// Why a request gets no ordinary answer.
enum Stop {
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
struct Visit<'a> {
    request: &'a Request,
    env: &'a Env,
    context: &'a Rc<Context>,
    gateway: Rc<Gateway>,
    headers: Headers,
    path: &'a str,
    query: &'a str,
    method: &'a str,
    arrived: Instant,
}

impl Visit<'_> {
    async fn dispatch(&self, request_id: &str, extra: &Extra) -> Result<Response, Stop> {
        if self.is_preflight() {
            return Ok(response::whole(head(204, &[]), extra, b"")?);
        }
        let Some(method) = method_of(self.path) else {
            let message = "There is nothing at this path. The README lists the routes of this gateway.";
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
        let isolating = endpoint_of(self.path);
        if isolating.is_some() || self.path == "/status" {
            return self.operate(settings, isolating, request_id, extra).await;
        }
        let api = Api::at(self.path);
        let key = caller::key(&self.headers, api.map_or(Dialect::Chat, Api::dialect));
        let client = settings.admit(key)?;
        match api {
            Some(api) => self.call(api, settings, client, request_id, extra).await,
            None => match native::Path::read(self.path) {
                Some(path) => self.errand(path, settings, client, request_id, extra).await,
                None => models(settings, client, self.path, extra),
            },
        }
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

    /// Carries a call to the endpoints out.
    async fn call(
        &self,
        api: Api,
        settings: &Settings,
        client: Option<&Client>,
        request_id: &str,
        extra: &Extra,
    ) -> Result<Response, Stop> {
        let deadline_ms = caller::deadline_ms(&self.headers)?;
        let body = self.body(settings.max_request_bytes()).await?;
        let ask = Ask::read(api, &self.headers, body)?;
        let (model, policy) = settings.plan(client, &ask.model, self.headers.get("x-fairlead-policy"))?;
        policy.admit(ask.body.len())?;
        let (request_id, seed) = (request_id.to_owned(), random());
        let order = Order {
            ask,
            model,
            policy,
            arrived: self.arrived,
            request_id,
            deadline_ms,
            client: settings.place_of(client),
            seed,
        };
        self.carry_out(order, client, extra).await
    }

    /// Carries an errand on a job of the client's own out.
    async fn errand(
        &self,
        path: native::Path<'_>,
        settings: &Settings,
        client: Option<&Client>,
        request_id: &str,
        extra: &Extra,
    ) -> Result<Response, Stop> {
        let deadline_ms = caller::deadline_ms(&self.headers)?;
        let wanted = self.headers.get("x-fairlead-policy");
        let (model, policy) = settings.plan_errand(client, path.endpoint, path.verb.is_once(), wanted)?;
        let Some(target) = model.targets.first() else { return Err(native::not_found().into()) };
        let limit = u64::try_from(path.verb.max_bytes()).unwrap_or(u64::MAX).min(policy.max_request_bytes);
        let body = if path.verb.submits() { self.body(limit).await? } else { Rc::new([]) };
        let patience_ms = deadline_ms.unwrap_or(u64::MAX).min(policy.deadline_ms);
        let visit = native::Visit {
            path,
            query: self.query,
            headers: &self.headers,
            body: &body,
            client: client.map(|client| &*client.name),
            now: now(),
            deadline: self.arrived.after(patience_ms),
        };
        let ask = visit.ask(&target.endpoint)?;
        let (request_id, seed) = (request_id.to_owned(), random());
        let order = Order {
            ask,
            model,
            policy,
            arrived: self.arrived,
            request_id,
            deadline_ms,
            client: settings.place_of(client),
            seed,
        };
        self.carry_out(order, client, extra).await
    }

    /// Shows an admin what is known of the endpoints; or takes one of them out or in.
    async fn operate(
        &self,
        settings: &Settings,
        endpoint: Option<&str>,
        request_id: &str,
        extra: &Extra,
    ) -> Result<Response, Stop> {
        settings.admit_admin(caller::key(&self.headers, Dialect::Chat))?;
        let fields = CallFields {
            request_id: request_id.to_owned(),
            trace_id: caller::trace_id(&self.headers).map(str::to_owned),
            client: None,
            route: if endpoint.is_some() { "/breakers" } else { "/status" },
            model: String::new(),
        };
        let runtime = WorkerRuntime::new(self.env.clone(), Rc::clone(self.context), self.request.signal(), fields);
        let fleet = &self.gateway.fleet;
        let body = match endpoint {
            Some(name) => {
                let body = self.body(MAX_ORDER_BYTES).await?;
                operator::order(&runtime, settings, fleet, &decoded(name), &body).await?
            }
            None => operator::status(&runtime, settings, fleet).await,
        };
        json(extra, &body)
    }

    async fn carry_out(&self, order: Order, client: Option<&Client>, extra: &Extra) -> Result<Response, Stop> {
        let fields = CallFields {
            request_id: order.request_id.clone(),
            trace_id: caller::trace_id(&self.headers).map(str::to_owned),
            client: client.map(|client| client.name.clone()),
            route: order.ask.api.path(),
            model: order.model.name.clone(),
        };
        let call = Call::new(now(), order, Rc::clone(&self.gateway.fleet));
        let context = Rc::clone(self.context);
        let runtime = WorkerRuntime::new(self.env.clone(), context, self.request.signal(), fields);
        match drive::open(runtime, call).await {
            Some(opened) => Ok(response::of_call(opened, extra, self.context).await?),
            None => Err(Stop::Gone),
        }
    }

    /// The request's body, up to a bound. One that breaks off is left behind by a caller who has
    /// gone: no failure of the gateway.
    async fn body(&self, limit: u64) -> Result<Rc<[u8]>, Stop> {
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

/// The method that a path takes; `None` where there is nothing.
fn method_of(path: &str) -> Option<&'static str> {
    let read = matches!(path, "/health" | "/status") || path == "/v1/models" || path.starts_with("/v1/models/");
    match native::Path::read(path) {
        _ if read => Some("GET"),
        Some(path) => Some(path.verb.method().as_str()),
        None if endpoint_of(path).is_some() => Some("POST"),
        None => Api::at(path).map(|_| "POST"),
    }
}

/// Whom `/breakers/{endpoint}` is about, percent-encoded.
fn endpoint_of(path: &str) -> Option<&str> {
    path.strip_prefix("/breakers/").filter(|name| !name.is_empty() && !name.contains('/'))
}

/// A name from a path; SDKs and pages encode what is special in names like `Qwen/Qwen2.5-7B`.
fn decoded(name: &str) -> String {
    js_sys::decode_uri_component(name).map_or_else(|_| name.to_owned(), String::from)
}

/// The path of an absolute URL, as the platform has normalised it.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').and_then(|start| rest.get(start..)).unwrap_or("/");
    path.split(['?', '#']).next().unwrap_or("/")
}

/// What stands behind the `?` of an absolute URL.
fn query_of(url: &str) -> &str {
    let url = url.split('#').next().unwrap_or_default();
    url.split_once('?').map_or("", |(_, query)| query)
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

fn json(extra: &Extra, body: &[u8]) -> Result<Response, Stop> {
    Ok(response::whole(head(200, &[("content-type", "application/json")]), extra, body)?)
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
