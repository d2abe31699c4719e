//! Many calls at once, in one isolate or in several.

use super::{World, isolate, serve};
use crate::{
    host::Host,
    record::{Record, Sent},
    runpod::Runpod,
    wanted::Wanted,
};
use fairlead_core::{
    allowance::Pass,
    call::{Call, Order},
    caller,
    event::Event,
    fleet::Fleet,
    runtime::Runtime,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

/// One of a crowd.
#[derive(Clone)]
pub struct Member {
    at: u64,
    wanted: Wanted,
    leaves_at: Option<u64>,
    dropped_at: Option<u64>,
    fleet: Option<Rc<RefCell<Fleet>>>,
}

impl Member {
    /// Somebody who comes at this moment.
    pub fn at(at: u64, wanted: &Wanted) -> Self {
        Self { at, wanted: wanted.clone(), leaves_at: None, dropped_at: None, fleet: None }
    }

    /// The client leaves, and the runtime tells.
    pub fn leaves(self, at: u64) -> Self {
        Self { leaves_at: Some(at), ..self }
    }

    /// The host drops the call's future, as a cancelled request's is.
    pub fn dropped(self, at: u64) -> Self {
        Self { dropped_at: Some(at), ..self }
    }

    /// In another isolate than the world's.
    pub fn within(self, fleet: &Rc<RefCell<Fleet>>) -> Self {
        Self { fleet: Some(Rc::clone(fleet)), ..self }
    }
}

/// What many calls did.
pub struct Crowd {
    /// Each without its requests and events: those of all stand below.
    pub records: Vec<Record>,
    pub requests: Vec<Sent>,
    pub events: Vec<(u64, Event)>,
    runpod: Option<Runpod>,
}

impl Crowd {
    /// The simulated RunPod, all of whose jobs have ended.
    pub fn runpod(&self) -> &Runpod {
        self.runpod.as_ref().expect("a simulated RunPod")
    }

    /// What one of them sent, in order.
    pub fn requests_of(&self, member: usize) -> impl Iterator<Item = &Sent> {
        self.requests.iter().filter(move |sent| sent.member() == Some(member))
    }

    /// The most requests that an endpoint had at a moment.
    pub fn most_at(&self, endpoint: &str) -> usize {
        let spans: Vec<(u64, u64)> = self
            .requests
            .iter()
            .filter(|sent| sent.endpoint == endpoint)
            .map(|sent| (sent.at, sent.over_at.expect("an end")))
            .collect();
        let at_once = |at: u64| spans.iter().filter(|(from, to)| (*from..*to).contains(&at)).count();
        spans.iter().map(|(from, _)| at_once(*from)).max().unwrap_or(0)
    }
}

impl World {
    /// Runs so many calls of the same kind at once, all of them in one isolate: each begins so many
    /// milliseconds behind the one before.
    pub fn crowd(self, count: u64, apart_ms: u64, wanted: &Wanted) -> Crowd {
        self.mixed_crowd((0..count).map(|number| Member::at(number * apart_ms, wanted)))
    }

    /// Runs these calls.
    pub fn mixed_crowd(mut self, members: impl IntoIterator<Item = Member>) -> Crowd {
        let members: Vec<Member> = members.into_iter().collect();
        let host = self.host();
        let settings = self.settings();
        let (client, place, fleet, seed) = (self.client, self.place, Rc::clone(&self.fleet), self.seed);
        let read = |member: &Member| {
            let (ask, model, policy, deadline_ms) = World::plan(&settings, &member.wanted);
            let mut record = Record::new(ask.clone(), &policy, deadline_ms);
            record.begins_at = member.at;
            record.deadline_ms += member.at;
            (ask, model, policy, deadline_ms, RefCell::new(record))
        };
        let calls: Vec<_> = members.iter().map(read).collect();
        let one = async |number: usize| {
            let Member { at, leaves_at, dropped_at, .. } = members[number];
            let fleet = members[number].fleet.as_ref().unwrap_or(&fleet);
            let (ask, model, policy, deadline_ms, record) = &calls[number];
            host.moment(at).await;
            let arrived = host.now();
            let key = caller::key(&members[number].wanted.headers, ask.api.dialect());
            let pass = match settings.admit(key).expect("a known key") {
                Some(client) => Pass::take(fleet, client, arrived, settings.latest(arrived)),
                None => Ok(None),
            };
            let pass = match pass {
                Ok(pass) => pass,
                Err(error) => {
                    record.borrow_mut().refused = Some(error);
                    return;
                }
            };
            let order = Order {
                ask: ask.clone(),
                model: Rc::clone(model),
                policy: Rc::clone(policy),
                arrived,
                request_id: number.to_string(),
                deadline_ms: *deadline_ms,
                client: place,
                seed: seed + number as u64,
            };
            let mut call = Call::new(arrived, order, Rc::clone(fleet));
            if let Some(pass) = pass {
                let pass = pass.until(call.deadline());
                call.hold(pass);
            }
            let host = Host { leaves_at, isolate: isolate(fleet), ..host.clone() };
            let mut serving = pin!(serve(&host, call, client, record));
            let until_dropped = poll_fn(|context| {
                let dropped = dropped_at.is_some_and(|at| host.state().until(at).is_ready());
                if dropped { Poll::Ready(()) } else { serving.as_mut().poll(context) }
            });
            until_dropped.await;
        };
        let mut running: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|number| members[*number].at);
        let mut coming = order.into_iter().peekable();
        let all = poll_fn(|context| {
            while let Some(number) = coming.next_if(|number| !host.is_before(members[*number].at)) {
                running.push(Box::pin(one(number)));
            }
            running.retain_mut(|call| call.as_mut().poll(context).is_pending());
            if running.is_empty() && coming.peek().is_none() { Poll::Ready(()) } else { Poll::Pending }
        });
        host.run(all, None, &mut |_| ());
        drop(running);
        let mut state = host.world.borrow_mut();
        assert_eq!(state.in_flight, 0, "nothing is left in flight");
        let mut runpod = state.runpod.take();
        runpod.iter_mut().for_each(Runpod::finish);
        Crowd {
            records: calls.into_iter().map(|(.., record)| record.into_inner()).collect(),
            requests: std::mem::take(&mut state.requests),
            events: std::mem::take(&mut state.events),
            runpod,
        }
    }
}
