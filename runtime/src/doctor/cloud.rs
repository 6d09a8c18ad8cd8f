//! The world outside: names, and whether brokers and endpoints can be reached.

use super::scene::Scene;
use super::{Finding, Level, clock, start};
use crate::app::channel::tls::Tls;
use hyper::Uri;
use pillion_components::env;
use pillion_components::pubsub::mqtt3::Peer;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Time for a name, for one address of it, and for one read or write.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// Time for one place: its name, its addresses, TLS and MQTT.
const PLACE_TIMEOUT: Duration = Duration::from_secs(15);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 2;

/// Most places that are tried; a gateway has a few.
const PLACES_MAX: usize = 32;

/// Somewhere outside that the configuration names.
struct Place {
    name: String,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    /// User and password of a broker.
    login: Option<(Option<String>, Option<String>)>,
}

fn places(scene: &Scene) -> Vec<Place> {
    let mut found = Vec::new();
    for (name, peer) in scene.brokers() {
        let Ok(Peer { host, port, tls, username, password }) = peer else { continue };
        let name = format!("{name} ({host}:{port})");
        found.push(Place { name, host, port, tls, login: Some((username, password)) });
    }
    for endpoint in &scene.plan.endpoints {
        let Ok(uri) = endpoint.base_url.parse::<Uri>() else { continue };
        let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else { continue };
        let is_secure = scheme == "https";
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let name = format!("{} ({host}:{port})", endpoint.name);
        let tls = is_secure.then(|| Tls::to_outside().config());
        found.push(Place { name, host, port, tls, login: None });
    }
    found.truncate(PLACES_MAX);
    found
}

/// Runs a job for every place, side by side.
fn for_each(places: Vec<Place>, limit: Duration, job: fn(Place) -> Finding) -> Vec<Finding> {
    let started: Vec<_> =
        places.into_iter().map(|place| (place.name.clone(), start(move || job(place)))).collect();
    let deadline = Instant::now() + limit;
    let finish = |(name, answer): (String, mpsc::Receiver<Finding>)| {
        let answer = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        answer.unwrap_or_else(|_| {
            Finding::fail(&name, format!("no answer within {limit:?}"), "is the uplink up?")
        })
    };
    started.into_iter().map(finish).collect()
}

