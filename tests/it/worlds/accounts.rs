//! What must hold for every job of every call, judged by the simulated endpoint's own books once all
//! is over.
//!
//! The bound on what a job costs behind its call: a cancel goes out at once. One that comes within
//! 100 ms of the worker's taking the job is lost, and repeated when the look 700 ms behind it shows
//! that; a job whose submission is under way is cancelled when its id has come. So a worker is at it
//! no longer than [`behind_ms`] after its attempt was given up, unless its endpoint fails its
//! cancels, looks or submissions again and again, the call's fetches are spent, or the worker does
//! not heed cancels: then its `ttl` bounds it, which never lies behind the call's deadline, but 10 s
//! behind the submission at the least, as RunPod wants it.

use super::plain::{Meaning, Plain};
use crate::{
    record::Record,
    runpod::{Act, Fault, Job, Runpod, Stops, text_of},
};
use fairlead_core::{event::Event, jobs::Op};
use std::collections::BTreeMap;

/// RunPod's smallest `ttl`.
const LEAST_TTL_MS: u64 = 10_000;

/// The books of a call that came to its end.
pub fn check(record: &Record) {
    let Some(books) = &record.runpod else { return };
    let runpod = &books.0;
    check_lives(record, runpod);
    check_submissions(record, runpod);
    check_costs(record, runpod);
    check_truth(record, runpod);
}

/// Those of one that its host has dropped: nothing is known but the submissions' own bounds.
pub fn check_dropped(record: &Record) {
    let Some(books) = &record.runpod else { return };
    check_lives(record, &books.0);
    check_submissions(record, &books.0);
}

/// Every job ends, and nobody can forget it for longer than its caller's deadline.
fn check_lives(record: &Record, runpod: &Runpod) {
    for job in &runpod.jobs {
        let ended = job.ended.expect("every job ends");
        let latest = record.deadline_ms.max(job.submitted + LEAST_TTL_MS);
        assert!(ended <= latest, "{} lives until {ended}, its call until {}", job.id, record.deadline_ms);
    }
}

/// What was lost in submitting.
const fn is_lost(fault: Option<Fault>) -> bool {
    !matches!(fault, None | Some(Fault::Refused(400..=499 | 503) | Fault::Late(_) | Fault::Torn(_) | Fault::WrongId))
}

/// Only an attempt submits, and it does so once.
fn check_submissions(record: &Record, runpod: &Runpod) {
    let mut by_attempt: BTreeMap<u32, u32> = BTreeMap::new();
    for sent in record.requests.iter().filter(|sent| sent.is_of_job() && sent.request.url.contains("/run")) {
        *by_attempt.entry(sent.attempt()).or_default() += 1;
    }
    assert!(by_attempt.values().all(|count| *count == 1), "an attempt submits twice: {by_attempt:?}");
    let submissions = runpod.visits.iter().filter(|visit| visit.op == Op::Submit);
    let lost = submissions.filter(|visit| is_lost(visit.fault)).count();
    assert!(lost <= 2, "{lost} submissions were lost");
    let lost_by_fact =
        |event: &Event| matches!(event, Event::AttemptFailed { reason, .. } if reason == "submission_lost");
    let told = record.events.iter().filter(|(_, event)| lost_by_fact(event)).count();
    assert!(told <= lost, "{told} submissions are told to be lost, {lost} were: a poll that fails starts nothing");
    let made = record.requests.iter().filter(|sent| sent.is_of_job()).count();
    assert!(made <= runpod.max_subrequests as usize, "{made} fetches of {}", runpod.max_subrequests);
}

/// How long a worker may be at a job behind its attempt, where nothing stands in the way.
const fn behind_ms(runpod: &Runpod) -> u64 {
    900 + 5 * (runpod.there_ms + runpod.back_ms)
}

fn check_costs(record: &Record, runpod: &Runpod) {
    let disturbed = runpod.upsets.iter().any(|upset| matches!(upset.op, Op::Cancel | Op::Status | Op::Submit));
    let made = record.requests.iter().filter(|sent| sent.is_of_job()).count();
    let spent = made + 12 > runpod.max_subrequests as usize;
    if disturbed || spent {
        return;
    }
    let submitted: Vec<u32> = record
        .requests
        .iter()
        .filter(|sent| sent.is_of_job() && sent.request.url.contains("/run"))
        .map(crate::record::Sent::attempt)
        .collect();
    for (job, attempt) in runpod.jobs.iter().zip(submitted) {
        let Some(until) = job.billed_until().filter(|_| job.work.stops != Stops::Never) else { continue };
        let over = over_at(record, attempt);
        // A job that was queued again may be taken a second time as its cancel comes.
        let takes = job.runs.len() as u64;
        let most = over + takes * behind_ms(runpod);
        assert!(until <= most, "{} costs until {until}, given up at {over}", job.id);
    }
}

