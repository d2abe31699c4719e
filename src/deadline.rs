//! All timers, as states: the moment something began or last happened, from which the next moment
//! to wake follows. Progress moves a moment and touches no host timer, so a token costs none.

use crate::{policy::Policy, time::Instant};

/// What an attempt ran out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// No response headers.
    Headers,
    /// No content.
    FirstToken,
    /// No bytes in the middle of an answer.
    Idle,
    /// Bytes, but no content.
    Progress,
    /// A job without a worker.
    Queue,
}

impl Timer {
    /// The name in `error.param`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::FirstToken => "first_token",
            Self::Idle => "idle",
            Self::Progress => "progress",
            Self::Queue => "queue",
        }
    }

    /// The policy field to change.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Headers => "headers_ms",
            Self::FirstToken => "first_token_ms",
            Self::Idle => "idle_ms",
            Self::Progress => "progress_ms",
            Self::Queue => "queue_ms",
        }
    }
}

/// How long one attempt may take over what, in milliseconds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of a streamed answer; an answer that does not stream has its headers when it is complete,
    /// so only the call's deadline bounds it until then.
    streamed: bool,
    headers_ms: u64,
    first_token_ms: u64,
    idle_ms: u64,
    progress_ms: u64,
    queue_ms: u64,
    /// Any byte shows that the answer is on its way.
    any_byte: bool,
}

/// Once a stream has proved itself whole, this is how long its last bytes are waited for.
const GRACE_MS: u64 = 1000;

/// The longest that bytes which went by unseen wait to be looked at.
const MAX_REST_MS: u64 = 250;

impl Limits {
    /// What `policy` allows a request of this size. Parsers of tools and structured output hold
    /// text back (`held_back`), so the idle time is doubled for them.
    pub fn new(policy: &Policy, streamed: bool, request_bytes: usize, held_back: bool) -> Self {
        let idle_ms = if held_back { policy.idle_ms.saturating_mul(2) } else { policy.idle_ms };
        Self {
            streamed,
            headers_ms: policy.headers_ms,
            first_token_ms: policy.first_token_for(request_bytes),
            idle_ms,
            progress_ms: policy.progress_ms,
            queue_ms: policy.queue_ms,
            any_byte: false,
        }
    }

    /// For an endpoint that may have to start first: its headers come when it has, so only the
    /// first token's time bounds them.
    pub const fn with_cold_start(mut self) -> Self {
        self.headers_ms = u64::MAX;
        self
    }

    /// For a gateway: its own timers rule its endpoints, and its comments say that they do. Only its silence counts.
    pub const fn of_gateway(mut self) -> Self {
        self.progress_ms = u64::MAX;
        self.any_byte = true;
        self
    }

    /// How long bytes that went by unseen may wait to be looked at: a few times a second, and often
    /// enough that no timer of silence takes the wait for silence.
    pub fn rest_ms(&self) -> u64 {
        (self.idle_ms.min(self.progress_ms) / 4).min(MAX_REST_MS)
    }

    /// How long `timer` is, for messages.
    pub const fn of(&self, timer: Timer) -> u64 {
        match timer {
            Timer::Headers => self.headers_ms,
            Timer::FirstToken => self.first_token_ms,
            Timer::Idle => self.idle_ms,
            Timer::Progress => self.progress_ms,
            Timer::Queue => self.queue_ms,
        }
    }
}

/// The timers of one attempt.
#[derive(Debug)]
pub struct AttemptTimers {
    limits: Limits,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// A job waits for a worker.
    Queued(Silence),
    /// A job can only be waited for.
    Unseen,
    /// Nothing has come.
    Sent(Silence),
    /// Headers have come, content has not.
    Opened(Silence),
    /// The body of an answer that does not stream is coming.
    Body(Silence),
    /// Content is coming: nothing since the last byte, and no content since the last of it.
    Flowing { bytes: Silence, content: Silence },
    /// The answer is whole; only its end is missing.
    Finished { at: Instant },
}

/// The time in which something has not come.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    /// Nobody could listen for a while: it does not last too long before then. Given once in a silence, or one in a
    /// page that is woken once a minute would never end.
    grace: Option<Instant>,
}

/// After a time in which nobody listened, what has come meanwhile gets so long to be heard.
const LISTENING_MS: u64 = 5000;

