//! What a persistent session keeps in the pub/sub component: its queue and its record.

use super::Door;
use crate::broker::connect::Accepted;
use crate::broker::message;
use crate::broker::record::{NEVER_S, RECORDS, Record, consumer_of, forget, topic_of};
use crate::broker::registry::{Away, expires_ms};
use crate::broker::session::{Parked, Session};
use crate::broker::subscriptions::Subscriptions;
use pillion_components::pubsub::{
    Assurance, Delivery, Message, QueueLimits, Subscribe, Subscription,
};
use pillion_components::topic::Filter;
use pillion_components::{Kind, Result};

/// How much longer than the door the component keeps the queue of a client that stays away. The
/// door forgets first, so that record and queue go together; the component's is the net.
const FORGET_MARGIN_MS: u64 = 3_600_000;

/// A session as it was found.
#[derive(Default)]
pub(super) struct Restored {
    pub(super) subscriptions: Subscriptions,
    pub(super) parked: Parked,
    /// It was there.
    pub(super) is_present: bool,
}

impl Door {
    /// Learns which sessions are on disk. Once; a component that cannot say is asked again.
    pub(super) async fn load(&self) -> Result<()> {
        let loaded = self.loaded.get_or_try_init(|| async {
            let records = Filter::new(RECORDS)?;
            let most = usize::try_from(self.limits.sessions_max).unwrap_or(usize::MAX);
            let found = self.pubsub.retained(&records, most).await?;
            self.remember(found);
            self.count_retained().await
        });
        loaded.await?;
        Ok(())
    }

    fn remember(&self, records: Vec<Delivery>) {
        let now_ms = self.clock.now_ms();
        let mut sessions = self.sessions();
        for delivery in records {
            let Some(record) = Record::decode(&delivery.message.payload) else {
                tracing::warn!(topic = %delivery.message.topic, "no session record; left alone");
                continue;
            };
            let since_ms = record.away_ms.unwrap_or(now_ms).min(now_ms);
            let away = Away {
                parked: Parked::from_ids(&record.received, &record.released),
                expires_ms: self.expires_ms(since_ms, record.expiry_s),
                will: None,
            };
            sessions.restore(record.client.into(), away);
        }
        self.count_sessions(&sessions);
    }

    /// When a session ends whose client left at `since_ms`.
    pub(super) fn expires_ms(&self, since_ms: u64, expiry_s: u32) -> Option<u64> {
        expires_ms(since_ms, expiry_s, self.limits.queue.forget_after_ms)
    }

    /// The session of a client that was let in: what it left, or a new one.
    pub(super) async fn restore(
        &self,
        accepted: &Accepted,
        away: Option<Box<Away>>,
    ) -> Result<Restored> {
        let client = &*accepted.client_id;
        let mut restored = Restored::default();
        if let Some(away) = away {
            if accepted.clean_start {
                // The session before ends here, and with it the wait of its will.
                if let Some((_, will)) = away.will {
                    self.publish_will(will).await;
                }
                self.forget(client).await?;
            } else if let Some(record) = self.record(client).await? {
                restored.subscriptions = record.subscriptions();
                restored.parked = away.parked;
                restored.is_present = true;
            }
        }
        if restored.is_present {
            self.refresh(accepted, &restored).await?;
            return Ok(restored);
        }
        // A queue without a record, of a crash between the two, is nobody's.
        self.forget_queue(client).await?;
        if accepted.is_persistent() {
            let record = Record::new(client, accepted.expiry_s, &restored.subscriptions);
            self.pubsub.publish(record.to_message(Assurance::AtLeastOnce)).await?;
        }
        Ok(restored)
    }

