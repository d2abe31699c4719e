//! The `/runpod/…` routes: jobs that clients submit and follow by themselves, for any handler.
//!
//! RunPod's own SDKs work against them by base URL alone, so shapes are RunPod's (wire facts,
//! sections 2 and 3). What is the gateway's: a job id carries a keyed mark of the client it was
//! given to, so that nobody reaches another client's job; `policy` is kept inside the operator's
//! bounds; nothing that is submitted here is ever submitted again.

mod bounds;

use crate::{
    access::{Client, Limits},
    api::Api,
    ask::Ask,
    error::{Code, Error, JobState},
    jobs::{Facts, Op, Piece, is_job_id},
    json::{Text, one_line, place_of, read_object, text},
    message::{Headers, Method, Request},
    provider::runpod::{self, Lifetime},
    settings::{Endpoint, Secret},
    time::Instant,
};
use hmac::{Hmac, KeyInit, Mac};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use sha2::Sha256;
use std::{borrow::Cow, fmt, rc::Rc};

/// One of RunPod's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Submit a job and leave it.
    Run,
    /// Submit a job and wait for it.
    RunSync,
    /// Ask for a job's state.
    Status,
    /// Wait for a job.
    StatusSync,
    /// Take what a job has put out.
    Stream,
    /// End a job.
    Cancel,
    /// Run a job that failed once more.
    Retry,
    /// Ask for the endpoint's workers and queue.
    Health,
}

/// A path below `/runpod/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// The endpoint's name in `CONFIG`.
    pub endpoint: &'a str,
    /// What is to be done.
    pub verb: Verb,
    /// The job's id as the client has it.
    pub job: Option<&'a str>,
}

impl<'a> Path<'a> {
    /// Reads a path; `None` where it is no route.
    pub fn read(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix("/runpod/")?.split('/');
        let (endpoint, verb, job) = (parts.next()?, parts.next()?, parts.next());
        let verb = match (verb, job) {
            ("run", None) => Verb::Run,
            ("runsync", None) => Verb::RunSync,
            ("health", None) => Verb::Health,
            ("status", Some(_)) => Verb::Status,
            ("status-sync", Some(_)) => Verb::StatusSync,
            ("stream", Some(_)) => Verb::Stream,
            ("cancel", Some(_)) => Verb::Cancel,
            ("retry", Some(_)) => Verb::Retry,
            _ => return None,
        };
        let plain = parts.next().is_none() && !endpoint.is_empty();
        plain.then_some(Self { endpoint, verb, job })
    }
}

impl Verb {
    /// The method it takes.
    pub const fn method(self) -> Method {
        match self {
            Self::Run | Self::RunSync | Self::Cancel | Self::Retry => Method::Post,
            Self::Status | Self::StatusSync | Self::Stream | Self::Health => Method::Get,
        }
    }

    /// Whether it takes several operations, one behind another.
    pub const fn is_followed(self) -> bool {
        matches!(self, Self::RunSync | Self::StatusSync | Self::Stream)
    }

    /// RunPod's operation that it counts as.
    pub const fn op(self) -> Op {
        match self {
            Self::Run | Self::RunSync | Self::Retry => Op::Submit,
            Self::Status | Self::StatusSync => Op::Status,
            Self::Stream => Op::Stream,
            Self::Cancel => Op::Cancel,
            Self::Health => Op::Health,
        }
    }

    /// Whether a body comes with it that is a job.
    pub const fn submits(self) -> bool {
        matches!(self, Self::Run | Self::RunSync)
    }

    /// The largest body that it takes.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Run => runpod::MAX_RUN,
            _ => runpod::MAX_RUNSYNC,
        }
    }

    /// Whether asking twice may do something twice, or pass over what the first answer held.
    pub const fn is_once(self) -> bool {
        matches!(self, Self::Run | Self::RunSync | Self::Retry | Self::Stream)
    }
}

/// What is to be done with a job of the client's own.
#[derive(Debug)]
pub struct Errand {
    /// What.
    pub verb: Verb,
    /// RunPod's id of the job.
    pub job: Option<String>,
    /// How long the client wants to wait at most, in milliseconds; then it gets the job's state.
    pub wait_ms: Option<u64>,
    /// The job goes on when the client does not wait any more.
    pub keep: bool,
    /// How long the job may take.
    pub lifetime: Lifetime,
    /// Whose job it is.
    pub mark: Mark,
}

