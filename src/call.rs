//! One call, from its arrival to its last byte, without any I/O.
//!
//! A host feeds [`Call::handle_input`] with what happened, then takes [`Call::poll_output`] until
//! it is empty, and wakes the call at [`Call::poll_timeout`]. Several exchanges may be in flight, and
//! an attempt at a job queue makes many, one behind another; inputs and outputs name the exchange
//! they belong to, and those of one that is over are ignored. A job that nobody waits for any more
//! comes out of [`Call::poll_settlement`].
//!
//! There are two points of no return. The first byte to the client spends the HTTP status; the
//! first *content* spends failover, for from then on only the attempt it came from can go on. A
//! 200 whose first event is an error has spent neither.

mod admission;
mod attempt;
mod choice;
mod client;
mod failure;
mod flow;
mod hedge;
mod internal;
mod job;
mod resume;
mod streamed;
mod told;

use crate::{
    ask::Ask,
    breaker::Outcome,
    classify::Failure,
    config::{OnDeadline, Provider},
    deadline::{ClientTimers, Limits},
    error::{Error, JobState},
    event::Event,
    explain::Story,
    fleet::Fleet,
    jobs::IfJobs,
    load::POLL_MS,
    message::{Barrier, Request, ResponseHead},
    policy::Policy,
    provider::{fairlead, vllm},
    rng::Rng,
    route::Route,
    settings::{Endpoint, Model},
    time::Instant,
};
use admission::Ticket;
use attempt::{Attempt, Voice};
use choice::Line;
use hedge::Hedging;
use internal::Internal;
use resume::Interruption;
use std::{any::Any, cell::RefCell, collections::VecDeque, ops::Range, rc::Rc};

pub use admission::{Upkeep, breaker_event, key};
pub use job::Settlement;

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A response has begun.
    Head {
        /// Which exchange.
        exchange: u32,
        /// Its status and fields.
        head: ResponseHead,
    },
    /// Bytes of a response.
    Chunk {
        /// Which exchange.
        exchange: u32,
        /// The bytes; [`Emit::Slice`] refers to them until the next input.
        bytes: &'a [u8],
    },
    /// A response is at its end.
    End {
        /// Which exchange.
        exchange: u32,
    },
    /// A request could not be sent, or its response broke.
    Failed {
        /// Which exchange.
        exchange: u32,
    },
    /// The platform stands between a request and its answer.
    Barred {
        /// Which exchange.
        exchange: u32,
        /// How.
        barrier: Barrier,
    },
    /// Time has passed.
    Timeout,
    /// The client has left.
    ClientGone,
}

/// Something to do, in order.
#[derive(Debug)]
pub enum Output {
    /// Send a request.
    Send {
        /// The exchange that it begins. They are numbered from 1.
        exchange: u32,
        /// Whom to.
        endpoint: Rc<Endpoint>,
        /// The attempt that it belongs to, from 1.
        attempt: u32,
        /// What.
        request: Request,
    },
    /// Give an exchange up; it may be over already.
    Abort {
        /// Which.
        exchange: u32,
    },
    /// Begin the client's response. Comes once, before any `Emit`.
    Commit(ResponseHead),
    /// Send bytes to the client.
    Emit(Emit),
    /// Tell a fact.
    Event(Event),
    /// The client's response is at its end; nothing follows.
    Done {
        /// False when the body must be broken off, because nothing else can tell the client that
        /// it is incomplete.
        whole: bool,
    },
}

/// Bytes for the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Emit {
    /// These.
    Bytes(Vec<u8>),
    /// A part of the chunk that was the last input.
    Slice(Range<usize>),
}

/// Who asks, and how it is to be carried out.
#[derive(Debug)]
pub struct Order {
    /// What is asked for.
    pub ask: Ask,
    /// Whom to ask.
    pub model: Rc<Model>,
    /// How.
    pub policy: Rc<Policy>,
    /// When the request arrived: the deadline and the client's timers run from then, an endpoint's
    /// own only from when it is asked.
    pub arrived: Instant,
    /// The request's id: endpoints get it with the attempt's number behind it.
    pub request_id: String,
    /// The caller's own deadline in milliseconds; it can only shorten the policy's.
    pub deadline_ms: Option<u64>,
    /// Who asks, by its place in `CONFIG`'s `clients`; `None` where nobody is told from anybody else.
    pub client: Option<usize>,
    /// Where chance comes from.
    pub seed: u64,
}

