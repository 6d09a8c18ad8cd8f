//! What the subscriptions of one component share: the connection, the filters at the broker, the
//! messages that have arrived, and the acknowledgements owed for them.
//!
//! - A message goes to every subscription that wants it; the broker gets its PUBACK when the last
//!   of them has acknowledged. PUBACKs leave in the order in which messages came, as the standard
//!   asks, except for those that were handed back or that nobody has taken yet: they must not hold
//!   up the others.
//! - Queues are bounded. What does not fit is left unacknowledged, together with all that follows
//!   it; once the queue is empty the connection is made anew, and the broker sends everything
//!   again, in order. Brokers with a window of their own (nearly all) never get us there.
//! - With the connection the acknowledgements owed die. If the broker kept the session it sends
//!   again what was not acknowledged, so what waits here is dropped in its favour; if it did not,
//!   what waits here is all there is, and stays.

use super::consumer::{Consumer, Item, Taken, Wanted};
use super::settings::Settings;
use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Assurance, Message, QueueStatus, Subscribe};
use bytes::Bytes;
use rumqttc::{
    AsyncClient, ManualAck, Publish, PublishNotice, PublishOptions, QoS, SubscribeFilterInput,
    SubscribeReasonCode,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Filters in one SUBSCRIBE or UNSUBSCRIBE; some cloud brokers take no more than eight.
const FILTERS_PER_PACKET: usize = 8;
/// Durable messages kept for a subscription that has not been opened yet. A broker sends its
/// backlog at once after CONNACK, before an app has come up and subscribed.
const UNCLAIMED_MAX: usize = 1024;
/// Their bytes.
const UNCLAIMED_BYTES_MAX: u64 = 1 << 20;

/// Whether there is a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first attempt is under way.
    Starting,
    /// Connected.
    Up,
    /// Not connected, and why.
    Down(Arc<str>),
}

/// See the head of this file.
pub(super) struct Hub {
    /// `host:port`, for messages.
    address: String,
    qos: QoS,
    clean_session: bool,
    clock: Clock,
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    up: watch::Sender<bool>,
    reset: Notify,
}

#[derive(Default)]
struct Inner {
    client: Option<AsyncClient>,
    /// The connection is about to be made anew: what comes on it now comes again.
    resetting: Option<&'static str>,
    consumers: BTreeMap<Arc<str>, Consumer>,
    generations: u64,
    arrivals: u64,
    owed: BTreeMap<u64, Owed>,
    order: VecDeque<u64>,
    unclaimed: BTreeMap<u64, Item>,
    unclaimed_bytes: u64,
    unclaimed_shed: bool,
    filters: Filters,
}

/// An acknowledgement that the broker waits for.
struct Owed {
    ack: ManualAck,
    /// Subscriptions that have not acknowledged yet.
    holders: usize,
    /// Does not hold up those behind it.
    aside: bool,
}

/// What the broker knows of our filters.
#[derive(Default)]
struct Filters {
    known: BTreeMap<Arc<str>, Standing>,
    /// Packets handed to the client that have no id yet, oldest first.
    subscribing: VecDeque<Vec<Arc<str>>>,
    unsubscribing: VecDeque<Vec<Arc<str>>>,
    /// Packets sent, by id, that have no answer yet.
    subscribe_sent: BTreeMap<u16, Vec<Arc<str>>>,
    unsubscribe_sent: BTreeMap<u16, Vec<Arc<str>>>,
}

/// How far a filter has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Asked,
    Granted,
    Refused,
    Leaving,
}

/// What a waiting `subscribe` finds.
pub(super) enum Answer {
    Granted,
    Refused(Arc<str>),
    Pending,
}

