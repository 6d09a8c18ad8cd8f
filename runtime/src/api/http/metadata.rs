//! `/v1.0/metadata`: what an app has around it.

use super::{Call, empty, error, json, unescape};
use crate::DAPR_VERSION;
use crate::app::channel::Channel;
use crate::app::{ActiveSubscription, App, EXTENDED_ENTRIES_MAX};
use crate::blocks::Blocks;
use crate::body::Body;
use crate::error::{Code, Error, Grpc};
use crate::version::version;
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest key or value that an app may leave in its metadata, in bytes: launchers put a command
/// line there.
const EXTENDED_BYTES_MAX: usize = 16 << 10;

const EXTENDED_FULL: Code = Code::plain("ERR_METADATA_FULL", 429, Grpc::ResourceExhausted);
const EXTENDED_LONG: Code = Code::plain("ERR_METADATA_TOO_LARGE", 413, Grpc::ResourceExhausted);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    id: &'a str,
    runtime_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component<'a>>,
    extended: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions: Vec<Subscription<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http_endpoints: Vec<Endpoint<'a>>,
    app_connection_properties: Connection<'a>,
    actor_runtime: ActorRuntime,
}

#[derive(Serialize)]
struct Component<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    type_name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    capabilities: &'a [&'static str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Subscription<'a> {
    #[serde(rename = "pubsubname")]
    pubsub: &'a str,
    topic: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    rules: Vec<Rule<'a>>,
    dead_letter_topic: &'a str,
    #[serde(rename = "type")]
    origin: &'static str,
}

#[derive(Serialize)]
struct Rule<'a> {
    #[serde(rename = "match", skip_serializing_if = "str::is_empty")]
    matches: &'a str,
    path: &'a str,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    protocol: &'static str,
    channel_address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrency: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'a> {
    health_check_path: &'a str,
    health_probe_interval: String,
    health_probe_timeout: String,
    health_threshold: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActorRuntime {
    runtime_status: &'static str,
    host_ready: bool,
    placement: &'static str,
}

/// `GET /v1.0/metadata`.
pub(super) fn get(app: &App, blocks: &Blocks) -> Response<Body> {
    let extended = app.extended();
    let subscriptions = app.subscriptions();
    let visible = |scopes: &[String]| scopes.is_empty() || scopes.iter().any(|id| **id == *app.id);
    let components = blocks.shown.iter().filter(|shown| visible(&shown.scopes));
    let endpoints = blocks.endpoints.iter().filter(|(_, scopes)| visible(scopes));
    let own = [("daprRuntimeVersion", DAPR_VERSION), ("pillionVersion", version())];
    let notices = (blocks.notices)();
    let notices = notices.iter().map(|(key, text)| (*key, text.as_str()));
    let metadata = Metadata {
        id: &app.id,
        runtime_version: DAPR_VERSION,
        components: components
            .map(|shown| Component {
                name: &shown.name,
                type_name: &shown.type_name,
                version: &shown.version,
                capabilities: &shown.capabilities,
            })
            .collect(),
        extended: extended
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .chain(own)
            .chain(notices)
            .collect(),
        subscriptions: subscriptions.iter().map(Subscription::of).collect(),
        http_endpoints: endpoints.map(|(name, _)| Endpoint { name }).collect(),
        app_connection_properties: Connection::of(app.channel.as_deref()),
        actor_runtime: ActorRuntime {
            runtime_status: "DISABLED",
            host_ready: false,
            placement: "placement: disconnected",
        },
    };
    match serde_json::to_vec(&metadata) {
        Ok(body) => json(StatusCode::OK, body),
        Err(failed) => error(&Error::new(
            Code::plain("ERR_INTERNAL", 500, Grpc::Internal),
            format!("failed to encode response as JSON: {failed}"),
        )),
    }
}

/// `PUT /v1.0/metadata/{key}`; the body is the value.
pub(super) async fn put(mut call: Call, key: &str) -> Response<Body> {
    let body = match call.read_body().await {
        Ok(body) => body,
        Err(failed) => return error(&failed),
    };
    let (key, value) = (unescape(key), String::from_utf8_lossy(&body));
    if key.len().max(value.len()) > EXTENDED_BYTES_MAX {
        let message = format!("a metadata key or value may have {EXTENDED_BYTES_MAX} bytes");
        return error(&Error::new(EXTENDED_LONG, message));
    }
    if !call.app.extend(&key, &value) {
        let message = format!("an app may put {EXTENDED_ENTRIES_MAX} entries into its metadata");
        return error(&Error::new(EXTENDED_FULL, message));
    }
    empty(StatusCode::NO_CONTENT)
}

impl<'a> Subscription<'a> {
    fn of(active: &'a ActiveSubscription) -> Self {
        let plan = &active.plan;
        let rules = plan.rules.iter().map(|rule| Rule { matches: &rule.matches, path: &rule.path });
        let default = (!plan.route.is_empty()).then_some(Rule { matches: "", path: &plan.route });
        Self {
            pubsub: &plan.pubsub,
            topic: &plan.topic,
            metadata: plan.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            rules: rules.chain(default).collect(),
            dead_letter_topic: plan.dead_letter_topic.as_deref().unwrap_or_default(),
            origin: if active.programmatic { "PROGRAMMATIC" } else { "DECLARATIVE" },
        }
    }
}

impl<'a> Connection<'a> {
    fn of(channel: Option<&'a Channel>) -> Self {
        let Some(channel) = channel else {
            return Self {
                port: None,
                protocol: "http",
                channel_address: "127.0.0.1",
                max_concurrency: None,
                health: None,
            };
        };
        let plan = channel.plan();
        Self {
            port: Some(plan.port),
            protocol: if plan.tls { "https" } else { "http" },
            channel_address: &plan.host,
            max_concurrency: plan.max_concurrency,
            health: plan.health.as_ref().map(|health| Health {
                health_check_path: &health.path,
                health_probe_interval: go_duration(health.interval),
                health_probe_timeout: go_duration(health.timeout),
                health_threshold: health.threshold,
            }),
        }
    }
}

/// A duration as Go writes it: `500ms`, `5s`, `1m30s`.
fn go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, rest_ms) = (ms / 60_000, ms % 60_000);
    let seconds = match rest_ms % 1000 {
        0 => format!("{}s", rest_ms / 1000),
        part => format!("{}.{}s", rest_ms / 1000, format!("{part:03}").trim_end_matches('0')),
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (ms, expected) in
            [(500, "500ms"), (5000, "5s"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(ms)), expected);
        }
    }
}
