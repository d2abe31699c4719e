//! What a client may still ask of this isolate: so many calls in a minute, and so many at a time.
//!
//! Counts stay at home: each isolate has its own, and says so to whom it refuses. What holds for all of them is the
//! platform's to count (see [`crate::drive::limiter`]).

use crate::{
    access::{Client, Limits},
    error::{Code, Error},
    fleet::Fleet,
    quota::{Permit, Quota},
    time::Instant,
};
use std::{cell::RefCell, rc::Rc};

/// A client's place for one call. Dropping it gives it back, and it ends by itself, because a request that the
/// platform cancels drops nothing.
#[derive(Debug)]
#[must_use]
pub struct Pass {
    fleet: Rc<RefCell<Fleet>>,
    client: usize,
    permit: Permit,
}

/// What `requests_per_minute` counts over, in seconds.
const WINDOW_S: u64 = 60;

/// When to ask again where too many calls are under way: nobody can say when one ends.
const CROWDED_MS: u64 = 1000;

impl Pass {
    /// Lets a call in that is over at `until` in any case; `None` where nothing is counted of its client. Or says
    /// which limit has been reached.
    pub fn take(
        fleet: &Rc<RefCell<Fleet>>,
        client: &Client,
        now: Instant,
        until: Instant,
    ) -> Result<Option<Self>, Error> {
        let mut shared = fleet.borrow_mut();
        let Some(quota) = quota(&mut shared, client) else { return Ok(None) };
        match quota.take(now, now.until(until)) {
            Ok(permit) => Ok(Some(Self { fleet: Rc::clone(fleet), client: client.index, permit })),
            Err(refusal) if refusal.crowded => {
                let most = client.limits.max_concurrency.unwrap_or_default();
                let message = format!(
                    "The client `{}` has as many calls under way in this isolate of the gateway as it may: {most} \
                     (`max_concurrency`). Come back when one of them is over.",
                    client.name
                );
                Err(refused("max_concurrency", message, CROWDED_MS))
            }
            Err(refusal) => {
                let most = client.limits.requests_per_minute.unwrap_or_default();
                let message = format!(
                    "This isolate of the gateway has had as many calls of the client `{}` in the last minute as it \
                     takes: {most} (`requests_per_minute`). Come back later.",
                    client.name
                );
                Err(refused("requests_per_minute", message, now.until(refusal.again)))
            }
        }
    }

    /// The call is over at this moment in any case.
    pub fn until(self, until: Instant) -> Self {
        if let Ok(mut fleet) = self.fleet.try_borrow_mut() {
            fleet.client(self.client).ends(self.permit, until);
        }
        self
    }

    /// The call was refused after all, and does not count.
    pub fn take_back(self) {
        if let Ok(mut fleet) = self.fleet.try_borrow_mut() {
            fleet.client(self.client).take_back(self.permit);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // Where the fleet is in somebody's hands, which nothing does, the place would end by itself.
        if let Ok(mut fleet) = self.fleet.try_borrow_mut() {
            fleet.client(self.client).give_back(self.permit);
        }
    }
}

/// What a client is told of its calls in a minute with every answer
/// (draft-ietf-httpapi-ratelimit-headers, as of its 08); nothing where they are not counted.
pub fn fields(fleet: &RefCell<Fleet>, client: &Client, now: Instant) -> Vec<(&'static str, String)> {
    let Some(most) = client.limits.requests_per_minute else { return Vec::new() };
    let mut fleet = fleet.borrow_mut();
    let Some((left, frees_at)) = quota(&mut fleet, client).map(|quota| quota.left(now)) else { return Vec::new() };
    // With nothing counted, all of it is there for the whole window.
    let seconds = frees_at.map_or(WINDOW_S, |at| now.until(at).div_ceil(1000));
    vec![
        ("ratelimit-policy", format!("\"isolate\";q={most};w={WINDOW_S}")),
        ("ratelimit", format!("\"isolate\";r={left};t={seconds}")),
    ]
}

/// The error of a limit that has been reached.
pub(crate) fn refused(limit: &str, message: String, again_ms: u64) -> Error {
    let error = Error::new(Code::RateLimited, message).with_param(limit);
    Error { retry_after_ms: Some(again_ms), ..error }
}

/// A client's quota, with the bounds that it has now; `None` where nothing is counted.
fn quota<'a>(fleet: &'a mut Fleet, client: &Client) -> Option<&'a mut Quota> {
    let Limits { requests_per_minute, max_concurrency, .. } = client.limits;
    if requests_per_minute.is_none() && max_concurrency.is_none() {
        return None;
    }
    let quota = fleet.client(client.index);
    let at_once = max_concurrency.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    quota.bound(requests_per_minute.unwrap_or(u32::MAX), at_once);
    Some(quota)
}
