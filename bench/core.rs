//! What the core's machines cost by themselves, natively: `cargo bench`.
//!
//! Times are for an optimised native build; the Worker's wasm is another compilation of the same
//! code. The allocation counts hold for both: none may grow with the number of events.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a benchmark stops at the first thing that is not as expected"
)]

use divan::{AllocProfiler, Bencher, black_box, counter::BytesCount};
use fairlead_core::{
    access::{self, Client, hash_key},
    api::{Api, Dialect},
    ask::Ask,
    breaker::{Admission, Outcome, Rules},
    call::{Call, Emit, Input, Order, Output},
    classify::Failure,
    config::LogLevel,
    event::Event,
    fleet::{Fleet, Which},
    journal::{Audience, Caller, Journal},
    message::{Headers, ResponseHead},
    policy::Policy,
    rng::Rng,
    route::{self, Next, Route},
    settings::{Environment, Model, Settings},
    sse::Decoder,
    stream::{Proof, Seen},
    time::Instant,
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    fmt::{self, Display, Formatter},
    rc::Rc,
};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const EVENTS: usize = 300;
/// Streams that are open at once, and the bytes of text that each has brought.
const OPEN: usize = 500;
const OPEN_TEXT: usize = 20_000;
const NOW: Instant = Instant::from_millis(1_795_299_888_000);
const HEAD: &str = r#"{"id":"chatcmpl-8511b35c9c3e86e9","object":"chat.completion.chunk","created":1795299886,"model":"Qwen/Qwen2.5-7B-Instruct","choices":[{"index":0,"#;

/// What differs from one event of a stream to the next.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The text of a token, as vLLM sends it.
    Text,
    /// The text, and the token counts so far (`continuous_usage_stats`).
    Usage,
    /// The arguments of a tool call.
    Tool,
    /// Text of which every character is escaped.
    Escapes,
    /// The text of two choices in turn.
    Two,
    /// The text, and its probability.
    Logprobs,
    /// The text, and the numbers of its tokens (`return_token_ids`).
    Ids,
}

const KINDS: [Kind; 7] = [Kind::Text, Kind::Tool, Kind::Escapes, Kind::Two, Kind::Usage, Kind::Logprobs, Kind::Ids];

