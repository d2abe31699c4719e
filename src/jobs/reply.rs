//! What RunPod says about a job, read from its JSON (wire facts, section 2).

use crate::json::{Text, read_object, text};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A job's status, as its queue tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// No worker has taken it.
    InQueue,
    /// A worker is at it.
    InProgress,
    /// Its handler has returned.
    Completed,
    /// Its handler raised, its worker was lost, or its execution took too long.
    Failed,
    /// Somebody has cancelled it.
    Cancelled,
    /// Expired in the queue, or its worker fell silent.
    TimedOut,
}

impl Word {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InQueue => "IN_QUEUE",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }

    /// Whether nothing follows it.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::InQueue | Self::InProgress)
    }

    fn read(word: &str) -> Option<Self> {
        match word {
            "IN_QUEUE" => Some(Self::InQueue),
            "IN_PROGRESS" | "RUNNING" => Some(Self::InProgress),
            "COMPLETED" => Some(Self::Completed),
            "FAILED" => Some(Self::Failed),
            "CANCELLED" => Some(Self::Cancelled),
            "TIMED_OUT" => Some(Self::TimedOut),
            _ => None,
        }
    }
}

/// Whether this is an id that RunPod may have given out, and safe in a path.
pub fn is_job_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// One output of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A string, as its characters.
    Text(String),
    /// Anything else, as the JSON it came in.
    Json(String),
}

impl Piece {
    /// Reads an output.
    pub fn read(json: &RawValue) -> Self {
        match serde_json::from_str::<Text>(json.get()) {
            Ok(Text(text)) => Self::Text(text.into_owned()),
            Err(_) => Self::Json(json.get().to_owned()),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Cow<'_, str> {
        match self {
            // A string always has a JSON form.
            Self::Text(text) => serde_json::to_string(text).unwrap_or_default().into(),
            Self::Json(json) => json.into(),
        }
    }
}

/// An answer of `/run`, `/status`, `/stream` or `/cancel`.
#[derive(Debug, Default)]
pub struct Reply<'a> {
    /// Which job.
    pub id: Option<Cow<'a, str>>,
    /// Its status; `None` where it told none that is known.
    pub word: Option<Word>,
    /// What `/stream` hands out.
    pub entries: Vec<Piece>,
    /// What `/status` holds: of a job that has ended, all there is; else a note on its progress.
    pub output: Option<&'a RawValue>,
    /// Why it failed.
    pub error: Option<&'a RawValue>,
    /// Milliseconds in the queue.
    pub delay_ms: Option<u64>,
    /// Milliseconds at work.
    pub execution_ms: Option<u64>,
    /// Who was at it.
    pub worker: Option<Cow<'a, str>>,
    /// How often it was handed out again.
    pub retries: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    stream: Option<Vec<Entry<'a>>>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "lenient")]
    delay_time: Option<f64>,
    #[serde(default, deserialize_with = "lenient")]
    execution_time: Option<f64>,
    #[serde(borrow, default)]
    worker_id: Option<Text<'a>>,
    #[serde(default, deserialize_with = "lenient")]
    retries: Option<f64>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
}

/// A number that only the log wants: what has another shape is passed over.
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let told = <Option<&RawValue>>::deserialize(deserializer)?;
    Ok(told.and_then(|told| serde_json::from_str(told.get()).ok()))
}

impl<'a> Reply<'a> {
    /// Reads an answer; `None` where it is none of RunPod's.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let entries = |list: Vec<Entry<'a>>| list.iter().filter_map(|entry| entry.output).map(Piece::read).collect();
        // The documentation shows `/stream` as a bare list.
        if body.trim_ascii_start().starts_with(b"[") {
            let list = serde_json::from_str::<Vec<Entry>>(text(body)).ok()?;
            if list.iter().any(|entry| entry.output.is_none()) {
                return None;
            }
            return Some(Self { entries: entries(list), ..Self::default() });
        }
        let fields: Fields = read_object(text(body)).ok()?;
        let whole = |number: f64| if number > 0.0 { number as u64 } else { 0 };
        Some(Self {
            id: fields.id.map(|Text(id)| id),
            word: fields.status.as_ref().and_then(|Text(word)| Word::read(word)),
            entries: fields.stream.map(entries).unwrap_or_default(),
            output: fields.output.filter(|output| output.get() != "null"),
            error: fields.error.filter(|error| error.get() != "null"),
            delay_ms: fields.delay_time.map(whole),
            execution_ms: fields.execution_time.map(whole),
            worker: fields.worker_id.map(|Text(worker)| worker),
            retries: fields.retries.map_or(0, whole),
        })
    }

    /// Whether a final status holds its outputs one by one.
    pub fn has_aggregate(&self) -> bool {
        self.output.is_some_and(|output| output.get().starts_with('['))
    }

    /// The outputs that a final status holds, where it holds them one by one.
    pub fn aggregate(&self) -> Option<Vec<Piece>> {
        let list: Vec<&RawValue> = serde_json::from_str(self.output?.get()).ok()?;
        Some(list.into_iter().map(Piece::read).collect())
    }
}