impl Silence {
    const fn since(since: Instant) -> Self {
        Self { since, grace: None }
    }

    /// When it has lasted for so long.
    fn until(self, limit_ms: u64) -> Instant {
        self.since.after(limit_ms).max(self.grace.unwrap_or_default())
    }

    /// For so long up to now nobody listened. No silence begins in times to come.
    fn shift(&mut self, now: Instant, ms: u64) {
        self.since = self.since.after(ms).min(now).max(self.since);
    }

    fn forgive(&mut self, now: Instant, limit_ms: u64) {
        if self.grace.is_none() && self.until(limit_ms) <= now {
            self.grace = Some(now.after(limit_ms.min(LISTENING_MS)));
        }
    }
}

impl AttemptTimers {
    /// The timers of an attempt that goes out now.
    pub const fn new(now: Instant, limits: Limits) -> Self {
        Self { limits, phase: Phase::Sent(Silence::since(now)) }
    }

    /// The timers of an attempt whose job is queued now.
    pub const fn queued(now: Instant, limits: Limits) -> Self {
        Self { limits, phase: Phase::Queued(Silence::since(now)) }
    }

    /// A worker has the job: its time to the first token runs from here.
    pub const fn on_started(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Queued(_)) {
            self.phase = Phase::Sent(Silence::since(now));
        }
    }

    /// It is back in the queue.
    pub const fn on_queued(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Sent(_)) {
            self.phase = Phase::Queued(Silence::since(now));
        }
    }

    /// What its worker does cannot be seen any more.
    pub const fn on_unseen(&mut self) {
        self.phase = Phase::Unseen;
    }

    /// Headers have come.
    pub const fn on_head(&mut self, now: Instant) {
        self.phase = match self.phase {
            Phase::Sent(Silence { since, .. }) | Phase::Queued(Silence { since, .. }) if self.limits.streamed => {
                Phase::Opened(Silence::since(if self.limits.any_byte { now } else { since }))
            }
            _ => Phase::Body(Silence::since(now)),
        };
    }

    /// An answer has come that is read to its end before it is looked at.
    pub const fn on_body(&mut self, now: Instant) {
        self.phase = Phase::Body(Silence::since(now));
    }

    /// Bytes have come.
    pub const fn on_bytes(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Body(bytes) | Phase::Flowing { bytes, .. } => *bytes = Silence::since(now),
            Phase::Opened(bytes) if self.limits.any_byte => *bytes = Silence::since(now),
            Phase::Queued(_) | Phase::Unseen | Phase::Sent(_) | Phase::Opened(_) | Phase::Finished { .. } => {}
        }
    }

    /// Content has come.
    pub const fn on_content(&mut self, now: Instant) {
        self.phase = Phase::Flowing { bytes: Silence::since(now), content: Silence::since(now) };
    }

    /// The answer is whole.
    pub const fn on_finished(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Finished { .. }) {
            self.phase = Phase::Finished { at: now };
        }
    }

    /// Nothing was read for this long up to now, because the client was slow or the host asleep: that is not the
    /// endpoint's silence.
    pub fn shift(&mut self, now: Instant, ms: u64) {
        match &mut self.phase {
            Phase::Unseen => {}
            Phase::Finished { at } => *at = at.after(ms),
            Phase::Queued(silence) | Phase::Sent(silence) | Phase::Opened(silence) | Phase::Body(silence) => {
                silence.shift(now, ms);
            }
            Phase::Flowing { bytes, content } => {
                bytes.shift(now, ms);
                content.shift(now, ms);
            }
        }
    }

    /// Until now nobody could listen. What would have run out meanwhile runs out a moment later, if it has not had
    /// that moment already; and whatever feeds a timer ends its silence, and gives it another.
    pub fn forgive(&mut self, now: Instant) {
        let Limits { headers_ms, first_token_ms, idle_ms, progress_ms, queue_ms, .. } = self.limits;
        match &mut self.phase {
            Phase::Unseen | Phase::Finished { .. } => {}
            Phase::Queued(silence) => silence.forgive(now, queue_ms),
            Phase::Sent(silence) => silence.forgive(now, headers_ms.min(first_token_ms)),
            Phase::Opened(silence) => silence.forgive(now, first_token_ms),
            Phase::Body(silence) => silence.forgive(now, idle_ms),
            Phase::Flowing { bytes, content } => {
                bytes.forgive(now, idle_ms);
                content.forgive(now, progress_ms);
            }
        }
    }

    /// When the next timer runs out, and which; a finished answer has no timer that fails it.
    pub fn next(&self) -> Option<(Instant, Option<Timer>)> {
        let Limits { streamed, headers_ms, first_token_ms, idle_ms, progress_ms, queue_ms, .. } = self.limits;
        let earlier = |a: (Instant, Option<Timer>), b: (Instant, Option<Timer>)| if b.0 < a.0 { b } else { a };
        match self.phase {
            Phase::Queued(silence) => Some((silence.until(queue_ms), Some(Timer::Queue))),
            Phase::Unseen => None,
            Phase::Sent(silence) => streamed.then(|| {
                earlier(
                    (silence.until(headers_ms), Some(Timer::Headers)),
                    (silence.until(first_token_ms), Some(Timer::FirstToken)),
                )
            }),
            Phase::Opened(silence) => Some((silence.until(first_token_ms), Some(Timer::FirstToken))),
            Phase::Body(silence) => Some((silence.until(idle_ms), Some(Timer::Idle))),
            Phase::Flowing { bytes, content } => Some(earlier(
                (bytes.until(idle_ms), Some(Timer::Idle)),
                (content.until(progress_ms), Some(Timer::Progress)),
            )),
            Phase::Finished { at } => Some((at.after(GRACE_MS), None)),
        }
    }
}

