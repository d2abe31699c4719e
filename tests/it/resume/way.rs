//! Whether a stream that broke may go on, at whom, and how: from what the client has, or compared with it.

use super::{TEXT, resume, strict, text_of, ways};
use crate::{
    engine::{Break, Engine},
    script::*,
    wanted::*,
    world::World,
};
use serde_json::{Value, json};

#[test]
fn what_cannot_be_continued_is_verified_and_what_cannot_be_verified_ends_in_the_error() {
    let verified = |why: &str| (vec![format!("verify at b, {why}")], "ok".to_owned());
    let lost = |why: &str| (vec![], format!("unreachable {why}"));
    let cases = vec![
        ("json", chat().with("response_format", json!({ "type": "json_object" })), verified("structured_output")),
        ("grammar", chat().with("structured_outputs", json!({ "regex": "a" })), verified("structured_output")),
        ("forced tool", chat().with("tool_choice", "required"), verified("structured_output")),
        ("stop", chat().with("stop", json!("fairlead guides")), verified("stop")),
        ("stops", chat().with("stop", json!(["never", "ad's"])), verified("stop")),
        ("begun", chat().with("stop", "guides you").with("include_stop_str_in_output", true), verified("stop")),
        ("hidden", chat().with("include_reasoning", false), verified("reasoning")),
        ("limit", chat().with("max_tokens", 50.0), verified("max_tokens")),
        ("no limit", completions(), verified("max_tokens")),
        ("penalty", chat().with("presence_penalty", 0.5), verified("sampling")),
        ("least", chat().with("min_tokens", 3), verified("sampling")),
        ("own", chat().with("add_generation_prompt", true), verified("prompt")),
        ("n", chat().with("n", 2), lost("choices")),
        ("logprobs", chat().with("logprobs", true), lost("logprobs")),
        ("ids", chat().with("return_token_ids", true), lost("token_ids")),
        ("sound", chat().with("modalities", json!(["text", "audio"])), lost("multimodal")),
        ("completions", completions().with("max_tokens", 50).with("echo", true), verified("prompt")),
        ("tokens", completions().with("max_tokens", 50).with("prompt", json!([1, 2, 3])), verified("prompt")),
        ("prompts", completions().with("prompt", json!(["a", "b"])), lost("choices")),
        ("counted", completions().with("logprobs", 2), lost("logprobs")),
    ];
    for (name, wanted, expected) in cases {
        let mut wanted = wanted;
        let chat = wanted.body.get("messages").is_some();
        let begun = if chat {
            [opened(), role(), says("A"), says(" fairlead"), says(" guides")].concat()
        } else {
            let says = |text| event(json!({ "choices": [{ "index": 0, "text": text, "finish_reason": null }] }));
            [opened(), says("A"), says(" fairlead"), says(" guides")].concat()
        };
        let whole = Engine::of(&TEXT).answer_to_any(chat);
        wanted.headers.set("x-request-id", name);
        let record = World::new()
            .endpoint("a", [[begun, reset()].concat()])
            .endpoint("b", [whole])
            .policy(resume("continue"))
            .run(wanted);
        let (expected_ways, end) = expected;
        assert_eq!(ways(&record), expected_ways, "{name}");
        if end == "ok" {
            assert_eq!((record.outcome(), text_of(&record)), ("ok", TEXT.concat()), "{name}");
        } else {
            assert_eq!(record.code(), "stream_interrupted", "{name}");
            assert_eq!(record.failures(), [end.replace("unreachable", "cut")], "{name}");
            assert_eq!(text_of(&record), "A fairlead guides", "{name}");
        }
    }
}

#[test]
fn tool_calls_and_thoughts_are_not_gone_on_from() {
    let call = json!({ "tool_calls": [{ "index": 0, "id": "c", "type": "function", "function": { "name": "f" } }] });
    let begun = [opened(), role(), says("A"), event(chunk(0, &call, None)), reset()].concat();
    let record = World::new()
        .endpoint("a", [begun])
        .engine("b", Engine::of(&TEXT))
        .policy(resume("continue"))
        .run(chat().with("tools", json!([{}])));
    assert_eq!((&*record.code(), record.failures()), ("stream_interrupted", vec!["cut tool_calls".to_owned()]));

    // What was thought is compared as well; going on in the middle of it, or behind it, is not for vLLM.
    let mut thinks = Engine::of(&TEXT);
    thinks.thoughts = ["Hm", ".", " Well"].map(str::to_owned).to_vec();
    for cut in 1..8 {
        let first = Engine { breaks: [(cut, Break::Reset)].into(), ..thinks.clone() };
        let record = World::new().engine("a", first).engine("b", thinks.clone()).policy(resume("continue")).run(chat());
        assert_eq!(ways(&record), ["verify at b, reasoning"], "{cut}");
        assert_eq!(strict(&record).0, TEXT.concat(), "{cut}");
        let thought: String = record
            .reads()
            .iter()
            .filter_map(|(_, data)| {
                Some(serde_json::from_str::<Value>(data).ok()?["choices"][0]["delta"]["reasoning"].as_str()?.to_owned())
            })
            .collect();
        assert_eq!(thought, "Hm. Well", "{cut}");
        let other = Engine { thoughts: vec!["Um".to_owned()], ..thinks.clone() };
        let first = Engine { breaks: [(cut, Break::Reset)].into(), ..thinks.clone() };
        let record = World::new().engine("a", first).engine("b", other).policy(resume("continue")).run(chat());
        assert_eq!(record.failures().last().unwrap(), "differs nobody_left", "{cut}");
    }
}