/// With less time left than this an attempt could not come to anything: a connection, a prompt
/// and a first token take longer.
const LEAST_USEFUL_MS: u64 = 200;

/// While a job is followed, a comment comes at least this often: only a write that fails tells of a
/// client's leaving, and a worker is paid for until then.
const JOB_COMMENT_MS: u64 = 1000;

const KEEPALIVE: &[u8] = b": keepalive\n\n";

/// The machine of one call. See the module's documentation.
#[derive(Debug)]
pub struct Call {
    order: Order,
    fleet: Rc<RefCell<Fleet>>,
    rng: Rng,
    deadline_ms: u64,
    deadline: Instant,
    route: Route,
    started: u32,
    /// Exchanges so far, in all attempts.
    exchanges: u32,
    /// Fetches that were given to jobs which are being ended beside the call.
    given_away: u32,
    attempts: Vec<Attempt>,
    settlements: VecDeque<IfJobs<Box<Settlement>>>,
    upkeeps: VecDeque<Upkeep>,
    /// The newest job, as its client may see it.
    job: Option<IfJobs<Box<JobState>>>,
    /// The target to ask next, and when.
    waiting: Option<(Instant, usize)>,
    /// It is paid for, at the price of pushback or of a failure.
    paid: Option<bool>,
    /// Until when nobody is asked, because other isolates may know better.
    awaiting_word: Option<Instant>,
    /// A place in line.
    line: Option<Line>,
    hedging: Hedging,
    /// The last failure, while there is somebody left to ask.
    failure: Option<Failure>,
    /// The earliest moment at which an endpoint that was passed by may be asked again.
    shut_until: Option<Instant>,
    client: ClientTimers,
    committed: bool,
    /// The attempt whose content the client has.
    winner: Option<u32>,
    /// A stream that broke behind its first content, until it goes on.
    interruption: Option<Box<Interruption>>,
    /// Streamed from the endpoint, whole for the client.
    internal: Option<Box<Internal>>,
    /// It was cut short at the deadline.
    truncated: bool,
    paused: Option<Instant>,
    /// What arrives has gone out already, by the host's own pipe.
    piped: bool,
    limits: Limits,
    last_target: usize,
    first_content: Option<Instant>,
    bytes: u64,
    out: VecDeque<Output>,
    emits: Vec<Emit>,
    over: bool,
    /// What is let go of when the call is over.
    held: Option<Box<dyn Any>>,
    /// When to look whether a word has come, or a place become free.
    looks_at: Instant,
}

impl Call {
    /// A call that can begin now; its first attempt is among the outputs.
    pub fn new(now: Instant, mut order: Order, fleet: Rc<RefCell<Fleet>>) -> Self {
        let client = ClientTimers::new(order.arrived, &order.policy, order.ask.stream);
        let internal = Internal::of(&mut order.ask, &order.policy).map(Box::new);
        let Order { ask, policy, arrived, deadline_ms, seed, .. } = &order;
        let deadline_ms = deadline_ms.map_or(policy.deadline_ms, |own| own.min(policy.deadline_ms));
        let mut call = Self {
            fleet,
            rng: Rng::from_seed(*seed),
            deadline_ms,
            deadline: arrived.after(deadline_ms),
            route: Route::new(&[]),
            started: 0,
            exchanges: 0,
            given_away: 0,
            attempts: Vec::new(),
            settlements: VecDeque::new(),
            upkeeps: VecDeque::new(),
            job: None,
            waiting: None,
            paid: None,
            awaiting_word: None,
            line: None,
            hedging: Hedging::default(),
            failure: None,
            shut_until: None,
            client,
            committed: false,
            winner: None,
            interruption: None,
            internal,
            truncated: false,
            paused: None,
            piped: false,
            limits: Limits::new(policy, ask.stream, ask.body.len(), ask.held_back),
            last_target: 0,
            first_content: None,
            bytes: 0,
            out: VecDeque::new(),
            emits: Vec::new(),
            over: false,
            held: None,
            looks_at: now.after(POLL_MS),
            order,
        };
        call.route = call.lay_route(now);
        if now >= call.deadline {
            // The body alone took too long to come.
            call.expire(now);
        } else {
            call.awaiting_word = call.awaits_word(now);
            if call.awaiting_word.is_none() {
                call.begin(now);
            }
        }
        call.tend(now);
        call
    }

