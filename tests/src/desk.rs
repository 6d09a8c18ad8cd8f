//! `pillion run` over one data directory at fixed ports, so that it can be killed and started
//! again.

use crate::app::App;
use crate::pillion::{Pillion, TestDir, command_words, free_port};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stays when the process goes: directory, ports, resources.
#[derive(Debug)]
pub struct Desk {
    dir: TestDir,
    data: PathBuf,
    http: u16,
    mqtt: u16,
    metrics: u16,
    args: Vec<String>,
    after: Vec<String>,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// Embedded defaults, free ports, an empty data directory.
    pub fn new() -> Self {
        let dir = TestDir::new();
        fs::create_dir(dir.path().join("resources")).expect("a writable test directory");
        Self {
            data: dir.path().join("data"),
            http: free_port(),
            mqtt: free_port(),
            metrics: free_port(),
            args: Vec::new(),
            after: Vec::new(),
            dir,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The app that is called.
    #[must_use]
    pub fn app(self, app: &App) -> Self {
        self.args(["--app-port", &app.port.to_string()])
    }

    /// The app's own command.
    #[must_use]
    pub fn command<A: Into<String>>(mut self, words: impl IntoIterator<Item = A>) -> Self {
        self.after = words.into_iter().map(Into::into).collect();
        self
    }

    /// Puts the data elsewhere.
    #[must_use]
    pub fn data(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = data.into();
        self
    }

    /// Writes a resource file.
    #[must_use]
    pub fn resource(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join("resources").join(name), text).expect("a writable file");
        self
    }

    /// The folder of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Where the MQTT door is.
    pub fn mqtt(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.mqtt).into()
    }

    /// Port of the HTTP API.
    pub fn http(&self) -> u16 {
        self.http
    }

    /// The whole command line, for a test that puts something around it.
    pub fn command_line(&self) -> Vec<String> {
        let mut words = command_words();
        words.push("run".into());
        let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
        flag("--resources-path", self.dir.path().join("resources").display().to_string());
        flag("--data-dir", self.data.display().to_string());
        flag("--dapr-http-port", self.http.to_string());
        flag("--mqtt-listen", self.mqtt().to_string());
        flag("--metrics-port", self.metrics.to_string());
        words.extend(self.args.iter().cloned());
        if !self.after.is_empty() {
            words.push("--".into());
            words.extend(self.after.iter().cloned());
        }
        words
    }

    /// Starts it without waiting.
    pub fn spawn(&self) -> Pillion {
        let words = self.command_line();
        let (program, arguments) = words.split_first().expect("a command line");
        let mut command = Command::new(program);
        command.args(arguments);
        Pillion::spawn(command, self.http, self.metrics, TestDir::new())
    }

    /// Starts it and waits until it can be called.
    pub async fn start(&self) -> Pillion {
        let mut pillion = self.spawn();
        pillion.ready("/v1.0/healthz/outbound").await;
        pillion
    }
}
