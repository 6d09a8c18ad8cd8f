//! `--wait`: another Pillion on this machine is asked until it can be called.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Time between two tries.
const PERIOD: Duration = Duration::from_millis(100);
/// Time for one try.
const TRY_TIMEOUT: Duration = Duration::from_millis(500);
/// Time in all.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Polls `GET /v1.0/healthz/outbound` of this port until it answers 204: exit code 0; after a
/// minute 1.
pub fn wait(port: u16) -> u8 {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if is_ready(port).unwrap_or(false) {
            return 0;
        }
        std::thread::sleep(PERIOD);
    }
    1
}

fn is_ready(port: u16) -> std::io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut socket = TcpStream::connect_timeout(&address, TRY_TIMEOUT)?;
    socket.set_read_timeout(Some(TRY_TIMEOUT))?;
    socket.set_write_timeout(Some(TRY_TIMEOUT))?;
    let head =
        "GET /v1.0/healthz/outbound HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(head.as_bytes())?;
    let mut start = [0; 12];
    socket.read_exact(&mut start)?;
    Ok(&start == b"HTTP/1.1 204")
}
