//! What must hold at every moment of every call, checked whenever the call has come to rest and
//! the clock is about to go on. `record.rs` has the promises about the whole.
//!
//! All of it is judged from outside: by what was sent and read, what the client got and what the
//! facts say. What a call holds, for one, is what was read less what went on.

mod ends;
mod pieces;

use super::{
    ledger::Ledger,
    plain::{Meaning, Plain},
    speech::{Speech, asked_beginning},
    spliced::{self, Heard, Listener},
};
use crate::{
    host::State,
    record::{Record, Sent, is_over, read_events},
};
use fairlead_core::{
    classify::Failure,
    config::{HedgeAfter, OnDeadline, Resume},
    event::Event,
    fleet::Fleet,
    message::ResponseHead,
    policy::BudgetPolicy,
};
use serde_json::Value;
use std::{cell::RefCell, rc::Rc};

const MAX_HELD: usize = 1 << 20;
const MAX_WHOLE: usize = 8 << 20;
const MAX_BLOCK: usize = 16 << 20;
const MAX_EXPLANATION: usize = 1 << 20;
/// A call that is whole waits so long for its last bytes.
const GRACE_MS: u64 = 1000;
/// With less time left nobody is asked.
const LEAST_USEFUL_MS: u64 = 200;
/// So long a count of tokens is waited for.
const COUNT_MS: u64 = 2000;
/// So long before the deadline a stream is cut short.
const PARTIAL_MS: u64 = 250;
const KEEPALIVE: &[u8] = b": keepalive\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Looks on while one call runs.
pub struct Promises {
    ledger: Ledger,
    attempts: Vec<Attempt>,
    events_seen: usize,
    pieces_seen: usize,
    /// The attempt whose answer the client gets, by its place, once it has any of it.
    winner: Option<usize>,
    /// How much of that the client has.
    shown: Option<usize>,
    /// What the client has read, where a stream may go on behind another.
    listener: Option<Listener>,
    /// What there is to read, where that is known.
    speech: Option<Rc<Speech>>,
    /// An endpoint without a free place.
    full: Option<&'static str>,
    hedged: bool,
    /// The core has ended a stream of which all tokens had come.
    all_came: bool,
    /// A whole answer that was put together.
    assembled: Option<Value>,
    /// The pieces of that attempt.
    pieces_of_it: usize,
    /// The core has put the end in: nothing may follow.
    ended: bool,
    /// When the client last got a piece.
    served_at: u64,
}

/// What is known of one attempt from outside.
struct Attempt {
    /// Whether it is a job, which has many requests (see [`super::accounts`]).
    job: bool,
    /// Its request, if that has been made.
    request: Option<usize>,
    /// That request only asks for a count of tokens.
    counting: bool,
    /// How it goes on behind another, and the beginning that it was given.
    way: Option<&'static str>,
    begun: String,
    /// Why it failed.
    failed: Option<String>,
    plain: Plain,
    chunks_seen: usize,
    head: Option<Moment>,
    last_byte: Moment,
    last_content: Moment,
    sent: Moment,
    /// Content or the proof came last.
    proved: Moment,
    /// It may have to start first, so its headers have no timer.
    cold: bool,
}

/// A moment, and how long the client had been slow until then.
#[derive(Clone, Copy)]
struct Moment {
    at: u64,
    took: u64,
    stopped: u64,
}

impl Moment {
    fn of(state: &State) -> Self {
        Self { at: state.now, took: state.taking.ms(state.now), stopped: state.stopping.ms(state.now) }
    }

    /// How long ago it was at least to a call that excuses whenever the client took its time.
    fn least(self, state: &State) -> u64 {
        (state.now - self.at).saturating_sub(state.taking.ms(state.now) - self.took)
    }

    /// How long ago it was at most, without the time in which nothing could be read.
    fn most(self, state: &State) -> u64 {
        (state.now - self.at).saturating_sub(state.stopping.ms(state.now) - self.stopped)
    }
}

impl Promises {
    /// `speech`: what there is to read, if that is known; `full`: who has no free place.
    pub fn new(
        fleet: &Rc<RefCell<Fleet>>,
        budget: &BudgetPolicy,
        speech: Option<Rc<Speech>>,
        full: Option<&'static str>,
    ) -> Self {
        Self {
            ledger: Ledger::new(fleet, budget),
            attempts: Vec::new(),
            events_seen: 0,
            pieces_seen: 0,
            winner: None,
            shown: None,
            listener: None,
            speech,
            full,
            hedged: false,
            all_came: false,
            assembled: None,
            pieces_of_it: 0,
            ended: false,
            served_at: 0,
        }
    }

