//! The machine by hand, answer by answer. Whole jobs in virtual time are in `tests/it/jobs.rs`.

use super::*;

const PACE: Pace = Pace { fair_share_ms: 0, fetches: 1000 };

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn follow(want: Want) -> Job {
    let aim = Aim { want, deadline: at(600_000), execution_ms: None, until: None };
    Job::follow(at(0), aim, "a-u1".to_owned())
}

fn answer(job: &mut Job, ms: u64, wanted: Op, body: &str) -> News {
    let op = job.due(at(ms)).unwrap();
    assert_eq!(op, wanted);
    job.on_sent(at(ms), op);
    let head = ResponseHead { status: 200, headers: Headers::new() };
    job.on_answer(at(ms), Answer::Whole { head: &head, body: body.as_bytes() }, PACE)
}

const X: &str = r#"{"status":"IN_PROGRESS","stream":[{"output":"x"}]}"#;

fn x(times: usize) -> Vec<Piece> {
    vec![Piece::Text("x".to_owned()); times]
}

#[test]
fn outputs_that_may_be_reposts_all_come_from_the_aggregate() {
    let mut job = follow(Want::Outputs);
    assert_eq!(answer(&mut job, 1000, Op::Stream, X).pieces, x(1));
    assert_eq!(answer(&mut job, 3000, Op::Stream, X).pieces, x(0));
    let news = answer(&mut job, 5000, Op::Status, r#"{"status":"COMPLETED","output":["x","x","x"]}"#);
    assert_eq!((news.pieces, news.end), (x(2), Some(Ok(()))));
}

#[test]
fn without_an_aggregate_a_possible_repost_is_a_gap_at_the_very_end_too() {
    let gap = Some(Err(Failure::Job(JobFailure::Gap)));
    let mut job = follow(Want::Outputs);
    answer(&mut job, 1000, Op::Stream, X);
    answer(&mut job, 3000, Op::Stream, X);
    assert_eq!(answer(&mut job, 5000, Op::Status, r#"{"status":"COMPLETED"}"#).end, gap);

    let mut job = follow(Want::Outputs);
    answer(&mut job, 1000, Op::Stream, X);
    answer(&mut job, 3000, Op::Stream, r#"{"status":"COMPLETED","stream":[]}"#);
    assert_eq!(answer(&mut job, 3000, Op::Status, r#"{"status":"COMPLETED"}"#).end, None);
    assert_eq!(answer(&mut job, 3000, Op::Stream, X).pieces, x(0));
    assert_eq!(answer(&mut job, 3000, Op::Stream, r#"{"status":"COMPLETED","stream":[]}"#).end, gap);
}
#[test]
fn what_comes_on_the_way_to_a_result_is_kept_and_is_no_part_of_it() {
    let mut job = follow(Want::ResultOrOutputs);
    answer(&mut job, 1000, Op::Stream, X);
    assert_eq!((job.kept(), job.is_in_doubt()), (&*x(1), false));
    answer(&mut job, 1400, Op::Status, r#"{"status":"IN_PROGRESS","delayTime":7}"#);
    assert_eq!(job.facts().delay_ms, Some(7));
    // Another worker begins anew.
    answer(&mut job, 1800, Op::Stream, r#"{"status":"IN_QUEUE","stream":[],"retries":1}"#);
    assert_eq!(job.kept(), []);
    answer(&mut job, 2400, Op::Stream, X);
    answer(&mut job, 3900, Op::Stream, X);
    assert_eq!((job.kept(), job.is_in_doubt()), (&*x(1), true));
    let news = answer(&mut job, 5000, Op::Status, r#"{"status":"COMPLETED","output":["y"]}"#);
    assert_eq!(news.end, Some(Ok(())), "the result has the last word");

    let mut job = follow(Want::ResultOrOutputs);
    answer(&mut job, 1000, Op::Stream, X);
    answer(&mut job, 1400, Op::Status, r#"{"status":"IN_PROGRESS"}"#);
    answer(&mut job, 2000, Op::Stream, r#"{"status":"FAILED","stream":[{"output":"y"}]}"#);
    answer(&mut job, 2000, Op::Stream, r#"{"status":"FAILED","stream":[]}"#);
    let news = answer(&mut job, 2000, Op::Status, r#"{"status":"FAILED","error":"no such voice"}"#);
    assert_eq!(news.end, Some(Err(Failure::Job(JobFailure::Raised("no such voice".to_owned())))));
    assert_eq!(job.kept(), [Piece::Text("x".to_owned()), Piece::Text("y".to_owned())]);
}
