//! Whether an app can be called: its port answers, and its health check passes if it has one.

use super::channel::Channel;
use crate::drain::Drain;
use std::sync::Arc;

/// Watches one app until the process drains: polls its port until it answers, then probes it if
/// its plan has a health check. What it finds is told to the channel
/// ([`Channel::set_healthy`]). Holds no place in the drain while it waits.
pub async fn watch(_channel: Arc<Channel>, _drain: Drain) {
    unimplemented!()
}
