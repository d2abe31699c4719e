//! What an operator of a gateway is shown beside its endpoints: what became of the calls of this isolate, and of its
//! configuration.

use super::{EndpointStatus, Status, StoreStatus};
use crate::{
    event::Event,
    fleet::Fleet,
    journal::{Account, EndpointTally, Histogram, Journal, ModelTally, Moment},
    policy::Policy,
    reload::View,
    settings::{DEFAULT_POLICY, Endpoint, Model, Settings},
    time::Instant,
};
use serde::{Serialize, Serializer};
use std::rc::Rc;

/// Everything, as `GET /status` of a gateway shows it.
#[derive(Debug, Serialize)]
pub struct GatewayStatus<'a> {
    now_ms: Instant,
    store: StoreStatus,
    isolate: IsolateStatus<'a>,
    config: View<'a>,
    endpoints: Vec<Counted<'a>>,
    models: Vec<ModelStatus<'a>>,
    /// Requests that came to no model, by what they got.
    refused: Counts<'a>,
    /// The newest first.
    calls: Vec<CallStatus<'a>>,
}

/// Which isolate speaks.
#[derive(Debug, Serialize)]
pub struct IsolateStatus<'a> {
    /// Its name, which it has made up.
    pub id: &'a str,
    /// When it began.
    pub since_ms: Instant,
    /// Where it runs, in the platform's words.
    pub colo: Option<&'a str>,
}

/// Counts by name.
#[derive(Debug, Default)]
struct Counts<'a>(Vec<(&'a str, u64)>);

impl<'a> Counts<'a> {
    /// Those of the same name together.
    fn sum(all: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let mut counts: Vec<(&str, u64)> = Vec::new();
        for (name, count) in all {
            match counts.iter_mut().find(|(other, _)| *other == name) {
                Some((_, sum)) => *sum = sum.saturating_add(count),
                None => counts.push((name, count)),
            }
        }
        Self(counts)
    }
}

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[derive(Debug, Serialize)]
struct Counted<'a> {
    #[serde(flatten)]
    endpoint: EndpointStatus<'a>,
    /// Attempts of calls that have ended.
    attempts: u64,
    /// Why some of them failed.
    failures: Counts<'a>,
    jobs: Option<JobsStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct JobsStatus<'a> {
    /// When RunPod was last asked about the queue; it is only where no worker was seen at work lately.
    looked_at_ms: Option<Instant>,
    in_queue: Option<u64>,
    workers: Option<u64>,
    cold_starts: u64,
    queue_ms: &'a Histogram,
    execution_ms: &'a Histogram,
    max_execution_ms: u64,
}

#[derive(Debug, Serialize)]
struct ModelStatus<'a> {
    name: &'a str,
    policy: PolicyStatus<'a>,
    outcomes: Counts<'a>,
    attempts: &'a [u64],
    first_content_ms: &'a Histogram,
    total_ms: &'a Histogram,
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// What limits a model's calls, unless they ask for another policy.
#[derive(Debug, Serialize)]
struct PolicyStatus<'a> {
    name: &'a str,
    deadline_ms: u64,
    first_token_ms: u64,
    idle_ms: u64,
    progress_ms: u64,
    queue_ms: u64,
    max_attempts: u32,
}

#[derive(Debug, Serialize)]
struct CallStatus<'a> {
    at_ms: Instant,
    request_id: &'a str,
    client: Option<&'a str>,
    route: &'a str,
    model: &'a str,
    stream: bool,
    outcome: &'a str,
    param: Option<&'a str>,
    endpoint: Option<&'a str>,
    attempts: u32,
    first_content_ms: Option<u64>,
    total_ms: u64,
    bytes: u64,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    timeline: &'a [Moment],
}

/// What stands for whoever was not asked for yet.
static NO_MODEL: ModelTally = ModelTally::empty();
static NO_ENDPOINT: EndpointTally = EndpointTally::empty();

