//! What is fuzzed: for each parser of what others write, a function that takes any bytes and panics where a promise
//! is broken. Both the short form in `cargo test` and the search that is guided by coverage run these.

pub mod config;
pub mod request;
pub mod retry_after;
pub mod runpod;
pub mod sse;

use allocation_counter::measure;
use fairlead_core::rng::Rng;
use serde_json::{Value, value::RawValue};

/// One of them.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: [(&str, Target); 5] = [
    ("sse", sse::run),
    ("config", config::run),
    ("runpod", runpod::run),
    ("retry_after", retry_after::run),
    ("request", request::run),
];

/// Does something that may take so much memory for `input`: a few times what it reads, and what everything takes.
fn within<T>(times: usize, input: usize, what: &str, work: impl FnOnce() -> T) -> T {
    const BASE: usize = 16 << 10;
    let mut result = None;
    let taken = measure(|| result = Some(work())).bytes_max;
    let most = times * input + BASE;
    assert!(taken <= most as u64, "{what} takes {taken} bytes for {input}; at most {most}");
    result.unwrap()
}

/// The first byte chooses, and the rest is read.
fn choose(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest))
}

/// These bytes in chunks as chance wants them, empty ones among them.
fn chunks(bytes: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut rng = Rng::from_seed(seed);
    let most = [1, 3, 20, 300][rng.up_to(3) as usize];
    let mut chunks = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(rest.len().min(rng.up_to(most) as usize));
        chunks.push(chunk);
        rest = behind;
    }
    chunks
}

/// Asserts that this is JSON, and says what it is. `None` of a number or a text that JSON has and Rust has not: one that
/// is too large, or holds half a character.
fn value(json: &[u8]) -> Option<Value> {
    assert!(serde_json::from_slice::<&RawValue>(json).is_ok(), "no JSON: {}", json.escape_ascii());
    serde_json::from_slice(json).ok()
}
