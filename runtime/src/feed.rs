//! Feeding a configuration store from a topic: a message on `{topic}/{key}` writes the key.
//!
//! Messages are taken one after the other by a durable consumer, and acknowledged when the store
//! has them. A crash may bring the last ones again; the store keeps the name of the last message
//! it took, so that they are recognised and an older value never replaces a newer one, where the
//! component names its messages in order (`pubsub.embedded` does). Elsewhere the last value of a
//! key is right once all are taken again.
//!
//! - The payload is the value, as text. An empty one deletes the key.
//! - A CloudEvent (what an app publishes) stands for its data: a text as it is, anything else as
//!   its JSON text.
//! - `version` in the message's metadata (an MQTT 5 user property, `metadata.version` of a publish)
//!   is the item's version; the store gives one otherwise. What else is in there becomes metadata
//!   of the item, but for what is about the message itself.
//! - What can never be an item is left out: counted and logged.
//! - At the first start, what the topics retain is taken first.

use crate::drain::Drain;
use crate::observe::metrics::families::CONFIGURATION_FED;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_components::backoff::Backoff;
use pillion_components::configuration::{ConfigurationStore, Source, Write, Written};
use pillion_components::pubsub::{Delivery, Message, PubSub, QueueLimits, Subscribe};
use pillion_components::topic::Filter;
use pillion_components::{Error, Kind, Result, env};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Waits before the topic is opened again after an error.
const REOPEN_MIN_MS: u64 = 250;
const REOPEN_MAX_MS: u64 = 30_000;

/// Most retained messages that are taken at the first start.
const RETAINED_MAX: usize = 16_384;

/// Metadata of a message that says nothing of the item.
const OF_THE_MESSAGE: &[&str] = &["rawPayload", "ttlInSeconds", "retain", "priority", "version"];

/// A configuration store, and the topic that feeds it.
pub struct Feed {
    name: Arc<str>,
    store: Arc<dyn ConfigurationStore>,
    pubsub: Arc<dyn PubSub>,
    topic: String,
    filter: Filter,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    Unchanged,
    /// It was taken before.
    Again,
    Refused,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Outcome::Written => "written",
            Outcome::Unchanged => "unchanged",
            Outcome::Again => "again",
            Outcome::Refused => "refused",
        }
    }
}

impl Feed {
    /// A feed of the store `name`. The error says why the topic cannot be followed.
    pub fn new(
        name: Arc<str>,
        store: Arc<dyn ConfigurationStore>,
        source: Source,
        pubsub: Arc<dyn PubSub>,
    ) -> Result<Self> {
        let filter = Filter::new(&format!("{}/#", source.topic))?;
        Ok(Self { name, store, pubsub, topic: source.topic, filter })
    }

    /// Feeds the store until the process drains.
    pub async fn run(self, mut drain: Drain) {
        let mut backoff = Backoff::new(REOPEN_MIN_MS, REOPEN_MAX_MS, env::random_u64());
        let forever = async {
            loop {
                let Err(error) = self.serve(&mut backoff).await;
                let (component, pause_ms) = (&*self.name, backoff.next_ms());
                tracing::warn!(component, %error, pause_ms, "a configuration store is not fed now");
                sleep(Duration::from_millis(pause_ms)).await;
            }
        };
        // A write that is on its way is taken again at the next start.
        tokio::select! {
            () = forever => {}
            () = drain.started() => {}
        }
    }

    /// Takes messages until something fails. What was not acknowledged comes again.
    async fn serve(&self, backoff: &mut Backoff) -> Result<std::convert::Infallible> {
        let subscribe = Subscribe {
            consumer: format!("configuration/{}", self.name),
            filters: vec![self.filter.clone()],
            durable: true,
            limits: QueueLimits::default(),
            except_origin: None,
            metadata: Vec::new(),
        };
        let mut subscription = self.pubsub.subscribe(subscribe).await?;
        let mut mark = match self.store.mark().await? {
            Some(mark) => mark,
            None => {
                self.take_retained().await?;
                String::new()
            }
        };
        loop {
            let delivery = subscription.next().await?;
            self.take(&delivery, &mut mark).await?;
            subscription.ack(delivery.token);
            backoff.reset();
        }
    }

