//! Asks the platform's rate limiting binding about a client's call: it counts for all isolates of a location.

use super::in_time;
use crate::{
    access::Client,
    allowance::{Pass, refused},
    error::Error,
    event::Event,
    runtime::Runtime,
};

/// A call waits no longer for it: Cloudflare's answers from the same machine.
const LIMITER_MS: u64 = 200;

/// Hands the pass on where the client's `rate_limiter` lets the call through, or there is none. One that fails, or is
/// late, lets it through as well: it guards the endpoints, and is no reason to leave them idle.
pub async fn ask<R: Runtime>(runtime: &R, client: &Client, pass: Option<Pass>) -> Result<Option<Pass>, Error> {
    let Some(limiter) = &client.limits.rate_limiter else { return Ok(pass) };
    let Some(answer) = runtime.limit(&limiter.binding, &client.name) else { return Ok(pass) };
    let reason = match in_time(runtime, LIMITER_MS, answer).await {
        Some(Ok(true)) => return Ok(pass),
        Some(Ok(false)) => {
            if let Some(pass) = pass {
                pass.take_back();
            }
            let message = format!(
                "The client `{}` makes more requests than its rate limit allows (`rate_limiter`: the binding `{}`). \
                 Come back later.",
                client.name, limiter.binding
            );
            return Err(refused("rate_limiter", message, limiter.period_ms));
        }
        Some(Err(_)) => "error",
        None => "timeout",
    };
    runtime.tell(&Event::RateLimiterFailed { binding: limiter.binding.clone(), reason });
    Ok(pass)
}
