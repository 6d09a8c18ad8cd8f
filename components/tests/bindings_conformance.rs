//! The bindings suite over every row of the catalogue, per direction, and over a queue.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/home.rs"]
mod home;
mod mosquitto;
#[path = "suite/bindings.rs"]
#[macro_use]
mod suite;

use async_trait::async_trait;
use home::{Home, context_without_storage};
use mosquitto::{Broker, TempDir};
use pillion_components::bindings::{Binding, CATALOGUE};
use pillion_components::context::Context;
use pillion_components::env::Clock;
use pillion_components::http::{HttpAnswer, HttpClient, HttpRequest, OpenHttp};
use pillion_components::options::Options;
use pillion_components::{Error, Kind, Result};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use suite::{Held, PATIENCE, Subject, request};

/// In the place of the process' client, which the black-box tests put before a real server: keeps
/// what was sent, and gives the answers it was told, then 200.
#[derive(Default)]
struct Double {
    sent: Mutex<Vec<HttpRequest>>,
    answers: Mutex<VecDeque<Result<u16>>>,
}

#[async_trait]
impl HttpClient for Double {
    async fn send(&self, request: HttpRequest) -> Result<HttpAnswer> {
        self.sent.lock().unwrap().push(request);
        let status = self.answers.lock().unwrap().pop_front().unwrap_or(Ok(200))?;
        let headers = vec![("x".to_owned(), "y".to_owned())];
        Ok(HttpAnswer { status, reason: "R".into(), headers, body: "answer".into() })
    }
}

impl Double {
    fn bodies(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap();
        let bodies = sent.iter().filter_map(|request| request.body.as_ref());
        bodies.map(|body| String::from_utf8_lossy(body).into_owned()).collect()
    }
}

fn lend(double: &Arc<Double>) -> OpenHttp {
    let double = double.clone();
    Arc::new(move |_target| Ok(double.clone() as Arc<dyn HttpClient>))
}

async fn open(
    type_name: &str,
    settings: &[(&str, &str)],
    context: &Context,
    double: &Arc<Double>,
) -> Result<Binding> {
    let row = CATALOGUE.iter().find(|row| row.type_name == type_name).expect("a row");
    let options: Options = settings.iter().copied().collect();
    let binding = row.open(&options, context, &lend(double)).await?;
    assert_eq!(options.unknown(), [""; 0], "every setting is known");
    Ok(binding)
}

/// Asks again until it is so.
async fn soon(what: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if what() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect()
}

async fn local_storage() -> Subject {
    storing(&[], context_without_storage("disk")).await
}

async fn storing(more: &[(&str, &str)], context: Context) -> Subject {
    let dir = TempDir::new();
    let root = dir.path().join("root").display().to_string();
    let settings = [&[("rootPath", &*root)], more].concat();
    let binding = open("bindings.localstorage", &settings, &context, &Arc::default()).await;
    let holds: Held = Box::new(move |data| {
        let root = root.clone();
        Box::pin(async move {
            let data = data.trim_matches('"').to_owned();
            soon(|| files(Path::new(&root)).contains(&data)).await
        })
    });
    Subject {
        binding: binding.unwrap(),
        leaves: Some(("create", Vec::new())),
        holds: Some(holds),
        happens: None,
        keeps: Box::new(dir),
    }
}

async fn behind_a_queue() -> Subject {
    let home = Home::memory();
    let mut subject = storing(&[("queue", "true")], home.context("disk")).await;
    subject.keeps = Box::new((home, subject.keeps));
    subject
}

async fn http() -> Subject {
    let double = Arc::<Double>::default();
    let settings = [("url", "http://127.0.0.1:9/base")];
    let context = context_without_storage("web");
    let binding = open("bindings.http", &settings, &context, &double).await.unwrap();
    let holds: Held = Box::new(move |data| {
        let is_there = double.bodies().iter().any(|body| body == data);
        Box::pin(std::future::ready(is_there))
    });
    Subject {
        binding,
        leaves: Some(("post", Vec::new())),
        holds: Some(holds),
        happens: None,
        keeps: Box::new(()),
    }
}

