//! From an accepted socket to a session: TLS, CONNECT, who it is, its seat, CONNACK.

use super::connection::{self, Established};
use super::store::{Restored, will_of};
use super::wire::{Io, Wire};
use super::{CONNECT_TIMEOUT, Connected, Door, Seat, tls};
use crate::broker::access::{Claim, Rights, Verdict};
use crate::broker::connect::{self, Accepted};
use crate::broker::packet::{Connect, Packet, Reason, Version};
use crate::broker::session::Session;
use crate::drain::Drain;
use pillion_components::Kind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Silence on a socket after which the kernel asks whether the other end is there, how often, and
/// how many answers may be missing: a vanished client is found after seven minutes.
const PROBE_AFTER_S: libc::c_int = 300;
const PROBE_EVERY_S: libc::c_int = 30;
const PROBES_MAX: libc::c_int = 4;

/// A socket that was accepted.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<tls::Acceptor>,
}

/// Serves one client from its first byte to its last.
pub(super) async fn serve(door: Arc<Door>, client: Client, drain: Drain) {
    let peer = client.peer;
    let listener = if client.tls.is_some() { "tls" } else { "tcp" };
    // Boxed, so that what the handshake needs is not kept for the life of the connection.
    let shaken = tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(shake(&door, client))).await;
    match shaken {
        Ok(Ok(established)) => {
            let _connected = Connected::new(listener);
            connection::run(&door, established, drain).await;
        }
        Ok(Err(why)) => {
            door.count_refused(why);
            tracing::info!(%peer, why, "MQTT client refused");
        }
        Err(_) => {
            door.count_refused("connect-timeout");
            tracing::info!(%peer, "MQTT client refused: no CONNECT in time");
        }
    }
}

/// Tells a client that there are too many.
pub(super) async fn refuse(door: &Door, client: Client) {
    let refusal = async {
        let (mut wire, _) = open(door, client).await?;
        if read_connect(&mut wire).await.is_ok() {
            say_no(&mut wire, Reason::BUSY).await;
        }
        Some(())
    };
    // Whether it hears it or not.
    let _ = tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(refusal)).await;
}

/// The bytes of the client, and the name in its certificate if it showed one.
async fn open(door: &Door, client: Client) -> Option<(Wire, Option<String>)> {
    let Client { stream, tls, .. } = client;
    // Only a matter of latency.
    let _ = stream.set_nodelay(true);
    probe_when_idle(&stream);
    let (io, certificate_name): (Box<dyn Io>, _) = match tls {
        None => (Box::new(stream), None),
        Some(acceptor) => tls::accept(&acceptor, stream).await?,
    };
    let wire = Wire::new(io, door.limits.packet_bytes_max, door.packets.clone());
    Some((wire, certificate_name))
}

/// Has the kernel find out about clients that vanished without a word and asked for no keep-alive.
/// One that the kernel refuses is served all the same.
fn probe_when_idle(stream: &TcpStream) {
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, PROBE_AFTER_S),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, PROBE_EVERY_S),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, PROBES_MAX),
    ];
    for (level, name, value) in options {
        let value: libc::c_int = value;
        let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        // SAFETY: the descriptor is open while `stream` is borrowed, and the pointer and length are
        // those of `value`, which the kernel only reads.
        unsafe {
            libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), length);
        }
    }
}

/// `Err` is the reason for the metric.
async fn shake(door: &Arc<Door>, client: Client) -> Result<Box<Established>, &'static str> {
    let (mut wire, certificate_name) = open(door, client).await.ok_or("tls")?;
    let mut connect = read_connect(&mut wire).await?;
    match let_in(door, &mut connect, certificate_name.as_deref()).await {
        Ok(entry) => finish(door, wire, entry).await,
        Err((reason, why)) => {
            say_no(&mut wire, reason).await;
            Err(why)
        }
    }
}

async fn read_connect(wire: &mut Wire) -> Result<Box<Connect>, &'static str> {
    match wire.next().await {
        Ok(Some(Packet::Connect(connect))) => {
            wire.set_version(connect.version);
            Ok(connect)
        }
        Ok(Some(_)) => Err("no-connect"),
        Ok(None) => Err("closed"),
        Err(bad) => {
            tracing::debug!(why = bad.why, "malformed CONNECT");
            // A version that is not ours cannot be answered in its own way; this is the one answer
            // that older clients understand, and MQTT 5 asks for it too.
            if bad.reason == Reason::UNSUPPORTED_VERSION {
                say_no(wire, bad.reason).await;
                return Err("version");
            }
            Err("malformed")
        }
    }
}

async fn say_no(wire: &mut Wire, reason: Reason) {
    wire.push(Packet::ConnAck(connect::refusal(reason)));
    // The client is refused whether it hears it or not.
    let _ = wire.flush().await;
    let _ = wire.shutdown().await;
}

