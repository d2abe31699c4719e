//! Each rule by itself.

use crate::world::START;
use fairlead_core::{
    breaker::{Admission, Breaker, Change, Outcome, Pass, Record, Rules, Standing},
    policy::BreakerPolicy,
    rng::Rng,
    time::Instant,
};

/// A breaker with its rules, its chance and its clock.
struct One {
    breaker: Breaker,
    policy: BreakerPolicy,
    alone: bool,
    rng: Rng,
    now: u64,
}

/// Served at once, and by fault of the endpoint not.
const SERVED: Outcome = Outcome::Served { first_content_ms: Some(10) };

fn failed() -> Outcome {
    Outcome::Failed("unreachable".to_owned())
}

impl One {
    fn new() -> Self {
        Self::of_seed(1)
    }

    fn of_seed(seed: u64) -> Self {
        let (policy, rng) = (BreakerPolicy::default(), Rng::from_seed(seed));
        Self { breaker: Breaker::default(), policy, alone: false, rng, now: 0 }
    }

    fn with(mut self, change: impl FnOnce(&mut BreakerPolicy)) -> Self {
        change(&mut self.policy);
        self
    }

    fn at(&self) -> Instant {
        START.after(self.now)
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
    }

    fn admit(&mut self, client: Option<usize>) -> Option<Pass> {
        let rules = Rules { policy: &self.policy, alone: self.alone };
        match self.breaker.admit(START.after(self.now), rules, client, &mut self.rng) {
            Admission::Admitted(pass) => Some(pass),
            Admission::Refused { .. } => None,
        }
    }

    fn end(&mut self, pass: Pass, outcome: Outcome) -> Option<Change> {
        let rules = Rules { policy: &self.policy, alone: self.alone };
        self.breaker.on_end(START.after(self.now), rules, pass, outcome, &mut self.rng)
    }

    /// A call that is admitted and over.
    fn call(&mut self, client: Option<usize>, outcome: Outcome) -> Option<Change> {
        let pass = self.admit(client).expect("admitted");
        self.end(pass, outcome)
    }

    fn fail(&mut self) -> Option<Change> {
        self.call(None, failed())
    }

    fn serve(&mut self) -> Option<Change> {
        self.call(None, SERVED)
    }

    fn restore(&mut self, record: &Record) -> Option<Change> {
        let rules = Rules { policy: &self.policy, alone: self.alone };
        self.breaker.restore(START.after(self.now), rules, record, &mut self.rng)
    }

    fn state(&self) -> &'static str {
        self.breaker.view(self.at(), &self.policy).state
    }

    /// Fails until it is open; for how long.
    fn open(&mut self) -> u64 {
        let change = (0..100).find_map(|_| self.fail());
        length_of(change).expect("it opens")
    }

    /// Waits until a probe goes out.
    fn probe(&mut self) -> Pass {
        let until = self.breaker.view(self.at(), &self.policy).until.expect("open");
        self.wait(self.at().until(until) + 400_000);
        self.admit(None).expect("a probe")
    }
}

fn length_of(change: Option<Change>) -> Option<u64> {
    match change {
        Some(Change::Opened { open_ms, .. }) => open_ms,
        _ => None,
    }
}

fn told(state: Standing, at: u64, length: u64) -> Record {
    let at_ms = START.as_millis() + at;
    let (reason, open_until_ms) = ("unreachable".to_owned(), at_ms + length);
    Record { epoch: 1, state, open_until_ms, reason, at_ms, day: 0, writes: 0 }
}

#[test]
fn it_opens_at_five_failures_in_a_row_and_a_success_between_them_begins_anew() {
    let mut one = One::new().with(|policy| policy.min_calls = 100);
    for outcome in [failed(), failed(), failed(), failed(), SERVED, failed(), failed(), failed(), failed()] {
        assert_eq!(one.call(None, outcome), None);
        one.wait(1000);
    }
    assert!(matches!(one.fail(), Some(Change::Opened { one_client: false, .. })));
    assert_eq!(one.admit(None), None);
}

