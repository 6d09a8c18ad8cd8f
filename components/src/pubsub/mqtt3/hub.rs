//! What the subscriptions of one component share: the connection, the filters at the broker, the
//! messages that have arrived, and the acknowledgements owed for them.
//!
//! - A message goes to every subscription that wants it; the broker gets its PUBACK when the last
//!   of them has acknowledged.
//! - Queues are bounded. What does not fit a durable one is left unacknowledged, together with all
//!   that follows it; once the queue is empty the connection is made anew, and the broker sends
//!   everything again, in order. Brokers with a window of their own (nearly all) never get us
//!   there.
//! - With the connection the acknowledgements owed die. If the broker kept the session it sends
//!   again what was not acknowledged, so what waits here is dropped in its favour; if it did not,
//!   what waits here is all there is, and stays.

use super::acks::Acks;
use super::consumer::{Consumer, Item, Put, Taken, Wanted};
use super::filters::{Filters, Standing};
use super::settings::Settings;
use crate::env::Clock;
use crate::error::{Error, Kind, Result};
use crate::pubsub::{Assurance, Message, QueueStatus, Subscribe};
use bytes::Bytes;
use rumqttc::{
    AsyncClient, ManualAck, Publish, PublishNotice, PublishOptions, QoS, SubscribeReasonCode,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

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
    clock: Clock,
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    up: watch::Sender<bool>,
    reset: Notify,
}

