//! One job of the simulated endpoint: its life, its answers and its bill.

use crate::script::chunk;
use serde_json::{Value, json};

/// What a job comes to.
#[derive(Clone, Debug)]
pub struct Work {
    /// So long it waits for a worker; `u64::MAX`: none ever takes it.
    pub queue_ms: u64,
    /// What happens while it is at work, each so many milliseconds behind the one before.
    pub acts: Vec<(u64, Act)>,
    /// Its end, so many milliseconds behind the last act.
    pub end: (u64, End),
    /// Whether its final status holds all its outputs.
    pub aggregates: bool,
    /// What a cancel does to it.
    pub stops: Stops,
    /// Whether an execution timeout is told as `TIMED_OUT`, or as `FAILED`.
    pub times_out: bool,
}

/// Something that happens while a job is at work.
#[derive(Clone, Debug)]
pub enum Act {
    /// An output.
    Yields(Value),
    /// An output whose post breaks inside RunPod: only the aggregate has it.
    Loses(Value),
    /// The last output is posted once more: `/stream` has it twice.
    Reposts,
    /// Its worker is lost: it is queued again for so long, and begins anew.
    Falls(u64),
    /// A note on its progress.
    Notes(Value),
}

/// How a job ends by itself.
#[derive(Clone, Debug)]
pub enum End {
    /// `COMPLETED`, with what it has put out.
    Completes,
    /// `COMPLETED`, with this result.
    Returns(Value),
    /// `FAILED`, with this error.
    Fails(String),
    /// Somebody cancels it.
    IsCancelled,
    /// Its worker keeps silent until a limit ends it.
    Never,
}

/// What a cancel does to a job at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// It ends, unless the cancel comes within 100 ms of the worker's taking it.
    UnlessEarly,
    /// Nothing.
    Never,
}

/// A worker does not know yet that it has a job to stop.
const EARLY_MS: u64 = 100;

impl Work {
    /// Outputs at these distances, which the final status holds once more.
    pub fn yields(outputs: impl IntoIterator<Item = Value>, every_ms: u64) -> Self {
        let acts = outputs.into_iter().map(|output| (every_ms, Act::Yields(output))).collect();
        Self {
            queue_ms: 0,
            acts,
            end: (0, End::Completes),
            aggregates: true,
            stops: Stops::UnlessEarly,
            times_out: false,
        }
    }

    /// A chat that streams, as a worker-vllm puts it out: an event, an output.
    pub fn chat(text: &str, every_ms: u64) -> Self {
        Self::yields(words(text), every_ms)
    }

    /// A handler that returns this.
    pub fn returns(result: Value, after_ms: u64) -> Self {
        Self { end: (after_ms, End::Returns(result)), ..Self::yields([], 0) }
    }

    /// A handler that fails.
    pub fn fails(error: impl Into<String>, after_ms: u64) -> Self {
        Self { end: (after_ms, End::Fails(error.into())), ..Self::yields([], 0) }
    }

    pub const fn queued(mut self, ms: u64) -> Self {
        self.queue_ms = ms;
        self
    }

    pub fn ends(mut self, after_ms: u64, end: End) -> Self {
        self.end = (after_ms, end);
        self
    }

    /// With one more act, in this place.
    pub fn with(mut self, place: usize, after_ms: u64, act: Act) -> Self {
        self.acts.insert(place, (after_ms, act));
        self
    }

    /// The output in this place never reaches `/stream`.
    pub fn loses(mut self, place: usize) -> Self {
        let act = &mut self.acts[place].1;
        let Act::Yields(output) = act else { panic!("no output in this place") };
        *act = Act::Loses(output.clone());
        self
    }

    pub const fn without_aggregate(mut self) -> Self {
        self.aggregates = false;
        self
    }

    pub const fn stops(mut self, stops: Stops) -> Self {
        self.stops = stops;
        self
    }

    pub const fn told_as_timed_out(mut self) -> Self {
        self.times_out = true;
        self
    }
}

