//! Publish and subscribe.

use super::PubSubs;
use pillion_components::env::Clock;

/// The block.
pub struct Publishing {}

impl Publishing {
    /// Topics of these components.
    pub fn new(_components: PubSubs, _clock: Clock) -> Self {
        Self {}
    }
}