async fn cron() -> Subject {
    let context = Context { clock: Clock::system(), ..context_without_storage("tick") };
    let settings = [("schedule", "@every 1s"), ("direction", "input")];
    let binding = open("bindings.cron", &settings, &context, &Arc::default()).await.unwrap();
    Subject { binding, leaves: None, holds: None, happens: None, keeps: Box::new(()) }
}

async fn mqtt() -> Subject {
    let broker = Arc::new(Broker::started());
    let url = broker.url();
    let context = Context { clock: Clock::system(), ..context_without_storage("mqtt") };
    let settings = [("url", &*url), ("topic", "site/t"), ("consumerID", "c")];
    let binding = open("bindings.mqtt3", &settings, &context, &Arc::default()).await.unwrap();
    let publishing = broker.clone();
    let happens: Held = Box::new(move |data| {
        let broker = publishing.clone();
        Box::pin(async move {
            broker.publish("site/t", data);
            true
        })
    });
    Subject { binding, leaves: None, holds: None, happens: Some(happens), keeps: Box::new(broker) }
}

/// As [`mqtt`], with what is published retained, so that it can be asked for afterwards.
async fn mqtt_retaining() -> Subject {
    let broker = Arc::new(Broker::started());
    let url = broker.url();
    let context = Context { clock: Clock::system(), ..context_without_storage("mqtt") };
    let settings = [
        ("url", &*url),
        ("topic", "site/t"),
        ("consumerID", "c"),
        ("retain", "true"),
        ("direction", "output"),
    ];
    let binding = open("bindings.mqtt", &settings, &context, &Arc::default()).await.unwrap();
    let asked = broker.clone();
    let holds: Held = Box::new(move |data| {
        let subscriber = asked.subscriber("site/t", 1);
        Box::pin(async move { subscriber.received().await == [format!("1 site/t {data}")] })
    });
    Subject {
        binding,
        leaves: Some(("create", Vec::new())),
        holds: Some(holds),
        happens: None,
        keeps: Box::new(broker),
    }
}

conformance!(output localstorage, crate::local_storage);
conformance!(output localstorage_behind_a_queue, crate::behind_a_queue);
conformance!(output http_client, crate::http);
conformance!(output mqtt3_out, crate::mqtt_retaining);
conformance!(input mqtt3_in, crate::mqtt);
conformance!(input cron_schedule, crate::cron);

/// Types whose rows the lines above cover, by direction.
#[test]
fn every_row_is_covered() {
    let (out, input) = (
        ["bindings.http", "bindings.localstorage", "bindings.mqtt3", "bindings.mqtt"],
        ["bindings.cron", "bindings.mqtt3", "bindings.mqtt"],
    );
    for row in CATALOGUE {
        assert_eq!(row.directions.output, out.contains(&row.type_name), "{}", row.type_name);
        assert_eq!(row.directions.input, input.contains(&row.type_name), "{}", row.type_name);
    }
}

async fn create(binding: &Binding, name: &str, data: &'static str) -> Result<()> {
    let output = binding.output.clone().unwrap();
    let metadata = vec![("fileName".to_owned(), name.to_owned())];
    let request = request(&*output, "create", metadata, data);
    output.invoke(request).await.map(drop).map_err(|failure| failure.error)
}

