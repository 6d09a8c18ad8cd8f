//! Sessions that outlive their connections and the door, take-over and wills.

use super::fake::Fake;
use super::peer::{Peer, Serving, connect, lasting, publish};
use crate::broker::packet::{Ack, Connect, Notice, Packet, Properties, Qos, Reason, Version, Will};
use crate::resources::MqttLimits;

const BOTH: [Version; 2] = [Version::V4, Version::V5];

async fn again(fake: Fake) -> Serving {
    Serving::with(fake, MqttLimits::default(), Vec::new()).await
}

async fn goodbye(peer: &mut Peer, properties: Option<Box<Properties>>) {
    let notice = Notice { reason: Reason::SUCCESS, properties };
    peer.send(Packet::Disconnect(notice)).await;
    assert!(peer.next().await.is_none());
}

#[tokio::test]
async fn a_session_and_its_queue_outlive_the_door() {
    for version in BOTH {
        let serving = Serving::new().await;
        let (mut reader, present) = serving.lasting(version, "r/1").await;
        assert!(!present);
        assert_eq!(reader.subscribe("a/+", Qos::AtLeastOnce).await, Reason(1));
        let mut writer = serving.client(Version::V4, "writer").await;
        writer.publish("a/b", "1").await;
        // Taken and not acknowledged.
        assert_eq!(reader.receive_publish().await.payload, "1");
        drop(reader);
        writer.publish("a/b", "2").await;
        let serving = again(serving.stop().await).await;
        let (mut reader, present) = serving.lasting(version, "r/1").await;
        assert!(present);
        for payload in ["1", "2"] {
            let found = reader.receive_publish().await;
            assert_eq!((found.payload.as_ref(), found.qos), (payload.as_bytes(), Qos::AtLeastOnce));
            reader.acknowledge(&found).await;
        }
        reader.expect_silence().await;
        goodbye(&mut reader, None).await;
        // A clean start ends it.
        let clean = Connect { clean_start: true, ..lasting(version, "r/1") };
        let mut reader = serving.peer(version).await;
        assert!(!reader.connect(clean).await.session_present);
        assert!(!serving.component.consumers().contains(&"mqtt/r/1".into()));
        serving.stop().await;
    }
}

#[tokio::test]
async fn a_qos_2_exchange_goes_on_after_a_restart() {
    let serving = Serving::new().await;
    let (mut client, _) = serving.lasting(Version::V5, "c").await;
    client.subscribe("out", Qos::ExactlyOnce).await;
    client.send(Packet::Publish(publish("in", "x", Qos::ExactlyOnce, 7))).await;
    assert_eq!(client.receive().await, Packet::PubRec(Ack::new(7, Reason::SUCCESS)));
    let mut writer = serving.client(Version::V5, "writer").await;
    writer.send(Packet::Publish(publish("out", "y", Qos::ExactlyOnce, 1))).await;
    let found = client.receive_publish().await;
    let ack = Ack::new(found.packet_id, Reason::SUCCESS);
    client.send(Packet::PubRec(ack.clone())).await;
    assert_eq!(client.receive().await, Packet::PubRel(ack.clone()));
    drop(client);
    let serving = again(serving.stop().await).await;
    let (mut client, present) = serving.lasting(Version::V5, "c").await;
    assert!(present);
    assert_eq!(client.receive().await, Packet::PubRel(ack.clone()));
    client.send(Packet::PubComp(ack)).await;
    client.send(Packet::Publish(publish("in", "x", Qos::ExactlyOnce, 7))).await;
    assert_eq!(client.receive().await, Packet::PubRec(Ack::new(7, Reason::SUCCESS)));
    client.send(Packet::PubRel(Ack::new(7, Reason::SUCCESS))).await;
    assert_eq!(client.receive().await, Packet::PubComp(Ack::new(7, Reason::SUCCESS)));
    assert_eq!(serving.component.payloads("in"), ["x"]);
    serving.stop().await;
}

