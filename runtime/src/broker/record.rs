//! What a persistent session leaves on disk.
//!
//! The queue itself and its filters are a durable consumer of the pub/sub component, named
//! [`consumer_of`]. What the component does not know (granted QoS and options of each
//! subscription, expiry, packet ids of QoS 2) is one retained message per session, so that it is as
//! durable as any other and any component that retains can keep it:
//!
//! ```text
//! $pillion/mqtt/session/{client id, escaped}
//! {"v":1,"client":"…","expiryS":3600,"awayMs":1769903999999,"subscriptions":[
//!   {"filter":"a/+","qos":1,"noLocal":false,"retainAsPublished":false,"id":7}],
//!  "received":[3],"released":[9]}
//! ```
//!
//! `awayMs` is missing while the client is connected, and after a crash.

use super::packet::Qos;
use super::subscriptions::{Options, Subscriptions};
use bytes::Bytes;
use pillion_components::pubsub::{Assurance, Message};
use pillion_components::topic::Filter;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;

/// Topics below this are the door's own: no client may publish or subscribe there.
pub(crate) const OWN_TOPICS: &str = "$pillion/";

/// Every record.
pub(crate) const RECORDS: &str = "$pillion/mqtt/session/+";

/// Session expiry that means never.
pub(crate) const NEVER_S: u32 = u32::MAX;

/// A persistent session at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    v: u8,
    /// The client id.
    pub(crate) client: String,
    /// How long it lives without its client, in seconds; [`NEVER_S`] is for ever.
    pub(crate) expiry_s: u32,
    /// When the client left, in milliseconds of the clock for deadlines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) away_ms: Option<u64>,
    subscriptions: Vec<Stored>,
    /// QoS 2 packet ids that were published and wait for their PUBREL.
    #[serde(default)]
    pub(crate) received: Vec<u16>,
    /// QoS 2 packet ids that wait for their PUBCOMP.
    #[serde(default)]
    pub(crate) released: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    filter: String,
    qos: u8,
    #[serde(default)]
    no_local: bool,
    #[serde(default)]
    retain_as_published: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
}

impl Record {
    /// A session as it is now, its client connected.
    pub(crate) fn new(client: &str, expiry_s: u32, subscriptions: &Subscriptions) -> Self {
        let stored = subscriptions.iter().map(|(filter, options)| Stored {
            filter: filter.as_str().to_owned(),
            qos: options.qos as u8,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id: options.id,
        });
        Self {
            v: 1,
            client: client.to_owned(),
            expiry_s,
            away_ms: None,
            subscriptions: stored.collect(),
            received: Vec::new(),
            released: Vec::new(),
        }
    }

    /// The record in these bytes; `None` if they are none of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|record: &Self| record.v == 1)
    }

    /// Its subscriptions. One that is no filter any more is left out.
    pub(crate) fn subscriptions(&self) -> Subscriptions {
        let mut subscriptions = Subscriptions::default();
        for stored in &self.subscriptions {
            if let (Ok(filter), Some(qos)) = (Filter::new(&stored.filter), Qos::from_u8(stored.qos))
            {
                let options = Options {
                    qos,
                    no_local: stored.no_local,
                    retain_as_published: stored.retain_as_published,
                    id: stored.id,
                };
                subscriptions.insert(filter, options);
            }
        }
        subscriptions
    }

    /// The message that stores it.
    pub(crate) fn to_message(&self, assurance: Assurance) -> Message {
        // A struct of strings and numbers always has a JSON form.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        own_message(&self.client, payload.into(), assurance)
    }
}

/// The message that forgets the record of this client.
pub(crate) fn forget(client: &str) -> Message {
    own_message(client, Bytes::new(), Assurance::AtLeastOnce)
}

fn own_message(client: &str, payload: Bytes, assurance: Assurance) -> Message {
    Message {
        topic: topic_of(client).into(),
        payload,
        assurance,
        retain: true,
        origin: Some(Arc::from("mqtt")),
        ..Message::default()
    }
}

/// Topic of this client's record. Every byte that a topic level cannot hold is `%XX`.
pub(crate) fn topic_of(client: &str) -> String {
    let mut topic = String::with_capacity(RECORDS.len() + client.len());
    topic.push_str(RECORDS.trim_end_matches('+'));
    for char in client.chars() {
        match char {
            '/' | '+' | '#' | '%' => {
                let _ = write!(topic, "%{:02X}", u32::from(char));
            }
            other => topic.push(other),
        }
    }
    topic
}

/// Name of this client's consumer in the component.
pub(crate) fn consumer_of(client: &str) -> String {
    format!("mqtt/{client}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let mut subscriptions = Subscriptions::default();
        let options =
            Options { qos: Qos::ExactlyOnce, no_local: true, id: Some(9), ..Options::default() };
        subscriptions.insert(Filter::new("a/+/#").expect("a filter"), options);
        let mut record = Record::new("c/1", 60, &subscriptions);
        record.received = vec![1, 2];
        record.away_ms = Some(5);
        let message = record.to_message(Assurance::AtLeastOnce);
        assert_eq!(&*message.topic, "$pillion/mqtt/session/c%2F1");
        assert!(Filter::new(RECORDS).expect("a filter").matches(&message.topic));
        let back = Record::decode(&message.payload).expect("decodes");
        assert_eq!(back, record);
        assert_eq!(back.subscriptions().matched("a/x/y", false).map(|m| m.ids), Some(vec![9]));
    }

    #[test]
    fn the_form_of_the_first_release_is_read() {
        let text = br#"{"v":1,"client":"c","expiryS":60,"subscriptions":[{"filter":"a","qos":1}]}"#;
        let record = Record::decode(text).expect("decodes");
        assert_eq!(record.subscriptions().len(), 1);
        assert_eq!(Record::decode(br#"{"v":2}"#), None);
    }

    #[test]
    fn the_longest_client_id_fits_a_topic() {
        let client = "#".repeat(super::super::CLIENT_ID_BYTES_MAX);
        assert!(Filter::new(&topic_of(&client)).is_ok());
    }
}
