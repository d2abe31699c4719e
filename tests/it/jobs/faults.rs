//! Every fault of every operation: what the client gets, who is asked next, and what was started.

use super::*;
use crate::{runpod::End, script::well, wanted::chat_whole};
use fairlead_core::jobs::Op;
use serde_json::json;

/// A world whose endpoint `d` suffers this.
fn upset(op: Op, from: u32, count: u32, fault: Fault) -> World {
    World::new().jobs(Runpod::of(Work::chat("one two three", 150).queued(400)).upset(op, from, count, fault))
}

#[test]
fn a_look_at_the_endpoints_health_never_costs_more_than_a_moment() {
    for fault in FAULTS.into_iter().chain([Fault::Refused(401), Fault::Refused(404)]) {
        let record = settled(upset(Op::Health, 0, 9, fault).run(chat()));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{fault:?}");
        assert!(record.runpod().job().submitted <= 1510, "{fault:?}");
        assert_eq!(record.runpod().count(Op::Health), 1);
    }
}

#[test]
fn a_poll_that_fails_is_polled_again_and_starts_nothing() {
    for op in [Op::Stream, Op::Status] {
        for fault in FAULTS {
            for from in 0..6 {
                for count in [1, 3] {
                    let record = settled(upset(op, from, count, fault).run(chat()));
                    let what = format!("{op:?} {fault:?} {from} {count}");
                    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{what}");
                    assert_eq!((record.runpod().count(Op::Submit), record.attempts()), (1, 1), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_result_is_polled_for_until_it_is_there() {
    let answer = json!([serde_json::from_str::<serde_json::Value>(&crate::script::answer("Yes.")).unwrap()]);
    for fault in FAULTS {
        for (from, count) in [(0, 1), (1, 3), (0, 5)] {
            let runpod = Runpod::of(Work::returns(answer.clone(), 700)).upset(Op::Status, from, count, fault);
            let record = settled(World::new().jobs(runpod).run(chat_whole()));
            assert_eq!((record.outcome(), record.status()), ("ok", 200), "{fault:?}");
            assert_eq!((record.runpod().count(Op::Submit), record.runpod().count(Op::Stream)), (1, 0));
        }
    }
}

#[test]
fn a_submission_is_repeated_once_at_most_when_its_answer_was_lost() {
    // How many submissions reach the queue at most, and whether each fault leaves a job behind.
    for (fault, most) in [
        (Fault::Refused(500), 2),
        (Fault::DoneBut(500), 2),
        (Fault::DoneBut(524), 2),
        (Fault::Reset, 2),
        (Fault::DoneButReset, 2),
        (Fault::Stall, 2),
        (Fault::DoneButStall, 2),
        (Fault::Half, 2),
        (Fault::Malformed, 2),
        (Fault::Html, 2),
        (Fault::Refused(429), 6),
        (Fault::Refused(503), 6),
    ] {
        let policy = json!({ "max_attempts": 6, "deadline_ms": 200_000 });
        let record = upset(Op::Submit, 0, 1, fault).policy(policy.clone()).run(chat());
        assert_eq!((record.outcome(), record.runpod().count(Op::Submit)), ("ok", 2), "{fault:?} once");
        let record = upset(Op::Submit, 0, 99, fault).policy(policy.clone()).run(chat());
        assert_ne!(record.outcome(), "ok");
        assert_eq!(record.runpod().count(Op::Submit), most, "{fault:?} always");
        assert!(record.runpod().jobs.len() <= 2, "{fault:?}");
        assert!(record.runpod().jobs.iter().all(|job| job.ended.unwrap() <= job.submitted + job.ttl_ms));
        // Somebody else takes over.
        let record = upset(Op::Submit, 0, 99, fault).endpoint("a", [well("It is so")]).policy(policy).run(chat());
        assert_eq!((record.outcome(), record.runpod().count(Op::Submit)), ("ok", 1), "{fault:?}, another is there");
    }
}

#[test]
fn a_submission_that_is_answered_late_is_none_the_less_one() {
    for fault in [Fault::Late(3000), Fault::Torn(3000), Fault::Late(29_000)] {
        let record = settled(upset(Op::Submit, 0, 99, fault).run(chat()));
        assert_eq!((record.outcome(), record.runpod().count(Op::Submit)), ("ok", 1), "{fault:?}");
    }
    // Too late: it is cancelled when its answer comes after all.
    for fault in [Fault::Late(31_000), Fault::Torn(31_000), Fault::Late(38_000)] {
        let record = upset(Op::Submit, 0, 1, fault).run(chat());
        assert_eq!((record.outcome(), record.runpod().count(Op::Submit)), ("ok", 2), "{fault:?}");
        assert_eq!(cancelled(&record).len(), 1, "{fault:?}");
    }
}

#[test]
fn what_a_submission_is_refused_for_decides_what_follows() {
    for (status, code, submissions) in [
        (400, "invalid_request", 1),
        (401, "upstream_rejected_key", 1),
        (403, "upstream_rejected_key", 1),
        (404, "upstream_invalid", 3),
        (413, "invalid_request", 1),
        (429, "upstream_overloaded", 3),
        (503, "upstream_overloaded", 3),
    ] {
        let record = upset(Op::Submit, 0, 99, Fault::Refused(status)).run(chat());
        assert_eq!((&*record.code(), record.runpod().count(Op::Submit)), (code, submissions), "{status}");
        assert!(record.runpod().jobs.is_empty());
    }
}

#[test]
fn a_queue_that_answers_no_polls_is_given_up_after_a_minute() {
    for fault in [Fault::Refused(500), Fault::Refused(429), Fault::Reset, Fault::Stall, Fault::Html] {
        let runpod = Runpod::of(Work::chat("one", 100).ends(0, End::Never)).upset(Op::Stream, 1, 999, fault).upset(
            Op::Status,
            0,
            999,
            fault,
        );
        let policy = json!({ "first_token_ms": 200_000, "idle_ms": 200_000 });
        let record = World::new().jobs(runpod).policy(policy).run(chat());
        assert_eq!((&*record.code(), record.attempts()), ("upstream_unreachable", 1), "{fault:?}: {}", record.text());
        assert!((60_000..80_000).contains(&record.ended_at), "{fault:?}: {}", record.ended_at);
        assert_eq!(record.runpod().count(Op::Submit), 1);
        assert_eq!(settled(record).runpod().job().word, "CANCELLED");
    }
}

#[test]
fn a_key_that_is_refused_in_the_middle_is_told() {
    for status in [401, 403] {
        let record = upset(Op::Stream, 1, 999, Fault::Refused(status)).run(chat());
        assert_eq!((&*record.code(), record.attempts()), ("upstream_rejected_key", 1));
    }
}

#[test]
fn a_job_that_is_not_known_for_a_moment_has_not_expired() {
    for op in [Op::Stream, Op::Status] {
        for (from, count) in [(0, 1), (0, 3), (2, 1), (2, 3)] {
            let record = settled(upset(op, from, count, Fault::Refused(404)).run(chat()));
            assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{op:?} {from} {count}");
        }
    }
}

#[test]
fn a_job_that_was_never_seen_again_has_expired() {
    let runpod = Runpod::of(Work::chat("one", 100).queued(9000)).upset(Op::Stream, 0, 999, Fault::Refused(404)).upset(
        Op::Status,
        0,
        999,
        Fault::Refused(404),
    );
    let record = World::new().jobs(runpod).run(chat());
    assert_eq!((record.status(), &*record.code(), record.attempts()), (504, "job_expired", 1), "{}", record.text());
}
