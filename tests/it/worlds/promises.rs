//! What must hold at every moment of every call, checked whenever the call has come to rest and
//! the clock is about to go on. `record.rs` has the promises about the whole.
//!
//! All of it is judged from outside: by what was sent and read, what the client got and what the
//! facts say. What a call holds, for one, is what was read less what went on.

use super::{
    ledger::Ledger,
    plain::{Meaning, Plain},
};
use crate::{
    host::State,
    record::{Record, Sent, is_over, read_events},
};
use fairlead_core::{classify::Failure, event::Event, fleet::Fleet, message::ResponseHead, policy::BudgetPolicy};
use std::{cell::RefCell, rc::Rc};

const MAX_HELD: usize = 1 << 20;
const MAX_WHOLE: usize = 8 << 20;
const MAX_BLOCK: usize = 16 << 20;
const MAX_EXPLANATION: usize = 1 << 20;
/// A call that is whole waits so long for its last bytes.
const GRACE_MS: u64 = 1000;
/// With less time left nobody is asked.
const LEAST_USEFUL_MS: u64 = 200;
const KEEPALIVE: &[u8] = b": keepalive\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Looks on while one call runs.
pub struct Promises {
    ledger: Ledger,
    attempts: Vec<Attempt>,
    events_seen: usize,
    pieces_seen: usize,
    /// How much of the last attempt the client has, once it has any of it.
    shown: Option<usize>,
    /// The pieces of that attempt.
    pieces_of_it: usize,
    /// The core has put the end in: nothing may follow.
    ended: bool,
    /// When the client last got a piece.
    served_at: u64,
}

/// What is known of one attempt from outside.
struct Attempt {
    /// Its request; `None` where it is a job, which has many (see [`super::accounts`]).
    request: Option<usize>,
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
    pub fn new(fleet: &Rc<RefCell<Fleet>>, budget: &BudgetPolicy) -> Self {
        Self {
            ledger: Ledger::new(fleet, budget),
            attempts: Vec::new(),
            events_seen: 0,
            pieces_seen: 0,
            shown: None,
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
        self.check_bounds(state, record);
        self.check_timers(state, record);
        if state.taking.count == 0 {
            // Else there may be facts that wait behind a piece.
            self.ledger.check(state);
        }
    }

    fn see_requests(&mut self, state: &State, record: &Record) {
        let started = state.events[self.events_seen..].iter().filter_map(|(_, event)| match event {
            Event::AttemptStarted { attempt, endpoint } => Some((*attempt, endpoint)),
            _ => None,
        });
        for (attempt, endpoint) in started {
            assert!(attempt <= record.policy.max_attempts, "more attempts than allowed");
            assert_eq!(self.shown, None, "nobody is asked behind the first content");
            let request = state.requests.iter().position(|sent| !sent.is_of_job() && sent.attempt() == attempt);
            assert!(request.is_some() || endpoint == "d", "an attempt without a request");
            if let Some(number) = request {
                let at = state.requests[number].at;
                if attempt > 1 {
                    // It may have had to wait behind a head that the client took its time over.
                    let latest = record.deadline_ms + state.taking.ms(state.now);
                    assert!(at + LEAST_USEFUL_MS <= latest, "asked {at} ms into the call, which is too late");
                }
                for earlier in state.requests[..number].iter().filter(|sent| !sent.is_of_job()) {
                    check_pushback(earlier, &state.requests[number], record);
                }
            }
            let now = Moment::of(state);
            self.attempts.push(Attempt {
                request,
                plain: Plain::new(record.ask.api.dialect(), record.ask.choices),
                chunks_seen: 0,
                head: None,
                last_byte: now,
                last_content: now,
                sent: now,
                proved: now,
                cold: endpoint == "c" || endpoint == "d",
            });
        }
    }

    /// The last attempt and its request, unless it is a job.
    fn last<'a>(&'a self, state: &'a State) -> Option<(&'a Attempt, &'a Sent)> {
        let attempt = self.attempts.last()?;
        Some((attempt, &state.requests[attempt.request?]))
    }

