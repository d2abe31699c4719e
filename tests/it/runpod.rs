//! A RunPod endpoint in virtual time: jobs that wait for a worker, put outputs out and end, and the
//! operations through which they are reached, which may fail in every way that they are known to.
//!
//! The model is made for endpoint `d` of a [`crate::world::World`]. What each submission comes to is
//! a [`Work`]; what goes wrong on the way are [`Upset`]s. It keeps account of every job: when it was
//! submitted, at work, cancelled and over, and what it cost ([`Job::billed_ms`]). A request has its
//! effect when it arrives, whether or not anybody still waits for its answer.
//!
//! Facts: `wire.md`, sections 2, 3 and 7.

mod job;

use crate::script::{Script, Step};
use fairlead_core::{
    jobs::Op,
    message::{Method, Request, ResponseHead},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

pub use job::{Act, End, Job, Stops, Work, text_of, words};

/// RunPod keeps a result for so long.
const KEPT_MS: u64 = 1_800_000;

/// What goes wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this status, before anything is done.
    Refused(u16),
    /// Done, and then this status.
    DoneBut(u16),
    /// The connection breaks before anything is done.
    Reset,
    /// Done, and then the connection breaks.
    DoneButReset,
    /// It never arrives, and nobody says so.
    Stall,
    /// Done, but never answered.
    DoneButStall,
    /// Done, and half of the answer comes, of which the length is known.
    Half,
    /// Done, and half of the answer comes, as if that was all.
    Malformed,
    /// A proxy's page, under a status of success.
    Html,
    /// Done, but the answer is about another job.
    WrongId,
    /// Done, and answered so much later.
    Late(u64),
    /// Done; so long stands between the answer's head and its body.
    Torn(u64),
}

/// A fault of some requests: those of this operation from this number on, counted from 0.
#[derive(Clone, Copy, Debug)]
pub struct Upset {
    pub op: Op,
    pub from: u32,
    pub count: u32,
    pub fault: Fault,
}

/// A request that has arrived, or will.
#[derive(Clone, Debug)]
pub struct Visit {
    pub op: Op,
    /// The job in its path.
    pub job: Option<String>,
    pub at: u64,
    /// What went wrong with it.
    pub fault: Option<Fault>,
    /// The request's number in the world.
    number: usize,
    request: Request,
}

/// The model. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Runpod {
    works: VecDeque<Work>,
    always: Work,
    pub upsets: Vec<Upset>,
    pub there_ms: u64,
    pub back_ms: u64,
    health: Value,
    /// Most fetches that one call may make.
    pub max_subrequests: u32,
    pub max_ttl_ms: u64,
    pub max_execution_ms: u64,
    on_the_way: Vec<Visit>,
    /// By the request's number: when the answer begins, and what it is.
    answers: BTreeMap<usize, (u64, Script)>,
    seen: BTreeMap<&'static str, u32>,
    /// Everything that was ever submitted.
    pub jobs: Vec<Job>,
    /// Every request that has arrived.
    pub visits: Vec<Visit>,
    now: u64,
}

impl Runpod {
    /// An endpoint whose every job comes to this.
    pub fn of(always: Work) -> Self {
        Self {
            works: VecDeque::new(),
            always,
            upsets: Vec::new(),
            there_ms: 10,
            back_ms: 10,
            health: json!({ "jobs": { "inQueue": 0 }, "workers": { "idle": 1, "ready": 1 } }),
            max_subrequests: 1000,
            max_ttl_ms: 3_600_000,
            max_execution_ms: 600_000,
            on_the_way: Vec::new(),
            answers: BTreeMap::new(),
            seen: BTreeMap::new(),
            jobs: Vec::new(),
            visits: Vec::new(),
            now: 0,
        }
    }

    /// The first submissions come to these.
    pub fn first(mut self, works: impl IntoIterator<Item = Work>) -> Self {
        self.works.extend(works);
        self
    }

    /// So many requests of this kind suffer a fault, from this number on, counted from 0.
    pub fn upset(mut self, op: Op, from: u32, count: u32, fault: Fault) -> Self {
        self.upsets.push(Upset { op, from, count, fault });
        self
    }

