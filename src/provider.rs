//! How each kind of server is spoken to.

pub mod runpod;
pub mod vllm;
