//! Publish and subscribe.
//!
//! A door names the [`Target`] of a publication, which checks that it exists, then hands over the
//! body: scopes and rights are checked, the body gets its envelope, the component stores it, and
//! what happened is counted. Delivery ([`crate::deliver`]) asks here for components and rights.

pub mod bulk;
pub(crate) mod envelope;
pub(crate) mod local_time;
pub(crate) mod outlet;
pub(crate) mod scopes;

use super::{PubSubs, Registered};
use crate::app::App;
use crate::error::{Code, Error, Grpc, Result, status_of};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use envelope::{CLOUDEVENTS_JSON, Envelope, is_cloudevent};
use local_time::LocalTime;
use outlet::{Outlet, Outlets};
use pillion_components::env::{self, Clock};
use pillion_components::options::is_truthy;
use pillion_components::pubsub::{Assurance, Feature, Message, PubSub};
use scopes::{TopicScopes, Use};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

const NAME_EMPTY: Code =
    Code::rich("ERR_PUBSUB_EMPTY", 404, Grpc::InvalidArgument, "DAPR_PUBSUB_NAME_EMPTY");
const TOPIC_EMPTY: Code =
    Code::rich("ERR_TOPIC_NAME_EMPTY", 404, Grpc::InvalidArgument, "DAPR_PUBSUB_TOPIC_NAME_EMPTY");
const NOT_FOUND: Code =
    Code::rich("ERR_PUBSUB_NOT_FOUND", 404, Grpc::InvalidArgument, "DAPR_PUBSUB_NOT_FOUND");
const METADATA: Code = Code::rich(
    "ERR_PUBSUB_REQUEST_METADATA",
    400,
    Grpc::InvalidArgument,
    "DAPR_PUBSUB_METADATA_DESERIALIZATION",
);
const CLOUD_EVENT: Code = Code::rich(
    "ERR_PUBSUB_CLOUD_EVENTS_SER",
    500,
    Grpc::InvalidArgument,
    "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
);
const FORBIDDEN: Code =
    Code::rich("ERR_PUBSUB_FORBIDDEN", 403, Grpc::PermissionDenied, "DAPR_PUBSUB_FORBIDDEN");
const PUBLISH: Code =
    Code::rich("ERR_PUBSUB_PUBLISH_MESSAGE", 500, Grpc::Internal, "DAPR_PUBSUB_PUBLISH_MESSAGE");

/// The block.
pub struct Publishing {
    components: PubSubs,
    known: BTreeMap<Arc<str>, Known>,
    clock: Clock,
    local_time: LocalTime,
    cloudevents_json: Arc<str>,
}

/// What is worked out once for each component.
struct Known {
    scopes: TopicScopes,
    /// It honours a message's time to live by itself.
    has_ttl: bool,
    outlets: Outlets,
}

/// A publication as its door decoded it.
#[derive(Debug)]
pub struct Publication<'a> {
    /// Content type of the body, if the caller named one.
    pub content_type: Option<&'a str>,
    /// Metadata of the request. It travels with the message.
    pub metadata: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The trace of the request.
    pub trace: &'a TraceContext,
}

/// Where an app wants to publish: a component it may see, and a topic.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    block: &'a Publishing,
    component: &'a Registered<dyn PubSub>,
    known: &'a Known,
    app: &'a App,
    topic: &'a str,
}

impl Publishing {
    /// Topics of these components.
    pub fn new(components: PubSubs, clock: Clock) -> Self {
        let know = |registered: &Registered<dyn PubSub>| {
            let known = Known {
                scopes: TopicScopes::read(&registered.options),
                has_ttl: registered.component.features().contains(&Feature::MessageTtl),
                outlets: Outlets::default(),
            };
            (registered.name.clone(), known)
        };
        Self {
            known: components.all().map(know).collect(),
            components,
            clock,
            local_time: LocalTime::default(),
            cloudevents_json: CLOUDEVENTS_JSON.into(),
        }
    }

