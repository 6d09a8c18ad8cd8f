//! A release on trial as our child: watched through the datagrams of `sd_notify(3)`, which go on to
//! the real service manager, and through its end. One thread, one `poll`.

use super::judge::{Judge, Limits, Seen, Verdict};
use super::{FORMAT_MAX, NOTE, say};
use crate::daemon::systemd;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Largest datagram that is understood; systemd's own are far below.
const DATAGRAM_BYTES_MAX: usize = 4 << 10;

/// Time between two attempts to write a confirmation to a disk that takes nothing now.
const CONFIRM_AGAIN: Duration = Duration::from_secs(30);

/// What a service manager is given beyond the times of the trial to start the confirmed release.
const START_AGAIN: Duration = Duration::from_secs(60);

/// What to start and what is asked of it.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) binary: PathBuf,
    pub(super) arguments: &'a [OsString],
    /// Where the child's datagrams arrive.
    pub(super) socket: PathBuf,
    pub(super) limits: Limits,
    /// Newest storage format that its predecessor opens.
    pub(super) format_max: u32,
    pub(super) note: String,
}

/// How a trial ended.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// It does not work; it is gone.
    Failed(String),
    /// It stopped on request, with this exit code; see [`Verdict::Stopped`].
    Stopped { code: u8, counts: bool },
    /// It was confirmed, and ended some time later with this exit code.
    Left(u8),
}

/// Starts it and judges it. `confirm` is called once it has passed, and again for as long as it
/// fails; then this process stays between it and the service manager until it ends.
pub(super) fn run(start: &Start<'_>, mut confirm: impl FnMut() -> io::Result<()>) -> Outcome {
    let begun = Instant::now();
    let patience = start.limits.ready + START_AGAIN;
    systemd::notify(&format!(
        "EXTEND_TIMEOUT_USEC={}\nSTATUS={}",
        patience.as_micros(),
        start.note
    ));
    let mut watched = match Watched::start(start) {
        Ok(watched) => watched,
        Err(error) => return Outcome::Failed(format!("it cannot be started: {error}")),
    };
    let mut judge = Judge::new(start.limits);
    let mut not_before = Duration::ZERO;
    loop {
        let next = judge.next_look().map(|at| at.max(not_before));
        watched.wait(next.map(|at| at.saturating_sub(begun.elapsed())));
        let mut verdict = None;
        for seen in watched.seen() {
            verdict = judge.see(begun.elapsed(), &seen);
        }
        let now = begun.elapsed();
        match verdict.or_else(|| judge.look(now)) {
            None => {}
            Some(Verdict::Confirm) if now < not_before => {}
            Some(Verdict::Confirm) => match confirm() {
                Ok(()) => judge.confirmed(),
                Err(error) => {
                    say(format_args!("it works, and that cannot be written down yet: {error}"));
                    not_before = now + CONFIRM_AGAIN;
                }
            },
            Some(Verdict::Fail(reason)) => {
                watched.kill();
                return Outcome::Failed(reason);
            }
            Some(Verdict::Stopped { counts }) => {
                return Outcome::Stopped { code: watched.code(), counts };
            }
            Some(Verdict::Left) => return Outcome::Left(watched.code()),
        }
    }
}

/// The child, and where we hear of it.
struct Watched {
    child: Child,
    status: Option<ExitStatus>,
    socket: UnixDatagram,
    path: PathBuf,
    signals: Signals,
}

impl Watched {
    fn start(start: &Start<'_>) -> io::Result<Self> {
        let path = start.socket.clone();
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        let signals = Signals::take()?;
        // Often enough for us, and for the service manager that hears it from us.
        let silence = start.limits.silence();
        let manager = systemd::watchdog_period().map_or(silence, |half| 2 * half);
        let watchdog = silence.min(manager).as_micros();
        let mut command = Command::new(&start.binary);
        command
            .args(start.arguments)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", watchdog.to_string())
            .env_remove("WATCHDOG_PID")
            .env(FORMAT_MAX, start.format_max.to_string())
            .env(NOTE, &start.note);
        end_with_parent(&mut command, signals.before);
        let child = command.spawn()?;
        Ok(Self { child, status: None, socket, path, signals })
    }