impl Hub {
    pub(super) fn new(settings: &Settings, clock: Clock) -> Self {
        Self {
            address: format!("{}:{}", settings.host, settings.port),
            qos: settings.qos,
            clean_session: settings.clean_session,
            clock,
            inner: Mutex::default(),
            phase: watch::Sender::new(Phase::Starting),
            up: watch::Sender::new(false),
            reset: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes of the phase, and of what the broker said about filters.
    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Why nothing can be sent now.
    pub(super) fn unavailable(&self, why: &str) -> Error {
        Error::new(Kind::Unavailable, format!("mqtt broker {}: {why}", self.address))
    }

    // The connection's side.

    pub(super) fn connected(&self, client: AsyncClient, session_present: bool) {
        let mut inner = self.lock();
        inner.client = Some(client);
        inner.resetting = None;
        inner.unclaimed_shed = false;
        if session_present {
            inner.unclaimed.clear();
            inner.unclaimed_bytes = 0;
            inner.consumers.values_mut().for_each(Consumer::drop_what_comes_again);
        }
        inner.filters.reconnected(session_present);
        inner.settle_filters(self.qos);
        drop(inner);
        tracing::info!(broker = %self.address, session_present, "connected to the mqtt broker");
        self.phase.send_replace(Phase::Up);
        self.up.send_replace(true);
    }

    pub(super) fn disconnected(&self, reason: &str) {
        let mut inner = self.lock();
        inner.client = None;
        inner.owed.clear();
        inner.order.clear();
        drop(inner);
        let known = matches!(&*self.phase.borrow(), Phase::Down(known) if **known == *reason);
        if known {
            return;
        }
        // Once per reason: a broker that stays away for days is one line.
        tracing::warn!(broker = %self.address, reason, "no connection to the mqtt broker");
        self.phase.send_replace(Phase::Down(reason.into()));
        self.up.send_if_modified(|up| std::mem::replace(up, false));
    }

    /// Resolves when the connection shall be made anew; says why.
    pub(super) async fn reset_wanted(&self) -> &'static str {
        loop {
            self.reset.notified().await;
            if let Some(reason) = self.lock().resetting {
                return reason;
            }
        }
    }

    /// Makes the connection anew.
    pub(super) fn reset(&self, reason: &'static str) {
        let mut inner = self.lock();
        inner.want_reset(reason, &self.reset);
    }

    pub(super) fn arrived(&self, publish: &Publish) {
        let kept = publish.qos != QoS::AtMostOnce;
        let item = Item {
            message: Arc::new(message(publish)),
            published_ms: self.clock.wall_ms(),
            again: publish.dup,
            kept,
        };
        let mut inner = self.lock();
        if kept && inner.resetting.is_some() {
            return;
        }
        inner.arrivals += 1;
        let token = inner.arrivals;
        let ack = inner.client.as_ref().and_then(|client| client.prepare_ack(publish));
        let spread = inner.spread(token, &item, self.clean_session);
        let Some(ack) = ack else { return };
        match spread {
            Spread::Taken(holders) => inner.owe(token, ack, holders, false),
            Spread::Lost => {}
            Spread::Unwanted if self.clean_session => inner.send_ack(ack),
            Spread::Unwanted => inner.keep_unclaimed(token, item, ack),
        }
    }

    pub(super) fn subscribe_sent(&self, id: u16) {
        let mut inner = self.lock();
        if let Some(filters) = inner.filters.subscribing.pop_front() {
            inner.filters.subscribe_sent.insert(id, filters);
        }
    }

    pub(super) fn unsubscribe_sent(&self, id: u16) {
        let mut inner = self.lock();
        if let Some(filters) = inner.filters.unsubscribing.pop_front() {
            inner.filters.unsubscribe_sent.insert(id, filters);
        }
    }

    pub(super) fn subscribed(&self, id: u16, codes: &[SubscribeReasonCode]) {
        let mut inner = self.lock();
        let filters = inner.filters.subscribe_sent.remove(&id).unwrap_or_default();
        for (filter, code) in filters.into_iter().zip(codes) {
            let granted = matches!(code, SubscribeReasonCode::Success(_));
            if !granted {
                tracing::warn!(broker = %self.address, %filter, "the mqtt broker refuses a filter");
            }
            let standing = if granted { Standing::Granted } else { Standing::Refused };
            inner.filters.known.insert(filter, standing);
        }
        inner.settle_filters(self.qos);
        drop(inner);
        self.phase.send_modify(|_| {});
    }

    pub(super) fn unsubscribed(&self, id: u16) {
        let mut inner = self.lock();
        for filter in inner.filters.unsubscribe_sent.remove(&id).unwrap_or_default() {
            inner.filters.known.remove(&filter);
        }
        inner.settle_filters(self.qos);
    }

    // The subscribers' side.

    /// Opens or takes over a consumer; the number tells this subscription from earlier ones.
    pub(super) fn open(&self, subscribe: &Subscribe, wanted: Vec<Wanted>) -> (u64, Arc<Notify>) {
        let mut inner = self.lock();
        inner.generations += 1;
        let generation = inner.generations;
        let name: Arc<str> = subscribe.consumer.as_str().into();
        let consumer = match inner.consumers.remove(&name) {
            Some(mut known) => {
                known.take_over(generation, subscribe, wanted);
                known
            }
            None => Consumer::new(generation, subscribe, wanted),
        };
        let wake = consumer.wake.clone();
        inner.consumers.insert(name.clone(), consumer);
        inner.claim(&name, &self.reset);
        inner.settle_filters(self.qos);
        (generation, wake)
    }

    /// What the broker said about the filters of a consumer.
    pub(super) fn answer(&self, name: &str, generation: u64) -> Answer {
        let inner = self.lock();
        let Some(consumer) = inner.consumers.get(name).filter(|c| c.generation == generation)
        else {
            return Answer::Granted;
        };
        let mut answer = Answer::Granted;
        for wanted in &consumer.wanted {
            match inner.filters.known.get(&wanted.text) {
                Some(Standing::Granted) => {}
                Some(Standing::Refused) => return Answer::Refused(wanted.text.clone()),
                Some(Standing::Asked | Standing::Leaving) | None => answer = Answer::Pending,
            }
        }
        answer
    }

    pub(super) fn take(&self, name: &str, generation: u64) -> Taken {
        match self.lock().consumers.get_mut(name) {
            Some(consumer) if consumer.generation == generation => consumer.take(),
            _ => Taken::Closed,
        }
    }

    pub(super) fn ack(&self, name: &str, generation: u64, token: u64) {
        let mut inner = self.lock();
        let Some(consumer) = inner.consumers.get_mut(name) else { return };
        if consumer.generation == generation && consumer.ack(token) {
            let drained = consumer.shed && consumer.is_empty();
            inner.release(token);
            if drained {
                inner.want_reset("a queue that was full is empty again", &self.reset);
            }
        }
    }

    pub(super) fn nack(&self, name: &str, generation: u64, token: u64) {
        let mut inner = self.lock();
        let Some(consumer) = inner.consumers.get_mut(name) else { return };
        if consumer.generation == generation && consumer.nack(token) {
            if let Some(owed) = inner.owed.get_mut(&token) {
                owed.aside = true;
            }
            inner.send_acks();
        }
    }

    pub(super) fn set_wanted(&self, name: &str, generation: u64, wanted: Vec<Wanted>) {
        let mut inner = self.lock();
        if let Some(consumer) = inner.consumers.get_mut(name)
            && consumer.generation == generation
        {
            consumer.wanted = wanted;
            inner.settle_filters(self.qos);
        }
    }

    /// The subscription was dropped: a durable consumer waits for its next one.
    pub(super) fn leave(&self, name: &str, generation: u64) {
        let mut inner = self.lock();
        let Some(consumer) = inner.consumers.get_mut(name) else { return };
        if consumer.generation != generation {
            return;
        }
        if consumer.durable {
            consumer.park();
            // What it holds must not hold up the others.
            let held: Vec<u64> = consumer.tokens().collect();
            for token in held {
                if let Some(owed) = inner.owed.get_mut(&token) {
                    owed.aside = true;
                }
            }
            inner.send_acks();
        } else {
            inner.forget(name, self.qos);
        }
    }

    pub(super) fn forget(&self, name: &str) {
        self.lock().forget(name, self.qos);
    }

    pub(super) fn queues(&self) -> Vec<QueueStatus> {
        let inner = self.lock();
        inner.consumers.iter().map(|(name, consumer)| consumer.status(name)).collect()
    }

    /// Hands a message to the client; what it gives resolves with the PUBACK, or with an error as
    /// soon as the connection is gone.
    pub(super) fn publish(
        &self,
        message: &Message,
        qos: QoS,
        retain: bool,
    ) -> Result<PublishNotice> {
        let inner = self.lock();
        let client = match (&inner.client, inner.resetting) {
            (Some(client), None) => client,
            (Some(_), Some(reason)) => return Err(self.unavailable(reason)),
            (None, _) => {
                drop(inner);
                return Err(match &*self.phase.borrow() {
                    Phase::Down(reason) => self.unavailable(reason),
                    Phase::Starting | Phase::Up => self.unavailable("not connected yet"),
                });
            }
        };
        let options = PublishOptions::new(qos).retain(retain);
        // The payload is shared, not copied: it waits for one round trip, in a bounded window.
        client
            .try_publish_tracked(message.topic.to_string(), message.payload.clone(), options)
            .map_err(|error| self.unavailable(&error.to_string()))
    }
}

/// Where an arrival went.
enum Spread {
    /// To so many subscriptions.
    Taken(usize),
    /// It did not fit and must not be acknowledged.
    Lost,
    /// Nobody wants it.
    Unwanted,
}

impl Inner {
    fn spread(&mut self, token: u64, item: &Item, clean_session: bool) -> Spread {
        let (mut holders, mut lost, mut wanted) = (0, false, false);
        for consumer in self.consumers.values_mut() {
            if !consumer.wants(&item.message.topic) {
                continue;
            }
            wanted = true;
            if consumer.put(token, item, item.kept && !clean_session) {
                holders += 1;
            } else {
                lost = true;
            }
        }
        match (wanted, lost && item.kept && !clean_session) {
            (false, _) => Spread::Unwanted,
            (true, true) => Spread::Lost,
            (true, false) => Spread::Taken(holders),
        }
    }