/// When an attempt was given up, by its own fact or the call's.
fn over_at(record: &Record, attempt: u32) -> u64 {
    let failed = record.events.iter().find_map(|(at, event)| match event {
        Event::AttemptFailed { attempt: other, .. } if *other == attempt => Some(*at),
        _ => None,
    });
    failed.into_iter().chain(ended_at(record)).chain(lost_at(record)).min().expect("an end")
}

/// When a job has lost against another attempt, in a call that nobody broke later.
fn lost_at(record: &Record) -> Option<u64> {
    let hedged = record.events.iter().any(|(_, event)| matches!(event, Event::HedgeStarted { .. }));
    let resumed = record.events.iter().any(|(_, event)| matches!(event, Event::ResumeStarted { .. }));
    record.events.iter().find_map(|(_, event)| match event {
        Event::CallEnded { endpoint, first_content_ms, .. }
            if hedged && !resumed && endpoint.as_deref() != Some("d") =>
        {
            first_content_ms.map(|ms| record.begins_at + ms)
        }
        _ => None,
    })
}

/// When the call was over for its machine, whatever its client still had to take.
fn ended_at(record: &Record) -> Option<u64> {
    record.events.iter().find_map(|(_, event)| match event {
        Event::CallEnded { total_ms, .. } => Some(record.begins_at + total_ms),
        _ => None,
    })
}

/// A stream that is whole is what its job has put out; one that is not is the beginning of it.
fn check_truth(record: &Record, runpod: &Runpod) {
    // Whoever has answered, and nobody before it: what goes on behind another is judged by its text.
    let last = record.events.iter().rev().find_map(|(_, event)| match event {
        Event::CallEnded { endpoint, .. } => endpoint.as_deref(),
        _ => None,
    });
    if record.events.iter().any(|(_, event)| matches!(event, Event::ResumeStarted { .. })) {
        return;
    }
    let streams = record.ask.stream && record.head.as_ref().is_some_and(|head| head.status == 200);
    let Some(job) = runpod.jobs.last().filter(|_| last == Some("d") && streams) else { return };
    let shown = events(record, &shown(record));
    let ok = record.outcome() == "ok" && !record.untaken && !record.gone;
    let texts = job.earlier.iter().map(|outputs| text_of(outputs)).chain([job.text()]);
    let Some(texts) = texts.map(|text| events(record, &text)).collect::<Option<Vec<_>>>() else { return };
    let Some(mut shown) = shown else { return };
    // Ends that the core has put in.
    shown.retain(|event| {
        !event.contains(r#""fairlead":{"truncated""#) && !event.contains(r#""choices":[],"usage":null"#)
    });
    let has = |wanted: fn(&Act) -> bool| job.work.acts.iter().any(|(_, act)| wanted(act));
    // What broke inside RunPod can only be known from a result that tells all.
    let broke = has(|act| matches!(act, Act::Loses(_) | Act::Reposts)) || !job.earlier.is_empty();
    if ok {
        assert_eq!(torn(job), 0, "a character was destroyed, and nobody says so");
        if broke && !job.work.aggregates {
            return;
        }
        assert_eq!(&shown, texts.last().expect("a text"), "a stream that is not its job's is passed off as whole");
    } else if !broke {
        // The error itself comes last.
        let partial = if record.error().is_some() { &shown[..shown.len().saturating_sub(1)] } else { &shown[..] };
        assert!(
            texts.iter().any(|text| text.starts_with(partial)),
            "an error behind something else than a beginning: {}",
            record.text()
        );
    }
}

fn shown(record: &Record) -> String {
    let text = record.text();
    let ours = |block: &str| block.starts_with(": keepalive") || block.starts_with(": IN_");
    text.split_inclusive("\n\n").filter(|block| !ours(block)).collect()
}

/// The events that a text holds, as far as they can be read; `None` where that is open to doubt.
fn events(record: &Record, text: &str) -> Option<Vec<String>> {
    let mut plain = Plain::new(record.ask.api.dialect(), record.ask.choices);
    plain.grow(text.as_bytes());
    let mut events = Vec::new();
    let mut cursor = plain.start();
    while let Some((end, meaning)) = plain.block_at(cursor) {
        let block = &text.as_bytes()[cursor..end];
        match meaning {
            Meaning::Event { .. } | Meaning::Error => events.push(String::from_utf8_lossy(block).into_owned()),
            // Where the job has none, one is put in.
            Meaning::Done => break,
            Meaning::NoEvent | Meaning::Malformed | Meaning::Hole => {}
            Meaning::Odd => return None,
        }
        cursor = end;
    }
    (!plain.odd).then_some(events)
}

/// Characters that the worker cut in two between outputs.
fn torn(job: &Job) -> usize {
    let texts: Vec<&str> = job.outputs.iter().filter_map(|output| output.as_str()).collect();
    texts.windows(2).filter(|pair| pair[0].ends_with('\u{fffd}') && pair[1].starts_with('\u{fffd}')).count()
}
