//! Our own kinds, `apiVersion: pillion/v1alpha1`: Gateway, App, MqttUser, Link.
//!
//! Unknown keys are refused: a misspelt limit that is silently ignored is found out in the field.

use super::addresses::{ADDRESS_FORM, parse_address, parse_ip};
use super::configuration;
use super::fields::{Fields, Sourced};
use super::load::Surroundings;
use super::{
    Access, AppPlan, ChannelPlan, FlowPlan, Gateway, HealthPlan, Limits, LinkPlan, LoggingPlan,
    MqttLimits, MqttPlan, MqttTlsPlan, MqttUserPlan, StoragePlan, UpdateKey, UpdatePlan,
};
use pillion_components::options::parse_duration;
use pillion_components::pubsub::{Overflow, QueueLimits};
use pillion_components::topic::Filter;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where apps call if their resource does not say.
pub(crate) const HTTP_PORT: u16 = 3500;
/// Where devices connect if nobody says.
pub(crate) const MQTT_PORT: u16 = 1883;

/// `kind: Gateway`, over the defaults of the form of starting.
pub(crate) fn gateway(root: &Fields<'_>, name: &str, mut gateway: Gateway) -> GatewayRead {
    gateway.name = name.into();
    let mut read = GatewayRead { gateway, allow_anonymous: None };
    let Some(spec) = root.map("spec") else { return read };
    let gateway = &mut read.gateway;
    if let Some(storage) = spec.map("storage") {
        gateway.storage = self::storage(&storage);
        storage.finish();
    }
    if let Some(mqtt) = spec.map("mqtt") {
        read.allow_anonymous = mqtt.flag("allowAnonymous");
        gateway.mqtt = Some(self::mqtt(&mqtt));
        mqtt.finish();
    }
    if let Some(metrics) = spec.map("metrics") {
        gateway.metrics = match metrics.is_off("listen") {
            true => None,
            false => metrics.address("listen").or(gateway.metrics),
        };
        metrics.finish();
    }
    if let Some(logging) = spec.map("logging") {
        gateway.logging = LoggingPlan {
            level: logging.word("level", LEVELS),
            json: logging.flag("json"),
            file: logging.path("file"),
        };
        logging.finish();
    }
    if let Some(update) = spec.map("update") {
        self::update(&update, &mut gateway.update);
        update.finish();
    }
    if let Some(limits) = spec.map("limits") {
        self::limits(&limits, &mut gateway.limits);
        limits.finish();
    }
    if let Some(flash) = spec.map("flash") {
        gateway.flash.bytes_per_day = flash.bytes("bytesPerDay", 1 << 20..=1 << 50);
        flash.finish();
    }
    spec.finish();
    read
}

/// A Gateway, and what can only be decided once everything is read.
pub(crate) struct GatewayRead {
    /// As far as it is decided.
    pub(crate) gateway: Gateway,
    /// `spec.mqtt.allowAnonymous`.
    pub(crate) allow_anonymous: Option<bool>,
}

/// Log levels by name. Errors that end the process are errors like others.
pub(crate) const LEVELS: &[(&str, tracing::Level)] = &[
    ("debug", tracing::Level::DEBUG),
    ("info", tracing::Level::INFO),
    ("warn", tracing::Level::WARN),
    ("error", tracing::Level::ERROR),
    ("fatal", tracing::Level::ERROR),
    ("warning", tracing::Level::WARN),
    ("trace", tracing::Level::TRACE),
];

fn storage(fields: &Fields<'_>) -> StoragePlan {
    let bytes = fields.bytes("segmentBytes", 64 << 10..=256 << 20);
    StoragePlan {
        data_dir: fields.path("dataDir"),
        quota_bytes: fields.bytes("quotaBytes", 1 << 20..=1 << 50),
        log_segments: fields.number("logSegments", 3..=64),
        segment_bytes: bytes.and_then(|bytes| u32::try_from(bytes).ok()),
        commit_linger_ms: fields.number("commitLingerMs", 0..=10_000),
        eventual_flush_ms: fields.number("eventualFlushMs", 1..=3_600_000),
    }
}

