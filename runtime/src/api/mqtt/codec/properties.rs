//! The properties of MQTT 5: which there are, where each may stand, and their bytes.

use super::{Bad, LIST_MAX, Reader, VARINT_MAX};
use crate::broker::packet::{Properties, Reason};
use bytes::Bytes;
use std::sync::Arc;

/// Where properties stand: one bit per kind of packet, and one for wills.
pub(super) type Place = u16;
/// The place of a packet of this kind.
pub(super) const fn place(kind: u8) -> Place {
    1 << kind
}
/// Properties of a will.
pub(super) const WILL: Place = 1;

const CONNECT: Place = place(1);
const CONNACK: Place = place(2);
const PUBLISH: Place = place(3);
const SUBSCRIBE: Place = place(8);
const DISCONNECT: Place = place(14);
const AUTH: Place = place(15);
const ANY: Place = !WILL;
const ANSWER: Place = ANY & !(CONNECT | PUBLISH | SUBSCRIBE | place(10));

/// Where the property of this number may stand; `None` for a number that is none.
const fn allowed(id: u8) -> Option<Place> {
    Some(match id {
        1 | 2 | 3 | 8 | 9 => PUBLISH | WILL,
        11 => PUBLISH | SUBSCRIBE,
        17 => CONNECT | CONNACK | DISCONNECT,
        18 | 19 | 26 | 36 | 37 | 40 | 41 | 42 => CONNACK,
        21 | 22 => CONNECT | CONNACK | AUTH,
        23 | 25 => CONNECT,
        24 => WILL,
        28 => CONNACK | DISCONNECT,
        31 => ANSWER,
        33 | 34 | 39 => CONNECT | CONNACK,
        35 => PUBLISH,
        38 => ANY | WILL,
        _ => return None,
    })
}

/// Reads a block of properties; `None` if it is empty.
pub(super) fn decode(reader: &mut Reader<'_>, at: Place) -> Result<Option<Box<Properties>>, Bad> {
    let length = reader.varint()?;
    if length == 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Bad::malformed("properties too long"))?;
    let mut block = Reader(reader.take(length)?);
    let mut properties = Box::<Properties>::default();
    let mut seen = 0_u64;
    while !block.is_empty() {
        // All numbers there are fit one byte of the variable byte integer.
        let id = block.u8()?;
        let places = allowed(id).ok_or(Bad::malformed("an unknown property"))?;
        if places & at == 0 {
            return Err(Bad::protocol("a property that this packet may not have"));
        }
        let repeats = id == 38 || (id == 11 && at == PUBLISH);
        if seen & (1 << id) != 0 && !repeats {
            return Err(Bad::protocol("a property stands twice"));
        }
        seen |= 1 << id;
        decode_one(&mut block, id, &mut properties)?;
    }
    Ok(Some(properties))
}

fn decode_one(block: &mut Reader<'_>, id: u8, to: &mut Properties) -> Result<(), Bad> {
    match id {
        1 => to.payload_is_utf8 = Some(flag(block)?),
        2 => to.message_expiry_s = Some(block.u32()?),
        3 => to.content_type = Some(text(block)?),
        8 => to.response_topic = Some(text(block)?),
        9 => to.correlation_data = Some(binary(block)?),
        11 => {
            let id = block.varint()?;
            if id == 0 {
                return Err(Bad::protocol("subscription identifier 0"));
            }
            push(&mut to.subscription_ids, id)?;
        }
        17 => to.session_expiry_s = Some(block.u32()?),
        18 => to.assigned_client_id = Some(text(block)?),
        19 => to.server_keep_alive_s = Some(block.u16()?),
        21 => to.authentication_method = Some(text(block)?),
        22 => to.authentication_data = Some(binary(block)?),
        23 => to.request_problem = Some(flag(block)?),
        24 => to.will_delay_s = Some(block.u32()?),
        25 => to.request_response = Some(flag(block)?),
        26 => to.response_information = Some(text(block)?),
        28 => to.server_reference = Some(text(block)?),
        31 => to.reason_string = Some(text(block)?),
        33 => to.receive_maximum = Some(not_zero(block.u16()?, "receive maximum 0")?),
        34 => to.topic_alias_maximum = Some(block.u16()?),
        35 => {
            let alias = block.u16()?;
            if alias == 0 {
                return Err(Bad { reason: Reason::ALIAS_INVALID, why: "topic alias 0" });
            }
            to.topic_alias = Some(alias);
        }
        36 => to.maximum_qos_1 = Some(flag(block)?),
        37 => to.retain_available = Some(flag(block)?),
        38 => {
            let pair = (block.text()?.to_owned(), block.text()?.to_owned());
            push(&mut to.user, pair)?;
        }
        39 => to.packet_bytes_max = Some(not_zero(block.u32()?, "maximum packet size 0")?),
        40 => to.wildcards_available = Some(flag(block)?),
        41 => to.subscription_ids_available = Some(flag(block)?),
        42 => to.shared_available = Some(flag(block)?),
        _ => return Err(Bad::malformed("an unknown property")),
    }
    Ok(())
}

