//! Endpoints, and the answers they give.

use super::{
    tasks::{Moment, TaskId},
    world::World,
};
use fairlead_core::{
    message::{Headers, ResponseHead},
    rng::Rng,
    runtime::{Exchange, Received},
};
use std::{
    cell::Cell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll},
};

/// The first token of an endpoint that is well comes after 150 ms on average,
const FIRST_TOKEN_MS: u64 = 150;

/// and the end of the answer after 600 ms.
const ANSWER_MS: u64 = 600;

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It answers.
    Well,
    /// It refuses connections, after 5 ms.
    Refusing,
    /// It says nothing for so long, and then the connection breaks.
    Silent {
        /// Milliseconds.
        ms: u64,
    },
    /// It answers 500, after 50 ms, to this share of requests.
    Failing {
        /// In millionths.
        ppm: u64,
    },
    /// It takes so many times as long.
    Slow {
        /// This.
        factor: u64,
    },
}

/// What decides how an endpoint answers.
#[derive(Clone, Debug)]
pub enum Nature {
    /// From each of these moments on it is so; before the first it is well.
    Scheduled(Vec<(u64, Mode)>),
    /// It serves so many at a time, and the more wait, the slower.
    Congested(Curve),
}

/// The capacity of a congested endpoint.
///
/// A request is served in one of `slots`, in the order of arrival. From its start it takes 600 ms times `1 + waiting /
/// slows_at`, at most times `slowest`, where `waiting` is the length of the queue at that moment; its first token comes
/// after a quarter of that. Only then is it seen whether the client is still there: what nobody waits for costs a
/// quarter. When `longest` wait, another one gets a 503 at once.
#[derive(Clone, Copy, Debug)]
pub struct Curve {
    pub slots: usize,
    pub slows_at: usize,
    pub slowest: u64,
    pub longest: usize,
}

impl Curve {
    /// Requests a second while nobody waits.
    pub const fn capacity(&self) -> f64 {
        self.slots as f64 * 1000.0 / ANSWER_MS as f64
    }
}

/// One endpoint.
pub struct Endpoint {
    nature: Nature,
    queue: VecDeque<Rc<Job>>,
    busy: usize,
}

impl Endpoint {
    pub const fn new(nature: Nature) -> Self {
        Self { nature, queue: VecDeque::new(), busy: 0 }
    }

    /// How it is, and since when.
    pub fn mode(&self, now: u64) -> (u64, Mode) {
        match &self.nature {
            Nature::Scheduled(modes) => {
                let begun = modes.partition_point(|(from, _)| *from <= now);
                begun.checked_sub(1).map_or((0, Mode::Well), |last| modes[last])
            }
            Nature::Congested(_) => (0, Mode::Well),
        }
    }

    /// Since when it is well and nothing fails any more that was asked of it before; `None`: it is not so.
    pub fn well_since(&self, now: u64) -> Option<u64> {
        let (from, mode) = self.mode(now);
        let silence = match from.checked_sub(1).map(|before| self.mode(before).1) {
            Some(Mode::Silent { ms }) => ms,
            _ => 0,
        };
        (mode == Mode::Well && from + silence <= now).then_some(from + silence)
    }

    /// Takes in a request.
    pub fn ask(&mut self, world: &World, number: usize, rng: &mut Rng) -> Fate {
        let now = world.now();
        if let Nature::Congested(curve) = self.nature {
            if self.queue.len() >= curve.longest {
                return Fate::Refused { at: now + 5, status: Some(503) };
            }
            let job = Rc::new(Job { task: world.current(), served: Cell::new(None), is_left: Cell::new(false) });
            self.queue.push_back(Rc::clone(&job));
            self.serve(world, number);
            return Fate::Queued(job);
        }
        let factor = match self.mode(now).1 {
            Mode::Refusing => return Fate::Refused { at: now + 5, status: None },
            Mode::Silent { ms } => return Fate::Refused { at: now + ms, status: None },
            Mode::Failing { ppm } if rng.up_to(999_999) < ppm => {
                return Fate::Refused { at: now + 50, status: Some(500) };
            }
            Mode::Slow { factor } => factor,
            Mode::Well | Mode::Failing { .. } => 1,
        };
        // Half as long to half as long again.
        let mut about = |ms: u64| factor * (ms / 2 + rng.up_to(ms));
        let first = now + about(FIRST_TOKEN_MS);
        Fate::Answered { first, end: first + about(ANSWER_MS - FIRST_TOKEN_MS) }
    }

