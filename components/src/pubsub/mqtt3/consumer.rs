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
    pub(super) fn parse(text: &str) -> Result<Self> {
        let inner = match text.strip_prefix("$share/") {
            None => Filter::new(text)?,
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

    pub(super) fn matches(&self, topic: &str) -> bool {
        self.filter.matches(topic)
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

/// What [`Consumer::put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Queued,
    /// Queued in the place of this one, the oldest.
    Instead(u64),
    /// There was no place.
    Dropped,
    /// There was no place, and the broker keeps it.
    Shed,
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
    /// Nothing of its queue may be lost.
    pub(super) durable: bool,
    /// Kept when its subscription is dropped.
    pub(super) stays: bool,
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
    /// Without filters yet, see [`set_wanted`](Self::set_wanted).
    pub(super) fn new(generation: u64, subscribe: &Subscribe) -> Self {
        Self {
            generation,
            wanted: Vec::new(),
            durable: subscribe.durable,
            stays: stays(subscribe),
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
    pub(super) fn take_over(&mut self, generation: u64, subscribe: &Subscribe) {
        self.wake.notify_one();
        self.park();
        self.generation = generation;
        self.durable = subscribe.durable;
        self.stays = stays(subscribe);
        self.wake = Arc::default();
        self.connected = true;
    }

    /// Replaces the filters. What waits for the old ones only is dropped, and given back.
    pub(super) fn set_wanted(&mut self, wanted: Vec<Wanted>) -> Vec<u64> {
        self.wanted = wanted;
        let (wanted, bytes) = (&self.wanted, &mut self.bytes);
        let mut tokens = Vec::new();
        self.ready.retain(|token, item| {
            let keep = wanted.iter().any(|wanted| wanted.matches(&item.message.topic));
            if !keep {
                *bytes = bytes.saturating_sub(item.bytes());
                tokens.push(*token);
            }
            keep
        });
        tokens
    }

    /// What was taken and not acknowledged waits again.
    pub(super) fn park(&mut self) {
        self.connected = false;
        for (token, mut item) in std::mem::take(&mut self.in_flight) {
            item.again = true;
            self.ready.insert(token, item);
        }
    }

    /// Whether a filter that `stands` matches.
    pub(super) fn wants(&self, topic: &str, stands: impl Fn(&str) -> bool) -> bool {
        self.wanted.iter().any(|wanted| wanted.matches(topic) && stands(&wanted.text))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = u64> {
        self.in_flight.keys().chain(self.ready.keys()).copied()
    }

    /// Queues a message. Where there is no place, a durable queue leaves it to the broker, if that
    /// keeps it (`comes_again`); any other gives up its oldest, and counts it.
    pub(super) fn put(&mut self, token: u64, item: &Item, comes_again: bool) -> Put {
        let sheds = self.durable && comes_again;
        let full = self.ready.len() + self.in_flight.len() >= QUEUE_MAX
            || (self.bytes + item.bytes() > QUEUE_BYTES_MAX && !self.is_empty());
        if sheds && (full || self.shed) {
            self.shed = true;
            return Put::Shed;
        }
        let mut put = Put::Queued;
        if full {
            if self.dropped == 0 {
                tracing::warn!(topic = %item.message.topic, "queue full: oldest message dropped");
            }
            self.dropped += 1;
            let Some((oldest, dropped)) = self.ready.pop_first() else { return Put::Dropped };
            self.bytes = self.bytes.saturating_sub(dropped.bytes());
            put = Put::Instead(oldest);
        }
        self.bytes += item.bytes();
        self.ready.insert(token, item.clone());
        self.wake.notify_one();
        put
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
