//! How addresses are written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How to write an address.
pub(crate) const ADDRESS_FORM: &str = "an address as 127.0.0.1:1883, [::1]:1883 or just a port";

/// `address:port`; `localhost` and nothing before the port are 127.0.0.1.
pub(crate) fn parse_address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    if let Ok(port) = text.parse::<u16>() {
        return Some((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?;
    host.eq_ignore_ascii_case("localhost").then(|| (Ipv4Addr::LOCALHOST, port).into())
}

/// An IP address, perhaps in brackets; `localhost` is 127.0.0.1.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}
