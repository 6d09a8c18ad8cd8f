//! Binding sockets, with a message that says which, for what, and how to change it.

use crate::api::http::server::Listener;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};

/// What a socket is for, and what changes its address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    pub(super) what: &'static str,
    pub(super) flag: &'static str,
    pub(super) key: &'static str,
}

pub(super) const HTTP: Purpose =
    Purpose { what: "the HTTP API", flag: "--dapr-http-port", key: "App spec.listen.http" };
pub(super) const METRICS: Purpose =
    Purpose { what: "metrics", flag: "--metrics-port", key: "Gateway spec.metrics.listen" };
pub(super) const MQTT: Purpose =
    Purpose { what: "the MQTT door", flag: "--mqtt-listen", key: "Gateway spec.mqtt.listen" };
pub(super) const MQTT_TLS: Purpose = Purpose {
    what: "the MQTT door over TLS",
    flag: "a Gateway resource",
    key: "Gateway spec.mqtt.tls.listen",
};

/// Binds a TCP socket.
pub(super) async fn tcp(address: SocketAddr, purpose: Purpose) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| refused(address, purpose, &error))
}

fn refused(address: SocketAddr, purpose: Purpose, error: &io::Error) -> String {
    let Purpose { what, flag, key } = purpose;
    let reason = match error.kind() {
        ErrorKind::AddrInUse => "the port is taken by another process".to_owned(),
        ErrorKind::PermissionDenied => "this user may not bind it".to_owned(),
        ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    };
    format!("cannot listen on {address} for {what}: {reason}; change it with {flag} ({key})")
}

/// Binds a unix socket; a file left by a process that is gone is replaced.
pub(super) fn unix(path: &Path) -> Result<UnixListener, String> {
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        // Nobody answers: left over, or not there at all.
        let _ = std::fs::remove_file(path);
    }
    UnixListener::bind(path).map_err(|error| {
        format!(
            "cannot listen on the unix socket {}: {error}; change it with --unix-domain-socket",
            path.display()
        )
    })
}

/// The listeners of one app's HTTP API, and the first address.
pub(super) async fn http(
    addresses: &[SocketAddr],
    unix_socket: Option<&Path>,
) -> Result<(Vec<Listener>, Option<SocketAddr>), String> {
    let mut listeners = Vec::new();
    let mut first = None;
    for address in addresses {
        let listener = tcp(*address, HTTP).await?;
        first = first.or_else(|| listener.local_addr().ok());
        listeners.push(Listener::Tcp(listener));
    }
    if let Some(path) = unix_socket {
        listeners.push(Listener::Unix(unix(path)?));
    }
    Ok((listeners, first))
}
