//! The MQTT door: sockets and codec around the engine in [`crate::broker`].

use crate::drain::Drain;
use crate::resources::{MqttPlan, MqttUserPlan};
use pillion_components::env::Clock;
use pillion_components::pubsub::PubSub;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What every connection of the door shares.
pub struct Door {}

impl Door {
    /// A door before one pub/sub component.
    pub fn new(
        _plan: MqttPlan,
        _users: Vec<MqttUserPlan>,
        _pubsub: Arc<dyn PubSub>,
        _clock: Clock,
    ) -> Self {
        Self {}
    }
}

/// Accepts clients until the process drains, over TLS if the door's plan says so for this listener.
pub async fn serve(
    _listener: TcpListener,
    _tls: Option<tokio_rustls::TlsAcceptor>,
    _door: Arc<Door>,
    _drain: Drain,
) {
}

pub mod tls {
    pub fn acceptor(
        _: &crate::resources::MqttTlsPlan,
    ) -> Result<tokio_rustls::TlsAcceptor, String> {
        Err("later".into())
    }
}
