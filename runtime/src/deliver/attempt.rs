//! One delivery of one message: to the app, and to the dead letters if the app will not have it.

use super::Redelivery;
use super::event::{self, Event};
use super::feed::Feed;
use super::lanes::Held;
use super::measured::Status;
use crate::app::channel::CallError;
use crate::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use pillion_components::pubsub::{Assurance, Message, QueueLimits, Subscribe};
use pillion_components::topic::Filter;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

/// Deliveries after the first before a message becomes a dead letter.
pub(super) const RETRIES_MAX: u32 = 10;

/// Pause after the first failure; it doubles up to [`PAUSE_MAX`].
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two deliveries of a message.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Time for the app's answer. A handler that needs longer should answer first and work then.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// Largest answer that may hold a status.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Time for storing a dead letter.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Most headers made of a message's metadata.
const HEADERS_MAX: usize = 64;

/// What to do with a message after a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Acknowledge it.
    Done,
    /// Deliver it again after this pause; the delivery counts as failed.
    Again(Duration),
    /// The app was not there: deliver it again when it is; nothing is counted.
    Away,
}

/// What the app said, and how metrics call it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Success(&'static str),
    Retry(Status),
    Drop(Status),
    Away(String),
}

/// The pause after so many failures in a row.
pub(super) fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX)
}

impl Feed {
    /// Delivers a message once.
    pub(super) async fn attempt(&self, held: &Held) -> Step {
        let started = Instant::now();
        let event = if self.wants_raw {
            event::raw(&held.delivery, &self.plan.pubsub)
        } else {
            event::of(&held.delivery, &self.plan.pubsub)
        };
        let verdict = if self.is_expired(&event, held, started) {
            Verdict::Drop(Status::Word("expired"))
        } else {
            self.deliver(held, event).await
        };
        match verdict {
            Verdict::Success(status) => {
                self.record("success", Status::Word(status), started.elapsed());
                Step::Done
            }
            Verdict::Drop(status) => {
                self.record("drop", status, started.elapsed());
                self.dropped(held, status).await
            }
            Verdict::Retry(status) => {
                self.record("retry", status, started.elapsed());
                self.failed(held, status).await
            }
            Verdict::Away(why) => {
                debug!(app_id = &*self.app.id, topic = self.plan.topic, why, "the app is away");
                Step::Away
            }
        }
    }