    /// How long a request is on its way, and an answer.
    pub const fn latency(mut self, there_ms: u64, back_ms: u64) -> Self {
        (self.there_ms, self.back_ms) = (there_ms, back_ms);
        self
    }

    /// What `/health` says.
    pub fn health(mut self, health: Value) -> Self {
        self.health = health;
        self
    }

    /// All that one call may fetch.
    pub const fn max_subrequests(mut self, most: u32) -> Self {
        self.max_subrequests = most;
        self
    }

    /// How long its jobs may be at work, and exist, at most.
    pub const fn bounds(mut self, execution_ms: u64, ttl_ms: u64) -> Self {
        (self.max_execution_ms, self.max_ttl_ms) = (execution_ms, ttl_ms);
        self
    }

    /// A request is sent.
    pub fn send(&mut self, number: usize, now: u64, request: Request) {
        let (_, path) = request.url.split_once("/v2/id").expect("an address of the endpoint");
        let path = path.split('?').next().unwrap_or_default();
        let (name, job) = match path.trim_start_matches('/').split_once('/') {
            Some((name, job)) => (name, Some(job.to_owned())),
            None => (path.trim_start_matches('/'), None),
        };
        let (op, method) = match name {
            "run" | "runsync" | "retry" => (Op::Submit, Method::Post),
            "status" => (Op::Status, Method::Get),
            "stream" => (Op::Stream, Method::Get),
            "cancel" => (Op::Cancel, Method::Post),
            "health" => (Op::Health, Method::Get),
            other => panic!("an operation that RunPod does not have: {other}"),
        };
        assert_eq!(request.method, method, "{path}");
        let at = now + self.there_ms;
        self.on_the_way.push(Visit { op, job, at, fault: None, number, request });
    }

    /// The answer to the request of this number and when it begins; or when to ask again.
    pub fn answer(&mut self, number: usize, now: u64) -> Result<(u64, Script), u64> {
        self.advance(now);
        if let Some(answer) = self.answers.remove(&number) {
            return Ok(answer);
        }
        let on_the_way = self.on_the_way.iter().find(|visit| visit.number == number);
        Err(on_the_way.map_or(u64::MAX, |visit| visit.at))
    }

    /// Lets everything happen that does up to this moment, in its order.
    pub fn advance(&mut self, now: u64) {
        loop {
            let job = self.jobs.iter().enumerate().filter_map(|(place, job)| Some((job.next_at()?, place))).min();
            let visit = self.on_the_way.iter().enumerate().map(|(place, visit)| (visit.at, place)).min();
            match (job, visit) {
                (Some((at, place)), visit) if at <= now && visit.is_none_or(|(visit, _)| at <= visit) => {
                    self.jobs[place].step(at);
                }
                (_, Some((at, place))) if at <= now => {
                    let visit = self.on_the_way.swap_remove(place);
                    self.arrive(visit);
                }
                _ => break,
            }
        }
        self.now = self.now.max(now);
    }

    /// Lets every job come to its end.
    pub fn finish(&mut self) {
        self.advance(u64::MAX / 4);
    }

