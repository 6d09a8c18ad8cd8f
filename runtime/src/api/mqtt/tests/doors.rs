//! Who is let in, and how the door sends clients away.

use super::fake::Fake;
use super::peer::{Serving, connect, publish};
use crate::api::mqtt::connection;
use crate::broker::packet::{Connect, Packet, Qos, Reason, Version};
use crate::broker::simulation::Random;
use crate::resources::{MqttLimits, MqttUserPlan};
use bytes::Bytes;

#[tokio::test]
async fn versions_that_are_not_ours_are_told_so() {
    let serving = Serving::new().await;
    let mut peer = serving.peer(Version::V4).await;
    peer.send_bytes(b"\x10\x0F\0\x06MQIsdp\x03\x02\0\0\0\x01c").await;
    match peer.receive().await {
        Packet::ConnAck(ack) => assert_eq!(ack.reason, Reason(1), "unacceptable version"),
        other => panic!("{other:?}"),
    }
    assert!(peer.next().await.is_none());
    serving.stop().await;
}

#[tokio::test]
async fn too_many_clients_are_told_so() {
    let limits = MqttLimits { connections_max: 1, ..MqttLimits::default() };
    let serving = Serving::with(Fake::new(), limits, Vec::new()).await;
    let first = serving.client(Version::V5, "1").await;
    let mut second = serving.peer(Version::V5).await;
    assert_eq!(second.connect(connect(Version::V5, "2")).await.reason, Reason::BUSY);
    drop(first);
    loop {
        let mut third = serving.peer(Version::V5).await;
        if third.connect(connect(Version::V5, "3")).await.reason == Reason::SUCCESS {
            break;
        }
    }
    serving.stop().await;
}

#[tokio::test]
async fn packets_and_windows_have_ends() {
    let limits = MqttLimits { packet_bytes_max: 1000, inflight_max: 2, ..MqttLimits::default() };
    let serving = Serving::with(Fake::new(), limits, Vec::new()).await;
    let mut large = serving.client(Version::V5, "large").await;
    let packet = publish("a", &"x".repeat(1000), Qos::AtMostOnce, 0);
    large.send(Packet::Publish(packet)).await;
    assert_eq!(large.disconnected().await, Reason::PACKET_TOO_LARGE);
    let mut second = serving.client(Version::V5, "second").await;
    second.send(Packet::Connect(Box::new(connect(Version::V5, "x")))).await;
    assert_eq!(second.disconnected().await, Reason::PROTOCOL_ERROR);
    serving.stop().await;
}

#[tokio::test]
async fn silence_is_the_end() {
    let serving = Serving::new().await;
    let mut peer = serving.peer(Version::V5).await;
    peer.connect(Connect { keep_alive_s: 1, ..connect(Version::V5, "c") }).await;
    assert_eq!(peer.disconnected().await, Reason::KEEP_ALIVE_TIMEOUT);
    serving.stop().await;
}

#[tokio::test]
async fn shutting_down_answers_what_was_taken_and_says_goodbye() {
    let serving = Serving::new().await;
    let mut peer = serving.client(Version::V5, "c").await;
    serving.component.let_sync(false);
    peer.send(Packet::Publish(publish("a", "x", Qos::AtLeastOnce, 3))).await;
    peer.expect_silence().await;
    let fake = serving.component.clone();
    let (fake_after, ()) = tokio::join!(serving.stop(), async {
        fake.let_sync(true);
        assert!(matches!(peer.receive().await, Packet::PubAck(ack) if ack.packet_id == 3));
        assert_eq!(peer.disconnected().await, Reason::SHUTTING_DOWN);
    });
    assert_eq!(fake_after.payloads("a"), ["x"]);
}

#[tokio::test]
async fn users_are_checked() {
    let hash = "$7$101$L0OnSt/5AXi3klFu$DILRvRfX9nTEfYP/Xf27iR/JxbxMHOVVXRLg/8pXWMVYOtGSc8Uj/9vG\
                2egL8hq6ZqWiSQKq3K1QZeQ+NqN6vg==";
    let user = MqttUserPlan {
        name: "joe".into(),
        password_hash: Some(hash.into()),
        publish: vec!["%u/#".into()],
        subscribe: Vec::new(),
    };
    let serving = Serving::with(Fake::new(), MqttLimits::default(), vec![user]).await;
    for (name, password, expected) in [
        (Some("joe"), Some("secret"), Reason::SUCCESS),
        (Some("joe"), Some("wrong"), Reason::BAD_CREDENTIALS),
        (Some("joe"), None, Reason::BAD_CREDENTIALS),
        (Some("eve"), Some("secret"), Reason::BAD_CREDENTIALS),
        (None, None, Reason::NOT_AUTHORIZED),
    ] {
        let mut peer = serving.peer(Version::V5).await;
        let credentials = Connect {
            user_name: name.map(Into::into),
            password: password.map(|text| Bytes::copy_from_slice(text.as_bytes())),
            ..connect(Version::V5, "c")
        };
        assert_eq!(peer.connect(credentials).await.reason, expected, "{name:?} {password:?}");
        if expected == Reason::SUCCESS {
            assert_eq!(peer.publish("joe/x", "1").await, Reason::SUCCESS);
            assert_eq!(peer.publish("jim/x", "1").await, Reason::NOT_AUTHORIZED);
        }
    }
    assert!(serving.component.payloads("jim/x").is_empty());
    serving.stop().await;
}

/// Bytes of chance before and after CONNECT: every connection ends, and the door goes on.
#[tokio::test]
async fn noise_harms_nobody() {
    let mut random = Random::seeded();
    let serving = Serving::new().await;
    let mut witness = serving.client(Version::V5, "witness").await;
    for round in 0..100 {
        let mut peer = serving.peer(Version::V5).await;
        if round % 2 == 0 {
            peer.connect(connect(Version::V5, "noise")).await;
        }
        let noise: Vec<u8> = (0..1 + random.below(200)).map(|_| random.byte()).collect();
        peer.send_bytes(&noise).await;
    }
    assert_eq!(witness.publish("a", "x").await, Reason::SUCCESS);
    serving.stop().await;
}

#[test]
fn a_connection_is_small() {
    let bytes = connection::bytes_per_connection();
    assert!(bytes <= 2560, "{bytes} bytes for the task of a connection");
}
