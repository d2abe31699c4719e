//! What is counted: by entry of `models`, and by endpoint. How many counts there are is bounded by the names in
//! `CONFIG` and by the words that this code has for an outcome.

use super::{account::Account, histogram::Histogram};
use crate::event::Event;

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub models: Vec<ModelTally>,
    pub endpoints: Vec<EndpointTally>,
}

/// What was asked of an entry of `models`, or of an endpoint by its own name, and what came of it.
#[derive(Debug)]
pub struct ModelTally {
    /// Its name.
    pub name: String,
    /// Requests by who sent them where, and how they ended.
    pub calls: Vec<Count>,
    /// How many took no attempt, one, two, ….
    pub attempts: Vec<u64>,
    /// From arrival to the first content.
    pub first_content: Histogram,
    /// From arrival to the end.
    pub total: Histogram,
    /// As far as endpoints told.
    pub prompt_tokens: u64,
    /// As far as endpoints told.
    pub completion_tokens: u64,
    /// That clients were sent.
    pub bytes: u64,
}

/// So many requests of one kind.
#[derive(Debug)]
pub struct Count {
    /// The route.
    pub route: &'static str,
    /// The client's name; empty where nobody was told from anybody else.
    pub client: String,
    /// As in [`Event::CallEnded`].
    pub outcome: String,
    /// How many.
    pub count: u64,
}

/// What an endpoint was asked, and what came of it.
#[derive(Debug)]
pub struct EndpointTally {
    /// Its name.
    pub name: String,
    /// Attempts by what became of them: `ok`, `given_up`, or a failure's reason.
    pub attempts: Vec<(String, u64)>,
    /// Its jobs.
    pub jobs: JobTally,
}

/// Jobs that have run, by RunPod's own count of their time.
#[derive(Debug)]
pub struct JobTally {
    /// In the queue.
    pub queue: Histogram,
    /// At work.
    pub execution: Histogram,
    /// Those that waited for [`COLD_MS`] or longer.
    pub cold_starts: u64,
}

/// A worker that is up and free takes a job sooner.
pub const COLD_MS: u64 = 2000;

impl Tally {
    pub(super) fn count(&mut self, account: &Account) {
        for (name, outcome) in account.attempts() {
            self.endpoint(name).count(outcome);
        }
        for moment in &account.timeline {
            if let Event::JobEnded { endpoint, delay_ms, execution_ms: Some(execution_ms), .. } = &moment.event {
                self.endpoint(endpoint).jobs.count(delay_ms.unwrap_or_default(), *execution_ms);
            }
        }
        let name = &account.caller.model;
        let place = self.models.iter().position(|model| model.name == *name);
        match place.and_then(|place| self.models.get_mut(place)) {
            Some(model) => model.count(account),
            None => {
                let mut model = ModelTally { name: name.clone(), ..ModelTally::empty() };
                model.count(account);
                self.models.push(model);
            }
        }
    }

    fn endpoint(&mut self, name: &str) -> &mut EndpointTally {
        let place = self.endpoints.iter().position(|endpoint| endpoint.name == name).unwrap_or_else(|| {
            self.endpoints.push(EndpointTally { name: name.to_owned(), ..EndpointTally::empty() });
            self.endpoints.len().saturating_sub(1)
        });
        // Just found, or just put there.
        #[expect(clippy::indexing_slicing, reason = "the lines above make sure that it is there")]
        &mut self.endpoints[place]
    }
}

impl ModelTally {
    /// Nothing yet.
    pub const fn empty() -> Self {
        Self {
            name: String::new(),
            calls: Vec::new(),
            attempts: Vec::new(),
            first_content: Histogram::empty(),
            total: Histogram::empty(),
            prompt_tokens: 0,
            completion_tokens: 0,
            bytes: 0,
        }
    }

    fn count(&mut self, account: &Account) {
        let Some(Event::CallEnded {
            outcome,
            attempts,
            first_content_ms,
            total_ms,
            bytes,
            prompt_tokens,
            completion_tokens,
            ..
        }) = &account.end
        else {
            return;
        };
        let client = account.caller.client.as_deref().unwrap_or_default();
        let fits =
            |count: &Count| count.outcome == *outcome && count.client == client && count.route == account.caller.route;
        match self.calls.iter().position(fits) {
            Some(place) => {
                if let Some(count) = self.calls.get_mut(place) {
                    count.count = count.count.saturating_add(1);
                }
                // What comes often comes to be found soon.
                self.calls.swap(place, place.saturating_sub(1));
            }
            None => {
                let (client, outcome) = (client.to_owned(), outcome.clone());
                self.calls.push(Count { route: account.caller.route, client, outcome, count: 1 });
            }
        }
        let attempts = usize::try_from(*attempts).unwrap_or_default();
        if self.attempts.len() <= attempts {
            self.attempts.resize(attempts.saturating_add(1), 0);
        }
        if let Some(count) = self.attempts.get_mut(attempts) {
            *count = count.saturating_add(1);
        }
        if let Some(ms) = first_content_ms {
            self.first_content.add(*ms);
        }
        self.total.add(*total_ms);
        self.prompt_tokens = self.prompt_tokens.saturating_add(prompt_tokens.unwrap_or_default());
        self.completion_tokens = self.completion_tokens.saturating_add(completion_tokens.unwrap_or_default());
        self.bytes = self.bytes.saturating_add(*bytes);
    }
}

impl EndpointTally {
    /// Nothing yet.
    pub const fn empty() -> Self {
        let jobs = JobTally { queue: Histogram::empty(), execution: Histogram::empty(), cold_starts: 0 };
        Self { name: String::new(), attempts: Vec::new(), jobs }
    }

    fn count(&mut self, outcome: &str) {
        match self.attempts.iter_mut().find(|(other, _)| other == outcome) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.attempts.push((outcome.to_owned(), 1)),
        }
    }
}

impl JobTally {
    fn count(&mut self, delay_ms: u64, execution_ms: u64) {
        self.queue.add(delay_ms);
        self.execution.add(execution_ms);
        self.cold_starts = self.cold_starts.saturating_add(u64::from(delay_ms >= COLD_MS));
    }
}
