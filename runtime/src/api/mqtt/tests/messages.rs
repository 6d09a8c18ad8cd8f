//! Messages through the door: acknowledgements, order, retained ones, and what becomes of them.

use super::fake::Fake;
use super::peer::{Serving, publish};
use crate::broker::packet::{
    Ack, Packet, Properties, Publish, Qos, Reason, RetainHandling, Unsubscribe, Version, Wish,
};
use crate::resources::MqttLimits;
use pillion_components::Kind;
use pillion_components::pubsub::{Message, PubSub};

const BOTH: [Version; 2] = [Version::V4, Version::V5];

#[tokio::test]
async fn acknowledgements_leave_after_the_sync_and_in_order() {
    for version in BOTH {
        let serving = Serving::new().await;
        let mut peer = serving.client(version, "c").await;
        serving.component.let_sync(false);
        for id in [3, 1, 2] {
            let qos = if id == 1 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
            peer.send(Packet::Publish(publish("a", &id.to_string(), qos, id))).await;
        }
        peer.expect_silence().await;
        assert!(serving.component.payloads("a").is_empty());
        serving.component.let_sync(true);
        assert_eq!(peer.receive().await, Packet::PubAck(Ack::new(3, Reason::SUCCESS)));
        assert_eq!(peer.receive().await, Packet::PubRec(Ack::new(1, Reason::SUCCESS)));
        assert_eq!(peer.receive().await, Packet::PubAck(Ack::new(2, Reason::SUCCESS)));
        assert_eq!(serving.component.payloads("a"), ["3", "1", "2"]);
        serving.stop().await;
    }
}

#[tokio::test]
async fn a_qos_2_message_is_published_once() {
    let serving = Serving::new().await;
    let mut peer = serving.client(Version::V4, "c").await;
    for dup in [false, true] {
        let message = Publish { dup, ..publish("a", "x", Qos::ExactlyOnce, 9) };
        peer.send(Packet::Publish(message)).await;
        assert_eq!(peer.receive().await, Packet::PubRec(Ack::new(9, Reason::SUCCESS)));
    }
    peer.send(Packet::PubRel(Ack::new(9, Reason::SUCCESS))).await;
    assert_eq!(peer.receive().await, Packet::PubComp(Ack::new(9, Reason::SUCCESS)));
    assert_eq!(serving.component.payloads("a"), ["x"]);
    serving.stop().await;
}

#[tokio::test]
async fn delivered_is_the_lower_qos_and_overlapping_filters_deliver_once() {
    let serving = Serving::new().await;
    let mut reader = serving.client(Version::V4, "reader").await;
    assert_eq!(reader.subscribe("a/+", Qos::AtMostOnce).await, Reason(0));
    assert_eq!(reader.subscribe("a/#", Qos::ExactlyOnce).await, Reason(2));
    let mut writer = serving.client(Version::V5, "writer").await;
    writer.send(Packet::Publish(publish("a/b", "0", Qos::AtMostOnce, 0))).await;
    writer.publish("a/b", "1").await;
    writer.send(Packet::Publish(publish("a/b", "2", Qos::ExactlyOnce, 8))).await;
    for (payload, qos) in [("0", Qos::AtMostOnce), ("1", Qos::AtLeastOnce), ("2", Qos::ExactlyOnce)]
    {
        let found = reader.receive_publish().await;
        assert_eq!((&found.payload[..], found.qos), (payload.as_bytes(), qos));
        let ack = Ack::new(found.packet_id, Reason::SUCCESS);
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => reader.send(Packet::PubAck(ack)).await,
            Qos::ExactlyOnce => {
                reader.send(Packet::PubRec(ack.clone())).await;
                assert_eq!(reader.receive().await, Packet::PubRel(ack.clone()));
                reader.send(Packet::PubComp(ack)).await;
            }
        }
    }
    reader.expect_silence().await;
    let filters = vec!["a/#".into(), "a/+".into()];
    let unsubscribe = Unsubscribe { packet_id: 3, filters, properties: None };
    reader.send(Packet::Unsubscribe(unsubscribe)).await;
    assert!(matches!(reader.receive().await, Packet::UnsubAck(ack) if ack.packet_id == 3));
    writer.send(Packet::PubRel(Ack::new(8, Reason::SUCCESS))).await;
    serving.stop().await;
}

