//! In place of [`tls`](super) in a build without the feature `tls`: a plan that asks for it is
//! refused.

use super::wire;
use crate::resources::MqttTlsPlan;
use pillion_components::{Error, Kind, Result, WITHOUT_TLS};
use tokio::net::TcpStream;

/// There is none.
#[derive(Clone)]
pub enum Acceptor {}

/// Always an error.
pub fn acceptor(_plan: &MqttTlsPlan) -> Result<Acceptor> {
    Err(Error::new(Kind::Unsupported, format!("Gateway spec.mqtt.tls: {WITHOUT_TLS}")))
}

pub(super) async fn accept(
    acceptor: &Acceptor,
    _stream: TcpStream,
) -> Option<(Box<dyn wire::Io>, Option<String>)> {
    match *acceptor {}
}