    /// Waits until something happened, for at most `time`.
    fn wait(&self, time: Option<Duration>) {
        // Rounded up: looking at the clock too early would be looking again and again.
        let ms = time.map_or(-1, |time| i32::try_from(time.as_millis() + 1).unwrap_or(i32::MAX));
        let of = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [of(self.socket.as_raw_fd()), of(self.signals.file.as_raw_fd())];
        // SAFETY: the array outlives the call, and its length is given.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, ms) };
    }

    /// What happened since the last call: words first, then signals, then the end.
    fn seen(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        while let Ok(len) = self.socket.recv(&mut datagram) {
            let text = datagram.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
            let lines = text.unwrap_or_default().lines().filter(|line| is_forwarded(line));
            let forwarded: Vec<&str> = lines.collect();
            if !forwarded.is_empty() {
                systemd::notify(&forwarded.join("\n"));
            }
            seen.push(if forwarded.contains(&"READY=1") { Seen::Ready } else { Seen::Alive });
        }
        while let Some(signal) = self.signals.next() {
            if signal == libc::SIGCHLD {
                continue;
            }
            if signal != libc::SIGHUP {
                seen.push(Seen::AskedToStop);
            }
            self.signal(signal);
        }
        match self.child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                self.status = Some(status);
                seen.push(Seen::Ended(status.to_string()));
            }
            Err(error) => seen.push(Seen::Ended(error.to_string())),
        }
        seen
    }

    fn signal(&self, signal: i32) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // SAFETY: kill has no memory to misuse; the child is not reaped yet, so its id is its
            // own.
            unsafe { libc::kill(pid, signal) };
        }
    }

    fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The exit code for ours: its own, or 128 plus the signal that ended it.
    fn code(&self) -> u8 {
        let of = |status: ExitStatus| status.code().or(status.signal().map(|signal| 128 + signal));
        self.status.and_then(of).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a child may tell the service manager. Not `MAINPID` and the like: this process stays.
fn is_forwarded(line: &str) -> bool {
    let known = ["READY=1", "WATCHDOG=1", "STOPPING=1"];
    known.contains(&line) || line.starts_with("STATUS=") || line.starts_with("EXTEND_TIMEOUT_USEC=")
}

/// Signals as something to read, instead of as interruptions. Dropping it gives them back.
struct Signals {
    file: File,
    before: libc::sigset_t,
}

impl Signals {
    fn take() -> io::Result<Self> {
        // SAFETY: a signal set is plain numbers; each call gets sets that live on this frame, and
        // the descriptor is new and nobody else's.
        unsafe {
            let mut wanted: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut wanted);
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&mut wanted, signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &wanted, &mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                let error = io::Error::last_os_error();
                libc::sigprocmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
                return Err(error);
            }
            Ok(Self { file: File::from_raw_fd(fd), before })
        }
    }

    /// The next signal that came, if one did.
    fn next(&self) -> Option<i32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let mut file = &self.file;
        file.read_exact(&mut info).ok()?;
        let (number, _) = info.split_first_chunk::<4>()?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel gave us.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Lets the kernel kill the child when this process ends, however it does: a child without its
/// launcher would hold the data directory. Storage is made for that.
fn end_with_parent(command: &mut Command, signals: libc::sigset_t) {
    let parent = std::process::id();
    let set = move || {
        // SAFETY: these calls only set and read properties of the calling process, and are safe
        // between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                || libc::sigprocmask(libc::SIG_SETMASK, &signals, std::ptr::null_mut()) != 0
            {
                return Err(io::Error::last_os_error());
            }
            // It may have ended before the kernel was asked.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and touches no memory of the parent.
    unsafe { command.pre_exec(set) };
}

/// Where a child's datagrams arrive.
pub(super) fn socket_in(slots: &Path) -> PathBuf {
    slots.join("notify")
}
