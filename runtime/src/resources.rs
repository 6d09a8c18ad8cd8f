//! Resources: YAML files become a checked plan.
//!
//! Text is parsed into raw documents that know their file and line; these become one [`Plan`] in
//! which names are unique and references resolve. Every problem is listed, not only the first.

mod addresses;
mod check;
mod closest;
mod configuration;
mod dapr;
mod fields;
mod house;
mod load;
mod plan;
#[cfg(test)]
mod tests;
mod update_key;
mod yaml;

pub(crate) use addresses::{ADDRESS_FORM, parse_address, parse_ip};
pub(crate) use closest::closest;
pub(crate) use dapr::INIT_TIMEOUT;
pub(crate) use fields::{Environment, Report};
pub(crate) use house::{LEVELS, default_health, wrong_app_id};
pub(crate) use load::{GatewayFlags, Wanted, plan};
pub use plan::*;
pub use update_key::UpdateKey;
