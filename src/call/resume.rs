//! A stream that broke behind its first content: what the client has of it, and how it goes on.
//!
//! What the client has moves with the answer: an attempt keeps it while it lasts, the [`Interruption`] between two.

use super::{Attempt, Call, Emit, Input, Output, attempt::Voice};
use crate::{
    classify::{Failure, Verdict},
    config::{OnDeadline, Resume},
    deadline::AttemptTimers,
    event::Event,
    json::{member, members},
    provider::vllm,
    resume::{Beginning, Terms, Way},
    splice::{Before, Splice},
    stream::Transcript,
    time::Instant,
};
use std::rc::Rc;

/// A stream that broke.
#[derive(Debug)]
pub(super) struct Interruption {
    /// What the client has, while no attempt is to go on behind it.
    shown: Option<Box<Transcript>>,
    terms: Terms,
    /// What of it an endpoint would be given, or why that would not be exact.
    beginning: Result<Beginning, &'static str>,
    /// Why it cannot be compared with a second answer.
    bars_verifying: Option<&'static str>,
    /// Somebody was asked to go on.
    tried: bool,
    /// What broke it, where, and when.
    cause: Failure,
    target: usize,
    at: Instant,
    /// The outputs of a job are known to be right only when it has ended well.
    unproved: bool,
    /// Why it is not continued, as has turned out.
    doubt: Option<&'static str>,
    /// Somebody has refused to continue it.
    refused: bool,
}

/// How an attempt goes on behind a stream that broke.
#[derive(Debug)]
pub(super) struct Resuming {
    pub(super) way: Way,
    /// What of its events the client gets.
    pub(super) splice: Option<Splice>,
    /// What the endpoint is asked, if it is not what the client has asked.
    pub(super) ask: Option<Rc<crate::ask::Ask>>,
    beginning: Option<Beginning>,
    counting: Option<Counting>,
}

/// Before it is asked to go on, an endpoint is asked how many tokens there are already.
#[derive(Debug)]
struct Counting {
    until: Instant,
    answer: Vec<u8>,
}

/// So long the count of tokens is waited for: it is no work for a server that is well.
const COUNT_MS: u64 = 2000;

/// The longest answer to that.
const MAX_COUNT: usize = 1 << 20;

/// So long before the deadline a stream is cut short, so that its end arrives in time; where there is little time, a
/// tenth of it.
const PARTIAL_MS: u64 = 250;

impl Resuming {
    /// Until when it waits for a count of tokens.
    pub(super) fn counting_until(&self) -> Option<Instant> {
        self.counting.as_ref().map(|counting| counting.until)
    }
}

impl Call {
    /// Whether it is kept what the client has been shown: to go on behind it, to end it, or to tell it in an error.
    pub(super) fn keeps_transcript(&self) -> bool {
        let policy = &self.order.policy;
        let wanted = policy.resume != Resume::Off || policy.on_deadline == OnDeadline::Partial || self.is_internal();
        wanted && self.order.ask.stream && self.order.ask.api.has_choices()
    }

    /// Whether the client has been shown something of an answer.
    pub(super) const fn has_shown(&self) -> bool {
        self.winner.is_some() || self.interruption.is_some()
    }

    /// Ends a stream that broke behind the end of its answer, where that matters to nobody. False: it does, or it did
    /// not.
    pub(super) fn end_finished(&mut self, now: Instant, id: u32) -> bool {
        let attempt = self.attempts.iter().find(|attempt| attempt.id == id);
        let finished = attempt.is_some_and(|attempt| attempt.is_whole() || self.has_all_tokens(attempt));
        let applies = finished && self.order.policy.resume != Resume::Off && self.shown().is_some();
        if applies {
            self.end_here(now, "ok", "");
        }
        applies
    }

