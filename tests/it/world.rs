//! A host in virtual time: its clock jumps to the next moment that anybody waits for.
//!
//! A [`World`] holds what will happen: the `CONFIG` (endpoints `a`, `b` and `c`, the last on RunPod,
//! `d`, whose jobs a [`Runpod`] simulates, and `e`, a gateway of our own, of which those with a script are the targets of the
//! model `m`, in the order they were named), a script per request that an endpoint gets, and how the
//! client behaves. [`World::run`] takes one request the whole way that a host does: read `CONFIG`,
//! admit, read the request, plan, `open`, `Body::next`, `Body::deliver`. [`World::visit`] does so
//! with a request about a client's own job, and [`World::crowd`] and [`World::mixed_crowd`] with many
//! at once. All times are milliseconds since the request's arrival, or since that of the first in a row of them
//! ([`World::begins`]).

mod crowd;

pub use crowd::{Crowd, Member};

use crate::{
    engine::Engine,
    host::{Host, State},
    lane::{self, Takes},
    pipe,
    record::Record,
    runpod::Runpod,
    script::Script,
    store::Kv,
    wanted::{Errand, Wanted},
};
use fairlead_core::{
    allowance::Pass,
    api::Api,
    ask::Ask,
    call::{Call, Order},
    caller,
    drive::{Rehearsal, limiter, open},
    error::Error,
    event::Event,
    fault::Plan,
    fleet::Fleet,
    message::Request,
    native,
    policy::Policy,
    runtime::Runtime,
    settings::{Environment, Model, Settings},
    time::Instant,
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    ops::Range,
    rc::Rc,
};

/// When every call arrives: Sat, 21 Nov 2026 22:24:48 GMT.
pub const START: Instant = Instant::from_millis(1_795_299_888_000);

/// The secrets that `CONFIG` may name.
pub struct Vault;

impl Environment for Vault {
    fn secret(&self, name: &str) -> Option<String> {
        name.strip_prefix("KEY_").map(|name| format!("sk-hush-{}", name.to_lowercase()))
    }

    fn has_service(&self, name: &str) -> bool {
        name == "TUNNEL"
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        name == "LIMITER"
    }
}

/// What will happen. See the module's documentation.
pub struct World {
    targets: Vec<Value>,
    strategy: Option<&'static str>,
    /// How many calls each endpoint may have.
    room: BTreeMap<String, u32>,
    /// The `continue` of all endpoints, and of some.
    continues: Option<bool>,
    each_continues: BTreeMap<String, bool>,
    scripts: BTreeMap<String, Scripts>,
    policies: Value,
    client: Client,
    seed: u64,
    fleet: Rc<RefCell<Fleet>>,
    early_timers: bool,
    sleeps: bool,
    timers_every: u64,
    asleep: Vec<Range<u64>>,
    cancelled_at: Option<u64>,
    upload_ms: u64,
    begins_at: u64,
    runpod: Option<Runpod>,
    kv: Option<Kv>,
    /// Which of the clients it is whose calls these are.
    place: Option<usize>,
    rehearsal: Option<Plan>,
    /// Fields of the client whose calls these are.
    limits: Value,
    limiter: Option<(u64, Option<bool>)>,
}

/// What an endpoint answers.
#[derive(Default)]
pub struct Scripts {
    pub queue: VecDeque<Script>,
    /// For every request that comes behind those of the queue.
    pub always: Option<Script>,
    /// For every request that comes in these times.
    pub spells: Vec<(Range<u64>, Script)>,
    /// Who answers whatever nothing else is said of.
    pub engine: Option<Answers>,
}

/// Answers requests, each by what it asks.
pub type Answers = Box<dyn FnMut(&Request) -> Script>;

/// How the client behaves; by default it takes everything at once and stays.
#[derive(Clone, Copy, Default)]
struct Client {
    starts_after_ms: u64,
    takes: Takes,
    /// The runtime tells that it has left.
    leaves_at: Option<u64>,
    /// The host reads steady streams by itself.
    in_lane: bool,
}

impl World {
    /// A world without targets, under the default policy.
    pub fn new() -> Self {
        Self {
            targets: Vec::new(),
            strategy: None,
            room: BTreeMap::new(),
            continues: None,
            each_continues: BTreeMap::new(),
            scripts: BTreeMap::new(),
            policies: json!({}),
            client: Client { in_lane: true, ..Client::default() },
            seed: 1,
            fleet: Rc::default(),
            early_timers: false,
            sleeps: false,
            timers_every: 1,
            asleep: Vec::new(),
            cancelled_at: None,
            upload_ms: 0,
            begins_at: 0,
            runpod: None,
            kv: None,
            place: None,
            rehearsal: None,
            limits: json!({}),
            limiter: None,
        }
    }

