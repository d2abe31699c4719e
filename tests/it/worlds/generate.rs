//! A world as data: some calls, one behind another, that share what an isolate knows.

use super::{
    accounts,
    answers::Asked,
    choices::Dice,
    doors::{self, Doors},
    promises::Promises,
    queues::Queue,
    speakers::{Answer, Speakers},
    speech::Speech,
};
use crate::{
    record::Record,
    world::{START, World},
};
use fairlead_core::{config::Resume, event::Event, fleet::Fleet, load::Lease, policy::BudgetPolicy};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeSet, fmt, rc::Rc};

/// Places of endpoints in the world's `CONFIG`.
const ENDPOINTS: [&str; 4] = ["a", "b", "c", "d"];

/// Everything that will happen.
pub struct Case {
    budget: BudgetPolicy,
    /// Fields of the breakers' policy.
    breaker: Value,
    /// How many calls each endpoint may have.
    room: Option<u32>,
    pub calls: Vec<Call>,
}

/// One call.
pub struct Call {
    /// It comes so long behind the one before it.
    gap_ms: u64,
    client_place: Option<usize>,
    asked: Asked,
    /// The prompt's size.
    kib: usize,
    policy: Vec<(&'static str, u64)>,
    native: bool,
    resume: Resume,
    partial: bool,
    internal: bool,
    hedge: Option<Hedge>,
    own_deadline_ms: Option<u64>,
    seed: u64,
    /// What models have to say, where there is more than chance in it.
    speech: Option<Rc<Speech>>,
    targets: Vec<Target>,
    /// The endpoint all of whose places others have.
    full: Option<&'static str>,
    /// What endpoint `d` does, where it is a target.
    queue: Option<Queue>,
    client: Vec<Habit>,
}

/// Whom the model asks, in order, and what they answer; behind the last answer comes `for ever`.
struct Target {
    endpoint: &'static str,
    model: Option<&'static str>,
    /// Whether it is said to go on from a beginning.
    continues: Option<bool>,
    answers: Vec<Answer>,
}

/// When a call may be hedged, and how many.
#[derive(Clone, Copy, Debug)]
enum Hedge {
    After(u64, f64),
    /// By what twenty calls have taken.
    P95(u64, f64),
}

/// What is peculiar to the client, or to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    TakesMs(u64),
    TakesMsEvery(u64, usize),
    StartsAfterMs(u64),
    LeavesAt(u64),
    BreaksAt(u64),
    UploadsMs(u64),
    PieceByPiece,
    EarlyTimers,
    CancelledAt(u64),
}

impl Case {
    pub fn draw(dice: &mut Dice) -> Self {
        let budget = match dice.up_to(3) {
            0 => BudgetPolicy { capacity: 100, transient_cost: 14, throttled_cost: 5, refund: 1 },
            _ => BudgetPolicy {
                capacity: dice.up_to(60) as u32,
                transient_cost: dice.up_to(30) as u32,
                throttled_cost: dice.up_to(30) as u32,
                refund: dice.up_to(20) as u32,
            },
        };
        let breaker = breaker(dice);
        let room = dice.pick(&[None, None, Some(1), Some(2)]);
        Self { budget, breaker, room, calls: dice.at_least_one(3, Call::draw) }
    }

    /// Runs all calls; every promise is checked on the way.
    pub fn run(&self) -> Vec<Record> {
        let fleet = Rc::default();
        let mut doors = Doors::new(Rc::clone(&fleet));
        let mut records: Vec<Record> = Vec::new();
        let (mut saved, mut hedges) = (0, 0);
        for call in &self.calls {
            let begins_at = records.last().map_or(0, |record| record.settled_at + call.gap_ms);
            let shut = doors.are_all_shut(&call.endpoints(), call.client_place, begins_at + call.upload_ms());
            let record = call.run(&fleet, self, begins_at, shut);
            doors.see(&record);
            saved += record.policy.hedge.filter(|_| record.attempts() > 0).map_or(0, |hedge| hedge.share_ppm);
            let is_hedge = |(_, event): &&(u64, Event)| matches!(event, Event::HedgeStarted { .. });
            hedges += record.events.iter().filter(is_hedge).count();
            assert!(hedges <= saved as usize / 1_000_000, "{hedges} hedges of {saved} millionths");
            records.push(record);
        }
        records
    }
}

