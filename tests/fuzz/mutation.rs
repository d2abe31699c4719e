//! Inputs made of others: what chance does to them.

use fairlead_core::rng::Rng;

/// The longest input: every target reads several times what it gets.
const MOST: usize = 8 << 10;

/// What parsers stumble over more often than over chance.
const PIECES: &[&[u8]] = &[
    b"\n\n",
    b"\r\n\r\n",
    b"\r",
    b"\0",
    b"\xef\xbb\xbf",
    b"data: ",
    b"data: [DONE]\n\n",
    b": \n",
    b"event: error\n",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud83e",
    b"\xff",
    b"\xf0\x9f\xa6\x80",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
    b",",
    b":",
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\"model\":\"m\",",
    b"\"index\":18446744073709551615,",
    b"\"choices\":[{}],",
    b"\"finish_reason\":\"stop\"",
    b"\"status\":\"COMPLETED\"",
    b"\"stream\":[{\"output\":\"a\"}]",
];

/// The input of this seed.
pub fn mutated(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = Rng::from_seed(seed);
    let mut below = |count: usize| rng.up_to(count.saturating_sub(1) as u64) as usize;
    let mut input = corpus[below(corpus.len())].clone();
    for _ in 0..=below(6) {
        let at = below(input.len() + 1);
        let end = at + below((input.len() - at).min(64) + 1);
        match below(8) {
            0 if at < input.len() => input[at] ^= 1 << below(8),
            1 if at < input.len() => input[at] = below(256) as u8,
            2 => _ = input.drain(at..end),
            3 => {
                let piece = input[at..end].to_vec();
                let times = below(4) + 1;
                input.splice(at..at, piece.repeat(times));
            }
            4 | 5 => {
                let piece = PIECES[below(PIECES.len())];
                let replaced = if below(2) == 0 { at..at } else { at..end };
                input.splice(replaced, piece.iter().copied());
            }
            6 => {
                let other = &corpus[below(corpus.len())];
                let from = below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            _ => input.truncate(at.max(input.len() / 2)),
        }
        input.truncate(MOST);
    }
    input
}