    fn owe(&mut self, token: u64, ack: ManualAck, holders: usize, aside: bool) {
        self.owed.insert(token, Owed { ack, holders, aside });
        if !aside {
            self.order.push_back(token);
        }
        self.send_acks();
    }

    /// One of the holders of a message is done with it.
    fn release(&mut self, token: u64) {
        if let Some(owed) = self.owed.get_mut(&token) {
            owed.holders = owed.holders.saturating_sub(1);
            if owed.aside && owed.holders == 0 {
                if let Some(owed) = self.owed.remove(&token) {
                    self.send_ack(owed.ack);
                }
            } else {
                self.send_acks();
            }
        }
    }

    /// Sends what is due, in order of arrival.
    fn send_acks(&mut self) {
        while let Some(token) = self.order.front() {
            match self.owed.get(token) {
                Some(owed) if !owed.aside && owed.holders > 0 => return,
                Some(owed) if !owed.aside => {
                    let ack = owed.ack.clone();
                    self.owed.remove(token);
                    self.send_ack(ack);
                }
                _ => {}
            }
            self.order.pop_front();
        }
    }

    /// An acknowledgement that does not leave is owed no more: the broker sends the message again.
    fn send_ack(&self, ack: ManualAck) {
        if let Some(client) = &self.client {
            let _ = client.try_manual_ack(ack);
        }
    }

