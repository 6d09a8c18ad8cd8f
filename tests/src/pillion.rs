//! The real binary as a process of its own.

use crate::app::App;
use crate::http::{Answer, Request};
use crate::tool::words;
use crate::until;
use bytes::Bytes;
use hyper::Method;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most log text kept of one process.
const LOG_BYTES_MAX: usize = 4 << 20;

/// What to start and with what around it.
#[derive(Debug)]
pub struct Setup {
    dir: TestDir,
    app_port: Option<u16>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// daprd's form with `--app-id app1`, free ports and an empty resources directory.
    pub fn new() -> Self {
        let dir = TestDir::new();
        fs::create_dir(dir.path().join("resources")).expect("a writable test directory");
        Self { dir, app_port: None, args: Vec::new(), env: Vec::new() }
    }

    /// The folder of the test; resources lie in `resources` below it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The app that is called.
    #[must_use]
    pub fn app(mut self, app: &App) -> Self {
        self.app_port = Some(app.port);
        self
    }

    /// Writes a resource file.
    #[must_use]
    pub fn resource(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join("resources").join(name), text).expect("a writable file");
        self
    }

    /// Writes a file beside the resources, or in a folder there.
    #[must_use]
    pub fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        fs::write(path, text).expect("a writable file");
        self
    }

    /// Writes and names a configuration.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        let path = self.dir.path().join("config.yaml").display().to_string();
        self.file("config.yaml", text).args(["--config", &path])
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable; the environment is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it is ready, its app included.
    pub async fn start(self) -> Pillion {
        let mut pillion = self.spawn();
        pillion.ready("/v1.0/healthz").await;
        pillion
    }

    /// Starts it without waiting.
    pub fn spawn(self) -> Pillion {
        let (port, metrics_port, grpc_port) = (free_port(), free_port(), free_port());
        let resources = self.dir.path().join("resources").display().to_string();
        let mut command = command(["--app-id", "app1", "--resources-path", &resources]);
        command
            .args(["--dapr-http-port", &port.to_string()])
            .args(["--dapr-grpc-port", &grpc_port.to_string()])
            .args(["--metrics-port", &metrics_port.to_string()]);
        if let Some(app_port) = self.app_port {
            command.args(["--app-port", &app_port.to_string()]);
        }
        command.args(&self.args).env_clear().envs(self.env);
        Pillion::spawn(command, port, metrics_port, self.dir)
    }
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Pillion {
    /// Port of the HTTP API.
    pub port: u16,
    /// Port of the metrics.
    pub metrics_port: u16,
    child: Child,
    log: Arc<Mutex<String>>,
    dir: TestDir,
}

impl Pillion {
    /// daprd's form with these arguments added to those of [`Setup::new`], ready to be asked.
    pub async fn start<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Self {
        Setup::new().args(args).start().await
    }

    /// Runs any command of the binary whose HTTP API will be at `port`.
    pub fn spawn(mut command: Command, port: u16, metrics_port: u16, dir: TestDir) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::<Mutex<String>>::default();
        keep_log(child.stdout.take(), log.clone());
        keep_log(child.stderr.take(), log.clone());
        Self { port, metrics_port, child, log, dir }
    }

    /// The folder of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until this path is answered with 204; panics with the log if the process ends.
    pub async fn ready(&mut self, path: &str) {
        let port = self.port;
        let log = self.log.clone();
        let child = Mutex::new(&mut self.child);
        until(
            &format!("{path} of\n{}", log.lock().unwrap_or_else(PoisonError::into_inner)),
            || {
                let ended = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
                let log = log.clone();
                async move {
                    if let Ok(Some(status)) = ended {
                        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
                        panic!("ended with {status} before it was ready:\n{log}");
                    }
                    let answer = Request::new(Method::GET, path).send(port).await;
                    answer.ok().filter(|answer| answer.status == 204)
                }
            },
        )
        .await;
    }

    /// Sends a request; panics with the log if there is no answer.
    pub async fn send(&self, request: Request) -> Answer {
        let what = format!("{} {}", request.method, request.path);
        let answer = request.send(self.port).await;
        answer.unwrap_or_else(|error| panic!("{what}: {error}\n{}", self.log()))
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::new(Method::GET, path)).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::new(Method::POST, path).header("content-type", "application/json");
        self.send(request.body(body)).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::new(Method::PUT, path).header("content-type", "application/json");
        self.send(request.body(body)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::new(Method::DELETE, path)).await
    }

    /// The metrics as text.
    pub async fn metrics(&self) -> String {
        let answer = Request::new(Method::GET, "/metrics").send(self.metrics_port).await;
        answer.unwrap_or_else(|error| panic!("metrics: {error}\n{}", self.log())).text()
    }

    /// Waits until a durable queue whose name begins so exists: what is published before is wanted
    /// by nobody, and not stored.
    pub async fn has_queue(&self, consumer: &str) {
        let label = format!("consumer=\"{consumer}");
        until(&format!("the queue {consumer}\n{}", self.log()), || async {
            self.metrics().await.contains(&label).then_some(())
        })
        .await;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes numbers only, and the child has not been waited for, so that its id
        // is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// How the process ended, if it has.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        until("the end of the process", || {
            let ended = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            std::future::ready(ended.expect("a child of ours"))
        })
        .await
    }

    /// SIGTERM, then the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.ended().await
    }
}

impl Drop for Pillion {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep_log(stream: Option<impl Read + Send + 'static>, log: Arc<Mutex<String>>) {
    let Some(stream) = stream else { return };
    // Ends with the process, which closes its end.
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() + line.len() < LOG_BYTES_MAX {
                log.push_str(&line);
                log.push('\n');
            }
        }
    });
}

/// `PILLION_BIN`, else the binary of the same build as the test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PILLION_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().find(|dir| dir.join("pillion").is_file());
    let profile = profile.unwrap_or_else(|| {
        panic!("no pillion beside {}: build it (cargo build) or set PILLION_BIN", test.display())
    });
    profile.join("pillion")
}

/// The words of `PILLION_UNDER`, such as `qemu-aarch64-static`: the program that runs the binary,
/// where this machine cannot.
pub fn under() -> Vec<String> {
    words(&std::env::var("PILLION_UNDER").unwrap_or_default())
}

/// The words that start the binary.
pub fn command_words() -> Vec<String> {
    let mut words = under();
    words.push(binary().display().to_string());
    words
}

/// The binary with these arguments.
pub fn command<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let words = command_words();
    let (program, before) = words.split_first().expect("the binary at least");
    let mut command = Command::new(program);
    command.args(before).args(arguments);
    command
}

/// Whether the binary was built with a feature: it says so itself.
pub fn has_feature(name: &str) -> bool {
    let output = command(["version"]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split([',', ';', '(']).any(|word| word.trim() == name)
}

/// Figures are promised of the release build, run by the machine itself; others only print them.
pub fn is_measured() -> bool {
    under().is_empty() && binary().components().any(|part| part.as_os_str() == "release")
}

/// A TCP port that nobody has now, and that was not given to anybody of this process before: two
/// listeners of one command line must not get the same.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// A directory of a test, removed at its end.
#[derive(Debug)]
pub struct TestDir(PathBuf);

impl TestDir {
    /// A new empty directory.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pillion-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // What a killed test of the same process id left behind.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a writable temporary directory");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for TestDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
