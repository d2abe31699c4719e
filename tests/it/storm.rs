//! Thousands of random calls: endpoints that do anything at any time, clients that come and go.
//! What each call comes to is left to chance; `Record::check` holds every one to its promises.

use crate::{
    captures::{Capture, capture},
    record::Record,
    script::*,
    wanted::*,
    world::World,
};
use fairlead_core::{fleet::Fleet, rng::Rng};
use serde_json::json;
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

struct Dice(Rng);

impl Dice {
    /// From 0 to `most`, both included.
    fn up_to(&mut self, most: u64) -> u64 {
        self.0.up_to(most)
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.up_to(sides - 1) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.up_to(from.len() as u64 - 1) as usize]
    }

    /// A body in random pieces at random times, sometimes damaged, sometimes not to its end.
    fn body(&mut self, bytes: &[u8]) -> Script {
        let mut bytes = bytes.to_vec();
        if self.one_in(4) {
            let place = self.up_to(bytes.len() as u64 - 1) as usize;
            bytes[place] = self.up_to(255) as u8;
        }
        if self.one_in(3) {
            bytes.truncate(self.up_to(bytes.len() as u64) as usize);
        }
        let mut places: Vec<usize> = (0..self.up_to(8)).map(|_| self.up_to(bytes.len() as u64) as usize).collect();
        places.sort_unstable();
        let mut script = Script::new();
        for step in cut_at(&bytes, places) {
            if self.one_in(3) {
                let ms = 10u64.pow(self.up_to(4) as u32);
                script.extend(wait(self.up_to(ms)));
            }
            script.push(step);
        }
        script
    }

    fn ending(&mut self) -> Script {
        match self.up_to(5) {
            0 => reset(),
            1 => vec![],
            2 => for_ever(1 + self.up_to(3000), ": keep-alive\n\n"),
            3 => for_ever(1 + self.up_to(3000), empty_delta(10)),
            _ => end(),
        }
    }

    fn refusal(&mut self) -> Script {
        let status = *self.pick(&[302, 400, 401, 404, 408, 422, 429, 429, 500, 500, 501, 502, 503, 503, 504, 529]);
        let fields = match self.up_to(4) {
            0 => vec![("retry-after", "3")],
            1 => vec![("retry-after", "400")],
            2 => vec![("x-should-retry", *self.pick(&["true", "false"]))],
            _ => vec![],
        };
        let context = capture("error_400_context").body();
        let head = head(status, &fields);
        [head, self.body(context), self.ending()].concat()
    }

    /// What an endpoint does with one request.
    fn script(&mut self, captures: &[&Capture]) -> Script {
        let begins = if self.one_in(4) { wait(self.up_to(20_000)) } else { vec![] };
        let rest = match self.up_to(9) {
            0 => reset(),
            1 => vec![],
            2 | 3 => self.refusal(),
            _ => {
                let capture = *self.pick(captures);
                [capture.opened(), self.body(capture.body()), self.ending()].concat()
            }
        };
        [begins, rest].concat()
    }

    fn call(&mut self, fleet: &Rc<RefCell<Fleet>>) -> Record {
        let killed = capture("chat_stream_engine_killed");
        let (wanted, captures) = match self.up_to(5) {
            0 => (chat_whole(), vec![capture("chat")]),
            1 => (messages(), vec![capture("messages_stream")]),
            2 => (responses(), vec![capture("responses_stream")]),
            3 => (completions(), vec![capture("completions_stream")]),
            4 => (chat().with("n", 2), vec![capture("chat_stream_n2"), capture("chat_stream")]),
            _ => (chat(), vec![capture("chat_stream"), capture("chat_stream_tool"), capture("chat"), killed]),
        };
        let policy = json!({
            "deadline_ms": 1 + self.up_to(60_000), "headers_ms": 1 + self.up_to(8000),
            "first_token_ms": 1 + self.up_to(8000), "idle_ms": 1 + self.up_to(8000),
            "progress_ms": 1 + self.up_to(8000), "keepalive_ms": 100 + self.up_to(5000),
            "commit_after_ms": self.up_to(10_000), "max_attempts": 1 + self.up_to(6),
            "retry_after_max_ms": self.up_to(10_000),
        });
        let mut world = World::new().policy(policy).seed(self.up_to(u64::MAX)).fleet(fleet);
        for name in &["a", "b", "c"][..=self.up_to(2) as usize] {
            let scripts: Vec<Script> = (0..7).map(|_| self.script(&captures)).collect();
            world = world.endpoint(name, scripts);
        }
        match self.up_to(9) {
            0 => world = world.leaves(self.up_to(30_000)),
            1 => world = world.breaks(self.up_to(30_000)),
            2 | 3 => world = world.takes(self.up_to(3000)),
            4 => world = world.early_timers(),
            _ => {}
        }
        if self.one_in(2) {
            world = world.piece_by_piece();
        }
        world.run(wanted)
    }
}

#[test]
fn whatever_happens_every_call_keeps_its_promises() {
    let fleet = Rc::default();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..10_000 {
        let record = Dice(Rng::from_seed(seed)).call(&fleet);
        *outcomes.entry(record.outcome().to_owned()).or_default() += 1;
    }
    // The storm is one only if it reaches everything.
    for outcome in [
        "ok",
        "client_gone",
        "deadline_exceeded",
        "stream_interrupted",
        "upstream_timeout",
        "upstream_unreachable",
        "upstream_invalid",
        "upstream_overloaded",
        "upstream_rejected_key",
        "upstream_404",
    ] {
        assert!(outcomes.get(outcome).is_some_and(|count| *count >= 10), "{outcome} in {outcomes:?}");
    }
}
