//! How a call is carried out: every timer, bound and price, with its default.
//!
//! A [`Policy`] is validated when it is made; nothing downstream checks it again.

use crate::{
    config::{
        BackoffConfig, BreakerConfig, BudgetConfig, Forward, HedgeAfter, Mistake, OnDeadline, PolicyConfig, Preset,
        Resume,
    },
    error::Error,
};

/// The longest time that a policy may name: a day. It also keeps every host timer inside the 31
/// bits that `setTimeout` has.
pub const MAX_MS: u64 = 86_400_000;

/// The largest body a Worker can be sent (Cloudflare's limit on most plans).
const MAX_REQUEST_BYTES: u64 = 100 << 20;

/// One validated policy. Times are in milliseconds; what each means stands in `docs/policies.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The whole call.
    pub deadline_ms: u64,
    /// From sending to headers, for streaming calls.
    pub headers_ms: u64,
    /// From sending to the first content, for streaming calls.
    pub first_token_ms: u64,
    /// Added to `first_token_ms` for each KiB of the request, up to [`Policy::MAX_PREFILL_MS`].
    pub prefill_ms_per_kib: u64,
    /// Silence between bytes of an answer that has begun.
    pub idle_ms: u64,
    /// Time without content in a stream, however many bytes arrive.
    pub progress_ms: u64,
    /// A RunPod job in its queue.
    pub queue_ms: u64,
    /// Attempts over all targets, the first included.
    pub max_attempts: u32,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is waited for.
    pub retry_after_max_ms: u64,
    /// A comment to the client after this much silence.
    pub keepalive_ms: u64,
    /// A streaming call that still waits after this long gets its 200.
    pub commit_after_ms: u64,
    /// What a call whose deadline comes ends in.
    pub on_deadline: OnDeadline,
    /// How a stream's bytes travel once content flows.
    pub forward: Forward,
    /// What to do when a stream breaks behind its first content.
    pub resume: Resume,
    /// An answer that does not stream is streamed from the endpoint.
    pub stream_internally: bool,
    /// When another target is asked beside one that is still awaited; `None`: never.
    pub hedge: Option<Hedge>,
    /// Larger bodies are refused.
    pub max_request_bytes: u64,
    /// When an endpoint is left alone; `None`: never.
    pub breaker: Option<BreakerPolicy>,
    /// What repeats cost.
    pub budget: BudgetPolicy,
}

/// When another target is asked beside one that is still awaited, and by how many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// So long behind the first request.
    pub after: HedgeAfter,
    /// By this share of calls at most, in millionths.
    pub share_ppm: u32,
}

/// When an endpoint is left alone, and for how long. Ratios are in millionths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Opens at this share of failures,
    pub failure_ppm: u32,
    /// among at least so many calls,
    pub min_calls: u32,
    /// in so long a time.
    pub window_ms: u64,
    /// Opens at so many failures in a row, too.
    pub consecutive: u32,
    /// The longest first opening.
    pub open_ms: u64,
    /// The longest opening.
    pub max_open_ms: u64,
    /// The share of calls that are let through as probes when an opening has just passed.
    pub probe_ppm: u32,
    /// A first content later than this counts as a failure in the share.
    pub slow_first_token_ms: Option<u64>,
}

/// Waits between attempts, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base_ms: u64,
    /// The same, where the endpoint said it has no room.
    pub throttled_base_ms: u64,
    /// The bound of every wait.
    pub max_ms: u64,
}

/// Prices of the retry budget, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetPolicy {
    /// A full bucket.
    pub capacity: u32,
    /// A repeat after a failure.
    pub transient_cost: u32,
    /// A repeat after pushback.
    pub throttled_cost: u32,
    /// What a success gives back.
    pub refund: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deadline_ms: 300_000,
            headers_ms: 30_000,
            first_token_ms: 120_000,
            prefill_ms_per_kib: 100,
            idle_ms: 60_000,
            progress_ms: 120_000,
            queue_ms: 600_000,
            max_attempts: 3,
            backoff: Backoff { base_ms: 200, throttled_base_ms: 1000, max_ms: 20_000 },
            retry_after_max_ms: 30_000,
            keepalive_ms: 5000,
            commit_after_ms: 10_000,
            on_deadline: OnDeadline::Error,
            forward: Forward::Checked,
            resume: Resume::Off,
            stream_internally: false,
            hedge: None,
            max_request_bytes: 26_214_400,
            breaker: Some(BreakerPolicy::default()),
            budget: BudgetPolicy { capacity: 100, transient_cost: 14, throttled_cost: 5, refund: 1 },
        }
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failure_ppm: 500_000,
            min_calls: 8,
            window_ms: 120_000,
            consecutive: 5,
            open_ms: 15_000,
            max_open_ms: 60_000,
            probe_ppm: 10_000,
            slow_first_token_ms: None,
        }
    }
}

