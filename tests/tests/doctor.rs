//! `pillion doctor` on gateways that are well and on gateways that are not: what it finds is asked
//! by its JSON, and each check that can fail is seen to fail.

#![allow(clippy::print_stdout, reason = "what cannot be tested here is worth a line")]

use pillion_tests::pillion::{TestDir, binary, free_port};
use pillion_tests::tool::{command, words};
use pillion_tests::{App, Gateway, Tool, json, mosquitto::Mosquitto};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A gateway with one app.
const APP: &str = "
apiVersion: pillion/v1alpha1
kind: Gateway
metadata: {name: box}
spec:
  mqtt: {listen: '127.0.0.1:$MQTT'}
  metrics: {listen: $METRICS}
---
apiVersion: pillion/v1alpha1
kind: App
metadata: {name: readings}
spec: {listen: {http: $HTTP}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.embedded, version: v1}
";

/// What doctor said.
#[derive(Debug)]
struct Said {
    document: Value,
    code: i64,
}

impl Said {
    fn checks(&self) -> &Vec<Value> {
        self.document["checks"].as_array().expect("a list of checks")
    }

    /// Level and text of the check whose name begins so.
    #[track_caller]
    fn check(&self, group: &str, name: &str) -> (&str, &str) {
        let of = |check: &&Value| {
            check["group"] == group && check["name"].as_str().is_some_and(|n| n.starts_with(name))
        };
        let one = self.checks().iter().find(of);
        let one = one.unwrap_or_else(|| panic!("no {group} {name} in {:#}", self.document));
        let level = one["level"].as_str().expect("a level");
        assert_eq!(one["advice"].is_string(), level == "warn" || level == "fail", "{one}");
        (level, one["found"].as_str().expect("a text"))
    }

    #[track_caller]
    fn expect(&self, group: &str, name: &str, level: &str, part: &str) {
        let (is, text) = self.check(group, name);
        assert_eq!(is, level, "{group} {name}: {text}");
        assert!(text.contains(part), "{group} {name}: {text}");
    }
}

/// Arguments for a gateway of a test.
fn arguments(gateway: &Gateway, more: &str) -> Vec<String> {
    let path = |name: &str| gateway.dir().join(name).display().to_string();
    let mut all = vec!["doctor".into(), path("resources"), "--data-dir".into(), path("data")];
    all.extend(words(more));
    all
}

/// Runs doctor with `--json`, and checks what holds of every answer.
async fn ask(gateway: &Gateway, more: &str) -> Said {
    ask_with(command(binary().to_str().expect("a path"), arguments(gateway, more))).await
}

async fn ask_with(mut doctor: Command) -> Said {
    let begun = Instant::now();
    doctor.arg("--json");
    let said = Tool::run(doctor).await;
    assert!(begun.elapsed() < Duration::from_secs(21), "it is bounded");
    let document: Value = serde_json::from_str(&said.out.join("\n"))
        .unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let code = i64::from(said.status.code().expect("an exit code"));
    let count = |level: &str| document[level].as_i64().expect("a number");
    let expected = match (count("fail"), count("warn")) {
        (1.., _) => 1,
        (_, 1..) => 3,
        _ => 0,
    };
    assert_eq!((code, document["exitCode"].as_i64()), (expected, Some(expected)), "{document:#}");
    let said = Said { document, code };
    for level in ["ok", "warn", "fail", "skip"] {
        let has = said.checks().iter().filter(|check| check["level"] == level).count() as i64;
        assert_eq!(said.document[level], has, "{level}");
    }
    said
}

/// Nothing failed; what this machine's clock or disk is like must not fail the test.
fn expect_well(said: &Said) {
    let failed = said.checks().iter().find(|check| check["level"] == "fail");
    assert_eq!(failed, None, "{:#}", said.document);
    assert_ne!(said.code, 1);
}

