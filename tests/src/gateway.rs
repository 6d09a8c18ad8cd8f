//! `pillion serve DIR` over one directory and fixed ports.

use crate::pillion::{Pillion, TestDir, command_words, free_port};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stays when the process goes.
#[derive(Debug)]
pub struct Gateway {
    dir: TestDir,
    http: u16,
    mqtt: u16,
    metrics: u16,
    environment: Vec<(String, String)>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

impl Gateway {
    /// No resources, free ports, an empty data directory.
    pub fn new() -> Self {
        let dir = TestDir::new();
        fs::create_dir(dir.path().join("resources")).expect("a writable test directory");
        let (http, mqtt, metrics) = (free_port(), free_port(), free_port());
        Self { dir, http, mqtt, metrics, environment: Vec::new() }
    }

    /// Writes a resource file, with `$HTTP`, `$MQTT` and `$METRICS` in it as ports and `$DIR` as the
    /// folder of the test.
    #[must_use]
    pub fn resource(self, name: &str, text: &str) -> Self {
        let text = text.replace("$HTTP", &self.http.to_string());
        let text = text.replace("$MQTT", &self.mqtt.to_string());
        let text = text.replace("$METRICS", &self.metrics.to_string());
        let text = text.replace("$DIR", &self.dir.path().display().to_string());
        fs::write(self.dir.path().join("resources").join(name), text).expect("a writable file");
        self
    }

    /// Sets a variable; the environment is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The folder of the test; resources lie in `resources` below it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Port of the first app's HTTP API.
    pub fn http(&self) -> u16 {
        self.http
    }

    /// Where the MQTT door is.
    pub fn mqtt(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.mqtt).into()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A command line of the binary, after the words of `before`: `words`, then the resources as
    /// `pillion serve` takes them, and the data directory.
    pub fn command(&self, before: &[&str], words: &[&str]) -> Command {
        let mut all = before.iter().map(|word| (*word).to_owned()).chain(command_words());
        let mut command = Command::new(all.next().expect("at least the binary"));
        command.args(all).args(words).arg(self.dir.path().join("resources"));
        command.arg("--data-dir").arg(self.data());
        command.env_clear().envs(self.environment.iter().cloned());
        command
    }

    /// Starts it without waiting.
    pub fn spawn(&self) -> Pillion {
        self.watch(self.command(&[], &["serve"]))
    }

    /// Starts a command of [`Gateway::command`] as this gateway.
    pub fn watch(&self, command: Command) -> Pillion {
        Pillion::spawn(command, self.http, self.metrics, TestDir::new())
    }

    /// Starts it and waits until its first app's API can be called.
    pub async fn start(&self) -> Pillion {
        let mut pillion = self.spawn();
        pillion.ready("/v1.0/healthz/outbound").await;
        pillion
    }
}