#[test]
fn it_opens_at_half_of_eight_calls_and_not_at_less_of_either() {
    let open_after = |pattern: &str| {
        let mut one = One::new().with(|policy| policy.consecutive = 100);
        let outcomes = pattern.chars().map(|c| if c == 'x' { failed() } else { SERVED });
        outcomes.map(|outcome| one.call(None, outcome)).position(|change| change.is_some())
    };
    assert_eq!(open_after("xxxxxxxx"), Some(7), "of seven calls it cannot know");
    assert_eq!(open_after(".x.x.x.x"), Some(7));
    assert_eq!(open_after("..x..x..x..x"), None, "a third");
    assert_eq!(open_after(".....xxxxx"), Some(9));
    assert_eq!(open_after("xxxx...."), None, "a success does not open it");
}

#[test]
fn an_hour_without_calls_forgets_and_one_failure_behind_it_opens_nothing() {
    let mut one = One::new();
    for _ in 0..3 {
        for outcome in [SERVED, failed(), failed(), failed(), failed()] {
            assert_eq!(one.call(None, outcome), None);
        }
        one.wait(3_600_000);
        let view = one.breaker.view(one.at(), &one.policy);
        assert_eq!((view.calls, view.failures, view.in_a_row), (0, 0, 0));
        assert_eq!(one.fail(), None);
        one.wait(3_600_000);
    }
}

#[test]
fn outcomes_leave_the_window_by_tenths_and_never_late() {
    let mut one = One::new();
    for age in 0..=120_000 {
        let mut other = One::new();
        other.now = one.now;
        other.serve();
        other.wait(age);
        let calls = other.breaker.view(other.at(), &other.policy).calls;
        let kept = if age < 108_000 { Some(1) } else { None };
        assert_eq!(kept.unwrap_or(calls), calls, "{age} ms ago");
        one.now += 1;
    }
    one.now = 0;
    one.serve();
    one.wait(120_000);
    assert_eq!(one.breaker.view(one.at(), &one.policy).calls, 0);
}

#[test]
fn openings_double_up_to_their_bound_and_lie_between_three_quarters_and_all_of_it() {
    let mut seen = [(u64::MAX, 0); 5];
    for seed in 0..500 {
        let mut one = One::of_seed(seed);
        let mut lengths = vec![one.open()];
        for _ in 0..4 {
            let pass = one.probe();
            lengths.push(length_of(one.end(pass, failed())).unwrap());
        }
        for (length, (least, most)) in lengths.into_iter().zip(&mut seen) {
            (*least, *most) = (length.min(*least), length.max(*most));
        }
    }
    for ((least, most), bound) in seen.into_iter().zip([15_000, 30_000, 60_000, 60_000, 60_000]) {
        assert!(bound * 3 / 4 <= least && most <= bound, "{least} to {most}, of {bound}");
        assert!(most - least > bound / 5, "spread over a quarter: {least} to {most}, of {bound}");
    }
}

#[test]
fn a_relapse_within_a_window_goes_on_growing_and_health_for_a_window_begins_anew() {
    let mut one = One::new();
    one.open();
    let pass = one.probe();
    assert_eq!(one.end(pass, SERVED), Some(Change::Closed { one_client: false }));
    one.wait(119_000);
    assert!(one.open() >= 22_500, "twice as long");
    let pass = one.probe();
    one.end(pass, SERVED);
    one.wait(120_000);
    assert!(one.open() <= 15_000);
}

#[test]
fn openings_of_an_endpoint_that_is_alone_do_not_grow() {
    let mut one = One::new();
    one.alone = true;
    assert!(one.open() <= 15_000);
    for _ in 0..20 {
        let pass = one.probe();
        assert!(length_of(one.end(pass, failed())).unwrap() <= 15_000);
    }
}

#[test]
fn what_is_nobodys_fault_counts_for_nothing() {
    let mut one = One::new();
    for _ in 0..4 {
        one.fail();
    }
    for _ in 0..100 {
        assert_eq!(one.call(None, Outcome::Neutral), None);
    }
    let view = one.breaker.view(one.at(), &one.policy);
    assert_eq!((view.calls, view.failures, view.in_a_row), (4, 4, 4));
    assert!(one.fail().is_some());
    // A probe that comes to nothing lets the next one through.
    let pass = one.probe();
    assert_eq!(one.admit(None), None);
    assert_eq!(one.end(pass, Outcome::Neutral), None);
    assert!(one.admit(None).is_some());
}

