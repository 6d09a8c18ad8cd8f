//! What the process shall be, once everything is read and checked.

use super::UpdateKey;
use pillion_components::options::Options;
use pillion_components::pubsub::QueueLimits;
use pillion_components::topic::Filter;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Which of the forms of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `pillion` or `pillion run`: embedded defaults, for a developer at a desk.
    Run,
    /// `pillion serve DIR`: a gateway.
    Gateway,
    /// daprd's flags: exactly what daprd would have.
    Daprd,
}

/// Everything the process shall be.
#[derive(Debug, Default)]
pub struct Plan {
    /// The gateway's own settings.
    pub gateway: Gateway,
    /// Apps, one for the forms that serve one.
    pub apps: Vec<AppPlan>,
    /// Components in the order of their files; secret stores first.
    pub components: Vec<ComponentPlan>,
    /// Declarative subscriptions.
    pub subscriptions: Vec<SubscriptionPlan>,
    /// Named addresses outside.
    pub endpoints: Vec<EndpointPlan>,
    /// Users of the MQTT door.
    pub mqtt_users: Vec<MqttUserPlan>,
    /// Links to brokers elsewhere.
    pub links: Vec<LinkPlan>,
}

/// `kind: Gateway`, or what flags and defaults say in its place.
#[derive(Debug, Clone, Default)]
pub struct Gateway {
    /// Name of the gateway, for client ids and logs.
    pub name: String,
    /// Where and how much to store.
    pub storage: StoragePlan,
    /// The MQTT door; `None` is off.
    pub mqtt: Option<MqttPlan>,
    /// Metrics listener; `None` is off.
    pub metrics: Option<SocketAddr>,
    /// Limits that hold for every app.
    pub limits: Limits,
    /// What the log shall look like, where flags do not say.
    pub logging: LoggingPlan,
    /// What the flash may be asked to bear.
    pub flash: FlashPlan,
    /// Who may update, and how a release proves itself.
    pub update: UpdatePlan,
}

/// `Gateway.spec.flash`.
#[derive(Debug, Clone, Default)]
pub struct FlashPlan {
    /// Bytes that may be written to the device of the data directory in a day; `pillion doctor`
    /// warns above. `None` is half of the device's size.
    pub bytes_per_day: Option<u64>,
}

/// `Gateway.spec.update`.
#[derive(Debug, Clone)]
pub struct UpdatePlan {
    /// Public ed25519 keys that may sign images; without one nothing is installed.
    pub keys: Vec<UpdateKey>,
    /// Time from the start of a release on trial until it must be ready.
    pub ready_timeout: Duration,
    /// Time for which it must then be alive until it is confirmed.
    pub probation: Duration,
    /// Starts of it that may end without a decision, by a power cut say.
    pub attempts: u32,
}

impl Default for UpdatePlan {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { keys: Vec::new(), ready_timeout: minute, probation: minute, attempts: 3 }
    }
}

/// `Gateway.spec.logging`; flags come before it.
#[derive(Debug, Clone, Default)]
pub struct LoggingPlan {
    /// Least level that is written.
    pub level: Option<tracing::Level>,
    /// JSON instead of logfmt.
    pub json: Option<bool>,
    /// File instead of standard output.
    pub file: Option<PathBuf>,
}

/// Said when a component needs to store and [`StoragePlan::data_dir`] is `None`.
pub const DATA_DIR_MISSING: &str = "no data directory: give --data-dir DIR, or set STATE_DIRECTORY \
     (systemd: StateDirectory=pillion), XDG_STATE_HOME or HOME";

/// `Gateway.spec.storage`. `None` leaves the engine's default.
#[derive(Debug, Clone, Default)]
pub struct StoragePlan {
    /// The data directory, once it is known; the error says how to name one.
    pub data_dir: Option<PathBuf>,
    /// Most bytes on disk.
    pub quota_bytes: Option<u64>,
    /// Number of log segments.
    pub log_segments: Option<u8>,
    /// Size of a log segment in bytes.
    pub segment_bytes: Option<u32>,
    /// How long a commit waits for company, in milliseconds.
    pub commit_linger_ms: Option<u32>,
    /// Latest flush of an eventual write, in milliseconds.
    pub eventual_flush_ms: Option<u32>,
}