async fn on_disk(binding: &Binding, operation: &str, name: &str) -> Result<String> {
    let output = binding.output.clone().unwrap();
    let metadata = vec![("fileName".to_owned(), name.to_owned())];
    let answer = output.invoke(request(&*output, operation, metadata, "")).await;
    let answer = answer.map_err(|failure| failure.error)?;
    let data = answer.data.unwrap_or_default();
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// Goal: nothing outside the root is read, written, listed or removed, whatever a name says and
/// whatever links lie below the root.
#[tokio::test]
async fn no_name_and_no_link_leads_out_of_the_root() {
    use std::os::unix::fs::symlink;
    let dir = TempDir::new();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let path = root.display().to_string();
    let context = context_without_storage("disk");
    let settings = [("rootPath", &*path)];
    let binding = open("bindings.localstorage", &settings, &context, &Arc::default()).await;
    let binding = binding.unwrap();
    symlink(&outside, root.join("folder")).unwrap();
    symlink(outside.join("secret"), root.join("file")).unwrap();
    symlink(outside.join("new"), root.join("dangling")).unwrap();
    create(&binding, "in/side", "1").await.unwrap();
    symlink(&outside, root.join("in/folder")).unwrap();

    let names = [
        "../outside/secret",
        "/../../outside/secret",
        "in/../../outside/secret",
        "in/folder/secret",
        "folder/secret",
        "folder/../folder/secret",
        "file",
        "dangling",
        "a\0b",
        ".pillion-unfinished/x",
        "./.pillion-unfinished/x",
        "",
        ".",
        "..",
        "in",
    ];
    for name in names {
        assert!(on_disk(&binding, "get", name).await.is_err(), "get {name:?}");
    }
    for name in ["folder/new", "in/folder/new", "folder", "in", ".", "a\0b"] {
        let created = create(&binding, name, "9").await;
        // A link in the place of the file itself is replaced, not followed.
        assert!(created.is_err() || name == "folder", "create {name:?}");
    }
    create(&binding, "dangling", "2").await.unwrap();
    create(&binding, "../../up", "3").await.unwrap();
    assert_eq!(on_disk(&binding, "get", "up").await.unwrap(), "3");
    for name in ["in/folder/secret", "in/folder/../folder/secret", "in/folder/"] {
        let _ = on_disk(&binding, "delete", name).await;
    }
    let listed = on_disk(&binding, "list", ".").await.unwrap();
    assert!(!listed.contains("secret") && listed.contains("in/side"), "{listed}");
    assert!(on_disk(&binding, "list", "file").await.is_err());
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "nothing new outside");
}

#[tokio::test]
async fn what_a_power_cut_left_unfinished_is_cleared_away() {
    let dir = TempDir::new();
    let path = dir.path().display().to_string();
    let unfinished = dir.path().join(".pillion-unfinished");
    std::fs::create_dir(&unfinished).unwrap();
    std::fs::write(unfinished.join("half"), "ha").unwrap();
    let context = context_without_storage("disk");
    let settings = [("rootPath", &*path)];
    let binding = open("bindings.localstorage", &settings, &context, &Arc::default()).await;
    let binding = binding.unwrap();
    assert_eq!(std::fs::read_dir(&unfinished).unwrap().count(), 0);
    create(&binding, "a", "1").await.unwrap();
    assert_eq!(on_disk(&binding, "list", ".").await.unwrap(), format!("[\"{path}/a\"]"));
    assert_eq!(on_disk(&binding, "delete", "a").await.unwrap(), "");
    assert_eq!(on_disk(&binding, "delete", "a").await.unwrap_err().kind(), Kind::NotFound);
}

