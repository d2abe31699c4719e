//! What this isolate remembers of its requests, whatever configuration they came under, and where that can be seen:
//! the log, Analytics Engine, and the admin's routes.

use crate::{
    gateway::{Gateway, binding},
    log,
};
use fairlead_core::{
    event::Event,
    journal::{self, Audience, Caller, Journal, Point, Report, Ticket, Told},
    time::Instant,
};
use fairlead_host::{message::SEPARATOR, now};
use js_sys::Reflect;
use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use web_sys::Request;
use worker::Env;

#[wasm_bindgen(module = "/src/metrics.js")]
extern "C" {
    #[wasm_bindgen(catch, js_name = writePoint)]
    fn write_point(env: &Env, texts: &str, doubles: &[f64]) -> Result<(), JsValue>;
}

/// This isolate. Only plain data may live here.
pub struct Isolate {
    /// The name that it has made up for itself.
    pub id: String,
    /// Where it runs, in the platform's words.
    pub colo: Option<String>,
    /// What has become of its requests.
    pub journal: RefCell<Journal>,
    /// Somebody takes data points: bindings do not change while an isolate lives.
    takes_points: bool,
}

thread_local! {
    static ISOLATE: OnceCell<Rc<Isolate>> = const { OnceCell::new() };
}

/// This isolate, whose first request may be this one.
pub fn isolate(request: &Request, env: &Env) -> Rc<Isolate> {
    ISOLATE.with(|cell| Rc::clone(cell.get_or_init(|| Rc::new(Isolate::new(request, env)))))
}

impl Isolate {
    fn new(request: &Request, env: &Env) -> Self {
        let field = |of: &JsValue, name: &str| Reflect::get(of, &JsValue::from_str(name)).unwrap_or_default();
        let colo = field(&field(request, "cf"), "colo").as_string();
        let journal = Journal::new(now(), colo.clone().unwrap_or_default());
        Self {
            id: format!("{:08x}", getrandom::u32().unwrap_or_default()),
            colo,
            journal: RefCell::new(journal),
            takes_points: binding(env, "METRICS").is_object(),
        }
    }

    /// Opens the account of a request to a client's route, under the configuration that is in force now.
    pub fn open(&self, arrived: Instant, caller: Caller, gateway: &Gateway, env: &Env) -> Ticket {
        self.tidy(env, arrived);
        let settings = gateway.settings.as_ref();
        let mut journal = self.journal.borrow_mut();
        journal.heed(Audience {
            log: settings.map(|settings| settings.log).unwrap_or_default(),
            counts: gateway.admin_key.is_some() || settings.is_ok_and(|settings| settings.admin_key.is_some()),
            points: self.takes_points,
        });
        let latest = settings.map_or(arrived, |settings| settings.latest(arrived));
        journal.open(arrived, latest, caller)
    }

    /// Closes the account of a request that no call was made of, unless it has ended already.
    pub fn close(&self, ticket: Ticket, env: &Env, outcome: &str, param: Option<&str>) {
        let report = self.journal.borrow_mut().close(ticket, now(), outcome, param);
        if let Some(report) = report {
            self.publish(env, &report);
        }
    }

    /// Closes the accounts of requests that the platform has let go.
    pub fn tidy(&self, env: &Env, now: Instant) {
        let reports = self.journal.borrow_mut().overdue(now);
        reports.iter().for_each(|report| self.publish(env, report));
    }

    fn publish(&self, env: &Env, report: &Report) {
        if let Some(line) = &report.line {
            log::line(line);
        }
        if let Some(Point { index, blobs, doubles }) = &report.point {
            let mut texts = index.clone();
            for blob in blobs {
                texts.push(SEPARATOR);
                texts.push_str(blob);
            }
            // A dataset that throws must not hurt a call.
            let _ = write_point(env, &texts, doubles);
        }
    }
}

/// Who hears the facts of one request.
pub struct Witness {
    /// Where they are kept.
    pub isolate: Rc<Isolate>,
    /// Its bindings.
    pub env: Env,
    /// Who asks for what.
    pub caller: Rc<Caller>,
    /// The account; an operator's requests have none.
    pub ticket: Option<Ticket>,
}

impl Witness {
    /// Hears a fact.
    pub fn tell(&self, now: Instant, event: &Event) {
        let told = self.ticket.map(|ticket| self.isolate.journal.borrow_mut().tell(ticket, now, event));
        match told {
            Some(Told::Noted) => {}
            Some(Told::Ended(report)) => self.isolate.publish(&self.env, &report),
            Some(Told::Beside) | None => log::line(&journal::line_beside(&self.caller, event)),
        }
    }
}
