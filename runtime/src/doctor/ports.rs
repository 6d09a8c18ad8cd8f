//! Listeners: free, held by the running service, or taken by somebody else. Nothing is bound: the
//! kernel's table of sockets is read.

use super::running;
use super::scene::Scene;
use super::system::Root;
use super::{Findings, Text, start, take};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for an app to accept a connection.
const APP_TIMEOUT: Duration = Duration::from_secs(2);

/// Most apps whose channel is tried.
const APPS_MAX: usize = 64;

/// A socket that listens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) address: SocketAddr,
    pub(super) uid: u32,
    pub(super) inode: u64,
}

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    let sockets = sockets(&scene.root);
    for (what, key, address) in listeners(scene) {
        listener(scene, &sockets, address, &format_args!("{what} at {address}"), key, out);
    }
    let mut asked = Vec::new();
    for channel in scene.plan.apps.iter().filter_map(|app| app.channel.clone()).take(APPS_MAX) {
        let name = format!("app {} at {}:{}", channel.app_id, channel.host, channel.port);
        let shown = name.clone();
        let job = move |out: &mut Findings| match answers(&channel.host, channel.port) {
            Ok(_) => out.ok(&name, &"answers"),
            Err(error) => out.warn(&name, &error, &NO_APP),
        };
        asked.push((shown, start(Box::new(job))));
    }
    let deadline = Instant::now() + APP_TIMEOUT;
    for (name, answer) in asked {
        if !take(&answer, deadline, out) {
            out.warn(&name, &"no answer in time", &NO_APP);
        }
    }
}

const NO_APP: &str = "start the app, or correct spec.channel.address";

fn answers(host: &str, port: u16) -> io::Result<()> {
    let mut last = ErrorKind::NotFound.into();
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, APP_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What listens where, and the key that changes it.
fn listeners(scene: &Scene) -> Vec<(String, &'static str, SocketAddr)> {
    let plan = &scene.plan;
    let mut found = Vec::new();
    for app in &plan.apps {
        let of_app = |address| (format!("HTTP API of {}", app.id), "App spec.listen.http", address);
        found.extend(app.listen.iter().copied().map(of_app));
    }
    let mut add = |what: &str, key, address: Option<SocketAddr>| {
        found.extend(address.map(|address| (what.to_owned(), key, address)));
    };
    if let Some(mqtt) = &plan.gateway.mqtt {
        add("MQTT", "Gateway spec.mqtt.listen", mqtt.listen);
        let tls = mqtt.tls.as_ref().map(|tls| tls.listen);
        add("MQTT over TLS", "Gateway spec.mqtt.tls.listen", tls);
    }
    add("metrics", "Gateway spec.metrics.listen", plan.gateway.metrics);
    found.retain(|(.., address)| address.port() != 0);
    found
}

fn listener(
    scene: &Scene,
    sockets: &[Socket],
    address: SocketAddr,
    name: Text<'_>,
    key: &str,
    out: &mut Findings,
) {
    if let Err(error) = UdpSocket::bind((address.ip(), 0))
        && error.kind() == ErrorKind::AddrNotAvailable
    {
        let advice = format_args!("write an address of this machine, or 0.0.0.0, in {key}");
        return out.fail(name, &"this machine has no such address", &advice);
    }
    let running = scene.running.as_ref();
    let holder = sockets.iter().find(|socket| is_in_the_way(socket.address, address));
    let (socket, running_pid) = match (holder, running.map(|running| running.pid)) {
        (Some(socket), pid) => (socket, pid),
        (None, None) => return out.ok(name, &"free"),
        (None, Some(pid)) => {
            let text = format_args!("the running pillion (pid {pid}) does not listen here");
            let advice = "restart it if its configuration has changed since it started";
            return out.warn(name, &text, &advice);
        }
    };
    let advice = format!("stop it, or choose another port in {key}");
    let Some(pid) = owner(&scene.root, socket.inode, running_pid) else {
        let uid = socket.uid;
        if running.is_some_and(|running| running.uid == uid) {
            return out.ok(name, &format_args!("held by a process of user {uid}, as pillion is"));
        }
        let text = format_args!("taken by a process of user {uid} that root can see");
        return out.fail(name, &text, &advice);
    };
    let is_ours = match running_pid {
        Some(running) => running == pid,
        None => running::serves(&scene.root, pid, &scene.asked.dir),
    };
    if is_ours {
        return out.ok(name, &format_args!("held by the running pillion (pid {pid})"));
    }
    let program = running::program(&scene.root, pid).unwrap_or_default();
    out.fail(name, &format_args!("taken by {program} (pid {pid})"), &advice);
}

/// Whether a socket that listens at `held` keeps another from listening at `wanted`.
fn is_in_the_way(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (one, other) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    let is_all_of =
        |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    held.port() == wanted.port() && (one == other || is_all_of(one, other) || is_all_of(other, one))
}

/// Every TCP socket of this network namespace that listens.
///
/// ```text
///   0: 0100007F:0DAC 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 12345 1 …
/// ```
pub(super) fn sockets(root: &Root) -> Vec<Socket> {
    const LISTEN: &str = "0A";
    let mut found = Vec::new();
    for table in ["proc/net/tcp", "proc/net/tcp6"] {
        let text = root.read(table).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let address = parse(words.next()?)?;
            let is_listening = words.nth(1)? == LISTEN;
            let uid = words.nth(3)?.parse().ok()?;
            let inode = words.nth(1)?.parse().ok()?;
            is_listening.then_some(Socket { address, uid, inode })
        }));
    }
    found
}

/// Words of 32 bits as this machine has them in memory, in hexadecimal.
fn parse(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = ip.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        _ => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?).into()
        }
    };
    Some((ip, port).into())
}

/// The process that has a socket, as far as this user may see it; `first` is looked at first.
fn owner(root: &Root, inode: u64, first: Option<u32>) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let fds = std::fs::read_dir(root.path(&format!("proc/{pid}/fd")));
        let mut targets = fds.into_iter().flatten().flatten();
        targets.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*wanted))
    };
    let all = root.names("proc").into_iter().filter_map(|name| name.parse().ok());
    first.into_iter().chain(all).find(has)
}
