//! The parsers of what others write, fed with anything: what stands in `corpus/`, and seeded mutations of it.
//!
//! One seed is one input. `cargo test` runs the seeds from 0; others are run by
//!
//! ```sh
//! FAIRLEAD_SEEDS=0..1000000 cargo test -p fairlead-core --test fuzz sse
//! ```
//!
//! The long form, which looks for inputs by coverage, is `npm run fuzz`. It shares the [`targets`], and what it has
//! found becomes the corpus: a line for each input, escaped as Rust escapes bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "tests may say what they expect in the shortest way"
)]

mod mutation;
mod targets;

use mutation::mutated;
use std::{fs, ops::Range, panic};

/// Mutations of each corpus in `cargo test`, which take a few seconds in all.
const COUNT: u64 = 100_000;

#[test]
fn whatever_an_endpoint_streams() {
    fuzz("sse");
}

#[test]
fn whatever_an_operator_writes() {
    fuzz("config");
}

#[test]
fn whatever_runpod_says() {
    fuzz("runpod");
}

#[test]
fn whatever_a_header_holds() {
    fuzz("retry_after");
}

#[test]
fn whatever_a_client_asks() {
    fuzz("request");
}

fn fuzz(name: &str) {
    let (_, run) = targets::ALL.iter().find(|(other, _)| *other == name).unwrap();
    let path = format!("{}/tests/fuzz/corpus/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let corpus: Vec<Vec<u8>> = fs::read_to_string(path).unwrap().lines().map(unescaped).collect();
    for input in &corpus {
        panic::catch_unwind(|| run(input)).unwrap_or_else(|_| panic!("in the corpus of {name}: {}", escaped(input)));
    }
    for seed in seeds() {
        let input = mutated(&corpus, seed);
        panic::catch_unwind(|| run(&input))
            .unwrap_or_else(|_| panic!("FAIRLEAD_SEEDS={seed} cargo test --test fuzz {name}: {}", escaped(&input)));
    }
}

fn escaped(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}

/// A line of a corpus as the bytes that it stands for.
fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().expect("something is escaped") {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    bytes
}

fn seeds() -> Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "the core reads no environment, its tests may")]
    let Ok(wanted) = std::env::var("FAIRLEAD_SEEDS") else { return 0..COUNT };
    let number = |text: &str| text.parse().expect("FAIRLEAD_SEEDS is a number or a range like 0..1000");
    match wanted.split_once("..") {
        Some((start, end)) => number(start)..number(end),
        None => number(&wanted)..number(&wanted) + 1,
    }
}

#[test]
fn what_is_escaped_is_read_back() {
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(unescaped(&escaped(&all)), all);
}