    async fn take_retained(&self) -> Result<()> {
        let retained = self.pubsub.retained(&self.filter, RETAINED_MAX).await?;
        for delivery in &retained {
            // Their names are not of the queue's order.
            let delivery = Delivery { token: 0, ..delivery.clone() };
            self.take(&delivery, &mut String::new()).await?;
        }
        Ok(())
    }

    /// Takes one message; `mark` is the name of the last one that the store has. An error is worth
    /// another try.
    async fn take(&self, delivery: &Delivery, mark: &mut String) -> Result<()> {
        let outcome = self.try_take(delivery, mark).await;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if is_final(error.kind()) => {
                let (component, topic) = (&*self.name, &*delivery.message.topic);
                tracing::error!(component, topic, %error, "a message is no configuration item");
                Outcome::Refused
            }
            Err(error) => return Err(error),
        };
        CONFIGURATION_FED.with(&[&self.name, outcome.name()]).inc();
        Ok(())
    }

    async fn try_take(&self, delivery: &Delivery, mark: &mut String) -> Result<Outcome> {
        // What needs no acknowledgement does not come again.
        let has_name = delivery.token != 0;
        if has_name && is_taken(&delivery.id, mark) {
            return Ok(Outcome::Again);
        }
        let message = &*delivery.message;
        let key = message.topic.strip_prefix(&self.topic).and_then(|rest| rest.strip_prefix('/'));
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return Err(Error::new(Kind::Invalid, "there is no key in its topic"));
        };
        let next = if has_name && !delivery.id.is_empty() { &*delivery.id } else { mark.as_str() };
        let next = next.to_owned();
        let write = Write { key: key.to_owned(), item: item(message)?, mark: Some(next.clone()) };
        if self.store.write(write).await? {
            *mark = next;
            return Ok(Outcome::Written);
        }
        Ok(Outcome::Unchanged)
    }
}

/// Whether the same message would fail again.
const fn is_final(kind: Kind) -> bool {
    matches!(kind, Kind::Invalid | Kind::TooLarge | Kind::Unsupported)
}

/// Whether the message of this name is not later than the one of `mark`: names of one series end
/// in a number that grows.
fn is_taken(id: &str, mark: &str) -> bool {
    fn split(name: &str) -> Option<(&str, u64)> {
        let (series, number) = name.rsplit_once('-')?;
        Some((series, number.parse().ok()?))
    }
    let Some(((series, number), (known, last))) = split(id).zip(split(mark)) else { return false };
    series == known && number <= last
}

/// The item that a message brings; `None` deletes.
fn item(message: &Message) -> Result<Option<Written>> {
    let Some(value) = value(&message.payload)? else { return Ok(None) };
    let named = |name: &str| {
        let found = message.metadata.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let of_the_item = |(name, _): &&(String, String)| {
        let lower = name.to_ascii_lowercase();
        let is_attribute = lower.starts_with("ce_") || lower.starts_with("cloudevent.");
        !is_attribute && !OF_THE_MESSAGE.iter().any(|known| known.eq_ignore_ascii_case(name))
    };
    Ok(Some(Written {
        value,
        version: named("version"),
        metadata: message.metadata.iter().filter(of_the_item).cloned().collect(),
    }))
}

/// What makes an object a CloudEvent, and what it carries.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "specversion")]
    _specversion: Cow<'a, str>,
    #[serde(rename = "id")]
    _id: Cow<'a, str>,
    #[serde(rename = "source")]
    _source: Cow<'a, str>,
    #[serde(rename = "type")]
    _type: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
}

fn value(payload: &[u8]) -> Result<Option<String>> {
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|_| Error::new(Kind::Invalid, "its payload is not UTF-8"))
    };
    let value = match serde_json::from_slice::<Event<'_>>(payload) {
        Err(_) => text(payload.to_vec())?,
        Ok(Event { data_base64: Some(encoded), .. }) => {
            let decoded = STANDARD
                .decode(encoded.as_bytes())
                .map_err(|error| Error::new(Kind::Invalid, format!("its data_base64: {error}")))?;
            text(decoded)?
        }
        Ok(Event { data: None, .. }) => String::new(),
        Ok(Event { data: Some(data), .. }) => match serde_json::from_str::<String>(data.get()) {
            Ok(text) => text,
            Err(_) => data.get().to_owned(),
        },
    };
    Ok(Some(value).filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests;
