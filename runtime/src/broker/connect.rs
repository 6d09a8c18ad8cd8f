//! What a CONNECT asks for, and the CONNACK that says what it gets.

use super::packet::{ConnAck, Connect, Properties, Reason, Version, Will};
use super::record::NEVER_S;
use super::{CLIENT_ID_BYTES_MAX, KEEP_ALIVE_MAX_S, TOPIC_ALIASES_MAX};
use crate::resources::MqttLimits;
use pillion_components::topic;
use std::sync::Arc;

/// A CONNECT that follows the rules.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) version: Version,
    pub(crate) client_id: Arc<str>,
    /// The client sent none.
    pub(crate) is_assigned: bool,
    pub(crate) clean_start: bool,
    /// How long the session outlives the connection, in seconds; 0 is not at all.
    pub(crate) expiry_s: u32,
    /// It is shorter than the client asked for.
    pub(crate) expiry_is_ours: bool,
    /// 0 is none.
    pub(crate) keep_alive_s: u16,
    /// It is not what the client asked for.
    pub(crate) keep_alive_is_ours: bool,
    pub(crate) will: Option<Will>,
    pub(crate) will_delay_s: u32,
    /// Unacknowledged messages that the client takes.
    pub(crate) receive_maximum: u16,
    /// Largest packet that the client takes.
    pub(crate) packet_bytes_max: Option<u32>,
}

impl Accepted {
    /// Whether the session outlives the connection.
    pub(crate) const fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }
}

/// Judges a CONNECT that could be decoded.
pub(crate) fn check(
    connect: &mut Connect,
    limits: &MqttLimits,
    new_id: impl FnOnce() -> String,
) -> Result<Accepted, Reason> {
    let properties = connect.properties.take().map(|boxed| *boxed).unwrap_or_default();
    if properties.authentication_method.is_some() || properties.authentication_data.is_some() {
        return Err(Reason::BAD_AUTHENTICATION_METHOD);
    }
    let is_assigned = connect.client_id.is_empty();
    if is_assigned && connect.version == Version::V4 && !connect.clean_start {
        return Err(Reason::CLIENT_ID);
    }
    if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(Reason::CLIENT_ID);
    }
    let will = connect.will.take();
    if will.as_ref().is_some_and(|will| topic::check_name(&will.topic).is_err()) {
        return Err(Reason::TOPIC_INVALID);
    }
    let will_properties = will.as_ref().and_then(|will| will.properties.as_deref());
    let will_delay_s = will_properties.and_then(|p| p.will_delay_s).unwrap_or(0);
    let wanted_s = match connect.version {
        Version::V4 if connect.clean_start => 0,
        Version::V4 => NEVER_S,
        Version::V5 => properties.session_expiry_s.unwrap_or(0),
    };
    let expiry_s = wanted_s.min(longest_expiry_s(limits));
    let (keep_alive_s, keep_alive_is_ours) = keep_alive(connect.version, connect.keep_alive_s);
    Ok(Accepted {
        version: connect.version,
        client_id: if is_assigned { new_id().into() } else { connect.client_id.clone() },
        is_assigned,
        clean_start: connect.clean_start,
        expiry_s,
        expiry_is_ours: expiry_s < wanted_s,
        keep_alive_s,
        keep_alive_is_ours,
        will,
        will_delay_s,
        receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
        packet_bytes_max: properties.packet_bytes_max,
    })
}

/// No session is kept longer than its queue.
fn longest_expiry_s(limits: &MqttLimits) -> u32 {
    limits
        .queue
        .forget_after_ms
        .map_or(NEVER_S, |ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(NEVER_S).max(1))
}

fn keep_alive(version: Version, wanted_s: u16) -> (u16, bool) {
    let is_ours = version == Version::V5 && (wanted_s == 0 || wanted_s > KEEP_ALIVE_MAX_S);
    (if is_ours { KEEP_ALIVE_MAX_S } else { wanted_s }, is_ours)
}

