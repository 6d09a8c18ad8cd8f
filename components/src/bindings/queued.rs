//! A queue on disk before an output binding whose target may be away for days.
//!
//! Settings of any output binding:
//! - `queue` (false): calls of `create`, `post`, `put`, `patch` and `delete` are answered, with
//!   nothing, once they are on disk; other operations go to the target at once, as without it
//! - `queueBytesMax` (64Mi), `queueAgeMax` (none), `queueOverflow` (`drop-oldest`, or `refuse`):
//!   the ends of the queue, as of any queue here
//! - `queueRetriesMax` (10): how often a call that the target refuses for what it is, not for
//!   being away, is tried again before it is dropped
//!
//! Calls leave one after the other in their order, and each is deleted after the target took it.
//! While the target is away the first is tried again, with waits from [`PAUSE_MIN`] doubled up to
//! [`PAUSE_MAX`], and is never given up but by the ends of the queue. A stop waits for the call
//! under way. A crash sends again at most that call and those taken since the last commit, which is
//! at most 10 seconds before it; the metadata `Idempotency-Key`, which HTTP carries as a header, is
//! the same in each.

use super::{Answer, Failure, OutputBinding, Request};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::env;
use crate::error::{Error, Kind, Result};
use crate::journal::{Journal, Reader};
use crate::options::Options;
use crate::pubsub::stored::stream_id;
use crate::pubsub::{Assurance, Delivery, Message, Overflow, QueueLimits, QueueStatus};
use crate::pubsub::{Subscribe, Subscription};
use crate::storage::Durability;
use crate::topic::Filter;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Wait after the first failure.
pub const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest wait: a target that is back is found within this time.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Default of `queueRetriesMax`: minutes, for a target that is only being put right.
const RETRIES_MAX: u64 = 10;

/// Operations that change something and whose answer can be done without.
const QUEUED: &[&str] = &["create", "post", "put", "patch", "delete"];

/// The name in the stream of who takes from it.
const CONSUMER: &str = "queue";
/// The metadata that names a call.
const ID: &str = "Idempotency-Key";

/// Puts a queue before `output` if the settings want one.
pub(super) async fn before(
    output: Arc<dyn OutputBinding>,
    options: &Options,
    context: &Context,
) -> Result<Arc<dyn OutputBinding>> {
    let limits = limits(options)?;
    let refusals_max = options.number("queueRetriesMax", RETRIES_MAX, 0, u64::from(u32::MAX))?;
    if !options.truthy("queue", false) {
        return Ok(output);
    }
    let name = format!("bindings/{}", context.name);
    let storage = (context.storage)()?;
    let id_prefix = format!("{}-{}-", context.name, stream_id(&storage, &name)?);
    let journal = Journal::open(storage, &name, id_prefix, context.clock.clone())?;
    let subscribe = Subscribe {
        consumer: CONSUMER.to_owned(),
        filters: vec![Filter::new("#")?],
        durable: true,
        limits,
        except_origin: None,
        metadata: Vec::new(),
    };
    let reader = journal.subscribe(subscribe.clone()).await?;
    let refused = Arc::new(AtomicU64::new(0));
    let carrier = Carrier {
        name: context.name.as_str().into(),
        output: output.clone(),
        journal: journal.clone(),
        subscribe,
        refusals_max,
        refused: refused.clone(),
    };
    let (stop, stopped) = watch::channel(());
    let carrier = Mutex::new(Some((stop, tokio::spawn(carrier.run(reader, stopped)))));
    Ok(Arc::new(Queued { output, journal, refused, carrier }))
}

fn limits(options: &Options) -> Result<QueueLimits> {
    let default = QueueLimits::default();
    let age = options.duration("queueAgeMax", Duration::ZERO)?;
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let overflow = match options.text("queueOverflow") {
        None | Some("drop-oldest") => Overflow::DropOldest,
        Some("refuse") => Overflow::Refuse,
        Some(other) => {
            let message =
                format!("metadata 'queueOverflow' is '{other}': write drop-oldest or refuse");
            return Err(Error::new(Kind::Invalid, message));
        }
    };
    Ok(QueueLimits {
        backlog_bytes_max: options.bytes("queueBytesMax", default.backlog_bytes_max)?,
        backlog_age_max_ms: Some(age_ms).filter(|ms| *ms > 0),
        overflow,
        // It is there as long as its component is.
        forget_after_ms: None,
    })
}

/// An output binding behind its queue.
struct Queued {
    output: Arc<dyn OutputBinding>,
    journal: Journal,
    refused: Arc<AtomicU64>,
    /// Dropping the first stops the second after the call under way.
    carrier: Mutex<Option<(watch::Sender<()>, JoinHandle<()>)>>,
}

impl Queued {
    fn take_carrier(&self) -> Option<(watch::Sender<()>, JoinHandle<()>)> {
        self.carrier.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some((_, carrier)) = self.take_carrier() {
            carrier.abort();
        }
    }
}

