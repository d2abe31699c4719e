//! Words looked for in bytes.
//!
//! By hand, because `memchr::memmem` brings 5 kB of wasm: it is made to search much, and here nothing is searched for
//! token by token.

use memchr::memchr_iter;

/// Where `word` stands first.
pub(crate) fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    let first = *word.first()?;
    memchr_iter(first, bytes).find(|at| bytes.get(*at..).is_some_and(|rest| rest.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_word_is_found_where_it_begins_first_also_behind_a_false_beginning() {
        assert_eq!(find(b"aab aabc", b"aabc"), Some(4));
        assert_eq!(find(b"\r\r\n", b"\r\n"), Some(1));
        assert_eq!((find(b"aa", b"aab"), find(b"", b"a"), find(b"a", b"")), (None, None, None));
    }
}
