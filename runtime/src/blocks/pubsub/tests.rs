//! Publications through the block, into a component that keeps what it is given or refuses it.

use super::bulk::Entry;
use super::*;
use crate::resources::Access;
use async_trait::async_trait;
use pillion_components::Kind;
use pillion_components::options::Options;
use pillion_components::pubsub::{Subscribe, Subscription};
use pillion_components::topic::Filter;
use std::sync::Mutex;

/// Keeps messages; refuses those of topic `refused` with its kind, those of `odd` every other time.
struct Kept {
    features: &'static [Feature],
    refusal: Kind,
    messages: Mutex<Vec<Message>>,
}

#[async_trait]
impl PubSub for Kept {
    fn features(&self) -> &'static [Feature] {
        self.features
    }

    async fn publish(&self, message: Message) -> pillion_components::Result<()> {
        let refused = match &*message.topic {
            "refused" => true,
            "odd" => message.payload.contains(&b'!'),
            _ => false,
        };
        if refused {
            return Err(pillion_components::Error::new(self.refusal, "no"));
        }
        self.messages.lock().expect("no panic").push(message);
        Ok(())
    }

    async fn subscribe(&self, _: Subscribe) -> pillion_components::Result<Box<dyn Subscription>> {
        Err(pillion_components::Error::new(Kind::Unsupported, "no"))
    }

    async fn unsubscribe(&self, _: &str) -> pillion_components::Result<()> {
        Ok(())
    }
}

struct Rig {
    kept: Arc<Kept>,
    block: Publishing,
    app: App,
}

fn rig(features: &'static [Feature], refusal: Kind, options: &[(&str, &str)]) -> Rig {
    let kept = Arc::new(Kept { features, refusal, messages: Mutex::default() });
    let mut components = PubSubs::default();
    components.insert(Registered {
        name: "pubsub".into(),
        type_name: "pubsub.kept".into(),
        version: "v1".into(),
        options: Arc::new(options.iter().map(|(n, v)| (*n, *v)).collect::<Options>()),
        scopes: Vec::new(),
        component: kept.clone(),
    });
    let topics = [Filter::new("#").expect("a filter")].to_vec();
    let access = Access { topics: Some(topics), ..Access::default() };
    Rig {
        kept,
        block: Publishing::new(components, Clock::manual(1_769_903_999_500)),
        app: App::new("app1", "default", None, access, None),
    }
}

impl Rig {
    async fn publish(&self, topic: &str, metadata: &[(&str, &str)]) -> Result<Message> {
        let trace = TraceContext::new();
        let publication = Publication {
            content_type: Some("application/json"),
            metadata: pairs(metadata),
            body: Bytes::from_static(b"{\"n\": 1}"),
            trace: &trace,
        };
        self.block.target(&self.app, "pubsub", topic)?.publish(publication).await?;
        Ok(self.kept.messages.lock().expect("no panic").pop().expect("a message"))
    }

