//! The pillion that runs with these resources or this data directory, if one does.

use super::system::Root;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for an answer of a listener on this machine.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of such an answer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// A process.
pub(super) struct Running {
    pub(super) pid: u32,
    /// The user it runs as.
    pub(super) uid: u32,
    /// That user's group.
    pub(super) gid: u32,
    /// Seconds since it started.
    pub(super) uptime_s: Option<u64>,
}

/// Finds it by the lock of the data directory, else by its command line. The lock is looked up
/// among the kernel's, not tried: a try could be in the way of a service that is just starting.
pub(super) fn find(root: &Root, data_dir: Option<&Path>, dir: &Path) -> Option<Running> {
    let by_lock = data_dir.and_then(|data_dir| lock_holder(root, data_dir));
    let by_words = || {
        let pids = root.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
        pids.into_iter().find(|pid| *pid != std::process::id() && serves(root, *pid, dir))
    };
    let pid = by_lock.or_else(by_words)?;
    let process = std::fs::metadata(root.path(&format!("proc/{pid}"))).ok()?;
    let (uid, gid) = (process.uid(), process.gid());
    Some(Running { pid, uid, gid, uptime_s: uptime_s(root, pid) })
}

/// ```text
/// 1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF
/// ```
fn lock_holder(root: &Root, data_dir: &Path) -> Option<u32> {
    let lock = std::fs::metadata(data_dir.join("lock")).ok()?.ino();
    let end = format!(":{lock}");
    let locks = root.read("proc/locks")?;
    let pids = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_lock = words.next()? == "FLOCK";
        let (pid, file) = (words.nth(2)?, words.next()?);
        (is_lock && file.ends_with(&end)).then(|| pid.parse::<u32>().ok())?
    });
    // Another file system may have a file of the same number.
    let is_pillion = |pid: &u32| program(root, *pid).is_some_and(|name| name.contains("pillion"));
    pids.into_iter().find(is_pillion)
}

/// Name of a process's program.
pub(super) fn program(root: &Root, pid: u32) -> Option<String> {
    root.read(&format!("proc/{pid}/comm"))
}

/// Whether a process is `… serve DIR …`.
pub(super) fn serves(root: &Root, pid: u32, dir: &Path) -> bool {
    let words = command_line(root, pid);
    let its_dir = |word: &String| {
        let path = Path::new(word);
        path == dir
            || (path.is_absolute() && dir.canonicalize().is_ok_and(|dir| path == dir.as_path()))
    };
    words.iter().any(|word| word == "serve") && words.iter().any(its_dir)
}

fn command_line(root: &Root, pid: u32) -> Vec<String> {
    let text = root.read(&format!("proc/{pid}/cmdline")).unwrap_or_default();
    text.split('\0').map(str::to_owned).collect()
}

/// Seconds since a process started. Its name, in brackets, may hold blanks.
fn uptime_s(root: &Root, pid: u32) -> Option<u64> {
    let text = root.read(&format!("proc/{pid}/stat"))?;
    let (_, after_name) = text.rsplit_once(')')?;
    let started: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    // SAFETY: sysconf only reads a constant of the system.
    let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    root.uptime_s()?.checked_sub(started.checked_div(ticks)?)
}

impl Running {
    /// Its environment, where this user may see it; see [`variable`].
    pub(super) fn environment(&self, root: &Root) -> Option<String> {
        root.read(&format!("proc/{}/environ", self.pid))
    }

    /// Its `--data-dir`.
    pub(super) fn data_dir_flag(&self, root: &Root) -> Option<PathBuf> {
        let words = command_line(root, self.pid);
        let after = |words: &[String]| match words {
            [flag, value] if flag.trim_start_matches('-') == "data-dir" => Some(value.clone()),
            _ => None,
        };
        let by_flag = words.windows(2).find_map(after).or_else(|| {
            let attached = |word: &String| word.strip_prefix("--data-dir=").map(str::to_owned);
            words.iter().find_map(attached)
        });
        by_flag.map(PathBuf::from)
    }
}

/// A variable in the environment of a process.
pub(super) fn variable(environment: &str, name: &str) -> Option<String> {
    let value = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    environment.split('\0').find_map(value)
}

/// `GET` of a listener on this machine: status and body.
pub(super) fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect_timeout(&reachable(address), ASK_TIMEOUT).ok()?;
    socket.set_read_timeout(Some(ASK_TIMEOUT)).ok()?;
    socket.set_write_timeout(Some(ASK_TIMEOUT)).ok()?;
    let token = token.map(|token| format!("dapr-api-token: {token}\r\n")).unwrap_or_default();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{token}connection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// An address of this machine by which a listener on all addresses is reached.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        other => other,
    }
}