/// The events of a chat that streams, each as the text of an output.
pub fn words(text: &str) -> Vec<Value> {
    let event = |payload: &Value| Value::String(format!("data: {payload}\n\n"));
    let mut events = vec![event(&chunk(0, &json!({ "role": "assistant", "content": "" }), None))];
    events.extend(text.split_inclusive(' ').map(|word| event(&chunk(0, &json!({ "content": word }), None))));
    events.push(event(&chunk(0, &json!({}), Some("stop"))));
    events.push("data: [DONE]\n\n".into());
    events
}

/// The text that outputs make.
pub fn text_of(outputs: &[Value]) -> String {
    outputs.iter().map(|output| output.as_str().map_or_else(|| output.to_string(), str::to_owned)).collect()
}

/// A job and its account.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: String,
    pub work: Work,
    pub submitted: u64,
    pub execution_ms: u64,
    pub ttl_ms: u64,
    /// What was submitted.
    pub body: Value,
    pub word: &'static str,
    /// Its `ttl` has passed: nobody knows it any more.
    pub gone: bool,
    /// When it came to its final status, or to its expiry.
    pub ended: Option<u64>,
    /// When workers were at it.
    pub runs: Vec<(u64, Option<u64>)>,
    /// When cancels arrived.
    pub cancels: Vec<u64>,
    pub retries: u64,
    queued_at: u64,
    /// The next act, and when the one before was.
    act: usize,
    acted_at: u64,
    /// What `/stream` has not handed out.
    waiting: Vec<Value>,
    /// All outputs, of this run.
    pub outputs: Vec<Value>,
    /// Those of the runs before.
    pub earlier: Vec<Vec<Value>>,
    note: Option<Value>,
    error: Option<String>,
}

impl Job {
    pub fn new(id: String, submitted: u64, work: Work, execution_ms: u64, ttl_ms: u64, body: Value) -> Self {
        Self {
            id,
            work,
            submitted,
            execution_ms,
            ttl_ms,
            body,
            word: "IN_QUEUE",
            gone: false,
            ended: None,
            runs: Vec::new(),
            cancels: Vec::new(),
            retries: 0,
            queued_at: submitted,
            act: 0,
            acted_at: submitted,
            waiting: Vec::new(),
            outputs: Vec::new(),
            earlier: Vec::new(),
            note: None,
            error: None,
        }
    }

    /// What it has cost, in milliseconds of a worker.
    pub fn billed_ms(&self) -> u64 {
        self.runs.iter().map(|(from, to)| to.expect("it has ended") - from).sum()
    }

    /// When the last worker was done with it.
    pub fn billed_until(&self) -> Option<u64> {
        self.runs.last().map(|(_, to)| to.expect("it has ended"))
    }

    /// All text that it has put out.
    pub fn text(&self) -> String {
        text_of(&self.outputs)
    }

    /// When something happens to it by itself.
    pub fn next_at(&self) -> Option<u64> {
        if self.gone {
            return None;
        }
        let by_itself = match (self.word, self.runs.last()) {
            ("IN_QUEUE", _) => self.queued_at.saturating_add(self.work.queue_ms),
            ("IN_PROGRESS", Some((from, _))) => self.acts_at().min(from + self.execution_ms),
            _ => u64::MAX,
        };
        Some(by_itself.min(self.submitted + self.ttl_ms))
    }

    fn acts_at(&self) -> u64 {
        match (self.work.acts.get(self.act), &self.work.end) {
            (Some((after, _)), _) => self.acted_at + after,
            (None, (_, End::Never)) => u64::MAX,
            (None, (after, _)) => self.acted_at + after,
        }
    }

