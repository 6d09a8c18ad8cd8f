//! What a client sends: publishes and subscriptions.

use super::{Action, Session, is_shared};
use crate::broker::message;
use crate::broker::packet::{
    Ack, Packet, Publish, Qos, Reason, Reasons, Subscribe, Unsubscribe, Version, Wish,
};
use crate::broker::subscriptions::{Options, brings_retained};
use crate::broker::{RECEIVED_MAX, TOPIC_ALIASES_MAX};
use pillion_components::topic::{self, Filter};
use pillion_components::{Error, Kind};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which PUBLISH a result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    qos: Qos,
    packet_id: u16,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Inbound {
    /// Topic names by alias, the first at 1.
    aliases: Vec<Option<Arc<str>>>,
    /// Messages of QoS 1 and 2 that are not fully answered.
    open: usize,
    /// The same, at most, and results that are waited for at a time.
    open_max: usize,
    /// An MQTT 5 client was told `open_max`.
    is_announced: bool,
    /// Results that are waited for, QoS 0 included.
    pending: usize,
    /// QoS 2 packet ids whose result is waited for.
    publishing: BTreeSet<u16>,
    /// QoS 2 packet ids that are published and wait for their PUBREL.
    received: BTreeSet<u16>,
    /// A denial was logged.
    has_logged: bool,
}

impl Inbound {
    pub(super) fn new(version: Version, open_max: u16, received: BTreeSet<u16>) -> Self {
        Self {
            aliases: Vec::new(),
            open: received.len(),
            open_max: usize::from(open_max),
            is_announced: version == Version::V5,
            pending: 0,
            publishing: BTreeSet::new(),
            received,
            has_logged: false,
        }
    }

    pub(super) fn into_received(self) -> BTreeSet<u16> {
        self.received
    }

    /// The topic of a publish, by name or by alias.
    fn resolve(&mut self, publish: &Publish) -> Result<Arc<str>, (Reason, &'static str)> {
        let named = !publish.topic.is_empty();
        let alias = publish.properties.as_deref().and_then(|p| p.topic_alias);
        let Some(alias) = alias else {
            return if named {
                Ok(publish.topic.clone())
            } else {
                Err((Reason::PROTOCOL_ERROR, "neither topic nor alias"))
            };
        };
        let wrong = (Reason::ALIAS_INVALID, "a topic alias that is not known or too large");
        if alias == 0 || alias > TOPIC_ALIASES_MAX {
            return Err(wrong);
        }
        let index = usize::from(alias) - 1;
        if named {
            if self.aliases.len() <= index {
                self.aliases.resize(index + 1, None);
            }
            if let Some(slot) = self.aliases.get_mut(index) {
                *slot = Some(publish.topic.clone());
            }
            return Ok(publish.topic.clone());
        }
        self.aliases.get(index).cloned().flatten().ok_or(wrong)
    }
}

impl Session {
    /// Whether more may be read from the client: the results it waits for are bounded.
    pub(crate) fn can_receive(&self) -> bool {
        !self.is_closed && self.inbound.pending < self.inbound.open_max
    }

    /// Whether results are waited for.
    pub(crate) const fn is_publishing(&self) -> bool {
        self.inbound.pending > 0
    }

