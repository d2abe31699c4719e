//! Nobody waits any more: the job is cancelled, whatever is under way, and what it costs is bounded.

use super::*;
use crate::{
    runpod::{End, Stops},
    script::answer,
    wanted::{Wanted, chat_whole, errand},
};
use fairlead_core::jobs::Op;
use serde_json::{Value, json};

/// A chat in every phase of which a client can leave: it is queued until 540, says its first word
/// at 840 and its last at 2040.
fn long() -> Work {
    Work::chat("one two three four", 200).queued(500)
}

/// The same for a chat that does not stream.
fn long_whole() -> Work {
    let answer: Value = serde_json::from_str(&answer("Yes.")).unwrap();
    Work::returns(json!([answer]), 1500).queued(500)
}

/// Both.
fn kinds() -> [(Wanted, Work); 2] {
    [(chat(), long()), (chat_whole(), long_whole())]
}

#[test]
fn a_client_may_leave_at_any_moment_and_the_worker_is_free_soon() {
    for (there, back) in [(10, 10), (0, 0), (300, 300), (5, 700)] {
        for at in (0..4000).step_by(37) {
            for (wanted, work) in kinds() {
                let runpod = Runpod::of(work).latency(there, back);
                let record = World::new().jobs(runpod).leaves(at).run(wanted);
                for job in &record.runpod().jobs {
                    let until = job.billed_until().unwrap_or_default();
                    let most = at + there + back + 1500 + if at < 1000 { there + back } else { 0 };
                    assert!(until <= most, "left at {at} ({there}, {back}): costs until {until}");
                    assert!(job.word == "CANCELLED" || job.ended.unwrap() <= at + 2 * (there + back), "{}", job.word);
                }
                assert!(record.runpod().jobs.len() <= 1);
            }
        }
    }
}

#[test]
fn a_client_that_only_a_write_shows_to_have_left_is_noticed_with_the_next_one() {
    for at in (0..3000).step_by(113) {
        let record = jobs(long()).breaks(at).policy(json!({ "keepalive_ms": 500 })).run(chat());
        let job = record.runpod().job();
        let until = job.billed_until().unwrap_or_default();
        assert!(until <= at + 500 + 1500, "left at {at}: costs until {until}");
    }
}

#[test]
fn a_client_that_leaves_while_the_submission_is_answered_leaves_no_job_behind() {
    for fault in [Fault::Late(400), Fault::Torn(400)] {
        for at in (20..900).step_by(20) {
            let runpod = Runpod::of(Work::chat("one", 100).ends(0, End::Never)).upset(Op::Submit, 0, 1, fault);
            let record = World::new().jobs(runpod).leaves(at).run(chat());
            for job in &record.runpod().jobs {
                assert_eq!(job.word, "CANCELLED", "{fault:?}, left at {at}");
            }
        }
    }
}

#[test]
fn a_cancel_that_comes_too_early_is_repeated() {
    // The worker takes the job at 30; what arrives before 130 is lost.
    for at in [45, 60, 100] {
        let record = jobs(Work::chat("one", 100).ends(0, End::Never)).leaves(at).run(chat());
        assert_eq!(cancelled(&record), [("cancelled", 2)], "{at}");
        let job = record.runpod().job();
        assert_eq!((job.word, job.cancels.len()), ("CANCELLED", 2));
        assert!(job.billed_until().unwrap() <= at + 1500);
    }
}

#[test]
fn a_worker_that_never_stops_is_not_asked_for_ever() {
    let record = jobs(Work::chat("one", 100).ends(0, End::Never).stops(Stops::Never)).leaves(1000).run(chat());
    let job = record.runpod().job();
    assert_eq!(job.cancels.len(), 5);
    // Its `executionTimeout` ends it.
    assert_eq!((job.word, job.billed_ms()), ("FAILED", 297_980));
}

