//! How each kind of server is spoken to.

pub mod fairlead;
pub mod runpod;
pub mod vllm;