#[tokio::test]
async fn a_gateway_that_is_well() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let said = ask(&gateway, "").await;
    expect_well(&said);
    assert_eq!(said.document["running"], Value::Null);
    for name in ["HTTP API of readings", "MQTT", "metrics"] {
        said.expect("ports", name, "ok", "free");
    }
    said.expect("data", "directory", "ok", "not there yet");
    said.expect("data", "sync", "ok", "ms for a page");
    assert!(!gateway.dir().join("data").exists(), "doctor makes nothing");

    let mut pillion = gateway.start().await;
    let said = ask(&gateway, "").await;
    expect_well(&said);
    let pid = said.document["running"].as_i64().expect("a process id");
    for name in ["HTTP API of readings", "MQTT", "metrics"] {
        said.expect("ports", name, "ok", &format!("held by the running pillion (pid {pid})"));
    }
    said.expect("service", "running", "ok", &format!("pid {pid} since"));
    said.expect("service", "app readings", "ok", "healthy");
    said.expect("service", "storage", "ok", "no trouble");
    said.expect("data", "directory", "ok", "may write");
    said.expect("data", "space", "ok", "quota 1.0 GB");
    // The data directory is the service's, whatever this shell would choose.
    let alone = command(binary().to_str().expect("a path"), ["doctor"]);
    let said = ask_with({
        let mut alone = alone;
        alone.arg(gateway.dir().join("resources")).env_clear().env("HOME", "/nowhere");
        alone
    })
    .await;
    assert_eq!(said.document["running"], pid, "{:#}", said.document);
    let data = gateway.dir().join("data").display().to_string();
    assert_eq!(said.document["dataDir"], data.as_str());

    let left: Vec<_> = fs::read_dir(gateway.dir().join("data"))
        .expect("a data directory")
        .flatten()
        .map(|entry| entry.file_name().into_string().expect("a name"))
        .filter(|name| name.contains("doctor"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(pillion.stop().await.success(), "{}", pillion.log());
    assert_eq!(ask(&gateway, "").await.document["running"], Value::Null);
}

#[tokio::test]
async fn lines_for_people_say_the_same() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let said = Tool::run(command(&binary_text(), arguments(&gateway, "--offline"))).await;
    let starts = |word: &str| said.out.iter().any(|line| line.starts_with(word));
    assert!(starts("ok   configuration: resources: "), "{said:?}");
    let last = said.out.last().expect("a summary");
    assert!(last.starts_with("0 failed, ") && last.ends_with(" not checked"), "{last}");
    assert!([0, 3].contains(&said.status.code().expect("a code")), "{said:?}");
}

fn binary_text() -> String {
    binary().display().to_string()
}

#[tokio::test]
async fn a_port_that_somebody_has() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let taken = TcpListener::bind(gateway.mqtt()).expect("a free port");
    let said = ask(&gateway, "--offline").await;
    let holder = format!("(pid {})", std::process::id());
    said.expect("ports", "MQTT", "fail", &holder);
    said.expect("ports", "HTTP", "ok", "free");
    assert_eq!(said.code, 1);
    drop(taken);
    expect_well(&ask(&gateway, "--offline").await);

    let elsewhere = APP.replace("127.0.0.1:$MQTT", "192.0.2.1:$MQTT");
    let gateway = Gateway::new().resource("app.yaml", &(elsewhere + "  \n---\n" + USER));
    ask(&gateway, "--offline").await.expect("ports", "MQTT", "fail", "no such address");
}

const USER: &str = "apiVersion: pillion/v1alpha1
kind: MqttUser
metadata: {name: dev}
spec: {passwordHash: '$7$1$c2FsdHNhbHRzYWx0$aGFzaA==', publish: ['#']}
";

#[tokio::test]
async fn a_service_whose_configuration_has_changed() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let _pillion = gateway.start().await;
    let gateway = gateway.resource("app.yaml", &APP.replace("$MQTT", &free_port().to_string()));
    let said = ask(&gateway, "--offline").await;
    said.expect("ports", "MQTT", "warn", "does not listen here");
    said.expect("ports", "metrics", "ok", "held by the running");
}

