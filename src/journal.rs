//! The journal of an isolate: what became of each request to a client's route.
//!
//! A host opens an account for each such request, tells it what happens, and closes it where no call was made of it.
//! An account ends once, whatever happens: by its call's last fact, by [`Journal::close`], or, where the platform has
//! dropped the request without a word, by [`Journal::overdue`]. Then it is a line for the log, a data point, and one
//! more in the counts that an operator is shown, as far as anybody can see them.
//!
//! Plain data, and bounded: durations are counted in fixed buckets, names are those of `CONFIG`, and of the accounts
//! themselves the last few are kept.

mod account;
mod histogram;
mod prometheus;
mod tally;

pub use account::{Account, Caller, Moment, level, line_beside};
pub use histogram::Histogram;
pub use prometheus::prometheus;
pub use tally::{Count, EndpointTally, JobTally, ModelTally};

use crate::{config::LogLevel, event::Event, time::Instant};
use std::{collections::VecDeque, rc::Rc};
use tally::Tally;

/// What has become of the requests of one isolate.
#[derive(Debug)]
pub struct Journal {
    since: Instant,
    place: String,
    audience: Audience,
    tickets: u64,
    /// In the order of their tickets.
    open: Vec<(Ticket, Box<Account>)>,
    tally: Tally,
    /// The newest first.
    last: VecDeque<Box<Account>>,
    looked_at: Instant,
}

/// Who there is to see it. What nobody can see is not kept.
#[derive(Clone, Copy, Debug)]
pub struct Audience {
    /// Which requests leave a line in the log.
    pub log: LogLevel,
    /// Somebody may ask for the counts.
    pub counts: bool,
    /// Somebody takes data points.
    pub points: bool,
}

/// An account that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a host is to do about an account that has ended.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// Its line for the log.
    pub line: Option<String>,
    /// Its data point.
    pub point: Option<Point>,
}

/// A data point: one call, for whoever collects them.
#[derive(Debug, PartialEq)]
pub struct Point {
    /// What it is sampled by: the entry of `models`.
    pub index: String,
    /// Outcome, endpoint, client, route, the reason of the last failure, the journal's place, and the endpoint of that
    /// failure.
    pub blobs: [String; 7],
    /// Milliseconds in all and to the first content, attempts, bytes, prompt tokens, completion tokens, and whether it
    /// was a stream; -1 for what is not known.
    pub doubles: [f64; 7],
}

/// What is to be done about a fact.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// Nothing: it stands in the account, or the account has been closed without it.
    Noted,
    /// The account has ended with it.
    Ended(Box<Report>),
    /// It is no part of any call: a line of its own.
    Beside,
}

/// So many accounts are kept to be shown.
const MOST_SHOWN: usize = 50;

/// So long behind a call's deadline its last words may still be on their way.
const GRACE_MS: u64 = 10_000;

/// How often it is looked for accounts that nobody ends.
const LOOK_MS: u64 = 1000;

/// The longest index of a data point, in bytes.
const MOST_INDEX: usize = 96;

impl Journal {
    /// An empty one that begins now, at a place that its data points name. Nobody can see it yet.
    pub fn new(now: Instant, place: String) -> Self {
        Self {
            since: now,
            place,
            audience: Audience { log: LogLevel::Off, counts: false, points: false },
            tickets: 0,
            open: Vec::new(),
            tally: Tally::default(),
            last: VecDeque::new(),
            looked_at: now,
        }
    }

    /// Who can see it from now on.
    pub const fn heed(&mut self, audience: Audience) {
        self.audience = audience;
    }

    /// When it began.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Opens the account of a request that has just arrived. Until `latest` its body has been read, or its client has gone.
    pub fn open(&mut self, arrived: Instant, latest: Instant, caller: Caller) -> Ticket {
        self.tickets = self.tickets.saturating_add(1);
        let ticket = Ticket(self.tickets);
        let until = latest.after(GRACE_MS);
        let account = Account { arrived, caller: Rc::new(caller), timeline: Vec::new(), end: None, until };
        self.open.push((ticket, Box::new(account)));
        ticket
    }

    /// Its client was let in.
    pub fn admit(&mut self, ticket: Ticket, client: Option<&str>) {
        if let Some(account) = self.account(ticket) {
            Rc::make_mut(&mut account.caller).client = client.map(str::to_owned);
        }
    }

    /// An admin has things go wrong with it on purpose, in these words.
    pub fn rehearse(&mut self, ticket: Ticket, fault: &str) {
        if let Some(account) = self.account(ticket) {
            Rc::make_mut(&mut account.caller).fault = Some(fault.to_owned());
        }
    }

    /// A call is made of it now, for this entry of `models`, which is over at its deadline. Who asks for what stands
    /// in all that is told of it.
    pub fn begin(&mut self, ticket: Ticket, model: &str, deadline: Instant) -> Rc<Caller> {
        let Some(account) = self.account(ticket) else { return Rc::default() };
        model.clone_into(&mut Rc::make_mut(&mut account.caller).model);
        account.until = deadline.after(GRACE_MS);
        Rc::clone(&account.caller)
    }