    /// The call has come to rest.
    pub fn check(&mut self, state: &State, record: &Record) {
        self.see_requests(state, record);
        self.see_chunks(state, record);
        self.see_failures(state, record);
        match &record.piped {
            Some(piped) => check_own_words(&record.pieces[piped.end..]),
            None => self.see_pieces(state, record),
        }
        self.check_text(state, record);
        self.check_bounds(state, record);
        self.check_timers(state, record);
        if state.taking.count == 0 {
            // Else there may be facts that wait behind a piece.
            self.ledger.check(state, spliced::keeps(record));
        }
    }

    fn see_requests(&mut self, state: &State, record: &Record) {
        for (_, event) in &state.events[self.events_seen..] {
            match event {
                Event::AttemptStarted { attempt, endpoint } => self.see_attempt(state, record, *attempt, endpoint),
                Event::ResumeStarted { attempt, way, .. } => self.attempts[*attempt as usize - 1].way = Some(way),
                Event::HedgeStarted { endpoint, after_ms, .. } => self.see_hedge(record, endpoint, *after_ms, state),
                _ => {}
            }
        }
        for (place, attempt) in self.attempts.iter_mut().enumerate() {
            if attempt.job || attempt.request.is_some() && !attempt.counting {
                continue;
            }
            // The latest, which is that for the answer if its tokens are counted already.
            let of_it = |sent: &Sent| !sent.is_of_job() && sent.attempt() as usize == place + 1;
            let latest = state.requests.iter().rposition(of_it);
            if latest != attempt.request {
                let now = Moment::of(state);
                attempt.request = latest;
                attempt.counting = latest.is_some_and(|number| state.requests[number].counts());
                (attempt.last_byte, attempt.last_content, attempt.sent, attempt.proved) = (now, now, now, now);
            }
        }
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.way == Some("continue") && !attempt.counting) {
            if let Some(number) = attempt.request.filter(|_| attempt.begun.is_empty()) {
                let body: Value = serde_json::from_slice(&state.requests[number].request.body).expect("JSON");
                attempt.begun = asked_beginning(&body).expect("a beginning");
            }
        }
    }

    fn see_attempt(&mut self, state: &State, record: &Record, attempt: u32, endpoint: &str) {
        assert!(attempt <= record.policy.max_attempts, "more attempts than allowed");
        assert_ne!(self.full, Some(endpoint), "an endpoint without a free place is asked");
        let may_go_on = spliced::is_internal(record) || record.policy.resume != Resume::Off;
        assert!(self.shown.is_none() || may_go_on, "nobody is asked behind the first content");
        let of_it = |sent: &Sent| !sent.is_of_job() && sent.attempt() == attempt;
        let request = state.requests.iter().position(of_it);
        // While its client takes its time it is told, but may be made later, or never.
        let waits = state.taking.count > 0 || is_over(&state.events);
        assert!(request.is_some() || endpoint == "d" || waits, "an attempt without a request");
        if let Some(number) = request {
            let at = state.requests[number].at;
            if attempt > 1 {
                // It may have had to wait behind a head that the client took its time over.
                let latest = record.deadline_ms + state.taking.ms(state.now);
                assert!(at + LEAST_USEFUL_MS <= latest, "asked {at} ms into the call, which is too late");
            }
            // Whoever has lost against another is not heard out.
            let lost = |sent: &Sent| {
                let fails = |(_, event): &(u64, Event)| matches!(event, Event::AttemptFailed { attempt, .. } if *attempt == sent.attempt());
                self.hedged && !state.events.iter().any(fails)
            };
            let earlier = state.requests[..number].iter().filter(|sent| !sent.is_of_job() && !sent.counts());
            for earlier in earlier.filter(|sent| !lost(sent)) {
                let refuses_to_continue = self.attempts[earlier.attempt() as usize - 1].way == Some("continue");
                check_pushback(earlier, &state.requests[number], record, refuses_to_continue);
            }
        }
        let now = Moment::of(state);
        let mut plain = Plain::new(record.ask.api.dialect(), record.ask.choices);
        plain.minds_holes = spliced::keeps(record) && may_go_on && record.ask.choices == 1;
        self.attempts.push(Attempt {
            job: endpoint == "d",
            request,
            counting: request.is_some_and(|number| state.requests[number].counts()),
            way: None,
            begun: String::new(),
            failed: None,
            plain,
            chunks_seen: 0,
            head: None,
            last_byte: now,
            last_content: now,
            sent: now,
            proved: now,
            cold: endpoint == "c" || endpoint == "d",
        });
    }

    fn see_hedge(&mut self, record: &Record, endpoint: &str, after_ms: u64, state: &State) {
        assert!(!std::mem::replace(&mut self.hedged, true), "a second hedge");
        assert_eq!(self.shown, None, "a hedge behind the first content");
        let hedge = record.policy.hedge.expect("a policy that hedges");
        if let HedgeAfter::Ms(ms) = hedge.after {
            assert!(after_ms >= ms, "a hedge after {after_ms} ms");
        }
        let attempts = state.events.iter().filter_map(|(_, event)| match event {
            Event::AttemptStarted { attempt, endpoint } if *attempt as usize <= self.attempts.len() => Some(endpoint),
            _ => None,
        });
        assert!(attempts.into_iter().all(|asked| asked != endpoint), "{endpoint} is asked beside itself");
    }

    /// Attempts that are no jobs and have a request under way, with their places.
    fn under_way<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (usize, &'a Attempt, &'a Sent)> {
        let with_request = |(place, attempt): (usize, &'a Attempt)| {
            let sent = &state.requests[attempt.request?];
            sent.over_at.is_none().then_some((place, attempt, sent))
        };
        self.attempts.iter().enumerate().filter_map(with_request)
    }

    /// The attempt that speaks, or would have spoken last, by its place.
    fn speaker(&self) -> Option<usize> {
        let spliced = self.listener.as_ref().and_then(|listener| listener.splice.as_ref());
        spliced.map(|splice| splice.attempt).or(self.winner).or(self.attempts.len().checked_sub(1))
    }

    /// Whether a job may speak to the client now.
    fn follows_a_job(&self) -> bool {
        let is_job = |attempt: &Attempt| attempt.job;
        match self.winner {
            Some(winner) => is_job(&self.attempts[winner]),
            None => {
                let several = self.hedged || self.attempts.iter().any(|attempt| attempt.way.is_some());
                self.attempts.last().is_some_and(is_job) || several && self.attempts.iter().any(is_job)
            }
        }
    }

    fn see_chunks(&mut self, state: &State, record: &Record) {
        // What comes at the deadline is not taken in any more.
        let late = state.now >= record.deadline_ms;
        let now = Moment::of(state);
        for attempt in self.attempts.iter_mut().filter(|attempt| !late && !attempt.counting) {
            let Some(sent) = attempt.request.map(|number| &state.requests[number]) else { continue };
            if sent.head.is_some() && attempt.head.is_none() {
                (attempt.head, attempt.last_byte) = (Some(now), now);
            }
            let streams = streams(sent, record);
            for chunk in &sent.chunks[attempt.chunks_seen..] {
                attempt.last_byte = now;
                if !streams {
                    attempt.plain.bytes.extend_from_slice(chunk);
                    continue;
                }
                let was_whole = attempt.plain.whole;
                let content = attempt.plain.grow(chunk);
                if content {
                    attempt.last_content = now;
                }
                if content || attempt.plain.whole && !was_whole {
                    attempt.proved = now;
                }
            }
            attempt.chunks_seen = sent.chunks.len();
        }
    }

    /// No attempt is given up before its time.
    fn see_failures(&mut self, state: &State, record: &Record) {
        let policy = &record.policy;
        for (_, event) in &state.events[self.events_seen..] {
            let Event::AttemptFailed { attempt, reason, .. } = event else { continue };
            let attempt = &mut self.attempts[*attempt as usize - 1];
            attempt.failed = Some(reason.clone());
            assert!(!(attempt.cold && reason == "headers"), "an endpoint that may have to start has no such timer");
            let (since, least) = match &**reason {
                _ if attempt.job => continue,
                "headers" => (attempt.sent, policy.headers_ms),
                "first_token" => (attempt.sent, first_token_ms(record)),
                "idle" => (attempt.last_byte, idle_ms(record)),
                "progress" if !attempt.plain.odd => (attempt.last_content, policy.progress_ms),
                _ => continue,
            };
            let ms = since.most(state);
            assert!(ms >= least, "`{reason}` ran out after {ms} ms of {least}");
        }
        self.events_seen = state.events.len();
    }

    fn check_bounds(&self, state: &State, record: &Record) {
        // A client that has not begun to read leaves the call unpolled.
        let unbegun = record.head.is_some() && record.pieces.is_empty() && state.taking.count > 0;
        let in_flight = state.left_open();
        let raced = self.hedged && (self.shown.is_none() || state.taking.count > 0);
        assert!(in_flight <= 1 + usize::from(raced), "{in_flight} exchanges at a time");
        let over = is_over(&state.events);
        let late = state.now >= record.deadline_ms;
        let gone = state.leaves_at.is_some_and(|at| at <= state.now);
        if !unbegun && (late || gone || over) {
            assert_eq!(in_flight, 0, "an exchange goes on (late {late}, client gone {gone}, over {over})");
            // Its last words may have to wait for the client.
            assert!(over || state.taking.count > 0, "the call goes on (late {late}, client gone {gone})");
        }
        if state.taking.count > 0 || record.piped.is_some() {
            return;
        }
        for (place, attempt, sent) in self.under_way(state) {
            self.check_bounds_of(place, attempt, sent, record);
        }
    }

    fn check_bounds_of(&self, place: usize, attempt: &Attempt, sent: &Sent, record: &Record) {
        let Attempt { plain, .. } = attempt;
        let (most_chunk, received) = (sent.chunks.iter().map(|chunk| chunk.len()).max(), plain.bytes.len());
        let unread = plain.bytes.len() - plain.open();
        if streams(sent, record) {
            assert!(unread <= MAX_BLOCK + most_chunk.unwrap_or_default(), "{unread} bytes of one block are kept");
            match self.shown.filter(|_| self.winner == Some(place)) {
                // What goes on is judged by its text, and so is what is put together.
                _ if attempt.way.is_some() || spliced::is_internal(record) => {}
                None => assert!(plain.weight <= MAX_HELD + plain.largest, "{} bytes are held", plain.weight),
                Some(cursor) => self.check_nothing_is_kept(plain, cursor),
            }
        } else if sent.head.as_ref().is_some_and(|head| (200..300).contains(&head.status)) {
            let kept = received - self.shown.unwrap_or_default();
            assert!(kept <= MAX_WHOLE, "{kept} bytes of an answer are held");
        } else {
            assert!(received <= MAX_EXPLANATION, "{received} bytes of an explanation are held");
        }
    }

    /// Of an attempt that is shown, every block goes on at once.
    fn check_nothing_is_kept(&self, plain: &Plain, mut cursor: usize) {
        let end = plain.closed_at.unwrap_or(plain.open());
        while let Some((next, meaning)) = plain.block_at(cursor).filter(|_| cursor < end) {
            let may_be_dropped = meaning.may_be_dropped(self.pieces_of_it < 2);
            assert!(may_be_dropped, "kept back: {}", text(&plain.bytes[cursor..end]));
            cursor = next;
        }
    }

    /// No silence is longer than its timer.
    fn check_timers(&self, state: &State, record: &Record) {
        let (policy, now) = (&record.policy, state.now);
        if state.taking.count > 0 {
            return;
        }
        if record.ask.stream && !is_over(&state.events) {
            match &record.head {
                None => {
                    let waits = now - record.begins_at;
                    assert!(waits <= policy.commit_after_ms.max(record.upload_ms), "no status for {waits} ms");
                }
                Some(_) => {
                    let silence = now - self.served_at.max(record.head_at).max(state.taking.changed_at);
                    let whole = self.attempts.iter().any(|attempt| attempt.plain.whole || attempt.plain.odd);
                    let piped = record.piped.is_some();
                    assert!(whole || piped || silence <= policy.keepalive_ms, "no byte for {silence} ms");
                }
            }
        }
        for (_, attempt, sent) in self.under_way(state) {
            Self::check_timers_of(attempt, sent, state, record);
        }
    }

    fn check_timers_of(attempt: &Attempt, sent: &Sent, state: &State, record: &Record) {
        let policy = &record.policy;
        let Attempt { plain, .. } = attempt;
        let within = |since: Moment, most: u64, name: &str| {
            let ms = since.least(state);
            assert!(ms <= most, "{ms} ms without {name}, of {most}");
        };
        let first_token_ms = first_token_ms(record);
        let asks_for_stream = record.ask.stream || spliced::is_internal(record);
        let refused = sent.head.as_ref().is_some_and(|head| Failure::is_refusal(head.status));
        match attempt.head {
            None if attempt.counting => within(attempt.sent, COUNT_MS, "a count of tokens"),
            None if asks_for_stream => {
                within(attempt.sent, first_token_ms, "a first token");
                if !attempt.cold {
                    within(attempt.sent, policy.headers_ms, "headers");
                }
            }
            None => {}
            // A proxy of RunPod's may say in its body that its status means something else.
            Some(head) if explains(sent, attempt) => within(head, GRACE_MS, "an explanation"),
            Some(_) if refused || !asks_for_stream => within(attempt.last_byte, idle_ms(record), "a byte"),
            Some(_) if plain.odd => {}
            Some(_) if plain.whole => within(attempt.proved, GRACE_MS, "an end"),
            Some(_) if plain.content => {
                within(attempt.last_byte, idle_ms(record), "a byte");
                within(attempt.last_content, policy.progress_ms, "content");
            }
            Some(_) => within(attempt.sent, first_token_ms, "content"),
        }
    }
}

