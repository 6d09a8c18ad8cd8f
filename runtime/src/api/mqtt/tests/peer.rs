//! A door on a socket of its own, and clients that speak to it in packets.

use super::fake::Fake;
use crate::api::mqtt::codec::{decode, encode};
use crate::api::mqtt::tls::Acceptor;
use crate::api::mqtt::{Door, serve};
use crate::broker::packet::{
    Ack, ConnAck, Connect, Packet, Properties, Publish, Qos, Reason, RetainHandling, Subscribe,
    Version, Wish,
};
use crate::drain::{Shutdown, channel};
use crate::resources::{MqttLimits, MqttPlan, MqttUserPlan};
use bytes::Bytes;
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::options::Options;
use pillion_components::pubsub::{self, PubSub};
use pillion_components::{Error, Kind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest that anything a test waits for may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A door that serves, before a component of this kind.
pub(super) struct Serving<C = Fake> {
    pub(super) address: SocketAddr,
    pub(super) component: C,
    pub(super) clock: Clock,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Serving {
    pub(super) async fn new() -> Self {
        Self::with(Fake::new(), MqttLimits::default(), Vec::new()).await
    }

    pub(super) async fn with(fake: Fake, limits: MqttLimits, users: Vec<MqttUserPlan>) -> Self {
        Self::start(fake.clone(), Arc::new(fake), limits, users, None).await
    }
}

impl Serving<Arc<dyn PubSub>> {
    /// Before the real component in memory.
    pub(super) async fn real(users: Vec<MqttUserPlan>, tls: Option<Acceptor>) -> Self {
        let context = Context {
            name: "pubsub".into(),
            app_id: "test".into(),
            clock: Clock::system(),
            storage: Arc::new(|| Err(Error::new(Kind::Unavailable, "not needed"))),
        };
        let opened = pubsub::in_memory::open(&Options::default(), &context).expect("opened");
        Self::over(opened, users, tls).await
    }

    /// Before a component that an earlier door left.
    pub(super) async fn over(
        component: Arc<dyn PubSub>,
        users: Vec<MqttUserPlan>,
        tls: Option<Acceptor>,
    ) -> Self {
        Self::start(component.clone(), component, MqttLimits::default(), users, tls).await
    }
}

impl<C> Serving<C> {
    async fn start(
        component: C,
        pubsub: Arc<dyn PubSub>,
        limits: MqttLimits,
        users: Vec<MqttUserPlan>,
        tls: Option<Acceptor>,
    ) -> Self {
        let plan = MqttPlan {
            listen: None,
            tls: None,
            pubsub: "pubsub".into(),
            allow_anonymous: users.is_empty(),
            limits,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, drain) = channel();
        let clock = Clock::system();
        let door = Arc::new(Door::new(plan, users, pubsub, clock.clone()));
        let task = tokio::spawn(serve(listener, tls, door, drain));
        Self { address, component, clock, shutdown, task }
    }

    /// Drains and gives the component for the next door.
    pub(super) async fn stop(self) -> C {
        assert!(self.shutdown.drained(PATIENCE).await, "drained in time");
        self.task.await.expect("no panic");
        self.component
    }

    pub(super) async fn peer(&self, version: Version) -> Peer {
        let stream = TcpStream::connect(self.address).await.expect("the door is open");
        Peer { stream, version, inbox: Vec::new() }
    }

    /// A client that was let in, with a session that ends with it.
    pub(super) async fn client(&self, version: Version, id: &str) -> Peer {
        let mut peer = self.peer(version).await;
        let ack = peer.connect(connect(version, id)).await;
        assert_eq!(ack.reason, Reason::SUCCESS);
        peer
    }

    /// A client whose session stays, and whether it was there.
    pub(super) async fn lasting(&self, version: Version, id: &str) -> (Peer, bool) {
        let mut peer = self.peer(version).await;
        let ack = peer.connect(lasting(version, id)).await;
        assert_eq!(ack.reason, Reason::SUCCESS);
        (peer, ack.session_present)
    }
}

pub(super) fn connect(version: Version, id: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: id.into(),
        will: None,
        user_name: None,
        password: None,
        properties: None,
    }
}

pub(super) fn lasting(version: Version, id: &str) -> Connect {
    let properties = Properties { session_expiry_s: Some(3600), ..Properties::default() };
    let properties = (version == Version::V5).then(|| Box::new(properties));
    Connect { clean_start: false, properties, ..connect(version, id) }
}

pub(super) fn publish(topic: &str, payload: &str, qos: Qos, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        packet_id,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: None,
    }
}

/// The other end of a connection.
pub(super) struct Peer {
    stream: TcpStream,
    version: Version,
    inbox: Vec<u8>,
}

impl Peer {
    pub(super) async fn connect(&mut self, packet: Connect) -> ConnAck {
        self.send(Packet::Connect(Box::new(packet))).await;
        match self.receive().await {
            Packet::ConnAck(ack) => ack,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn send(&mut self, packet: Packet) {
        let mut bytes = Vec::new();
        encode(&packet, self.version, &mut bytes);
        self.send_bytes(&bytes).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("written");
    }

    /// The next packet; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Packet> {
        loop {
            let found = decode(&self.inbox, self.version, u32::MAX).expect("the door speaks MQTT");
            if let Some((packet, length)) = found {
                self.inbox.drain(..length);
                return Some(packet);
            }
            let read = self.stream.read_buf(&mut self.inbox);
            match tokio::time::timeout(PATIENCE, read).await.expect("an answer in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub(super) async fn receive(&mut self) -> Packet {
        self.next().await.expect("a packet")
    }

    pub(super) async fn receive_publish(&mut self) -> Publish {
        match self.receive().await {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// Answers a PUBLISH of QoS 1.
    pub(super) async fn acknowledge(&mut self, publish: &Publish) {
        self.send(Packet::PubAck(Ack::new(publish.packet_id, Reason::SUCCESS))).await;
    }

    /// Everything sent before was handled, and nothing else came.
    pub(super) async fn expect_silence(&mut self) {
        self.send(Packet::PingReq).await;
        assert_eq!(self.receive().await, Packet::PingResp);
    }

    pub(super) async fn subscribe(&mut self, filter: &str, qos: Qos) -> Reason {
        self.subscribe_with(Wish {
            filter: filter.into(),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        })
        .await
    }

    pub(super) async fn subscribe_with(&mut self, wish: Wish) -> Reason {
        let packet = Subscribe { packet_id: 77, wishes: vec![wish], properties: None };
        self.send(Packet::Subscribe(packet)).await;
        match self.receive().await {
            Packet::SubAck(ack) => ack.reasons[0],
            other => panic!("{other:?}"),
        }
    }

    /// Publishes with QoS 1 and waits for the answer.
    pub(super) async fn publish(&mut self, topic: &str, payload: &str) -> Reason {
        self.send(Packet::Publish(publish(topic, payload, Qos::AtLeastOnce, 5))).await;
        match self.receive().await {
            Packet::PubAck(ack) => ack.reason,
            other => panic!("{other:?}"),
        }
    }

    /// Reason of the DISCONNECT that ends the stream.
    pub(super) async fn disconnected(&mut self) -> Reason {
        let Packet::Disconnect(notice) = self.receive().await else { panic!("no DISCONNECT") };
        assert!(self.next().await.is_none());
        notice.reason
    }
}