    fn want_reset(&mut self, reason: &'static str, reset: &Notify) {
        if self.client.is_some() && self.resetting.is_none() {
            self.resetting = Some(reason);
            reset.notify_one();
        }
    }

    fn keep_unclaimed(&mut self, token: u64, item: Item, ack: ManualAck) {
        if self.unclaimed.is_empty() && !self.unclaimed_shed {
            tracing::warn!(
                topic = %item.message.topic,
                "a message of a subscription of an earlier run waits at the mqtt broker until \
                 somebody subscribes to its topic again"
            );
        }
        let bytes = item.bytes();
        let full = self.unclaimed.len() >= UNCLAIMED_MAX
            || self.unclaimed_bytes + bytes > UNCLAIMED_BYTES_MAX;
        if full || self.unclaimed_shed {
            self.unclaimed_shed = true;
            return;
        }
        self.unclaimed_bytes += bytes;
        self.unclaimed.insert(token, item);
        self.owe(token, ack, 1, true);
    }

    /// Gives a consumer what has come for it before it was there.
    fn claim(&mut self, name: &str, reset: &Notify) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let claimed: Vec<u64> = self
            .unclaimed
            .iter()
            .filter(|(_, item)| consumer.wants(&item.message.topic))
            .map(|(token, _)| *token)
            .collect();
        for token in claimed {
            if let Some(item) = self.unclaimed.remove(&token) {
                self.unclaimed_bytes = self.unclaimed_bytes.saturating_sub(item.bytes());
                consumer.put(token, &item, true);
            }
        }
        if self.unclaimed_shed {
            self.want_reset("more had waited for a subscription than could be kept", reset);
        }
    }

