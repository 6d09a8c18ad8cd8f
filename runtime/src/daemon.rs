//! The composition root: the one file that names every part, and the order of start and stop.

mod command;
mod components;
mod feeds;
#[cfg(feature = "crypto")]
mod fetch;
mod hosting;
mod join;
mod listeners;
mod memory;
mod storage;
pub(crate) mod systemd;
mod wait;

use crate::api::mqtt;
use crate::app::Apps;
use crate::blocks::bindings::Bindings;
use crate::blocks::{Blocks, Notices, configuration, invoke, lock, pubsub, secrets, state};
use crate::cli::{Form, Refusal, Start};
use crate::deliver::Redelivery;
use crate::drain::{self, Exit, Shutdown};
use crate::link;
use crate::observe::log;
use crate::observe::metrics::{families, listener as metrics};
use crate::resources::{Gateway, LinkPlan, MqttPlan, MqttUserPlan, Plan};
use crate::update;
use command::Process;
use components::{Components, Opener};
use hosting::{Drains, Host, Hosted};
use join::Joined;
use pillion_components::env::Clock;
use pillion_components::pubsub::{PubSub, QueueStatus};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::LazyStorage;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::Level;

pub use wait::wait;

/// Threads for name look-ups and other calls that block.
const BLOCKING_THREADS_MAX: usize = 2;

/// Queues that metadata names because they dropped messages; metrics have them all.
const DROPPING_SHOWN_MAX: usize = 32;

/// Serves until told to stop. Gives the exit code: 0 after a drain in time, the app's own if it
/// was started by us and ended first, 1 otherwise.
pub fn run(start: Start) -> u8 {
    let app_id = app_id(&start.plan).to_owned();
    let file = start.log_file.as_deref();
    if let Err(error) = log::init(start.log_level, start.log_as_json, file, &app_id) {
        return no_log(&error);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(serve(start)),
        Err(error) => Err(format!("cannot start the event loop: {error}")),
    };
    outcome.unwrap_or_else(|message| {
        tracing::error!(fatal = true, "Fatal error from runtime: {message}");
        1
    })
}

/// Logs why daprd's form cannot start.
pub fn refuse(refusal: &Refusal) -> u8 {
    let file = refusal.log_file.as_deref();
    if let Err(error) = log::init(Level::INFO, refusal.log_as_json, file, &refusal.app_id) {
        return no_log(&error);
    }
    tracing::error!(fatal = true, "Fatal error from runtime: {}", refusal.text);
    1
}

