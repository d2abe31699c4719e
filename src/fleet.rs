//! What the calls of one isolate know together about its endpoints. Plain data: nothing in here
//! belongs to one request.

use crate::{
    breaker::Breaker,
    budget::Budget,
    jobs::{Health, Op},
    load::{Load, Ticket, Tickets},
    news::Channel,
    quota::{Quota, Span},
    share::Share,
    time::Instant,
};

/// The shared state of all endpoints, by their [places](crate::settings::Places).
#[derive(Debug, Default)]
pub struct Fleet {
    sites: Vec<Site>,
    /// By the place of each entry of `models`.
    hedges: Vec<Share>,
    /// By the place of each client.
    clients: Vec<Quota>,
    turns: Tickets,
    shared: Option<Shared>,
    patient: bool,
}

/// The store that isolates share.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// How many breakers write to it.
    pub breakers: usize,
    /// It grants probes, one at a time.
    pub elects: bool,
    /// It stands on this machine, and word of a change comes by itself: reading and writing cost nothing.
    pub at_hand: bool,
}

/// One endpoint's.
#[derive(Debug, Default)]
struct Site {
    budget: Budget,
    /// Made when the first job is.
    queue: Option<Box<Queue>>,
    load: Load,
    /// When it has refused to go on from a given beginning.
    refused_to_continue: Option<Instant>,
    /// Before each entry of `models`, by its place.
    gates: Vec<(usize, Gate)>,
    /// Before all entries: it opens by an operator's word alone.
    isolation: Gate,
}

/// A breaker, and what is exchanged with other isolates about it.
#[derive(Debug, Default)]
pub struct Gate {
    /// Whether calls go through.
    pub breaker: Breaker,
    /// What others are told of it, and tell.
    pub channel: Channel,
}

/// Which gate: that of an endpoint for one entry of `models`, or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// The endpoint's place.
    pub endpoint: usize,
    /// The entry's place; `None`: all of them.
    pub entry: Option<usize>,
}

/// What is known of a RunPod endpoint's job queue, and how much it is asked.
#[derive(Debug)]
pub struct Queue {
    run: Quota,
    status: Quota,
    stream: Quota,
    cancel: Quota,
    /// A worker was seen at work.
    seen_working: Option<Instant>,
    looked: Option<(Instant, Health)>,
    /// Since when jobs have been seen waiting without any worker.
    stuck: Option<Instant>,
    /// When somebody went to look.
    asked: Option<Instant>,
    /// Until when each job that is followed may go on.
    followed: Vec<Instant>,
}

/// What to do before a job is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Queue it.
    Queue,
    /// Ask for the endpoint's health first.
    Ask,
    /// Nobody is there who could take it.
    NoWorkers,
}

/// So long a worker that was seen at work vouches for its endpoint: it idles at least 5 s before
/// RunPod takes it away.
const WARM_MS: u64 = 10_000;

/// So long a refusal to continue is remembered: it is the server's nature, or it may have been that of one request.
const REFUSED_MS: u64 = 3_600_000;

/// So long an endpoint's health is believed.
const FRESH_MS: u64 = 3000;

/// Jobs that wait so long without any worker have none to wait for.
const STUCK_MS: u64 = 15_000;

/// Polls a second that this isolate sends to one endpoint: three quarters of RunPod's 2000 in 10 s.
const POLLS_PER_SECOND: u64 = 150;

impl Default for Queue {
    fn default() -> Self {
        // RunPod's documented bounds, less a tenth.
        Self {
            run: Quota::new(Span::RUNPOD, 900, 180),
            status: Quota::new(Span::RUNPOD, 1800, 360),
            stream: Quota::new(Span::RUNPOD, 1800, 360),
            cancel: Quota::new(Span::RUNPOD, 90, 18),
            seen_working: None,
            looked: None,
            stuck: None,
            asked: None,
            followed: Vec::new(),
        }
    }
}

impl Fleet {
    /// One whose breakers, so many, are told to other isolates through a store.
    pub fn shared(breakers: usize) -> Self {
        Self { shared: Some(Shared { breakers, elects: false, at_hand: false }), ..Self::default() }
    }

    /// The same, with a store that grants probes.
    pub fn electing(breakers: usize) -> Self {
        Self { shared: Some(Shared { breakers, elects: true, at_hand: false }), ..Self::default() }
    }