/// A request about a job as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Where to.
    pub path: Path<'a>,
    /// What stands behind the `?`.
    pub query: &'a str,
    /// Its fields.
    pub headers: &'a Headers,
    /// Its body.
    pub body: &'a [u8],
    /// Who asks; `None` is anybody, where the gateway is open.
    pub client: Option<&'a Client>,
    /// Now, and when the caller must have its answer.
    pub now: Instant,
    /// See `now`.
    pub deadline: Instant,
}

/// RunPod's bounds on `wait`, in milliseconds.
const WAIT_MS: (u64, u64) = (1000, 300_000);

impl Visit<'_> {
    /// Understands the request, or says what is wrong with it, before anything is sent.
    pub fn ask(&self, endpoint: &Endpoint) -> Result<Ask, Error> {
        let Path { verb, job, .. } = self.path;
        let mark = Mark::new(endpoint, self.client.map(|client| &*client.name));
        let job = job.map(|id| mark.take(id).map(str::to_owned).ok_or_else(not_found)).transpose()?;
        let wait_ms = match self.parameter("wait") {
            None => None,
            Some(value) => {
                let ms = value.parse::<u64>();
                let ms = ms.map_err(|_| invalid("wait", "`wait` must be a whole number of milliseconds."))?;
                Some(ms.clamp(WAIT_MS.0, WAIT_MS.1))
            }
        };
        let keep = self.parameter("keep").is_some_and(|value| value != "false");
        let mut lifetime = Lifetime::until(self.now, self.deadline, endpoint);
        let mut body: Rc<[u8]> = Rc::new([]);
        if verb.submits() {
            let mut submission = Submission::read(self.body)?;
            if let Some(client) = self.client.filter(|client| client.limits.bound_answers()) {
                submission.bound(&client.limits)?;
            }
            let own = submission.lifetime(endpoint);
            // A job that may go on behind its caller has its caller's own times.
            lifetime = match verb == Verb::Run || keep || wait_ms.is_some() {
                true => own,
                false => Lifetime::within(
                    own.execution_ms.min(lifetime.execution_ms),
                    own.ttl_ms.min(lifetime.ttl_ms),
                    endpoint,
                ),
            };
            body = submission.with(lifetime).into();
            let most = verb.max_bytes();
            if body.len() > most {
                let message = format!("RunPod takes at most {most} bytes here; send links to large inputs instead.");
                return Err(Error::new(Code::RequestTooLarge, message));
            }
        }
        let stream = verb == Verb::Stream
            && self.headers.get("accept").is_some_and(|accept| accept.contains("text/event-stream"));
        let errand = Errand { verb, job, wait_ms, keep, lifetime, mark };
        Ok(Ask::of_errand(self.path.endpoint, errand, stream, body))
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl Errand {
    /// The request of an errand that is one exchange.
    pub fn request(&self, endpoint: &Endpoint, body: &Rc<[u8]>, request_id: &str) -> Request {
        let job = self.job.as_deref();
        let operation = |op| runpod::operation(endpoint, op, job, request_id);
        match self.verb {
            Verb::Status | Verb::StatusSync => operation(Op::Status),
            Verb::Stream => operation(Op::Stream),
            Verb::Cancel => operation(Op::Cancel),
            Verb::Health => operation(Op::Health),
            Verb::Retry => {
                let path = format!("/retry/{}", job.unwrap_or_default());
                runpod::request(endpoint, Method::Post, &path, request_id, Rc::new([]))
            }
            Verb::Run | Verb::RunSync => runpod::request(endpoint, Method::Post, "/run", request_id, Rc::clone(body)),
        }
    }

    /// What is known of the job, as its client may see it.
    pub fn state(&self, facts: &Facts, kept: &[Piece]) -> JobState {
        JobState {
            id: facts.id.as_deref().map(|id| self.mark.give(id)),
            status: facts.word.map(|word| word.as_str()),
            delay_time: facts.delay_ms,
            execution_time: facts.execution_ms,
            worker_id: facts.worker.clone(),
            stream: kept.iter().map(|piece| piece.to_json().into_owned()).collect(),
        }
    }

    /// An answer of RunPod's with the client's id of the job in it.
    pub fn relabel(&self, body: &[u8]) -> Vec<u8> {
        #[derive(Deserialize)]
        struct Labelled<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
        }
        let id = read_object::<Labelled>(text(body)).ok().and_then(|labelled| labelled.id);
        let Some((place, Text(id))) =
            id.and_then(|id| Some((place_of(id.get(), body), serde_json::from_str::<Text>(id.get()).ok()?)))
        else {
            return body.to_vec();
        };
        let before = body.get(..place.start).unwrap_or_default();
        let behind = body.get(place.end..).unwrap_or_default();
        [before, quoted(&self.mark.give(&id)).as_bytes(), behind].concat()
    }
}

