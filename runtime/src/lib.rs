//! Pillion: the building blocks of a distributed application for every app on a gateway.
//!
//! A request comes in at a door ([`api`]), which decodes it and calls a building block
//! ([`blocks`]); the block checks, applies scopes and limits, calls a component and records what
//! happened. [`broker`] holds MQTT's rules without I/O. Beside the blocks stand [`deliver`], which
//! feeds subscriptions to apps, [`link`], which carries topics to and from the cloud, and [`feed`],
//! which writes configuration that arrives on topics.
//! [`resources`] turns files into a checked plan, and [`daemon`] builds the process from it.
//! `doctor`, a feature, looks at a gateway from outside.
//! [`update`] puts new releases beside the one of the package, and goes back if they do not work.

pub mod api;
pub mod app;
pub mod blocks;
pub mod body;
pub mod broker;
pub mod cli;
pub mod daemon;
pub mod deliver;
#[cfg(feature = "doctor")]
pub mod doctor;
pub mod drain;
pub mod error;
pub mod feed;
pub mod link;
pub mod observe;
pub mod resources;
pub mod update;
pub mod version;

pub use error::{Error, Result};

/// The version of Dapr whose API this is; tools read it with `--version` and in metadata, and
/// accept only `N.N.N` there.
pub const DAPR_VERSION: &str = "1.18.3";