/// What `/health` tells, as far as it matters before a job is queued. All of it may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Workers that are at work, idle, ready or starting.
    pub workers: u64,
    /// Workers that RunPod has no GPU for.
    pub throttled: u64,
    /// Workers that crash.
    pub unhealthy: u64,
    /// Jobs that wait.
    pub queued: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HealthFields {
    jobs: JobCounts,
    workers: WorkerCounts,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct JobCounts {
    in_queue: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkerCounts {
    idle: u64,
    running: u64,
    ready: u64,
    initializing: u64,
    throttled: u64,
    unhealthy: u64,
}

impl Health {
    /// Reads an answer of `/health`; `None` where it is none.
    pub fn read(body: &[u8]) -> Option<Self> {
        let HealthFields { jobs, workers } = read_object(text(body)).ok()?;
        let WorkerCounts { idle, running, ready, initializing, throttled, unhealthy } = workers;
        let there = [idle, running, ready, initializing].into_iter().fold(0, u64::saturating_add);
        Some(Self { workers: there, throttled, unhealthy, queued: jobs.in_queue })
    }

    /// Whether jobs wait although no worker is even starting. RunPod takes some 4 s to notice a queue;
    /// an endpoint that stays like this has none to give, its maximum being 0 for one.
    pub const fn is_stuck(&self) -> bool {
        self.workers == 0 && self.queued > 0
    }

    /// Whether a job would find a worker in time, as far as can be told. No worker at all is what
    /// an endpoint looks like that has scaled to zero: a job starts one.
    pub const fn has_workers(&self) -> bool {
        self.workers > 0 || (self.throttled == 0 && self.unhealthy == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_every_shape_that_runpod_has() {
        let body =
            br#"{"id":"a-u1","status":"RUNNING","delayTime":12.7,"executionTime":30,"workerId":"w1","retries":1}"#;
        let reply = Reply::read(body).unwrap();
        assert_eq!((reply.id.as_deref(), reply.word), (Some("a-u1"), Some(Word::InProgress)));
        assert_eq!((reply.delay_ms, reply.execution_ms, reply.retries), (Some(12), Some(30), 1));
        let reply = Reply::read(br#"[{"output":"a"},{"output":{"b": 1}}]"#).unwrap();
        assert_eq!(reply.entries, [Piece::Text("a".into()), Piece::Json(r#"{"b": 1}"#.into())]);
        let reply =
            Reply::read(br#"{"status":"COMPLETED","stream":[],"output":["a\n",1],"delayTime":"soon"}"#).unwrap();
        assert_eq!(reply.aggregate(), Some(vec![Piece::Text("a\n".into()), Piece::Json("1".into())]));
        assert_eq!(Reply::read(br#"{"status":"BUSY","output":null}"#).unwrap().word, None);
        assert!(Reply::read(br#"{"output":{"a":1}}"#).unwrap().aggregate().is_none());
        for none in [&b"<html>"[..], b"", b"\"COMPLETED\"", b"{\"status\":", b"[1]", b"[{\"message\":1}]"] {
            assert!(Reply::read(none).is_none(), "{none:?}");
        }
    }

    #[test]
    fn health_is_read_with_whatever_is_there() {
        let full = br#"{"jobs":{"inQueue":4,"completed":1},"workers":{"idle":1,"running":2,"throttled":3}}"#;
        let health = Health::read(full).unwrap();
        assert_eq!((health.workers, health.throttled, health.queued), (3, 3, 4));
        assert!(health.has_workers());
        assert!(!Health::read(br#"{"workers":{"throttled":1}}"#).unwrap().has_workers());
        assert!(!Health::read(br#"{"workers":{"unhealthy":1}}"#).unwrap().has_workers());
        assert!(Health::read(b"{}").unwrap().has_workers());
        assert!(Health::read(b"no").is_none());
    }
}