#[tokio::test]
async fn retained_messages_come_as_the_options_say() {
    let serving = Serving::new().await;
    let mut writer = serving.client(Version::V5, "writer").await;
    let retained = |payload| Publish {
        retain: true,
        properties: Some(Box::new(Properties {
            content_type: Some("text/plain".into()),
            user: vec![("k".into(), "v".into())],
            ..Properties::default()
        })),
        ..publish("r/1", payload, Qos::AtLeastOnce, 4)
    };
    writer.send(Packet::Publish(retained("kept"))).await;
    writer.receive().await;
    let mut reader = serving.client(Version::V5, "reader").await;
    let wish = |handling| Wish {
        filter: "r/#".into(),
        qos: Qos::AtMostOnce,
        no_local: false,
        retain_as_published: handling == RetainHandling::IfNew,
        retain_handling: handling,
    };
    reader.subscribe_with(wish(RetainHandling::Never)).await;
    reader.expect_silence().await;
    reader.subscribe_with(wish(RetainHandling::Always)).await;
    let found = reader.receive_publish().await;
    assert!(found.retain && &found.payload[..] == b"kept");
    assert_eq!(found.properties, retained("").properties);
    reader.subscribe_with(wish(RetainHandling::IfNew)).await;
    reader.expect_silence().await;
    // Live, the flag is kept where the subscription says so.
    writer.send(Packet::Publish(retained("live"))).await;
    assert!(reader.receive_publish().await.retain);
    reader.subscribe_with(wish(RetainHandling::Never)).await;
    writer.send(Packet::Publish(retained(""))).await;
    assert!(!reader.receive_publish().await.retain);
    assert!(serving.component.retained_topics().is_empty(), "an empty one forgets");
    serving.stop().await;
}

#[tokio::test]
async fn what_an_app_published_reaches_devices_as_it_is() {
    let serving = Serving::new().await;
    let mut device = serving.client(Version::V5, "device").await;
    device.subscribe("orders", Qos::AtLeastOnce).await;
    let message = Message {
        topic: "orders".into(),
        payload: r#"{"specversion":"1.0"}"#.into(),
        content_type: Some("application/cloudevents+json".into()),
        ttl_ms: Some(1500),
        ..Message::default()
    };
    serving.component.publish(message).await.expect("published");
    let found = device.receive_publish().await;
    let properties = found.properties.as_deref().expect("some");
    assert_eq!(properties.content_type.as_deref(), Some("application/cloudevents+json"));
    assert_eq!(properties.message_expiry_s, Some(2));
    // And the other way: expiry becomes a time to live, the origin says who it was.
    let properties = Properties { message_expiry_s: Some(7), ..Properties::default() };
    let properties = Some(Box::new(properties));
    let message = Publish { properties, ..publish("t", "x", Qos::AtLeastOnce, 1) };
    device.acknowledge(&found).await;
    device.send(Packet::Publish(message)).await;
    device.receive().await;
    let last = serving.component.last("t").expect("published");
    assert_eq!(last.ttl_ms, Some(7000));
    assert_eq!(last.origin.as_deref(), Some("mqtt:device"));
    serving.stop().await;
}