#[tokio::test]
async fn a_second_client_of_the_same_id_takes_over() {
    let serving = Serving::new().await;
    let mut first = serving.client(Version::V5, "c").await;
    let (_second, present) = serving.lasting(Version::V4, "c").await;
    assert!(!present);
    assert_eq!(first.disconnected().await, Reason::TAKEN_OVER);
    let (_third, present) = serving.lasting(Version::V5, "c").await;
    assert!(present);
    serving.stop().await;
}

fn with_will(connect: Connect, delay_s: u32) -> Connect {
    let properties = Properties { will_delay_s: Some(delay_s), ..Properties::default() };
    let properties = (connect.version == Version::V5).then(|| Box::new(properties));
    let will = Will {
        topic: "wills".into(),
        payload: "gone".into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties,
    };
    Connect { will: Some(will), ..connect }
}

#[tokio::test]
async fn a_will_is_published_when_its_client_vanishes_and_only_then() {
    for version in BOTH {
        let serving = Serving::new().await;
        let mut witness = serving.client(version, "witness").await;
        witness.subscribe("wills", Qos::AtMostOnce).await;
        let mut polite = serving.peer(version).await;
        polite.connect(with_will(connect(version, "polite"), 0)).await;
        goodbye(&mut polite, None).await;
        let mut rude = serving.peer(version).await;
        rude.connect(with_will(connect(version, "rude"), 0)).await;
        drop(rude);
        assert_eq!(witness.receive_publish().await.payload, "gone");
        witness.expect_silence().await;
        serving.stop().await;
    }
}

#[tokio::test]
async fn a_will_that_waits_is_not_published_if_its_client_is_back() {
    let serving = Serving::new().await;
    for (id, delay_s) in [("back", 3600), ("away", 1)] {
        let mut peer = serving.peer(Version::V5).await;
        peer.connect(with_will(lasting(Version::V5, id), delay_s)).await;
    }
    let (_back, present) = serving.lasting(Version::V5, "back").await;
    assert!(present);
    let mut witness = serving.client(Version::V5, "witness").await;
    witness.subscribe("wills", Qos::AtMostOnce).await;
    assert_eq!(witness.receive_publish().await.payload, "gone");
    assert_eq!(serving.component.payloads("wills").len(), 1);
    serving.stop().await;
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let serving = Serving::new().await;
    let (mut peer, _) = serving.lasting(Version::V5, "c").await;
    peer.subscribe("a", Qos::AtLeastOnce).await;
    assert_eq!(serving.component.retained_topics(), ["$pillion/mqtt/session/c"]);
    // One second from now on, said at the end.
    let properties = Properties { session_expiry_s: Some(1), ..Properties::default() };
    goodbye(&mut peer, Some(Box::new(properties))).await;
    let fake = serving.stop().await;
    assert_eq!(fake.consumers(), ["mqtt/c"]);
    // After a restart the time it was away before counts.
    let serving = again(fake).await;
    serving.clock.advance_ms(2_000);
    let (_peer, present) = loop {
        let (peer, present) = serving.lasting(Version::V5, "c").await;
        if !present {
            break (peer, present);
        }
        // Not yet forgotten: it began again with its own expiry.
        let properties = Properties { session_expiry_s: Some(0), ..Properties::default() };
        let mut peer = peer;
        goodbye(&mut peer, Some(Box::new(properties))).await;
    };
    assert!(!present);
    assert!(serving.component.consumers().is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn sessions_are_bounded() {
    let limits = MqttLimits { sessions_max: 1, ..MqttLimits::default() };
    let serving = Serving::with(Fake::new(), limits, Vec::new()).await;
    let (mut first, _) = serving.lasting(Version::V5, "1").await;
    let mut second = serving.peer(Version::V5).await;
    let ack = second.connect(lasting(Version::V5, "2")).await;
    assert_eq!(ack.reason, Reason::QUOTA_EXCEEDED);
    let properties = Properties { session_expiry_s: Some(0), ..Properties::default() };
    goodbye(&mut first, Some(Box::new(properties))).await;
    serving.lasting(Version::V5, "2").await;
    assert_eq!(serving.component.retained_topics(), ["$pillion/mqtt/session/2"]);
    serving.stop().await;
}
