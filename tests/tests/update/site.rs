//! A gateway that is updated, as its operator sees it.

use pillion_tests::pillion::Pillion;
use pillion_tests::tool::Output;
use pillion_tests::{Gateway, PATIENCE, Request, Tool, Workshop, mqtt, until};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

const RESOURCES: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: gateway-1}
spec:
  storage: {logSegments: 3, segmentBytes: 256Ki}
  mqtt: {listen: '127.0.0.1:$MQTT', allowAnonymous: true}
  metrics: {listen: '127.0.0.1:$METRICS'}
  limits: {bodyBytesMax: 64Ki}
  update: {keys: [$KEYS], readyTimeout: $READY, probation: $PROBATION, attempts: 3}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: one}
spec: {listen: {http: '127.0.0.1:$HTTP'}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.redb, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.embedded, version: v1}
";

/// The stand-in's program.
pub(crate) const STAND_IN: &str = env!("CARGO_BIN_EXE_stand_in");

/// A gateway, and the workshop whose key it trusts.
pub(crate) struct Site {
    pub(crate) workshop: Workshop,
    pub(crate) gateway: Gateway,
    /// The service manager's end of `NOTIFY_SOCKET`.
    manager: UnixDatagram,
}

impl Site {
    /// With times that suit a test: a release must be ready in 20 s and live for 2 s.
    pub(crate) fn new() -> Self {
        Self::with("20s", "2s")
    }

    pub(crate) fn with(ready: &str, probation: &str) -> Self {
        let workshop = Workshop::new();
        let key = workshop.public_key().display().to_string();
        Self::of(workshop, &key, ready, probation)
    }

    /// A Gateway that trusts `keys`.
    pub(crate) fn of(workshop: Workshop, keys: &str, ready: &str, probation: &str) -> Self {
        let text = RESOURCES.replace("$KEYS", keys).replace("$READY", ready);
        let text = text.replace("$PROBATION", probation);
        let gateway = Gateway::new().resource("all.yaml", &text);
        let socket = gateway.dir().join("manager");
        let manager = UnixDatagram::bind(&socket).expect("a short path");
        manager.set_nonblocking(true).expect("a socket");
        fs::create_dir(gateway.data()).expect("a writable directory");
        Self { workshop, gateway, manager }
    }

    /// `pillion update` with these words.
    pub(crate) async fn update(&self, words: &[&str]) -> Output {
        Tool::run(self.update_command(&[], words)).await
    }

    pub(crate) fn update_command(&self, before: &[&str], words: &[&str]) -> std::process::Command {
        let words: Vec<&str> = ["update"].into_iter().chain(words.iter().copied()).collect();
        self.gateway.command(before, &[&words[..], &["--config"]].concat())
    }

    /// Installs a binary, which must succeed.
    pub(crate) async fn install(&self, binary: &[u8]) {
        let image = self.workshop.image(binary);
        self.update(&[path(&image)]).await.expect_success();
    }

    pub(crate) async fn status(&self) -> String {
        self.update(&["--status"]).await.expect_success().out.join("\n")
    }

    /// `pillion launch serve`, as the service manager does it.
    pub(crate) fn launch(&self) -> Pillion {
        self.launch_under(&[])
    }

    pub(crate) fn launch_under(&self, before: &[&str]) -> Pillion {
        let mut command = self.gateway.command(before, &["launch", "serve"]);
        command.env("NOTIFY_SOCKET", self.gateway.dir().join("manager"));
        self.forget();
        self.gateway.watch(command)
    }

    /// Starts it and waits until its API answers.
    pub(crate) async fn up(&self) -> Pillion {
        let mut pillion = self.launch();
        pillion.ready("/v1.0/healthz/outbound").await;
        pillion
    }

    /// Waits until the service manager has been told this.
    pub(crate) async fn told(&self, word: &str) {
        let mut datagram = [0; 4096];
        until(word, || {
            // One at a time: what comes after it is for the next question.
            let read = self.manager.recv(&mut datagram).ok();
            let text = read.map(|len| String::from_utf8_lossy(&datagram[..len]).into_owned());
            let is_it = |text: String| text.lines().any(|line| line.starts_with(word));
            std::future::ready(text.is_some_and(is_it).then_some(()))
        })
        .await;
    }

    /// Leaves what was said before.
    fn forget(&self) {
        let mut datagram = [0; 4096];
        while self.manager.recv(&mut datagram).is_ok() {}
    }

