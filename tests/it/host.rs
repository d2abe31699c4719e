//! What the core runs on in a [`crate::world::World`]: its clock, its timers and its exchanges, all in
//! virtual time.

use crate::{
    record::Sent,
    runpod::Runpod,
    store::Kv,
    wire::Wire,
    world::{START, Scripts},
};
use fairlead_core::{
    event::Event,
    fault::Plan,
    message::Request,
    runtime::{Later, Runtime, Store, StoreError, Task},
    settings::Endpoint,
    time::Instant,
};
use std::{
    cell::{RefCell, RefMut},
    collections::BTreeMap,
    future::poll_fn,
    ops::Range,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Everything that changes while a call runs.
#[derive(Default)]
pub struct State {
    pub now: u64,
    /// The moments that somebody waits for, since the last jump.
    pub awaited: Vec<u64>,
    pub scripts: BTreeMap<String, Scripts>,
    pub requests: Vec<Sent>,
    pub in_flight: usize,
    /// Who answers at `d`.
    pub runpod: Option<Runpod>,
    pub events: Vec<(u64, Event)>,
    pub timers: usize,
    pub leaves_at: Option<u64>,
    pub early_timers: bool,
    /// See [`crate::world::World::page`].
    pub sleeps: bool,
    /// Timers fire at multiples of so many milliseconds only.
    pub timers_every: u64,
    /// When nothing runs.
    pub asleep: Vec<Range<u64>>,
    /// The client takes pieces.
    pub taking: Stopwatch,
    /// It takes pieces that stop the reading.
    pub stopping: Stopwatch,
    /// How often the clock was read since it last went on.
    pub clock_reads: usize,
    /// Tasks that began since the last turn.
    pub spawned: Vec<Task>,
    /// What isolates share.
    pub kv: Option<Kv>,
    /// When the rate limiting binding answers, and what; see [`crate::world::World::limiter`].
    pub limiter: Option<(u64, Option<bool>)>,
}

/// How long tasks may go on behind a call.
const BEHIND_MS: u64 = 30_000;

/// The core may read the clock so often at one moment; a mebibyte byte by byte takes a few million.
const MOST_CLOCK_READS: usize = 10_000_000;

impl State {
    /// Ready at this moment, which the clock may jump to.
    pub fn until(&mut self, at: u64) -> Poll<()> {
        if at <= self.now {
            return Poll::Ready(());
        }
        self.awaited.push(at);
        Poll::Pending
    }

    /// Exchanges in flight, but for those that end a job behind its call.
    pub fn left_open(&self) -> usize {
        self.requests.iter().filter(|sent| sent.over_at.is_none() && !sent.may_settle()).count()
    }
}

/// How many of a kind go on, and how long there was any.
#[derive(Default)]
pub struct Stopwatch {
    pub count: usize,
    /// When the count last changed.
    pub changed_at: u64,
    ms: u64,
}

impl Stopwatch {
    /// How long there was any up to now.
    pub const fn ms(&self, now: u64) -> u64 {
        self.ms + if self.count > 0 { now - self.changed_at } else { 0 }
    }

    fn change(&mut self, now: u64, change: impl Fn(usize) -> usize) {
        *self = Self { count: change(self.count), changed_at: now, ms: self.ms(now) };
    }
}

/// The runtime that a call sees.
#[derive(Clone)]
pub struct Host {
    pub world: Rc<RefCell<State>>,
    /// When its own client leaves, if that is not everybody's.
    pub leaves_at: Option<u64>,
    /// In which isolate it runs.
    pub isolate: usize,
    /// What is to go wrong with its call on purpose.
    pub rehearsal: Option<Plan>,
}

impl Host {
    pub fn state(&self) -> RefMut<'_, State> {
        self.world.borrow_mut()
    }

    pub fn now_ms(&self) -> u64 {
        self.world.borrow().now
    }

    /// Polls something, and tells which moment it waits for.
    pub fn watch<T>(&self, poll: impl FnOnce() -> Poll<T>) -> (Poll<T>, Option<u64>) {
        let before = self.world.borrow().awaited.len();
        let outcome = poll();
        let awaited = self.world.borrow().awaited[before..].iter().min().copied();
        (outcome, awaited)
    }

    /// Ready at this moment.
    pub async fn moment(&self, at: u64) {
        poll_fn(|_| self.world.borrow_mut().until(at)).await;
    }

    /// Whether a moment has not come, which the clock may then jump to.
    pub fn is_before(&self, at: u64) -> bool {
        self.world.borrow_mut().until(at).is_pending()
    }

    /// Ready after so many milliseconds, with whether `breaks_at` has not come before. `stops`:
    /// until then nothing is read.
    pub fn nap(&self, ms: u64, breaks_at: Option<u64>, stops: bool) -> Nap {
        let mut state = self.world.borrow_mut();
        let now = state.now;
        state.taking.change(now, |count| count + 1);
        state.stopping.change(now, |count| count + usize::from(stops));
        Nap { world: Rc::clone(&self.world), until: now + ms, breaks_at, stops }
    }

    /// The client is taking something, until this is dropped.
    pub fn taking(&self) -> Nap {
        self.nap(0, None, false)
    }

    /// Polls to the end, letting the time pass whenever there is nothing to do; or drops the future.
    pub fn run(&self, future: impl Future<Output = ()>, cancelled_at: Option<u64>, watch: &mut dyn FnMut(&State)) {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let mut tasks: Vec<Task> = Vec::new();
        let mut over_at = None;
        loop {
            self.world.borrow_mut().awaited.clear();
            if over_at.is_none() && future.as_mut().poll(&mut context).is_ready() {
                over_at = Some(self.now_ms());
            }
            loop {
                let spawned = std::mem::take(&mut self.world.borrow_mut().spawned);
                if spawned.is_empty() {
                    break;
                }
                tasks.extend(
                    spawned
                        .into_iter()
                        .filter_map(|mut task| task.as_mut().poll(&mut context).is_pending().then_some(task)),
                );
            }
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            watch(&self.world.borrow());
            // A Worker may go on so long behind its response.
            let cut = over_at.is_some_and(|at| self.now_ms() >= at + BEHIND_MS);
            if over_at.is_some() && tasks.is_empty() || cut {
                return;
            }
            let mut state = self.world.borrow_mut();
            state.clock_reads = 0;
            let next = state.awaited.iter().min().copied();
            let next = next.expect("the call waits for ever").min(cancelled_at.unwrap_or(u64::MAX));
            state.now = state.asleep.iter().find(|asleep| asleep.contains(&next)).map_or(next, |asleep| asleep.end);
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
        let mut state = self.world.borrow_mut();
        state.clock_reads += 1;
        assert!(state.clock_reads < MOST_CLOCK_READS, "the call is busy for ever");
        START.after(state.now)
    }

    fn sleep(&self, ms: u64) -> Sleep {
        let mut state = self.world.borrow_mut();
        state.timers += 1;
        let ms = if state.early_timers { ms.div_ceil(2) } else { ms };
        let until = (state.now + ms).next_multiple_of(state.timers_every.max(1));
        Sleep { until, world: Rc::clone(&self.world) }
    }

    fn sleeps(&self) -> bool {
        self.world.borrow().sleeps
    }

    fn send(&self, endpoint: &Endpoint, _: u32, request: Request) -> Wire {
        let mut state = self.world.borrow_mut();
        let name = endpoint.name.clone();
        if name == "d" {
            let (at, number) = (state.now, state.requests.len());
            state.requests.push(Sent::new(name, at, request.clone()));
            state.in_flight += 1;
            state.runpod.as_mut().expect("a simulated RunPod").send(number, at, request);
            return Wire::asked(&self.world, number);
        }
        let now = state.now;
        let scripts = state.scripts.get_mut(&name).expect("a script for this endpoint");
        let engine = scripts.engine.as_mut();
        let counts = request.url.ends_with("/tokenize");
        let own = engine.as_ref().is_some_and(|_| counts);
        let spell = scripts.spells.iter().find(|(when, _)| when.contains(&now)).map(|(_, script)| script.clone());
        let script =
            spell.or_else(|| if own { None } else { scripts.queue.pop_front() }).or_else(|| scripts.always.clone());
        let script = script.or_else(|| engine.map(|answers| answers(&request)));
        let script = script.unwrap_or_else(|| panic!("endpoint {name} was asked once more than foreseen"));
        let at = state.now;
        let number = state.requests.len();
        state.requests.push(Sent::new(name, at, request));
        state.in_flight += 1;
        Wire::new(&self.world, number, at, script)
    }

    fn poll_client_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        let mut state = self.world.borrow_mut();
        match self.leaves_at.or(state.leaves_at) {
            Some(at) => state.until(at),
            None => Poll::Pending,
        }
    }

    fn tell(&self, event: &Event) {
        let mut state = self.world.borrow_mut();
        let now = state.now;
        state.events.push((now, event.clone()));
    }

    fn spawn(&self, task: Task) {
        self.world.borrow_mut().spawned.push(task);
    }

    fn store(&self) -> Option<Rc<dyn Store>> {
        let kv = self.world.borrow().kv.clone()?;
        Some(kv.for_isolate(self))
    }

    fn limit(&self, binding: &str, key: &str) -> Option<Later<bool>> {
        assert_eq!((binding, key), ("LIMITER", "tests"));
        let (after_ms, answer) = self.world.borrow().limiter?;
        let sleep = self.sleep(after_ms);
        Some(Box::pin(async move {
            sleep.await;
            answer.ok_or(StoreError::Unavailable)
        }))
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

/// The client takes a piece.
pub struct Nap {
    world: Rc<RefCell<State>>,
    until: u64,
    breaks_at: Option<u64>,
    stops: bool,
}

impl Future for Nap {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.world.borrow_mut();
        if self.breaks_at.is_some_and(|at| state.until(at).is_ready()) {
            return Poll::Ready(false);
        }
        state.until(self.until).map(|()| true)
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        let mut state = self.world.borrow_mut();
        let now = state.now;
        state.taking.change(now, |count| count - 1);
        state.stopping.change(now, |count| count - usize::from(self.stops));
    }
}