    async fn bulk(
        &self,
        topic: &str,
        entries: &[(&str, &'static str)],
    ) -> Result<Vec<bulk::Failed>> {
        let entry = |(id, body): &(&str, &'static str)| Entry {
            id: (*id).to_owned(),
            body: Bytes::from_static(body.as_bytes()),
            content_type: "text/plain".to_owned(),
            metadata: pairs(&[("cloudevent.source", "entry")]),
        };
        let entries = entries.iter().map(entry).collect();
        let request = pairs(&[("cloudevent.source", "request"), ("cloudevent.type", "T")]);
        let trace = TraceContext::new();
        self.block.target(&self.app, "pubsub", topic)?.bulk_publish(entries, &request, &trace).await
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn payload(message: &Message) -> &str {
    std::str::from_utf8(&message.payload).expect("text")
}

#[tokio::test]
async fn a_message_carries_envelope_metadata_and_origin() {
    let rig = rig(&[], Kind::Full, &[]);
    let message = rig.publish("a/b", &[("k", "v"), ("retain", "true")]).await.expect("published");
    assert!(payload(&message).starts_with(r#"{"data":{"n": 1},"#));
    assert_eq!(message.metadata, pairs(&[("k", "v"), ("retain", "true")]));
    assert_eq!(message.content_type.as_deref(), Some("application/cloudevents+json"));
    assert_eq!((&*message.topic, message.origin.as_deref()), ("a/b", Some("app:app1")));
    assert!(message.retain);
}

#[tokio::test]
async fn a_time_to_live_is_the_components_or_the_envelopes() {
    for (text, expected_ms) in [("60", Some(60_000)), ("0", Some(0)), ("abc", None), ("-1", None)] {
        let metadata = [("ttlInSeconds", text)];
        let native = rig(&[Feature::MessageTtl], Kind::Full, &[]);
        let message = native.publish("a", &metadata).await.expect("published");
        assert_eq!(message.ttl_ms, expected_ms, "{text}");
        assert!(!payload(&message).contains("expiration"), "{text}");
        let foreign = rig(&[], Kind::Full, &[]);
        let message = foreign.publish("a", &metadata).await.expect("published");
        assert_eq!(message.ttl_ms, None, "{text}");
        assert_eq!(payload(&message).contains("expiration"), expected_ms.is_some(), "{text}");
    }
    let foreign = rig(&[], Kind::Full, &[]);
    let message = foreign.publish("a", &[("ttlInSeconds", "60")]).await.expect("published");
    assert!(payload(&message).contains(r#""expiration":"2026-02-01T00:00:59.500Z""#));
}

#[tokio::test]
async fn raw_payloads_are_not_touched() {
    let rig = rig(&[], Kind::Full, &[]);
    let message = rig.publish("a", &[("rawPayload", "true")]).await.expect("published");
    assert_eq!(message.payload, "{\"n\": 1}");
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    let message = rig.publish("a", &[("rawPayload", "false")]).await.expect("published");
    assert!(payload(&message).contains("specversion"));
    let message = rig.publish("a", &[("rawpayload", "true")]).await.expect("published");
    assert!(payload(&message).contains("specversion"));
    let error = rig.publish("a", &[("rawPayload", "zzz")]).await.expect_err("refused");
    assert_eq!((error.code().http, error.code().tag), (400, "ERR_PUBSUB_REQUEST_METADATA"));
    assert!(error.to_json().contains(r#""metadata":{"rawPayload":"zzz"}"#), "{}", error.to_json());
}

#[tokio::test]
async fn a_components_refusal_tells_the_caller_what_to_do() {
    for (kind, http) in [
        (Kind::Full, 507),
        (Kind::TooLarge, 413),
        (Kind::Overloaded, 429),
        (Kind::Unavailable, 500),
        (Kind::Internal, 500),
    ] {
        let error = rig(&[], kind, &[]).publish("refused", &[]).await.expect_err("refused");
        assert_eq!((error.code().http, error.code().tag), (http, "ERR_PUBSUB_PUBLISH_MESSAGE"));
        let expected = "error when publishing to topic refused in pubsub pubsub: no";
        assert_eq!(error.message(), expected);
    }
}

#[tokio::test]
async fn what_may_not_be_published_to_is_refused() {
    let rig = rig(&[], Kind::Full, &[("allowedTopics", "x,y"), ("publishingScopes", "app1=x")]);
    assert!(rig.publish("x", &[]).await.is_ok());
    for topic in ["y", "z"] {
        let error = rig.publish(topic, &[]).await.expect_err("refused");
        assert_eq!((error.code().http, error.code().tag), (403, "ERR_PUBSUB_FORBIDDEN"));
    }
    let error = rig.block.target(&rig.app, "zz", "a").err().expect("refused");
    assert_eq!((error.code().http, error.message()), (404, "pubsub zz is not found"));
    let error = rig.block.target(&rig.app, "pubsub", "").err().expect("refused");
    assert_eq!((error.code().http, error.code().tag), (404, "ERR_TOPIC_NAME_EMPTY"));
}

#[tokio::test]
async fn topics_are_checked() {
    let rig = rig(&[], Kind::Full, &[]);
    let error = rig.publish("a/+", &[]).await.expect_err("refused");
    assert_eq!((error.code().http, error.code().tag), (400, "ERR_PUBSUB_PUBLISH_MESSAGE"));
    let error = rig.publish(&"x".repeat(2000), &[]).await.expect_err("refused");
    assert_eq!(error.code().http, 413);
    let error = rig.publish("$pillion/x", &[]).await.expect_err("not within the app's rights");
    assert_eq!(error.code().http, 403);
}

#[tokio::test]
async fn a_bulk_publication_names_what_failed() {
    let rig = rig(&[], Kind::Full, &[]);
    let failed = rig.bulk("odd", &[("1", "a"), ("2", "b!"), ("3", "c")]).await.expect("an answer");
    let ids: Vec<&str> = failed.iter().map(|failed| failed.id.as_str()).collect();
    assert_eq!(ids, ["2"]);
    assert_eq!(failed.first().map(|failed| failed.error.code().http), Some(507));
    let messages = rig.kept.messages.lock().expect("no panic");
    let [first, last] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(payload(first).contains(r#""data":"a""#) && payload(last).contains(r#""data":"c""#));
    assert!(payload(first).contains(r#""source":"entry""#), "the entry beats the request");
    assert!(payload(first).contains(r#""type":"T""#));
}

#[tokio::test]
async fn bulk_ids_are_there_and_differ() {
    let rig = rig(&[], Kind::Full, &[]);
    assert!(rig.bulk("a", &[]).await.expect("an answer").is_empty());
    for entries in [[("", "a"), ("2", "b")], [("1", "a"), ("1", "b")]] {
        let error = rig.bulk("a", &entries).await.expect_err("refused");
        assert_eq!((error.code().http, error.code().tag), (400, "ERR_PUBSUB_EVENTS_SER"));
        assert!(error.message().ends_with("entryId is duplicated or not present for entry"));
    }
    assert!(rig.kept.messages.lock().expect("no panic").is_empty());
}
