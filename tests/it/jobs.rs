//! Jobs of a RunPod endpoint behind OpenAI's routes and behind the native ones, in virtual time.
//!
//! Each test is a world with the simulated endpoint `d` ([`crate::runpod`]); what must hold for
//! every job, whatever its test is about, stands in [`settled`].

mod ends;
mod faults;
mod followed;
mod gone;
mod native;
mod pace;
mod pass;
mod truth;

use crate::{
    record::Record,
    runpod::{Fault, Runpod, Work},
    wanted::chat,
    world::World,
};
use fairlead_core::event::Event;

/// A world whose only target takes jobs that come to this.
fn jobs(work: Work) -> World {
    World::new().jobs(Runpod::of(work))
}

/// A chat that streams from a job that comes to this.
fn run(work: Work) -> Record {
    settled(jobs(work).run(chat()))
}

/// A cancel is out at once. One that a worker does not hear yet, because it has only just taken the
/// job, is repeated when a look 700 ms later still shows the job at work.
const BILLED_BEHIND_MS: u64 = 1500;

/// A record whose jobs have all come to what they may come to: a final state by themselves, a
/// cancel soon behind the call, or, where nobody can know of them, an expiry within their `ttl`.
fn settled(record: Record) -> Record {
    for job in &record.runpod().jobs {
        let ended = job.ended.expect("every job ends");
        assert!(ended <= job.submitted + job.ttl_ms, "{} lives longer than its ttl", job.id);
        let known = record.runpod().visits.iter().any(|visit| visit.job.as_ref() == Some(&job.id));
        let until = job.billed_until().unwrap_or_default();
        let latest = record.ended_at + BILLED_BEHIND_MS;
        assert!(!known || until <= latest, "{} costs until {until}, the call ended at {}", job.id, record.ended_at);
    }
    record
}

/// Everything that may go wrong with an operation.
const FAULTS: [Fault; 14] = [
    Fault::Refused(429),
    Fault::Refused(500),
    Fault::Refused(503),
    Fault::DoneBut(500),
    Fault::DoneBut(524),
    Fault::Reset,
    Fault::DoneButReset,
    Fault::Stall,
    Fault::DoneButStall,
    Fault::Half,
    Fault::Malformed,
    Fault::Html,
    Fault::Late(3000),
    Fault::Torn(3000),
];

/// What the client read, without comments.
fn shown(record: &Record) -> String {
    let text = record.text();
    text.split_inclusive("\n\n").filter(|block| !block.starts_with(':')).collect()
}

/// The comments that the client got, and when.
fn comments(record: &Record) -> Vec<(u64, String)> {
    let pieces = record.pieces.iter().filter(|(_, bytes)| bytes.starts_with(b":"));
    pieces.map(|(at, bytes)| (*at, String::from_utf8_lossy(bytes).trim().to_owned())).collect()
}

/// The facts that were told of jobs, by their names.
fn told<'a>(record: &'a Record, name: &str) -> Vec<&'a Event> {
    let is = |event: &&Event| serde_json::to_value(event).is_ok_and(|event| event["event"] == name);
    record.events.iter().map(|(_, event)| event).filter(is).collect()
}

/// How each cancellation ended, and how many cancels that took.
fn cancelled(record: &Record) -> Vec<(&'static str, u32)> {
    let outcome = |event: &&Event| match event {
        Event::JobCancelled { outcome, cancels, .. } => (*outcome, *cancels),
        other => panic!("{other:?}"),
    };
    told(record, "job_cancelled").iter().map(outcome).collect()
}

/// The chat that a job streams, in the whole.
fn chat_of(record: &Record) -> String {
    record.runpod().jobs.last().expect("a job").text()
}