#[tokio::test]
async fn an_app_that_does_not_answer() {
    let app = App::start(|_| json(200, "{}")).await;
    let channel = |port: u16| {
        let with = format!("{{http: $HTTP}}, channel: {{address: {port}}}}}");
        APP.replace("{http: $HTTP}}", &with)
    };
    let gateway = Gateway::new().resource("app.yaml", &channel(app.port));
    ask(&gateway, "").await.expect("ports", "app readings", "ok", "answers");
    let gateway = gateway.resource("app.yaml", &channel(free_port()));
    ask(&gateway, "").await.expect("ports", "app readings", "warn", "refused");
}

#[tokio::test]
async fn resources_that_are_wrong() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let gateway = gateway.resource(
        "link.yaml",
        "apiVersion: pillion/v1alpha1\nkind: Link\n\
        metadata: {name: up}\nspec: {local: pubsub, remote: clout, up: [{filter: 'a/#'}]}\n",
    );
    let said = ask(&gateway, "--offline").await;
    said.expect(
        "configuration",
        "resource",
        "fail",
        "link.yaml:4: no pub/sub component is called 'clout'",
    );
    assert_eq!(said.code, 1);
    let nothing = ask_with(command(&binary_text(), ["doctor", "/nowhere", "--offline"])).await;
    nothing.expect("configuration", "resource", "fail", "/nowhere");
}

#[tokio::test]
async fn check_says_it_with_its_code() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let (dir, file) = (gateway.dir().join("resources"), gateway.dir().join("resources/app.yaml"));
    let check = |path: &Path, more: &str| {
        let mut check = command(&binary_text(), ["check"]);
        check.arg(path).args(words(more));
        Tool::run(check)
    };
    for path in [&dir, &file] {
        let said = check(path, "").await;
        assert_eq!(said.status.code(), Some(0), "{said:?}");
    }
    let gateway = gateway.resource("bad.yaml", "apiVersion: pillion/v1alpha1\nkind: Gatewy\n");
    let said = check(&dir, "").await;
    assert_eq!(said.status.code(), Some(1));
    let line =
        format!("{}:2: kind is 'Gatewy'", gateway.dir().join("resources/bad.yaml").display());
    assert!(said.out.iter().any(|out| out.starts_with(&line)), "{said:?}");
    let said = check(&dir, "--json").await;
    assert_eq!(said.status.code(), Some(1));
    let document: Value = serde_json::from_str(&said.out.join("\n")).expect("JSON");
    assert!(document["problems"][0].as_str().is_some_and(|text| text.starts_with(&line)));
}

#[tokio::test]
async fn data_in_memory_is_no_data() {
    let gateway = Gateway::new().resource("app.yaml", APP);
    let dir = Path::new("/dev/shm").join(format!("pillion-doctor-{}", std::process::id()));
    let more = format!("--offline --data-dir {}", dir.display());
    ask(&gateway, &more).await.expect(
        "data",
        "file system",
        "fail",
        "a power cut loses everything",
    );
}

/// Runs a command as root; `false` where nobody here may.
async fn as_root(arguments: &[&str]) -> bool {
    // SAFETY: it only reads the process's user id.
    let is_root = unsafe { libc::geteuid() } == 0;
    let arguments =
        if is_root { arguments.to_vec() } else { [&["sudo", "-n"], arguments].concat() };
    Tool::run(command(arguments[0], &arguments[1..])).await.status.success()
}

/// A small tmpfs, unmounted at the end.
struct SmallDisk(TestDir);

impl SmallDisk {
    async fn mount(mebibytes: u32, more: &str) -> Option<Self> {
        let dir = TestDir::new();
        let path = dir.path().display().to_string();
        let options = format!("size={mebibytes}m,mode=1777{more}");
        if as_root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &path]).await {
            return Some(Self(dir));
        }
        println!("NOT TESTED: a disk that is full needs root, or sudo without a password");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = |program: &str, arguments: &[&str]| {
            let mut command = command(program, arguments);
            command.arg(self.0.path()).status().is_ok_and(|status| status.success())
        };
        let _ = unmount("umount", &["-l"]) || unmount("sudo", &["-n", "umount", "-l"]);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_or_soon_will_be() {
    let Some(disk) = SmallDisk::mount(64, "").await else { return };
    let gateway = Gateway::new().resource("app.yaml", APP);
    let more = format!("--offline --data-dir {}", disk.0.path().display());
    let said = ask(&gateway, &more).await;
    said.expect("data", "space", "warn", "quota 1.0 GB");
    fs::write(disk.0.path().join("others"), vec![1; 62 << 20]).expect("room");
    let said = ask(&gateway, &more).await;
    said.expect("data", "space", "fail", "full: ");
    let _ = fs::write(disk.0.path().join("rest"), vec![1; 4 << 20]);
    ask(&gateway, &more).await.expect("data", "sync", "fail", "a page cannot be written");
}