impl Policy {
    /// The most that a request's size may add to `first_token_ms`.
    pub const MAX_PREFILL_MS: u64 = 120_000;

    /// Takes a request whose body has so many bytes, or refuses it.
    pub fn admit(&self, bytes: usize) -> Result<(), Error> {
        match u64::try_from(bytes) {
            Ok(bytes) if bytes <= self.max_request_bytes => Ok(()),
            _ => Err(Error::too_large(self.max_request_bytes)),
        }
    }

    /// The defaults under a preset.
    fn preset(preset: Option<Preset>) -> Self {
        let (deadline_s, first_token_s, idle_s) = match preset {
            None => return Self::default(),
            Some(Preset::Simple) => (60, 15, 15),
            Some(Preset::Code) => (180, 45, 60),
            Some(Preset::Document) => (600, 120, 60),
            Some(Preset::Reasoning) => (1800, 300, 120),
        };
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        Self { deadline_ms: ms(deadline_s), first_token_ms: ms(first_token_s), idle_ms: ms(idle_s), ..Self::default() }
    }

    /// Validates a policy as written; what is out of bounds is reported below `path` and keeps
    /// its default.
    pub fn new(config: &PolicyConfig, path: &str, mistakes: &mut Vec<Mistake>) -> Self {
        let mut policy = Self::preset(config.preset);
        let mut set = |field: &mut u64, value: Option<u64>, name: &str, least: u64, most: u64| match value {
            Some(value) if (least..=most).contains(&value) => *field = value,
            Some(value) => mistakes
                .push(Mistake::at(format!("{path}.{name}"), format!("is {value}; it must be from {least} to {most}"))),
            None => {}
        };
        set(&mut policy.deadline_ms, config.deadline_ms, "deadline_ms", 1, MAX_MS);
        set(&mut policy.headers_ms, config.headers_ms, "headers_ms", 1, MAX_MS);
        set(&mut policy.first_token_ms, config.first_token_ms, "first_token_ms", 1, MAX_MS);
        set(&mut policy.prefill_ms_per_kib, config.prefill_ms_per_kib, "prefill_ms_per_kib", 0, MAX_MS);
        set(&mut policy.idle_ms, config.idle_ms, "idle_ms", 1, MAX_MS);
        set(&mut policy.progress_ms, config.progress_ms, "progress_ms", 1, MAX_MS);
        set(&mut policy.queue_ms, config.queue_ms, "queue_ms", 1, MAX_MS);
        set(&mut policy.retry_after_max_ms, config.retry_after_max_ms, "retry_after_max_ms", 0, MAX_MS);
        set(&mut policy.keepalive_ms, config.keepalive_ms, "keepalive_ms", 100, MAX_MS);
        set(&mut policy.commit_after_ms, config.commit_after_ms, "commit_after_ms", 0, MAX_MS);
        set(&mut policy.max_request_bytes, config.max_request_bytes, "max_request_bytes", 1, MAX_REQUEST_BYTES);
        let BackoffConfig { base_ms, throttled_base_ms, max_ms } = config.backoff;
        set(&mut policy.backoff.base_ms, base_ms, "backoff.base_ms", 0, MAX_MS);
        set(&mut policy.backoff.throttled_base_ms, throttled_base_ms, "backoff.throttled_base_ms", 0, MAX_MS);
        set(&mut policy.backoff.max_ms, max_ms, "backoff.max_ms", 0, MAX_MS);

        let mut breaker = BreakerPolicy::default();
        let BreakerConfig { window_ms, open_ms, max_open_ms, slow_first_token_ms, .. } = config.breaker;
        set(&mut breaker.window_ms, window_ms, "breaker.window_ms", 1, MAX_MS);
        set(&mut breaker.open_ms, open_ms, "breaker.open_ms", 1, MAX_MS);
        // An opening that is asked to be long may be.
        breaker.max_open_ms = breaker.max_open_ms.max(breaker.open_ms);
        set(&mut breaker.max_open_ms, max_open_ms, "breaker.max_open_ms", breaker.open_ms, MAX_MS);
        if slow_first_token_ms.is_some() {
            let mut slow_ms = 0;
            set(&mut slow_ms, slow_first_token_ms, "breaker.slow_first_token_ms", 1, MAX_MS);
            breaker.slow_first_token_ms = Some(slow_ms);
        }

        let hedge_after = match config.hedge_after_ms {
            Some(HedgeAfter::Ms(ms)) => {
                let mut hedge_ms = 0;
                set(&mut hedge_ms, Some(ms), "hedge_after_ms", 1, MAX_MS);
                (hedge_ms > 0).then_some(HedgeAfter::Ms(hedge_ms))
            }
            after => after,
        };

        let mut count = |field: &mut u32, value: Option<u64>, name: &str, least: u32, most: u32| {
            let mut wide = u64::from(*field);
            set(&mut wide, value, name, least.into(), most.into());
            *field = u32::try_from(wide).unwrap_or(*field);
        };
        let BreakerConfig { min_calls, consecutive, .. } = config.breaker;
        count(&mut breaker.min_calls, min_calls, "breaker.min_calls", 1, 1_000_000);
        count(&mut breaker.consecutive, consecutive, "breaker.consecutive", 1, 1_000_000);
        count(&mut policy.max_attempts, config.max_attempts, "max_attempts", 1, 20);
        let BudgetConfig { capacity, transient_cost, throttled_cost, refund } = config.budget;
        count(&mut policy.budget.capacity, capacity, "budget.capacity", 0, 1_000_000);
        count(&mut policy.budget.transient_cost, transient_cost, "budget.transient_cost", 0, 1_000_000);
        count(&mut policy.budget.throttled_cost, throttled_cost, "budget.throttled_cost", 0, 1_000_000);
        count(&mut policy.budget.refund, refund, "budget.refund", 0, 1_000_000);
        let mut share = |field: &mut u32, value: Option<f64>, name: &str| match value {
            // As casts saturate, what is no number is none at all.
            Some(value) if value > 0.0 && value <= 1.0 => *field = (value * 1_000_000.0).ceil() as u32,
            Some(_) => mistakes.push(Mistake::at(format!("{path}.{name}"), "must be above 0 and at most 1")),
            None => {}
        };
        share(&mut breaker.failure_ppm, config.breaker.failure_ratio, "breaker.failure_ratio");
        share(&mut breaker.probe_ppm, config.breaker.probe_ratio, "breaker.probe_ratio");
        let mut share_ppm = 50_000;
        share(&mut share_ppm, config.hedge_ratio, "hedge_ratio");
        policy.hedge = hedge_after.map(|after| Hedge { after, share_ppm });
        policy.breaker = config.breaker.enabled.unwrap_or(true).then_some(breaker);
        policy.on_deadline = config.on_deadline.unwrap_or(policy.on_deadline);
        policy.forward = config.forward.unwrap_or(policy.forward);
        policy.resume = config.resume.unwrap_or(policy.resume);
        policy.stream_internally = config.stream_internally.unwrap_or(policy.stream_internally);
        policy
    }

