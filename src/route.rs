//! Which target comes next: failover, in the order that the model's strategy gives.
//!
//! A target that has not been asked yet comes first, in that order, at once and free of charge;
//! only when all have failed is one asked again, and that costs time and tokens.

use crate::{
    classify::{Failure, JobFailure, Verdict},
    config::Strategy,
    rng::Rng,
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
    /// Its place in the order of trying.
    turn: usize,
    tries: u32,
    /// It asked to be left alone until then.
    not_before: Option<Instant>,
    /// It said that it has no room.
    throttled: bool,
    standing: Standing,
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
    /// A route over these targets, in the order of `CONFIG`.
    pub fn new(targets: &[Target]) -> Self {
        Self::ordered(targets, &[])
    }

    /// A route over these targets in another order (see [`order`]). Those that it does not name come
    /// last.
    pub fn ordered(targets: &[Target], order: &[usize]) -> Self {
        let hop = |(place, target): (usize, &Target)| Hop {
            endpoint: target.index,
            model: target.model.clone(),
            turn: order.iter().position(|other| *other == place).unwrap_or(order.len()),
            tries: 0,
            not_before: None,
            throttled: false,
            standing: Standing::Well,
            blamed: false,
        };
        let hops = (0usize..).zip(targets).map(hop).collect();
        Self { hops, deaths: Vec::new(), lost: 0, made_good: false }
    }

    /// An attempt at this target goes out.
    pub fn on_attempt(&mut self, target: usize) {
        if let Some(hop) = self.hops.get_mut(target) {
            hop.tries = hop.tries.saturating_add(1);
        }
    }

    /// An attempt at this target failed, and its endpoint may have `died` under the request. A `Retry-After` of more
    /// than `longest_ms` is not waited for.
    pub fn on_failure(
        &mut self,
        target: usize,
        failure: &Failure,
        verdict: Verdict,
        died: bool,
        now: Instant,
        longest_ms: u64,
    ) {
        let Some(Hop { endpoint, model, .. }) = self.hops.get(target) else { return };
        let (endpoint, model) = (*endpoint, model.clone());
        self.lost = self.lost.saturating_add((failure.of_job() == Some(&JobFailure::SubmissionLost)).into());
        if died && !self.deaths.contains(&endpoint) {
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

    /// This target is shut: its endpoint's breaker turned the call away, and would again.
    pub fn on_shut(&mut self, target: usize) {
        let Some(endpoint) = self.hops.get(target).map(|hop| hop.endpoint) else { return };
        self.hops.iter_mut().filter(|hop| hop.endpoint == endpoint).for_each(|hop| hop.standing = Standing::Out);
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
        self.hops.iter().any(|hop| hop.standing != Standing::Out && other(hop))
    }

    /// Which target to ask now, of those that are not `unfit`.
    pub fn next(&self, unfit: impl Fn(usize) -> bool) -> Next {
        if self.deaths.len() >= 2 {
            return Next::Nobody;
        }
        let asked = |endpoint| self.tries_of(endpoint) > 0;
        let hops =
            || (0usize..).zip(&self.hops).filter(|(target, hop)| hop.standing != Standing::Out && !unfit(*target));
        let fresh = hops().filter(|(_, hop)| hop.tries == 0 && !asked(hop.endpoint)).min_by_key(|(_, hop)| hop.turn);
        if let Some((target, _)) = fresh {
            return Next::First { target };
        }
        // Those that answered before those that kept silent, then the one that is free soonest,
        // then the one asked least, then by turn.
        let again =
            hops().min_by_key(|(_, hop)| (hop.standing == Standing::Silent, hop.not_before, hop.tries, hop.turn));
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

/// The order in which a model's targets are asked for the first time, by their places among them;
/// empty where it is that of `CONFIG`. `score` says how loaded an endpoint is, by its place in
/// `CONFIG` ([`Load::score`](crate::load::Load::score)).
pub fn order(strategy: Strategy, targets: &[Target], score: impl FnMut(usize) -> u64, rng: &mut Rng) -> Vec<usize> {
    match strategy {
        Strategy::Failover => Vec::new(),
        _ if targets.len() < 2 => Vec::new(),
        Strategy::Weighted => by_weight(targets, rng),
        Strategy::LeastLoaded => by_score(targets, score, rng),
    }
}

/// Drawn one after another by weight, so that where the first is shut or fails, the others share its
/// calls by their weights. Those of weight 0 are behind all others, as `CONFIG` has them.
fn by_weight(targets: &[Target], rng: &mut Rng) -> Vec<usize> {
    let weight = |place: usize| targets.get(place).map_or(0, |target| u64::from(target.weight));
    let (mut left, spare): (Vec<usize>, Vec<usize>) = (0..targets.len()).partition(|place| weight(*place) > 0);
    let mut order = Vec::with_capacity(targets.len());
    while !left.is_empty() {
        let total: u64 = left.iter().map(|place| weight(*place)).sum();
        let mut ticket = rng.up_to(total.saturating_sub(1));
        let drawn = left.iter().position(|place| {
            let own = weight(*place);
            let hit = ticket < own;
            ticket = ticket.saturating_sub(own);
            hit
        });
        order.push(left.remove(drawn.unwrap_or(0)));
    }
    order.extend(spare);
    order
}

/// The least loaded first. Equals in an order of chance, so that they share; but two models on one
/// endpoint as `CONFIG` has them.
fn by_score(targets: &[Target], mut score: impl FnMut(usize) -> u64, rng: &mut Rng) -> Vec<usize> {
    let salt = rng.next_u64();
    // The same for the same endpoint.
    let chance = |endpoint| Rng::from_seed(salt ^ u64::try_from(endpoint).unwrap_or(u64::MAX)).next_u64();
    let ranked = |(place, target): (usize, &Target)| (score(target.index), chance(target.index), place);
    let mut ranks: Vec<(u64, u64, usize)> = (0usize..).zip(targets).map(ranked).collect();
    // A handful: a sort would be more code for a Worker to carry than all of this module.
    let lowest = |ranks: &mut Vec<(u64, u64, usize)>| {
        let (at, _) = (0usize..).zip(&*ranks).min_by_key(|(_, rank)| **rank)?;
        Some(ranks.swap_remove(at).2)
    };
    std::iter::from_fn(|| lowest(&mut ranks)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deadline::Timer, settings::Endpoint};
    use std::rc::Rc;

    fn target(index: usize, model: &str, weight: u32) -> Target {
        let endpoint = Endpoint { name: index.to_string(), ..Endpoint::default() };
        Target { endpoint: Rc::new(endpoint), index, model: Some(model.to_owned()), weight }
    }

    fn route(targets: &[(usize, &str)]) -> Route {
        Route::new(&targets.iter().map(|&(index, model)| target(index, model, 1)).collect::<Vec<_>>())
    }

    /// One target per endpoint, of these weights.
    fn weighted(weights: &[u32]) -> Vec<Target> {
        (0usize..).zip(weights).map(|(index, &weight)| target(index, "m", weight)).collect()
    }

    /// How many of 20,000 orders begin with each target, once `shut` are taken out of them.
    fn firsts(targets: &[Target], shut: &[usize], draw: impl Fn(&mut Rng) -> Vec<usize>) -> Vec<usize> {
        let mut rng = Rng::from_seed(11);
        let mut first = || {
            let mut route = Route::ordered(targets, &draw(&mut rng));
            shut.iter().for_each(|target| route.on_shut(*target));
            let Next::First { target } = route.next(|_| false) else { panic!("nobody") };
            target
        };
        let firsts: Vec<usize> = (0..20_000).map(|_| first()).collect();
        (0..targets.len()).map(|place| firsts.iter().filter(|first| **first == place).count()).collect()
    }

    /// Within 3 % of all calls: seven standard deviations.
    fn assert_shares(counts: &[usize], percent: &[usize]) {
        let far = |(count, percent): (&usize, &usize)| count.abs_diff(percent.saturating_mul(200)) > 600;
        assert!(!counts.iter().zip(percent).any(far), "{counts:?} of 20,000, not {percent:?} %");
    }

    const NOW: Instant = Instant::from_millis(1000);
    const RETRY: Verdict = Verdict::Retry { after_ms: None, throttled: false };

    fn fail(route: &mut Route, target: usize, failure: &Failure, verdict: Verdict) -> Next {
        route.on_attempt(target);
        route.on_failure(target, failure, verdict, failure.is_death(), NOW, 30_000);
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

    #[test]
    fn failover_and_a_single_target_cost_no_allocation() {
        let order = |strategy, weights| {
            order(strategy, &weighted(weights), |_| panic!("not asked"), &mut Rng::from_seed(1)).capacity()
        };
        assert_eq!(order(Strategy::Failover, &[0, 9, 1]), 0);
        assert_eq!(order(Strategy::Weighted, &[9]), 0);
        assert_eq!(order(Strategy::LeastLoaded, &[1]), 0);
    }

    #[test]
    fn a_route_follows_its_order_and_what_it_leaves_out_comes_last() {
        let targets = weighted(&[1, 1, 1, 1]);
        let mut route = Route::ordered(&targets, &[2, 0]);
        assert_eq!(route.next(|_| false), Next::First { target: 2 });
        assert_eq!(route.next(|target| target == 2), Next::First { target: 0 });
        for (failed, next) in [(2, 0), (0, 1), (1, 3)] {
            assert_eq!(fail(&mut route, failed, &Failure::Unreachable, RETRY), Next::First { target: next });
        }
        let again = Next::Again { target: 2, repeat: 0, throttled: false, not_before: None };
        assert_eq!(fail(&mut route, 3, &Failure::Unreachable, RETRY), again, "in the same order");
    }

    #[test]
    fn weights_are_shares_also_of_what_a_shut_one_leaves() {
        let targets = weighted(&[1, 6, 3, 0]);
        let draw = |rng: &mut Rng| order(Strategy::Weighted, &targets, |_| panic!("not asked"), rng);
        assert_shares(&firsts(&targets, &[], draw), &[10, 60, 30, 0]);
        assert_shares(&firsts(&targets, &[1], draw), &[25, 0, 75, 0]);
        assert_eq!(firsts(&targets, &[0, 1, 2], draw), [0, 0, 0, 20_000]);
    }

    #[test]
    fn an_order_by_weight_names_everyone_once_and_weight_0_last() {
        let mut rng = Rng::from_seed(5);
        for weights in [&[0, 2, 0, 1_000_000, 5][..], &[0, 0, 0, 0, 0], &[1, 1, 1, 1, 0]] {
            let targets = weighted(weights);
            for _ in 0..200 {
                let order = order(Strategy::Weighted, &targets, |_| 0, &mut rng);
                let mut places = order.clone();
                places.sort_unstable();
                assert_eq!(places, [0, 1, 2, 3, 4]);
                let spare: Vec<usize> = (0..5).filter(|place| weights[*place] == 0).collect();
                assert!(order.ends_with(&spare), "{order:?}");
            }
        }
    }

    #[test]
    fn the_least_loaded_comes_first_and_equals_share() {
        let targets = weighted(&[1, 1, 1, 1]);
        let draw = |scores: [u64; 4]| {
            move |rng: &mut Rng| order(Strategy::LeastLoaded, &weighted(&[1; 4]), |endpoint| scores[endpoint], rng)
        };
        assert_eq!(draw([30, 20, 40, 10])(&mut Rng::from_seed(1)), [3, 1, 0, 2]);
        assert_shares(&firsts(&targets, &[], draw([7, 7, 7, 7])), &[25, 25, 25, 25]);
        assert_shares(&firsts(&targets, &[3], draw([7, 9, 7, 1])), &[50, 0, 50, 0]);
    }

    #[test]
    fn two_models_on_one_endpoint_stay_in_order() {
        let targets = [target(0, "large", 1), target(1, "large", 1), target(0, "small", 1)];
        let mut rng = Rng::from_seed(2);
        for _ in 0..200 {
            let order = order(Strategy::LeastLoaded, &targets, |_| 5, &mut rng);
            assert!([[0, 2, 1], [1, 0, 2]].contains(&[order[0], order[1], order[2]]), "{order:?}");
        }
    }

    #[test]
    fn a_shut_target_is_passed_by_for_the_rest_of_the_call() {
        let mut route = route(&[(0, "m"), (1, "m"), (2, "m")]);
        route.on_shut(0);
        assert_eq!(route.next(|_| false), Next::First { target: 1 });
        assert!(route.has_others(1));
        route.on_shut(2);
        assert!(!route.has_others(1), "the only other one is shut");
        let next = fail(&mut route, 1, &Failure::Unreachable, RETRY);
        assert_eq!(next, Next::Again { target: 1, repeat: 0, throttled: false, not_before: None });
        route.on_shut(1);
        assert_eq!(route.next(|_| false), Next::Nobody, "a repeat neither");
    }

    #[test]
    fn a_breaker_shuts_an_endpoint_under_all_its_models() {
        let mut route = route(&[(0, "large"), (0, "small"), (1, "large")]);
        route.on_shut(0);
        assert_eq!(route.next(|_| false), Next::First { target: 2 });
        let next = fail(&mut route, 2, &Failure::Unreachable, RETRY);
        assert!(matches!(next, Next::Again { target: 2, .. }), "a failure opens nothing again: {next:?}");
    }
}
