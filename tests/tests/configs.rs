//! What `configs/` holds is accepted by the real binary, and the gateway in it works as it is.
//!
//! `pillion check` over every directory in the combinations that its files name, then `pillion serve`
//! over the gateway's, on ports that are free here, with what its own comments promise.

use pillion_tests::pillion::{TestDir, binary};
use pillion_tests::{Gateway, Request, Tool, mqtt, tool};
use std::fs;
use std::path::{Path, PathBuf};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

/// Every resource file below a directory.
fn resources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of configs").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(resources(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Runs `pillion check` over paths below `configs/` and gives its last line.
async fn check(paths: &[PathBuf]) -> String {
    let mut command = tool::command(&binary().display().to_string(), ["check"]);
    command.args(paths);
    let output = Tool::run(command).await;
    assert!(output.status.success(), "{paths:?}: {output:?}");
    assert_eq!(output.out.len(), 1, "no warnings: {output:?}");
    output.out.last().cloned().unwrap_or_default()
}

#[tokio::test]
async fn every_file_is_accepted() {
    let (gateway, examples) = (configs().join("gateway"), configs().join("examples"));
    let mut seen = resources(&gateway);
    assert_eq!(
        check(std::slice::from_ref(&gateway)).await,
        "ok: 1 apps, 3 components, 0 subscriptions, 0 links"
    );
    for directory in ["dev", "tour/resources"] {
        // They add to what `pillion run` brings along, which a gateway's directory has as files.
        let files = resources(&configs().join(directory));
        let names: Vec<_> = files.iter().filter_map(|path| path.file_name()).collect();
        let mut paths = files.clone();
        if !names.iter().any(|name| *name == "pubsub.yaml") {
            paths.push(gateway.clone());
        } else {
            paths.push(gateway.join("apps.yaml"));
        }
        check(&paths).await;
        seen.extend(files);
    }
    for path in resources(&examples) {
        let beside = match path.file_name().is_some_and(|name| name == "gateway.yaml") {
            true => vec![
                gateway.join("apps.yaml"),
                gateway.join("components.yaml"),
                examples.join("mqtt-users.yaml"),
            ],
            false => vec![gateway.clone()],
        };
        check(&[beside, vec![path.clone()]].concat()).await;
        seen.push(path);
    }
    seen.sort();
    assert_eq!(seen, resources(&configs()), "a file that no check has read");
}

#[tokio::test]
async fn the_gateway_works_as_it_is() {
    let mut gateway = Gateway::new();
    for path in resources(&configs().join("gateway")) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let text = fs::read_to_string(&path).expect("a file of configs");
        let text = text.replace("127.0.0.1:3500", "127.0.0.1:$HTTP");
        let text = text.replace("listen: 127.0.0.1:1883", "listen: 127.0.0.1:$MQTT");
        gateway = gateway.resource(name, &text.replace("127.0.0.1:9090", "127.0.0.1:$METRICS"));
    }
    let gateway = gateway.env("PILLION_SECRET_key", "opened").env("OTHER", "closed");
    let mut pillion = gateway.start().await;

    let saved = pillion.post("/v1.0/state/statestore", r#"[{"key":"a","value":{"b":1}}]"#).await;
    assert_eq!(saved.status, 204, "{}", saved.text());
    assert_eq!(pillion.get("/v1.0/secrets/secrets/key").await.json()["key"], "opened");
    for path in ["/v1.0/secrets/secrets/OTHER", "/v1.0/secrets/secrets/bulk"] {
        let answer = pillion.get(path).await;
        assert!(!answer.text().contains("closed"), "{path}: {answer:?}");
    }
    let metrics = Request::new(hyper::Method::GET, "/metrics").send(pillion.metrics_port).await;
    assert_eq!(metrics.expect("metrics are served").status, 200);

    // A device on this machine needs neither name nor password, and hears what an app publishes.
    let (mut sender, mut receiver) =
        mqtt::connect(gateway.mqtt(), "device", true).await.expect("the door is open");
    sender.subscribe("orders/#", 1).await.expect("open");
    receiver.next_of(9).await.expect("a SUBACK");
    let published = pillion.post("/v1.0/publish/pubsub/orders/1", r#"{"n":1}"#).await;
    assert_eq!(published.status, 204, "{}", published.text());
    receiver.next_of(3).await.expect("a PUBLISH");

    assert_eq!(pillion.stop().await.code(), Some(0), "{}", pillion.log());
    let pillion = gateway.start().await;
    assert_eq!(pillion.get("/v1.0/state/statestore/a").await.json()["b"], 1);
    let warned = pillion.log().lines().find(|line| line.contains("level=warn")).map(str::to_owned);
    assert_eq!(warned, None, "the default has nothing to warn about");
}

/// The names of the packages' storage settings are those of the binary.
#[tokio::test]
async fn a_misspelt_key_is_refused() {
    let directory = TestDir::new();
    let text = fs::read_to_string(configs().join("gateway/gateway.yaml")).expect("a file");
    fs::write(directory.path().join("gateway.yaml"), text.replace("quotaBytes", "quotaByte"))
        .expect("a writable directory");
    let mut command = tool::command(&binary().display().to_string(), ["check"]);
    command.arg(directory.path()).arg(configs().join("gateway/components.yaml"));
    let output = Tool::run(command).await;
    assert!(!output.status.success(), "{output:?}");
    assert!(output.out.iter().any(|line| line.contains("quotaByte")), "{output:?}");
}
