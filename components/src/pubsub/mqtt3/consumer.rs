//! One consumer: what it wants, what waits for it, what it has taken. No I/O.

use crate::error::{Error, Kind, Result};
use crate::options::is_truthy;
use crate::pubsub::{Delivery, IN_FLIGHT_MAX, Message, QueueStatus, Subscribe};
use crate::topic::Filter;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Messages that wait for one subscription, taken ones included.
const QUEUE_MAX: usize = 1024;
/// Their bytes. The broker keeps what does not fit.
const QUEUE_BYTES_MAX: u64 = 4 << 20;

/// A filter as the broker knows it and as we match it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// As written: `a/+`, `$share/group/a/+`.
    pub(super) text: Arc<str>,
    /// Without the share.
    filter: Filter,
}

impl Wanted {
    /// Understands `$share/{group}/{filter}`.
    pub(super) fn new(filter: &Filter) -> Result<Self> {
        let text = filter.as_str();
        let inner = match text.strip_prefix("$share/") {
            None => filter.clone(),
            Some(shared) => match shared.split_once('/') {
                Some((group, rest)) if !group.is_empty() && !group.contains(['+', '#']) => {
                    Filter::new(rest)?
                }
                _ => {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!("topic filter '{text}': write $share/group/filter"),
                    ));
                }
            },
        };
        Ok(Self { text: text.into(), filter: inner })
    }
}

/// A message that has arrived.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) message: Arc<Message>,
    pub(super) published_ms: u64,
    pub(super) again: bool,
    /// The broker keeps it until it is acknowledged.
    pub(super) kept: bool,
}

impl Item {
    pub(super) fn bytes(&self) -> u64 {
        (self.message.topic.len() + self.message.payload.len()) as u64
    }
}

/// What [`Consumer::take`] finds.
pub(super) enum Taken {
    Message(Delivery),
    Nothing,
    Closed,
}

/// See the head of this file. Messages are named by the order of their arrival.
pub(super) struct Consumer {
    /// Tells the open subscription from earlier ones of this name.
    pub(super) generation: u64,
    pub(super) wanted: Vec<Wanted>,
    /// Kept when its subscription is dropped.
    pub(super) durable: bool,
    /// Something did not fit: what comes now stays at the broker, or it would overtake.
    pub(super) shed: bool,
    /// Tells the subscription that there may be a message, or that it is closed.
    pub(super) wake: Arc<Notify>,
    connected: bool,
    ready: BTreeMap<u64, Item>,
    in_flight: BTreeMap<u64, Item>,
    bytes: u64,
    dropped: u64,
}

impl Consumer {
    pub(super) fn new(generation: u64, subscribe: &Subscribe, wanted: Vec<Wanted>) -> Self {
        Self {
            generation,
            wanted,
            durable: stays(subscribe),
            shed: false,
            wake: Arc::default(),
            connected: true,
            ready: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            bytes: 0,
            dropped: 0,
        }
    }

    /// A new subscription under the name goes on where the last one stopped, which ends.
    pub(super) fn take_over(
        &mut self,
        generation: u64,
        subscribe: &Subscribe,
        wanted: Vec<Wanted>,
    ) {
        self.wake.notify_one();
        self.park();
        self.generation = generation;
        self.wanted = wanted;
        self.durable = stays(subscribe);
        self.wake = Arc::default();
        self.connected = true;
    }

    /// What was taken and not acknowledged waits again.
    pub(super) fn park(&mut self) {
        self.connected = false;
        for (token, mut item) in std::mem::take(&mut self.in_flight) {
            item.again = true;
            self.ready.insert(token, item);
        }
    }

    pub(super) fn wants(&self, topic: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted.filter.matches(topic))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = u64> {
        self.in_flight.keys().chain(self.ready.keys()).copied()
    }

    /// Queues a message. `false` when it does not fit: with `comes_again` the broker keeps it,
    /// otherwise it is dropped, and counted.
    pub(super) fn put(&mut self, token: u64, item: &Item, comes_again: bool) -> bool {
        let full = self.ready.len() + self.in_flight.len() >= QUEUE_MAX
            || (self.bytes + item.bytes() > QUEUE_BYTES_MAX && !self.is_empty());
        if full || (self.shed && comes_again) {
            if comes_again {
                self.shed = true;
            } else {
                if self.dropped == 0 {
                    tracing::warn!(topic = %item.message.topic, "queue full: message dropped");
                }
                self.dropped += 1;
            }
            return false;
        }
        self.bytes += item.bytes();
        self.ready.insert(token, item.clone());
        self.wake.notify_one();
        true
    }

    pub(super) fn take(&mut self) -> Taken {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Taken::Nothing;
        }
        let Some((token, item)) = self.ready.pop_first() else { return Taken::Nothing };
        let delivery = Delivery {
            token,
            id: "".into(),
            published_ms: item.published_ms,
            again: item.again,
            message: item.message.clone(),
        };
        self.in_flight.insert(token, item);
        Taken::Message(delivery)
    }

    /// Whether the message was in flight.
    pub(super) fn ack(&mut self, token: u64) -> bool {
        let Some(item) = self.in_flight.remove(&token) else { return false };
        self.bytes = self.bytes.saturating_sub(item.bytes());
        self.wake.notify_one();
        true
    }

    /// Puts a message back into its place, before later ones. Whether it was in flight.
    pub(super) fn nack(&mut self, token: u64) -> bool {
        let Some(mut item) = self.in_flight.remove(&token) else { return false };
        item.again = true;
        self.ready.insert(token, item);
        self.wake.notify_one();
        true
    }

    /// Drops what the broker sends again on a new connection.
    pub(super) fn drop_what_comes_again(&mut self) {
        self.shed = false;
        self.ready.retain(|_, item| !item.kept);
        self.in_flight.retain(|_, item| !item.kept);
        self.bytes = self.ready.values().chain(self.in_flight.values()).map(Item::bytes).sum();
        self.wake.notify_one();
    }

    pub(super) fn status(&self, name: &str) -> QueueStatus {
        QueueStatus {
            consumer: name.into(),
            connected: self.connected,
            backlog_messages: (self.ready.len() + self.in_flight.len()) as u64,
            backlog_bytes: self.bytes,
            dropped_messages: self.dropped,
        }
    }
}

/// Whether the broker goes on queueing when the subscription is dropped.
fn stays(subscribe: &Subscribe) -> bool {
    let mut settings = subscribe.metadata.iter();
    let unsubscribe = settings
        .any(|(name, value)| name.eq_ignore_ascii_case("unsubscribeOnClose") && is_truthy(value));
    subscribe.durable && !unsubscribe
}