    pub(super) fn receive_publish(&mut self, mut publish: Publish) {
        if publish.properties.as_deref().is_some_and(|p| !p.subscription_ids.is_empty()) {
            return self.close(Reason::PROTOCOL_ERROR, "a subscription identifier from a client");
        }
        match self.inbound.resolve(&publish) {
            Ok(topic) => publish.topic = topic,
            Err((reason, why)) => return self.close(reason, why),
        }
        if topic::check_name(&publish.topic).is_err() {
            return self.refuse_topic(&publish);
        }
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        if qos == Qos::ExactlyOnce {
            if self.inbound.received.contains(&packet_id) {
                return self.send(Packet::PubRec(Ack::new(packet_id, Reason::SUCCESS)));
            }
            if self.inbound.publishing.contains(&packet_id) {
                // The answer to the first one is on its way.
                return;
            }
        }
        if qos != Qos::AtMostOnce {
            let open_max = if self.inbound.is_announced {
                self.inbound.open_max
            } else {
                RECEIVED_MAX.max(self.inbound.open_max)
            };
            if self.inbound.open >= open_max {
                return self.close(Reason::RECEIVE_MAXIMUM, "more than it may send unanswered");
            }
            self.inbound.open += 1;
        }
        let ticket = Ticket { qos, packet_id };
        if !self.rights.may_publish(&publish.topic) {
            return self.deny_publish(ticket, &publish.topic);
        }
        if qos == Qos::ExactlyOnce {
            self.inbound.publishing.insert(packet_id);
        }
        self.inbound.pending += 1;
        let message = message::from_publish(publish, self.origin.clone());
        self.actions.push_back(Action::Publish(ticket, message));
    }

    /// A topic that can never be one. Wildcards and NUL break the protocol; the rest (too long, too
    /// many levels) is a limit of ours, which MQTT 5 can be told.
    fn refuse_topic(&mut self, publish: &Publish) {
        let is_ours = !publish.topic.contains(['+', '#', '\0']);
        if is_ours && self.version == Version::V5 && publish.qos != Qos::AtMostOnce {
            self.inbound.open += 1;
            let ticket = Ticket { qos: publish.qos, packet_id: publish.packet_id };
            return self.answer(ticket, Reason::TOPIC_INVALID);
        }
        self.close(Reason::TOPIC_INVALID, "a topic name that cannot be published to");
    }

    /// A publish without the right to it is answered and dropped: MQTT 5 says so in the answer,
    /// 3.1.1 has no word for it and would send the message again for ever.
    fn deny_publish(&mut self, ticket: Ticket, topic: &str) {
        if !self.inbound.has_logged {
            self.inbound.has_logged = true;
            tracing::warn!(client = %self.client_id, topic, "may not publish there; message dropped");
        }
        self.actions.push_back(Action::Dropped("not-authorized"));
        let reason = match self.version {
            Version::V4 => Reason::SUCCESS,
            Version::V5 => Reason::NOT_AUTHORIZED,
        };
        if ticket.qos == Qos::ExactlyOnce && !reason.is_error() {
            self.inbound.received.insert(ticket.packet_id);
        }
        self.answer(ticket, reason);
    }

    /// The result of an [`Action::Publish`], in the order of those.
    pub(crate) fn published(&mut self, ticket: Ticket, result: Result<(), Error>) {
        self.inbound.pending = self.inbound.pending.saturating_sub(1);
        self.inbound.publishing.remove(&ticket.packet_id);
        let error = match result {
            Ok(()) => {
                if ticket.qos == Qos::ExactlyOnce {
                    self.inbound.received.insert(ticket.packet_id);
                }
                return self.answer(ticket, Reason::SUCCESS);
            }
            Err(error) => error,
        };
        if !self.inbound.has_logged {
            self.inbound.has_logged = true;
            tracing::warn!(client = %self.client_id, %error, "a message could not be published");
        }
        match (self.version, ticket.qos) {
            (_, Qos::AtMostOnce) => self.actions.push_back(Action::Dropped("publish-failed")),
            (Version::V5, _) => self.answer(ticket, reason_of(error.kind())),
            // There is no negative answer in 3.1.1, and none at all leaves the client waiting: the
            // connection ends and it sends the message again.
            (Version::V4, _) => self.close(Reason::QUOTA_EXCEEDED, "a message could not be stored"),
        }
    }

