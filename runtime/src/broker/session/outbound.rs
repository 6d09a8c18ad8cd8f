//! What a client gets: deliveries, the window of those it has not acknowledged, retained messages.

use super::{Action, Session, is_own};
use crate::broker::message::{self, Manner};
use crate::broker::packet::{Ack, Packet, Qos, Reason};
use crate::broker::subscriptions::Match;
use crate::broker::{OUTBOX_BYTES_MAX, OUTBOX_BYTES_SOFT, RETAINED_PER_SUBSCRIBE_MAX};
use pillion_components::pubsub::{Delivery, Message};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// QoS 1: waits for PUBACK.
    Acknowledge,
    /// QoS 2: waits for PUBREC.
    Receive,
    /// QoS 2: waits for PUBCOMP. The client has the message.
    Complete,
}

/// A message that was sent and is not done with.
#[derive(Debug)]
struct Sent {
    packet_id: u16,
    stage: Stage,
    /// The component's name of the delivery.
    token: u64,
    /// Stable name of the message; empty if there is none.
    id: Arc<str>,
    /// Kept where no component will deliver it again: a retained message.
    kept: Option<Arc<Message>>,
}

/// The sending side.
#[derive(Debug)]
pub(super) struct Outbound {
    window: VecDeque<Sent>,
    window_max: usize,
    last_id: u16,
    /// Retained messages that wait for the window.
    waiting: VecDeque<Delivery>,
    /// Sent before the client came back, and still with the component, which delivers them again:
    /// then they go out under the packet id they had.
    expected: Vec<(Arc<str>, u16)>,
    /// To be sent again first thing.
    resumed: Vec<Left>,
}

/// A message that was sent to a client which left.
#[derive(Debug)]
struct Left {
    packet_id: u16,
    stage: Stage,
    id: Arc<str>,
    kept: Option<Arc<Message>>,
}

/// What stays of a session in memory when its client leaves. The queue stays in the component.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    received: BTreeSet<u16>,
    left: Vec<Left>,
}

impl Parked {
    pub(super) fn new(received: BTreeSet<u16>, outbound: Outbound) -> Self {
        let mut left: Vec<Left> = outbound
            .window
            .into_iter()
            .map(|sent| Left {
                packet_id: sent.packet_id,
                stage: sent.stage,
                id: sent.id,
                kept: sent.kept,
            })
            .collect();
        // Those may never come (expired, dropped by a limit): the newest of them are kept.
        let still_expected = outbound.expected.into_iter().rev().take(outbound.window_max);
        left.extend(still_expected.map(|(id, packet_id)| Left {
            packet_id,
            stage: Stage::Acknowledge,
            id,
            kept: None,
        }));
        Self { received, left }
    }

    /// What a record on disk knows.
    pub(crate) fn from_ids(received: &[u16], released: &[u16]) -> Self {
        let left = |packet_id: &u16| Left {
            packet_id: *packet_id,
            stage: Stage::Complete,
            id: "".into(),
            kept: None,
        };
        Self {
            received: received.iter().copied().filter(|id| *id != 0).collect(),
            left: released.iter().filter(|id| **id != 0).map(left).collect(),
        }
    }

    /// QoS 2 packet ids that wait for PUBREL and for PUBCOMP, for the record on disk.
    pub(crate) fn ids(&self) -> (Vec<u16>, Vec<u16>) {
        let complete = self.left.iter().filter(|left| left.stage == Stage::Complete);
        (self.received.iter().copied().collect(), complete.map(|left| left.packet_id).collect())
    }

    /// Whether QoS 2 packet ids wait for their PUBREL.
    pub(crate) fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    pub(super) fn split(self) -> (BTreeSet<u16>, Self) {
        (self.received, Self { received: BTreeSet::new(), left: self.left })
    }
}

