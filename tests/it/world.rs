//! A host in virtual time: its clock jumps to the next moment that anybody waits for.
//!
//! A [`World`] holds what will happen: the `CONFIG` (endpoints `a`, `b` and `c`, the last on RunPod,
//! of which those with a script are the targets of the model `m`, in the order they were named), a
//! script per request that an endpoint gets, and how the client behaves. [`World::run`] takes one
//! request the whole way that a host does: read `CONFIG`, admit, read the request, plan, `open`,
//! `Body::next`, `Body::deliver`. All times are milliseconds since the request's arrival.

use crate::{
    lane::{self, Takes},
    pipe::{self, Flow},
    record::{Record, Sent},
    script::{Script, Step},
    wanted::Wanted,
};
use fairlead_core::{
    ask::Ask,
    call::{Call, Order},
    caller,
    drive::open,
    event::Event,
    fleet::Fleet,
    message::Request,
    runtime::{Exchange, Received, Runtime},
    settings::{Endpoint, Environment, Settings},
    time::Instant,
};
use serde_json::{Value, json};
use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
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
}

/// What will happen. See the module's documentation.
pub struct World {
    targets: Vec<Value>,
    scripts: BTreeMap<String, Scripts>,
    policies: Value,
    client: Client,
    seed: u64,
    fleet: Rc<RefCell<Fleet>>,
    early_timers: bool,
    cancelled_at: Option<u64>,
    upload_ms: u64,
}

#[derive(Default)]
struct Scripts {
    queue: VecDeque<Script>,
    /// For every request that comes behind those of the queue.
    always: Option<Script>,
}

/// How the client behaves; by default it takes everything at once and stays.
#[derive(Clone, Copy, Default)]
struct Client {
    starts_after_ms: u64,
    takes_ms: u64,
    /// The runtime tells that it has left.
    leaves_at: Option<u64>,
    /// Only a write tells that it has left.
    breaks_at: Option<u64>,
    /// The host reads steady streams by itself.
    in_lane: bool,
}

