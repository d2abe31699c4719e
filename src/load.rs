//! How busy an endpoint is, as far as one isolate knows: which calls are in flight there, which
//! wait for a place, how soon its answers begin, and whether it fails.
//!
//! Plain data that all calls share. Nobody is woken from here, because a future that another
//! request wakes would run in that request's context: a call that waits asks again by a timer of
//! its own, every [`POLL_MS`]. And nothing here relies on being told an end, because a request
//! that the platform cancels tells none: a call in flight counts until its deadline at most, one
//! that waits for as long as it keeps asking.

use crate::{quantile::Recent, time::Instant};

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub struct Load {
    /// Calls in flight, by ascending number, and when each counts as over in any case.
    in_flight: Vec<(u64, Instant)>,
    entered: u64,
    /// Before this none of them counts as over.
    soonest: Option<Instant>,
    /// Who waits, the first in line first, and when it asked last.
    waiting: Vec<(Ticket, Instant)>,
    /// The average time to first token in eighths of a millisecond, and when it was last added to.
    first_token: Option<(u64, Instant)>,
    /// How long content was awaited, for those who hedge by it.
    awaited: Recent,
    /// Failures in a row, and when the last one came.
    failed: Option<(u32, Instant)>,
}

/// A place at an endpoint. To be given back with [`Load::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Lease(u64);

/// Who waits, at one endpoint or at several; the lower goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Gives tickets out: one of these for all endpoints of an isolate.
#[derive(Debug, Default)]
pub struct Tickets {
    issued: u64,
}

/// How often a call that waits asks again. On average a place stays empty for half of it, which is
/// nothing beside the seconds that an answer takes, and 5 s of waiting are 250 timers: some 5 ms
/// of CPU.
pub const POLL_MS: u64 = 20;

/// Who has not asked for so long is gone: five polls, as a timer may be late on a busy isolate. For
/// so long a request that was cancelled can hold up those behind it.
const GONE_MS: u64 = 100;

/// The longest wait for a place: a queue that is longer than a burst only hides an overload from
/// clients who could go elsewhere.
const LONGEST_WAIT_MS: u64 = 5000;

/// Without a sample for so long an average says nothing about now.
const FORGET_MS: u64 = 60_000;

/// The part of the average that a sample replaces is one in so many: 1/8, as of TCP's smoothed
/// round trip (RFC 6298). Not the peak-sensitive average of Finagle: time to first token grows with
/// the prompt, so a single long one would banish its endpoint; and an endpoint that stalls is known
/// by the calls that pile up in flight before any sample comes.
const PARTS: u64 = 8;

/// So long after a failure an endpoint looks more loaded than it is: some attempts in 10 s are
/// enough to find out whether it serves again.
const FAILED_MS: u64 = 10_000;

/// So many doublings at most: who looks 64 times as loaded is asked only when all others are busy.
const MOST_DOUBLINGS: u32 = 6;

/// How long a call may wait for a place, in milliseconds, when so much is left until its deadline:
/// half of it at most, for whoever gets in needs time to answer.
pub const fn longest_wait_ms(left_ms: u64) -> u64 {
    let half = left_ms / 2;
    if half < LONGEST_WAIT_MS { half } else { LONGEST_WAIT_MS }
}

impl Tickets {
    /// The next in line.
    pub const fn issue(&mut self) -> Ticket {
        self.issued = self.issued.wrapping_add(1);
        Ticket(self.issued)
    }
}

impl Load {
    /// Takes a place for a call that is over at `until` in any case. `None`: the endpoint has as
    /// many calls as it may have (`most`), or those who came before get what is free.
    ///
    /// Who waits asks with its ticket, and then says by [`wait`](Self::wait) that it still does.
    pub fn try_enter(
        &mut self,
        now: Instant,
        until: Instant,
        most: Option<u32>,
        ticket: Option<Ticket>,
    ) -> Option<Lease> {
        self.drop_ended(now);
        if let Some(most) = most {
            self.drop_gone(now);
            let ahead =
                ticket.map_or(self.waiting.len(), |own| self.waiting.partition_point(|(other, _)| *other < own));
            if self.in_flight.len().saturating_add(ahead) >= count(most) {
                return None;
            }
        }
        if let Some(ticket) = ticket {
            self.leave_queue(ticket);
        }
        self.entered = self.entered.wrapping_add(1);
        self.in_flight.push((self.entered, until));
        self.soonest = Some(self.soonest.map_or(until, |soonest| soonest.min(until)));
        Some(Lease(self.entered))
    }

