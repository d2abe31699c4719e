//! What an operator is shown: what this isolate knows of each endpoint, and what the store says at the same moment.
//!
//! Plain data for JSON. It holds the names that `CONFIG` gives, and no address, key or prompt.

mod gateway;

pub use gateway::{GatewayStatus, IsolateStatus};

use crate::{
    breaker::{Record, View},
    call,
    fleet::{Fleet, Which},
    runtime::StoreError,
    settings::{Endpoint, Model, Settings},
    time::Instant,
};
use serde::Serialize;
use std::rc::Rc;

/// What the store has said of a breaker; `None`: nothing in time.
pub type Heard = Option<Result<Option<String>, StoreError>>;

/// Everything, as `GET /status` shows it.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    now_ms: Instant,
    store: StoreStatus,
    endpoints: Vec<EndpointStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct StoreStatus {
    kind: &'static str,
    /// When it last answered this isolate's calls.
    read_at_ms: Option<Instant>,
    /// When it last failed them, if it has not answered since.
    failed_at_ms: Option<Instant>,
    /// What was wrong with it just now.
    error: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct EndpointStatus<'a> {
    name: &'a str,
    provider: &'static str,
    /// By an operator's word.
    isolated: bool,
    /// What the store says of that.
    stored: Option<Record>,
    /// Calls there, and calls that wait for a place.
    in_flight: usize,
    max_concurrency: Option<u32>,
    waiting: usize,
    /// The moving average of the time to first token; none without a recent one.
    first_token_ms: Option<u64>,
    /// For repeats, under the policy that allows the fewest.
    retry_tokens_left: Option<u32>,
    breakers: Vec<BreakerStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct BreakerStatus<'a> {
    /// The entry of `models`.
    entry: &'a str,
    /// `closed`, `open`, `half_open`, or `off` under a policy that has none.
    state: &'static str,
    /// The end of an opening.
    until_ms: Option<Instant>,
    /// The only client that it is open for.
    client: Option<&'a str>,
    reason: String,
    epoch: u64,
    /// In the window.
    calls: u32,
    failures: u32,
    in_a_row: u32,
    /// What the store says.
    stored: Option<Record>,
}

/// Every breaker that there is, and its key in the store.
pub fn breakers(settings: &Settings) -> Vec<(Which, String)> {
    settings.endpoints.iter().flat_map(|(index, endpoint)| breakers_of(settings, *index, endpoint)).collect()
}

/// Those of an endpoint: the operator's, and one for each entry that it serves.
pub fn breakers_of(settings: &Settings, index: usize, endpoint: &Endpoint) -> Vec<(Which, String)> {
    let which = |entry: Option<usize>| Which { endpoint: index, entry };
    let whole = (which(None), call::key(&endpoint.name, None));
    let entries = entries_of(settings, index);
    let entries = entries.map(|entry| (which(entry.index), call::key(&endpoint.name, Some(&entry.name))));
    std::iter::once(whole).chain(entries).collect()
}

/// The entries that an endpoint serves.
pub fn entries_of(settings: &Settings, endpoint: usize) -> impl Iterator<Item = &Rc<Model>> {
    settings.models.iter().filter(move |entry| entry.targets.iter().any(|target| target.index == endpoint))
}

impl<'a> Status<'a> {
    /// What there is to see now. `heard` is what the store has just said of all [`breakers`]; nothing without one.
    pub fn new(
        settings: &'a Settings,
        fleet: &mut Fleet,
        now: Instant,
        kind: &'static str,
        heard: &[(Which, Heard)],
    ) -> Self {
        let (mut read_at_ms, mut failed_at_ms) = (None, None);
        for (which, _) in breakers(settings) {
            let channel = &fleet.gate(which).channel;
            read_at_ms = read_at_ms.max(channel.read_at());
            failed_at_ms = failed_at_ms.max(channel.failed_at());
        }
        let error = heard.iter().find_map(|(_, heard)| match heard {
            Some(Ok(_)) => None,
            Some(Err(StoreError::Limited)) => Some("limited"),
            Some(Err(StoreError::Unavailable)) => Some("unavailable"),
            None => Some("timeout"),
        });
        let endpoints = settings.endpoints.iter();
        let endpoints =
            endpoints.map(|(index, endpoint)| EndpointStatus::new(settings, fleet, now, (*index, endpoint), heard));
        let endpoints = endpoints.collect();
        Self { now_ms: now, store: StoreStatus { kind, read_at_ms, failed_at_ms, error }, endpoints }
    }
}

impl<'a> EndpointStatus<'a> {
    fn new(
        settings: &'a Settings,
        fleet: &mut Fleet,
        now: Instant,
        (index, endpoint): (usize, &'a Endpoint),
        heard: &[(Which, Heard)],
    ) -> Self {
        let which = Which { endpoint: index, entry: None };
        let entries = || entries_of(settings, index);
        let load = fleet.load(index);
        let (in_flight, waiting, first_token_ms) = (load.in_flight(now), load.waiting(now), load.first_token_ms(now));
        let budget = fleet.budget(index);
        let retry_tokens_left = entries().map(|entry| budget.left(&entry.policy.budget)).min();
        let breakers = entries().map(|entry| BreakerStatus::new(settings, fleet, now, index, entry, heard)).collect();
        Self {
            name: &endpoint.name,
            provider: endpoint.provider.as_str(),
            isolated: fleet.gate(which).breaker.is_isolated(),
            stored: stored(heard, which),
            in_flight,
            max_concurrency: endpoint.max_concurrency,
            waiting,
            first_token_ms,
            retry_tokens_left,
            breakers,
        }
    }
}

impl<'a> BreakerStatus<'a> {
    fn new(
        settings: &'a Settings,
        fleet: &mut Fleet,
        now: Instant,
        endpoint: usize,
        entry: &'a Model,
        heard: &[(Which, Heard)],
    ) -> Self {
        let which = Which { endpoint, entry: entry.index };
        let policy = entry.policy.breaker.clone().unwrap_or_default();
        let View { state, until, one_client, reason, epoch, calls, failures, in_a_row } =
            fleet.gate(which).breaker.view(now, &policy);
        let client = one_client.and_then(|place| settings.clients.iter().find(|client| client.index == place));
        Self {
            entry: &entry.name,
            state: if entry.policy.breaker.is_some() { state } else { "off" },
            until_ms: until,
            client: client.map(|client| &*client.name),
            reason: reason.to_owned(),
            epoch,
            calls,
            failures,
            in_a_row,
            stored: stored(heard, which),
        }
    }
}

/// The record that the store has under a breaker's key.
pub fn stored(heard: &[(Which, Heard)], which: Which) -> Option<Record> {
    let (_, heard) = heard.iter().find(|(other, _)| *other == which)?;
    heard.as_ref()?.as_ref().ok()?.as_deref().and_then(Record::read)
}