#[test]
fn calls_that_began_under_another_state_say_nothing_about_this_one() {
    let mut one = One::new();
    let before: Vec<Pass> = (0..30).map(|_| one.admit(None).unwrap()).collect();
    one.open();
    for pass in &before[..10] {
        assert_eq!(one.end(*pass, SERVED), None, "served, but sent before it died");
    }
    assert_eq!(one.state(), "open");
    let pass = one.probe();
    one.end(pass, SERVED);
    for pass in &before[10..] {
        assert_eq!(one.end(*pass, failed()), None, "failed, but sent before it came back");
    }
    assert_eq!(one.state(), "closed");
}

#[test]
fn one_clients_failures_open_it_for_that_client_alone() {
    let mut one = One::new();
    let mut opened = 0;
    for round in 0..3000 {
        one.wait(500);
        // A burst of its own.
        if let Some(pass) = one.admit(Some(0)) {
            let change = one.end(pass, failed());
            assert!(!matches!(change, Some(Change::Opened { one_client: false, .. })), "round {round}");
            opened += u32::from(change.is_some());
        }
        for client in [1, 2].into_iter().filter(|_| round % 6 == 5) {
            let pass = one.admit(Some(client)).expect("others are let through");
            assert_eq!(one.end(pass, SERVED), None);
        }
    }
    assert!(opened >= 10, "{opened}");
    assert_eq!(one.breaker.snapshot().state, Standing::Closed, "nothing to tell others");
}

#[test]
fn the_second_clients_first_failure_opens_a_dead_endpoint_for_all() {
    for quiet_ms in [0, 1000, 100_000] {
        let mut one = One::new();
        for _ in 0..4 {
            assert_eq!(one.call(Some(0), failed()), None);
        }
        assert!(matches!(one.call(Some(0), failed()), Some(Change::Opened { one_client: true, .. })));
        one.wait(quiet_ms);
        assert!(matches!(one.call(Some(1), failed()), Some(Change::Opened { one_client: false, .. })), "{quiet_ms}");
        assert_eq!(one.admit(Some(2)), None);
    }
}

#[test]
fn a_failed_probe_is_a_failure_of_its_client() {
    let mut one = One::new();
    for _ in 0..5 {
        one.call(Some(0), failed());
    }
    // Long behind its first failures only its probes are left to tell.
    for _ in 0..4 {
        one.wait(65_000);
        let pass = one.admit(Some(0)).expect("a probe");
        assert!(matches!(one.end(pass, failed()), Some(Change::Opened { one_client: true, .. })));
    }
    assert!(matches!(one.call(Some(1), failed()), Some(Change::Opened { one_client: false, .. })));
}

#[test]
fn who_is_unknown_is_somebody_else() {
    let mut one = One::new();
    assert_eq!(one.call(None, failed()), None);
    let changes: Vec<_> = (0..4).map(|_| one.call(Some(0), failed())).collect();
    assert!(matches!(changes[3], Some(Change::Opened { one_client: false, .. })), "{changes:?}");
}

#[test]
fn slow_first_tokens_open_it_by_share_only_and_only_where_asked() {
    let slow = || Outcome::Served { first_content_ms: Some(2001) };
    let mut one = One::new();
    assert!((0..100).all(|_| one.call(None, slow()).is_none()), "no limit, nothing slow");
    let mut one = One::new().with(|policy| policy.slow_first_token_ms = Some(2000));
    let at_limit = Outcome::Served { first_content_ms: Some(2000) };
    let whole = Outcome::Served { first_content_ms: None };
    for outcome in [at_limit, whole, SERVED, SERVED, slow(), slow(), slow()] {
        assert_eq!(one.call(None, outcome), None);
    }
    assert!(one.call(None, slow()).is_some(), "four of eight");
    assert_eq!(one.breaker.view(one.at(), &one.policy).reason, "slow_first_token");
    let pass = one.probe();
    assert!(length_of(one.end(pass, slow())).is_some(), "a slow probe has failed");
}

