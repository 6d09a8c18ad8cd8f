//! The processes that are measured: the release binary, and this one as a bare server.

use crate::load::{self, request};
use crate::{Result, sys};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time for a process to become ready; valgrind is slow.
const READY: Duration = Duration::from_secs(60);
/// Time for draining after SIGTERM.
const DRAINED: Duration = Duration::from_secs(30);

/// The release binary: `PILLION_BIN`, else the one in `target/release`, built if missing.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PILLION_BIN") {
        return Ok(PathBuf::from(path));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let path = target.join("release/pillion");
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--release", "-p", "pillion"])
            .current_dir(&root)
            .status()?;
        if !built.success() {
            return Err("the release binary could not be built".into());
        }
    }
    Ok(path.canonicalize()?)
}

/// Where data directories are made: beside the build, which is on a disk; never a tmpfs.
pub(crate) fn scratch_root() -> PathBuf {
    std::env::var_os("BENCH_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// A directory of its own that is removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = scratch_root().join(format!("bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        let path = path.canonicalize()?;
        if crate::machine::filesystem_of(&path) == "tmpfs" {
            return Err(format!("{} is a tmpfs: set BENCH_DIR to a disk", path.display()).into());
        }
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is a file under target; nothing to do about it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    /// Time from the start to the first 2xx of the health endpoint.
    pub(crate) ready_after: Duration,
}

/// Where a process may run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the last CPU, away from the load where there is another one.
    Apart,
    /// On the first CPU, with the load and the app.
    WithLoad,
    /// Where the kernel puts it.
    Anywhere,
}

impl Place {
    fn cpus(self) -> std::ops::Range<usize> {
        match (self, sys::cpus()) {
            (Place::Apart, cpus) => cpus - 1..cpus,
            (Place::WithLoad, _) => 0..1,
            (Place::Anywhere, cpus) => 0..cpus,
        }
    }
}

/// How to start Pillion.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    /// Command to run it under, with its arguments.
    pub(crate) under: &'a [String],
    pub(crate) place: Place,
}

impl Start<'_> {
    fn command(&self, program: &Path) -> Command {
        match self.under.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

impl From<Place> for Start<'_> {
    fn from(place: Place) -> Self {
        Self { under: &[], place }
    }
}

/// Components beside the embedded defaults: those that keep nothing.
const IN_MEMORY: &str = "\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: memstore}
spec: {type: state.in-memory, version: v1, metadata: []}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: mempubsub}
spec: {type: pubsub.in-memory, version: v1, metadata: []}
";

impl Process {
    /// Pillion with embedded defaults and the in-memory components, data below `dir`, calling `app`.
    pub(crate) fn pillion<'a>(
        binary: &Path,
        dir: &Path,
        app: SocketAddr,
        start: impl Into<Start<'a>>,
    ) -> Result<Self> {
        let start = start.into();
        let resources = dir.join("resources");
        fs::create_dir_all(&resources)?;
        fs::write(resources.join("in-memory.yaml"), IN_MEMORY)?;
        let (http, mqtt, metrics, grpc) =
            (free_address()?, free_address()?, free_address()?, free_address()?);
        let mut command = start.command(binary);
        command
            .args(["run", "--app-id", "bench", "--log-level", "warn"])
            .args(["--app-port", &app.port().to_string()])
            .args(["--dapr-http-port", &http.port().to_string()])
            .args(["--dapr-grpc-port", &grpc.port().to_string()])
            .args(["--metrics-port", &metrics.port().to_string()])
            .args(["--mqtt-listen", &mqtt.to_string()])
            .arg("--resources-path")
            .arg(&resources)
            .arg("--data-dir")
            .arg(dir.join("data"));
        let health = request("GET", "/v1.0/healthz", "");
        Self::start(command, http, mqtt, start.place, &health)
    }

    /// This program as a bare server.
    pub(crate) fn bare<'a>(
        kind: &str,
        app: Option<SocketAddr>,
        start: impl Into<Start<'a>>,
    ) -> Result<Self> {
        let start = start.into();
        let address = free_address()?;
        let mut command = start.command(&std::env::current_exe()?);
        command.arg(format!("serve-{kind}")).arg(address.port().to_string());
        if let Some(app) = app {
            command.arg(app.port().to_string());
        }
        Self::start(command, address, address, start.place, &request("GET", "/", ""))
    }

    fn start(
        mut command: Command,
        http: SocketAddr,
        mqtt: SocketAddr,
        place: Place,
        health: &[u8],
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let own = place.cpus();
        // SAFETY: the closure only makes a system call, which is allowed between fork and exec.
        unsafe { command.pre_exec(move || sys::pin(own.clone())) };
        let started = Instant::now();
        let child = command.spawn()?;
        let mut process = Self { child, http, mqtt, ready_after: Duration::ZERO };
        while started.elapsed() < READY {
            if let Some(status) = process.child.try_wait()? {
                return Err(format!("{command:?} ended at once: {status}").into());
            }
            if load::once(http, health).is_ok_and(|(status, _)| (200..300).contains(&status)) {
                process.ready_after = started.elapsed();
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("{command:?} was not ready within {READY:?}").into())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far, over all threads.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        sys::cpu_of(self.pid())
    }

    /// Memory that is resident, in bytes.
    pub(crate) fn rss(&self) -> Result<u64> {
        Ok(self.number("status", "VmRSS:")? * 1024)
    }

    /// Bytes sent to the disk so far.
    pub(crate) fn written(&self) -> Result<u64> {
        self.number("io", "write_bytes:")
    }

    fn number(&self, file: &str, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        Ok(number.ok_or_else(|| format!("{file} has no {name}"))?.parse()?)
    }

    /// Ends it as an operator would and waits for it.
    pub(crate) fn stop(mut self) -> Result<()> {
        sys::terminate(self.pid());
        let asked = Instant::now();
        while asked.elapsed() < DRAINED {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("the process did not end after SIGTERM".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens at right now.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
