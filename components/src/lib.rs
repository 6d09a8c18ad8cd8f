//! What Pillion's building blocks are made of.
//!
//! One file per kind of component says what any such component promises and lists those there
//! are ([`state`], [`pubsub`], [`secrets`], [`configuration`], [`lock`]); the folder of the same name holds one file per
//! are ([`state`], [`pubsub`], [`secrets`], [`bindings`]); the folder of the same name holds one file per
//! are ([`state`], [`pubsub`], [`secrets`], `crypto`); the folder of the same name holds one file per
//! technology. Under them stand [`journal`], durable streams with cursors, and [`storage`], the
//! log with a tree behind it. Nothing here knows an app or a protocol.

pub mod backoff;
pub mod bindings;
pub mod configuration;
pub mod context;
#[cfg(feature = "crypto")]
pub mod crypto;
pub mod env;
pub mod error;
pub mod http;
pub mod journal;
pub mod lock;
pub mod options;
pub mod pubsub;
pub mod secrets;
pub mod state;
pub mod storage;
#[cfg(feature = "tls")]
mod tls;
pub mod topic;

pub use error::{Error, Kind, Result, WITHOUT_CRYPTO, WITHOUT_TLS};