    fn answer(&mut self, ticket: Ticket, reason: Reason) {
        let ack = Ack::new(ticket.packet_id, reason);
        match ticket.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => {
                self.inbound.open = self.inbound.open.saturating_sub(1);
                self.send(Packet::PubAck(ack));
            }
            Qos::ExactlyOnce => {
                if reason.is_error() {
                    self.inbound.open = self.inbound.open.saturating_sub(1);
                }
                self.send(Packet::PubRec(ack));
            }
        }
    }

    pub(super) fn receive_pubrel(&mut self, ack: &Ack) {
        let reason = if self.inbound.received.remove(&ack.packet_id) {
            self.inbound.open = self.inbound.open.saturating_sub(1);
            Reason::SUCCESS
        } else {
            Reason::ID_NOT_FOUND
        };
        self.send(Packet::PubComp(Ack::new(ack.packet_id, reason)));
    }

    pub(super) fn receive_subscribe(&mut self, subscribe: Subscribe) {
        let id = subscribe.properties.as_deref().and_then(|p| p.subscription_ids.first().copied());
        let before = self.subscriptions.clone();
        let mut retained = Vec::new();
        let mut reasons = Vec::with_capacity(subscribe.wishes.len());
        for wish in &subscribe.wishes {
            if is_shared(wish) && wish.no_local {
                return self.close(Reason::PROTOCOL_ERROR, "no-local on a shared subscription");
            }
            reasons.push(self.grant(wish, id, &mut retained));
        }
        let packet_id = subscribe.packet_id;
        if reasons.iter().all(|reason| reason.is_error()) {
            self.subscriptions = before;
            return self.send(Packet::SubAck(Reasons { packet_id, reasons, properties: None }));
        }
        let refused = vec![Reason::UNSPECIFIED; reasons.len()];
        let packet = |reasons| Packet::SubAck(Reasons { packet_id, reasons, properties: None });
        self.actions.push_back(Action::Subscribed {
            answer: Box::new(packet(reasons)),
            refusal: Box::new(packet(refused)),
            retained,
            is_changed: self.subscriptions != before,
        });
    }

    fn grant(&mut self, wish: &Wish, id: Option<u32>, retained: &mut Vec<Filter>) -> Reason {
        if is_shared(wish) {
            return Reason::SHARED_UNSUPPORTED;
        }
        let Ok(filter) = Filter::new(&wish.filter) else { return Reason::FILTER_INVALID };
        if !self.rights.may_subscribe(&filter) {
            return Reason::NOT_AUTHORIZED;
        }
        let is_full = self.subscriptions.len() >= self.subscriptions_max;
        if is_full && !self.subscriptions.contains(&filter) {
            return Reason::QUOTA_EXCEEDED;
        }
        let options = Options {
            qos: wish.qos,
            no_local: wish.no_local,
            retain_as_published: wish.retain_as_published,
            id,
        };
        let is_new = self.subscriptions.insert(filter.clone(), options);
        if brings_retained(wish.retain_handling, is_new) {
            retained.push(filter);
        }
        Reason(wish.qos as u8)
    }

    pub(super) fn receive_unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let packet_id = unsubscribe.packet_id;
        let mut is_changed = false;
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        for text in &unsubscribe.filters {
            reasons.push(match Filter::new(text) {
                Ok(filter) if self.subscriptions.remove(&filter) => {
                    is_changed = true;
                    Reason::SUCCESS
                }
                Ok(_) => Reason::NO_SUBSCRIPTION,
                Err(_) => Reason::FILTER_INVALID,
            });
        }
        let refused = vec![Reason::UNSPECIFIED; reasons.len()];
        let packet = |reasons| Packet::UnsubAck(Reasons { packet_id, reasons, properties: None });
        if !is_changed {
            return self.send(packet(reasons));
        }
        self.actions.push_back(Action::Subscribed {
            answer: Box::new(packet(reasons)),
            refusal: Box::new(packet(refused)),
            retained: Vec::new(),
            is_changed: true,
        });
    }
}

/// The reason of MQTT 5 for an error of the component.
const fn reason_of(kind: Kind) -> Reason {
    match kind {
        Kind::Full | Kind::Overloaded => Reason::QUOTA_EXCEEDED,
        Kind::Denied => Reason::NOT_AUTHORIZED,
        Kind::Invalid => Reason::TOPIC_INVALID,
        Kind::TooLarge | Kind::Unsupported => Reason::IMPLEMENTATION,
        _ => Reason::UNSPECIFIED,
    }
}