    fn arrive(&mut self, mut visit: Visit) {
        let name = op_name(visit.op);
        let count = self.seen.entry(name).or_default();
        let upset = self
            .upsets
            .iter()
            .find(|upset| upset.op == visit.op && (upset.from..upset.from.saturating_add(upset.count)).contains(count));
        let fault = upset.map(|upset| upset.fault);
        visit.fault = fault;
        *count += 1;
        let done = !matches!(fault, Some(Fault::Refused(_) | Fault::Reset | Fault::Stall | Fault::Html));
        let (status, mut body) = if done { self.carry_out(&visit) } else { (200, Value::Null) };
        if fault == Some(Fault::WrongId)
            && let Some(body) = body.as_object_mut()
        {
            body.insert("id".to_owned(), "another-job".into());
        }
        let text = body.to_string();
        let json = ("content-type", "application/json");
        let half = text.len() / 2;
        let length = text.len().to_string();
        let head = |status, fields: &[(&str, &str)]| {
            Step::Head(ResponseHead { status, headers: fields.iter().copied().collect() })
        };
        let chunk = |bytes: &str| Step::Chunk(bytes.as_bytes().into());
        let script = match fault {
            Some(Fault::Refused(status) | Fault::DoneBut(status)) => {
                vec![head(status, &[json]), chunk(r#"{"error":"hush"}"#), Step::End]
            }
            Some(Fault::Reset | Fault::DoneButReset) => vec![Step::Reset],
            Some(Fault::Stall | Fault::DoneButStall) => vec![],
            Some(Fault::Half) => {
                vec![head(status, &[json, ("content-length", &length)]), chunk(&text[..half]), Step::End]
            }
            Some(Fault::Malformed) => vec![head(status, &[json]), chunk(&text[..half]), Step::End],
            Some(Fault::Html) => vec![head(200, &[("content-type", "text/html")]), chunk("<p>Hush</p>"), Step::End],
            Some(Fault::Late(ms)) => vec![Step::Wait(ms), head(status, &[json]), chunk(&text), Step::End],
            Some(Fault::Torn(ms)) => vec![head(status, &[json]), Step::Wait(ms), chunk(&text), Step::End],
            Some(Fault::WrongId) | None => {
                vec![head(status, &[json, ("content-length", &length)]), chunk(&text), Step::End]
            }
        };
        self.answers.insert(visit.number, (visit.at + self.back_ms, script));
        self.visits.push(visit);
    }

    fn carry_out(&mut self, visit: &Visit) -> (u16, Value) {
        match (visit.op, &visit.job) {
            (Op::Health, _) => (200, self.health.clone()),
            (Op::Submit, None) => self.submit(visit),
            (op, id) => {
                let found = self.jobs.iter_mut().find(|job| Some(&job.id) == id.as_ref());
                let known = found.filter(|job| !job.gone && job.ended.is_none_or(|at| visit.at < at + KEPT_MS));
                let Some(job) = known else { return (404, json!({ "error": "job not found" })) };
                match op {
                    Op::Status => (200, job.status(visit.at)),
                    Op::Stream => (200, job.stream()),
                    Op::Cancel => (200, job.cancel(visit.at)),
                    _ => job.retry(visit.at),
                }
            }
        }
    }

    fn submit(&mut self, visit: &Visit) -> (u16, Value) {
        let body: Value = serde_json::from_slice(&visit.request.body).unwrap_or_default();
        let policy = |name: &str, default: u64| body["policy"][name].as_u64().unwrap_or(default);
        let (execution_ms, ttl_ms) = (policy("executionTimeout", 600_000), policy("ttl", 86_400_000));
        let week = 604_800_000;
        let in_order = (5000..=week).contains(&execution_ms) && (10_000..=week).contains(&ttl_ms);
        assert!(in_order, "a policy out of RunPod's bounds: {}", body["policy"]);
        assert!(body["input"].is_object(), "no input: {body}");
        let id = format!("job{}-u1", self.jobs.len());
        let work = self.works.pop_front().unwrap_or_else(|| self.always.clone());
        self.jobs.push(Job::new(id.clone(), visit.at, work, execution_ms, ttl_ms, body));
        (200, json!({ "id": id, "status": "IN_QUEUE" }))
    }

    /// When requests of this kind arrived.
    pub fn times(&self, op: Op) -> Vec<u64> {
        self.visits.iter().filter(|visit| visit.op == op).map(|visit| visit.at).collect()
    }

    /// How many requests of this kind arrived.
    pub fn count(&self, op: Op) -> usize {
        self.times(op).len()
    }

    /// The only job.
    pub fn job(&self) -> &Job {
        assert_eq!(self.jobs.len(), 1, "one job");
        &self.jobs[0]
    }
}

const fn op_name(op: Op) -> &'static str {
    match op {
        Op::Health => "health",
        Op::Submit => "run",
        Op::Stream => "stream",
        Op::Status => "status",
        Op::Cancel => "cancel",
    }
}
