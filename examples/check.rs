//! Says what is wrong with a `CONFIG`; `npm run check` pipes one in.
//!
//! Reads a JSON object of bindings from standard input, `{"CONFIG": …, "CONFIG_CLIENTS": …}`, and
//! the names of the services and the rate limiting bindings that the Worker has under `"services"` and
//! `"rate_limiters"`. Prints one line per mistake
//! and warning; exits with 1 if there is a mistake.

use fairlead_core::settings::{Environment, Settings};
use serde_json::{Map, Value};
use std::{
    io::{self, Read},
    process::ExitCode,
};

/// Secrets are set elsewhere, so every name counts as set.
struct Deployed {
    services: Vec<String>,
    rate_limiters: Vec<String>,
}

impl Environment for Deployed {
    fn secret(&self, _name: &str) -> Option<String> {
        Some("set elsewhere".to_owned())
    }

    fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|service| service == name)
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        self.rate_limiters.iter().any(|limiter| limiter == name)
    }
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
    let mut names =
        |kind| bindings.remove(kind).and_then(|names| serde_json::from_value(names).ok()).unwrap_or_default();
    let deployed = Deployed { services: names("services"), rate_limiters: names("rate_limiters") };
    let reading = Settings::read(bindings, &deployed);
    for warning in &reading.warnings {
        println!("warning: {warning}");
    }
    for mistake in &reading.mistakes {
        println!("{mistake}");
    }
    if reading.mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