#[test]
fn a_slow_answer_ends_a_row_of_failures() {
    let mut one = One::new().with(|policy| policy.slow_first_token_ms = Some(2000));
    for _ in 0..5 {
        one.call(Some(0), failed());
    }
    assert_eq!(one.call(Some(1), Outcome::Served { first_content_ms: Some(9000) }), None, "the row was another's");
}

#[test]
fn half_open_lets_one_probe_out_at_a_time_at_the_configured_share() {
    let (mut probes, calls, runs) = (0, 100, 2000);
    for seed in 0..runs {
        let mut one = One::of_seed(seed);
        one.open();
        let until = one.breaker.view(one.at(), &one.policy).until.unwrap();
        one.wait(one.at().until(until));
        let passes = (0..calls).filter(|_| one.admit(None).is_some()).count();
        assert!(passes <= 1, "one at a time");
        probes += passes;
    }
    // A hundred draws of 1 %, of which one counts: 63.4 %.
    assert!((1150..1390).contains(&probes), "{probes} of {runs}");
}

#[test]
fn the_first_content_of_a_probe_lets_the_next_one_out_and_only_its_end_closes() {
    let mut one = One::new();
    one.open();
    let first = one.probe();
    assert_eq!(one.admit(None), None);
    one.breaker.on_sign_of_life(first);
    let second = one.admit(None).expect("the next one");
    assert_eq!((one.admit(None), one.state()), (None, "half_open"));
    assert!(one.end(first, SERVED).is_some());
    assert_eq!(one.end(second, failed()), None, "it was sent before it closed");
}

#[test]
fn a_probe_that_never_ends_holds_the_next_one_up_for_ten_seconds() {
    let mut one = One::new();
    one.open();
    let first = one.probe();
    one.wait(9999);
    assert_eq!(one.admit(None), None);
    one.wait(1);
    let second = one.admit(None).expect("the next one");
    assert_eq!(one.end(first, Outcome::Neutral), None);
    assert_eq!(one.admit(None), None, "the second is still out");
    assert!(one.end(second, SERVED).is_some());
}

#[test]
fn a_quiet_isolate_probes_within_eight_seconds_and_one_in_company_seldom() {
    for (company, quickest, slowest) in [(false, 8000, 8000), (true, 60_000, 340_000)] {
        let mut latest = 0;
        for seed in 0..300 {
            let mut one = One::of_seed(seed);
            one.open();
            if company {
                one.breaker.on_company(one.at());
            }
            let until = one.breaker.view(one.at(), &one.policy).until.unwrap();
            one.wait(one.at().until(until));
            let waited = (0..400).find(|_| {
                let admitted = one.admit(None).is_some();
                one.wait(1000);
                admitted
            });
            latest = latest.max(waited.expect("a probe") * 1000);
        }
        assert!((quickest.min(6000)..=slowest).contains(&latest), "company {company}: {latest}");
        assert!(latest >= quickest * 3 / 4, "company {company}: {latest}");
    }
}

#[test]
fn a_clock_that_steps_back_changes_nothing_for_the_worse() {
    let mut one = One::new();
    one.now = 10_000_000;
    let pass = one.admit(None).unwrap();
    one.now = 9_000_000;
    assert_eq!(one.end(pass, failed()), None);
    let length = one.open();
    one.now = 0;
    assert_eq!(one.admit(None), None, "until its time has come");
    one.now = 9_000_000 + length + 8000;
    assert!(one.admit(None).is_some());
}

#[test]
fn operators_isolate_and_close_whatever_happened() {
    let mut one = One::new();
    assert_eq!(one.breaker.command(one.at(), false), None);
    assert_eq!(one.breaker.command(one.at(), true), Some(Change::Opened { open_ms: None, one_client: false }));
    assert_eq!(one.breaker.command(one.at(), true), None);
    one.wait(86_400_000);
    assert_eq!((one.admit(None), one.state()), (None, "isolated"));
    assert_eq!(one.restore(&told(Standing::Open, one.now, 1000)), None, "an opening does not end it");
    assert_eq!(one.state(), "isolated");
    one.wait(1);
    assert_eq!(one.breaker.command(one.at(), false), Some(Change::Closed { one_client: false }));
    one.open();
    assert!(one.breaker.command(one.at(), false).is_some());
    assert!(one.admit(None).is_some());
}

