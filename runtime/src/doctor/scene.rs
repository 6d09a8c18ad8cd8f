//! What every check looks at: the plan of the resources, the data directory, the running process.

use super::running::{self, Running};
use super::system::Root;
use super::{Doctor, Level};
use crate::resources::{self, ComponentPlan, Gateway, Plan, Report, Setting, Wanted};
use pillion_components::error::{Error, Kind, Result};
use pillion_components::options::Options;
use pillion_components::pubsub::mqtt3;
use pillion_components::secrets::{self, SecretStore};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where metrics are if nobody says, as in `pillion serve`.
const METRICS_PORT: u16 = 9090;

/// The store whose secrets are in the service's environment.
const ENVIRONMENT_STORE: &str = "secretstores.local.env";

/// Types of components that connect to a broker.
const BROKER_TYPES: [&str; 4] = ["pubsub.mqtt3", "pubsub.mqtt", "bindings.mqtt3", "bindings.mqtt"];

/// Where a component connects, or what is wrong with its settings.
pub(super) type Broker = Result<mqtt3::Peer, (Level, String)>;

pub(super) struct Scene {
    pub(super) asked: Doctor,
    pub(super) root: Root,
    pub(super) plan: Plan,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) running: Option<Running>,
    /// The environment of the running process, where this user may see it.
    environment: Option<String>,
    /// What the metrics listener of the running process says.
    pub(super) metrics: Option<String>,
    /// Seconds since 1970, as the system has it.
    pub(super) now_s: i64,
}

impl Scene {
    /// Reads everything that several checks need.
    pub(super) fn new(asked: Doctor) -> Self {
        let own = |name: &str| std::env::var(name).ok();
        let root = Root("/".into());
        let (plan, ..) = read(&asked, &own);
        let mut data_dir = data_dir(&asked, &plan);
        let running = running::find(&root, data_dir.as_deref(), &asked.dir);
        // The service has an environment of its own (EnvironmentFile, STATE_DIRECTORY): resources
        // mean what they mean there, where we may see it.
        let its = running.as_ref().and_then(|running| running.environment(&root));
        let environment = |name: &str| match &its {
            Some(its) => running::variable(its, name),
            None => own(name),
        };
        let (plan, problems, warnings) = read(&asked, &environment);
        if let (Some(running), None) = (&running, &asked.data_dir) {
            // As the process itself chose: its flag, the resources, systemd's directory.
            let state = || environment("STATE_DIRECTORY")?.split(':').next().map(PathBuf::from);
            let its = running.data_dir_flag(&root);
            let its = its.or_else(|| plan.gateway.storage.data_dir.clone()).or_else(state);
            data_dir = its.or(data_dir);
        }
        let metrics = plan.gateway.metrics.filter(|_| running.is_some());
        let metrics = metrics.and_then(|address| running::get(address, "/metrics", None));
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            asked,
            root,
            plan,
            problems,
            warnings,
            data_dir,
            running,
            environment: its,
            metrics: metrics.map(|(_, text)| text),
            now_s: i64::try_from(now_s).unwrap_or(i64::MAX),
        }
    }

    /// A machine that a test wrote, without resources.
    #[cfg(test)]
    pub(super) fn fake(root: Root, data_dir: Option<PathBuf>) -> Self {
        let asked = Doctor {
            dir: PathBuf::new(),
            data_dir: None,
            default_data_dir: None,
            json: false,
            offline: true,
        };
        Self {
            asked,
            root,
            plan: Plan::default(),
            problems: Vec::new(),
            warnings: Vec::new(),
            data_dir,
            running: None,
            environment: None,
            metrics: None,
            now_s: 0,
        }
    }

    /// A series of the running process without labels.
    pub(super) fn metric(&self, name: &str) -> Option<u64> {
        let text = self.metrics.as_deref()?;
        let of = |line: &str| Some(line.strip_prefix(name)?.strip_prefix("{} ")?.trim().to_owned());
        text.lines().find_map(of)?.parse().ok()
    }

    /// Components that connect to a broker, by name, with where they connect. The error tells what
    /// is wrong with their settings; [`Level::Skip`] if it is only that a secret cannot be seen
    /// from here.
    pub(super) fn brokers(&self) -> Vec<(String, Broker)> {
        let is_broker = |type_name: &str| BROKER_TYPES.contains(&type_name);
        let components = self.plan.components.iter().filter(|one| is_broker(&one.type_name));
        let peer = |component: &ComponentPlan| {
            let store = component.secret_store.as_deref();
            let options = component
                .options(|name, key| self.secret(store, name, key))
                .map_err(|error| (Level::Skip, error.to_string()))?;
            mqtt3::peer(&options).map_err(|error| (Level::Fail, error.to_string()))
        };
        components.map(|component| (component.name.clone(), peer(component))).collect()
    }

    /// A secret as the service would find it.
    pub(super) fn secret(&self, store: Option<&str>, name: &str, key: &str) -> Result<String> {
        let missing = || Error::new(Kind::NotFound, format!("secret {name} cannot be seen"));
        let store = self.plan.components.iter().find(|one| Some(one.name.as_str()) == store);
        let store = store.ok_or_else(missing)?;
        let options = text_options(store);
        if let (Some(its), ENVIRONMENT_STORE) = (&self.environment, store.type_name.as_str()) {
            let variable = format!("{}{name}", options.text("prefix").unwrap_or_default());
            return running::variable(its, &variable).ok_or_else(missing);
        }
        let opened = open_store(store, &options)?;
        // The stores there are have read everything when they are open, and answer at once.
        let mut answer = opened.get(name);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(secret) = answer.as_mut().poll(&mut context) else { return Err(missing()) };
        let secret = secret?.unwrap_or_default();
        secret.get(key).filter(|text| !text.is_empty()).cloned().ok_or_else(missing)
    }

    /// What is wrong with secret stores, by name.
    pub(super) fn broken_stores(&self) -> impl Iterator<Item = (&ComponentPlan, Error)> {
        let is_store = |one: &&ComponentPlan| one.type_name.starts_with("secretstores.");
        let stores = self.plan.components.iter().filter(is_store);
        stores.filter_map(|one| Some((one, open_store(one, &text_options(one)).err()?)))
    }
}

