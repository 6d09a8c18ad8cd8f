//! Pub/sub over [`Storage`]: what `pubsub.embedded` and `pubsub.in-memory` share.
//!
//! A component is one stream of the [journal](crate::journal) and one table of retained messages;
//! a retained message is written in the batch of its append.

use super::retained::Retained;
use super::{Delivery, Feature, Message, PubSub, QueueLimits, QueueStatus};
use super::{Subscribe, Subscription};
use crate::context::Context;
use crate::env;
use crate::error::{Error, Kind, Result};
use crate::journal::{InTransit, Journal};
use crate::options::Options;
use crate::storage::{Batch, Durability, Expect, Put, Storage};
use crate::topic::{self, Filter};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of payload that one batch of a bulk publish carries: well below a segment of the log, and
/// enough that the sync is paid for.
const BULK_BATCH_BYTES_MAX: usize = 1 << 20;

/// What differs between the components.
pub(super) struct Settings {
    pub(super) durability: Durability,
    /// Of a queue whose subscriber names none.
    pub(super) limits: QueueLimits,
    /// No queue may be larger, so that one absent subscriber cannot stop every publisher.
    pub(super) queue_bytes_max: u64,
    pub(super) features: &'static [Feature],
}

/// `durability` of the options.
pub(super) fn durability(options: &Options) -> Result<Durability> {
    match options.text("durability") {
        None | Some("sync") => Ok(Durability::Durable),
        Some("interval") => Ok(Durability::Eventual),
        Some(other) => {
            let message = format!("metadata 'durability' is '{other}': write sync or interval");
            Err(Error::new(Kind::Invalid, message))
        }
    }
}

/// A pub/sub component in one storage.
pub(super) struct Stored {
    journal: Journal,
    retained: Retained,
    settings: Settings,
}

impl Stored {
    pub(super) fn open(storage: Storage, context: &Context, settings: Settings) -> Result<Self> {
        let name = &context.name;
        let stream = format!("pubsub/{name}");
        let id_prefix = format!("{name}-{}-", stream_id(&storage, &stream)?);
        let retained = Retained::open(storage.clone(), name, context.clock.clone())?;
        let journal = Journal::open(storage, &stream, id_prefix, context.clock.clone())?;
        Ok(Self { journal, retained, settings })
    }

    /// Sends messages on their way, all or none; an error means none.
    fn send(&self, messages: &[Arc<Message>]) -> Result<Option<InTransit>> {
        let mut batch = None;
        for message in messages.iter().filter(|message| message.retain) {
            self.retained.add(batch.get_or_insert_with(Batch::new), message);
        }
        self.journal.send(messages, batch, self.settings.durability)
    }

    /// Checks a message and makes it ours: its payload may be a slice of a socket's buffer.
    fn take(&self, mut message: Message) -> Result<Arc<Message>> {
        topic::check_name(&message.topic)?;
        message.payload = Bytes::copy_from_slice(&message.payload);
        if !self.settings.features.contains(&Feature::MessageTtl) {
            message.ttl_ms = None;
        }
        Ok(Arc::new(message))
    }

    /// Sends messages that go together. Where one is refused, each is tried by itself.
    async fn send_each(&self, messages: Vec<Arc<Message>>) -> Vec<Result<()>> {
        let sent = match self.send(&messages) {
            Err(_) if messages.len() > 1 => {
                let sent = messages.iter().map(|message| self.send(std::slice::from_ref(message)));
                let sent = sent.collect::<Vec<_>>();
                let mut results = Vec::with_capacity(sent.len());
                for sent in sent {
                    results.push(stored(sent).await);
                }
                return results;
            }
            sent => sent,
        };
        let result = stored(sent).await;
        vec![result; messages.len()]
    }
}