/// `Gateway.spec.mqtt`.
#[derive(Debug, Clone)]
pub struct MqttPlan {
    /// Plain listener.
    pub listen: Option<SocketAddr>,
    /// TLS listener.
    pub tls: Option<MqttTlsPlan>,
    /// Component whose topics the door serves.
    pub pubsub: String,
    /// Let clients in that give no user name. On loopback only unless said.
    pub allow_anonymous: bool,
    /// Limits of the door.
    pub limits: MqttLimits,
}

/// `Gateway.spec.mqtt.tls`.
#[derive(Debug, Clone)]
pub struct MqttTlsPlan {
    /// Listener.
    pub listen: SocketAddr,
    /// PEM file of the certificate chain.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
    /// PEM file of authorities whose client certificates are accepted.
    pub client_ca: Option<PathBuf>,
}

/// Limits of the MQTT door, each with the refusal a client gets.
#[derive(Debug, Clone)]
pub struct MqttLimits {
    /// Connections at a time; the next is refused (server busy).
    pub connections_max: u32,
    /// Largest packet in bytes; a larger one ends the connection (packet too large).
    pub packet_bytes_max: u32,
    /// Unacknowledged messages per client and direction.
    pub inflight_max: u16,
    /// Persistent sessions; the next is refused (quota exceeded).
    pub sessions_max: u32,
    /// Subscriptions per session; the next is refused (quota exceeded).
    pub subscriptions_max: u32,
    /// Retained messages; the next is not kept (quota exceeded).
    pub retained_max: u32,
    /// Ends of a session's queue.
    pub queue: QueueLimits,
}

impl Default for MqttLimits {
    fn default() -> Self {
        Self {
            connections_max: 1000,
            packet_bytes_max: 256 << 10,
            inflight_max: 32,
            sessions_max: 10_000,
            subscriptions_max: 256,
            retained_max: 100_000,
            queue: QueueLimits { backlog_bytes_max: 4 << 20, ..QueueLimits::default() },
        }
    }
}

/// Limits that hold for every app, each with the refusal a caller gets.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body read whole (`--max-body-size`); a larger one is 400 or, on publish, 500.
    pub body_bytes_max: usize,
    /// Largest request head (`--read-buffer-size`); a larger one is 431.
    pub header_bytes_max: usize,
    /// Connections at a time per listener; the next waits in the kernel's queue.
    pub connections_max: usize,
    /// Time for a request's head; a slower client is cut off.
    pub header_timeout: Duration,
    /// Time for draining at shutdown.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 << 20,
            header_bytes_max: 4 << 10,
            connections_max: 512,
            header_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// An app.
#[derive(Debug, Clone, Default)]
pub struct AppPlan {
    /// App id.
    pub id: String,
    /// Namespace.
    pub namespace: String,
    /// Addresses of its HTTP listener.
    pub listen: Vec<SocketAddr>,
    /// Unix socket of its HTTP listener.
    pub unix_socket: Option<PathBuf>,
    /// Token it must give.
    pub api_token: Option<String>,
    /// Where `api_token` will be found; see [`Plan::resolve_tokens`].
    pub api_token_from: Option<SecretRef>,
    /// The way to call it.
    pub channel: Option<ChannelPlan>,
    /// Where the channel's token will be found; see [`Plan::resolve_tokens`].
    pub channel_token_from: Option<SecretRef>,
    /// What it may use.
    pub access: Access,
    /// Its `kind: Configuration`, or Dapr's defaults.
    pub configuration: ConfigurationPlan,
}

/// A secret in a secret store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// Component that has it.
    pub store: String,
    /// Name of the secret.
    pub name: String,
    /// Key in it; the name again if the resource gave none.
    pub key: String,
}

