//! Settings of one MQTT component: text becomes what the client needs.

use super::PUBLISHES_MAX;
#[cfg(not(feature = "tls"))]
use crate::error::WITHOUT_TLS;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
#[cfg(feature = "tls")]
use crate::tls;
use rumqttc::{AckMode, Broker, MqttOptions, QoS};
#[cfg(feature = "tls")]
use rumqttc::{TlsConfiguration, Transport};
use std::sync::Arc;
use std::time::Duration;

/// What the component was told.
pub(super) struct Settings {
    /// Everything about the connection but its socket.
    pub(super) client: MqttOptions,
    /// Host name or address, without brackets.
    pub(super) host: Arc<str>,
    /// Port.
    pub(super) port: u16,
    /// QoS of subscriptions and of publishes that ask for at-least-once.
    pub(super) qos: QoS,
    /// Publish everything as retained.
    pub(super) retain: bool,
    /// The broker forgets the session with the connection.
    pub(super) clean_session: bool,
    /// Largest packet in either direction.
    pub(super) packet_bytes_max: usize,
    /// Longest wait between two attempts to connect.
    pub(super) reconnect_max: Duration,
}

/// Default of `maxPacketBytes`: the largest body that the doors take, and its topic.
const PACKET_BYTES_MAX: u64 = (4 << 20) + (64 << 10);
/// Default of `keepAlive`: seldom enough for a metered uplink, often enough for address
/// translation, which forgets after minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Default of `reconnectMaxInterval`.
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// Requests that the client writes before it flushes.
const REQUEST_BATCH: usize = 32;
/// Longest client id; brokers need take no more than 23 bytes, all known ones take this.
const CLIENT_ID_BYTES_MAX: usize = 256;

impl Settings {
    /// Reads the options listed at the head of [`super`].
    pub(super) fn read(options: &Options, client_id: &str) -> Result<Self> {
        let address = Address::parse(options.required("url")?)?;
        if client_id.is_empty() || client_id.len() > CLIENT_ID_BYTES_MAX {
            return Err(invalid(format!(
                "metadata 'consumerID' is the client id: 1 to {CLIENT_ID_BYTES_MAX} bytes"
            )));
        }
        let clean_session = options.truthy("cleanSession", false);
        let packet_bytes_max = options.bytes("maxPacketBytes", PACKET_BYTES_MAX)?;
        let packet_bytes_max = usize::try_from(packet_bytes_max.clamp(1 << 10, 256 << 20))
            .map_err(|_| invalid("metadata 'maxPacketBytes' is too large".into()))?;
        let keep_alive = options.duration("keepAlive", KEEP_ALIVE)?;
        let qos = match options.number("qos", 1, 0, 2)? {
            0 => QoS::AtMostOnce,
            // Exactly-once would need a session kept on our side; at-least-once is what is promised.
            _ => QoS::AtLeastOnce,
        };

        let broker = Broker::tcp(address.host.clone(), address.port);
        let mut client = MqttOptions::new(client_id, broker);
        client
            .set_clean_session(clean_session)
            .set_keep_alive(u16::try_from(keep_alive.as_secs().max(1)).unwrap_or(u16::MAX))
            .set_max_packet_size(packet_bytes_max, packet_bytes_max)
            .set_ack_mode(AckMode::Manual)
            .set_inflight(u16::try_from(PUBLISHES_MAX).unwrap_or(u16::MAX))
            .set_max_request_batch(REQUEST_BATCH);
        let username = options.text("username").map(str::to_owned).or(address.username);
        let password = options.text("password").map(str::to_owned).or(address.password);
        match (username, password) {
            (Some(username), Some(password)) => {
                client.set_credentials(username, password.into_bytes());
            }
            (Some(username), None) => {
                client.set_username(username);
            }
            (None, _) => {}
        }
        #[cfg(feature = "tls")]
        set_tls(&mut client, options, address.tls)?;
        #[cfg(not(feature = "tls"))]
        if address.tls {
            return Err(Error::new(Kind::Unsupported, format!("metadata 'url': {WITHOUT_TLS}")));
        }
        Ok(Self {
            client,
            host: address.host.into(),
            port: address.port,
            qos,
            retain: options.truthy("retain", false),
            clean_session,
            packet_bytes_max,
            reconnect_max: options.duration("reconnectMaxInterval", RECONNECT_MAX)?,
        })
    }
}

/// The settings of TLS.
#[cfg(feature = "tls")]
pub(super) const TLS_NAMES: tls::Names =
    tls::Names { authorities: "caCert", certificate: "clientCert", key: "clientKey" };

/// Has the client use TLS if the URL asks for it. Without it the settings are still checked: what
/// is wrong shall not come out later.
#[cfg(feature = "tls")]
fn set_tls(client: &mut MqttOptions, options: &Options, wanted: bool) -> Result<()> {
    let config = tls::config(options, &TLS_NAMES)?;
    if wanted {
        client.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
    }
    Ok(())
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

impl Address {
    /// `scheme://[user[:password]@]host[:port][/]`. What follows the host is ignored, as MQTT over
    /// TCP has no path. The error does not repeat the URL: it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let wrong = |why: &str| {
            invalid(format!("metadata 'url': {why}; write tcp://host:1883 or ssl://host:8883"))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "tcp" | "mqtt" => false,
            "ssl" | "tls" | "mqtts" => true,
            other => return Err(wrong(&format!("scheme '{other}' is not supported"))),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host_port)) => (Some(user), host_port),
            None => (None, authority),
        };
        let (username, password) = match user.map(|user| user.split_once(':').ok_or(user)) {
            Some(Ok((name, word))) => (Some(decode(name)), Some(decode(word))),
            Some(Err(name)) => (Some(decode(name)), None),
            None => (None, None),
        };
        let (host, port) = split_port(host_port).ok_or_else(|| wrong("wrong host or port"))?;
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let port = port.unwrap_or(if tls { 8883 } else { 1883 });
        Ok(Self { tls, host: host.to_owned(), port, username, password })
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port.parse().ok()?))),
        None if rest.is_empty() => Some((host, None)),
        None => None,
    }
}

/// Percent decoding; what is not an escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(tls: bool, host: &str, port: u16, user: Option<(&str, Option<&str>)>) -> Address {
        Address {
            tls,
            host: host.into(),
            port,
            username: user.map(|(name, _)| name.into()),
            password: user.and_then(|(_, word)| word.map(Into::into)),
        }
    }

    #[test]
    fn urls_of_all_schemes_are_read() {
        for (url, expected) in [
            ("tcp://broker", address(false, "broker", 1883, None)),
            ("MQTT://broker:99", address(false, "broker", 99, None)),
            ("ssl://broker/path", address(true, "broker", 8883, None)),
            ("tls://[::1]:8884", address(true, "::1", 8884, None)),
            ("mqtts://u@h", address(true, "h", 8883, Some(("u", None)))),
            ("mqtt://u%40x:p%3Aw@h", address(false, "h", 1883, Some(("u@x", Some("p:w"))))),
        ] {
            assert_eq!(Address::parse(url).expect(url), expected, "{url}");
        }
    }

    #[test]
    fn wrong_urls_are_refused_without_repeating_a_password() {
        for url in ["broker:1883", "http://broker", "tcp://", "tcp://h:x", "ws://u:secret@h"] {
            let error = Address::parse(url).expect_err(url);
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(!error.message().contains("secret"), "{error}");
        }
    }
}
