//! The doors: each decodes a protocol, calls a block, and encodes the answer.

pub mod http;
pub mod mqtt;
