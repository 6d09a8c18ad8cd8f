//! In place of [`tls`](super) in a build without the feature `tls`: whoever asks for it is told so.

use std::io;
use tokio::net::TcpStream;

/// How a pool would speak TLS.
#[derive(Debug, Clone)]
pub(crate) struct Tls;

impl Tls {
    pub(crate) fn to_app() -> Self {
        Self
    }

    pub(crate) fn to_outside() -> Self {
        Self
    }

    pub(crate) fn with(settings: pillion_components::http::ClientTls) -> Self {
        match settings {}
    }

    #[allow(clippy::unused_async, reason = "stands in for a handshake, which waits")]
    pub(super) async fn connect(&self, _host: &str, _stream: TcpStream) -> io::Result<TcpStream> {
        Err(io::Error::new(io::ErrorKind::Unsupported, pillion_components::WITHOUT_TLS))
    }
}
