//! Tasks and the moments they wait for.

use super::endpoint::Job;
use fairlead_core::runtime::Task;
use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    rc::Rc,
    task::{Context, Waker},
};

/// A task, for as long as it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskId {
    place: u32,
    /// Which of the tasks that have had this place.
    turn: u32,
}

/// Something that is due.
#[derive(Debug)]
pub enum Moment {
    /// A task is polled.
    Wake(TaskId),
    /// A request arrives.
    Arrival,
    /// The isolate in this place takes no more calls, and another one takes its place.
    Renewal(usize),
    /// What an isolate still does ends.
    Kill(u32),
    /// A second is over.
    Second,
    /// A congested endpoint has the first token of a job.
    FirstToken(usize, Rc<Job>),
    /// It is done with a job.
    Finished(usize),
}

/// What is due, and when; of what is due at once, the first that was asked for comes first.
#[derive(Default)]
pub struct Agenda {
    entries: BinaryHeap<Reverse<Entry>>,
    asked: u64,
}

impl Agenda {
    pub fn add(&mut self, at: u64, moment: Moment) {
        self.asked += 1;
        self.entries.push(Reverse(Entry { at, asked: self.asked, moment }));
    }

    /// The next, unless it lies behind `end`.
    pub fn next(&mut self, end: u64) -> Option<(u64, Moment)> {
        if self.entries.peek().is_none_or(|Reverse(entry)| entry.at > end) {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.moment))
    }
}

struct Entry {
    at: u64,
    asked: u64,
    moment: Moment,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.asked).cmp(&(other.at, other.asked))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

/// Everything that goes on.
#[derive(Default)]
pub struct Tasks {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    turn: u32,
    isolate: u32,
    is_call: bool,
    task: Option<Task>,
}

impl Tasks {
    /// A task of this isolate.
    pub fn add(&mut self, isolate: u32, is_call: bool, task: Task) -> TaskId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer tasks than that")
        });
        let slot = &mut self.places[place as usize];
        slot.turn += 1;
        (slot.isolate, slot.is_call, slot.task) = (isolate, is_call, Some(task));
        TaskId { place, turn: slot.turn }
    }

    /// Polls a task, unless it is over.
    pub fn poll(&mut self, id: TaskId) {
        let place = &mut self.places[id.place as usize];
        if place.turn != id.turn {
            return;
        }
        let Some(task) = &mut place.task else { return };
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            place.task = None;
            self.free.push(id.place);
        }
    }

    /// Drops what an isolate still does; how many calls that were.
    pub fn kill(&mut self, isolate: u32) -> u64 {
        let mut calls = 0;
        for (number, place) in (0..).zip(&mut self.places) {
            if place.isolate == isolate && place.task.take().is_some() {
                self.free.push(number);
                calls += u64::from(place.is_call);
            }
        }
        calls
    }
}
