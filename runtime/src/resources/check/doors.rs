//! The gateway's own settings, its MQTT door, and that no two listeners collide.

use super::known;
use crate::resources::fields::Report;
use crate::resources::house::GatewayRead;
use crate::resources::load::{Found, GatewayFlags, Placed};
use crate::resources::{AppPlan, Gateway, MqttLimits, MqttPlan};
use pillion_components::env::Clock;
use pillion_components::storage::StorageOptions;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The component that the MQTT door stands before.
const EMBEDDED: &str = "pubsub.embedded";

/// The settings of a Gateway resource, else the defaults; flags come before both.
pub(super) fn gateway(
    found: &mut Found,
    base: Gateway,
    flags: GatewayFlags,
    report: &Report,
) -> Gateway {
    if let [_, second, ..] = found.gateways.as_slice() {
        let place = second.place("metadata.name");
        report.problem(format!("{place}: a second Gateway: keep one"));
    }
    let read = GatewayRead { gateway: base, allow_anonymous: None };
    let placed = std::mem::take(&mut found.gateways).into_iter().next();
    let placed = placed.unwrap_or_else(|| Placed::unplaced(read));
    let mut gateway = placed.value.gateway.clone();
    let limits = &mut gateway.limits;
    limits.body_bytes_max = flags.body_bytes_max.unwrap_or(limits.body_bytes_max);
    limits.header_bytes_max = flags.header_bytes_max.unwrap_or(limits.header_bytes_max);
    limits.drain_timeout = flags.drain_timeout.unwrap_or(limits.drain_timeout);
    gateway.metrics = flags.metrics.unwrap_or(gateway.metrics);

    check_storage(&gateway, &placed, report);
    passwords(gateway.mqtt.as_ref(), found, report);

    let by_default = gateway.mqtt.is_none() && flags.mqtt.is_none();
    let listen = flags.mqtt.unwrap_or(if by_default { flags.mqtt_default } else { None });
    match (&mut gateway.mqtt, flags.mqtt) {
        (mqtt, Some(None)) => *mqtt = None,
        (Some(mqtt), Some(listen)) => mqtt.listen = listen,
        (Some(_), None) => {}
        (mqtt, _) => *mqtt = listen.map(plain_door),
    }
    if let Some(mut mqtt) = gateway.mqtt.take() {
        gateway.mqtt = match door_pubsub(&mqtt, &placed, found, by_default) {
            Ok(name) => {
                mqtt.pubsub = name;
                anonymous(&mut mqtt, &placed, found, report);
                Some(mqtt)
            }
            Err(text) if by_default => {
                report.warning(format!("the MQTT door stays closed: {text}"));
                None
            }
            Err(text) => {
                report.problem(format!("{}: {text}", placed.place("spec.mqtt.pubsub")));
                None
            }
        };
    }
    gateway
}

/// The log must hold what a single request may bring, and the quota more than the log.
fn check_storage(gateway: &Gateway, placed: &Placed<GatewayRead>, report: &Report) {
    let storage = &gateway.storage;
    let Some(segment) = storage.segment_bytes else { return };
    let body = gateway.limits.body_bytes_max as u64;
    if u64::from(segment) / 2 < body {
        let place = placed.place("spec.storage.segmentBytes");
        report.problem(format!(
            "{place}: spec.storage.segmentBytes is {segment}: a segment holds two of the largest \
             bodies ({body} bytes); enlarge it, or lower limits.bodyBytesMax"
        ));
    }
    let defaults = StorageOptions::new(PathBuf::new(), Clock::system());
    let segments = storage.log_segments.unwrap_or(defaults.log_segments);
    let log = u64::from(segment) * u64::from(segments);
    if let Some(quota) = storage.quota_bytes.filter(|quota| *quota <= log) {
        let place = placed.place("spec.storage.quotaBytes");
        report.problem(format!(
            "{place}: spec.storage.quotaBytes is {quota}, but the log alone takes {log}: enlarge \
             it, or use fewer or smaller segments"
        ));
    }
}

fn plain_door(listen: SocketAddr) -> MqttPlan {
    MqttPlan {
        listen: Some(listen),
        tls: None,
        pubsub: String::new(),
        allow_anonymous: false,
        limits: MqttLimits::default(),
    }
}

