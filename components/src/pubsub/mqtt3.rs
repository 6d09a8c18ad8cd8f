//! `pubsub.mqtt3`: topics of an MQTT 3.1.1 broker elsewhere. Also known as `pubsub.mqtt`.
//!
//! Settings:
//! - `url` (required): `tcp://` or `mqtt://host[:1883]`, `ssl://`, `tls://` or
//!   `mqtts://host[:8883]`; may hold `user:password@`
//! - `username`, `password`: instead of those in the URL
//! - `consumerID`: the MQTT client id (default: the app id). Two clients under one id throw each
//!   other out
//! - `qos` (1): 0 or 1, of subscriptions and publishes; 2 counts as 1
//! - `retain` (false): publish everything as retained; one message: metadata `retain`
//! - `cleanSession` (false): the broker forgets subscriptions and queues with the connection, so
//!   that nothing is durable
//! - `caCert`, `clientCert`, `clientKey`: PEM text or a file; without `caCert` the authorities of
//!   the web are trusted
//! - `keepAlive` (60s), `reconnectMaxInterval` (30s), `maxPacketBytes` (a bit over 4Mi)
//!
//! The laws of [`super`] hold with these bounds, which are those of MQTT 3.1.1:
//! - All subscriptions of a component are one session at the broker, with one window. A durable
//!   subscription is a filter in that session: the broker queues for it while nobody takes, within
//!   limits of the broker's own; `limits` are not ours to keep. What nobody takes fills the window
//!   in time: `unsubscribe` it, or give it a component of its own.
//! - Messages that a subscription does not take fast enough are not acknowledged, so the broker
//!   stops sending at its window. Beyond a named bound a subscription that is not durable loses
//!   its oldest, counted; a durable one loses only messages of QoS 0.
//! - A message has no id and no time to live, and the origin of a publish is not carried.
//! - A publish that fails with `Unavailable` may have arrived: its answer was lost. It is never
//!   sent again on its own.
//! - Overlapping filters may deliver a message once for each.

mod acks;
mod connection;
mod consumer;
mod filters;
mod hub;
#[cfg(feature = "tls")]
mod peer;
mod settings;

#[cfg(feature = "tls")]
pub use peer::{Peer, peer};

use super::{Assurance, Delivery, Feature, Message, PubSub, QueueStatus, Subscribe, Subscription};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::options::{Options, is_truthy};
use crate::topic::{self, Filter};
use async_trait::async_trait;
use consumer::{Taken, Wanted};
use hub::{Answer, Hub, Phase};
use rumqttc::{PublishNotice, QoS};
use settings::Settings;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

/// Most publishes that wait for their PUBACK; the next caller waits.
pub const PUBLISHES_MAX: usize = 64;

/// A broker that answers pings and never acknowledges is given up after this long.
const PUBACK_TIMEOUT: Duration = Duration::from_secs(300);
/// How long `subscribe` waits for the broker's word. Later words are logged only.
const SUBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Fixed header, length of the topic, packet id.
const PUBLISH_OVERHEAD_BYTES: usize = 5 + 2 + 2;

/// Opens it and returns at once; it connects by itself.
pub fn open(options: &Options, context: &Context) -> Result<Arc<dyn PubSub>> {
    open_as(options, context, options.text("consumerID").unwrap_or(&context.app_id))
}

/// The same under a client id that the options do not name.
pub(crate) fn open_as(
    options: &Options,
    context: &Context,
    client_id: &str,
) -> Result<Arc<dyn PubSub>> {
    let settings = Settings::read(options, client_id)?;
    let (qos, retain) = (settings.qos, settings.retain);
    let packet_bytes_max = settings.packet_bytes_max;
    let hub = Arc::new(Hub::new(&settings, context.clock.clone()));
    let (closing, told) = watch::channel(false);
    // Ends with `closing`, whose sender is dropped with the component.
    tokio::spawn(connection::run(hub.clone(), settings, told));
    let permits = Semaphore::new(PUBLISHES_MAX);
    Ok(Arc::new(Mqtt3 { hub, qos, retain, packet_bytes_max, permits, _closing: closing }))
}

struct Mqtt3 {
    hub: Arc<Hub>,
    qos: QoS,
    retain: bool,
    packet_bytes_max: usize,
    /// First come, first served: this is what keeps the order of calls.
    permits: Semaphore,
    _closing: watch::Sender<bool>,
}

/// A publish that was handed to the client.
struct Sent<'a> {
    notice: PublishNotice,
    _permit: SemaphorePermit<'a>,
}