#[tokio::test]
async fn a_disk_that_takes_no_new_file() {
    let Some(disk) = SmallDisk::mount(64, ",nr_inodes=20").await else { return };
    let gateway = Gateway::new().resource("app.yaml", APP);
    let more = format!("--offline --data-dir {}", disk.0.path().display());
    ask(&gateway, &more).await.expect("data", "inodes", "fail", " free");
}

#[tokio::test]
async fn a_quota_that_is_nearly_used() {
    let quota = "kind: Gateway\nmetadata: {name: box}\nspec:\n  storage: {quotaBytes: 1Mi}";
    let text = APP.replace("kind: Gateway\nmetadata: {name: box}\nspec:", quota);
    let gateway = Gateway::new().resource("app.yaml", &text);
    fs::create_dir(gateway.dir().join("data")).expect("a folder");
    fs::write(gateway.dir().join("data/tree"), vec![1; 1_000_000]).expect("a file");
    ask(&gateway, "--offline").await.expect("data", "quota", "warn", "of 1.0 MB are used");
}

/// A certificate of openssl's, `NAME.pem` and `NAME.key`: of an authority, its own or `issuer`'s.
async fn signed(
    dir: &Path,
    name: &str,
    issuer: Option<&str>,
    from: &str,
    until: &str,
) -> (PathBuf, PathBuf) {
    let file = |name: &str, end: &str| dir.join(format!("{name}.{end}"));
    let (pem, key, index) = (file(name, "pem"), file(name, "key"), file(name, "index"));
    let (request, config) = (file(name, "csr"), file(name, "cnf"));
    let (folder, database) = (dir.display(), index.display());
    let text = format!(
        "[ca]\ndefault_ca=x\n[x]\ndatabase={database}\nnew_certs_dir={folder}\n\
         default_md=sha256\nrand_serial=yes\npolicy=p\nx509_extensions=e\n[p]\n\
         commonName=supplied\n[e]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n\
         basicConstraints=critical,CA:{}\n",
        issuer.is_none()
    );
    fs::write(&config, text).expect("a file");
    fs::write(&index, "").expect("a file");
    let (request, config) = (request.display(), config.display());
    let new = format!(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
         -keyout {} -out {request}",
        key.display()
    );
    Tool::run(command("openssl", words(&new))).await.expect_success();
    let by = match issuer {
        None => format!("-selfsign -keyfile {}", key.display()),
        Some(issuer) => {
            let (pem, key) = (file(issuer, "pem"), file(issuer, "key"));
            format!("-cert {} -keyfile {}", pem.display(), key.display())
        }
    };
    let sign = format!(
        "ca -batch -notext -config {config} {by} -in {request} -out {} -startdate {from} \
         -enddate {until}",
        pem.display()
    );
    Tool::run(command("openssl", words(&sign))).await.expect_success();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("our own file");
    (pem, key)
}

/// An authority's own.
async fn certificate(dir: &Path, name: &str, from: &str, until: &str) -> (PathBuf, PathBuf) {
    signed(dir, name, None, from, until).await
}

/// A day so many days from now, as openssl takes it.
async fn day(from_now: i32) -> String {
    let day = format!("-u -d {from_now}days +%Y%m%d%H%M%SZ");
    Tool::run(command("date", words(&day))).await.expect_success().out.concat()
}