#[tokio::test]
async fn a_full_store_is_said_by_the_standard() {
    let serving = Serving::new().await;
    serving.component.refuse(Some(Kind::Full));
    let mut new = serving.client(Version::V5, "new").await;
    assert_eq!(new.publish("a", "x").await, Reason::QUOTA_EXCEEDED);
    let mut old = serving.client(Version::V4, "old").await;
    old.send(Packet::Publish(publish("a", "x", Qos::AtLeastOnce, 1))).await;
    assert!(old.next().await.is_none(), "3.1.1 has no word for it: closed without an answer");
    serving.component.refuse(None);
    assert_eq!(new.publish("a", "x").await, Reason::SUCCESS);
    serving.stop().await;
}

#[tokio::test]
async fn retained_messages_are_bounded() {
    let limits = MqttLimits { retained_max: 2, ..MqttLimits::default() };
    let serving = Serving::with(Fake::new(), limits, Vec::new()).await;
    let retained =
        |topic, payload| Publish { retain: true, ..publish(topic, payload, Qos::AtLeastOnce, 1) };
    for version in BOTH {
        let mut writer = serving.client(version, "writer").await;
        for (topic, expected) in [
            ("a", Reason::SUCCESS),
            ("b", Reason::SUCCESS),
            ("c", Reason::QUOTA_EXCEEDED),
            ("a", Reason::SUCCESS),
        ] {
            writer.send(Packet::Publish(retained(topic, "x"))).await;
            let Packet::PubAck(ack) = writer.receive().await else { panic!("no PUBACK") };
            let expected = if version == Version::V4 { Reason::SUCCESS } else { expected };
            assert_eq!(ack.reason, expected, "{version:?} {topic}");
        }
        assert_eq!(serving.component.retained_topics(), ["a", "b"]);
    }
    // 3.1.1 has no word for it: delivered, and not kept.
    assert_eq!(serving.component.payloads("c"), ["x"]);
    serving
        .component
        .publish(Message { topic: "b".into(), retain: true, ..Message::default() })
        .await
        .expect("forgotten");
    serving.clock.advance_ms(11_000);
    let mut writer = serving.client(Version::V5, "writer").await;
    writer.send(Packet::Publish(retained("c", "y"))).await;
    assert!(matches!(writer.receive().await, Packet::PubAck(ack) if ack.reason == Reason::SUCCESS));
    serving.stop().await;
}

#[tokio::test]
async fn a_packet_larger_than_the_client_takes_is_left_out() {
    let serving = Serving::new().await;
    let mut reader = serving.peer(Version::V5).await;
    let properties = Properties { packet_bytes_max: Some(64), ..Properties::default() };
    let connect = super::peer::connect(Version::V5, "small");
    reader
        .connect(crate::broker::packet::Connect {
            properties: Some(Box::new(properties)),
            ..connect
        })
        .await;
    reader.subscribe("a", Qos::AtLeastOnce).await;
    let mut writer = serving.client(Version::V5, "writer").await;
    writer.publish("a", &"x".repeat(100)).await;
    writer.publish("a", "y").await;
    assert_eq!(&reader.receive_publish().await.payload[..], b"y");
    serving.stop().await;
}

#[tokio::test]
async fn a_burst_larger_than_every_window_arrives_whole_and_in_order() {
    let limits = MqttLimits { inflight_max: 4, ..MqttLimits::default() };
    let serving = Serving::with(Fake::new(), limits, Vec::new()).await;
    let mut reader = serving.client(Version::V4, "reader").await;
    reader.subscribe("a", Qos::AtLeastOnce).await;
    let mut writer = serving.client(Version::V4, "writer").await;
    for number in 1..=500_u16 {
        let packet = publish("a", &number.to_string(), Qos::AtLeastOnce, number);
        writer.send(Packet::Publish(packet)).await;
    }
    for number in 1..=500_u16 {
        assert_eq!(writer.receive().await, Packet::PubAck(Ack::new(number, Reason::SUCCESS)));
    }
    for number in 1..=500 {
        let found = reader.receive_publish().await;
        assert_eq!(found.payload, number.to_string());
        reader.acknowledge(&found).await;
    }
    serving.stop().await;
}