impl<'a> GatewayStatus<'a> {
    /// All of it, now.
    pub fn new(
        status: Status<'a>,
        (isolate, config): (IsolateStatus<'a>, View<'a>),
        settings: &'a Settings,
        fleet: &mut Fleet,
        journal: &'a Journal,
    ) -> Self {
        let Status { now_ms, store, endpoints } = status;
        let endpoints = endpoints.into_iter().zip(&settings.endpoints);
        let endpoints =
            endpoints.map(|(status, (index, endpoint))| Counted::new(status, endpoint, *index, fleet, journal));
        let nowhere = journal.models().iter().find(|model| model.name.is_empty()).unwrap_or(&NO_MODEL);
        Self {
            now_ms,
            store,
            isolate,
            config,
            endpoints: endpoints.collect(),
            models: settings.models.iter().map(|model| ModelStatus::new(model, settings, journal)).collect(),
            refused: Counts::sum(outcomes(nowhere).filter(|(outcome, _)| *outcome != "ok")),
            calls: journal.last().filter_map(CallStatus::new).collect(),
        }
    }
}

impl<'a> Counted<'a> {
    fn new(
        status: EndpointStatus<'a>,
        endpoint: &Endpoint,
        index: usize,
        fleet: &mut Fleet,
        journal: &'a Journal,
    ) -> Self {
        let tally = journal.endpoints().iter().find(|tally| tally.name == endpoint.name).unwrap_or(&NO_ENDPOINT);
        let jobs = (endpoint.takes_jobs() || endpoint.native).then(|| {
            let seen = fleet.queue(index).seen();
            JobsStatus {
                looked_at_ms: seen.map(|(at, _)| *at),
                in_queue: seen.map(|(_, health)| health.queued),
                workers: seen.map(|(_, health)| health.workers),
                cold_starts: tally.jobs.cold_starts,
                queue_ms: &tally.jobs.queue,
                execution_ms: &tally.jobs.execution,
                max_execution_ms: endpoint.max_execution_ms,
            }
        });
        let counts = || tally.attempts.iter().map(|(outcome, count)| (&**outcome, *count));
        Self {
            endpoint: status,
            attempts: counts().map(|(_, count)| count).fold(0, u64::saturating_add),
            failures: Counts::sum(counts().filter(|(outcome, _)| !matches!(*outcome, "ok" | "given_up"))),
            jobs,
        }
    }
}

impl<'a> ModelStatus<'a> {
    fn new(model: &'a Model, settings: &'a Settings, journal: &'a Journal) -> Self {
        let tally = journal.models().iter().find(|tally| tally.name == model.name).unwrap_or(&NO_MODEL);
        Self {
            name: &model.name,
            policy: PolicyStatus::new(&model.policy, settings),
            outcomes: Counts::sum(outcomes(tally)),
            attempts: &tally.attempts,
            first_content_ms: &tally.first_content,
            total_ms: &tally.total,
            prompt_tokens: tally.prompt_tokens,
            completion_tokens: tally.completion_tokens,
        }
    }
}

impl<'a> PolicyStatus<'a> {
    fn new(policy: &Rc<Policy>, settings: &'a Settings) -> Self {
        let name = settings.policies.iter().find(|(_, other)| Rc::ptr_eq(other, policy)).map(|(name, _)| &**name);
        let Policy { deadline_ms, first_token_ms, idle_ms, progress_ms, queue_ms, max_attempts, .. } = **policy;
        let name = name.unwrap_or(DEFAULT_POLICY);
        Self { name, deadline_ms, first_token_ms, idle_ms, progress_ms, queue_ms, max_attempts }
    }
}

impl<'a> CallStatus<'a> {
    fn new(account: &'a Account) -> Option<Self> {
        let Some(Event::CallEnded {
            outcome,
            param,
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
        let caller = &account.caller;
        Some(Self {
            at_ms: account.arrived,
            request_id: &caller.request_id,
            client: caller.client.as_deref(),
            route: caller.route,
            model: &caller.model,
            stream: *stream,
            outcome,
            param: param.as_deref(),
            endpoint: endpoint.as_deref(),
            attempts: *attempts,
            first_content_ms: *first_content_ms,
            total_ms: *total_ms,
            bytes: *bytes,
            prompt_tokens: *prompt_tokens,
            completion_tokens: *completion_tokens,
            timeline: &account.timeline,
        })
    }
}

fn outcomes(model: &ModelTally) -> impl Iterator<Item = (&str, u64)> {
    model.calls.iter().map(|call| (&*call.outcome, call.count))
}
