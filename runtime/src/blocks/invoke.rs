//! Service invocation: calls from one app to another.

use crate::app::Apps;
use crate::resources::EndpointPlan;
use std::sync::Arc;

/// The block.
pub struct Invocation {}

impl Invocation {
    /// Calls among `apps` and to `endpoints`, whose header secrets are already text.
    pub fn new(_apps: Arc<Apps>, _endpoints: Vec<EndpointPlan>) -> Self {
        Self {}
    }
}
