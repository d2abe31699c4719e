//! Who may come in, and what each may ask for.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// The hash that `clients[].keys_sha256` holds for this key.
pub fn hash_key(key: &str) -> KeyHash {
    Sha256::digest(key.as_bytes()).into()
}

/// Somebody with keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// For logs.
    pub name: String,
    /// By which [`crate::fleet::Fleet`] knows it.
    pub index: usize,
    /// Any of these opens.
    pub keys: Vec<KeyHash>,
    /// Names of models; `None` means all.
    pub models: Option<Vec<String>>,
    /// Policies that may be asked for by `x-fairlead-policy`.
    pub policies: Vec<String>,
    /// RunPod endpoints whose jobs it may submit and follow by itself.
    pub runpod: Vec<String>,
    /// How much it may ask for.
    pub limits: Limits,
}

/// How much a client may ask for; `None`: no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The rate limiting binding that says whether another call may be made.
    pub rate_limiter: Option<RateLimiter>,
    /// Calls in any minute, by the count of one isolate.
    pub requests_per_minute: Option<u32>,
    /// Calls at a time, by the count of one isolate.
    pub max_concurrency: Option<u32>,
    /// Tokens of one answer.
    pub max_tokens: Option<u64>,
    /// Choices of one answer.
    pub max_n: Option<u32>,
}

impl Limits {
    /// Whether a request has to be looked at for how large its answer may become.
    pub const fn bound_answers(&self) -> bool {
        self.max_tokens.is_some() || self.max_n.is_some()
    }
}

/// A rate limiting binding of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimiter {
    /// Its name.
    pub binding: String,
    /// Its period in milliseconds. The binding itself does not tell.
    pub period_ms: u64,
}

impl Client {
    /// Whether this client may have `model`, which the entry `entry` serves.
    pub fn may_use(&self, model: &str, entry: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|name| name == model || name == entry))
    }
}

/// Finds whose key this is. Every hash is compared, each in constant time, so that the time taken
/// tells nothing about how much of a guess was right.
pub fn find<'a>(clients: &'a [Client], key: &str) -> Option<&'a Client> {
    let hash = hash_key(key);
    let mut found = None;
    for client in clients {
        for known in &client.keys {
            if bool::from(known.ct_eq(&hash)) {
                found = Some(client);
            }
        }
    }
    found
}

/// Reads a hash from 64 hexadecimal digits.
pub fn parse_hash(hex: &str) -> Option<KeyHash> {
    let digits: Vec<u8> =
        hex.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_of_a_client_opens_and_no_other() {
        let clients = [
            Client { name: "a".into(), keys: vec![hash_key("one"), hash_key("two")], ..Client::default() },
            Client {
                name: "b".into(),
                keys: vec![hash_key("three")],
                models: Some(vec!["qwen".into()]),
                ..Client::default()
            },
        ];
        assert_eq!(find(&clients, "two").map(|client| client.name.as_str()), Some("a"));
        let b = find(&clients, "three").unwrap();
        assert!(b.may_use("qwen", "qwen") && b.may_use("qwen", "*") && !b.may_use("llama", "*"));
        assert!(find(&clients, "four").is_none() && find(&clients, "").is_none());
    }

    #[test]
    fn a_hash_is_64_hex_digits() {
        // FIPS 180-4's "abc".
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(parse_hash(hex), Some(hash_key("abc")));
        assert_eq!(parse_hash(&hex.to_uppercase()), Some(hash_key("abc")));
        for wrong in ["", "ba", &hex.replacen('b', "", 1), &format!("{hex}00"), &hex.replace('b', "g")] {
            assert_eq!(parse_hash(wrong), None);
        }
    }
}
