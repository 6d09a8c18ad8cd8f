//! Several messages in one publication.

use super::{Publication, Target};
use crate::error::{Code, Error, Grpc, Result};
use crate::observe::metrics::families::{PUBSUB_EGRESS_BULK_COUNT, PUBSUB_EGRESS_BULK_LATENCY};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use std::collections::HashSet;
use std::time::Instant;

/// Most entries of one bulk publication: their envelopes are in memory together.
pub const ENTRIES_MAX: usize = 10_000;

const MARSHAL_ENVELOPE: Code =
    Code::rich("ERR_PUBSUB_EVENTS_SER", 400, Grpc::InvalidArgument, "DAPR_PUBSUB_MARSHAL_ENVELOPE");
const MARSHAL_EVENTS: Code =
    Code::rich("ERR_PUBSUB_EVENTS_SER", 400, Grpc::InvalidArgument, "DAPR_PUBSUB_MARSHAL_EVENTS");
const UNMARSHAL_EVENTS: Code =
    Code::rich("ERR_PUBSUB_EVENTS_SER", 400, Grpc::InvalidArgument, "DAPR_PUBSUB_UNMARSHAL_EVENTS");

/// One message of a bulk publication.
#[derive(Debug)]
pub struct Entry {
    /// Names the entry in the answer; unique in the request.
    pub id: String,
    /// The event's bytes.
    pub body: Bytes,
    /// Their content type.
    pub content_type: String,
    /// Metadata of the entry; beats that of the request.
    pub metadata: Vec<(String, String)>,
}

/// An entry that was not stored, and why.
#[derive(Debug)]
pub struct Failed {
    /// Its id.
    pub id: String,
    /// Why, and the status for it.
    pub error: Error,
}

impl Target<'_> {
    /// Publishes the entries in their order. `Ok` lists those that were not stored.
    ///
    /// Errors, before anything is stored: an id is missing or given twice, too many entries, an
    /// envelope cannot be made, the topic is not allowed.
    pub async fn bulk_publish(
        &self,
        entries: Vec<Entry>,
        metadata: &[(String, String)],
        trace: &TraceContext,
    ) -> Result<Vec<Failed>> {
        self.check_ids(&entries)?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let outlet = self.outlet()?;
        let mut ids = Vec::with_capacity(entries.len());
        let mut messages = Vec::with_capacity(entries.len());
        for entry in entries {
            let publication = Publication {
                content_type: Some(&entry.content_type),
                metadata: merged(entry.metadata, metadata),
                body: entry.body,
                trace,
            };
            let payload = self.payload(&publication)?;
            messages.push(self.message(&outlet, publication, payload));
            ids.push(entry.id);
        }
        let results = self.component.component.bulk_publish(messages).await;
        let failed: Vec<Failed> = ids
            .into_iter()
            .zip(results)
            .filter_map(|(id, result)| Some(Failed { id, error: self.failed(&result.err()?) }))
            .collect();
        let success = if failed.is_empty() { "true" } else { "false" };
        let (app, component) = (self.app, &*self.component.name);
        let labels = [&*app.id, component, &*app.namespace, success, self.topic];
        PUBSUB_EGRESS_BULK_COUNT.with(&labels).inc();
        PUBSUB_EGRESS_BULK_LATENCY.with(&labels).observe(started.elapsed());
        Ok(failed)
    }

    /// The error of a bulk body that cannot be decoded.
    pub fn undecodable(&self, text: &str) -> Error {
        let (topic, pubsub) = (self.topic, &self.component.name);
        let message = format!(
            "error when unmarshaling the request for topic {topic} pubsub {pubsub}: {text}"
        );
        self.error(UNMARSHAL_EVENTS, message)
    }

    /// The error of an entry whose event does not go with its content type.
    pub fn mismatched(&self, text: &str) -> Error {
        let (topic, pubsub) = (self.topic, &self.component.name);
        let message = format!(
            "error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: {text}"
        );
        self.error(MARSHAL_ENVELOPE, message).info("error", text)
    }

    fn check_ids(&self, entries: &[Entry]) -> Result<()> {
        let (topic, pubsub) = (self.topic, &self.component.name);
        let refuse = |code: Code, text: &str| {
            let message = format!(
                "error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: {text}"
            );
            Err(self.error(code, message).info("error", text))
        };
        if entries.len() > ENTRIES_MAX {
            let text = format!("{} entries: send at most {ENTRIES_MAX} at once", entries.len());
            return refuse(MARSHAL_EVENTS.with_status(413, Grpc::ResourceExhausted), &text);
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let mut ids = entries.iter().map(|entry| entry.id.as_str());
        if ids.all(|id| !id.is_empty() && seen.insert(id)) {
            return Ok(());
        }
        refuse(MARSHAL_EVENTS, "entryId is duplicated or not present for entry")
    }
}

/// The entry's metadata, and of the request's what the entry does not name.
fn merged(mut entry: Vec<(String, String)>, request: &[(String, String)]) -> Vec<(String, String)> {
    for (name, value) in request {
        if !entry.iter().any(|(known, _)| known == name) {
            entry.push((name.clone(), value.clone()));
        }
    }
    entry
}
