//! Pub/sub: messages on topics, and subscriptions that take them.
//!
//! Any pub/sub component promises:
//! - `publish` answers after the message is durable (for a broker elsewhere: after its PUBACK),
//!   unless the message asked for less; calls made one after the other keep their order;
//! - a subscription yields the messages of each topic in the order they were published;
//! - a message is yielded again, later or after a restart, until it is acknowledged;
//!   acknowledgements may come in any order within [`IN_FLIGHT_MAX`];
//! - a durable subscription that is opened again under its name goes on where it stopped;
//! - dropping a subscription stops it and loses nothing that a durable one still wants.
//!
//! What a component cannot promise, its own file says.

pub mod embedded;
pub mod in_memory;
pub mod mqtt3;
mod retained;
pub(crate) mod stored;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::options::Options;
use crate::topic::Filter;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Most messages of one subscription that are yielded and not yet acknowledged.
pub const IN_FLIGHT_MAX: usize = 256;

/// How sure a publisher wants to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Assurance {
    /// Routed at once; stored unsynced, and only for durable subscriptions that are not connected
    /// (MQTT QoS 0).
    AtMostOnce,
    /// Stored and synced before `publish` answers, delivered after that (MQTT QoS 1 and 2, HTTP).
    #[default]
    AtLeastOnce,
}

/// A message on its way from a publisher.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// A checked topic name.
    pub topic: Arc<str>,
    /// The bytes as published: an app's CloudEvent, or what a device sent. Copied when stored.
    pub payload: Bytes,
    /// Content type, where the publisher named one.
    pub content_type: Option<Arc<str>>,
    /// Names and values that travel with it: MQTT 5 user properties, component metadata.
    pub metadata: Vec<(String, String)>,
    /// How sure the publisher wants to be.
    pub assurance: Assurance,
    /// Keep as the topic's last value for later subscribers; an empty payload forgets it.
    pub retain: bool,
    /// Time to live in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Who published, so that a subscription can leave out its own: `mqtt:{client}`, `link:{name}`.
    pub origin: Option<Arc<str>>,
}

/// A message on its way to a subscriber.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Name of this delivery in [`Subscription::ack`]; 0 needs no acknowledgement.
    pub token: u64,
    /// Stable name of the message within its component, the same at every delivery. Empty when
    /// the component has none.
    pub id: Arc<str>,
    /// When it was published, in Unix milliseconds.
    pub published_ms: u64,
    /// Delivered before, as far as the component knows.
    pub again: bool,
    /// The message. `ttl_ms` is what is left of it.
    pub message: Arc<Message>,
}

/// What to do when a queue is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Overflow {
    /// Drop the oldest: counted, logged once, visible in metadata.
    #[default]
    DropOldest,
    /// Refuse the publisher.
    Refuse,
}

/// The ends of a durable queue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QueueLimits {
    /// Most bytes of payload and topic that wait.
    pub backlog_bytes_max: u64,
    /// Longest a message waits, in milliseconds; `None` is for ever.
    pub backlog_age_max_ms: Option<u64>,
    /// What happens at `backlog_bytes_max`.
    pub overflow: Overflow,
    /// A queue whose consumer stays away this long is forgotten; `None` is never.
    pub forget_after_ms: Option<u64>,
}

impl Default for QueueLimits {
    /// 64 MiB, no age, drop-oldest, forgotten after 30 days.
    fn default() -> Self {
        Self {
            backlog_bytes_max: 64 << 20,
            backlog_age_max_ms: None,
            overflow: Overflow::DropOldest,
            forget_after_ms: Some(30 * 24 * 3_600_000),
        }
    }
}

impl QueueLimits {
    /// The ends that settings name, of a component or of a subscription: `backlogBytesMax`,
    /// `backlogAgeMax`, `overflow`, `forgetAfter`. What they leave out is the default; a time of 0
    /// is none.
    pub fn from_options(options: &Options) -> Result<Self> {
        let default = Self::default();
        let overflow = match options.text("overflow") {
            None => default.overflow,
            Some("drop-oldest") => Overflow::DropOldest,
            Some("refuse") => Overflow::Refuse,
            Some(other) => {
                let message =
                    format!("metadata 'overflow' is '{other}': write drop-oldest or refuse");
                return Err(Error::new(Kind::Invalid, message));
            }
        };
        // Zero is the word for none in both.
        let duration_ms = |name: &str, default_ms: Option<u64>| {
            let duration =
                options.duration(name, Duration::from_millis(default_ms.unwrap_or(0)))?;
            let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            Ok::<_, Error>(Some(ms).filter(|ms| *ms > 0))
        };
        Ok(Self {
            backlog_bytes_max: options.bytes("backlogBytesMax", default.backlog_bytes_max)?,
            backlog_age_max_ms: duration_ms("backlogAgeMax", default.backlog_age_max_ms)?,
            overflow,
            forget_after_ms: duration_ms("forgetAfter", default.forget_after_ms)?,
        })
    }
}