/// A stream as vLLM 0.32 sends it, event by event: a role, content, a `finish_reason`, the token
/// counts, `[DONE]`.
fn events(kind: Kind) -> Vec<Vec<u8>> {
    let event = |delta: &str, finish: &str, usage: &str| {
        format!(r#"data: {HEAD}"delta":{delta},"logprobs":null,"finish_reason":{finish},"token_ids":null}}]{usage}}}"#)
            .into_bytes()
    };
    let token = |index: usize| match kind {
        Kind::Text => event(&format!(r#"{{"content":" token {index}"}}"#), "null", ""),
        Kind::Usage => {
            let usage =
                format!(r#","usage":{{"prompt_tokens":87,"total_tokens":{},"completion_tokens":{index}}}"#, 87 + index);
            event(&format!(r#"{{"content":" token {index}"}}"#), "null", &usage)
        }
        Kind::Tool => {
            event(&format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{index}"}}}}]}}"#), "null", "")
        }
        Kind::Escapes => event(r#"{"content":"\n\n\u00e4\"\\"}"#, "null", ""),
        Kind::Two => {
            let event = event(&format!(r#"{{"content":" token {index}"}}"#), "null", "");
            String::from_utf8(event).unwrap().replace(r#""index":0"#, &format!(r#""index":{}"#, index % 2)).into_bytes()
        }
        Kind::Logprobs => {
            let event = event(&format!(r#"{{"content":" token {index}"}}"#), "null", "");
            let logprobs = format!(
                r#""logprobs":{{"content":[{{"token":" token {index}","logprob":-0.{index},"bytes":[32],"top_logprobs":[]}}]}}"#
            );
            String::from_utf8(event).unwrap().replace(r#""logprobs":null"#, &logprobs).into_bytes()
        }
        Kind::Ids => {
            let event = event(&format!(r#"{{"content":" token {index}"}}"#), "null", "");
            let ids = format!(r#""token_ids":[{},{index}]"#, 1000 + index);
            String::from_utf8(event).unwrap().replace(r#""token_ids":null"#, &ids).into_bytes()
        }
    };
    let mut events = vec![event(r#"{"role":"assistant","content":""}"#, "null", "")];
    events.extend((0..EVENTS - 4).map(token));
    events.push(event("{}", r#""stop""#, ""));
    let usage = r#""usage":{"prompt_tokens":87,"total_tokens":384,"completion_tokens":297}"#;
    events.push(format!(r#"data: {{"id":"chatcmpl-8511b35c9c3e86e9","choices":[],{usage}}}"#).into_bytes());
    events.push(b"data: [DONE]".to_vec());
    events.iter_mut().for_each(|event| event.extend(b"\n\n"));
    events
}

fn size(events: &[Vec<u8>]) -> BytesCount {
    BytesCount::new(events.iter().map(Vec::len).sum::<usize>())
}

/// Framing and everything that a stream needs of each event, one event per chunk.
#[divan::bench(args = KINDS)]
fn decoder(bencher: Bencher<'_, '_>, kind: Kind) {
    let events = events(kind);
    bencher.counter(size(&events)).bench_local(|| {
        let (mut decoder, mut proof) = (Decoder::default(), Proof::new(Dialect::Chat, 1));
        let mut content = 0;
        for chunk in black_box(&events) {
            let mut at = 0;
            while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
                let fields = block.fields();
                let seen = fields.as_ref().map(|fields| proof.observe(fields));
                content += usize::from(matches!(seen, Some(Seen::Content(_))));
            }
        }
        assert!(proof.is_whole() && proof.usage().completion_tokens.is_some());
        content
    });
}

/// The same, where the whole stream is one chunk.
#[divan::bench(args = KINDS)]
fn decoder_coalesced(bencher: Bencher<'_, '_>, kind: Kind) {
    let stream = events(kind).concat();
    bencher.counter(BytesCount::new(stream.len())).bench_local(|| {
        let (mut decoder, mut proof) = (Decoder::default(), Proof::new(Dialect::Chat, 1));
        let mut at = 0;
        while let Some(block) = decoder.next(black_box(&stream), &mut at).unwrap() {
            if let Some(fields) = block.fields() {
                proof.observe(&fields);
            }
        }
        assert!(proof.is_whole());
    });
}

/// Framing alone.
#[divan::bench]
fn framing(bencher: Bencher<'_, '_>) {
    let events = events(Kind::Text);
    bencher.counter(size(&events)).bench_local(|| {
        let mut decoder = Decoder::default();
        let mut bytes = 0;
        for chunk in black_box(&events) {
            let mut at = 0;
            while let Some(block) = decoder.next(chunk, &mut at).unwrap() {
                bytes += block.fields().map_or(0, |fields| fields.data.len());
            }
        }
        bytes
    });
}

/// A whole streamed call: request out, head and 300 events in, every byte out, the end.
#[divan::bench(args = KINDS)]
fn call(bencher: Bencher<'_, '_>, kind: Kind) {
    let events = events(kind);
    let plan = Plan::of(ONE, json!({}));
    let call = |order| stream(order, &plan.fleet, &events);
    bencher.counter(size(&events)).with_inputs(|| plan.order(true)).bench_local_values(call);
}

/// What a call is to do with a stream that is well.
#[derive(Clone, Copy, Debug)]
struct Steady {
    kind: Kind,
    /// Events in a chunk.
    together: usize,
    then: Then,
}

/// What is kept of a stream, and what for.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Nothing.
    Off,
    /// What the client has, to go on behind it (`resume`).
    Continue,
    /// What the client has, to end it at the deadline (`on_deadline`).
    Partial,
    /// All of it, for a client that wants it whole (`stream_internally`).
    Whole,
}

impl Then {
    fn policy(self) -> Value {
        match self {
            Self::Off => json!({}),
            Self::Continue => json!({ "resume": "continue" }),
            Self::Partial => json!({ "on_deadline": "partial" }),
            Self::Whole => json!({ "stream_internally": true }),
        }
    }
}

impl Display for Steady {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { kind, together, then } = self;
        write!(f, "{kind:?} by {together}, {then:?}")
    }
}

fn steady() -> impl Iterator<Item = Steady> {
    let kinds = [Kind::Text, Kind::Usage, Kind::Ids].into_iter();
    let chunks = kinds.flat_map(|kind| [(kind, 1), (kind, 8)]);
    chunks.flat_map(|(kind, together)| {
        [Then::Off, Then::Continue, Then::Partial, Then::Whole].map(|then| Steady { kind, together, then })
    })
}

/// What it costs that a stream could be resumed, when it does not break.
#[divan::bench(args = steady())]
fn resume(bencher: Bencher<'_, '_>, Steady { kind, together, then }: Steady) {
    let events: Vec<Vec<u8>> = events(kind).chunks(together).map(<[_]>::concat).collect();
    let plan = Plan::of(ONE, then.policy());
    let streams = !matches!(then, Then::Whole);
    let call = |order| stream(order, &plan.fleet, &events);
    bencher.with_inputs(|| plan.order(streams)).bench_local_values(call);
}

/// What so many streams hold together while they are open, each with so many bytes of text behind it: `max alloc`.
#[divan::bench(args = [Then::Off, Then::Continue, Then::Whole], sample_count = 3, sample_size = 1)]
fn open(bencher: Bencher<'_, '_>, then: Then) {
    let text = "A fairlead keeps a rope running. ";
    let event = format!("data: {HEAD}\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n").into_bytes();
    let tokens = vec![event; OPEN_TEXT.div_ceil(text.len())];
    let plan = Plan::of(ONE, then.policy());
    let orders = || (0..OPEN).map(|_| plan.order(!matches!(then, Then::Whole))).collect::<Vec<_>>();
    let begin = |order| {
        let mut call = Call::new(NOW, order, Rc::clone(&plan.fleet));
        take(&mut call);
        call.handle_input(NOW, Input::Head { exchange: 1, head: stream_head() });
        for chunk in &tokens {
            call.handle_input(NOW, Input::Chunk { exchange: 1, bytes: chunk });
            take(&mut call);
        }
        call
    };
    let text = OPEN * OPEN_TEXT;
    bencher
        .counter(BytesCount::new(text))
        .with_inputs(orders)
        .bench_local_values(|orders| orders.into_iter().map(begin).collect::<Vec<_>>());
}

/// The same for an answer of a few tokens, over two targets: with a breaker before them, and without.
#[divan::bench(args = ["breaker", "none"])]
fn short(bencher: Bencher<'_, '_>, breaker: &str) {
    let mut events = events(Kind::Text);
    events.drain(4..EVENTS - 3);
    let case = Case { strategy: "least_loaded", targets: 2, shared: true };
    let plan = Plan::of(case, json!({ "breaker": { "enabled": breaker == "breaker" } }));
    bencher.with_inputs(|| plan.order(true)).bench_local_values(|order| stream(order, &plan.fleet, &events));
}

fn stream(order: Order, fleet: &Rc<RefCell<Fleet>>, events: &[Vec<u8>]) -> usize {
    let mut call = Call::new(NOW, order, Rc::clone(fleet));
    let mut bytes = 0;
    take(&mut call);
    call.handle_input(NOW, Input::Head { exchange: 1, head: stream_head() });
    for chunk in black_box(events) {
        call.handle_input(NOW, Input::Chunk { exchange: 1, bytes: chunk });
        bytes += take(&mut call);
    }
    call.handle_input(NOW, Input::End { exchange: 1 });
    assert_eq!(call.poll_timeout(), None);
    bytes + take(&mut call)
}

/// Takes all that the call wants done and counts the bytes for the client.
fn take(call: &mut Call) -> usize {
    let mut bytes = 0;
    while let Some(output) = call.poll_output() {
        bytes += match output {
            Output::Emit(Emit::Slice(range)) => range.len(),
            Output::Emit(Emit::Bytes(bytes)) => bytes.len(),
            _ => 0,
        };
    }
    bytes
}

/// Who can see what became of a call.
#[derive(Clone, Copy, Debug)]
enum Watched {
    /// Nobody.
    Off,
    /// Whoever reads the log, takes data points and looks at the counts.
    All,
}

/// What it costs to know whose call it is and to account for it: its key, its line, its data point and its counts.
#[divan::bench(args = [Watched::Off, Watched::All])]
fn account(bencher: Bencher<'_, '_>, watched: Watched) {
    let is_seen = matches!(watched, Watched::All);
    let log = if is_seen { LogLevel::Calls } else { LogLevel::Off };
    let mut journal = Journal::new(NOW, "FRA".to_owned());
    journal.heed(Audience { log, counts: is_seen, points: is_seen });
    let client = |name: &str| Client { name: name.to_owned(), keys: vec![hash_key(name)], ..Client::default() };
    let clients: Vec<Client> = ["a", "b", "c", "d"].map(client).into();
    let started = Event::AttemptStarted { attempt: 1, endpoint: "a".to_owned() };
    let mut call = Call::new(NOW, Plan::of(ONE, json!({})).order(false), Rc::default());
    call.handle_input(NOW, Input::ClientGone);
    let ended = std::iter::from_fn(|| call.poll_output()).find_map(|output| match output {
        Output::Event(event @ Event::CallEnded { .. }) => Some(event),
        _ => None,
    });
    let ended = ended.unwrap();
    bencher.bench_local(|| {
        let caller = Caller { request_id: "r".repeat(32), route: Api::Chat.path(), ..Caller::default() };
        let ticket = journal.open(NOW, NOW.after(600_000), caller);
        let client = if is_seen { access::find(&clients, black_box("d")) } else { None };
        journal.admit(ticket, client.map(|client| &*client.name));
        let caller = journal.begin(ticket, "qwen", NOW.after(300_000));
        journal.tell(ticket, NOW, black_box(&started));
        (journal.tell(ticket, NOW, black_box(&ended)), caller)
    });
}

/// Where a call finds everything healthy.
#[derive(Clone, Copy)]
struct Case {
    strategy: &'static str,
    targets: usize,
    /// Other isolates tell what they know.
    shared: bool,
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}{}", self.strategy, self.targets, if self.shared { ", shared" } else { "" })
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let of = |strategy| {
        [(2, false), (2, true), (5, false), (5, true)].map(|(targets, shared)| Case { strategy, targets, shared })
    };
    ["failover", "weighted", "least_loaded"].into_iter().flat_map(of)
}

/// What a call that finds everything healthy pays for breaker, budget and routing together, step by step as
/// `call/admission.rs` takes them.
#[divan::bench(args = cases())]
fn healthy(bencher: Bencher<'_, '_>, case: Case) {
    let plan = Plan::of(case, json!({}));
    let (model, policy) = plan.settings.plan(None, "qwen", None).unwrap();
    let mut fleet = plan.fleet.borrow_mut();
    let mut rng = Rng::from_seed(7);
    let mut now = NOW;
    // Others are on their way.
    for target in &model.targets {
        for _ in 0..16 {
            let _lease = fleet.load(target.index).try_enter(now, now.after(86_400_000), Some(32), None);
        }
    }
    bencher.bench_local(|| {
        now = now.after(1);
        admit_and_serve(now, &mut fleet, &model, &policy, &mut rng)
    });
}

fn admit_and_serve(now: Instant, fleet: &mut Fleet, model: &Model, policy: &Policy, rng: &mut Rng) -> usize {
    let breaker = policy.breaker.as_ref().unwrap();
    let targets = &model.targets;
    let gates = |index| [Which { endpoint: index, entry: None }, Which { endpoint: index, entry: model.index }];
    // What other isolates say is looked for where it is due.
    if fleet.store().is_some() {
        for which in targets.iter().flat_map(|target| gates(target.index)) {
            let gate = fleet.gate(which);
            if gate.breaker.asks_for_lease(now) || gate.channel.is_due(now, gate.breaker.is_calm(now)) {
                gate.channel.on_read(now, Ok(None));
            }
            assert!(gate.channel.read_at().is_some());
        }
    }
    // The order of trying.
    let fastest = targets.iter().filter_map(|target| fleet.load(target.index).first_token_ms(now)).min();
    let order = route::order(model.strategy, targets, |endpoint| fleet.load(endpoint).score(now, fastest), rng);
    let mut route = Route::ordered(targets, &order);
    let Next::First { target } = route.next(|_| false) else { panic!("nobody") };
    let index = targets[target].index;
    // Its breakers, and a place at it.
    let [all, own] = gates(index);
    assert!(!fleet.gate(all).breaker.is_isolated());
    let rules = Rules { policy: breaker, alone: targets.len() == 1 };
    let Admission::Admitted(pass) = fleet.gate(own).breaker.admit(now, rules, None, rng) else { panic!("shut") };
    let most = targets[target].endpoint.max_concurrency;
    let lease = fleet.load(index).try_enter(now, now.after(300_000), most, None).unwrap();
    route.on_attempt(target);
    // It answers.
    fleet.load(index).on_first_content(now, 120);
    fleet.gate(own).breaker.on_sign_of_life(pass);
    fleet.load(index).leave(lease);
    let outcome = Outcome::Served { first_content_ms: Some(120) };
    assert!(fleet.gate(own).breaker.on_end(now, rules, pass, outcome, rng).is_none());
    fleet.budget(index).refund(&policy.budget);
    target
}

/// A refusal, from its head to the decision and the pushback that it asks for.
#[divan::bench(args = ["12", "Sat, 21 Nov 2026 22:25:00 GMT"])]
fn classify(bencher: Bencher<'_, '_>, retry_after: &str) {
    let headers = Headers::from_iter([("content-type", "application/json"), ("retry-after", retry_after)]);
    let failure = Failure::Status { head: ResponseHead { status: 503, headers }, body: None };
    bencher.bench_local(|| black_box(&failure).verdict(black_box(NOW)));
}

/// What is read from a request of about so many KiB, and its body with another model's name.
#[divan::bench(args = [1, 100, 4096])]
fn peek(bencher: Bencher<'_, '_>, kib: usize) {
    let body = request(true, kib << 10);
    let headers = Headers::from_iter([("content-type", "application/json")]);
    bencher.counter(BytesCount::new(body.len())).bench_local(|| {
        let ask = Ask::read(Api::Chat, black_box(&headers), Rc::clone(&body)).unwrap();
        ask.body_for(Some("served"))
    });
}

fn request(stream: bool, bytes: usize) -> Rc<[u8]> {
    let text = "A fairlead keeps a rope running. ".repeat(bytes / 33);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"qwen","temperature":0.7,"stream":{stream}}}"#
    );
    body.into_bytes().into()
}

fn stream_head() -> ResponseHead {
    ResponseHead { status: 200, headers: Headers::from_iter([("content-type", "text/event-stream; charset=utf-8")]) }
}

/// The settings that the calls are made under.
struct Plan {
    settings: Settings,
    fleet: Rc<RefCell<Fleet>>,
}

struct NoSecrets;

impl Environment for NoSecrets {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

/// One target.
const ONE: Case = Case { strategy: "failover", targets: 1, shared: false };

impl Plan {
    fn of(Case { strategy, targets, shared }: Case, policy: Value) -> Self {
        let endpoint = |name: &&str| {
            let base_url = format!("https://{name}.example.com/v1");
            json!({ "name": name, "provider": "vllm", "base_url": base_url, "max_concurrency": 10_000 })
        };
        let target = |name: &&str| json!({ "endpoint": name, "model": "served" });
        let names = &["a", "b", "c", "d", "e"][..targets];
        let config = json!({
            "open": true,
            "endpoints": names.iter().map(endpoint).collect::<Vec<_>>(),
            "models": [
                { "name": "qwen", "strategy": strategy, "targets": names.iter().map(target).collect::<Vec<_>>() },
            ],
            "policies": { "default": policy },
        });
        let settings = Settings::read([("CONFIG".to_owned(), config)], &NoSecrets).settings.unwrap();
        let mut fleet = if shared { Fleet::shared(2 * targets) } else { Fleet::default() };
        // All is well as far as anybody knows.
        for endpoint in 0..targets {
            for entry in [None, Some(0)] {
                fleet.gate(Which { endpoint, entry }).channel.on_read(NOW, Ok(None));
            }
        }
        Self { settings, fleet: Rc::new(RefCell::new(fleet)) }
    }

    fn order(&self, stream: bool) -> Order {
        let ask = Ask::read(Api::Chat, &Headers::new(), request(stream, 1 << 10)).unwrap();
        let (model, policy) = self.settings.plan(None, &ask.model, None).unwrap();
        Order { ask, model, policy, arrived: NOW, request_id: "r".to_owned(), deadline_ms: None, client: None, seed: 7 }
    }
}
