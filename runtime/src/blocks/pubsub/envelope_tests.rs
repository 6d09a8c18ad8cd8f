//! Envelopes by example, as the contract has them.

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The event's text for this content type, metadata and trace.
fn envelope<'a>(
    content_type: Option<&'a str>,
    metadata: &'a [(String, String)],
    trace: &'a TraceContext,
) -> Envelope<'a> {
    Envelope {
        app_id: "app1",
        pubsub: "pubsub",
        topic: "a",
        content_type,
        metadata,
        trace,
        time: "T",
        expiration: None,
    }
}

fn wrap(content_type: Option<&str>, body: &[u8]) -> String {
    let metadata = [("cloudevent.id".to_owned(), "ID".to_owned())];
    let trace = TraceContext::new();
    let event = envelope(content_type, &metadata, &trace).wrap(body);
    String::from_utf8(event).expect("text")
}

fn complete(body: &str) -> Result<String, serde_json::Error> {
    let trace = TraceContext::new();
    let event = envelope(Some(CLOUDEVENTS_JSON), &[], &trace).complete(body.as_bytes())?;
    Ok(String::from_utf8(event).expect("text"))
}

#[test]
fn the_whole_envelope() {
    let expected = concat!(
        r#"{"data":{"n": 1, "big": 12345678901234567890123, "x":2.50},"#,
        r#""datacontenttype":"application/json; charset=utf-8","id":"ID","pubsubname":"pubsub","#,
        r#""source":"app1","specversion":"1.0","time":"T","topic":"a","traceid":"","#,
        r#""traceparent":"","tracestate":"","type":"com.dapr.event.sent"}"#
    );
    let body = br#" {"n": 1, "big": 12345678901234567890123, "x":2.50} "#;
    assert_eq!(wrap(Some("application/json; charset=utf-8"), body), expected);
}

#[test]
fn data_is_what_its_type_says() {
    for (content_type, body, expected) in [
        (Some("Application/JSON"), &b"[1]"[..], r#"{"data":[1],"#),
        (Some("application/json"), b"{\"n\":", r#"{"data":"{\"n\":","#),
        (Some("application/json"), b"", r#"{"data":"","#),
        (Some("application/vnd.x+json"), b"{}", r#"{"data":"{}","#),
        (None, b"hello", r#"{"data":"hello","datacontenttype":"text/plain","#),
        (Some("text/plain"), b"h\xffi", "{\"data\":\"h\u{fffd}i\","),
        (Some("application/xml"), b"<a/>", r#"{"data":"<a/>","#),
        (Some("application/octet-stream"), b"\x00\xff\x01\xfe", r#"{"data_base64":"AP8B/g==","#),
        (Some("application/cloudevents+protobuf"), b"t", r#"{"data_base64":"dA==","#),
    ] {
        let event = wrap(content_type, body);
        assert!(event.starts_with(expected), "{event}");
        assert!(json_text(event.as_bytes()).is_some(), "{event}");
    }
}

#[test]
fn attributes_are_overridden_but_for_those_that_are_ours() {
    let pairs = [
        ("CloudEvent.ID", "I"),
        ("cloudevent.source", "S"),
        ("cloudevent.type", "T\"Y"),
        ("cloudevent.subject", "U"),
        ("cloudevent.traceid", "no"),
        ("cloudevent.traceparent", "P"),
        ("cloudevent.tracestate", "Q"),
        ("cloudevent.topic", "NO"),
        ("cloudevent.pubsubname", "NO"),
        ("cloudevent.data", "NO"),
        ("cloudevent.datacontenttype", "NO"),
    ];
    let metadata = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let trace = TraceContext::from_headers(Some(PARENT), None);
    let event = envelope(Some("application/json"), &metadata, &trace).wrap(b"1");
    let expected = concat!(
        r#"{"data":1,"datacontenttype":"application/json","id":"I","pubsubname":"pubsub","#,
        r#""source":"S","specversion":"1.0","subject":"U","time":"T","topic":"a","traceid":"P","#,
        r#""traceparent":"P","tracestate":"Q","type":"T\"Y"}"#
    );
    assert_eq!(String::from_utf8(event).expect("text"), expected);
}

#[test]
fn the_callers_trace_is_carried() {
    let trace = TraceContext::from_headers(Some(PARENT), Some("k=v"));
    let parent = trace.traceparent();
    let event = envelope(None, &[], &trace).wrap(b"");
    let expected = format!(r#""traceid":"{parent}","traceparent":"{parent}","tracestate":"k=v","#);
    assert!(String::from_utf8(event).expect("text").contains(&expected));
}

#[test]
fn an_event_is_completed_and_otherwise_kept() {
    for (body, expected) in [
        (
            "{}",
            concat!(
                r#"{"pubsubname":"pubsub","source":"Dapr","specversion":"1.0","time":"T","#,
                r#""topic":"a","traceid":"","traceparent":"","tracestate":"","#,
                r#""type":"com.dapr.event.sent"}"#
            ),
        ),
        (
            concat!(
                r#"{"topic":"x","pubsubname":5,"source":null,"time":"then","type":"mine","#,
                r#""specversion":"1.0","id":"i","ext":1.50,"traceid":"t","tracestate":"s"}"#
            ),
            concat!(
                r#"{"ext":1.50,"id":"i","pubsubname":"pubsub","source":"Dapr","#,
                r#""specversion":"1.0","time":"then","topic":"a","traceid":"t","#,
                r#""tracestate":"s","type":"mine"}"#
            ),
        ),
    ] {
        assert_eq!(complete(body).expect("an event"), expected);
    }
    for body in ["", "{", "[]", "null", "1", "{} x"] {
        assert!(complete(body).is_err(), "{body}");
    }
}
