//! The border between a PUBLISH and a message of the pub/sub component.
//!
//! | MQTT | Message |
//! |---|---|
//! | topic, payload, retain | the same |
//! | QoS 0 | [`Assurance::AtMostOnce`] |
//! | QoS 1 | [`Assurance::AtLeastOnce`] |
//! | QoS 2 | the same, with metadata [`QOS`] = `2` |
//! | content type | `content_type` |
//! | message expiry interval | `ttl_ms` |
//! | response topic | metadata [`RESPONSE_TOPIC`] |
//! | correlation data | metadata [`CORRELATION_DATA`], base64 |
//! | payload format indicator | metadata [`PAYLOAD_FORMAT`] = `utf-8` |
//! | user properties | metadata |
//!
//! The names work both ways, so an app can ask a device and be asked through metadata alone.

use super::packet::{Extra, Properties, Publish, Qos, Version, Will};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use pillion_components::pubsub::{Assurance, Message};
use std::sync::Arc;

/// Metadata that says a message was published with QoS 2.
pub(crate) const QOS: &str = "mqtt-qos";
/// Metadata that holds the response topic.
pub(crate) const RESPONSE_TOPIC: &str = "mqtt-response-topic";
/// Metadata that holds the correlation data in base64.
pub(crate) const CORRELATION_DATA: &str = "mqtt-correlation-data";
/// Metadata that says the payload is UTF-8.
pub(crate) const PAYLOAD_FORMAT: &str = "mqtt-payload-format";

/// Longest string of MQTT.
const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// Origin of what this client publishes.
pub(crate) fn origin_of(client_id: &str) -> Arc<str> {
    format!("mqtt:{client_id}").into()
}

/// The message that a client publishes. The topic is known by now, alias or not.
pub(crate) fn from_publish(publish: Publish, origin: Arc<str>) -> Message {
    let Publish { qos, retain, topic, payload, properties, .. } = publish;
    let mut message = Message {
        topic,
        payload,
        assurance: assurance(qos),
        retain,
        origin: Some(origin),
        ..Message::default()
    };
    take_properties(&mut message, qos, properties);
    message
}

/// The message of a will.
pub(crate) fn from_will(will: Will, origin: Arc<str>) -> Message {
    let Will { topic, payload, qos, retain, properties } = will;
    let publish = Publish { dup: false, qos, retain, topic, packet_id: 0, payload, properties };
    from_publish(publish, origin)
}

fn assurance(qos: Qos) -> Assurance {
    if qos == Qos::AtMostOnce { Assurance::AtMostOnce } else { Assurance::AtLeastOnce }
}

fn take_properties(message: &mut Message, qos: Qos, properties: Extra) {
    if qos == Qos::ExactlyOnce {
        message.metadata.push((QOS.into(), "2".into()));
    }
    let Some(properties) = properties else { return };
    message.content_type = properties.content_type;
    message.ttl_ms = properties.message_expiry_s.map(|seconds| u64::from(seconds) * 1000);
    if let Some(topic) = properties.response_topic {
        message.metadata.push((RESPONSE_TOPIC.into(), topic.as_ref().into()));
    }
    if let Some(data) = properties.correlation_data {
        message.metadata.push((CORRELATION_DATA.into(), BASE64.encode(data)));
    }
    if properties.payload_is_utf8 == Some(true) {
        message.metadata.push((PAYLOAD_FORMAT.into(), "utf-8".into()));
    }
    message.metadata.extend(properties.user);
}

/// QoS with which a message was published. What an app published counts as QoS 1.
pub(crate) fn qos_of(message: &Message) -> Qos {
    match message.assurance {
        Assurance::AtMostOnce => Qos::AtMostOnce,
        Assurance::AtLeastOnce => {
            let twice = message.metadata.iter().any(|(name, value)| name == QOS && value == "2");
            if twice { Qos::ExactlyOnce } else { Qos::AtLeastOnce }
        }
    }
}

/// How a message goes to one client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// QoS of this delivery.
    pub(crate) qos: Qos,
    /// The retain flag.
    pub(crate) retain: bool,
    /// Sent before.
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// Identifiers of the subscriptions it matches.
    pub(crate) subscription_ids: Vec<u32>,
}

/// The PUBLISH that carries `message` to a client.
pub(crate) fn to_publish(message: &Message, version: Version, manner: Manner) -> Publish {
    let properties = match version {
        Version::V4 => None,
        Version::V5 => properties_of(message, manner.subscription_ids),
    };
    Publish {
        dup: manner.dup,
        qos: manner.qos,
        retain: manner.retain,
        topic: message.topic.clone(),
        packet_id: manner.packet_id,
        payload: message.payload.clone(),
        properties,
    }
}

fn properties_of(message: &Message, subscription_ids: Vec<u32>) -> Extra {
    let mut properties = Properties {
        content_type: message.content_type.clone().filter(|text| is_text(text)),
        message_expiry_s: message.ttl_ms.map(seconds_rounded_up),
        subscription_ids,
        ..Properties::default()
    };
    for (name, value) in &message.metadata {
        match name.as_str() {
            QOS => {}
            RESPONSE_TOPIC if is_text(value) => {
                properties.response_topic = Some(value.as_str().into());
            }
            CORRELATION_DATA => properties.correlation_data = correlation_data(value),
            PAYLOAD_FORMAT => properties.payload_is_utf8 = Some(true),
            _ if is_text(name) && is_text(value) => {
                properties.user.push((name.clone(), value.clone()));
            }
            // An app's text that MQTT cannot say.
            _ => {}
        }
    }
    (properties != Properties::default()).then(|| Box::new(properties))
}

fn correlation_data(value: &str) -> Option<Bytes> {
    BASE64.decode(value).ok().filter(|data| data.len() <= TEXT_BYTES_MAX).map(Bytes::from)
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.contains('\0')
}

fn seconds_rounded_up(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_comes_out_the_same() {
        let properties = Properties {
            payload_is_utf8: Some(true),
            message_expiry_s: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers/1".into()),
            correlation_data: Some(Bytes::from_static(b"\x00\xFF")),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..Properties::default()
        };
        let sent = Publish {
            dup: false,
            qos: Qos::ExactlyOnce,
            retain: true,
            topic: "t".into(),
            packet_id: 7,
            payload: Bytes::from_static(b"x"),
            properties: Some(Box::new(properties)),
        };
        let message = from_publish(sent.clone(), origin_of("c"));
        assert_eq!(qos_of(&message), Qos::ExactlyOnce);
        assert_eq!(message.origin.as_deref(), Some("mqtt:c"));
        let manner =
            Manner { qos: Qos::ExactlyOnce, retain: true, packet_id: 7, ..Manner::default() };
        assert_eq!(to_publish(&message, Version::V5, manner.clone()), sent);
        let old = to_publish(&message, Version::V4, manner);
        assert_eq!(old.properties, None);
    }

    #[test]
    fn metadata_that_mqtt_cannot_say_is_left_out() {
        let message = Message {
            topic: "t".into(),
            metadata: vec![
                ("nul".into(), "a\0b".into()),
                ("long".into(), "x".repeat(70_000)),
                (CORRELATION_DATA.into(), "no base64!".into()),
            ],
            ..Message::default()
        };
        assert_eq!(to_publish(&message, Version::V5, Manner::default()).properties, None);
        assert_eq!(qos_of(&message), Qos::AtLeastOnce);
    }
}