impl Mqtt3 {
    fn check(&self, message: &Message) -> Result<()> {
        topic::check_name(&message.topic)?;
        let bytes = PUBLISH_OVERHEAD_BYTES + message.topic.len() + message.payload.len();
        if bytes > self.packet_bytes_max {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "message of {} bytes: 'maxPacketBytes' of this component is {}",
                    message.payload.len(),
                    self.packet_bytes_max
                ),
            ));
        }
        Ok(())
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        self.started().await;
        let permit = self.permits.acquire().await;
        permit.map_err(|_| Error::new(Kind::Closed, "the component is closed"))
    }

    /// From the permit to the client there is no wait, so that calls keep their order.
    fn send<'a>(&'a self, message: &Message, permit: SemaphorePermit<'a>) -> Result<Sent<'a>> {
        self.check(message)?;
        let qos = match message.assurance {
            Assurance::AtMostOnce => QoS::AtMostOnce,
            Assurance::AtLeastOnce => self.qos,
        };
        let mut asked = message.metadata.iter();
        let retain = self.retain
            || message.retain
            || asked.any(|(name, value)| name == "retain" && is_truthy(value));
        let notice = self.hub.publish(message, qos, retain)?;
        Ok(Sent { notice, _permit: permit })
    }

    /// Waits while the first attempt to connect is under way, so that the first call after the
    /// start does not fail for being early.
    async fn started(&self) {
        // An error means that the connection's task is gone; the publish will say so.
        let _ = self.hub.phase().wait_for(|phase| *phase != Phase::Starting).await;
    }

    async fn finish(&self, sent: Sent<'_>) -> Result<()> {
        let notice = sent.notice.wait_completion_async();
        match tokio::time::timeout(PUBACK_TIMEOUT, notice).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.hub.unavailable("the connection broke before the answer")),
            Err(_) => {
                self.hub.reset("no PUBACK in time");
                Err(self.hub.unavailable("no PUBACK in time"))
            }
        }
    }
}

#[async_trait]
impl PubSub for Mqtt3 {
    fn features(&self) -> &'static [Feature] {
        &[Feature::SubscribeWildcards]
    }

    async fn publish(&self, message: Message) -> Result<()> {
        let permit = self.permit().await?;
        let sent = self.send(&message, permit)?;
        self.finish(sent).await
    }

    async fn bulk_publish(&self, messages: Vec<Message>) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut window: VecDeque<Result<Sent<'_>>> = VecDeque::new();
        self.started().await;
        for message in &messages {
            // Who holds permits must not wait for one, or two of these could wait for each other.
            let permit = loop {
                match self.permits.try_acquire() {
                    Ok(permit) => break Ok(permit),
                    Err(_) if window.is_empty() => break self.permit().await,
                    Err(_) => self.finish_first(&mut window, &mut results).await,
                }
            };
            window.push_back(permit.and_then(|permit| self.send(message, permit)));
        }
        while !window.is_empty() {
            self.finish_first(&mut window, &mut results).await;
        }
        results
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        let wanted = wanted(&subscribe.filters)?;
        let (generation, wake) = self.hub.open(&subscribe, wanted);
        let name = subscribe.consumer.as_str().into();
        let opened = Opened { hub: self.hub.clone(), name, generation, wake };
        match tokio::time::timeout(SUBACK_TIMEOUT, opened.granted()).await {
            Ok(Err(error)) => {
                self.hub.forget(&subscribe.consumer);
                Err(error)
            }
            Ok(Ok(())) | Err(_) => Ok(Box::new(opened)),
        }
    }

    async fn unsubscribe(&self, consumer: &str) -> Result<()> {
        self.hub.forget(consumer);
        Ok(())
    }

    fn queues(&self) -> Vec<QueueStatus> {
        self.hub.queues()
    }

    fn reachable(&self) -> Result<()> {
        match &*self.hub.phase().borrow() {
            Phase::Up => Ok(()),
            Phase::Starting => Err(self.hub.unavailable("not connected yet")),
            Phase::Down(reason) => Err(self.hub.unavailable(reason)),
        }
    }

    fn connectivity(&self) -> Option<watch::Receiver<bool>> {
        Some(self.hub.up())
    }
}

impl Mqtt3 {
    async fn finish_first(
        &self,
        window: &mut VecDeque<Result<Sent<'_>>>,
        results: &mut Vec<Result<()>>,
    ) {
        match window.pop_front() {
            Some(Ok(sent)) => results.push(self.finish(sent).await),
            Some(Err(error)) => results.push(Err(error)),
            None => {}
        }
    }
}

fn wanted(filters: &[Filter]) -> Result<Vec<Wanted>> {
    filters.iter().map(|filter| Wanted::parse(filter.as_str())).collect()
}

/// An open subscription.
struct Opened {
    hub: Arc<Hub>,
    name: Arc<str>,
    generation: u64,
    wake: Arc<Notify>,
}

impl Opened {
    /// Waits for the broker to grant every filter; without a connection there is nothing to wait
    /// for, the filters are asked for when there is one.
    async fn granted(&self) -> Result<()> {
        let mut phase = self.hub.phase();
        loop {
            if matches!(&*phase.borrow_and_update(), Phase::Down(_)) {
                return Ok(());
            }
            match self.hub.answer(&self.name, self.generation) {
                Answer::Granted => return Ok(()),
                Answer::Refused(filter) => {
                    return Err(Error::new(
                        Kind::Denied,
                        format!("the mqtt broker refuses the topic filter '{filter}'"),
                    ));
                }
                Answer::Pending => {}
            }
            if phase.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Subscription for Opened {
    async fn next(&mut self) -> Result<Delivery> {
        loop {
            match self.hub.take(&self.name, self.generation) {
                Taken::Message(delivery) => return Ok(delivery),
                Taken::Nothing => self.wake.notified().await,
                Taken::Closed => {
                    return Err(Error::new(
                        Kind::Closed,
                        format!("subscription '{}' was taken over or ended", self.name),
                    ));
                }
            }
        }
    }

    fn ack(&mut self, token: u64) {
        self.hub.ack(&self.name, self.generation, token);
    }

    fn nack(&mut self, token: u64) {
        self.hub.nack(&self.name, self.generation, token);
    }

    fn set_filters(&mut self, filters: Vec<Filter>) -> Result<()> {
        self.hub.set_wanted(&self.name, self.generation, wanted(&filters)?);
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.hub.leave(&self.name, self.generation);
    }
}
