//! A stream of a job is never passed off as whole where something of it was lost, came twice or
//! was destroyed.

use super::*;
use crate::runpod::{Act, End, words};
use fairlead_core::jobs::Op;
use serde_json::Value;

/// What breaks the reply of `/stream` on its way.
const LOSSES: [Fault; 5] =
    [Fault::DoneBut(500), Fault::DoneButReset, Fault::DoneButStall, Fault::Half, Fault::Malformed];

#[test]
fn a_lost_reply_of_the_stream_is_made_good_from_the_result() {
    for fault in LOSSES {
        for from in 0..8 {
            let runpod = Runpod::of(Work::chat("one two three four", 150)).upset(Op::Stream, from, 1, fault);
            let record = settled(World::new().jobs(runpod).run(chat()));
            assert_eq!(record.outcome(), "ok", "{fault:?} {from}");
            assert_eq!(shown(&record), chat_of(&record), "{fault:?} {from}");
            assert_eq!(record.runpod().count(Op::Submit), 1);
        }
    }
}

#[test]
fn without_a_result_that_says_what_was_lost_the_stream_is_interrupted() {
    for fault in LOSSES {
        for from in 2..5 {
            let work = Work::chat("one two three four", 150).without_aggregate();
            let runpod = Runpod::of(work).upset(Op::Stream, from, 1, fault);
            let record = settled(World::new().jobs(runpod).policy(serde_json::json!({"max_attempts": 1})).run(chat()));
            assert_eq!(&*record.code(), "stream_interrupted", "{fault:?} {from}: {}", record.text());
            assert!(!record.text().contains("[DONE]"));
        }
    }
}

#[test]
fn without_a_result_an_undisturbed_stream_is_read_to_its_end() {
    let record = run(Work::chat("one two three four", 30).without_aggregate());
    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)));
}

#[test]
fn an_output_that_is_posted_again_late_does_not_stand_there_twice() {
    for place in 1..5 {
        let work = Work::chat("one two three four", 50).with(place, 2000, Act::Reposts);
        let record = run(work);
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "behind output {place}");
    }
}

#[test]
fn an_output_that_is_posted_again_at_once_is_found_by_the_result() {
    for place in 2..5 {
        let record = run(Work::chat("one two three four", 50).with(place, 0, Act::Reposts));
        assert_eq!(&*record.code(), "stream_interrupted", "behind output {place}: {}", record.text());
        assert!(!record.text().contains("[DONE]"));
    }
}

#[test]
fn an_output_that_never_came_is_found_by_the_result() {
    for place in 0..6 {
        let record = run(Work::chat("one two three four", 50).loses(place));
        assert_eq!(&*record.code(), "stream_interrupted", "output {place}: {}", record.text());
        assert!(!record.text().contains("[DONE]"));
    }
    // The last one is merely late.
    let record = run(Work::chat("one two three four", 50).loses(6));
    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)));
}

#[test]
fn a_character_that_the_worker_destroyed_is_told() {
    let whole: String = words("one 🦀 two").iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    let (before, behind) = whole.split_once('🦀').unwrap();
    let outputs = [format!("{before}\u{fffd}"), format!("\u{fffd}{behind}")];
    let outputs = outputs.map(Value::String);
    // Even where nothing of it came by the stream.
    let record = run(Work::yields(outputs.clone(), 100).loses(0).loses(1));
    assert_eq!((&*record.code(), record.text().contains("[DONE]")), ("stream_interrupted", false));
    let record = run(Work::yields(outputs, 100));
    assert_eq!(&*record.code(), "stream_interrupted", "{}", record.text());
    assert!(!record.text().contains("[DONE]"));
    let [Event::CharactersDestroyed { characters: 1, .. }] = &*told(&record, "characters_destroyed") else {
        panic!("{:?}", record.events)
    };
    // One that the model itself has put there.
    let record = run(Work::chat("one \u{fffd} two", 30));
    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)));
}

#[test]
fn a_second_answer_behind_the_first_is_no_answer() {
    for place in 2..5 {
        for queue_ms in [10, 1000, 8000] {
            let record = run(Work::chat("one two three four", 400).with(place, 400, Act::Falls(queue_ms)));
            assert_eq!(&*record.code(), "stream_interrupted", "{place} {queue_ms}: {}", record.text());
            assert!(!record.text().contains("[DONE]"));
        }
    }
    // Before anything was shown it does no harm.
    let record = run(Work::chat("one two three four", 400).with(0, 300, Act::Falls(5000)));
    assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)));
}

#[test]
fn an_answer_about_another_job_is_no_answer() {
    for (op, from) in [(Op::Status, 0), (Op::Stream, 2)] {
        let runpod = Runpod::of(Work::chat("one two", 150)).upset(op, from, 1, Fault::WrongId);
        let record = settled(World::new().jobs(runpod).run(chat()));
        assert_eq!((record.outcome(), shown(&record)), ("ok", chat_of(&record)), "{op:?}");
    }
}

#[test]
fn a_stream_that_stops_short_is_no_whole_answer() {
    let mut work = Work::chat("one two three", 50);
    work.acts.truncate(3);
    let record = run(work);
    assert_eq!(&*record.code(), "stream_interrupted", "{}", record.text());
    assert!(record.text().contains("one ") && !record.text().contains("[DONE]"));
}

#[test]
fn what_was_streamed_before_a_failure_is_a_prefix() {
    let work = Work::chat("one two three", 150).ends(10, End::Fails("handler: broken \ntraceback: hush".into()));
    let mut cut = work.clone();
    cut.acts.truncate(3);
    let record = run(cut);
    assert_eq!(&*record.code(), "job_failed");
    let (text, _) = shown(&record).split_once("data: {\"error\"").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(text, chat_of(&record));
    // The answer was whole, but the worker says that it failed.
    let record = run(work);
    assert_eq!(&*record.code(), "job_failed", "{}", record.text());
}