/// Behind what a pipe brought stand Fairlead's own words, each behind a blank line, and nothing of
/// the endpoint's.
fn check_own_words(pieces: &[(u64, Vec<u8>)]) {
    for (_, piece) in pieces {
        let words = piece.strip_prefix(b"\n\n");
        let is_error = text(piece).contains(r#""error":{"#) && text(piece).contains(r#""code":"#);
        assert!(words.is_some_and(|words| is_error || words == DONE || words.is_empty()), "{}", text(piece));
    }
}

/// Whether a failure is being explained that lies with the endpoint.
fn explains(sent: &Sent, attempt: &Attempt) -> bool {
    let failed = |head: &ResponseHead| !(200..300).contains(&head.status) && !Failure::is_refusal(head.status);
    attempt.cold && sent.head.as_ref().is_some_and(failed)
}

/// Whether the answer to this request is an event stream to the core.
fn streams(sent: &Sent, record: &Record) -> bool {
    let asked = record.ask.stream || spliced::is_internal(record);
    asked && sent.head.as_ref().is_some_and(|head| (200..300).contains(&head.status))
}

fn idle_ms(record: &Record) -> u64 {
    record.policy.idle_ms * if record.ask.held_back { 2 } else { 1 }
}

fn first_token_ms(record: &Record) -> u64 {
    let streamed = record.ask.streamed().filter(|_| spliced::is_internal(record));
    record.policy.first_token_for(streamed.as_ref().unwrap_or(&record.ask).body.len())
}

fn too_long(plain: &Plain) -> bool {
    plain.bytes.len() - plain.open() > MAX_BLOCK || plain.largest > MAX_BLOCK
}

/// What an endpoint said about being asked again is obeyed. `continued`: what it refuses may be that it is to go on from
/// a beginning.
fn check_pushback(earlier: &Sent, later: &Sent, record: &Record, continued: bool) {
    let Some(head) = &earlier.head else { return };
    let field = |name| head.headers.get(name);
    let hint = field("x-should-retry");
    let same = earlier.endpoint == later.endpoint;
    let (endpoint, at) = (&later.endpoint, later.at);
    match head.status {
        // Success, or no status at all.
        ..300 | 600.. => return,
        300..400 | 401 | 403 => assert!(!same || hint == Some("true"), "{endpoint} is asked again after a no"),
        400 if hint.is_none() => {}
        status if continued && Failure::is_refusal(status) => {}
        status if Failure::is_refusal(status) => {
            assert!(hint == Some("true"), "asked again after a refusal of the request itself");
        }
        _ => assert!(!same || hint != Some("false"), "{endpoint} is asked again against its word"),
    }
    let pushes_back = matches!(head.status, 408 | 425 | 429 | 500..600) && !matches!(head.status, 501 | 505);
    let seconds = field("retry-after").and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
    if same && pushes_back && field("retry-after-ms").is_none() && seconds > 0 {
        assert!(
            seconds * 1000 <= record.policy.retry_after_max_ms,
            "{endpoint} is asked again though it said {seconds}"
        );
        let over_at = earlier.over_at.unwrap_or(later.at);
        assert!(at >= over_at + seconds * 1000, "{endpoint} is asked again too early");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}