    /// Notes in the record that the client is here. A record that is merely behind does no harm, so
    /// this is not synced, and a full disk keeps nobody from what waits. Only packet ids of QoS 2
    /// must be gone before the client uses them again: those of the record would make a new message
    /// look like one that came before.
    async fn refresh(&self, accepted: &Accepted, restored: &Restored) -> Result<()> {
        let client = &*accepted.client_id;
        let record = Record::new(client, accepted.expiry_s, &restored.subscriptions);
        let must_sync = restored.parked.has_received();
        let assurance = if must_sync { Assurance::AtLeastOnce } else { Assurance::AtMostOnce };
        match self.pubsub.publish(record.to_message(assurance)).await {
            Err(error) if !must_sync => {
                tracing::warn!(client, %error, "a session record could not be brought up to date");
                Ok(())
            }
            result => result,
        }
    }

    async fn record(&self, client: &str) -> Result<Option<Record>> {
        let topic = Filter::new(&topic_of(client))?;
        let found = self.pubsub.retained(&topic, 1).await?;
        Ok(found.first().and_then(|delivery| Record::decode(&delivery.message.payload)))
    }

    async fn forget_queue(&self, client: &str) -> Result<()> {
        match self.pubsub.unsubscribe(&consumer_of(client)).await {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Forgets the queue and the record of a session.
    pub(super) async fn forget(&self, client: &str) -> Result<()> {
        self.forget_queue(client).await?;
        self.pubsub.publish(forget(client)).await
    }

    /// Opens the session's queue.
    pub(super) async fn open_queue(
        &self,
        session: &Session,
        durable: bool,
    ) -> Result<Box<dyn Subscription>> {
        let limits = self.limits.queue.clone();
        let forget_after_ms = limits.forget_after_ms.map(|ms| ms.saturating_add(FORGET_MARGIN_MS));
        let subscribe = Subscribe {
            consumer: consumer_of(session.client_id()),
            filters: session.subscriptions().filters(),
            durable,
            limits: QueueLimits { forget_after_ms, ..limits },
            // No-local is an option of each subscription; the session sees to it.
            except_origin: None,
            metadata: Vec::new(),
        };
        self.pubsub.subscribe(subscribe).await
    }

    /// Writes the record of a connected session after its subscriptions changed.
    pub(super) async fn store(&self, session: &Session) -> Result<()> {
        let record = Record::new(session.client_id(), session.expiry_s(), session.subscriptions());
        self.pubsub.publish(record.to_message(Assurance::AtLeastOnce)).await
    }

    /// The client of a persistent session leaves: the record says since when. Not synced: after a
    /// crash the session counts from the restart.
    pub(super) async fn store_away(
        &self,
        client: &str,
        expiry_s: u32,
        subscriptions: &Subscriptions,
        parked: &Parked,
    ) -> Result<()> {
        let mut record = Record::new(client, expiry_s, subscriptions);
        record.away_ms = Some(self.clock.now_ms());
        (record.received, record.released) = parked.ids();
        self.pubsub.publish(record.to_message(Assurance::AtMostOnce)).await
    }

    /// Publishes the will of a client that vanished.
    pub(super) async fn publish_will(&self, will: Message) {
        let topic = will.topic.clone();
        if let Err(error) = self.pubsub.publish(will).await {
            self.count_dropped("will-failed");
            tracing::warn!(%topic, %error, "a will could not be published");
        }
    }

    /// What is retained for these filters, each topic once, at most `messages_max` of each.
    pub(super) async fn retained(
        &self,
        filters: &[Filter],
        messages_max: usize,
    ) -> Result<Vec<Delivery>> {
        let mut found: Vec<Delivery> = Vec::new();
        for filter in filters {
            found.extend(self.pubsub.retained(filter, messages_max).await?);
        }
        Ok(found)
    }
}

/// The will of a CONNECT as a message and its delay in milliseconds, which ends with the session.
pub(super) fn will_of(accepted: &mut Accepted) -> Option<(Message, u64)> {
    let will = accepted.will.take()?;
    let message = message::from_will(will, message::origin_of(&accepted.client_id));
    Some((message, u64::from(accepted.will_delay_s) * 1000))
}

/// Milliseconds of a session's expiry, for comparing with a will's delay.
pub(super) fn expiry_ms(expiry_s: u32) -> u64 {
    if expiry_s == NEVER_S { u64::MAX } else { u64::from(expiry_s) * 1000 }
}