    /// One whose breakers are kept on this machine, for a page's next life and for its other tabs.
    pub fn at_hand() -> Self {
        Self { shared: Some(Shared { breakers: 0, elects: false, at_hand: true }), ..Self::default() }
    }

    /// All calls are one caller's own, who has nowhere else to go: in line they wait until their deadlines, however many
    /// they are.
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
    }

    /// So many breakers write to the store from now on, where there is one.
    pub const fn resize(&mut self, breakers: usize) {
        if let Some(shared) = &mut self.shared {
            shared.breakers = breakers;
        }
    }

    /// See [`Fleet::patient`].
    pub const fn is_patient(&self) -> bool {
        self.patient
    }

    /// The store that isolates share, if there is one.
    pub const fn store(&self) -> Option<Shared> {
        self.shared
    }

    /// A breaker and its news.
    pub fn gate(&mut self, which: Which) -> &mut Gate {
        let elects = self.shared.is_some_and(|shared| shared.elects);
        let site = self.site(which.endpoint);
        let Some(entry) = which.entry else { return &mut site.isolation };
        let known = site.gates.iter().position(|(other, _)| *other == entry);
        let place = known.unwrap_or_else(|| {
            let mut gate = Gate::default();
            gate.breaker.elects(elects);
            site.gates.push((entry, gate));
            site.gates.len().saturating_sub(1)
        });
        // Just found, or just put there.
        #[expect(clippy::indexing_slicing, reason = "the lines above make sure that it is there")]
        &mut site.gates[place].1
    }

    /// The retry budget of this endpoint.
    pub fn budget(&mut self, endpoint: usize) -> &mut Budget {
        &mut self.site(endpoint).budget
    }

    /// How busy this endpoint is.
    pub fn load(&mut self, endpoint: usize) -> &mut Load {
        &mut self.site(endpoint).load
    }

    /// This endpoint has refused to go on from a given beginning.
    pub fn on_continuation_refused(&mut self, endpoint: usize, now: Instant) {
        self.site(endpoint).refused_to_continue = Some(now);
    }

    /// Whether it is not to be asked for that.
    pub fn refuses_to_continue(&mut self, endpoint: usize, now: Instant) -> bool {
        self.site(endpoint).refused_to_continue.is_some_and(|at| now.since(at) < REFUSED_MS)
    }

    /// How many of the calls for this entry of `models` may ask two targets at once.
    pub fn hedges(&mut self, entry: usize) -> &mut Share {
        if self.hedges.len() <= entry {
            self.hedges.resize_with(entry.saturating_add(1), Share::default);
        }
        // Just made long enough.
        #[expect(clippy::indexing_slicing, reason = "the lines above make room for this index")]
        &mut self.hedges[entry]
    }

    /// How much a client asks.
    pub fn client(&mut self, place: usize) -> &mut Quota {
        if self.clients.len() <= place {
            self.clients.resize_with(place.saturating_add(1), Quota::of_client);
        }
        // Just made long enough.
        #[expect(clippy::indexing_slicing, reason = "the lines above make room for this index")]
        &mut self.clients[place]
    }

    /// A place behind all who wait already.
    pub const fn issue_turn(&mut self) -> Ticket {
        self.turns.issue()
    }

    /// The job queue of this endpoint.
    pub fn queue(&mut self, endpoint: usize) -> &mut Queue {
        self.site(endpoint).queue.get_or_insert_default()
    }

    fn site(&mut self, endpoint: usize) -> &mut Site {
        if self.sites.len() <= endpoint {
            self.sites.resize_with(endpoint.saturating_add(1), Site::default);
        }
        // Just made long enough.
        #[expect(clippy::indexing_slicing, reason = "the lines above make room for this index")]
        &mut self.sites[endpoint]
    }
}

impl Queue {
    /// The quota that an operation falls under; `/health` has none.
    pub const fn quota(&mut self, op: Op) -> Option<&mut Quota> {
        match op {
            Op::Submit => Some(&mut self.run),
            Op::Status => Some(&mut self.status),
            Op::Stream => Some(&mut self.stream),
            Op::Cancel => Some(&mut self.cancel),
            Op::Health => None,
        }
    }