/// Goal: a queued call waits while its target is away, in order; one that the target refuses for
/// what it is goes after its tries and lets the others through.
#[tokio::test(start_paused = true)]
async fn a_queue_keeps_order_through_trouble_and_gives_up_what_is_refused() {
    let double = Arc::<Double>::default();
    let away = || Err(Error::new(Kind::Unavailable, "away"));
    let answers = [away(), Ok(503), away(), Ok(200), Ok(400), Ok(400), Ok(400), Ok(200)];
    *double.answers.lock().unwrap() = answers.into_iter().collect();
    let home = Home::memory();
    let settings = [("url", "http://x"), ("queue", "true"), ("queueRetriesMax", "2")];
    let context = home.context("web");
    let binding = open("bindings.http", &settings, &context, &double).await.unwrap();
    let output = binding.output.clone().unwrap();
    for data in ["1", "2", "3"] {
        let answer = output.invoke(request(&*output, "post", Vec::new(), data)).await.unwrap();
        assert!(answer.data.is_none());
    }
    let begun = tokio::time::Instant::now();
    while double.bodies().len() < 8 {
        assert!(begun.elapsed() < Duration::from_secs(600), "{:?}", double.bodies());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(double.bodies(), ["1", "1", "1", "1", "2", "2", "2", "3"]);
    let ids: Vec<String> = {
        let sent = double.sent.lock().unwrap();
        let id = |request: &HttpRequest| {
            let header = request.headers.iter().find(|(name, _)| name == "Idempotency-Key");
            header.map(|(_, id)| id.clone()).unwrap()
        };
        sent.iter().map(id).collect()
    };
    assert_eq!(ids[0], ids[3]);
    assert_ne!(ids[3], ids[4]);
    let status = output.queue().unwrap();
    assert_eq!(status.dropped_messages, 1, "{status:?}");
    // What is not queued is answered by the target.
    let answer = output.invoke(request(&*output, "get", Vec::new(), "")).await.unwrap();
    assert_eq!(answer.data.unwrap(), "answer");
}

#[tokio::test]
async fn http_headers_and_paths_are_made_as_dapr_makes_them() {
    let double = Arc::<Double>::default();
    let settings = [
        ("url", "http://x/base/"),
        ("securityToken", "t"),
        ("securityTokenHeader", "X-Token"),
        ("errorIfNot2XX", "false"),
    ];
    let context = context_without_storage("web");
    let binding = open("bindings.http", &settings, &context, &double).await.unwrap();
    let output = binding.output.unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let metadata = vec![
        pair("path", "//a?b=c"),
        pair("X-H", "v"),
        pair("lower", "no"),
        pair("Content-Type", "text/plain"),
        pair("X-Token", "forged"),
        pair("traceparent", "tp"),
    ];
    *double.answers.lock().unwrap() = [Ok(404)].into();
    let answer = output.invoke(request(&*output, "create", metadata.clone(), "d")).await.unwrap();
    let told = [pair("statusCode", "404"), pair("status", "404 R"), pair("x", "y")];
    assert_eq!(answer.metadata, told);
    *double.answers.lock().unwrap() = [Ok(404)].into();
    let metadata = [metadata, vec![pair("errorIfNot2XX", "true")]].concat();
    let failure = output.invoke(request(&*output, "get", metadata, "d")).await.unwrap_err();
    assert_eq!(failure.error.message(), "received status code 404");
    assert_eq!(failure.metadata, told);
    let sent = double.sent.lock().unwrap();
    assert_eq!((sent[0].method, &*sent[0].below), ("POST", "/a?b=c"));
    let mut headers = sent[0].headers.clone();
    headers.sort();
    let expected = [
        pair("Content-Type", "text/plain"),
        pair("X-H", "v"),
        pair("X-Token", "t"),
        pair("accept", "application/json; charset=utf-8"),
        pair("traceparent", "tp"),
    ];
    assert_eq!(headers, expected);
    assert!(sent[1].body.is_none() && sent[1].method == "GET");
}

#[tokio::test]
async fn bad_settings_are_refused_with_their_name() {
    for (type_name, settings, part) in [
        ("bindings.cron", &[][..], "schedule"),
        ("bindings.cron", &[("schedule", "x")], "schedule"),
        ("bindings.cron", &[("schedule", "@daily"), ("direction", "output")], "direction"),
        ("bindings.http", &[], "url"),
        ("bindings.http", &[("url", "http://x"), ("securityToken", "t")], "securityTokenHeader"),
        ("bindings.http", &[("url", "http://x"), ("responseTimeout", "5")], "responseTimeout"),
        ("bindings.localstorage", &[], "rootPath"),
        ("bindings.localstorage", &[("rootPath", "/proc/1")], "/proc"),
        ("bindings.mqtt3", &[("url", "tcp://x"), ("topic", "t")], "consumerID"),
        ("bindings.mqtt3", &[("url", "tcp://x"), ("consumerID", "t")], "topic"),
        ("bindings.http", &[("url", "http://x"), ("queueOverflow", "x")], "queueOverflow"),
        ("bindings.http", &[("url", "http://x"), ("queueBytesMax", "x")], "queueBytesMax"),
        ("bindings.http", &[("url", "http://x"), ("queue", "1")], "data directory"),
    ] {
        let context = context_without_storage("one");
        let opened = open(type_name, settings, &context, &Arc::default()).await;
        let error = opened.err().unwrap_or_else(|| panic!("{type_name} {settings:?}"));
        assert!(error.message().contains(part), "{type_name} {settings:?}: {error}");
    }
}