    /// The component and topic to publish to. Errors: a name is empty, or the app sees no such
    /// component.
    pub fn target<'a>(
        &'a self,
        app: &'a App,
        pubsub: &'a str,
        topic: &'a str,
    ) -> Result<Target<'a>> {
        if pubsub.is_empty() {
            return Err(Error::new(NAME_EMPTY, "pubsub name is empty").empty_info());
        }
        let found = self.components.get(app, pubsub).zip(self.known.get(pubsub));
        let Some((component, known)) = found else {
            let message = format!("pubsub {pubsub} is not found");
            return Err(Error::new(NOT_FOUND, message).empty_info());
        };
        if topic.is_empty() {
            let message = format!("topic is empty in pubsub {pubsub}");
            return Err(Error::new(TOPIC_EMPTY, message).empty_info().resource("pubsub", pubsub));
        }
        Ok(Target { block: self, component, known, app, topic })
    }

    /// The component of this name, if the app may see it.
    pub fn component(&self, app: &App, name: &str) -> Option<&Registered<dyn PubSub>> {
        self.components.get(app, name)
    }

    /// Every component.
    pub fn components(&self) -> impl Iterator<Item = &Registered<dyn PubSub>> {
        self.components.all()
    }

    /// Whether the app sees a component at all.
    pub fn is_any_visible(&self, app: &App) -> bool {
        self.components.visible_to(app).next().is_some()
    }

    /// Whether the app may subscribe to this topic or filter.
    pub fn may_subscribe(&self, app: &App, pubsub: &str, topic: &str) -> bool {
        self.known.get(pubsub).is_some_and(|known| known.scopes.allow(app, topic, Use::Subscribe))
    }

    /// Whether the app may publish to this topic.
    pub fn may_publish(&self, app: &App, pubsub: &str, topic: &str) -> bool {
        self.known.get(pubsub).is_some_and(|known| known.scopes.allow(app, topic, Use::Publish))
    }

    /// Time.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Target<'_> {
    /// Publishes one message; answers when the component has it.
    pub async fn publish(&self, publication: Publication<'_>) -> Result<()> {
        let started = Instant::now();
        let payload = self.payload(&publication)?;
        let outlet = self.outlet()?;
        let message = self.message(&outlet, publication, payload);
        let result = self.component.component.publish(message).await;
        outlet.record(self.app, &self.component.name, result.is_ok(), started.elapsed());
        result.map_err(|error| self.failed(&error))
    }

    /// The error of a body that could not be read.
    pub fn unreadable(&self, text: &str) -> Error {
        self.publish_error(PUBLISH, text)
    }

    /// The topic, if the app may publish to it.
    fn outlet(&self) -> Result<Arc<Outlet>> {
        let topic = self.topic;
        if let Some(outlet) = self.known.outlets.get(&self.app.id, topic) {
            return Ok(outlet);
        }
        if !self.known.scopes.allow(self.app, topic, Use::Publish) {
            let message = format!("topic {topic} is not allowed for app id {}", self.app.id);
            return Err(Error::new(FORBIDDEN, message.clone())
                .info("topic", topic)
                .info("error", message)
                .resource("pubsub", &*self.component.name));
        }
        pillion_components::topic::check_name(topic).map_err(|error| self.failed(&error))?;
        Ok(self.known.outlets.add(&self.app.id, topic))
    }

    /// The body as it goes to the component.
    fn payload(&self, publication: &Publication<'_>) -> Result<Payload> {
        if is_raw(&publication.metadata).map_err(|value| self.bad_raw(value))? {
            return Ok(Payload { bytes: publication.body.clone(), is_event: false });
        }
        let clock = &self.block.clock;
        let expires = |ttl_ms: u64| env::rfc3339_utc(clock.wall_ms().saturating_add(ttl_ms));
        let expiration = ttl_ms(&publication.metadata).filter(|_| !self.known.has_ttl).map(expires);
        let time = self.block.local_time.text(clock.wall_ms());
        let envelope = Envelope {
            app_id: &self.app.id,
            pubsub: &self.component.name,
            topic: self.topic,
            content_type: publication.content_type.filter(|text| !text.is_empty()),
            metadata: &publication.metadata,
            trace: publication.trace,
            time: &time,
            expiration: expiration.as_deref(),
        };
        let event = match publication.content_type {
            Some(content_type) if is_cloudevent(content_type) => {
                envelope.complete(&publication.body).map_err(|error| self.bad_event(&error))?
            }
            _ => envelope.wrap(&publication.body),
        };
        Ok(Payload { bytes: event.into(), is_event: true })
    }

    fn message(&self, outlet: &Outlet, publication: Publication<'_>, payload: Payload) -> Message {
        let retain = value_of(&publication.metadata, "retain").is_some_and(is_truthy);
        let content_type = if payload.is_event {
            Some(self.block.cloudevents_json.clone())
        } else {
            publication.content_type.map(Arc::from)
        };
        Message {
            topic: outlet.topic.clone(),
            payload: payload.bytes,
            content_type,
            retain,
            ttl_ms: ttl_ms(&publication.metadata).filter(|_| self.known.has_ttl),
            metadata: publication.metadata,
            assurance: Assurance::AtLeastOnce,
            origin: Some(outlet.origin.clone()),
        }
    }

    /// A component's error, with the status that tells the caller what to do about it.
    fn failed(&self, error: &pillion_components::Error) -> Error {
        use pillion_components::Kind;
        let code = match error.kind() {
            Kind::Full | Kind::TooLarge | Kind::Overloaded | Kind::Invalid => {
                let (http, grpc) = status_of(error.kind());
                PUBLISH.with_status(http, grpc)
            }
            _ => PUBLISH,
        };
        self.publish_error(code, error.message())
    }

    fn publish_error(&self, code: Code, text: &str) -> Error {
        let (topic, pubsub) = (self.topic, &self.component.name);
        self.error(
            code,
            format!("error when publishing to topic {topic} in pubsub {pubsub}: {text}"),
        )
        .info("error", text)
    }

    fn bad_event(&self, error: &serde_json::Error) -> Error {
        self.error(CLOUD_EVENT, "cannot create cloudevent").info("error", error.to_string())
    }

    fn bad_raw(&self, value: &str) -> Error {
        let message = format!(
            "failed deserializing metadata. Error: rawPayload value must be a valid boolean: \
             actual is '{value}'"
        );
        Error::new(METADATA, message)
            .info("rawPayload", value)
            .resource("pubsub", &*self.component.name)
    }

    fn error(&self, code: Code, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::new(code, message)
            .info("appID", &*self.app.id)
            .resource("pubsub", &*self.component.name)
    }
}

/// A body on its way to the component.
struct Payload {
    bytes: Bytes,
    /// It is a CloudEvent of ours.
    is_event: bool,
}

/// `rawPayload` in the metadata, spelled exactly so; the error is a value that is no truth value.
fn is_raw(metadata: &[(String, String)]) -> Result<bool, &str> {
    let Some((_, value)) = metadata.iter().find(|(name, _)| name == "rawPayload") else {
        return Ok(false);
    };
    let is_false = |word: &str| value.eq_ignore_ascii_case(word);
    match value.as_str() {
        value if is_truthy(value) => Ok(true),
        _ if ["", "0", "f", "false", "n", "no", "off"].into_iter().any(is_false) => Ok(false),
        value => Err(value),
    }
}

/// `ttlInSeconds` in milliseconds. What is no number is no time to live.
fn ttl_ms(metadata: &[(String, String)]) -> Option<u64> {
    value_of(metadata, "ttlInSeconds")?.parse::<u64>().ok()?.checked_mul(1000)
}

fn value_of<'a>(metadata: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = metadata.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests;
