//! What must hold at every moment of every call, checked whenever the call has come to rest and
//! the clock is about to go on. `record.rs` has the promises about the whole.
//!
//! All of it is judged from outside: by what was sent and read, what the client got and what the
//! facts say. What a call holds, for one, is what was read less what went on.

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
    /// Its request; `None` where it is a job, which has many (see [`super::accounts`]).
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
            let Some(number) = attempt.request.filter(|_| attempt.counting) else { continue };
            let of_it = |sent: &&Sent| !sent.is_of_job() && !sent.counts() && sent.attempt() as usize == place + 1;
            if let Some(sent) = state.requests[number + 1..].iter().find(of_it) {
                let now = Moment::of(state);
                attempt.counting = false;
                attempt.request = state.requests.iter().position(|other| std::ptr::eq(other, sent));
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
        // That of a client that has left is told, but not made.
        assert!(request.is_some() || endpoint == "d" || is_over(&state.events), "an attempt without a request");
        if let Some(number) = request {
            let at = state.requests[number].at;
            if attempt > 1 {
                // It may have had to wait behind a head that the client took its time over.
                let latest = record.deadline_ms + state.taking.ms(state.now);
                assert!(at + LEAST_USEFUL_MS <= latest, "asked {at} ms into the call, which is too late");
            }
            for earlier in state.requests[..number].iter().filter(|sent| !sent.is_of_job() && !sent.counts()) {
                let refuses_to_continue = self.attempts[earlier.attempt() as usize - 1].way == Some("continue");
                check_pushback(earlier, &state.requests[number], record, refuses_to_continue);
            }
        }
        let now = Moment::of(state);
        self.attempts.push(Attempt {
            request,
            counting: request.is_some_and(|number| state.requests[number].counts()),
            way: None,
            begun: String::new(),
            failed: None,
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
        let is_job = |attempt: &Attempt| attempt.request.is_none();
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
                _ if attempt.request.is_none() => continue,
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

    fn see_pieces(&mut self, state: &State, record: &Record) {
        if self.listener.is_none() && record.ask.stream && spliced::keeps(record) {
            self.listener = Some(Listener::new(Plain::new(record.ask.api.dialect(), record.ask.choices)));
        }
        for (at, piece) in &record.pieces[self.pieces_seen..] {
            assert!(!self.ended, "nothing follows the end: {}", text(piece));
            assert!(!piece.is_empty(), "an empty piece");
            self.served_at = *at;
            let status = record.head.as_ref().expect("a head before the body").status;
            if let Some(listener) = &mut self.listener {
                listener.heard.grow(piece);
            }
            if spliced::is_internal(record) {
                self.see_assembled(record, piece);
            } else if !record.ask.stream || status != 200 {
                match self.follows_a_job() {
                    true => self.see_job_piece(piece),
                    false => self.see_plain_piece(state, record, piece),
                }
            } else if piece.starts_with(b": resumed by ") {
                self.see_splice(state, record, piece);
            } else if self.listener.as_ref().is_some_and(|listener| listener.splice.is_some()) {
                self.ended = self.listener.as_ref().is_some_and(|listener| listener.heard.closed_at.is_some());
            } else if piece.starts_with(b": IN_") || piece == KEEPALIVE {
                // A job's place in the queue, which the client takes late.
            } else if !self.see_blocks(state, piece) {
                match self.follows_a_job() {
                    true => self.see_job_piece(piece),
                    false => self.see_end(record, piece),
                }
            }
        }
        self.pieces_seen = record.pieces.len();
        if record.broken {
            assert!(!record.ask.stream && self.shown.is_some(), "only half of a plain answer is broken off");
        }
    }

    /// Another attempt goes on behind what the client has.
    fn see_splice(&mut self, state: &State, record: &Record, piece: &[u8]) {
        let words = text(piece);
        let words = words.trim_end().trim_start_matches(": resumed by ");
        let (way, number) = words.split_once(", attempt ").expect("a way and a number");
        let place = number.parse::<usize>().expect("a number") - 1;
        let before = self.speaker().and_then(|place| self.attempts[place].request);
        let attempt = &self.attempts[place];
        assert_eq!(attempt.way, Some(way));
        let listener = self.listener.as_mut().expect("a stream that may be resumed");
        match way {
            "continue" => {
                assert_eq!(record.policy.resume, Resume::Continue);
                let had = &listener.heard.said;
                let given = if record.ask.api.path().contains("chat") { spliced::trimmed(had) } else { had };
                assert_eq!(attempt.begun, given, "what was to be continued");
                let model = |number: usize| {
                    serde_json::from_slice::<Value>(&state.requests[number].request.body).expect("JSON")["model"].take()
                };
                let models = attempt.request.zip(before).map(|(own, other)| (model(own), model(other)));
                let (own, other) = models.expect("requests, not jobs");
                assert_eq!(own, other, "text that no one model has said");
            }
            "verify" => assert_ne!(record.policy.resume, Resume::Off),
            other => panic!("a way that is none: {other}"),
        }
        listener.splice(place);
    }

    /// What the client has read of a stream that went on is what was said, neither more nor less.
    fn check_text(&self, state: &State, record: &Record) {
        let Some(listener) = &self.listener else { return };
        let Some(attempt) = listener.splice.as_ref().map(|splice| &self.attempts[splice.attempt]) else { return };
        if record.ask.choices != 1 || attempt.request.is_none() || listener.heard.odd || attempt.plain.odd {
            return;
        }
        let gone = state.events.iter().any(
            |(_, event)| matches!(event, Event::CallEnded { outcome, .. } if !matches!(&**outcome, "ok" | "partial" | "stream_interrupted")),
        );
        let late = state.now >= record.deadline_ms;
        let differs = attempt.failed.as_deref() == Some("differs");
        let settled = state.taking.count == 0 && !late && !gone && !record.untaken && !differs;
        let whole = format!("{}{}", attempt.begun, attempt.plain.said);
        listener.check(&whole, &attempt.plain.thought, settled);
    }

    /// An answer that was put together is what one attempt has said, behind what it was given; or there is an error.
    fn see_assembled(&mut self, record: &Record, piece: &[u8]) {
        self.ended = true;
        let answer: Value = serde_json::from_slice(piece).expect("JSON, in one piece");
        let status = record.head.as_ref().expect("a head").status;
        if (400..500).contains(&status) && answer["error"]["code"].as_str().is_none() {
            return;
        }
        let failed = answer.get("error").is_some();
        assert_eq!(status == 200, !failed, "{}", text(piece));
        self.assembled = Some(answer);
    }

    /// What a job's text must be is judged at its end: here, only that nothing follows an error.
    fn see_job_piece(&mut self, piece: &[u8]) {
        if !piece.starts_with(b":") {
            self.ended = text(piece).contains(r#""error":{"message":"#) && text(piece).contains(r#""code":"#);
            self.shown = Some(0).filter(|_| !self.ended).or(self.shown);
            let is_job = |attempt: &Attempt| attempt.request.is_none() && attempt.way.is_none();
            self.winner = self.attempts.iter().rposition(is_job).filter(|_| !self.ended).or(self.winner);
        }
    }

    /// An answer that does not stream is one attempt's, from its first byte on, or the core's error.
    fn see_plain_piece(&mut self, state: &State, record: &Record, piece: &[u8]) {
        let attempt = self.speaker().map(|place| &self.attempts[place]);
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

    /// Whether these are blocks of one attempt, always the same, in order, without any that must not be seen.
    fn see_blocks(&mut self, state: &State, piece: &[u8]) -> bool {
        if let Some(place) = self.winner {
            return self.see_blocks_of(place, piece);
        }
        // Of two that say the same, the one that was given up first has lost.
        let given_up = |place: &usize| {
            let sent = self.attempts[*place].request.map(|number| &state.requests[number]);
            sent.map(|sent| (std::cmp::Reverse(sent.over_at.unwrap_or(u64::MAX)), sent.aborted))
        };
        let mut places: Vec<usize> = (0..self.attempts.len()).rev().collect();
        places.retain(|place| self.attempts[*place].way.is_none());
        places.sort_by_key(given_up);
        places.into_iter().any(|place| self.see_blocks_of(place, piece))
    }

    fn see_blocks_of(&mut self, place: usize, piece: &[u8]) -> bool {
        let Some(Attempt { plain, request: Some(_), .. }) = self.attempts.get(place) else { return false };
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
        if !(plain.content || plain.whole || plain.weight > MAX_HELD || plain.odd) {
            return false;
        }
        self.winner = Some(place);
        self.shown = Some(cursor);
        self.pieces_of_it += 1;
        true
    }

    /// The end that the core puts in: a `[DONE]` that is owed, one behind an answer that is cut short, or an error.
    fn see_end(&mut self, record: &Record, piece: &[u8]) {
        self.ended = true;
        let speaker = self.speaker().map(|place| &self.attempts[place]);
        let plain = speaker.filter(|attempt| attempt.way.is_none()).map(|attempt| &attempt.plain);
        let whole = plain.is_some_and(|plain| plain.whole || plain.odd);
        if piece == DONE {
            assert!(whole, "[DONE] without proof");
            assert!(plain.is_some_and(Plain::ends_in_done), "[DONE] where nobody knows it");
            return;
        }
        let reads = read_events(piece);
        let events: Vec<Value> = reads.iter().map(|(_, data)| serde_json::from_str(data).unwrap_or_default()).collect();
        if let Some(((_, done), _)) = reads.split_last().filter(|((_, data), _)| data == "[DONE]") {
            assert!(spliced::keeps(record) && self.shown.is_some(), "{done} behind nothing: {}", text(piece));
            for event in &events[..events.len() - 1] {
                let choices = event["choices"].as_array().expect("choices");
                let ends = |choice: &Value| {
                    let delta = &choice["delta"];
                    let says = delta.as_object().is_some_and(|delta| !delta.is_empty());
                    choice["finish_reason"] == "length" && !says && choice["text"].as_str().unwrap_or_default() == ""
                };
                assert!(choices.iter().all(ends), "no end: {event}");
                assert!(!choices.is_empty() || event["usage"].is_null(), "counts that nobody has told: {event}");
                assert!(choices.is_empty() || !whole, "a second end: {event}");
                let all_came =
                    record.policy.resume != Resume::Off && record.ask.body.windows(6).any(|at| at == b"\"max_t");
                let truncated = event["fairlead"]["truncated"] == "deadline";
                assert!(choices.is_empty() || truncated || all_came, "cut short: {event}");
            }
            return;
        }
        let error = events.last().is_some_and(|event| event["error"]["code"].is_string()) && events.len() == 1;
        assert!(error, "neither the endpoint's nor an end: {}", text(piece));
        let whole = plain.is_some_and(|plain| plain.whole && !plain.failed && !plain.odd && !too_long(plain));
        assert!(!whole, "an error behind a whole stream: {}", text(piece));
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

    /// The call is over.
    pub fn check_end(&mut self, record: &Record) {
        self.check_partial(record);
        self.check_said(record);
        // Or it has ended when its tokens were counted, as all had come.
        let spliced = self.attempts.iter().any(|attempt| attempt.way.is_some());
        let ambiguous = self.hedged && self.winner.is_none();
        if spliced || ambiguous || spliced::is_internal(record) {
            return;
        }
        let Some(place) = self.winner.or(self.attempts.len().checked_sub(1)) else { return };
        let attempt = &mut self.attempts[place];
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
        let Attempt { plain, .. } = &self.attempts[place];
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

    /// A stream that is cut short at the deadline says so, in time; and where it may be, nothing else becomes of it.
    fn check_partial(&self, record: &Record) {
        let partial = record.policy.on_deadline == OnDeadline::Partial;
        if record.untaken || record.gone {
            return;
        }
        if record.outcome() != "partial" {
            let shown = self.listener.as_ref().is_some_and(|listener| listener.heard.content);
            let late = record.outcome() == "deadline_exceeded";
            assert!(!(late && partial && shown), "a stream that could have been cut short");
            return;
        }
        assert!(partial, "cut short against the policy");
        let total_ms = record.events.iter().find_map(|(_, event)| match event {
            Event::CallEnded { total_ms, .. } => Some(record.begins_at + total_ms),
            _ => None,
        });
        let follows_jobs = self.attempts.iter().any(|attempt| attempt.request.is_none());
        let early = total_ms.is_some_and(|at| at + PARTIAL_MS < record.deadline_ms);
        assert!(!early || follows_jobs, "cut short at {total_ms:?}, the deadline is {}", record.deadline_ms);
        if let Some(listener) = &self.listener {
            assert!(listener.heard.content, "cut short where nothing was shown");
            let told = |event: &Value| event["fairlead"]["truncated"] == "deadline";
            assert_eq!(listener.heard.events().iter().filter(|event| told(event)).count(), 1, "{}", record.text());
        } else {
            assert!(spliced::is_internal(record), "a call that cannot be cut short");
            assert_eq!(record.header("x-fairlead-truncated"), Some("deadline"));
        }
    }

    /// What the client has read at the end is what was said, and what there was to say.
    fn check_said(&self, record: &Record) {
        if record.untaken || record.gone || record.ask.choices != 1 {
            return;
        }
        let outcome = record.outcome();
        let (ok, ended) = (outcome == "ok", matches!(outcome, "ok" | "partial"));
        let all_count = |sent: &Sent| sent.chunks.iter().any(|chunk| chunk.starts_with(b"{\"count\"")) && !sent.aborted;
        let counted = record.requests.iter().filter(|sent| sent.counts()).all(all_count);
        let splices = |record: &Record| {
            record.events.iter().filter(|(_, event)| matches!(event, Event::ResumeStarted { .. })).count()
        };
        if let Some(answer) = &self.assembled {
            let (text, finish) = match spliced::assembled(answer) {
                Some(answer) => answer,
                None => (answer["error"]["partial"].as_str().unwrap_or_default(), None),
            };
            assert!(!ended || finish.is_some(), "no end: {answer}");
            let of_job = self.attempts.iter().any(|attempt| attempt.request.is_none());
            let odd = self.attempts.iter().any(|attempt| attempt.plain.odd);
            let is_it = |attempt: &Attempt| format!("{}{}", attempt.begun, attempt.plain.said) == text;
            let proves = |attempt: &Attempt| !ok || attempt.plain.whole || finish == Some("length");
            let said = self.attempts.iter().any(|attempt| is_it(attempt) && proves(attempt));
            assert!(said || of_job || odd || text.is_empty() && !ok, "nobody has said {text:?}");
            if let Some(speech) = &self.speech {
                let counted = counted && !of_job;
                Heard { text, finish, ok, splices: splices(record), counted }.check(speech);
            }
        } else if let (Some(listener), Some(speech)) = (&self.listener, &self.speech) {
            let events = listener.heard.events();
            let ends = |event: &Value| event["choices"][0]["finish_reason"].as_str().map(str::to_owned);
            let finish = events.iter().find_map(ends);
            let (text, splices) = (&*listener.heard.said, splices(record));
            Heard { text, finish: finish.as_deref(), ok, splices, counted }.check(speech);
            if ended {
                let speaker = self.speaker().map(|place| &self.attempts[place]);
                let counts_lost = speaker.is_some_and(|Attempt { request, plain, .. }| {
                    let counts = |event: &Value| event["choices"].as_array().is_some_and(Vec::is_empty);
                    request.is_some() && plain.whole && !plain.failed && !plain.events().iter().any(counts)
                });
                spliced::check_form(record, &listener.heard, speech, splices, counts_lost);
            }
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