fn flag(block: &mut Reader<'_>) -> Result<bool, Bad> {
    match block.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Bad::protocol("a property that is 0 or 1 is neither")),
    }
}

fn text(block: &mut Reader<'_>) -> Result<Arc<str>, Bad> {
    block.text().map(Arc::from)
}

fn binary(block: &mut Reader<'_>) -> Result<Bytes, Bad> {
    block.binary().map(Bytes::copy_from_slice)
}

fn not_zero<N: Default + PartialEq>(value: N, why: &'static str) -> Result<N, Bad> {
    if value == N::default() { Err(Bad::protocol(why)) } else { Ok(value) }
}

fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), Bad> {
    if list.len() >= LIST_MAX {
        return Err(Bad { reason: Reason::QUOTA_EXCEEDED, why: "too many properties" });
    }
    list.push(item);
    Ok(())
}

/// Appends the block of properties with its length.
pub(super) fn encode(properties: Option<&Properties>, out: &mut Vec<u8>) {
    let Some(properties) = properties else {
        out.push(0);
        return;
    };
    let mut block = Vec::with_capacity(32);
    let p = properties;
    flag_out(&mut block, 1, p.payload_is_utf8);
    u32_out(&mut block, 2, p.message_expiry_s);
    text_out(&mut block, 3, p.content_type.as_deref());
    text_out(&mut block, 8, p.response_topic.as_deref());
    binary_out(&mut block, 9, p.correlation_data.as_deref());
    for id in &p.subscription_ids {
        block.push(11);
        super::encode::varint(*id, &mut block);
    }
    u32_out(&mut block, 17, p.session_expiry_s);
    text_out(&mut block, 18, p.assigned_client_id.as_deref());
    u16_out(&mut block, 19, p.server_keep_alive_s);
    text_out(&mut block, 21, p.authentication_method.as_deref());
    binary_out(&mut block, 22, p.authentication_data.as_deref());
    flag_out(&mut block, 23, p.request_problem);
    u32_out(&mut block, 24, p.will_delay_s);
    flag_out(&mut block, 25, p.request_response);
    text_out(&mut block, 26, p.response_information.as_deref());
    text_out(&mut block, 28, p.server_reference.as_deref());
    text_out(&mut block, 31, p.reason_string.as_deref());
    u16_out(&mut block, 33, p.receive_maximum);
    u16_out(&mut block, 34, p.topic_alias_maximum);
    u16_out(&mut block, 35, p.topic_alias);
    flag_out(&mut block, 36, p.maximum_qos_1);
    flag_out(&mut block, 37, p.retain_available);
    for (name, value) in &p.user {
        text_out(&mut block, 38, Some(name));
        super::encode::binary(value.as_bytes(), &mut block);
    }
    u32_out(&mut block, 39, p.packet_bytes_max);
    flag_out(&mut block, 40, p.wildcards_available);
    flag_out(&mut block, 41, p.subscription_ids_available);
    flag_out(&mut block, 42, p.shared_available);
    super::encode::varint(u32::try_from(block.len()).unwrap_or(VARINT_MAX), out);
    out.extend_from_slice(&block);
}

fn flag_out(block: &mut Vec<u8>, id: u8, value: Option<bool>) {
    block.extend(value.map(|value| [id, u8::from(value)]).into_iter().flatten());
}

fn u16_out(block: &mut Vec<u8>, id: u8, value: Option<u16>) {
    if let Some(value) = value {
        block.push(id);
        block.extend_from_slice(&value.to_be_bytes());
    }
}

fn u32_out(block: &mut Vec<u8>, id: u8, value: Option<u32>) {
    if let Some(value) = value {
        block.push(id);
        block.extend_from_slice(&value.to_be_bytes());
    }
}

fn text_out(block: &mut Vec<u8>, id: u8, value: Option<&str>) {
    binary_out(block, id, value.map(str::as_bytes));
}

fn binary_out(block: &mut Vec<u8>, id: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        block.push(id);
        super::encode::binary(value, block);
    }
}
