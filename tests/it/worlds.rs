//! Random worlds: endpoints that do anything at any time, clients that come and go. What each call
//! comes to is left to chance; [`promises`] holds every one to its promises whenever its clock is
//! about to go on, and `Record::check` at its end.
//!
//! One seed is one world. `cargo test` runs the seeds 0 to 50,000; others are run by
//!
//! ```sh
//! FAIRLEAD_SEEDS=50000..1050000 cargo test -p fairlead-core --test it worlds -- --nocapture
//! FAIRLEAD_SEEDS=1234 cargo test -p fairlead-core --test it worlds -- --nocapture
//! ```
//!
//! The second shows that one world. A seed that fails is named with this command, and its world is
//! shrunk to a small one that fails at the same place.

mod accounts;
mod answers;
mod choices;
mod doors;
mod generate;
mod ledger;
mod plain;
mod promises;
mod queues;
mod speakers;
mod speech;
mod spliced;
mod upstream;

use crate::record::Record;
use choices::{Dice, shrink};
use fairlead_core::{config::Resume, event::Event};
use generate::{Call, Case};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use upstream::FAULTS;

/// How often each outcome, failure and fault came.
type Tally = BTreeMap<String, u64>;

/// Why a world fails: where, and in which words.
#[derive(Clone, Debug)]
struct Broken {
    place: String,
    words: String,
}

#[test]
fn whatever_happens_every_call_keeps_its_promises() {
    let seeds = seeds(0..50_000);
    let count = seeds.end - seeds.start;
    if count == 1 {
        println!("{}", Case::draw(&mut Dice::of_seed(seeds.start)));
    }
    let tally = run(seeds).unwrap_or_else(|(seed, broken)| panic!("{}", report(seed, &broken)));
    println!("{count} worlds: {tally:?}");
    if count < 50_000 {
        return;
    }
    // Chance is one only if it reaches everything.
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
        "job_failed",
        "job_timed_out",
        "job_cancelled",
        "job_expired",
        "cancelled",
        "circuit_open",
        "breaker opened",
        "breaker closed",
        "offline",
        "cors",
        "native ok",
        "native client_gone",
        "native deadline_exceeded",
        "native stream_interrupted",
        "native upstream_timeout",
        "resumed by continue",
        "resumed by verify",
        "anew",
        "differs",
        "partial",
        "hedge won",
        "hedge lost",
        "interrupted with resume on",
    ] {
        assert!(tally.get(outcome).is_some_and(|count| *count >= 10), "{outcome} in {tally:?}");
    }
}

/// Shrinking is shown by promises that are none.
#[test]
fn a_world_that_breaks_a_promise_shrinks_to_its_reason() {
    fn smallest_that(breaks: fn(&Record) -> bool) -> Case {
        let see = |_: &Call, record: &Record| assert!(!breaks(record), "not a promise");
        let mut worlds = (0..).map(|seed| (seed, run_one(&mut Dice::of_seed(seed), see)));
        let (seed, broken) = worlds.find_map(|(seed, outcome)| Some((seed, outcome.err()?))).expect("a seed");
        Case::draw(&mut Dice::of_list(smallest(seed, &broken, see)))
    }
    // Without a job, of which there is more to say than one answer.
    for breaks in [
        |record: &Record| record.runpod.is_none() && record.attempts() > 1,
        |record: &Record| record.runpod.is_none() && !record.keepalives().is_empty(),
    ] {
        let small = smallest_that(breaks).to_string();
        // What its models would say is told where anybody asks them.
        let lines: Vec<&str> = small.lines().skip(1).filter(|line| !line.starts_with("  speech ")).collect();
        let [call, target, answer] = &*lines else { panic!("more than one answer:\n{small}") };
        assert!(call.starts_with("call 1: ") && call.matches(", ").count() <= 3, "{call}");
        assert_eq!(*target, "  target a");
        assert!(answer.len() < 400, "{answer}");
    }
}

#[test]
fn every_fault_of_the_simulated_server_is_part_of_the_worlds() {
    let readme = include_str!("../upstream/README.md");
    let (_, table) = readme.split_once("## The faults").expect("the list of faults");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: Vec<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(listed, FAULTS);
}

/// Which seeds to run: `FAIRLEAD_SEEDS`, or those of every day.
pub fn seeds(every_day: Range<u64>) -> Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "the core reads no environment, but its tests are told by it")]
    let Ok(wanted) = std::env::var("FAIRLEAD_SEEDS") else { return every_day };
    let number = |text: &str| text.parse::<u64>().expect("FAIRLEAD_SEEDS is a seed, or FIRST..END");
    match wanted.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&wanted)..number(&wanted) + 1,
    }
}