    /// The time to the first content for a request of this many bytes.
    pub fn first_token_for(&self, request_bytes: usize) -> u64 {
        let kib = u64::try_from(request_bytes >> 10).unwrap_or(u64::MAX);
        let prefill = kib.saturating_mul(self.prefill_ms_per_kib).min(Self::MAX_PREFILL_MS);
        self.first_token_ms.saturating_add(prefill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> (Policy, Vec<Mistake>) {
        let mut mistakes = Vec::new();
        let (config, _) = crate::config::read(&serde_json::from_str(json).unwrap());
        (Policy::new(&config, "policies.x", &mut mistakes), mistakes)
    }

    #[test]
    fn presets_set_three_timers_and_fields_override_them() {
        let (simple, _) = policy(r#"{"preset": "simple", "idle_ms": 8000}"#);
        assert_eq!((simple.deadline_ms, simple.first_token_ms, simple.idle_ms), (60_000, 15_000, 8000));
        for (name, s) in [("code", (180, 45, 60)), ("document", (600, 120, 60)), ("reasoning", (1800, 300, 120))] {
            let (policy, mistakes) = policy(&format!(r#"{{"preset": "{name}"}}"#));
            assert_eq!(
                (policy.deadline_ms, policy.first_token_ms, policy.idle_ms),
                (s.0 * 1000, s.1 * 1000, s.2 * 1000)
            );
            assert_eq!(policy.headers_ms, 30_000);
            assert!(mistakes.is_empty());
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named_with_its_bounds() {
        let (policy, mistakes) = policy(r#"{"deadline_ms": 0, "max_attempts": 99, "keepalive_ms": 86400001}"#);
        assert_eq!(policy, Policy::default());
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "policies.x.deadline_ms: is 0; it must be from 1 to 86400000",
                "policies.x.keepalive_ms: is 86400001; it must be from 100 to 86400000",
                "policies.x.max_attempts: is 99; it must be from 1 to 20",
            ]
        );
    }

    #[test]
    fn a_long_prompt_gets_longer_to_its_first_token_but_not_for_ever() {
        let policy = Policy::default();
        assert_eq!(policy.first_token_for(1023), 120_000);
        assert_eq!(policy.first_token_for(100 << 10), 130_000);
        assert_eq!(policy.first_token_for(100 << 20), 240_000);
    }
}