    /// The call is over, or has gone elsewhere. A lease that has ended already changes nothing.
    pub fn leave(&mut self, lease: Lease) {
        if let Ok(place) = self.in_flight.binary_search_by_key(&lease.0, |(number, _)| *number) {
            self.in_flight.remove(place);
        }
    }

    /// Gets in line, or says that it is still there. False: as many wait as may be in flight, and
    /// this one does not.
    ///
    /// Places in line go by ticket, so who was taken for gone has its old place again. A call may
    /// be in line at several endpoints, and leaves the others when it gets in at one.
    pub fn wait(&mut self, now: Instant, ticket: Ticket, most: u32) -> bool {
        self.drop_gone(now);
        match self.waiting.binary_search_by_key(&ticket, |(other, _)| *other) {
            Ok(place) => {
                if let Some((_, asked)) = self.waiting.get_mut(place) {
                    *asked = now;
                }
                true
            }
            Err(_) if self.waiting.len() >= count(most) => false,
            Err(place) => {
                self.waiting.insert(place, (ticket, now));
                true
            }
        }
    }

    /// Waits no longer.
    pub fn leave_queue(&mut self, ticket: Ticket) {
        if let Ok(place) = self.waiting.binary_search_by_key(&ticket, |(other, _)| *other) {
            self.waiting.remove(place);
        }
    }

    /// How many calls are in flight.
    pub fn in_flight(&self, now: Instant) -> usize {
        match self.soonest {
            Some(soonest) if soonest <= now => self.in_flight.iter().filter(|(_, until)| *until > now).count(),
            _ => self.in_flight.len(),
        }
    }

    /// How many calls wait.
    pub fn waiting(&self, now: Instant) -> usize {
        self.waiting.iter().filter(|(_, asked)| now.since(*asked) < GONE_MS).count()
    }

    /// The first content of a stream has come, so many milliseconds after it was asked for.
    /// Of answers that do not stream nothing is to be told here: they come whole.
    pub fn on_first_content(&mut self, now: Instant, ms: u64) {
        let average = match self.first_token {
            Some((average, at)) if now.since(at) < FORGET_MS => {
                average.saturating_sub(average / PARTS).saturating_add(ms)
            }
            _ => ms.saturating_mul(PARTS),
        };
        self.first_token = Some((average, now));
        self.on_success();
    }

    /// Content was awaited for so many milliseconds, and came then, or sooner from somebody who was asked as well.
    pub fn on_awaited(&mut self, now: Instant, ms: u64) {
        self.awaited.add(now, ms);
    }

    /// The 95th percentile of [`on_awaited`](Self::on_awaited) in milliseconds; `None` where too little is known.
    pub fn awaited_p95_ms(&self, now: Instant) -> Option<u64> {
        self.awaited.p95(now)
    }

    /// An answer is whole.
    pub const fn on_success(&mut self) {
        self.failed = None;
    }

    /// An attempt here has failed, pushback included. Not for what is the caller's mistake.
    ///
    /// Who fails at once has few calls in flight and would draw all others to itself; the breaker
    /// does not end that where pushback is its answer.
    pub fn on_failure(&mut self, now: Instant) {
        self.failed = Some((self.failures(now).saturating_add(1), now));
    }

    /// The moving average of the time to first token in milliseconds; `None` without a sample in
    /// the last minute.
    pub fn first_token_ms(&self, now: Instant) -> Option<u64> {
        self.first_token.filter(|(_, at)| now.since(*at) < FORGET_MS).map(|(average, _)| average / PARTS)
    }