impl Outbound {
    pub(super) fn new(window_max: u16, parked: Parked) -> Self {
        let (mut expected, mut resumed) = (Vec::new(), Vec::new());
        for left in parked.left {
            if left.stage == Stage::Complete || left.kept.is_some() {
                resumed.push(left);
            } else if !left.id.is_empty() {
                expected.push((left.id, left.packet_id));
            }
        }
        Self {
            window: VecDeque::new(),
            window_max: usize::from(window_max),
            last_id: 0,
            waiting: VecDeque::new(),
            expected,
            resumed,
        }
    }

    fn has_room(&self) -> bool {
        self.window.len() < self.window_max
    }

    /// A packet id that nothing uses. The window is far smaller than the numbers there are.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            let is_taken = self.window.iter().any(|sent| sent.packet_id == id)
                || self.expected.iter().any(|(_, taken)| *taken == id)
                || self.resumed.iter().any(|left| left.packet_id == id);
            if !is_taken {
                return id;
            }
        }
    }

    /// The packet id under which this message went out before the client came back.
    fn id_before(&mut self, id: &str) -> Option<u16> {
        let index = self.expected.iter().position(|(known, _)| !id.is_empty() && **known == *id)?;
        Some(self.expected.swap_remove(index).1)
    }

    fn position(&self, packet_id: u16) -> Option<usize> {
        self.window.iter().position(|sent| sent.packet_id == packet_id)
    }
}

impl Session {
    /// Whether the next message may be taken from the component. `outbox_bytes` wait for the
    /// socket.
    pub(crate) fn can_deliver(&self, outbox_bytes: usize) -> bool {
        let outbound = &self.outbound;
        !self.is_closed
            && outbound.has_room()
            && outbound.waiting.is_empty()
            && (!self.is_persistent() || outbox_bytes < OUTBOX_BYTES_SOFT)
    }

    /// A message from the component.
    pub(crate) fn deliver(&mut self, delivery: Delivery, outbox_bytes: usize) {
        let own = is_own(&delivery, &self.origin);
        let matched = self.subscriptions.matched(&delivery.message.topic, own);
        // Unsubscribed while it was on its way, its own, or too old.
        let Some(matched) = matched.filter(|_| delivery.message.ttl_ms != Some(0)) else {
            return self.acknowledge(delivery.token);
        };
        let retain = matched.retain_as_published && delivery.message.retain;
        self.send_message(delivery, matched, retain, outbox_bytes);
    }

    fn send_message(
        &mut self,
        delivery: Delivery,
        matched: Match,
        retain: bool,
        outbox_bytes: usize,
    ) {
        let qos = message::qos_of(&delivery.message).min(matched.qos);
        let mut manner = Manner { qos, retain, subscription_ids: matched.ids, ..Manner::default() };
        if qos == Qos::AtMostOnce {
            if outbox_bytes >= OUTBOX_BYTES_MAX {
                self.actions.push_back(Action::Dropped("slow-reader"));
            } else {
                let publish = message::to_publish(&delivery.message, self.version, manner);
                self.send(Packet::Publish(publish));
            }
            return self.acknowledge(delivery.token);
        }
        let before = self.outbound.id_before(&delivery.id);
        manner.dup = before.is_some();
        manner.packet_id = before.unwrap_or_else(|| self.outbound.free_id());
        let stage = if qos == Qos::AtLeastOnce { Stage::Acknowledge } else { Stage::Receive };
        self.outbound.window.push_back(Sent {
            packet_id: manner.packet_id,
            stage,
            token: delivery.token,
            id: delivery.id,
            kept: (delivery.token == 0).then(|| delivery.message.clone()),
        });
        let publish = message::to_publish(&delivery.message, self.version, manner);
        self.send(Packet::Publish(publish));
    }

    fn acknowledge(&mut self, token: u64) {
        if token != 0 {
            self.actions.push_back(Action::Ack(token));
        }
    }

