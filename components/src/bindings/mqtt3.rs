//! `bindings.mqtt3`: messages of an MQTT 3.1.1 broker elsewhere. Also known as `bindings.mqtt`.
//!
//! Settings: those of [`pubsub.mqtt3`](crate::pubsub::mqtt3), whose connection this is, and
//! - `topic` (required): what is published to, and the filter of events, `$share/group/filter` too
//! - `consumerID` (required): client ids are `{consumerID}-producer` and `{consumerID}-consumer`
//! - `backOffMaxRetries` (-1): deliveries of an event after the first, 5 s apart, before it is
//!   acknowledged as given up; -1 is until the app takes it, so that nothing is lost
//!
//! Operation: `create`; the request's `topic` comes before the setting. It answers after the
//! PUBACK. Without a connection it fails at once; with `queue` it waits on disk. An event's
//! metadata is `topic`. Events are delivered one after the other, in the broker's order.

use super::{Answer, Ends, Event, Failure, InputBinding, Opening, OutputBinding, Redelivery};
use super::{Request, Source};
use crate::error::Result;
use crate::options::Options;
use crate::pubsub::mqtt3::open_as;
use crate::pubsub::{Message, PubSub, QueueLimits, Subscribe, Subscription};
use crate::topic::Filter;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// Time between two deliveries of an event.
const BACK_OFF: Duration = Duration::from_secs(5);

pub(super) fn open(opening: &Opening<'_>) -> Result<Ends> {
    let Opening { options, context, wanted, .. } = *opening;
    let topic = options.required("topic")?;
    let id = options.required("consumerID")?;
    let mut ends: Ends = (None, None);
    if wanted.input {
        let pubsub = open_as(options, context, &format!("{id}-consumer"))?;
        let (filter, retries_max) = (filter(topic)?, retries_max(options)?);
        let durable = !options.truthy("cleanSession", false);
        ends.0 = Some(Arc::new(Input { pubsub, filter, durable, retries_max }));
    } else {
        // One setting for both ends: known to this one, too.
        options.text("backOffMaxRetries");
    }
    if wanted.output {
        let pubsub = open_as(options, context, &format!("{id}-producer"))?;
        ends.1 = Some(Arc::new(Output { pubsub, topic: topic.into() }));
    }
    Ok(ends)
}

/// What stands before the filter of a shared subscription is the connection's to understand.
fn filter(topic: &str) -> Result<Filter> {
    Filter::new(topic).map_err(|error| error.context("metadata 'topic'"))
}

fn retries_max(options: &Options) -> Result<Option<u32>> {
    match options.text("backOffMaxRetries") {
        None | Some("-1") => Ok(None),
        Some(_) => {
            let number = options.number("backOffMaxRetries", 0, 0, u64::from(u32::MAX))?;
            Ok(u32::try_from(number).ok())
        }
    }
}

struct Output {
    pubsub: Arc<dyn PubSub>,
    topic: Arc<str>,
}

#[async_trait]
impl OutputBinding for Output {
    fn operations(&self) -> &'static [&'static str] {
        &["create"]
    }

    async fn invoke(&self, request: Request) -> Result<Answer, Failure> {
        let topic = request.get("topic").map_or_else(|| self.topic.clone(), Arc::from);
        let message = Message { topic, payload: request.data, ..Message::default() };
        self.pubsub.publish(message).await?;
        Ok(Answer::default())
    }
}

struct Input {
    pubsub: Arc<dyn PubSub>,
    filter: Filter,
    durable: bool,
    retries_max: Option<u32>,
}

#[async_trait]
impl InputBinding for Input {
    fn redelivery(&self) -> Redelivery {
        Redelivery { pause: BACK_OFF, retries_max: self.retries_max }
    }

    async fn read(&self, reader: &str) -> Result<Box<dyn Source>> {
        let subscribe = Subscribe {
            consumer: reader.to_owned(),
            filters: vec![self.filter.clone()],
            durable: self.durable,
            limits: QueueLimits::default(),
            except_origin: None,
            metadata: Vec::new(),
        };
        Ok(Box::new(Messages(self.pubsub.subscribe(subscribe).await?)))
    }
}

struct Messages(Box<dyn Subscription>);

#[async_trait]
impl Source for Messages {
    async fn next(&mut self) -> Result<Event> {
        let delivery = self.0.next().await?;
        let message = &delivery.message;
        let metadata = vec![("topic".to_owned(), message.topic.to_string())];
        Ok(Event { token: delivery.token, data: message.payload.clone(), metadata })
    }

    fn done(&mut self, token: u64) {
        self.0.ack(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn retries_are_a_number_or_without_end() {
        let read = |text: &str| {
            retries_max(&[("backOffMaxRetries", text)].into_iter().collect::<Options>())
        };
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("-1").unwrap(), None);
        assert_eq!(read("3").unwrap(), Some(3));
        assert_eq!(read("often").unwrap_err().kind(), Kind::Invalid);
    }
}