#[test]
fn only_vllm_is_believed_to_go_on_unless_somebody_vouches_for_a_server() {
    for cut in 1..TEXT.len() {
        let foreign = || Engine { begins_again: true, ..Engine::of(&TEXT) };
        let world = || World::new().engine("a", Engine::of(&TEXT).breaking(cut, Break::End)).engine("b", foreign());
        let record = world().policy(resume("continue")).run(chat());
        assert_eq!(ways(&record), ["continue at b", "verify at a, differs"], "{cut}");
        assert_eq!(strict(&record).0, TEXT.concat(), "{cut}");
        // Whoever says that it goes on is taken at their word.
        let record = world().continues(true).policy(resume("continue")).run(chat());
        let lacks_white_space = TEXT[cut - 1].trim().is_empty();
        assert_eq!(ways(&record).len(), 1 + usize::from(lacks_white_space), "{cut}");
    }
}

#[test]
fn an_endpoint_that_cannot_continue_is_asked_again_and_compared() {
    let record = World::new()
        .engine("a", Engine::of(&TEXT).breaking(4, Break::End))
        .continues(false)
        .policy(resume("continue"))
        .run(chat());
    assert_eq!((ways(&record), strict(&record).0), (vec!["verify at a, endpoint".to_owned()], TEXT.concat()));
}

#[test]
fn an_endpoint_of_another_model_does_not_go_on_but_may_say_the_same() {
    let broken = || Engine::of(&TEXT).breaking(4, Break::End);
    let record = World::new()
        .engine("a", broken())
        .target("b", Some("another"))
        .engine("b", Engine::of(&TEXT))
        .policy(resume("continue"))
        .run(chat());
    assert_eq!(ways(&record), ["verify at b, model"]);
    assert_eq!(strict(&record).0, TEXT.concat());
}

#[test]
fn whoever_refuses_to_continue_is_not_asked_so_for_an_hour() {
    const HOUR: u64 = 3_600_000;
    let refusing = || Engine { refuses: true, ..Engine::of(&TEXT) };
    let fleet = Default::default();
    let (asked, passed_by) = (vec!["continue at b", "continue at a"], vec!["verify at b, refused"]);
    // For an hour: another version may serve there then.
    for (at, expected) in [(0, &asked), (60_000, &passed_by), (HOUR - 1000, &passed_by), (HOUR + 1000, &asked)] {
        let record = World::new()
            .fleet(&fleet)
            .begins(at)
            .engine("a", Engine::of(&TEXT).breaking(4, Break::End))
            .engine("b", refusing())
            .policy(json!({ "resume": "continue", "backoff": { "base_ms": 0 }, "max_attempts": 5 }))
            .run(chat());
        assert_eq!(ways(&record), *expected, "{at}: {:?}", record.failures());
        assert_eq!(strict(&record).0, TEXT.concat());
    }
}

#[test]
fn vllm_is_known_by_any_of_its_own_members() {
    let rest = |members: &[(&str, bool)]| {
        let mut said = chunk(0, &json!({ "content": " guides" }), None);
        for (name, of_choice) in members {
            let place = if *of_choice { &mut said["choices"][0] } else { &mut said };
            place[*name] = Value::Null;
        }
        [opened(), role(), event(&said), finishes("stop"), done(), end()].concat()
    };
    let asked = |rest| {
        let begun = [opened(), role(), says("A"), says(" fairlead"), reset()].concat();
        let world = World::new().endpoint("a", [begun, well("A fairlead guides")]).endpoint("b", [rest]);
        let record = world.policy(resume("continue")).run(chat());
        assert_eq!(strict(&record).0, "A fairlead guides");
        ways(&record)
    };
    for mark in [("prompt_token_ids", false), ("prompt_token_ids", true), ("token_ids", true), ("stop_reason", true)] {
        assert_eq!(asked(rest(&[mark])), ["continue at b"], "{mark:?}");
    }
    // Others have these as well.
    let foreign = [("usage", false), ("system_fingerprint", false), ("prompt_logprobs", false), ("tokens", true)];
    assert_eq!(asked(rest(&foreign)), ["continue at b", "verify at a, differs"]);
    // Nor is another server believed that there is nothing more to say.
    assert_eq!(
        asked([opened(), role(), finishes("stop"), done(), end()].concat()),
        ["continue at b", "verify at a, differs"]
    );
}

#[test]
fn a_refusal_for_its_length_holds_for_the_call_alone() {
    let fleet = Default::default();
    for (at, expected) in [(0, vec!["continue at b", "verify at a, context"]), (60_000, vec!["continue at b"])] {
        let mut world = World::new().fleet(&fleet).begins(at).engine("a", Engine::of(&TEXT).breaking(4, Break::End));
        world = match at {
            0 => world.endpoint("b", [answers(413, &[("content-type", "text/html")], "too large")]),
            _ => world.engine("b", Engine::of(&TEXT)),
        };
        let record = world.policy(resume("continue")).run(chat());
        assert_eq!(
            (ways(&record), strict(&record).0),
            (expected.iter().map(ToString::to_string).collect(), TEXT.concat())
        );
    }
}

#[test]
fn the_last_attempt_is_not_spent_on_what_may_be_refused_again() {
    let refusing = || Engine { refuses: true, ..Engine::of(&TEXT) };
    let record = World::new()
        .engine("a", Engine { breaks: [(4, Break::End)].into(), ..refusing() })
        .engine("b", refusing())
        .policy(resume("continue"))
        .run(chat());
    assert_eq!(ways(&record), ["continue at b", "verify at a, refused"]);
    assert_eq!(strict(&record).0, TEXT.concat());
}
