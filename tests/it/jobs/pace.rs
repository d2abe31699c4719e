//! How often anything is asked: within RunPod's limits, and within what one Worker request may fetch.

use super::*;
use crate::{
    runpod::{End, Stops},
    wanted::chat_whole,
};
use fairlead_core::jobs::Op;
use serde_json::json;

/// The most that fell into any span of ten seconds.
fn most_in_ten_seconds(times: &[u64]) -> usize {
    let mut times = times.to_vec();
    times.sort_unstable();
    let within = |(index, start): (usize, &u64)| times[index..].iter().take_while(|at| **at < start + 10_000).count();
    times.iter().enumerate().map(within).max().unwrap_or_default()
}

#[test]
fn polls_last_to_the_deadline_whatever_may_be_fetched() {
    let queued = || Work::chat("one", 100).queued(u64::MAX);
    let silent = || Work::yields([], 0).ends(0, End::Never);
    let flowing = || Work::chat(&"word ".repeat(3000), 120);
    for fetches in [10, 45, 1000] {
        for deadline in [4000, 60_000, 280_000] {
            for work in [queued(), silent(), flowing()] {
                for wanted in [chat(), chat_whole()] {
                    let runpod = Runpod::of(work.clone()).max_subrequests(fetches);
                    let policy = json!({ "first_token_ms": 600_000, "idle_ms": 600_000, "max_attempts": 1 });
                    let record = settled(World::new().jobs(runpod).policy(policy).run(wanted.within(deadline)));
                    let made = record.requests.len();
                    assert!(made <= fetches as usize, "{made} of {fetches} in {deadline} ms");
                    let code = record.code();
                    let early = ["job_expired", "job_timed_out"].contains(&&*code);
                    assert_eq!(
                        if early { "early" } else { &*code },
                        if record.ended_at < deadline { "early" } else { "deadline_exceeded" }
                    );
                    let polls = |sent: &&crate::record::Sent| !sent.request.url.contains("/cancel/");
                    let last = record.requests.iter().rfind(polls).unwrap().at;
                    assert!(last >= deadline / 2, "the last poll of {made} was at {last} of {deadline}");
                    let job = record.runpod().job();
                    assert!(matches!(job.word, "EXPIRED" | "FAILED") || job.cancels.len() == 1, "{}", job.word);
                }
            }
        }
    }
}

#[test]
fn polls_that_fail_count_among_those_that_may_be_fetched() {
    for fetches in [10, 45, 1000] {
        for fault in [Fault::Refused(500), Fault::Refused(429), Fault::Refused(404), Fault::Reset, Fault::Html] {
            for op in [Op::Stream, Op::Status] {
                if (op, fault) == (Op::Status, Fault::Refused(404)) {
                    // Nobody knows it any more: it has expired.
                    continue;
                }
                let mut work = Work::chat("one two", 100).ends(0, End::Never);
                work.acts.truncate(2);
                let runpod = Runpod::of(work)
                    .max_subrequests(fetches)
                    .upset(Op::Stream, 1, 9999, fault)
                    .upset(op, 1, 9999, fault);
                let policy = json!({ "first_token_ms": 600_000, "idle_ms": 600_000 });
                let record = settled(World::new().jobs(runpod).policy(policy).run(chat().within(280_000)));
                let made = record.requests.len();
                assert!(made <= fetches as usize, "{made} of {fetches}: {op:?} {fault:?}");
                let job = record.runpod().job();
                let ended = matches!(job.word, "EXPIRED" | "FAILED") || !job.cancels.is_empty();
                assert!(ended, "{op:?} {fault:?}: {}", job.word);
            }
        }
    }
}

