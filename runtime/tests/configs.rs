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
    assert_eq!(names, ["readings", "alarm"]);
    assert_eq!((plan.links.len(), plan.mqtt_users.len(), plan.subscriptions.len()), (1, 1, 1));
    let gateway = &plan.gateway;
    assert_eq!(format!("{:?}", gateway.limits), format!("{:?}", Limits::default()));
    let mqtt = gateway.mqtt.as_ref().expect("a door");
    assert_eq!(format!("{:?}", mqtt.limits), format!("{:?}", MqttLimits::default()));
    assert_eq!(plan.links[0].up[0].limits, QueueLimits::default());
    assert_eq!(cli::check(&[directory]).1, 0);
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
    assert_eq!(entries, ["dev", "gateway", "tour"]);
}