    /// What to do before a job is queued.
    pub fn look(&self, now: Instant) -> Look {
        if self.seen_working.is_some_and(|at| now.since(at) < WARM_MS) {
            return Look::Queue;
        }
        match &self.looked {
            Some((at, health)) if now.since(*at) < FRESH_MS => {
                let stuck = self.stuck.is_some_and(|since| at.since(since) >= STUCK_MS);
                if health.has_workers() && !stuck { Look::Queue } else { Look::NoWorkers }
            }
            // Somebody is about to tell.
            _ if self.asked.is_some_and(|at| now.since(at) < FRESH_MS) => Look::Queue,
            _ => Look::Ask,
        }
    }

    /// What it was like when somebody last looked, and when that was.
    pub const fn seen(&self) -> Option<&(Instant, Health)> {
        self.looked.as_ref()
    }

    /// Somebody goes to look.
    pub const fn on_look(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The endpoint has told its health.
    pub fn on_health(&mut self, now: Instant, health: Health) {
        // What was seen long ago was another queue.
        let recent = self.looked.as_ref().is_some_and(|(at, _)| now.since(*at) < STUCK_MS);
        self.stuck = health.is_stuck().then(|| self.stuck.filter(|_| recent).unwrap_or(now));
        self.looked = Some((now, health));
    }

    /// A worker is at work there.
    pub const fn on_work(&mut self, now: Instant) {
        self.stuck = None;
        self.seen_working = Some(now);
    }

    /// A job is followed from now on, at most until `until`.
    pub fn follow(&mut self, now: Instant, until: Instant) {
        self.followed.retain(|other| *other > now);
        self.followed.push(until);
    }

    /// That job is not followed any more.
    pub fn unfollow(&mut self, until: Instant) {
        if let Some(place) = self.followed.iter().position(|other| *other == until) {
            self.followed.swap_remove(place);
        }
    }

    /// The time between two polls of one job at which all of them together stay inside the quota.
    pub fn fair_share_ms(&self) -> u64 {
        let jobs = u64::try_from(self.followed.len()).unwrap_or(u64::MAX);
        jobs.saturating_mul(1000) / POLLS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_warm_endpoint_is_not_looked_at_and_others_at_most_every_few_seconds() {
        let mut fleet = Fleet::default();
        let queue = fleet.queue(3);
        assert_eq!(queue.look(at(0)), Look::Ask);
        queue.on_health(at(0), Health { workers: 0, throttled: 2, unhealthy: 0, queued: 0 });
        assert_eq!(queue.look(at(2999)), Look::NoWorkers);
        assert_eq!(queue.look(at(3000)), Look::Ask);
        queue.on_work(at(3000));
        assert_eq!(queue.look(at(12_999)), Look::Queue);
        assert_eq!(queue.look(at(13_000)), Look::Ask);
        queue.on_health(at(13_000), Health::default());
        assert_eq!(queue.look(at(13_001)), Look::Queue, "scaled to zero is not dead");
    }

    #[test]
    fn an_endpoint_whose_jobs_wait_without_any_worker_is_dead_after_a_while() {
        let mut queue = Queue::default();
        let stuck = || Health { workers: 0, throttled: 0, unhealthy: 0, queued: 3 };
        for (now, look) in [(0, Look::Queue), (8000, Look::Queue), (15_000, Look::NoWorkers)] {
            queue.on_health(at(now), stuck());
            assert_eq!(queue.look(at(now)), look, "{now}");
        }
        queue.on_health(at(20_000), Health { workers: 1, ..stuck() });
        queue.on_health(at(24_000), stuck());
        assert_eq!(queue.look(at(24_000)), Look::Queue);
        queue.on_health(at(600_000), stuck());
        assert_eq!(queue.look(at(600_000)), Look::Queue, "the next cold start, not the same");
        queue.on_work(at(601_000));
        queue.on_health(at(612_000), stuck());
        queue.on_health(at(616_000), stuck());
        assert_eq!(queue.look(at(616_000)), Look::Queue, "a worker was there in between");
    }

    #[test]
    fn many_jobs_share_the_polls_and_those_that_were_forgotten_end() {
        let mut queue = Queue::default();
        (0..300).for_each(|_| queue.follow(at(0), at(60_000)));
        assert_eq!(queue.fair_share_ms(), 2000);
        (0..150).for_each(|_| queue.unfollow(at(60_000)));
        assert_eq!(queue.fair_share_ms(), 1000);
        queue.follow(at(60_000), at(90_000));
        assert_eq!(queue.fair_share_ms(), 6);
    }
}
