//! The example resources load without a problem and without a remark, and say what they say they
//! say: values shown as defaults are the defaults.

use pillion::cli::{self, Command, Start};
use pillion::resources::{Limits, MqttLimits};
use pillion_components::pubsub::QueueLimits;
use std::path::{Path, PathBuf};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn start(arguments: &[&str]) -> Start {
    match cli::parse(arguments.iter().map(Into::into).collect()) {
        Ok(Command::Serve(start)) => *start,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

#[test]
fn the_gateway_loads() {
    let directory = configs().join("gateway");
    let start = start(&["serve", &directory.display().to_string()]);
    assert_eq!(start.warnings, Vec::<String>::new());

    let plan = &start.plan;
    let names: Vec<_> = plan.apps.iter().map(|app| app.id.as_str()).collect();
    assert_eq!(names, ["app"]);
    let names: Vec<_> = plan.components.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["secrets", "statestore", "pubsub"]);
    let gateway = &plan.gateway;
    assert!(!gateway.name.is_empty(), "the machine's name, as the file has none");
    assert_eq!(format!("{:?}", gateway.limits), format!("{:?}", Limits::default()));
    let mqtt = gateway.mqtt.as_ref().expect("a door");
    assert!(mqtt.allow_anonymous);
    assert_eq!(format!("{:?}", mqtt.limits), format!("{:?}", MqttLimits::default()));
}

/// Each example beside the gateway that it is meant for.
#[test]
fn the_examples_load() {
    let (gateway, examples) = (configs().join("gateway"), configs().join("examples"));
    let mut paths = vec![gateway.clone()];
    for name in [
        "apps",
        "bindings",
        "cloud-link",
        "configuration-and-locks",
        #[cfg(feature = "crypto")]
        "crypto",
        "endpoint",
        "file-secrets",
        "mqtt-users",
    ] {
        let path = examples.join(name).with_extension("yaml");
        let (text, code) = cli::check(&[gateway.clone(), path.clone()]);
        assert_eq!(code, 0, "{}: {text}", path.display());
        paths.push(path);
    }
    // All of them at once do not stand in each other's way.
    let (text, code) = cli::check(&paths);
    let components = if cfg!(feature = "crypto") { 13 } else { 11 };
    let told = format!("ok: 3 apps, {components} components, 1 subscriptions, 1 links\n");
    assert_eq!((text, code), (told, 0));

    let whole = examples.join("mqtt-tls");
    let others = ["components.yaml", "apps.yaml"].map(|name| gateway.join(name));
    let [components, apps] = others;
    let (text, code) = cli::check(&[whole, components, apps, examples.join("mqtt-users.yaml")]);
    assert_eq!((text.as_str(), code), ("ok: 1 apps, 3 components, 0 subscriptions, 0 links\n", 0));
}

#[test]
fn the_defaults_of_the_example_link_are_the_defaults() {
    let examples = configs().join("examples");
    let shown: Vec<_> =
        ["../gateway/components.yaml", "../gateway/gateway.yaml", "cloud-link.yaml"]
            .iter()
            .map(|name| examples.join(name))
            .collect();
    let directory = std::env::temp_dir().join(format!("pillion-configs-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a writable temporary directory");
    for path in &shown {
        let name = path.file_name().expect("a file");
        std::fs::copy(path, directory.join(name)).expect("a copy");
    }
    let start = start(&["serve", &directory.display().to_string()]);
    std::fs::remove_dir_all(&directory).expect("a directory of ours");
    assert_eq!(start.plan.links[0].up[0].limits, QueueLimits::default());
}

/// What the example shows as a default is the default.
#[test]
fn the_bounds_of_the_example_stores_are_the_defaults() {
    let path = configs().join("examples/configuration-and-locks.yaml");
    let text = std::fs::read_to_string(path).expect("a file");
    let bytes_max = pillion_components::configuration::BYTES_MAX_DEFAULT;
    assert_eq!(pillion_components::options::parse_bytes("1Mi"), Some(bytes_max));
    assert!(text.contains("{name: bytesMax, value: 1Mi}"));
    let locks_max = pillion_components::lock::LOCKS_MAX_DEFAULT;
    assert!(text.contains(&format!("{{name: locksMax, value: \"{locks_max}\"}}")));
}

#[test]
fn the_developer_s_resources_load() {
    let directory = configs().join("dev");
    let (resources, config) = (directory.display(), directory.join("configuration.yaml"));
    let start = start(&[
        "run",
        &format!("--resources-path={resources}"),
        &format!("--config={}", config.display()),
    ]);
    assert_eq!(start.warnings, Vec::<String>::new());
    let plan = &start.plan;
    let names: Vec<_> = plan.components.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["secrets", "pubsub", "statestore", "scratch"], "none is there twice");
    assert_eq!((plan.endpoints.len(), plan.subscriptions.len()), (1, 1));
    assert_eq!(plan.apps[0].configuration.sampling_rate, 0.0001);
    assert!(!plan.apps[0].configuration.secret_scopes[0].allows("HOME"));
}

#[test]
fn the_tour_s_resources_load() {
    let directory = configs().join("tour/resources");
    let start = start(&["run", &format!("--resources-path={}", directory.display())]);
    assert_eq!(start.warnings, Vec::<String>::new());
    assert_eq!((start.plan.links.len(), start.plan.components.len()), (1, 4));
}

/// Nothing under `configs/` is left out of the tests above.
#[test]
fn every_file_is_in_a_directory_that_is_tested() {
    let mut entries: Vec<_> = std::fs::read_dir(configs())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    entries.sort();
    assert_eq!(entries, ["dev", "examples", "gateway", "tour"]);
}