    /// How long one more call might wait here, to be compared with other endpoints': the calls here
    /// and this one, times the time to first token. Where that is not known it is taken for
    /// `fastest_ms`, the shortest that is known among the candidates, so that this one is tried.
    /// Each failure in a row doubles it.
    pub fn score(&self, now: Instant, fastest_ms: Option<u64>) -> u64 {
        let calls = self.in_flight(now).saturating_add(self.waiting(now)).saturating_add(1);
        // Where a clock stands still everything takes 0 ms, and calls still count.
        let each_ms = self.first_token_ms(now).or(fastest_ms).unwrap_or(1).max(1);
        let doubled = 2u64.saturating_pow(self.failures(now).min(MOST_DOUBLINGS));
        u64::try_from(calls).unwrap_or(u64::MAX).saturating_mul(each_ms).saturating_mul(doubled)
    }

    fn failures(&self, now: Instant) -> u32 {
        self.failed.filter(|(_, at)| now.since(*at) < FAILED_MS).map_or(0, |(count, _)| count)
    }

    fn drop_ended(&mut self, now: Instant) {
        if self.soonest.is_some_and(|soonest| soonest <= now) {
            self.in_flight.retain(|(_, until)| *until > now);
            self.soonest = self.in_flight.iter().map(|(_, until)| *until).min();
        }
    }

    fn drop_gone(&mut self, now: Instant) {
        self.waiting.retain_mut(|(_, asked)| {
            // After a clock has stepped back nobody is there for longer.
            *asked = now.min(*asked);
            now.since(*asked) < GONE_MS
        });
    }
}