    /// Whether the last attempt is a job.
    fn follows_a_job(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| attempt.request.is_none())
    }

    fn see_chunks(&mut self, state: &State, record: &Record) {
        // What comes at the deadline is not taken in any more.
        let late = state.now >= record.deadline_ms;
        let now = Moment::of(state);
        for attempt in self.attempts.iter_mut().filter(|_| !late) {
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
            let attempt = &self.attempts[*attempt as usize - 1];
            assert!(!(attempt.cold && reason == "headers"), "an endpoint that may have to start has no such timer");
            let (since, least) = match &**reason {
                _ if attempt.request.is_none() => continue,
                "headers" => (attempt.sent, policy.headers_ms),
                "first_token" => (attempt.sent, policy.first_token_for(record.ask.body.len())),
                "idle" => (attempt.last_byte, idle_ms(record)),
                "progress" if !attempt.plain.odd => (attempt.last_content, policy.progress_ms),
                _ => continue,
            };
            let ms = since.most(state);
            assert!(ms >= least, "`{reason}` ran out after {ms} ms of {least}");
        }
        self.events_seen = state.events.len();
    }

    fn see_pieces(&mut self, state: &State, record: &Record) {
        for (at, piece) in &record.pieces[self.pieces_seen..] {
            assert!(!self.ended, "nothing follows the end: {}", text(piece));
            assert!(!piece.is_empty(), "an empty piece");
            self.served_at = *at;
            let status = record.head.as_ref().expect("a head before the body").status;
            if self.follows_a_job() {
                self.see_job_piece(piece);
            } else if record.ask.stream && piece.starts_with(b": IN_") {
                // A job's place in the queue, which the client takes late.
            } else if !record.ask.stream || status != 200 {
                self.see_plain_piece(state, record, piece);
            } else if piece != KEEPALIVE && !self.see_blocks(piece) {
                self.see_end(piece);
            }
        }
        self.pieces_seen = record.pieces.len();
        if record.broken {
            assert!(!record.ask.stream && self.shown.is_some(), "only half of a plain answer is broken off");
        }
    }

    /// What a job's text must be is judged at its end: here, only that nothing follows an error.
    fn see_job_piece(&mut self, piece: &[u8]) {
        if !piece.starts_with(b":") {
            self.ended = text(piece).contains(r#""error":{"message":"#) && text(piece).contains(r#""code":"#);
            self.shown = Some(0).filter(|_| !self.ended).or(self.shown);
        }
    }

    /// An answer that does not stream is one attempt's, from its first byte on, or the core's error.
    fn see_plain_piece(&mut self, state: &State, record: &Record, piece: &[u8]) {
        let attempt = self.attempts.last();
        let sent = attempt.and_then(|attempt| Some(&state.requests[attempt.request?]));
        let from = self.shown.unwrap_or_default();
        let bytes = attempt.map_or(&[][..], |attempt| &attempt.plain.bytes);
        if bytes[from..].starts_with(piece) {
            self.shown = Some(from + piece.len());
            let over = sent.is_some_and(|sent| sent.over_at.is_some() && !sent.aborted);
            let whole = over && from + piece.len() == bytes.len();
            assert!(whole || bytes.len() > MAX_WHOLE, "an answer that is not complete is not shown");
            let status = record.head.as_ref().map(|head| head.status);
            assert_eq!(status, sent.and_then(|sent| Some(sent.head.as_ref()?.status)), "with its own status");
        } else {
            let error: serde_json::Value = serde_json::from_slice(piece).unwrap_or_default();
            assert!(error["error"]["code"].is_string(), "neither an endpoint's nor an error: {}", text(piece));
            assert_eq!(self.shown, None, "no error behind half an answer");
            self.ended = true;
        }
    }

    /// Whether these are blocks of the last attempt, in order, without any that must not be seen.
    fn see_blocks(&mut self, piece: &[u8]) -> bool {
        let Some(Attempt { plain, .. }) = self.attempts.last() else { return false };
        let mut cursor = self.shown.unwrap_or_else(|| plain.start());
        let in_front = self.pieces_of_it < 2;
        let mut rest = piece;
        while !rest.is_empty() {
            let Some((end, meaning)) = plain.block_at(cursor) else { return false };
            if let Some(behind) = rest.strip_prefix(&plain.bytes[cursor..end]) {
                let never = matches!(meaning, Meaning::Malformed | Meaning::Error);
                assert!(!never, "not for the client, but shown: {}", text(&plain.bytes[cursor..end]));
                rest = behind;
            } else if !meaning.may_be_dropped(in_front) {
                return false;
            }
            cursor = end;
        }
        assert!(plain.closed_at.is_none_or(|end| cursor <= end), "shown behind the end: {}", text(piece));
        let ready = plain.content || plain.whole || plain.weight > MAX_HELD || plain.odd;
        assert!(ready, "shown before there was content: {}", text(piece));
        self.shown = Some(cursor);
        self.pieces_of_it += 1;
        true
    }

    /// The end that the core puts in: a `[DONE]` that is owed, or an error.
    fn see_end(&mut self, piece: &[u8]) {
        self.ended = true;
        let plain = self.attempts.last().map(|attempt| &attempt.plain);
        if piece == DONE {
            assert!(plain.is_some_and(|plain| plain.whole || plain.odd), "[DONE] without proof");
            assert!(plain.is_some_and(Plain::ends_in_done), "[DONE] where nobody knows it");
            return;
        }
        let data = match &*read_events(piece) {
            [(_, data)] => data.clone(),
            _ => String::new(),
        };
        let event: serde_json::Value = serde_json::from_str(&data).unwrap_or_default();
        assert!(event["error"]["code"].is_string(), "neither the endpoint's nor an end: {}", text(piece));
        let whole = plain.is_some_and(|plain| plain.whole && !plain.failed && !plain.odd && !too_long(plain));
        assert!(!whole, "an error behind a whole stream: {}", text(piece));
    }

    fn check_bounds(&self, state: &State, record: &Record) {
        // A client that has not begun to read leaves the call unpolled.
        let unbegun = record.head.is_some() && record.pieces.is_empty() && state.taking.count > 0;
        let in_flight = state.left_open();
        assert!(in_flight <= 1, "{in_flight} exchanges at a time");
        let over = is_over(&state.events);
        let late = state.now >= record.deadline_ms;
        let gone = state.leaves_at.is_some_and(|at| at <= state.now);
        if !unbegun && (late || gone || over) {
            assert_eq!(in_flight, 0, "an exchange goes on (late {late}, client gone {gone}, over {over})");
            // Its last words may have to wait for the client.
            assert!(over || state.taking.count > 0, "the call goes on (late {late}, client gone {gone})");
        }
        let Some((attempt, sent)) = self.last(state) else { return };
        if sent.over_at.is_some() || state.taking.count > 0 || record.piped.is_some() {
            return;
        }
        let Attempt { plain, .. } = attempt;
        let (most_chunk, received) = (sent.chunks.iter().map(|chunk| chunk.len()).max(), plain.bytes.len());
        let unread = plain.bytes.len() - plain.open();
        if streams(sent, record) {
            assert!(unread <= MAX_BLOCK + most_chunk.unwrap_or_default(), "{unread} bytes of one block are kept");
            match self.shown {
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
                    let whole = self.attempts.last().is_some_and(|attempt| attempt.plain.whole || attempt.plain.odd);
                    let piped = record.piped.is_some();
                    assert!(whole || piped || silence <= policy.keepalive_ms, "no byte for {silence} ms");
                }
            }
        }
        let Some((attempt, sent)) = self.last(state) else { return };
        if sent.over_at.is_some() {
            return;
        }
        let Attempt { plain, .. } = attempt;
        let within = |since: Moment, most: u64, name: &str| {
            let ms = since.least(state);
            assert!(ms <= most, "{ms} ms without {name}, of {most}");
        };
        let first_token_ms = policy.first_token_for(record.ask.body.len());
        let refused = sent.head.as_ref().is_some_and(|head| Failure::is_refusal(head.status));
        match attempt.head {
            None if record.ask.stream => {
                within(attempt.sent, first_token_ms, "a first token");
                if !attempt.cold {
                    within(attempt.sent, policy.headers_ms, "headers");
                }
            }
            None => {}
            // A proxy of RunPod's may say in its body that its status means something else.
            Some(head) if explains(sent, attempt) => within(head, GRACE_MS, "an explanation"),
            Some(_) if refused || !record.ask.stream => within(attempt.last_byte, idle_ms(record), "a byte"),
            Some(_) if plain.odd => {}
            Some(_) if plain.whole => within(attempt.proved, GRACE_MS, "an end"),
            Some(_) if plain.content => {
                within(attempt.last_byte, idle_ms(record), "a byte");
                within(attempt.last_content, policy.progress_ms, "content");
            }
            Some(_) => within(attempt.sent, first_token_ms, "content"),
        }
    }

    /// The call is over.
    pub fn check_end(&mut self, record: &Record) {
        let Some(attempt) = self.attempts.last_mut() else { return };
        let Some(sent) = attempt.request.map(|number| &record.requests[number]) else { return };
        let Attempt { plain, .. } = attempt;
        let outcome = record.outcome();
        let streamed = streams(sent, record);
        if streamed && plain.whole && !plain.failed && !plain.odd && !too_long(plain) {
            assert!(["ok", "client_gone"].contains(&outcome), "{outcome}, of a whole stream");
        }
        if outcome != "ok" || record.untaken || record.gone {
            return;
        }
        if record.piped.is_some() {
            // An event that was cut is ended by a blank line, and then counts.
            plain.grow(b"\n\n");
            assert!(plain.whole || plain.odd, "ok, of half a stream");
            return;
        }
        let Some(Attempt { plain, .. }) = self.attempts.last() else { return };
        let cursor = self.shown.expect("an answer was shown");
        if streamed {
            assert!(plain.whole || plain.odd, "ok, of half a stream");
            self.check_nothing_is_kept(plain, cursor);
        } else {
            assert_eq!(cursor, plain.bytes.len(), "an answer goes out whole");
            let head = sent.head.as_ref().expect("a head before the answer");
            let length = head.headers.get("content-length").filter(|_| head.headers.get("content-encoding").is_none());
            assert!(length.is_none_or(|length| length == cursor.to_string()), "an answer of another length");
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

/// Whether the answer to this request is an event stream to the core.
/// Whether a failure is being explained that lies with the endpoint.
fn explains(sent: &Sent, attempt: &Attempt) -> bool {
    let failed = |head: &ResponseHead| !(200..300).contains(&head.status) && !Failure::is_refusal(head.status);
    attempt.cold && sent.head.as_ref().is_some_and(failed)
}

fn streams(sent: &Sent, record: &Record) -> bool {
    record.ask.stream && sent.head.as_ref().is_some_and(|head| (200..300).contains(&head.status))
}

fn idle_ms(record: &Record) -> u64 {
    record.policy.idle_ms * if record.ask.held_back { 2 } else { 1 }
}

fn too_long(plain: &Plain) -> bool {
    plain.bytes.len() - plain.open() > MAX_BLOCK || plain.largest > MAX_BLOCK
}

/// What an endpoint said about being asked again is obeyed.
fn check_pushback(earlier: &Sent, later: &Sent, record: &Record) {
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
