//! The driver of [`Segments`]: reads a body, turns it, queues what is to be sent.
//!
//! It runs in a task of its own, so that it can read on while nobody takes what it has made: there
//! are clients that send a whole body before they read any of the answer. How far it gets ahead is
//! bounded, for each message and for all together; then it waits for the reader.

use super::segments::Segments;
use crate::body::{Body, QueueEnd, Waiting};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Segments of one message that may wait to be sent whatever others do.
const OWN_SEGMENTS_MAX: usize = 2;
/// Segments beyond those that all messages of the process together may have waiting: 4 MiB, the
/// default limit of a request's body elsewhere, so that one client that reads late can have sent as much.
const SHARED_SEGMENTS_MAX: usize = 64;

/// The places that all messages share.
pub(super) struct Queued(Arc<Semaphore>);

impl Default for Queued {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SHARED_SEGMENTS_MAX)))
    }
}

/// A message that is to be turned.
pub(super) struct Pump {
    segments: Segments,
    /// What goes out ahead of all segments.
    header: Bytes,
    /// What has been read of the body.
    rest: Bytes,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// Ends the task when nobody wants its result any more.
struct Owner(AbortHandle);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pump {
    pub(super) fn new(segments: Segments, queued: &Queued) -> Self {
        let own = Arc::new(Semaphore::new(OWN_SEGMENTS_MAX));
        let (header, rest) = (Bytes::new(), Bytes::new());
        Self { segments, header, rest, own, shared: queued.0.clone() }
    }

    /// Sends this first.
    pub(super) fn before(&mut self, header: Bytes) {
        self.header = header;
    }

    /// Turns this before the body.
    pub(super) fn first(&mut self, rest: Bytes) {
        self.rest = rest;
    }

    /// Starts; `length` is the exact length of what comes, if it is known.
    pub(super) fn start(self, input: Body, length: Option<u64>, provider: Arc<str>) -> Body {
        let (sender, body) = Body::queue(length);
        let task = tokio::spawn(async move {
            let sent = self.run(input, &sender).await;
            if let Err(error) = &sent {
                tracing::warn!("crypto {provider}: a stream is broken off: {error}");
            }
            sender.end(sent.map_err(Into::into));
        });
        body.guarded(Owner(task.abort_handle()))
    }

    async fn run(mut self, mut input: Body, sender: &QueueEnd) -> Result<(), String> {
        if !self.header.is_empty() {
            let header = std::mem::take(&mut self.header);
            self.send(header, sender).await;
        }
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            while !bytes.is_empty() {
                if let Some(segment) = self.segments.take(&mut bytes)? {
                    self.send(segment, sender).await;
                }
            }
            match input.frame().await {
                Some(Ok(frame)) => bytes = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(format!("the request's body ended early: {error}")),
                None => break,
            }
        }
        let place = self.place();
        let (last, place) = (self.segments.finish()?, place.await);
        if let Some(last) = last {
            sender.send(Waiting::new(last, place));
        }
        Ok(())
    }

    async fn send(&self, segment: Bytes, sender: &QueueEnd) {
        let place = self.place().await;
        sender.send(Waiting::new(segment, place));
        // A segment takes up to some milliseconds on a small machine: others go first now.
        tokio::task::yield_now().await;
    }

    /// Waits until one more segment may wait.
    fn place(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let (own, shared) = (self.own.clone(), self.shared.clone());
        async move {
            // The semaphores are never closed.
            tokio::select! {
                biased;
                place = own.acquire_owned() => place.ok(),
                place = shared.acquire_owned() => place.ok(),
            }
        }
    }
}
