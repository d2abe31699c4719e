//! The routes that take the admin's key: what this isolate knows, and an operator's word on its endpoints.

use crate::{
    paths::decoded,
    response::Extra,
    routes::{Stop, Visit, answer_of, json},
};
use fairlead_core::{
    api::Dialect,
    caller,
    drive::operator,
    journal::{Caller, prometheus},
    settings::Settings,
    status::IsolateStatus,
};
use fairlead_host::now;
use std::rc::Rc;
use web_sys::Response;

/// An operator's orders are shorter.
const MAX_ORDER_BYTES: u64 = 1000;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matter<'a> {
    /// `GET /status`
    Status,
    /// `GET /metrics`
    Metrics,
    /// `POST /breakers/{endpoint}`, whose name is percent-encoded.
    Breakers(&'a str),
}

impl<'a> Matter<'a> {
    /// What this path is about; `None` where it is no admin's route.
    pub fn read(path: &'a str) -> Option<Self> {
        let named = |name: &&str| !name.is_empty() && !name.contains('/');
        match path {
            "/status" => Some(Self::Status),
            "/metrics" => Some(Self::Metrics),
            path => path.strip_prefix("/breakers/").filter(named).map(Self::Breakers),
        }
    }

    /// The method that it takes.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Status | Self::Metrics => "GET",
            Self::Breakers(_) => "POST",
        }
    }

    const fn route(self) -> &'static str {
        match self {
            Self::Status => "/status",
            Self::Metrics => "/metrics",
            Self::Breakers(_) => "/breakers",
        }
    }
}

impl Visit<'_> {
    /// Does what an operator asks for, and nobody else may.
    pub async fn operate(&self, settings: &Settings, matter: Matter<'_>, extra: &Extra) -> Result<Response, Stop> {
        settings.admit_admin(caller::key(&self.headers, Dialect::Chat))?;
        let caller = Caller { route: matter.route(), ..self.caller() };
        let runtime = self.runtime(Rc::new(caller), None);
        let fleet = &self.gateway.fleet;
        self.isolate.tidy(self.env, self.arrived);
        match matter {
            Matter::Breakers(name) => {
                let body = self.body(MAX_ORDER_BYTES, settings.latest(self.arrived)).await?;
                json(extra, &operator::order(&runtime, settings, fleet, &decoded(name), &body).await?)
            }
            Matter::Status => {
                let ask_store = !self.query.split('&').any(|part| part == "store=no");
                let journal = &self.isolate.journal;
                let since_ms = journal.borrow().since();
                let isolate = IsolateStatus { id: &self.isolate.id, since_ms, colo: self.isolate.colo.as_deref() };
                let about = (isolate, &*self.gateway.reload);
                json(extra, &operator::gateway_status(&runtime, settings, fleet, journal, about, ask_store).await)
            }
            Matter::Metrics => {
                let page = prometheus(&self.isolate.journal.borrow(), settings, &mut fleet.borrow_mut(), now());
                answer_of(extra, "text/plain; version=0.0.4; charset=utf-8", page.as_bytes())
            }
        }
    }
}