/// One output as an event.
pub fn output_event(piece: &Piece) -> Vec<u8> {
    format!("data: {{\"output\":{}}}\n\n", one_line(&piece.to_json())).into_bytes()
}

/// The event behind a job's last output.
pub fn end_event(state: &JobState) -> Vec<u8> {
    format!("event: status\ndata: {}\n\n", serde_json::to_string(state).unwrap_or_default()).into_bytes()
}

/// What a job that did not end in time has put out so far, as RunPod's result.
pub fn partial(state: JobState) -> Vec<u8> {
    let JobState { stream, .. } = &state;
    let output = format!("[{}]", stream.join(","));
    let rest = serde_json::to_string(&JobState { stream: Vec::new(), ..state }).unwrap_or_default();
    let rest = rest.strip_prefix('{').unwrap_or_default();
    let comma = if rest.starts_with('}') { "" } else { "," };
    format!("{{\"output\":{output}{comma}{rest}").into_bytes()
}

/// Whose jobs: a client's, at one endpoint.
pub struct Mark {
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// Digits of a mark: 80 bits, which nobody guesses against a rate limit.
const MARK_DIGITS: usize = 20;

impl Mark {
    /// The mark of this client's jobs, keyed with the endpoint's own key: every isolate has it, and
    /// nobody else.
    pub fn new(endpoint: &Endpoint, client: Option<&str>) -> Self {
        let key = endpoint.api_key.as_ref().map_or("", Secret::reveal);
        // HMAC takes keys of any length.
        #[expect(clippy::unwrap_used, reason = "`new_from_slice` of an HMAC never fails")]
        let mut keyed = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        for part in ["fairlead job", &endpoint.name, client.unwrap_or("")] {
            keyed.update(part.as_bytes());
            keyed.update(&[0]);
        }
        Self { keyed }
    }

    /// The id that the client gets for RunPod's.
    pub fn give(&self, job: &str) -> String {
        let mut id = format!("{job}.");
        for byte in self.of(job).into_bytes().iter().take(MARK_DIGITS / 2) {
            id.push_str(&format!("{byte:02x}"));
        }
        id
    }

    /// RunPod's id, if this one was given to the client.
    pub fn take<'a>(&self, id: &'a str) -> Option<&'a str> {
        let (job, mark) = id.rsplit_once('.')?;
        let digits: Vec<u8> =
            mark.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
        let bytes: Vec<u8> =
            digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        let fits = digits.len() == MARK_DIGITS && is_job_id(job);
        (fits && self.of(job).verify_truncated_left(&bytes).is_ok()).then_some(job)
    }

    fn of(&self, job: &str) -> Finished {
        let mut keyed = self.keyed.clone();
        keyed.update(job.as_bytes());
        Finished(keyed)
    }
}

/// A mark that can be read or compared, the latter in constant time.
struct Finished(Hmac<Sha256>);

impl Finished {
    fn into_bytes(self) -> Vec<u8> {
        self.0.finalize().into_bytes().to_vec()
    }

    fn verify_truncated_left(self, bytes: &[u8]) -> Result<(), hmac::digest::MacError> {
        self.0.verify_truncated_left(bytes)
    }
}

/// The error of a job that is not there, or not the client's.
pub fn not_found() -> Error {
    Error::new(Code::JobNotFound, "There is no such job of yours at this endpoint, or its result was kept no longer.")
}