fn with_tls(certificate: &Path, key: &Path) -> String {
    let door = format!(
        "mqtt: {{listen: '127.0.0.1:$MQTT', tls: {{listen: {}, certificate: '{}', key: '{}'}}}}",
        free_port(),
        certificate.display(),
        key.display()
    );
    APP.replace("mqtt: {listen: '127.0.0.1:$MQTT'}", &door)
}

#[tokio::test]
async fn certificates_that_end() {
    let dir = TestDir::new();
    let yesterday = day(-1).await;
    let door = "MQTT over TLS: ";
    for (name, from, until, level, part) in [
        ("good", &yesterday, day(365).await, "ok", " 36"),
        ("soon", &yesterday, day(20).await, "warn", "until"),
        ("over", &day(-30).await, day(-2).await, "fail", "has ended on"),
        ("early", &day(3).await, day(99).await, "fail", "does not hold before"),
    ] {
        let (pem, key) = certificate(dir.path(), name, from, &until).await;
        let gateway = Gateway::new().resource("app.yaml", &with_tls(&pem, &key));
        let said = ask(&gateway, "--offline").await;
        said.expect("certificates", door, level, part);
        said.expect("configuration", "secret file", "ok", "600");
        if level == "ok" {
            fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("our own file");
            let said = ask(&gateway, "--offline").await;
            said.expect("configuration", "secret file", "warn", "every user");
            let (_, other) = certificate(dir.path(), "other", from, &until).await;
            let gateway = gateway.resource("app.yaml", &with_tls(&pem, &other));
            let said = ask(&gateway, "--offline").await;
            said.expect("certificates", "MQTT over TLS", "fail", "good.pem");
            assert_eq!(said.code, 1);
            let gateway = gateway.resource("app.yaml", &with_tls(&key, &other));
            ask(&gateway, "--offline").await.expect("certificates", door, "fail", "no certificate");
        }
    }
}

fn cloud(url: &str, more: &str) -> String {
    format!(
        "{APP}---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: cloud}}\nspec:\n  \
         type: pubsub.mqtt3\n  version: v1\n  metadata:\n  - {{name: url, value: '{url}'}}\n{more}"
    )
}

#[tokio::test]
async fn a_broker_that_answers_and_one_that_does_not() {
    let mut broker = Mosquitto::new();
    broker.start().await;
    let gateway =
        Gateway::new().resource("app.yaml", &cloud(&format!("tcp://{}", broker.address()), ""));
    let said = ask(&gateway, "").await;
    expect_well(&said);
    said.expect("cloud", "cloud (127.0.0.1:", "ok", ", MQTT ");
    ask(&gateway, "--offline").await.expect("cloud", "cloud", "skip", "offline");
    broker.stop();
    let said = ask(&gateway, "").await;
    said.expect("cloud", "cloud", "fail", "no connection: Connection refused");
    assert_eq!(said.code, 1);

    // It lets nobody in whom it does not know.
    let door = Gateway::new().resource("app.yaml", &format!("{APP}---\n{USER}"));
    let _pillion = door.start().await;
    let url = format!("mqtt://dev:wrong@{}", door.mqtt());
    let gateway = gateway.resource("app.yaml", &cloud(&url, ""));
    let said = ask(&gateway, "").await;
    assert_eq!(said.check("cloud", "cloud").0, "warn", "{:#}", said.document);
    assert!(!said.document.to_string().contains("wrong@"), "a password is nobody's business");

    // It accepts and says nothing.
    let mute = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = mute.local_addr().expect("an address");
    let gateway = gateway.resource("app.yaml", &cloud(&format!("tcp://{address}"), ""));
    ask(&gateway, "").await.expect("cloud", "cloud", "fail", "no answer to CONNECT");

    // It speaks something else.
    let http = App::start(|_| json(200, "{}")).await;
    let endpoint = format!(
        "{APP}---\napiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: web}}\n\
         spec: {{baseUrl: 'http://127.0.0.1:{}'}}\n",
        http.port
    );
    let gateway = gateway.resource("app.yaml", &endpoint);
    ask(&gateway, "").await.expect("cloud", "web (127.0.0.1:", "ok", "TCP ");
    let gateway =
        gateway.resource("app.yaml", &cloud(&format!("tcp://127.0.0.1:{}", http.port), ""));
    ask(&gateway, "").await.expect("cloud", "cloud", "fail", "no answer to CONNECT");
}

