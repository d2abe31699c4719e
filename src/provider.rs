//! How each kind of server is spoken to.

pub mod vllm;
