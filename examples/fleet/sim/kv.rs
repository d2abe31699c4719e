//! Workers KV, as stale as it may be.
//!
//! Each location keeps what it has read, there or not, for 30 s. What it reads anew is its own newest write, or
//! another location's, once that has come through: up to 30 s later, each write to each location at its own time. So
//! a read is up to 30 s old where the write was made, and up to 60 s elsewhere. A key takes one write a second. What
//! the real KV does more seldom can be dialled.

use super::world::World;
use fairlead_core::{
    rng::Rng,
    runtime::{Later, Store, StoreError},
};
use std::{collections::BTreeMap, rc::Rc};

/// Where isolates live.
pub const LOCATIONS: usize = 5;

/// How the store behaves. Times are in milliseconds, shares in millionths.
#[derive(Clone, Copy, Debug)]
pub struct Dials {
    /// How long a location serves what it has read.
    pub cache_ms: u64,
    /// The longest that a write takes to another location.
    pub lag_ms: u64,
    /// A key takes no second write in so long a time.
    pub write_every_ms: u64,
    /// A read of what the location has.
    pub cached_read_ms: u64,
    /// Any other read.
    pub read_ms: u64,
    /// A write.
    pub write_ms: u64,
    /// Operations that fail.
    pub failing_ppm: u64,
    /// Writes that are accepted and lost.
    pub lost_ppm: u64,
}

impl Default for Dials {
    fn default() -> Self {
        Self {
            cache_ms: 30_000,
            lag_ms: 30_000,
            write_every_ms: 1000,
            cached_read_ms: 5,
            read_ms: 40,
            write_ms: 80,
            failing_ppm: 0,
            lost_ppm: 0,
        }
    }
}

/// The store behind all locations.
pub struct Kv {
    dials: Dials,
    keys: BTreeMap<String, Key>,
    rng: Rng,
    pub reads: u64,
    pub writes: u64,
    /// Writes that came too soon behind another.
    pub refused: u64,
}

#[derive(Default)]
struct Key {
    accepted_at: Option<u64>,
    /// Oldest first.
    writes: Vec<Write>,
    /// Until when each location serves what it has read.
    caches: [(u64, Option<Rc<str>>); LOCATIONS],
}

struct Write {
    text: Rc<str>,
    seen_from: [u64; LOCATIONS],
}

impl Kv {
    pub const fn new(dials: Dials, seed: u64) -> Self {
        Self { dials, keys: BTreeMap::new(), rng: Rng::from_seed(seed), reads: 0, writes: 0, refused: 0 }
    }

    /// What the location serves without asking anybody.
    fn cached(&self, now: u64, location: usize, key: &str) -> Option<Option<Rc<str>>> {
        let (until, text) = &self.keys.get(key)?.caches[location];
        (now < *until).then(|| text.clone())
    }

    fn read(&mut self, now: u64, location: usize, key: &str) -> Option<Rc<str>> {
        let until = now + self.dials.cache_ms;
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_owned(), Key::default());
        }
        let key = self.keys.get_mut(key)?;
        let newest = key.writes.iter().rev().find(|write| write.seen_from[location] <= now);
        let text = newest.map(|write| Rc::clone(&write.text));
        key.caches[location] = (until, text.clone());
        text
    }

    fn write(&mut self, now: u64, location: usize, key: &str, text: &str) -> Result<(), StoreError> {
        let Dials { lag_ms, write_every_ms, lost_ppm, .. } = self.dials;
        let key = self.keys.entry(key.to_owned()).or_default();
        if key.accepted_at.is_some_and(|at| now < at + write_every_ms) {
            self.refused += 1;
            return Err(StoreError::Limited);
        }
        self.writes += 1;
        key.accepted_at = Some(now);
        if self.rng.up_to(999_999) < lost_ppm {
            return Ok(());
        }
        let seen_from = std::array::from_fn(|other| if other == location { now } else { now + self.rng.up_to(lag_ms) });
        key.writes.push(Write { text: text.into(), seen_from });
        // Nobody reads what stands before a write that has come through everywhere.
        let through = |write: &Write| write.seen_from.iter().all(|at| *at <= now);
        if let Some(first) = key.writes.iter().rposition(through) {
            key.writes.drain(..first);
        }
        Ok(())
    }

    fn fails(&mut self) -> bool {
        self.dials.failing_ppm > 0 && self.rng.up_to(999_999) < self.dials.failing_ppm
    }
}

/// The store as an isolate in one location has it.
pub struct Place {
    pub world: Rc<World>,
    pub location: usize,
}

impl Store for Place {
    fn get(&self, key: &str) -> Later<Option<String>> {
        let (world, location, key) = (Rc::clone(&self.world), self.location, key.to_owned());
        Box::pin(async move {
            let (cached, fails, dials) = {
                let mut kv = world.kv.borrow_mut();
                kv.reads += 1;
                (kv.cached(world.now(), location, &key), kv.fails(), kv.dials)
            };
            let ms = if cached.is_some() { dials.cached_read_ms } else { dials.read_ms };
            World::sleep(&world, ms).await;
            if fails {
                return Err(StoreError::Unavailable);
            }
            let text = cached.unwrap_or_else(|| world.kv.borrow_mut().read(world.now(), location, &key));
            Ok(text.map(|text| text.to_string()))
        })
    }

    fn put(&self, key: &str, text: String) -> Later<()> {
        let (world, location, key) = (Rc::clone(&self.world), self.location, key.to_owned());
        Box::pin(async move {
            let (fails, ms) = {
                let mut kv = world.kv.borrow_mut();
                (kv.fails(), kv.dials.write_ms)
            };
            World::sleep(&world, ms).await;
            if fails {
                return Err(StoreError::Unavailable);
            }
            let now = world.now();
            world.kv.borrow_mut().write(now, location, &key, &text)
        })
    }
}
