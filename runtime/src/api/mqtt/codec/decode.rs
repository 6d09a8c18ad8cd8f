//! Bytes to packets.

use super::properties::{self, Place, WILL, place};
use super::{Bad, LIST_MAX, Reader, varint};
use crate::broker::packet::{
    Ack, ConnAck, Connect, Extra, Notice, Packet, Publish, Qos, Reason, Reasons, RetainHandling,
    Subscribe, Unsubscribe, Version, Will, Wish,
};
use bytes::Bytes;
use std::sync::Arc;

/// The first packet in `bytes` and its length; `None` while it is incomplete. A CONNECT carries
/// its version itself, every other packet is of `version`.
pub(crate) fn decode(
    bytes: &[u8],
    version: Version,
    packet_bytes_max: u32,
) -> Result<Option<(Packet, usize)>, Bad> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 0x0F);
    check_flags(kind, flags)?;
    let Some((remaining, length_bytes)) = varint(rest)? else { return Ok(None) };
    let header = 1 + length_bytes;
    let remaining = usize::try_from(remaining).unwrap_or(usize::MAX);
    let total = header.saturating_add(remaining);
    if u32::try_from(total).map_or(true, |total| total > packet_bytes_max) {
        return Err(Bad { reason: Reason::PACKET_TOO_LARGE, why: "larger than packet_bytes_max" });
    }
    let Some(body) = bytes.get(header..total) else { return Ok(None) };
    let mut reader = Reader(body);
    let packet = body_of(kind, flags, &mut reader, version)?;
    if !reader.is_empty() {
        return Err(Bad::malformed("bytes behind the last field"));
    }
    Ok(Some((packet, total)))
}

fn check_flags(kind: u8, flags: u8) -> Result<(), Bad> {
    match kind {
        0 => Err(Bad::malformed("packet type 0")),
        3 => Ok(()),
        6 | 8 | 10 if flags == 2 => Ok(()),
        6 | 8 | 10 => Err(Bad::malformed("reserved bits of the fixed header")),
        _ if flags == 0 => Ok(()),
        _ => Err(Bad::malformed("reserved bits of the fixed header")),
    }
}

fn body_of(kind: u8, flags: u8, body: &mut Reader<'_>, version: Version) -> Result<Packet, Bad> {
    Ok(match kind {
        1 => Packet::Connect(Box::new(connect(body)?)),
        2 => Packet::ConnAck(conn_ack(body, version)?),
        3 => Packet::Publish(publish(flags, body, version)?),
        4 => Packet::PubAck(ack(kind, body, version)?),
        5 => Packet::PubRec(ack(kind, body, version)?),
        6 => Packet::PubRel(ack(kind, body, version)?),
        7 => Packet::PubComp(ack(kind, body, version)?),
        8 => Packet::Subscribe(subscribe(body, version)?),
        9 => Packet::SubAck(reasons(kind, body, version)?),
        10 => Packet::Unsubscribe(unsubscribe(body, version)?),
        11 => Packet::UnsubAck(reasons(kind, body, version)?),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        14 => Packet::Disconnect(notice(kind, body, version)?),
        15 if version == Version::V5 => Packet::Auth(notice(kind, body, version)?),
        _ => return Err(Bad::malformed("a packet type that this version does not have")),
    })
}

fn extra(body: &mut Reader<'_>, version: Version, at: Place) -> Result<Extra, Bad> {
    match version {
        Version::V4 => Ok(None),
        Version::V5 => properties::decode(body, at),
    }
}

const UNSUPPORTED: Bad =
    Bad { reason: Reason::UNSUPPORTED_VERSION, why: "neither MQTT 3.1.1 nor MQTT 5" };