/// `kind: Configuration`, as far as this build honours it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigurationPlan {
    /// Whether metrics are wanted (`spec.metrics.enabled`).
    pub metrics_enabled: bool,
    /// Log lines for API calls (`spec.logging.apiLogging`).
    pub api_logging: ApiLogging,
    /// Share of traces that begin here and are sampled, 0 to 1 (`spec.tracing.samplingRate`).
    pub sampling_rate: f64,
    /// Which secrets may be read (`spec.secrets.scopes`).
    pub secret_scopes: Vec<SecretScope>,
}

impl Default for ConfigurationPlan {
    fn default() -> Self {
        Self {
            metrics_enabled: true,
            api_logging: ApiLogging::default(),
            sampling_rate: 0.0001,
            secret_scopes: Vec::new(),
        }
    }
}

/// `Configuration.spec.logging.apiLogging`; `--enable-api-logging` comes before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApiLogging {
    /// Write a line for each call.
    pub enabled: bool,
    /// Write the route instead of the path.
    pub obfuscate_urls: bool,
    /// No lines for health checks.
    pub omit_health_checks: bool,
}

/// What may be read from one secret store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretScope {
    /// Component.
    pub store: String,
    /// Decides where neither list does.
    pub allowed_by_default: bool,
    /// If not empty, only these.
    pub allowed: Vec<String>,
    /// Not these.
    pub denied: Vec<String>,
}

impl SecretScope {
    /// Whether the secret may be read.
    pub fn allows(&self, name: &str) -> bool {
        if !self.allowed.is_empty() {
            return self.allowed.iter().any(|allowed| allowed == name);
        }
        self.allowed_by_default && !self.denied.iter().any(|denied| denied == name)
    }
}

/// How to call an app.
#[derive(Debug, Clone, Default)]
pub struct ChannelPlan {
    /// Id of the app, for errors and metrics.
    pub app_id: Arc<str>,
    /// Host or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS.
    pub tls: bool,
    /// Calls at a time; `None` is no limit of the app's own.
    pub max_concurrency: Option<usize>,
    /// Token given to the app in `dapr-api-token`.
    pub token: Option<String>,
    /// Health check, if wanted.
    pub health: Option<HealthPlan>,
}

/// How to check an app's health.
#[derive(Debug, Clone)]
pub struct HealthPlan {
    /// Path asked with GET.
    pub path: String,
    /// Time between probes.
    pub interval: Duration,
    /// Time allowed for an answer.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub threshold: u32,
}

/// What an app may use; `None` is everything, an empty list nothing.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Topic filters it may publish to and subscribe to.
    pub topics: Option<Vec<Filter>>,
    /// State stores by name.
    pub stores: Option<Vec<String>>,
    /// Secret stores by name.
    pub secrets: Option<Vec<String>>,
    /// App ids it may call.
    pub invoke: Option<Vec<String>>,
    /// Which secrets it may read of these stores ([`ConfigurationPlan::secret_scopes`]).
    pub secret_scopes: Vec<SecretScope>,
}

/// `kind: Component`.
#[derive(Debug)]
pub struct ComponentPlan {
    /// Where it was written, `file:line`, for messages.
    pub origin: String,
    /// Name.
    pub name: String,
    /// Type, as `state.redb`.
    pub type_name: String,
    /// Version; empty counts as `v1`.
    pub version: String,
    /// Settings; secrets are not resolved yet.
    pub settings: Vec<(String, Setting)>,
    /// A failing component is logged and left out instead of ending the start.
    pub ignore_errors: bool,
    /// Time allowed for opening it.
    pub init_timeout: Duration,
    /// App ids that see it; empty is all.
    pub scopes: Vec<String>,
    /// Secret store for `secretKeyRef`.
    pub secret_store: Option<String>,
}

/// A setting's value.
#[derive(Clone)]
pub enum Setting {
    /// As written, or what `envRef` named.
    Text(String),
    /// A key of a secret.
    Secret {
        /// Name of the secret.
        name: String,
        /// Key in it; the name again if the resource gave none.
        key: String,
    },
}