/// Fields of small breakers, so that few calls open them.
fn breaker(dice: &mut Dice) -> Value {
    match dice.up_to(7) {
        0 | 1 => return json!({}),
        2 => return json!({ "enabled": false }),
        _ => {}
    }
    let open_ms = 1 + dice.ms();
    let mut fields = json!({
        "consecutive": 1 + dice.up_to(2),
        "min_calls": 1 + dice.up_to(3),
        "window_ms": 1 + dice.ms(),
        "open_ms": open_ms,
        "max_open_ms": open_ms * (1 + dice.up_to(3)),
        "probe_ratio": dice.pick(&[1.0, 1.0, 0.3, 0.01]),
    });
    if dice.one_in(3) {
        fields["slow_first_token_ms"] = (1 + dice.ms()).into();
    }
    fields
}

impl Call {
    fn draw(dice: &mut Dice) -> Self {
        let gap_ms = dice.ms();
        let client_place = dice.pick(&[None, None, Some(0), Some(1)]);
        let asked = dice.pick(Asked::ALL);
        let kib = if dice.one_in(8) { dice.index(6) } else { 0 };
        let speech = (asked.is_of_one_text() && !dice.one_in(3)).then(|| Rc::new(Speech::draw(dice)));
        // Whoever has much to say is given the time for it, mostly.
        let sides = if speech.is_some() { 5 } else { 2 };
        let mut policy = vec![("deadline_ms", if dice.one_in(sides) { 1 + dice.ms() } else { 60_000 })];
        for (field, least, most) in [
            ("headers_ms", 1, u64::MAX),
            ("first_token_ms", 1, u64::MAX),
            ("idle_ms", 1, u64::MAX),
            ("progress_ms", 1, u64::MAX),
            ("keepalive_ms", 100, u64::MAX),
            ("commit_after_ms", 0, u64::MAX),
            ("max_attempts", 1, 7),
            ("retry_after_max_ms", 0, u64::MAX),
            ("prefill_ms_per_kib", 0, 1000),
            ("queue_ms", 1, u64::MAX),
        ] {
            if dice.one_in(sides) {
                policy.push((field, least + dice.ms().min(most - least)));
            }
        }
        let native = dice.one_in(5);
        let resume = dice.pick(&[Resume::Off, Resume::Off, Resume::Continue, Resume::Continue, Resume::Verify]);
        let partial = dice.one_in(3);
        let internal = dice.one_in(2);
        let hedge = if dice.one_in(3) { Some(Hedge::draw(dice)) } else { None };
        let own_deadline_ms = if dice.one_in(8) { Some(1 + dice.ms()) } else { None };
        let asked_for = if internal { asked.inside() } else { asked };
        let targets = dice.at_least_one(3, |dice| Target::draw(dice, asked_for, speech.is_some()));
        let full = if dice.one_in(8) { Some(dice.pick(&["b", "a", "c", "d"])) } else { None };
        let client = if speech.is_some() && dice.one_in(2) { Vec::new() } else { dice.some(3, Habit::draw) };
        let takes_jobs = targets.iter().any(|target| target.endpoint == "d");
        let seed = dice.up_to(u64::MAX);
        let model = targets.iter().find(|target| target.endpoint == "d").and_then(|target| target.model);
        let said = speech.as_ref().map(|speech| speech.parts(asked_for, model.unwrap_or("m")));
        let queue = takes_jobs.then(|| Queue::draw(dice, asked_for, said));
        Self {
            gap_ms,
            client_place,
            asked,
            kib,
            policy,
            native,
            resume,
            partial,
            internal,
            hedge,
            own_deadline_ms,
            seed,
            speech,
            targets,
            full,
            queue,
            client,
        }
    }

    fn endpoints(&self) -> BTreeSet<&str> {
        self.targets.iter().map(|target| target.endpoint).collect()
    }

    fn upload_ms(&self) -> u64 {
        let uploads = |habit: &Habit| match habit {
            Habit::UploadsMs(ms) => Some(*ms),
            _ => None,
        };
        self.client.iter().rev().find_map(uploads).unwrap_or_default()
    }

