//! Every packet comes back as it was written, and no bytes bring the decoder down. Packets and
//! bytes are random; the seed is printed and `PILLION_SEED` sets it.

use super::*;
use crate::broker::packet::{
    Ack, ConnAck, Connect, Extra, Notice, Packet, Properties, Publish, Qos, Reasons,
    RetainHandling, Subscribe, Unsubscribe, Version, Will, Wish,
};
use crate::broker::simulation::Random;
use bytes::Bytes;
use std::sync::Arc;

const MAX: u32 = 1 << 20;

fn text(random: &mut Random) -> Arc<str> {
    let length = random.below(12);
    let chars = ['a', 'Z', '/', 'ß', '€', '😀', ' '];
    (0..length).map(|_| *random.choose(&chars)).collect::<String>().into()
}

fn binary(random: &mut Random) -> Bytes {
    (0..random.below(20)).map(|_| random.byte()).collect()
}

fn user(random: &mut Random) -> Vec<(String, String)> {
    (0..random.below(4)).map(|_| (text(random).to_string(), text(random).to_string())).collect()
}

/// Some of the properties that `kind` may carry; 0 is a will.
fn extra(random: &mut Random, version: Version, kind: u8) -> Extra {
    if version == Version::V4 || random.chance(2) {
        return None;
    }
    let mut p = Properties { user: user(random), ..Properties::default() };
    match kind {
        0 | 3 => {
            p.payload_is_utf8 = Some(random.chance(2));
            p.message_expiry_s = Some(random.u32());
            p.content_type = Some(text(random));
            p.response_topic = Some(text(random));
            p.correlation_data = Some(binary(random));
            if kind == 0 {
                p.will_delay_s = Some(random.u32());
            } else {
                p.topic_alias = Some(random.id());
                p.subscription_ids =
                    (0..random.below(3)).map(|_| 1 + random.u32() % 9999).collect();
            }
        }
        1 => {
            p.session_expiry_s = Some(random.u32());
            p.receive_maximum = Some(random.id());
            p.packet_bytes_max = Some(1 + random.u32() / 2);
            p.topic_alias_maximum = Some(random.id());
            p.request_problem = Some(random.chance(2));
            p.request_response = Some(random.chance(2));
            p.authentication_method = Some(text(random));
            p.authentication_data = Some(binary(random));
        }
        2 => {
            p.assigned_client_id = Some(text(random));
            p.server_keep_alive_s = Some(random.id());
            p.response_information = Some(text(random));
            p.server_reference = Some(text(random));
            p.reason_string = Some(text(random));
            p.maximum_qos_1 = Some(random.chance(2));
            p.retain_available = Some(random.chance(2));
            p.wildcards_available = Some(random.chance(2));
            p.subscription_ids_available = Some(random.chance(2));
            p.shared_available = Some(random.chance(2));
        }
        8 => p.subscription_ids = vec![1 + random.u32() % VARINT_MAX],
        10 => {}
        _ => p.reason_string = Some(text(random)),
    }
    (p != Properties::default()).then(|| Box::new(p))
}

fn ack(random: &mut Random, version: Version, kind: u8) -> Ack {
    let properties = extra(random, version, kind);
    let reason = if version == Version::V4 { Reason(0) } else { Reason(random.byte()) };
    Ack { packet_id: random.id(), reason, properties }
}