impl World {
    /// A world without targets, under the default policy.
    pub fn new() -> Self {
        Self {
            targets: Vec::new(),
            scripts: BTreeMap::new(),
            policies: json!({}),
            client: Client { in_lane: true, ..Client::default() },
            seed: 1,
            fleet: Rc::default(),
            early_timers: false,
            cancelled_at: None,
            upload_ms: 0,
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

    /// A target that asks an endpoint for this model. Its scripts come by [`World::endpoint`].
    pub fn target(mut self, endpoint: &str, model: Option<&str>) -> Self {
        if model.is_some() || self.targets.iter().all(|target| target["endpoint"] != endpoint) {
            self.targets.push(json!({ "endpoint": endpoint, "model": model }));
        }
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
        self.client.takes_ms = ms;
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
        self.client.breaks_at = Some(at);
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

    /// Every timer fires at half its time, as hosts' timers may.
    pub fn early_timers(mut self) -> Self {
        self.early_timers = true;
        self
    }

    /// The host drops the call's future at this moment, as a cancelled request's is.
    pub fn cancelled(mut self, at: u64) -> Self {
        self.cancelled_at = Some(at);
        self
    }

    fn settings(&self) -> Settings {
        let endpoints = json!([
            { "name": "a", "provider": "vllm", "base_url": "https://a.hush.example/v1", "api_key_secret": "KEY_A" },
            { "name": "b", "provider": "vllm", "base_url": "https://b.hush.example/v1", "api_key_secret": "KEY_B" },
            {
                "name": "c", "provider": "runpod", "mode": "openai", "base_url": "https://c.hush.example/v2/id",
                "api_key_secret": "KEY_C"
            },
        ]);
        let asked: Vec<&String> = self.policies.as_object().into_iter().flat_map(|map| map.keys()).collect();
        let key = fairlead_core::access::hash_key(crate::wanted::CLIENT_KEY);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let config = json!({
            "endpoints": endpoints,
            "models": [{ "name": "m", "targets": self.targets }],
            "policies": self.policies,
            "clients": [{ "name": "tests", "keys_sha256": [hex], "policies": asked }],
        });
        let reading = Settings::read([("CONFIG".to_owned(), config)], &Vault);
        assert_eq!(reading.mistakes, [], "the world's CONFIG");
        reading.settings.expect("no mistakes")
    }

    /// Runs one call to its end.
    pub fn run(self, wanted: Wanted) -> Record {
        let settings = self.settings();
        let key = caller::key(&wanted.headers, wanted.api.dialect());
        let client = settings.admit(key).expect("a known key");
        let ask = Ask::read(wanted.api, &wanted.headers, wanted.bytes().into()).expect("a request in order");
        let asked_policy = wanted.headers.get("x-fairlead-policy");
        let (model, policy) = settings.plan(client, &ask.model, asked_policy).expect("an entry for the model");
        let deadline_ms = caller::deadline_ms(&wanted.headers).expect("a deadline in order");
        let mut record = Record::new(ask.clone(), &policy, deadline_ms);
        record.takes_ms = self.client.takes_ms;
        record.upload_ms = self.upload_ms;
        let request_id = "req".to_owned();
        let order = Order { ask, model, policy, arrived: START, request_id, deadline_ms, seed: self.seed };
        let host = Host(Rc::new(RefCell::new(State {
            now: self.upload_ms,
            leaves_at: self.client.leaves_at,
            early_timers: self.early_timers,
            scripts: self.scripts,
            ..State::default()
        })));
        let call = Call::new(host.now(), order, self.fleet);
        host.run(serve(&host, call, self.client, &mut record), self.cancelled_at);
        let mut state = host.0.borrow_mut();
        record.ended_at = state.now;
        record.requests = std::mem::take(&mut state.requests);
        record.events = std::mem::take(&mut state.events);
        record.timers = state.timers;
        if self.cancelled_at.is_none() {
            record.check();
        }
        record
    }
}

/// What a host does with a call, and a client that takes what comes.
async fn serve(host: &Host, call: Call, client: Client, record: &mut Record) {
    let Some(opened) = open(host.clone(), call).await else {
        record.gone = true;
        record.left_open = host.0.borrow().in_flight;
        return;
    };
    record.head = Some(opened.head);
    record.head_at = host.now_ms();
    let body = RefCell::new(opened.body);
    host.nap(client.starts_after_ms, None).await;
    let takes = Takes { ms: client.takes_ms, breaks_at: client.breaks_at };
    let shared = RefCell::new(&mut *record);
    let taken = loop {
        if let Some(next) = pipe::carry(host, &body, takes, &shared).await {
            let Ok(next) = next else { break false };
            let Some(piece) = next else { break true };
            if !lane::deliver(host, &body, piece, takes, &shared).await {
                break false;
            }
        }
        if client.in_lane
            && let Some(taken) = lane::carry(host, &body, takes, &shared).await
        {
            break taken;
        }
        let next = poll_fn(|context| body.borrow_mut().poll_next(context)).await;
        let Some(piece) = next else { break true };
        if !lane::deliver(host, &body, piece, takes, &shared).await {
            break false;
        }
    };
    record.untaken = !taken;
    let after = poll_fn(|context| body.borrow_mut().poll_next(context)).await;
    assert!(after.is_none(), "nothing follows the end");
    record.gone = client.leaves_at.is_some_and(|at| at <= host.now_ms());
    // The body is still there: whatever is in flight now, the call has forgotten.
    record.left_open = host.0.borrow().in_flight;
}

/// Everything that changes while a call runs.
#[derive(Default)]
pub struct State {
    pub now: u64,
    /// The moments that somebody waits for, since the last jump.
    awaited: Vec<u64>,
    scripts: BTreeMap<String, Scripts>,
    requests: Vec<Sent>,
    in_flight: usize,
    events: Vec<(u64, Event)>,
    timers: usize,
    leaves_at: Option<u64>,
    early_timers: bool,
}

impl State {
    /// Ready at this moment, which the clock may jump to.
    pub fn until(&mut self, at: u64) -> Poll<()> {
        if at <= self.now {
            return Poll::Ready(());
        }
        self.awaited.push(at);
        Poll::Pending
    }
}

/// The runtime that the core sees.
#[derive(Clone)]
pub struct Host(Rc<RefCell<State>>);

impl Host {
    pub fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    pub fn now_ms(&self) -> u64 {
        self.0.borrow().now
    }

    /// Polls something, and tells which moment it waits for.
    pub fn watch<T>(&self, poll: impl FnOnce() -> Poll<T>) -> (Poll<T>, Option<u64>) {
        let before = self.0.borrow().awaited.len();
        let outcome = poll();
        let awaited = self.0.borrow().awaited[before..].iter().min().copied();
        (outcome, awaited)
    }

    /// Whether a moment has not come, which the clock may then jump to.
    pub fn is_before(&self, at: u64) -> bool {
        self.0.borrow_mut().until(at).is_pending()
    }

    /// Ready after so many milliseconds, with whether `breaks_at` has not come before.
    pub fn nap(&self, ms: u64, breaks_at: Option<u64>) -> impl Future<Output = bool> + use<> {
        let state = Rc::clone(&self.0);
        let until = self.now_ms() + ms;
        poll_fn(move |_| {
            let mut state = state.borrow_mut();
            if breaks_at.is_some_and(|at| state.until(at).is_ready()) {
                return Poll::Ready(false);
            }
            state.until(until).map(|()| true)
        })
    }

    /// Polls to the end, letting the time pass whenever there is nothing to do; or drops the future.
    fn run(&self, future: impl Future<Output = ()>, cancelled_at: Option<u64>) {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            self.0.borrow_mut().awaited.clear();
            if future.as_mut().poll(&mut context).is_ready() {
                return;
            }
            let mut state = self.0.borrow_mut();
            let next = state.awaited.iter().min().copied();
            state.now = next.expect("the call waits for ever").min(cancelled_at.unwrap_or(u64::MAX));
            if cancelled_at == Some(state.now) {
                return;
            }
        }
    }
}

impl Runtime for Host {
    type Chunk = Rc<[u8]>;
    type Exchange = Wire;
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        START.after(self.now_ms())
    }

    fn sleep(&self, ms: u64) -> Sleep {
        let mut state = self.0.borrow_mut();
        state.timers += 1;
        let ms = if state.early_timers { ms.div_ceil(2) } else { ms };
        Sleep { until: state.now + ms, world: Rc::clone(&self.0) }
    }

    fn send(&self, endpoint: &Endpoint, request: Request) -> Wire {
        let mut state = self.0.borrow_mut();
        let name = endpoint.name.clone();
        let scripts = state.scripts.get_mut(&name).expect("a script for this endpoint");
        let script = scripts.queue.pop_front().or_else(|| scripts.always.clone());
        let script = script.unwrap_or_else(|| panic!("endpoint {name} was asked once more than foreseen"));
        let at = state.now;
        let number = state.requests.len();
        state.requests.push(Sent { endpoint: name, at, request, over_at: None, aborted: false });
        state.in_flight += 1;
        let flows = Flows::Read(Steps { at, queue: script.into() });
        Wire { world: Rc::clone(&self.0), number, flows }
    }

    fn poll_client_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        match state.leaves_at {
            Some(at) => state.until(at),
            None => Poll::Pending,
        }
    }