impl std::fmt::Debug for Setting {
    /// Without the text: it may have come from the environment as a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Text(_) => f.write_str("Text"),
            Setting::Secret { name, key } => write!(f, "Secret({name}, {key})"),
        }
    }
}

impl Plan {
    /// Puts the tokens that apps keep in secret stores in their place. `secret` is asked for
    /// store, name and key; called once the secret stores are open.
    pub fn resolve_tokens<E>(
        &mut self,
        mut secret: impl FnMut(&SecretRef) -> Result<String, E>,
    ) -> Result<(), E> {
        for app in &mut self.apps {
            if let Some(from) = app.api_token_from.take() {
                app.api_token = Some(secret(&from)?);
            }
            if let Some(from) = app.channel_token_from.take() {
                let token = secret(&from)?;
                if let Some(channel) = &mut app.channel {
                    channel.token = Some(token);
                }
            }
        }
        Ok(())
    }
}

impl ComponentPlan {
    /// The settings as text, with `secret` answering for references.
    pub fn options<E>(
        &self,
        mut secret: impl FnMut(&str, &str) -> Result<String, E>,
    ) -> Result<Options, E> {
        let text = |(name, setting): &(String, Setting)| {
            let value = match setting {
                Setting::Text(text) => text.clone(),
                Setting::Secret { name, key } => secret(name, key)?,
            };
            Ok((name.clone(), value))
        };
        self.settings.iter().map(text).collect()
    }
}

/// A subscription, from a resource or from the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionPlan {
    /// Name of the resource; empty for one that the app gave.
    pub name: String,
    /// Component.
    pub pubsub: String,
    /// Topic or filter.
    pub topic: String,
    /// Path that messages are sent to.
    pub route: String,
    /// Routing rules as written; they come before `route`.
    pub rules: Vec<RuleWritten>,
    /// Where messages go that the app will not take.
    pub dead_letter_topic: Option<String>,
    /// Settings (`rawPayload` and the component's own).
    pub metadata: Vec<(String, String)>,
    /// App ids; empty is all.
    pub scopes: Vec<String>,
}

/// A routing rule as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleWritten {
    /// The expression.
    pub matches: String,
    /// The path.
    pub path: String,
}

/// `kind: HTTPEndpoint`.
#[derive(Debug, Clone)]
pub struct EndpointPlan {
    /// Name that calls give as an app id.
    pub name: String,
    /// Base of every URL.
    pub base_url: String,
    /// Headers added to every call.
    pub headers: Vec<(String, Setting)>,
    /// Secret store for headers that are secrets.
    pub secret_store: Option<String>,
    /// App ids; empty is all.
    pub scopes: Vec<String>,
}

/// `kind: MqttUser`.
#[derive(Debug, Clone)]
pub struct MqttUserPlan {
    /// User name.
    pub name: String,
    /// mosquitto's `$7$iterations$salt$hash` (PBKDF2-SHA512).
    pub password_hash: Option<String>,
    /// Filters it may publish to; `%u` is the user, `%c` the client id.
    pub publish: Vec<String>,
    /// Filters it may subscribe to.
    pub subscribe: Vec<String>,
}

/// `kind: Link`.
#[derive(Debug, Clone)]
pub struct LinkPlan {
    /// Name.
    pub name: String,
    /// Pub/sub component on this side.
    pub local: String,
    /// Pub/sub component on the other side.
    pub remote: String,
    /// From here to there.
    pub up: Vec<FlowPlan>,
    /// From there to here.
    pub down: Vec<FlowPlan>,
}

/// One direction of one filter of a link.
#[derive(Debug, Clone)]
pub struct FlowPlan {
    /// What flows.
    pub filter: Filter,
    /// Put before the topic on the other side: `sensors/a` with `site1/` becomes `site1/sensors/a`.
    pub map_to: Option<String>,
    /// QoS asked of the other side, 0 or 1.
    pub qos: u8,
    /// Higher goes first.
    pub priority: u8,
    /// Most messages a second; `None` is no limit.
    pub rate: Option<u32>,
    /// Ends of the queue.
    pub limits: QueueLimits,
}
