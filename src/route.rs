//! Which target comes next: ordered failover.
//!
//! A target that has not been asked yet comes first, in the order of `CONFIG`, at once and free of
//! charge; only when all have failed is one asked again, and that costs time and tokens.

use crate::{
    classify::{Failure, JobFailure, Verdict},
    settings::Target,
    time::Instant,
};

/// The state of one call's route over the targets of its model.
#[derive(Debug)]
pub struct Route {
    hops: Vec<Hop>,
    /// Endpoints that may have died under this request.
    deaths: Vec<usize>,
    /// Jobs that may be at work although nobody knows their ids.
    lost: u32,
    /// One was submitted behind such a one.
    made_good: bool,
}

#[derive(Debug)]
struct Hop {
    endpoint: usize,
    model: Option<String>,
    tries: u32,
    /// It asked to be left alone until then.
    not_before: Option<Instant>,
    /// It said that it has no room.
    throttled: bool,
    standing: Standing,
    /// Its breaker has turned this call away.
    shut: bool,
    /// Its breaker has heard of a failure of this call.
    blamed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// May be asked.
    Well,
    /// Let a timer run out: not asked again while another is there.
    Silent,
    /// Not asked again in this call.
    Out,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A target whose endpoint this call has not asked yet: at once, and free.
    First {
        /// Its place among the model's targets.
        target: usize,
    },
    /// One whose endpoint was asked before: after a wait, and paid for.
    Again {
        /// Its place among the model's targets.
        target: usize,
        /// How often this endpoint was asked again already.
        repeat: u32,
        /// It said that it has no room.
        throttled: bool,
        /// Not earlier than this, by its own word.
        not_before: Option<Instant>,
    },
    /// Nobody is left to ask.
    Nobody,
}

impl Route {
    /// A route over these targets.
    pub fn new(targets: &[Target]) -> Self {
        let hop = |target: &Target| Hop {
            endpoint: target.index,
            model: target.model.clone(),
            tries: 0,
            not_before: None,
            throttled: false,
            standing: Standing::Well,
            shut: false,
            blamed: false,
        };
        Self { hops: targets.iter().map(hop).collect(), deaths: Vec::new(), lost: 0, made_good: false }
    }

    /// An attempt at this target goes out.
    pub fn on_attempt(&mut self, target: usize) {
        if let Some(hop) = self.hops.get_mut(target) {
            hop.tries = hop.tries.saturating_add(1);
        }
    }

    /// An attempt at this target failed. A `Retry-After` of more than `longest_ms` is not waited
    /// for.
    pub fn on_failure(&mut self, target: usize, failure: &Failure, verdict: Verdict, now: Instant, longest_ms: u64) {
        let Some(Hop { endpoint, model, .. }) = self.hops.get(target) else { return };
        let (endpoint, model) = (*endpoint, model.clone());
        self.lost = self.lost.saturating_add((*failure == Failure::Job(JobFailure::SubmissionLost)).into());
        if failure.is_death() && !self.deaths.contains(&endpoint) {
            self.deaths.push(endpoint);
        }
        // An endpoint stands as it does under whatever model's name it is asked.
        let concerned = |hop: &&mut Hop| match verdict {
            Verdict::Retry { .. } | Verdict::NextTarget => hop.endpoint == endpoint,
            Verdict::OtherModel => hop.model == model,
            Verdict::Fatal => true,
        };
        for hop in self.hops.iter_mut().filter(concerned) {
            match verdict {
                Verdict::Retry { after_ms, throttled } if after_ms.is_none_or(|ms| ms <= longest_ms) => {
                    hop.throttled = throttled;
                    hop.not_before = after_ms.map(|ms| now.after(ms));
                    if matches!(failure, Failure::Timeout(_)) && hop.standing == Standing::Well {
                        hop.standing = Standing::Silent;
                    }
                }
                _ => hop.standing = Standing::Out,
            }
        }
    }

    /// The breaker of this target has turned the call away: it is passed by from now on.
    pub fn on_shut(&mut self, target: usize) {
        if let Some(hop) = self.hops.get_mut(target) {
            hop.shut = true;
        }
    }

    /// Whether a failure of this target is the first of its endpoint in this call: repeats count no more.
    pub fn counts_failure(&mut self, target: usize) -> bool {
        let Some(endpoint) = self.hops.get(target).map(|hop| hop.endpoint) else { return false };
        let known = self.hops.iter().any(|hop| hop.endpoint == endpoint && hop.blamed);
        if let Some(hop) = self.hops.get_mut(target) {
            hop.blamed = true;
        }
        !known
    }

