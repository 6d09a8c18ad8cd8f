//! Packets to bytes.

use super::{VARINT_MAX, properties};
use crate::broker::packet::{
    Ack, ConnAck, Connect, Extra, Packet, Publish, Qos, Reason, Reasons, Subscribe, Unsubscribe,
    Version,
};

/// Appends `packet` to `out`. What a version does not have is left out: 3.1.1 has no reasons but
/// those of CONNACK and SUBACK, and a server of 3.1.1 sends no DISCONNECT.
pub(crate) fn encode(packet: &Packet, version: Version, out: &mut Vec<u8>) {
    let flags = match packet {
        Packet::Publish(p) => u8::from(p.dup) << 3 | (p.qos as u8) << 1 | u8::from(p.retain),
        Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => 2,
        _ => 0,
    };
    out.push(packet.kind() << 4 | flags);
    // Room for the longest length; what is not needed is closed up below.
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(packet, version, out);
    let remaining = out.len() - length_at - 4;
    let mut length = Vec::with_capacity(4);
    varint(u32::try_from(remaining).unwrap_or(VARINT_MAX), &mut length);
    out.splice(length_at..length_at + 4, length);
}

/// Length of `packet` on the wire.
pub(crate) fn encoded_len(packet: &Packet, version: Version) -> usize {
    let mut out = Vec::with_capacity(packet.weight());
    encode(packet, version, &mut out);
    out.len()
}

fn body(packet: &Packet, version: Version, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect(packet) => connect(packet, out),
        Packet::ConnAck(packet) => conn_ack(packet, version, out),
        Packet::Publish(packet) => publish(packet, version, out),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack_body(ack, version, out);
        }
        Packet::Subscribe(packet) => subscribe(packet, version, out),
        Packet::Unsubscribe(packet) => unsubscribe(packet, version, out),
        Packet::SubAck(packet) => reasons(packet, version, true, out),
        Packet::UnsubAck(packet) => reasons(packet, version, version == Version::V5, out),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(notice) | Packet::Auth(notice) => {
            reason_and_extra(notice.reason, &notice.properties, version, out);
        }
    }
}

fn connect(packet: &Connect, out: &mut Vec<u8>) {
    binary(b"MQTT", out);
    out.push(if packet.version == Version::V4 { 4 } else { 5 });
    let mut flags = u8::from(packet.clean_start) << 1;
    if let Some(will) = &packet.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(packet.user_name.is_some()) << 7;
    flags |= u8::from(packet.password.is_some()) << 6;
    out.push(flags);
    out.extend_from_slice(&packet.keep_alive_s.to_be_bytes());
    extra(&packet.properties, packet.version, out);
    binary(packet.client_id.as_bytes(), out);
    if let Some(will) = &packet.will {
        extra(&will.properties, packet.version, out);
        binary(will.topic.as_bytes(), out);
        binary(&will.payload, out);
    }
    if let Some(name) = &packet.user_name {
        binary(name.as_bytes(), out);
    }
    if let Some(password) = &packet.password {
        binary(password, out);
    }
}

fn conn_ack(packet: &ConnAck, version: Version, out: &mut Vec<u8>) {
    out.push(u8::from(packet.session_present));
    out.push(match version {
        Version::V4 => return_code(packet.reason),
        Version::V5 => packet.reason.0,
    });
    extra(&packet.properties, version, out);
}

/// Return code of a 3.1.1 CONNACK for a reason of MQTT 5.
fn return_code(reason: Reason) -> u8 {
    match reason {
        Reason::SUCCESS => 0,
        Reason::UNSUPPORTED_VERSION => 1,
        Reason::CLIENT_ID => 2,
        Reason::BAD_CREDENTIALS => 4,
        Reason::NOT_AUTHORIZED => 5,
        // Server unavailable.
        _ => 3,
    }
}

fn publish(packet: &Publish, version: Version, out: &mut Vec<u8>) {
    binary(packet.topic.as_bytes(), out);
    if packet.qos != Qos::AtMostOnce {
        out.extend_from_slice(&packet.packet_id.to_be_bytes());
    }
    extra(&packet.properties, version, out);
    out.extend_from_slice(&packet.payload);
}

fn ack_body(ack: &Ack, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&ack.packet_id.to_be_bytes());
    reason_and_extra(ack.reason, &ack.properties, version, out);
}

fn reason_and_extra(reason: Reason, properties: &Extra, version: Version, out: &mut Vec<u8>) {
    if version == Version::V4 || (reason == Reason::SUCCESS && properties.is_none()) {
        return;
    }
    out.push(reason.0);
    if properties.is_some() {
        extra(properties, version, out);
    }
}

fn subscribe(packet: &Subscribe, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.to_be_bytes());
    extra(&packet.properties, version, out);
    for wish in &packet.wishes {
        binary(wish.filter.as_bytes(), out);
        let options = wish.qos as u8
            | u8::from(wish.no_local) << 2
            | u8::from(wish.retain_as_published) << 3
            | (wish.retain_handling as u8) << 4;
        out.push(if version == Version::V4 { options & 3 } else { options });
    }
}

fn unsubscribe(packet: &Unsubscribe, version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.to_be_bytes());
    extra(&packet.properties, version, out);
    for filter in &packet.filters {
        binary(filter.as_bytes(), out);
    }
}

fn reasons(packet: &Reasons, version: Version, with_reasons: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.packet_id.to_be_bytes());
    extra(&packet.properties, version, out);
    if with_reasons {
        out.extend(packet.reasons.iter().map(|reason| match version {
            Version::V4 if reason.is_error() => Reason::UNSPECIFIED.0,
            _ => reason.0,
        }));
    }
}

fn extra(properties: &Extra, version: Version, out: &mut Vec<u8>) {
    if version == Version::V5 {
        properties::encode(properties.as_deref(), out);
    }
}

/// Appends a variable byte integer.
pub(super) fn varint(mut value: u32, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7F).unwrap_or(0x7F);
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends bytes with their two-byte length. Ours are never longer than it can say; a longer
/// string of an app's metadata is cut to it.
pub(super) fn binary(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}
