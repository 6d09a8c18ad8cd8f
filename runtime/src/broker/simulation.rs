//! Random numbers of the tests of both codec and engine, and the simulation of the engine: clients
//! and a broker that are cut off from each other at random, checked against the laws of
//! [`super::session`] at every step. The seed is printed and `PILLION_SEED` sets it.

use super::access::Rights;
use super::connect::Accepted;
use super::packet::{Ack, Packet, Publish, Qos, Reason, RetainHandling, Subscribe, Version, Wish};
use super::session::{Action, Parked, Session, Ticket};
use super::subscriptions::Subscriptions;
use crate::resources::MqttLimits;
use bytes::Bytes;
use pillion_components::pubsub::{Delivery, Message};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// xorshift64*: small, fast and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// From `PILLION_SEED` or chance. Prints the seed, which a failed test shows.
    pub(crate) fn seeded() -> Self {
        let given = std::env::var("PILLION_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(pillion_components::env::random_u64);
        #[expect(clippy::print_stdout, reason = "a failed test shows it")]
        {
            println!("PILLION_SEED={seed}");
        }
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Less than `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % bound
    }

    /// One time in `n`.
    pub(crate) fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).expect("32 bits")
    }

    /// A packet id.
    pub(crate) fn id(&mut self) -> u16 {
        u16::try_from(1 + self.below(65_535)).expect("16 bits")
    }
}

/// A client that follows the standard, its side of the wire and what it knows across cuts.
#[derive(Default)]
struct Client {
    /// Publishes that are not complete, in the order they were first sent.
    unfinished: Vec<(Publish, bool)>,
    next_number: u32,
    /// Numbers for which it holds an acknowledgement, by QoS.
    acknowledged: Vec<(Qos, u32)>,
    /// QoS 2 packet ids that it received and that are not released.
    received: BTreeSet<u16>,
    /// What it got, in order.
    got: Vec<(Qos, u32)>,
}

/// The component: what was published, and a queue for the one subscriber.
#[derive(Default)]
struct Component {
    published: Vec<(Qos, u32)>,
    queue: VecDeque<(u64, Qos, u32)>,
    in_flight: BTreeMap<u64, (Qos, u32)>,
    next_token: u64,
}

struct World {
    random: Random,
    limits: MqttLimits,
    client: Client,
    component: Component,
    session: Option<Session>,
    parked: Parked,
    to_client: VecDeque<Packet>,
    to_server: VecDeque<Packet>,
    /// Publishes whose sync is not done, in order.
    syncing: VecDeque<(Ticket, Message)>,
    last_token_qos: BTreeMap<u64, u16>,
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().expect("four bytes"))
}

fn accepted(version: Version) -> Accepted {
    Accepted {
        version,
        client_id: "sim".into(),
        is_assigned: false,
        clean_start: false,
        expiry_s: 1000,
        expiry_is_ours: false,
        keep_alive_s: 0,
        keep_alive_is_ours: false,
        will: None,
        will_delay_s: 0,
        receive_maximum: 5,
        packet_bytes_max: None,
    }
}

impl World {
    fn new() -> Self {
        Self {
            random: Random::seeded(),
            limits: MqttLimits { inflight_max: 4, ..MqttLimits::default() },
            client: Client::default(),
            component: Component::default(),
            session: None,
            parked: Parked::default(),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            syncing: VecDeque::new(),
            last_token_qos: BTreeMap::new(),
        }
    }

    fn connect(&mut self) {
        let mut subscriptions = Subscriptions::default();
        let filter = pillion_components::topic::Filter::new("out/#").expect("a filter");
        let options = super::subscriptions::Options { qos: Qos::ExactlyOnce, ..Default::default() };
        subscriptions.insert(filter, options);
        let parked = std::mem::take(&mut self.parked);
        let version = *self.random.choose(&[Version::V4, Version::V5]);
        let session = Session::new(
            &accepted(version),
            Rights::everything(),
            &self.limits,
            subscriptions,
            parked,
            0,
        );
        self.session = Some(session);
        // The client sends again what is not complete, in order.
        for (publish, is_received) in &self.client.unfinished {
            self.to_server.push_back(if *is_received {
                Packet::PubRel(Ack::new(publish.packet_id, Reason::SUCCESS))
            } else {
                Packet::Publish(Publish { dup: true, ..publish.clone() })
            });
        }
    }

    /// Everything on its way is lost; the session stays, its results come in first.
    fn cut(&mut self) {
        while !self.syncing.is_empty() {
            self.sync();
        }
        self.to_client.clear();
        self.to_server.clear();
        if let Some(session) = self.session.take() {
            self.parked = session.park().1;
        }
        let back = std::mem::take(&mut self.component.in_flight);
        for (token, (qos, number)) in back.into_iter().rev() {
            self.component.queue.push_front((token, qos, number));
        }
        self.last_token_qos.clear();
    }

    fn client_publishes(&mut self) {
        if self.session.is_none() || self.client.unfinished.len() >= 4 {
            return;
        }
        self.client.next_number += 1;
        let number = self.client.next_number;
        let used: BTreeSet<u16> =
            self.client.unfinished.iter().map(|(publish, _)| publish.packet_id).collect();
        let packet_id = (1..).find(|id| !used.contains(id)).expect("one is free");
        let publish = Publish {
            dup: false,
            qos: *self.random.choose(&[Qos::AtLeastOnce, Qos::ExactlyOnce]),
            retain: false,
            topic: "in".into(),
            packet_id,
            payload: Bytes::copy_from_slice(&number.to_be_bytes()),
            properties: None,
        };
        self.client.unfinished.push((publish.clone(), false));
        self.to_server.push_back(Packet::Publish(publish));
    }

    fn component_publishes(&mut self) {
        self.component.next_token += 1;
        let token = self.component.next_token;
        let number = u32::try_from(token).expect("small");
        let qos = *self.random.choose(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
        self.component.queue.push_back((token, qos, number));
    }

    /// The oldest sync is done.
    fn sync(&mut self) {
        let Some((ticket, message)) = self.syncing.pop_front() else { return };
        let qos = super::message::qos_of(&message);
        self.component.published.push((qos, number_of(&message.payload)));
        if let Some(session) = &mut self.session {
            session.published(ticket, Ok(()));
        }
        self.act();
    }

    fn server_receives(&mut self) {
        let Some(session) = &mut self.session else { return };
        if session.can_receive()
            && let Some(packet) = self.to_server.pop_front()
        {
            session.receive(packet, 0);
        }
        self.act();
    }

    fn deliver(&mut self) {
        let Some(session) = &mut self.session else { return };
        if !session.can_deliver(0) {
            return;
        }
        let Some((token, qos, number)) = self.component.queue.pop_front() else { return };
        self.component.in_flight.insert(token, (qos, number));
        let mut message = Message {
            topic: "out/x".into(),
            payload: Bytes::copy_from_slice(&number.to_be_bytes()),
            ..Message::default()
        };
        if qos == Qos::ExactlyOnce {
            message.metadata.push((super::message::QOS.into(), "2".into()));
        }
        let id = Arc::from(token.to_string());
        let message = Arc::new(message);
        let delivery = Delivery { token, id, published_ms: 0, again: false, message };
        session.deliver(delivery, 0);
        assert!(self.component.in_flight.len() <= 4 + 1, "the window is kept");
        self.act();
    }

    fn act(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(action) = session.next_action() {
            match action {
                Action::Send(packet) => self.to_client.push_back(packet),
                Action::Publish(ticket, message) => self.syncing.push_back((ticket, message)),
                Action::Ack(token) => {
                    let was_there = self.component.in_flight.remove(&token);
                    assert!(was_there.is_some(), "a token is acknowledged once");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn client_receives(&mut self) {
        let Some(packet) = self.to_client.pop_front() else { return };
        let client = &mut self.client;
        match packet {
            Packet::Publish(publish) => {
                let number = number_of(&publish.payload);
                let ack = Ack::new(publish.packet_id, Reason::SUCCESS);
                if publish.qos == Qos::AtLeastOnce {
                    client.got.push((publish.qos, number));
                    self.to_server.push_back(Packet::PubAck(ack));
                } else {
                    if client.received.insert(publish.packet_id) {
                        client.got.push((publish.qos, number));
                    }
                    self.to_server.push_back(Packet::PubRec(ack));
                }
            }
            Packet::PubRel(ack) => {
                client.received.remove(&ack.packet_id);
                self.to_server.push_back(Packet::PubComp(Ack::new(ack.packet_id, Reason::SUCCESS)));
            }
            Packet::PubAck(ack) => self.complete(ack.packet_id, Qos::AtLeastOnce),
            Packet::PubRec(ack) => {
                let open = client.unfinished.iter_mut();
                for (_, is_received) in open.filter(|(p, _)| p.packet_id == ack.packet_id) {
                    *is_received = true;
                }
                self.to_server.push_back(Packet::PubRel(Ack::new(ack.packet_id, Reason::SUCCESS)));
            }
            Packet::PubComp(ack) => self.complete(ack.packet_id, Qos::ExactlyOnce),
            other => panic!("{other:?}"),
        }
    }

    fn complete(&mut self, packet_id: u16, qos: Qos) {
        let unfinished = &mut self.client.unfinished;
        let index = unfinished.iter().position(|(publish, _)| publish.packet_id == packet_id);
        let Some(index) = index else { return };
        let (publish, _) = unfinished.remove(index);
        assert_eq!(publish.qos, qos);
        self.client.acknowledged.push((qos, number_of(&publish.payload)));
        // The first law: nothing is acknowledged that is not published.
        let key = (qos, number_of(&publish.payload));
        assert!(self.component.published.contains(&key), "{key:?} acknowledged, not published");
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0 | 1 => self.client_publishes(),
            2 => self.component_publishes(),
            3 | 4 => self.sync(),
            5 | 6 => self.server_receives(),
            7 => self.deliver(),
            8..=10 => self.client_receives(),
            _ if self.session.is_none() => self.connect(),
            _ if self.random.chance(6) => self.cut(),
            _ => {}
        }
    }

    fn settle(&mut self) {
        if self.session.is_none() {
            self.connect();
        }
        for _ in 0..100_000 {
            self.server_receives();
            self.sync();
            self.deliver();
            self.client_receives();
        }
    }
}

fn check_once_and_in_order(seen: &[(Qos, u32)], qos: Qos, most: u32) {
    let mut first_seen = Vec::new();
    for (found, number) in seen.iter().filter(|(found, _)| *found == qos) {
        let is_new = !first_seen.contains(number);
        assert!(is_new || *found != Qos::ExactlyOnce, "QoS 2 message {number} came twice");
        if is_new {
            first_seen.push(*number);
        }
    }
    assert!(first_seen.is_sorted(), "{qos:?} out of order: {first_seen:?}");
    assert!(first_seen.iter().all(|number| *number <= most));
}

#[test]
fn nothing_acknowledged_is_lost_and_qos_2_comes_once() {
    for _ in 0..40 {
        let mut world = World::new();
        world.connect();
        for _ in 0..3000 {
            world.step();
        }
        world.settle();
        let (sent, queued) = (world.client.next_number, world.component.next_token);
        assert!(world.client.unfinished.is_empty(), "all is acknowledged in the end");
        assert_eq!(world.client.acknowledged.len(), usize::try_from(sent).expect("small"));
        assert!(world.component.queue.is_empty() && world.component.in_flight.is_empty());
        let queued = u32::try_from(queued).expect("small");
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            check_once_and_in_order(&world.component.published, qos, sent);
            check_once_and_in_order(&world.client.got, qos, queued);
        }
        let got: BTreeSet<u32> = world.client.got.iter().map(|(_, number)| *number).collect();
        assert_eq!(got, (1..=queued).collect(), "all that was queued arrived");
    }
}

#[test]
fn no_sequence_of_packets_brings_the_session_down() {
    let mut random = Random::seeded();
    for _ in 0..300 {
        let version = *random.choose(&[Version::V4, Version::V5]);
        let limits = MqttLimits { inflight_max: 2, ..MqttLimits::default() };
        let rights = Rights::everything();
        let (subscriptions, parked) = (Subscriptions::default(), Parked::default());
        let mut session =
            Session::new(&accepted(version), rights, &limits, subscriptions, parked, 0);
        let mut tickets = VecDeque::new();
        for _ in 0..200 {
            let packet_id = u16::try_from(1 + random.below(4)).expect("small");
            let ack = Ack::new(packet_id, Reason::SUCCESS);
            let topic = *random.choose(&["a", "a/b", "", "$x", "+"]);
            let qos = *random.choose(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]);
            session.receive(
                match random.below(8) {
                    0 => Packet::PubAck(ack),
                    1 => Packet::PubRec(ack),
                    2 => Packet::PubRel(ack),
                    3 => Packet::PubComp(ack),
                    4 => Packet::Subscribe(Subscribe {
                        packet_id,
                        wishes: vec![Wish {
                            filter: topic.into(),
                            qos,
                            no_local: random.chance(2),
                            retain_as_published: random.chance(2),
                            retain_handling: RetainHandling::Always,
                        }],
                        properties: None,
                    }),
                    5 => Packet::PingReq,
                    _ => Packet::Publish(Publish {
                        dup: false,
                        qos,
                        retain: random.chance(2),
                        topic: topic.into(),
                        packet_id,
                        payload: Bytes::new(),
                        properties: None,
                    }),
                },
                0,
            );
            if random.chance(2)
                && let Some(ticket) = tickets.pop_front()
            {
                session.published(ticket, Ok(()));
            }
            let message = Arc::new(Message { topic: "a".into(), ..Message::default() });
            let token = random.next();
            let id = "".into();
            if session.can_deliver(0) {
                session.deliver(
                    Delivery { token, id, published_ms: 0, again: false, message },
                    random.below(1 << 20),
                );
            }
            while let Some(action) = session.next_action() {
                match action {
                    Action::Publish(ticket, _) => tickets.push_back(ticket),
                    Action::Subscribed { answer, .. } => session.subscribed(*answer, Vec::new()),
                    _ => {}
                }
            }
        }
    }
}