#[async_trait]
impl OutputBinding for Queued {
    fn operations(&self) -> &'static [&'static str] {
        self.output.operations()
    }

    async fn invoke(&self, request: Request) -> Result<Answer, Failure> {
        if !QUEUED.contains(&request.operation) {
            return self.output.invoke(request).await;
        }
        let message = Message {
            topic: request.operation.into(),
            // It may be a slice of a socket's buffer.
            payload: Bytes::copy_from_slice(&request.data),
            metadata: request.metadata,
            assurance: Assurance::AtLeastOnce,
            ..Message::default()
        };
        let sent = self.journal.send(&[Arc::new(message)], None, Durability::Durable)?;
        match sent {
            Some(in_transit) => in_transit.stored().await?,
            None => {
                let message = "the queue of this binding is not open";
                return Err(Error::new(Kind::Internal, message).into());
            }
        }
        Ok(Answer::default())
    }

    fn queue(&self) -> Option<QueueStatus> {
        let found = self.journal.queues().into_iter().find(|queue| queue.consumer == CONSUMER);
        found.map(|mut status| {
            status.dropped_messages += self.refused.load(Ordering::Relaxed);
            status
        })
    }

    async fn rest(&self) {
        if let Some((stop, carrier)) = self.take_carrier() {
            drop(stop);
            // An error is a fault of ours, which the log has.
            let _ = carrier.await;
        }
    }
}

/// Waits. Whether there is no need to go on.
async fn is_over(backoff: &mut Backoff, stop: &mut watch::Receiver<()>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(backoff.next_ms())) => false,
        _ = stop.changed() => true,
    }
}

/// Carries calls from the queue to the target.
struct Carrier {
    name: Arc<str>,
    output: Arc<dyn OutputBinding>,
    journal: Journal,
    subscribe: Subscribe,
    refusals_max: u64,
    refused: Arc<AtomicU64>,
}

impl Carrier {
    /// Until `stop` is gone.
    async fn run(self, mut reader: Reader, mut stop: watch::Receiver<()>) {
        let mut backoff = self.backoff();
        loop {
            let next = tokio::select! {
                next = reader.next() => next,
                _ = stop.changed() => return,
            };
            match next {
                Ok(delivery) => {
                    backoff.reset();
                    if !self.carry(&delivery, &mut stop).await {
                        return;
                    }
                    reader.ack(delivery.token);
                }
                Err(error) => {
                    tracing::error!(binding = %self.name, %error, "the queue cannot be read");
                    if is_over(&mut backoff, &mut stop).await {
                        return;
                    }
                    if let Ok(again) = self.journal.subscribe(self.subscribe.clone()).await {
                        reader = again;
                    }
                }
            }
        }
    }

    fn backoff(&self) -> Backoff {
        let ms = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Backoff::new(ms(PAUSE_MIN), ms(PAUSE_MAX), env::random_u64())
    }

    /// Returns when the target took the call, or never will; `false` when it is to be kept.
    async fn carry(&self, delivery: &Delivery, stop: &mut watch::Receiver<()>) -> bool {
        let binding = &*self.name;
        let Some(request) = self.request(delivery) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let operation = &*delivery.message.topic;
            tracing::error!(binding, operation, "a queued call is none of this binding's: dropped");
            return true;
        };
        let mut backoff = self.backoff();
        let (mut refusals, mut is_known_away) = (0, false);
        loop {
            let failure = match self.output.invoke(request.clone()).await {
                Ok(_) if is_known_away => {
                    tracing::info!(binding, "the target is back: queued calls are carried");
                    return true;
                }
                Ok(_) => return true,
                Err(failure) => failure,
            };
            let error = &failure.error;
            if error.kind().is_retryable() || error.kind() == Kind::Closed {
                // Once: a target that stays away for days is one line.
                if !std::mem::replace(&mut is_known_away, true) {
                    tracing::warn!(binding, %error, "the target is away: calls wait in the queue");
                }
            } else if refusals >= self.refusals_max {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let id = &*delivery.id;
                tracing::error!(binding, id, %error, "the target refuses a queued call: dropped");
                return true;
            } else {
                refusals += 1;
            }
            if is_over(&mut backoff, stop).await {
                return false;
            }
        }
    }

    fn request(&self, delivery: &Delivery) -> Option<Request> {
        let message = &delivery.message;
        let operations = self.output.operations();
        let operation = operations.iter().find(|known| ***known == *message.topic)?;
        let mut metadata = message.metadata.clone();
        if !metadata.iter().any(|(name, _)| name.eq_ignore_ascii_case(ID)) {
            metadata.push((ID.to_owned(), delivery.id.to_string()));
        }
        Some(Request { operation, data: message.payload.clone(), metadata })
    }
}
