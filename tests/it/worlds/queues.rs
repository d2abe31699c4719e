//! What the simulated RunPod may do with the jobs of a call.

use super::{
    answers::{Asked, Part},
    choices::Dice,
};
use crate::runpod::{Act, End, Fault, Runpod, Stops, Work};
use fairlead_core::jobs::Op;
use serde_json::{Value, json};
use std::fmt;

/// One endpoint's behaviour.
#[derive(Clone)]
pub struct Queue {
    works: Vec<Work>,
    upsets: Vec<(Op, u32, u32, Fault)>,
    latency: (u64, u64),
    health: &'static str,
    max_subrequests: u32,
    bounds: (u64, u64),
}

const FAULTS: &[Fault] = &[
    Fault::Refused(429),
    Fault::Refused(500),
    Fault::Refused(503),
    Fault::Refused(404),
    Fault::Refused(401),
    Fault::Refused(400),
    Fault::DoneBut(500),
    Fault::DoneBut(524),
    Fault::Reset,
    Fault::DoneButReset,
    Fault::Stall,
    Fault::DoneButStall,
    Fault::Half,
    Fault::Malformed,
    Fault::Html,
    Fault::WrongId,
    Fault::Late(1200),
    Fault::Late(12_000),
    Fault::Torn(700),
];

const HEALTHS: &[&str] = &[
    r#"{"jobs":{"inQueue":0},"workers":{"idle":1}}"#,
    r#"{"jobs":{"inQueue":4},"workers":{"running":3}}"#,
    r#"{"jobs":{"inQueue":0},"workers":{"idle":0}}"#,
    r#"{"jobs":{"inQueue":9},"workers":{"throttled":3}}"#,
    r#"{"workers":{"unhealthy":1}}"#,
    "{}",
    "[]",
];

/// Why a handler failed.
const ERRORS: &[&str] = &[
    "handler: no \ntraceback: hush",
    "executionTimeout exceeded",
    "job timed out after 1 retries",
    r#"{"error_type":"<class 'ValueError'>","error_message":"no","error_traceback":"hush"}"#,
    r#"{'message': 'vLLM returned HTTP 400: {"error":{"message":"No.","code":400}}', 'type': 'worker_error', 'code': None}"#,
    r#"{'message': 'vLLM returned HTTP 400: {"error":{"message":"maximum context length"}}', 'type': 'worker_error'}"#,
    r#"{'message': "vLLM returned HTTP 503: it's busy", 'type': 'worker_error', 'code': None}"#,
    r#"{'message': 'vLLM returned HTTP 500: Internal', 'type': 'worker_error', 'code': None}"#,
    "",
];

impl Queue {
    /// `said`: the events of all answers, where that is no matter of chance.
    pub fn draw(dice: &mut Dice, asked: Asked, said: Option<Vec<Part>>) -> Self {
        let works = dice.at_least_one(3, |dice| work(dice, asked, said.as_deref()));
        let upsets = dice.some(4, |dice| {
            let op = dice.pick(&[Op::Stream, Op::Status, Op::Submit, Op::Cancel, Op::Health]);
            let from = dice.up_to(9) as u32;
            let count = dice.pick(&[1, 1, 2, 3, 1000]);
            (op, from, count, dice.pick(FAULTS))
        });
        let latency = match dice.up_to(3) {
            0 => (10, 10),
            1 => (0, 0),
            _ => (dice.up_to(400), dice.up_to(400)),
        };
        let health = if dice.one_in(3) { dice.pick(HEALTHS) } else { HEALTHS[0] };
        let max_subrequests = dice.pick(&[1000, 1000, 45, 10]);
        let bounds = dice.pick(&[(600_000, 3_600_000), (5000, 3_600_000), (600_000, 10_000)]);
        Self { works, upsets, latency, health, max_subrequests, bounds }
    }

    pub fn runpod(&self) -> Runpod {
        let (last, first) = self.works.split_last().expect("one work at least");
        let runpod = Runpod::of(last.clone())
            .first(first.iter().cloned())
            .latency(self.latency.0, self.latency.1)
            .health(serde_json::from_str(self.health).expect("JSON"))
            .max_subrequests(self.max_subrequests)
            .bounds(self.bounds.0, self.bounds.1);
        self.upsets.iter().fold(runpod, |runpod, (op, from, count, fault)| runpod.upset(*op, *from, *count, *fault))
    }
}