/// Whether the names in the configuration mean something here.
pub(super) fn names(scene: &Arc<Scene>) -> Vec<Finding> {
    let mut places = places(scene);
    places.retain(|place| place.host.parse::<IpAddr>().is_err());
    places.dedup_by(|one, other| one.host == other.host);
    let text = scene.root.read("etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers: Vec<_> = servers.map(str::trim).collect();
    let mut found = vec![match servers.is_empty() {
        false => Finding::ok("servers", servers.join(", ")),
        true if places.is_empty() => Finding::skip("servers", "none, and none is needed".into()),
        true => Finding::warn(
            "servers",
            "/etc/resolv.conf names none".into(),
            "does the network (DHCP) give one?",
        ),
    }];
    if scene.asked.offline {
        found.extend(places.iter().map(|place| Finding::skip(&place.host, "offline".into())));
        return found;
    }
    found.extend(for_each(places, NAME_TIMEOUT, |place| {
        let begun = Instant::now();
        match resolve(&place) {
            Ok(addresses) => {
                let shown: Vec<_> =
                    addresses.iter().take(3).map(|address| address.ip().to_string()).collect();
                Finding::ok(&place.host, format!("{} ({})", shown.join(", "), since(begun)))
            }
            Err(error) => {
                let advice = "is the uplink up, and is the name right?";
                Finding::fail(&place.host, error.to_string(), advice)
            }
        }
    }));
    found
}

fn resolve(place: &Place) -> io::Result<Vec<SocketAddr>> {
    Ok((place.host.as_str(), place.port).to_socket_addrs()?.collect())
}

fn since(begun: Instant) -> String {
    format!("{} ms", begun.elapsed().as_millis())
}

/// Whether every place can be reached.
pub(super) fn check(scene: &Arc<Scene>) -> Vec<Finding> {
    let places = places(scene);
    if places.is_empty() {
        return vec![Finding::skip("places", "the configuration names none".into())];
    }
    if scene.asked.offline {
        return places.iter().map(|place| Finding::skip(&place.name, "offline".into())).collect();
    }
    let mut found = for_each(places, PLACE_TIMEOUT, |place| {
        reach(&place).unwrap_or_else(|(text, advice)| Finding::fail(&place.name, text, advice))
    });
    if !clock::is_plausible(scene.now_s) {
        for finding in found.iter_mut().filter(|finding| finding.level == Level::Fail) {
            finding.advice.push_str("; first set the clock, certificates hold by it");
        }
    }
    found
}

type Wrong = (String, &'static str);

/// Connects, shakes hands, says CONNECT, and leaves. The finding says how long each took.
fn reach(place: &Place) -> Result<Finding, Wrong> {
    let begun = Instant::now();
    let socket = connect(place).map_err(|error| {
        let advice = "is the uplink up? is the port right and open in the firewall?";
        (format!("no connection: {error}"), advice)
    })?;
    let mut text = format!("TCP {}", since(begun));
    let mut stream: Box<dyn Stream> = match &place.tls {
        None => Box::new(socket),
        Some(config) => {
            let begun = Instant::now();
            let stream = handshake(place, config, socket).map_err(|error| {
                let advice = "compare the server's certificate with caCert and the host's name";
                (format!("no TLS: {error}"), advice)
            })?;
            text.push_str(&format!(", TLS {}", since(begun)));
            Box::new(stream)
        }
    };
    let Some((username, password)) = &place.login else {
        return Ok(Finding::ok(&place.name, text));
    };
    let begun = Instant::now();
    let packet = connect_packet(username.as_deref(), password.as_deref())
        .ok_or_else(|| ("user name or password is too long".to_owned(), "shorten it"))?;
    let code = login(stream.as_mut(), &packet).map_err(|error| {
        let advice = "is it an MQTT broker? does it want a client certificate (clientCert)?";
        (format!("{text}, but no answer to CONNECT: {error}"), advice)
    })?;
    let text = format!("{text}, MQTT {}", since(begun));
    // We come under a name of our own, which a strict broker may not know.
    let refused = match code {
        0 => return Ok(Finding::ok(&place.name, text)),
        2 => "client id not allowed",
        3 => "not available",
        4 => "wrong user name or password",
        5 => "not authorised",
        _ => "refused",
    };
    let text = format!("{text}: {refused} (code {code}), asked with a client id of its own");
    let advice = "check username and password; a broker that knows client ids by name refuses the \
                  doctor's, and a link that is connected is the better answer";
    Ok(Finding::warn(&place.name, text, advice))
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(place: &Place) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(place)?.iter().take(ADDRESSES_MAX) {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                socket.set_read_timeout(Some(READ_TIMEOUT))?;
                socket.set_write_timeout(Some(READ_TIMEOUT))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn handshake(
    place: &Place,
    config: &Arc<ClientConfig>,
    mut socket: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

/// CONNECT of MQTT 3.1.1 with a clean session and a client id that nobody else has, so that no
/// session is taken over or left behind. `None`: a text is longer than MQTT allows.
pub(super) fn connect_packet(username: Option<&str>, password: Option<&str>) -> Option<Vec<u8>> {
    const CLEAN: u8 = 0x02;
    const PASSWORD: u8 = 0x40;
    const USERNAME: u8 = 0x80;
    let password = username.and(password);
    let flags = CLEAN | username.map_or(0, |_| USERNAME) | password.map_or(0, |_| PASSWORD);
    let mut body = b"\0\x04MQTT\x04".to_vec();
    body.extend([flags, 0, 10]);
    let id = format!("doctor-{:016x}", env::random_u64());
    for text in [Some(id.as_str()), username, password].into_iter().flatten() {
        body.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = vec![0x10];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(u8::try_from(length & 0x7F).ok()? | 0x80);
        length >>= 7;
    }
    packet.push(u8::try_from(length).ok()?);
    packet.extend(body);
    Some(packet)
}

/// The return code of the broker's CONNACK.
fn login(stream: &mut dyn Stream, packet: &[u8]) -> io::Result<u8> {
    stream.write_all(packet)?;
    stream.flush()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    let [0x20, 2, _, code] = answer else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not MQTT"));
    };
    if code == 0 {
        // DISCONNECT; a broker that does not hear it is none the worse.
        let _ = stream.write_all(&[0xE0, 0]).and_then(|()| stream.flush());
    }
    Ok(code)
}
