//! Reads the configuration from the store, beside the calls.

use super::within;
use crate::{
    reload::{GOOD, Next, Reload, Report, WANTED},
    runtime::{Store, StoreError},
    settings::Environment,
    time::Instant,
};
use std::{cell::RefCell, future::Future};

/// A store that takes longer is out of order.
const STORE_MS: u64 = 5000;

/// So often a call that waits looks whether there is something to serve with. It has to ask by a timer of its own: no
/// request wakes another.
const LOOK_MS: u64 = 5;

/// What a host gives for that.
pub trait Surroundings: Environment {
    /// A timer; see [`crate::runtime::Runtime::sleep`].
    type Sleep: Future<Output = ()>;
    /// The time.
    fn now(&self) -> Instant;
    /// Ready after so many milliseconds, or early.
    fn sleep(&self, ms: u64) -> Self::Sleep;
    /// Takes note of what has come of it.
    fn tell(&self, report: &Report);
}

/// Reads what is wanted, where [`Reload::begin`] has said so, and does what follows.
pub async fn read(reload: &RefCell<Reload>, store: &dyn Store, host: &impl Surroundings) {
    let wait = || (|| host.now(), |ms| host.sleep(ms), STORE_MS);
    let wanted = within(wait(), store.get(WANTED)).await.unwrap_or(Err(StoreError::Unavailable));
    let next = reload.borrow_mut().on_wanted(host.now(), wanted, host);
    if next == Next::ReadGood {
        let good = within(wait(), store.get(GOOD)).await.unwrap_or(Err(StoreError::Unavailable));
        let put = reload.borrow_mut().on_good(host.now(), good, host);
        if let Some(text) = put {
            let put = within(wait(), store.put(GOOD, text)).await.unwrap_or(Err(StoreError::Unavailable));
            reload.borrow_mut().on_put(put);
        }
    }
    reload.borrow_mut().end();
    tell(reload, host);
}

/// Tells what there is to tell.
pub fn tell(reload: &RefCell<Reload>, host: &impl Surroundings) {
    let reports = reload.borrow_mut().reports();
    reports.iter().for_each(|report| host.tell(report));
}

/// Waits as long as a call has to that has been here since `arrived`.
pub async fn ready(reload: &RefCell<Reload>, host: &impl Surroundings, arrived: Instant) {
    loop {
        let left_ms = reload.borrow().patience_ms(host.now(), arrived);
        if left_ms == 0 {
            return;
        }
        host.sleep(left_ms.min(LOOK_MS)).await;
    }
}