fn mqtt(fields: &Fields<'_>) -> MqttPlan {
    let tls = fields.map("tls").map(|tls| {
        fields.wants_tls("tls");
        let plan = MqttTlsPlan {
            listen: tls.address("listen").unwrap_or((Ipv4Addr::LOCALHOST, 8883).into()),
            certificate: PathBuf::from(tls.required("certificate")),
            key: PathBuf::from(tls.required("key")),
            client_ca: tls.path("clientCa"),
        };
        tls.finish();
        plan
    });
    let listen = match fields.is_off("listen") {
        true => None,
        false => fields.address("listen").or_else(|| {
            // A door that only speaks TLS is meant to be that.
            tls.is_none().then(|| (Ipv4Addr::LOCALHOST, MQTT_PORT).into())
        }),
    };
    let mut limits = MqttLimits::default();
    if let Some(fields) = fields.map("limits") {
        mqtt_limits(&fields, &mut limits);
        fields.finish();
    }
    let pubsub = fields.text("pubsub").unwrap_or_default();
    MqttPlan { listen, tls, pubsub, allow_anonymous: false, limits }
}

fn mqtt_limits(fields: &Fields<'_>, limits: &mut MqttLimits) {
    let packet = fields.bytes("packetBytesMax", 1 << 10..=256 << 20);
    if let Some(bytes) = packet.and_then(|bytes| u32::try_from(bytes).ok()) {
        limits.packet_bytes_max = bytes;
    }
    set(&mut limits.connections_max, fields.number("connectionsMax", 1..=1_000_000));
    set(&mut limits.inflight_max, fields.number("inflightMax", 1..=u16::MAX));
    set(&mut limits.sessions_max, fields.number("sessionsMax", 1..=10_000_000));
    set(&mut limits.subscriptions_max, fields.number("subscriptionsMax", 1..=100_000));
    set(&mut limits.retained_max, fields.number("retainedMax", 0..=10_000_000));
    queue(fields, &mut limits.queue);
    if let Some(time) = fields.duration("forgetAfter") {
        limits.queue.forget_after_ms = never_if_zero(time);
    }
}

/// The ends of a queue: `backlogBytesMax`, `backlogAgeMax`, `overflow`.
fn queue(fields: &Fields<'_>, limits: &mut QueueLimits) {
    set(&mut limits.backlog_bytes_max, fields.bytes("backlogBytesMax", 1 << 10..=1 << 50));
    if let Some(age) = fields.duration("backlogAgeMax") {
        limits.backlog_age_max_ms = never_if_zero(age);
    }
    let words = [("drop-oldest", Overflow::DropOldest), ("refuse", Overflow::Refuse)];
    set(&mut limits.overflow, fields.word("overflow", &words));
}