    /// A target whose endpoint follows one script per request; more requests than scripts are a
    /// failure of the test.
    pub fn endpoint(self, name: &str, scripts: impl IntoIterator<Item = Script>) -> Self {
        let mut world = self.target(name, None);
        world.scripts.entry(name.to_owned()).or_default().queue.extend(scripts);
        world
    }

    /// A target whose endpoint does the same on every request.
    pub fn always(self, name: &str, script: Script) -> Self {
        let mut world = self.target(name, None);
        world.scripts.entry(name.to_owned()).or_default().always = Some(script);
        world
    }

    /// A target whose endpoint answers what it is asked; first come the scripts, if it has any, but not to questions
    /// about tokens.
    pub fn engine(self, name: &str, mut engine: Engine) -> Self {
        self.answers(name, Box::new(move |request| engine.answer(request)))
    }

    /// The same with any way to answer.
    pub fn answers(self, name: &str, answers: Answers) -> Self {
        let mut world = self.target(name, None);
        world.scripts.entry(name.to_owned()).or_default().engine = Some(answers);
        world
    }

    /// In these times such an endpoint does this.
    pub fn during(mut self, when: Range<u64>, name: &str, script: Script) -> Self {
        self.scripts.entry(name.to_owned()).or_default().spells.push((when, script));
        self
    }

    /// A target that asks an endpoint for this model. Its scripts come by [`World::endpoint`].
    pub fn target(mut self, endpoint: &str, model: Option<&str>) -> Self {
        if model.is_some() || self.targets.iter().all(|target| target["endpoint"] != endpoint) {
            self.targets.push(json!({ "endpoint": endpoint, "model": model }));
        }
        self
    }

