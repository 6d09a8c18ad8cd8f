//! A real broker for tests: mosquitto on a free port, stopped, killed and started again at will.

#![allow(dead_code, reason = "each test file uses its part of this helper")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A directory that is gone with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-{}", pillion_components::env::uuid()));
        fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody listens at.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// One broker. Its sessions survive [`stop`](Broker::stop), as after a proper shutdown.
pub(crate) struct Broker {
    pub(crate) port: u16,
    pub(crate) dir: TempDir,
    config: String,
    running: Option<Child>,
}

impl Broker {
    /// A broker without passwords, not started yet.
    pub(crate) fn stopped() -> Self {
        Self::with("allow_anonymous true\n")
    }

    /// A running broker without passwords.
    pub(crate) fn started() -> Self {
        let mut broker = Self::stopped();
        broker.start();
        broker
    }

    /// A broker with `config` behind its listener, not started yet. `DIR` stands for its directory.
    pub(crate) fn with(config: &str) -> Self {
        let (port, dir) = (free_port(), TempDir::new());
        let path = dir.path().display().to_string();
        let config = format!(
            "listener {port} 127.0.0.1\npersistence true\npersistence_location {path}/\n\
             max_queued_messages 0\nset_tcp_nodelay true\nlog_type all\nlog_dest stderr\nuser root\n{}",
            config.replace("DIR", &path)
        );
        Self { port, dir, config, running: None }
    }

    /// Starts it and returns when it listens.
    pub(crate) fn start(&mut self) {
        assert!(
            Path::new(MOSQUITTO).exists(),
            "this test needs the broker mosquitto at {MOSQUITTO}: apt-get install mosquitto"
        );
        let file = self.dir.path().join("mosquitto.conf");
        fs::write(&file, &self.config).expect("the broker's configuration");
        let mut child = Command::new(MOSQUITTO)
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        let mut log = BufReader::new(child.stderr.take().expect("its log"));
        let mut seen = String::new();
        loop {
            let from = seen.len();
            let bytes = log.read_line(&mut seen).expect("its log");
            assert!(bytes > 0, "mosquitto ended: {seen}");
            if seen[from..].contains("running") {
                break;
            }
        }
        // Read on, or the broker would stop at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.running = Some(child);
    }

    /// Stops it properly: it writes down its sessions.
    pub(crate) fn stop(&mut self) {
        self.end(libc::SIGTERM);
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.end(libc::SIGKILL);
    }

    /// It holds its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// It goes on.
    pub(crate) fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn end(&mut self, signal: libc::c_int) {
        self.signal(signal);
        if let Some(mut child) = self.running.take() {
            child.wait().expect("it ends");
        }
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(child) = &self.running {
            let pid = libc::pid_t::try_from(child.id()).expect("a process id");
            // SAFETY: plain system call on a process of ours that has not been waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// `tcp://…`
    pub(crate) fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// A `mosquitto_sub` or `mosquitto_pub` that talks to this broker.
    pub(crate) fn client(&self, program: &str) -> Command {
        // `stdbuf -oL`: line by line even into a pipe.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program]);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command
    }

    /// Publishes with mosquitto's own client at QoS 1.
    pub(crate) fn publish(&self, topic: &str, payload: &str) {
        let status = self
            .client("mosquitto_pub")
            .args(["-q", "1", "-t", topic, "-m", payload])
            .status()
            .expect("mosquitto_pub runs: apt-get install mosquitto-clients");
        assert!(status.success());
    }

    /// Publishes each line as one message, over one connection.
    pub(crate) fn publish_lines(&self, topic: &str, lines: impl Iterator<Item = String>) {
        use std::io::Write;
        let mut child = self
            .client("mosquitto_pub")
            .args(["-q", "1", "-t", topic, "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub runs");
        let mut input = child.stdin.take().expect("its input");
        for line in lines {
            writeln!(input, "{line}").expect("it reads");
        }
        drop(input);
        assert!(child.wait().expect("it ends").success());
    }

    /// Subscribes with mosquitto's own client; the lines are `topic payload`. Returns once the
    /// subscription stands.
    pub(crate) fn subscriber(&self, filter: &str, count: usize) -> Subscriber {
        let mut child = self
            .client("mosquitto_sub")
            .args(["-q", "1", "-t", filter, "-d", "-C", &count.to_string(), "-F", "%r %t %p"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub runs: apt-get install mosquitto-clients");
        let mut lines = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        while !line.starts_with("Subscribed") {
            line.clear();
            assert!(lines.read_line(&mut line).expect("its output") > 0, "mosquitto_sub ended");
        }
        Subscriber { child, lines: Some(lines) }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running `mosquitto_sub`; ends with the value.
pub(crate) struct Subscriber {
    child: Child,
    lines: Option<BufReader<std::process::ChildStdout>>,
}

impl Subscriber {
    /// What it received, as `retained topic payload`, when it has received as many as it should.
    pub(crate) async fn received(mut self) -> Vec<String> {
        let lines = self.lines.take().expect("read once");
        let read = move || {
            let messages = lines.lines().map_while(Result::ok);
            messages.filter(|line| line.starts_with(['0', '1'])).collect()
        };
        let read = tokio::task::spawn_blocking(read);
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, read).await.expect("in time").expect("it reads")
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes an authority and a certificate for 127.0.0.1 that it signed, and one for a client:
/// `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key` in `dir`.
pub(crate) fn make_certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .current_dir(dir)
            .args(arguments.split_whitespace())
            .output()
            .expect("this test needs the command openssl: apt-get install openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    for name in ["server", "client"] {
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").expect("the extension");
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile ext -out {name}.pem"
        ));
    }
}
