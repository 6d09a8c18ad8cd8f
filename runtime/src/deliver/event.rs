//! A message as an app receives it: always a CloudEvent, whichever door it came through.
//!
//! What already is a CloudEvent passes unchanged. What a device sent is wrapped: its content type
//! if it named one, else JSON, else text, else base64; the id is the message's stable name.

use crate::blocks::pubsub::envelope::{
    Object, SOURCE_DEFAULT, TYPE_DEFAULT, is_binary, is_cloudevent, is_json, json_text,
};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use pillion_components::env;
use pillion_components::options::is_truthy;
use pillion_components::pubsub::{Delivery, Message};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

/// An `expiration` before this Unix time was written by a clock that nobody had set.
const UNSET_CLOCK_MS: i64 = 365 * 24 * 3_600_000;

/// A message made ready for an app.
#[derive(Debug)]
pub(super) struct Event {
    /// The CloudEvent.
    pub(super) body: Bytes,
    /// The trace to carry on; `None` for an event that says nothing of traces.
    pub(super) trace: Option<TraceContext>,
    /// Its `expiration` in Unix milliseconds.
    pub(super) expires_wall_ms: Option<i64>,
}

/// The event for a subscription that wants CloudEvents.
pub(super) fn of(delivery: &Delivery, pubsub: &str) -> Event {
    let message = &*delivery.message;
    if let Some(head) = Head::read(&message.payload) {
        // An app that publishes an object as it stands means it to arrive so.
        let is_raw = metadata(message, "rawPayload").is_some_and(is_truthy);
        let says_so = message.content_type.as_deref().is_some_and(is_cloudevent);
        if says_so || is_raw || head.is_cloudevent() {
            return Event {
                body: message.payload.clone(),
                trace: head.trace(),
                expires_wall_ms: head.expires_wall_ms(),
            };
        }
    }
    wrapped(delivery, pubsub)
}

/// The event for a subscription that asked for raw payloads: the bytes as they were published.
pub(super) fn raw(delivery: &Delivery, pubsub: &str) -> Event {
    let message = &*delivery.message;
    let mut event = Object::with_capacity(message.payload.len() * 4 / 3 + 256);
    event.base64(&message.payload);
    event.text("datacontenttype", "application/octet-stream");
    event.text("id", &stable_uuid(delivery));
    event.text("pubsubname", pubsub);
    event.text("source", SOURCE_DEFAULT);
    event.text("specversion", "1.0");
    event.text("topic", &message.topic);
    event.text("type", TYPE_DEFAULT);
    Event { body: event.finish().into(), trace: None, expires_wall_ms: None }
}

/// A payload that is no CloudEvent. Attributes in metadata (`ce_*`: the binary form) are used.
fn wrapped(delivery: &Delivery, pubsub: &str) -> Event {
    let message = &*delivery.message;
    let attribute = |name: &str| metadata(message, &format!("ce_{name}"));
    let trace = TraceContext::from_headers(
        attribute("traceparent").or_else(|| metadata(message, "traceparent")),
        attribute("tracestate").or_else(|| metadata(message, "tracestate")),
    );
    let parent = trace.traceparent();
    let parent = if trace.is_incoming() { parent.as_str() } else { "" };
    let mut event = Object::with_capacity(message.payload.len() + 384);
    payload(&mut event, message);
    for (name, value) in &message.metadata {
        let extension = name.strip_prefix("ce_").filter(|name| !is_ours(name));
        if let Some(extension) = extension {
            event.text(extension, value);
        }
    }
    match attribute("id") {
        Some(id) => event.text("id", id),
        None if delivery.id.is_empty() => event.text("id", &env::uuid()),
        None => event.text("id", &delivery.id),
    }
    event.text("pubsubname", pubsub);
    let source = attribute("source").or(message.origin.as_deref());
    event.text("source", source.unwrap_or(SOURCE_DEFAULT));
    event.text("specversion", "1.0");
    match attribute("time") {
        Some(time) => event.text("time", time),
        None => event.text("time", &env::rfc3339_utc(delivery.published_ms)),
    }
    event.text("topic", &message.topic);
    event.text("traceid", parent);
    event.text("traceparent", parent);
    event.text("tracestate", trace.state().unwrap_or(""));
    event.text("type", attribute("type").unwrap_or(TYPE_DEFAULT));
    Event { body: event.finish().into(), trace: Some(trace), expires_wall_ms: None }
}

/// Attributes that [`wrapped`] writes itself.
fn is_ours(name: &str) -> bool {
    [
        "data",
        "data_base64",
        "datacontenttype",
        "id",
        "pubsubname",
        "source",
        "specversion",
        "time",
        "topic",
        "traceid",
        "traceparent",
        "tracestate",
        "type",
    ]
    .contains(&name)
}

/// `data` and `datacontenttype`.
fn payload(event: &mut Object, message: &Message) {
    let bytes = &message.payload;
    let named = message.content_type.as_deref().filter(|text| !text.is_empty());
    let text = || std::str::from_utf8(bytes).ok();
    let content_type = match named {
        Some(content_type) => content_type,
        None if json_text(bytes).is_some() => "application/json",
        None if text().is_some() => "text/plain",
        None => "application/octet-stream",
    };
    let json = json_text(bytes).filter(|_| is_json(content_type) || is_json_suffixed(content_type));
    match (json, text().filter(|_| !is_binary(content_type))) {
        (Some(json), _) => event.raw("data", json),
        (None, Some(text)) => event.text("data", text),
        (None, None) => event.base64(bytes),
    }
    event.text("datacontenttype", content_type);
}

/// `application/anything+json`: a device that says so sends JSON.
fn is_json_suffixed(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|essence| essence.trim_end().ends_with("+json"))
}

/// A UUID that is the same at every delivery of a message.
fn stable_uuid(delivery: &Delivery) -> String {
    if delivery.id.is_empty() {
        return env::uuid();
    }
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &*delivery.id, delivery.published_ms, &*delivery.message.topic).hash(&mut hasher);
        hasher.finish()
    };
    let bytes = (u128::from(half(1)) << 64 | u128::from(half(2))).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

fn metadata<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let found = message.metadata.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// What delivery reads of an event. Other members are passed over.
#[derive(Debug, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    specversion: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    expiration: Option<&'a RawValue>,
    #[serde(borrow)]
    traceid: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'a RawValue>,
}

impl<'a> Head<'a> {
    /// `None` for what is no JSON object.
    fn read(payload: &'a [u8]) -> Option<Self> {
        // serde reads an array as a struct too.
        let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'{') {
            return None;
        }
        serde_json::from_slice(payload).ok()
    }

    fn is_cloudevent(&self) -> bool {
        [self.specversion, self.source, self.kind].into_iter().all(|member| text(member).is_some())
    }

    fn trace(&self) -> Option<TraceContext> {
        let parent = text(self.traceparent).or_else(|| text(self.traceid))?;
        Some(TraceContext::from_headers(Some(&parent), text(self.tracestate).as_deref()))
    }

    fn expires_wall_ms(&self) -> Option<i64> {
        let time: jiff::Timestamp = text(self.expiration)?.parse().ok()?;
        Some(time.as_millisecond()).filter(|ms| *ms >= UNSET_CLOCK_MS)
    }
}

/// The text of a JSON string.
fn text(member: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let json = member?.get();
    match json.strip_prefix('"')?.strip_suffix('"') {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