#[test]
fn a_stream_that_is_not_known_at_the_jobs_end_is_not_asked_for_ever() {
    for end in [End::Completes, End::Fails("handler: no \ntraceback: hush".to_owned())] {
        for work in [Work::chat("one two", 100), Work::chat("one two", 100).without_aggregate()] {
            for from in 0..12 {
                let runpod =
                    Runpod::of(work.clone().ends(50, end.clone())).upset(Op::Stream, from, 9999, Fault::Refused(404));
                let record = settled(World::new().jobs(runpod).policy(json!({ "max_attempts": 1 })).run(chat()));
                assert!(record.requests.len() < 60, "{from}: {} requests", record.requests.len());
                assert!(record.ended_at < 20_000, "{from}");
            }
        }
    }
}

#[test]
fn a_hundred_and_fifty_that_leave_at_once_are_cancelled_within_runpods_limits() {
    for leaves_at in [1000, 2500] {
        for early in [false, true] {
            let work = Work::chat("one two", 100).ends(0, End::Never);
            // Some of the first cancels come too early to be heard.
            let work = if early { work.queued(leaves_at - 60) } else { work };
            let crowd = World::new().jobs(Runpod::of(work)).leaves(leaves_at).crowd(150, 0, &chat());
            assert_eq!(crowd.runpod().jobs.len(), 150);
            let cancels = crowd.runpod().times(Op::Cancel);
            assert!(most_in_ten_seconds(&cancels) <= 100, "{} in ten seconds", most_in_ten_seconds(&cancels));
            let spans: Vec<(u64, u64)> = crowd
                .requests
                .iter()
                .filter(|sent| sent.request.url.contains("/cancel/"))
                .map(|sent| (sent.at, sent.over_at.unwrap()))
                .collect();
            let at_once = |at: u64| spans.iter().filter(|(from, to)| (*from..*to).contains(&at)).count();
            assert!(spans.iter().map(|(from, _)| at_once(*from)).max().unwrap() <= 20);
            let words: Vec<&str> = crowd.runpod().jobs.iter().map(|job| job.word).collect();
            let left = words.iter().filter(|word| **word != "CANCELLED").count();
            assert_eq!(left, 0, "{leaves_at} {early}: {words:?}");
            // Ninety at once, and the others when the quota of ten seconds is free again.
            let soon = crowd.runpod().jobs.iter().filter(|job| job.ended.unwrap() <= leaves_at + 1500).count();
            assert!(soon >= if early { 40 } else { 85 }, "{soon} at once");
            assert!(crowd.runpod().jobs.iter().all(|job| job.ended.unwrap() <= leaves_at + 30_000));
        }
    }
}

#[test]
fn what_cannot_be_cancelled_in_time_is_bounded_by_its_ttl() {
    let work = Work::chat("one two", 100).ends(0, End::Never).stops(Stops::Never);
    let world = World::new().jobs(Runpod::of(work)).policy(json!({ "deadline_ms": 40_000 }));
    let crowd = world.leaves(2000).crowd(200, 0, &chat());
    let cancels = crowd.runpod().times(Op::Cancel);
    assert!(most_in_ten_seconds(&cancels) <= 100);
    for job in &crowd.runpod().jobs {
        assert!(job.ended.unwrap() <= 40_000, "{:?}", job.ended);
    }
}

#[test]
fn three_hundred_jobs_at_once_share_the_polls() {
    for apart_ms in [0, 10] {
        let work = Work::chat(&"word ".repeat(100), 300).queued(5000);
        let crowd = World::new().jobs(Runpod::of(work)).crowd(300, apart_ms, &chat());
        let polls = [crowd.runpod().times(Op::Stream), crowd.runpod().times(Op::Status)];
        for times in polls {
            assert!(most_in_ten_seconds(&times) <= 2000, "{} polls in ten seconds", most_in_ten_seconds(&times));
        }
        let submissions = crowd.runpod().times(Op::Submit);
        assert!(most_in_ten_seconds(&submissions) <= 1000);
        assert!(crowd.runpod().count(Op::Health) <= 5, "{} looks", crowd.runpod().count(Op::Health));
        for record in &crowd.records {
            assert!(record.text().ends_with("data: [DONE]\n\n"), "{}", record.text());
        }
    }
}