/// The timers that the client feels: how long it is left without a status, and without a byte.
#[derive(Debug)]
pub struct ClientTimers {
    /// When a streaming call gets its 200 in any case; `None` once it has its status, or where the
    /// status must wait for the answer.
    commit_at: Option<Instant>,
    /// The last byte sent on a stream.
    last_byte: Option<Instant>,
    keepalive_ms: u64,
}

impl ClientTimers {
    /// The timers of a call that arrives now.
    pub fn new(now: Instant, policy: &Policy, stream: bool) -> Self {
        let commit_at = stream.then(|| now.after(policy.commit_after_ms));
        Self { commit_at, last_byte: None, keepalive_ms: policy.keepalive_ms }
    }

    /// A comment comes at least this often from here on.
    pub fn hasten(&mut self, keepalive_ms: u64) {
        self.keepalive_ms = self.keepalive_ms.min(keepalive_ms);
    }

    /// The status has gone out.
    pub const fn on_commit(&mut self, now: Instant, stream: bool) {
        self.commit_at = None;
        self.last_byte = if stream { Some(now) } else { None };
    }

    /// For so long nothing ran that could have told a status.
    pub fn shift(&mut self, ms: u64) {
        self.commit_at = self.commit_at.map(|at| at.after(ms));
    }

    /// Bytes go out by themselves from here on, and nothing can be put between them.
    pub const fn on_pipe(&mut self) {
        self.last_byte = None;
    }

    /// Bytes have gone out.
    pub fn on_bytes(&mut self, now: Instant) {
        if let Some(last_byte) = &mut self.last_byte {
            *last_byte = now;
        }
    }

    /// Whether a status is due.
    pub fn commit_due(&self, now: Instant) -> bool {
        self.commit_at.is_some_and(|at| at <= now)
    }

    /// Whether a comment is due.
    pub fn keepalive_due(&self, now: Instant) -> bool {
        self.keepalive_at().is_some_and(|at| at <= now)
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.commit_at.into_iter().chain(self.keepalive_at()).min()
    }

