//! Writes the JSON Schema of `CONFIG` and the reference that people read, both made of what the core reads.
//!
//! With `--check` it writes nothing, and exits with 1 if what is there is out of date.

mod json;
mod page;

use fairlead_core::config::{
    Config,
    schema::{Described, Schema},
};
use std::{env, fs, io, process::ExitCode};

/// Under `docs/public` the site serves it by this name, so that a `$schema` can name it.
const SCHEMA: &str = "docs/public/config.schema.json";
const PAGE: &str = "docs/configuration.md";

fn main() -> io::Result<ExitCode> {
    let schema: Schema = Config::schema();
    let only_checks = env::args().nth(1).as_deref() == Some("--check");
    let mut code = ExitCode::SUCCESS;
    for (path, text) in [(SCHEMA, json::whole(&schema)), (PAGE, page::whole(&schema))] {
        let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        if only_checks {
            println!("{path} is out of date: cargo run --example schema");
            code = ExitCode::FAILURE;
        } else {
            fs::create_dir_all(format!("{}/docs/public", env!("CARGO_MANIFEST_DIR")))?;
            fs::write(path, text)?;
        }
    }
    Ok(code)
}
