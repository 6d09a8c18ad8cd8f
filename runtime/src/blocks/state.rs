//! State.

use super::StateStores;
use pillion_components::env::Clock;

/// The block.
pub struct State {}

impl State {
    /// State in these stores.
    pub fn new(_stores: StateStores, _clock: Clock) -> Self {
        Self {}
    }
}