fn qos(random: &mut Random) -> Qos {
    *random.choose(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn connect(random: &mut Random, version: Version) -> Connect {
    let will = random.chance(2).then(|| Will {
        topic: text(random),
        payload: binary(random),
        qos: qos(random),
        retain: random.chance(2),
        properties: extra(random, version, 0),
    });
    let user_name = random.chance(2).then(|| text(random));
    Connect {
        version,
        clean_start: random.chance(2),
        keep_alive_s: random.id(),
        client_id: text(random),
        will,
        password: (user_name.is_some() && random.chance(2)).then(|| binary(random)),
        user_name,
        properties: extra(random, version, 1),
    }
}

fn publish(random: &mut Random, version: Version) -> Publish {
    let qos = qos(random);
    let is_acked = qos != Qos::AtMostOnce;
    Publish {
        dup: is_acked && random.chance(2),
        qos,
        retain: random.chance(2),
        topic: text(random),
        packet_id: if is_acked { random.id() } else { 0 },
        payload: binary(random),
        properties: extra(random, version, 3),
    }
}

fn subscribe(random: &mut Random, version: Version) -> Subscribe {
    let wish = |random: &mut Random| {
        let is_new = version == Version::V5;
        let handlings = [RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never];
        Wish {
            filter: text(random).to_string(),
            qos: qos(random),
            no_local: is_new && random.chance(2),
            retain_as_published: is_new && random.chance(2),
            retain_handling: if is_new { *random.choose(&handlings) } else { handlings[0] },
        }
    };
    Subscribe {
        packet_id: random.id(),
        properties: extra(random, version, 8),
        wishes: (0..=random.below(4)).map(|_| wish(random)).collect(),
    }
}

fn reasons(random: &mut Random, version: Version, kind: u8) -> Reasons {
    let has_reasons = version == Version::V5 || kind == 9;
    let count = if has_reasons { 1 + random.below(4) } else { 0 };
    Reasons {
        packet_id: random.id(),
        reasons: (0..count).map(|_| Reason(*random.choose(&[0, 1, 2, 0x80]))).collect(),
        properties: extra(random, version, kind),
    }
}

fn packet(random: &mut Random, version: Version) -> Packet {
    let kinds = if version == Version::V5 { 15 } else { 14 };
    let kind = 1 + u8::try_from(random.below(kinds)).expect("small");
    match kind {
        1 => Packet::Connect(Box::new(connect(random, version))),
        2 => Packet::ConnAck(ConnAck {
            session_present: random.chance(2),
            reason: Reason(0),
            properties: extra(random, version, 2),
        }),
        3 => Packet::Publish(publish(random, version)),
        4 => Packet::PubAck(ack(random, version, kind)),
        5 => Packet::PubRec(ack(random, version, kind)),
        6 => Packet::PubRel(ack(random, version, kind)),
        7 => Packet::PubComp(ack(random, version, kind)),
        8 => Packet::Subscribe(subscribe(random, version)),
        9 => Packet::SubAck(reasons(random, version, kind)),
        10 => Packet::Unsubscribe(Unsubscribe {
            packet_id: random.id(),
            filters: (0..=random.below(4)).map(|_| text(random).to_string()).collect(),
            properties: extra(random, version, kind),
        }),
        11 => Packet::UnsubAck(reasons(random, version, kind)),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        _ => {
            let Ack { reason, properties, .. } = ack(random, version, kind);
            let notice = Notice { reason, properties };
            if kind == 14 { Packet::Disconnect(notice) } else { Packet::Auth(notice) }
        }
    }
}

fn encoded(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    assert_eq!(out.len(), encoded_len(packet, version));
    out
}

fn version(random: &mut Random) -> Version {
    *random.choose(&[Version::V4, Version::V5])
}

#[test]
fn every_packet_comes_back_as_it_was_written() {
    let mut random = Random::seeded();
    for _ in 0..20_000 {
        let version = version(&mut random);
        let packet = packet(&mut random, version);
        let bytes = encoded(&packet, version);
        let found = decode(&bytes, version, MAX);
        assert_eq!(found, Ok(Some((packet, bytes.len()))), "{bytes:02x?}");
        // Cut anywhere, it is incomplete and nothing else.
        let cut = random.below(bytes.len());
        assert_eq!(decode(&bytes[..cut], version, MAX), Ok(None), "{bytes:02x?} cut at {cut}");
    }
}

#[test]
fn no_bytes_bring_the_decoder_down() {
    let mut random = Random::seeded();
    for _ in 0..100_000 {
        let version = version(&mut random);
        let mut bytes = encoded(&packet(&mut random, version), version);
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.byte();
        }
        if let Ok(Some((packet, length))) = decode(&bytes, version, MAX) {
            assert!(length <= bytes.len());
            // What decodes can be encoded again.
            let _ = encoded(&packet, version);
        }
        let noise: Vec<u8> = (0..random.below(64)).map(|_| random.byte()).collect();
        let _ = decode(&noise, version, MAX);
    }
}

#[test]
fn what_the_standards_call_malformed_is_refused() {
    let v4: &[(&str, &[u8])] = &[
        ("packet type 0", &[0x00, 0]),
        ("reserved flags", &[0xC1, 0]),
        ("SUBSCRIBE with flags 0", &[0x80, 6, 0, 1, 0, 1, b'a', 0]),
        ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
        ("DUP at QoS 0", &[0x38, 3, 0, 1, b'a']),
        ("packet id 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
        ("no filter", &[0x82, 2, 0, 1]),
        ("five bytes of length", &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
        ("an overlong length", &[0xC0, 0x80, 0]),
        ("a body of PINGREQ", &[0xC0, 1, 0]),
        ("not UTF-8", &[0x30, 4, 0, 2, 0xC3, 0x28]),
        ("a surrogate", &[0x30, 5, 0, 3, 0xED, 0xA0, 0x80]),
        ("NUL", &[0x30, 3, 0, 1, 0]),
        ("AUTH", &[0xF0, 0]),
        ("v5 options", &[0x82, 6, 0, 1, 0, 1, b'a', 4]),
        ("a password without a name", b"\x10\x0F\0\x04MQTT\x04\x42\0\0\0\x01c\0\0"),
        ("a reserved connect flag", b"\x10\x0D\0\x04MQTT\x04\x03\0\0\0\x01c"),
        ("will flags without a will", b"\x10\x0D\0\x04MQTT\x04\x0A\0\0\0\x01c"),
    ];
    for (what, bytes) in v4 {
        assert!(decode(bytes, Version::V4, MAX).is_err(), "{what}");
    }
    let v5: &[(&str, &[u8])] = &[
        ("a property twice", &[0x30, 8, 0, 1, b'a', 4, 1, 1, 1, 1]),
        ("an unknown property", &[0x30, 6, 0, 1, b'a', 2, 5, 1]),
        ("a property of CONNECT", &[0x30, 7, 0, 1, b'a', 3, 33, 0, 1]),
        ("topic alias 0", &[0x30, 7, 0, 1, b'a', 3, 35, 0, 0]),
        ("a flag of 2", &[0x30, 6, 0, 1, b'a', 2, 1, 2]),
        ("properties that run over", &[0x30, 5, 0, 1, b'a', 9, 1]),
        ("retain handling 3", &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30]),
        ("subscription id 0", &[0x82, 9, 0, 1, 2, 11, 0, 0, 1, b'a', 0]),
    ];
    for (what, bytes) in v5 {
        assert!(decode(bytes, Version::V5, MAX).is_err(), "{what}");
    }
}

#[test]
fn versions_that_are_not_ours_are_told_apart() {
    for bytes in
        [&b"\x10\x0F\0\x06MQIsdp\x03\x02\0\0\0\x01c"[..], b"\x10\x0D\0\x04MQTT\x06\x02\0\0\0\x01c"]
    {
        let bad = decode(bytes, Version::V4, MAX).expect_err("refused");
        assert_eq!(bad.reason, Reason::UNSUPPORTED_VERSION);
    }
}

#[test]
fn a_packet_is_refused_by_its_length_before_it_is_there() {
    let bad = decode(&[0x30, 0xFF, 0x7F], Version::V5, 1000).expect_err("refused");
    assert_eq!(bad.reason, Reason::PACKET_TOO_LARGE);
}