    /// Takes note of a fact.
    pub fn tell(&mut self, ticket: Ticket, now: Instant, event: &Event) -> Told {
        match event {
            Event::JobCancelled { .. }
            | Event::BreakerOpened { .. }
            | Event::BreakerClosed { .. }
            | Event::StoreFailed { .. }
            | Event::RateLimiterFailed { .. } => Told::Beside,
            Event::CallEnded { .. } => {
                self.end(ticket, event.clone()).map_or(Told::Noted, |report| Told::Ended(Box::new(report)))
            }
            _ => {
                if let Some(account) = self.account(ticket) {
                    account.note(now, event);
                }
                Told::Noted
            }
        }
    }

    /// Closes the account of a request that no call was made of; `None` where it has ended already.
    pub fn close(&mut self, ticket: Ticket, now: Instant, outcome: &str, param: Option<&str>) -> Option<Report> {
        let end = end_of(self.account(ticket)?, now, outcome, param);
        self.end(ticket, end)
    }

    /// Closes the accounts that nobody else will: the platform lets a request go whose client has left.
    pub fn overdue(&mut self, now: Instant) -> Vec<Report> {
        if now.since(self.looked_at) < LOOK_MS {
            return Vec::new();
        }
        self.looked_at = now;
        let late: Vec<Ticket> =
            self.open.iter().filter(|(_, account)| account.until <= now).map(|(ticket, _)| *ticket).collect();
        late.into_iter().filter_map(|ticket| self.close(ticket, now, "client_gone", None)).collect()
    }

    /// What was counted for each entry of `models` that was asked for. Under no name stand the requests that came to
    /// none.
    pub fn models(&self) -> &[ModelTally] {
        &self.tally.models
    }

    /// What was counted for each endpoint that was asked.
    pub fn endpoints(&self) -> &[EndpointTally] {
        &self.tally.endpoints
    }

    /// The last calls, the newest first.
    pub fn last(&self) -> impl Iterator<Item = &Account> {
        self.last.iter().map(|account| &**account)
    }

    fn account(&mut self, ticket: Ticket) -> Option<&mut Account> {
        let place = self.place(ticket)?;
        self.open.get_mut(place).map(|(_, account)| &mut **account)
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.open.binary_search_by(|(other, _)| other.cmp(&ticket)).ok()
    }

    /// Ends an account, if it is open.
    fn end(&mut self, ticket: Ticket, end: Event) -> Option<Report> {
        let place = self.place(ticket)?;
        let (_, mut account) = self.open.remove(place);
        if let Event::CallEnded { total_ms, .. } = &end {
            // What was told behind the end's own moment has not happened behind it.
            account.timeline.iter_mut().for_each(|moment| moment.at_ms = moment.at_ms.min(*total_ms));
        }
        account.end = Some(end);
        let Audience { log, counts, points } = self.audience;
        let is_logged = match log {
            LogLevel::Calls => true,
            LogLevel::Failures => !account.is_smooth(),
            LogLevel::Off => false,
        };
        let report = Report {
            line: is_logged.then(|| account.line()),
            point: points.then(|| Point::of(&account, &self.place)).flatten(),
        };
        if counts {
            self.tally.count(&account);
            // A flood of requests that are refused would leave no call to be seen.
            if !account.caller.model.is_empty() {
                self.last.truncate(MOST_SHOWN.saturating_sub(1));
                self.last.push_front(account);
            }
        }
        Some(report)
    }
}

impl Point {
    fn of(account: &Account, place: &str) -> Option<Self> {
        let Some(Event::CallEnded {
            outcome,
            endpoint,
            attempts,
            stream,
            first_content_ms,
            total_ms,
            bytes,
            prompt_tokens,
            completion_tokens,
            ..
        }) = &account.end
        else {
            return None;
        };
        let Caller { client, route, model, .. } = &*account.caller;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let known = |number: Option<u64>| number.map_or(-1.0, |number| number as f64);
        let (failed, reason) = account.last_failure();
        let mut index = model.clone();
        index.truncate(index.floor_char_boundary(MOST_INDEX));
        Some(Self {
            index,
            blobs: [
                outcome.clone(),
                text(endpoint),
                text(client),
                (*route).to_owned(),
                reason.to_owned(),
                place.to_owned(),
                failed.to_owned(),
            ],
            doubles: [
                *total_ms as f64,
                known(*first_content_ms),
                f64::from(*attempts),
                *bytes as f64,
                known(*prompt_tokens),
                known(*completion_tokens),
                f64::from(u8::from(*stream)),
            ],
        })
    }
}

/// The end of a request that no call has told, as far as it is known.
fn end_of(account: &Account, now: Instant, outcome: &str, param: Option<&str>) -> Event {
    let mut started = account.timeline.iter().filter_map(|moment| match &moment.event {
        Event::AttemptStarted { attempt, endpoint } => Some((*attempt, endpoint)),
        _ => None,
    });
    let (attempts, endpoint) =
        started.next_back().map_or((0, None), |(attempt, endpoint)| (attempt, Some(endpoint.clone())));
    Event::CallEnded {
        outcome: outcome.to_owned(),
        param: param.map(str::to_owned),
        endpoint,
        attempts,
        stream: false,
        first_content_ms: None,
        total_ms: now.since(account.arrived),
        bytes: 0,
        native: false,
        events: 0,
        malformed: 0,
        prompt_tokens: None,
        completion_tokens: None,
    }
}