/// The component that the door stands before: the named one, else the only one.
fn door_pubsub(
    mqtt: &MqttPlan,
    placed: &Placed<GatewayRead>,
    found: &Found,
    by_default: bool,
) -> Result<String, String> {
    let embedded = || {
        let components = found.components.iter().map(|one| &one.value);
        components.filter(|component| component.type_name == EMBEDDED).map(|c| c.name.as_str())
    };
    let names: Vec<_> = embedded().collect();
    let wanted = match placed.value.gateway.mqtt {
        Some(_) => mqtt.pubsub.as_str(),
        None => "",
    };
    match names.as_slice() {
        _ if !wanted.is_empty() && names.contains(&wanted) => Ok(wanted.into()),
        _ if !wanted.is_empty() => {
            Err(format!("no {EMBEDDED} is called '{wanted}': {}", known(embedded())))
        }
        [one] => Ok((*one).into()),
        [] => Err(format!("the MQTT door needs a component of type {EMBEDDED}: add one")),
        // The developer's door keeps to the default component when others come.
        several if by_default && several.contains(&"pubsub") => Ok("pubsub".into()),
        _ => Err(format!(
            "the MQTT door stands before one {EMBEDDED}: name it in a Gateway's spec.mqtt.pubsub, {}",
            known(embedded())
        )),
    }
}

/// Nobody needs a name on loopback while there are no users; elsewhere only if it is said.
fn anonymous(mqtt: &mut MqttPlan, placed: &Placed<GatewayRead>, found: &Found, report: &Report) {
    let tls = mqtt.tls.as_ref().map(|tls| tls.listen);
    let local = mqtt.listen.iter().chain(&tls).all(|listen| listen.ip().is_loopback());
    let default = local && found.mqtt_users.is_empty();
    mqtt.allow_anonymous = placed.value.allow_anonymous.unwrap_or(default);
    if !mqtt.allow_anonymous && found.mqtt_users.is_empty() {
        report.problem(format!(
            "{}: the MQTT door has no users and is open to other machines: add an MqttUser, listen \
             on 127.0.0.1, or write allowAnonymous: true in a Gateway's spec.mqtt",
            placed.place("spec.mqtt")
        ));
    }
}

/// A user who has no password must be able to show a certificate.
fn passwords(mqtt: Option<&MqttPlan>, found: &Found, report: &Report) {
    let tls = mqtt.and_then(|mqtt| mqtt.tls.as_ref());
    if tls.is_some_and(|tls| tls.client_ca.is_some()) {
        return;
    }
    for user in found.mqtt_users.iter().filter(|user| user.value.password_hash.is_none()) {
        report.problem(format!(
            "{}: spec.passwordHash is missing: write what mosquitto_passwd makes, or let users \
             show certificates with a Gateway's spec.mqtt.tls.clientCa",
            user.place("spec")
        ));
    }
}

/// Reports listeners that cannot both be opened.
pub(super) fn listeners(gateway: &Gateway, apps: &[Placed<AppPlan>], report: &Report) {
    let mut taken: Vec<(SocketAddr, String, String)> = Vec::new();
    let mut take = |address: SocketAddr, what: String, place: String| {
        let same = |one: &&(SocketAddr, String, String)| collides(one.0, address);
        if let Some((_, other, _)) = taken.iter().find(same) {
            report.problem(format!(
                "{place}: {what} and {other} both listen on {address}: change one"
            ));
        }
        taken.push((address, what, place));
    };
    if let Some(address) = gateway.metrics {
        take(address, "metrics".into(), "Gateway".into());
    }
    if let Some(mqtt) = &gateway.mqtt {
        let tls = mqtt.tls.as_ref().map(|tls| tls.listen);
        for address in mqtt.listen.into_iter().chain(tls) {
            take(address, "the MQTT door".into(), "Gateway".into());
        }
    }
    let mut sockets = BTreeMap::new();
    for app in apps {
        for address in &app.value.listen {
            take(*address, format!("app '{}'", app.value.id), app.place("spec.listen.http"));
        }
        let Some(path) = &app.value.unix_socket else { continue };
        if let Some(other) = sockets.insert(path, &app.value.id) {
            let (place, id) = (app.place("spec.listen.http"), &app.value.id);
            let path = path.display();
            report.problem(format!(
                "{place}: app '{id}' and app '{other}' both listen on {path}: change one"
            ));
        }
    }
}

/// Whether two listeners cannot both be opened. Port 0 is any free one.
fn collides(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip()
            || (one.is_ipv4() == other.is_ipv4() && (is_any(one) || is_any(other))))
}
