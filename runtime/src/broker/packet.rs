//! The packets of MQTT 3.1.1 and 5, one set of types for both.
//!
//! The rules speak in reasons of MQTT 5; the codec turns them into what 3.1.1 has.

use bytes::Bytes;
use std::sync::Arc;

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// Quality of service.
#[expect(clippy::enum_variant_names, reason = "the names are the standard's own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Qos {
    /// Sent once, never acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS of this number.
    pub(crate) const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// A reason code of MQTT 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Reason(pub(crate) u8);

impl Reason {
    pub(crate) const SUCCESS: Reason = Reason(0x00);
    pub(crate) const WITH_WILL: Reason = Reason(0x04);
    pub(crate) const NO_SUBSCRIPTION: Reason = Reason(0x11);
    pub(crate) const UNSPECIFIED: Reason = Reason(0x80);
    pub(crate) const MALFORMED: Reason = Reason(0x81);
    pub(crate) const PROTOCOL_ERROR: Reason = Reason(0x82);
    pub(crate) const IMPLEMENTATION: Reason = Reason(0x83);
    pub(crate) const UNSUPPORTED_VERSION: Reason = Reason(0x84);
    pub(crate) const CLIENT_ID: Reason = Reason(0x85);
    pub(crate) const BAD_CREDENTIALS: Reason = Reason(0x86);
    pub(crate) const NOT_AUTHORIZED: Reason = Reason(0x87);
    pub(crate) const UNAVAILABLE: Reason = Reason(0x88);
    pub(crate) const BUSY: Reason = Reason(0x89);
    pub(crate) const SHUTTING_DOWN: Reason = Reason(0x8B);
    pub(crate) const BAD_AUTHENTICATION_METHOD: Reason = Reason(0x8C);
    pub(crate) const KEEP_ALIVE_TIMEOUT: Reason = Reason(0x8D);
    pub(crate) const TAKEN_OVER: Reason = Reason(0x8E);
    pub(crate) const FILTER_INVALID: Reason = Reason(0x8F);
    pub(crate) const TOPIC_INVALID: Reason = Reason(0x90);
    pub(crate) const ID_NOT_FOUND: Reason = Reason(0x92);
    pub(crate) const RECEIVE_MAXIMUM: Reason = Reason(0x93);
    pub(crate) const ALIAS_INVALID: Reason = Reason(0x94);
    pub(crate) const PACKET_TOO_LARGE: Reason = Reason(0x95);
    pub(crate) const QUOTA_EXCEEDED: Reason = Reason(0x97);
    pub(crate) const ADMINISTRATIVE: Reason = Reason(0x98);
    pub(crate) const SHARED_UNSUPPORTED: Reason = Reason(0x9E);

    /// Whether it refuses.
    pub(crate) const fn is_error(self) -> bool {
        self.0 >= 0x80
    }
}

/// Every property of MQTT 5. Which packet may carry which is the codec's to check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) payload_is_utf8: Option<bool>,
    pub(crate) message_expiry_s: Option<u32>,
    pub(crate) content_type: Option<Arc<str>>,
    pub(crate) response_topic: Option<Arc<str>>,
    pub(crate) correlation_data: Option<Bytes>,
    pub(crate) subscription_ids: Vec<u32>,
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) assigned_client_id: Option<Arc<str>>,
    pub(crate) server_keep_alive_s: Option<u16>,
    pub(crate) authentication_method: Option<Arc<str>>,
    pub(crate) authentication_data: Option<Bytes>,
    pub(crate) request_problem: Option<bool>,
    pub(crate) will_delay_s: Option<u32>,
    pub(crate) request_response: Option<bool>,
    pub(crate) response_information: Option<Arc<str>>,
    pub(crate) server_reference: Option<Arc<str>>,
    pub(crate) reason_string: Option<Arc<str>>,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) topic_alias: Option<u16>,
    pub(crate) maximum_qos_1: Option<bool>,
    pub(crate) retain_available: Option<bool>,
    pub(crate) user: Vec<(String, String)>,
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) wildcards_available: Option<bool>,
    pub(crate) subscription_ids_available: Option<bool>,
    pub(crate) shared_available: Option<bool>,
}

/// Properties take no room in a packet that has none.
pub(crate) type Extra = Option<Box<Properties>>;

/// What a client leaves behind to be published when it vanishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) properties: Extra,
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    /// Clean session in 3.1.1.
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) client_id: Arc<str>,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<Arc<str>>,
    pub(crate) password: Option<Bytes>,
    pub(crate) properties: Extra,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) reason: Reason,
    pub(crate) properties: Extra,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// Empty where an alias stands for it.
    pub(crate) topic: Arc<str>,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// Owned, no slice of a read buffer.
    pub(crate) payload: Bytes,
    pub(crate) properties: Extra,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) packet_id: u16,
    pub(crate) reason: Reason,
    pub(crate) properties: Extra,
}

impl Ack {
    /// Without properties.
    pub(crate) const fn new(packet_id: u16, reason: Reason) -> Self {
        Self { packet_id, reason, properties: None }
    }
}

/// When a subscription brings retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Always = 0,
    /// If the subscription is new.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) filter: String,
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) packet_id: u16,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) properties: Extra,
}

/// SUBACK and UNSUBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reasons {
    pub(crate) packet_id: u16,
    /// One per filter; a granted QoS is its number. An UNSUBACK of 3.1.1 has none.
    pub(crate) reasons: Vec<Reason>,
    pub(crate) properties: Extra,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<String>,
    pub(crate) properties: Extra,
}

/// DISCONNECT and AUTH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) reason: Reason,
    pub(crate) properties: Extra,
}

/// A control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Connect(Box<Connect>),
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(Reasons),
    Unsubscribe(Unsubscribe),
    UnsubAck(Reasons),
    PingReq,
    PingResp,
    Disconnect(Notice),
    Auth(Notice),
}

impl Packet {
    /// Type in the first four bits of the fixed header.
    pub(crate) const fn kind(&self) -> u8 {
        match self {
            Packet::Connect(_) => 1,
            Packet::ConnAck(_) => 2,
            Packet::Publish(_) => 3,
            Packet::PubAck(_) => 4,
            Packet::PubRec(_) => 5,
            Packet::PubRel(_) => 6,
            Packet::PubComp(_) => 7,
            Packet::Subscribe(_) => 8,
            Packet::SubAck(_) => 9,
            Packet::Unsubscribe(_) => 10,
            Packet::UnsubAck(_) => 11,
            Packet::PingReq => 12,
            Packet::PingResp => 13,
            Packet::Disconnect(_) => 14,
            Packet::Auth(_) => 15,
        }
    }

    /// Roughly what it takes on the wire, for bounds of queues.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Packet::Publish(publish) => publish.payload.len() + publish.topic.len() + 16,
            Packet::SubAck(reasons) => reasons.reasons.len() + 8,
            _ => 8,
        }
    }
}

/// Names of packets by their kind, for metrics.
pub(crate) const KINDS: [&str; 16] = [
    "RESERVED",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];