#[derive(Default)]
struct Inner {
    /// The broker forgets with the connection: nothing waits for anybody.
    clean_session: bool,
    client: Option<AsyncClient>,
    /// The connection is about to be made anew: what comes on it now comes again.
    resetting: Option<&'static str>,
    consumers: BTreeMap<Arc<str>, Consumer>,
    generations: u64,
    arrivals: u64,
    acks: Acks,
    unclaimed: BTreeMap<u64, Item>,
    unclaimed_bytes: u64,
    unclaimed_shed: bool,
    filters: Filters,
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
            clock,
            inner: Mutex::new(Inner { clean_session: settings.clean_session, ..Inner::default() }),
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
        self.drop_client();
        let known = matches!(&*self.phase.borrow(), Phase::Down(known) if **known == *reason);
        if known {
            return;
        }
        // Once per reason: a broker that stays away for days is one line.
        tracing::warn!(broker = %self.address, reason, "no connection to the mqtt broker");
        self.down(reason);
    }

    /// A new connection follows at once.
    pub(super) fn renewing(&self, reason: &str) {
        self.drop_client();
        tracing::debug!(broker = %self.address, reason, "a new connection to the mqtt broker");
        self.down(reason);
    }

    /// The component was dropped, and the broker has heard so.
    pub(super) fn closed(&self) {
        self.drop_client();
        self.down("the component is closed");
    }

    fn drop_client(&self) {
        let mut inner = self.lock();
        inner.client = None;
        inner.acks.clear();
    }

    fn down(&self, reason: &str) {
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
        let spread = inner.spread(token, &item);
        let Some(ack) = ack else { return };
        match spread {
            Spread::Taken(holders) => {
                let Inner { acks, client, .. } = &mut *inner;
                acks.owe(token, ack, holders, false, client.as_ref());
            }
            Spread::Lost => {}
            Spread::Unwanted => inner.keep_unclaimed(token, item, ack),
        }
    }

    pub(super) fn subscribe_sent(&self, id: u16) {
        self.lock().filters.subscribe_sent(id);
    }

    pub(super) fn unsubscribe_sent(&self, id: u16) {
        self.lock().filters.unsubscribe_sent(id);
    }

    pub(super) fn subscribed(&self, id: u16, codes: &[SubscribeReasonCode]) {
        let mut inner = self.lock();
        for filter in inner.filters.subscribed(id, codes) {
            tracing::warn!(broker = %self.address, %filter, "the mqtt broker refuses a filter");
        }
        inner.settle_filters(self.qos);
        drop(inner);
        self.phase.send_modify(|_| {});
    }

    pub(super) fn unsubscribed(&self, id: u16) {
        let mut inner = self.lock();
        inner.filters.unsubscribed(id);
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
            Some(mut known) if known.durable => {
                known.take_over(generation, subscribe);
                known
            }
            Some(known) => {
                inner.drop_consumer(&known);
                Consumer::new(generation, subscribe)
            }
            None => Consumer::new(generation, subscribe),
        };
        let wake = consumer.wake.clone();
        inner.consumers.insert(name.clone(), consumer);
        inner.set_wanted(&name, wanted);
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
            match inner.filters.standing(&wanted.text) {
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
            let Inner { acks, client, .. } = &mut *inner;
            acks.set_aside([token].into_iter(), client.as_ref());
        }
    }

    pub(super) fn set_wanted(&self, name: &str, generation: u64, wanted: Vec<Wanted>) {
        let mut inner = self.lock();
        if inner.consumers.get(name).is_some_and(|c| c.generation == generation) {
            inner.set_wanted(name, wanted);
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
        if consumer.stays {
            consumer.park();
            // What it holds must not hold up the others.
            let Inner { consumers, acks, client, .. } = &mut *inner;
            let held = consumers.get(name).into_iter().flat_map(Consumer::tokens);
            acks.set_aside(held, client.as_ref());
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
    fn spread(&mut self, token: u64, item: &Item) -> Spread {
        let comes_again = item.kept && !self.clean_session;
        let (mut holders, mut lost, mut wanted) = (0, false, false);
        let mut dropped = Vec::new();
        let filters = &self.filters;
        for consumer in self.consumers.values_mut() {
            let wants = consumer.wants(&item.message.topic, |filter| {
                filters.standing(filter) != Some(Standing::Leaving)
            });
            if !wants {
                continue;
            }
            wanted = true;
            match consumer.put(token, item, comes_again) {
                Put::Queued => holders += 1,
                Put::Instead(oldest) => {
                    holders += 1;
                    dropped.push(oldest);
                }
                Put::Dropped => {}
                Put::Shed => lost = true,
            }
        }
        for token in dropped {
            self.release(token);
        }
        match (wanted, lost) {
            (false, _) => Spread::Unwanted,
            (true, true) => Spread::Lost,
            (true, false) => Spread::Taken(holders),
        }
    }

    /// One of the holders of a message is done with it.
    fn release(&mut self, token: u64) {
        self.acks.release(token, self.client.as_ref());
    }

    fn want_reset(&mut self, reason: &'static str, reset: &Notify) {
        if self.client.is_some() && self.resetting.is_none() {
            self.resetting = Some(reason);
            reset.notify_one();
        }
    }

    /// A message that no subscription wants waits for one, unless its filter is being taken back.
    fn keep_unclaimed(&mut self, token: u64, item: Item, ack: ManualAck) {
        let topic = &item.message.topic;
        let left = |filter: &Arc<str>| Wanted::parse(filter).is_ok_and(|w| w.matches(topic));
        if self.clean_session || self.filters.leaving().any(left) {
            return self.acks.owe(token, ack, 0, true, self.client.as_ref());
        }
        if self.unclaimed.is_empty() && !self.unclaimed_shed {
            tracing::warn!(
                %topic,
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
        self.acks.owe(token, ack, 1, true, self.client.as_ref());
    }

    /// Gives a consumer what has come for it before it was there.
    fn claim(&mut self, name: &str, reset: &Notify) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        for (token, item) in std::mem::take(&mut self.unclaimed) {
            if consumer.wants(&item.message.topic, |_| true) {
                self.unclaimed_bytes = self.unclaimed_bytes.saturating_sub(item.bytes());
                consumer.put(token, &item, true);
            } else {
                self.unclaimed.insert(token, item);
            }
        }
        if self.unclaimed_shed {
            self.want_reset("more had waited for a subscription than could be kept", reset);
        }
    }

    /// Replaces the filters of a consumer; what waits for the old ones only is dropped.
    fn set_wanted(&mut self, name: &str, wanted: Vec<Wanted>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        for token in consumer.set_wanted(wanted) {
            self.release(token);
        }
    }

    fn forget(&mut self, name: &str, qos: QoS) {
        if let Some(consumer) = self.consumers.remove(name) {
            self.drop_consumer(&consumer);
            self.settle_filters(qos);
        }
    }

    /// Its subscription ends, and what it holds is done with.
    fn drop_consumer(&mut self, consumer: &Consumer) {
        consumer.wake.notify_one();
        for token in consumer.tokens() {
            self.release(token);
        }
    }

    fn settle_filters(&mut self, qos: QoS) {
        let Some(client) = &self.client else { return };
        let wanted = self.consumers.values().flat_map(|c| &c.wanted).map(|w| w.text.clone());
        self.filters.settle(&wanted.collect(), client, qos);
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