/// A job as a client submits it: RunPod's envelope, every field of it kept but `policy`, and what its client's limits
/// write into `input`.
pub struct Submission<'a> {
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// Its `input`, where it is another than it came with.
    input: Option<String>,
    execution_ms: Option<u64>,
    ttl_ms: Option<u64>,
}

/// What RunPod allows a job that says nothing: ten minutes of work, within a day.
const DEFAULT_EXECUTION_MS: u64 = 600_000;
const DEFAULT_TTL_MS: u64 = 86_400_000;

impl<'a> Submission<'a> {
    /// Reads an envelope, or says what is wrong with it, before anything is submitted.
    pub fn read(body: &'a [u8]) -> Result<Self, Error> {
        let Ok(Object(fields)) = read_object::<Object>(text(body)) else {
            return Err(invalid(
                "input",
                "The body must be a JSON object with an object `input` in it, no field twice.",
            ));
        };
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.get());
        let Some(input) = field("input").filter(|input| input.starts_with('{')) else {
            return Err(invalid("input", "`input` is missing or no object: it is what the handler gets."));
        };
        check_route(input)?;
        let policy = field("policy").filter(|policy| *policy != "null").unwrap_or("{}");
        let Ok(Object(policy)) = read_object::<Object>(policy) else {
            return Err(invalid("policy", "`policy` must be an object, no field twice."));
        };
        let ms = |name: &str| match policy.iter().find(|(field, _)| field == name).map(|(_, value)| value.get()) {
            None | Some("null") => Ok(None),
            Some(value) => value.parse::<u64>().map(Some).map_err(|_| {
                invalid(&format!("policy.{name}"), &format!("`policy.{name}` must be a whole number of milliseconds."))
            }),
        };
        let (execution_ms, ttl_ms) = (ms("executionTimeout")?, ms("ttl")?);
        Ok(Self { fields, input: None, execution_ms, ttl_ms })
    }

    /// Holds it against its client's limits.
    pub fn bound(&mut self, limits: &Limits) -> Result<(), Error> {
        let input = self.fields.iter().find(|(field, _)| field == "input").map_or("{}", |(_, value)| value.get());
        self.input = bounds::bound_input(input, limits)?;
        Ok(())
    }

    /// How long the job may take, as far as its caller has a say in it.
    pub fn lifetime(&self, endpoint: &Endpoint) -> Lifetime {
        let execution_ms = self.execution_ms.unwrap_or(DEFAULT_EXECUTION_MS);
        Lifetime::within(execution_ms, self.ttl_ms.unwrap_or(DEFAULT_TTL_MS), endpoint)
    }

    /// The envelope with that in it; every other field is as it came.
    pub fn with(&self, lifetime: Lifetime) -> Vec<u8> {
        let Lifetime { execution_ms, ttl_ms } = lifetime;
        let mut policy = format!("\"ttl\":{ttl_ms}");
        // Where nobody asks for less, the endpoint's own setting stands.
        if self.execution_ms.is_some() || execution_ms < DEFAULT_EXECUTION_MS {
            policy.push_str(&format!(",\"executionTimeout\":{execution_ms}"));
        }
        let mut envelope = String::from("{");
        for (name, value) in &self.fields {
            if name == "policy" {
                if let Ok(Object(fields)) = read_object::<Object>(value.get()) {
                    let others = fields.iter().filter(|(name, _)| name != "executionTimeout" && name != "ttl");
                    others.for_each(|(name, value)| policy.push_str(&format!(",{}:{value}", quoted(name))));
                }
                continue;
            }
            let own = self.input.as_deref().filter(|_| name == "input");
            envelope.push_str(&format!("{}:{},", quoted(name), own.unwrap_or(value.get())));
        }
        envelope.push_str(&format!("\"policy\":{{{policy}}}}}"));
        envelope.into_bytes()
    }
}

fn invalid(param: &str, message: &str) -> Error {
    Error::new(Code::InvalidRequest, message).with_param(param)
}

fn quoted(name: &str) -> String {
    // A string always has a JSON form.
    serde_json::to_string(name).unwrap_or_default()
}

