//! Which version of `CONFIG` serves: that of the Worker's variables, or one that an operator has put into KV meanwhile.
//!
//! Under [`WANTED`] stands what an operator wants; it wins over the variables. Whoever first finds that a new version
//! is valid puts it under [`GOOD`] too, for isolates that begin when a later one is broken. A broken version changes
//! nothing but what is reported, and neither does a store that fails.
//!
//! The machine says when to read and what a text that was read means. It holds plain data; the host's part is in
//! [`crate::drive::reload`].

use crate::{
    config::Mistake,
    runtime::StoreError,
    settings::{Environment, Places, Reading, Secret, Settings},
    time::Instant,
};
use serde::Serialize;
use std::rc::Rc;

/// The key of the version that is wanted.
pub const WANTED: &str = "config";

/// The key of the last version that was valid.
pub const GOOD: &str = "config:good";

/// So often the store is read, and only when there are calls. With the 30 s for which KV keeps what it has read, a
/// change is everywhere within a minute.
const EVERY_MS: u64 = 30_000;

/// So soon it is read again when it failed,
const FAILED_MS: u64 = 5000;

/// and when there is nothing to serve with.
const EMPTY_MS: u64 = 1000;

/// A reading that takes longer was lost with the request beside which it went on.
const LOST_MS: u64 = 20_000;

/// The first calls of an isolate wait so long for what the store says, where there is something to serve with,
const FIRST_MS: u64 = 200;

/// and each call so long where there is nothing.
const NOTHING_MS: u64 = 5000;

/// What stands under [`GOOD`] when the version that was good has been taken back: no configuration.
const TAKEN_BACK: &str = "{}";

/// A longer text is not looked at.
const MOST_BYTES: usize = 1 << 20;

/// So often an isolate looks whether the version that it found is kept as the last good one: another may have put an
/// older one there at the same time.
const CHECKS: u8 = 3;

/// What calls are carried out with.
#[derive(Debug)]
pub struct Current {
    /// What `CONFIG` says, or what is wrong with it.
    pub settings: Result<Settings, Vec<Mistake>>,
    /// Who may see the mistakes.
    pub admin_key: Option<Secret>,
}

/// Where a version of `CONFIG` stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In the variables `CONFIG` and `CONFIG_<KEY>`.
    Var,
    /// Under [`WANTED`].
    Kv,
    /// Under [`GOOD`].
    KvGood,
}

/// What an operator is told of the configuration.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct View<'a> {
    source: Source,
    since_ms: Instant,
    refused: Option<Refusal<'a>>,
}

/// A version that does not serve.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Refusal<'a> {
    at_ms: Instant,
    mistakes: &'a [Mistake],
}

/// Something for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// Of this version one thing must be mended.
    Mistake(Source, Mistake),
    /// Of this version one thing is hardly meant.
    Warning(Source, Mistake),
    /// From now on this version serves, instead of another.
    Serves(Source),
    /// The store has failed to do this, and had not before.
    StoreFailed(&'static str),
}

/// What is to be done behind a reading of [`WANTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// [`GOOD`] is to be read.
    ReadGood,
}

/// One isolate's configuration.
#[derive(Debug)]
pub struct Reload {
    has_store: bool,
    variables: Rc<Current>,
    serving: Rc<Current>,
    source: Source,
    since: Instant,
    /// What serves, where it came from the store.
    text: Option<String>,
    refused: Option<Refused>,
    /// The variables serve because nothing stood in the store: what was good before that is over.
    has_given_way: bool,
    places: Places,
    /// The last reading began, and is not over.
    began: Option<Instant>,
    under_way: bool,
    /// One has come to its end.
    has_read: bool,
    /// What serves is more than a beginning.
    is_settled: bool,
    failing: bool,
    checks: u8,
    reports: Vec<Report>,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    text: String,
    mistakes: Vec<Mistake>,
}