/// A client that may come in, with its seat.
struct Entry {
    accepted: Accepted,
    rights: Rights,
    seat: Seat,
    restored: Restored,
}

async fn let_in(
    door: &Arc<Door>,
    connect: &mut Connect,
    certificate_name: Option<&str>,
) -> Result<Entry, (Reason, &'static str)> {
    let new_id = || format!("auto-{}", pillion_components::env::uuid());
    let accepted =
        connect::check(connect, &door.limits, new_id).map_err(|reason| (reason, "rules"))?;
    let rights = authenticate(door, connect, &accepted.client_id, certificate_name).await?;
    if let Err(error) = door.load().await {
        tracing::warn!(%error, "MQTT sessions on disk cannot be read");
        return Err((Reason::UNAVAILABLE, "sessions"));
    }
    let taken = Seat::take(door, &accepted.client_id, accepted.is_persistent()).await;
    let Some((mut seat, away)) = taken else {
        return Err((Reason::QUOTA_EXCEEDED, "sessions-max"));
    };
    // Should anything fail from here on, the session stays as it was.
    let known = away.as_ref().map(|away| (away.expires_ms, away.will.clone()));
    match door.restore(&accepted, away).await {
        Ok(restored) => Ok(Entry { accepted, rights, seat, restored }),
        Err(error) => {
            tracing::warn!(client = %accepted.client_id, %error, "its session cannot be opened");
            if let Some((expires_ms, will)) = known {
                let away = seat.away.get_or_insert_default();
                (away.expires_ms, away.will) = (expires_ms, will);
            }
            Err(match error.kind() {
                Kind::Full | Kind::Overloaded => (Reason::QUOTA_EXCEEDED, "session"),
                _ => (Reason::UNAVAILABLE, "session"),
            })
        }
    }
}

async fn authenticate(
    door: &Door,
    connect: &mut Connect,
    client_id: &str,
    certificate_name: Option<&str>,
) -> Result<Rights, (Reason, &'static str)> {
    let claim = Claim { certificate_name, user_name: connect.user_name.as_deref() };
    let bad = Err((Reason::BAD_CREDENTIALS, "credentials"));
    match door.users.judge(&claim, client_id) {
        Verdict::Known(rights) => Ok(rights),
        Verdict::NotAuthorized => Err((Reason::NOT_AUTHORIZED, "not-authorized")),
        Verdict::BadCredentials => bad,
        Verdict::IfPassword(hash, rights) => {
            let Some(password) = connect.password.take() else { return bad };
            let busy = (Reason::BUSY, "hashing");
            let _permit = door.hashing.acquire().await.map_err(|_| busy)?;
            let check = tokio::task::spawn_blocking(move || hash.matches(&password));
            if check.await.map_err(|_| busy)? { Ok(rights) } else { bad }
        }
    }
}

async fn finish(
    door: &Arc<Door>,
    mut wire: Wire,
    entry: Entry,
) -> Result<Box<Established>, &'static str> {
    let Entry { mut accepted, rights, mut seat, restored } = entry;
    let now_ms = door.clock.now_ms();
    let welcome = connect::welcome(&accepted, restored.is_present, &door.limits);
    let will = will_of(&mut accepted)
        .filter(|(message, _)| may_leave(&rights, &message.topic, &accepted.client_id))
        .map(Box::new);
    let is_stored = accepted.is_persistent() || restored.is_present;
    if is_stored {
        // Should this task die, the session lives on.
        let away = seat.away.get_or_insert_default();
        away.expires_ms = door.expires_ms(now_ms, accepted.expiry_s);
    }
    let Restored { subscriptions, parked, .. } = restored;
    let session = Session::new(&accepted, rights, &door.limits, subscriptions, parked, now_ms);
    let mut subscription = None;
    if !session.subscriptions().is_empty() {
        match door.open_queue(&session, is_stored).await {
            Ok(opened) => subscription = Some(opened),
            Err(error) => {
                tracing::warn!(client = %accepted.client_id, %error, "its queue cannot be opened");
                say_no(&mut wire, Reason::UNAVAILABLE).await;
                return Err("session");
            }
        }
    }
    wire.push(Packet::ConnAck(welcome));
    let version = match accepted.version {
        Version::V4 => "3.1.1",
        Version::V5 => "5",
    };
    tracing::debug!(client = %accepted.client_id, version, "MQTT client connected");
    Ok(Box::new(Established {
        wire,
        session,
        subscription,
        seat,
        will,
        is_stored,
        packet_bytes_max: accepted.packet_bytes_max,
    }))
}

/// A will that could not be published is not kept.
fn may_leave(rights: &Rights, topic: &str, client: &str) -> bool {
    let may = rights.may_publish(topic);
    if !may {
        tracing::warn!(client, topic, "may not publish its will there; will dropped");
    }
    may
}