/// What a worker-vllm is asked for must be one of the gateway's own routes: its server leaves
/// dangerous ones open.
fn check_route(input: &str) -> Result<(), Error> {
    let Ok(Object(fields)) = read_object::<Object>(input) else {
        return Err(invalid("input", "`input` must be an object, no field twice."));
    };
    for (name, value) in &fields {
        if name != "openai_route" && name != "route" {
            continue;
        }
        let route = serde_json::from_str::<Text>(value.get()).map(|Text(route)| route);
        let is_open = route.as_ref().is_ok_and(|route| *route == "/v1/models" || Api::at(route).is_some());
        // Other handlers may mean something else by `route`.
        let is_harmless = name == "route" && is_no_address(value.get(), route.ok().as_deref());
        if !is_open && !is_harmless {
            let message = "This route of a vLLM worker is not open. The documentation lists those that are.";
            return Err(Error::new(Code::Forbidden, message).with_param(format!("input.{name}")));
        }
    }
    Ok(())
}

/// Whether this value, as a string or whatever else, leads nowhere when a worker puts it right behind
/// `http://127.0.0.1:8000`: behind an `@` would stand another host, and the same one with any path.
fn is_no_address(json: &str, text: Option<&str>) -> bool {
    match text {
        Some(text) => text.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-')),
        None => !json.contains(['@', '\\']),
    }
}

/// A JSON object's fields in their order, none of them twice.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        while let Some((Text(name), value)) = map.next_entry::<Text, &RawValue>()? {
            fields.push((name, value));
        }
        // Sorted, for there may be millions, of a caller's making.
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return Err(serde::de::Error::custom("a field twice"));
        }
        Ok(Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_no_plain_word_stays_json() {
        let mark = Mark::new(&Endpoint::default(), None);
        let lifetime = Lifetime { execution_ms: 5000, ttl_ms: 10_000 };
        let errand = Errand { verb: Verb::Status, job: None, wait_ms: None, keep: false, lifetime, mark };
        let told: serde_json::Value = serde_json::from_slice(&errand.relabel(br#"{"id":"a\"b","x":1}"#)).unwrap();
        assert!(told["id"].as_str().unwrap().starts_with("a\"b."), "{told}");
    }

    fn refused(body: &str) -> Option<Code> {
        Submission::read(body.as_bytes()).err().map(|error| error.code)
    }

    #[test]
    fn no_route_leads_a_vllm_worker_elsewhere() {
        // A worker puts it right behind `http://127.0.0.1:8000`.
        for route in [
            r#""@127.0.0.1:8000/v1/load_lora_adapter""#,
            r#""@example.com/""#,
            r#""\u0040example.com""#,
            r#"{"a":"@example.com:80/x"}"#,
            r#"{"a":"\u0040example.com:80/x"}"#,
            r#""/v1/load_lora_adapter""#,
            r#"" /metrics""#,
            r#"".example.com/""#,
            r#""/v1/models/../metrics""#,
        ] {
            assert_eq!(refused(&format!(r#"{{"input":{{"route":{route}}}}}"#)), Some(Code::Forbidden), "{route}");
        }
        for route in [r#""/v1/models""#, r#""/v1/completions""#, r#""A7 north""#, "7", r#"[{"lat":1.5,"lon":2}]"#] {
            assert_eq!(refused(&format!(r#"{{"input":{{"route":{route}}}}}"#)), None, "{route}");
        }
        assert_eq!(refused(r#"{"input":{"openai_route":"north"}}"#), Some(Code::Forbidden));
    }

    #[test]
    fn an_input_of_many_fields_is_read_in_time_and_one_that_is_there_twice_is_found() {
        let fields: String = (0..300_000).map(|number| format!("\"{number}\":0,")).collect();
        assert_eq!(refused(&format!(r#"{{"input":{{{fields}"z":0}}}}"#)), None);
        assert_eq!(refused(&format!(r#"{{"input":{{{fields}"\u0037":0}}}}"#)), Some(Code::InvalidRequest));
    }

    #[test]
    fn an_output_over_several_lines_is_one_event() {
        let event = output_event(&Piece::Json("{\n  \"a\": \"b\\n\"\r\n}".to_owned()));
        assert_eq!(String::from_utf8(event).unwrap(), "data: {\"output\":{   \"a\": \"b\\n\"  }}\n\n");
    }
}
