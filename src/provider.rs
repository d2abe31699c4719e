//! How each kind of server is spoken to.

mod python;
pub mod runpod;
pub mod vllm;