    fn tell(&self, event: &Event) {
        let mut state = self.0.borrow_mut();
        let now = state.now;
        state.events.push((now, event.clone()));
    }
}

pub struct Sleep {
    world: Rc<RefCell<State>>,
    until: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.world.borrow_mut().until(self.until)
    }
}

/// One request on its way.
pub struct Wire {
    world: Rc<RefCell<State>>,
    number: usize,
    flows: Flows,
}

enum Flows {
    /// Each step is read by itself.
    Read(Steps),
    /// A pipe carries the bytes to the client.
    Piped(Rc<RefCell<Flow>>),
}

/// What the endpoint does. It keeps to its script's times whether or not anybody reads.
#[derive(Default)]
pub struct Steps {
    /// When the step at hand begins.
    at: u64,
    queue: VecDeque<Step>,
}

impl Steps {
    /// The next thing that comes, once it is due.
    pub fn next(&mut self, state: &mut State) -> Poll<Received<Rc<[u8]>>> {
        while let Some(Step::Wait(ms)) = self.queue.front() {
            self.at += ms;
            self.queue.pop_front();
        }
        let due = match self.queue.front() {
            Some(Step::ForEver(every, _)) => self.at + every,
            Some(_) => self.at,
            None => return Poll::Pending,
        };
        if state.until(due).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(match self.queue.pop_front() {
            Some(Step::ForEver(every, bytes)) => {
                self.at = due;
                self.queue.push_front(Step::ForEver(every, Rc::clone(&bytes)));
                Received::Chunk(bytes)
            }
            Some(Step::Head(head)) => Received::Head(head),
            Some(Step::Chunk(bytes)) => Received::Chunk(bytes),
            Some(Step::End) => Received::End,
            Some(Step::Reset) => Received::Failed,
            Some(Step::Wait(_)) | None => return Poll::Pending,
        })
    }
}

impl Wire {
    /// From now on a pipe carries what comes.
    pub fn pipe(&mut self, rest_ms: u64) -> Rc<RefCell<Flow>> {
        let Flows::Read(steps) = &mut self.flows else { panic!("piped twice") };
        let flow = Flow::new(std::mem::take(steps), rest_ms);
        self.flows = Flows::Piped(Rc::clone(&flow));
        flow
    }
}

impl Exchange for Wire {
    type Chunk = Rc<[u8]>;

    fn poll_received(&mut self, _: &mut Context<'_>) -> Poll<Received<Rc<[u8]>>> {
        let mut state = self.world.borrow_mut();
        assert_eq!(state.requests[self.number].over_at, None, "polled behind its end");
        let received = match &mut self.flows {
            Flows::Read(steps) => ready!(steps.next(&mut state)),
            Flows::Piped(flow) => ready!(flow.borrow_mut().poll_received(&mut state)),
        };
        if matches!(received, Received::End | Received::Failed) {
            let now = state.now;
            state.requests[self.number].over_at = Some(now);
        }
        Poll::Ready(received)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut state = self.world.borrow_mut();
        state.in_flight -= 1;
        let now = state.now;
        let sent = &mut state.requests[self.number];
        if sent.over_at.is_none() {
            sent.aborted = true;
            sent.over_at = Some(now);
        }
    }
}