#[async_trait]
impl PubSub for Stored {
    fn features(&self) -> &'static [Feature] {
        self.settings.features
    }

    async fn publish(&self, message: Message) -> Result<()> {
        let message = self.take(message)?;
        match self.send(std::slice::from_ref(&message))? {
            Some(in_transit) => in_transit.stored().await,
            None => Ok(()),
        }
    }

    async fn bulk_publish(&self, messages: Vec<Message>) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut batches = Vec::<(Vec<usize>, Vec<Arc<Message>>)>::new();
        let mut bytes = 0;
        for (index, message) in messages.into_iter().enumerate() {
            let message = match self.take(message) {
                Ok(message) => message,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            results.push(Ok(()));
            let message_bytes = message.topic.len() + message.payload.len();
            bytes += message_bytes;
            if batches.is_empty() || bytes > BULK_BATCH_BYTES_MAX {
                batches.push((Vec::new(), Vec::new()));
                bytes = message_bytes;
            }
            if let Some((indexes, batch)) = batches.last_mut() {
                indexes.push(index);
                batch.push(message);
            }
        }
        for (indexes, batch) in batches {
            let sent = self.send_each(batch).await;
            for (index, result) in indexes.into_iter().zip(sent) {
                if let Some(slot) = results.get_mut(index) {
                    *slot = result;
                }
            }
        }
        results
    }

    async fn subscribe(&self, mut subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        if subscribe.limits == QueueLimits::default() {
            subscribe.limits = self.settings.limits.clone();
        }
        let bytes_max = &mut subscribe.limits.backlog_bytes_max;
        *bytes_max = self.settings.queue_bytes_max.min(*bytes_max);
        Ok(Box::new(self.journal.subscribe(subscribe).await?))
    }

    async fn unsubscribe(&self, consumer: &str) -> Result<()> {
        self.journal.forget(consumer).await
    }

    async fn retained(&self, filter: &Filter, messages_max: usize) -> Result<Vec<Delivery>> {
        self.retained.matching(filter, messages_max).await
    }

    async fn retained_count(&self) -> Result<Option<u64>> {
        self.retained.count().await.map(Some)
    }

    fn queues(&self) -> Vec<QueueStatus> {
        self.journal.queues()
    }
}

async fn stored(sent: Result<Option<InTransit>>) -> Result<()> {
    match sent? {
        Some(in_transit) => in_transit.stored().await,
        None => Ok(()),
    }
}

/// A short random text, drawn once per stream and kept in the table of its name: positions begin
/// at one again in another data directory, ids of messages must not.
pub(crate) fn stream_id(storage: &Storage, stream: &str) -> Result<String> {
    const KEY: &[u8] = b"id";
    let table = storage.table(stream)?;
    if let Some(entry) = storage.get(table, KEY)?
        && let Ok(id) = std::str::from_utf8(&entry.value)
    {
        return Ok(id.to_owned());
    }
    let id = format!("{:08x}", env::random_u64() >> 32);
    let mut batch = Batch::new();
    batch.put(table, KEY, Put { value: id.as_bytes(), ..Put::default() }, Expect::Any);
    // Queued before the first append, so no message is on disk without it.
    drop(storage.commit(batch, Durability::Durable)?);
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::super::Overflow;
    use super::*;

    #[test]
    fn ends_of_queues_are_read_and_checked() {
        let options: Options = [
            ("backlogBytesMax", "1Mi"),
            ("backlogAgeMax", "1h"),
            ("overflow", "refuse"),
            ("forgetAfter", "0"),
        ]
        .into_iter()
        .collect();
        let expected = QueueLimits {
            backlog_bytes_max: 1 << 20,
            backlog_age_max_ms: Some(3_600_000),
            overflow: Overflow::Refuse,
            forget_after_ms: None,
        };
        assert_eq!(QueueLimits::from_options(&options).unwrap(), expected);
        assert_eq!(QueueLimits::from_options(&Options::default()).unwrap(), QueueLimits::default());
        for (name, value) in [("overflow", "maybe"), ("backlogAgeMax", "5"), ("durability", "no")] {
            let options: Options = [(name, value)].into_iter().collect();
            let error = QueueLimits::from_options(&options)
                .and(durability(&options).map(drop))
                .unwrap_err();
            assert!(error.message().contains(name), "{error}");
        }
    }
}