#[tokio::test]
async fn a_broker_over_tls() {
    let dir = TestDir::new();
    let (from, until) = (day(-1).await, day(99).await);
    let (authority, _) = certificate(dir.path(), "authority", &from, &until).await;
    let (other, _) = certificate(dir.path(), "other", &from, &until).await;
    let (pem, key) = signed(dir.path(), "broker", Some("authority"), &from, &until).await;
    // Our own door is a broker that speaks TLS.
    let text = with_tls(&pem, &key);
    let port: u16 = text
        .split_once("tls: {listen: ")
        .and_then(|(_, rest)| rest.split_once(',')?.0.parse().ok())
        .expect("a port");
    let broker = Gateway::new().resource("app.yaml", &text);
    let _pillion = broker.start().await;
    let gateway = Gateway::new();
    let ca = |pem: &Path| format!("  - {{name: caCert, value: '{}'}}\n", pem.display());
    let url = format!("ssl://localhost:{port}");
    let gateway = gateway.resource("app.yaml", &cloud(&url, &ca(&authority)));
    let said = ask(&gateway, "").await;
    said.expect("cloud", "cloud (localhost:", "ok", ", TLS ");
    said.expect("certificates", "cloud caCert", "ok", " 9");
    said.expect("names", "localhost", "ok", "127.0.0.1");
    let gateway = gateway.resource("app.yaml", &cloud(&url, &ca(&other)));
    ask(&gateway, "").await.expect("cloud", "cloud", "fail", "no TLS: ");
    // The authorities of the web do not know it either.
    let endpoint = format!(
        "{APP}---\napiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: web}}\n\
         spec: {{baseUrl: 'https://localhost:{port}/x'}}\n"
    );
    let gateway = gateway.resource("app.yaml", &endpoint);
    ask(&gateway, "").await.expect("cloud", "web (localhost:", "fail", "no TLS: ");
    // A client's certificate whose key is another's: the service would not start.
    let client = format!(
        "  - {{name: clientCert, value: '{}'}}\n  - {{name: clientKey, value: '{}'}}\n",
        other.display(),
        key.display()
    );
    let gateway = gateway.resource("app.yaml", &cloud(&url, &(ca(&authority) + &client)));
    ask(&gateway, "").await.expect("configuration", "component", "fail", "do not fit");
}

#[tokio::test]
async fn a_name_that_means_nothing() {
    let gateway = Gateway::new().resource("app.yaml", &cloud("tcp://nowhere.invalid", ""));
    let said = ask(&gateway, "").await;
    assert_eq!(said.check("names", "nowhere.invalid").0, "fail");
    assert_eq!(said.check("cloud", "cloud (nowhere.invalid:1883)").0, "fail");
    ask(&gateway, "--offline").await.expect("names", "nowhere.invalid", "skip", "offline");
}

#[tokio::test]
async fn an_ordinary_user_is_told_what_was_not_seen() {
    // SAFETY: it only reads the process's user id.
    if unsafe { libc::geteuid() } != 0 {
        println!("NOT TESTED: to be somebody else needs root");
        return;
    }
    let gateway = Gateway::new().resource("app.yaml", APP);
    let _pillion = gateway.start().await;
    let data = gateway.dir().join("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("our own folder");
    // Where nobody may read the binary, it is copied to where everybody may.
    let copy = gateway.dir().join("pillion");
    fs::copy(binary(), &copy).expect("a binary");
    fs::set_permissions(gateway.dir(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("our own file");
    let nobody = "--reuid 65534 --regid 65534 --clear-groups";
    let mut doctor = command("setpriv", words(nobody));
    doctor.arg(&copy).args(arguments(&gateway, "--offline"));
    let said = ask_with(doctor).await;
    assert!(said.document["running"].is_i64(), "found by its words: {:#}", said.document);
    said.expect("data", "sync", "skip", "run as root");
    said.expect("ports", "MQTT", "ok", "held by a process of user 0, as pillion is");
}