    /// Keeps something until the call is over: its client's [`Pass`](crate::allowance::Pass).
    pub fn hold(&mut self, what: impl Any) {
        self.held = (!self.over).then(|| Box::new(what) as Box<dyn Any>);
    }

    /// Takes in something that happened. Take all outputs before the next input.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        if self.over {
            return;
        }
        if now >= self.deadline && !matches!(input, Input::ClientGone) {
            self.on_late_response(now, input);
            return self.expire(now);
        }
        match input {
            Input::Head { exchange, .. }
            | Input::Chunk { exchange, .. }
            | Input::End { exchange }
            | Input::Failed { exchange }
            | Input::Barred { exchange, .. } => self.on_response(now, exchange, input),
            Input::Timeout => self.on_timeout(now),
            Input::ClientGone => self.end(now, true, "client_gone", None),
        }
        self.tend(now);
    }

    /// Something of the response of an exchange, unless nobody waits for it any more.
    fn on_response(&mut self, now: Instant, exchange: u32, input: Input<'_>) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.exchange == Some(exchange)) else { return };
        let id = attempt.id;
        match input {
            _ if attempt.job.is_some() => self.on_job_response(now, id, input),
            _ if Self::is_counting(attempt) => self.on_count(now, id, input),
            Input::Head { head, .. } => self.go_on(now, id, |attempt, ask, _| attempt.on_head(now, head, ask)),
            Input::Chunk { bytes, .. } if self.piped => self.on_piped(now, id, bytes),
            // What is put together here goes nowhere that could look at the chunk.
            Input::Chunk { bytes, .. } if self.is_internal() => {
                self.go_on(now, id, |attempt, _, out| attempt.on_copied(now, bytes, out));
            }
            Input::Chunk { bytes, .. } => self.go_on(now, id, |attempt, _, out| attempt.on_chunk(now, bytes, out)),
            Input::End { .. } => self.finish(now, id, Attempt::on_end),
            Input::Barred { barrier, .. } => {
                self.finish(now, id, |attempt, ask, out| attempt.on_barred(barrier, ask, out))
            }
            _ => self.finish(now, id, Attempt::on_broken),
        }
    }

    /// A job that nobody waits for any more: it is to be cancelled, even behind the call's end.
    pub fn poll_settlement(&mut self) -> Option<IfJobs<Box<Settlement>>> {
        self.settlements.pop_front()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to wake the call with [`Input::Timeout`], if nothing happens before. Never later than
    /// the deadline; `None` when the call is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let attempts = self.attempts.iter().flat_map(Attempt::next);
        let attempts = attempts.filter(|_| self.paused.is_none());
        let waiting = self.waiting.map(|(at, _)| at).into_iter().chain(self.hedge_at());
        let looks = (self.awaiting_word.is_some() || self.line.is_some()).then_some(self.looks_at);
        let partial = self.partial_at();
        attempts.chain(waiting).chain(looks).chain(partial).chain(self.client.next()).chain([self.deadline]).min()
    }

    /// When the call must be over.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Something in the middle of an attempt: it goes on, or has failed.
    fn go_on(
        &mut self,
        now: Instant,
        id: u32,
        input: impl FnOnce(&mut Attempt, &Ask, &mut Vec<Emit>) -> Result<(), Failure>,
    ) {
        if let Some(Err(failure)) = self.step(now, id, input) {
            self.on_failure(now, id, failure);
        }
    }

    /// The end of an attempt: its answer is whole, or it has failed.
    fn finish(
        &mut self,
        now: Instant,
        id: u32,
        input: impl FnOnce(&mut Attempt, &Ask, &mut Vec<Emit>) -> Result<(), Failure>,
    ) {
        if self.piped {
            self.go_on(now, id, |attempt, _, out| attempt.seal(now, out));
        }
        match self.step(now, id, input) {
            Some(Ok(())) => self.succeed(now),
            Some(Err(failure)) => self.on_failure(now, id, failure),
            None => {}
        }
    }

    /// Takes an attempt for what it is, because its end does not come.
    fn close(&mut self, now: Instant, id: u32) {
        self.release(id);
        self.finish(now, id, Attempt::on_broken);
    }

    /// Lets an attempt take something in and shows what comes of it. `None`: it is over already.
    fn step(
        &mut self,
        now: Instant,
        id: u32,
        input: impl FnOnce(&mut Attempt, &Ask, &mut Vec<Emit>) -> Result<(), Failure>,
    ) -> Option<Result<(), Failure>> {
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.id == id)?;
        let outcome = input(attempt, &self.order.ask, &mut self.emits);
        if !self.emits.is_empty() {
            self.show(now, id);
        }
        Some(outcome)
    }

    fn on_timeout(&mut self, now: Instant) {
        if self.partial_at().is_some_and(|at| at <= now) {
            return self.expire(now);
        }
        self.on_count_timers(now);
        let due = |attempt: &Attempt| {
            let counting = Self::is_counting(attempt);
            let (_, timer) = attempt.timers.next().filter(|(at, _)| *at <= now && !counting)?;
            Some((attempt.id, timer.map(|timer| attempt.on_silence(timer))))
        };
        while let Some((id, failure)) = self.attempts.iter().filter(|_| self.paused.is_none()).find_map(due) {
            match failure {
                Some(failure) => self.on_failure(now, id, failure),
                None => self.close(now, id),
            }
        }
        self.hedge(now);
        if self.looks_at <= now {
            self.look_around(now);
        }
        if let Some((_, target)) = self.waiting.take_if(|(at, _)| *at <= now) {
            // While the client took its time, the moment may have passed: then only the deadline
            // is left to wait for.
            if now.after(LEAST_USEFUL_MS) <= self.deadline {
                self.ask_again(now, target);
            }
        }
        self.on_job_timers(now);
        if self.over {
            return;
        }
        if self.client.commit_due(now) {
            self.commit_stream(now);
        }
        if self.client.keepalive_due(now) {
            self.client.on_bytes(now);
            // Behind the end of a stream nothing may stand; that of a job is held back.
            if !self.attempts.iter().any(|attempt| attempt.is_whole() && attempt.job.is_none()) {
                let comment = self.queue_comment(now).unwrap_or_else(|| KEEPALIVE.to_vec());
                self.emit(now, Emit::Bytes(comment));
            }
        }
    }

    fn launch(&mut self, now: Instant, target: usize, ticket: Ticket) {
        let Some(chosen) = self.order.model.targets.get(target) else { return };
        if let Some(error) = self.over_quota(now, chosen) {
            self.tear(now, target, ticket);
            return self.fail(now, &error);
        }
        self.started = self.started.saturating_add(1);
        self.last_target = target;
        self.route.on_attempt(target);
        let id = self.started;
        let endpoint = Rc::clone(&chosen.endpoint);
        let limits = match endpoint.provider {
            Provider::Vllm => self.limits.clone(),
            Provider::Runpod => self.limits.clone().with_cold_start(),
            Provider::Fairlead => self.limits.clone().of_gateway(),
        };
        self.out.push_back(Output::Event(Event::AttemptStarted { attempt: id, endpoint: endpoint.name.clone() }));
        if let Some(follower) = self.follower(now, chosen) {
            if self.order.ask.errand.is_none() {
                self.client.hasten(JOB_COMMENT_MS);
            }
            let mut attempt = Attempt::of_job(id, target, now, limits, follower);
            attempt.ticket = Some(ticket);
            self.take_up(now, &mut attempt);
            return self.attempts.push(attempt);
        }
        let mut attempt = Attempt::new(id, target, now, limits);
        attempt.voice = match endpoint.provider {
            Provider::Runpod if self.order.ask.errand.is_none() => Voice::Proxy,
            Provider::Fairlead => Voice::Gateway,
            Provider::Vllm | Provider::Runpod => Voice::Server,
        };
        attempt.ticket = Some(ticket);
        self.take_up(now, &mut attempt);
        self.attempts.push(attempt);
        self.dispatch(now, id);
    }

    /// Sends the next request of an attempt that follows no job.
    fn dispatch(&mut self, now: Instant, id: u32) {
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.id == id) else { return };
        let Some(chosen) = self.order.model.targets.get(attempt.target) else { return };
        let endpoint = Rc::clone(&chosen.endpoint);
        let ask = attempt.ask(&self.order.ask);
        let request = match &ask.errand {
            _ if let Some(request) = self.count_request(attempt) => request,
            Some(errand) => errand.request(&endpoint, &ask.body, &self.attempt_id(id)),
            None if endpoint.provider == Provider::Fairlead => {
                fairlead::request(ask, chosen, &self.order.request_id, id, now.until(self.deadline))
            }
            None => vllm::request(ask, chosen, &self.order.request_id, id),
        };
        let exchange = self.send(endpoint, id, request);
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) {
            attempt.exchange = Some(exchange);
        }
    }

    /// Sends a request of an attempt; the number of the exchange that it begins.
    fn send(&mut self, endpoint: Rc<Endpoint>, attempt: u32, request: Request) -> u32 {
        self.exchanges = self.exchanges.saturating_add(1);
        self.out.push_back(Output::Send { exchange: self.exchanges, endpoint, attempt, request });
        self.exchanges
    }

    /// The id that an endpoint's log has for an attempt.
    fn attempt_id(&self, id: u32) -> String {
        format!("{}-{id}", self.order.request_id)
    }

    fn succeed(&mut self, now: Instant) {
        let endpoint = self.endpoint_index(self.last_target);
        self.fleet.borrow_mut().budget(endpoint).refund(&self.order.policy.budget);
        if let Some(id) = self.winner.or_else(|| self.attempts.first().map(|attempt| attempt.id)) {
            self.on_served(now, id);
        }
        self.end(now, true, "ok", None);
    }

    /// The deadline has come. An answer that is whole but for its end is none the less whole.
    fn expire(&mut self, now: Instant) {
        if let Some(id) = self.attempts.iter().find(|attempt| attempt.is_whole()).map(|attempt| attempt.id) {
            return self.close(now, id);
        }
        if self.order.policy.on_deadline == OnDeadline::Partial && (self.tell_partial(now) || self.cut_short(now)) {
            return;
        }
        self.blame_for_deadline(now);
        let error = Error { partial: self.partial_text(), ..self.story().deadline(self.deadline_ms) };
        self.fail(now, &error);
    }

    /// Gives an attempt up, before anything else is done: the client may be slow to take what it is
    /// sent, and an endpoint need not work until it has.
    fn drop_attempt(&mut self, now: Instant, id: u32) {
        self.conclude(now, id, Outcome::Neutral);
        self.release(id);
        self.settle(id);
        self.attempts.retain(|attempt| attempt.id != id);
    }

    /// Gives up the exchange that an attempt waits for.
    fn release(&mut self, id: u32) {
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.id == id && !attempt.is_submitting());
        if let Some(exchange) = attempt.and_then(|attempt| attempt.exchange.take())
            && !job::withdraw(&mut self.out, exchange)
        {
            self.out.push_front(Output::Abort { exchange });
        }
    }

    fn story(&self) -> Story<'_> {
        let endpoint = self.order.model.targets.get(self.last_target).map_or("", |target| &target.endpoint.name);
        Story { endpoint, attempts: self.started, shown: self.has_shown(), limits: &self.limits }
    }

    fn endpoint_name(&self) -> String {
        self.story().endpoint.to_owned()
    }

    fn endpoint_index(&self, target: usize) -> usize {
        self.order.model.targets.get(target).map_or(0, |target| target.index)
    }
}
