//! Where a component with some settings connects and who it is there, for a tool that looks
//! whether it can, without a component that connects by itself.

use super::settings::{Address, TLS_NAMES};
use crate::error::Result;
use crate::options::Options;
use crate::tls;
use rustls::ClientConfig;
use std::sync::Arc;

/// The broker that a component's settings name. Without `Debug`: it holds a password.
pub struct Peer {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS with the component's authorities and certificate, if the URL asks for it.
    pub tls: Option<Arc<ClientConfig>>,
    /// User name.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

/// Reads the settings that say where to connect. Fails as `open` does: on a URL that cannot be
/// read, certificates that are none, a key that does not fit.
pub fn peer(options: &Options) -> Result<Peer> {
    let Address { tls: is_tls, host, port, username, password } =
        Address::parse(options.required("url")?)?;
    let tls = Arc::new(tls::config(options, &TLS_NAMES)?);
    let text = |name| options.text(name).map(str::to_owned);
    Ok(Peer {
        host,
        port,
        tls: is_tls.then_some(tls),
        username: text("username").or(username),
        password: text("password").or(password),
    })
}