fn count(most: u32) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    const START: Instant = Instant::from_millis(1_795_299_888_000);

    fn at(ms: u64) -> Instant {
        START.after(ms)
    }

    fn enter(load: &mut Load, now: u64, most: u32) -> Option<Lease> {
        load.try_enter(at(now), at(now).after(60_000), Some(most), None)
    }

    /// What a call that waits does at each of its timers.
    fn poll(load: &mut Load, now: u64, most: u32, ticket: Ticket) -> Option<Lease> {
        let lease = load.try_enter(at(now), at(now).after(60_000), Some(most), Some(ticket));
        lease.or_else(|| {
            assert!(load.wait(at(now), ticket, most));
            None
        })
    }

    #[test]
    fn a_call_counts_until_it_leaves_or_its_deadline_has_come() {
        let mut load = Load::default();
        let first = load.try_enter(at(0), at(5000), None, None).unwrap();
        let second = load.try_enter(at(0), at(3000), None, None).unwrap();
        let _third = load.try_enter(at(0), at(9000), None, None).unwrap();
        assert_eq!(load.in_flight(at(2999)), 3);
        assert_eq!(load.in_flight(at(3000)), 2, "its request was cancelled");
        let _fourth = load.try_enter(at(4000), at(9000), None, None).unwrap();
        load.leave(second);
        assert_eq!(load.in_flight(at(4000)), 3, "who has ended takes nobody else's place along");
        load.leave(first);
        load.leave(first);
        assert_eq!(load.in_flight(at(4000)), 2);
        assert_eq!(load.in_flight(at(9000)), 0);
    }

    #[test]
    fn no_more_enter_than_may_and_a_place_is_free_again_at_once() {
        let mut load = Load::default();
        let first = enter(&mut load, 0, 2).unwrap();
        let _second = enter(&mut load, 0, 2).unwrap();
        assert_eq!(enter(&mut load, 0, 2), None);
        load.leave(first);
        assert!(enter(&mut load, 0, 2).is_some());
        assert_eq!(enter(&mut load, 59_999, 2), None);
        assert!(enter(&mut load, 60_000, 2).is_some(), "a lease ends by itself");
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let (mut load, mut tickets) = (Load::default(), Tickets::default());
        let leases: Vec<Lease> = (0..2).filter_map(|_| enter(&mut load, 0, 2)).collect();
        let (first, second) = (tickets.issue(), tickets.issue());
        assert_eq!(poll(&mut load, 0, 2, first), None);
        assert_eq!(poll(&mut load, 5, 2, second), None);
        load.leave(leases[0]);
        assert_eq!(enter(&mut load, 10, 2), None, "a newcomer");
        assert_eq!(poll(&mut load, 12, 2, second), None);
        load.leave(leases[1]);
        assert_eq!(enter(&mut load, 13, 2), None, "two places for two who wait");
        assert!(poll(&mut load, 14, 2, second).is_some(), "the second place is the second's");
        assert!(poll(&mut load, 20, 2, first).is_some());
        assert_eq!(load.waiting(at(20)), 0);
    }

    #[test]
    fn who_does_not_ask_any_more_holds_nobody_up_for_long() {
        let (mut load, mut tickets) = (Load::default(), Tickets::default());
        let lease = enter(&mut load, 0, 1).unwrap();
        let cancelled = tickets.issue();
        assert_eq!(poll(&mut load, 0, 1, cancelled), None);
        load.leave(lease);
        assert_eq!(enter(&mut load, GONE_MS - 1, 1), None);
        assert!(enter(&mut load, GONE_MS, 1).is_some());
    }

    #[test]
    fn who_was_only_late_has_its_old_place() {
        let (mut load, mut tickets) = (Load::default(), Tickets::default());
        let lease = enter(&mut load, 0, 2).unwrap();
        let _other = enter(&mut load, 0, 2).unwrap();
        let (late, next) = (tickets.issue(), tickets.issue());
        assert_eq!(poll(&mut load, 0, 2, late), None);
        assert_eq!(poll(&mut load, 150, 2, next), None);
        assert_eq!(load.waiting(at(150)), 1);
        assert_eq!(poll(&mut load, 160, 2, late), None);
        load.leave(lease);
        assert_eq!(poll(&mut load, 170, 2, next), None);
        assert!(poll(&mut load, 180, 2, late).is_some());
    }

    #[test]
    fn as_many_wait_as_may_be_in_flight_and_who_waits_elsewhere_too_leaves() {
        let (mut load, mut tickets) = (Load::default(), Tickets::default());
        let waiting: Vec<Ticket> = (0..3).map(|_| tickets.issue()).collect();
        assert!(waiting.iter().all(|ticket| load.wait(at(0), *ticket, 3)));
        let newcomer = tickets.issue();
        assert!(!load.wait(at(0), newcomer, 3));
        assert!(load.wait(at(50), waiting[0], 3), "its place is its own");
        load.leave_queue(waiting[1]);
        load.leave_queue(waiting[1]);
        assert!(load.wait(at(50), newcomer, 3));
        assert_eq!(load.waiting(at(50)), 3);
    }

    #[test]
    fn a_wait_is_short_and_leaves_half_of_the_time_to_the_answer() {
        assert_eq!(longest_wait_ms(300_000), 5000);
        assert_eq!(longest_wait_ms(4000), 2000);
        assert_eq!(longest_wait_ms(1), 0);
    }

    /// Calls come, wait at one of two endpoints or at both, are cancelled without a word, answer and
    /// leave, as chance has it.
    #[test]
    fn whatever_happens_the_bound_holds_and_places_go_in_turn() {
        const MOST: u32 = 3;
        for seed in 0..300 {
            let mut rng = Rng::from_seed(seed);
            let (mut loads, mut tickets) = ([Load::default(), Load::default()], Tickets::default());
            let mut inside: Vec<(usize, Lease, u64)> = Vec::new();
            // Who still waits, with the time of its next poll.
            let mut queue: BTreeMap<Ticket, u64> = BTreeMap::new();
            let mut entered = 0;
            for now in 0..4000 {
                inside.retain(|(site, lease, until)| {
                    if *until == now {
                        loads[*site].leave(*lease);
                    }
                    *until > now
                });
                if rng.up_to(20) == 0 {
                    queue.insert(tickets.issue(), now);
                }
                if rng.up_to(200) == 0 {
                    queue.pop_first();
                }
                let due: Vec<Ticket> = queue.iter().filter(|(_, next)| **next == now).map(|(own, _)| *own).collect();
                for own in due {
                    let before: Vec<usize> = loads.iter().map(|load| load.in_flight(at(now))).collect();
                    let lease = (0..2).find_map(|site| {
                        let until = at(now + 60_000);
                        loads[site].try_enter(at(now), until, Some(MOST), Some(own)).map(|lease| (site, lease))
                    });
                    if let Some((site, lease)) = lease {
                        entered += 1;
                        let ahead = loads[site].waiting.iter().filter(|(other, _)| *other < own).count();
                        assert!(before[site] + ahead < MOST as usize, "seed {seed} at {now}");
                        loads[1 - site].leave_queue(own);
                        inside.push((site, lease, now + 1 + rng.up_to(400)));
                        queue.remove(&own);
                    } else if [0, 1].map(|site| loads[site].wait(at(now), own, MOST)).contains(&true) {
                        queue.insert(own, now + POLL_MS);
                    } else {
                        queue.remove(&own);
                    }
                }
                for (site, load) in loads.iter().enumerate() {
                    let here = inside.iter().filter(|(other, ..)| *other == site).count();
                    assert_eq!(load.in_flight(at(now)), here, "seed {seed} at {now}");
                    assert!(here <= MOST as usize && load.waiting.len() <= MOST as usize, "seed {seed} at {now}");
                    assert!(load.waiting.is_sorted(), "seed {seed} at {now}");
                }
            }
            assert!(entered > 80, "seed {seed}: {entered}");
        }
    }

    #[test]
    fn the_average_follows_slowly_and_is_forgotten() {
        let mut load = Load::default();
        assert_eq!(load.first_token_ms(at(0)), None);
        load.on_first_content(at(0), 400);
        assert_eq!(load.first_token_ms(at(0)), Some(400));
        load.on_first_content(at(0), 8400);
        assert_eq!(load.first_token_ms(at(0)), Some(1400), "one long prompt");
        (0..60).for_each(|_| load.on_first_content(at(0), 100));
        assert_eq!(load.first_token_ms(at(59_999)), Some(100));
        assert_eq!(load.first_token_ms(at(60_000)), None);
        load.on_first_content(at(60_000), 900);
        assert_eq!(load.first_token_ms(at(60_000)), Some(900), "what was before does not count");
    }

    #[test]
    fn the_score_is_by_calls_and_speed_and_the_unknown_is_tried() {
        let (mut slow, mut fast, unknown) = (Load::default(), Load::default(), Load::default());
        slow.on_first_content(at(0), 900);
        fast.on_first_content(at(0), 300);
        let fastest = Some(300);
        assert_eq!(slow.score(at(0), fastest), 900);
        assert_eq!(unknown.score(at(0), fastest), 300);
        let _leases: Vec<Lease> = (0..2).filter_map(|_| enter(&mut fast, 0, 2)).collect();
        assert_eq!(fast.score(at(0), fastest), 900, "three times as fast, with two calls more");
        assert!(fast.wait(at(0), Tickets::default().issue(), 2));
        assert_eq!(fast.score(at(0), fastest), 1200, "who waits is before this one, too");
        assert_eq!(unknown.score(at(0), None), 1);
        slow.on_first_content(at(0), u64::MAX);
        let _lease = enter(&mut slow, 0, 9);
        assert!(slow.score(at(0), fastest) > u64::MAX / 16);
    }

    #[test]
    fn who_fails_at_once_does_not_look_idle() {
        let (mut load, fastest) = (Load::default(), Some(100));
        load.on_failure(at(0));
        assert_eq!(load.score(at(0), fastest), 200, "one failure weighs as much as one call");
        (0..50).for_each(|_| load.on_failure(at(9000)));
        assert_eq!(load.score(at(18_999), fastest), 6400);
        assert_eq!(load.score(at(19_000), fastest), 100, "it is tried again");
        load.on_failure(at(19_000));
        assert_eq!(load.score(at(19_000), fastest), 200);
        load.on_success();
        assert_eq!(load.score(at(19_000), fastest), 100);
    }

    #[test]
    fn where_no_time_passes_calls_still_count() {
        let mut load = Load::default();
        load.on_first_content(at(0), 0);
        let _leases: Vec<Lease> = (0..3).filter_map(|_| enter(&mut load, 0, 9)).collect();
        assert_eq!(load.score(at(0), Some(0)), 4);
    }

    #[test]
    fn a_clock_that_steps_back_keeps_nobody_out() {
        let (mut load, mut tickets) = (Load::default(), Tickets::default());
        assert!(load.wait(at(3_600_000), tickets.issue(), 1));
        assert_eq!(enter(&mut load, 0, 1), None);
        assert!(enter(&mut load, GONE_MS, 1).is_some(), "it has not asked since");
    }
}