#[test]
fn a_cancel_that_fails_is_sent_again() {
    for fault in FAULTS {
        for count in [1, 3] {
            let runpod = Runpod::of(Work::chat("one", 100).ends(0, End::Never)).upset(Op::Cancel, 0, count, fault);
            let record = World::new().jobs(runpod).leaves(1000).run(chat());
            let job = record.runpod().job();
            assert_eq!(job.word, "CANCELLED", "{fault:?}, {count} times");
            let wait = match fault {
                Fault::Stall => 5000 * u64::from(count),
                _ => 0,
            };
            assert!(job.billed_until().unwrap() <= 1000 + 2500 + wait, "{fault:?}: {:?}", job.billed_until());
        }
    }
}

#[test]
fn a_look_that_fails_behind_an_early_cancel_is_repeated() {
    for fault in FAULTS {
        let runpod = Runpod::of(Work::chat("one", 100).ends(0, End::Never)).upset(Op::Status, 0, 1, fault);
        let record = World::new().jobs(runpod).leaves(60).run(chat());
        let job = record.runpod().job();
        assert_eq!(job.word, "CANCELLED", "{fault:?}");
    }
}

#[test]
fn a_deadline_in_any_phase_frees_the_worker() {
    for deadline in (50..3000).step_by(61) {
        for (wanted, work) in kinds() {
            let record = settled(jobs(work).run(wanted.within(deadline)));
            if record.outcome() == "ok" {
                assert!(deadline > 1940);
                continue;
            }
            assert_eq!(&*record.code(), "deadline_exceeded", "{deadline}");
            for job in &record.runpod().jobs {
                assert!(job.word == "CANCELLED" || job.ended.unwrap() <= deadline, "{deadline}: {}", job.word);
            }
        }
    }
}

#[test]
fn a_call_whose_future_the_host_drops_is_bounded_by_its_jobs_ttl() {
    for at in (10..2500).step_by(97) {
        let mut work = long();
        work.end.1 = End::Never;
        let record = jobs(work).policy(json!({ "deadline_ms": 20_000 })).cancelled(at).run(chat());
        for job in &record.runpod().jobs {
            assert!(job.ended.unwrap() <= 20_000, "{at}: {:?}", job.ended);
        }
    }
}

#[test]
fn a_client_that_takes_its_time_gets_every_byte_and_costs_no_timer() {
    for (ms, every) in [(300, 1), (5000, 3), (70_000, 4)] {
        let work = Work::chat("one two three four", 200).queued(500);
        let policy = json!({ "idle_ms": 2000, "first_token_ms": 3000, "progress_ms": 3000, "queue_ms": 3000 });
        let record = settled(jobs(work).policy(policy).takes(ms).every(every).run(chat()));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{ms}");
    }
}

#[test]
fn a_pause_of_the_client_is_no_silence_of_the_queue() {
    // It takes 70 s over one piece; then one poll fails.
    for from in 3..12 {
        let runpod = Runpod::of(Work::chat("one two three", 400)).upset(Op::Stream, from, 1, Fault::Refused(429));
        let record = settled(World::new().jobs(runpod).takes(70_000).every(3).run(chat()));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{from}");
    }
}

#[test]
fn a_job_of_the_clients_own_is_cancelled_only_where_the_client_waited_for_it() {
    let body = json!({ "input": { "prompt": "hush" } });
    let work = || Work::returns(json!(7), 5000);
    let record = jobs(work()).leaves(1000).visit(errand("runsync").with(&body)).unwrap();
    assert_eq!(record.runpod().job().word, "CANCELLED");
    let record = jobs(work()).leaves(1000).visit(errand("runsync?keep=true").with(&body)).unwrap();
    assert_eq!(record.runpod().job().word, "COMPLETED");
}

#[test]
fn a_job_whose_id_comes_with_the_deadline_is_cancelled() {
    // The look takes 20 ms, the submission as long again.
    for deadline in 21..60 {
        for fault in [None, Some(Fault::Torn(10))] {
            let runpod = Runpod::of(Work::chat("one", 100).ends(0, End::Never));
            let runpod = fault.into_iter().fold(runpod, |runpod, fault| runpod.upset(Op::Submit, 0, 1, fault));
            let record = World::new().jobs(runpod).run(chat().within(deadline));
            for job in &record.runpod().jobs {
                assert_eq!(job.word, "CANCELLED", "{fault:?}, {deadline} ms");
            }
        }
    }
}
