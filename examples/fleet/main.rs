//! Runs fleets of isolates in virtual time and prints what came of it, as `docs/fleet.md` shows.
//!
//! ```text
//! cargo run --release --example fleet                        prints the tables
//! cargo run --release --example fleet -- --write             writes docs/fleet.md and its pictures
//! cargo run --release --example fleet -- --quick             two seeds, and no whole day
//! cargo run --release --example fleet -- --only brown        the scenarios with this in their names
//! cargo run --release --example fleet -- --seeds 5           so many seeds
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a simulator may say what it expects in the shortest way"
)]

mod page;
mod plot;
mod report;
mod scenarios;
mod sim;

use sim::{
    counts::Counts,
    run::run,
    scenario::{Contestant, Scenario},
};
use std::{
    fs,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// How much is run.
#[derive(Clone, Default)]
pub struct Extent {
    /// Seeds of a main scenario; the others get a quarter of them,
    pub seeds: u64,
    /// and of a whole day.
    pub days: u64,
    /// Part of the names of the scenarios that are run.
    pub only: String,
}

fn main() -> ExitCode {
    let mut extent = Extent { seeds: 20, days: 1, only: String::new() };
    let mut writes = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => writes = true,
            "--quick" => (extent.seeds, extent.days) = (2, 0),
            "--only" => extent.only = arguments.next().unwrap_or_default(),
            "--seeds" => match arguments.next().and_then(|seeds| seeds.parse().ok()) {
                Some(seeds @ 1..) => extent.seeds = seeds,
                _ => return refuse("`--seeds` wants a number"),
            },
            other => return refuse(&format!("`{other}` is none of --write, --quick, --only, --seeds")),
        }
    }
    if writes && !extent.only.is_empty() {
        return refuse("what is written holds all scenarios: `--write` without `--only`");
    }
    let page = page::make(&extent);
    if !writes {
        println!("{}", page.text);
        return ExitCode::SUCCESS;
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let files = [("fleet.md", page.text), ("fleet-outage.svg", page.outage), ("fleet-metastable.svg", page.metastable)];
    for (name, text) in files {
        fs::write(format!("{root}/docs/{name}"), text).expect("the folder docs can be written to");
    }
    ExitCode::SUCCESS
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// Runs each contestant with each seed from 1 on, on all cores; for each contestant what each seed came to.
pub fn play(scenario: &Scenario, contestants: &[Contestant], seeds: u64) -> Vec<Vec<Counts>> {
    let jobs: Vec<(Contestant, u64)> =
        contestants.iter().flat_map(|contestant| (1..=seeds).map(|seed| (*contestant, seed))).collect();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Counts>>> = Mutex::new(vec![None; jobs.len()]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((number, (contestant, seed))) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(number).map(|job| (number, *job))
                } {
                    let counts = run(scenario, contestant, seed);
                    done.lock().expect("no run panics")[number] = Some(counts);
                }
            });
        }
    });
    eprintln!("{}: {} runs", scenario.name, jobs.len());
    let mut all = done.into_inner().expect("no run panics").into_iter().flatten();
    contestants.iter().map(|_| all.by_ref().take(seeds as usize).collect()).collect()
}
