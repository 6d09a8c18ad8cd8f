//! The world outside: names, and whether brokers and endpoints can be reached.

use super::scene::Scene;
use super::{Findings, Level, clock, start, take};
use crate::app::channel::tls::Tls;
use hyper::Uri;
use pillion_components::env;
use pillion_components::pubsub::mqtt3::Peer;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
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

/// Runs a job for every place, side by side; offline nothing is asked.
fn for_each(
    scene: &Scene,
    places: Vec<Place>,
    limit: Duration,
    job: fn(&Place, &mut Findings),
    out: &mut Findings,
) {
    let mut started = Vec::new();
    for place in places {
        if scene.asked.offline {
            out.skip(&place.name, &"offline");
            continue;
        }
        let name = place.name.clone();
        started.push((name, start(Box::new(move |out| job(&place, out)))));
    }
    let deadline = Instant::now() + limit;
    for (name, answer) in started {
        if !take(&answer, deadline, out) {
            out.fail(&name, &format_args!("no answer within {limit:?}"), &"is the uplink up?");
        }
    }
}

/// Whether the names in the configuration mean something here.
pub(super) fn names(scene: &Arc<Scene>, out: &mut Findings) {
    let mut places = places(scene);
    places.retain(|place| place.host.parse::<IpAddr>().is_err());
    places.dedup_by(|one, other| one.host == other.host);
    for place in &mut places {
        place.name.clone_from(&place.host);
    }
    let text = scene.root.read("etc/resolv.conf").unwrap_or_default();
    let mut servers = String::new();
    for server in text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")) {
        servers.push_str(server);
    }
    if !servers.is_empty() {
        out.ok(&"servers", &servers.trim());
    } else if places.is_empty() {
        out.skip(&"servers", &"none, and none is needed");
    } else {
        let advice = "does the network (DHCP) give one?";
        out.warn(&"servers", &"/etc/resolv.conf names none", &advice);
    }
    for_each(scene, places, NAME_TIMEOUT, look_up, out);
}

fn look_up(place: &Place, out: &mut Findings) {
    let begun = Instant::now();
    match resolve(place) {
        Ok(addresses) => {
            let mut text = String::new();
            for address in addresses.iter().take(ADDRESSES_MAX) {
                let _ = write!(text, "{} ", address.ip());
            }
            out.ok(&place.name, &format_args!("{text}({} ms)", begun.elapsed().as_millis()));
        }
        Err(error) => out.fail(&place.name, &error, &"is the uplink up, and is the name right?"),
    }
}

fn resolve(place: &Place) -> io::Result<Vec<SocketAddr>> {
    Ok((place.host.as_str(), place.port).to_socket_addrs()?.collect())
}

/// Whether every place can be reached.
pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let places = places(scene);
    if places.is_empty() {
        return out.skip(&"places", &"the configuration names none");
    }
    for_each(scene, places, PLACE_TIMEOUT, reach, out);
    if !clock::is_plausible(scene.now_s) {
        let failed = out.0.iter_mut().filter(|finding| finding.level == Level::Fail);
        for finding in failed {
            finding.advice.push_str("; first set the clock, certificates hold by it");
        }
    }
}

/// Connects, shakes hands, says CONNECT, and leaves. The finding says how long each took.
fn reach(place: &Place, out: &mut Findings) {
    let name = &place.name;
    let mut text = String::new();
    let mut begun = Instant::now();
    let mut lap = |text: &mut String, what: &str| {
        let _ = write!(text, "{what} {} ms", begun.elapsed().as_millis());
        begun = Instant::now();
    };
    let socket = match connect(place) {
        Ok(socket) => socket,
        Err(error) => {
            let advice = "is the uplink up? is the port right and open in the firewall?";
            return out.fail(name, &format_args!("no connection: {error}"), &advice);
        }
    };
    lap(&mut text, "TCP");
    let mut stream: Box<dyn Stream> = match &place.tls {
        None => Box::new(socket),
        Some(config) => match handshake(place, config, socket) {
            Ok(stream) => {
                lap(&mut text, ", TLS");
                Box::new(stream)
            }
            Err(error) => {
                let advice = "compare the server's certificate with caCert and the host's name";
                return out.fail(name, &format_args!("no TLS: {error}"), &advice);
            }
        },
    };
    let Some((username, password)) = &place.login else { return out.ok(name, &text) };
    let packet = connect_packet(username.as_deref(), password.as_deref());
    let Some(packet) = packet else {
        return out.fail(name, &"user name or password is too long", &"shorten it");
    };
    let code = match login(stream.as_mut(), &packet) {
        Ok(code) => code,
        Err(error) => {
            let text = format_args!("{text}, but no answer to CONNECT: {error}");
            let advice = "is it an MQTT broker? does it want a client certificate (clientCert)?";
            return out.fail(name, &text, &advice);
        }
    };
    lap(&mut text, ", MQTT");
    // We come under a name of our own, which a strict broker may not know.
    let refused = match code {
        0 => return out.ok(name, &text),
        2 => "client id not allowed",
        3 => "not available",
        4 => "wrong user name or password",
        5 => "not authorised",
        _ => "refused",
    };
    let text = format_args!("{text}: {refused} (code {code}), asked with a client id of its own");
    let advice = "check username and password; a broker that knows client ids by name refuses the \
                  doctor's, and a link that is connected is the better answer";
    out.warn(name, &text, &advice);
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