fn never_if_zero(time: Duration) -> Option<u64> {
    u64::try_from(time.as_millis()).ok().filter(|ms| *ms > 0)
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn limits(fields: &Fields<'_>, limits: &mut Limits) {
    let bytes = |key| fields.bytes(key, 1 << 10..=1 << 30).and_then(|b| usize::try_from(b).ok());
    set(&mut limits.body_bytes_max, bytes("bodyBytesMax"));
    set(&mut limits.header_bytes_max, bytes("headerBytesMax"));
    set(&mut limits.connections_max, fields.number("connectionsMax", 1..=1_000_000));
    set(&mut limits.header_timeout, fields.duration("headerTimeout"));
    set(&mut limits.drain_timeout, fields.duration("drainTimeout"));
}

fn update(fields: &Fields<'_>, update: &mut UpdatePlan) {
    for text in fields.texts("keys").unwrap_or_default() {
        match UpdateKey::parse(&text) {
            Some(key) => update.keys.push(key),
            None => fields.problem("keys", format!("holds '{text}': write {}", UpdateKey::FORM)),
        }
    }
    let time = |key| {
        let form = "a duration from 100ms to 24h, as 30s";
        let range = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
        fields.parsed(key, form, |text| parse_duration(text).filter(|time| range.contains(time)))
    };
    set(&mut update.ready_timeout, time("readyTimeout"));
    set(&mut update.probation, time("probation"));
    set(&mut update.attempts, fields.number("attempts", 1..=100));
}

/// An app and the name of its Configuration.
pub(crate) struct AppRead {
    /// All else.
    pub(crate) plan: AppPlan,
    /// `spec.configuration`.
    pub(crate) configuration: Option<String>,
}

/// `kind: App`.
pub(crate) fn app(
    root: &Fields<'_>,
    name: &str,
    namespace: Option<&str>,
    around: &Surroundings<'_>,
) -> AppRead {
    let namespace = namespace.map_or_else(|| around.namespace_or_default().to_owned(), Into::into);
    let plan = AppPlan { id: name.into(), namespace, ..AppPlan::default() };
    let mut read = AppRead { plan, configuration: None };
    let plan = &mut read.plan;
    if let Some(wrong) = wrong_app_id(name) {
        root.problem("metadata", format!("names the app '{name}': {wrong}"));
    }
    let auth = root.map("auth");
    let store = auth.as_ref().and_then(|auth| auth.text("secretStore"));
    if let Some(auth) = auth {
        auth.finish();
    }
    plan.listen = vec![(Ipv4Addr::LOCALHOST, HTTP_PORT).into()];
    let Some(spec) = root.map("spec") else { return read };
    if let Some(listen) = spec.map("listen") {
        (plan.listen, plan.unix_socket) = http_listeners(&listen);
        listen.finish();
    }
    let token = spec.secret("token", store.as_deref(), around);
    // What is asked of every caller is asked of this one, unless it has a token of its own.
    let token = token.or_else(|| (around.env)("DAPR_API_TOKEN").map(Sourced::Text));
    (plan.api_token, plan.api_token_from) = Sourced::split(token);
    if let Some(channel) = spec.map("channel") {
        let token = channel.secret("token", store.as_deref(), around);
        let token = token.or_else(|| (around.env)("APP_API_TOKEN").map(Sourced::Text));
        let (token, from) = Sourced::split(token);
        plan.channel_token_from = from;
        plan.channel = self::channel(&channel, name, token);
        channel.finish();
    }
    if let Some(health) = spec.map("health") {
        let health_plan = self::health(&health);
        health.finish();
        match &mut plan.channel {
            Some(channel) => channel.health = Some(health_plan),
            None => spec.problem("health", "needs spec.channel: add it, or remove health"),
        }
    }
    if let Some(access) = spec.map("access") {
        plan.access = self::access(&access);
        access.finish();
    }
    read.configuration = spec.text("configuration");
    spec.finish();
    read
}

/// Why this is no app id.
pub(crate) fn wrong_app_id(id: &str) -> Option<&'static str> {
    if id.contains('.') {
        return Some("an app id holds no dot: leave it out");
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '|';
    if id.is_empty() || id.len() > 128 || id.contains(odd) {
        return Some("an app id has 1 to 128 characters without blanks, / and |");
    }
    None
}

/// `listen.http`: an address, `unix:/path`, or a list of them.
fn http_listeners(listen: &Fields<'_>) -> (Vec<SocketAddr>, Option<PathBuf>) {
    let written = match listen.node("http").map(|node| &node.value) {
        Some(super::yaml::Value::List(_)) => listen.texts("http").unwrap_or_default(),
        Some(other) => vec![other.to_text()],
        None => vec![HTTP_PORT.to_string()],
    };
    let (mut addresses, mut socket) = (Vec::new(), None);
    for text in written {
        match text.strip_prefix("unix:") {
            Some(path) if socket.is_none() && !path.is_empty() => socket = Some(path.into()),
            Some(_) => listen.problem("http", "may have one unix:/path: write a single one"),
            None => match parse_address(&text) {
                Some(address) => addresses.push(address),
                None => {
                    let text = format!("has '{text}': write {ADDRESS_FORM}, or unix:/path");
                    listen.problem("http", text);
                }
            },
        }
    }
    (addresses, socket)
}

fn channel(fields: &Fields<'_>, app_id: &str, token: Option<String>) -> Option<ChannelPlan> {
    let words = [("http", false), ("https", true)];
    let tls = fields.word("protocol", &words).unwrap_or(false);
    if tls {
        fields.wants_tls("protocol");
    }
    let max_concurrency = fields.number("maxConcurrency", 1..=1_000_000);
    let address = fields.node("address");
    if address.is_none() {
        fields.problem("address", "is missing: write the app's host:port, or its port");
    }
    let (host, port) =
        fields.parsed("address", "the app's host:port, or its port", parse_host_port)?;
    let app_id = app_id.into();
    Some(ChannelPlan { app_id, host, port, tls, max_concurrency, token, health: None })
}

fn parse_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.trim().rsplit_once(':').unwrap_or(("127.0.0.1", text.trim()));
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = parse_ip(host).map_or_else(|| host.to_owned(), |address| address.to_string());
    (!bare.is_empty()).then_some((bare, port))
}

fn health(fields: &Fields<'_>) -> HealthPlan {
    let default = default_health();
    let plan = HealthPlan {
        path: fields.text("path").unwrap_or(default.path),
        interval: fields.duration("interval").unwrap_or(default.interval),
        timeout: fields.duration("timeout").unwrap_or(default.timeout),
        threshold: fields.number("threshold", 1..=1_000).unwrap_or(default.threshold),
    };
    if plan.interval.is_zero() {
        fields.problem("interval", "is 0: write how often the app is asked, as 5s");
    } else if plan.timeout > plan.interval {
        fields.problem("timeout", "is longer than the interval: shorten it");
    }
    plan
}

