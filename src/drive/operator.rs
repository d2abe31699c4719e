//! What an operator is shown, and orders: the only requests that wait for the store.

use crate::{
    breaker::{Record, Rules, Standing},
    call,
    error::{Code, Error},
    fleet::{Fleet, Which},
    journal::Journal,
    json::{read_object, text},
    policy::BreakerPolicy,
    reload::Reload,
    rng::Rng,
    runtime::{Later, Runtime, Store, StoreError},
    settings::Settings,
    status::{self, GatewayStatus, Heard, IsolateStatus, Status},
};
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, future::poll_fn, pin::Pin, task::Poll};

/// An operator does not wait longer for a store.
const LIVE_MS: u64 = 2000;

/// KV takes one write a second under a key.
const LIMITED_MS: u64 = 1100;

/// What this host knows of its endpoints, and what the store says.
pub async fn status<R: Runtime>(runtime: &R, settings: &Settings, fleet: &RefCell<Fleet>) -> Vec<u8> {
    let (kind, heard) = look(runtime, settings, true).await;
    // Numbers and strings: serialising them cannot fail.
    serde_json::to_vec(&Status::new(settings, &mut fleet.borrow_mut(), runtime.now(), kind, &heard)).unwrap_or_default()
}

/// The answer to `GET /status`: the same, and what has become of the calls of this isolate. A page that asks every few
/// seconds does not `ask_store`.
pub async fn gateway_status<R: Runtime>(
    runtime: &R,
    settings: &Settings,
    fleet: &RefCell<Fleet>,
    journal: &RefCell<Journal>,
    (isolate, reload): (IsolateStatus<'_>, &RefCell<Reload>),
    ask_store: bool,
) -> Vec<u8> {
    let (kind, heard) = look(runtime, settings, ask_store).await;
    let (fleet, journal, reload) = (&mut *fleet.borrow_mut(), &*journal.borrow(), reload.borrow());
    let status = Status::new(settings, fleet, runtime.now(), kind, &heard);
    let about = (isolate, reload.view());
    serde_json::to_vec(&GatewayStatus::new(status, about, settings, fleet, journal)).unwrap_or_default()
}

async fn look<R: Runtime>(runtime: &R, settings: &Settings, ask_store: bool) -> (&'static str, Vec<(Which, Heard)>) {
    let store = runtime.store();
    let heard = match store.as_ref().filter(|_| ask_store) {
        Some(store) => hear(runtime, &**store, &status::breakers(settings)).await,
        None => Vec::new(),
    };
    (store.map_or("none", |store| store.kind()), heard)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    state: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    Isolated,
    Closed,
}

#[derive(Serialize)]
struct Done {
    state: Wanted,
    /// Whether the store has it, for others to hear.
    stored: bool,
}

/// Carries out `POST /breakers/{endpoint}`: here at once, and for other isolates by the store.
pub async fn order<R: Runtime>(
    runtime: &R,
    settings: &Settings,
    fleet: &RefCell<Fleet>,
    name: &str,
    body: &[u8],
) -> Result<Vec<u8>, Error> {
    let Some((index, endpoint)) = settings.endpoints.iter().find(|(_, endpoint)| endpoint.name == name) else {
        let message = "CONFIG has no endpoint of this name. GET /status lists those that it has.";
        return Err(Error::new(Code::RouteNotFound, message));
    };
    let Ok(Order { state }) = read_object(text(body)) else {
        let message = "The body must be `{\"state\": \"isolated\"}` or `{\"state\": \"closed\"}`.";
        return Err(Error::new(Code::InvalidRequest, message).with_param("state"));
    };
    let isolated = state == Wanted::Isolated;
    let mut breakers = status::breakers_of(settings, *index, endpoint);
    if isolated {
        // It stands before all entries; what they have found out stays as it is.
        breakers.truncate(1);
    }
    let mut changed = Vec::new();
    for (which, _) in &breakers {
        let Some(change) = fleet.borrow_mut().gate(*which).breaker.command(runtime.now(), isolated) else { continue };
        let entry = which.entry.and_then(|entry| settings.models.iter().find(|model| model.index == Some(entry)));
        let entry = entry.map(|entry| entry.name.clone());
        let why = if isolated { "isolated" } else { "closed" };
        runtime.tell(&call::breaker_event(&change, name.to_owned(), entry, why));
        changed.push(*which);
    }
    let stored = match runtime.store() {
        Some(store) => tell_others(runtime, &*store, fleet, &breakers, &changed, state).await,
        None => false,
    };
    Ok(serde_json::to_vec(&Done { state, stored }).unwrap_or_default())
}

/// Whether the store has taken it all.
async fn tell_others<R: Runtime>(
    runtime: &R,
    store: &dyn Store,
    fleet: &RefCell<Fleet>,
    breakers: &[(Which, String)],
    changed: &[Which],
    state: Wanted,
) -> bool {
    let heard = hear(runtime, store, breakers).await;
    let now = runtime.now();
    let mut words = Vec::new();
    for (which, key) in breakers {
        let record = status::stored(&heard, *which);
        let is_closed = record.as_ref().is_none_or(|record| record.state == Standing::Closed);
        // Nobody is told what all know.
        if which.entry.is_some() && is_closed && !changed.contains(which) {
            continue;
        }
        let mut fleet = fleet.borrow_mut();
        let gate = fleet.gate(*which);
        if let Some(record) = &record {
            // For its epoch, which the next one has to be above. Then the operator's word stands again.
            let rules = Rules { policy: &BreakerPolicy::default(), alone: false };
            gate.breaker.restore(now, rules, record, &mut Rng::from_seed(now.as_millis()));
            gate.channel.on_read(now, Ok(Some(record)));
            gate.breaker.command(now, state == Wanted::Isolated);
        }
        words.push((*which, key, gate.channel.stamp(now, gate.breaker.snapshot())));
    }
    let put = |(_, key, record): &(Which, &String, Record)| store.put(key, record.text());
    let mut answers = gather(runtime, words.iter().map(put).collect()).await;
    if answers.contains(&Some(Err(StoreError::Limited))) {
        runtime.sleep(LIMITED_MS).await;
        answers = gather(runtime, words.iter().map(put).collect()).await;
    }
    let mut fleet = fleet.borrow_mut();
    for ((which, _, record), answer) in words.iter().zip(&answers) {
        let gate = fleet.gate(*which);
        match answer {
            Some(Ok(())) => {
                gate.breaker.on_told(record);
                gate.channel.on_written(record);
            }
            // A later call's task has another try.
            _ => gate.channel.tell(),
        }
    }
    answers.iter().all(|answer| *answer == Some(Ok(())))
}

/// What the store says of these breakers now.
async fn hear<R: Runtime>(runtime: &R, store: &dyn Store, breakers: &[(Which, String)]) -> Vec<(Which, Heard)> {
    let answers = gather(runtime, breakers.iter().map(|(_, key)| store.get(key)).collect()).await;
    breakers.iter().map(|(which, _)| *which).zip(answers).collect()
}

/// The answers to several questions, as far as they come in time.
async fn gather<R: Runtime, T>(runtime: &R, mut questions: Vec<Later<T>>) -> Vec<Option<Result<T, StoreError>>> {
    let until = runtime.now().after(LIVE_MS);
    let mut sleep = runtime.sleep(LIVE_MS);
    let mut answers: Vec<_> = questions.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (question, answer) in questions.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let Poll::Ready(told) = question.as_mut().poll(context)
            {
                *answer = Some(told);
            }
        }
        if answers.iter().all(Option::is_some) {
            return Poll::Ready(());
        }
        while Pin::new(&mut sleep).poll(context).is_ready() {
            let left_ms = runtime.now().until(until);
            if left_ms == 0 {
                return Poll::Ready(());
            }
            // It has fired early.
            sleep = runtime.sleep(left_ms);
        }
        Poll::Pending
    })
    .await;
    answers
}