/// What a subscriber asks for.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// Name of the consumer, unique within the component. A durable one is found again by it.
    pub consumer: String,
    /// What it wants.
    pub filters: Vec<Filter>,
    /// Whether the queue is kept while nobody takes from it, across restarts.
    pub durable: bool,
    /// The ends of the queue.
    pub limits: QueueLimits,
    /// Leave out messages of this origin (MQTT 5 no-local, links).
    pub except_origin: Option<Arc<str>>,
    /// Settings of the subscription for the component.
    pub metadata: Vec<(String, String)>,
}

/// An open subscription. Dropping it stops delivery; a durable queue goes on filling.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; waits while there is none or [`IN_FLIGHT_MAX`] are unacknowledged.
    /// Cancel safe. `Err` of kind `Closed` means there will be no more.
    async fn next(&mut self) -> Result<Delivery>;

    /// The message of this token is done with. A token that is not in flight is ignored.
    fn ack(&mut self, token: u64);

    /// Yield the message of this token again, before later ones of its topic where the component
    /// can. A token that is not in flight is ignored.
    fn nack(&mut self, token: u64);

    /// Replaces what the subscription wants, keeping its place. New filters see messages published
    /// from now on.
    fn set_filters(&mut self, filters: Vec<Filter>) -> Result<()>;
}

/// Numbers of one queue, for metadata and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct QueueStatus {
    /// Name of the consumer.
    pub consumer: String,
    /// Somebody takes from it.
    pub connected: bool,
    /// Messages that wait, as far as known.
    pub backlog_messages: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Messages dropped by a named limit since the queue exists.
    pub dropped_messages: u64,
}

/// What a component can do, in the words that metadata shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `MESSAGE_TTL`: honours `ttl_ms` by itself.
    MessageTtl,
    /// `SUBSCRIBE_WILDCARDS`
    SubscribeWildcards,
    /// `BULK_PUBSUB`
    BulkPubsub,
}

impl Feature {
    /// The word in metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::MessageTtl => "MESSAGE_TTL",
            Feature::SubscribeWildcards => "SUBSCRIBE_WILDCARDS",
            Feature::BulkPubsub => "BULK_PUBSUB",
        }
    }
}

/// A broker, inside or elsewhere. The laws stand at the head of this file.
#[async_trait]
pub trait PubSub: Send + Sync {
    /// What this component can do.
    fn features(&self) -> &'static [Feature];

    /// Publishes one message.
    async fn publish(&self, message: Message) -> Result<()>;

    /// Publishes several; the answer has one result per message, in order.
    async fn bulk_publish(&self, messages: Vec<Message>) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        for message in messages {
            results.push(self.publish(message).await);
        }
        results
    }

    /// Opens a subscription. A second one under the name of an open one takes it over: the first
    /// ends with `Closed`.
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>>;

    /// Forgets a durable consumer and what waits for it.
    async fn unsubscribe(&self, consumer: &str) -> Result<()>;

    /// Last retained message of each topic that matches, at most `messages_max`.
    async fn retained(&self, filter: &Filter, messages_max: usize) -> Result<Vec<Delivery>> {
        let _ = (filter, messages_max);
        Ok(Vec::new())
    }

    /// How many messages are retained; `None` if the component does not count them. May read all
    /// of them: not for every message.
    async fn retained_count(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Every durable queue this component keeps, and every open subscription.
    fn queues(&self) -> Vec<QueueStatus> {
        Vec::new()
    }

    /// Whether the component can be reached, and if not why. Local ones always can.
    fn reachable(&self) -> Result<()> {
        Ok(())
    }

    /// Follows whether the component can be reached, so that one who waits need not ask again and
    /// again. `None` when it always can.
    fn connectivity(&self) -> Option<tokio::sync::watch::Receiver<bool>> {
        None
    }
}

/// A row of the catalogue: a type name and how to open it.
pub struct Row {
    /// Name as resources write it, `pubsub.…`.
    pub type_name: &'static str,
    /// Opens the component with its settings. Called within the event loop; a component that
    /// talks to something elsewhere returns at once and connects by itself.
    pub open: fn(&Options, &Context) -> Result<Arc<dyn PubSub>>,
}

/// The pub/sub components there are.
pub const CATALOGUE: &[Row] = &[
    Row { type_name: "pubsub.embedded", open: embedded::open },
    Row { type_name: "pubsub.in-memory", open: in_memory::open },
    Row { type_name: "pubsub.mqtt3", open: mqtt3::open },
    Row { type_name: "pubsub.mqtt", open: mqtt3::open },
];
