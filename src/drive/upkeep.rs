//! Exchanges word about a breaker with other isolates, beside the call that found it due.

use super::in_time;
use crate::{
    breaker::{Record, Rules, Standing},
    call::Upkeep,
    event::Event,
    news::Step,
    rng::Rng,
    runtime::{Runtime, Store, StoreError},
};

/// A store that takes longer is out of order.
const STORE_MS: u64 = 5000;

/// Where isolates have had much to say all day, one of so many more is enough: KV would refuse the others.
const FEW: u64 = 15;

/// So long a store grants a probe to nobody else.
const LEASE_MS: u64 = 10_000;

/// So long a probe that was granted may be used. A quiet isolate has its next call later than [`LEASE_MS`], and would
/// never probe; and however many isolates hold one, there are no more of them than were granted.
const HELD_MS: u64 = 600_000;

/// Reads what others say of a breaker, and tells them what is new of it.
pub async fn upkeep<R: Runtime>(runtime: R, upkeep: Upkeep) {
    let Some(store) = runtime.store() else { return };
    if upkeep.wants_lease {
        lease(&runtime, &*store, &upkeep).await;
    }
    if upkeep.exchanges {
        exchange(&runtime, &*store, &upkeep).await;
        upkeep.fleet.borrow_mut().gate(upkeep.which).channel.end();
    }
}

async fn exchange<R: Runtime>(runtime: &R, store: &dyn Store, upkeep: &Upkeep) {
    let mut rng = Rng::from_seed(upkeep.seed);
    loop {
        let now = runtime.now();
        let step = {
            let mut fleet = upkeep.fleet.borrow_mut();
            let Some(store) = fleet.store() else { return };
            let channel = &mut fleet.gate(upkeep.which).channel;
            match store.at_hand {
                true => channel.next_at_hand(now),
                false => channel.next(now, &upkeep.key, store.breakers),
            }
        };
        match step {
            Step::Read => read(runtime, store, upkeep, &mut rng).await,
            Step::Write(at) if at > now => runtime.sleep(now.until(at)).await,
            Step::Write(_) => {
                if !write(runtime, store, upkeep, &mut rng).await {
                    break;
                }
            }
            Step::Rest => break,
        }
    }
}

async fn read<R: Runtime>(runtime: &R, store: &dyn Store, upkeep: &Upkeep, rng: &mut Rng) {
    let answer = in_time(runtime, STORE_MS, store.get(&upkeep.key)).await.unwrap_or(Err(StoreError::Unavailable));
    let now = runtime.now();
    let mut fleet = upkeep.fleet.borrow_mut();
    let elects = fleet.store().is_some_and(|store| store.elects);
    let gate = fleet.gate(upkeep.which);
    let Ok(text) = answer else {
        let first = gate.channel.failed_at().is_none();
        gate.channel.on_read(now, Err(()));
        // Once is enough until it works again.
        return if first {
            runtime.tell(&Event::StoreFailed { operation: "get" })
        };
    };
    // Where it could not be reached, it can be now.
    gate.breaker.elects(elects);
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
    let answer =
        in_time(runtime, STORE_MS, store.put(&upkeep.key, record.text())).await.unwrap_or(Err(StoreError::Unavailable));
    let now = runtime.now();
    let mut fleet = upkeep.fleet.borrow_mut();
    let gate = fleet.gate(upkeep.which);
    match answer {
        Ok(()) => {
            gate.breaker.on_told(&record);
            gate.channel.on_written(&record);
        }
        // Somebody else has just told the same, or something newer that the next read brings.
        Err(StoreError::Limited) if upkeep.which.entry.is_some() => {
            gate.breaker.on_company(now);
            gate.channel.hush();
        }
        // An operator's word is nobody else's.
        Err(StoreError::Limited) => return false,
        Err(StoreError::Unavailable) => {
            gate.channel.on_failed(now);
            runtime.tell(&Event::StoreFailed { operation: "put" });
            return false;
        }
    }
    true
}

