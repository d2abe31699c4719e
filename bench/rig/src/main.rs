//! Both ends of the bench, native so that neither is what limits a Worker: an upstream that writes prepared bytes,
//! and clients that believe nothing and compare every byte of every answer with what the upstream wrote.
//!
//! ```text
//! fairlead-rig upstream <events> <pace ms>                        says its port; until standard input ends
//! fairlead-rig load <events> <port> <kind> <connections> <count>  says what the answers took
//! fairlead-rig hold <events> <port> <kind> <connections>          says when all are open; until standard input ends
//! ```
//!
//! `bench/rig.mjs` starts it. A thread per connection and blocking sockets: with nothing to do between two writes,
//! that is the least work there is.
#![allow(clippy::disallowed_methods, reason = "clocks, threads and sockets are its job; the rule is for the core")]

mod answers;
mod client;
mod http;
mod upstream;

use answers::Answers;
use std::{
    env,
    error::Error,
    io,
    process::{ExitCode, exit},
    str::FromStr,
    thread,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut arguments = env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let answers = Answers::new(next(&mut arguments)?);
    match role.as_str() {
        "upstream" => {
            thread::spawn(|| {
                wait_for_end_of_input();
                exit(0)
            });
            upstream::serve(answers, next(&mut arguments)?)
        }
        "load" => {
            let (port, kind) = (next(&mut arguments)?, next(&mut arguments)?);
            client::load(&answers, port, kind, next(&mut arguments)?, next(&mut arguments)?)
        }
        "hold" => {
            let (port, kind) = (next(&mut arguments)?, next(&mut arguments)?);
            let _open = client::hold(&answers, port, kind, next(&mut arguments)?)?;
            println!("open");
            wait_for_end_of_input();
            Ok(())
        }
        _ => Err("The first argument is upstream, load or hold.".into()),
    }
}

fn next<T: FromStr<Err: Error + Send + Sync + 'static>>(arguments: &mut impl Iterator<Item = String>) -> Outcome<T> {
    Ok(arguments.next().ok_or("An argument is missing.")?.parse()?)
}

/// Whoever started this holds the other end, and lets go of it when it ends, however it does.
fn wait_for_end_of_input() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}