/// The CONNACK that lets a client in.
pub(crate) fn welcome(accepted: &Accepted, session_present: bool, limits: &MqttLimits) -> ConnAck {
    let properties = (accepted.version == Version::V5).then(|| {
        Box::new(Properties {
            assigned_client_id: accepted.is_assigned.then(|| accepted.client_id.clone()),
            session_expiry_s: accepted.expiry_is_ours.then_some(accepted.expiry_s),
            server_keep_alive_s: accepted.keep_alive_is_ours.then_some(accepted.keep_alive_s),
            receive_maximum: Some(limits.inflight_max.max(1)),
            packet_bytes_max: Some(limits.packet_bytes_max.max(1)),
            topic_alias_maximum: Some(TOPIC_ALIASES_MAX),
            shared_available: Some(false),
            ..Properties::default()
        })
    });
    ConnAck { session_present, reason: Reason::SUCCESS, properties }
}

/// The CONNACK that does not.
pub(crate) const fn refusal(reason: Reason) -> ConnAck {
    ConnAck { session_present: false, reason, properties: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(version: Version, client_id: &str, clean_start: bool) -> Connect {
        Connect {
            version,
            clean_start,
            keep_alive_s: 0,
            client_id: client_id.into(),
            will: None,
            user_name: None,
            password: None,
            properties: None,
        }
    }

    fn check_one(mut connect: Connect) -> Result<Accepted, Reason> {
        check(&mut connect, &MqttLimits::default(), || "assigned".into())
    }

    #[test]
    fn a_client_without_id_gets_one_unless_it_wants_a_session() {
        let accepted = check_one(connect(Version::V4, "", true)).expect("accepted");
        assert_eq!((&*accepted.client_id, accepted.expiry_s), ("assigned", 0));
        assert_eq!(check_one(connect(Version::V4, "", false)).unwrap_err(), Reason::CLIENT_ID);
        let accepted = check_one(connect(Version::V5, "", false)).expect("accepted");
        let ack = welcome(&accepted, false, &MqttLimits::default());
        let properties = ack.properties.expect("some");
        assert_eq!(properties.assigned_client_id.as_deref(), Some("assigned"));
        assert_eq!(properties.server_keep_alive_s, Some(KEEP_ALIVE_MAX_S));
    }

    #[test]
    fn what_the_rules_forbid_is_refused() {
        let long = connect(Version::V5, &"x".repeat(CLIENT_ID_BYTES_MAX + 1), true);
        assert_eq!(check_one(long).unwrap_err(), Reason::CLIENT_ID);
        let mut with_will = connect(Version::V5, "c", true);
        with_will.will = Some(Will {
            topic: "a/#".into(),
            payload: bytes::Bytes::new(),
            qos: super::super::packet::Qos::AtMostOnce,
            retain: false,
            properties: None,
        });
        assert_eq!(check_one(with_will).unwrap_err(), Reason::TOPIC_INVALID);
        let mut enhanced = connect(Version::V5, "c", true);
        enhanced.properties = Some(Box::new(Properties {
            authentication_method: Some("SCRAM".into()),
            ..Properties::default()
        }));
        assert_eq!(check_one(enhanced).unwrap_err(), Reason::BAD_AUTHENTICATION_METHOD);
    }

    #[test]
    fn a_session_is_kept_no_longer_than_its_queue() {
        let thirty_days_s = 30 * 24 * 3600;
        let accepted = check_one(connect(Version::V4, "c", false)).expect("accepted");
        assert_eq!(accepted.expiry_s, thirty_days_s);
        let mut lasting = connect(Version::V5, "c", false);
        lasting.properties =
            Some(Box::new(Properties { session_expiry_s: Some(NEVER_S), ..Properties::default() }));
        let accepted = check_one(lasting).expect("accepted");
        let ack = welcome(&accepted, false, &MqttLimits::default());
        assert_eq!(ack.properties.and_then(|p| p.session_expiry_s), Some(thirty_days_s));
    }
}