/// Asks a store that elects probers for a probe, where one is due.
async fn lease<R: Runtime>(runtime: &R, store: &dyn Store, upkeep: &Upkeep) {
    let now = runtime.now();
    let Some(answer) = store.lease(&upkeep.key, LEASE_MS) else { return };
    let granted = in_time(runtime, STORE_MS, answer).await.unwrap_or(Err(StoreError::Unavailable));
    let mut fleet = upkeep.fleet.borrow_mut();
    let breaker = &mut fleet.gate(upkeep.which).breaker;
    // A store that cannot be reached elects nobody: then chance has to.
    breaker.elects(granted.is_ok());
    if granted == Ok(true) {
        breaker.grant(now.after(HELD_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Api,
        ask::Ask,
        call::{Call, Input, Order, Output},
        fleet::Fleet,
        message::{Headers, Request},
        runtime::{Exchange, Later, Received, Task},
        settings::{Endpoint, Environment, Settings},
        time::Instant,
    };
    use std::{
        cell::{Cell, RefCell},
        future::{Future, Pending, pending, ready},
        pin::pin,
        rc::Rc,
        task::{Context, Poll, Waker},
    };

    /// One isolate with a store that elects who probes, whose clock stands still while anybody waits.
    #[derive(Clone)]
    struct Host {
        now: Rc<Cell<Instant>>,
        fleet: Rc<RefCell<Fleet>>,
        store: Rc<Elector>,
    }

    #[derive(Default)]
    struct Elector {
        fails: Cell<bool>,
        asked: Cell<u32>,
    }

    struct Nowhere;

    impl Environment for Nowhere {
        fn secret(&self, _: &str) -> Option<String> {
            None
        }

        fn has_service(&self, _: &str) -> bool {
            false
        }
    }

    impl Exchange for Nowhere {
        type Chunk = Rc<[u8]>;
        fn poll_received(&mut self, _: &mut Context<'_>) -> Poll<Received<Self::Chunk>> {
            Poll::Pending
        }
    }

    impl Store for Elector {
        fn get(&self, _: &str) -> Later<Option<String>> {
            Box::pin(ready(if self.fails.get() { Err(StoreError::Unavailable) } else { Ok(None) }))
        }

        fn put(&self, _: &str, _: String) -> Later<()> {
            Box::pin(ready(if self.fails.get() { Err(StoreError::Unavailable) } else { Ok(()) }))
        }

        fn lease(&self, _: &str, _: u64) -> Option<Later<bool>> {
            self.asked.set(self.asked.get().saturating_add(1));
            Some(Box::pin(ready(if self.fails.get() { Err(StoreError::Unavailable) } else { Ok(true) })))
        }
    }

    impl Runtime for Host {
        type Chunk = Rc<[u8]>;
        type Exchange = Nowhere;
        type Sleep = Pending<()>;

        fn now(&self) -> Instant {
            self.now.get()
        }

        fn sleep(&self, _: u64) -> Pending<()> {
            pending()
        }

        fn send(&self, _: &Endpoint, _: u32, _: Request) -> Nowhere {
            Nowhere
        }

        fn poll_client_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }

        fn tell(&self, _: &Event) {}

        fn spawn(&self, _: Task) {}

        fn store(&self) -> Option<Rc<dyn Store>> {
            Some(Rc::clone(&self.store) as Rc<dyn Store>)
        }
    }

    impl Host {
        fn new() -> Self {
            Self {
                now: Rc::new(Cell::new(Instant::from_millis(1_795_299_888_000))),
                fleet: Rc::new(RefCell::new(Fleet::electing(2))),
                store: Rc::default(),
            }
        }

        fn wait(&self, ms: u64) {
            self.now.set(self.now.get().after(ms));
        }

        /// A call to two endpoints that both refuse; how many attempts it made. Then what it leaves behind is done.
        fn call(&self) -> usize {
            let config = serde_json::json!({
                "endpoints": [
                    { "name": "a", "provider": "vllm", "base_url": "https://a.example/v1" },
                    { "name": "b", "provider": "vllm", "base_url": "https://b.example/v1" },
                ],
                "models": [{ "name": "m", "targets": [{ "endpoint": "a" }, { "endpoint": "b" }] }],
                "policies": { "default": { "max_attempts": 2 } },
                "open": true,
            });
            let settings = Settings::read([("CONFIG".to_owned(), config)], &Nowhere).settings.unwrap();
            let ask = Ask::read(Api::Chat, &Headers::new(), Rc::new(*br#"{"model": "m"}"#)).unwrap();
            let (model, policy) = settings.plan(None, "m", None).unwrap();
            let arrived = self.now();
            let request_id = "r".to_owned();
            let order = Order {
                ask,
                model,
                policy,
                arrived,
                request_id,
                deadline_ms: None,
                client: None,
                seed: arrived.as_millis(),
            };
            let mut call = Call::new(self.now(), order, Rc::clone(&self.fleet));
            let mut attempts = 0_usize;
            loop {
                while let Some(left) = call.poll_upkeep() {
                    let mut task = pin!(upkeep(self.clone(), left));
                    // What waits for its second to write is cut off, as a Worker's tasks may be.
                    let _ = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                }
                match call.poll_output() {
                    Some(Output::Send { exchange, .. }) => {
                        attempts = attempts.saturating_add(1);
                        call.handle_input(self.now(), Input::Failed { exchange });
                    }
                    Some(Output::Done { .. }) => return attempts,
                    Some(_) => {}
                    None => {
                        self.wait(20);
                        call.handle_input(self.now(), Input::Timeout);
                    }
                }
            }
        }

        fn open_both(&self) {
            while self.call() > 0 {}
            // Behind the opening, and before the next look at the store, which a call would wait for.
            self.wait(20_000);
        }
    }

    #[test]
    fn a_quiet_isolate_probes_by_a_lease_that_it_was_granted_a_call_ago() {
        let host = Host::new();
        host.open_both();
        assert_eq!(host.call(), 0, "it asks for a probe");
        host.wait(60_000);
        assert_eq!(host.call(), 2, "and has one");
    }

    #[test]
    fn a_store_that_fails_elects_nobody_and_does_so_again_when_it_is_back() {
        let host = Host::new();
        host.open_both();
        host.store.fails.set(true);
        assert_eq!(host.call(), 0);
        host.wait(60_000);
        assert_eq!(host.call(), 2, "by chance");
        host.store.fails.set(false);
        let asked = host.store.asked.get();
        host.wait(90_000);
        host.call();
        assert!(host.store.asked.get() > asked, "it is asked again");
    }
}