fn connect(body: &mut Reader<'_>) -> Result<Connect, Bad> {
    if body.text()? != "MQTT" {
        return Err(UNSUPPORTED);
    }
    let version = match body.u8()? {
        4 => Version::V4,
        5 => Version::V5,
        _ => return Err(UNSUPPORTED),
    };
    let flags = body.u8()?;
    let has = |bit: u8| flags & bit != 0;
    if has(0x01) {
        return Err(Bad::malformed("reserved connect flag"));
    }
    let keep_alive_s = body.u16()?;
    let properties = extra(body, version, place(1))?;
    let client_id = Arc::from(body.text()?);
    let will_qos = Qos::from_u8(flags >> 3 & 3).ok_or(Bad::malformed("QoS 3 of a will"))?;
    let will = if has(0x04) {
        Some(Will {
            properties: extra(body, version, WILL)?,
            topic: Arc::from(body.text()?),
            payload: Bytes::copy_from_slice(body.binary()?),
            qos: will_qos,
            retain: has(0x20),
        })
    } else if has(0x38) {
        return Err(Bad::malformed("will flags without a will"));
    } else {
        None
    };
    if version == Version::V4 && has(0x40) && !has(0x80) {
        return Err(Bad::malformed("a password without a user name"));
    }
    let user_name = if has(0x80) { Some(Arc::from(body.text()?)) } else { None };
    let password = if has(0x40) { Some(Bytes::copy_from_slice(body.binary()?)) } else { None };
    Ok(Connect {
        version,
        clean_start: has(0x02),
        keep_alive_s,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

fn conn_ack(body: &mut Reader<'_>, version: Version) -> Result<ConnAck, Bad> {
    let flags = body.u8()?;
    if flags > 1 {
        return Err(Bad::malformed("reserved bits of a CONNACK"));
    }
    let reason = Reason(body.u8()?);
    Ok(ConnAck { session_present: flags == 1, reason, properties: extra(body, version, place(2))? })
}

fn publish(flags: u8, body: &mut Reader<'_>, version: Version) -> Result<Publish, Bad> {
    let qos = Qos::from_u8(flags >> 1 & 3).ok_or(Bad::malformed("QoS 3"))?;
    let dup = flags & 8 != 0;
    if dup && qos == Qos::AtMostOnce {
        return Err(Bad::malformed("DUP at QoS 0"));
    }
    let topic = Arc::from(body.text()?);
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { body.packet_id()? };
    let properties = extra(body, version, place(3))?;
    let payload = Bytes::copy_from_slice(body.take(body.0.len())?);
    Ok(Publish { dup, qos, retain: flags & 1 != 0, topic, packet_id, payload, properties })
}

fn ack(kind: u8, body: &mut Reader<'_>, version: Version) -> Result<Ack, Bad> {
    let packet_id = body.packet_id()?;
    let (reason, properties) = reason_and_extra(kind, body, version)?;
    Ok(Ack { packet_id, reason, properties })
}

fn notice(kind: u8, body: &mut Reader<'_>, version: Version) -> Result<Notice, Bad> {
    let (reason, properties) = reason_and_extra(kind, body, version)?;
    Ok(Notice { reason, properties })
}

/// MQTT 5 leaves out a reason of success and an empty block of properties.
fn reason_and_extra(
    kind: u8,
    body: &mut Reader<'_>,
    version: Version,
) -> Result<(Reason, Extra), Bad> {
    if version == Version::V4 || body.is_empty() {
        return Ok((Reason::SUCCESS, None));
    }
    let reason = Reason(body.u8()?);
    let properties = if body.is_empty() { None } else { extra(body, version, place(kind))? };
    Ok((reason, properties))
}

fn subscribe(body: &mut Reader<'_>, version: Version) -> Result<Subscribe, Bad> {
    let packet_id = body.packet_id()?;
    let properties = extra(body, version, place(8))?;
    let wishes = list(body, |body| {
        let filter = body.text()?.to_owned();
        let options = body.u8()?;
        let reserved = if version == Version::V4 { 0xFC } else { 0xC0 };
        if options & reserved != 0 {
            return Err(Bad::malformed("reserved bits of subscription options"));
        }
        Ok(Wish {
            filter,
            qos: Qos::from_u8(options & 3).ok_or(Bad::malformed("QoS 3 of a subscription"))?,
            no_local: options & 4 != 0,
            retain_as_published: options & 8 != 0,
            retain_handling: match options >> 4 & 3 {
                0 => RetainHandling::Always,
                1 => RetainHandling::IfNew,
                2 => RetainHandling::Never,
                _ => return Err(Bad::protocol("retain handling 3")),
            },
        })
    })?;
    Ok(Subscribe { packet_id, wishes, properties })
}

fn unsubscribe(body: &mut Reader<'_>, version: Version) -> Result<Unsubscribe, Bad> {
    let packet_id = body.packet_id()?;
    let properties = extra(body, version, place(10))?;
    let filters = list(body, |body| body.text().map(str::to_owned))?;
    Ok(Unsubscribe { packet_id, filters, properties })
}

/// At least one item, up to the end of the packet.
fn list<'a, T>(
    body: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, Bad>,
) -> Result<Vec<T>, Bad> {
    let mut items = Vec::new();
    while !body.is_empty() {
        if items.len() >= LIST_MAX {
            return Err(Bad {
                reason: Reason::QUOTA_EXCEEDED,
                why: "too many filters in a packet",
            });
        }
        items.push(item(body)?);
    }
    if items.is_empty() { Err(Bad::protocol("no filter")) } else { Ok(items) }
}

fn reasons(kind: u8, body: &mut Reader<'_>, version: Version) -> Result<Reasons, Bad> {
    let packet_id = body.packet_id()?;
    let properties = extra(body, version, place(kind))?;
    let reasons = body.take(body.0.len())?.iter().copied().map(Reason).collect();
    Ok(Reasons { packet_id, reasons, properties })
}
