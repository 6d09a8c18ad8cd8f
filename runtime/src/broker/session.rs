//! One client's session: the rules of MQTT as a state machine without I/O.
//!
//! Packets, deliveries and results go in; [`Action`]s come out, to be carried out in order.
//!
//! Laws:
//! - a PUBLISH with QoS 1 or 2 is answered after its result came in, never before; the driver
//!   reports results in the order of the [`Action::Publish`]es, so answers leave in the order in
//!   which the messages arrived;
//! - a QoS 2 message is published once: its packet id is kept from its result to its PUBREL;
//! - at most `window` messages are sent and not acknowledged; a message's token is acknowledged to
//!   the component when the client owns it: at QoS 0 when sent, at QoS 1 with PUBACK, at QoS 2
//!   with PUBREC;
//! - a packet id is not used again before its message is done with;
//! - a message that matches several subscriptions is sent once, with the highest QoS of them, and
//!   never above the QoS it was published with.
//!
//! Not durable: the packet ids of QoS 2 on both sides are written down when the client leaves and
//! kept in memory until then, so after a crash a QoS 2 message may come twice. A will lives in
//! memory: a crash forgets it, an orderly end publishes it. Retained messages that a SUBSCRIBE
//! brought and the client has not acknowledged are sent again by this process only.

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

pub(crate) use inbound::Ticket;
pub(crate) use outbound::Parked;

use super::access::Rights;
use super::connect::Accepted;
use super::message;
use super::packet::{Notice, Packet, Reason, Version, Wish};
use super::subscriptions::Subscriptions;
use crate::resources::MqttLimits;
use inbound::Inbound;
use outbound::Outbound;
use pillion_components::pubsub::{Delivery, Message};
use pillion_components::topic::Filter;
use std::collections::VecDeque;
use std::sync::Arc;