    fn forget(&mut self, name: &str, qos: QoS) {
        let Some(consumer) = self.consumers.remove(name) else { return };
        consumer.wake.notify_one();
        for token in consumer.tokens() {
            self.release(token);
        }
        self.settle_filters(qos);
    }

    /// Asks the broker for what is wanted and not known, and takes back what is known and not
    /// wanted.
    fn settle_filters(&mut self, qos: QoS) {
        let Some(client) = &self.client else { return };
        let wanted: BTreeSet<&Arc<str>> =
            self.consumers.values().flat_map(|c| &c.wanted).map(|w| &w.text).collect();
        let known = &self.filters.known;
        let new: Vec<Arc<str>> = wanted
            .iter()
            .filter(|text| !known.contains_key(**text))
            .map(|t| (*t).clone())
            .collect();
        let old: Vec<Arc<str>> = known
            .iter()
            .filter(|(text, standing)| **standing == Standing::Granted && !wanted.contains(text))
            .map(|(text, _)| text.clone())
            .collect();
        self.filters
            .known
            .retain(|text, standing| *standing != Standing::Refused || wanted.contains(text));
        for chunk in new.chunks(FILTERS_PER_PACKET) {
            let inputs = chunk.iter().map(|text| SubscribeFilterInput::new(text.as_ref(), qos));
            if client.try_subscribe_many(inputs).is_ok() {
                self.filters.subscribing.push_back(chunk.to_vec());
                let asked = chunk.iter().map(|text| (text.clone(), Standing::Asked));
                self.filters.known.extend(asked);
            }
        }
        for chunk in old.chunks(FILTERS_PER_PACKET) {
            if client.try_unsubscribe_many(chunk.iter().map(|text| text.to_string())).is_ok() {
                self.filters.unsubscribing.push_back(chunk.to_vec());
                let leaving = chunk.iter().map(|text| (text.clone(), Standing::Leaving));
                self.filters.known.extend(leaving);
            }
        }
    }
}

impl Filters {
    /// Forgets what was under way, and without a session everything.
    fn reconnected(&mut self, session_present: bool) {
        let known = std::mem::take(self).known;
        if session_present {
            // A filter that was leaving may be there still: as granted it is taken back again.
            self.known = known
                .into_iter()
                .filter(|(_, standing)| matches!(standing, Standing::Granted | Standing::Leaving))
                .map(|(text, _)| (text, Standing::Granted))
                .collect();
        }
    }
}

/// A message of ours from a packet. Copied: the packet is a slice of the read buffer.
fn message(publish: &Publish) -> Message {
    let assurance = match publish.qos {
        QoS::AtMostOnce => Assurance::AtMostOnce,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Assurance::AtLeastOnce,
    };
    Message {
        topic: String::from_utf8_lossy(&publish.topic).into(),
        payload: Bytes::copy_from_slice(&publish.payload),
        metadata: vec![("retained".into(), publish.retain.to_string())],
        assurance,
        retain: publish.retain,
        ..Message::default()
    }
}
