//! One run: requests arrive, isolates come and go.

use super::{
    counts::Counts,
    endpoint::{Endpoint, Mode, Nature},
    kv::{Dials, Kv, LOCATIONS},
    scenario::{Contestant, Scenario, WITHOUT_A},
    tasks::{Moment, Tasks},
    world::{Host, Isolate, World},
};
use fairlead_core::{
    api::Api,
    ask::Ask,
    call::{Call, Order},
    drive,
    message::Headers,
    policy::Policy,
    rng::Rng,
    settings::Model,
};
use std::rc::Rc;

/// What an isolate that takes no more calls still does ends after so long.
const LAST_MS: u64 = 30_000;

/// Breakers that are told of: one for each endpoint of the model.
const BREAKERS: usize = 2;

struct Run<'a> {
    scenario: &'a Scenario,
    contestant: Contestant,
    world: Rc<World>,
    tasks: Tasks,
    isolates: Vec<Rc<Isolate>>,
    born: u32,
    /// What arrives, where, and with what chance; the same for all contestants.
    arrivals: Rng,
    /// How long isolates live; the same for all contestants.
    lives: Rng,
    ask: Ask,
    model: Rc<Model>,
    without_a: Rc<Model>,
    policy: Rc<Policy>,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario, contestant: Contestant, seed: u64) -> Counts {
    run_with(scenario, contestant, seed, Dials::default())
}

/// Runs it on a store that behaves so.
pub fn run_with(scenario: &Scenario, contestant: Contestant, seed: u64, dials: Dials) -> Counts {
    let mut seeds = Rng::from_seed(seed);
    let mut draw = || seeds.next_u64();
    let endpoints = [Endpoint::new(scenario.a.clone()), Endpoint::new(Nature::Scheduled(Vec::new()))];
    let world = World::new(endpoints, Kv::new(dials, draw()), Counts::new(scenario.seconds), draw());
    let settings = scenario.settings(contestant);
    let (model, policy) = settings.plan(None, "m", None).expect("the model is in CONFIG");
    let (without_a, _) = settings.plan(None, WITHOUT_A, None).expect("and so is this");
    let body = br#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}"#;
    let ask = Ask::read(Api::Chat, &Headers::new(), Rc::from(&body[..])).expect("a request");
    let mut run = Run {
        scenario,
        contestant,
        world,
        tasks: Tasks::default(),
        isolates: Vec::new(),
        born: 0,
        arrivals: Rng::from_seed(draw()),
        lives: Rng::from_seed(draw()),
        ask,
        model,
        without_a,
        policy,
    };
    for place in 0..scenario.isolates {
        let isolate = run.bear(place);
        run.isolates.push(isolate);
    }
    run.await_arrival();
    run.world.add(0, Moment::Second);
    let end = scenario.seconds * 1000;
    while let Some(moment) = run.world.next(end) {
        run.on_moment(moment);
    }
    let mut counts = run.world.counts.take();
    let kv = run.world.kv.borrow();
    (counts.reads, counts.writes, counts.refused) = (kv.reads, kv.writes, kv.refused);
    counts
}

impl Run<'_> {
    fn on_moment(&mut self, moment: Moment) {
        match moment {
            Moment::Wake(task) => self.poll(task),
            Moment::Arrival => {
                self.on_arrival();
                self.await_arrival();
            }
            Moment::Renewal(place) => {
                let isolate = self.bear(place);
                let left = std::mem::replace(&mut self.isolates[place], isolate);
                self.world.counts.borrow_mut().on_leaving(&left);
                self.world.add(self.world.now() + LAST_MS, Moment::Kill(left.id));
            }
            Moment::Kill(isolate) => {
                let cut = self.tasks.kill(isolate);
                self.world.counts.borrow_mut().cut += cut;
            }
            Moment::Second => self.on_second(),
            Moment::FirstToken(number, job) => {
                self.world.with_endpoint(number, |endpoint| endpoint.on_first_token(&self.world, number, &job));
            }
            Moment::Finished(number) => {
                self.world.with_endpoint(number, |endpoint| endpoint.on_finished(&self.world, number));
            }
        }
    }

    fn on_second(&mut self) {
        let now = self.world.now();
        let mut counts = self.world.counts.borrow_mut();
        counts.on_second(now);
        if self.scenario.ill().is_some_and(|ill| ill.end == now) {
            counts.open_until = self.isolates.iter().filter_map(|isolate| isolate.view.borrow().open_until).max();
        }
        self.world.add(now + 1000, Moment::Second);
    }

    /// A new isolate, and when it leaves.
    fn bear(&mut self, place: usize) -> Rc<Isolate> {
        self.born += 1;
        let life = exponential(&mut self.lives, self.scenario.life_ms as f64);
        self.world.add(self.world.now() + life as u64, Moment::Renewal(place));
        let breakers = (self.contestant == Contestant::Fairlead).then_some(BREAKERS);
        Isolate::new(&self.world, self.born, place % LOCATIONS, breakers)
    }

    fn await_arrival(&mut self) {
        let mut from = self.world.now() as f64;
        loop {
            // Where the rate changes, nothing that came before counts.
            let (rate, until) = self.scenario.rate_at(from as u64);
            let at = from + exponential(&mut self.arrivals, 1000.0 / rate as f64);
            if at < until as f64 {
                // The clock counts whole milliseconds, of which the rest is given to chance.
                let whole = at as u64;
                let rest = ((at - at.floor()) * 1e6) as u64;
                let up = u64::from(self.arrivals.up_to(999_999) < rest);
                return self.world.add(whole + up, Moment::Arrival);
            }
            from = until as f64;
        }
    }

    fn on_arrival(&mut self) {
        let place = self.arrivals.up_to(self.isolates.len() as u64 - 1) as usize;
        let seed = self.arrivals.next_u64();
        let (world, isolate) = (Rc::clone(&self.world), Rc::clone(&self.isolates[place]));
        let arrived = world.now();
        world.counts.borrow_mut().on_call(arrived, &isolate);
        let knows_better = self.contestant == Contestant::Oracle && world.mode(0) != Mode::Well;
        let order = Order {
            ask: self.ask.clone(),
            model: Rc::clone(if knows_better { &self.without_a } else { &self.model }),
            policy: Rc::clone(&self.policy),
            arrived: world.instant(),
            request_id: "r".to_owned(),
            deadline_ms: None,
            client: None,
            seed,
        };
        let (id, fleet) = (isolate.id, Rc::clone(&isolate.fleet));
        let host = Host { world, isolate, arrived };
        let call = async move {
            let call = Call::new(host.world.instant(), order, fleet);
            if let Some(mut opened) = drive::open(host, call).await {
                while opened.body.next().await.is_some() {}
            }
        };
        let task = self.tasks.add(id, true, Box::pin(call));
        self.poll(task);
    }

    /// Polls a task, and those that begin because of it.
    fn poll(&mut self, task: super::tasks::TaskId) {
        self.world.begin(task);
        self.tasks.poll(task);
        while let Some((isolate, task)) = self.world.take_spawned() {
            let task = self.tasks.add(isolate, false, task);
            self.world.begin(task);
            self.tasks.poll(task);
        }
    }
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    // Never the logarithm of nothing.
    let share = (rng.next_u64() >> 11) as f64 + 1.0;
    -(share / (1u64 << 53) as f64).ln() * mean
}
