//! What the core runs on: a clock that jumps, timers, exchanges, and the store.

use super::{
    counts::Counts,
    endpoint::{Endpoint, Mode, Wire, Words},
    kv::{Kv, Place},
    tasks::{Agenda, Moment, TaskId},
};
use fairlead_core::{
    event::Event,
    fleet::Fleet,
    message::Request,
    rng::Rng,
    runtime::{Runtime, Store, Task},
    settings,
    time::Instant,
};
use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// When every run begins: the midnight at the end of Sat, 21 Nov 2026, in UTC.
const START: Instant = Instant::from_millis(1_795_305_600_000);

/// The places of the two endpoints in `CONFIG`.
pub const ENDPOINTS: [&str; 2] = ["a", "b"];

/// Everything that isolates have in common.
pub struct World {
    now: Cell<u64>,
    agenda: RefCell<Agenda>,
    current: Cell<TaskId>,
    spawned: RefCell<Vec<(u32, Task)>>,
    endpoints: RefCell<[Endpoint; 2]>,
    rng: RefCell<Rng>,
    pub words: Words,
    pub kv: RefCell<Kv>,
    pub counts: RefCell<Counts>,
}

impl World {
    pub fn new(endpoints: [Endpoint; 2], kv: Kv, counts: Counts, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::default(),
            agenda: RefCell::default(),
            current: Cell::default(),
            spawned: RefCell::default(),
            endpoints: RefCell::new(endpoints),
            rng: RefCell::new(Rng::from_seed(seed)),
            words: Words::default(),
            kv: RefCell::new(kv),
            counts: RefCell::new(counts),
        })
    }

    pub const fn now(&self) -> u64 {
        self.now.get()
    }

    pub fn instant(&self) -> Instant {
        START.after(self.now())
    }

    pub const fn current(&self) -> TaskId {
        self.current.get()
    }

    pub fn begin(&self, task: TaskId) {
        self.current.set(task);
    }

    pub fn add(&self, at: u64, moment: Moment) {
        self.agenda.borrow_mut().add(at, moment);
    }

    /// The next thing that is due up to `end`; the clock jumps to it.
    pub fn next(&self, end: u64) -> Option<Moment> {
        let (at, moment) = self.agenda.borrow_mut().next(end)?;
        self.now.set(at);
        Some(moment)
    }

    /// The task at hand is polled again at this moment.
    pub fn wake(&self, at: u64) {
        self.add(at, Moment::Wake(self.current()));
    }

    pub fn sleep(world: &Rc<Self>, ms: u64) -> Sleep {
        Sleep { world: Rc::clone(world), until: world.now() + ms, is_armed: false }
    }

    /// A task that has begun, and its isolate.
    pub fn take_spawned(&self) -> Option<(u32, Task)> {
        self.spawned.borrow_mut().pop()
    }

    pub fn mode(&self, endpoint: usize) -> Mode {
        self.endpoints.borrow()[endpoint].mode(self.now()).1
    }

    /// Lets an endpoint do something.
    pub fn with_endpoint<T>(&self, endpoint: usize, act: impl FnOnce(&mut Endpoint) -> T) -> T {
        act(&mut self.endpoints.borrow_mut()[endpoint])
    }
}

/// One isolate, for as long as any of its calls goes on.
pub struct Isolate {
    pub id: u32,
    pub fleet: Rc<RefCell<Fleet>>,
    store: Option<Rc<dyn Store>>,
    /// What it thinks of endpoint `a`.
    pub view: RefCell<View>,
}

/// What an isolate thinks of endpoint `a`, by what it told.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// It has had a call.
    pub is_used: bool,
    /// It takes no more calls.
    pub is_leaving: bool,
    /// Its breaker is open, at least until then.
    pub open_until: Option<u64>,
    /// Since when it has been so by others' word alone.
    pub told_at: Option<u64>,
}

impl Isolate {
    pub fn new(world: &Rc<World>, id: u32, location: usize, breakers: Option<usize>) -> Rc<Self> {
        let store = |_| Rc::new(Place { world: Rc::clone(world), location }) as Rc<dyn Store>;
        let fleet = breakers.map_or_else(Fleet::default, Fleet::shared);
        Rc::new(Self { id, fleet: Rc::new(RefCell::new(fleet)), store: breakers.map(store), view: RefCell::default() })
    }
}

/// The runtime of one call.
#[derive(Clone)]
pub struct Host {
    pub world: Rc<World>,
    pub isolate: Rc<Isolate>,
    pub arrived: u64,
}

impl Runtime for Host {
    type Chunk = Rc<[u8]>;
    type Exchange = Wire;
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        self.world.instant()
    }

    fn sleep(&self, ms: u64) -> Sleep {
        World::sleep(&self.world, ms)
    }

    fn send(&self, endpoint: &settings::Endpoint, _: u32, _: Request) -> Wire {
        let number = usize::from(endpoint.name != ENDPOINTS[0]);
        let mode = self.world.mode(number);
        let fate = {
            let mut rng = self.world.rng.borrow_mut();
            self.world.with_endpoint(number, |endpoint| endpoint.ask(&self.world, number, &mut rng))
        };
        self.world.counts.borrow_mut().on_attempt(self.world.now(), number, mode, &fate);
        Wire::new(&self.world, fate)
    }

    fn poll_client_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn tell(&self, event: &Event) {
        let now = self.world.now();
        let well_since = self.world.with_endpoint(0, |endpoint| endpoint.well_since(now));
        self.world.counts.borrow_mut().on_event(now, self.arrived, &self.isolate, event, well_since);
    }

    fn spawn(&self, task: Task) {
        self.world.spawned.borrow_mut().push((self.isolate.id, task));
    }

    fn store(&self) -> Option<Rc<dyn Store>> {
        self.isolate.store.clone()
    }
}

/// A timer.
pub struct Sleep {
    world: Rc<World>,
    until: u64,
    is_armed: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.until <= self.world.now() {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut self.is_armed, true) {
            self.world.wake(self.until);
        }
        Poll::Pending
    }
}
