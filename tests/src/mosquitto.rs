//! A real mosquitto as the broker elsewhere, which can be stopped and started again.

use crate::pillion::{TestDir, free_port};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

/// A broker at a fixed port that keeps its sessions on disk.
#[derive(Debug)]
pub struct Mosquitto {
    /// Its port.
    pub port: u16,
    dir: TestDir,
    child: Option<Child>,
}

impl Default for Mosquitto {
    fn default() -> Self {
        Self::new()
    }
}

impl Mosquitto {
    /// A broker that is not running yet.
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same with further lines in its configuration, which end with a line's end.
    pub fn with(lines: &str) -> Self {
        let dir = TestDir::new();
        let port = free_port();
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {}/\nset_tcp_nodelay true\n\
             max_queued_messages 0\nmax_inflight_messages 200\nuser root\nlog_type error\n{lines}",
            dir.path().display()
        );
        fs::write(dir.path().join("mosquitto.conf"), text).expect("a writable file");
        Self { port, dir, child: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts it and waits until it accepts.
    pub async fn start(&mut self) {
        let config = self.dir.path().join("mosquitto.conf");
        let spawn = |program: &str| {
            Command::new(program).arg("-c").arg(&config).stdin(Stdio::null()).spawn()
        };
        let child = spawn("mosquitto").or_else(|_| spawn("/usr/sbin/mosquitto"));
        self.child = Some(child.expect("mosquitto is installed: apt-get install mosquitto"));
        let address = self.address();
        crate::until("mosquitto's port", || async {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// Ends it so that it writes down its sessions.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = i32::try_from(child.id()).expect("a process id");
        // SAFETY: kill takes numbers only, and the child has not been waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        child.wait().expect("a child of ours");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}