impl Reload {
    /// Begins with what the variables say.
    pub fn new(now: Instant, variables: Reading, has_store: bool) -> Self {
        let mut reports: Vec<Report> =
            variables.warnings.into_iter().map(|warning| Report::Warning(Source::Var, warning)).collect();
        let mistakes = variables.mistakes.iter();
        if !has_store {
            reports.extend(mistakes.map(|mistake| Report::Mistake(Source::Var, mistake.clone())));
        }
        let places = variables.settings.as_ref().map(|settings| settings.places.clone()).unwrap_or_default();
        let settings = variables.settings.ok_or(variables.mistakes);
        let variables = Rc::new(Current { settings, admin_key: variables.admin_key });
        Self {
            has_store,
            serving: Rc::clone(&variables),
            variables,
            source: Source::Var,
            since: now,
            text: None,
            refused: None,
            has_given_way: false,
            places,
            began: None,
            under_way: false,
            has_read: false,
            is_settled: false,
            failing: false,
            checks: 0,
            reports,
        }
    }

    /// What calls that begin now are carried out with.
    pub const fn current(&self) -> &Rc<Current> {
        &self.serving
    }

    /// What there is to tell since this was last asked.
    pub fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// What an operator is told.
    pub fn view(&self) -> View<'_> {
        let refused = self.refused.as_ref();
        let refused = refused.map(|refused| Refusal { at_ms: refused.at, mistakes: &refused.mistakes });
        View { source: self.source, since_ms: self.since, refused }
    }

    /// Whether the store is to be read now, beside the call that asks. It is being read then, until [`Reload::end`].
    pub fn begin(&mut self, now: Instant) -> bool {
        let every_ms = match self.under_way {
            true if self.serves() => LOST_MS,
            true => NOTHING_MS,
            false if !self.serves() => EMPTY_MS,
            false if self.failing => FAILED_MS,
            false => EVERY_MS,
        };
        let is_due = self.has_store && self.began.is_none_or(|began| now.since(began) >= every_ms);
        if is_due {
            (self.began, self.under_way) = (Some(now), true);
        }
        is_due
    }

    /// How much longer a call that has been here since `arrived` waits for what is being read. With 0 it takes what
    /// there is.
    pub fn patience_ms(&self, now: Instant, arrived: Instant) -> u64 {
        let Some(began) = self.began.filter(|_| self.under_way) else { return 0 };
        match self.serves() {
            false => now.until(arrived.after(NOTHING_MS)),
            true if self.is_settled => 0,
            true => now.until(began.after(FIRST_MS)),
        }
    }

    /// Takes what stands under [`WANTED`].
    pub fn on_wanted(
        &mut self,
        now: Instant,
        read: Result<Option<String>, StoreError>,
        environment: &dyn Environment,
    ) -> Next {
        let Ok(wanted) = read else {
            self.fail("get");
            if self.serves() {
                return Next::Rest;
            }
            if let (Err(mistakes), None) = (&self.variables.settings, &self.refused) {
                let unread = Mistake::at(WANTED, "in KV could not be read; the next request tries again");
                let mistakes = mistakes.iter().cloned().chain([unread]).collect();
                self.stop(mistakes, None);
            }
            return Next::ReadGood;
        };
        self.failing = false;
        let Some(text) = wanted else { return self.on_nothing_wanted(now) };
        if self.text.as_ref() == Some(&text) {
            (self.source, self.refused) = (Source::Kv, None);
            return if self.checks > 0 { Next::ReadGood } else { Next::Rest };
        }
        let is_known = self.refused.as_ref().is_some_and(|refused| refused.text == text);
        if !is_known && self.take(now, Source::Kv, text, environment) {
            self.checks = CHECKS;
            return Next::ReadGood;
        }
        // An earlier version serves on. Where there is none here, another isolate may have kept one.
        if self.text.is_none() && !self.has_given_way { Next::ReadGood } else { Next::Rest }
    }

    fn on_nothing_wanted(&mut self, now: Instant) -> Next {
        self.refused = None;
        if self.variables.settings.is_ok() {
            self.has_given_way = true;
            if self.source == Source::Var {
                return Next::Rest;
            }
            self.text = None;
            self.serve(now, Rc::clone(&self.variables), Source::Var);
            // An isolate that begins behind a broken version shall not find there what was taken back.
            return Next::ReadGood;
        }
        if self.serves() {
            self.source = Source::KvGood;
            return Next::Rest;
        }
        self.serving = Rc::clone(&self.variables);
        Next::ReadGood
    }

    /// Takes what stands under [`GOOD`]; returns what is to be put there instead.
    pub fn on_good(
        &mut self,
        now: Instant,
        read: Result<Option<String>, StoreError>,
        environment: &dyn Environment,
    ) -> Option<String> {
        let Ok(good) = read else {
            self.fail("get");
            return None;
        };
        if self.source == Source::Kv && self.text.is_some() {
            if good == self.text {
                self.checks = 0;
                return None;
            }
            self.checks = self.checks.saturating_sub(1);
            return self.text.clone();
        }
        if self.has_given_way {
            return good.filter(|good| good != TAKEN_BACK).map(|_| TAKEN_BACK.to_owned());
        }
        if let Some(text) = good {
            self.take(now, Source::KvGood, text, environment);
        }
        None
    }

    /// What was to be put under [`GOOD`] was not taken. Somebody else may just have put it there.
    pub fn on_put(&mut self, put: Result<(), StoreError>) {
        if put == Err(StoreError::Unavailable) {
            self.fail("put");
        }
    }

    /// The reading is over.
    pub fn end(&mut self) {
        (self.under_way, self.is_settled) = (false, true);
        if self.has_read {
            return;
        }
        self.has_read = true;
        // Where an operator has moved to the store altogether, nobody misses the variables.
        if let (Err(mistakes), None) = (&self.variables.settings, &self.text) {
            let mistakes = mistakes.iter().cloned();
            self.reports.extend(mistakes.map(|mistake| Report::Mistake(Source::Var, mistake)));
        }
    }

    fn serves(&self) -> bool {
        self.serving.settings.is_ok()
    }

    /// Serves with a text if it is valid.
    fn take(&mut self, now: Instant, source: Source, text: String, environment: &dyn Environment) -> bool {
        let Reading { settings, admin_key, mistakes, warnings } = if text.len() > MOST_BYTES {
            let message = format!("is {} bytes long; it must be at most {MOST_BYTES}", text.len());
            let mistakes = vec![Mistake::at("CONFIG", message)];
            Reading { settings: None, admin_key: None, mistakes, warnings: Vec::new() }
        } else {
            Settings::read_next(&self.places, [("CONFIG".to_owned(), text.as_str().into())], environment)
        };
        if let Some(settings) = settings {
            self.places = settings.places.clone();
            self.text = Some(text);
            if source == Source::Kv {
                (self.refused, self.has_given_way) = (None, false);
            }
            self.serve(now, Rc::new(Current { settings: Ok(settings), admin_key }), source);
            self.reports.extend(warnings.into_iter().map(|warning| Report::Warning(source, warning)));
            return true;
        }
        if source == Source::Kv {
            self.reports.extend(mistakes.iter().map(|mistake| Report::Mistake(source, mistake.clone())));
            if !self.serves() {
                self.stop(mistakes.clone(), admin_key);
            }
            self.refused = Some(Refused { at: now, text, mistakes });
        }
        false
    }

    fn serve(&mut self, now: Instant, current: Rc<Current>, source: Source) {
        (self.serving, self.source, self.since, self.is_settled) = (current, source, now, true);
        self.reports.push(Report::Serves(source));
    }

    /// Nothing serves, because of this.
    fn stop(&mut self, mistakes: Vec<Mistake>, admin_key: Option<Secret>) {
        let admin_key = admin_key.or_else(|| self.variables.admin_key.clone());
        self.serving = Rc::new(Current { settings: Err(mistakes), admin_key });
    }

    fn fail(&mut self, operation: &'static str) {
        // Once is enough until it works again.
        if !self.failing {
            self.reports.push(Report::StoreFailed(operation));
        }
        self.failing = true;
    }
}
