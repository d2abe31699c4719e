//! The breaker: against a plain model of its rules by chance, and rule by rule. [`calls`] has what it does to whole
//! calls.

mod calls;
mod model;
mod rules;

use crate::{world::START, worlds};
use fairlead_core::{
    breaker::{Admission, Breaker, Change, Outcome, Pass, Record, Rules, Standing},
    policy::BreakerPolicy,
    rng::Rng,
    time::Instant,
};
use model::{Model, ModelPass, is_same};

/// With these seeds, a million calls.
const SEEDS: u64 = 5000;
const CALLS: u64 = 200;

/// Other seeds are run by `FAIRLEAD_SEEDS`, as in [`worlds`].
#[test]
fn a_million_calls_go_as_a_plain_model_of_the_rules_says() {
    let seeds = worlds::seeds(0..SEEDS);
    let count = seeds.end - seeds.start;
    let mut tally = Tally::default();
    seeds.for_each(|seed| Trial::new(seed).run(&mut tally));
    println!("{count} seeds: {tally:?}");
    if count >= SEEDS {
        // Chance is one only if it reaches everything.
        let Tally { calls, refused, probes, opened, one_client, closed, told, isolated, leased } = tally;
        assert!(calls >= 1_000_000, "{tally:?}");
        let all = [refused, probes, opened, one_client, closed, told, isolated, leased];
        assert!(all.iter().all(|count| *count >= 1000), "{tally:?}");
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    calls: u64,
    refused: u64,
    probes: u64,
    opened: u64,
    one_client: u64,
    closed: u64,
    told: u64,
    isolated: u64,
    leased: u64,
}

/// A breaker and its model, to which the same happens.
struct Trial {
    seed: u64,
    step: u64,
    dice: Rng,
    now: Instant,
    policy: BreakerPolicy,
    alone: bool,
    clients: u64,
    breaker: Breaker,
    model: Model,
    /// The same chance for both.
    chance: (Rng, Rng),
    under_way: Vec<(Pass, ModelPass)>,
    /// Records that were snapshots of this breaker, or of others.
    records: Vec<Record>,
    /// Of a hundred calls so many fail, and so many are served slowly.
    failing: u64,
    slow: u64,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut dice = Rng::from_seed(seed);
        let open_ms = pick(&mut dice, &[1, 7, 1000, 5000, 15_000, 15_000]);
        let policy = BreakerPolicy {
            failure_ppm: pick(&mut dice, &[1, 100_000, 333_334, 500_000, 500_000, 1_000_000]) as u32,
            min_calls: pick(&mut dice, &[1, 2, 8, 8, 40]) as u32,
            window_ms: pick(&mut dice, &[1, 9, 1000, 10_007, 120_000, 120_000, 3_600_000]),
            consecutive: pick(&mut dice, &[1, 2, 5, 5, 50]) as u32,
            open_ms,
            max_open_ms: open_ms * pick(&mut dice, &[1, 3, 4, 4, 1000]),
            probe_ppm: pick(&mut dice, &[1, 10_000, 10_000, 300_000, 1_000_000]) as u32,
            slow_first_token_ms: Some(500).filter(|_| dice.up_to(2) == 0),
        };
        let chance = Rng::from_seed(dice.next_u64());
        let mut trial = Self {
            seed,
            step: 0,
            now: START.after(dice.up_to(1 << 40)),
            policy,
            alone: dice.up_to(3) == 0,
            clients: dice.up_to(3),
            breaker: Breaker::default(),
            model: Model::default(),
            chance: (chance.clone(), chance),
            under_way: Vec::new(),
            records: Vec::new(),
            failing: 0,
            slow: 0,
            dice,
        };
        let elects = trial.dice.up_to(3) == 0;
        trial.elect(elects);
        trial
    }

    fn run(&mut self, tally: &mut Tally) {
        let mut calls = 0;
        while calls < CALLS {
            self.step += 1;
            if self.dice.up_to(40) == 0 {
                self.failing = pick(&mut self.dice, &[0, 10, 50, 90, 100, 100]);
                self.slow = pick(&mut self.dice, &[0, 0, 20, 100]);
            }
            let longest = pick(&mut self.dice, &[0, 0, 50, 50, 2000, 2000, 20_000, 100_000]);
            let longest = if self.dice.up_to(150) == 0 { 20_000_000 } else { longest };
            self.now = self.now.after(self.dice.up_to(longest));
            match self.dice.up_to(99) {
                0..50 => {
                    calls += 1;
                    self.admit(tally);
                }
                50..85 if !self.under_way.is_empty() => self.end(tally),
                // It never ends.
                85 if !self.under_way.is_empty() => drop(self.draw_call()),
                86..90 => self.restore(tally),
                90 | 91 => self.tell(),
                92 => {
                    self.breaker.on_company(self.now);
                    self.model.on_company(self.now);
                }
                93 => {
                    let isolated = self.dice.up_to(2) == 0;
                    let change = self.breaker.command(self.now, isolated);
                    assert_eq!(change, self.model.command(self.now, isolated), "{}", self.place());
                    tally.isolated += u64::from(matches!(change, Some(Change::Opened { .. })));
                }
                94 if self.dice.up_to(9) == 0 => {
                    let elects = self.dice.up_to(1) == 0;
                    self.elect(elects);
                }
                95 if !self.under_way.is_empty() => {
                    let last = self.under_way.len() as u64 - 1;
                    let (pass, own) = self.under_way[self.dice.up_to(last) as usize];
                    self.breaker.on_sign_of_life(pass);
                    self.model.on_sign_of_life(self.now, own);
                }
                96..99 if self.model.elects => self.lease(tally),
                _ => {}
            }
            self.compare();
        }
    }

    fn place(&self) -> String {
        format!(
            "seed {}, step {}: {:?}, alone {}. Again: FAIRLEAD_SEEDS={} cargo test -p fairlead-core --test it million",
            self.seed, self.step, self.policy, self.alone, self.seed
        )
    }

    fn elect(&mut self, elects: bool) {
        self.breaker.elects(elects);
        self.model.elects = elects;
    }

    fn admit(&mut self, tally: &mut Tally) {
        tally.calls += 1;
        let client = self.dice.up_to(self.clients).checked_sub(1).map(|client| client as usize);
        let half_open = self.breaker.view(self.now, &self.policy).state == "half_open";
        let rules = Rules { policy: &self.policy, alone: self.alone };
        let admission = self.breaker.admit(self.now, rules, client, &mut self.chance.0);
        let expected = self.model.admit(self.now, rules, client, &mut self.chance.1);
        assert!(is_same(expected, admission), "{admission:?}, not {expected:?}: {}", self.place());
        if let (Admission::Admitted(pass), Some(own)) = (admission, expected.0) {
            tally.probes += u64::from(half_open);
            self.under_way.push((pass, own));
        } else {
            tally.refused += 1;
        }
    }

    fn draw_call(&mut self) -> (Pass, ModelPass) {
        // Mostly one of the last.
        let most = self.under_way.len() as u64 - 1;
        let back = self.dice.up_to(most.min(3));
        let back = if self.dice.up_to(3) == 0 { self.dice.up_to(most) } else { back };
        self.under_way.swap_remove((most - back) as usize)
    }

    fn end(&mut self, tally: &mut Tally) {
        let (pass, own) = self.draw_call();
        let outcome = if self.dice.up_to(9) == 0 {
            Outcome::Neutral
        } else if self.dice.up_to(99) < self.failing {
            Outcome::Failed(["unreachable", "http_500"][self.dice.up_to(1) as usize].to_owned())
        } else if self.dice.up_to(3) == 0 {
            Outcome::Served { first_content_ms: None }
        } else {
            let slow = self.dice.up_to(99) < self.slow;
            Outcome::Served { first_content_ms: Some(if slow { 501 } else { 500 }) }
        };
        let rules = Rules { policy: &self.policy, alone: self.alone };
        let expected = self.model.on_end(self.now, rules, own, &outcome, &mut self.chance.1);
        let change = self.breaker.on_end(self.now, rules, pass, outcome, &mut self.chance.0);
        assert_eq!(change, expected, "{}", self.place());
        match change {
            Some(Change::Opened { one_client, .. }) => {
                tally.opened += 1;
                tally.one_client += u64::from(one_client);
            }
            Some(Change::Closed { .. }) => tally.closed += 1,
            None => {}
        }
    }

    fn restore(&mut self, tally: &mut Tally) {
        let record = match self.dice.up_to(3) {
            // One that was seen before, or was this breaker's own.
            0 if !self.records.is_empty() => {
                let last = self.records.len() as u64 - 1;
                self.records[self.dice.up_to(last) as usize].clone()
            }
            _ => self.others(),
        };
        let rules = Rules { policy: &self.policy, alone: self.alone };
        let change = self.breaker.restore(self.now, rules, &record, &mut self.chance.0);
        let expected = self.model.restore(self.now, rules, &record, &mut self.chance.1);
        assert_eq!(change, expected, "{record:?} at {:?}: {}", self.now, self.place());
        tally.told += u64::from(change.is_some());
        let agrees = self.breaker.agrees(self.now, &record);
        assert_eq!(agrees, self.model.agrees(self.now, &record), "{record:?} at {:?}: {}", self.now, self.place());
        self.records.push(record);
    }

    /// What another isolate may have written, by a clock that is ahead or behind.
    fn others(&mut self) -> Record {
        let dice = &mut self.dice;
        let now = self.now.as_millis();
        let off = pick(dice, &[0, 100, 20_000, 20_000, 90_000, 10_000_000]);
        let off = dice.up_to(off);
        let at_ms = if dice.up_to(9) == 0 { now + off } else { now - off };
        let length = pick(dice, &[0, self.policy.open_ms, self.policy.max_open_ms, 10_000_000]);
        let length = length - dice.up_to(length / 4);
        Record {
            epoch: self.breaker.view(self.now, &self.policy).epoch + dice.up_to(2),
            state: [Standing::Open, Standing::Open, Standing::Closed, Standing::Isolated][dice.up_to(3) as usize],
            open_until_ms: if dice.up_to(9) == 0 { dice.up_to(now * 2) } else { at_ms + length },
            reason: "told by others".to_owned(),
            at_ms,
            day: 0,
            writes: 0,
        }
    }

    /// The breaker's own record is written, which may take its time.
    fn tell(&mut self) {
        let record = self.breaker.snapshot();
        let told = self.records.contains(&record);
        if self.dice.up_to(1) == 0 || told {
            let record = self.records.iter().rev().find(|record| record.reason != "told by others").unwrap_or(&record);
            self.breaker.on_told(record);
            self.model.on_told(self.now, record);
        } else {
            self.records.push(record);
        }
    }

    fn lease(&mut self, tally: &mut Tally) {
        if self.breaker.asks_for_lease(self.now) || self.dice.up_to(9) == 0 {
            self.breaker.on_lease_asked(self.now);
            self.model.on_lease_asked(self.now);
        }
        if self.dice.up_to(1) == 0 {
            tally.leased += 1;
            let until = self.now.after(10_000);
            self.breaker.grant(until);
            self.model.grant(self.now, until);
        }
    }

    fn compare(&self) {
        let theirs = self.breaker.view(self.now, &self.policy);
        let ours = self.model.sight(self.now, &self.policy);
        let until = theirs.until.map(Instant::as_millis);
        let seen = (theirs.state, until, theirs.one_client, theirs.reason, theirs.epoch + 1);
        assert_eq!(
            seen,
            (ours.state, ours.until, ours.one_client, &*ours.reason, ours.snapshot.epoch),
            "{}",
            self.place()
        );
        let counted = (theirs.calls, theirs.failures, theirs.in_a_row);
        assert_eq!(counted, (ours.calls, ours.failures, ours.in_a_row), "{}", self.place());
        assert_eq!(self.breaker.snapshot(), ours.snapshot, "{}", self.place());
        assert_eq!(self.breaker.is_calm(self.now), ours.calm, "{}", self.place());
        assert_eq!(self.breaker.asks_for_lease(self.now), ours.asks_for_lease, "{}", self.place());
        let (mut one, mut other) = self.chance.clone();
        assert_eq!(one.next_u64(), other.next_u64(), "as much chance for both: {}", self.place());
    }
}

fn pick(dice: &mut Rng, among: &[u64]) -> u64 {
    among[dice.up_to(among.len() as u64 - 1) as usize]
}