/// Runs these worlds on all cores; the first seed that fails, if one does.
fn run(seeds: Range<u64>) -> Result<Tally, (u64, Broken)> {
    let (next, first_broken) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let work = || {
        let mut tally = Tally::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first_broken.load(Ordering::Relaxed) {
                return (tally, None);
            }
            let count = |call: &Call, record: &Record| {
                let outcome = if record.is_over() { record.outcome() } else { "cancelled" };
                let native =
                    record.piped.iter().filter(|pieces| !pieces.is_empty()).map(|_| format!("native {outcome}"));
                let faults = call.faults().map(|fault| format!("fault {fault}"));
                let barriers = record.events.iter().filter_map(|(_, event)| match event {
                    Event::AttemptFailed { reason, .. } if matches!(&**reason, "offline" | "cors") => {
                        Some(reason.clone())
                    }
                    _ => None,
                });
                let told = record.events.iter().filter_map(|(_, event)| match event {
                    Event::BreakerOpened { .. } => Some("breaker opened".to_owned()),
                    Event::BreakerClosed { .. } => Some("breaker closed".to_owned()),
                    Event::StreamResumed { way, .. } => Some(format!("resumed by {way}")),
                    Event::ResumeStarted { way: "anew", .. } => Some("anew".to_owned()),
                    Event::AttemptFailed { reason, .. } if reason == "differs" => Some(reason.clone()),
                    _ => None,
                });
                let interrupted = outcome == "stream_interrupted" && record.policy.resume != Resume::Off;
                let interrupted = interrupted.then(|| "interrupted with resume on".to_owned());
                let outcomes = [outcome.to_owned()].into_iter().chain(interrupted).chain(race(record));
                for name in faults.chain(native).chain(barriers).chain(told).chain(outcomes) {
                    *tally.entry(name).or_default() += 1;
                }
            };
            if let Err(broken) = run_one(&mut Dice::of_seed(seed), count) {
                first_broken.fetch_min(seed, Ordering::Relaxed);
                return (tally, Some((seed, broken)));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that catches")).collect()
    });
    let mut all = Tally::new();
    let mut worst: Option<(u64, Broken)> = None;
    for (tally, broken) in outcomes {
        tally.into_iter().for_each(|(name, count)| *all.entry(name).or_default() += count);
        worst = worst.into_iter().chain(broken).min_by_key(|(seed, _)| *seed);
    }
    worst.map_or(Ok(all), Err)
}

/// Who was first, a hedge or the attempt beside which it was made, in a call that goes on behind no break.
fn race(record: &Record) -> Option<String> {
    let hedge = record.events.iter().find_map(|(_, event)| match event {
        Event::HedgeStarted { endpoint, .. } => Some(endpoint),
        _ => None,
    });
    let resumed = record.events.iter().any(|(_, event)| matches!(event, Event::ResumeStarted { .. }));
    let first = record.events.iter().find_map(|(_, event)| match event {
        Event::CallEnded { endpoint, first_content_ms: Some(_), .. } => endpoint.as_ref(),
        _ => None,
    });
    let (hedge, first) = hedge.zip(first.filter(|_| !resumed))?;
    Some(if hedge == first { "hedge won" } else { "hedge lost" }.to_owned())
}

/// Runs one world, and shows what each of its calls did.
fn run_one(dice: &mut Dice, mut see: impl FnMut(&Call, &Record)) -> Result<(), Broken> {
    quietly(|| {
        let case = Case::draw(dice);
        case.calls.iter().zip(case.run()).for_each(|(call, record)| see(call, &record));
    })
}

thread_local! {
    /// The latest panic of this thread, while panics are only taken note of.
    static CAUGHT: RefCell<Option<Option<Broken>>> = const { RefCell::new(None) };
}

/// Runs something that may panic, without a word on the screen.
fn quietly(run: impl FnOnce()) -> Result<(), Broken> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let words = info.payload_as_str().unwrap_or_default().to_owned();
            CAUGHT.with_borrow_mut(|caught| match caught {
                Some(caught) => *caught = Some(Broken { place, words }),
                None => loud(info),
            });
        }));
    });
    CAUGHT.set(Some(None));
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    let broken = CAUGHT.take().flatten();
    outcome.map_err(|_| broken.expect("the hook has seen it"))
}

/// A small world that fails at the same place as that of this seed.
fn smallest(seed: u64, broken: &Broken, see: impl Fn(&Call, &Record)) -> Vec<u64> {
    let mut dice = Dice::of_seed(seed);
    drop(run_one(&mut dice, &see));
    let fails = |choices| {
        let mut dice = Dice::of_list(choices);
        let found = run_one(&mut dice, &see);
        found.is_err_and(|found| found.place == broken.place).then(|| dice.drawn())
    };
    shrink(dice.drawn(), fails).choices
}

/// What there is to say about a seed that fails.
fn report(seed: u64, broken: &Broken) -> String {
    let small = smallest(seed, broken, |_, _| ());
    let again = run_one(&mut Dice::of_list(small.clone()), |_, _| ()).expect_err("it failed a moment ago");
    let Broken { place, words } = broken;
    format!(
        "seed {seed} breaks a promise at {place}: {words}\n\
         A small world that does so too ({} choices): {}\n{}\
         Again: FAIRLEAD_SEEDS={seed} cargo test -p fairlead-core --test it worlds -- --nocapture",
        small.len(),
        again.words,
        Case::draw(&mut Dice::of_list(small.clone())),
    )
}