    fn is_expired(&self, event: &Event, held: &Held, now: Instant) -> bool {
        let now_ms = i64::try_from(self.clock.wall_ms()).unwrap_or(i64::MAX);
        held.expires.is_some_and(|at| at <= now)
            || event.expires_wall_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    async fn deliver(&self, held: &Held, event: Event) -> Verdict {
        let mut request = Request::new(Body::from(event.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        add_metadata(headers, &held.delivery.message.metadata);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(crate::blocks::pubsub::envelope::CLOUDEVENTS_JSON),
        );
        if let Ok(pubsub) = HeaderValue::from_str(&self.plan.pubsub) {
            headers.insert("pubsubname", pubsub);
        }
        let parent = event.trace.map(|trace| trace.traceparent());
        if let Some(Ok(parent)) = parent.as_deref().map(HeaderValue::from_str) {
            headers.insert("traceparent", parent);
        }
        let answer = async {
            match self.channel.call(request).await {
                Ok(response) => judge(response).await,
                Err(CallError::Unhealthy) => Verdict::Away("it is not healthy".to_owned()),
                Err(CallError::Unreachable(text)) => Verdict::Away(text),
                // It may be this message that the app breaks on: that counts.
                Err(CallError::Broken(_) | CallError::TooLarge(..)) => {
                    Verdict::Retry(Status::Word("broken"))
                }
                Err(CallError::Timeout) => Verdict::Retry(Status::Word("timeout")),
            }
        };
        timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Verdict::Retry(Status::Word("timeout")))
    }

    /// The app (or its time to live) says that the message shall not be delivered.
    async fn dropped(&self, held: &Held, status: Status) -> Step {
        let (app_id, topic) = (&*self.app.id, &*held.delivery.message.topic);
        match &self.dead_letter {
            Some(dead_letter) => self.bury(held, dead_letter, status).await,
            None => {
                warn!(app_id, topic, %status, "a message was dropped, and there is no dead-letter topic");
                Step::Done
            }
        }
    }

    /// The app failed with the message.
    async fn failed(&self, held: &Held, status: Status) -> Step {
        let failures = held.failures.saturating_add(1);
        let (app_id, topic) = (&*self.app.id, &*held.delivery.message.topic);
        let is_once = self.redelivery == Redelivery::Once && self.dead_letter.is_some();
        let may_bury = is_once || failures > RETRIES_MAX;
        if !may_bury {
            let pause = pause_after(failures);
            info!(app_id, topic, %status, failures, ?pause, "the app did not take a message");
            return Step::Again(pause);
        }
        match &self.dead_letter {
            Some(dead_letter) => self.bury(held, dead_letter, status).await,
            None => self.bury(held, &self.graveyard_topic(), status).await,
        }
    }

    /// Publishes the message to a dead-letter topic of the same component.
    async fn bury(&self, held: &Held, topic: &str, status: Status) -> Step {
        let buried = timeout(DEAD_LETTER_TIMEOUT, self.publish_dead(held, topic, status));
        let (app_id, from) = (&*self.app.id, &*held.delivery.message.topic);
        match buried.await {
            Ok(Ok(())) => {
                warn!(app_id, topic = from, dead_letter_topic = topic, %status, "a message became a dead letter");
                return Step::Done;
            }
            Ok(Err(error)) => {
                error!(app_id, topic = from, dead_letter_topic = topic, %error, "a dead letter could not be stored, the message is kept");
            }
            Err(_) => {
                error!(
                    app_id,
                    topic = from,
                    dead_letter_topic = topic,
                    "storing a dead letter took too long, the message is kept"
                );
            }
        }
        Step::Again(pause_after(held.failures.saturating_add(1)))
    }

    async fn publish_dead(
        &self,
        held: &Held,
        topic: &str,
        status: Status,
    ) -> pillion_components::Result<()> {
        let original = &*held.delivery.message;
        let mut metadata = original.metadata.clone();
        if self.dead_letter.is_none() {
            self.graveyard.get_or_try_init(|| self.open_graveyard()).await?;
            metadata.push(("originalTopic".to_owned(), original.topic.to_string()));
            metadata.push(("reason".to_owned(), status.to_string()));
        }
        let message = Message {
            topic: topic.into(),
            metadata,
            assurance: Assurance::AtLeastOnce,
            retain: false,
            ttl_ms: None,
            ..original.clone()
        };
        self.component.publish(message).await
    }

    /// The topic of dead letters of an app that names none.
    fn graveyard_topic(&self) -> String {
        format!("$pillion/dead-letter/{}", self.app.id)
    }

    /// Makes the queue that keeps them: a durable consumer that nobody takes from, with an end.
    async fn open_graveyard(&self) -> pillion_components::Result<()> {
        let subscribe = Subscribe {
            consumer: format!("dead-letter/{}", self.app.id),
            filters: vec![Filter::new(&self.graveyard_topic())?],
            durable: true,
            limits: QueueLimits { forget_after_ms: None, ..QueueLimits::default() },
            except_origin: None,
            metadata: Vec::new(),
        };
        self.component.subscribe(subscribe).await.map(drop)
    }
}

/// One header for each entry of an event's metadata that may be one.
pub(super) fn add_metadata(headers: &mut HeaderMap, metadata: &[(String, String)]) {
    for (name, value) in metadata.iter().take(HEADERS_MAX) {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else { continue };
        if !is_ours(name.as_str()) {
            headers.insert(name, value);
        }
    }
}

/// Headers that a publisher must not set: those of the connection, and what tells the app that we
/// are calling.
fn is_ours(name: &str) -> bool {
    name.starts_with("dapr-")
        || name.starts_with("content-")
        || name.starts_with("proxy-")
        || [
            "accept-encoding",
            "authorization",
            "connection",
            "cookie",
            "expect",
            "host",
            "keep-alive",
            "te",
            "traceparent",
            "tracestate",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ]
        .contains(&name)
}

/// The status in an app's answer.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default, alias = "Status", alias = "STATUS")]
    status: Option<String>,
}

async fn judge(response: Response<Body>) -> Verdict {
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        return Verdict::Drop(Status::Http(404));
    }
    if !status.is_success() {
        return Verdict::Retry(Status::Http(status.as_u16()));
    }
    match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
        Ok(body) => read_answer(&body.to_bytes()),
        // The app said 2xx and more than a status: that is no status.
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Verdict::Success(""),
        Err(_) => Verdict::Retry(Status::Word("broken")),
    }
}

/// What the body of a 2xx says. No body, no JSON and no status mean success.
fn read_answer(body: &[u8]) -> Verdict {
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    match answer.and_then(|answer| answer.status).as_deref() {
        None | Some("") => Verdict::Success(""),
        Some("SUCCESS") => Verdict::Success("success"),
        Some("RETRY") => Verdict::Retry(Status::Word("retry")),
        Some("DROP") => Verdict::Drop(Status::Word("drop")),
        Some(_) => Verdict::Retry(Status::Word("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_the_contract_says() {
        for (body, expected) in [
            ("", Verdict::Success("")),
            ("ok", Verdict::Success("")),
            ("{}", Verdict::Success("")),
            ("[]", Verdict::Success("")),
            (r#"{"status":""}"#, Verdict::Success("")),
            (r#"{"status":5}"#, Verdict::Success("")),
            (r#"{"status":"SUCCESS","x":1}"#, Verdict::Success("success")),
            (r#"{"status":"RETRY"}"#, Verdict::Retry(Status::Word("retry"))),
            (r#"{"status":"DROP"}"#, Verdict::Drop(Status::Word("drop"))),
            (r#"{"status":"WHAT"}"#, Verdict::Retry(Status::Word("unknown"))),
        ] {
            assert_eq!(read_answer(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let ms: Vec<u128> = (1..=9).map(|failures| pause_after(failures).as_millis()).collect();
        assert_eq!(ms, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn a_publisher_cannot_forge_headers() {
        let pairs = [
            ("cloudevent.type", "t"),
            ("dapr-api-token", "x"),
            ("Content-Length", "5"),
            ("bad name", "x"),
            ("note", "a\nb"),
        ];
        let metadata = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut headers = HeaderMap::new();
        add_metadata(&mut headers, &metadata);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("cloudevent.type"));
    }
}