    /// Gives the slots that are free to those that wait.
    fn serve(&mut self, world: &World, number: usize) {
        let Nature::Congested(curve) = self.nature else { return };
        let now = world.now();
        while self.busy < curve.slots {
            let Some(job) = self.queue.pop_front() else { return };
            self.busy += 1;
            let most = curve.slows_at as u64;
            let waiting = (self.queue.len() as u64).min(most * (curve.slowest - 1));
            let takes = ANSWER_MS + ANSWER_MS * waiting / most;
            let first = now + takes / 4;
            job.served.set(Some((first, now + takes)));
            world.add(first, Moment::Wake(job.task));
            world.add(first, Moment::FirstToken(number, job));
        }
    }

    /// A job has its first token: what nobody waits for goes no further.
    pub fn on_first_token(&mut self, world: &World, number: usize, job: &Job) {
        match job.served.get() {
            Some((_, end)) if !job.is_left.get() => world.add(end, Moment::Finished(number)),
            _ => self.on_finished(world, number),
        }
    }

    /// A slot is free.
    pub fn on_finished(&mut self, world: &World, number: usize) {
        self.busy -= 1;
        self.serve(world, number);
    }
}

/// A request that has waited or waits.
#[derive(Debug)]
pub struct Job {
    task: TaskId,
    /// When its first token comes and when its end, once it is served.
    served: Cell<Option<(u64, u64)>>,
    /// Its client has left.
    is_left: Cell<bool>,
}

/// What comes of a request.
#[derive(Debug)]
pub enum Fate {
    /// An answer.
    Answered { first: u64, end: u64 },
    /// No answer, or one with this status.
    Refused { at: u64, status: Option<u16> },
    /// Nobody knows yet.
    Queued(Rc<Job>),
}

/// The events of an answer, the same in all.
pub struct Words {
    first: Rc<[u8]>,
    last: Rc<[u8]>,
    head: ResponseHead,
}

impl Default for Words {
    fn default() -> Self {
        let event = |choice: &str| {
            let fields = r#""id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m""#;
            format!("data: {{{fields},\"choices\":[{{\"index\":0,{choice}}}]}}\n\n")
        };
        let first = event(r#""delta":{"role":"assistant","content":"Hello"},"finish_reason":null"#);
        let last = event(r#""delta":{"content":""},"finish_reason":"stop""#) + "data: [DONE]\n\n";
        let head = ResponseHead { status: 200, headers: Headers::from_iter([("content-type", "text/event-stream")]) };
        Self { first: first.into_bytes().into(), last: last.into_bytes().into(), head }
    }
}

/// One request on its way. Dropping it is how its client leaves.
pub struct Wire {
    world: Rc<World>,
    fate: Fate,
    job: Option<Rc<Job>>,
    /// What has come of the answer: the head, the first event, the last.
    step: u8,
    awaited: u64,
}

impl Wire {
    pub fn new(world: &Rc<World>, fate: Fate) -> Self {
        let job = match &fate {
            Fate::Queued(job) => Some(Rc::clone(job)),
            _ => None,
        };
        Self { world: Rc::clone(world), fate, job, step: 0, awaited: 0 }
    }

    fn is_due(&mut self, at: u64) -> bool {
        let due = at <= self.world.now();
        if !due && self.awaited != at {
            self.awaited = at;
            self.world.wake(at);
        }
        due
    }
}

impl Exchange for Wire {
    type Chunk = Rc<[u8]>;

    fn poll_received(&mut self, _: &mut Context<'_>) -> Poll<Received<Rc<[u8]>>> {
        if let Some((first, end)) = self.job.as_ref().and_then(|job| job.served.get()) {
            self.fate = Fate::Answered { first, end };
        }
        let due = match (&self.fate, self.step) {
            (Fate::Queued(_), _) => return Poll::Pending,
            (Fate::Refused { at, .. }, _) => *at,
            (Fate::Answered { first, .. }, 0 | 1) => *first,
            (Fate::Answered { end, .. }, _) => *end,
        };
        if !self.is_due(due) {
            return Poll::Pending;
        }
        let step = self.step;
        self.step += 1;
        let words = &self.world.words;
        Poll::Ready(match (&self.fate, step) {
            (Fate::Refused { status: None, .. }, _) => Received::Failed,
            (Fate::Refused { status: Some(status), .. }, 0) => {
                Received::Head(ResponseHead { status: *status, headers: Headers::new() })
            }
            (_, 0) => Received::Head(words.head.clone()),
            (Fate::Answered { .. }, 1) => Received::Chunk(Rc::clone(&words.first)),
            (Fate::Answered { .. }, 2) => Received::Chunk(Rc::clone(&words.last)),
            _ => Received::End,
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            job.is_left.set(true);
        }
    }
}
