//! Says what is wrong with a `CONFIG`; `npm run check` pipes one in.
//!
//! Reads a JSON object of bindings from standard input, `{"CONFIG": …, "CONFIG_CLIENTS": …}`, and
//! the names of the services that the Worker has under `"services"`, and its rate limiting bindings with their periods
//! in milliseconds under `"rate_limiters"`. Prints one line per mistake and warning; exits with 1 if there is a mistake.

use fairlead_core::{
    access::Client,
    config::Mistake,
    settings::{Environment, Settings},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    process::ExitCode,
};

/// Secrets are set elsewhere, so every name counts as set. What no secret would be called is none: it may be the secret
/// itself, put into the wrong place.
struct Deployed {
    services: Vec<String>,
    rate_limiters: BTreeMap<String, u64>,
}

impl Environment for Deployed {
    fn secret(&self, name: &str) -> Option<String> {
        let is_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| "set elsewhere".to_owned())
    }

    fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|service| service == name)
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        self.rate_limiters.contains_key(name)
    }
}

impl Deployed {
    /// Clients that are told another period than that of their binding, which in a Worker does not tell its own.
    fn other_periods(&self, settings: &Settings) -> Vec<Mistake> {
        let other = |(index, client): (usize, &Client)| {
            let limiter = client.limits.rate_limiter.as_ref()?;
            let own = self.rate_limiters.get(&limiter.binding).filter(|own| **own != limiter.period_ms)?;
            let path = format!("clients[{index}].rate_limiter_period_ms");
            let message = format!(
                "is {}, but the binding `{}` has a period of {own}: clients are told when to come back by this",
                limiter.period_ms, limiter.binding
            );
            Some(Mistake::at(path, message))
        };
        settings.clients.iter().enumerate().filter_map(other).collect()
    }
}

fn take<T: DeserializeOwned + Default>(bindings: &mut Map<String, Value>, kind: &str) -> T {
    bindings.remove(kind).and_then(|names| serde_json::from_value(names).ok()).unwrap_or_default()
}

fn main() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin().read_to_string(&mut input);
    let Ok(mut bindings) =
        read.map_err(|_| ()).and_then(|_| serde_json::from_str::<Map<String, Value>>(&input).map_err(|_| ()))
    else {
        eprintln!("standard input must hold a JSON object of bindings");
        return ExitCode::from(2);
    };
    let deployed =
        Deployed { services: take(&mut bindings, "services"), rate_limiters: take(&mut bindings, "rate_limiters") };
    let mut reading = Settings::read(bindings, &deployed);
    reading.mistakes.extend(reading.settings.iter().flat_map(|settings| deployed.other_periods(settings)));
    for warning in &reading.warnings {
        println!("warning: {warning}");
    }
    for mistake in &reading.mistakes {
        println!("{mistake}");
    }
    if reading.mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