fn work(dice: &mut Dice, asked: Asked, said: Option<&[Part]>) -> Work {
    let every = if dice.one_in(2) { dice.ms().min(3000) } else { 20 };
    let mut work = match said {
        _ if !asked.streams() => whole(dice, asked),
        Some(parts) => {
            let outputs = parts.iter().map(|part| String::from_utf8_lossy(&part.text).as_ref().into());
            Work::yields(outputs.collect::<Vec<Value>>(), every)
        }
        None => streaming(dice, asked, every),
    };
    let queue_ms = match dice.up_to(4) {
        0 | 1 => 0,
        4 => u64::MAX,
        _ => dice.ms(),
    };
    work = work.queued(queue_ms);
    match dice.up_to(9) {
        0..=5 => {}
        6 => work.end = (dice.up_to(500), End::Fails(dice.pick(ERRORS).to_owned())),
        7 => work.end.1 = End::Never,
        8 => work.end = (dice.up_to(500), End::IsCancelled),
        _ => {
            let least = work.acts.len().min(dice.index(8));
            work.acts.truncate(least);
        }
    }
    if dice.one_in(5) {
        work.aggregates = false;
    }
    if dice.one_in(8) {
        work.stops = Stops::Never;
    }
    work.times_out = dice.one_in(2);
    work
}

/// Outputs that make an event stream, each of any extent.
fn streaming(dice: &mut Dice, asked: Asked, every: u64) -> Work {
    let parts = asked.stream(dice);
    let texts: Vec<String> =
        parts.iter().map(|part| String::from_utf8(part.text.clone()).expect("a stream is text")).collect();
    let outputs: Vec<Value> = match dice.up_to(3) {
        0 | 1 => texts.into_iter().map(Value::String).collect(),
        2 => vec![texts.concat().into()],
        _ => {
            let bytes = texts.concat().into_bytes();
            let mut places = dice.some(6, |dice| dice.index(bytes.len() + 1));
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            // A cut inside a character destroys it, as in the worker.
            places.windows(2).map(|ends| String::from_utf8_lossy(&bytes[ends[0]..ends[1]]).into()).collect()
        }
    };
    let mut work = Work::yields(outputs, every);
    for act in dice.some(2, |dice| dice.up_to(5)) {
        let place = dice.index(work.acts.len());
        match act {
            0 => work = work.with(place, dice.up_to(500), Act::Notes(json!("hush"))),
            1 | 2 if matches!(work.acts[place].1, Act::Yields(_)) => work = work.loses(place),
            3 => work = work.with(place, dice.pick(&[0, 300, 2000]), Act::Reposts),
            _ => {
                let queue_ms = dice.ms();
                work = work.with(place, dice.up_to(500), Act::Falls(queue_ms));
            }
        }
    }
    work
}

fn whole(dice: &mut Dice, asked: Asked) -> Work {
    let answer = asked.plain_answer(dice);
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let after = dice.ms();
    match dice.up_to(4) {
        0 | 1 => Work::yields([answer], after),
        2 => Work::returns(answer, after),
        3 => Work::returns(answer.to_string().into(), after),
        _ => Work::returns(dice.pick(&["", "{}", "[]", "hush", "{\"error\":{\"code\":500}}"]).into(), after),
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upsets, latency, health, max_subrequests, bounds, works } = self;
        write!(f, "latency {latency:?}, health {health}, {max_subrequests} fetches, bounds {bounds:?}")?;
        for (op, from, count, fault) in upsets {
            write!(f, "\n    {op:?} {from}..+{count} {fault:?}")?;
        }
        for work in works {
            let Work { queue_ms, acts, end, aggregates, stops, times_out } = work;
            write!(
                f,
                "\n    job: queued {queue_ms}, end {end:?}, aggregates {aggregates}, stops {stops:?}, times out {times_out}"
            )?;
            for (after, act) in acts.iter().take(12) {
                let act = format!("{act:?}");
                write!(f, "\n      {after} ms {:.160}", act)?;
            }
        }
        Ok(())
    }
}
