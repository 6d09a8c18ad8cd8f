//! Sockets and connections of the HTTP door.

use crate::app::App;
use crate::blocks::Blocks;
use crate::drain::{Drain, RequestExit};
use crate::resources::Limits;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};

/// What every connection of one app's listeners shares.
pub struct Door {
    /// The app that calls here.
    pub app: Arc<App>,
    /// The building blocks.
    pub blocks: Arc<Blocks>,
    /// Limits of bodies, heads and connections.
    pub limits: Limits,
    /// For `POST /v1.0/shutdown`.
    pub request_exit: RequestExit,
}

/// A listening socket.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Accepts connections until the process drains, then finishes those that are open.
pub async fn serve(_listener: Listener, _door: Arc<Door>, _drain: Drain) {
    unimplemented!()
}