fn no_log(error: &std::io::Error) -> u8 {
    let text = format!("the log file cannot be written: {error}; change it with --log-file\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    1
}

/// The id that stands for the process in logs and client ids.
fn app_id(plan: &Plan) -> &str {
    plan.apps.first().map_or(plan.gateway.name.as_str(), |app| app.id.as_str())
}

async fn serve(start: Start) -> Result<u8, String> {
    let started = Instant::now();
    for warning in &start.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(note) = update::note() {
        tracing::warn!("update: {note}");
    }
    let signals = Signals::new()?;
    if start.form == Form::Run
        && let Some(joined) = join_running(&start).await?
    {
        return run_joined(start, joined, signals).await;
    }
    let gateway = build(start).await?;
    let elapsed_ms = started.elapsed().as_millis();
    tracing::info!("dapr initialized. Status: Running. Init Elapsed {elapsed_ms}ms");
    systemd::notify("READY=1");
    gateway.run(signals).await
}

/// The process with everything up.
struct Running {
    form: Form,
    host: Host,
    gateway: Gateway,
    storage: Arc<LazyStorage>,
    command: Option<Process>,
    block_shutdown: Option<Duration>,
    intake: Shutdown,
    serving: Shutdown,
    exit: mpsc::UnboundedReceiver<Exit>,
}

/// Brings every part up in its order: components, blocks, listeners, links, apps.
async fn build(start: Start) -> Result<Running, String> {
    let Start { form, mut plan, .. } = start;
    let clock = Clock::system();
    let storage = Arc::new(LazyStorage::new(&plan.gateway.storage, clock.clone()));
    let to_open = std::mem::take(&mut plan.components);
    let opener = Opener { app_id: app_id(&plan), clock: &clock, storage: &storage.opener() };
    let components = opener.open(to_open).await.map_err(|error| error.to_string())?;
    components::resolve_tokens(&mut plan, &components.secrets)
        .await
        .map_err(|error| error.to_string())?;

    let mut endpoints = Vec::new();
    for endpoint in plan.endpoints {
        let resolved = components::resolve_endpoint(endpoint, &components.secrets).await;
        endpoints.push(resolved.map_err(|error| error.to_string())?);
    }
    let topics = by_name(&components);
    let feeds = feeds::of(&components, &topics)?;
    let bindings = Arc::new(Bindings::new(components.bindings));
    let apps = Arc::new(Apps::default());
    let blocks = Arc::new(Blocks {
        apps: apps.clone(),
        shown: components.shown,
        state: state::State::new(components.state, clock.clone()),
        pubsub: pubsub::Publishing::new(components.pubsub, clock.clone()),
        secrets: secrets::Secrets::new(components.secrets),
        configuration: configuration::Configuration::new(components.configuration),
        locks: lock::Locks::new(components.locks),
        bindings: bindings.clone(),
        #[cfg(feature = "crypto")]
        crypto: crate::blocks::crypto::Crypto::new(components.crypto),
        endpoints: endpoints
            .iter()
            .map(|endpoint| (endpoint.name.as_str().into(), endpoint.scopes.clone()))
            .collect(),
        invoke: invoke::Invocation::new(apps.clone(), endpoints),
        clock: clock.clone(),
        notices: notices(storage.clone(), topics.clone(), bindings.clone()),
    });

    let (intake_end, intake) = drain::channel();
    let (serving_end, serving) = drain::channel();
    let drains = Drains { intake, serving };
    let (request_exit, exit) = mpsc::unbounded_channel();
    let host = Host {
        apps,
        blocks,
        limits: plan.gateway.limits.clone(),
        request_exit,
        subscriptions: plan.subscriptions.into(),
        redelivery: if form == Form::Daprd { Redelivery::Once } else { Redelivery::BackOff },
        ask_subscriptions: start.ask_subscriptions,
        ask_config: start.ask_config,
        probe_timeout: start.binding_probe_timeout,
    };

    let metrics = open_metrics(&plan.gateway, &storage, &topics, bindings, &drains).await?;
    let mqtt = open_mqtt(plan.gateway.mqtt.as_ref(), plan.mqtt_users, &topics, &clock, &drains);
    let mqtt = mqtt.await?;
    let mut hosted = Vec::new();
    for app in plan.apps {
        hosted.push(host.start(app, &drains).await?);
    }
    open_links(plan.links, &topics, &clock, &drains)?;
    for feed in feeds {
        tokio::spawn(feed.run(drains.intake.clone()));
    }
    tokio::spawn(memory::give_back(drains.serving.clone()));
    if form == Form::Run {
        open_join_socket(&plan.gateway, &host, &drains);
        announce(&hosted, mqtt, metrics);
    }
    let command = start_command(&start.command, hosted.first(), metrics)?;
    Ok(Running {
        form,
        host,
        gateway: plan.gateway,
        storage,
        command,
        block_shutdown: start.block_shutdown,
        intake: intake_end,
        serving: serving_end,
        exit,
    })
}

/// Pub/sub components by name, for the parts that stand beside the blocks.
type Topics = BTreeMap<Arc<str>, Arc<dyn PubSub>>;

fn by_name(components: &Components) -> Topics {
    components.pubsub.all().map(|one| (one.name.clone(), one.component.clone())).collect()
}

/// Storage that is damaged or full, messages dropped by the end of a queue, and an update that was
/// on trial or rolled back when this process was started.
fn notices(storage: Arc<LazyStorage>, topics: Topics, bindings: Arc<Bindings>) -> Notices {
    Box::new(move || {
        let mut notices = Vec::new();
        if let Some(note) = update::note() {
            notices.push(("pillionUpdate", note));
        }
        if let Some(trouble) = storage.trouble() {
            notices.push(("pillionStorage", trouble));
        }
        let dropped: Vec<String> = queues(&topics, &bindings)
            .filter(|(_, queue)| queue.dropped_messages > 0)
            .map(|(name, queue)| format!("{name} {}: {}", queue.consumer, queue.dropped_messages))
            .take(DROPPING_SHOWN_MAX)
            .collect();
        if !dropped.is_empty() {
            notices.push(("pillionDropped", dropped.join(", ")));
        }
        notices
    })
}

/// Every durable queue with the name of its component.
fn queues<'a>(
    topics: &'a Topics,
    bindings: &Bindings,
) -> impl Iterator<Item = (Arc<str>, QueueStatus)> + use<'a> {
    let of_topics = topics.iter().flat_map(|(name, component)| {
        component.queues().into_iter().map(move |queue| (name.clone(), queue))
    });
    of_topics.chain(bindings.queues())
}