#[test]
fn a_snapshot_brings_another_breaker_to_the_same_state() {
    let mut first = One::new();
    first.open();
    let until = first.breaker.view(first.at(), &first.policy).until.unwrap();
    let mut second = One::of_seed(2);
    second.now = first.now + 100;
    assert!(matches!(second.restore(&first.breaker.snapshot()), Some(Change::Opened { .. })));
    let theirs = second.breaker.view(second.at(), &second.policy).until.unwrap();
    assert!(until <= theirs && until.until(theirs) <= 3750, "up to a quarter later");
    assert!(second.breaker.agrees(second.at(), &first.breaker.snapshot()));
    let pass = first.probe();
    first.end(pass, SERVED);
    second.now = first.now;
    assert_eq!(second.restore(&first.breaker.snapshot()), Some(Change::Closed { one_client: false }));
    // Word that is older than what is known is none.
    assert_eq!(second.restore(&told(Standing::Open, 0, 60_000)), None);
    assert_eq!(second.state(), "closed");
}

#[test]
fn growth_travels_with_the_record() {
    for (length, next) in [(15_000, 30_000), (11_250, 30_000), (22_500, 60_000), (30_000, 60_000), (60_000, 60_000)] {
        let mut one = One::new();
        one.restore(&told(Standing::Open, 0, length));
        let pass = one.probe();
        let grown = length_of(one.end(pass, failed())).unwrap();
        assert!((next * 3 / 4..=next).contains(&grown), "{grown} behind {length}");
    }
}

#[test]
fn a_record_by_a_clock_that_is_ahead_is_none_and_by_one_that_is_a_little_ahead_opens_once() {
    for (ahead, openings) in [(9000, 1), (11_000, 0), (3_600_000, 0), (u64::MAX / 2, 0)] {
        let mut one = One::new();
        let record = told(Standing::Open, ahead, 15_000);
        let opened = (0..100).filter(|_| {
            let change = one.restore(&record);
            one.wait(if ahead > 11_000 { 30_000 } else { 0 });
            change.is_some()
        });
        assert_eq!(opened.count(), openings, "{ahead} ms ahead");
    }
}

#[test]
fn an_opening_that_was_over_long_ago_is_no_news() {
    for (ago, state) in [(10_000, "open"), (250_000, "half_open"), (256_000, "closed"), (86_400_000, "closed")] {
        let mut one = One::new();
        one.now = ago;
        one.restore(&told(Standing::Open, 0, 15_000));
        assert_eq!(one.state(), state, "{ago} ms ago");
    }
}

#[test]
fn its_own_old_word_is_no_company() {
    let mut one = One::new();
    one.open();
    let old = one.breaker.snapshot();
    one.breaker.on_told(&old);
    let pass = one.probe();
    one.end(pass, failed());
    one.breaker.on_told(&one.breaker.snapshot());
    // A store shows what was there a minute ago.
    one.restore(&old);
    let until = one.breaker.view(one.at(), &one.policy).until.unwrap();
    one.wait(one.at().until(until) + 8000);
    assert!(one.admit(None).is_some(), "as soon as a quiet isolate");
}

#[test]
fn where_a_store_elects_only_a_lease_lets_a_probe_out_and_once() {
    let mut one = One::new();
    one.breaker.elects(true);
    one.open();
    assert!(!one.breaker.asks_for_lease(one.at()));
    one.wait(200_000);
    assert!(one.breaker.asks_for_lease(one.at()));
    one.breaker.on_lease_asked(one.at());
    assert!(!one.breaker.asks_for_lease(one.at()), "each request is billed");
    assert!((0..100).all(|_| one.admit(None).is_none()));
    one.breaker.grant(one.at().after(10_000));
    let pass = one.admit(None).expect("by its lease");
    assert_eq!(one.end(pass, Outcome::Neutral), None);
    assert_eq!(one.admit(None), None, "the lease is used up");
    one.breaker.grant(one.at().after(10_000));
    one.wait(10_000);
    assert_eq!(one.admit(None), None, "the lease is over");
    // Without a store chance decides again.
    one.breaker.elects(false);
    assert!(one.admit(None).is_some());
}
