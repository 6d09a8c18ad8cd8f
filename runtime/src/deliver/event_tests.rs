//! Payloads across doors, by example.

use super::*;
use std::sync::Arc;

fn delivery(message: Message) -> Delivery {
    Delivery {
        token: 1,
        id: "17".into(),
        published_ms: 1_769_903_999_999,
        again: false,
        message: Arc::new(message),
    }
}

fn message(content_type: Option<&str>, payload: &'static [u8]) -> Message {
    Message {
        topic: "s/1".into(),
        payload: Bytes::from_static(payload),
        content_type: content_type.map(Arc::from),
        origin: Some("mqtt:sensor".into()),
        ..Message::default()
    }
}

fn json(event: &Event) -> serde_json::Value {
    serde_json::from_slice(&event.body).expect("JSON")
}

#[test]
fn what_a_device_sends_is_wrapped() {
    for (content_type, payload, member, data, named) in [
        (None, &br#"{"t": 21.50}"#[..], "data", serde_json::json!({"t": 21.5}), "application/json"),
        (None, b"21.5", "data", serde_json::json!(21.5), "application/json"),
        (None, b"on", "data", serde_json::json!("on"), "text/plain"),
        (None, b"", "data", serde_json::json!(""), "text/plain"),
        (None, b"\xff\x00", "data_base64", serde_json::json!("/wA="), "application/octet-stream"),
        (Some("text/plain"), b"5", "data", serde_json::json!("5"), "text/plain"),
        (Some("a/b+json"), b"[5]", "data", serde_json::json!([5]), "a/b+json"),
        (Some("application/json"), b"{", "data", serde_json::json!("{"), "application/json"),
        (Some("image/png"), b"\xff", "data_base64", serde_json::json!("/w=="), "image/png"),
    ] {
        let event = json(&of(&delivery(message(content_type, payload)), "pubsub"));
        assert_eq!(event.get(member), Some(&data), "{event}");
        assert_eq!(event.get("datacontenttype"), Some(&named.into()), "{event}");
        for (name, value) in [
            ("id", "17"),
            ("source", "mqtt:sensor"),
            ("topic", "s/1"),
            ("pubsubname", "pubsub"),
            ("time", "2026-01-31T23:59:59.999Z"),
            ("specversion", "1.0"),
            ("type", "com.dapr.event.sent"),
        ] {
            assert_eq!(event.get(name), Some(&value.into()), "{event}");
        }
    }
}

#[test]
fn numbers_keep_their_text() {
    let event = of(&delivery(message(None, br#"{"n":12345678901234567890123,"x":2.50}"#)), "p");
    let text = std::str::from_utf8(&event.body).expect("text");
    assert!(text.starts_with(r#"{"data":{"n":12345678901234567890123,"x":2.50},"#), "{text}");
}

#[test]
fn a_cloudevent_passes_unchanged() {
    const EVENT: &[u8] = br#"{"specversion":"1.0","source":"s","type":"t","id":"i", "data":1}"#;
    let event = of(&delivery(message(None, EVENT)), "p");
    assert_eq!(event.body, EVENT);
    assert!(event.trace.is_none());
    let event = of(&delivery(message(Some("application/cloudevents+json"), b"{\"id\": 5}")), "p");
    assert_eq!(event.body, "{\"id\": 5}");
    let raw = Message {
        metadata: vec![("rawPayload".into(), "true".into())],
        ..message(Some("application/json"), b"{\"n\": 1}")
    };
    assert_eq!(of(&delivery(raw), "p").body, "{\"n\": 1}");
}

#[test]
fn trace_and_expiration_are_read() {
    const EVENT: &[u8] = br#"{"specversion":"1.0","source":"s","type":"t",
        "traceid":"","expiration":"2026-01-31T23:59:59Z"}"#;
    let event = of(&delivery(message(None, EVENT)), "p");
    assert_eq!(event.expires_wall_ms, Some(1_769_903_999_000));
    assert!(!event.trace.expect("a trace").is_incoming());
    const UNSET: &[u8] = br#"{"specversion":"1.0","source":"s","type":"t",
        "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "expiration":"1970-01-01T00:10:00Z"}"#;
    let event = of(&delivery(message(None, UNSET)), "p");
    assert_eq!(event.expires_wall_ms, None);
    let parent = event.trace.expect("a trace").traceparent();
    assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent}");
}

#[test]
fn binary_mode_becomes_an_event() {
    let pairs =
        [("ce_id", "I"), ("ce_type", "T"), ("ce_source", "S"), ("ce_ext", "E"), ("other", "O")];
    let binary = Message {
        metadata: pairs.map(|(name, value)| (name.into(), value.into())).to_vec(),
        ..message(Some("application/json"), b"{\"n\":1}")
    };
    let event = json(&of(&delivery(binary), "p"));
    for (name, value) in [("id", "I"), ("type", "T"), ("source", "S"), ("ext", "E")] {
        assert_eq!(event.get(name), Some(&value.into()), "{event}");
    }
    assert!(event.get("other").is_none());
}

#[test]
fn a_raw_subscription_gets_the_bytes() {
    let given = delivery(message(None, b"{\"n\": 1}"));
    let event = json(&raw(&given, "p"));
    assert_eq!(event.get("data_base64"), Some(&"eyJuIjogMX0=".into()));
    assert!(event.get("time").is_none() && event.get("traceid").is_none());
    assert_eq!(event.get("id"), json(&raw(&given, "p")).get("id"), "the same at every delivery");
}
