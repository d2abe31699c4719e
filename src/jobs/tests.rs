//! The machine by hand, answer by answer. Whole jobs in virtual time are in `tests/it/jobs.rs`.

use super::*;
use crate::{
    classify::JobFailure,
    message::{Headers, ResponseHead},
};

const PACE: Pace = Pace { fair_share_ms: 0, fetches: 1000 };

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn follow(want: Want) -> Job {
    let aim = Aim { want, deadline: at(600_000), execution_ms: None, until: None, aggregates: true };
    Job::follow(at(0), aim, "a-u1".to_owned())
}

fn answer(job: &mut Job, ms: u64, wanted: Op, body: &str) -> News {
    let op = job.due(at(ms)).unwrap();
    assert_eq!(op, wanted);
    job.on_sent(at(ms), op);
    let head = ResponseHead { status: 200, headers: Headers::new() };
    job.on_answer(at(ms), Answer::Whole { head: &head, body: body.as_bytes().to_vec() }, PACE)
}

const X: &str = r#"{"status":"IN_PROGRESS","stream":[{"output":"x"}]}"#;

fn x(times: usize) -> Vec<Piece> {
    vec![Piece::Text("x".to_owned()); times]
}

const NOTHING: &str = r#"{"status":"IN_PROGRESS","stream":[]}"#;

/// The same output twice, two seconds apart, with a poll now and then between.
fn twice(job: &mut Job) -> Vec<Piece> {
    let mut pieces = answer(job, 1000, Op::Stream, X).pieces;
    for ms in [1400, 1800, 2200, 2600] {
        assert_eq!(answer(job, ms, Op::Stream, NOTHING).pieces, x(0));
    }
    pieces.extend(answer(job, 3000, Op::Stream, X).pieces);
    pieces
}

#[test]
fn outputs_that_may_be_reposts_all_come_from_the_aggregate() {
    for (aggregate, pieces, end) in [
        (r#"["x","x","x"]"#, x(2), Ok(())),
        (r#"["x"]"#, x(0), Ok(())),
        (r#"["y","x"]"#, x(0), Err(JobFailure::Gap.into())),
    ] {
        let mut job = follow(Want::Outputs);
        assert_eq!(twice(&mut job), x(1));
        assert!(job.is_in_doubt());
        answer(&mut job, 3400, Op::Stream, r#"{"status":"COMPLETED","stream":[{"output":"x"}]}"#);
        let news = answer(&mut job, 3400, Op::Status, &format!(r#"{{"status":"COMPLETED","output":{aggregate}}}"#));
        assert_eq!((news.pieces, news.end), (pieces, Some(end)), "{aggregate}");
    }
}

#[test]
fn without_an_aggregate_nothing_says_that_an_output_came_twice() {
    let mut job = follow(Want::Outputs);
    assert_eq!(twice(&mut job), x(1));
    answer(&mut job, 3400, Op::Stream, r#"{"status":"COMPLETED","stream":[]}"#);
    assert_eq!(answer(&mut job, 3400, Op::Status, r#"{"status":"COMPLETED"}"#).end, None);
    let news = answer(&mut job, 3400, Op::Stream, r#"{"status":"COMPLETED","stream":[]}"#);
    assert_eq!((news.pieces, news.end), (x(1), Some(Ok(()))));
}

#[test]
fn an_output_is_suspect_only_where_an_aggregate_will_tell_and_its_lateness_was_seen() {
    let mut job = follow(Want::Outputs);
    job.aim.aggregates = false;
    assert_eq!(twice(&mut job), x(2));
    let mut job = follow(Want::Outputs);
    answer(&mut job, 1000, Op::Stream, X);
    assert_eq!(answer(&mut job, 3000, Op::Stream, X).pieces, x(1), "it may have stood there for long");
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
    assert_eq!((job.kept(), job.is_in_doubt()), (&*x(2), false));
    job.doubt = true;
    let news = answer(&mut job, 5000, Op::Status, r#"{"status":"COMPLETED","output":["y"]}"#);
    assert_eq!(news.end, Some(Ok(())), "the result has the last word");

    let mut job = follow(Want::ResultOrOutputs);
    answer(&mut job, 1000, Op::Stream, X);
    answer(&mut job, 1400, Op::Status, r#"{"status":"IN_PROGRESS"}"#);
    answer(&mut job, 2000, Op::Stream, r#"{"status":"FAILED","stream":[{"output":"y"}]}"#);
    answer(&mut job, 2000, Op::Stream, r#"{"status":"FAILED","stream":[]}"#);
    let news = answer(&mut job, 2000, Op::Status, r#"{"status":"FAILED","error":"no such voice"}"#);
    assert_eq!(news.end, Some(Err(JobFailure::Raised("no such voice".to_owned()).into())));
    assert_eq!(job.kept(), [Piece::Text("x".to_owned()), Piece::Text("y".to_owned())]);
}

#[test]
fn a_stream_without_a_status_is_asked_for_one_when_it_has_nothing_else() {
    let mut job = follow(Want::Outputs);
    assert_eq!(answer(&mut job, 1000, Op::Stream, r#"[{"output":"x"}]"#).pieces, x(1));
    answer(&mut job, 1400, Op::Stream, "[]");
    answer(&mut job, 1800, Op::Status, r#"{"status":"IN_PROGRESS"}"#);
    answer(&mut job, 2200, Op::Stream, "[]");
    let news = answer(&mut job, 2600, Op::Status, r#"{"status":"COMPLETED","output":["x","y"]}"#);
    assert_eq!((news.pieces, news.end), (vec![Piece::Text("y".to_owned())], Some(Ok(()))));
}