async fn open_metrics(
    gateway: &Gateway,
    storage: &Arc<LazyStorage>,
    topics: &Topics,
    bindings: Arc<Bindings>,
    drains: &Drains,
) -> Result<Option<SocketAddr>, String> {
    let Some(address) = gateway.metrics else { return Ok(None) };
    let listener = listeners::tcp(address, listeners::METRICS).await?;
    let bound = listener.local_addr().ok();
    let (storage, topics) = (storage.clone(), topics.clone());
    let refresh = Arc::new(move || {
        storage.record();
        record_queues(&topics, &bindings);
    });
    tokio::spawn(metrics::serve(listener, refresh, drains.serving.clone()));
    Ok(bound)
}

fn record_queues(topics: &Topics, bindings: &Bindings) {
    for (name, queue) in queues(topics, bindings) {
        let labels = [&*name, queue.consumer.as_str()];
        let backlog = i64::try_from(queue.backlog_messages).unwrap_or(i64::MAX);
        families::QUEUE_BACKLOG.with(&labels).set(backlog);
        let dropped = families::QUEUE_DROPPED.with(&[&name, &queue.consumer, "limit"]);
        dropped.set(queue.dropped_messages);
    }
}

async fn open_mqtt(
    plan: Option<&MqttPlan>,
    users: Vec<MqttUserPlan>,
    topics: &Topics,
    clock: &Clock,
    drains: &Drains,
) -> Result<Option<SocketAddr>, String> {
    let Some(plan) = plan else { return Ok(None) };
    let component = topics.get(plan.pubsub.as_str()).ok_or_else(|| {
        format!("Gateway spec.mqtt.pubsub: there is no pub/sub component {}", plan.pubsub)
    })?;
    let door = Arc::new(mqtt::Door::new(plan.clone(), users, component.clone(), clock.clone()));
    let mut bound = None;
    if let Some(address) = plan.listen {
        let listener = listeners::tcp(address, listeners::MQTT).await?;
        bound = listener.local_addr().ok();
        tokio::spawn(mqtt::serve(listener, None, door.clone(), drains.serving.clone()));
    }
    if let Some(tls) = &plan.tls {
        let acceptor = mqtt::tls::acceptor(tls).map_err(|error| error.to_string())?;
        let listener = listeners::tcp(tls.listen, listeners::MQTT_TLS).await?;
        bound = bound.or_else(|| listener.local_addr().ok());
        tokio::spawn(mqtt::serve(listener, Some(acceptor), door, drains.serving.clone()));
    }
    Ok(bound)
}

fn open_links(
    plans: Vec<LinkPlan>,
    topics: &Topics,
    clock: &Clock,
    drains: &Drains,
) -> Result<(), String> {
    for plan in plans {
        let side = |name: &str| {
            topics
                .get(name)
                .cloned()
                .ok_or_else(|| format!("Link {}: there is no pub/sub component {name}", plan.name))
        };
        let (local, remote) = (side(&plan.local)?, side(&plan.remote)?);
        tokio::spawn(link::run(plan, local, remote, clock.clone(), drains.intake.clone()));
    }
    Ok(())
}