    /// How targets are chosen.
    pub fn strategy(mut self, strategy: &'static str) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// The share of the target that was named last.
    pub fn weight(mut self, weight: u32) -> Self {
        self.targets.last_mut().expect("a target")["weight"] = weight.into();
        self
    }

    /// The `max_concurrency` of an endpoint.
    pub fn room(mut self, endpoint: &str, calls: u32) -> Self {
        self.room.insert(endpoint.to_owned(), calls);
        self
    }

    /// The `continue` of one endpoint.
    pub fn continues_at(mut self, endpoint: &str, can: bool) -> Self {
        self.each_continues.insert(endpoint.to_owned(), can);
        self
    }

    /// What `CONFIG` says of all endpoints: whether they can go on from a beginning.
    pub fn continues(mut self, can: bool) -> Self {
        self.continues = Some(can);
        self
    }

    /// A target whose endpoint, `d`, takes jobs.
    pub fn jobs(self, runpod: Runpod) -> Self {
        let mut world = self.target("d", None);
        world.runpod = Some(runpod);
        world
    }

    /// The request arrives so late; what times there are count from before it.
    pub fn begins(mut self, at: u64) -> Self {
        self.begins_at = at;
        self
    }

    /// Fields of the policy `default`.
    pub fn policy(self, fields: Value) -> Self {
        self.named_policy("default", fields)
    }

    /// A policy that the client may ask for.
    pub fn named_policy(mut self, name: &str, fields: Value) -> Self {
        self.policies[name] = fields;
        self
    }

    /// The client takes this long over every piece.
    pub fn takes(mut self, ms: u64) -> Self {
        self.client.takes.ms = ms;
        self
    }

    /// It takes its time only over every so manieth piece.
    pub fn every(mut self, pieces: usize) -> Self {
        self.client.takes.every = pieces;
        self
    }

    /// The client takes nothing for so long after the head.
    pub fn starts_after(mut self, ms: u64) -> Self {
        self.client.starts_after_ms = ms;
        self
    }

    /// The host leaves no chunk to itself: it asks the core for every piece.
    pub fn piece_by_piece(mut self) -> Self {
        self.client.in_lane = false;
        self
    }

    /// The request takes so long to come in.
    pub fn uploads(mut self, ms: u64) -> Self {
        self.upload_ms = ms;
        self
    }

    /// The client leaves, and the runtime tells.
    pub fn leaves(mut self, at: u64) -> Self {
        self.client.leaves_at = Some(at);
        self
    }

    /// The client leaves, and only a write tells.
    pub fn breaks(mut self, at: u64) -> Self {
        self.client.takes.breaks_at = Some(at);
        self
    }

    /// Where the call's chance comes from.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What earlier calls have left.
    pub fn fleet(mut self, fleet: &Rc<RefCell<Fleet>>) -> Self {
        self.fleet = Rc::clone(fleet);
        self
    }

    /// What isolates leave word in for each other.
    pub fn store(mut self, kv: &Kv) -> Self {
        self.kv = Some(kv.clone());
        self
    }

    /// Which of the clients it is whose calls these are; by default none is told from another.
    pub fn client(mut self, place: usize) -> Self {
        self.place = Some(place);
        self
    }

    /// What goes wrong on purpose.
    pub fn rehearse(mut self, faults: &str) -> Self {
        self.rehearsal = Some(Plan::read(faults).expect("faults"));
        self
    }

    /// The limits of the client whose calls these are.
    pub fn limits(mut self, limits: Value) -> Self {
        self.limits = limits;
        self
    }

    /// The rate limiting binding answers so late, and this; `None`: it fails.
    pub fn limiter(mut self, after_ms: u64, answer: Option<bool>) -> Self {
        self.limits["rate_limiter"] = "LIMITER".into();
        self.limiter = Some((after_ms, answer));
        self
    }

    /// Lets a call of the client's in, as a host does: what came of it, when, and what was told.
    pub fn admit(mut self) -> (Result<Option<Pass>, Error>, u64, Vec<Event>) {
        let settings = self.settings();
        let (client, host) = (&settings.clients[0], self.host());
        let admitted = RefCell::new(None);
        let ask = async {
            let pass = Pass::take(&self.fleet, client, host.now(), settings.latest(START));
            *admitted.borrow_mut() = Some(match pass {
                Ok(pass) => limiter::ask(&host, client, pass).await,
                Err(error) => Err(error),
            });
        };
        host.run(ask, None, &mut |_| ());
        let state = host.world.borrow();
        let events = state.events.iter().map(|(_, event)| event.clone()).collect();
        (admitted.take().expect("an answer"), state.now, events)
    }

    /// Every timer fires at half its time, as hosts' timers may.
    pub fn early_timers(mut self) -> Self {
        self.early_timers = true;
        self
    }

    /// The host is a page in a browser, which knows that it may sleep.
    pub fn page(mut self) -> Self {
        self.sleeps = true;
        self
    }

    /// Nobody sees the page: its timers fire once a minute.
    pub fn hidden(mut self) -> Self {
        self.timers_every = 60_000;
        self
    }

    /// In these times nothing runs but the endpoints.
    pub fn asleep(mut self, when: Range<u64>) -> Self {
        self.asleep.push(when);
        self
    }

    /// The host drops the call's future at this moment, as a cancelled request's is.
    pub fn cancelled(mut self, at: u64) -> Self {
        self.cancelled_at = Some(at);
        self
    }

    fn settings(&self) -> Settings {
        let mut endpoints = json!([
            { "name": "a", "provider": "vllm", "base_url": "https://a.hush.example/v1", "api_key_secret": "KEY_A" },
            { "name": "b", "provider": "vllm", "base_url": "https://b.hush.example/v1", "api_key_secret": "KEY_B" },
            {
                "name": "c", "provider": "runpod", "mode": "openai", "base_url": "https://c.hush.example/v2/id",
                "api_key_secret": "KEY_C"
            },
            self.jobs_endpoint(),
            { "name": "e", "provider": "fairlead", "base_url": "https://e.hush.example/v1", "api_key_secret": "KEY_E" },
        ]);
        for endpoint in endpoints.as_array_mut().into_iter().flatten() {
            let name = endpoint["name"].as_str().expect("a name");
            let (room, continues) = (self.room.get(name).copied(), self.each_continues.get(name).copied());
            endpoint["max_concurrency"] = room.into();
            endpoint["continue"] = continues.or(self.continues).into();
        }
        let asked: Vec<&String> = self.policies.as_object().into_iter().flat_map(|map| map.keys()).collect();
        let hex = hex_of(crate::wanted::CLIENT_KEY);
        let mut tests = json!({ "name": "tests", "keys_sha256": [hex], "policies": asked, "runpod": ["d"] });
        for (field, value) in self.limits.as_object().into_iter().flatten() {
            tests[field] = value.clone();
        }
        let config = json!({
            "endpoints": endpoints,
            "models": [{ "name": "m", "strategy": self.strategy, "targets": self.targets }],
            "policies": self.policies,
            "clients": [
                tests,
                { "name": "others", "keys_sha256": [hex_of(crate::wanted::OTHER_KEY)], "runpod": ["d"] },
            ],
        });
        let reading = Settings::read([("CONFIG".to_owned(), config)], &Vault);
        assert_eq!(reading.mistakes, [], "the world's CONFIG");
        reading.settings.expect("no mistakes")
    }

    /// Runs one call to its end.
    pub fn run(self, wanted: Wanted) -> Record {
        self.run_watched(wanted, &mut |_, _| ())
    }

    fn jobs_endpoint(&self) -> Value {
        let (mut fetches, mut execution_ms, mut ttl_ms) = (1000, 600_000, 3_600_000);
        if let Some(runpod) = &self.runpod {
            (fetches, execution_ms, ttl_ms) = (runpod.max_subrequests, runpod.max_execution_ms, runpod.max_ttl_ms);
        }
        json!({
            "name": "d", "provider": "runpod", "mode": "jobs", "base_url": "https://d.hush.example/v2/id",
            "api_key_secret": "KEY_D", "native": true, "max_subrequests": fetches,
            "max_execution_ms": execution_ms, "max_ttl_ms": ttl_ms,
        })
    }

    /// Runs one call to its end, and shows everything to `watch` whenever the call has nothing to
    /// do until the clock goes on.
    pub fn run_watched(self, wanted: Wanted, watch: Watch<'_>) -> Record {
        let (ask, model, policy, deadline_ms) = self.read(&wanted);
        self.carry_out(ask, model, policy, deadline_ms, watch)
    }

    /// Runs one request about a client's own job to its end, or tells why it is refused.
    pub fn visit(self, errand: Errand) -> Result<Record, Error> {
        self.visit_watched(errand, &mut |_, _| ())
    }

    /// See [`World::visit`] and [`World::run_watched`].
    pub fn visit_watched(self, errand: Errand, watch: Watch<'_>) -> Result<Record, Error> {
        let settings = self.settings();
        let client = settings.admit(caller::key(&errand.headers, Api::Job.dialect()))?;
        let deadline_ms = caller::deadline_ms(&errand.headers)?;
        let path = native::Path::read(&errand.path).expect("a route");
        let asked_policy = errand.headers.get("x-fairlead-policy");
        let (model, policy) = settings.plan_errand(client, path.endpoint, path.verb.is_once(), asked_policy)?;
        let arrived = START.after(self.begins_at);
        let visit = native::Visit {
            path,
            query: &errand.query,
            headers: &errand.headers,
            body: errand.body.as_bytes(),
            client,
            now: arrived.after(self.upload_ms),
            deadline: arrived.after(deadline_ms.unwrap_or(u64::MAX).min(policy.deadline_ms)),
        };
        let ask = visit.ask(&model.targets[0].endpoint)?;
        Ok(self.carry_out(ask, model, policy, deadline_ms, watch))
    }

    /// Reads a request as far as a call needs it.
    fn read(&self, wanted: &Wanted) -> (Ask, Rc<Model>, Rc<Policy>, Option<u64>) {
        Self::plan(&self.settings(), wanted)
    }

    fn plan(settings: &Settings, wanted: &Wanted) -> (Ask, Rc<Model>, Rc<Policy>, Option<u64>) {
        let key = caller::key(&wanted.headers, wanted.api.dialect());
        let client = settings.admit(key).expect("a known key");
        let limits = client.map(|client| &client.limits);
        let ask = Ask::read_within(wanted.api, &wanted.headers, wanted.bytes().into(), limits);
        let ask = ask.expect("a request in order");
        let asked_policy = wanted.headers.get("x-fairlead-policy");
        let (model, policy) = settings.plan(client, &ask.model, asked_policy).expect("an entry for the model");
        (ask, model, policy, caller::deadline_ms(&wanted.headers).expect("a deadline in order"))
    }

    fn host(&mut self) -> Host {
        let state = State {
            now: self.begins_at + self.upload_ms,
            leaves_at: self.client.leaves_at.map(|at| at + self.begins_at),
            early_timers: self.early_timers,
            sleeps: self.sleeps,
            timers_every: self.timers_every,
            asleep: std::mem::take(&mut self.asleep),
            scripts: std::mem::take(&mut self.scripts),
            runpod: self.runpod.take(),
            kv: self.kv.take(),
            limiter: self.limiter.take(),
            ..State::default()
        };
        let rehearsal = self.rehearsal.take();
        Host { world: Rc::new(RefCell::new(state)), leaves_at: None, isolate: isolate(&self.fleet), rehearsal }
    }

    fn carry_out(
        mut self,
        ask: Ask,
        model: Rc<Model>,
        policy: Rc<Policy>,
        deadline_ms: Option<u64>,
        watch: Watch<'_>,
    ) -> Record {
        let mut record = Record::new(ask.clone(), &policy, deadline_ms);
        record.slow = self.client.takes.ms.max(self.client.starts_after_ms) > 0;
        record.rehearsed = self.rehearsal.is_some();
        record.upload_ms = self.upload_ms;
        record.begins_at = self.begins_at;
        record.deadline_ms += self.begins_at;
        // What sleeps may be late.
        record.deadline_ms +=
            self.timers_every - 1 + self.asleep.iter().map(|asleep| asleep.end - asleep.start).sum::<u64>();
        let arrived = START.after(self.begins_at);
        let order = Order {
            ask,
            model,
            policy,
            arrived,
            request_id: "req".to_owned(),
            deadline_ms,
            client: self.place,
            seed: self.seed,
        };
        let host = self.host();
        let call = Call::new(host.now(), order, self.fleet);
        let shared = RefCell::new(record);
        host.run(
            serve(&host, call, self.client, &shared),
            self.cancelled_at.map(|at| self.begins_at + at.max(self.upload_ms)),
            &mut |state| {
                watch(state, &shared.borrow());
            },
        );
        let mut record = shared.into_inner();
        let mut state = host.world.borrow_mut();
        assert_eq!(state.in_flight, 0, "dropping a call aborts its exchanges");
        if self.cancelled_at.is_some() {
            record.ended_at = state.now;
        }
        record.settled_at = state.now;
        record.requests = std::mem::take(&mut state.requests);
        record.events = std::mem::take(&mut state.events);
        record.timers = state.timers;
        record.runpod = state.runpod.take().map(|mut runpod| {
            runpod.advance(record.settled_at);
            let live = runpod.clone();
            runpod.finish();
            Box::new((runpod, live))
        });
        if self.cancelled_at.is_none() {
            record.check();
        }
        record
    }
}

/// Isolates are told apart by what their calls share.
fn isolate(fleet: &Rc<RefCell<Fleet>>) -> usize {
    Rc::as_ptr(fleet).addr()
}

fn hex_of(key: &str) -> String {
    fairlead_core::access::hash_key(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a host does with a call, and a client that takes what comes.
async fn serve(host: &Host, call: Call, client: Client, record: &RefCell<Record>) {
    let runtime = Rehearsal::new(host.clone(), host.rehearsal.clone());
    let Some(opened) = open(runtime, call).await else {
        let mut record = record.borrow_mut();
        record.gone = true;
        record.left_open = host.world.borrow().left_open();
        record.ended_at = host.now_ms();
        return;
    };
    record.borrow_mut().head = Some(opened.head);
    record.borrow_mut().head_at = host.now_ms();
    let body = RefCell::new(opened.body);
    // It does begin, or nobody would be there to see the deadline pass.
    let left = record.borrow().deadline_ms.saturating_sub(host.now_ms() + 1);
    host.nap(client.starts_after_ms.min(left), None, true).await;
    let takes = client.takes;
    let taken = loop {
        if let Some(next) = pipe::carry(host, &body, takes, record).await {
            let Ok(next) = next else { break false };
            let Some(piece) = next else { break true };
            if !lane::deliver(host, &body, piece, takes, true, record).await {
                break false;
            }
        }
        if client.in_lane
            && let Some(taken) = lane::carry(host, &body, takes, record).await
        {
            break taken;
        }
        let next = poll_fn(|context| body.borrow_mut().poll_next(context)).await;
        let Some(piece) = next else { break true };
        if !lane::deliver(host, &body, piece, takes, true, record).await {
            break false;
        }
    };
    let after = poll_fn(|context| body.borrow_mut().poll_next(context)).await;
    assert!(after.is_none(), "nothing follows the end");
    let mut record = record.borrow_mut();
    record.untaken = !taken;
    record.gone = client.leaves_at.is_some_and(|at| at <= host.now_ms());
    // The body is still there: whatever is in flight now, the call has forgotten.
    record.left_open = host.world.borrow().left_open();
    record.ended_at = host.now_ms();
}

/// Who looks on while a call runs. See [`World::run_watched`].
pub type Watch<'a> = &'a mut dyn FnMut(&State, &Record);