/// The health check of an app that wants one and says nothing more.
pub(crate) fn default_health() -> HealthPlan {
    HealthPlan {
        path: "/healthz".into(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_millis(500),
        threshold: 3,
    }
}

fn access(fields: &Fields<'_>) -> Access {
    let filters = |texts: Vec<String>| {
        texts.iter().filter_map(|text| checked_filter(fields, "topics", text)).collect()
    };
    Access {
        topics: fields.texts("topics").map(filters),
        stores: fields.texts("stores"),
        secrets: fields.texts("secrets"),
        invoke: fields.texts("invoke"),
        secret_scopes: Vec::new(),
    }
}

fn checked_filter(fields: &Fields<'_>, key: &'static str, text: &str) -> Option<Filter> {
    match Filter::new(text) {
        Ok(filter) => Some(filter),
        Err(error) => {
            fields.problem(key, format!("holds no topic filter: {}", error.message()));
            None
        }
    }
}

/// `kind: MqttUser`.
pub(crate) fn mqtt_user(
    root: &Fields<'_>,
    name: &str,
    around: &Surroundings<'_>,
) -> Option<MqttUserPlan> {
    let spec = root.required_map("spec")?;
    let (password_hash, from) = Sourced::split(spec.secret("passwordHash", None, around));
    debug_assert!(from.is_none(), "no store was named");
    match &password_hash {
        // Nobody logs in with a password, only with a certificate.
        None => {}
        Some(hash) if !is_password_hash(hash) => spec.problem(
            "passwordHash",
            "is no $7$iterations$salt$hash: write what mosquitto_passwd makes, in quotes",
        ),
        Some(_) => {}
    }
    let filters = |key| {
        let texts = spec.texts(key).unwrap_or_default();
        for text in &texts {
            // The placeholders stand for one level or a part of one.
            checked_filter(&spec, key, &text.replace("%u", "u").replace("%c", "c"));
        }
        texts
    };
    let user = MqttUserPlan {
        name: name.into(),
        password_hash,
        publish: filters("publish"),
        subscribe: filters("subscribe"),
    };
    spec.finish();
    Some(user)
}

fn is_password_hash(text: &str) -> bool {
    let mut parts = text.split('$');
    let iterations = |text: &str| text.parse::<u32>().is_ok_and(|count| count > 0);
    parts.next() == Some("")
        && parts.next() == Some("7")
        && parts.next().is_some_and(iterations)
        && parts.next().is_some_and(|salt| !salt.is_empty())
        && parts.next().is_some_and(|hash| !hash.is_empty())
        && parts.next().is_none()
}

/// `kind: Link`.
pub(crate) fn link(root: &Fields<'_>, name: &str) -> Option<LinkPlan> {
    let spec = root.required_map("spec")?;
    let flows = |key| spec.maps(key).into_iter().filter_map(flow).collect::<Vec<_>>();
    let link = LinkPlan {
        name: name.into(),
        local: spec.required("local"),
        remote: spec.required("remote"),
        up: flows("up"),
        down: flows("down"),
    };
    if !spec.has("up") && !spec.has("down") {
        spec.problem("up", "and down are missing: say what flows");
    }
    spec.finish();
    Some(link)
}

fn flow(fields: Fields<'_>) -> Option<FlowPlan> {
    let written = fields.required("filter");
    let filter =
        if written.is_empty() { None } else { checked_filter(&fields, "filter", &written) };
    let map_to = fields.text("mapTo").filter(|prefix| !prefix.is_empty());
    if let (Some(prefix), Some(filter)) = (&map_to, &filter)
        && (prefix.contains(['+', '#']) || Filter::new(&format!("{prefix}{filter}")).is_err())
    {
        let text =
            format!("'{prefix}' cannot stand before '{filter}': end it with /, no wildcards");
        fields.problem("mapTo", text);
    }
    let mut limits = QueueLimits::default();
    queue(&fields, &mut limits);
    let plan = (
        fields.number("qos", 0..=1).unwrap_or(1),
        fields.number("priority", 0..=u8::MAX).unwrap_or(0),
        fields.number("rate", 1..=1_000_000),
    );
    fields.finish();
    let (qos, priority, rate) = plan;
    Some(FlowPlan { filter: filter?, map_to, qos, priority, rate, limits })
}

/// Reads `kind: Configuration` of a directory.
pub(crate) fn configuration(root: &Fields<'_>) -> super::ConfigurationPlan {
    let mut plan = super::ConfigurationPlan::default();
    configuration::read(root, &mut plan);
    plan
}
