//! The body of a bulk publication: a JSON array of entries.

use crate::blocks::pubsub::Target;
use crate::blocks::pubsub::bulk::Entry;
use crate::blocks::pubsub::envelope::{is_binary, is_cloudevent, is_json};
use crate::error::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// Decodes the entries; each event becomes the bytes that its content type asks for.
pub(super) fn decode(target: &Target<'_>, body: &[u8]) -> Result<Vec<Entry>> {
    let written: Vec<Written<'_>> =
        serde_json::from_slice(body).map_err(|error| target.undecodable(&error.to_string()))?;
    let entry = |written: Written<'_>| {
        let body = event_bytes(written.event, &written.content_type)
            .map_err(|text| target.mismatched(&text))?;
        Ok(Entry {
            id: written.id,
            body,
            content_type: written.content_type,
            metadata: written.metadata.into_iter().collect(),
        })
    };
    written.into_iter().map(entry).collect()
}

/// Octets come as base64 text, text as text, JSON as it stands.
fn event_bytes(event: &str, content_type: &str) -> Result<Bytes, String> {
    if is_json(content_type) || is_cloudevent(content_type) {
        return Ok(Bytes::copy_from_slice(event.as_bytes()));
    }
    let mismatch = |_| "error: mismatch between contentType and event".to_owned();
    let text: String = serde_json::from_str(event).map_err(mismatch)?;
    if !is_binary(content_type) {
        return Ok(text.into());
    }
    let octets = STANDARD.decode(&text).map_err(|error| {
        format!("error: unable to decode base64 application/octet-stream data: {error}")
    })?;
    Ok(octets.into())
}

/// An entry as it was written. Names are matched without case: some clients write `entryID`.
#[derive(Default)]
struct Written<'a> {
    id: String,
    event: &'a str,
    content_type: String,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Written<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Written<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with entryId, event, contentType and metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut written = Written { event: "null", ..Written::default() };
        while let Some(name) = map.next_key::<String>()? {
            match name.to_ascii_lowercase().as_str() {
                "entryid" => written.id = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "event" => written.event = map.next_value::<&RawValue>()?.get(),
                "contenttype" => {
                    written.content_type = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                "metadata" => written.metadata = map.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_unknown_ones_are_passed_over() {
        let text =
            r#"[{"entryID":"1","EVENT":{"n":1.50},"contenttype":"a/b","x":[],"metadata":null}]"#;
        let written: Vec<Written<'_>> = serde_json::from_str(text).expect("entries");
        let first = written.first().expect("one entry");
        assert_eq!((first.id.as_str(), first.event), ("1", r#"{"n":1.50}"#));
    }

    #[test]
    fn events_become_what_their_type_says() {
        for (event, content_type, expected) in [
            ("{\"n\": 1}", "application/json", Some("{\"n\": 1}")),
            ("\"t\"", "application/json", Some("\"t\"")),
            ("\"t\"", "text/plain", Some("t")),
            ("\"t\"", "", Some("t")),
            ("{}", "text/plain", None),
            ("\"dA==\"", "application/octet-stream", Some("t")),
            ("\"***\"", "application/octet-stream", None),
            ("1", "application/octet-stream", None),
        ] {
            let bytes = event_bytes(event, content_type).ok();
            assert_eq!(bytes.as_deref(), expected.map(str::as_bytes), "{event} {content_type}");
        }
    }
}