    /// Whether an answer has as many tokens as it may have, so that nothing is left to ask for.
    fn has_all_tokens(&self, attempt: &Attempt) -> bool {
        let fits = attempt.job.is_none() && self.order.ask.choices == 1;
        let Some(shown) = attempt.transcript.as_ref().filter(|_| fits) else { return false };
        Terms::read(&self.order.ask).tokens_left(count(shown)) == Some(0)
    }

    /// The attempt whose content the client has, has failed. `Err`: why nobody may go on.
    pub(super) fn interrupt(&mut self, now: Instant, id: u32, failure: &Failure) -> Result<(), &'static str> {
        if !self.order.ask.stream || self.order.policy.resume == Resume::Off && !self.is_internal() {
            return Err("content_shown");
        }
        if !self.order.ask.api.has_choices() {
            return Err("dialect");
        }
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else {
            return Err("content_shown");
        };
        let (target, unproved) = (attempt.target, attempt.job.is_some());
        let Some(shown) = attempt.transcript.take() else { return Err("content_shown") };
        let terms = Terms::read(&self.order.ask);
        let beginning = terms.beginning(&shown, self.order.ask.api);
        let bars_verifying = terms.bars_verifying(&shown);
        self.interruption = Some(Box::new(Interruption {
            shown: Some(shown),
            terms,
            beginning,
            bars_verifying,
            tried: false,
            cause: failure.clone(),
            target,
            at: now,
            unproved,
            doubt: None,
            refused: false,
        }));
        if !matches!(failure.verdict(now), Verdict::Retry { .. } | Verdict::NextTarget) {
            return Err("not_retryable");
        }
        let mut ways = (0..self.order.model.targets.len()).map(|target| self.way(now, target));
        // The same holds for all targets, where none can.
        let first = ways.next().unwrap_or(Err("nobody_left"));
        match first {
            Err(why) if !ways.any(|way| way.is_ok()) => Err(why),
            _ => {
                self.winner = None;
                Ok(())
            }
        }
    }

    /// An attempt that was to go on has failed. What follows it, where that is another than its failure says.
    pub(super) fn on_not_resumed(&mut self, now: Instant, id: u32, failure: &Failure) -> Option<Verdict> {
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.id == id)?;
        let target = attempt.target;
        let resuming = attempt.resuming.take()?;
        let interruption = self.interruption.as_mut()?;
        if resuming.way != Way::Anew {
            interruption.shown = attempt.transcript.take();
        }
        let again = Some(Verdict::Retry { after_ms: None, throttled: false });
        match (resuming.way, failure) {
            (Way::Continue, Failure::Differs) => {
                interruption.doubt = Some("differs");
                again
            }
            (Way::Continue, failure) if failure.refuses_form() => {
                interruption.refused = true;
                let endpoint = self.endpoint_index(target);
                self.fleet.borrow_mut().on_continuation_refused(endpoint, now);
                again
            }
            // It may be too long with the beginning, and would have ended by itself.
            (Way::Continue, failure) if failure.refuses_request() => {
                interruption.doubt = Some("context");
                again
            }
            (Way::Verify, Failure::Differs) => Some(Verdict::Fatal),
            _ => None,
        }
    }

    /// How a target would go on behind what the client has, and why not as the policy has it.
    pub(super) fn way(&self, now: Instant, target: usize) -> Result<(Way, Option<&'static str>), &'static str> {
        let Some(interruption) = &self.interruption else { return Err("nobody_left") };
        let policy = self.order.policy.resume;
        let why = match self.may_continue(now, interruption, target) {
            Ok(()) if policy == Resume::Continue => return Ok((Way::Continue, None)),
            Err(why) if policy == Resume::Continue => Some(why),
            _ => None,
        };
        match interruption.bars_verifying {
            _ if self.is_internal() => Ok((Way::Anew, why)),
            None => Ok((Way::Verify, why)),
            Some(why) => Err(why),
        }
    }

    fn may_continue(&self, now: Instant, interruption: &Interruption, target: usize) -> Result<(), &'static str> {
        let Interruption { beginning, unproved, doubt, target: broken, .. } = interruption;
        beginning.as_ref().map_err(|why| *why)?;
        let targets = &self.order.model.targets;
        let (Some(chosen), Some(broken)) = (targets.get(target), targets.get(*broken)) else { return Err("endpoint") };
        let own = |model: &Option<String>| model.clone().unwrap_or_else(|| self.order.ask.model.clone());
        let refuses = || self.fleet.borrow_mut().refuses_to_continue(chosen.index, now);
        match doubt {
            Some(doubt) => Err(doubt),
            None if *unproved => Err("job"),
            None if !chosen.endpoint.can_continue => Err("endpoint"),
            None if own(&chosen.model) != own(&broken.model) => Err("model"),
            // The last attempt is not spent on what may be refused again.
            None if refuses() || interruption.refused && self.is_last_attempt() => Err("refused"),
            None => Ok(()),
        }
    }

    fn is_last_attempt(&self) -> bool {
        self.started.saturating_add(1) >= self.order.policy.max_attempts
    }

    /// What the client has, wherever it is kept.
    pub(super) fn shown(&self) -> Option<&Transcript> {
        let kept = self.interruption.as_ref().and_then(|interruption| interruption.shown.as_deref());
        let attempts = || {
            let going_on = |attempt: &&Attempt| Some(attempt.id) == self.winner || attempt.resuming.is_some();
            self.attempts.iter().find(going_on)?.transcript.as_deref()
        };
        kept.or_else(attempts)
    }

    /// Makes an attempt one that goes on behind what the client has, if there is something.
    pub(super) fn take_up(&mut self, now: Instant, attempt: &mut Attempt) {
        let resumes = (self.order.policy.resume != Resume::Off || self.is_internal()) && self.order.ask.choices == 1;
        attempt.transcript = self.keeps_transcript().then(|| Box::new(Transcript::new(resumes)));
        let Ok((way, why)) = self.way(now, attempt.target) else { return };
        let endpoint = self.endpoint_name();
        let Some(interruption) = self.interruption.as_mut() else { return };
        let Some(mut shown) = interruption.shown.take() else { return };
        interruption.tried = true;
        let bytes = u64::try_from(shown.content().unwrap_or_default().len()).unwrap_or(u64::MAX);
        self.out.push_back(Output::Event(Event::ResumeStarted {
            attempt: attempt.id,
            endpoint,
            way: way.as_str(),
            why,
            bytes,
        }));
        let mut resuming = Resuming { way, splice: None, ask: None, beginning: None, counting: None };
        match way {
            Way::Verify => resuming.splice = Splice::of_repeat(&shown),
            Way::Continue => {
                resuming.beginning = interruption.beginning.clone().ok();
                // What is to come again may come in other tokens, with more behind it.
                let rest = resuming.beginning.as_ref().map_or(0, |beginning| beginning.rest.chars().count());
                shown.events = shown.events.saturating_sub(u64::try_from(rest).unwrap_or(u64::MAX));
            }
            Way::Anew => {
                // Until something comes of it, this is what there is.
                interruption.shown = Some(shown);
                attempt.resuming = Some(Box::new(resuming));
                return;
            }
        }
        let is_known = resuming.beginning.as_ref().is_some_and(|beginning| beginning.count(&shown).is_some());
        let counts = attempt.voice == Voice::Server && attempt.job.is_none() && !is_known;
        let counts = counts && interruption.terms.needs_count() && way == Way::Continue;
        let longest_ms = COUNT_MS.min(now.until(self.deadline) / 4);
        resuming.counting = counts.then(|| Counting { until: now.after(longest_ms), answer: Vec::new() });
        attempt.transcript = Some(shown);
        attempt.resuming = Some(Box::new(resuming));
        if !counts {
            self.prepare(attempt, None);
        }
    }

    /// The request for a count of tokens, where an attempt begins with that.
    pub(super) fn count_request(&self, attempt: &Attempt) -> Option<crate::message::Request> {
        let resuming = attempt.resuming.as_ref()?;
        resuming.counting.as_ref()?;
        let target = self.order.model.targets.get(attempt.target)?;
        let text = &resuming.beginning.as_ref()?.text;
        Some(vllm::count_request(&self.order.ask, target, text, &self.attempt_id(attempt.id)))
    }

    /// What a continuation is asked with, now that the tokens so far have been counted, or not.
    fn prepare(&self, attempt: &mut Attempt, counted: Option<u64>) {
        let (Some(interruption), Some(shown)) = (&self.interruption, &attempt.transcript) else { return };
        let Some(resuming) = &mut attempt.resuming else { return };
        let Some(beginning) = &resuming.beginning else { return };
        let Beginning { text, rest } = beginning;
        let known = beginning.count(shown).or(counted);
        let before = match known {
            Some(completion) => Before::Tokens { completion, prompt: shown.usage.prompt_tokens },
            None => Before::Unknown,
        };
        let target = self.order.model.targets.get(attempt.target);
        let surely = target.is_some_and(|target| target.endpoint.surely_continues);
        resuming.splice = Some(Splice::of_continuation(shown, rest, surely, before));
        let so_far = known.unwrap_or(shown.events);
        match interruption.terms.continued(&self.order.ask, text, so_far) {
            Some(ask) => resuming.ask = Some(Rc::new(ask)),
            // What is not asked to go on begins again.
            None => resuming.splice = Splice::of_repeat(shown),
        }
    }

    /// Whether an attempt still waits for a count of tokens.
    pub(super) fn is_counting(attempt: &Attempt) -> bool {
        attempt.resuming.as_ref().is_some_and(|resuming| resuming.counting.is_some())
    }

    /// Something of the answer to the question how many tokens there are.
    pub(super) fn on_count(&mut self, now: Instant, id: u32, input: Input<'_>) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else { return };
        let Some(counting) = attempt.resuming.as_mut().and_then(|resuming| resuming.counting.as_mut()) else { return };
        match input {
            Input::Head { head, .. } if head.status == 200 => {}
            Input::Chunk { bytes, .. } if counting.answer.len().saturating_add(bytes.len()) <= MAX_COUNT => {
                counting.answer.extend_from_slice(bytes);
            }
            Input::End { .. } => {
                let count = str::from_utf8(&counting.answer).ok().and_then(members);
                let count = count.and_then(|answer| member(&answer, "count")?.get().parse().ok());
                attempt.exchange = None;
                self.on_counted(now, id, count);
            }
            _ => self.on_counted(now, id, None),
        }
    }

    /// Counts of tokens that are waited for no longer.
    pub(super) fn on_count_timers(&mut self, now: Instant) {
        let due = |attempt: &Attempt| attempt.resuming.as_ref()?.counting_until().filter(|at| *at <= now);
        while let Some(id) = self.attempts.iter().find(|attempt| due(attempt).is_some()).map(|attempt| attempt.id) {
            self.on_counted(now, id, None);
        }
    }

    /// The tokens so far are counted, or will not be: now the endpoint is asked to go on.
    pub(super) fn on_counted(&mut self, now: Instant, id: u32, count: Option<u64>) {
        self.release(id);
        let Some(place) = self.attempts.iter().position(|attempt| attempt.id == id) else { return };
        let mut attempt = self.attempts.swap_remove(place);
        if let Some(resuming) = &mut attempt.resuming {
            resuming.counting = None;
        }
        self.prepare(&mut attempt, count);
        attempt.timers = AttemptTimers::new(now, self.limits.clone());
        attempt.ticket.iter_mut().for_each(|ticket| ticket.restart(now));
        let so_far = attempt.transcript.as_ref().map(|shown| count.unwrap_or(shown.events));
        self.attempts.push(attempt);
        let left = |so_far| self.interruption.as_ref()?.terms.tokens_left(so_far);
        if so_far.and_then(left) == Some(0) {
            // It broke behind the last token that was asked for.
            return self.end_here(now, "ok", "");
        }
        self.dispatch(now, id);
    }

    /// The first content behind what the client had: tells that the stream goes on.
    pub(super) fn on_resumed(&mut self, now: Instant, id: u32) {
        let Some(interruption) = self.interruption.take() else { return };
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.id == id) else { return };
        let way = attempt.resuming.as_ref().map_or(Way::Anew, |resuming| resuming.way);
        if way == Way::Anew {
            self.forget_answer();
            self.first_content = Some(now);
        } else {
            self.emit(now, Emit::Bytes(format!(": resumed by {}, attempt {id}\n\n", way.as_str()).into_bytes()));
        }
        let (endpoint, gap_ms) = (self.endpoint_name(), now.since(interruption.at));
        self.out.push_back(Output::Event(Event::StreamResumed { attempt: id, endpoint, way: way.as_str(), gap_ms }));
    }

    /// What a client is told of a stream that broke and did not go on.
    pub(super) fn fail_interrupted(&mut self, now: Instant, last: Option<&Failure>) {
        let Some(interruption) = &self.interruption else { return };
        let targets = &self.order.model.targets;
        let broke_at = targets.get(interruption.target).map_or("", |target| &target.endpoint.name);
        let last = last.filter(|_| interruption.tried);
        let mut error = self.story().interrupted(&interruption.cause, broke_at, last, now);
        error.partial = self.partial_text();
        self.fail(now, &error);
    }

    /// The text that a client has not got, as it did not ask for a stream.
    pub(super) fn partial_text(&self) -> Option<String> {
        self.shown().filter(|_| self.is_internal()).and_then(Transcript::content).filter(|text| !text.is_empty())
    }

    /// When a stream that has begun is cut short, if it is.
    pub(super) fn partial_at(&self) -> Option<Instant> {
        let early_ms = PARTIAL_MS.min(self.deadline_ms / 10);
        let at = Instant::from_millis(self.deadline.as_millis().saturating_sub(early_ms));
        self.may_be_cut_short().then_some(at)
    }

    /// Whether a stream may be ended with what there is of it: something, or it would be an empty answer.
    fn may_be_cut_short(&self) -> bool {
        let partial = self.order.policy.on_deadline == OnDeadline::Partial;
        partial && self.has_shown() && self.shown().is_some_and(|shown| !shown.is_empty())
    }

    /// Ends a stream with what there is of it. False: there is nothing.
    pub(super) fn cut_short(&mut self, now: Instant) -> bool {
        let applies = self.may_be_cut_short();
        if applies {
            self.truncated = true;
            self.end_here(now, "partial", r#","fairlead":{"truncated":"deadline"}"#);
        }
        applies
    }

    /// Ends a stream for its length, as the endpoint would.
    fn end_here(&mut self, now: Instant, outcome: &str, more: &str) {
        let Some(shown) = self.shown() else { return };
        let choices = self.order.ask.choices.min(MOST_CHOICES);
        let winner = self.attempts.iter().find(|attempt| Some(attempt.id) == self.winner);
        let open = winner.map_or_else(|| (0..choices).collect(), |attempt| attempt.open_choices(choices));
        let dialect = self.order.ask.api.dialect();
        let mut end = Vec::new();
        if !open.is_empty() {
            end = shown.ending(dialect, open.into_iter(), "length", more);
        }
        if !shown.usage_told && Terms::read(&self.order.ask).wants_usage() {
            end.extend(shown.unknown_usage());
        }
        end.extend_from_slice(b"data: [DONE]\n\n");
        self.emit(now, Emit::Bytes(end));
        self.end(now, true, outcome, None);
    }
}

/// How many tokens there are at least: each event has one.
fn count(shown: &Transcript) -> u64 {
    shown.usage.completion_tokens.unwrap_or(shown.events)
}

/// As many choices as an answer may have (vLLM's `VLLM_MAX_N_SEQUENCES`).
const MOST_CHOICES: usize = 16_384;
