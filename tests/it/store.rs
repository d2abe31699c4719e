//! A store in virtual time that isolates share: Workers KV with what it does to them, to be dialled.

use crate::host::Host;
use fairlead_core::{
    breaker::Record,
    runtime::{Later, Store, StoreError},
};
use std::{
    cell::{RefCell, RefMut},
    collections::BTreeMap,
    future::pending,
    rc::Rc,
};

/// One namespace. Clones are the same.
#[derive(Clone, Default)]
pub struct Kv(Rc<RefCell<Inside>>);

/// What it holds and how it behaves.
#[derive(Default)]
pub struct Inside {
    keys: BTreeMap<String, Vec<Written>>,
    leases: BTreeMap<String, u64>,
    /// A read tells what had been written so long before; by the reader itself, too, if `forgetful`.
    pub stale_ms: u64,
    pub forgetful: bool,
    /// What reads and writes come to, and how long they take.
    pub gets: Answer,
    pub puts: Answer,
    pub takes_ms: u64,
    /// It says that it has written, and has not.
    pub loses: bool,
    /// It grants probes, one at a time.
    pub elects: bool,
    /// How often it was read, was written, and refused to be.
    pub reads: usize,
    pub writes: usize,
    pub limited: usize,
}

struct Written {
    at: u64,
    by: usize,
    text: String,
}

/// What a request to it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Works,
    Fails,
    /// It never answers.
    Hangs,
    /// Every text is this one.
    Says(&'static str),
}

/// It takes one write under a key in so long a time.
const BETWEEN_WRITES_MS: u64 = 1000;

impl Kv {
    pub fn inside(&self) -> RefMut<'_, Inside> {
        self.0.borrow_mut()
    }

    /// As an isolate sees it.
    pub fn for_isolate(&self, host: &Host) -> Rc<dyn Store> {
        Rc::new(Link { kv: self.clone(), host: host.clone() })
    }

    /// Somebody else puts a record there.
    pub fn put(&self, at: u64, key: &str, record: &Record) {
        let written = Written { at, by: 0, text: record.text() };
        self.inside().keys.entry(key.to_owned()).or_default().push(written);
    }

    /// Somebody else puts a text there.
    pub fn write(&self, at: u64, key: &str, text: &str) {
        let written = Written { at, by: 0, text: text.to_owned() };
        self.inside().keys.entry(key.to_owned()).or_default().push(written);
    }

    /// Somebody else deletes what stands under a key.
    pub fn delete(&self, key: &str) {
        self.inside().keys.remove(key);
    }

    /// The latest text under a key.
    pub fn text(&self, key: &str) -> Option<String> {
        Some(self.inside().keys.get(key)?.last()?.text.clone())
    }

    /// The latest record under a key.
    pub fn record(&self, key: &str) -> Option<Record> {
        Record::read(&self.inside().keys.get(key)?.last()?.text)
    }

    /// Whatever was written under a key, and when.
    pub fn history(&self, key: &str) -> Vec<(u64, Record)> {
        let inside = self.inside();
        let written = inside.keys.get(key).into_iter().flatten();
        written.filter_map(|Written { at, text, .. }| Some((*at, Record::read(text)?))).collect()
    }
}

impl Inside {
    fn get(&mut self, now: u64, by: usize, key: &str) -> Option<String> {
        let visible = |written: &&Written| {
            written.at + self.stale_ms <= now || written.at <= now && written.by == by && !self.forgetful
        };
        let written = self.keys.get(key)?.iter().rev().find(visible)?;
        Some(written.text.clone())
    }

    fn put(&mut self, now: u64, by: usize, key: &str, text: String) -> Result<(), StoreError> {
        let history = self.keys.entry(key.to_owned()).or_default();
        if history.last().is_some_and(|last| now < last.at + BETWEEN_WRITES_MS) {
            self.limited += 1;
            return Err(StoreError::Limited);
        }
        self.writes += 1;
        if !self.loses {
            history.push(Written { at: now, by, text });
        }
        Ok(())
    }

    fn lease(&mut self, now: u64, key: &str, ms: u64) -> bool {
        let until = self.leases.entry(key.to_owned()).or_default();
        let free = *until <= now;
        if free {
            *until = now + ms;
        }
        free
    }
}

struct Link {
    kv: Kv,
    host: Host,
}

impl Link {
    /// What a request comes to, when its time has come.
    fn answer<T: 'static>(
        &self,
        answer: impl Fn(&Inside) -> Answer + 'static,
        work: impl FnOnce(&mut Inside, u64, usize, Answer) -> Result<T, StoreError> + 'static,
    ) -> Later<T> {
        let (kv, host) = (self.kv.clone(), self.host.clone());
        Box::pin(async move {
            let takes_ms = kv.inside().takes_ms;
            host.moment(host.now_ms() + takes_ms).await;
            let answer = answer(&kv.inside());
            match answer {
                Answer::Hangs => pending().await,
                Answer::Fails => Err(StoreError::Unavailable),
                answer => work(&mut kv.inside(), host.now_ms(), host.isolate, answer),
            }
        })
    }
}

impl Store for Link {
    fn get(&self, key: &str) -> Later<Option<String>> {
        self.kv.inside().reads += 1;
        let key = key.to_owned();
        self.answer(
            |inside| inside.gets,
            move |inside, now, by, answer| match answer {
                Answer::Says(text) => Ok(Some(text.to_owned())),
                _ => Ok(inside.get(now, by, &key)),
            },
        )
    }

    fn put(&self, key: &str, text: String) -> Later<()> {
        let key = key.to_owned();
        self.answer(|inside| inside.puts, move |inside, now, by, _| inside.put(now, by, &key, text))
    }

    fn lease(&self, key: &str, ms: u64) -> Option<Later<bool>> {
        let key = key.to_owned();
        let elects = self.kv.inside().elects;
        elects.then(|| self.answer(|inside| inside.gets, move |inside, now, _, _| Ok(inside.lease(now, &key, ms))))
    }
}