    /// It happens.
    pub fn step(&mut self, at: u64) {
        if at >= self.submitted + self.ttl_ms {
            self.gone = true;
            if self.ended.is_none() {
                self.end(at, "EXPIRED");
            }
            return;
        }
        if self.word == "IN_QUEUE" {
            self.word = "IN_PROGRESS";
            self.runs.push((at, None));
            (self.act, self.acted_at) = (0, at);
            return;
        }
        let from = self.runs.last().expect("a worker").0;
        if at >= from + self.execution_ms {
            if self.work.times_out {
                return self.end(at, "TIMED_OUT");
            }
            self.error = Some("executionTimeout exceeded".to_owned());
            return self.end(at, "FAILED");
        }
        self.acted_at = at;
        let Some((_, act)) = self.work.acts.get(self.act).cloned() else {
            return match self.work.end.1.clone() {
                End::Completes | End::Returns(_) => self.end(at, "COMPLETED"),
                End::Fails(error) => {
                    self.error = Some(error);
                    self.end(at, "FAILED");
                }
                End::IsCancelled => self.end(at, "CANCELLED"),
                End::Never => unreachable!("it never ends"),
            };
        };
        self.act += 1;
        match act {
            Act::Yields(output) => {
                self.waiting.push(output.clone());
                self.outputs.push(output);
            }
            Act::Loses(output) => self.outputs.push(output),
            Act::Reposts => self.waiting.extend(self.outputs.last().cloned()),
            Act::Notes(note) => self.note = Some(note),
            Act::Falls(ms) => {
                self.stop_run(at);
                self.word = "IN_QUEUE";
                self.retries += 1;
                self.earlier.push(std::mem::take(&mut self.outputs));
                self.queued_at = at;
                self.work.queue_ms = ms;
                // The second worker does better.
                self.work.acts.retain(|(_, act)| !matches!(act, Act::Falls(_)));
            }
        }
    }

    fn stop_run(&mut self, at: u64) {
        if let Some((_, to @ None)) = self.runs.last_mut() {
            *to = Some(at);
        }
    }

    fn end(&mut self, at: u64, word: &'static str) {
        self.word = word;
        self.ended = Some(at);
        self.stop_run(at);
    }

    fn note_times(&self, at: u64, told: &mut Value) {
        if let Some((from, to)) = self.runs.last() {
            told["delayTime"] = (from - self.queued_at.min(*from)).into();
            told["workerId"] = format!("w{}", self.runs.len()).into();
            if self.ended.is_some() {
                told["executionTime"] = (to.unwrap_or(at) - from).into();
            }
        }
        if self.retries > 0 {
            told["retries"] = self.retries.into();
        }
    }

    /// `GET /status`
    pub fn status(&self, at: u64) -> Value {
        let mut told = json!({ "id": self.id, "status": self.word });
        self.note_times(at, &mut told);
        match (self.word, &self.work.end.1) {
            ("COMPLETED", End::Returns(result)) => told["output"] = result.clone(),
            ("COMPLETED", _) if self.work.aggregates => told["output"] = self.outputs.clone().into(),
            ("IN_PROGRESS", _) => told["output"] = self.note.clone().into(),
            ("FAILED", _) => told["error"] = self.error.clone().into(),
            _ => {}
        }
        told
    }

    /// `GET /stream`
    pub fn stream(&mut self) -> Value {
        let entries: Vec<Value> = self.waiting.drain(..).map(|output| json!({ "output": output })).collect();
        json!({ "status": self.word, "stream": entries })
    }

    /// `POST /cancel`
    pub fn cancel(&mut self, at: u64) -> Value {
        self.cancels.push(at);
        if self.ended.is_some() {
            return json!({ "id": self.id, "status": self.word });
        }
        let heeds = match (self.work.stops, self.runs.last()) {
            _ if self.word == "IN_QUEUE" => true,
            (Stops::UnlessEarly, Some((from, _))) => at >= from + EARLY_MS,
            (Stops::UnlessEarly | Stops::Never, _) => false,
        };
        if heeds {
            self.end(at, "CANCELLED");
        }
        json!({ "id": self.id, "status": "CANCELLED" })
    }

    /// `POST /retry`
    pub fn retry(&mut self, at: u64) -> (u16, Value) {
        if !matches!(self.word, "FAILED" | "TIMED_OUT") {
            return (400, json!({ "error": "only failed jobs can be retried" }));
        }
        self.word = "IN_QUEUE";
        self.ended = None;
        self.queued_at = at;
        self.waiting.clear();
        self.outputs.clear();
        self.error = None;
        (200, json!({ "id": self.id, "status": "IN_QUEUE" }))
    }
}