/// Lets further `pillion run` join. Without the socket this one works all the same.
fn open_join_socket(gateway: &Gateway, host: &Host, drains: &Drains) {
    let Some(data_dir) = gateway.storage.data_dir.as_ref().filter(|dir| dir.is_dir()) else {
        return;
    };
    match listeners::unix(&join::socket_path(data_dir)) {
        Ok(listener) => {
            tokio::spawn(join::serve(listener, host.clone(), drains.serving.clone()));
        }
        Err(error) => tracing::warn!("another `pillion run` cannot join this one: {error}"),
    }
}

/// What listens where, and a line to try.
fn announce(hosted: &[Hosted], mqtt: Option<SocketAddr>, metrics: Option<SocketAddr>) {
    let mut text = String::from("\n");
    for one in hosted {
        if let Some(http) = one.http {
            let _ = writeln!(text, "  HTTP API of {:<12} http://{http}", one.app.id);
        }
    }
    if let Some(mqtt) = mqtt {
        let _ = writeln!(text, "  MQTT                     mqtt://{mqtt}");
    }
    if let Some(metrics) = metrics {
        let _ = writeln!(text, "  metrics                  http://{metrics}");
    }
    if let Some(http) = hosted.first().and_then(|one| one.http) {
        let _ = write!(
            text,
            "\n  Try:  curl -X POST http://{http}/v1.0/state/statestore \\\n\
             \x20            -H 'content-type: application/json' \\\n\
             \x20            -d '[{{\"key\":\"greeting\",\"value\":\"hello\"}}]'\n\
             \x20       curl http://{http}/v1.0/state/statestore/greeting\n\n"
        );
    }
    // A closed standard output must not end the gateway.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

fn start_command(
    command: &[std::ffi::OsString],
    hosted: Option<&Hosted>,
    metrics: Option<SocketAddr>,
) -> Result<Option<Process>, String> {
    if command.is_empty() {
        return Ok(None);
    }
    let Some(hosted) = hosted else { return Err("there is no app to start".into()) };
    let app_port = hosted.app.channel.as_ref().map(|channel| channel.plan().port);
    let variables = variables(&hosted.app.id, hosted.http, app_port, metrics);
    let process = Process::start(command, &variables)?;
    if let Some(pid) = process.pid() {
        hosted.app.extend("appPID", &pid.to_string());
    }
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    hosted.app.extend("appCommand", &words.join(" "));
    Ok(Some(process))
}

/// The variables by which SDKs and apps find us.
fn variables(
    app_id: &str,
    http: Option<SocketAddr>,
    app_port: Option<u16>,
    metrics: Option<SocketAddr>,
) -> Vec<(&'static str, String)> {
    let mut variables = vec![("APP_ID", app_id.to_owned())];
    if let Some(http) = http {
        variables.push(("DAPR_HTTP_PORT", http.port().to_string()));
        variables.push(("DAPR_HTTP_ENDPOINT", format!("http://{http}")));
    }
    if let Some(port) = app_port {
        variables.push(("APP_PORT", port.to_string()));
        variables.push(("APP_PROTOCOL", "http".to_owned()));
    }
    if let Some(metrics) = metrics {
        variables.push(("DAPR_METRICS_PORT", metrics.port().to_string()));
    }
    variables
}

/// Why the process ends.
enum Reason {
    Asked(Exit),
    CommandEnded(u8),
}

impl Running {
    /// Serves until a reason to end, then stops in order. Gives the exit code.
    async fn run(mut self, mut signals: Signals) -> Result<u8, String> {
        let reason = self.reason(&mut signals).await;
        let code = match reason {
            Reason::Asked(Exit::Forced) => {
                tracing::warn!(
                    "Force shutdown requested, exiting immediately without graceful shutdown"
                );
                // The answer to the request goes out first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Ok(1);
            }
            Reason::Asked(Exit::Graceful) => 0,
            Reason::CommandEnded(code) => code,
        };
        systemd::notify("STOPPING=1");
        if self.stop(&mut signals).await { Ok(code) } else { Ok(1) }
    }

    async fn reason(&mut self, signals: &mut Signals) -> Reason {
        let period = systemd::watchdog_period();
        let mut watchdog = tokio::time::interval(period.unwrap_or(Duration::from_secs(3600)));
        loop {
            tokio::select! {
                told = signals.next() => {
                    if told == Told::End || self.form == Form::Run {
                        return Reason::Asked(Exit::Graceful);
                    }
                    tracing::warn!("SIGHUP: this build reads its resources only at the start");
                }
                Some(exit) = self.exit.recv() => {
                    tracing::info!("Shutdown requested via API");
                    return Reason::Asked(exit);
                }
                code = ended(&mut self.command) => return Reason::CommandEnded(code),
                _ = watchdog.tick(), if period.is_some() => systemd::notify("WATCHDOG=1"),
            }
        }
    }

    /// Deliveries and links first, then the app, then the listeners, then storage. `false` when
    /// the time ran out.
    async fn stop(mut self, signals: &mut Signals) -> bool {
        self.intake.tell();
        if let Some(duration) = self.block_shutdown {
            self.keep_serving(duration, signals).await;
        }
        let deadline = Instant::now() + self.gateway.limits.drain_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let taken_in = self.intake.drained(left()).await;
        let rested = self.host.blocks.bindings.rest(left()).await;
        if let Some(command) = self.command.take() {
            command.stop().await;
        }
        // The host keeps a sender of this channel and the parts keep the host.
        drop(self.host);
        let served = self.serving.drained(left()).await;
        let closed = self.storage.close().await;
        if let Err(error) = &closed {
            tracing::error!("closing storage: {error}");
        }
        if taken_in && rested && served && closed.is_ok() {
            tracing::info!("Daprd shutdown gracefully");
            return true;
        }
        tracing::error!("Graceful shutdown timeout exceeded, forcing shutdown");
        false
    }

    async fn keep_serving(&self, duration: Duration, signals: &mut Signals) {
        tracing::info!(
            "Blocking graceful shutdown for {duration:?} or until app reports unhealthy..."
        );
        let apps = self.host.apps.all();
        let unhealthy = async {
            match apps.first().and_then(|app| app.channel.as_ref()) {
                Some(channel) => {
                    let _ = channel.healthy().wait_for(|healthy| !*healthy).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(duration) => {
                tracing::info!("Block shutdown period expired, entering shutdown...");
            }
            () = unhealthy => {
                tracing::info!("App reported unhealthy, entering shutdown...");
            }
            _ = signals.next() => {}
        }
    }
}

async fn ended(command: &mut Option<Process>) -> u8 {
    match command {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

async fn join_running(start: &Start) -> Result<Option<Joined>, String> {
    match (&start.plan.gateway.storage.data_dir, start.plan.apps.first()) {
        (Some(data_dir), Some(app)) => join::join(data_dir, app).await,
        _ => Ok(None),
    }
}

/// Our app is served by the process that was there first; we only hold its place and run its
/// command.
async fn run_joined(start: Start, mut joined: Joined, mut signals: Signals) -> Result<u8, String> {
    tracing::info!("joined the pillion that is already running as app {}", joined.app_id);
    if let Some(http) = joined.http {
        let text = format!("\n  HTTP API of {:<12} http://{http} (joined)\n\n", joined.app_id);
        let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    }
    let app_port = start.plan.apps.first().and_then(|app| app.channel.as_ref()).map(|c| c.port);
    let mut command = if start.command.is_empty() {
        None
    } else {
        let variables = variables(&joined.app_id, joined.http, app_port, None);
        Some(Process::start(&start.command, &variables)?)
    };
    let code = tokio::select! {
        _ = signals.next() => 0,
        () = joined.ended() => {
            tracing::error!("the pillion that served this app has ended");
            1
        }
        code = ended(&mut command) => code,
    };
    if let Some(command) = command {
        command.stop().await;
    }
    Ok(code)
}

/// The signals that end or nudge the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Hangup,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot take signals: {error}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel safe.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hangup.recv() => Told::Hangup,
        }
    }
}