    /// Waits until `--status` says this.
    pub(crate) async fn shows(&self, word: &str) -> String {
        let begun = std::time::Instant::now();
        loop {
            let status = self.status().await;
            if status.contains(word) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "no '{word}' in\n{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every file below the data directory with its bytes.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.gateway.data(), &mut files);
        files
    }

    /// Whether a process runs this slot's binary.
    pub(crate) fn runs(&self, slot: &str) -> bool {
        let binary = self.gateway.data().join("slots").join(slot).join("pillion");
        let processes = fs::read_dir("/proc").expect("Linux").flatten();
        let mut exes = processes.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok());
        exes.any(|exe| exe == binary)
    }

    /// Waits until no process runs this slot's binary or holds the data directory: a process that
    /// was killed closes its files a moment after it is no longer seen.
    pub(crate) async fn is_gone(&self, slot: &str) {
        let is_free = || {
            let lock = fs::File::open(self.gateway.data().join("lock"));
            lock.map_or(true, |lock| lock.try_lock().is_ok())
        };
        until(&format!("the end of slot {slot}"), || async {
            (!self.runs(slot) && is_free()).then_some(())
        })
        .await;
    }

    /// A device that is away has this queue from now on.
    pub(crate) async fn subscribe(&self) {
        let (mut sender, mut receiver) =
            mqtt::connect(self.gateway.mqtt(), "device", false).await.expect("an open door");
        sender.subscribe("readings/#", 1).await.expect("an open door");
        receiver.next_of(9).await.expect("a SUBACK");
    }

    /// A value and a message.
    pub(crate) async fn store(&self, name: &str) {
        let post = |path: &str, body: String| {
            let request = Request::new(hyper::Method::POST, path);
            request.header("content-type", "application/json").body(body).send(self.gateway.http())
        };
        let saved = post("/v1.0/state/statestore", format!(r#"[{{"key":"{name}","value":1}}]"#));
        assert_eq!(saved.await.expect("an answer").status, 204);
        let published = post("/v1.0/publish/pubsub/readings/x", format!("\"{name}\""));
        assert_eq!(published.await.expect("an answer").status, 204);
    }

    /// Values and, in order, messages are all there.
    pub(crate) async fn has(&self, names: &[&str]) {
        for name in names {
            let path = format!("/v1.0/state/statestore/{name}");
            let answer = Request::new(hyper::Method::GET, &path).send(self.gateway.http()).await;
            assert_eq!(answer.expect("an answer").text(), "1", "{name}");
        }
        let (mut sender, mut receiver) =
            mqtt::connect(self.gateway.mqtt(), "device", false).await.expect("an open door");
        for name in names {
            let packet = receiver.next_of(3).await.expect("a PUBLISH");
            let (_, id, payload) = packet.publish();
            let text = String::from_utf8_lossy(payload).into_owned();
            assert!(text.contains(&format!("\"data\":\"{name}\"")), "{name}: {text}");
            sender.puback(id).await.expect("an open door");
        }
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => collect(&path, files),
            false => {
                let bytes = fs::read(&path).unwrap_or_default();
                files.insert(path.display().to_string(), bytes);
            }
        }
    }
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The version that answers.
pub(crate) async fn version(pillion: &Pillion) -> String {
    let metadata = pillion.get("/v1.0/metadata").await.json();
    metadata["extended"]["pillionVersion"].as_str().expect("a version").to_owned()
}

/// What metadata says of the last update.
pub(crate) async fn notice(pillion: &Pillion) -> String {
    let metadata = pillion.get("/v1.0/metadata").await.json();
    metadata["extended"]["pillionUpdate"].as_str().unwrap_or_default().to_owned()
}

/// Waits until this version answers.
pub(crate) async fn serves(pillion: &Pillion, wanted: &str) {
    until(&format!("version {wanted}\n{}", pillion.log()), || async {
        let request = Request::new(hyper::Method::GET, "/v1.0/metadata");
        let answer = request.send(pillion.port).await.ok()?;
        answer.text().contains(&format!("\"pillionVersion\":\"{wanted}\"")).then_some(())
    })
    .await;
}

/// The version of the base.
pub(crate) fn base() -> String {
    let mut command = std::process::Command::new(pillion_tests::pillion::binary());
    let output = command.arg("version").output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split(' ').nth(1).expect("a version").to_owned()
}
