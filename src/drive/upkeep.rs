//! Exchanges word about a breaker with other isolates, beside the call that found it due.

use crate::{
    breaker::{Record, Rules, Standing},
    call::Upkeep,
    event::Event,
    news::Step,
    rng::Rng,
    runtime::{Later, Runtime, Store, StoreError},
    time::Instant,
};
use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

/// A store that takes longer is out of order.
const STORE_MS: u64 = 5000;

/// Where isolates have had much to say all day, one of so many more is enough: KV would refuse the others.
const FEW: u64 = 15;

/// So long a probe that a store grants is this isolate's.
const LEASE_MS: u64 = 10_000;

/// Reads what others say of a breaker, and tells them what is new of it.
pub async fn upkeep<R: Runtime>(runtime: R, upkeep: Upkeep) {
    let Some(store) = runtime.store() else { return };
    let mut rng = Rng::from_seed(upkeep.seed);
    loop {
        let now = runtime.now();
        let step = {
            let mut fleet = upkeep.fleet.borrow_mut();
            let breakers = fleet.store().map_or(0, |store| store.breakers);
            fleet.gate(upkeep.which).channel.next(now, &upkeep.key, breakers)
        };
        match step {
            Step::Read => read(&runtime, &*store, &upkeep, &mut rng).await,
            Step::Write(at) if at > now => runtime.sleep(now.until(at)).await,
            Step::Write(_) => {
                if !write(&runtime, &*store, &upkeep, &mut rng).await {
                    break;
                }
            }
            Step::Rest => break,
        }
    }
    lease(&runtime, &store, &upkeep).await;
    upkeep.fleet.borrow_mut().gate(upkeep.which).channel.end();
}

async fn read<R: Runtime>(runtime: &R, store: &dyn Store, upkeep: &Upkeep, rng: &mut Rng) {
    let answer = in_time(runtime, store.get(&upkeep.key)).await;
    let now = runtime.now();
    let mut fleet = upkeep.fleet.borrow_mut();
    let gate = fleet.gate(upkeep.which);
    let Ok(text) = answer else {
        let first = gate.channel.failed_at().is_none();
        gate.channel.on_read(now, Err(()));
        // Once is enough until it works again.
        return if first {
            runtime.tell(&Event::StoreFailed { operation: "get" })
        };
    };
    // For all of an endpoint an operator speaks, and nobody is let in to find out whether it is still so.
    let fits = |record: &Record| upkeep.which.entry.is_some() || record.state != Standing::Open;
    let record = text.as_deref().and_then(Record::read).filter(fits);
    gate.channel.on_read(now, Ok(record.as_ref()));
    let Some(record) = record else { return };
    let rules = Rules { policy: &upkeep.policy, alone: upkeep.alone };
    let change = gate.breaker.restore(now, rules, &record, rng);
    if gate.breaker.agrees(now, &record) {
        gate.channel.hush();
    }
    if let Some(change) = change {
        runtime.tell(&upkeep.event(&change, "told"));
    }
}

/// Whether there may be more to do.
async fn write<R: Runtime>(runtime: &R, store: &dyn Store, upkeep: &Upkeep, rng: &mut Rng) -> bool {
    let record = {
        let mut fleet = upkeep.fleet.borrow_mut();
        let gate = fleet.gate(upkeep.which);
        let crowded = gate.channel.is_spent(runtime.now()) && gate.breaker.company(runtime.now());
        if crowded && rng.up_to(FEW) > 0 {
            gate.channel.hush();
            return true;
        }
        gate.channel.stamp(runtime.now(), gate.breaker.snapshot())
    };
    let answer = in_time(runtime, store.put(&upkeep.key, record.text())).await;
    let now = runtime.now();
    let mut fleet = upkeep.fleet.borrow_mut();
    let gate = fleet.gate(upkeep.which);
    match answer {
        Ok(()) => {
            gate.breaker.on_told(&record);
            gate.channel.on_written(&record);
        }
        // Somebody else has just told the same, or something newer that the next read brings.
        Err(StoreError::Limited) => {
            gate.breaker.on_company(now);
            gate.channel.hush();
        }
        Err(StoreError::Unavailable) => {
            gate.channel.on_failed(now);
            runtime.tell(&Event::StoreFailed { operation: "put" });
            return false;
        }
    }
    true
}

/// Asks a store that elects probers for a probe, where one is due.
async fn lease<R: Runtime>(runtime: &R, store: &Rc<dyn Store>, upkeep: &Upkeep) {
    if !upkeep.wants_lease {
        return;
    }
    let now = runtime.now();
    let Some(answer) = store.lease(&upkeep.key, LEASE_MS) else { return };
    let granted = in_time(runtime, answer).await;
    let mut fleet = upkeep.fleet.borrow_mut();
    let breaker = &mut fleet.gate(upkeep.which).breaker;
    // A store that cannot be reached elects nobody: then chance has to.
    breaker.elects(granted.is_ok());
    if granted == Ok(true) {
        breaker.grant(now.after(LEASE_MS));
    }
}

async fn in_time<R: Runtime, T>(runtime: &R, mut answer: Later<T>) -> Result<T, StoreError> {
    let until: Instant = runtime.now().after(STORE_MS);
    let mut sleep = pin!(runtime.sleep(STORE_MS));
    poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        while sleep.as_mut().poll(context).is_ready() {
            let left = runtime.now().until(until);
            if left == 0 {
                return Poll::Ready(Err(StoreError::Unavailable));
            }
            // It has fired early.
            sleep.set(runtime.sleep(left));
        }
        Poll::Pending
    })
    .await
}
