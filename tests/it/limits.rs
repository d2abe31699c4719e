//! What a client may ask for: calls in a minute and at a time, and how large an answer.

use crate::{
    engine::{Break, Engine},
    script::*,
    wanted::*,
    world::{Crowd, Member, START, World},
};
use fairlead_core::{
    access::{Client, Limits},
    allowance::{self, Pass},
    error::{Code, Error},
    event::Event,
    fleet::Fleet,
    rng::Rng,
    time::Instant,
};
use serde_json::{Value, json};
use std::{cell::RefCell, rc::Rc};

fn client(per_minute: Option<u32>, at_once: Option<u32>) -> Client {
    let limits = Limits { requests_per_minute: per_minute, max_concurrency: at_once, ..Limits::default() };
    Client { name: "web".into(), index: 3, limits, ..Client::default() }
}

fn at(ms: u64) -> Instant {
    START.after(ms)
}

fn fields(fleet: &RefCell<Fleet>, client: &Client, now: u64) -> Vec<String> {
    allowance::fields(fleet, client, at(now)).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

fn limit(error: &Error) -> (Code, &str, u64) {
    (error.code, error.param.as_deref().unwrap(), error.retry_after_ms.unwrap())
}

/// Many calls of a client with both limits, at random moments and for random times. Some are cancelled by the
/// platform, which drops nothing; some are refused after all.
#[test]
fn in_no_minute_and_at_no_moment_are_there_more_than_may_be_and_no_place_is_lost() {
    for seed in 0..300 {
        let mut rng = Rng::from_seed(seed);
        let (per_minute, at_once) = (1 + rng.up_to(60) as u32, 1 + rng.up_to(12) as u32);
        let client = client(Some(per_minute), Some(at_once));
        let fleet = Rc::new(RefCell::new(Fleet::default()));
        let mut taken: Vec<u64> = Vec::new();
        // Until when each is under way, and what gives its place back then.
        let mut under_way: Vec<(u64, Option<Pass>)> = Vec::new();
        let (mut now, mut refusals) = (0, 0);
        let pace = 1 + rng.up_to(4000);
        for _ in 0..400 {
            now += rng.up_to(pace);
            under_way.retain(|(until, _)| *until > now);
            let lease = 1 + rng.up_to(60_000);
            match Pass::take(&fleet, &client, at(now), at(now).after(600_000)) {
                Ok(pass) => {
                    let pass = pass.unwrap().until(at(now + lease));
                    match rng.up_to(10) {
                        0 => pass.take_back(),
                        1 => {
                            std::mem::forget(pass);
                            taken.push(now);
                            under_way.push((now + lease, None));
                        }
                        _ => {
                            taken.push(now);
                            under_way.push((now + rng.up_to(lease), Some(pass)));
                        }
                    }
                    assert!(under_way.iter().filter(|(until, _)| *until > now).count() <= at_once as usize, "{seed}");
                }
                Err(error) => {
                    refusals += 1;
                    let in_minute = taken.iter().filter(|at| **at + 60_250 > now).count();
                    match limit(&error) {
                        (Code::RateLimited, "max_concurrency", 1000) => {
                            assert_eq!(under_way.len(), at_once as usize, "{seed}");
                        }
                        (Code::RateLimited, "requests_per_minute", again) => {
                            assert!(
                                in_minute >= per_minute as usize,
                                "refused too early: {in_minute} of {per_minute}, {seed}"
                            );
                            assert!(again <= 60_250, "{again}");
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        for (index, start) in taken.iter().enumerate() {
            let within = taken[index..].iter().take_while(|other| **other < start + 60_000).count();
            assert!(within <= per_minute as usize, "{within} of {per_minute} from {start}, {seed}");
        }
        drop(under_way);
        assert!(refusals > 0 || pace > 500, "{seed}");
        let later = now + 130_000;
        let all: Vec<_> = (0..at_once.min(per_minute))
            .map(|_| Pass::take(&fleet, &client, at(later), at(later).after(1)).expect("room"))
            .collect();
        assert_eq!(all.len(), at_once.min(per_minute) as usize);
    }
}

#[test]
fn a_client_is_told_what_is_left_and_nobody_elses_calls_count() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let web = client(Some(2), None);
    assert_eq!(
        fields(&fleet, &web, 0),
        [r#"ratelimit-policy: "isolate";q=2;w=60"#, r#"ratelimit: "isolate";r=2;t=60"#]
    );
    let take = |client: &Client, now| Pass::take(&fleet, client, at(now), at(now).after(5000));
    let other = Client { index: 0, name: "other".into(), ..web.clone() };
    for _ in 0..2 {
        drop(take(&other, 0).unwrap());
    }
    drop(take(&web, 0).unwrap());
    assert_eq!(fields(&fleet, &web, 30_100)[1], r#"ratelimit: "isolate";r=1;t=31"#);
    drop(take(&web, 30_100).unwrap());
    let error = take(&web, 30_200).unwrap_err();
    assert_eq!(limit(&error), (Code::RateLimited, "requests_per_minute", 30_050));
    assert!(error.message.contains("isolate") && error.message.contains("`web`"), "{error}");
    assert_eq!(fields(&fleet, &web, 30_200)[1], r#"ratelimit: "isolate";r=0;t=31"#);
    assert!(take(&web, 60_250).is_ok(), "what was refused does not count");
    assert!(take(&client(None, None), 0).unwrap().is_none(), "without limits nothing is kept");
    assert!(fields(&fleet, &client(None, Some(1)), 0).is_empty());
}

/// Whatever way a call ends, its place is free then, and not before.
#[test]
fn each_end_of_a_call_gives_its_place_back() {
    let slow = [opened(), says("Well, "), wait(3000), says("yes."), finishes("stop"), done(), end()].concat();
    let policy = json!({ "deadline_ms": 4000, "max_attempts": 1, "breaker": { "consecutive": 1_000_000, "min_calls": 1_000_000 } });
    type Leaving = fn(Member) -> Member;
    let cases: [(&str, crate::script::Script, Leaving, u64); 7] = [
        ("an answer", slow.clone(), |member| member, 3000),
        ("a failure", [wait(500), reset()].concat(), |member| member, 500),
        ("a refusal", [wait(700), answers(400, &[], "{}")].concat(), |member| member, 700),
        ("the deadline", [wait(60_000)].concat(), |member| member, 4000),
        ("a stream cut by the deadline", [opened(), says("W"), wait(60_000)].concat(), |member| member, 4000),
        ("its client's going", slow.clone(), |member| member.leaves(1000), 1000),
        ("its host's dropping it", slow, |member| member.dropped(1200), 1200),
    ];
    for (name, script, change, ends_at) in cases {
        let world = || World::new().limits(json!({ "max_concurrency": 1 })).policy(policy.clone());
        let run = |second: u64| -> Crowd {
            let members = [change(Member::at(0, &chat())), Member::at(second, &chat())];
            world().endpoint("a", [script.clone(), well("Me.")]).mixed_crowd(members)
        };
        let refused = run(ends_at - 1).records[1].refused.clone().expect(name);
        assert_eq!(limit(&refused), (Code::RateLimited, "max_concurrency", 1000), "{name}");
        assert!(refused.message.contains("isolate"), "{refused}");
        assert_eq!(run(ends_at + 1).records[1].refused, None, "{name}");
    }
}

#[test]
fn a_request_that_the_platform_cancels_is_over_at_its_deadline() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let web = client(None, Some(1));
    std::mem::forget(Pass::take(&fleet, &web, at(0), at(300_000)).unwrap().unwrap().until(at(5000)));
    assert!(Pass::take(&fleet, &web, at(4999), at(300_000)).is_err());
    assert!(Pass::take(&fleet, &web, at(5000), at(300_000)).is_ok());
}

#[test]
fn a_rate_limiter_refuses_for_its_period_and_what_it_refuses_does_not_count() {
    let fleet = Rc::new(RefCell::new(Fleet::default()));
    let world = || World::new().target("a", None).fleet(&fleet).limits(json!({ "requests_per_minute": 1 }));
    for (period_ms, told) in [(None, 60_000), (Some(10_000), 10_000)] {
        let mut limits = json!({ "requests_per_minute": 1 });
        limits["rate_limiter_period_ms"] = period_ms.into();
        let (refused, ..) = world().limits(limits).limiter(3, Some(false)).admit();
        let refused = refused.unwrap_err();
        assert_eq!(limit(&refused), (Code::RateLimited, "rate_limiter", told));
        assert!(refused.message.contains("`LIMITER`"), "{refused}");
    }
    let (pass, now, events) = world().limiter(3, Some(true)).admit();
    assert_eq!((pass.unwrap().is_some(), now, events), (true, 3, vec![]));
    let (refused, ..) = world().limiter(3, Some(true)).admit();
    assert_eq!(limit(&refused.unwrap_err()).1, "requests_per_minute");
}

#[test]
fn a_rate_limiter_that_fails_or_hangs_lets_calls_through_and_is_told_of() {
    let hangs = u64::MAX / 2;
    for (after_ms, answer, until, reason) in [
        (5, None, 5, "error"),
        (199, None, 199, "error"),
        (201, Some(false), 200, "timeout"),
        (hangs, None, 200, "timeout"),
    ] {
        let world = || World::new().target("a", None).limiter(after_ms, answer);
        // A timer that fires early ends no wait; the binding's own would.
        let worlds = if after_ms == hangs { vec![world(), world().early_timers()] } else { vec![world()] };
        for world in worlds {
            let (pass, now, events) = world.admit();
            assert!(pass.unwrap().is_none(), "nothing is counted here");
            let told = vec![Event::RateLimiterFailed { binding: "LIMITER".into(), reason }];
            assert_eq!((now, events), (until, told), "{after_ms}");
        }
    }
}

#[test]
fn a_stream_goes_on_within_what_its_client_may_have() {
    let tokens = ["One", " two", " three", " four", " five"];
    let record = World::new()
        .engine("a", Engine::of(&tokens).breaking(2, Break::Reset))
        .limits(json!({ "max_tokens": 30 }))
        .policy(json!({ "resume": "continue", "backoff": { "base_ms": 1 } }))
        .run(chat());
    let asked: Vec<Value> = record
        .requests
        .iter()
        .filter(|sent| !sent.counts())
        .map(|sent| serde_json::from_slice(&sent.request.body).unwrap())
        .collect();
    assert_eq!(asked[0]["max_tokens"], 30);
    assert_eq!((asked[1]["max_tokens"].clone(), asked[1]["continue_final_message"].clone()), (json!(28), json!(true)));
    assert!(record.text().contains("five"), "{}", record.text());
}
