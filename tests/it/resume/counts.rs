//! How many tokens there are, of how many: what was shown is counted, or is said to be unknown.

use super::{TEXT, body, resume, strict, ways};
use crate::{
    engine::{Break, Engine},
    script::*,
    wanted::*,
    world::World,
};
use serde_json::{Value, json};

/// An event with this text, and the count of so many tokens.
fn counts(text: &str, tokens: u32) -> Script {
    let mut event = chunk(0, &json!({ "content": text }), None);
    event["usage"] = json!({ "prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens });
    crate::script::event(&event)
}

fn counted() -> Wanted {
    chat().with("max_tokens", 30).with("stream_options", json!({ "include_usage": true }))
}

#[test]
fn what_nobody_counts_is_said_to_be_unknown() {
    let silent = || Engine { counts_nothing: true, ..Engine::of(&TEXT) };
    let wanted = || chat().with("stream_options", json!({ "include_usage": true })).with("max_tokens", 30);
    let record = World::new().engine("a", silent().breaking(3, Break::End)).policy(resume("continue")).run(wanted());
    assert_eq!(strict(&record), (TEXT.concat(), "stop".to_owned(), Some(Value::Null)));
    let body = |at: usize| serde_json::from_slice::<Value>(&record.requests[at].request.body).unwrap();
    assert_eq!(body(2)["max_tokens"], 27, "a token for each event");
    // Who does not answer is not waited for long.
    let mut slow = Engine::of(&TEXT).breaking(3, Break::End);
    slow.counts_late = true;
    let record = World::new().engine("a", slow).policy(resume("continue")).run(wanted());
    assert_eq!(strict(&record).0, TEXT.concat());
    assert_eq!(record.requests[2].at - record.requests[1].at, 2000);
    assert!(record.requests[1].aborted);
}

#[test]
fn a_count_holds_for_what_was_said_up_to_it() {
    // Told before anything is said, and then no more.
    let begun = [opened(), role(), counts("", 0), says("A"), says(" fairlead"), says(" guides"), reset()].concat();
    let record =
        World::new().endpoint("a", [begun]).engine("b", Engine::of(&TEXT)).policy(resume("continue")).run(counted());
    assert_eq!(ways(&record), ["continue at b"]);
    assert_eq!(strict(&record).2.unwrap()["completion_tokens"], 9);
    assert_eq!(body(&record, 2)["max_tokens"], 27);

    // Told all along by the first, but not by the one that goes on.
    let begun = [opened(), role(), counts("A", 1), counts(" fairlead", 2), reset()].concat();
    let record = World::new()
        .endpoint("a", [begun])
        .engine("a", Engine::of(&TEXT))
        .engine("b", Engine::of(&TEXT).breaking(3, Break::End))
        .policy(resume("continue"))
        .run(counted());
    assert_eq!(ways(&record), ["continue at b", "continue at a"]);
    assert_eq!(strict(&record).2.unwrap()["completion_tokens"], 9);
    assert_eq!((&*record.asked(), body(&record, 1)["max_tokens"].clone()), ("abaa", json!(28)));
    assert_eq!(body(&record, 3)["max_tokens"], 25, "what the second said counts as well");
}

#[test]
fn where_the_limit_is_reached_nobody_is_asked_for_nothing() {
    let begun = [opened(), role(), says("A"), says(" fairlead"), says(" guides"), reset()].concat();
    for can_continue in [true, false] {
        let world = World::new().always("a", begun.clone()).continues(can_continue).policy(resume("continue"));
        let record = world.run(chat().with("max_tokens", 3));
        assert_eq!((record.asked(), ways(&record)), ("a".to_owned(), vec![]));
        assert_eq!(strict(&record), ("A fairlead guides".to_owned(), "length".to_owned(), None));
    }
}

#[test]
fn a_limit_that_cannot_be_reduced_is_asked_for_again_as_it_is() {
    // The default of completions is the server's.
    for wanted in [completions(), completions().with("max_tokens", 100.0), chat().with("max_completion_tokens", 100.0)]
    {
        let engine = Engine::of(&TEXT).breaking(4, Break::End);
        let record = World::new().engine("a", engine).policy(resume("continue")).run(wanted);
        assert_eq!((ways(&record), strict(&record).0), (vec!["verify at a, max_tokens".to_owned()], TEXT.concat()));
        assert_eq!(body(&record, 1), body(&record, 0));
    }
    // What is no limit needs no reduction.
    for wanted in [completions().with("max_tokens", Value::Null), chat().with("max_tokens", Value::Null), chat()] {
        let engine = Engine::of(&TEXT).breaking(3, Break::End);
        let record = World::new().engine("a", engine).policy(resume("continue")).run(wanted);
        assert_eq!((ways(&record), strict(&record).0), (vec!["continue at a".to_owned()], TEXT.concat()));
        assert_eq!(record.asked(), "aa", "nothing is counted");
    }
}

#[test]
fn a_count_is_waited_for_no_longer_than_there_is_time() {
    for (deadline_ms, waited_ms) in [(60_000, 2000), (11_000, 2000), (7000, 1000), (3400, 100)] {
        let begun = [opened(), role(), says("A"), wait(3000), says(" fairlead"), reset()].concat();
        let silent = Engine { counts_late: true, ..Engine::of(&TEXT) };
        let mut policy = resume("continue");
        policy["deadline_ms"] = deadline_ms.into();
        let record =
            World::new().endpoint("a", [begun]).engine("b", silent).policy(policy).run(chat().with("max_tokens", 50));
        assert_eq!(strict(&record).0, TEXT.concat(), "{deadline_ms}");
        assert_eq!(record.requests[2].at - record.requests[1].at, waited_ms, "{deadline_ms}");
    }
}

#[test]
fn nobody_is_asked_for_no_more_tokens() {
    // RunPod's proxy cannot count them, and each event is one at least.
    let begun = Engine::of(&TEXT).breaking(3, Break::Reset);
    let world = World::new().engine("c", begun).continues_at("c", true).policy(resume("continue"));
    let record = world.run(chat().with("max_tokens", 3));
    assert_eq!(record.requests.len(), 1);
    assert_eq!((strict(&record).0, strict(&record).1), (TEXT[..3].concat(), "length".to_owned()));
}

#[test]
fn what_comes_again_is_no_token_more() {
    // The white space of one token comes again as part of another.
    let says_all = || Engine { counts_nothing: true, ..Engine::of(&["A", "\n\nfoo", " bar", "."]) };
    let begun = [opened(), role(), says("A"), says("\n\n"), reset()].concat();
    let record = World::new()
        .endpoint("a", [begun])
        .engine("b", says_all().breaking(2, Break::Reset))
        .engine("a", says_all())
        .policy(resume("continue"))
        .run(chat().with("max_tokens", 4));
    assert_eq!(strict(&record).0, "A\n\nfoo bar.", "{:?}", ways(&record));
}
