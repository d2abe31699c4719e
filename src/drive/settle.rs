//! What is left to do for a job that nobody waits for, beside and behind its call.
//!
//! Its id may still be on its way; then it is cancelled ([`Cancel`]). In a Worker this runs under
//! `wait_until`, half a minute at most. What a host does not let run to its end is bounded by the
//! job's `ttl`.

use crate::{
    call::Settlement,
    event::Event,
    jobs::{Answer, Cancel, Cancelled, MAX_ANSWER, Next, Reply, is_job_id},
    message::ResponseHead,
    provider::runpod,
    runtime::{Chunk, Exchange, Received, Runtime},
    time::Instant,
};
use std::{future::poll_fn, pin::pin, task::Poll};

/// How long the answer to a submission is still waited for.
const LATE_MS: u64 = 10_000;

/// Ends the job of this settlement. `submission` is the exchange that may still tell its id.
pub async fn settle<R: Runtime>(runtime: R, settlement: Settlement, submission: Option<R::Exchange>) {
    let since = runtime.now();
    let Settlement { endpoint, index, job, begun, request_id, fetches, fleet, .. } = settlement;
    let job = match (job, submission) {
        (Some(job), _) => Some(job),
        (None, Some(submission)) => {
            let answer = whole(&runtime, submission, begun, runtime.now().after(LATE_MS)).await;
            answer.and_then(|(_, body)| Reply::read(&body)?.id.map(|id| id.into_owned()))
        }
        (None, None) => None,
    };
    let Some(job) = job.filter(|job| is_job_id(job)) else { return };
    let mut cancel = Cancel::new(since, runtime.now(), fetches);
    let outcome = loop {
        let now = runtime.now();
        let op = match cancel.next(now) {
            Next::Over(outcome) => break outcome,
            Next::Wait(until) => {
                runtime.sleep(now.until(until)).await;
                continue;
            }
            Next::Send(op) => op,
        };
        let permit = fleet.borrow_mut().queue(index).quota(op).map(|quota| quota.take(now, op.limit_ms()));
        let permit = match permit {
            Some(Err(refusal)) => {
                cancel.defer(refusal.again);
                continue;
            }
            Some(Ok(permit)) => Some(permit),
            None => None,
        };
        cancel.on_sent();
        let request = runpod::operation(&endpoint, op, Some(&job), &request_id);
        let exchange = runtime.send(&endpoint, 0, request);
        let answer = whole(&runtime, exchange, (None, Vec::new()), now.after(op.limit_ms())).await;
        if let Some(permit) = permit
            && let Some(quota) = fleet.borrow_mut().queue(index).quota(op)
        {
            quota.give_back(permit);
        }
        let (head, body) = answer.map_or((None, Vec::new()), |(head, body)| (Some(head), body));
        let answer = head.as_ref().map_or(Answer::Lost, |head| Answer::Whole { head, body });
        if let Some(outcome) = cancel.on_answer(runtime.now(), answer) {
            break outcome;
        }
    };
    let outcome = match outcome {
        Cancelled::Done => "cancelled",
        Cancelled::Ended => "ended",
        Cancelled::Left => "left",
    };
    runtime.tell(&Event::JobCancelled { endpoint: endpoint.name.clone(), outcome, cancels: cancel.tries() });
}

/// A whole answer, of which so much has come already, if the rest comes in time.
async fn whole<R: Runtime>(
    runtime: &R,
    mut exchange: R::Exchange,
    begun: (Option<ResponseHead>, Vec<u8>),
    until: Instant,
) -> Option<(ResponseHead, Vec<u8>)> {
    let mut sleep = pin!(runtime.sleep(runtime.now().until(until)));
    let (mut head, mut body) = begun;
    let mut buffer = Vec::new();
    loop {
        let received = poll_fn(|context| {
            if let Poll::Ready(received) = exchange.poll_received(context) {
                return Poll::Ready(Some(received));
            }
            sleep.as_mut().poll(context).map(|()| None)
        });
        match received.await {
            Some(Received::Head(told)) => head = Some(told),
            Some(Received::Chunk(chunk)) => {
                let length = chunk.copy_to(&mut buffer);
                body.extend_from_slice(buffer.get(..length).unwrap_or_default());
                if body.len() > MAX_ANSWER {
                    return None;
                }
            }
            Some(Received::End) => {
                let head = head?;
                return head.length_fits(body.len()).then_some((head, body));
            }
            Some(Received::Failed | Received::Barred(_)) => return None,
            // A timer may fire early.
            None if runtime.now() < until => sleep.set(runtime.sleep(runtime.now().until(until))),
            None => return None,
        }
    }
}
