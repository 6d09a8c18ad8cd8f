//! A pub/sub component in memory whose syncs the test lets happen, and which survives the door: a
//! new door before the same component is a restart.

use async_trait::async_trait;
use pillion_components::pubsub::{
    Assurance, Delivery, Feature, IN_FLIGHT_MAX, Message, PubSub, Subscribe, Subscription,
};
use pillion_components::topic::Filter;
use pillion_components::{Error, Kind, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

#[derive(Default)]
struct Shared {
    consumers: BTreeMap<String, Consumer>,
    retained: BTreeMap<Arc<str>, Arc<Message>>,
    published: Vec<Arc<Message>>,
    last: u64,
    refuse: Option<Kind>,
}

#[derive(Default)]
struct Consumer {
    filters: Vec<Filter>,
    durable: bool,
    opened: u64,
    queue: VecDeque<Delivery>,
    in_flight: BTreeMap<u64, Delivery>,
    news: Arc<Notify>,
}

/// Cheap to clone: every clone is the same component.
#[derive(Clone)]
pub(super) struct Fake {
    shared: Arc<Mutex<Shared>>,
    /// Syncs return while this is true.
    syncs: watch::Sender<bool>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default(), syncs: watch::Sender::new(true) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets syncs return, or not.
    pub(super) fn let_sync(&self, yes: bool) {
        self.syncs.send_replace(yes);
    }

    /// Refuses every publish that is no record, with this kind.
    pub(super) fn refuse(&self, kind: Option<Kind>) {
        self.shared().refuse = kind;
    }

    /// Payloads published to a topic.
    pub(super) fn payloads(&self, topic: &str) -> Vec<String> {
        let shared = self.shared();
        let of_topic = shared.published.iter().filter(|message| *message.topic == *topic);
        of_topic.map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
    }

    /// The last message published to a topic.
    pub(super) fn last(&self, topic: &str) -> Option<Arc<Message>> {
        self.shared().published.iter().rfind(|message| *message.topic == *topic).cloned()
    }

    /// Names of the consumers there are.
    pub(super) fn consumers(&self) -> Vec<String> {
        self.shared().consumers.keys().cloned().collect()
    }

    /// Topics that have a retained message.
    pub(super) fn retained_topics(&self) -> Vec<String> {
        self.shared().retained.keys().map(|topic| topic.to_string()).collect()
    }
}

impl Shared {
    fn route(&mut self, message: Message) {
        let message = Arc::new(message);
        self.last += 1;
        let token = self.last;
        self.published.push(message.clone());
        if message.retain {
            if message.payload.is_empty() {
                self.retained.remove(&message.topic);
            } else {
                self.retained.insert(message.topic.clone(), message.clone());
            }
        }
        for consumer in self.consumers.values_mut() {
            if consumer.filters.iter().any(|filter| filter.matches(&message.topic)) {
                let (id, message) = (token.to_string().into(), message.clone());
                let delivery = Delivery { token, id, published_ms: 0, again: false, message };
                consumer.queue.push_back(delivery);
                consumer.news.notify_one();
            }
        }
    }
}

#[async_trait]
impl PubSub for Fake {
    fn features(&self) -> &'static [Feature] {
        &[]
    }

    async fn publish(&self, message: Message) -> Result<()> {
        let is_record = message.topic.starts_with('$');
        if let Some(kind) = self.shared().refuse.filter(|_| !is_record) {
            return Err(Error::new(kind, "refused by the test"));
        }
        if message.assurance == Assurance::AtLeastOnce {
            let mut syncs = self.syncs.subscribe();
            syncs.wait_for(|yes| *yes).await.map_err(|_| Error::new(Kind::Closed, "gone"))?;
        }
        self.shared().route(message);
        Ok(())
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        let mut shared = self.shared();
        shared.last += 1;
        let opened = shared.last;
        let consumer = shared.consumers.entry(subscribe.consumer.clone()).or_default();
        consumer.filters = subscribe.filters;
        consumer.durable = subscribe.durable;
        consumer.opened = opened;
        let news = consumer.news.clone();
        Ok(Box::new(Open { fake: self.clone(), name: subscribe.consumer, opened, news }))
    }

    async fn unsubscribe(&self, consumer: &str) -> Result<()> {
        match self.shared().consumers.remove(consumer) {
            Some(_) => Ok(()),
            None => Err(Error::new(Kind::NotFound, "no such consumer")),
        }
    }

    async fn retained(&self, filter: &Filter, messages_max: usize) -> Result<Vec<Delivery>> {
        let shared = self.shared();
        let found = shared.retained.iter().filter(|(topic, _)| filter.matches(topic));
        let delivery = |message: &Arc<Message>| Delivery {
            token: 0,
            id: "".into(),
            published_ms: 0,
            again: false,
            message: message.clone(),
        };
        Ok(found.take(messages_max).map(|(_, message)| delivery(message)).collect())
    }

    async fn retained_count(&self) -> Result<Option<u64>> {
        Ok(Some(self.shared().retained.len() as u64))
    }
}

struct Open {
    fake: Fake,
    name: String,
    opened: u64,
    news: Arc<Notify>,
}

impl Open {
    fn with<T>(&self, act: impl FnOnce(&mut Consumer) -> T) -> Option<T> {
        let mut shared = self.fake.shared();
        let consumer = shared.consumers.get_mut(&self.name)?;
        (consumer.opened == self.opened).then(|| act(consumer))
    }
}

#[async_trait]
impl Subscription for Open {
    async fn next(&mut self) -> Result<Delivery> {
        loop {
            let found = self.with(|consumer| {
                if consumer.in_flight.len() >= IN_FLIGHT_MAX {
                    return None;
                }
                let delivery = consumer.queue.pop_front()?;
                consumer.in_flight.insert(delivery.token, delivery.clone());
                Some(delivery)
            });
            match found {
                None => return Err(Error::new(Kind::Closed, "taken over")),
                Some(Some(delivery)) => return Ok(delivery),
                Some(None) => self.news.notified().await,
            }
        }
    }

    fn ack(&mut self, token: u64) {
        self.with(|consumer| consumer.in_flight.remove(&token));
    }

    fn nack(&mut self, token: u64) {
        self.with(|consumer| {
            let back = consumer.in_flight.remove(&token);
            consumer.queue.extend(back);
        });
    }

    fn set_filters(&mut self, filters: Vec<Filter>) -> Result<()> {
        self.with(|consumer| consumer.filters = filters);
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let is_durable = self.with(|consumer| {
            for (_, mut delivery) in std::mem::take(&mut consumer.in_flight).into_iter().rev() {
                delivery.again = true;
                consumer.queue.push_front(delivery);
            }
            consumer.durable
        });
        if is_durable == Some(false) {
            self.fake.shared().consumers.remove(&self.name);
        }
    }
}