    /// A submission is given up before it was answered.
    pub const fn on_lost_submission(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// A submission was answered.
    pub const fn on_submitted(&mut self) {
        self.made_good |= self.lost > 0;
    }

    /// Whether no job may be submitted any more: behind one that may be at work unknown there was one
    /// more already. What the unknown one costs is bounded by its `ttl` alone.
    pub const fn has_lost_enough(&self) -> bool {
        self.lost >= 2 || self.made_good
    }

    /// Whether somebody else could still be asked for the first time.
    pub fn has_others(&self, target: usize) -> bool {
        let endpoint = self.hops.get(target).map(|hop| hop.endpoint);
        let other = |hop: &Hop| Some(hop.endpoint) != endpoint && self.tries_of(hop.endpoint) == 0;
        self.hops.iter().any(|hop| hop.standing != Standing::Out && !hop.shut && other(hop))
    }

    /// Which target to ask now, of those that are not `unfit`.
    pub fn next(&self, unfit: impl Fn(usize) -> bool) -> Next {
        if self.deaths.len() >= 2 {
            return Next::Nobody;
        }
        let asked = |endpoint| self.tries_of(endpoint) > 0;
        let hops = || {
            let passed_by = |(target, hop): &(usize, &Hop)| hop.standing == Standing::Out || hop.shut || unfit(*target);
            (0usize..).zip(&self.hops).filter(move |hop| !passed_by(hop))
        };
        let fresh = hops().find(|(_, hop)| hop.tries == 0 && !asked(hop.endpoint));
        if let Some((target, _)) = fresh {
            return Next::First { target };
        }
        // Those that answered before those that kept silent, then the one that is free soonest,
        // then the one asked least.
        let again = hops().min_by_key(|(_, hop)| (hop.standing == Standing::Silent, hop.not_before, hop.tries));
        match again {
            Some((target, hop)) => Next::Again {
                target,
                repeat: self.tries_of(hop.endpoint).saturating_sub(1),
                throttled: hop.throttled,
                not_before: hop.not_before,
            },
            None => Next::Nobody,
        }
    }

    fn tries_of(&self, endpoint: usize) -> u32 {
        self.hops.iter().filter(|hop| hop.endpoint == endpoint).map(|hop| hop.tries).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deadline::Timer, settings::Endpoint};
    use std::rc::Rc;

    fn route(targets: &[(usize, &str)]) -> Route {
        let target = |&(index, model): &(usize, &str)| {
            let endpoint = Endpoint { name: index.to_string(), ..Endpoint::default() };
            Target { endpoint: Rc::new(endpoint), index, model: Some(model.to_owned()), weight: 1 }
        };
        Route::new(&targets.iter().map(target).collect::<Vec<_>>())
    }

    const NOW: Instant = Instant::from_millis(1000);
    const RETRY: Verdict = Verdict::Retry { after_ms: None, throttled: false };

    fn fail(route: &mut Route, target: usize, failure: &Failure, verdict: Verdict) -> Next {
        route.on_attempt(target);
        route.on_failure(target, failure, verdict, NOW, 30_000);
        route.next(|_| false)
    }

    #[test]
    fn the_untried_come_first_and_then_the_least_tried_again() {
        let mut route = route(&[(0, "m"), (1, "m")]);
        assert_eq!(route.next(|_| false), Next::First { target: 0 });
        assert_eq!(fail(&mut route, 0, &Failure::Unreachable, RETRY), Next::First { target: 1 });
        assert_eq!(
            fail(&mut route, 1, &Failure::Unreachable, RETRY),
            Next::Again { target: 0, repeat: 0, throttled: false, not_before: None }
        );
        assert_eq!(
            fail(&mut route, 0, &Failure::Unreachable, RETRY),
            Next::Again { target: 1, repeat: 0, throttled: false, not_before: None }
        );
    }

    #[test]
    fn the_silent_are_not_asked_again_while_another_is_there() {
        let mut route = route(&[(0, "m"), (1, "m")]);
        fail(&mut route, 0, &Failure::Timeout(Timer::FirstToken), RETRY);
        for repeat in 0..3 {
            let next = fail(&mut route, 1, &Failure::Unreachable, RETRY);
            assert_eq!(next, Next::Again { target: 1, repeat, throttled: false, not_before: None });
        }
        fail(&mut route, 1, &Failure::Unreachable, Verdict::NextTarget);
        assert!(matches!(route.next(|_| false), Next::Again { target: 0, .. }), "alone, it is asked again");
    }

    #[test]
    fn pushback_is_a_floor_and_too_much_of_it_is_a_no() {
        let mut route = route(&[(0, "m"), (1, "m")]);
        let pushback = |ms| Verdict::Retry { after_ms: Some(ms), throttled: true };
        fail(&mut route, 0, &Failure::Unreachable, pushback(9000));
        let next = fail(&mut route, 1, &Failure::Unreachable, pushback(2000));
        assert_eq!(next, Next::Again { target: 1, repeat: 0, throttled: true, not_before: Some(NOW.after(2000)) });
        assert_eq!(
            fail(&mut route, 1, &Failure::Unreachable, pushback(30_001)),
            Next::Again { target: 0, repeat: 0, throttled: true, not_before: Some(NOW.after(9000)) }
        );
    }

    #[test]
    fn a_request_that_two_endpoints_died_under_is_not_given_to_a_third() {
        let mut route = route(&[(0, "m"), (1, "m"), (2, "m")]);
        assert_eq!(fail(&mut route, 0, &Failure::Cut, RETRY), Next::First { target: 1 });
        assert_eq!(fail(&mut route, 1, &Failure::Cut, RETRY), Next::Nobody);
    }

    #[test]
    fn a_prompt_too_long_goes_to_another_model_only() {
        let mut route = route(&[(0, "small"), (1, "small"), (2, "large")]);
        let too_long = Failure::Invalid("stands in for the 400");
        assert_eq!(fail(&mut route, 0, &too_long, Verdict::OtherModel), Next::First { target: 2 });
        assert_eq!(fail(&mut route, 2, &too_long, Verdict::OtherModel), Next::Nobody);
    }

    #[test]
    fn a_second_model_on_an_endpoint_that_was_asked_is_paid_for() {
        let mut route = route(&[(0, "a"), (0, "b")]);
        assert_eq!(
            fail(&mut route, 0, &Failure::Unreachable, RETRY),
            Next::Again { target: 1, repeat: 0, throttled: false, not_before: None }
        );
    }

    #[test]
    fn a_request_at_fault_goes_to_nobody() {
        let mut route = route(&[(0, "m"), (1, "m")]);
        assert_eq!(fail(&mut route, 0, &Failure::Unreachable, Verdict::Fatal), Next::Nobody);
    }
}
