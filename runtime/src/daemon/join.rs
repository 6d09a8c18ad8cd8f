//! A second `pillion run` joins the first: its app is served by the process that has the data.
//!
//! The first listens on a unix socket in the data directory. The second sends one line of JSON
//! ([`Request`]), gets one back ([`Answer`]), and holds the connection while its app runs. When
//! the connection ends, the first takes the app out; when the first ends, the second's app does.

use super::hosting::{Drains, Host};
use crate::drain::{self, Drain};
use crate::resources::{AppPlan, ChannelPlan, HealthPlan};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Longest line of either side in bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Time for the other side's line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the second process asks for. A field that this version does not know is refused, so that
/// two versions never misunderstand each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    version: String,
    app_id: String,
    namespace: String,
    listen: Vec<SocketAddr>,
    api_token: Option<String>,
    channel: Option<ChannelRequest>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelRequest {
    host: String,
    port: u16,
    tls: bool,
    max_concurrency: Option<usize>,
    token: Option<String>,
    health: Option<HealthRequest>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthRequest {
    path: String,
    interval_ms: u64,
    timeout_ms: u64,
    threshold: u32,
}

/// What the first process says to that.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Joined { app_id: String, http: Option<SocketAddr> },
    Refused(String),
}

/// Where the first process listens.
pub(super) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("run.socket")
}

/// A place in another process.
pub(super) struct Joined {
    pub(super) app_id: String,
    pub(super) http: Option<SocketAddr>,
    connection: BufReader<UnixStream>,
}

impl Joined {
    /// Resolves when the other process ends. Cancel safe.
    pub(super) async fn ended(&mut self) {
        // The other side sends nothing more; what arrives is the end.
        let _ = self.connection.fill_buf().await;
    }
}

/// Asks the process that has `data_dir`, if there is one, to serve this app. `Ok(None)`: nobody
/// answers there.
pub(super) async fn join(data_dir: &Path, plan: &AppPlan) -> Result<Option<Joined>, String> {
    let path = socket_path(data_dir);
    let Ok(mut socket) = UnixStream::connect(&path).await else { return Ok(None) };
    let failed = |error: io::Error| {
        format!("the pillion that has {} did not answer: {error}", data_dir.display())
    };
    let request = Request {
        version: crate::version::version().into(),
        app_id: plan.id.clone(),
        namespace: plan.namespace.clone(),
        listen: plan.listen.clone(),
        api_token: plan.api_token.clone(),
        channel: plan.channel.as_ref().map(ChannelRequest::from),
    };
    send(&mut socket, &request).await.map_err(failed)?;
    let mut connection = BufReader::new(socket);
    match receive(&mut connection).await.map_err(failed)? {
        Answer::Joined { app_id, http } => Ok(Some(Joined { app_id, http, connection })),
        Answer::Refused(reason) => Err(reason),
    }
}

/// Serves joining apps until the process drains.
pub(super) async fn serve(listener: UnixListener, host: Host, mut drain: Drain) {
    loop {
        tokio::select! {
            () = drain.started() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    tokio::spawn(host_one(socket, host.clone(), drain.clone()));
                }
                Err(error) => {
                    tracing::warn!("run.socket: accept failed: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn host_one(socket: UnixStream, host: Host, mut drain: Drain) {
    let mut connection = BufReader::new(socket);
    let request = match receive::<Request>(&mut connection).await {
        Ok(request) => request,
        Err(error) => {
            let _ = send(connection.get_mut(), &Answer::Refused(error.to_string())).await;
            return;
        }
    };
    let (intake_end, intake) = drain::channel();
    let (serving_end, serving) = drain::channel();
    let drains = Drains { intake, serving };
    let hosted = match start(&host, request, &drains).await {
        Ok(hosted) => hosted,
        Err(reason) => {
            let _ = send(connection.get_mut(), &Answer::Refused(reason)).await;
            return;
        }
    };
    drop(drains);
    let answer = Answer::Joined { app_id: hosted.app.id.to_string(), http: hosted.http };
    if send(connection.get_mut(), &answer).await.is_ok() {
        tracing::info!("app {} joined", hosted.app.id);
        tokio::select! {
            () = drain.started() => {}
            _ = connection.fill_buf() => {}
        }
    }
    intake_end.drained(host.limits.drain_timeout).await;
    serving_end.drained(host.limits.drain_timeout).await;
    host.remove(&hosted.app);
    tracing::info!("app {} left", hosted.app.id);
}

/// Starts the app; where its port is taken, which is the rule for the default port, on a free one.
async fn start(
    host: &Host,
    request: Request,
    drains: &Drains,
) -> Result<super::hosting::Hosted, String> {
    let ours = crate::version::version();
    if request.version != ours {
        return Err(format!("the running pillion is version {ours}, not {}", request.version));
    }
    let mut plan = AppPlan::from(request);
    for address in &mut plan.listen {
        if tokio::net::TcpListener::bind(*address).await.is_err() {
            address.set_port(0);
        }
    }
    if host.apps.get(&plan.id).is_some() {
        plan.id = free_id(host, &plan.id);
    }
    host.start(plan, drains).await
}

/// `app` becomes `app-2`, `app-3`, …
fn free_id(host: &Host, taken: &str) -> String {
    (2..=u32::MAX)
        .map(|number| format!("{taken}-{number}"))
        .find(|id| host.apps.get(id).is_none())
        .unwrap_or_else(|| taken.to_owned())
}

async fn send(socket: &mut UnixStream, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    socket.write_all(&text).await
}

async fn receive<T: for<'a> Deserialize<'a>>(
    connection: &mut BufReader<UnixStream>,
) -> io::Result<T> {
    let mut line = Vec::new();
    let mut limited = connection.take(LINE_BYTES_MAX);
    tokio::time::timeout(LINE_TIMEOUT, limited.read_until(b'\n', &mut line)).await??;
    Ok(serde_json::from_slice(&line)?)
}

impl From<&ChannelPlan> for ChannelRequest {
    fn from(plan: &ChannelPlan) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            host: plan.host.clone(),
            port: plan.port,
            tls: plan.tls,
            max_concurrency: plan.max_concurrency,
            token: plan.token.clone(),
            health: plan.health.as_ref().map(|health| HealthRequest {
                path: health.path.clone(),
                interval_ms: millis(health.interval),
                timeout_ms: millis(health.timeout),
                threshold: health.threshold,
            }),
        }
    }
}

impl From<Request> for AppPlan {
    fn from(request: Request) -> Self {
        let app_id = request.app_id;
        let channel = request.channel.map(|channel| ChannelPlan {
            app_id: app_id.as_str().into(),
            host: channel.host,
            port: channel.port,
            tls: channel.tls,
            max_concurrency: channel.max_concurrency,
            token: channel.token,
            health: channel.health.map(|health| HealthPlan {
                path: health.path,
                interval: Duration::from_millis(health.interval_ms),
                timeout: Duration::from_millis(health.timeout_ms),
                threshold: health.threshold,
            }),
        });
        Self {
            id: app_id,
            namespace: request.namespace,
            listen: request.listen,
            api_token: request.api_token,
            channel,
            ..Self::default()
        }
    }
}