/// What the driver has to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send a packet.
    Send(Packet),
    /// Publish; then report with [`Session::published`].
    Publish(Ticket, Message),
    /// Tell the component that this delivery is done with.
    Ack(u64),
    /// The client asked for subscriptions: tell the component, store them if the session is
    /// persistent, fetch what is retained for `retained`; then [`Session::subscribed`].
    Subscribed {
        /// What to answer once that is done.
        answer: Box<Packet>,
        /// What to answer if it cannot be done.
        refusal: Box<Packet>,
        /// New filters whose retained messages are wanted.
        retained: Vec<Filter>,
        /// Not merely what was there before: there is something to tell and to store.
        is_changed: bool,
    },
    /// A message was left out; count it under this reason.
    Dropped(&'static str),
    /// End the connection.
    Close(Close),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Close {
    /// For the DISCONNECT to an MQTT 5 client; `None` if the client said goodbye.
    pub(crate) reason: Option<Reason>,
    /// For the log.
    pub(crate) why: &'static str,
    /// The client's will is published.
    pub(crate) with_will: bool,
}

impl Close {
    /// The server ends it.
    pub(crate) const fn because(reason: Reason, why: &'static str) -> Self {
        Self { reason: Some(reason), why, with_will: true }
    }

    /// There is nobody to say goodbye to.
    pub(crate) const fn lost(why: &'static str) -> Self {
        Self { reason: None, why, with_will: true }
    }
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Session {
    version: Version,
    client_id: Arc<str>,
    /// Origin of what this client publishes.
    origin: Arc<str>,
    rights: Rights,
    subscriptions: Subscriptions,
    subscriptions_max: usize,
    expiry_s: u32,
    /// The CONNECT asked for a session that ends with the connection.
    was_transient: bool,
    inbound: Inbound,
    outbound: Outbound,
    /// One and a half times the keep-alive; 0 is none.
    silence_max_ms: u64,
    heard_ms: u64,
    is_closed: bool,
    actions: VecDeque<Action>,
}

impl Session {
    /// The session of a client that was let in, with what it left behind if it was here before.
    pub(crate) fn new(
        accepted: &Accepted,
        rights: Rights,
        limits: &MqttLimits,
        subscriptions: Subscriptions,
        parked: Parked,
        now_ms: u64,
    ) -> Self {
        let (received, left) = parked.split();
        let mut session = Self {
            version: accepted.version,
            client_id: accepted.client_id.clone(),
            origin: message::origin_of(&accepted.client_id),
            rights,
            subscriptions,
            subscriptions_max: usize::try_from(limits.subscriptions_max).unwrap_or(usize::MAX),
            expiry_s: accepted.expiry_s,
            was_transient: accepted.expiry_s == 0,
            inbound: Inbound::new(accepted.version, limits.inflight_max.max(1), received),
            outbound: Outbound::new(limits.inflight_max.min(accepted.receive_maximum).max(1), left),
            silence_max_ms: u64::from(accepted.keep_alive_s) * 1500,
            heard_ms: now_ms,
            is_closed: false,
            actions: VecDeque::new(),
        };
        session.resume();
        session
    }

    /// The next thing to do.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A packet came.
    pub(crate) fn receive(&mut self, packet: Packet, now_ms: u64) {
        if self.is_closed {
            return;
        }
        self.heard_ms = now_ms;
        match packet {
            Packet::Publish(publish) => self.receive_publish(publish),
            Packet::PubRel(ack) => self.receive_pubrel(&ack),
            Packet::PubAck(ack) => self.receive_puback(&ack),
            Packet::PubRec(ack) => self.receive_pubrec(&ack),
            Packet::PubComp(ack) => self.receive_pubcomp(&ack),
            Packet::Subscribe(subscribe) => self.receive_subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.receive_unsubscribe(unsubscribe),
            Packet::PingReq => self.send(Packet::PingResp),
            Packet::Disconnect(notice) => self.receive_disconnect(&notice),
            Packet::Connect(_) => self.close(Reason::PROTOCOL_ERROR, "a second CONNECT"),
            Packet::Auth(_) => self.close(Reason::PROTOCOL_ERROR, "AUTH without a method"),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.close(Reason::PROTOCOL_ERROR, "a packet that only servers send");
            }
        }
    }

    fn receive_disconnect(&mut self, notice: &Notice) {
        let expiry_s = notice.properties.as_deref().and_then(|p| p.session_expiry_s);
        if let Some(expiry_s) = expiry_s {
            if self.was_transient && expiry_s > 0 {
                return self.close(Reason::PROTOCOL_ERROR, "a session that began without expiry");
            }
            self.expiry_s = expiry_s;
        }
        let with_will = notice.reason == Reason::WITH_WILL;
        self.end(Close { reason: None, why: "the client said goodbye", with_will });
    }

    /// Time has passed. Ends the connection of a client that was silent for too long.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.deadline_ms().is_some_and(|deadline_ms| now_ms >= deadline_ms) {
            self.close(Reason::KEEP_ALIVE_TIMEOUT, "nothing heard within the keep-alive");
        }
    }

    /// When to call [`tick`](Self::tick).
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        (self.silence_max_ms > 0).then(|| self.heard_ms.saturating_add(self.silence_max_ms))
    }

    /// Asks to end the connection.
    pub(crate) fn close(&mut self, reason: Reason, why: &'static str) {
        self.end(Close::because(reason, why));
    }

    /// The connection broke.
    pub(crate) fn lose(&mut self, why: &'static str) {
        self.end(Close::lost(why));
    }

    fn end(&mut self, close: Close) {
        if !self.is_closed {
            self.is_closed = true;
            self.actions.push_back(Action::Close(close));
        }
    }

    fn send(&mut self, packet: Packet) {
        self.actions.push_back(Action::Send(packet));
    }

    /// Protocol version.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// The client's id.
    pub(crate) const fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// What it is subscribed to.
    pub(crate) const fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// How long it outlives its connection, in seconds.
    pub(crate) const fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// Whether it outlives its connection.
    pub(crate) const fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// What stays when the client leaves.
    pub(crate) fn park(self) -> (Subscriptions, Parked) {
        (self.subscriptions, Parked::new(self.inbound.into_received(), self.outbound))
    }
}

/// Whether a filter is a shared subscription of MQTT 5, which this door does not offer.
fn is_shared(wish: &Wish) -> bool {
    wish.filter.starts_with("$share/")
}

/// Whether a delivery is what the client published itself.
fn is_own(delivery: &Delivery, origin: &str) -> bool {
    delivery.message.origin.as_deref() == Some(origin)
}