    /// `shut`: whomever it could ask is left alone when it begins.
    fn run(&self, fleet: &Rc<RefCell<Fleet>>, case: &Case, begins_at: u64, shut: bool) -> Record {
        let mut policy: Value = self.policy.iter().map(|(field, value)| ((*field).to_owned(), json!(value))).collect();
        policy["forward"] = if self.native { "native" } else { "checked" }.into();
        let BudgetPolicy { capacity, transient_cost, throttled_cost, refund } = case.budget;
        policy["budget"] = json!({
            "capacity": capacity, "transient_cost": transient_cost, "throttled_cost": throttled_cost, "refund": refund,
        });
        policy["breaker"] = case.breaker.clone();
        policy["resume"] = match self.resume {
            Resume::Off => "off",
            Resume::Continue => "continue",
            Resume::Verify => "verify",
        }
        .into();
        policy["on_deadline"] = if self.partial { "partial" } else { "error" }.into();
        policy["stream_internally"] = self.internal.into();
        match self.hedge {
            None => {}
            Some(Hedge::After(ms, ratio)) => {
                policy["hedge_after_ms"] = ms.into();
                policy["hedge_ratio"] = ratio.into();
            }
            Some(Hedge::P95(ms, ratio)) => {
                policy["hedge_after_ms"] = "p95".into();
                policy["hedge_ratio"] = ratio.into();
                let mut fleet = fleet.borrow_mut();
                (0..80).for_each(|place| fleet.load(place % 4).on_awaited(START.after(begins_at), ms));
            }
        }
        let mut world = World::new().policy(policy).seed(self.seed).fleet(fleet).begins(begins_at);
        if let Some(place) = self.client_place {
            world = world.client(place);
        }
        for endpoint in self.endpoints() {
            world = case.room.into_iter().fold(world, |world, calls| world.room(endpoint, calls));
        }
        for Target { endpoint, model, continues, .. } in &self.targets {
            world = world.target(endpoint, *model);
            if let Some(queue) = self.queue.as_ref().filter(|_| *endpoint == "d") {
                world = world.jobs(queue.runpod());
                continue;
            }
            world = continues.iter().fold(world, |world, continues| world.continues_at(endpoint, *continues));
            let answers = self.targets.iter().filter(|target| target.endpoint == *endpoint);
            let answers = answers.flat_map(|target| &target.answers).cloned().collect();
            let mut speakers = Speakers::new(endpoint, self.speech.clone(), answers);
            world = world.answers(endpoint, Box::new(move |request| speakers.answer(request)));
        }
        for habit in &self.client {
            world = match *habit {
                Habit::TakesMs(ms) => world.takes(ms),
                Habit::TakesMsEvery(ms, pieces) => world.takes(ms).every(pieces),
                Habit::StartsAfterMs(ms) => world.starts_after(ms),
                Habit::LeavesAt(at) => world.leaves(at),
                Habit::BreaksAt(at) => world.breaks(begins_at + at),
                Habit::UploadsMs(ms) => world.uploads(ms),
                Habit::PieceByPiece => world.piece_by_piece(),
                Habit::EarlyTimers => world.early_timers(),
                Habit::CancelledAt(at) => world.cancelled(at),
            };
        }
        let mut wanted = match &self.speech {
            Some(speech) => speech.wanted(self.asked),
            None => self.asked.wanted(),
        };
        if self.kib > 0 && wanted.form.is_none() {
            wanted = wanted.with("padding", "x".repeat(self.kib << 10));
        }
        if let Some(ms) = self.own_deadline_ms {
            wanted = wanted.within(ms);
        }
        let leases = self.full.map(|name| Self::take_places(fleet, name, case.room.unwrap_or_default(), begins_at));
        // A call that was dropped may still have one of them, until its deadline.
        let taken = leases.as_ref().map_or(0, Vec::len);
        let full = self.full.filter(|_| taken > 0 && Some(taken) == case.room.map(|room| room as usize));
        let said = self.speech.clone().filter(|_| self.tells_one_text());
        let mut promises = Promises::new(fleet, &case.budget, said, full);
        let record = world.run_watched(wanted, &mut |state, record| {
            promises.check(state, record);
            if shut {
                doors::check_refused(state, record);
            }
        });
        for (endpoint, lease) in leases.into_iter().flatten() {
            fleet.borrow_mut().load(endpoint).leave(lease);
        }
        let cancelled = self.client.iter().any(|habit| matches!(habit, Habit::CancelledAt(_)));
        if cancelled {
            accounts::check_dropped(&record);
        } else {
            promises.check_end(&record);
            accounts::check(&record);
        }
        record
    }

    /// Others take all places of an endpoint, for as long as any call can last.
    fn take_places(fleet: &RefCell<Fleet>, name: &str, room: u32, begins_at: u64) -> Vec<(usize, Lease)> {
        let endpoint = ENDPOINTS.iter().position(|other| *other == name).expect("an endpoint");
        let (mut fleet, now) = (fleet.borrow_mut(), START.after(begins_at));
        let mut take = |_| fleet.load(endpoint).try_enter(now, now.after(10_000_000), Some(room), None);
        (0..room).filter_map(&mut take).map(|lease| (endpoint, lease)).collect()
    }