    fn keepalive_at(&self) -> Option<Instant> {
        self.last_byte.map(|at| at.after(self.keepalive_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn timers(streamed: bool) -> AttemptTimers {
        AttemptTimers::new(at(0), Limits::new(&Policy::default(), streamed, 0, false))
    }

    #[test]
    fn each_phase_of_a_stream_has_its_timer() {
        let mut timers = timers(true);
        assert_eq!(timers.next(), Some((at(30_000), Some(Timer::Headers))));
        timers.on_head(at(1000));
        timers.on_bytes(at(5000));
        assert_eq!(timers.next(), Some((at(120_000), Some(Timer::FirstToken))), "bytes are not content");
        timers.on_content(at(6000));
        assert_eq!(timers.next(), Some((at(66_000), Some(Timer::Idle))));
        timers.on_bytes(at(65_000));
        timers.on_bytes(at(100_000));
        assert_eq!(timers.next(), Some((at(126_000), Some(Timer::Progress))), "comments do not feed progress");
        timers.on_finished(at(100_000));
        timers.on_finished(at(100_500));
        assert_eq!(timers.next(), Some((at(101_000), None)));
    }

    #[test]
    fn an_answer_that_does_not_stream_waits_for_its_headers_and_then_for_its_bytes() {
        let mut timers = timers(false);
        assert_eq!(timers.next(), None);
        timers.on_head(at(200_000));
        timers.on_bytes(at(201_000));
        assert_eq!(timers.next(), Some((at(261_000), Some(Timer::Idle))));
    }

    #[test]
    fn a_slow_client_is_not_a_silent_endpoint() {
        let mut timers = timers(true);
        timers.on_head(at(0));
        timers.on_content(at(1000));
        timers.shift(at(520_000), 500_000);
        assert_eq!(timers.next(), Some((at(561_000), Some(Timer::Idle))));
        timers.shift(at(520_000), 500_000);
        assert_eq!(timers.next(), Some((at(580_000), Some(Timer::Idle))), "told twice, it is not more than all");
    }

    #[test]
    fn a_gateways_comments_are_life_and_only_its_silence_counts() {
        let mut timers = AttemptTimers::new(at(0), Limits::new(&Policy::default(), true, 0, false).of_gateway());
        assert_eq!(timers.next(), Some((at(30_000), Some(Timer::Headers))));
        timers.on_bytes(at(1000));
        assert_eq!(timers.next(), Some((at(30_000), Some(Timer::Headers))), "without headers there are no bytes");
        timers.on_head(at(10_000));
        assert_eq!(timers.next(), Some((at(130_000), Some(Timer::FirstToken))));
        timers.on_bytes(at(100_000));
        assert_eq!(timers.next(), Some((at(220_000), Some(Timer::FirstToken))));
        timers.on_content(at(200_000));
        timers.on_bytes(at(250_000));
        assert_eq!(timers.next(), Some((at(310_000), Some(Timer::Idle))));
    }

    #[test]
    fn who_could_not_listen_gets_a_moment_to_once_in_a_silence() {
        let mut timers = timers(true);
        timers.forgive(at(29_000));
        assert_eq!(timers.next(), Some((at(30_000), Some(Timer::Headers))), "there is time left");
        timers.forgive(at(50_000));
        assert_eq!(timers.next(), Some((at(55_000), Some(Timer::Headers))));
        timers.forgive(at(60_000));
        assert_eq!(timers.next(), Some((at(55_000), Some(Timer::Headers))));
        timers.on_head(at(60_000));
        timers.forgive(at(200_000));
        timers.on_bytes(at(201_000));
        timers.forgive(at(300_000));
        assert_eq!(timers.next(), Some((at(205_000), Some(Timer::FirstToken))), "bytes are not content");
        timers.on_content(at(300_000));
        timers.forgive(at(400_000));
        assert_eq!(timers.next(), Some((at(405_000), Some(Timer::Idle))));
        timers.on_bytes(at(401_000));
        timers.forgive(at(490_000));
        assert_eq!(timers.next(), Some((at(495_000), Some(Timer::Idle))));
        timers.on_bytes(at(491_000));
        timers.forgive(at(600_000));
        assert_eq!(timers.next(), Some((at(495_000), Some(Timer::Progress))), "bytes are still not content");
    }

    #[test]
    fn held_back_text_doubles_the_idle_time() {
        let limits = Limits::new(&Policy::default(), true, 10 << 10, true);
        assert_eq!((limits.of(Timer::Idle), limits.of(Timer::FirstToken)), (120_000, 121_000));
    }

    #[test]
    fn the_client_gets_a_status_and_then_a_comment_in_every_silence() {
        let mut client = ClientTimers::new(at(0), &Policy::default(), true);
        assert_eq!(client.next(), Some(at(10_000)));
        assert!(client.commit_due(at(10_000)) && !client.keepalive_due(at(10_000)));
        client.on_commit(at(10_000), true);
        assert_eq!(client.next(), Some(at(15_000)));
        client.on_bytes(at(14_000));
        assert!(!client.keepalive_due(at(18_999)) && client.keepalive_due(at(19_000)));
        assert_eq!(ClientTimers::new(at(0), &Policy::default(), false).next(), None);
    }
}