    /// The filters of an [`Action::Subscribed`] are in force; these are the retained messages.
    pub(crate) fn subscribed(&mut self, answer: Packet, retained: Vec<Delivery>) {
        self.send(answer);
        let room = RETAINED_PER_SUBSCRIBE_MAX.saturating_sub(self.outbound.waiting.len());
        for _ in retained.iter().skip(room) {
            self.actions.push_back(Action::Dropped("retained-per-subscribe"));
        }
        let mut retained = retained;
        retained.truncate(room);
        self.outbound.waiting.extend(retained.into_iter().map(|delivery| Delivery {
            // Not part of the queue: nothing to acknowledge.
            token: 0,
            ..delivery
        }));
        self.send_waiting();
    }

    fn send_waiting(&mut self) {
        while self.outbound.has_room() {
            let Some(delivery) = self.outbound.waiting.pop_front() else { return };
            // A retained message is nobody's echo, but no-local leaves out one's own as well.
            let own = is_own(&delivery, &self.origin);
            if let Some(matched) = self.subscriptions.matched(&delivery.message.topic, own) {
                // Asked for by the client: not held against a slow reader.
                self.send_message(delivery, matched, true, 0);
            }
        }
    }

    /// Sends again what the client had not completed when it left.
    pub(super) fn resume(&mut self) {
        for left in std::mem::take(&mut self.outbound.resumed) {
            let Left { packet_id, stage, id, kept } = left;
            match &kept {
                _ if stage == Stage::Complete => {
                    self.send(Packet::PubRel(Ack::new(packet_id, Reason::SUCCESS)));
                }
                Some(message) => {
                    let qos =
                        if stage == Stage::Receive { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
                    let manner = Manner {
                        qos,
                        retain: true,
                        dup: true,
                        packet_id,
                        subscription_ids: Vec::new(),
                    };
                    let publish = message::to_publish(message, self.version, manner);
                    self.send(Packet::Publish(publish));
                }
                None => continue,
            }
            self.outbound.window.push_back(Sent { packet_id, stage, token: 0, id, kept });
        }
    }

    pub(super) fn receive_puback(&mut self, ack: &Ack) {
        let Some(index) = self.outbound.position(ack.packet_id) else { return };
        if self.outbound.window.get(index).is_some_and(|sent| sent.stage == Stage::Acknowledge) {
            self.finish(index);
        } else {
            self.close(Reason::PROTOCOL_ERROR, "PUBACK of a QoS 2 message");
        }
    }

    pub(super) fn receive_pubrec(&mut self, ack: &Ack) {
        let index = self.outbound.position(ack.packet_id);
        let Some(sent) = index.and_then(|index| self.outbound.window.get_mut(index)) else {
            let unknown = Ack::new(ack.packet_id, Reason::ID_NOT_FOUND);
            return self.send(Packet::PubRel(unknown));
        };
        if sent.stage == Stage::Acknowledge {
            return self.close(Reason::PROTOCOL_ERROR, "PUBREC of a QoS 1 message");
        }
        if let Some(index) = index.filter(|_| ack.reason.is_error()) {
            return self.finish(index);
        }
        sent.stage = Stage::Complete;
        sent.kept = None;
        let token = std::mem::take(&mut sent.token);
        self.acknowledge(token);
        self.send(Packet::PubRel(Ack::new(ack.packet_id, Reason::SUCCESS)));
    }

    pub(super) fn receive_pubcomp(&mut self, ack: &Ack) {
        let Some(index) = self.outbound.position(ack.packet_id) else { return };
        if self.outbound.window.get(index).is_some_and(|sent| sent.stage == Stage::Complete) {
            self.finish(index);
        } else {
            self.close(Reason::PROTOCOL_ERROR, "PUBCOMP before its PUBREL");
        }
    }

    /// A packet is larger than the client takes: as far as it goes, the message is done with.
    pub(crate) fn undeliverable(&mut self, packet_id: u16) {
        self.actions.push_back(Action::Dropped("client-packet-size"));
        if let Some(index) = self.outbound.position(packet_id) {
            self.finish(index);
        }
    }

    fn finish(&mut self, index: usize) {
        if let Some(sent) = self.outbound.window.remove(index) {
            self.acknowledge(sent.token);
        }
        self.send_waiting();
    }
}