    /// Whether it is known from the models' texts what the client may read.
    fn tells_one_text(&self) -> bool {
        let whole = !self.asked.streams() && !self.internal;
        let known = |target: &Target| match target.endpoint {
            "d" => !whole,
            _ => target.answers.iter().all(Answer::is_faithful),
        };
        self.targets.iter().all(known)
    }

    /// The faults that stood ready.
    pub fn faults(&self) -> impl Iterator<Item = &'static str> {
        self.targets.iter().flat_map(|target| target.answers.iter().map(Answer::fault))
    }
}

impl Hedge {
    fn draw(dice: &mut Dice) -> Self {
        let ms = 1 + dice.ms();
        let ratio = dice.pick(&[1.0, 1.0, 0.5, 0.05]);
        if dice.one_in(3) { Self::P95(ms, ratio) } else { Self::After(ms, ratio) }
    }
}

impl Target {
    fn draw(dice: &mut Dice, asked: Asked, speaks: bool) -> Self {
        let endpoint =
            if speaks { dice.pick(&["a", "b", "c", "a", "b", "d"]) } else { dice.pick(&["a", "b", "c", "d", "d"]) };
        let names = [None, None, Some("served"), Some("other"), None, None];
        let model = dice.pick(if speaks { &names } else { &names[..4] });
        if endpoint == "d" {
            return Self { endpoint, model, continues: None, answers: Vec::new() };
        }
        let continues = dice.pick(&[None, None, None, Some(true), Some(true), Some(false)]);
        let answers = dice.at_least_one(4, |dice| Answer::draw(dice, asked, speaks));
        Self { endpoint, model, continues, answers }
    }
}

impl Habit {
    fn draw(dice: &mut Dice) -> Self {
        match dice.up_to(8) {
            0 => Self::PieceByPiece,
            1 => Self::TakesMs(dice.ms()),
            2 => Self::StartsAfterMs(dice.ms()),
            3 => Self::LeavesAt(dice.ms()),
            4 => Self::BreaksAt(dice.ms()),
            5 => Self::UploadsMs(dice.ms()),
            6 => Self::EarlyTimers,
            7 => Self::TakesMsEvery(dice.ms(), 2 + dice.index(6)),
            _ => Self::CancelledAt(dice.ms()),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BudgetPolicy { capacity, transient_cost, throttled_cost, refund } = self.budget;
        let costs = format!("{transient_cost}, throttled {throttled_cost}, refund {refund}");
        writeln!(f, "budget {capacity}, a repeat {costs}, breaker {}, room {:?}", self.breaker, self.room)?;
        for (number, call) in (1..).zip(&self.calls) {
            writeln!(f, "call {number}: {call}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, kib, policy, native, own_deadline_ms, client, targets, .. } = self;
        let policy: Vec<String> = policy.iter().map(|(field, value)| format!("{field} {value}")).collect();
        write!(f, "{asked:?}, {}", policy.join(", "))?;
        if self.gap_ms > 0 {
            write!(f, ", {} ms behind the one before", self.gap_ms)?;
        }
        if let Some(place) = self.client_place {
            write!(f, ", client {place}")?;
        }
        if *kib > 0 {
            write!(f, ", a prompt of {kib} KiB")?;
        }
        if *native {
            write!(f, ", forward native")?;
        }
        if self.resume != Resume::Off {
            write!(f, ", resume {:?}", self.resume)?;
        }
        for (_, name) in
            [(self.partial, "partial"), (self.internal, "streamed internally")].iter().filter(|flag| flag.0)
        {
            write!(f, ", {name}")?;
        }
        if let Some(hedge) = &self.hedge {
            write!(f, ", hedged {hedge:?}")?;
        }
        if let Some(full) = self.full {
            write!(f, ", {full} is full")?;
        }
        if let Some(ms) = own_deadline_ms {
            write!(f, ", the caller's own deadline {ms} ms")?;
        }
        if !client.is_empty() {
            write!(f, ", client and host {client:?}")?;
        }
        if let Some(queue) = &self.queue {
            write!(f, "\n  {queue}")?;
        }
        if let Some(speech) = &self.speech {
            write!(f, "\n  {speech}")?;
        }
        for Target { endpoint, model, continues, answers } in targets {
            write!(f, "\n  target {endpoint}")?;
            if let Some(continues) = continues {
                write!(f, " (continue {continues})")?;
            }
            if let Some(model) = model {
                write!(f, " for `{model}`")?;
            }
            for answer in answers {
                write!(f, "\n    {answer}")?;
            }
        }
        Ok(())
    }
}
