//! What happens to a fleet, and who takes it on.

use super::endpoint::{Mode, Nature};
use fairlead_core::settings::{Environment, Settings};
use serde_json::{Value, json};
use std::ops::Range;

/// What happens. Times are in milliseconds unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub seconds: u64,
    pub isolates: usize,
    /// The mean life of an isolate; lives are distributed exponentially.
    pub life_ms: u64,
    /// Requests a second that arrive, on average.
    pub rate: u64,
    /// In this time so many times as many arrive.
    pub surge: Option<(Range<u64>, u64)>,
    pub a: Nature,
    /// Endpoint `b` is there and well.
    pub has_b: bool,
    /// Fields of the policy beside its defaults.
    pub policy: Value,
}

impl Default for Scenario {
    /// Five hundred isolates that live five minutes, two endpoints, two hundred requests a second.
    fn default() -> Self {
        Self {
            name: String::new(),
            seconds: 0,
            isolates: 500,
            life_ms: 300_000,
            rate: 200,
            surge: None,
            a: Nature::Scheduled(Vec::new()),
            has_b: true,
            policy: json!({}),
        }
    }
}

/// Who takes it on. All get the same requests, in isolates that live and die at the same times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// The product: breaker, budget, and a store to spread the news.
    Fairlead,
    /// The same without the store.
    Local,
    /// The same without a breaker.
    None,
    /// Without a breaker, but it knows how `a` is when a request arrives.
    Oracle,
    /// Without a breaker, and repeats are free.
    Plain,
}

impl Contestant {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fairlead => "fairlead",
            Self::Local => "local",
            Self::None => "none",
            Self::Oracle => "oracle",
            Self::Plain => "plain retries",
        }
    }

    const fn has_breaker(self) -> bool {
        matches!(self, Self::Fairlead | Self::Local)
    }
}

/// The entry of `models` that leaves `a` out.
pub const WITHOUT_A: &str = "without-a";

struct NoSecrets;

impl Environment for NoSecrets {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }

    fn has_service(&self, _: &str) -> bool {
        false
    }
}

impl Scenario {
    /// When `a` is first not well, and from when on it is well for good.
    pub fn ill(&self) -> Option<Range<u64>> {
        let Nature::Scheduled(modes) = &self.a else { return None };
        let first = modes.iter().find(|(_, mode)| *mode != Mode::Well)?.0;
        let (last, mode) = modes.last()?;
        (*mode == Mode::Well).then_some(first..*last)
    }

    /// Requests a second at this moment, and until when it is so many.
    pub fn rate_at(&self, now: u64) -> (u64, u64) {
        match &self.surge {
            Some((when, _)) if now < when.start => (self.rate, when.start),
            Some((when, factor)) if now < when.end => (self.rate * factor, when.end),
            _ => (self.rate, u64::MAX),
        }
    }

    /// What `CONFIG` says to this contestant.
    pub fn settings(&self, contestant: Contestant) -> Settings {
        let mut policy = self.policy.clone();
        if !contestant.has_breaker() {
            policy["breaker"] = json!({ "enabled": false });
        }
        if contestant == Contestant::Plain {
            policy["budget"] = json!({ "capacity": 1_000_000, "transient_cost": 0, "throttled_cost": 0 });
        }
        let endpoint =
            |name: &str| json!({ "name": name, "provider": "vllm", "base_url": format!("https://{name}.example/v1") });
        let mut targets = vec![json!({ "endpoint": "a" })];
        targets.extend(self.has_b.then(|| json!({ "endpoint": "b" })));
        let config = json!({
            "open": true,
            "endpoints": [endpoint("a"), endpoint("b")],
            "models": [
                { "name": "m", "strategy": "failover", "targets": targets },
                { "name": WITHOUT_A, "targets": [{ "endpoint": "b" }] },
            ],
            "policies": { "default": policy },
        });
        let reading = Settings::read([("CONFIG".to_owned(), config)], &NoSecrets);
        assert_eq!(reading.mistakes, [], "CONFIG of `{}`", self.name);
        reading.settings.expect("no mistakes")
    }
}