/// The settings that are no secrets; secrets of secret stores are left out.
fn text_options(component: &ComponentPlan) -> Options {
    let text = |(name, setting): &(String, Setting)| match setting {
        Setting::Text(text) => Some((name.clone(), text.clone())),
        Setting::Secret { .. } => None,
    };
    component.settings.iter().filter_map(text).collect()
}

fn open_store(store: &ComponentPlan, options: &Options) -> Result<Arc<dyn SecretStore>> {
    let row = secrets::CATALOGUE.iter().find(|row| row.type_name == store.type_name);
    let row = row.ok_or_else(|| Error::new(Kind::Unsupported, "no such secret store"))?;
    (row.open)(options)
}

/// The plan of the resources, what is wrong with them, what is remarkable.
fn read(asked: &Doctor, env: &dyn Fn(&str) -> Option<String>) -> (Plan, Vec<String>, Vec<String>) {
    let report = Report::default();
    let gateway = Gateway {
        name: "gateway".into(),
        metrics: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
        ..Gateway::default()
    };
    let wanted = Wanted::served(vec![asked.dir.clone()], gateway);
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let plan = resources::plan(wanted, &env, &report);
    let (problems, warnings) = report.into_parts();
    (plan, problems, warnings)
}

/// Where the data is: a flag, the Gateway, or where the service stores.
fn data_dir(asked: &Doctor, plan: &Plan) -> Option<PathBuf> {
    let named = asked.data_dir.clone().or_else(|| plan.gateway.storage.data_dir.clone());
    named.or_else(|| asked.default_data_dir.clone())
}
