//! CloudEvents 1.0 as JSON text: the envelope around what an app publishes.
//!
//! Text is written member by member and data is kept as it was written: no tree is built, numbers
//! of any size survive. Members stand in the order of their names.

use crate::observe::trace::TraceContext;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_components::env;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Content type of a CloudEvent as one JSON object.
pub(crate) const CLOUDEVENTS_JSON: &str = "application/cloudevents+json";

/// `type` of an event whose publisher named none.
pub(crate) const TYPE_DEFAULT: &str = "com.dapr.event.sent";

/// `source` of an event that nobody signed.
pub(crate) const SOURCE_DEFAULT: &str = "Dapr";

/// Room for the attributes that every envelope has.
const ATTRIBUTES_BYTES: usize = 384;

/// What the envelope of one publication says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    /// `source`, unless overridden.
    pub(crate) app_id: &'a str,
    /// `pubsubname`
    pub(crate) pubsub: &'a str,
    /// `topic`
    pub(crate) topic: &'a str,
    /// `datacontenttype`
    pub(crate) content_type: Option<&'a str>,
    /// Metadata of the request; `cloudevent.*` in it overrides attributes.
    pub(crate) metadata: &'a [(String, String)],
    /// `traceid` and `traceparent`, if the caller brought a trace.
    pub(crate) trace: &'a TraceContext,
    /// `time`
    pub(crate) time: &'a str,
    /// `expiration`
    pub(crate) expiration: Option<&'a str>,
}

impl Envelope<'_> {
    /// The event that carries `body`.
    pub(crate) fn wrap(&self, body: &[u8]) -> Vec<u8> {
        let content_type = self.content_type.unwrap_or("text/plain");
        let parent = self.traceparent();
        let trace = self.overriding("traceparent").or_else(|| self.overriding("traceid"));
        let trace = trace.unwrap_or(&parent);
        let state = self.overriding("tracestate").or_else(|| self.trace.state()).unwrap_or("");
        let mut event = Object::with_capacity(body.len() + ATTRIBUTES_BYTES);
        event.data(content_type, body);
        event.text("datacontenttype", content_type);
        if let Some(expiration) = self.expiration {
            event.text("expiration", expiration);
        }
        match self.overriding("id") {
            Some(id) => event.text("id", id),
            None => event.text("id", &env::uuid()),
        }
        event.text("pubsubname", self.pubsub);
        event.text("source", self.overriding("source").unwrap_or(self.app_id));
        event.text("specversion", "1.0");
        if let Some(subject) = self.overriding("subject") {
            event.text("subject", subject);
        }
        event.text("time", self.time);
        event.text("topic", self.topic);
        event.text("traceid", trace);
        event.text("traceparent", trace);
        event.text("tracestate", state);
        event.text("type", self.overriding("type").unwrap_or(TYPE_DEFAULT));
        event.finish()
    }

    /// The event in `body`, with what the contract adds to it; unknown attributes are kept.
    pub(crate) fn complete(&self, body: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let given: BTreeMap<String, &RawValue> = serde_json::from_slice(body)?;
        let mut members: BTreeMap<String, Cow<'_, str>> =
            given.into_iter().map(|(name, value)| (name, value.get().into())).collect();
        let trace = self.traceparent();
        let mut set = |name: &str, text: &str| {
            members.insert(name.to_owned(), quoted(text).into());
        };
        set("topic", self.topic);
        set("pubsubname", self.pubsub);
        if let Some(expiration) = self.expiration {
            set("expiration", expiration);
        }
        if !members.contains_key("traceid") {
            members.insert("traceid".to_owned(), quoted(&trace).into());
            members.insert("traceparent".to_owned(), quoted(&trace).into());
        }
        for (name, text) in [
            ("time", self.time),
            ("tracestate", self.trace.state().unwrap_or("")),
            ("source", SOURCE_DEFAULT),
            ("type", TYPE_DEFAULT),
            ("specversion", "1.0"),
        ] {
            if members.get(name).is_none_or(|value| value == "null") {
                members.insert(name.to_owned(), quoted(text).into());
            }
        }
        let mut event = Object::with_capacity(body.len() + ATTRIBUTES_BYTES);
        for (name, value) in &members {
            event.raw(name, value);
        }
        Ok(event.finish())
    }

    /// The caller's trace; empty without one.
    fn traceparent(&self) -> heapless::String<55> {
        if self.trace.is_incoming() { self.trace.traceparent() } else { heapless::String::new() }
    }

    /// The value of `cloudevent.{attribute}` in the metadata, matched without case.
    fn overriding(&self, attribute: &str) -> Option<&str> {
        let is_it = |name: &str| {
            name.split_at_checked("cloudevent.".len()).is_some_and(|(prefix, rest)| {
                prefix.eq_ignore_ascii_case("cloudevent.") && rest.eq_ignore_ascii_case(attribute)
            })
        };
        let found = self.metadata.iter().find(|(name, _)| is_it(name));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// A JSON object that is being written.
#[derive(Debug)]
pub(crate) struct Object {
    out: Vec<u8>,
}

impl Object {
    /// An empty object with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.push(b'{');
        Self { out }
    }

    /// A member whose value is text.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quote(&mut self.out, value);
    }

    /// A member whose value is JSON already.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.out.extend_from_slice(json.as_bytes());
    }

    /// `data_base64`
    pub(crate) fn base64(&mut self, bytes: &[u8]) {
        self.name("data_base64");
        self.out.push(b'"');
        self.out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        self.out.push(b'"');
    }

    /// `data` or `data_base64`, as the content type says. What calls itself JSON and is not, and
    /// text that is not UTF-8, becomes a string.
    pub(crate) fn data(&mut self, content_type: &str, body: &[u8]) {
        if is_binary(content_type) {
            return self.base64(body);
        }
        match json_text(body).filter(|_| is_json(content_type)) {
            Some(json) => self.raw("data", json),
            None => self.text("data", &String::from_utf8_lossy(body)),
        }
    }

    /// The text of the object.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }

    fn name(&mut self, name: &str) {
        if self.out.len() > 1 {
            self.out.push(b',');
        }
        quote(&mut self.out, name);
        self.out.push(b':');
    }
}

/// `body` as JSON text, if it is JSON.
pub(crate) fn json_text(body: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(body).ok().map(RawValue::get)
}

/// The content type without parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// `application/json`, with or without parameters.
pub(crate) fn is_json(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case("application/json")
}

/// A CloudEvent as one JSON object.
pub(crate) fn is_cloudevent(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case(CLOUDEVENTS_JSON)
}

/// Types whose bodies go into `data_base64`.
pub(crate) fn is_binary(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence.eq_ignore_ascii_case("application/octet-stream")
        || essence.eq_ignore_ascii_case("application/cloudevents+protobuf")
}

fn quote(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "a vector takes any text");
}

fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    quote(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
